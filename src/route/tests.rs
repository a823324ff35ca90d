use super::*;
use crate::wire::ip::{V4, V6, family_of};
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

const WAN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LAN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

/// wan0 with a router to everywhere, lan0 with servers.
fn site() -> Builder {
    Fib::builder()
        .port("wan0", WAN, 1500, &[prefix("203.0.113.1/24"), prefix("2001:db8::1/64")])
        .port("lan0", LAN, 9000, &[prefix("10.0.0.1/24")])
        .route(prefix("0.0.0.0/0"), 0, Some(ip("203.0.113.254")))
        .route(prefix("::/0"), 0, Some(ip("2001:db8::fe")))
        .neighbor(0, ip("203.0.113.254"), ROUTER)
        .neighbor(1, ip("10.0.0.11"), [2, 0, 0, 0, 0, 11])
}

fn step(fib: &Fib, to: &str) -> Step {
    fib.lookup(&Addr::default(), &ip(to).into(), family_of(ip(to)), 0)
}

#[test]
fn what_is_on_the_link_goes_to_the_machine_itself() {
    let fib = site().build();
    let Step::Hop(id) = step(&fib, "10.0.0.11") else { panic!() };
    assert_eq!(fib.hop(id), Some(Hop { mac: [2, 0, 0, 0, 0, 11], port: 1, mtu: 9000 }));
}

#[test]
fn what_is_far_away_goes_to_the_router() {
    let fib = site().build();
    let Step::Hop(id) = step(&fib, "198.51.100.7") else { panic!() };
    assert_eq!(fib.hop(id), Some(Hop { mac: ROUTER, port: 0, mtu: 1500 }));
}

#[test]
fn an_unknown_neighbor_is_to_be_resolved() {
    let fib = site().build();
    assert_eq!(step(&fib, "10.0.0.12"), Step::Resolve(Neighbor::new(1, ip("10.0.0.12"))));
    assert_eq!(step(&fib, "2001:db8:9::1"), Step::Resolve(Neighbor::new(0, ip("2001:db8::fe"))));
}

#[test]
fn a_lost_neighbor_is_to_be_resolved_again() {
    let fib = site().build();
    let Step::Hop(id) = step(&fib, "10.0.0.11") else { panic!() };
    fib.hops().clear(id);
    assert_eq!(fib.hop(id), None);
    assert_eq!(step(&fib, "10.0.0.11"), Step::Resolve(Neighbor::new(1, ip("10.0.0.11"))));
}

#[test]
fn a_new_mac_needs_no_new_snapshot() {
    let fib = site().build();
    let Step::Hop(id) = step(&fib, "10.0.0.11") else { panic!() };
    fib.hops().set(id, Hop { mac: ROUTER, port: 1, mtu: 1400 });
    assert_eq!(fib.hop(id), Some(Hop { mac: ROUTER, port: 1, mtu: 1400 }));
}

#[test]
fn the_host_keeps_what_is_its_own() {
    let fib = site().build();
    assert_eq!(step(&fib, "10.0.0.1"), Step::Local);
    assert!(fib.host_owns(&ip("2001:db8::1").into(), V6));
    assert!(!fib.host_owns(&ip("2001:db8::2").into(), V6));
    assert!(!fib.host_owns(&ip("203.0.113.10").into(), V4));
}

#[test]
fn a_blackhole_hides_the_default_route() {
    let fib = site().blackhole(prefix("192.0.2.0/24")).build();
    assert_eq!(step(&fib, "192.0.2.77"), Step::NoRoute);
}

