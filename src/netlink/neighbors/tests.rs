use super::*;
use crate::route::{Target, Way};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn nth(i: u32) -> Neighbor {
    Neighbor::new(0, std::net::Ipv4Addr::from(0x0a00_0000 + i).into())
}

fn book() -> (Neighbors, Arc<HopTable>, Instant) {
    let hops = Arc::new(HopTable::new());
    let mut book = Neighbors::new(hops.clone(), 1);
    book.set_port(0, true, 1500);
    (book, hops, Instant::now())
}

#[test]
fn an_id_outlives_the_mac() {
    let (mut book, hops, now) = book();
    book.learn(nth(1), Some(MAC), false, now);
    let id = book.names(now)[&nth(1)];
    assert_eq!(hops.get(id), Some(Hop { mac: MAC, port: 0, mtu: 1500 }));
    book.learn(nth(1), None, false, now);
    assert_eq!(hops.get(id), None);
    book.learn(nth(1), Some(MAC), false, now);
    assert!(hops.is_valid(id));
    assert!(!book.changed && !book.revoked, "no new snapshot is needed");
}

#[test]
fn a_lost_neighbor_without_traffic_is_forgotten_and_its_id_rests() {
    let (mut book, hops, now) = book();
    book.learn(nth(1), Some(MAC), false, now);
    let id = book.names(now)[&nth(1)];
    book.learn(nth(1), None, false, now);
    hops.get(id);
    book.unconfirmed(now + FORGET - CONFIRM);
    assert!(!book.revoked, "packets still want it");
    let later = now + FORGET - CONFIRM + FORGET;
    book.unconfirmed(later);
    assert!(book.revoked && book.names(later).is_empty());
    // The id goes to somebody else only after the snapshot without it has been out for a while.
    book.free.clear();
    assert_eq!(book.take_id(later + REST / 2), None);
    assert_eq!(book.take_id(later + REST), Some(id));
}

#[test]
fn a_full_table_pushes_out_the_lost_first_then_the_longest_unused() {
    let (mut book, hops, start) = book();
    let room = MAX_HOPS as u32 - 2;
    for i in 0..room {
        book.learn(nth(i), Some(MAC), false, start + Duration::from_millis(i as u64));
    }
    let now = start + Duration::from_secs(60);
    book.set_gateways(HashMap::from([(nth(0), 0)]));
    book.learn(nth(9000), None, false, now);
    let names = book.names(now);
    assert_eq!(names.len() as u32, room);
    book.learn(nth(room), Some(MAC), false, now);
    assert!(book.starved && book.revoked);
    let left = book.names(now);
    assert_eq!(left.len() as u32, room - EVICT as u32);
    assert!(!left.contains_key(&nth(9000)), "lost");
    assert!(left.contains_key(&nth(0)), "a router stays");
    assert!(!left.contains_key(&nth(1)) && left.contains_key(&nth(EVICT as u32)), "longest unused");
    assert!(!hops.is_valid(names[&nth(1)]), "at once: readers of the old snapshot must not be misled");
    // No second wave of evictions while the ids rest.
    book.learn(nth(room), Some(MAC), false, now);
    assert!(!book.revoked);
    book.learn(nth(room), Some(MAC), false, now + REST);
    assert!(book.names(now).contains_key(&nth(room)));
}

#[test]
fn the_kernel_is_asked_once_a_second_and_not_for_what_is_known() {
    let (mut book, _, now) = book();
    assert!(book.want(nth(1), now));
    assert!(!book.want(nth(1), now));
    assert!(book.want(nth(1), now + ASK_EVERY));
    book.learn(nth(1), Some(MAC), false, now);
    assert!(!book.want(nth(1), now + ASK_EVERY * 3));
    book.set_port_up(0, false);
    assert!(!book.want(nth(2), now), "nobody answers on a dead link");
    assert!(!book.want(Neighbor { port: 200, ..nth(2) }, now));
}

#[test]
fn a_scan_of_the_network_cannot_fill_the_book() {
    let (mut book, _, now) = book();
    let asked = (0..100_000).filter(|i| book.want(nth(*i), now)).count();
    assert_eq!((asked, book.entries.len()), (MAX_ASKED, 0));
    assert!(book.want(nth(200_000), now + ASK_EVERY), "a second later there is room again");
}

#[test]
fn what_was_heard_during_a_reading_is_newer_than_the_reading() {
    let (mut book, hops, now) = book();
    (1..=3).for_each(|i| book.learn(nth(i), Some(MAC), false, now));
    let ids = book.names(now);
    // The dump saw 1 and 2; then 1 was lost and 3 came.
    book.learn(nth(1), None, false, now);
    let rows = HashMap::from([(nth(1), (MAC, false)), (nth(2), (MAC, false))]);
    book.learn_all(&rows, |n| *n == nth(1) || *n == nth(3), now);
    let valid = [1, 2, 3].map(|i| hops.is_valid(ids[&nth(i)]));
    assert_eq!(valid, [false, true, true]);
    book.learn_all(&HashMap::new(), |_| false, now);
    assert!(!hops.is_valid(ids[&nth(2)]));
}

#[test]
fn the_smallest_mtu_of_routes_through_a_router_counts() {
    let route = |mtu| crate::route::Route {
        table: crate::route::Table::Main,
        prefix: std::net::Ipv4Addr::UNSPECIFIED.into(),
        len: 0,
        metric: 0,
        mtu,
        target: Target::Ways(vec![Way { port: 0, gateway: Some((4, nth(1).addr)), weight: 1, alive: true }]),
    };
    assert_eq!(gateways(&[route(0), route(1400), route(1450), route(0)])[&nth(1)], 1400);
    assert_eq!(gateways(&[route(0)])[&nth(1)], 0);
    let (mut book, hops, now) = book();
    book.learn(nth(1), Some(MAC), false, now);
    let id = book.names(now)[&nth(1)];
    book.set_gateways(gateways(&[route(1400)]));
    assert_eq!(hops.get(id).unwrap().mtu, 1400);
}

#[test]
fn a_neighbor_in_use_is_confirmed_soon_and_then_now_and_again() {
    let (mut book, hops, start) = book();
    book.learn(nth(1), Some(MAC), false, start);
    book.learn(nth(2), Some(MAC), false, start);
    book.learn(nth(3), Some(MAC), true, start);
    let ids = book.names(start);
    let mut asked = 0;
    for round in 1..=20 {
        hops.get(ids[&nth(1)]);
        hops.get(ids[&nth(3)]);
        let confirm = book.unconfirmed(start + ROUND * round);
        assert!(round != 1 || confirm == [nth(1)], "not what is idle, not what is fixed");
        asked += confirm.len();
    }
    assert_eq!(asked, 4, "in 100 seconds");
}
