use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

const OWN: SiteNumber = SiteNumber(3);
const OTHER: SiteNumber = SiteNumber(5);
const NOW_S: u32 = 1_900_000_000;

fn ways(networks: usize) -> Ways {
    let ways = Ways::new(networks, OWN, (1, 2));
    ways.set_measuring(true, 600);
    ways
}

fn address(n: u32) -> IpAddr {
    IpAddr::from((0x0a00_0001 + (n << 8)).to_be_bytes())
}

fn way(us: u32) -> Way {
    Way { round_trip_us: Some(us), loss_permille: 0, hops: None, age_s: 0 }
}

fn look(ways: &Ways, of: IpAddr, site: SiteNumber, now_s: u32) -> Option<Way> {
    ways.seen(Network::of(of), u64::MAX, now_s)?.from(site)
}

fn asked(ways: &Ways) -> Vec<IpAddr> {
    let from = |noted| match noted {
        Noted::Asked { from, .. } | Noted::Connected { from, .. } => from,
    };
    std::iter::from_fn(|| ways.next_noted()).map(from).collect()
}

#[test]
fn neighbors_are_one_network() {
    let same = |a: &str, b: &str| Network::of(a.parse().unwrap()) == Network::of(b.parse().unwrap());
    assert!(same("192.0.2.1", "192.0.2.254") && same("192.0.2.1", "::ffff:192.0.2.9"));
    assert!(same("2001:db8:7::1", "2001:db8:7:ffff::1"));
    assert!(!same("192.0.2.1", "192.0.3.1") && !same("2001:db8:7::1", "2001:db8:8::1") && !same("::1", "0.0.0.1"));
}

#[test]
fn what_was_measured_is_known_for_a_day() {
    let (ways, of) = (ways(100), address(1));
    assert_eq!(look(&ways, of, OWN, NOW_S), None);
    let measured = Way { round_trip_us: Some(12_345), loss_permille: 250, hops: Some(7), age_s: 0 };
    ways.measured(of, &measured, NOW_S);
    ways.hear(OTHER, of, &Way { age_s: 100, ..way(5) }, NOW_S);
    assert_eq!(look(&ways, of, OWN, NOW_S + 9), Some(Way { age_s: 9, ..measured }));
    assert_eq!(look(&ways, of, OTHER, NOW_S + 9), Some(Way { age_s: 109, ..way(5) }));
    // The clock goes back a little.
    assert_eq!(look(&ways, of, OWN, NOW_S - 5), Some(measured));
    assert_eq!(look(&ways, of, OTHER, NOW_S + LASTS_S - 99), None);
    assert_eq!(look(&ways, of, OWN, NOW_S + LASTS_S).map(|way| way.age_s), Some(LASTS_S));
    ways.sweep(NOW_S + LASTS_S);
    assert_eq!(ways.counts().networks, 1);
    ways.sweep(NOW_S + LASTS_S + 1);
    assert_eq!((look(&ways, of, OWN, NOW_S + LASTS_S), ways.counts().networks), (None, 0));
    // Nobody answers: known, and not how far it is.
    ways.measured(of, &Way { round_trip_us: None, ..way(0) }, NOW_S);
    assert_eq!(look(&ways, of, OWN, NOW_S).map(|way| way.round_trip_us), Some(None));
    assert_eq!((ways.counts().measured, ways.counts().unanswered), (1, 1));
}

#[test]
fn who_asks_is_noted_once_it_is_due() {
    let (ways, at) = (ways(100), "203.0.113.1".parse().unwrap());
    (0..9).for_each(|_| ways.note(address(1), at, NOW_S));
    assert_eq!(ways.next_noted(), Some(Noted::Asked { from: address(1), at: Some(at) }));
    assert_eq!(ways.next_noted(), None, "once");
    ways.note(address(1), at, NOW_S + AGAIN_S);
    assert_eq!(asked(&ways), [address(1)], "it may have been left out");
    ways.measured(address(1), &way(5), NOW_S);
    ways.note(address(1), at, NOW_S + 599);
    assert!(asked(&ways).is_empty());
    ways.note(address(1), at, NOW_S + 600);
    assert_eq!(asked(&ways), [address(1)]);
    // Others' word makes it nobody's knowledge here, and is a reason to measure.
    ways.hear(OTHER, address(2), &way(5), NOW_S);
    assert_eq!(ways.next_noted(), Some(Noted::Asked { from: address(2), at: None }));
    ways.note_connection(address(2), 77, NOW_S);
    assert_eq!(ways.next_noted(), Some(Noted::Connected { from: address(2), round_trip_us: 77 }));
    ways.set_measuring(false, 600);
    ways.note(address(3), at, NOW_S);
    ways.hear(OTHER, address(4), &way(5), NOW_S);
    assert!(asked(&ways).is_empty(), "nothing is to be sent");
    ways.note_connection(address(3), 0, NOW_S);
    ways.note_connection(address(3), 9, NOW_S);
    assert_eq!(asked(&ways), [address(3)], "which costs nothing");
}

#[test]
fn what_is_no_hosts_address_is_not_measured() {
    let ways = ways(100);
    for address in ["255.255.255.255", "224.0.0.1", "ff02::1", "0.0.0.0", "::"] {
        let address = address.parse().unwrap();
        ways.note(address, "203.0.113.1".parse().unwrap(), NOW_S);
        ways.hear(OTHER, address, &way(1), NOW_S);
    }
    assert_eq!(ways.next_noted(), None);
}

