//! The data path in memory: farside's own workers over a device that has no kernel behind it. Benches and tests bring this file
//! in by its path; each uses a part.

use arc_swap::ArcSwap;
use farside::config::file;
use farside::counters::{Count, Counters, Refusal};
use farside::device::{BATCH, Device, Frame, HEADROOM, Offload, Span};
use farside::flow::{FlowTable, HashKey, Ledger, Timeouts};
use farside::forward::paths::Paths;
use farside::forward::{Now, Shared};
use farside::route::{Fib, HopTable, Prefix, ResolveQueue};
use farside::service::build::build;
use farside::service::persistence::Memory;
use farside::service::registry::Registry;
use farside::service::status::StatusTable;
use farside::wire::checksum;
use farside::wire::ip::{Endpoint, TCP};
use farside::wire::l4::{ACK, SYN};
use farside::worker::{Worker, World, now_after};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The same in every run, so that every run meets the same buckets.
const KEY: HashKey = HashKey { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };

/// Interfaces: clients are behind the one, servers behind the other.
pub const WAN: usize = 0;
pub const LAN: usize = 1;

/// Bytes of a frame that a forwarder may touch: those of IPv6 and TCP, rounded up.
const HEADERS: usize = 80;

/// A frame's slot, in bytes; no power of two, for then the headers of all slots would fight for a few places of the cache.
const SLOT: usize = HEADROOM + 1600;

/// The longest frame.
pub const LARGEST: usize = 1514;

/// What connections are for, and how they are carried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Nat,
    /// The same over IPv6.
    Nat6,
    /// To a remote site, from a lent port.
    Remote,
    Direct,
    /// IP in IP.
    Tunnel,
}

impl Way {
    pub const ALL: [Way; 5] = [Way::Nat, Way::Nat6, Way::Remote, Way::Direct, Way::Tunnel];

    pub fn name(self) -> &'static str {
        match self {
            Way::Nat => "nat",
            Way::Nat6 => "nat6",
            Way::Remote => "remote",
            Way::Direct => "direct",
            Way::Tunnel => "tunnel",
        }
    }

    pub fn one_sided(self) -> bool {
        matches!(self, Way::Direct | Way::Tunnel)
    }

    fn vip(self) -> Endpoint {
        let ip: IpAddr = match self {
            Way::Nat6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10).into(),
            _ => Ipv4Addr::new(203, 0, 113, 10 + self as u8).into(),
        };
        Endpoint::new(ip, 80)
    }

    /// Client number `n`, each with an address and port of its own.
    pub fn client(self, n: u32) -> Endpoint {
        const PORTS: u32 = 60_000;
        let (host, port) = (n / PORTS, (1024 + n % PORTS) as u16);
        let ip: IpAddr = match self {
            Way::Nat6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, (host >> 16) as u16, host as u16).into(),
            _ => Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 1)) + host).into(),
        };
        Endpoint::new(ip, port)
    }
}

/// A service for each way, on four real servers or a remote site with PIPs enough for `flows`.
fn configuration(flows: u32) -> String {
    let pips: Vec<String> =
        (0..flows / 60_000 + 2).map(|n| format!("\"198.19.{}.{}\"", n / 250, n % 250 + 1)).collect();
    let mut text = format!(
        "[datapath]\ninterfaces = [\"wan0\", \"lan0\"]\nmax_flows = {flows}\n\
         [proxy]\naddresses = [{}]\nports = \"1024-65535\"\n\
         [[peer]]\nname = \"north\"\nproxy_addresses = [\"198.51.100.250\"]\n",
        pips.join(", ")
    );
    for way in Way::ALL {
        let vip = way.vip().addr.to_ip(if way == Way::Nat6 { 6 } else { 4 });
        let mode = if way.one_sided() { way.name() } else { "nat" };
        text += &format!(
            "[[service]]\nname = \"{}\"\nvip = \"{vip}\"\nport = 80\nmode = \"{mode}\"\n\
             [service.check]\nkind = \"none\"\n",
            way.name()
        );
        for n in 11..15 {
            text += &match way {
                Way::Remote => continue,
                Way::Nat6 => format!("[[service.real]]\naddress = \"fd00::{n}\"\n"),
                _ => format!("[[service.real]]\naddress = \"10.0.0.{n}\"\n"),
            };
        }
        if way == Way::Remote {
            text += "[[service.remote]]\nsite = \"north\"\nvip = \"198.51.100.10\"\n";
        }
    }
    text
}