/// A host with two lines: what leaves from an address of the second leaves by it, all else by the default route.
#[test]
fn a_rule_for_a_source_sends_it_its_own_way() {
    let second = |text: &str| Route {
        table: Table::Other(2),
        prefix: prefix(text).addr,
        len: prefix(text).len,
        metric: 0,
        mtu: 0,
        target: Target::Ways(vec![Way {
            port: 1,
            gateway: Some((V4, Addr::v4([10, 0, 0, 254]))),
            weight: 1,
            alive: true,
        }]),
    };
    let fib = site()
        .rule(prefix("198.51.100.0/24"), 2)
        .raw_route(second("0.0.0.0/0"))
        .raw_route(Route { target: Target::Throw, ..second("192.0.2.64/26") })
        .raw_route(Route { target: Target::NoRoute, ..second("192.0.2.128/26") })
        .build();
    let from = |from: &str, to: &str| fib.lookup(&ip(from).into(), &ip(to).into(), V4, 0);
    let other = Step::Resolve(Neighbor::new(1, ip("10.0.0.254")));
    assert_eq!(from("198.51.100.10", "192.0.2.7"), other);
    let usual = step(&fib, "192.0.2.7");
    assert!(matches!(usual, Step::Hop(_)));
    for source in ["203.0.113.10", "0.0.0.0", "198.51.101.10"] {
        assert_eq!(from(source, "192.0.2.7"), usual, "{source}");
    }
    assert_eq!(from("198.51.100.10", "192.0.2.65"), usual, "the rule's table throws it to the next");
    assert_eq!(from("198.51.100.10", "192.0.2.129"), Step::NoRoute);
    assert_eq!(from("198.51.100.10", "203.0.113.1"), Step::Local, "the local table comes first");
    assert_eq!(
        from("198.51.100.10", "10.0.0.11"),
        other,
        "as in the kernel, the table need not know what is on a link"
    );
}

#[test]
fn without_a_route_there_is_none() {
    let fib = Fib::builder().port("lan0", LAN, 1500, &[prefix("10.0.0.1/24")]).build();
    assert_eq!(step(&fib, "192.0.2.77"), Step::NoRoute);
    assert_eq!(step(&fib, "2001:db8::1"), Step::NoRoute);
    assert_eq!(step(&Fib::empty(Arc::default()), "192.0.2.77"), Step::NoRoute);
}

#[test]
fn an_ipv4_route_may_have_an_ipv6_router() {
    let fib = site()
        .route(prefix("192.0.2.0/24"), 0, Some(ip("fe80::1")))
        .neighbor(0, ip("fe80::1"), [2, 9, 9, 9, 9, 9])
        .build();
    let Step::Hop(id) = step(&fib, "192.0.2.77") else { panic!() };
    assert_eq!(fib.hop(id).unwrap().mac, [2, 9, 9, 9, 9, 9]);
}

#[test]
fn addresses_are_announced_where_they_are_reached() {
    let fib = site().build();
    assert_eq!(fib.port_toward(ip("203.0.113.10")), Some(0));
    assert_eq!(fib.port_toward(ip("10.0.0.250")), Some(1));
    assert_eq!(fib.port_toward(ip("10.0.0.1")), Some(1));
    assert_eq!(fib.port_toward(ip("198.51.100.1")), Some(0));
    assert_eq!(Fib::empty(Arc::default()).port_toward(ip("198.51.100.1")), None);
}

#[test]
fn a_port_speaks_from_its_own_address() {
    let fib = site().build();
    assert_eq!(fib.port_address(0, V4), Some(ip("203.0.113.1").into()));
    assert_eq!(fib.port_address(0, V6), Some(ip("2001:db8::1").into()));
    assert_eq!(fib.port_address(1, V6), None);
    assert_eq!(fib.port_address(9, V4), None);
}

#[test]
fn the_local_table_comes_first_even_if_its_prefix_is_shorter() {
    let any = Route { table: Table::Local, prefix: ip("192.0.2.0"), len: 24, metric: 0, mtu: 0, target: Target::Local };
    let fib = site().raw_route(any).route(prefix("192.0.2.7/32"), 1, None).build();
    assert_eq!(step(&fib, "192.0.2.7"), Step::Local);
}

