//! Many threads at once: what each thread knows for sure must hold.

use super::super::*;
use super::*;
use crate::wire::ip::FlowKey;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

const THREADS: usize = 4;
const ROUNDS: u64 = if cfg!(debug_assertions) { 60_000 } else { 600_000 };

/// A small generator (xorshift64*), so that runs can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// All threads insert, look up and remove the same few connections. Whoever inserted one owns it: nobody else's insert
/// succeeds meanwhile, both of its sides are found, and its removal succeeds.
#[test]
fn one_owner_per_key() {
    const CLIENTS: u64 = 24;
    // Fewer local ports than clients: the server's keys collide too.
    const LOCALS: u64 = 12;
    let table = table(20, THREADS);
    let owned_clients: Vec<AtomicU32> = (0..CLIENTS).map(|_| AtomicU32::new(0)).collect();
    let owned_locals: Vec<AtomicU32> = (0..LOCALS).map(|_| AtomicU32::new(0)).collect();
    let inserted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, owned_clients, owned_locals, inserted) = (&table, &owned_clients, &owned_locals, &inserted);
            scope.spawn(move || {
                let me = thread as u32 + 1;
                let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(me));
                let mut mine: Vec<(u64, u64, Flow)> = Vec::new();
                for round in 0..ROUNDS {
                    let (client, local) = (random.below(CLIENTS), random.below(LOCALS));
                    let new =
                        NewFlow { worker: thread as u8, ..remote(v4(client as u8, 40_000), v4(250, local as u16)) };
                    match random.below(3) {
                        0 if mine.len() < 5 => {
                            if let Ok(flow) = insert(table, &new, round as u32) {
                                assert_eq!(owned_clients[client as usize].swap(me, SeqCst), 0, "two owners");
                                assert_eq!(owned_locals[local as usize].swap(me, SeqCst), 0, "two owners");
                                inserted.fetch_add(1, SeqCst);
                                mine.push((client, local, flow));
                            }
                        }
                        1 if !mine.is_empty() => {
                            let (client, local, flow) = mine.swap_remove(random.below(mine.len() as u64) as usize);
                            for side in [Side::Client, Side::Server] {
                                let found = find(table, &flow.key(side)).expect("it stands");
                                assert_eq!((found.at, found.side), (flow.at, side));
                                table.touch(&found, 0, 1, 1);
                            }
                            owned_clients[client as usize].store(0, SeqCst);
                            owned_locals[local as usize].store(0, SeqCst);
                            let details = table.remove(flow.at).expect("nobody else removes it");
                            assert_eq!(details.packets, [1, 1]);
                        }
                        _ => {
                            for key in [new.client_key(), new.server_key().expect("two-sided")] {
                                if let Some(flow) = find(table, &key) {
                                    assert_eq!(flow.key(flow.side), key, "a torn view");
                                    assert_eq!((flow.target, flow.vip), (new.target, new.vip));
                                }
                            }
                        }
                    }
                }
                for (client, local, flow) in mine {
                    owned_clients[client as usize].store(0, SeqCst);
                    owned_locals[local as usize].store(0, SeqCst);
                    table.remove(flow.at).expect("it stands");
                }
            });
        }
    });
    assert!(inserted.into_inner() > 1000);
    settled(&table);
}

/// Everyone removes what anyone has inserted, sweeps included: each insert is answered by one removal, and one only.
#[test]
fn one_remover_per_flow() {
    const CLIENTS: u64 = 64;
    let table = table(64, THREADS);
    let (inserted, removed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, inserted, removed) = (&table, &inserted, &removed);
            scope.spawn(move || {
                let mut random = Random(77 + thread as u64);
                let short = Timeouts { tcp_syn: 20, ..TIMEOUTS };
                for round in 0..ROUNDS {
                    let now = round as u32 / 8;
                    let new = NewFlow { worker: thread as u8, ..nat(v4(random.below(CLIENTS) as u8, 40_000)) };
                    let key = new.client_key();
                    match (random.below(4), find(table, &key)) {
                        (0, _) => {
                            table.sweep(thread, 4, now, 1, &short, |_| {
                                removed.fetch_add(1, SeqCst);
                            });
                        }
                        (1, Some(flow)) => {
                            if table.remove(flow.at).is_some() {
                                removed.fetch_add(1, SeqCst);
                            }
                        }
                        (_, Some(mut flow)) => {
                            assert_eq!(flow.key(Side::Client), key);
                            table.set_hop(&mut flow, Side::Client, 9, 1);
                            table.touch(&flow, now, 1, 1);
                        }
                        (_, None) => {
                            if insert(table, &new, now).is_ok() {
                                inserted.fetch_add(1, SeqCst);
                            }
                        }
                    }
                }
            });
        }
    });
    let mut left = 0;
    for worker in 0..THREADS {
        left += u64::from(table.sweep(worker, 64, 1 << 30, 1, &TIMEOUTS, |_| ()));
    }
    assert_eq!(inserted.into_inner(), removed.into_inner() + left);
    settled(&table);
}

