//! Where a packet leaves: routes and next hops. Two things with different tempers:
//!
//! - [`Fib`], an immutable snapshot of interfaces, routes and the names of next hops, behind one pointer that workers
//!   follow once per burst. It answers "by which next hop to this address" at a connection's first packet.
//! - [`HopTable`], one word per next hop that control rewrites in place when the neighbour's MAC changes or the neighbour
//!   goes away. It answers "which MAC, which interface" for every packet.
//!
//! A flow keeps the [`HopId`]s it was given and the snapshot's epoch beside them. While the epochs are equal the ids are
//! good and [`Fib::hop`] is all that a packet costs; when they differ, or the hop has no MAC at present, the flow is looked
//! up again by [`Fib::lookup`]. The epoch moves when a lookup may answer otherwise than before: a route, an address or an
//! interface changed, or a hop id was taken from a forgotten neighbour. It does not move when a neighbour is added or
//! changes its MAC. Control publishes at most ten times a second, so the 8 bits come round after 25 seconds at the
//! soonest; whoever keeps an id must have looked at its epoch within that time.

mod build;
mod hops;
mod lpm;

pub use build::{Builder, Prefix};
pub use hops::{Hop, HopId, HopTable, MAX_HOPS, NO_HOP, ResolveQueue, TAP_HOP};
pub use lpm::{MAX_WAYS, Route, Routes, Rule, Table, Target, Way};

use crate::wire::ip::{Addr, V4, V6};
use hashbrown::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// One IP address on the link of one port: the machine at the other end of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Neighbor {
    pub port: u8,
    /// Of `addr`; 4 or 6. It need not be the packet's: an IPv4 route may have an IPv6 gateway.
    pub family: u8,
    pub addr: Addr,
}

impl Neighbor {
    pub fn new(port: u8, ip: IpAddr) -> Neighbor {
        Neighbor { port, family: crate::wire::ip::family_of(ip), addr: ip.into() }
    }

    pub fn ip(&self) -> IpAddr {
        self.addr.to_ip(self.family)
    }
}

impl std::fmt::Debug for Neighbor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on port {}", self.ip(), self.port)
    }
}

/// What a lookup says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it there. [`Fib::hop`] has the MAC, unless the neighbour was lost in this very moment.
    Hop(HopId),
    /// The way is known but the neighbour's MAC is not (yet, or no longer): hold the packet and put this into the
    /// [`ResolveQueue`].
    Resolve(Neighbor),
    /// No route, a blackhole, a broadcast or multicast address, or a route by an interface that is not farside's.
    NoRoute,
    /// The host's own address.
    Local,
}

/// An interface of `[datapath] interfaces`; its number is its place there. The device through which health checks enter
/// the data path, if there is one, comes last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortInfo {
    pub name: String,
    /// The kernel's number of it, 0 while there is no interface of this name.
    pub ifindex: u32,
    /// What frames sent by this port have as their source.
    pub mac: [u8; 6],
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// Switched on and has a carrier.
    pub up: bool,
    /// The interface's addresses, best first: the one to speak from is the first of its family.
    pub addresses: Vec<IpAddr>,
}

/// An immutable snapshot of the host's interfaces, routes and neighbours. Lookups neither allocate nor lock nor panic.
#[derive(Clone)]
pub struct Fib {
    epoch: u8,
    ports: Arc<[PortInfo]>,
    routes: Arc<Routes>,
    neighbors: HashMap<Neighbor, HopId>,
    host: Arc<HashSet<IpAddr>>,
    hops: Arc<HopTable>,
    /// Of each port: see [`Fib::source`], IPv4 first.
    sources: Arc<[[Option<Addr>; 2]]>,
}

impl Fib {
    /// A snapshot without interfaces or routes, for the time before the first one.
    pub fn empty(hops: Arc<HopTable>) -> Fib {
        Fib {
            epoch: 0,
            ports: Arc::new([]),
            routes: Arc::default(),
            neighbors: HashMap::new(),
            host: Arc::default(),
            hops,
            sources: Arc::new([]),
        }
    }