/// The network around: all clients behind one gateway, all servers on the link.
fn routes(hops: &Arc<HopTable>) -> Fib {
    let net = |text: &str| text.parse::<Prefix>().expect("a prefix");
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut fib = Fib::builder()
        .hops(hops.clone())
        .port("wan0", [2, 0, 0, 0, 0, 0], 1500, &[net("203.0.113.1/24"), net("2001:db8:1::1/64")])
        .port("lan0", [2, 0, 0, 0, 0, 1], 1600, &[net("10.0.0.1/24"), net("fd00::1/64")])
        .route(net("0.0.0.0/0"), WAN as u8, Some(ip("203.0.113.254")))
        .route(net("::/0"), WAN as u8, Some(ip("2001:db8:1::fe")))
        .neighbor(WAN as u8, ip("203.0.113.254"), [2, 0, 0, 0, 1, 1])
        .neighbor(WAN as u8, ip("2001:db8:1::fe"), [2, 0, 0, 0, 1, 1]);
    for n in 11..15 {
        fib = fib.neighbor(LAN as u8, ip(&format!("10.0.0.{n}")), [2, 0, 0, 0, 2, n]);
        fib = fib.neighbor(LAN as u8, ip(&format!("fd00::{n}")), [2, 0, 0, 0, 2, n]);
    }
    fib.build()
}

/// All that workers share, with room for `flows`, all targets up.
pub fn world(flows: u32, workers: usize) -> Arc<World> {
    let directory = tempfile::TempDir::new().expect("a directory");
    let path = directory.path().join("config");
    std::fs::write(&path, configuration(flows)).expect("a configuration");
    let config = file::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    let hops = Arc::new(HopTable::new());
    let shared = Shared {
        table: FlowTable::new(flows, workers, KEY),
        ledger: Ledger::new(workers),
        status: Arc::new(StatusTable::new()),
        memory: Memory::new(64, KEY),
        hops: hops.clone(),
        resolve: Arc::new(ResolveQueue::new()),
        paths: Paths::default(),
    };
    let (services, _) =
        build(&config, &mut Registry::default(), &shared.status, &shared.ledger, |_| false).expect("services");
    for service in services.services() {
        service.reals.iter().chain(&service.remotes).for_each(|target| shared.status.slot(target.slot).set_up(true));
    }
    Arc::new(World {
        fib: Arc::new(ArcSwap::from_pointee(routes(&hops))),
        shared: Arc::new(shared),
        services: Arc::new(ArcSwap::from_pointee(services)),
        timeouts: Arc::new(ArcSwap::from_pointee(Timeouts::from(&config.timeouts))),
        counters: Arc::new(Counters::new(workers)),
        carried: None,
        start: Instant::now(),
        stop: Arc::default(),
        commands: World::commands(workers),
    })
}

/// A frame to come: its headers, and how long it is.
#[derive(Clone, Copy)]
pub struct Wire {
    headers: [u8; HEADERS],
    len: u16,
}