#[test]
fn health_checks_get_their_answers_by_their_own_device() {
    let tap = Route { table: Table::Local, prefix: ip("169.254.9.1"), len: 32, metric: 0, mtu: 0, target: Target::Tap };
    assert_eq!(step(&site().raw_route(tap).build(), "169.254.9.1"), Step::Hop(TAP_HOP));
}

fn multipath(weights: &[(u16, bool)]) -> Fib {
    let ways = weights.iter().enumerate().map(|(i, &(weight, alive))| Way {
        port: 0,
        gateway: Some((V4, Addr::v4([203, 0, 113, 200 + i as u8]))),
        weight,
        alive,
    });
    let route = Route {
        table: Table::Main,
        prefix: ip("192.0.2.0"),
        len: 24,
        metric: 0,
        mtu: 0,
        target: Target::Ways(ways.collect()),
    };
    site().raw_route(route).build()
}

/// How many of `n` flows take each of four ways.
fn spread(fib: &Fib, n: u64) -> [u64; 4] {
    let mut counts = [0; 4];
    for i in 0..n {
        let hash = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        match fib.lookup(&Addr::default(), &ip("192.0.2.1").into(), V4, hash) {
            Step::Resolve(n) => counts[n.addr.octets()[3] as usize - 200] += 1,
            other => panic!("{other:?}"),
        }
    }
    counts
}

#[test]
fn flows_spread_over_the_ways_of_a_route_by_weight() {
    let [a, b, c, _] = spread(&multipath(&[(1, true), (2, true), (1, true)]), 100_000);
    assert!((24_000..26_000).contains(&a) && (49_000..51_000).contains(&b) && (24_000..26_000).contains(&c));
    let fib = multipath(&[(1, true), (2, true), (1, true)]);
    for hash in [0, u64::MAX, 1 << 63] {
        let first = fib.lookup(&Addr::default(), &ip("192.0.2.1").into(), V4, hash);
        assert_eq!(
            first,
            fib.lookup(&Addr::default(), &ip("192.0.2.1").into(), V4, hash),
            "the same flow, the same way"
        );
    }
}

#[test]
fn a_dead_way_gets_flows_only_if_all_are_dead() {
    assert_eq!(spread(&multipath(&[(1, false), (1, true)]), 1000)[..2], [0, 1000]);
    let [a, b, ..] = spread(&multipath(&[(1, false), (1, false)]), 1000);
    assert!(a > 400 && b > 400);
}

#[test]
fn no_hop_is_never_valid_and_any_number_is_harmless() {
    let table = HopTable::new();
    assert_eq!(table.get(NO_HOP), None);
    assert_eq!(table.get(HopId::MAX), None);
    assert!(!table.take_used(NO_HOP));
}

#[test]
fn readers_leave_a_mark_once() {
    let table = HopTable::new();
    let hop = Hop { mac: [1, 2, 3, 4, 5, 6], port: 255, mtu: 65535 };
    table.set(7, hop);
    assert!(!table.take_used(7));
    assert_eq!(table.get(7), Some(hop));
    table.set(7, Hop { port: 3, ..hop });
    assert!(table.take_used(7), "a new word does not wipe the mark");
    assert!(!table.take_used(7));
    assert_eq!(table.get(7).unwrap().port, 3);
    assert_eq!(table.get(7).unwrap().mtu, 65535);
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let queue = ResolveQueue::new();
    let neighbor = Neighbor::new(0, ip("10.0.0.9"));
    assert_eq!((0..5000).filter(|_| queue.ask(neighbor)).count(), 1024);
    queue.listen();
    assert_eq!(std::iter::from_fn(|| queue.take()).count(), 1024);
    assert!(queue.ask(neighbor));
}

