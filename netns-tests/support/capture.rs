//! tcpdump, listening for certain before the test goes on. It sees what farside sends at the other end of a line only:
//! farside's frames go past the taps of its own box.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use super::namespace::Namespace;
use super::process::Process;

pub struct Capture {
    process: Process,
}

impl Capture {
    /// Captures on `interface`; returns once tcpdump listens.
    #[track_caller]
    pub fn start(namespace: &Namespace, interface: &str, filter: &str) -> Capture {
        let arguments = ["-i", interface, "-nn", "-l", "-v", "--immediate-mode", "-s", "256", filter];
        let mut process = namespace.spawn("tcpdump", "tcpdump", &arguments);
        process.wait_for_line("tcpdump listening", |line| line.contains("listening on"));
        Capture { process }
    }

    /// What was seen up to now; a packet may span lines.
    pub fn text(&self) -> String {
        self.process.stdout()
    }

    /// Ends the capture and returns all that was seen.
    #[track_caller]
    pub fn stop(mut self) -> String {
        sleep(Duration::from_millis(100)); // What was sent before the call has had time to reach tcpdump.
        self.process.signal(Signal::INT);
        self.process.wait("the end of tcpdump");
        self.process.stdout()
    }
}
