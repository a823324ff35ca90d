//! farside itself, on a site's box.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;
use serde_json::Value;

use super::config::Config;
use super::namespace::Namespace;
use super::process::Process;
use super::wait::{eventually, until};
use super::world::Site;

/// A running farside. Dropping it kills it.
pub struct Farside {
    process: Process,
    file: PathBuf,
    socket: String,
}

/// The binary under test.
pub fn binary() -> String {
    std::env::var("FARSIDE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_farside").into())
}

impl Farside {
    /// Starts farside on a site's box; returns once it says `ready`.
    #[track_caller]
    pub fn start(site: &Site, config: &Config) -> Farside {
        let mut farside = Farside::launch(site, config);
        farside.wait_ready();
        farside
    }

    /// Starts farside without waiting for anything.
    pub fn launch(site: &Site, config: &Config) -> Farside {
        Farside::launch_on(&site.host, site.directory(), &config.text(), config.socket())
    }

    /// Starts farside on any machine, with the text of a configuration that is to lie in `directory`.
    pub fn launch_on(host: &Namespace, directory: &Path, text: &str, socket: &str) -> Farside {
        let file = directory.join("farside.toml");
        fs::write(&file, text).expect("write farside's configuration");
        let path = file.to_str().expect("a readable path");
        let process = host.spawn("farside", &binary(), &["run", "--config", path]);
        Farside { process, file, socket: socket.into() }
    }

    #[track_caller]
    pub fn wait_ready(&mut self) {
        self.process.wait_for_line("farside's `ready`", |line| line.split_whitespace().any(|word| word == "ready"));
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// SIGTERM; it has to exit with 0.
    #[track_caller]
    pub fn stop(mut self) {
        let status = self.process.terminate();
        assert!(status.success(), "farside after SIGTERM: {status}\n{}", self.log());
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        self.process.wait("the end of farside")
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Runs a command against its socket: whether it succeeded, and what it printed on both outputs.
    pub fn tell(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(binary()).args(arguments).args(["--socket", &self.socket]).output();
        let output = output.expect("run farside");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), text)
    }

    /// [`Farside::tell`], which has to succeed.
    #[track_caller]
    pub fn order(&self, arguments: &[&str]) -> String {
        let (success, text) = self.tell(arguments);
        assert!(success, "farside {arguments:?}: {text}\n{}", self.log());
        text
    }

    /// `show <what> --json`.
    #[track_caller]
    pub fn show(&self, what: &str) -> Value {
        let text = self.order(&["show", what, "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("show {what} --json: {e}:\n{text}"))
    }

    #[track_caller]
    pub fn flows(&self) -> Vec<Value> {
        self.show("flows").as_array().expect("a list of flows").clone()
    }

    /// `show counters --json`.
    #[track_caller]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let counters = self.show("counters");
        let counters = counters.as_object().expect("one flat object");
        counters.iter().filter_map(|(name, value)| Some((name.clone(), value.as_u64()?))).collect()
    }

    /// One counter; it has to exist.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.counters();
        *counters.get(name).unwrap_or_else(|| panic!("no counter {name} among {counters:?}"))
    }

    /// Waits until each of `targets` has `status`: "up", "down" or "draining".
    #[track_caller]
    pub fn wait_status(&self, status: &str, targets: &[String]) {
        eventually(&format!("{targets:?} {status}"), || {
            let health = self.show("health");
            let rows = health.as_array().expect("a list of targets");
            let is =
                |target: &String| rows.iter().any(|row| row["target"] == target.as_str() && row["status"] == status);
            if targets.iter().all(is) { Ok(()) } else { Err(format!("{health:#}\n{}", self.log())) }
        });
    }

    /// Writes another file in the place of its configuration.
    pub fn rewrite(&self, text: &str) {
        fs::write(&self.file, text).expect("write farside's configuration");
    }

    /// Writes `config` and has it taken up; it has to be.
    #[track_caller]
    pub fn reload(&self, config: &Config) -> String {
        self.rewrite(&config.text());
        self.order(&["reload"])
    }

    /// Waits until a line of the log holds `text`.
    #[track_caller]
    pub fn wait_logged(&self, text: &str) {
        until(&format!("{text:?} in farside's log"), || self.log().contains(text));
    }
}
