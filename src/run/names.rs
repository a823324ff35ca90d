//! DNS as the control thread sees it: the checks of lines and members, what follows from them for the zones, the threads that answer,
//! and the secondaries.

mod explain;
mod fast;
mod geo;
mod keeper;
mod rows;
mod steering;
mod truth;
pub mod zones;

use crate::config::Config;
use crate::dns::Name;
use crate::dns::pool::PoolState;
use crate::dns::serve::notify::Notifier;
use crate::dns::serve::serial::Serials;
use crate::dns::serve::{Shared, listen, tcp, udp};
use crate::dns::snapshot::Cookies;
use crate::dns::steer::learn::Learner;
use crate::health::{self, Health, TargetKind, Transition};
use crate::redis::Sharer;
use crate::run::sites::{Heard, Known};
use crate::service::status::StatusTable;
use crate::sites::Ways;
use crate::sites::state::member_id;
use crate::sites::ways::NETWORKS;
use crate::survey::Survey;
use crate::sys::wake::Waker;
use fast::Fast;
use keeper::{Keeper, Learning};
use mio::{Registry, Token};
pub use rows::health_row;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};
pub use truth::Services;
use truth::{Checked, Truth};
use zones::{Loaded, Slots, ZoneFilesWrong, Zones};

/// How many tokens [`Names`] takes from its base token on.
pub const TOKENS: usize = health::TOKENS + 1;

/// How long what a reload has brought waits for the first answers of what it has brought to check: until then it is not known what is up.
const SETTLING: Duration = Duration::from_secs(5);

/// Where nothing forwards packets there is no service.
pub struct NoServices(pub Arc<Heard>);

impl Services for NoServices {
    fn is_up(&self, _service: &str) -> bool {
        false
    }

    fn heard(&self) -> &Heard {
        &self.0
    }
}

pub struct Names {
    config: Config,
    health: Health,
    status: Arc<StatusTable>,
    checked: Checked,
    drained: HashSet<String>,
    slots: Slots,
    zones: Zones,
    /// Once a pool remembers resolvers' sites.
    keeper: Option<Keeper>,
    sharer: Option<Sharer>,
    /// Once a pool chooses by metrics.
    survey: Option<Survey>,
    cookies: Option<Cookies>,
    notifier: Notifier,
    shared: Arc<Shared>,
    /// Until the first round of checks is done they wait, and so does who asks.
    idle: Option<(Vec<udp::Server>, tcp::Server)>,
    threads: Vec<JoinHandle<()>>,
    fast: Option<Fast>,
    udp_wakers: Vec<Waker>,
    tcp_waker: Arc<mio::Waker>,
    base: usize,
    /// What was put out last.
    states: HashMap<u16, PoolState>,
    lines_up: Vec<bool>,
    /// A reload's zones are to be put out, at this time at the latest.
    settling: Option<Instant>,
}

/// Reads the zones' files of a configuration for `farside check`.
pub fn check_zones(config: &Config, styled: bool) -> Result<(), ZoneFilesWrong> {
    config.dns.as_ref().map_or(Ok(()), |dns| zones::load(dns, &mut Slots::default(), styled).map(|_| ()))
}

/// What a reload has read and not yet taken.
pub struct Prepared(Loaded);

