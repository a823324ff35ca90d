//! pcap in -> forward -> pcap out, and what was counted: the data path without a network.
//!
//! One worker, a device over the capture, and a clock that is the capture's own: silence in it is time that passes, in
//! which flows expire. What a network would tell farside is read off the capture in a first pass: which address is at which
//! MAC, and which MAC is farside's. All is fixed that is random in a running farside, so the same capture gives the same
//! output.
//!
//! A running farside never sees what is not its own, as the kernel sorts it out. Here such frames are passed over as
//! `not_ours`, but for broken ones, which are counted as drops whosever they are.

mod survey;

use crate::config::{Config, Mode, file};
use crate::counters::{Count, Counters, Refusal};
use crate::device::pcap::{MTU, Pcap};
use crate::flow::{FlowTable, HashKey, Ledger, TICK_MS, Timeouts, ticks};
use crate::forward::paths::Paths;
use crate::forward::{Now, Shared};
use crate::route::{Fib, HopTable, Prefix, ResolveQueue};
use crate::service::build::build;
use crate::service::persistence::Memory;
use crate::service::registry::Registry;
use crate::service::status::StatusTable;
use crate::service::{ServiceMap, Target};
use crate::worker::{SWEEP_TICKS, Worker, World, now_after};
use arc_swap::ArcSwap;
use hashbrown::HashSet;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use survey::Survey;

/// The flow table's key, and what the order of the PIPs' ports follows from.
const KEY: HashKey = HashKey { k0: 0x7265_706c_6179_6b30, k1: 0x7265_706c_6179_6b31 };
const PORT_ORDER: u64 = 0x7265_706c_6179_7069;

/// The most flows on record, whatever the configuration says.
const MOST_FLOWS: u32 = 1 << 20;

/// In ticks, eight years. The table takes more than twice that for time that runs backwards.
const LONGEST_JUMP: u64 = 1 << 30;

/// Where everything is that the capture does not place: behind a router at port 0.
const GATEWAY: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfe));
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

/// Where encapsulated packets come from unless the configuration says: there is no interface whose address to take.
const TUNNEL_SOURCES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Runs the frames of `input` through the data path into `output`. `counters`: where to write the counts as JSON; `down`: targets
/// (`service/name`) that are down from the start, all others are up. Gives a line on what became of the frames; the error is a
/// sentence.
pub fn replay(
    config: &Path,
    input: &Path,
    output: &Path,
    counters: Option<&Path>,
    down: &[String],
) -> Result<String, String> {
    let config = file::load(config).map_err(|errors| errors.to_string())?;
    require_different(input, output, counters)?;
    let parts = Parts::new(&config, down)?;
    let survey = Survey::of(input, &config)?;
    let written = File::create(output).map_err(|why| cannot("write", output, &why))?;
    let counts_file = match counters {
        Some(path) => Some((path, File::create(path).map_err(|why| cannot("write", path, &why))?)),
        None => None,
    };
    let ports = config.datapath.interfaces.len();
    let pcap = Pcap::open(open(input)?, written, ports).map_err(|why| unreadable(input, &why))?;
    let world = Arc::new(parts.into_world(&config, &survey));
    let mut worker = Worker::new(0, pcap, world.clone());
    play(&mut worker, config.proxy.as_ref().map_or(0, |proxy| ticks(proxy.port_rest).into()));
    let (frames_in, frames_out) = worker.into_device().finish().map_err(|why| match why.kind() {
        // The first pass has found nothing wrong with it.
        ErrorKind::InvalidData => format!("{} has changed while it was read: {why}", input.display()),
        _ => cannot("write", output, &why),
    })?;
    if let Some((path, file)) = counts_file {
        write_counts(file, &world).map_err(|why| cannot("write", path, &why))?;
    }
    let dropped: u64 = Refusal::ALL.iter().map(|refusal| world.counters.total_refused(*refusal)).sum();
    let others = world.counters.total(Count::NotOurs);
    Ok(format!("{frames_in} frames in, {frames_out} out, {dropped} dropped, {others} not farside's"))
}

