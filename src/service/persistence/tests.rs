use super::*;
use crate::wire::ip::V6;
use proptest::prelude::*;
use std::collections::HashMap;

const KEY: HashKey = HashKey { k0: 3, k1: 4 };

fn memory(clients: u32) -> Memory {
    Memory::new(clients, KEY)
}

fn client(memory: &Memory, number: u32) -> Client {
    memory.client(1, &Addr::v4(number.to_be_bytes()), V4, 32)
}

fn put(memory: &Memory, number: u32, slot: u16, now: Tick) -> Kept {
    memory.remember(client(memory, number), None, (slot, 0), now, 100)
}

fn slot(memory: &Memory, number: u32, now: Tick) -> Option<u16> {
    memory.find(client(memory, number), now, 100).map(|known| known.slot())
}

#[test]
fn a_client_is_known_until_its_time_is_over() {
    let memory = memory(64);
    assert_eq!(put(&memory, 7, 12345, 500), Kept::Mine { evicted: false });
    assert_eq!([500, 600, 601, 499].map(|now| slot(&memory, 7, now)), [Some(12345), Some(12345), None, Some(12345)]);
    assert_eq!(slot(&memory, 8, 500), None);
    let known = memory.find(client(&memory, 7), 600, 100).unwrap();
    memory.refresh(client(&memory, 7), known, 600);
    assert_eq!(slot(&memory, 7, 700), Some(12345));
    memory.refresh(client(&memory, 7), known, 800);
    assert_eq!(slot(&memory, 7, 800), None, "what has changed meanwhile is not touched");
}

#[test]
fn services_and_families_have_clients_of_their_own() {
    let memory = memory(1024);
    let addr = Addr::v4([198, 18, 0, 7]);
    let clients = [memory.client(1, &addr, V4, 32), memory.client(2, &addr, V4, 32), memory.client(1, &addr, V6, 128)];
    assert!(clients[0] != clients[1] && clients[0] != clients[2]);
}

#[test]
fn addresses_are_cut_at_the_bit() {
    let v6 = |text: &str| Addr::from(std::net::IpAddr::from(text.parse::<std::net::Ipv6Addr>().unwrap()));
    let v4 = |text: &str| Addr::from(std::net::IpAddr::from(text.parse::<std::net::Ipv4Addr>().unwrap()));
    assert!(cut(&v4("198.18.77.255"), V4, 32) == v4("198.18.77.255"));
    assert!(cut(&v4("198.18.77.255"), V4, 24) == v4("198.18.77.0"));
    assert!(cut(&v4("198.18.77.255"), V4, 17) == v4("198.18.0.0"));
    assert!(cut(&v4("198.18.77.255"), V4, 1) == v4("128.0.0.0"));
    let whole = "2001:db8:1:2:3:4:5:6";
    assert!(cut(&v6(whole), V6, 128) == v6(whole));
    assert!(cut(&v6(whole), V6, 64) == v6("2001:db8:1:2::"));
    assert!(cut(&v6(whole), V6, 47) == v6("2001:db8::"));
    assert!(cut(&v6(whole), V6, 97) == v6("2001:db8:1:2:3:4::"));
}

#[test]
fn a_word_holds_the_slots_life() {
    let memory = memory(64);
    memory.remember(client(&memory, 7), None, (16383, 61), 500, 100);
    let known = memory.find(client(&memory, 7), 500, 100).unwrap();
    assert!(known.slot() == 16383 && known.is_of(61) && !known.is_of(60) && known.is_of(61 + 64));
}