#[test]
fn a_request_wakes_control_once_until_it_looks() {
    let mut poll = mio::Poll::new().unwrap();
    let queue = ResolveQueue::new();
    queue.set_waker(Arc::new(mio::Waker::new(poll.registry(), mio::Token(1)).unwrap()));
    let mut events = mio::Events::with_capacity(8);
    let mut wakes = || {
        poll.poll(&mut events, Some(std::time::Duration::ZERO)).unwrap();
        events.iter().count()
    };
    let neighbor = Neighbor::new(0, ip("10.0.0.9"));
    queue.ask(neighbor);
    assert_eq!(wakes(), 1);
    queue.ask(neighbor);
    assert_eq!(wakes(), 0);
    queue.listen();
    assert_eq!(std::iter::from_fn(|| queue.take()).count(), 2);
    queue.ask(neighbor);
    assert_eq!(wakes(), 1);
}

#[test]
fn prefixes_are_read_as_they_are_written() {
    assert_eq!(prefix("10.0.0.0/8"), Prefix { addr: ip("10.0.0.0"), len: 8 });
    assert_eq!(prefix("2001:db8::1"), Prefix { addr: ip("2001:db8::1"), len: 128 });
    for bad in ["10.0.0.0/33", "10.0.0/8", "::/129", "x", "1.2.3.4/", "1.2.3.4/-1"] {
        assert!(bad.parse::<Prefix>().is_err(), "{bad}");
    }
}

/// Few distinct bits, so that prefixes nest and collide; both families.
fn some_ip() -> impl Strategy<Value = IpAddr> {
    let word = prop_oneof![Just(0u8), Just(0x80), Just(0xc0), Just(0xff), any::<u8>()];
    let bytes = proptest::array::uniform16(word);
    (any::<bool>(), bytes)
        .prop_map(|(v6, bytes)| if v6 { IpAddr::from(bytes) } else { IpAddr::from(*bytes.first_chunk::<4>().unwrap()) })
}

prop_compose! {
    fn some_route()(prefix in some_ip(), len in 0u8..=128, metric in 0u32..3, local in 0u8..8, index in 0u32..1000) -> Route {
        let len = if prefix.is_ipv4() { len % 33 } else { len };
        let table = if local == 0 { Table::Local } else { Table::Main };
        // The MTU tells routes apart.
        Route { table, prefix, len, metric, mtu: index, target: Target::NoRoute }
    }
}

fn covers(route: &Route, ip: IpAddr) -> bool {
    let bit = |ip: IpAddr, i: u8| match ip {
        IpAddr::V4(ip) => ip.octets()[i as usize / 8] >> (7 - i % 8) & 1,
        IpAddr::V6(ip) => ip.octets()[i as usize / 8] >> (7 - i % 8) & 1,
    };
    route.prefix.is_ipv4() == ip.is_ipv4() && (0..route.len).all(|i| bit(route.prefix, i) == bit(ip, i))
}

/// Bit by bit over all routes: the definition.
fn by_definition(routes: &[Route], ip: IpAddr) -> Option<&Route> {
    let in_table = |table| {
        let mut found: Vec<&Route> = routes.iter().filter(|r| r.table == table && covers(r, ip)).collect();
        found.sort_by_key(|r| (std::cmp::Reverse(r.len), r.metric));
        found.first().copied()
    };
    in_table(Table::Local).or_else(|| in_table(Table::Main))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_longest_prefix_then_the_lowest_metric_wins(
        routes in prop::collection::vec(some_route(), 0..60),
        others in prop::collection::vec(some_ip(), 0..20),
    ) {
        // Each route's target is a way that names it.
        let routes: Vec<Route> = routes
            .into_iter()
            .enumerate()
            .map(|(i, route)| {
                let gateway = Some((V4, Addr::v4((i as u32).to_be_bytes())));
                Route { target: Target::Ways(vec![Way { port: 0, gateway, weight: 1, alive: true }]), ..route }
            })
            .collect();
        let compiled = Routes::new(routes.clone());
        let asked = others.into_iter().chain(routes.iter().map(|r| r.prefix));
        for ip in asked {
            let expected = by_definition(&routes, ip).map(|route| &route.target);
            prop_assert_eq!(compiled.find(&Addr::default(), &ip.into(), family_of(ip)), expected, "{}", ip);
        }
    }
}