fn write_counts(mut file: File, world: &World) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(&world.counts())?;
    text.push(b'\n');
    file.write_all(&text)
}

/// Writing to what is read would destroy it.
fn require_different(input: &Path, output: &Path, counters: Option<&Path>) -> Result<(), String> {
    let pairs = [
        Some((input, output)),
        counters.map(|counters| (input, counters)),
        counters.map(|counters| (output, counters)),
    ];
    match pairs.into_iter().flatten().find(|(one, other)| same_file(one, other)) {
        Some((_, other)) => Err(format!("{} is given twice; each file needs a name of its own", other.display())),
        None => Ok(()),
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(a), Ok(b)) => a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
        (Err(_), Err(_)) => one == other,
        _ => false,
    }
}

/// The capture. It is read twice, so it must be a file.
fn open(input: &Path) -> Result<File, String> {
    let file = File::open(input).map_err(|why| cannot("read", input, &why))?;
    match file.metadata() {
        Ok(about) if about.is_file() => Ok(file),
        Ok(_) => Err(format!("cannot read {}: it is not a file; a capture is read twice", input.display())),
        Err(why) => Err(cannot("read", input, &why)),
    }
}

fn cannot(what: &str, path: &Path, why: &io::Error) -> String {
    format!("cannot {what} {}: {}", path.display(), file::io_words(why))
}

fn unreadable(input: &Path, why: &io::Error) -> String {
    match why.kind() {
        ErrorKind::InvalidData => format!("{}: {why}", input.display()),
        ErrorKind::UnexpectedEof => format!("{}: the capture breaks off in the middle", input.display()),
        _ => cannot("read", input, why),
    }
}

/// What of the world follows from the configuration alone.
struct Parts {
    services: ServiceMap,
    ledger: Ledger,
    status: Arc<StatusTable>,
}

impl Parts {
    fn new(config: &Config, down: &[String]) -> Result<Parts, String> {
        let status = Arc::new(StatusTable::new());
        let ledger = Ledger::predictable(1, PORT_ORDER);
        ledger.set_rest(config.proxy.as_ref().map_or(0, |proxy| ticks(proxy.port_rest)));
        let (mut services, _) = build(config, &mut Registry::default(), &status, &ledger, |_| false)?;
        for (sources, own) in services.tunnels.sources.iter_mut().zip(TUNNEL_SOURCES) {
            if sources.is_empty() {
                sources.push(own.into());
            }
        }
        let targets = services.services().iter().flat_map(|service| service.reals.iter().chain(&service.remotes));
        let targets: Vec<&Target> = targets.collect();
        if let Some(name) = down.iter().find(|name| targets.iter().all(|target| target.name != **name)) {
            let known: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
            return Err(format!("there is no target {name}; there are: {}", known.join(", ")));
        }
        for target in targets {
            status.slot(target.slot).set_up(!down.contains(&target.name));
        }
        Ok(Parts { services, ledger, status })
    }

    fn into_world(self, config: &Config, survey: &Survey) -> World {
        let hops = Arc::new(HopTable::new());
        let fib = fib(config, survey, hops.clone());
        // A frame opens one flow at most: no more room is needed than there are frames, and to sweep less is to be done sooner.
        let frames = survey.frames.min(MOST_FLOWS.into()) as u32;
        let flows = config.datapath.max_flows.min(frames);
        World {
            shared: Arc::new(Shared {
                table: FlowTable::new(flows, 1, KEY),
                ledger: self.ledger,
                status: self.status,
                memory: Memory::new(config.datapath.max_persistent, KEY),
                hops,
                resolve: Arc::new(ResolveQueue::new()),
                paths: Paths::default(),
            }),
            services: Arc::new(ArcSwap::from_pointee(self.services)),
            fib: Arc::new(ArcSwap::from_pointee(fib)),
            timeouts: Arc::new(ArcSwap::from_pointee(Timeouts::from(&config.timeouts))),
            counters: Arc::new(Counters::new(1)),
            carried: None,
            commands: World::commands(1),
            start: Instant::now(),
            stop: Arc::new(AtomicBool::new(false)),
        }
    }
}

