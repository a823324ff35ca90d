//! What a packet pays for the flow table, beside general-purpose concurrent maps under the same hash.
//!
//! `cargo bench --bench flow_table -- [--quick] [FLOWS...]`. One thread; nanoseconds per operation. Each flow
//! has two keys, as a forwarder needs it; the maps hold two entries of 128 bytes for it. "burst" hashes 32 keys, asks for
//! their buckets, then their records, then looks them up; the maps offer no such thing. Every figure includes making the
//! key from a number and, but for "key", the hash.

use farside::flow::{Encapsulation, Flow, FlowTable, HashKey, Hint, Mode, NewFlow, State};
use farside::wire::ip::{Addr, Endpoint, FlowKey, TCP, V4};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::hint::black_box;
use std::time::Instant;

const KEY: HashKey = HashKey { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };
const BURST: usize = 32;

/// A key with its hash, so that every contender hashes once, and the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hashed {
    hash: u64,
    key: FlowKey,
}

impl Hashed {
    fn of(key: FlowKey) -> Hashed {
        Hashed { hash: KEY.hash(&key), key }
    }
}

impl Hash for Hashed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys write their hash");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type Build = BuildHasherDefault<AsIs>;
type Value = [u64; 16];

fn end(net: u32, number: u64) -> Endpoint {
    let addr = Addr([(net << 24 | (number >> 16) as u32 & 0xff_ffff).to_be(), 0, 0, 0]);
    Endpoint { addr, port: number as u16 }
}

/// Connection number `number`, as carried to a remote site.
fn flow(number: u64) -> NewFlow {
    NewFlow {
        family: V4,
        target_family: V4,
        protocol: TCP,
        mode: Mode::Remote,
        encapsulation: Encapsulation::Ipip,
        client: end(10, number),
        vip: Endpoint { addr: Addr::v4([192, 0, 2, 1]), port: 110 },
        local: end(11, number),
        target: Endpoint { addr: Addr::v4([198, 51, 100, 1]), port: 110 },
        target_slot: 0,
        pool: None,
        worker: 0,
        track_acks: false,
        per_packet: false,
        state: State::Established,
        hops: [1, 1],
        epoch: 0,
        stamp: 0,
    }
}

fn keys(number: u64) -> [FlowKey; 2] {
    let flow = flow(number);
    [flow.client_key(), flow.server_key().unwrap_or(flow.client_key())]
}

/// Numbers without order (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * u128::from(limit)) >> 64) as u64
    }

    /// A key of one of `flows` flows, either side of it.
    fn key(&mut self, flows: u64) -> FlowKey {
        let number = self.below(2 * flows);
        keys(number / 2)[number as usize % 2]
    }
}

/// Nanoseconds per operation: the lower quartile of many short rounds, as other processes only ever add to it.
fn timed(rounds: u64, operations: u64, mut round: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed().as_nanos() as f64 / operations as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 4]
}

/// Keeps the compiler from leaving out what made the value.
fn seen<T>(value: T) {
    black_box(value);
}

/// Operations of a round: about as long as one process is left alone on a busy machine.
const OPERATIONS: u64 = 3_200;

struct Case {
    flows: u64,
    rounds: u64,
}

/// A hit reads what a rewrite needs.
fn rewrite(flow: &Option<Flow>) -> Option<u64> {
    let flow = flow.as_ref()?;
    let [local, target] = [&flow.local, &flow.target].map(|end| u64::from(end.addr.0[0]) + u64::from(end.port));
    Some(local + target + u64::from(flow.hops[0]) + flow.state as u64)
}

type Row = (&'static str, &'static str, f64);

