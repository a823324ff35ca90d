//! What the control thread holds and does: it owns everything that workers only read.

use super::backend::{Backend, Started};
use super::checks::{Closing, OwnHost, Reserve};
use super::kernel::KernelPath;
use super::names::{Names, Prepared};
use super::sites::{self, Sites};
use super::targets::{ServicesUp, real_check, remote_check};
use super::{ASKED, Daemon, HEALTH, NAMES, NETLINK, broken, forwarding, preflight, probe, worker_cpus};
use crate::announce::Announcer;
use crate::config::{self, Config, OnDown};
use crate::counters::Counters;
use crate::flow::{FlowTable, HashKey, Ledger, PoolId, TICK_MS, Timeouts, ticks};
use crate::forward::Shared;
use crate::forward::paths::Paths;
use crate::health::{self, Health};
use crate::netlink::Netlink;
use crate::route::{Fib, HopTable, ResolveQueue};
use crate::service::build::{Probe, build};
use crate::service::doors::has_doors;
use crate::service::leaving::Leaving;
use crate::service::persistence::Memory;
use crate::service::registry::Registry;
use crate::service::status::StatusTable;
use crate::service::{ServiceMap, Target};
use crate::sys::bpf::{self, Ingress, Programs, SharedMaps, Sizes};
use crate::sys::pin;
use crate::sys::socket::SolicitedNodes;
use crate::worker::{Command, World};
use arc_swap::ArcSwap;
use mio::Token;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// How often gauges are looked at and neighbors announced again.
const LOOK: Duration = Duration::from_secs(1);

/// Records searched at each look for connections of what a reload has removed: some milliseconds' worth.
const LEAVING_LOOK: u32 = 1 << 18;

/// Buckets of remembered clients searched at each look for what has expired.
const MEMORY_LOOK: usize = 1 << 15;

pub struct Control {
    path: PathBuf,
    pub config: Config,
    pub world: Arc<World>,
    pub registry: Registry,
    leaving: Leaving,
    pub netlink: Netlink,
    pub health: Health,
    /// None: this site serves no zones.
    pub names: Option<Names>,
    pub sites: Sites,
    pub cpus: Vec<usize>,
    programs: Programs,
    kernel: KernelPath,
    pub backend: Backend,
    ingress: Vec<Option<Ingress>>,
    solicited: Vec<SolicitedNodes>,
    announcer: Announcer,
    workers: Vec<Started>,
    probe_device: Option<String>,
    reserve: Reserve,
    closing: Closing,
    /// The first round of checks is over and the VIPs are taken.
    serving: bool,
    looked: Instant,
    /// Where the next look at remembered clients begins.
    remembered: usize,
    /// Pools that were warned about: nearly all lent.
    low: Vec<PoolId>,
    /// The host forwards what comes in by farside's interfaces: IPv4, IPv6.
    forwards: [bool; 2],
}

