//! A child process that ends with its guard.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::{PATIENCE, eventually, until};

/// A running child. Its standard output and error go to files, so that no pipe can fill up and stop it.
/// Dropping it kills exactly this process, by its id, and reaps it.
pub struct Process {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `command`; `log` is the path of its logs, without `.out` and `.err`.
    pub fn spawn(mut command: Command, log: &Path) -> Process {
        let (out, err) = (log.with_extension("out"), log.with_extension("err"));
        let open = |path: &Path| File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let child = command.stdin(Stdio::null()).stdout(open(&out)).stderr(open(&err)).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Process { child, out, err }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        read(&self.out)
    }

    pub fn stderr(&self) -> String {
        read(&self.err)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for a child").is_none()
    }

    /// Waits until a line of standard error fulfils `wanted`.
    ///
    /// # Panics
    /// When the process ends before, or never says it; with what it said.
    #[track_caller]
    pub fn wait_for_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let start = Instant::now();
        eventually(what, || {
            let ended = !self.is_running();
            let said = self.stderr();
            if said.lines().any(&wanted) {
                return Ok(());
            }
            assert!(
                !ended && start.elapsed() < PATIENCE,
                "{what}: {}\n{said}",
                if ended { "it ended" } else { "never" }
            );
            Err(said)
        });
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, signal); // It may have ended by itself.
    }

    /// Waits for the end of a process that was told to end, or ends by itself.
    #[track_caller]
    pub fn wait(&mut self, what: &str) -> ExitStatus {
        until(what, || !self.is_running());
        self.child.wait().expect("reap a child")
    }

    /// SIGTERM, and the exit status.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait("the end of a process after SIGTERM")
    }

    /// SIGKILL, and reap.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.kill();
        }
    }
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