/// Every address that the capture places is on the link there, and so is a real server in direct mode, whose answers do not name
/// it: at the last port, by a MAC of [`made_up_mac`]. All others are behind the gateway.
fn fib(config: &Config, survey: &Survey, hops: Arc<HopTable>) -> Fib {
    let mut fib = Fib::builder().hops(hops);
    for name in &config.datapath.interfaces {
        fib = fib.port(name, survey.own_mac, MTU.into(), &[]);
    }
    for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        fib = fib.route(Prefix { addr: any, len: 0 }, 0, Some(GATEWAY));
    }
    fib = fib.neighbor(0, GATEWAY, GATEWAY_MAC);
    for (ip, port, mac) in &survey.neighbors {
        let len = if ip.is_ipv4() { 32 } else { 128 };
        fib = fib.route(Prefix { addr: *ip, len }, *port, None).neighbor(*port, *ip, *mac);
    }
    let placed: HashSet<IpAddr> = survey.neighbors.iter().map(|(ip, ..)| *ip).collect();
    let direct = config.services.iter().filter(|service| service.mode == Mode::Direct);
    let reals: BTreeSet<IpAddr> = direct.flat_map(|service| &service.reals).map(|real| real.address).collect();
    let last = config.datapath.interfaces.len().saturating_sub(1) as u8;
    for ip in reals.into_iter().filter(|ip| !placed.contains(ip)) {
        let len = if ip.is_ipv4() { 32 } else { 128 };
        fib = fib.route(Prefix { addr: ip, len }, last, None).neighbor(last, ip, made_up_mac(ip));
    }
    fib.build()
}

/// Locally administered, and of the address's last four bytes: 02:01:0a:00:00:0b for 10.0.0.11.
fn made_up_mac(ip: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => (u128::from(ip) as u32).to_be_bytes(),
    };
    [2, 1, a, b, c, d]
}

/// Runs the whole capture. `rest`: ticks that a returned PIP port rests.
fn play(worker: &mut Worker<Pcap>, rest: u64) {
    let Some(first) = worker.device_mut().next_time() else { return };
    let mut clock = Duration::ZERO;
    while let Some(next) = worker.device_mut().next_time() {
        // Time stamps may go back a little, for instance between two interfaces; the clock does not.
        let now = next.saturating_sub(first).max(clock);
        pass_time(worker, clock, now, rest);
        worker.device_mut().let_in(first + now);
        worker.burst(now_after(now));
        clock = now;
    }
}

/// Lets the worker do what it does while nothing comes in: sweep. It need not be done tick by tick: of what expires in a long
/// silence only the ports that still rest at its end make a difference, so the clock jumps over the time before.
fn pass_time(worker: &mut Worker<Pcap>, from: Duration, to: Duration, rest: u64) {
    let round = u64::from(SWEEP_TICKS);
    let tick = |time: Duration| (time.as_millis() / u128::from(TICK_MS)) as u64;
    let (mut at, to) = (tick(from), tick(to));
    while at < to {
        let jump = (to - at).saturating_sub(rest + round).min(LONGEST_JUMP);
        at = (at + jump.max(round)).min(to);
        sweep(worker, at);
    }
}

/// Does all that is due at that tick.
fn sweep(worker: &mut Worker<Pcap>, tick: u64) {
    let now: Now = now_after(Duration::from_millis(tick * TICK_MS));
    worker.burst(now);
    while worker.has_chores() {
        worker.burst(now);
    }
}
