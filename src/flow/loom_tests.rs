//! The protocols of the table in every order that the memory model allows (up to a number of preemptions), on tables
//! of one bucket and a few records. Where one thread only looks, it is the spawned one: loom begins with the other, and finds the
//! orders to try where the later thread meets what the earlier one wrote. Run with `cargo test --features loom --lib --release loom_`.

use super::*;
use crate::wire::ip::{Endpoint, FlowKey, TCP, V4};
use loom::sync::Arc;
use loom::thread;
use tcp::{ACK, FIN};

const KEY: HashKey = HashKey { k0: 1, k1: 2 };

fn v4(last: u8, port: u16) -> Endpoint {
    Endpoint::new([10, 0, 0, last].into(), port)
}

/// Carried to a remote site from a local port of its own, or from one that another flow may have as well.
fn remote(client: u8, local: u16, worker: u8) -> NewFlow {
    NewFlow {
        family: V4,
        target_family: V4,
        protocol: TCP,
        mode: Mode::Remote,
        encapsulation: Encapsulation::Ipip,
        client: v4(client, 40_000),
        vip: v4(100, 110),
        local: v4(250, local),
        target: v4(200, 110),
        target_slot: 0,
        pool: None,
        worker,
        track_acks: false,
        per_packet: false,
        state: State::Established,
        hops: [0, 0],
        epoch: 0,
        stamp: 0,
    }
}

fn direct(client: u8, worker: u8) -> NewFlow {
    NewFlow { mode: Mode::Direct, ..remote(client, 0, worker) }
}

fn table(records: usize, workers: usize) -> Arc<FlowTable> {
    Arc::new(FlowTable::with_buckets(records, 1, workers, KEY))
}

fn insert(table: &FlowTable, new: &NewFlow) -> Result<Flow, Refused> {
    table.insert(new, table.hash(&new.client_key()), 0)
}

fn find(table: &FlowTable, key: &FlowKey) -> Option<Flow> {
    table.lookup(key, table.hash(key))
}

fn server_key(new: &NewFlow) -> FlowKey {
    new.server_key().expect("two-sided")
}

fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(check);
}

/// Two workers insert the same connection: one gets it, the other hears of its twin and leaves nothing.
#[test]
fn loom_twins_by_the_client_key() {
    model(5, || {
        let table = table(2, 2);
        let other = table.clone();
        let thread = thread::spawn(move || insert(&other, &direct(1, 1)));
        let mine = insert(&table, &direct(1, 0));
        let theirs = thread.join().expect("it ends");
        let (winner, loser) = if mine.is_ok() { (mine, theirs) } else { (theirs, mine) };
        assert_eq!(loser, Err(Refused::Twin));
        assert_eq!(find(&table, &direct(1, 0).client_key()), winner.ok());
        assert_eq!((table.len(), table.words()), (1, 1));
    });
}

/// As before, but a third flow leaves meanwhile and the two may take different places, so that neither stumbles over the
/// other's word by its CAS: what keeps them from missing each other is the fence alone.
#[test]
fn loom_twins_in_different_places() {
    model(5, || {
        let table = table(3, 2);
        let third = insert(&table, &direct(9, 0)).expect("room");
        let other = table.clone();
        let thread = thread::spawn(move || insert(&other, &direct(1, 1)));
        table.remove(third.at).expect("it stands");
        let mine = insert(&table, &direct(1, 0));
        let theirs = thread.join().expect("it ends");
        let (winner, loser) = if mine.is_ok() { (mine, theirs) } else { (theirs, mine) };
        assert_eq!(loser, Err(Refused::Twin));
        assert_eq!(find(&table, &direct(1, 0).client_key()), winner.ok());
        assert_eq!((table.len(), table.words()), (1, 1));
    });
}

