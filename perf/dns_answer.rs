//! What an answer costs without the network, and what a large zone costs to load.
//!
//! `cargo bench --bench dns_answer -- [--quick] [NAMES...] [KINDS...]`. One thread; nanoseconds per query, each with another name, from
//! the message as it came to the message as it goes, in batches as the name server's threads take them.

use farside::affinity::{Consumer, Share, Store, Who};
use farside::config::dns::Prefix;
use farside::dns::ahead::MOST;
use farside::dns::dnssec::{Algorithm, Key, Signer};
use farside::dns::steer::prefixes::Prefixes;
use farside::dns::steer::stripe::hash_of;
use farside::dns::steer::{Dynamic, Memory, Place, Plan, Steering, Stripe};
use farside::dns::{
    Ahead, Asked, Contents, Member, Name, Outcome, Pool, PoolState, Scratch, Settings, Snapshot, Transport, WhenDown,
    Zone, answer, master,
};
use farside::sites::SiteNumber;
use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// The n-th question.
type Ask = Box<dyn Fn(usize) -> String>;

fn text(names: usize) -> String {
    let mut text = "$TTL 1h\n@ SOA ns1 admin 1 1h 15m 2w 5m\n NS ns1\nns1 A 192.0.2.1\n".to_owned();
    for n in 0..names {
        let (a, b, c) = (n >> 16 & 255, n >> 8 & 255, n & 255);
        writeln!(text, "host-{} A 10.{a}.{b}.{c}", scattered(n)).unwrap();
    }
    text
}

/// So that neighbours in the file are none in the zone.
fn scattered(n: usize) -> u64 {
    (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24
}

/// Sites 1 and 2 have two members each.
fn steered(slot: u16, name: &str, stripe: Option<Stripe>) -> Pool {
    let places = (0..4).map(|n: u8| Place { site: SiteNumber(1 + n / 2), hash: hash_of("site", &n.to_string()) });
    let dynamic = stripe.is_none().then_some(Dynamic { share: Share(1), ttl_by_hour_s: [3600; 24] });
    let (topology, client_subnet, places) = (stripe.is_some(), false, places.collect());
    let plan = Some(Plan { dynamic, topology, stripe, metrics: false, client_subnet, places });
    let names = vec![Name::parse(&format!("{name}.company.example.")).unwrap()];
    Pool { slot, names, plan, ..pool() }
}

fn pool() -> Pool {
    let names = vec![Name::parse("pool.company.example.").unwrap()];
    let member = |n: u8| Member { name: n.to_string(), addresses: vec![[192, 0, 2, n].into()], weight: 1 };
    let members = (1..=4).map(member).collect();
    let when_down = WhenDown::All;
    Pool { name: "pool".into(), slot: 0, names, ttl_s: 30, max_answers: 0, min_up: 1, when_down, members, plan: None }
}

/// A million networks, and what a million resolvers can be remembered in.
fn steering() -> Steering {
    let network = |n: u32| (Prefix::of(IpAddr::from((n << 12).to_be_bytes()), 24), 1 + n % 2);
    let networks: Vec<_> = (0..1 << 20).map(network).collect();
    let start = Instant::now();
    let topology = Arc::new(Prefixes::new(&networks).unwrap());
    println!("  {} networks in a table in {:.2} s", networks.len(), start.elapsed().as_secs_f64());
    let address = |n: u32| Prefix::of(IpAddr::from(n.wrapping_mul(0x9e37_79b1).to_be_bytes()), 32);
    let asked: Vec<Prefix> = (0..1 << 20).map(address).collect();
    let start = Instant::now();
    let found = asked.iter().filter(|network| topology.find(**network).is_some()).count();
    let each = start.elapsed().as_nanos() as f64 / asked.len() as f64;
    println!("  {each:.1} ns for each of {} addresses looked up in it, {found} found", asked.len());
    Steering { topology, memory: Memory::Kept(Arc::new(remembered())), ..Steering::default() }
}

/// Collects changes as who tells other nodes does, until it is dropped.
fn tell(steering: &Steering) -> Sender<()> {
    let (stop, stopped) = mpsc::channel();
    let Memory::Kept(store) = steering.memory.clone() else { return stop };
    std::thread::spawn(move || {
        let (mut told, mut all) = (0, Vec::new());
        while stopped.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
            let mut from = Some(0);
            while let Some(at) = from {
                from = store.changes(Consumer::Server, at, 4096, &mut all);
                told += all.len();
                all.clear();
            }
        }
        println!("  {told} changes were collected beside \"shared\"");
    });
    stop
}

/// A store that is full of resolvers; those that ask come on top.
fn remembered() -> Store {
    const MOST: u32 = 1_000_000;
    let store = Store::new(MOST, (1, 2));
    let who = |n: u32| Who((0x2001_0db8_u128 << 96 | u128::from(n)).to_be_bytes());
    let start = Instant::now();
    (0..MOST - 100_000).for_each(|n| _ = store.put(who(n), Share(1), SiteNumber(1), 3600, 0, u64::MAX));
    let (counts, seconds) = (store.counts(), start.elapsed().as_secs_f64());
    println!("  {} resolvers remembered in {seconds:.2} s, {} evicted", counts.records, counts.evicted);
    store
}

