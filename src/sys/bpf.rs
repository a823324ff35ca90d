//! The kernel programs (`src/bpf/farside.c`) and their maps: loaded, told what is farside's, attached.

use super::ingress::sentence;
use super::rows::{CarriedCell, FlowBucket, FlowCell, HopCell, Plain, Rows, StatusCell};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{SchedClassifier, SocketFilter};
use aya::{Ebpf, EbpfLoader, Pod};
use std::collections::BTreeMap;
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

mod xdp;

pub use super::ingress::Ingress;
pub use xdp::{Attached, MOST_QUEUES, Place};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/farside.o");

/// The same without the XDP program, for kernels that have no AF_XDP.
static PLAIN: &[u8] = aya::include_bytes_aligned!("../bpf/plain.o");

/// The name of the ingress program, and of the filter it is in front of old kernels.
const INGRESS: &str = "farside_ingress";

/// `OWNED` in classify.h.
const OWNED: u32 = 1;

/// The loaded programs and the maps that say what is farside's. Dropping it takes away nothing that is still attached or
/// bound to a socket; those keep what they were told last.
pub struct Programs {
    ebpf: Ebpf,
    /// What sockets get; it calls the filter that `_filters` holds for as long as this process has it open.
    door: OwnedFd,
    _filters: ProgramArray<MapData>,
    fanout: OwnedFd,
    services: Table<ServiceKey, u32>,
    vips: Table<AddressKey, u32>,
    pips: Table<AddressKey, Pip>,
    reals: Table<AddressKey, u32>,
    /// As told last; `owned` decides the flags of both maps, whichever was told first.
    told_services: Vec<(IpAddr, u16, u8)>,
    told_pips: Vec<(IpAddr, RangeInclusive<u16>, bool)>,
    owned: Vec<IpAddr>,
    clsact_only: bool,
    memory: Option<SharedMaps>,
    ports: Array<MapData, Port>,
    routes: Array<MapData, Routes>,
    /// None as long as nobody wants the XDP program.
    entrances: Option<xdp::Entrances>,
}

/// What the programs are made for.
pub struct Sizes {
    /// Of the flow table's index: a power of two.
    pub flow_buckets: u32,
    pub max_flows: u32,
    /// 1 to 256.
    pub workers: u32,
}

/// SharedMaps that workers and kernel programs share, all zero at first.
pub struct SharedMaps {
    pub flows: Rows<FlowBucket>,
    pub records: Rows<FlowCell>,
    pub hops: Rows<HopCell>,
    pub paths: Rows<AtomicU64>,
    /// Targets' status words, by slot.
    pub status: Rows<StatusCell>,
    /// By CPU number.
    pub carried: Rows<CarriedCell>,
}

/// What the kernel path is told of where packets leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Flows whose hops are of this route epoch are carried.
    pub epoch: u8,
    /// In the order of the hops' port numbers.
    pub ports: Vec<WayPort>,
    /// Of encapsulations over UDP.
    pub gue_port: u16,
    /// Sources of tunnels that are listed, IPv4 first, wire bytes; none: the port's.
    pub sources: [Vec<[u8; 16]>; 2],
}

/// An interface by which the kernel path sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayPort {
    /// 0: not by this one.
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// Of tunnels that leave by it, IPv4 first; zero: none.
    pub sources: [[u8; 16]; 2],
}

/// The most sources of tunnels of one family that the kernel path knows; with more, tunnels are the workers'.
const SOURCES: usize = 16;

/// `struct port` in farside.c.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Port {
    ifindex: u32,
    mac: [u8; 6],
    zero: u16,
    sources: [[u8; 16]; 2],
}

/// `struct routes` in farside.c.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Routes {
    epoch: u32,
    open: u32,
    gue_port: u32,
    listed: [u32; 2],
    sources: [[[u8; 16]; SOURCES]; 2],
}

/// max_entries of HOPS, STATUS, PATHS, PORTS and CARRIED.
const HOPS: usize = 16384;
const TARGETS: usize = 16384;
const PATHS: usize = 1024;
const PORTS: usize = 256;
const CPUS: usize = 1024;

/// `struct service` in classify.h.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ServiceKey {
    addr: [u8; 16],
    port: u16,
    protocol: u8,
    family: u8,
}

/// `struct address` in classify.h.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AddressKey {
    addr: [u8; 16],
    family: u32,
}

/// `struct pip` in classify.h.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pip {
    first: u16,
    last: u16,
    flags: u32,
}

// SAFETY: integers without padding between them; any bytes will do.
unsafe impl Pod for ServiceKey {}
// SAFETY: as above.
unsafe impl Pod for AddressKey {}
// SAFETY: as above.
unsafe impl Pod for Pip {}
// SAFETY: as above.
unsafe impl Pod for Port {}
// SAFETY: as above.
unsafe impl Pod for Routes {}