impl Names {
    /// Reads the zones, opens the sockets, and begins with the checks; None: there is no `[dns]`. The error is a sentence, or many.
    pub fn start(config: &Config, threads: usize) -> Result<Option<Names>, String> {
        let Some(dns) = &config.dns else { return Ok(None) };
        let mut slots = Slots::default();
        let loaded = zones::load(dns, &mut slots, false).map_err(|wrong| wrong.rendered)?;
        let serials = Serials::open(&dns.state_dir)?;
        let cookies = secret().map(|secret| Cookies { secret, previous: None });
        let settings = || zones::settings(dns, cookies.clone());
        let mut zones = Zones::new(serials, settings(), slots.table.clone());
        zones.take(loaded, &mut slots, settings());
        let start = || Keeper::start(dns.max_records, &dns.state_dir, slots.sites.clone());
        let keeper = dns.is_dynamic().then(start).transpose()?;
        keeper.iter().for_each(|keeper| zones.remember(keeper.store().clone()));
        let listeners = listen::open(&dns.listen, threads)?;
        let shared = Arc::new(Shared::new(zones.served(), threads));
        let told = |what: &str| format!("[dns] {what} cannot be started");
        let server = |(index, sockets)| udp::Server::new(index, sockets, shared.clone());
        let mut servers: Vec<udp::Server> = listeners
            .udp
            .into_iter()
            .enumerate()
            .map(server)
            .collect::<Result<_, _>>()
            .map_err(|why| format!("{}: {why}", told("UDP")))?;
        let fast = Fast::open(dns, threads).map(|(fast, devices)| {
            servers.iter_mut().zip(devices).for_each(|(server, device)| server.take_rings(device));
            fast
        });
        let tcp = tcp::Server::new(listeners.tcp, dns.tcp.clone(), shared.clone())
            .map_err(|why| format!("{}: {why}", told("TCP")))?;
        let notifier = Notifier::new(dns.listen.iter().map(|address| address.ip()))
            .map_err(|why| format!("{}: {why}", told("what tells secondaries of changes")))?;
        let status = Arc::new(StatusTable::new());
        let mut names = Names {
            config: config.clone(),
            health: Health::new(status.clone()),
            status,
            checked: Checked::of(config),
            drained: HashSet::new(),
            slots,
            zones,
            keeper,
            sharer: None,
            survey: None,
            cookies,
            notifier,
            udp_wakers: servers.iter().map(udp::Server::waker).collect(),
            tcp_waker: tcp.waker(),
            shared,
            idle: Some((servers, tcp)),
            threads: Vec::new(),
            fast,
            base: 0,
            states: HashMap::new(),
            lines_up: Vec::new(),
            settling: None,
        };
        names.warn_of_addresses();
        names.learn()?;
        names.share()?;
        names.survey()?;
        names.health.set_targets(names.checked.targets.clone(), Instant::now());
        Ok(Some(names))
    }

    /// Learns groups of resolvers, if the configuration asks for it; those that are known stay.
    fn learn(&mut self) -> Result<(), String> {
        let suffix = self.config.dns.as_ref().and_then(|dns| dns.learn_groups.as_deref());
        let Some((suffix, keeper)) = suffix.zip(self.keeper.as_ref()) else {
            self.keeper.iter().for_each(|keeper| keeper.learn(None));
            self.zones.learn(None);
            return Ok(());
        };
        let name = Name::parse(suffix).map_err(|_| format!("[dns] learn_groups: {suffix} is no name"))?;
        let known = self.zones.learner().filter(|learner| learner.suffix() == name.wire()).cloned();
        let learner = match known {
            Some(learner) => learner,
            None => {
                let random = || getrandom::u64().map_err(|why| format!("[dns] learn_groups: no random numbers: {why}"));
                Arc::new(Learner::new(name.wire(), (random()?, random()?)))
            }
        };
        keeper.learn(Some(Learning { learner: learner.clone(), shares: self.zones.shares() }));
        self.zones.learn(Some(learner));
        Ok(())
    }

    /// Shares what the store has through the server that the configuration names, if it names one.
    fn share(&mut self) -> Result<(), String> {
        let redis = self.config.dns.as_ref().and_then(|dns| dns.redis.as_ref());
        if self.sharer.as_ref().map(Sharer::config) == redis {
            return Ok(());
        }
        self.sharer = None;
        let Some(redis) = redis else { return Ok(()) };
        match &self.keeper {
            Some(keeper) => {
                self.sharer = Some(Sharer::start(redis, keeper.store().clone(), self.slots.sites.clone())?);
            }
            // Sites' states are shared all the same, where there are other sites.
            None if !self.config.peers.is_empty() => {}
            None => {
                warn!("[dns.redis] has nothing to share: no pool has the mode \"dynamic\", and there is no [[peer]]")
            }
        }
        Ok(())
    }

