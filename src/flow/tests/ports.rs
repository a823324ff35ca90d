//! The ledger never lends a port twice.

use super::super::ports::{Headroom, Ledger, OpenError, PoolId, PoolKey};
use super::v4;
use crate::wire::ip::{TCP, V4};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

fn key(remote: u16) -> PoolKey {
    PoolKey { pip: v4(250, 0).addr, remote: v4(200, remote), protocol: TCP, family: V4 }
}

fn open(ledger: &Ledger, ports: RangeInclusive<u16>) -> PoolId {
    ledger.open(key(110), ports, |_| false).expect("a pool")
}

#[test]
fn each_worker_lends_its_residue_and_all_of_it() {
    let ledger = Ledger::new(3);
    let pool = open(&ledger, 1024..=65535);
    assert_eq!(ledger.headroom(pool), Headroom { free: 64512, total: 64512 });
    let mut lent = BTreeSet::new();
    for worker in 0..3 {
        while let Some(port) = ledger.lend(pool, worker, 0) {
            assert!(usize::from(port) % 3 == worker && lent.insert(port));
        }
    }
    assert!(lent.into_iter().eq(1024..=65535));
    assert_eq!(ledger.headroom(pool), Headroom { free: 0, total: 64512 });
    assert_eq!(ledger.lend(pool, 3, 0), None);
    assert_eq!(ledger.lend(PoolId(1), 0, 0), None);
}

#[test]
fn a_predictable_ledger_lends_in_the_same_order_again_and_each_pool_in_its_own() {
    let order = |seed| {
        let ledger = Ledger::predictable(1, seed);
        [open(&ledger, 1024..=65535), ledger.open(key(995), 1024..=65535, |_| false).expect("a pool")]
            .map(|pool| (0..64512).map(|_| ledger.lend(pool, 0, 0).expect("a port")).collect::<Vec<_>>())
    };
    let [one, other] = order(7);
    assert_eq!(order(7), [one.clone(), other.clone()]);
    assert!(one != other && order(8)[0] != one && !one[..8].is_sorted());
    assert!(one.into_iter().collect::<BTreeSet<_>>().into_iter().eq(1024..=65535));
}

#[test]
fn the_first_order_is_random() {
    let first = |_| {
        let ledger = Ledger::new(1);
        let pool = open(&ledger, 1024..=65535);
        (0..8).map(|_| ledger.lend(pool, 0, 0)).collect::<Vec<_>>()
    };
    assert_ne!(first(0), first(1));
}

#[test]
fn a_returned_port_rests_and_waits_its_turn() {
    let ledger = Ledger::new(1);
    ledger.set_rest(10);
    let pool = open(&ledger, 5..=6);
    let start = u32::MAX - 5;
    let (a, b) = (ledger.lend(pool, 0, start).expect("a port"), ledger.lend(pool, 0, start).expect("a port"));
    assert!(ledger.give_back(pool, b, start) && ledger.give_back(pool, a, start.wrapping_add(1)));
    for wait in [0, 9] {
        assert_eq!(ledger.lend(pool, 0, start.wrapping_add(wait)), None);
    }
    // Another worker's clock was ahead.
    assert_eq!(ledger.lend(pool, 0, start.wrapping_sub(1)), None);
    assert_eq!(ledger.lend(pool, 0, start.wrapping_add(10)), Some(b));
    assert_eq!(ledger.lend(pool, 0, start.wrapping_add(10)), None);
    assert_eq!(ledger.lend(pool, 0, start.wrapping_add(11)), Some(a));
}

#[test]
fn only_what_is_out_comes_back() {
    let ledger = Ledger::new(1);
    let pool = open(&ledger, 5..=5);
    assert!(!ledger.give_back(pool, 5, 0) && !ledger.give_back(pool, 6, 0) && !ledger.give_back(PoolId(9), 5, 0));
    assert_eq!(ledger.lend(pool, 0, 0), Some(5));
    assert!(ledger.give_back(pool, 5, 0) && !ledger.give_back(pool, 5, 0));
    assert_eq!((ledger.lend(pool, 0, 0), ledger.lend(pool, 0, 0)), (Some(5), None));
}

