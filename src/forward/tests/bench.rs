//! The bench that cases are tried on: one service on two real servers with a remote site behind, and whatever a case changes.

use crate::config::{self, Config, OnDown, Protocol, Scheduler};
use crate::counters::Counters;
use crate::device::{Frame, HEADROOM, Offload};
use crate::flow::{FlowTable, HashKey, Hint, Ledger, Timeouts};
use crate::forward::ahead::{self, Ahead};
use crate::forward::cut::Cutter;
use crate::forward::fragment::{Fragments, SCRATCH};
use crate::forward::limit::Limits;
use crate::forward::paths::Paths;
use crate::forward::{Context, Now, Shared, Verdict, forward, reset, settle};
use crate::route::{Fib, HopTable, Prefix, ResolveQueue};
use crate::service::ServiceMap;
use crate::service::build::{Probe, build};
use crate::service::leaving::Leaving;
use crate::service::persistence::Memory;
use crate::service::registry::Registry;
use crate::service::status::StatusTable;
use crate::testing::{Build, Seen};
use crate::wire::ip::{Endpoint, FlowKey, TCP, V4};
use crate::wire::{Packet, Parsed, parse};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub const WAN: u8 = 0;
pub const LAN: u8 = 1;
pub const CLIENT: &str = "198.18.0.7:40000";
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const VIP: &str = "203.0.113.10:110";
pub const PIP: &str = "203.0.113.250";
pub const REAL_A: &str = "10.0.0.11:1100";
pub const REAL_B: &str = "10.0.0.12:110";
pub const REMOTE: &str = "198.51.100.10:995";
/// Of 10.0.0.254, by which the network 10.9.0.0/16 is reached.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 254];
/// The proxy address of the peer behind [`REMOTE`].
pub const PEER: &str = "198.51.100.250";

pub const VIP6: &str = "[2001:db8:1::10]:110";
pub const CLIENT6: &str = "[2001:db8:c::7]:40000";
pub const REAL6: &str = "[fd00::11]:1100";
pub const REMOTE6: &str = "[2001:db8:2::10]:995";
pub const PIP6: &str = "2001:db8:1::250";

/// The port and the frame that leaves, or why none does.
pub type Left = Result<(u8, Vec<u8>, Offload), Verdict>;

pub const KEY: HashKey = HashKey { k0: 1, k1: 2 };

