//! Services, their real servers and remote sites: an immutable snapshot that workers follow by one pointer per burst.
//! What changes from moment to moment (status, live counts) stands in [`status`], beside the snapshot, so that a
//! reload keeps it.

pub mod build;
pub mod doors;
pub mod evidence;
pub mod leaving;
mod order;
pub mod persistence;
pub mod pick;
pub mod registry;
pub mod status;

use crate::config::{OnDown, Overflow, Scheduler};
use crate::flow::{Encapsulation, HashKey, Mode, PoolId, Tick};
use crate::wire::ip::{Addr, Endpoint};
use hashbrown::{HashMap, HashSet};
use pick::Picker;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Everything that farside serves.
#[derive(Clone, Default)]
pub struct ServiceMap {
    services: Arc<[Service]>,
    by_vip: HashMap<(Endpoint, u8, u8), usize>,
    vips: HashSet<(Addr, u8)>,
    pips: HashMap<(Addr, u8), Pip>,
    peers: HashSet<(Addr, u8)>,
    /// Real servers in NAT mode.
    answering: HashSet<(Addr, u8)>,
    /// Addresses of the probe interface, each standing for one target of one service: see [`ServiceMap::probe`].
    probes: HashMap<(Endpoint, u8, u8), Behind>,
    doors: HashSet<(Addr, u8)>,
    leaving: Gone,
    known: Known,
    pub tunnels: Tunnels,
}

/// Addresses about which there may be something to know: VIPs, PIPs and peers, those that are leaving too. A bit each, so that of most
/// others one look tells that they are none of these.
#[derive(Clone)]
struct Known([u64; KNOWN / 64]);

/// A power of two.
const KNOWN: usize = 4096;

impl Default for Known {
    fn default() -> Known {
        Known([0; KNOWN / 64])
    }
}

impl Known {
    #[inline]
    fn bit(addr: &Addr) -> usize {
        let [a, b, c, d] = addr.0;
        ((a ^ b ^ c ^ d).wrapping_mul(0x9e37_79b1) >> (32 - KNOWN.ilog2())) as usize
    }

    fn add<'a>(&mut self, addrs: impl IntoIterator<Item = &'a Addr>) {
        for addr in addrs {
            let bit = Known::bit(addr);
            self.0[bit / 64] |= 1 << (bit % 64);
        }
    }

    #[inline]
    fn may_have(&self, addr: &Addr) -> bool {
        let bit = Known::bit(addr);
        self.0[bit / 64] >> (bit % 64) & 1 != 0
    }
}

/// What is behind a door, by the numbers of the service and of the target there.
#[derive(Clone)]
enum Behind {
    Remote(usize, usize),
    /// A real server that has the VIP. The target is the same as its checks meet it: at the VIP.
    Real(usize, usize, Box<Target>),
}

/// How encapsulated packets leave.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    /// Their sources by family, IPv4 first; none: the address of the interface that they leave by.
    pub sources: [Vec<Addr>; 2],
    /// Destination port of encapsulations over UDP.
    pub gue_port: u16,
    /// Where tunnels lead: real servers in tunnel mode.
    pub ends: HashSet<(Addr, u8)>,
}

/// Configured no more, but connections on record still use it: see [`leaving`].
#[derive(Clone, Default)]
struct Gone {
    services: HashSet<(Endpoint, u8, u8)>,
    vips: HashSet<(Addr, u8)>,
    pips: HashMap<(Addr, u8), Pip>,
}

/// A virtual service: what is captured and where it goes.
pub struct Service {
    pub name: String,
    pub vip: Endpoint,
    pub family: u8,
    pub protocol: u8,
    /// How its real servers are reached.
    pub mode: Mode,
    /// Means something in tunnel mode only.
    pub encapsulation: Encapsulation,
    pub on_down: OnDown,
    /// Every datagram is scheduled afresh.
    pub per_packet: bool,
    pub reals: Vec<Target>,
    /// By priority, the lowest number first; equals stand side by side.
    pub remotes: Vec<Target>,
    pub picker: Picker,
    /// Of the count of its connections, [`status::StatusTable::service_active`].
    pub slot: u16,
    pub terms: Terms,
}

/// On which a service takes connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// 0: no limit.
    pub max_connections: u32,
    pub overflow: Overflow,
    /// For how long a client is remembered after its last connection; 0: not at all.
    pub persistence: Tick,
    /// How many bits of clients' addresses count.
    pub prefix: u8,
}

impl Default for Terms {
    /// Those of a service that says nothing about it.
    fn default() -> Terms {
        Terms { max_connections: 0, overflow: Overflow::Remote, persistence: 0, prefix: 128 }
    }
}