#[test]
fn a_full_bucket_forgets_the_client_that_was_away_for_longest() {
    // One bucket.
    let memory = memory(4);
    for number in 0..8 {
        assert_eq!(put(&memory, number, number as u16, 500 + number), Kept::Mine { evicted: false });
    }
    let known = memory.find(client(&memory, 0), 510, 100).unwrap();
    memory.refresh(client(&memory, 0), known, 510);
    assert_eq!(put(&memory, 8, 8, 511), Kept::Mine { evicted: true });
    let left: Vec<u32> = (0..9).filter(|number| slot(&memory, *number, 511).is_some()).collect();
    assert_eq!(left, [0, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn whoever_remembers_second_is_told_of_the_first() {
    let memory = memory(64);
    put(&memory, 7, 1, 500);
    let Kept::Others(first) = put(&memory, 7, 2, 500) else { panic!("a second word for one client") };
    assert_eq!(first.slot(), 1);
    // It knows of it, and its server takes none.
    let moved = memory.remember(client(&memory, 7), Some(first), (2, 0), 501, 100);
    assert_eq!((moved, slot(&memory, 7, 501), memory.clients()), (Kept::Mine { evicted: false }, Some(2), 1));
    assert_eq!(put(&memory, 7, 3, 602), Kept::Mine { evicted: false }, "its time is over");
    assert_eq!((slot(&memory, 7, 602), memory.clients()), (Some(3), 1), "in the same place");
}

#[test]
fn stamps_mean_the_same_before_and_after_they_wrap() {
    let memory = memory(64);
    let wrap = 1 << STAMP_BITS;
    put(&memory, 7, 1, wrap - 10);
    assert_eq!(
        [wrap - 10, wrap, wrap + 90, wrap + 91].map(|now| slot(&memory, 7, now)),
        [Some(1), Some(1), Some(1), None]
    );
}

#[test]
fn the_sweep_forgets_what_has_expired_and_what_is_no_servers() {
    let memory = memory(64);
    put(&memory, 1, 1, 500);
    put(&memory, 2, 2, 500);
    put(&memory, 3, 3, 500);
    let timeout = |slot| match slot {
        1 => 1000,
        2 => 100,
        _ => 0,
    };
    let mut cursor = memory.sweep(0, usize::MAX, 600, timeout);
    assert_eq!((memory.clients(), slot(&memory, 2, 600)), (2, Some(2)));
    for _ in 0..memory.buckets.len() {
        cursor = memory.sweep(cursor, 1, 601, timeout);
    }
    assert_eq!(memory.clients(), 1, "a bucket at a time, all in turn");
    memory.sweep(cursor, usize::MAX, 500 + OLDEST + 1, |_| u32::MAX);
    assert_eq!(memory.clients(), 0, "before a stamp could look young again");
}

/// How many clients a memory of the default size keeps when as many come as it is for.
#[test]
fn as_many_clients_as_asked_for_have_room_nearly_all() {
    let memory = memory(65536);
    let evicted = (0..65536).filter(|number| put(&memory, *number, 1, 500) == Kept::Mine { evicted: true }).count();
    println!("{evicted} of 65536 clients were evicted");
    // With four to a bucket of eight on average, Poisson has one in 170 buckets overflow by one or two.
    assert!(evicted < 65536 / 50, "{evicted}");
}

#[derive(Clone, Debug)]
enum Step {
    /// A client comes, and if it is not known it is given this server.
    Visit(u8, u16),
    /// Its server takes none: it is given another.
    Move(u8, u16),
    Wait(Tick),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), 0u16..100).prop_map(|(client, slot)| Step::Visit(client, slot)),
        2 => (any::<u8>(), 0u16..100).prop_map(|(client, slot)| Step::Move(client, slot)),
        2 => (0u32..40).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    /// Against a map that forgets nothing before its time: there is room for all.
    #[test]
    fn it_remembers_like_a_map(steps in prop::collection::vec(step(), 1..200)) {
        let memory = memory(4096);
        let mut model: HashMap<u8, (u16, Tick)> = HashMap::new();
        let mut now = (1 << STAMP_BITS) - 1000;
        for step in steps {
            match step {
                Step::Visit(number, slot) => {
                    let (client, fresh) = (client(&memory, number.into()), model.get(&number).filter(|m| now - m.1 <= 100));
                    let known = memory.find(client, now, 100);
                    prop_assert_eq!(known.map(|known| known.slot()), fresh.map(|(slot, _)| *slot));
                    let slot = fresh.map_or(slot, |(slot, _)| *slot);
                    match known {
                        Some(known) => memory.refresh(client, known, now),
                        None => prop_assert_eq!(put(&memory, number.into(), slot, now), Kept::Mine { evicted: false }),
                    }
                    model.insert(number, (slot, now));
                }
                Step::Move(number, slot) => {
                    let client = client(&memory, number.into());
                    let known = memory.find(client, now, 100);
                    let kept = memory.remember(client, known, (slot, 0), now, 100);
                    prop_assert_eq!(kept, Kept::Mine { evicted: false });
                    model.insert(number, (slot, now));
                }
                Step::Wait(ticks) => now += ticks,
                Step::Sweep => {
                    memory.sweep(0, usize::MAX, now, |_| 100);
                    model.retain(|_, (_, seen)| now - *seen <= 100);
                    prop_assert_eq!(memory.clients(), model.len());
                }
            }
        }
    }
}

/// Workers that remember, come again, move and sweep in few buckets: whatever a client finds, somebody has remembered for it.
#[test]
fn under_many_workers_every_answer_is_one_that_was_given() {
    let memory = memory(32);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let memory = &memory;
            scope.spawn(move || {
                for n in 0..40_000_u32 {
                    let number = (n.wrapping_mul(7919) ^ thread) % 100;
                    let (client, now) = (client(memory, number), 500 + n / 100);
                    match memory.find(client, now, 1000) {
                        Some(known) => {
                            assert_eq!(u32::from(known.slot()) / 10, number, "another client's server");
                            memory.refresh(client, known, now);
                            if n % 5 == 0 {
                                let slot = (number * 10 + n % 10) as u16;
                                memory.remember(client, Some(known), (slot, 0), now, 1000);
                            }
                        }
                        None => _ = memory.remember(client, None, ((number * 10) as u16, 0), now, 1000),
                    }
                    if n % 100 == 0 {
                        memory.sweep(n as usize, 4, now, |slot| if slot % 3 == 0 { 0 } else { 1000 });
                    }
                }
            });
        }
    });
    assert!(memory.clients() <= 64 && memory.clients() > 32, "{} words", memory.clients());
}