    /// A snapshot made by hand: tests, `replay`.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn assemble(
        epoch: u8,
        ports: Arc<[PortInfo]>,
        routes: Arc<Routes>,
        neighbors: HashMap<Neighbor, HopId>,
        host: Arc<HashSet<IpAddr>>,
        hops: Arc<HopTable>,
    ) -> Fib {
        let sources = (0..ports.len()).map(|port| [V4, V6].map(|family| source(&ports, port, family))).collect();
        Fib { epoch, ports, routes, neighbors, host, hops, sources }
    }

    pub fn epoch(&self) -> u8 {
        self.epoch
    }

    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    pub fn port(&self, port: u8) -> Option<&PortInfo> {
        self.ports.get(port as usize)
    }

    pub fn hops(&self) -> &Arc<HopTable> {
        &self.hops
    }

    /// MAC, port and MTU of a next hop; None: not resolved at present (look up again).
    #[inline]
    pub fn hop(&self, id: HopId) -> Option<Hop> {
        self.hops.get(id)
    }

    /// The next hop of a packet from `src` toward `dst`. As the kernel does it: the tables that policy rules name, one after
    /// the other, which without any are the local and the main table; there the longest prefix, then the lowest metric;
    /// among several ways of one route `flow_hash` chooses, by weight. What is addressed to the
    /// host's address on the health checks' device goes there ([`TAP_HOP`]) instead of being `Local`.
    /// `family` is that of `dst` and of `src`, which is all zero where it is not known: rules for some sources are not for it.
    pub fn lookup(&self, src: &Addr, dst: &Addr, family: u8, flow_hash: u64) -> Step {
        let way = match self.routes.find(src, dst, family) {
            None | Some(Target::NoRoute | Target::Throw) => return Step::NoRoute,
            Some(Target::Local) => return Step::Local,
            Some(Target::Tap) => return Step::Hop(TAP_HOP),
            Some(Target::Ways(ways)) => match lpm::choose(ways, flow_hash) {
                Some(way) => way,
                None => return Step::NoRoute,
            },
        };
        let neighbor = match way.gateway {
            Some((family, addr)) => Neighbor { port: way.port, family, addr },
            None => Neighbor { port: way.port, family, addr: *dst },
        };
        match self.neighbors.get(&neighbor) {
            Some(&id) if self.hops.is_valid(id) => Step::Hop(id),
            _ => Step::Resolve(neighbor),
        }
    }

    /// The next hop of all packets toward `dst`, whatever their source and their flow. None: there is none at present, or it depends.
    pub fn lookup_plain(&self, dst: &Addr, family: u8) -> Option<HopId> {
        let nobody = Addr::default();
        if self.routes.look_at_sources(family) {
            return None;
        }
        match self.routes.find(&nobody, dst, family) {
            Some(Target::Ways(ways)) if ways.len() == 1 => match self.lookup(&nobody, dst, family, 0) {
                Step::Hop(id) => Some(id),
                _ => None,
            },
            _ => None,
        }
    }

    /// Is the next hop from `src` toward `dst` the machine that has `dst`, with no gateway between?
    pub fn is_on_link(&self, src: &Addr, dst: &Addr, family: u8, flow_hash: u64) -> bool {
        let Some(Target::Ways(ways)) = self.routes.find(src, dst, family) else { return false };
        lpm::choose(ways, flow_hash).is_some_and(|way| way.gateway.is_none_or(|gateway| gateway == (family, *dst)))
    }

    /// The source of packets that the host itself encapsulates and sends by `port`: the port's own address, or where it has none
    /// that is good beyond its link, another port's. None: no port has one.
    pub fn source(&self, port: u8, family: u8) -> Option<Addr> {
        self.sources.get(usize::from(port))?[usize::from(family == V6)]
    }

    /// The port by which the host reaches `ip`, or has it: of the connected network it lies in, else of the route toward it.
    pub fn port_toward(&self, ip: IpAddr) -> Option<u8> {
        if let Some(port) = self.ports.iter().position(|p| p.addresses.contains(&ip)) {
            return Some(port as u8);
        }
        let family = crate::wire::ip::family_of(ip);
        match self.routes.find(&Addr::default(), &ip.into(), family) {
            Some(Target::Ways(ways)) => lpm::choose(ways, 0).map(|way| way.port),
            _ => None,
        }
    }

    /// Is it an address of the host, on whichever interface?
    pub fn host_owns(&self, addr: &Addr, family: u8) -> bool {
        self.host.contains(&addr.to_ip(family))
    }

    /// The address to speak from at this port (an ICMP error's source); None: the port has none of this family.
    pub fn port_address(&self, port: u8, family: u8) -> Option<Addr> {
        let addresses = &self.ports.get(port as usize)?.addresses;
        addresses.iter().find(|ip| ip.is_ipv6() == (family == V6)).map(|ip| (*ip).into())
    }
}

fn source(ports: &[PortInfo], port: usize, family: u8) -> Option<Addr> {
    let own = ports[port].addresses.iter();
    let good = |ip: &&IpAddr| {
        crate::wire::ip::family_of(**ip) == family && !ip.is_loopback() && !Addr::from(**ip).is_link_local(family)
    };
    own.chain(ports.iter().flat_map(|port| &port.addresses)).find(good).map(|ip| Addr::from(*ip))
}

impl std::fmt::Debug for Fib {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fib")
            .field("epoch", &self.epoch)
            .field("ports", &self.ports)
            .field("routes", &self.routes.len())
            .field("neighbors", &self.neighbors.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
