//! Keeps [`Fib`] and [`HopTable`] as the kernel has its interfaces, addresses, routes and neighbours.
//!
//! Two speeds. Neighbours are followed event by event, because a new MAC or a lost neighbour must take effect at once; it
//! does, by one store into the hop table. All else makes a new snapshot: an event marks the picture as stale, the tables
//! are read anew (`sync`), and a snapshot is published if anything differs. Both are limited (see [`PUBLISH_EVERY`] and
//! `Netlink::sync_gap`), so that a flapping link or a routing daemon at work cannot eat the control thread.
//!
//! Also read anew: after lost events (ENOBUFS), and every minute in case a change came without an event.
//! Policy routing rules are followed where they go by addresses only; others are reported. VRFs and MPLS are not followed.

mod host;
#[cfg(test)]
pub(crate) mod lab;
mod neighbors;
mod socket;
mod sync;
mod world;

pub use host::{host_addresses, host_interfaces, local_port_range};

use crate::route::{Fib, Hop, HopTable, Neighbor, PortInfo, ResolveQueue, Routes, TAP_HOP};
use arc_swap::ArcSwap;
use hashbrown::{HashMap, HashSet};
use neighbors::Neighbors;
use socket::{Events, Requests};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sync::{Sync, World};
use world::Link;

/// Snapshots are published at most this often; the epoch of [`Fib`] depends on it.
pub const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// How often everything is read anew without a reason.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// After a reading that failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How much may wait unread at the event socket; more is lost and read anew.
const EVENT_BYTES: usize = 1 << 20;
/// Datagrams handled in one go.
const EVENT_SLICE: usize = 256;
const MAX_PORTS: usize = 250;

/// Why routes cannot be followed, as a sentence for the operator.
#[derive(Debug)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl Error {
    fn io(what: &str) -> impl FnOnce(io::Error) -> Error {
        move |error| Error(format!("{what}: {error}"))
    }
}

/// The control side. Call [`Netlink::ready`] when its token is readable and [`Netlink::tick`] after every wake-up of the
/// loop, at the latest at [`Netlink::next_deadline`].
pub struct Netlink {
    /// farside's interfaces in order, then the health checks' device if there is one.
    names: Vec<String>,
    /// Place of the health checks' device in `names`.
    tap: Option<u8>,
    hops: Arc<HopTable>,
    fib: Arc<ArcSwap<Fib>>,
    asks: Arc<ResolveQueue>,
    events: Events,
    requests: Requests,
    neighbors: Neighbors,

    ports: Arc<[PortInfo]>,
    routes: Arc<Routes>,
    host: Arc<HashSet<IpAddr>>,
    /// Interface index -> port, the health checks' device not included.
    port_of: HashMap<u32, u8>,

    opened: Instant,
    sync: Option<Sync>,
    /// Neighbours heard of since the reading began; what it says of them may be older.
    heard: HashSet<Neighbor>,
    stale: bool,
    stale_neighbors: bool,
    /// The picture differs from the published snapshot.
    differs: bool,
    sync_after: Instant,
    publish_after: Instant,
    look_again_at: Instant,
    round_at: Instant,
    /// The kernel's refusal to resolve is not reported again before.
    silent_until: Instant,
    /// Events still wait, though the socket will not be reported again.
    more_events: bool,
    warned_unread: bool,
    /// Rules that are not followed, as told last.
    strange_rules: usize,
    losses: u64,
}

impl Netlink {
    /// Reads the kernel's state and publishes the first snapshot. Ports are numbered as in `interfaces`; `tap` is the
    /// health checks' device, which comes last and need not exist yet.
    ///
    /// # Errors
    /// An interface does not exist or has no MAC address, there are too many, or the kernel refuses.
    pub fn new(
        interfaces: &[String],
        tap: Option<&str>,
        hops: Arc<HopTable>,
        fib: Arc<ArcSwap<Fib>>,
        asks: Arc<ResolveQueue>,
        now: Instant,
    ) -> Result<Netlink, Error> {
        Self::with_event_bytes(interfaces, tap, hops, fib, asks, now, EVENT_BYTES)
    }

