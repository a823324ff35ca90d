//! Network namespaces and runs of kernel programs for tests, which need root.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
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

/// `union bpf_attr`, the part of BPF_PROG_TEST_RUN (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    zero: u32,
}

/// What a run of a program gave.
pub struct Ran {
    pub verdict: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

/// Runs a program on a frame (BPF_PROG_TEST_RUN).
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Ran {
    let mut out = vec![0; frame.len() + 256];
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_size_out: out.len() as u32,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    // SAFETY: `run` is as large as we say and leads to `frame`, which is only read, and to `out`, which is as large as it says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, 10, &raw mut run, size_of::<TestRun>()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    out.truncate(run.data_size_out as usize);
    Ran { verdict: run.retval, frame: out }
}