impl Control {
    /// Sets everything up but takes no VIP yet.
    pub fn start(path: PathBuf, config: Config) -> Result<Control, String> {
        pin::raise_memlock();
        pin::raise_open_files();
        let allowed = pin::allowed_cpus().map_err(|why| format!("the allowed CPUs cannot be read: {why}"))?;
        let cpus = worker_cpus(&config, &allowed)?;
        let names = Names::start(&config, cpus.len())?;
        let sites = Sites::start(&config, names.as_ref().map_or_else(Default::default, Names::sites))?;
        let key = HashKey::random().map_err(|why| format!("the kernel gives no random numbers: {why}"))?;
        let max_flows = config.datapath.max_flows;
        let sizes =
            Sizes { flow_buckets: FlowTable::buckets_for(max_flows) as u32, max_flows, workers: cpus.len() as u32 };
        let (start, start_ns) = (Instant::now(), bpf::monotonic_ns());
        let mut programs = Programs::load((key.k0, key.k1), &sizes, start_ns, TICK_MS * 1_000_000)
            .map_err(|why| format!("the kernel programs cannot be loaded: {why}"))?;
        let SharedMaps { flows, records, hops, paths, status, carried } =
            programs.memory().ok_or("the maps are taken")?;
        let status = Arc::new(StatusTable::in_memory(status).ok_or("the map of status words has a wrong size")?);
        let hops = Arc::new(HopTable::in_memory(hops).ok_or("the map of next hops has a wrong size")?);
        let shared = Arc::new(Shared {
            table: FlowTable::in_memory(records, flows, cpus.len(), key),
            ledger: Ledger::new(cpus.len()),
            status: status.clone(),
            memory: Memory::new(config.datapath.max_persistent, key),
            hops: hops.clone(),
            resolve: Arc::new(ResolveQueue::new()),
            paths: Paths::in_memory(paths).ok_or("the map of paths has a wrong size")?,
        });
        let tap = if needs_doors(&config) || config.proxy.is_some() { Some(probe::open()?) } else { None };
        let probe_device = tap.as_ref().map(|tap| tap.name().to_string());
        let fib = Arc::new(ArcSwap::from_pointee(Fib::empty(hops.clone())));
        let interfaces = &config.datapath.interfaces;
        let netlink = Netlink::new(
            interfaces,
            probe_device.as_deref(),
            hops,
            fib.clone(),
            shared.resolve.clone(),
            Instant::now(),
        )
        .map_err(|why| why.to_string())?;
        let mut registry = Registry::default();
        let mut reserve = Reserve::default();
        let host = OwnHost { fib: fib.load_full(), reserve: &mut reserve };
        let (services, probes) = build(&config, &mut registry, &status, &shared.ledger, host)?;
        let world = Arc::new(World {
            shared,
            services: Arc::new(ArcSwap::from_pointee(services)),
            fib,
            timeouts: Arc::new(ArcSwap::from_pointee(Timeouts::from(&config.timeouts))),
            counters: Arc::new(Counters::new(cpus.len())),
            commands: World::commands(cpus.len()),
            carried: Some(carried),
            start,
            stop: Arc::new(AtomicBool::new(false)),
        });
        programs
            .set_pips(&pips(&world.services.load(), &Leaving::default()))
            .map_err(|why| format!("kernel programs: {why}"))?;
        let (backend, devices) = Backend::open(&config, cpus.len(), &mut programs, tap)?;
        let mut control = Control {
            path,
            world,
            registry,
            leaving: Leaving::default(),
            netlink,
            health: Health::new(status),
            names,
            sites,
            cpus,
            programs,
            kernel: KernelPath::new(config.datapath.kernel_path, backend.is_xdp()),
            backend,
            ingress: Vec::new(),
            solicited: Vec::new(),
            announcer: Announcer::new().map_err(|why| format!("a socket for announcements cannot be opened: {why}"))?,
            workers: Vec::new(),
            probe_device,
            reserve,
            closing: Closing::default(),
            serving: false,
            looked: Instant::now(),
            remembered: 0,
            low: Vec::new(),
            forwards: forwarding::of(&config.datapath.interfaces),
            config,
        };
        control.world.shared.ledger.set_rest(control.rest());
        control.close_ingress()?;
        control.workers = devices.start(&control.cpus, control.config.datapath.idle, &control.world)?;
        control.join_and_announce();
        control.check_targets(&probes);
        Ok(control)
    }

    fn rest(&self) -> u32 {
        self.config.proxy.as_ref().map_or(0, |proxy| ticks(proxy.port_rest))
    }

    /// Keeps farside's packets from the host's stack, at every interface.
    fn close_ingress(&mut self) -> Result<(), String> {
        for name in self.config.datapath.interfaces.clone() {
            let told = |why| format!("interface {name}: the host's stack cannot be kept out: {why}");
            if bpf::clean_leftovers(&name).map_err(told)? {
                info!("interface {name}: took away what a killed farside had left");
            }
            self.ingress.push(Some(self.programs.attach_ingress(&name).map_err(told)?));
        }
        Ok(())
    }

    fn check_targets(&mut self, probes: &[Probe]) {
        let services = self.world.services.load_full();
        let mut targets = Vec::new();
        for (service, config) in services.services().iter().zip(&self.config.services) {
            for real in &service.reals {
                let probe = probes.iter().find(|probe| probe.slot == real.slot);
                targets.push(real_check(real, real.family, config, probe, self.probe_device.as_deref()));
            }
            for remote in &service.remotes {
                let probe = probes.iter().find(|probe| probe.slot == remote.slot);
                targets.push(remote_check(remote, service.family, config, probe, self.probe_device.as_deref()));
            }
        }
        preflight::off_link(&services, &self.world.fib.load()).iter().for_each(|sentence| warn!("{sentence}"));
        self.health.set_targets(targets, Instant::now());
    }

    /// The services as DNS asks after them.
    pub fn services_up(&self) -> ServicesUp {
        ServicesUp::of(&self.world, self.sites.heard())
    }