    fn with_event_bytes(
        interfaces: &[String],
        tap: Option<&str>,
        hops: Arc<HopTable>,
        fib: Arc<ArcSwap<Fib>>,
        asks: Arc<ResolveQueue>,
        now: Instant,
        event_bytes: usize,
    ) -> Result<Netlink, Error> {
        if interfaces.len() > MAX_PORTS {
            return Err(Error(format!("{} interfaces are too many: at most {MAX_PORTS}", interfaces.len())));
        }
        // Events first: what changes while the tables are read must not be missed.
        let events = Events::open(event_bytes).map_err(Error::io("cannot listen for changes of routes (netlink)"))?;
        let requests = Requests::open().map_err(Error::io("cannot ask for routes (netlink)"))?;
        let names: Vec<String> = interfaces.iter().map(String::as_str).chain(tap).map(String::from).collect();
        let mut netlink = Netlink {
            tap: tap.map(|_| interfaces.len() as u8),
            neighbors: Neighbors::new(hops.clone(), names.len()),
            names,
            hops,
            fib,
            asks,
            events,
            requests,
            ports: Arc::new([]),
            routes: Arc::default(),
            host: Arc::default(),
            port_of: HashMap::new(),
            opened: now,
            sync: None,
            heard: HashSet::new(),
            stale: true,
            stale_neighbors: true,
            differs: true,
            sync_after: now,
            publish_after: now,
            look_again_at: now + LOOK_AGAIN,
            round_at: now,
            silent_until: now,
            more_events: false,
            warned_unread: false,
            strange_rules: 0,
            losses: 0,
        };
        netlink.first_sync(now)?;
        netlink.tick(now);
        Ok(netlink)
    }

    fn first_sync(&mut self, now: Instant) -> Result<(), Error> {
        let read = Error::io("cannot read the kernel's routes (netlink)");
        let world = (|| {
            let mut sync = Sync::start(&mut self.requests, true, now)?;
            loop {
                if let Some(world) = sync.advance(&mut self.requests, world::owners(&self.names, self.tap))? {
                    return Ok(world);
                }
            }
        })()
        .map_err(read)?;
        self.stale = false;
        self.stale_neighbors = false;
        self.check_interfaces(&world.links)?;
        self.install(world, now);
        Ok(())
    }

    /// farside's interfaces must be there at start, and be Ethernet. Later they may go and come back.
    fn check_interfaces(&self, links: &[Link]) -> Result<(), Error> {
        let count = self.tap.map_or(self.names.len(), usize::from);
        for name in &self.names[..count] {
            let Some(link) = links.iter().find(|link| link.name == *name) else {
                let known: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
                return Err(Error(format!("interface {name} does not exist; this host has {}", known.join(", "))));
            };
            if link.kind != libc::ARPHRD_ETHER || link.mac.is_none() {
                return Err(Error(format!("interface {name} is not Ethernet: it has no MAC address to send from")));
            }
        }
        Ok(())
    }