#[test]
fn a_full_queue_is_counted_and_nobody_waits() {
    let (ways, at) = (ways(100), "203.0.113.1".parse().unwrap());
    (0..QUEUE as u32 + 7).for_each(|n| ways.note(address(n), at, NOW_S));
    assert_eq!((ways.counts().rate_limited, asked(&ways).len()), (7, QUEUE));
}

#[test]
fn the_one_that_was_measured_longest_ago_makes_room() {
    let ways = ways(1);
    for n in 0..CORNER as u32 {
        ways.measured(address(n), &way(n + 1), NOW_S + (n + 3) % CORNER as u32);
    }
    ways.hear(OTHER, address(5), &way(9), NOW_S + 20);
    // The fifth would be it, but somebody else has measured it since.
    let [next, then] = [6, 7].map(address);
    ways.measured(address(100), &way(1), NOW_S + 30);
    assert_eq!((look(&ways, next, OWN, NOW_S + 30), ways.counts().evicted), (None, 1));
    assert!(look(&ways, then, OWN, NOW_S + 30).is_some() && look(&ways, address(5), OTHER, NOW_S + 30).is_some());
    assert_eq!(look(&ways, address(100), OTHER, NOW_S + 30), None, "nothing is left of the one before");
    assert_eq!(ways.counts().networks, CORNER as u64);
}

#[test]
fn news_is_what_has_changed_here_in_its_order_and_in_pieces() {
    let ways = ways(100);
    for n in 0..5 {
        ways.measured(address(n), &way(n + 1), NOW_S);
    }
    ways.hear(OTHER, address(9), &way(1), NOW_S);
    let told = |serial: u64, most: usize| {
        let (news, serial) = ways.news(serial, most, NOW_S + 10);
        (news.iter().map(|own| own.address).collect::<Vec<_>>(), serial)
    };
    let (first, at) = told(0, 3);
    assert_eq!(first, [0, 1, 2].map(address));
    ways.measured(address(1), &way(7), NOW_S + 5);
    let (second, at) = told(at, 3);
    assert_eq!(second, [3, 4, 1].map(address));
    assert_eq!(told(at, 3), (Vec::new(), at));
    let (all, last) = ways.news(0, 100, NOW_S + 10);
    assert_eq!((all.len(), last), (5, at));
    assert_eq!(all[4], OwnWay { address: address(1), way: Way { age_s: 5, ..way(7) } });
}

#[test]
fn what_another_site_cannot_know_is_not_taken() {
    let ways = ways(100);
    ways.hear(OWN, address(1), &way(1), NOW_S);
    ways.hear(SiteNumber(200), address(1), &way(1), NOW_S);
    ways.hear(OTHER, address(1), &Way { age_s: LASTS_S + 1, ..way(1) }, NOW_S);
    assert_eq!((ways.counts().networks, ways.counts().taken), (0, 0));
}

/// A row never tells of one network what was measured of another, however often it changes hands.
#[test]
fn readers_never_see_one_network_under_the_name_of_another() {
    let ways = Arc::new(ways(1));
    let done = Arc::new(AtomicBool::new(false));
    let reader = |first: u32| {
        let (ways, done) = (ways.clone(), done.clone());
        std::thread::spawn(move || {
            let (mut seen, mut n) = (0, first);
            // The last ones stay, and so are seen at last.
            while !done.load(Relaxed) || seen == 0 {
                n = (n + 1) % 40;
                for site in [OWN, OTHER] {
                    if let Some(way) = look(&ways, address(n), site, NOW_S) {
                        assert_eq!(way.round_trip_us, Some(n + 1));
                        seen += 1;
                    }
                }
            }
        })
    };
    let readers = [reader(0), reader(20)];
    for n in (0..40).cycle().take(100_000) {
        ways.hear(OTHER, address(n), &way(n + 1), NOW_S);
        ways.measured(address(n), &way(n + 1), NOW_S);
    }
    done.store(true, Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    assert!(ways.counts().evicted > 1000);
}

fn any_way() -> impl Strategy<Value = Way> {
    let us = prop_oneof![Just(None), (1..=LONGEST_US).prop_map(Some)];
    let hops = prop_oneof![Just(None), (0..=MOST_HOPS).prop_map(Some)];
    (us, 0..=1000u16, hops, 0..=LASTS_S).prop_map(|(round_trip_us, loss_permille, hops, age_s)| Way {
        round_trip_us,
        loss_permille,
        hops,
        age_s,
    })
}

proptest! {
    #[test]
    fn a_word_holds_all_that_is_known(way in any_way(), now_s in any::<u32>(), later_s in 0..LASTS_S) {
        let word = way.pack(now_s);
        let expected = Way { age_s: way.age_s + later_s, ..way };
        prop_assert_eq!(Way::unpack(word, now_s.wrapping_add(later_s)), (expected.age_s <= LASTS_S).then_some(expected));
    }

    /// A table with room for all is a map.
    #[test]
    fn with_room_nothing_is_lost(events in prop::collection::vec((0..20u32, 0..3u8, any_way()), 0..60)) {
        let ways = Ways::new(4096, OWN, (1, 2));
        let mut model = HashMap::new();
        for (n, site, way) in events {
            let site = SiteNumber(site + OWN.0);
            if site == OWN {
                ways.measured(address(n), &way, NOW_S);
            } else {
                ways.hear(site, address(n), &way, NOW_S);
            }
            model.insert((n, site), way);
        }
        for ((n, site), way) in &model {
            prop_assert_eq!(look(&ways, address(*n), *site, NOW_S), Some(*way));
        }
        let of: std::collections::HashSet<u32> = model.keys().map(|(n, _)| *n).collect();
        prop_assert_eq!(ways.counts().networks as usize, of.len());
    }
}
