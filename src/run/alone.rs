//! DNS and nothing else: a configuration without services and without a data path.

use super::names::{self, Names, NoServices};
use super::rows::{count_metrics, info_page};
use super::sites::{ARRIVALS, Sites};
use super::{ASKED, Daemon, NAMES};
use crate::admin::Answers;
use crate::admin::rows::{DnsRows, ExplainRow, FlowRow, HealthRow, ServiceRow, SiteRow, Wish, WorkerRow};
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
    sites: Sites,
    ready: bool,
}

impl Alone {
    pub fn start(path: PathBuf, config: Config) -> Result<Alone, String> {
        pin::raise_open_files();
        let cpus = pin::allowed_cpus().map_err(|why| format!("the allowed CPUs cannot be read: {why}"))?;
        let threads = super::worker_cpus(&config, &cpus)?.len();
        let names =
            Names::start(&config, threads)?.ok_or("there is neither a [datapath] nor a [dns]: nothing to do")?;
        let sites = Sites::start(&config, names.sites())?;
        Ok(Alone { path, config, names, sites, ready: false })
    }
}

impl Daemon for Alone {
    fn register(&mut self, registry: &mio::Registry) -> Result<(), String> {
        let waker =
            mio::Waker::new(registry, mio::Token(ASKED)).map_err(|why| super::broken("the links' news", why))?;
        self.sites.set_waker(std::sync::Arc::new(waker));
        self.names.register(registry, NAMES).map_err(|why| super::broken("DNS", why))
    }

    fn ready(&mut self, token: usize, now: Instant) {
        if (NAMES..NAMES + names::TOKENS).contains(&token) {
            self.names.ready(token, now);
        }
    }

    fn next_deadline(&self) -> Instant {
        let look = Instant::now() + LOOK;
        self.names.next_deadline().map_or(look, |at| at.min(look))
    }

    fn tick(&mut self, now: Instant) {
        let names = &self.names;
        let packets = || {
            let counts = names.counts();
            ARRIVALS.iter().filter_map(|name| counts.get(*name)).sum()
        };
        self.sites.tick(now, &self.config, None, Some(names), packets);
        self.names.tick(now, true, &NoServices(self.sites.heard()));
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
        let mut counts = self.names.counts();
        counts.extend(self.sites.counts());
        counts
    }

    fn workers(&mut self) -> Vec<WorkerRow> {
        Vec::new()
    }

    fn dns(&mut self) -> DnsRows {
        self.names.rows(&NoServices(self.sites.heard()))
    }

    fn sites(&mut self) -> Vec<SiteRow> {
        self.sites.rows(&self.config)
    }

    fn explain(&mut self, wish: &Wish) -> Result<ExplainRow, String> {
        self.names.explain(wish, &NoServices(self.sites.heard()))
    }

    fn reload(&mut self) -> Result<String, String> {
        let config = config::file::load(&self.path).map_err(|errors| errors.to_string())?;
        let mut changes = config::diff::diff(&self.config, &config).map_err(|refused| refused.join("\n"))?;
        let linked = self.sites.prepare(&config)?;
        if let Some(prepared) = self.names.prepare(&config)? {
            changes.extend(self.names.adopt(&config, prepared, Instant::now()));
        }
        self.sites.adopt(&config, linked, Some(self.names.sites()));
        self.config = config;
        Ok(super::in_words(&changes))
    }

    fn drain(&mut self, target: &str, on: bool) -> Result<String, String> {
        self.names.drain(target, on).ok_or_else(|| format!("there is no pool and member {target}"))
    }

    fn metrics(&mut self) -> String {
        let mut page = info_page(&self.config.site);
        count_metrics(&mut page, &Answers::counters(self));
        self.names.metrics(&mut page, &NoServices(self.sites.heard()));
        self.sites.metrics(&mut page, &self.config);
        page.finish()
    }
}