impl Programs {
    /// Loads the programs into the kernel. `key`: of the flow hash (SipHash-1-3); `start_ns`: the workers' tick 0 on
    /// CLOCK_MONOTONIC ([`monotonic_ns`]), `tick_ns` the length of a tick. Needs CAP_BPF and CAP_NET_ADMIN.
    pub fn load(key: (u64, u64), sizes: &Sizes, start_ns: u64, tick_ns: u64) -> io::Result<Programs> {
        let object = if super::xsk::is_known() { OBJECT } else { PLAIN };
        Programs::load_object(object, key, sizes, start_ns, tick_ns)
    }

    fn load_object(
        object: &'static [u8],
        key: (u64, u64),
        sizes: &Sizes,
        start_ns: u64,
        tick_ns: u64,
    ) -> io::Result<Programs> {
        let Sizes { flow_buckets, max_flows, workers } = *sizes;
        if !flow_buckets.is_power_of_two() || max_flows == 0 || !(1..=256).contains(&workers) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{flow_buckets} buckets must be a power of two, {max_flows} flows at least one, \
                     {workers} workers between 1 and 256"
                ),
            ));
        }
        super::pin::raise_memlock();
        let mut ebpf = EbpfLoader::new()
            .override_global("KEY0", &key.0, true)
            .override_global("KEY1", &key.1, true)
            .override_global("WORKERS", &workers, true)
            .override_global("FLOW_MASK", &u64::from(flow_buckets - 1), true)
            .override_global("START_NS", &start_ns, true)
            .override_global("TICK_NS", &tick_ns, true)
            .map_max_entries("FLOWS", flow_buckets)
            .map_max_entries("RECORDS", max_flows)
            .map_max_entries("STEPS", max_flows)
            .load(object)
            .map_err(|error| sentence("the kernel does not take farside's maps", &error))?;
        let door = load_filter(&mut ebpf, "farside_door")?;
        load_filter(&mut ebpf, "farside_filter")?;
        let filters = fill(&mut ebpf, "FILTERS", "farside_filter")?;
        let fanout = load_filter(&mut ebpf, "farside_fanout")?;
        ingress(&mut ebpf)?.load().map_err(|error| sentence("the kernel does not take the ingress program", &error))?;
        let memory = SharedMaps {
            flows: rows(&ebpf, "FLOWS", flow_buckets as usize)?,
            records: rows(&ebpf, "RECORDS", max_flows as usize)?,
            hops: rows(&ebpf, "HOPS", HOPS)?,
            paths: rows(&ebpf, "PATHS", PATHS)?,
            status: rows(&ebpf, "STATUS", TARGETS)?,
            carried: rows(&ebpf, "CARRIED", CPUS)?,
        };
        let (ports, routes) = (array(&mut ebpf, "PORTS")?, array(&mut ebpf, "ROUTES")?);
        Ok(Programs {
            door,
            _filters: filters,
            fanout,
            services: Table::take(&mut ebpf, "SERVICES")?,
            vips: Table::take(&mut ebpf, "VIPS")?,
            pips: Table::take(&mut ebpf, "PIPS")?,
            reals: Table::take(&mut ebpf, "REALS")?,
            ebpf,
            told_services: Vec::new(),
            told_pips: Vec::new(),
            owned: Vec::new(),
            clsact_only: false,
            memory: Some(memory),
            ports,
            routes,
            entrances: None,
        })
    }

    /// From now on packets to these (VIP, port, protocol) are farside's. May be called while packets flow: what stays is
    /// never missing.
    pub fn set_services(&mut self, services: &[(IpAddr, u16, u8)]) -> io::Result<()> {
        self.told_services = services.to_vec();
        self.tell_services()
    }

    /// From now on TCP and UDP packets to these addresses, and a port in the range, are farside's. The flag: the host
    /// has the address itself (as if [`Programs::set_host_addresses`] had named it).
    pub fn set_pips(&mut self, pips: &[(IpAddr, RangeInclusive<u16>, bool)]) -> io::Result<()> {
        self.told_pips = pips.to_vec();
        self.tell_pips()
    }

    /// Real servers whose later fragments, when they come ahead of their first, go to farside and to the host: where the host
    /// would not forward them.
    pub fn set_reals(&mut self, reals: &[IpAddr]) -> io::Result<()> {
        self.reals.set(reals.iter().map(|real| (AddressKey::from(*real), 1)).collect())
    }

    /// The addresses that the host has itself. For VIPs and PIPs among them the host goes on answering ARP, neighbour
    /// solicitation and ping, and is left the ICMP errors that quote neither a service's packet nor a lent port's.
    /// A VIP or PIP that is not among them is farside's altogether.
    pub fn set_host_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        self.owned = addresses.to_vec();
        self.tell_services()?;
        self.tell_pips()
    }

    fn tell_services(&mut self) -> io::Result<()> {
        let mut vips = BTreeMap::new();
        let mut services = BTreeMap::new();
        for &(vip, port, protocol) in &self.told_services {
            let AddressKey { addr, family } = AddressKey::from(vip);
            vips.insert(AddressKey { addr, family }, self.flags(vip));
            services.insert(ServiceKey { addr, port, protocol, family: family as u8 }, 1);
        }
        // An address is announced before it has services, and has none before it goes.
        self.vips.add(&vips)?;
        self.services.set(services)?;
        self.vips.set(vips)
    }

    fn tell_pips(&mut self) -> io::Result<()> {
        let mut pips = BTreeMap::new();
        for (pip, ports, owned) in &self.told_pips {
            let flags = if *owned { OWNED } else { self.flags(*pip) };
            pips.insert(AddressKey::from(*pip), Pip { first: *ports.start(), last: *ports.end(), flags });
        }
        self.pips.set(pips)
    }

    fn flags(&self, address: IpAddr) -> u32 {
        if self.owned.contains(&address) { OWNED } else { 0 }
    }

    /// The memory that the programs share with the workers; once.
    pub fn memory(&mut self) -> Option<SharedMaps> {
        self.memory.take()
    }

    /// Opens the kernel path for these ways, or closes it.
    pub fn set_ways(&mut self, ways: Option<&Ways>) -> io::Result<()> {
        let told = |error| sentence("the kernel does not take the routes", &error);
        // Closed in between: a hop of the new routes shall not leave by an old interface.
        self.routes.set(0, Routes::default(), 0).map_err(told)?;
        let Some(ways) = ways else { return Ok(()) };
        for (number, WayPort { ifindex, mac, sources }) in (0..PORTS as u32).zip(&ways.ports) {
            let port = Port { ifindex: *ifindex, mac: *mac, zero: 0, sources: *sources };
            self.ports.set(number, port, 0).map_err(told)?;
        }
        let mut routes =
            Routes { epoch: ways.epoch.into(), open: 1, gue_port: ways.gue_port.into(), ..Routes::default() };
        for (family, listed) in ways.sources.iter().enumerate() {
            routes.listed[family] = listed.len() as u32;
            for (place, source) in routes.sources[family].iter_mut().zip(listed) {
                *place = *source;
            }
        }
        self.routes.set(0, routes, 0).map_err(told)
    }

    /// Makes [`Programs::attach_ingress`] do as on kernels before 6.6, for tests.
    pub fn use_clsact_only(&mut self) {
        self.clsact_only = true;
    }

    /// Drops farside's packets at the interface's ingress, after packet sockets have seen them. On kernels from 6.6 on by a
    /// link that the kernel takes away when this process ends, however it ends; before that by a filter, which
    /// stays after a crash until the next start.
    pub fn attach_ingress(&mut self, interface: &str) -> io::Result<Ingress> {
        Ingress::attach(ingress(&mut self.ebpf)?, INGRESS, interface, self.clsact_only)
    }
}