    /// Tells other sites how this one is, and heeds what they say.
    fn follow_sites(&mut self, now: Instant) {
        let (world, names) = (&self.world, self.names.as_ref());
        let packets = || count_packets(&world.counts()) + names.map_or(0, |names| count_packets(&names.counts()));
        let services = world.services.load();
        self.sites.tick(now, &self.config, Some((&services, &world.shared.status)), names, packets);
    }

    /// Tells DNS what has become of the services.
    fn follow_names(&mut self, now: Instant) {
        let settled = self.health.first_round_done();
        let services = self.services_up();
        if let Some(names) = &mut self.names {
            names.tick(now, settled, &services);
        }
    }

    /// Forgets clients whose time is over.
    fn forget_clients(&mut self) {
        let timeouts = self.world.services.load().persistence();
        let timeout = |slot| timeouts.get(&slot).copied().unwrap_or(0);
        let now = self.world.now().tick;
        self.remembered = self.world.shared.memory.sweep(self.remembered, MEMORY_LOOK, now, timeout);
    }

    /// Looks whether the host forwards packets, which anybody may switch at any time.
    fn watch_forwarding(&mut self) {
        let forwards = forwarding::of(&self.config.datapath.interfaces);
        if std::mem::replace(&mut self.forwards, forwards) != forwards
            && let Err(why) = self.capture()
        {
            error!("{why}");
        }
    }

    /// Takes what a reload has removed off the kernel's hands once its last connection has ended.
    fn let_go(&mut self) {
        if !self.leaving.look(&self.world.shared.table, LEAVING_LOOK) {
            return;
        }
        let mut services = ServiceMap::clone(&self.world.services.load());
        self.leaving.tell(&mut services);
        self.world.services.store(Arc::new(services));
        match self.capture() {
            Ok(()) if self.leaving.is_empty() => info!("the last connections of what a reload removed have ended"),
            Ok(()) => {}
            Err(why) => error!("{why}"),
        }
    }

    /// Tells the kernel programs what is farside's.
    fn capture(&mut self) -> Result<(), String> {
        let told = |why: std::io::Error| format!("kernel programs: {why}");
        let services = self.world.services.load_full();
        self.programs.set_pips(&pips(&services, &self.leaving)).map_err(told)?;
        self.programs.set_reals(&forwarding::answering(&services, self.forwards)).map_err(told)?;
        if self.serving {
            self.programs.set_services(&captured(&services, &self.leaving)).map_err(told)?;
        }
        Ok(())
    }

    /// An interface has come back under its name: new sockets, and the ingress program once more.
    fn renew_interfaces(&mut self) {
        let ports = match self.backend.renew(&self.programs) {
            Ok(ports) => ports,
            Err(why) => return error!("an interface has come back but cannot be opened: {why}"),
        };
        for port in ports {
            let name = &self.config.datapath.interfaces[port];
            self.ingress[port] = match self.programs.attach_ingress(name) {
                Ok(ingress) => Some(ingress),
                Err(why) => {
                    error!("interface {name} has come back but the host's stack cannot be kept out: {why}");
                    None
                }
            };
            info!("interface {name} has come back");
        }
        self.join_and_announce();
    }

    fn tell(&mut self, change: &health::Transition) {
        let name = &change.name;
        match (change.up, change.first) {
            (true, _) => info!("{name} is up: {}", change.reason),
            (false, true) => warn!("{name} is down from the start: {}", change.reason),
            (false, false) => {
                warn!("{name} is down: {}", change.reason);
                self.reset_connections(change.slot);
            }
        }
    }

    /// Has all connections of a target reset, if its service wants that.
    fn reset_connections(&mut self, slot: u16) {
        let services = self.world.services.load();
        let has = |target: &&Target| target.slot == slot;
        let wants = services.services().iter().any(|service| {
            service.on_down == OnDown::Reset && service.reals.iter().chain(&service.remotes).any(|t| has(&t))
        });
        if wants {
            self.world.command(Command::ResetTarget(slot));
            self.workers.iter().for_each(|(_, waker)| waker.wake());
        }
    }