#[test]
fn reserved_ports_and_port_zero_are_not_lent() {
    let ledger = Ledger::new(1);
    let pool = ledger.open(key(110), 0..=3, |port| port == 2).expect("a pool");
    let mut lent: Vec<u16> = std::iter::from_fn(|| ledger.lend(pool, 0, 0)).collect();
    lent.sort_unstable();
    assert_eq!(lent, [1, 3]);
}

#[test]
fn a_reload_changes_the_range_in_place() {
    let ledger = Ledger::new(1);
    let pool = open(&ledger, 10..=12);
    let out = ledger.lend(pool, 0, 0).expect("a port");
    assert_eq!(open(&ledger, 20..=21), pool);
    assert_eq!(ledger.headroom(pool).total, 2);
    let rest: BTreeSet<u16> = std::iter::from_fn(|| ledger.lend(pool, 0, 0)).collect();
    assert_eq!(rest, BTreeSet::from([20, 21]));
    // What was out of the old range comes back and stays.
    assert!(ledger.give_back(pool, out, 0));
    assert_eq!(ledger.lend(pool, 0, 0), None);
    // Old range again, 20 still out: it is lent when it is back, not before.
    assert_eq!(open(&ledger, 10..=20), pool);
    let lent: BTreeSet<u16> = std::iter::from_fn(|| ledger.lend(pool, 0, 0)).collect();
    assert!(lent.into_iter().eq(10..=19));
    assert!(ledger.give_back(pool, 20, 0));
    assert_eq!(ledger.lend(pool, 0, 0), Some(20));
}

#[test]
fn closed_pools_lend_no_more() {
    let ledger = Ledger::new(1);
    let pool = open(&ledger, 5..=9);
    let other = ledger.open(key(25), 5..=9, |_| false).expect("a pool");
    let out = ledger.lend(pool, 0, 0).expect("a port");
    ledger.close_others(&[other]);
    assert_eq!(ledger.lend(pool, 0, 0), None);
    assert!(ledger.lend(other, 0, 0).is_some() && ledger.give_back(pool, out, 0));
    assert_eq!(ledger.find(&key(110)), Some(pool));
}

#[test]
fn pools_have_a_maximum() {
    let ledger = Ledger::with_room(1, 3);
    let opened: Vec<_> = (0..4).map(|i| ledger.open(key(i), 1..=1, |_| false)).collect();
    assert_eq!(opened, [Ok(PoolId(0)), Ok(PoolId(1)), Ok(PoolId(2)), Err(OpenError::TooMany)]);
    assert_eq!(ledger.open(key(1), 1..=1, |_| false), Ok(PoolId(1)));
}

#[test]
fn low_is_nine_tenths() {
    assert!(!Headroom { free: 11, total: 100 }.is_low() && Headroom { free: 10, total: 100 }.is_low());
}

proptest! {
    #[test]
    fn the_ledger_is_a_set(steps in prop::collection::vec((0..5u8, any::<u16>(), 0..2usize), 1..300)) {
        let ledger = Ledger::new(2);
        ledger.set_rest(3);
        let mut range = 100..=119;
        let pool = open(&ledger, range.clone());
        let (mut now, mut out) = (0u32, BTreeSet::new());
        let mut back: HashMap<u16, u32> = HashMap::new();
        for (what, number, worker) in steps {
            match what {
                0 | 1 => match ledger.lend(pool, worker, now) {
                    Some(port) => {
                        prop_assert!(range.contains(&port) && usize::from(port) % 2 == worker && out.insert(port));
                        prop_assert!(back.get(&port).is_none_or(|then| now - then >= 3));
                    }
                    None => prop_assert!(range.clone().all(|port| usize::from(port) % 2 != worker
                        || out.contains(&port)
                        || back.get(&port).is_some_and(|then| now - then < 3))),
                },
                2 => {
                    let port = 95 + number % 40;
                    let was_out = out.remove(&port);
                    prop_assert_eq!(ledger.give_back(pool, port, now), was_out);
                    if was_out {
                        back.insert(port, now);
                    }
                }
                3 => now += u32::from(number % 3),
                _ if number % 8 == 0 => {
                    range = 100 + number / 8 % 5..=110 + number / 64 % 10;
                    prop_assert_eq!(open(&ledger, range.clone()), pool);
                    // New ports stand behind those that rest.
                    now += 3;
                }
                _ => {}
            }
        }
    }
}