/// A real server or a remote site of a service.
#[derive(Clone, Debug)]
pub struct Target {
    /// `service/name`.
    pub name: String,
    /// Of its status word and counts, [`status::StatusTable::slot`].
    pub slot: u16,
    /// Which of the slot's targets it is, [`status::TargetSlot::life`].
    pub life: u32,
    pub endpoint: Endpoint,
    /// Of `endpoint`: the service's but in tunnel mode.
    pub family: u8,
    pub weight: u32,
    /// 0: no limit; always so for remote sites.
    pub max_connections: u32,
    /// Takes connections only when no other real server does.
    pub backup: bool,
    /// Remote sites: lowest first. 0 for real servers.
    pub priority: u32,
    /// Remote sites: the PIPs and the pools of ports that each lends towards it. Empty for real servers.
    pub pools: Vec<(Addr, PoolId)>,
    /// The same for its checks.
    pub probe_pools: Vec<(Addr, PoolId)>,
}

/// A proxy IP.
#[derive(Clone, Debug, PartialEq)]
pub struct Pip {
    /// What is lent, to connections and to checks.
    pub ports: RangeInclusive<u16>,
    /// The host owns the address too: ARP, ICMP echo and all ports outside `ports` are the host's.
    pub host_owned: bool,
}

impl ServiceMap {
    pub fn new(
        services: Vec<Service>,
        pips: impl IntoIterator<Item = ((Addr, u8), Pip)>,
        peers: impl IntoIterator<Item = (Addr, u8)>,
    ) -> ServiceMap {
        let by_vip = services.iter().enumerate().map(|(at, s)| ((s.vip, s.protocol, s.family), at)).collect();
        let vips: HashSet<_> = services.iter().map(|s| (s.vip.addr, s.family)).collect();
        let pips: HashMap<_, _> = pips.into_iter().collect();
        let peers: HashSet<_> = peers.into_iter().collect();
        let mut known = Known::default();
        known.add(vips.iter().chain(pips.keys()).chain(&peers).map(|(addr, _)| addr));
        let nat = services.iter().filter(|service| service.mode == Mode::Nat);
        let answering = nat.flat_map(|service| service.reals.iter().map(|real| (real.endpoint.addr, service.family)));
        ServiceMap {
            answering: answering.collect(),
            services: services.into(),
            by_vip,
            vips,
            pips,
            peers,
            known,
            ..ServiceMap::default()
        }
    }

    /// Lets connections to `door` go to remote site number `remote` of service number `service`, whatever its status: the
    /// way by which its health is checked.
    pub fn add_probe(&mut self, door: Endpoint, service: usize, remote: usize) {
        let Service { protocol, family, .. } = self.services[service];
        self.probes.insert((door, protocol, family), Behind::Remote(service, remote));
        self.doors.insert((door.addr, family));
    }

    /// The same for real server number `real`, which is met `at` the VIP, over `protocol`.
    pub fn add_real_probe(&mut self, door: Endpoint, protocol: u8, service: usize, real: usize, at: Target) {
        let family = self.services[service].family;
        self.probes.insert((door, protocol, family), Behind::Real(service, real, Box::new(at)));
        self.doors.insert((door.addr, family));
    }

    /// Lends ports of `pip`, too.
    pub fn add_pip(&mut self, pip: (Addr, u8), lent: Pip) {
        self.known.add([&pip.0]);
        self.pips.insert(pip, lent);
    }

    /// Is `addr` a door of the probe interface?
    pub fn is_door(&self, addr: &Addr, family: u8) -> bool {
        self.doors.contains(&(*addr, family))
    }

    pub fn services(&self) -> &[Service] {
        &self.services
    }

    pub fn find(&self, vip: &Endpoint, protocol: u8, family: u8) -> Option<&Service> {
        self.number(vip, protocol, family).map(|at| &self.services[at])
    }

    /// The place in [`ServiceMap::services`] of the service that [`ServiceMap::find`] gives.
    pub fn number(&self, vip: &Endpoint, protocol: u8, family: u8) -> Option<usize> {
        self.by_vip.get(&(*vip, protocol, family)).copied()
    }

    /// The service and the target behind a door of the probe interface, as checks meet it.
    pub fn probe(&self, door: &Endpoint, protocol: u8, family: u8) -> Option<(&Service, &Target)> {
        match self.probes.get(&(*door, protocol, family))? {
            Behind::Remote(service, remote) => {
                let service = &self.services[*service];
                Some((service, &service.remotes[*remote]))
            }
            Behind::Real(service, _, at) => Some((&self.services[*service], at)),
        }
    }

    /// The service and the real server behind a door, where it is by itself; None: there is none, or a remote site.
    pub fn behind(&self, door: &Endpoint, protocol: u8, family: u8) -> Option<(&Service, &Target)> {
        match self.probes.get(&(*door, protocol, family))? {
            Behind::Remote(..) => None,
            Behind::Real(service, real, _) => {
                let service = &self.services[*service];
                Some((service, &service.reals[*real]))
            }
        }
    }