/// Nothing is left, and all of it can be used again.
fn settled(table: &FlowTable) {
    assert!(table.is_empty());
    assert_eq!(table.words(), 0);
    for i in 0..table.capacity() {
        let new = NewFlow { worker: (i % 3) as u8, ..nat(v4(1, i as u16)) };
        insert(table, &new, 0).expect("all records are free");
    }
    assert_eq!(table.words(), 2 * table.capacity() as usize);
}

/// Readers see a flow whole, or not at all, while its record is used again and again for two others.
#[test]
fn views_are_whole() {
    let table = table(1, 1);
    // Every field of one differs from that of the other.
    let one = NewFlow { family: V6, vip: v6(9, 9), target: v6(8, 8), ..nat6(v6(1, 1)) };
    let two = NewFlow { vip: v6(19, 19), target: v6(18, 18), hops: [1, 2], epoch: 5, ..nat6(v6(11, 11)) };
    let done = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    for new in [&one, &two] {
                        let keys: [FlowKey; 2] = [new.client_key(), new.server_key().expect("two-sided")];
                        for flow in keys.iter().filter_map(|key| find(&table, key)) {
                            assert_eq!(
                                (flow.client, flow.vip, flow.local, flow.target, flow.hops, flow.epoch),
                                (new.client, new.vip, new.local, new.target, new.hops, new.epoch)
                            );
                            seen.fetch_add(1, SeqCst);
                        }
                    }
                }
            });
        }
        for _ in 0..ROUNDS / 2 {
            for new in [&one, &two] {
                let flow = insert(&table, new, 0).expect("room");
                table.remove(flow.at).expect("it stands");
            }
        }
        done.store(true, SeqCst);
    });
    settled(&table);
}

#[test]
fn no_port_is_lent_twice() {
    let ledger = Ledger::new(2);
    let key = PoolKey { pip: v4(250, 0).addr, remote: v4(200, 110), protocol: TCP, family: V4 };
    let pool = ledger.open(key, 1000..=1031, |_| false).expect("a pool");
    let out: Vec<AtomicBool> = (0..1 << 16).map(|_| AtomicBool::new(false)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (ledger, out) = (&ledger, &out);
                // Two threads per worker, which is more than the ledger is asked to serve.
                scope.spawn(move || {
                    let mut random = Random(5 + thread as u64);
                    let mut mine = Vec::new();
                    for _ in 0..ROUNDS {
                        if random.below(2) == 0 {
                            if let Some(port) = ledger.lend(pool, thread % 2, 0) {
                                assert!(!out[usize::from(port)].swap(true, SeqCst), "lent twice");
                                assert_eq!(usize::from(port) % 2, thread % 2);
                                mine.push(port);
                            }
                        } else if !mine.is_empty() {
                            let port = mine.swap_remove(random.below(mine.len() as u64) as usize);
                            out[usize::from(port)].store(false, SeqCst);
                            assert!(ledger.give_back(pool, port, 0));
                        }
                    }
                    for port in mine {
                        out[usize::from(port)].store(false, SeqCst);
                        assert!(ledger.give_back(pool, port, 0));
                    }
                })
            })
            .collect();
        // Reloads meanwhile.
        scope.spawn(|| {
            for i in 0u16.. {
                if done.load(SeqCst) {
                    break;
                }
                ledger.open(key, 1000 + i % 7..=1031 - i % 5, |_| false).expect("the pool");
            }
        });
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        done.store(true, SeqCst);
        assert!(results.iter().all(Result::is_ok));
    });
    ledger.open(key, 1000..=1031, |_| false).expect("the pool");
    let all: std::collections::BTreeSet<u16> = (0..2).flat_map(|worker| lend_all(&ledger, pool, worker)).collect();
    assert!(all.into_iter().eq(1000..=1031), "none is lost");
}

fn lend_all(ledger: &Ledger, pool: PoolId, worker: usize) -> Vec<u16> {
    std::iter::from_fn(|| ledger.lend(pool, worker, 0)).collect()
}