impl Case {
    fn each(&self, mut operation: impl FnMut(&mut Random)) -> f64 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        timed(self.rounds, OPERATIONS, || (0..OPERATIONS).for_each(|_| operation(&mut random)))
    }

    /// From empty to full.
    fn fill(&self, mut insert: impl FnMut(u64)) -> f64 {
        let (rounds, mut next) = (20, 0);
        timed(rounds, self.flows / rounds, || {
            (0..self.flows / rounds).for_each(|_| {
                insert(next);
                next += 1;
            });
        })
    }

    fn farside(&self) -> Vec<Row> {
        let flows = self.flows;
        let table = FlowTable::new(flows as u32, 1, KEY);
        let insert = |number: u64| -> Option<Flow> {
            let flow = flow(number);
            table.insert(&flow, table.hash(&flow.client_key()), 0).ok()
        };
        let lookup = |key: &FlowKey| table.lookup(key, table.hash(key));
        let name = "farside";
        let mut rows: Vec<Row> = vec![("key", name, self.each(|random| seen(random.key(flows))))];
        rows.push(("hash", name, self.each(|random| seen(table.hash(&random.key(flows))))));
        rows.push(("insert", name, self.fill(|i| seen(insert(i)))));
        rows.push(("hit", name, self.each(|random| seen(rewrite(&lookup(&random.key(flows)))))));
        let mut hits = 0;
        rows.push((
            "hit, burst",
            name,
            self.bursts(
                &table,
                |random| random.key(flows),
                |flow| hits += u64::from(black_box(rewrite(&flow)).is_some()),
            ),
        ));
        assert!(hits as f64 >= 0.999 * (OPERATIONS * self.rounds) as f64, "keys that are there are found");
        let count = |flow: Option<Flow>| {
            seen(rewrite(&flow));
            flow.iter().for_each(|flow| table.touch(flow, 1, 1, 60));
        };
        rows.push(("hit and count, burst", name, self.bursts(&table, |random| random.key(flows), count)));
        let absent = |random: &mut Random| keys(flows + random.below(flows))[0];
        rows.push(("miss", name, self.each(|random| seen(rewrite(&lookup(&absent(random)))))));
        rows.push(("miss, burst", name, self.bursts(&table, absent, |flow| seen(rewrite(&flow)))));
        let mut steps = self.turns();
        let turnover = self.each(|_| {
            let (old, new) = steps();
            if let Some(flow) = lookup(&keys(old)[0]) {
                table.remove(flow.at);
                insert(new);
            }
        });
        rows.push(("turnover", name, turnover));
        rows
    }

    /// Which flow goes and which comes in its stead, all over the table, each flow once a round.
    fn turns(&self) -> impl FnMut() -> (u64, u64) + use<> {
        // Of no factor in common with powers of ten.
        const STRIDE: u64 = 7_368_787;
        let flows = self.flows;
        let mut step = 0;
        move || {
            let old = step * STRIDE % flows + step / flows * flows;
            step += 1;
            (old, old + flows)
        }
    }

    fn bursts(
        &self,
        table: &FlowTable,
        mut key: impl FnMut(&mut Random) -> FlowKey,
        mut result: impl FnMut(Option<Flow>),
    ) -> f64 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut burst = [keys(0)[0]; BURST];
        timed(self.rounds, OPERATIONS, || {
            for _ in 0..OPERATIONS / BURST as u64 {
                let mut hints = [Hint::of(0); BURST];
                for (key_of, hint) in burst.iter_mut().zip(&mut hints) {
                    *key_of = key(&mut random);
                    *hint = table.prefetch(key_of);
                }
                hints = hints.map(|hint| table.prefetch_record(hint.hash, V4));
                for hint in &mut hints {
                    if !hint.leads_on() {
                        *hint = table.prefetch_late(hint.hash, V4);
                    }
                }
                for (key, hint) in burst.iter().zip(hints) {
                    result(table.follow(key, hint));
                }
            }
        })
    }

    /// A general-purpose map, by its three operations.
    fn map(
        &self,
        name: &'static str,
        insert: impl Fn(Hashed, Value),
        hit: impl Fn(&Hashed) -> Option<u64>,
        remove: impl Fn(&Hashed) -> bool,
    ) -> Vec<Row> {
        let flows = self.flows;
        let both = |number: u64| keys(number).into_iter().for_each(|key| insert(Hashed::of(key), [number; 16]));
        let mut rows: Vec<Row> = vec![("insert", name, self.fill(both))];
        rows.push(("hit", name, self.each(|random| seen(hit(&Hashed::of(random.key(flows)))))));
        let absent = |random: &mut Random| Hashed::of(keys(flows + random.below(flows))[0]);
        rows.push(("miss", name, self.each(|random| seen(hit(&absent(random))))));
        let mut steps = self.turns();
        let turnover = self.each(|_| {
            let (old, new) = steps();
            if keys(old).iter().filter(|key| remove(&Hashed::of(**key))).count() == 2 {
                both(new);
            }
        });
        rows.push(("turnover", name, turnover));
        rows
    }

    fn all(&self) -> Vec<Row> {
        let mut rows = self.farside();
        let flows = 2 * self.flows as usize;
        // As much as `rewrite` reads.
        let read = |value: &Value| value[..4].iter().sum::<u64>();
        {
            let map = dashmap::DashMap::<Hashed, Value, Build>::with_capacity_and_hasher(flows, Build::default());
            rows.extend(self.map(
                "dashmap",
                |key, value| seen(map.insert(key, value).is_none()),
                |key| map.get(key).map(|value| read(&value)),
                |key| map.remove(key).is_some(),
            ));
        }
        {
            let map = papaya::HashMap::<Hashed, Value, Build>::with_capacity_and_hasher(flows, Build::default());
            rows.extend(self.map(
                "papaya",
                |key, value| seen(map.pin().insert(key, value).is_none()),
                |key| map.pin().get(key).map(read),
                |key| map.pin().remove(key).is_some(),
            ));
        }
        {
            let map = scc::HashMap::<Hashed, Value, Build>::with_capacity_and_hasher(flows, Build::default());
            rows.extend(self.map(
                "scc",
                |key, value| seen(map.insert_sync(key, value).is_ok()),
                |key| map.read_sync(key, |_, value| read(value)),
                |key| map.remove_sync(key).is_some(),
            ));
        }
        rows
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let mut sizes: Vec<u64> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = if quick { vec![1_000, 100_000] } else { vec![1_000, 1_000_000, 10_000_000] };
    }
    let rounds = if quick { 100 } else { 1_000 };
    let contenders = ["farside", "dashmap", "papaya", "scc"];
    for flows in sizes {
        let rows = Case { flows, rounds }.all();
        println!("\n{flows} flows, ns per operation");
        println!("{:<22}{}", "", contenders.map(|name| format!("{name:>10}")).concat());
        let mut names: Vec<&str> = Vec::new();
        for (name, ..) in &rows {
            if !names.contains(name) {
                names.push(name);
            }
        }
        for name in names {
            let cells = contenders.map(|contender| {
                let cell = rows.iter().find(|row| (row.0, row.1) == (name, contender));
                cell.map_or(format!("{:>10}", "-"), |row| format!("{:>10.1}", row.2))
            });
            println!("{name:<22}{}", cells.concat());
        }
    }
}