    /// Do answers of this real server pass by here?
    pub fn answers(&self, addr: &Addr, family: u8) -> bool {
        self.answering.contains(&(*addr, family))
    }

    /// Every real server whose answers do.
    pub fn answering(&self) -> impl Iterator<Item = &(Addr, u8)> {
        self.answering.iter()
    }

    /// False: `addr`, of either family, is neither a VIP nor a PIP nor a peer's, and none that is leaving. Nearly all clients are told so,
    /// at the price of a look.
    #[inline]
    pub fn may_know(&self, addr: &Addr) -> bool {
        self.known.may_have(addr)
    }

    /// Of a service that is configured, or of one whose last connections still run.
    pub fn is_vip(&self, addr: &Addr, family: u8) -> bool {
        self.vips.contains(&(*addr, family)) || self.leaving.vips.contains(&(*addr, family))
    }

    /// A PIP that is configured, or whose last connections still run.
    pub fn pip(&self, addr: &Addr, family: u8) -> Option<&Pip> {
        self.configured_pip(addr, family).or_else(|| self.leaving.pips.get(&(*addr, family)))
    }

    pub fn configured_pip(&self, addr: &Addr, family: u8) -> Option<&Pip> {
        self.pips.get(&(*addr, family))
    }

    /// Is a service at `vip` configured no more, and captured only for the connections that it still has?
    pub fn is_leaving(&self, vip: &Endpoint, protocol: u8, family: u8) -> bool {
        self.leaving.services.contains(&(*vip, family, protocol))
    }

    /// What is captured for old connections only: (VIP and port, family, protocol), and PIPs.
    pub fn set_leaving(
        &mut self,
        services: impl IntoIterator<Item = (Endpoint, u8, u8)>,
        pips: impl IntoIterator<Item = ((Addr, u8), Pip)>,
    ) {
        let services: HashSet<_> = services.into_iter().collect();
        let vips = services.iter().map(|(vip, family, _)| (vip.addr, *family)).collect();
        self.leaving = Gone { services, vips, pips: pips.into_iter().collect() };
        self.known.add(self.leaving.vips.iter().chain(self.leaving.pips.keys()).map(|(addr, _)| addr));
    }

    /// Addresses that are captured for old connections only.
    pub fn leaving_addresses(&self) -> impl Iterator<Item = &(Addr, u8)> {
        let pips = self.leaving.pips.iter().filter(|(_, pip)| !pip.host_owned).map(|(addr, _)| addr);
        self.leaving.vips.difference(&self.vips).chain(pips)
    }

    pub fn leaving_pips(&self) -> impl Iterator<Item = (&(Addr, u8), &Pip)> {
        self.leaving.pips.iter()
    }

    /// For how long clients are remembered, by the slot of the real server that they had.
    pub fn persistence(&self) -> HashMap<u16, Tick> {
        let of = |service: &Service| {
            let timeout = service.terms.persistence;
            service.reals.iter().map(|real| (real.slot, timeout)).collect::<Vec<_>>()
        };
        self.services.iter().filter(|service| service.terms.persistence > 0).flat_map(of).collect()
    }

    /// Is `addr` one that a peer lends? What comes from there is never carried on.
    pub fn is_peer(&self, addr: &Addr, family: u8) -> bool {
        self.peers.contains(&(*addr, family))
    }

    pub fn vips(&self) -> impl Iterator<Item = &(Addr, u8)> {
        self.vips.iter()
    }

    pub fn pips(&self) -> impl Iterator<Item = (&(Addr, u8), &Pip)> {
        self.pips.iter()
    }
}

impl Service {
    /// In NAT mode.
    pub fn new(
        name: String,
        vip: Endpoint,
        (family, protocol): (u8, u8),
        scheduler: Scheduler,
        on_down: OnDown,
        reals: Vec<Target>,
        mut remotes: Vec<Target>,
    ) -> Service {
        remotes.sort_by_key(|remote| remote.priority);
        let picker = Picker::new(scheduler, &reals);
        let (mode, encapsulation) = (Mode::Nat, Encapsulation::Ipip);
        let (slot, terms, per_packet) = (0, Terms::default(), false);
        Service {
            name,
            vip,
            family,
            protocol,
            mode,
            encapsulation,
            on_down,
            per_packet,
            reals,
            remotes,
            picker,
            slot,
            terms,
        }
    }

    /// The same on other terms, its connections counted in `slot`.
    pub fn on(self, slot: u16, terms: Terms) -> Service {
        Service { slot, terms, ..self }
    }

    /// What consistent hashing goes by: the client's address under a key that is the same on all nodes and for ever, unlike the
    /// flow table's, so that they all choose alike.
    pub fn client_hash(&self, client: &Addr) -> u64 {
        const KEY: HashKey = HashKey { k0: 0x6661_7273_6964_6531, k1: 0x636f_6e73_6973_7431 };
        KEY.hash_addr(client, self.family, u64::from(self.family) << 40)
    }
}
