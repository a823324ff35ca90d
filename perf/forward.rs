//! What a packet costs in the data path, from the receive batch to the transmit queue, with no kernel around it.
//!
//! ```text
//! cargo bench --bench forward -- [--quick] [--inserts] [--flows N,N...] [--workers N,N...] [--json FILE]
//! cargo bench --bench forward -- --play CASE
//! ```
//!
//! Workers run their real bursts over a device in memory (`inside.rs`): parse, hash, prefetch, look up, count, rewrite, send, and
//! the chores in between by the clock. "hit" is a packet of an established connection, of any at random, in both directions in
//! turn. "insert" is a SYN that opens a connection. Beside them stands what the machine's memory does at best: a chain of
//! random reads, each of which has to wait for the one before, and random reads that need not wait.
//!
//! `--play CASE` plays a fixed row of packets for `perf/instructions` to count, and prints how many.

#[path = "inside.rs"]
mod inside;

use farside::forward::Now;
use inside::{Bench, LAN, LARGEST, Random, WAN, Way, Wire};
use serde_json::{Value, json};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const MILLION: f64 = 1e6;

/// Frames' lengths without their checksum: 64-byte frames, and the mix of 7 : 4 : 1 that is called IMIX.
const SMALL: &[usize] = &[60];
const IMIX: &[usize] = &[60, 590, 60, 590, 60, LARGEST, 60, 590, 60, 590, 60, 60];

struct Options {
    inserts_only: bool,
    flows: Vec<u32>,
    workers: Vec<usize>,
    json: Option<String>,
    rounds: usize,
    /// Packets of a round.
    packets: u64,
}

/// Lowest, middle, highest.
struct Spread([f64; 3]);

impl Spread {
    fn of(mut figures: Vec<f64>) -> Spread {
        figures.sort_by(f64::total_cmp);
        Spread([figures[0], figures[figures.len() / 2], figures[figures.len() - 1]])
    }
}

/// Packets of established connections: `from_clients` and `from_servers`, at random.
fn stream(bench: &Bench, way: Way, clients: std::ops::Range<u32>, lengths: &[usize], count: u32) -> [Arc<[Wire]>; 2] {
    const ACK: u8 = 0x10;
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(clients.start) << 32);
    let mut some = |of: &dyn Fn(u32, usize) -> Wire| -> Arc<[Wire]> {
        (0..count as usize)
            .map(|i| of(clients.start + random.below(clients.end - clients.start), lengths[i % lengths.len()]))
            .collect()
    };
    let from_clients = some(&|client, len| bench.of_client(way, client, ACK, len));
    let from_servers = match way.one_sided() {
        true => Arc::from([]),
        false => some(&|client, len| bench.of_server(way, client, ACK, len)),
    };
    [from_clients, from_servers]
}

/// Lets `packets` of the streams come.
fn load(bench: &mut Bench, [from_clients, from_servers]: &[Arc<[Wire]>; 2], packets: u64) {
    let both = if from_servers.is_empty() { 1 } else { 2 };
    bench.worker.device_mut().load(WAN, from_clients.clone(), packets / both);
    if both == 2 {
        bench.worker.device_mut().load(LAN, from_servers.clone(), packets / 2);
    }
}

/// Million packets per second and per worker, of each of `workers` workers at the same time on connections of their own.
fn hits(way: Way, flows: u32, lengths: &'static [usize], workers: usize, options: &Options) -> Spread {
    let world = inside::world(flows, workers);
    let barrier = Arc::new(Barrier::new(workers));
    let (packets, rounds) = (options.packets, options.rounds);
    let threads: Vec<_> = (0..workers)
        .map(|worker| {
            let (world, barrier) = (world.clone(), barrier.clone());
            std::thread::spawn(move || {
                let mut bench = Bench::new(worker as u8, world);
                let share = flows / workers as u32;
                let clients = share * worker as u32..share * (worker as u32 + 1);
                bench.open(way, clients.clone());
                let count = (packets / 2).clamp(1, 2_000_000) as u32;
                let streams = stream(&bench, way, clients, lengths, count);
                let mut round = || {
                    load(&mut bench, &streams, packets);
                    barrier.wait();
                    packets as f64 / bench.drain().as_secs_f64() / MILLION
                };
                round();
                let figures: Vec<f64> = (0..rounds).map(|_| round()).collect();
                bench.assert_nothing_was_refused();
                figures
            })
        })
        .collect();
    let each: Vec<Vec<f64>> = threads.into_iter().map(|thread| thread.join().expect("a worker")).collect();
    Spread::of((0..rounds).map(|round| each.iter().map(|figures| figures[round]).sum()).collect())
}

/// Million connections per second, from an empty table to a full one. The SYNs lie in the cache, as other streams' packets do and as
/// a card puts them there: so many at a time.
fn inserts(way: Way, flows: u32, options: &Options) -> Spread {
    const SLICE: usize = 4096;
    let mut figures = Vec::new();
    for _ in 0..options.rounds.div_ceil(2) {
        let mut bench = Bench::new(0, inside::world(flows, 1));
        let mut took = Duration::ZERO;
        for from in (0..flows).step_by(SLICE) {
            let syns = bench.syns(way, from..flows.min(from + SLICE as u32));
            took += bench.play(WAN, syns);
        }
        figures.push(f64::from(flows) / took.as_secs_f64() / MILLION);
        bench.assert_nothing_was_refused();
        assert_eq!(bench.world.shared.table.len(), flows);
    }
    Spread::of(figures)
}