impl Wire {
    /// A TCP packet, in a frame of `len` bytes if that holds it; all behind the headers is zero.
    pub fn tcp(src: Endpoint, dst: Endpoint, family: u8, flags: u8, len: usize) -> Wire {
        let mut headers = [0; HEADERS];
        headers[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
        let l4 = if family == 4 { 34 } else { 54 };
        let len = len.max(l4 + 20);
        let ip = &mut headers[12..l4];
        if family == 4 {
            ip[..14].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, TCP, 0, 0]);
            // Ethernet pads what is shorter than 60 bytes.
            let total = if len <= 60 { 40 } else { len as u16 - 14 };
            ip[4..6].copy_from_slice(&total.to_be_bytes());
            ip[14..18].copy_from_slice(&src.addr.octets()[..4]);
            ip[18..22].copy_from_slice(&dst.addr.octets()[..4]);
            let check = !checksum::fold(checksum::sum(&ip[2..]));
            ip[12..14].copy_from_slice(&check.to_ne_bytes());
        } else {
            ip[..10].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, TCP, 64]);
            ip[6..8].copy_from_slice(&(len as u16 - 54).to_be_bytes());
            ip[10..26].copy_from_slice(&src.addr.octets());
            ip[26..42].copy_from_slice(&dst.addr.octets());
        }
        let tcp = &mut headers[l4..l4 + 20];
        tcp[..2].copy_from_slice(&src.port.to_be_bytes());
        tcp[2..4].copy_from_slice(&dst.port.to_be_bytes());
        tcp[12..14].copy_from_slice(&[0x50, flags]);
        let length = if family == 4 && len <= 60 { 20 } else { (len - l4) as u32 };
        let sum = checksum::pseudo_header(&src.addr, &dst.addr, TCP, length) + checksum::sum(tcp);
        let check = !checksum::fold(sum);
        tcp[16..18].copy_from_slice(&check.to_ne_bytes());
        Wire { headers, len: len as u16 }
    }
}

/// A device in memory: what comes was written before, what leaves is counted. A frame costs it one copy of the headers; it is
/// sent as it lies, as by a device with one memory for both directions.
pub struct Deck {
    /// What comes by each port, over and over, and how many of it are left to come.
    coming: [(Arc<[Wire]>, usize, u64); 2],
    slots: Box<[u8]>,
    lens: [usize; BATCH],
    port: usize,
    pub sent: u64,
    pub sent_bytes: u64,
}

impl Default for Deck {
    fn default() -> Deck {
        let nothing = || (Arc::from([]), 0, 0);
        Deck {
            coming: [nothing(), nothing()],
            slots: vec![0; SLOT * BATCH].into(),
            lens: [0; BATCH],
            port: 0,
            sent: 0,
            sent_bytes: 0,
        }
    }
}

impl Deck {
    /// So many frames come by `port`: these, from the first on, over and over.
    pub fn load(&mut self, port: usize, frames: Arc<[Wire]>, count: u64) {
        self.coming[port] = (frames, 0, count);
    }
}

impl Device for Deck {
    fn ports(&self) -> usize {
        2
    }

    fn receive(&mut self, port: usize, max: usize) -> usize {
        let (frames, next, left) = &mut self.coming[port];
        let count = (max as u64).min(*left) as usize;
        for i in 0..count {
            let wire = &frames[*next];
            *next = if *next + 1 < frames.len() { *next + 1 } else { 0 };
            let start = i * SLOT + HEADROOM;
            self.slots[start..start + HEADERS].copy_from_slice(&wire.headers);
            self.lens[i] = usize::from(wire.len);
        }
        *left -= count as u64;
        self.port = port;
        count
    }

    #[inline]
    fn frame(&mut self, i: usize) -> Frame<'_> {
        let len = self.lens[i];
        let buf = &mut self.slots[i * SLOT..(i + 1) * SLOT];
        Frame { buf, start: HEADROOM, len, offload: Offload::default(), port: self.port as u8, wire_len: len }
    }

    #[inline]
    fn send(&mut self, _: usize, span: Span, _: usize) -> bool {
        self.sent += 1;
        self.sent_bytes += span.len as u64;
        true
    }

    fn send_copy(&mut self, frame: &[u8], _: Offload, _: usize) -> bool {
        self.sent += 1;
        self.sent_bytes += frame.len() as u64;
        true
    }

    fn make_room(&mut self) {}

    fn flush(&mut self) {}

    fn wait(&mut self, _: Duration) {}
}