/// What packet sockets are told of which packets are theirs.
pub trait Steering {
    /// For every packet socket: takes what is ours only.
    fn filter_fd(&self) -> BorrowedFd<'_>;

    /// For every fanout group: which worker.
    fn fanout_fd(&self) -> BorrowedFd<'_>;
}

impl Steering for Programs {
    fn filter_fd(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }

    fn fanout_fd(&self) -> BorrowedFd<'_> {
        self.fanout.as_fd()
    }
}

#[cfg(test)]
impl Programs {
    /// What becomes of a frame, asked of the programs as the kernel would: one after the other on one CPU, with the fanout
    /// program where there are several workers. `between` happens before the last of them, the ingress program.
    pub(crate) fn ask(&mut self, fanout: bool, frame: &[u8], between: impl FnOnce()) -> (u32, super::testing::Ran) {
        let to_ring = self.ask_sockets(fanout, frame);
        between();
        let program = ingress(&mut self.ebpf).unwrap();
        (to_ring, super::testing::test_run(program.fd().unwrap().as_fd(), frame, 1))
    }

    /// Asks the sockets' programs about one frame, and the ingress program about another. Gives what the filter says and
    /// whether the other is carried.
    pub(crate) fn ask_of_two(&mut self, frame: &[u8], other: &[u8]) -> (u32, bool) {
        let to_ring = self.ask_sockets(true, frame);
        let program = ingress(&mut self.ebpf).unwrap();
        let ran = super::testing::test_run(program.fd().unwrap().as_fd(), other, 1);
        // TC_ACT_REDIRECT.
        (to_ring, ran.verdict == 7)
    }