pub struct Bench {
    pub shared: Shared,
    pub services: ServiceMap,
    pub registry: Registry,
    pub leaving: Leaving,
    pub probes: Vec<Probe>,
    pub fib: Fib,
    pub counters: Counters,
    pub limits: Limits,
    pub fragments: Fragments,
    pub now: Now,
    pub timeouts: Timeouts,
    /// Packets are looked for ahead, as a worker does with those of a batch: only so may they go the straight way.
    pub ahead: bool,
    /// What left by itself while time passed, and by which port.
    pub sent: Vec<(u8, Seen)>,
    /// Counts at the last look.
    seen: Vec<(&'static str, u64)>,
}

pub fn service(name: &str, vip: &str, protocol: Protocol, reals: &[&str], remote: &str) -> config::Service {
    let endpoint = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
    let real = |text: &&str| config::Real {
        name: text.to_string(),
        address: endpoint(text).ip(),
        port: endpoint(text).port(),
        weight: 1,
        max_connections: 0,
        backup: false,
    };
    config::Service {
        name: name.into(),
        vip: endpoint(vip).ip(),
        port: endpoint(vip).port(),
        protocol,
        mode: config::Mode::Nat,
        encapsulation: config::Encapsulation::Ipip,
        scheduler: Scheduler::RoundRobin,
        on_down: OnDown::Keep,
        persistence: Duration::ZERO,
        persistence_mask_v4: 32,
        persistence_mask_v6: 128,
        max_connections: 0,
        overflow: config::Overflow::Remote,
        per_packet: false,
        check: config::Check {
            kind: config::CheckKind::None,
            port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 4,
            passive: true,
        },
        reals: reals.iter().map(real).collect(),
        remotes: vec![config::Remote {
            site: "north".into(),
            vip: endpoint(remote).ip(),
            port: endpoint(remote).port(),
            priority: 1,
            weight: 1,
        }],
    }
}

pub fn endpoint(text: &str) -> Endpoint {
    let endpoint: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(endpoint.ip(), endpoint.port())
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn config() -> Config {
    Config {
        site: "south".into(),
        datapath: config::Datapath {
            interfaces: vec!["wan0".into(), "lan0".into()],
            backend: config::Backend::Auto,
            workers: config::Workers::Count(1),
            max_flows: 1000,
            max_persistent: 64,
            ring_slots: 256,
            idle: config::Idle::Adaptive,
            tunnel_sources: Vec::new(),
            gue_port: 6080,
            kernel_path: true,
            busy_poll_us: 0,
            busy_poll_budget: 64,
        },
        admin: config::Admin { socket: "/nowhere".into(), metrics: None },
        proxy: Some(config::Proxy {
            addresses: vec![ip(PIP), ip(PIP6)],
            ports: 1024..=1123,
            port_rest: Duration::from_secs(5),
        }),
        peers: vec![config::Peer { name: "north".into(), proxy_addresses: vec![ip(PEER)], link: None }],
        link: None,
        services: vec![
            service("pop3", VIP, Protocol::Tcp, &[REAL_A, REAL_B], REMOTE),
            service("syslog", "203.0.113.10:514", Protocol::Udp, &["10.0.0.11:514"], "198.51.100.10:514"),
            service("pop6", VIP6, Protocol::Tcp, &[REAL6], REMOTE6),
        ],
        timeouts: config::Timeouts {
            tcp_syn: Duration::from_secs(30),
            tcp_established: Duration::from_secs(7440),
            tcp_closing: Duration::from_secs(120),
            tcp_reset: Duration::from_secs(10),
            udp: Duration::from_secs(120),
        },
        lines: Vec::new(),
        dns: None,
    }
}

/// The same with all services in direct or tunnel mode, on real servers at the services' own ports.
pub fn one_sided(mode: config::Mode, encapsulation: config::Encapsulation) -> Config {
    let mut config = config();
    for service in &mut config.services {
        (service.mode, service.encapsulation) = (mode, encapsulation);
        service.reals.iter_mut().for_each(|real| real.port = service.port);
    }
    config
}

impl Bench {
    /// All targets up.
    pub fn new() -> Bench {
        Bench::with(config())
    }

    pub fn with(config: Config) -> Bench {
        let flows = config.datapath.max_flows;
        let table = FlowTable::new(flows, 1, KEY);
        Bench::in_memory(config, table, HopTable::new(), StatusTable::new())
    }

    /// On tables that are somewhere else too.
    pub fn in_memory(config: Config, table: FlowTable, hops: HopTable, status: StatusTable) -> Bench {
        let hops = Arc::new(hops);
        let net = |text: &str| text.parse::<Prefix>().unwrap();
        let fib = Fib::builder()
            .hops(hops.clone())
            .port("wan0", [2, 0, 0, 0, 0, WAN], 1500, &[net("203.0.113.1/24"), net("2001:db8:1::1/64")])
            .port("lan0", [2, 0, 0, 0, 0, LAN], 1500, &[net("10.0.0.1/24"), net("fd00::1/64")])
            .route(net("0.0.0.0/0"), WAN, Some(ip("203.0.113.254")))
            .route(net("::/0"), WAN, Some(ip("2001:db8:1::fe")))
            .neighbor(WAN, ip("203.0.113.254"), CLIENT_MAC)
            .neighbor(WAN, ip("2001:db8:1::fe"), CLIENT_MAC)
            .neighbor(LAN, ip("10.0.0.11"), [2, 0, 0, 0, 2, 11])
            .neighbor(LAN, ip("10.0.0.12"), [2, 0, 0, 0, 2, 12])
            .neighbor(LAN, ip("fd00::11"), [2, 0, 0, 0, 2, 66])
            .neighbor(LAN, ip("10.0.0.254"), ROUTER_MAC)
            .route(net("10.9.0.0/16"), LAN, Some(ip("10.0.0.254")))
            .build();
        let shared = Shared {
            table,
            ledger: Ledger::new(1),
            status: Arc::new(status),
            memory: Memory::new(config.datapath.max_persistent, KEY),
            hops,
            resolve: Arc::new(ResolveQueue::new()),
            paths: Paths::default(),
        };
        let mut registry = Registry::default();
        let (services, probes) = build(&config, &mut registry, &shared.status, &shared.ledger, |_| false).unwrap();
        for service in services.services() {
            for target in service.reals.iter().chain(&service.remotes) {
                shared.status.slot(target.slot).set_up(true);
            }
        }
        let mut bench = Bench {
            timeouts: Timeouts::from(&config.timeouts),
            shared,
            services,
            registry,
            leaving: Leaving::default(),
            probes,
            fib,
            counters: Counters::new(1),
            limits: Limits::default(),
            fragments: Fragments::new(0, 1, KEY),
            now: Now { tick: 1000, micros: 0 },
            ahead: true,
            sent: Vec::new(),
            seen: Vec::new(),
        };
        bench.moved();
        bench
    }

    /// Follows a changed configuration; new targets are up at once.
    pub fn reload(&mut self, config: &Config) {
        let Bench { shared, registry, .. } = self;
        let (mut services, probes) = build(config, registry, &shared.status, &shared.ledger, |_| false).unwrap();
        self.probes = probes;
        self.leaving.follow(&self.services, &mut services);
        self.services = services;
        self.timeouts = Timeouts::from(&config.timeouts);
        for service in self.services.services() {
            for target in service.reals.iter().chain(&service.remotes) {
                self.shared.status.slot(target.slot).set_up(true);
            }
        }
    }

    /// Looks whether what a reload removed has connections still.
    pub fn let_go(&mut self) {
        self.leaving.look(&self.shared.table, u32::MAX);
        self.leaving.look(&self.shared.table, u32::MAX);
        self.leaving.tell(&mut self.services);
    }

    /// The door by which a remote site is checked.
    pub fn door(&self, target: &str) -> IpAddr {
        let remotes = self.services.services().iter().flat_map(|service| &service.remotes);
        let slot = remotes.into_iter().find(|remote| remote.name == target).unwrap().slot;
        self.probes.iter().find(|probe| probe.slot == slot).unwrap().door
    }

    /// Marks every target whose name begins so.
    pub fn set_up(&self, prefix: &str, up: bool) {
        let mut found = false;
        for service in self.services.services() {
            for target in service.reals.iter().chain(&service.remotes) {
                if target.name.starts_with(prefix) {
                    self.shared.status.slot(target.slot).set_up(up);
                    found = true;
                }
            }
        }
        assert!(found, "no target {prefix}");
    }

    pub fn slot_named(&self, target: &str) -> u16 {
        let all = self.services.services().iter().flat_map(|service| service.reals.iter().chain(&service.remotes));
        all.into_iter().find(|t| t.name == target).unwrap().slot
    }

    pub fn active(&self, target: &str) -> u32 {
        self.shared.status.slot(self.slot_named(target)).active()
    }

    /// The slot of the target that has this IPv4 connection.
    pub fn slot_of(&self, client: &str, vip: &str) -> u16 {
        let key = FlowKey { src: endpoint(client), dst: endpoint(vip), protocol: TCP, family: V4 };
        let flow = self.shared.table.lookup(&key, self.shared.table.hash(&key)).unwrap();
        self.shared.table.details(flow.at).unwrap().target_slot
    }

    /// Runs a frame; gives the port and the frame that leaves, or the verdict if none does.
    pub fn run(&mut self, port: u8, frame: &[u8], offload: Offload) -> Left {
        let (port, mut frames, offload) = self.run_all(port, frame, offload)?;
        assert_eq!(frames.len(), 1, "it leaves whole");
        Ok((port, frames.remove(0), offload))
    }

    /// As [`Bench::run`], of a frame that may leave in pieces.
    pub fn run_all(
        &mut self,
        port: u8,
        frame: &[u8],
        offload: Offload,
    ) -> Result<(u8, Vec<Vec<u8>>, Offload), Verdict> {
        let mut buf = vec![0; HEADROOM + frame.len() + 128];
        buf[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        let mut frame =
            Frame { buf: &mut buf, start: HEADROOM, len: frame.len(), offload, port, wire_len: frame.len() };
        let parsed = parse(&frame.buf[frame.start..frame.start + frame.len]);
        let mut hint = match &parsed {
            Ok(Parsed::Ip(packet)) => self.hint(packet),
            _ => Hint::of(0),
        };
        let mut ahead = Ahead::default();
        let looks = self.ahead;
        let mut ctx = self.context(&mut ahead);
        // As in a batch of one.
        if let Ok(Parsed::Ip(packet)) = &parsed
            && looks
            && !hint.leads_on()
        {
            hint = ahead::look(packet, hint, &mut ctx);
        }
        match forward(&mut frame, &parsed, hint, &mut ctx) {
            Verdict::Transmit { span, port } => {
                Ok((port, vec![frame.buf[span.start..span.start + span.len].to_vec()], span.offload))
            }
            Verdict::Cut { cut, port } => {
                let mut cutter = Cutter::new();
                let mut pieces = Vec::new();
                cutter.begin();
                while let Some(piece) = cutter.piece(&cut, frame.buf) {
                    pieces.push(piece.to_vec());
                }
                Ok((port, pieces, Offload::default()))
            }
            verdict => {
                if let Verdict::Refuse(refusal) = verdict {
                    self.counters.worker(0).refuse(refusal);
                }
                Err(verdict)
            }
        }
    }

    /// What a packet is forwarded by, now.
    pub fn context<'a>(&'a mut self, ahead: &'a mut Ahead) -> Context<'a> {
        ahead.ways.follow(&self.fib);
        Context {
            shared: &self.shared,
            services: &self.services,
            fib: &self.fib,
            counters: self.counters.worker(0),
            limits: &mut self.limits,
            fragments: &mut self.fragments,
            ahead,
            worker: 0,
            now: self.now,
        }
    }

    /// What is known of its flow before it is forwarded.
    pub fn hint(&self, packet: &Packet) -> Hint {
        let table = &self.shared.table;
        let hint = table.prefetch(&packet.key());
        if !self.ahead {
            return hint;
        }
        let first = table.prefetch_record(hint.hash, packet.family);
        if first.leads_on() { first } else { table.prefetch_late(hint.hash, packet.family) }
    }

    /// Runs the kept fragments whose first one has come, as a worker does after a batch.
    pub fn run_ready(&mut self) -> Vec<Left> {
        let mut ran = Vec::new();
        let mut scratch = vec![0; SCRATCH];
        while let Some(frame) = self.fragments.take_ready(&mut scratch) {
            let (port, offload) = (frame.port, frame.offload);
            let bytes = frame.buf[frame.start..frame.start + frame.len].to_vec();
            match self.run_all(port, &bytes, offload) {
                Ok((port, frames, offload)) => ran.extend(frames.into_iter().map(|frame| Ok((port, frame, offload)))),
                Err(verdict) => ran.push(Err(verdict)),
            }
        }
        ran
    }

    /// Runs a packet; gives where it leaves and what it is then, every checksum verified.
    pub fn pass(&mut self, port: u8, packet: &Build) -> (u8, Seen) {
        let offload = if packet.partial {
            let csum_start = if packet.src.is_ipv4() { 34 } else { 54 };
            Offload { needs_csum: true, csum_start, csum_offset: 16, ..Offload::default() }
        } else {
            Offload::default()
        };
        match self.run(port, &packet.frame(), offload) {
            Ok((port, frame, sent)) if sent.needs_csum => (port, Seen::partial(&frame)),
            Ok((port, frame, _)) => (port, Seen::of(&frame)),
            Err(verdict) => panic!("{verdict:?}: {packet:?}"),
        }
    }

    /// Runs a packet that shall not leave.
    pub fn stop(&mut self, port: u8, packet: &Build) -> Verdict {
        self.run(port, &packet.frame(), Offload::default()).expect_err("nothing leaves")
    }

    /// Resets all connections on record; gives the frames that leave, with their ports.
    pub fn reset_all(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut all = Vec::new();
        self.shared.table.for_each(|details| all.push(*details));
        let mut ahead = Ahead::default();
        let ctx = self.context(&mut ahead);
        let mut sent = Vec::new();
        all.iter().for_each(|details| reset::both_ends(details, &ctx, |frame, port| sent.push((port, frame.to_vec()))));
        sent
    }

    /// The counters that moved since the last call, by name, in the order of their declaration.
    pub fn moved(&mut self) -> Vec<(&'static str, u64)> {
        let now: Vec<_> = self.counters.totals().collect();
        let before = std::mem::replace(&mut self.seen, now);
        let old = |name: &str| before.iter().find(|(n, _)| *n == name).map_or(0, |(_, v)| *v);
        self.seen.iter().map(|(name, value)| (*name, value - old(name))).filter(|(_, by)| *by > 0).collect()
    }

    /// Time passes; the sweep goes over the whole table.
    pub fn wait(&mut self, time: Duration) {
        self.now.tick += crate::flow::ticks(time) + 1;
        let (shared, counters, now) = (&self.shared, self.counters.worker(0), self.now);
        self.fragments.expire(now, counters);
        let (fib, services, fragments) = (&self.fib, &self.services, &mut self.fragments);
        let (limits, ahead) = (&mut self.limits, &mut Ahead::default());
        let mut ctx = Context { shared, services, fib, counters, limits, fragments, ahead, worker: 0, now };
        let (range, sent) = (shared.table.sweep_range(0), &mut self.sent);
        shared.table.sweep(0, range, now.tick, fib.epoch(), &self.timeouts, |gone| {
            settle(gone, shared, counters, now);
            reset::half_open(gone, &mut ctx, |frame, port| sent.push((port, Seen::of(frame))));
        });
    }

    /// A connection to the VIP as far as the handshake; gives what the target saw of the SYN and where.
    pub fn connect(&mut self, client: &str, vip: &str) -> (u8, Seen) {
        use crate::wire::l4::{ACK, SYN};
        let (port, syn) = self.pass(WAN, &Build::tcp(client, vip, SYN));
        let mut answer = Build::tcp(&syn.dst.to_string(), &syn.src.to_string(), SYN | ACK);
        (answer.seq, answer.ack) = (5000, 1001);
        let (back, answer) = self.pass(port, &answer);
        assert_eq!((back, answer.src.to_string().as_str(), answer.dst.to_string().as_str()), (WAN, vip, client));
        let mut ack = Build::tcp(client, vip, ACK);
        (ack.seq, ack.ack) = (1001, 5001);
        self.pass(WAN, &ack);
        (port, syn)
    }
}