/// Nanoseconds of a random read in as much memory as the records of `flows` flows take, one after the other, and when they
/// need not wait for each other.
fn memory(flows: u32) -> [f64; 2] {
    const READS: u32 = 4_000_000;
    let lines = (flows as usize * 2).next_power_of_two();
    let mut random = Random(1);
    let words = farside::sys::huge::boxed(lines * 8, |_| random.below(u32::MAX));
    let timed = |read: &mut dyn FnMut()| {
        let begun = Instant::now();
        read();
        begun.elapsed().as_nanos() as f64 / f64::from(READS)
    };
    let mut at = 0;
    let chain = timed(&mut || (0..READS).for_each(|i| at = (words[at % lines * 8] ^ i) as usize));
    let (mut sum, mut random) = (0u64, Random(2));
    let free = timed(&mut || {
        (0..READS).for_each(|_| sum += u64::from(words[random.below(lines as u32) as usize * 8]));
    });
    std::hint::black_box((at, sum));
    [chain, free]
}

struct Table {
    rows: Vec<Value>,
}

impl Table {
    fn row(&mut self, what: &str, flows: u32, workers: usize, unit: &str, spread: &Spread) {
        let Spread([low, middle, high]) = spread;
        let ns = 1000.0 * workers as f64 / middle;
        println!("{what:<18}{flows:>10}{workers:>9}{middle:>10.2} {unit:<10}{low:>8.2} -{high:>6.2}{ns:>9.1} ns");
        self.rows.push(json!({
            "case": what, "flows": flows, "workers": workers, "unit": unit, "low": low, "median": middle, "high": high,
        }));
    }

    fn write(self, options: &Options) {
        if let Some(path) = &options.json {
            std::fs::write(path, format!("{:#}\n", Value::from(self.rows))).expect("the file for --json");
        }
    }
}

fn measure(options: &Options) {
    let mut table = Table { rows: Vec::new() };
    println!("{:<18}{:>10}{:>9}{:>10} {:<10}{:>16}{:>12}", "case", "flows", "workers", "median", "", "range", "each");
    let at_random = |way: Way, lengths, flows, workers| hits(way, flows, lengths, workers, options);
    for &flows in &options.flows {
        for (name, lengths) in [("hit, 64 bytes", SMALL), ("hit, IMIX", IMIX)] {
            if options.inserts_only {
                continue;
            }
            table.row(name, flows, 1, "Mpackets/s", &at_random(Way::Nat, lengths, flows, 1));
        }
        table.row("insert", flows, 1, "Mflows/s", &inserts(Way::Nat, flows, options));
        let [chain, free] = memory(flows);
        println!("{:<18}{flows:>10}{:>19}{chain:>6.1} ns one after the other, {free:.1} ns at will", "random read", "");
        table.rows.push(json!({ "case": "random read", "flows": flows, "chain_ns": chain, "free_ns": free }));
    }
    let flows = options.flows.iter().copied().find(|flows| *flows >= 1_000_000).unwrap_or(options.flows[0]);
    if options.inserts_only {
        return table.write(options);
    }
    for way in Way::ALL.into_iter().skip(1) {
        table.row(&format!("hit, {}", way.name()), flows, 1, "Mpackets/s", &at_random(way, SMALL, flows, 1));
    }
    for &workers in &options.workers {
        table.row("hit, together", flows, workers, "Mpackets/s", &at_random(Way::Nat, SMALL, flows, workers));
    }
    table.write(options);
}

/// Where the counting begins and ends.
#[inline(never)]
fn counted(bench: &mut Bench) -> Duration {
    bench.drain()
}

/// A row of packets that is the same in every run, at a time that stands still.
fn play(case: &str) {
    const FLOWS: u32 = 1024;
    const PACKETS: u64 = 16 * 1024;
    let mut bench = Bench::new(0, inside::world(4 * FLOWS, 1));
    bench.now = Some(Now { tick: 1000, micros: 1000 });
    let way = Way::ALL.into_iter().find(|way| case.strip_prefix("hit-") == Some(way.name()));
    let packets = match (case, way) {
        (_, Some(way)) => {
            bench.open(way, 0..FLOWS);
            let streams = stream(&bench, way, 0..FLOWS, SMALL, 4096);
            load(&mut bench, &streams, PACKETS);
            PACKETS
        }
        ("insert", _) => {
            let syns = bench.syns(Way::Nat, 0..FLOWS).into();
            bench.worker.device_mut().load(WAN, syns, FLOWS.into());
            FLOWS.into()
        }
        ("refuse", _) => {
            // No connection is open, and an ACK opens none.
            let packets: Arc<[Wire]> = (0..FLOWS).map(|n| bench.of_client(Way::Nat, n, 0x10, 60)).collect();
            bench.worker.device_mut().load(WAN, packets, PACKETS);
            PACKETS
        }
        _ => panic!("no case {case}"),
    };
    counted(&mut bench);
    if case != "refuse" {
        bench.assert_nothing_was_refused();
    }
    println!("{packets}");
}

fn main() {
    // Cargo adds `--bench` of its own.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    let mut options =
        Options { inserts_only: false, flows: vec![], workers: vec![1, 2], json: None, rounds: 7, packets: 4_000_000 };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => (options.rounds, options.packets) = (3, 1_000_000),
            "--inserts" => options.inserts_only = true,
            "--json" => options.json = Some(value()),
            "--flows" => options.flows = numbers(&value()),
            "--workers" => options.workers = numbers(&value()),
            "--play" => return play(&value()),
            _ => panic!("{argument}? See the head of perf/forward.rs"),
        }
    }
    if options.flows.is_empty() {
        options.flows = if options.rounds == 3 { vec![1_000, 1_000_000] } else { vec![1_000, 1_000_000, 10_000_000] };
    }
    measure(&options);
}

fn numbers<T: std::str::FromStr>(text: &str) -> Vec<T> {
    text.split(',').map(|number| number.parse().unwrap_or_else(|_| panic!("{number} is no number"))).collect()
}