    fn ask_sockets(&mut self, fanout: bool, frame: &[u8]) -> u32 {
        if fanout {
            super::testing::test_run(self.fanout_fd(), frame, 1);
        }
        let filter: &SocketFilter = self.ebpf.program("farside_filter").unwrap().try_into().unwrap();
        // A test run takes the Ethernet header away from a socket's program, a packet socket does not.
        let doubled = [&frame[..14], frame].concat();
        super::testing::test_run(filter.fd().unwrap().as_fd(), &doubled, 1).verdict
    }
}

/// Takes away what a farside that crashed has left at the interface (kernels before 6.6). True: there was something.
pub fn clean_leftovers(interface: &str) -> io::Result<bool> {
    super::ingress::clean_leftovers(INGRESS, interface)
}

/// Puts a loaded program into an array for tail calls.
fn fill(ebpf: &mut Ebpf, array: &str, program: &str) -> io::Result<ProgramArray<MapData>> {
    let lacks = |what: &str| io::Error::other(format!("farside.o lacks {what}"));
    let map = ebpf.take_map(array).ok_or_else(|| lacks(array))?;
    let mut map = ProgramArray::try_from(map).map_err(|error| sentence(array, &error))?;
    let filter: Option<&SocketFilter> = ebpf.program(program).and_then(|program| program.try_into().ok());
    let fd = filter.ok_or_else(|| lacks(program))?.fd().map_err(|error| sentence(program, &error))?;
    map.set(0, fd, 0).map_err(|error| sentence(&format!("the kernel does not take {program}"), &error))?;
    Ok(map)
}

pub(super) fn load_filter(ebpf: &mut Ebpf, name: &str) -> io::Result<OwnedFd> {
    let program: Option<&mut SocketFilter> = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    let program = program.ok_or_else(|| io::Error::other(format!("farside.o lacks {name}")))?;
    program.load().map_err(|error| sentence(&format!("the kernel does not take {name}"), &error))?;
    let fd = program.fd().map_err(|error| sentence(name, &error))?;
    fd.as_fd().try_clone_to_owned()
}

fn ingress(ebpf: &mut Ebpf) -> io::Result<&mut SchedClassifier> {
    ebpf.program_mut(INGRESS)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| io::Error::other(format!("farside.o lacks {INGRESS}")))
}

/// CLOCK_MONOTONIC, as the kernel programs read it.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to be written to; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn rows<T: Plain>(ebpf: &Ebpf, name: &str, len: usize) -> io::Result<Rows<T>> {
    match ebpf.map(name) {
        Some(aya::maps::Map::Array(data)) => Rows::mapped(data.fd().as_fd(), len),
        _ => Err(io::Error::other(format!("farside.o lacks {name}"))),
    }
}

fn array<V: Pod>(ebpf: &mut Ebpf, name: &str) -> io::Result<Array<MapData, V>> {
    let map = ebpf.take_map(name).ok_or_else(|| io::Error::other(format!("farside.o lacks {name}")))?;
    Array::try_from(map).map_err(|error| sentence(name, &error))
}

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> AddressKey {
        let mut addr = [0; 16];
        match address {
            IpAddr::V4(ip) => addr[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => addr = ip.octets(),
        }
        AddressKey { addr, family: if address.is_ipv4() { 4 } else { 6 } }
    }
}

/// A BPF hash map beside what we have put into it.
pub(super) struct Table<K: Pod, V: Pod> {
    map: HashMap<MapData, K, V>,
    now: BTreeMap<K, V>,
}

impl<K: Pod + Ord + Hash, V: Pod + PartialEq> Table<K, V> {
    pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> io::Result<Table<K, V>> {
        let map = ebpf.take_map(name).ok_or_else(|| io::Error::other(format!("farside.o lacks {name}")))?;
        let map = HashMap::try_from(map).map_err(|error| sentence(name, &error))?;
        Ok(Table { map, now: BTreeMap::new() })
    }

    /// Puts in what is new or different.
    fn add(&mut self, entries: &BTreeMap<K, V>) -> io::Result<()> {
        for (&key, &value) in entries {
            if self.now.get(&key) != Some(&value) {
                self.map
                    .insert(key, value, 0)
                    .map_err(|error| sentence("the kernel does not take another address or service", &error))?;
                self.now.insert(key, value);
            }
        }
        Ok(())
    }

    /// Makes `entries` all there is; first adds, then removes.
    pub(super) fn set(&mut self, entries: BTreeMap<K, V>) -> io::Result<()> {
        self.add(&entries)?;
        let gone: Vec<K> = self.now.keys().filter(|key| !entries.contains_key(key)).copied().collect();
        for key in gone {
            self.map.remove(&key).map_err(|error| sentence("the kernel does not give up an entry", &error))?;
            self.now.remove(&key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