    /// Has resolvers' ways measured as the configuration says; what is known stays.
    fn survey(&mut self) -> Result<(), String> {
        let Some(dns) = &self.config.dns else { return Ok(()) };
        if self.survey.is_none() && dns.is_metric() {
            let too_many = || format!("site {} is one more than can be known from start to end", self.config.site);
            let own = self.slots.sites.number(&self.config.site).ok_or_else(too_many)?;
            let random = || getrandom::u64().map_err(|why| format!("[dns] no random numbers: {why}"));
            let ways = Arc::new(Ways::new(NETWORKS, own, (random()?, random()?)));
            self.zones.survey(ways.clone());
            self.survey = Some(Survey::start(ways)?);
        }
        if let Some(survey) = &self.survey {
            let per_second = if dns.is_metric() { dns.measure_resolvers } else { 0 };
            survey.set(per_second, dns.measure_every);
        }
        Ok(())
    }

    /// What is bound to an address that the host does not have gets nothing; it may come yet.
    fn warn_of_addresses(&self) {
        let host = crate::netlink::host_addresses();
        let has = |ip: &IpAddr| ip.is_loopback() || host.contains(ip);
        for address in self.config.dns.iter().flat_map(|dns| &dns.listen).filter(|address| !has(&address.ip())) {
            warn!("[dns] listen: {address} is no address of this host now; nothing comes there until it is");
        }
        for line in self.config.lines.iter().filter(|line| !has(&line.address)) {
            warn!("line {}: {} is no address of this host now; the line is down until it is", line.name, line.address);
        }
    }

    /// Joins an event loop; tokens `base..base + TOKENS` are taken. Errors are the loop's.
    pub fn register(&mut self, registry: &Registry, base: usize) -> std::io::Result<()> {
        self.base = base;
        self.notifier.register(registry, Token(base))?;
        self.health.register(registry, base + 1)
    }

    /// An event of the loop, of one of the tokens taken.
    pub fn ready(&mut self, token: usize, now: Instant) {
        if token == self.base {
            self.notifier.ready();
        } else {
            self.health.ready(token, now);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let fast = self.fast.as_ref().and_then(Fast::next_deadline);
        [self.health.next_deadline(), self.notifier.next_deadline(), self.settling, fast].into_iter().flatten().min()
    }

    /// Has all been checked once?
    pub fn first_round_done(&self) -> bool {
        self.health.first_round_done()
    }

    /// One turn of the control thread's loop. `settled`: the services' real servers have all been checked once; before that, and before
    /// lines and members have, nothing is answered.
    pub fn tick(&mut self, now: Instant, settled: bool, services: &dyn Services) {
        self.health.tick(now);
        for change in self.health.transitions() {
            self.tell(&change);
        }
        let known = settled && self.health.first_round_done();
        let waits = match (&self.idle, self.settling) {
            (Some(_), _) => !known,
            (None, Some(at)) => !known && now < at,
            (None, None) => false,
        };
        if !waits {
            self.follow(now, services);
        }
        self.notifier.tick(now);
        if let Some(fast) = &mut self.fast {
            fast.tick(now);
        }
    }

    /// Puts out what has become of lines and members.
    fn follow(&mut self, now: Instant, services: &dyn Services) {
        let Names { config, health, checked, status, drained, slots, .. } = self;
        let truth = Truth { config, checked, status, services, drained };
        let states = truth.pools(slots, &health.lasting());
        let lines_up: Vec<bool> = (0..config.lines.len()).map(|l| truth.is_line_up(l)).collect();
        let begins = self.idle.is_some();
        if !begins && self.settling.take().is_none() && states == self.states && lines_up == self.lines_up {
            return;
        }
        self.tell_changes(&states, &lines_up, now, services);
        let (changed, served) = self.zones.put_out(&states);
        self.shared.served.store(Arc::new(served));
        (self.states, self.lines_up) = (states, lines_up);
        if begins {
            self.begin(now);
        }
        let down = self.config.lines.iter().zip(&self.lines_up).filter(|(_, up)| !**up).map(|(line, _)| line.address);
        self.notifier.avoid(&down.collect::<Vec<_>>());
        for index in changed {
            let entry = &self.zones.entries[index];
            let (zone, access) = (&entry.versions[0], &entry.access);
            self.notifier.tell(zone, &access.secondaries, access.key.as_ref(), &self.zones.keys, now);
        }
    }

    /// The first round is over: the threads that answer start.
    fn begin(&mut self, now: Instant) {
        let Some((servers, tcp)) = self.idle.take() else { return };
        let spawn = |name: String, run: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name).spawn(run);
        let udp = servers.into_iter().enumerate().map(|(n, server)| {
            let run: Box<dyn FnOnce() + Send> = Box::new(move || server.run());
            (format!("dns-udp-{n}"), run)
        });
        let run: Box<dyn FnOnce() + Send> = Box::new(move || {
            if let Err(why) = tcp.run() {
                error!("DNS over TCP has ended: its event loop broke: {why}");
            }
        });
        for (name, run) in udp.chain([("dns-tcp".to_string(), run)]) {
            match spawn(name, run) {
                Ok(thread) => self.threads.push(thread),
                Err(why) => error!("a thread that answers DNS cannot be started: {why}"),
            }
        }
        if let Some(fast) = &mut self.fast {
            fast.begin(now);
        }
    }

