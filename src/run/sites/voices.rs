//! What other sites say through a Redis server, as the control thread sees it.

use crate::admin::rows::SiteRow;
use crate::config::Config;
use crate::config::dns::Redis;
use crate::redis::states::States;
use crate::sites::state::State;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;
use tracing::{info, warn};

/// How what a site says comes here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Link,
    Redis,
}

impl Way {
    pub fn word(self) -> &'static str {
        match self {
            Way::Link => "link",
            Way::Redis => "redis",
        }
    }
}

/// What another site says of itself.
pub struct Said {
    pub name: String,
    pub state: Arc<State>,
    pub way: Way,
    /// When some of it is good no more.
    pub ends: Option<Instant>,
}

pub struct Voices {
    pub states: States,
    /// Sites whose coming has been told, and whose going has not.
    told: HashSet<String>,
}

/// The server, and whom this site hears there.
pub fn wanted(config: &Config) -> Option<(&Redis, Vec<String>)> {
    let redis = config.dns.as_ref()?.redis.as_ref()?;
    let peers: Vec<String> = config.peers.iter().map(|peer| peer.name.clone()).collect();
    (!peers.is_empty()).then_some((redis, peers))
}

impl Voices {
    /// None: no server is configured, or no other site. The error is a sentence.
    pub fn start(config: &Config) -> Result<Option<Voices>, String> {
        let Some((redis, peers)) = wanted(config) else { return Ok(None) };
        let states = States::start(redis, &config.site, peers)?;
        Ok(Some(Voices { states, told: HashSet::new() }))
    }

    /// Is it what this configuration wants?
    pub fn is_of(&self, config: &Config) -> bool {
        wanted(config).is_some_and(|(redis, peers)| self.states.is_of(redis, &config.site, &peers))
    }

    /// Says in the log, once each time, who has come and who has gone. `ways`: of all that are heard. While the server is lost nobody is
    /// told of: that it is lost has been.
    pub fn tell_changes(&mut self, now: Instant, ways: &HashMap<String, Way>) {
        let address = self.states.config().address;
        for (name, _) in ways.iter().filter(|(_, way)| **way == Way::Redis) {
            if self.told.insert(name.clone()) {
                info!("{name} is heard through {address}");
            }
        }
        if self.states.is_settled(now) {
            self.told.retain(|name| match ways.get(name) {
                Some(way) => *way == Way::Redis,
                None => {
                    warn!("{name} is not heard through {address} any more; from now on this site's own checks alone judge it");
                    false
                }
            });
        }
    }

    /// Adds to rows of sites what no link says.
    pub fn complete(&self, now: Instant, rows: &mut [SiteRow]) {
        for report in self.states.reports(now) {
            let Some(row) = rows.iter_mut().find(|row| row.site == report.name && row.heard.is_none()) else {
                continue;
            };
            let since_s = now.duration_since(report.since).as_secs();
            if let Some(state) = &report.state {
                row.heard = Some(Way::Redis.word().into());
                row.connections = Some(state.connections);
                row.packets_per_s = Some(state.packets_per_s);
                row.cpu_permille = Some(state.cpu_permille);
                row.full = Some(state.full);
            }
            if row.link == "none" {
                row.since_s = Some(since_s);
                let address = self.states.config().address;
                row.why = match (&report.state, self.states.is_connected()) {
                    (Some(_), _) => None,
                    (None, true) => Some(format!("not heard through {address}")),
                    (None, false) => Some(format!("{address} does not answer")),
                };
            }
        }
    }
}