    /// The first round is over: from now on the VIPs are farside's.
    fn take_traffic(&mut self) {
        self.serving = true;
        if let Err(why) = self.capture() {
            self.serving = false;
            error!("the services cannot be taken: {why}");
            return;
        }
        self.join_and_announce();
        info!("ready");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Makes this host the one that has the PIPs on the link, and once it serves the VIPs too: remote sites are checked from
    /// the PIPs, and their answers must find the way from the first round on.
    fn join_and_announce(&mut self) {
        let services = self.world.services.load_full();
        let vips = services.vips().filter(|_| self.serving).map(|(addr, family)| addr.to_ip(*family));
        let pips = services.pips().filter(|(_, pip)| !pip.host_owned).map(|((addr, family), _)| addr.to_ip(*family));
        let addresses: Vec<IpAddr> = vips.chain(pips).collect();
        let leaving: Vec<IpAddr> = services.leaving_addresses().map(|(addr, family)| addr.to_ip(*family)).collect();
        let v6: Vec<_> = addresses
            .iter()
            .chain(&leaving)
            .filter_map(|ip| match ip {
                IpAddr::V6(ip) => Some(*ip),
                IpAddr::V4(_) => None,
            })
            .collect();
        self.solicited.clear();
        if !v6.is_empty() {
            for name in &self.config.datapath.interfaces {
                match SolicitedNodes::join(name, &v6) {
                    Ok(joined) => self.solicited.push(joined),
                    Err(why) => warn!("interface {name}: neighbor solicitations may not arrive: {why}"),
                }
            }
        }
        // Whoever has a leaving address next may announce it for itself.
        self.announcer.forget(&leaving);
        self.announcer.announce(&addresses, Instant::now());
    }

    /// Warns, once each time, when a remote site's PIP ports are nearly all lent.
    fn watch_ports(&mut self) {
        let services = self.world.services.load();
        let remotes =
            services.services().iter().flat_map(|service| service.remotes.iter().map(|r| (r, service.family)));
        let pools = remotes.flat_map(|(remote, family)| {
            remote.pools.iter().map(move |(pip, pool)| (remote, pip.to_ip(family), *pool))
        });
        let mut low = Vec::new();
        for (remote, pip, pool) in pools {
            let headroom = self.world.shared.ledger.headroom(pool);
            if !headroom.is_low() {
                continue;
            }
            if !self.low.contains(&pool) {
                let (lent, total) = (headroom.total - headroom.free, headroom.total);
                warn!(
                    "{}: {lent} of {total} ports of {pip} are lent (over 90 %); add an address to [proxy]",
                    remote.name
                );
            }
            low.push(pool);
        }
        self.low = low;
    }

    /// Reads the file again and makes it so. What changed; or why nothing did.
    pub fn reload(&mut self) -> Result<String, String> {
        let config = config::file::load(&self.path).map_err(|errors| errors.to_string())?;
        preflight::host(&config)?;
        let mut changes = config::diff::diff(&self.config, &config).map_err(|refused| refused.join("\n"))?;
        if self.probe_device.is_none() && needs_doors(&config) {
            return Err(
                "the first remote site, or the first service in direct or tunnel mode, cannot come while farside \
                        runs, since the interface by which they are checked is made at the start: restart it"
                    .into(),
            );
        }
        let prepared = match &mut self.names {
            Some(names) => names.prepare(&config)?,
            None => None,
        };
        let linked = self.sites.prepare(&config)?;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        let outcome = self.adopt(config, prepared, linked);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        changes.extend(outcome?);
        Ok(super::in_words(&changes))
    }

    /// All of it, zones too, or nothing. What of the zones' files has changed, in words.
    fn adopt(
        &mut self,
        config: Config,
        prepared: Option<Prepared>,
        linked: sites::Prepared,
    ) -> Result<Vec<String>, String> {
        let shared = self.world.shared.clone();
        let host = OwnHost { fib: self.world.fib.load_full(), reserve: &mut self.reserve };
        let (mut services, probes) = build(&config, &mut self.registry, &shared.status, &shared.ledger, host)?;
        self.leaving.follow(&self.world.services.load(), &mut services);
        self.world.services.store(Arc::new(services));
        let captured = self.capture();
        self.world.timeouts.store(Arc::new(Timeouts::from(&config.timeouts)));
        self.config = config;
        shared.ledger.set_rest(self.rest());
        self.check_targets(&probes);
        self.join_and_announce();
        let zones = match (&mut self.names, prepared) {
            (Some(names), Some(prepared)) => names.adopt(&self.config, prepared, Instant::now()),
            _ => Vec::new(),
        };
        self.sites.adopt(&self.config, linked, self.names.as_ref().map(Names::sites));
        captured.map(|()| zones)
    }

    /// Starts or ends draining `name` (`service/name`).
    pub fn drain(&mut self, name: &str, on: bool) -> Result<String, String> {
        let services = self.world.services.load();
        let targets = services.services().iter().flat_map(|service| service.reals.iter().chain(&service.remotes));
        let targets: Vec<&Target> = targets.collect();
        let Some(target) = targets.iter().find(|target| target.name == name) else {
            if let Some(done) = self.names.as_mut().and_then(|names| names.drain(name, on)) {
                return Ok(done);
            }
            let known: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
            return Err(format!("there is no target {name}; there are: {}", known.join(", ")));
        };
        let slot = self.world.shared.status.slot(target.slot);
        slot.set_drained(on);
        let active = slot.active();
        Ok(if on {
            format!("{name} takes no new connections; {active} run on")
        } else {
            format!("{name} takes new connections again")
        })
    }
}

impl Daemon for Control {
    fn register(&mut self, registry: &mio::Registry) -> Result<(), String> {
        let waker = mio::Waker::new(registry, Token(ASKED)).map_err(|why| broken("the workers' queue", why))?;
        let waker = Arc::new(waker);
        self.world.shared.resolve.set_waker(waker.clone());
        self.sites.set_waker(waker);
        self.netlink.register(registry, Token(NETLINK)).map_err(|why| broken("netlink", why))?;
        self.health.register(registry, HEALTH).map_err(|why| broken("health", why))?;
        match &mut self.names {
            Some(names) => names.register(registry, NAMES).map_err(|why| broken("DNS", why)),
            None => Ok(()),
        }
    }

