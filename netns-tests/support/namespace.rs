//! A machine: one network namespace, everything that runs in it, and its end.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::Process;

/// A network namespace named `fs<pid of the test run>-<number>-<role>`. Dropping it ends all processes in it (only
/// the tests put any there) and removes it with its links.
pub struct Namespace {
    name: String,
    logs: PathBuf,
}

impl Namespace {
    /// `logs`: an existing directory for the output of what is spawned here.
    pub fn new(world: u32, role: &str, logs: &Path) -> Namespace {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(remove_leftovers);
        let name = format!("fs{}-{world}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Namespace { name, logs: logs.to_owned() };
        namespace.inside(|| {
            // Addresses are usable at once, no ICMP error is withheld, and nothing announces itself unasked.
            for key in ["all", "default"] {
                write_sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "0");
                write_sysctl(&format!("net/ipv6/conf/{key}/dad_transmits"), "0");
                write_sysctl(&format!("net/ipv6/conf/{key}/accept_ra"), "0");
                write_sysctl(&format!("net/ipv6/conf/{key}/router_solicitations"), "0");
                write_sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0");
            }
            write_sysctl("net/ipv4/icmp_ratelimit", "0");
            write_sysctl("net/ipv4/icmp_msgs_per_sec", "100000");
            write_sysctl("net/ipv6/icmp/ratelimit", "0");
        });
        namespace.ip("link set lo up");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs lines of `ip` commands here, all or panic.
    #[track_caller]
    pub fn ip(&self, lines: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("start ip");
        let script: String = lines.lines().map(|line| format!("{}\n", line.trim())).collect();
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("write to ip");
        let output = child.wait_with_output().expect("wait for ip");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "in {}: ip:\n{script}{said}", self.name);
    }

    /// A command line that runs here, and dies with the test run however that ends.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &self.name, program]);
        command
    }

    /// Runs `program` to its end.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).stdin(Stdio::null()).output().expect("run a program")
    }

    /// Runs `program` to its successful end, and returns what it printed.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        run(self.command(program).args(arguments))
    }

    /// Starts `program` here; `label` names its logs.
    pub fn spawn(&self, label: &str, program: &str, arguments: &[&str]) -> Process {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut command = self.command(program);
        command.args(arguments);
        Process::spawn(command, &self.logs.join(format!("{}-{label}-{number}", self.name)))
    }

    /// Sets `/proc/sys/<key>` here.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.inside(|| write_sysctl(key, value));
    }

    /// Runs `work` on a thread inside the namespace and waits for it: sockets that it opens belong here.
    #[track_caller]
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let door = self.door();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(&door);
                work()
            });
            thread.join().unwrap_or_else(|reason| std::panic::resume_unwind(reason))
        })
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let door = self.door();
        thread::spawn(move || {
            enter(&door);
            work()
        })
    }

    fn door(&self) -> File {
        File::open(Path::new("/run/netns").join(&self.name)).expect("open the namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn enter(door: &File) {
    use std::os::fd::AsFd;
    move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter the namespace");
}

fn write_sysctl(key: &str, value: &str) {
    let path = format!("/proc/sys/{key}");
    fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// Runs a command to its successful end, and returns what it printed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}{complained}", output.status);
    said.into_owned()
}

/// Ends what runs in a namespace and removes it. Never panics: it also runs while a failed test unwinds.
fn remove(name: &str) {
    let pids = || -> Vec<i32> {
        let output = Command::new("ip").args(["netns", "pids", name]).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        let own = std::process::id() as i32;
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|&pid| pid != own).collect()
    };
    for _ in 0..200 {
        let still = pids();
        if still.is_empty() {
            break;
        }
        for pid in still.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

/// Removes what test runs left that were killed before they could: namespaces `fs<pid>-...` and directories
/// `farside-test-<pid>-...` of a pid that is no more.
fn remove_leftovers() {
    let of_the_dead = |directory: &Path, prefix: &str| -> Vec<String> {
        let names = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let is_dead = |name: &String| {
            let pid = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next()?.parse().ok());
            pid.and_then(Pid::from_raw).is_some_and(|pid| rustix::process::test_kill_process(pid).is_err())
        };
        names.filter(is_dead).collect()
    };
    for name in of_the_dead(Path::new("/run/netns"), "fs") {
        remove(&name);
    }
    let directory = std::env::temp_dir();
    for name in of_the_dead(&directory, "farside-test-") {
        let _ = fs::remove_dir_all(directory.join(name));
    }
}