    fn tell(&self, change: &Transition) {
        let line = self.checked.targets.get(usize::from(change.slot)).is_some_and(|t| t.kind == TargetKind::Line);
        let what = if line { "line" } else { "pool" };
        match change.up {
            true => info!("{what} {} is up: {}", change.name, change.reason),
            false => warn!("{what} {} is down: {}", change.name, change.reason),
        }
    }

    /// Which lines and members have come or gone since the last time.
    fn tell_changes(&self, states: &HashMap<u16, PoolState>, up: &[bool], now: Instant, services: &dyn Services) {
        let Names { config, checked, status, drained, .. } = self;
        let truth = Truth { config, checked, status, services, drained };
        let health = self.health.report(now);
        for (l, line) in config.lines.iter().enumerate() {
            match (self.lines_up.get(l), up[l]) {
                (Some(true) | None, false) => {
                    warn!("line {} is down: {}", line.name, truth.line_state(l, &health).reason)
                }
                (Some(false), true) => info!("line {} is up", line.name),
                _ => {}
            }
        }
        for (p, pool) in config.dns.iter().flat_map(|dns| &dns.pools).enumerate() {
            let slot = self.slots.known_pool(&pool.name);
            let [was, is] = [&self.states, states].map(|states| slot.and_then(|slot| states.get(&slot)).map(|s| s.up));
            for (m, member) in pool.members.iter().enumerate() {
                let [was, is] = [was, is].map(|up| up.map(|up| up >> m & 1 == 1));
                let state = truth.member_state(p, pool, m, &health);
                match (was, is) {
                    (Some(true) | None, Some(false)) => {
                        warn!("pool {}: {} is out: {}", pool.name, member.name, state.reason)
                    }
                    (Some(false), Some(true)) => info!("pool {}: {} is in: {}", pool.name, member.name, state.reason),
                    _ => {}
                }
            }
        }
    }

    /// Reads what `config` asks for and changes nothing. The error is what is wrong with it.
    pub fn prepare(&mut self, config: &Config) -> Result<Option<Prepared>, String> {
        let Some(dns) = &config.dns else { return Ok(None) };
        zones::load(dns, &mut self.slots, false).map(|loaded| Some(Prepared(loaded))).map_err(|wrong| wrong.rendered)
    }