/// One worker and the connections that it has opened.
pub struct Bench {
    pub world: Arc<World>,
    pub worker: Worker<Deck>,
    index: u8,
    /// None: by the clock. Else time stands still, and nothing that is done depends on how long it takes.
    pub now: Option<Now>,
}

impl Bench {
    pub fn new(index: u8, world: Arc<World>) -> Bench {
        Bench { worker: Worker::new(index, Deck::default(), world.clone()), world, index, now: None }
    }

    /// Bursts until all that was loaded has come, as [`Worker::run`] does. Gives the time it took.
    pub fn drain(&mut self) -> Duration {
        let begun = Instant::now();
        while self.worker.burst(self.now.unwrap_or_else(|| now_after(self.world.start.elapsed()))) > 0 {}
        begun.elapsed()
    }

    /// These frames, once each.
    pub fn play(&mut self, port: usize, frames: Vec<Wire>) -> Duration {
        let count = frames.len() as u64;
        self.worker.device_mut().load(port, frames.into(), count);
        self.drain()
    }

    /// The SYNs of clients `from..to`.
    pub fn syns(&self, way: Way, clients: std::ops::Range<u32>) -> Vec<Wire> {
        clients.map(|n| Wire::tcp(way.client(n), way.vip(), family(way), SYN, 60)).collect()
    }

    /// Opens connections by their first packets, all of them. Gives the time of the SYNs.
    pub fn open(&mut self, way: Way, clients: std::ops::Range<u32>) -> Duration {
        const SLICE: usize = 1 << 16;
        let mut took = Duration::ZERO;
        for from in clients.clone().step_by(SLICE) {
            let slice = from..clients.end.min(from + SLICE as u32);
            let syns = self.syns(way, slice.clone());
            took += self.play(WAN, syns);
            let answers = if way.one_sided() { Vec::new() } else { self.of_servers(way, slice.clone(), SYN | ACK, 60) };
            self.play(LAN, answers);
            let acks = slice.map(|n| self.of_client(way, n, ACK, 60)).collect();
            self.play(WAN, acks);
        }
        took
    }

    pub fn of_client(&self, way: Way, client: u32, flags: u8, len: usize) -> Wire {
        Wire::tcp(way.client(client), way.vip(), family(way), flags, len)
    }

    /// The same connections' packets from the other end, as the table knows it.
    pub fn of_servers(&self, way: Way, clients: impl IntoIterator<Item = u32>, flags: u8, len: usize) -> Vec<Wire> {
        let of = |client| self.of_server(way, client, flags, len);
        clients.into_iter().map(of).collect()
    }

    pub fn of_server(&self, way: Way, client: u32, flags: u8, len: usize) -> Wire {
        let table = &self.world.shared.table;
        let key =
            farside::wire::ip::FlowKey { src: way.client(client), dst: way.vip(), protocol: TCP, family: family(way) };
        let flow = table.lookup(&key, table.hash(&key)).expect("the flow is on record");
        Wire::tcp(flow.target, flow.local, family(way), flags, len)
    }

    pub fn count(&self, count: Count) -> u64 {
        self.world.counters.worker(usize::from(self.index)).get(count)
    }

    /// Every packet that came must have left.
    pub fn assert_nothing_was_refused(&self) {
        for refusal in Refusal::ALL {
            let refused = self.world.counters.worker(usize::from(self.index)).refused(*refusal);
            assert_eq!(refused, 0, "{}", refusal.name());
        }
        assert_eq!(self.count(Count::RxPackets), self.count(Count::TxPackets), "all that came has left");
    }
}

fn family(way: Way) -> u8 {
    if way == Way::Nat6 { 6 } else { 4 }
}

/// Numbers without order (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * u128::from(limit)) >> 64) as u32
    }
}