/// Kilobytes of the process.
fn memory_kb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// With an OPT record that asks for signatures, if the zone is signed.
fn query(name: &str, signed: bool) -> Vec<u8> {
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(signed)];
    message.extend_from_slice(Name::parse(name).unwrap().wire());
    message.extend_from_slice(&[0, 1, 0, 1]);
    if signed {
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
    }
    message
}

fn load(names: usize, signer: Option<&Arc<Signer>>) -> Contents {
    let text = text(names);
    let (before, start) = (memory_kb(), Instant::now());
    let origin = Name::parse("company.example.").unwrap();
    let mut read = |_: &Path| Ok(text.clone().into_bytes());
    let pools = [pool(), steered(1, "stripe", Some(Stripe::Rendezvous)), steered(2, "dynamic", None)].map(Arc::new);
    let contents = master::load_signed(&origin, Path::new("zone"), &pools, signer, &mut read).unwrap();
    let (seconds, after) = (start.elapsed().as_secs_f64(), memory_kb());
    let (own, grown) = (contents.bytes() >> 20, after.saturating_sub(before) >> 10);
    println!(
        "{names} names: {} MB of text, loaded in {seconds:.2} s, {own} MiB kept, the process grew by {grown} MiB",
        text.len() / 1_000_000
    );
    contents
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let mut sizes: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![1000, 1_000_000];
    }
    let signer = || Signer::new(vec![Key::generate(Algorithm::Ecdsap256).unwrap().0]).map(Arc::new);
    for (names, signer) in sizes.into_iter().flat_map(|names| [(names, None), (names, signer())]) {
        let state = PoolState { up: u64::MAX, ttl_most_s: u32::MAX };
        let zone = Arc::new(Zone::new(Arc::new(load(names, signer.as_ref())), &[state; 3], 1, 0));
        let settings = Settings::default();
        let (mut scratch, mut ahead) = (Scratch::new(Arc::default(), &settings, 1), Ahead::default());
        let steering = steering();
        let snapshot = Snapshot::new(vec![zone], Arc::new(settings)).with(steering.clone());
        if signer.is_some() {
            println!("  signed, each set and name asked for before:");
        }
        let kinds: [(&str, Ask); 6] = [
            ("static", Box::new(move |n| format!("host-{}.company.example.", scattered(n * 7919 % names)))),
            ("pool", Box::new(|_| "pool.company.example.".to_owned())),
            ("stripe", Box::new(|_| "stripe.company.example.".to_owned())),
            ("dynamic", Box::new(|_| "dynamic.company.example.".to_owned())),
            ("shared", Box::new(|_| "dynamic.company.example.".to_owned())),
            ("missing", Box::new(|n| format!("no-{n}.company.example."))),
        ];
        let is_meant = |kind: &str| arguments.iter().any(|argument| argument == kind);
        let all = !kinds.iter().any(|(kind, _)| is_meant(kind));
        for (kind, name) in kinds.into_iter().filter(|(kind, _)| all || is_meant(kind)) {
            // So many that their signatures are all kept.
            let many = if signer.is_some() { 1000 } else { 100_000 };
            // As many resolvers, far from each other.
            let from = |n: usize| IpAddr::from((n as u32).wrapping_mul(0x9e37_79b1).to_be_bytes());
            let queries: Vec<(IpAddr, Vec<u8>)> =
                (0..many).map(|n| (from(n), query(&name(n), signer.is_some()))).collect();
            let mut best = f64::INFINITY;
            let teller = (kind == "shared").then(|| tell(&steering));
            for round in 0..if quick { 3 } else { 20 } {
                let mut out = [0; 1232];
                let start = Instant::now();
                for (first, batch) in queries.chunks(MOST).enumerate() {
                    ahead.look(&snapshot, batch.len(), |i| &batch[i].1, |i| Some(batch[i].0));
                    // Time goes on, as it does for a million queries a second.
                    let unix_ms = (round * 1000 + first * MOST / 1000) as u64;
                    for (i, (from, message)) in batch.iter().enumerate() {
                        let (from, to, foreseen) = (*from, [192, 0, 2, 1].into(), ahead.foreseen(i));
                        let asked =
                            Asked { message, from, to, transport: Transport::Udp, now_ms: 0, unix_ms, foreseen };
                        let outcome = answer(&asked, &snapshot, &mut scratch, &mut out);
                        assert!(matches!(black_box(outcome), Outcome::Answer(_)));
                    }
                }
                best = best.min(start.elapsed().as_nanos() as f64 / queries.len() as f64);
            }
            println!("  {kind:8} {best:6.1} ns");
            drop(teller);
        }
    }
}