    fn ready(&mut self, token: usize, now: Instant) {
        match token {
            token if token >= NAMES => {
                if let Some(names) = &mut self.names {
                    names.ready(token, now);
                }
            }
            token if token >= HEALTH => _ = self.health.ready(token, now),
            token if token >= NETLINK => self.netlink.ready(now),
            _ => {}
        }
    }

    fn next_deadline(&self) -> Instant {
        let others = [
            self.health.next_deadline(),
            self.names.as_ref().and_then(Names::next_deadline),
            self.announcer.next_deadline(),
            self.closing.next_deadline(),
            self.backend.next_deadline(),
            Some(self.looked + LOOK),
        ];
        others.into_iter().flatten().fold(self.netlink.next_deadline(), Instant::min)
    }

    fn tick(&mut self, now: Instant) {
        if self.netlink.tick(now) {
            self.renew_interfaces();
        }
        let (fib, services) = (self.world.fib.load(), self.world.services.load());
        self.backend.tick(&mut self.programs, &fib, &self.config.datapath.interfaces);
        self.kernel.follow(&mut self.programs, &fib, &services, self.config.datapath.interfaces.len());
        self.health.tick(now);
        self.closing.add(self.health.closed(), now);
        self.closing.tick(&self.world, now);
        for change in self.health.transitions() {
            self.tell(&change);
        }
        self.follow_sites(now);
        self.follow_names(now);
        let known = self.health.first_round_done() && self.names.as_ref().is_none_or(Names::first_round_done);
        if !self.serving && known {
            self.take_traffic();
        }
        self.announcer.tick(&self.world.fib.load(), now);
        if now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            self.watch_ports();
            self.let_go();
            self.watch_forwarding();
            self.forget_clients();
        }
    }

    fn stop(mut self) {
        if let Some(names) = &mut self.names {
            names.stop();
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.world.stop.store(true, Relaxed);
        for (_, waker) in &self.workers {
            waker.wake();
        }
        for (thread, _) in self.workers.drain(..) {
            let _ = thread.join();
        }
        info!("stopped");
    }
}

/// Of packets that came in, among counts by name.
fn count_packets(counts: &BTreeMap<String, u64>) -> u64 {
    super::sites::ARRIVALS.iter().filter_map(|name| counts.get(*name)).sum()
}

/// What the kernel programs capture.
fn captured(services: &ServiceMap, leaving: &Leaving) -> Vec<(IpAddr, u16, u8)> {
    let configured = services.services().iter().map(|service| (service.vip, service.family, service.protocol));
    let all = configured.chain(leaving.services().copied());
    all.map(|(vip, family, protocol)| (vip.addr.to_ip(family), vip.port, protocol)).collect()
}

fn pips(services: &ServiceMap, leaving: &Leaving) -> Vec<(IpAddr, std::ops::RangeInclusive<u16>, bool)> {
    let configured = services.pips().map(|(key, pip)| (key, leaving.ports(&key.0, key.1, pip), pip));
    let all = configured.chain(services.leaving_pips().map(|(key, pip)| (key, pip.ports.clone(), pip)));
    all.map(|((addr, family), ports, pip)| (addr.to_ip(*family), ports, pip.host_owned)).collect()
}

/// Is anything checked through the data path?
fn needs_doors(config: &Config) -> bool {
    config.services.iter().any(|service| !service.remotes.is_empty() || has_doors(service))
}