    /// Makes it so: at once, or as soon as what is new has been checked once.
    /// What of the zones' files has changed is told in words.
    pub fn adopt(&mut self, config: &Config, prepared: Prepared, now: Instant) -> Vec<String> {
        let Some(dns) = &config.dns else { return Vec::new() };
        let settings = zones::settings(dns, self.cookies.clone());
        let changed = self.zones.take(prepared.0, &mut self.slots, settings);
        if self.keeper.is_none() && dns.is_dynamic() {
            match Keeper::start(dns.max_records, &dns.state_dir, self.slots.sites.clone()) {
                Ok(keeper) => {
                    self.zones.remember(keeper.store().clone());
                    self.keeper = Some(keeper);
                }
                Err(sentence) => error!("{sentence}; mode \"dynamic\" leaves all to the modes behind it"),
            }
        }
        // Lines keep what was known of them by their names.
        let mut was: HashMap<String, bool> =
            self.config.lines.iter().map(|line| line.name.clone()).zip(self.lines_up.drain(..)).collect();
        self.lines_up = config.lines.iter().map(|line| was.remove(&line.name).unwrap_or(true)).collect();
        self.config = config.clone();
        self.checked = Checked::of(config);
        if let Err(sentence) = self.learn().and_then(|()| self.share()).and_then(|()| self.survey()) {
            error!("{sentence}");
        }
        self.health.set_targets(self.checked.targets.clone(), now);
        self.states.clear();
        self.settling = Some(now + SETTLING);
        self.notifier.forget();
        changed
    }

    /// Which sites there are, and what is remembered of resolvers.
    pub fn sites(&self) -> Known {
        let (sites, table) = (self.slots.sites.clone(), self.slots.table.clone());
        let store = self.keeper.as_ref().map(|keeper| keeper.store().clone());
        Known { sites, table, store, ways: self.survey.as_ref().map(|survey| survey.ways().clone()) }
    }

    /// The members that are `site`'s, and whether they are in; see [`crate::sites::state::member_id`]. Empty before anything is answered.
    pub fn own_members(&self, site: &str) -> Vec<(u64, bool)> {
        let pools = self.config.dns.iter().flat_map(|dns| &dns.pools);
        let states = pools.filter_map(|pool| Some((pool, self.states.get(&self.slots.known_pool(&pool.name)?)?)));
        let members = states.flat_map(|(pool, state)| {
            let own = pool.members.iter().enumerate().filter(|(_, member)| member.site == site);
            own.map(|(m, member)| (member_id(&pool.name, &member.name), state.up >> m & 1 == 1))
        });
        members.collect()
    }

    /// Starts or ends draining `name` (`pool/member`). None: there is none of that name.
    pub fn drain(&mut self, name: &str, on: bool) -> Option<String> {
        let mut pools = self.config.dns.iter().flat_map(|dns| &dns.pools);
        let (pool, member) = name.split_once('/')?;
        let is_there = pools.any(|own| own.name == pool && own.members.iter().any(|own| own.name == member));
        if !is_there {
            return None;
        }
        if on {
            self.drained.insert(name.into());
            return Some(format!("{name} is answered no more"));
        }
        self.drained.remove(name);
        Some(format!("{name} is answered again while it is up"))
    }

    /// Ends the threads.
    pub fn stop(&mut self) {
        if let Some(fast) = self.fast.take() {
            fast.end();
        }
        self.shared.stop.store(true, Relaxed);
        self.udp_wakers.iter().for_each(Waker::wake);
        let _ = self.tcp_waker.wake();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.sharer = None;
        self.survey = None;
        self.keeper.iter_mut().for_each(Keeper::stop);
    }
}

/// None, and no cookies, on a host that has no random numbers.
fn secret() -> Option<[u8; 16]> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).ok().map(|()| secret)
}
