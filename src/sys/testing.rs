//! Network namespaces for tests, which need root.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A network namespace of its own name; it goes, with all its interfaces, when it is dropped.
pub struct Namespace {
    pub name: String,
}

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}` (are you root?): {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Namespace {
    pub fn new(role: &str) -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fsdev-{}-{}-{role}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        run(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Namespace { name }
    }

    /// `ip ARGS` inside.
    pub fn ip(&self, args: &str) -> String {
        run(&format!("ip -n {} {args}", self.name))
    }

    /// A shell command inside.
    pub fn sh(&self, command: &str) -> String {
        run(&format!("ip netns exec {} sh -c '{command}'", self.name))
    }

    /// Runs `f` on a thread inside; sockets it makes stay inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.name)).expect("the namespace");
                // SAFETY: no pointers are passed; only this thread changes its namespace.
                let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "{}", io::Error::last_os_error());
                f()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn mac(&self, interface: &str) -> String {
        self.sh(&format!("cat /sys/class/net/{interface}/address")).trim().to_owned()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A cable between two namespaces, both ends up.
pub fn cable(a: (&Namespace, &str), b: (&Namespace, &str)) {
    let ((a, a_end), (b, b_end)) = (a, b);
    run(&format!("ip link add {a_end} netns {} type veth peer name {b_end} netns {}", a.name, b.name));
    a.ip(&format!("link set {a_end} up"));
    b.ip(&format!("link set {b_end} up"));
}