/// Two clients want the same local port towards the same target: one gets it.
#[test]
fn loom_twins_by_the_server_key() {
    model(3, || {
        let table = table(2, 2);
        let other = table.clone();
        let thread = thread::spawn(move || insert(&other, &remote(2, 7, 1)));
        let mine = insert(&table, &remote(1, 7, 0));
        let theirs = thread.join().expect("it ends");
        let (winner, loser) = if mine.is_ok() { (mine, theirs) } else { (theirs, mine) };
        assert_eq!(loser, Err(Refused::ServerTwin));
        let winner = winner.expect("one of them gets it");
        assert_eq!(find(&table, &winner.key(Side::Client)), Some(winner));
        assert_eq!(find(&table, &winner.key(Side::Server)).map(|flow| flow.at), Some(winner.at));
        assert_eq!((table.len(), table.words()), (1, 2));
    });
}

/// Three at once: never two winners. That all three lose is allowed (each to another), that two win is not.
#[test]
fn loom_three_twins() {
    model(2, || {
        let table = table(3, 3);
        let threads = [1, 2].map(|worker| {
            let other = table.clone();
            thread::spawn(move || insert(&other, &direct(1, worker)))
        });
        let mut winners = usize::from(insert(&table, &direct(1, 0)).is_ok());
        for thread in threads {
            winners += usize::from(thread.join().expect("it ends").is_ok());
        }
        assert!(winners <= 1);
        assert_eq!((table.len() as usize, table.words()), (winners, winners));
    });
}

/// A flow comes as a whole: who has seen one side of it sees the other.
#[test]
fn loom_both_sides_appear_at_once() {
    model(5, || {
        let table = table(1, 1);
        let new = remote(1, 7, 0);
        let other = table.clone();
        let thread = thread::spawn(move || {
            let first = find(&other, &new.client_key());
            (first, find(&other, &server_key(&new)))
        });
        let flow = insert(&table, &new).expect("room");
        let (first, second) = thread.join().expect("it ends");
        assert!(first.is_none() || second.is_some());
        assert!(first.is_none_or(|first| first == flow));
    });
}

/// A record is used again while a reader looks: the reader sees the old flow, the new one or none, never a mix.
#[test]
fn loom_views_are_whole() {
    model(3, || {
        let table = table(1, 1);
        // The same client, all else differs.
        let (old, new) = (remote(1, 7, 0), NewFlow { target: v4(201, 25), hops: [3, 4], ..remote(1, 8, 0) });
        let flow = insert(&table, &old).expect("room");
        let other = table.clone();
        let thread = thread::spawn(move || find(&other, &old.client_key()));
        table.remove(flow.at).expect("it stands");
        insert(&table, &new).expect("room");
        if let Some(seen) = thread.join().expect("it ends") {
            let expected = if seen.local.port == 7 { old } else { new };
            assert_eq!((seen.target, seen.local, seen.hops), (expected.target, expected.local, expected.hops));
        }
        assert!(find(&table, &new.client_key()).is_some() && find(&table, &server_key(&old)).is_none());
    });
}

/// Two removals of one flow, by a packet and by the sweep for instance: one of them does it.
#[test]
fn loom_one_remover() {
    model(5, || {
        let table = table(1, 1);
        let flow = insert(&table, &remote(1, 7, 0)).expect("room");
        let other = table.clone();
        let thread = thread::spawn(move || other.remove(flow.at).is_some());
        let mine = table.remove(flow.at).is_some();
        assert!(mine != thread.join().expect("it ends"));
        assert_eq!((table.len(), table.words()), (0, 0));
        insert(&table, &remote(2, 7, 0)).expect("the record is free again");
    });
}

/// A flow is removed while its connection is inserted anew: the new one gets in or finds its twin, and nothing is left over.
#[test]
fn loom_insert_against_remove() {
    model(5, || {
        let table = table(2, 2);
        let flow = insert(&table, &direct(1, 0)).expect("room");
        let other = table.clone();
        let thread = thread::spawn(move || insert(&other, &direct(1, 1)));
        table.remove(flow.at).expect("it stands");
        let again = thread.join().expect("it ends");
        assert!(matches!(again, Ok(_) | Err(Refused::Twin)));
        assert_eq!(find(&table, &direct(1, 0).client_key()), again.ok());
        assert_eq!(table.words(), usize::from(again.is_ok()));
    });
}