    /// Readiness of `token` means [`Netlink::ready`].
    ///
    /// # Errors
    /// As the registry's.
    pub fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut self.events.socket, token, mio::Interest::READABLE)
    }

    /// Takes what the kernel has told since.
    pub fn ready(&mut self, now: Instant) {
        self.more_events = true;
        for _ in 0..EVENT_SLICE {
            match self.events.receive() {
                Ok(bytes) => {
                    let mut rows = Vec::new();
                    let mut links = Vec::new();
                    for raw in socket::messages(bytes) {
                        match raw.kind {
                            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                                if let Some(mut row) = world::neighbor(raw.payload) {
                                    row.mac = row.mac.filter(|_| raw.kind == libc::RTM_NEWNEIGH);
                                    rows.push(row);
                                }
                            }
                            libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                                if let Some(link) = world::link(raw.payload) {
                                    links.push((link.ifindex, link.up && raw.kind == libc::RTM_NEWLINK));
                                }
                            }
                            _ => self.stale = true,
                        }
                    }
                    for row in rows {
                        self.neighbor_event(row, now);
                    }
                    for (ifindex, up) in links {
                        self.link_event(ifindex, up);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.more_events = false;
                    return;
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.losses += 1;
                    tracing::info!("the kernel's notifications came too fast: reading all tables anew");
                    self.stale = true;
                    self.stale_neighbors = true;
                }
                Err(error) => {
                    tracing::warn!("cannot read the kernel's notifications: {error}");
                    self.stale = true;
                    self.stale_neighbors = true;
                    self.more_events = false;
                    return;
                }
            }
        }
    }

    fn neighbor_event(&mut self, row: world::NeighborRow, now: Instant) {
        let Some(&port) = self.port_of.get(&row.ifindex) else { return };
        let neighbor = Neighbor::new(port, row.ip);
        if self.sync.is_some() {
            self.heard.insert(neighbor);
        }
        self.neighbors.learn(neighbor, row.mac, row.fixed, now);
    }

    /// A link that goes down takes effect here, at once; the rest by reading anew.
    fn link_event(&mut self, ifindex: u32, up: bool) {
        self.stale = true;
        if let Some(&port) = self.port_of.get(&ifindex)
            && !up
        {
            self.neighbors.set_port_up(port, false);
        }
    }

    /// Does what is due. True: a snapshot was published that differs in interfaces, addresses or routes, so whatever
    /// depends on those should be looked at again.
    pub fn tick(&mut self, now: Instant) -> bool {
        if self.more_events {
            self.ready(now);
        }
        self.serve_asks(now);
        if now >= self.look_again_at {
            self.look_again_at = now + LOOK_AGAIN;
            self.stale = true;
            self.stale_neighbors = true;
        }
        self.advance_sync(now);
        if now >= self.round_at {
            self.round_at = now + neighbors::ROUND;
            let mut due = self.neighbors.unconfirmed(now);
            due.extend(self.neighbors.lost_gateways());
            self.resolve(&due, now);
        }
        if self.neighbors.starved && self.sync.is_none() {
            self.neighbors.starved = false;
            self.stale = true;
            self.stale_neighbors = true;
            self.sync_after = self.sync_after.max(now + TRY_AGAIN);
        }
        self.publish(now)
    }

    /// When [`Netlink::tick`] is due at the latest.
    pub fn next_deadline(&self) -> Instant {
        let mut at = self.look_again_at.min(self.round_at);
        if self.more_events || self.sync.is_some() {
            return self.opened; // long past: go on at once
        }
        if self.stale {
            at = at.min(self.sync_after);
        }
        if self.wants_publishing() {
            at = at.min(self.publish_after);
        }
        at
    }

    fn serve_asks(&mut self, now: Instant) {
        self.asks.listen();
        let mut wanted = Vec::new();
        while let Some(neighbor) = self.asks.take() {
            if self.neighbors.want(neighbor, now) {
                wanted.push(neighbor);
            }
        }
        self.resolve(&wanted, now);
    }

    fn resolve(&mut self, neighbors: &[Neighbor], now: Instant) {
        let list: Vec<(u32, IpAddr)> = neighbors
            .iter()
            .filter_map(|neighbor| {
                let ifindex = self.ports.get(neighbor.port as usize)?.ifindex;
                (ifindex != 0).then_some((ifindex, neighbor.ip()))
            })
            .collect();
        if list.is_empty() {
            return;
        }
        let mut result = self.requests.resolve(&list);
        if result.is_ok() && self.sync.is_none() {
            result = self.requests.refusal();
        }
        if let Err(error) = result
            && now >= self.silent_until
        {
            self.silent_until = now + LOOK_AGAIN;
            let full = error.raw_os_error() == Some(libc::ENOBUFS);
            let hint = if full { " (its table is full: see net.ipv4.neigh.default.gc_thresh3)" } else { "" };
            tracing::warn!("the kernel does not resolve a neighbour: {error}{hint}");
        }
    }

    fn advance_sync(&mut self, now: Instant) {
        if self.sync.is_none() && self.stale && now >= self.sync_after {
            match Sync::start(&mut self.requests, self.stale_neighbors, now) {
                Ok(sync) => {
                    self.sync = Some(sync);
                    self.stale = false;
                    self.stale_neighbors = false;
                    self.heard.clear();
                }
                Err(error) => self.sync_failed(&error, now),
            }
        }
        let Some(sync) = &mut self.sync else { return };
        match sync.advance(&mut self.requests, world::owners(&self.names, self.tap)) {
            Ok(None) => {}
            Ok(Some(world)) => {
                let started = sync.started;
                self.sync = None;
                self.install(world, now);
                self.sync_after = now + Self::sync_gap(now.duration_since(started));
            }
            Err(error) => self.sync_failed(&error, now),
        }
    }

    /// Reading may take a tenth of the time: the pause after a reading is ten times its length.
    fn sync_gap(took: Duration) -> Duration {
        PUBLISH_EVERY.max(took * 10)
    }

    fn sync_failed(&mut self, error: &io::Error, now: Instant) {
        tracing::warn!("cannot read the kernel's tables, will try again: {error}");
        self.sync = None;
        self.stale = true;
        self.stale_neighbors = true;
        self.sync_after = now + TRY_AGAIN;
    }

    /// Takes over what was read.
    fn install(&mut self, world: World, now: Instant) {
        if (world.unread > 0 || world.cut) && !self.warned_unread {
            self.warned_unread = true;
            tracing::warn!("{} kernel messages were not understood; too many routes: {}", world.unread, world.cut);
        }
        let ports: Vec<PortInfo> =
            self.names.iter().map(|name| world::port_info(name, &world.links, &world.addresses)).collect();
        let mut port_of = HashMap::new();
        for (i, port) in ports.iter().enumerate() {
            let before = self.ports.get(i);
            if before.is_some_and(|before| before.ifindex != port.ifindex) {
                tracing::info!(
                    "interface {} is {}",
                    port.name,
                    if port.ifindex == 0 { "gone" } else { "another one now" }
                );
                self.neighbors.lose_port(i as u8);
                // Its neighbours were told of before the index was known here.
                if world.neighbors.is_none() {
                    self.stale_neighbors = true;
                    self.stale = true;
                }
                self.round_at = now;
            } else if before.is_some_and(|before| before.up != port.up) {
                tracing::info!("interface {} is {}", port.name, if port.up { "up" } else { "down" });
                self.round_at = now;
            }
            if Some(i as u8) == self.tap {
                self.set_tap(i as u8, port);
            } else {
                self.neighbors.set_port(i as u8, port.up, port.mtu);
                if port.ifindex != 0 {
                    port_of.insert(port.ifindex, i as u8);
                }
            }
        }
        self.port_of = port_of;
        if *self.ports != *ports {
            self.ports = ports.into();
            self.differs = true;
        }
        if world.strange_rules > self.strange_rules {
            tracing::warn!(
                "{} policy routing rules (ip rule) are not followed: farside knows those by source and destination address",
                world.strange_rules
            );
        }
        self.strange_rules = world.strange_rules;
        if self.routes.as_given() != world.routes || self.routes.rules_as_given() != world.rules {
            self.neighbors.set_gateways(neighbors::gateways(&world.routes));
            self.routes = Arc::new(Routes::by_rules(world.routes, world.rules));
            self.differs = true;
            self.round_at = now;
        }
        let host: HashSet<IpAddr> = world.addresses.iter().map(|address| address.ip).collect();
        if *self.host != host {
            self.host = Arc::new(host);
            self.differs = true;
        }
        if let Some(rows) = world.neighbors {
            let known = rows.into_iter().filter_map(|row| {
                let port = *self.port_of.get(&row.ifindex)?;
                Some((Neighbor::new(port, row.ip), (row.mac?, row.fixed)))
            });
            let known = known.collect();
            self.neighbors.learn_all(&known, |neighbor| self.heard.contains(neighbor), now);
        }
        self.heard.clear();
    }

    fn set_tap(&self, tap: u8, port: &PortInfo) {
        if port.up {
            self.hops.set(TAP_HOP, Hop { mac: port.mac, port: tap, mtu: port.mtu });
        } else {
            self.hops.clear(TAP_HOP);
        }
    }

    fn wants_publishing(&self) -> bool {
        self.differs || self.neighbors.changed || self.neighbors.revoked
    }

    fn publish(&mut self, now: Instant) -> bool {
        if !self.wants_publishing() || now < self.publish_after {
            return false;
        }
        let differs = std::mem::take(&mut self.differs);
        let epoch = self.fib.load().epoch().wrapping_add((differs || self.neighbors.revoked) as u8);
        let names = self.neighbors.names(now);
        let (ports, routes, host) = (self.ports.clone(), self.routes.clone(), self.host.clone());
        self.fib.store(Arc::new(Fib::assemble(epoch, ports, routes, names, host, self.hops.clone())));
        self.publish_after = now + PUBLISH_EVERY;
        differs
    }

    /// The interfaces as published last or about to be: farside's in order, then the health checks' device.
    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    /// How often notifications were lost and everything was read anew.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// Every neighbour that has a hop id, with its MAC if that is known.
    pub fn neighbors(&self) -> impl Iterator<Item = (Neighbor, crate::route::HopId, Option<[u8; 6]>)> + '_ {
        self.neighbors.iter()
    }
}

#[cfg(test)]
mod tests;
