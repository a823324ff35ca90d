//! Dovecot as a real server's POP3 daemon: its own instance, with its own directories and mailbox.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::namespace::{Namespace, run};
use super::process::Process;
use super::wait::eventually;
use super::world::{Family, Real, Site};

pub const USER: &str = "jane";
pub const PASSWORD: &str = "secret";

/// The mails that every server holds, as their text.
pub fn mails() -> Vec<String> {
    let mail = |n: usize| {
        let body: String = (0..40 * n).map(|line| format!("mail {n}, line {line}\r\n")).collect();
        format!("From: joe@company.example\r\nTo: jane@company.example\r\nSubject: Number {n}\r\n\r\n{body}")
    };
    (1..=5).map(mail).collect()
}

/// A running Dovecot. Dropping it ends it with all its children.
pub struct Dovecot {
    process: Option<Process>,
    configuration: PathBuf,
    base: PathBuf,
}

impl Dovecot {
    /// Starts Dovecot on a real server, port 110; returns once it greets, as `+OK <name of the real server> ready.`
    pub fn start(site: &Site, real: &Real) -> Dovecot {
        Dovecot::start_on(&real.host, &real.name, real.address(Family::V4), &site.directory().join(&real.name))
    }

    /// The same on any machine, which has `address`; `home` is to become the server's directory.
    pub fn start_on(host: &Namespace, name: &str, address: IpAddr, home: &Path) -> Dovecot {
        // Its sockets' paths have to stay short.
        let base = home.join("run");
        let maildir = home.join("mail");
        for directory in ["tmp", "cur", "new"] {
            fs::create_dir_all(maildir.join(directory)).expect("a maildir");
        }
        for (n, mail) in mails().iter().enumerate() {
            // The name decides the order; Dovecot wants bare newlines on disk.
            let path = maildir.join("cur").join(format!("{:010}.M1P1.mail:2,", 1_700_000_000 + n));
            fs::write(path, mail.replace("\r\n", "\n")).expect("a mail");
        }
        run(Command::new("chown").arg("-R").arg("nobody:nogroup").arg(&maildir));
        let configuration = home.join("dovecot.conf");
        fs::write(&configuration, text(name, home, &base, &maildir)).expect("Dovecot's configuration");
        let mut dovecot = Dovecot { process: None, configuration, base };
        dovecot.run_on(host, address);
        dovecot
    }

    /// Its log: who logged in (`Login: user=<jane>, ... rip=192.0.2.10, lip=10.1.0.11, ...`), and what went wrong.
    pub fn log(&self) -> String {
        fs::read_to_string(self.configuration.with_extension("log")).unwrap_or_default()
    }

    /// Starts it (again) and waits for the greeting.
    pub fn run_again(&mut self, real: &Real) {
        self.run_on(&real.host, real.address(Family::V4));
    }

    fn run_on(&mut self, host: &Namespace, address: IpAddr) {
        assert!(self.process.is_none(), "Dovecot runs already");
        let configuration = self.configuration.to_str().expect("a readable path");
        self.process = Some(host.spawn("dovecot", "dovecot", &["-F", "-c", configuration]));
        let url = format!("pop3://{address}/");
        eventually("a mailbox on the real server", || {
            let login = format!("{USER}:{PASSWORD}");
            let output = host.output("curl", &["-sS", "-m", "5", "-u", &login, &url]);
            let process = self.process.as_ref().expect("it was just started");
            let said = format!("{}{}", String::from_utf8_lossy(&output.stderr), process.stderr());
            if output.status.success() { Ok(()) } else { Err(said) }
        });
    }

    /// Kills the daemon and its children without a farewell, as a crash does.
    pub fn kill(&mut self) {
        let Some(mut master) = self.process.take() else { return };
        let children = children_of(master.id());
        master.kill();
        for child in children {
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
        let _ = fs::remove_file(self.base.join("master.pid"));
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The direct children of a process; Dovecot's processes are all its master's.
fn children_of(pid: u32) -> Vec<rustix::process::Pid> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(rustix::process::Pid::from_raw).collect()
}

fn text(name: &str, home: &Path, base: &Path, maildir: &Path) -> String {
    format!(
        "protocols = pop3
base_dir = {base}
state_dir = {home}/state
log_path = {home}/dovecot.log
ssl = no
disable_plaintext_auth = no
listen = *, ::
login_greeting = {name} ready.
mail_location = maildir:{maildir}
mail_uid = nobody
mail_gid = nogroup
auth_failure_delay = 0
shutdown_clients = yes
passdb {{
  driver = static
  args = password={PASSWORD}
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={home}/home
}}
service anvil {{
  client_limit = 2000
}}
protocol pop3 {{
  mail_max_userip_connections = 1000
}}
",
        base = base.display(),
        home = home.display(),
        maildir = maildir.display(),
    )
}