/// A worker that is still at an ended flow changes nothing of the one that has its record now.
#[test]
fn loom_stale_views_change_nothing() {
    model(5, || {
        let table = table(1, 1);
        let mut old = insert(&table, &direct(1, 0)).expect("room");
        let other = table.clone();
        let thread = thread::spawn(move || {
            other.advance(&mut old, tcp::RST);
            other.set_hop(&mut old, Side::Client, 9, 0);
            other.remove(old.at).is_some()
        });
        let mine = table.remove(old.at).is_some();
        if mine {
            let new = insert(&table, &direct(2, 0)).expect("room");
            assert!(!thread.join().expect("it ends"));
            assert_eq!(find(&table, &new.key(Side::Client)), Some(new));
        } else {
            assert!(thread.join().expect("it ends"));
        }
    });
}

/// Both ends close at one moment, on two workers: neither FIN is forgotten, and neither hop.
#[test]
fn loom_steps_of_both_sides_count() {
    model(5, || {
        let table = table(1, 1);
        let new = remote(1, 7, 0);
        let mut client = insert(&table, &new).expect("room");
        let mut server = find(&table, &server_key(&new)).expect("it stands");
        let other = table.clone();
        let thread = thread::spawn(move || {
            other.advance(&mut server, FIN | ACK);
            other.set_hop(&mut server, Side::Client, 3, 0);
        });
        table.advance(&mut client, FIN | ACK);
        table.set_hop(&mut client, Side::Server, 4, 0);
        thread.join().expect("it ends");
        let flow = find(&table, &new.client_key()).expect("it stands");
        assert_eq!((flow.state, flow.hops), (State::Closing, [3, 4]));
    });
}

/// The last FIN comes while the record is taken away: the packet has closed the connection, or the removal finds it open.
#[test]
fn loom_closed_by_a_packet_or_by_the_end() {
    model(5, || {
        let table = table(1, 1);
        let new = NewFlow { state: State::ClientFin, ..remote(1, 7, 0) };
        let flow = insert(&table, &new).expect("room");
        let mut server = find(&table, &server_key(&new)).expect("it stands");
        let other = table.clone();
        let thread = thread::spawn(move || {
            if other.details(server.at).is_none() {
                return false;
            }
            let (before, after) = other.advance(&mut server, FIN | ACK);
            is_open(before, false) && !is_open(after, false)
        });
        let gone = table.remove(flow.at).expect("nobody else removes it");
        let told = thread.join().expect("it ends");
        assert!(told != is_open(gone.flow.state, false), "{:?}", gone.flow.state);
    });
}

/// Records are given out once, also when two workers live from one range and give back meanwhile (ABA).
#[test]
fn loom_records_are_given_out_once() {
    use super::free::FreeList;
    use super::record::Record;
    model(5, || {
        let records: Arc<Vec<Record>> = Arc::new((0..2).map(|_| Record::default()).collect());
        let list = Arc::new(FreeList::new(&records, 1));
        let (their_records, their_list) = (records.clone(), list.clone());
        let thread = thread::spawn(move || {
            let first = their_list.take(&their_records, 0);
            let second = their_list.take(&their_records, 0);
            first.into_iter().for_each(|first| their_list.give(&their_records, first));
            second
        });
        let mine = list.take(&records, 0);
        let theirs = thread.join().expect("it ends");
        let rest = list.take(&records, 0);
        let mut out: Vec<u32> = [mine, theirs, rest].into_iter().flatten().collect();
        out.sort_unstable();
        assert_eq!(out, [0, 1]);
        assert_eq!(list.used(), 2);
    });
}
