//! The protocols of one place in every order that the memory model allows. Run with
//! `cargo test --features loom --lib --release loom_affinity`.

use super::*;
use loom::sync::Arc;
use loom::thread;

const SOUTH: SiteNumber = SiteNumber(0);
const NORTH: SiteNumber = SiteNumber(1);
const POOL: Share = Share(7);

fn who(last: u8) -> Who {
    Who([last; 16])
}

fn store() -> Arc<Store> {
    Arc::new(Store::new(1, (1, 2)))
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// A question meets another resolver's record as it takes the place: it gets its own site or none, and leaves the other's stamp alone.
#[test]
fn loom_affinity_a_hit_never_takes_anothers_record() {
    model(|| {
        let store = store();
        store.put(who(1), POOL, SOUTH, 10, 1000, u64::MAX);
        let other = store.clone();
        let thread = thread::spawn(move || other.follow(who(1), POOL, 5000, u64::MAX));
        store.put(who(2), POOL, NORTH, 10, 2000, u64::MAX);
        assert!(matches!(thread.join().expect("it ends"), None | Some(SOUTH)));
        let record = store.read(who(2), POOL).expect("it took the only place");
        assert_eq!((record.site, record.stamp_ms, record.hits), (NORTH, 2000, 0));
    });
}

/// Two first questions of one resolver: both are sent to one site.
#[test]
fn loom_affinity_first_questions_at_once_agree() {
    model(|| {
        let store = store();
        let other = store.clone();
        let thread = thread::spawn(move || other.put(who(1), POOL, SOUTH, 10, 1000, u64::MAX));
        let mine = store.put(who(1), POOL, NORTH, 10, 1000, u64::MAX);
        assert_eq!(thread.join().expect("it ends"), mine);
        assert_eq!(store.read(who(1), POOL).map(|record| record.site), Some(mine));
        assert_eq!(store.counts().records, 1);
    });
}

/// A hit while changes are collected: it is among these, or among the next.
#[test]
fn loom_affinity_no_change_is_lost() {
    model(|| {
        let store = store();
        store.put(who(1), POOL, SOUTH, 10, 1000, u64::MAX);
        let other = store.clone();
        let thread = thread::spawn(move || other.follow(who(1), POOL, 2000, u64::MAX));
        let mut told = Vec::new();
        store.changes(Consumer::Links, 0, 10, &mut told);
        assert_eq!(thread.join().expect("it ends"), Some(SOUTH));
        store.changes(Consumer::Links, 0, 10, &mut told);
        assert_eq!(told.last().map(|record| (record.stamp_ms, record.hits)), Some((2000, 1)));
    });
}
