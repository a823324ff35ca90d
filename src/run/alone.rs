//! DNS and nothing else: a configuration without services and without a data path.

use super::names::{self, Names, NoServices};
use super::rows::{count_metrics, info_page};
use super::{Daemon, NAMES};
use crate::admin::Answers;
use crate::admin::rows::{DnsRows, FlowRow, HealthRow, ServiceRow, WorkerRow};
use crate::config::{self, Config};
use crate::sys::pin;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tracing::info;

/// The longest that nothing needs to be looked at.
const LOOK: Duration = Duration::from_secs(1);

pub struct Alone {
    path: PathBuf,
    config: Config,
    names: Names,
    ready: bool,
}

impl Alone {
    pub fn start(path: PathBuf, config: Config) -> Result<Alone, String> {
        pin::raise_open_files();
        let cpus = pin::allowed_cpus().map_err(|why| format!("the allowed CPUs cannot be read: {why}"))?;
        let threads = super::worker_cpus(&config, &cpus)?.len();
        let names =
            Names::start(&config, threads)?.ok_or("there is neither a [datapath] nor a [dns]: nothing to do")?;
        Ok(Alone { path, config, names, ready: false })
    }
}

impl Daemon for Alone {
    fn register(&mut self, registry: &mio::Registry) -> Result<(), String> {
        self.names.register(registry, NAMES).map_err(|why| super::broken("DNS", why))
    }

    fn ready(&mut self, token: usize, now: Instant) {
        if (NAMES..NAMES + names::TOKENS).contains(&token) {
            self.names.ready(token, now);
        }
    }

    fn next_deadline(&self) -> Instant {
        self.names.next_deadline().unwrap_or_else(|| Instant::now() + LOOK)
    }

    fn tick(&mut self, now: Instant) {
        self.names.tick(now, true, &NoServices);
        if !self.ready && self.names.first_round_done() {
            self.ready = true;
            info!("ready");
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        }
    }

    fn stop(mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.names.stop();
        info!("stopped");
    }
}

impl Answers for Alone {
    fn services(&mut self) -> Vec<ServiceRow> {
        Vec::new()
    }

    fn flows(&mut self, _cursor: usize, _max: usize) -> (Vec<FlowRow>, Option<usize>) {
        (Vec::new(), None)
    }

    fn health(&mut self) -> Vec<HealthRow> {
        self.names.health()
    }

    fn counters(&mut self) -> BTreeMap<String, u64> {
        self.names.counts()
    }

    fn workers(&mut self) -> Vec<WorkerRow> {
        Vec::new()
    }

    fn dns(&mut self) -> DnsRows {
        self.names.rows(&NoServices)
    }

    fn reload(&mut self) -> Result<String, String> {
        let config = config::file::load(&self.path).map_err(|errors| errors.to_string())?;
        let mut changes = config::diff::diff(&self.config, &config).map_err(|refused| refused.join("\n"))?;
        if let Some(prepared) = self.names.prepare(&config)? {
            changes.extend(self.names.adopt(&config, prepared, Instant::now()));
        }
        self.config = config;
        Ok(super::in_words(&changes))
    }

    fn drain(&mut self, target: &str, on: bool) -> Result<String, String> {
        self.names.drain(target, on).ok_or_else(|| format!("there is no pool and member {target}"))
    }

    fn metrics(&mut self) -> String {
        let mut page = info_page(&self.config.site);
        count_metrics(&mut page, &self.names.counts());
        self.names.metrics(&mut page, &NoServices);
        page.finish()
    }
}
