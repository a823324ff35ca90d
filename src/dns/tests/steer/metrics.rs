//! What E9 of the requirements says, with what the README adds to it, written down plainly, and what farside answers: the same, whatever
//! loads, memberships and ways there are.

use super::*;
use crate::sites::Ways;
use crate::sites::ways::{Noted, Way};
use proptest::prelude::*;

const SITES: u8 = 4;

/// This one's number.
const OWN: u8 = 1;

const RESOLVERS: [&str; 3] = ["10.0.0.53", "10.0.1.53", "2001:db8:9::53"];

/// Not its network's first; for who asks in a client's name.
const CLIENT: [u8; 7] = [0, 1, 24, 0, 10, 0, 0];

/// All that can happen.
#[derive(Clone, Debug)]
enum Event {
    /// None: nothing is known of the site any more.
    Says(u8, Option<Load>),
    Measured {
        resolver: usize,
        site: u8,
        way: Way,
    },
    /// Bit n: member n is up.
    States(u64),
    Asks {
        resolver: usize,
        v4: bool,
        client: bool,
    },
}

/// Sites that do nothing are told apart by how far away they are.
fn load() -> impl Strategy<Value = Load> {
    let idle = |load: Load| Load { connections: 0, packets_per_s: 0, cpu_permille: 0, loss_permille: Some(0), ..load };
    prop_oneof![2 => any_load().prop_map(idle), 1 => any_load()]
}

/// Few values, so that they are often equal or near.
fn any_load() -> impl Strategy<Value = Load> {
    let cpu = prop_oneof![Just(0u16), Just(60), Just(200), Just(900)];
    let count = prop_oneof![Just(0u32), Just(1), Just(10), Just(11), Just(99), Just(1000)];
    let us = prop_oneof![Just(0u32), Just(10_000), Just(10_900), Just(11_100)];
    let us = prop::option::weighted(0.9, us);
    let loss = prop::option::weighted(0.9, prop_oneof![Just(0u16), Just(50), Just(300)]);
    let hops = prop::option::weighted(0.9, 0..4u8);
    (cpu, count.clone(), count, us, loss, hops, prop::bool::weighted(0.15)).prop_map(
        |(cpu_permille, connections, packets_per_s, round_trip_us, loss_permille, hops, full)| Load {
            full,
            connections,
            packets_per_s,
            cpu_permille,
            round_trip_us,
            loss_permille,
            hops,
        },
    )
}

fn way() -> impl Strategy<Value = Way> {
    let us = prop_oneof![
        1 => Just(None),
        12 => prop_oneof![Just(300), Just(1200), Just(20_000), Just(21_900), Just(22_100), Just(60_000)].prop_map(Some)
    ];
    let hops = prop_oneof![1 => Just(None), 3 => (3..7u8).prop_map(Some)];
    let loss = prop_oneof![8 => Just(0u16), 1 => Just(90), 1 => Just(500)];
    (us, loss, hops).prop_map(|(round_trip_us, loss_permille, hops)| Way {
        round_trip_us,
        loss_permille,
        hops,
        age_s: 0,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let site = || 0..SITES;
    let said = prop_oneof![8 => load().prop_map(Some), 1 => Just(None)];
    let measured = (0..RESOLVERS.len(), site(), way());
    let asks = (0..RESOLVERS.len(), any::<bool>(), prop::bool::weighted(0.3));
    prop_oneof![
        4 => (site(), said).prop_map(|(site, said)| Event::Says(site, said)),
        6 => measured.prop_map(|(resolver, site, way)| Event::Measured { resolver, site, way }),
        1 => any::<u64>().prop_map(Event::States),
        8 => asks.prop_map(|(resolver, v4, client)| Event::Asks { resolver, v4, client }),
    ]
}

/// Of each member: its site, and whether it has an address of IPv4 and of IPv6.
fn members() -> impl Strategy<Value = Vec<(u8, bool, bool)>> {
    let member = (0..SITES, any::<bool>(), any::<bool>()).prop_map(|(site, v4, v6)| (site, v4 || !v6, v6));
    prop::collection::vec(member, 1..7)
}

struct Model {
    members: Vec<(u8, bool, bool)>,
    up: u64,
    loads: BTreeMap<u8, Load>,
    ways: BTreeMap<(usize, u8), Way>,
}

impl Model {
    /// The sites that have a member up with an address of the family, and how many.
    fn sites(&self, v4: bool) -> BTreeMap<u8, u64> {
        let mut sites = BTreeMap::new();
        for (at, (site, has_v4, has_v6)) in self.members.iter().enumerate() {
            if self.up >> at & 1 == 1 && if v4 { *has_v4 } else { *has_v6 } {
                *sites.entry(*site).or_insert(0) += 1;
            }
        }
        sites
    }

    /// "Least load": the sites that may be answered. None: nobody is up.
    fn expected(&self, resolver: Option<usize>, v4: bool) -> Option<BTreeSet<u8>> {
        let up = self.sites(v4);
        if up.is_empty() {
            return None;
        }
        // While of some site nothing is known, nothing is compared.
        if !up.keys().all(|site| self.loads.contains_key(site)) {
            return Some(up.keys().copied().collect());
        }
        let load = |site: u8| self.loads[&site];
        // A site that says it is full comes only where all do.
        let all_full = up.keys().all(|site| load(*site).full);
        let open: Vec<u8> = up.keys().copied().filter(|site| all_full || !load(*site).full).collect();
        let way = |site: u8| self.ways.get(&(resolver?, site)).copied().filter(|way| way.round_trip_us.is_some());
        let all_measured = open.iter().all(|site| way(*site).is_some());
        // Connections and packets per member that is up, in thousandths of the site that has most.
        // Where nobody has as many as `few` of each member's, in thousandths of these.
        let part = |of: &dyn Fn(u8) -> u32, few: u64, site: u8| {
            let each = |site: u8| u64::from(of(site)) * 1000 / up[&site];
            let most = open.iter().map(|site| each(*site)).max().unwrap().max(few * 1000);
            each(site) * 1000 / most
        };
        let sum = |site: u8| {
            let all_lossy = open.iter().all(|site| load(*site).loss_permille.is_some());
            let lost = load(site).loss_permille.filter(|_| all_lossy).unwrap_or(0);
            let mut sum = u64::from(load(site).cpu_permille) + u64::from(lost);
            sum += part(&|site| load(site).connections, 10, site) + part(&|site| load(site).packets_per_s, 100, site);
            if all_measured { sum + u64::from(way(site).unwrap().loss_permille) } else { sum }
        };
        let least = open.iter().map(|site| sum(*site)).min().unwrap();
        let light: Vec<u8> = open.iter().copied().filter(|site| sum(*site) <= least + 100).collect();
        // The nearest to the resolver, where that is known of all.
        if light.iter().all(|site| way(*site).is_some()) {
            let us = |site: u8| way(site).unwrap().round_trip_us.unwrap();
            let shortest = light.iter().map(|site| us(*site)).min().unwrap();
            let as_near = |site: &u8| us(*site) <= shortest + shortest / 10 || us(*site) <= shortest + 1000;
            let near: Vec<u8> = light.into_iter().filter(as_near).collect();
            return Some(fewest_hops(&near, &|site| way(site).unwrap().hops));
        }
        // Or else the nearest to this site, likewise.
        let us = |site: u8| load(site).round_trip_us;
        if light.iter().all(|site| us(*site).is_some()) {
            let shortest = light.iter().map(|site| us(*site).unwrap()).min().unwrap();
            let near: Vec<u8> =
                light.into_iter().filter(|site| us(*site).unwrap() <= shortest + shortest / 10).collect();
            return Some(fewest_hops(&near, &|site| load(site).hops));
        }
        Some(light.into_iter().collect())
    }
}

/// One more than the fewest is as few; where it is not known of all it does not count.
fn fewest_hops(sites: &[u8], hops: &dyn Fn(u8) -> Option<u8>) -> BTreeSet<u8> {
    let Some(all) = sites.iter().map(|site| hops(*site)).collect::<Option<Vec<u8>>>() else {
        return sites.iter().copied().collect();
    };
    let fewest = all.into_iter().min().unwrap();
    sites.iter().copied().filter(|site| hops(*site).unwrap() <= fewest + 1).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn by_metrics_farside_answers_what_is_written(
        members in members(),
        events in prop::collection::vec(event(), 1..80),
    ) {
        // The last byte of an address says its member and its site.
        let text = |at: usize, site: u8, v4: bool| {
            let n = at * 8 + usize::from(site);
            if v4 { format!("192.0.2.{n}") } else { format!("2001:db8::{n:x}") }
        };
        let lists: Vec<Vec<String>> = members.iter().enumerate().map(|(at, (site, v4, v6))| {
            [(true, *v4), (false, *v6)].into_iter().filter(|(_, has)| *has).map(|(v4, _)| text(at, *site, v4)).collect()
        }).collect();
        let lists: Vec<Vec<&str>> = lists.iter().map(|list| list.iter().map(String::as_str).collect()).collect();
        let list: Vec<(u8, &[&str])> = members.iter().zip(&lists).map(|((site, ..), list)| (*site, &list[..])).collect();
        let loads = Arc::new(SiteTable::default());
        let ways = Arc::new(Ways::new(100, SiteNumber(OWN), (1, 2)));
        let plan = Plan { stripe: None, metrics: true, client_subnet: true, ..STRIPE };
        let steering = Steering { loads: loads.clone(), ways: Survey::Kept(ways.clone()), ..Steering::default() };
        let mut lab = lab(&pool(&list, plan), steering);
        let now_s = (lab.unix_ms / 1000) as u32;
        let mut model = Model { members, up: u64::MAX, loads: BTreeMap::new(), ways: BTreeMap::new() };
        for site in 0..SITES {
            loads.set(SiteNumber(site), &Load::default());
            model.loads.insert(site, Load::default());
        }
        for event in events {
            match event {
                Event::Says(site, Some(load)) => {
                    loads.set(SiteNumber(site), &load);
                    model.loads.insert(site, load);
                }
                Event::Says(site, None) => {
                    loads.forget(SiteNumber(site));
                    model.loads.remove(&site);
                }
                Event::Measured { resolver, site, way } => {
                    let of = RESOLVERS[resolver].parse().unwrap();
                    if site == OWN {
                        ways.measured(of, &way, now_s);
                    } else {
                        ways.hear(SiteNumber(site), of, &way, now_s);
                    }
                    model.ways.insert((resolver, site), way);
                }
                Event::States(up) => {
                    model.up = up;
                    lab.states(&[up]);
                }
                Event::Asks { resolver, v4, client } => {
                    lab.from = RESOLVERS[resolver].parse().unwrap();
                    let rtype = if v4 { "A" } else { "AAAA" };
                    let options: &[(u16, &[u8])] = if client { &[(8, &CLIENT)] } else { &[] };
                    // The way to a client is not that to its resolver.
                    let expected = model.expected((!client).then_some(resolver), v4);
                    let mut turns = BTreeSet::new();
                    for _ in 0..12 {
                        let reply = lab.reply(&edns(query(NAME, rtype), 1232, 0, options));
                        let number = |address: &String| match address.parse().unwrap() {
                            IpAddr::V4(address) => address.octets()[3],
                            IpAddr::V6(address) => address.octets()[15],
                        };
                        let sites: BTreeSet<u8> =
                            addresses(&show(&reply)).iter().map(|address| number(address) % 8).collect();
                        if expected.is_some() {
                            prop_assert_eq!(sites.len(), 1);
                        }
                        turns.extend(sites);
                    }
                    // All that may be answered take turns: twelve is more than there are members.
                    if let Some(expected) = expected {
                        prop_assert_eq!(turns, expected);
                    }
                }
            }
        }
    }
}

/// Three sites that are equal but for how far away they are.
fn three() -> (Lab, Arc<SiteTable>, Arc<Ways>) {
    let loads = Arc::new(SiteTable::default());
    (1..=3).for_each(|site| loads.set(SiteNumber(site), &Load::default()));
    let ways = Arc::new(Ways::new(100, SiteNumber(OWN), (1, 2)));
    ways.set_measuring(true, 600);
    let plan = Plan { stripe: None, metrics: true, ..STRIPE };
    let members: [(u8, &[&str]); 3] = [(1, &["192.0.2.1"]), (2, &["192.0.2.2"]), (3, &["192.0.2.3"])];
    let steering = Steering { loads: loads.clone(), ways: Survey::Kept(ways.clone()), ..Steering::default() };
    (lab(&pool(&members, plan), steering), loads, ways)
}

fn chosen(lab: &mut Lab, from: &str) -> BTreeSet<String> {
    (0..9).flat_map(|_| lab.asks(from, "A")).collect()
}

#[test]
fn a_round_trip_that_nobody_knows_makes_no_site_the_nearest() {
    let (mut lab, loads, _) = three();
    let set = |site, round_trip_us| loads.set(SiteNumber(site), &Load { round_trip_us, ..Load::default() });
    set(1, Some(0));
    set(2, Some(9000));
    set(3, Some(5000));
    assert_eq!(chosen(&mut lab, "10.0.0.53"), ["192.0.2.1".to_string()].into(), "this very site");
    set(3, None);
    assert_eq!(chosen(&mut lab, "10.0.0.53").len(), 3, "how far the third is is not known");
    loads.set(SiteNumber(1), &Load { cpu_permille: 900, ..Load::default() });
    assert_eq!(chosen(&mut lab, "10.0.0.53").len(), 2, "it is not the nearest of the other two");
    set(3, Some(5000));
    assert_eq!(chosen(&mut lab, "10.0.0.53"), ["192.0.2.3".to_string()].into());
}

#[test]
fn who_asks_is_noted_where_metrics_count_and_explaining_notes_nobody() {
    let (mut lab, _, ways) = three();
    lab.asks("10.0.0.53", "A");
    let at = Some("203.0.113.1".parse().unwrap());
    assert_eq!(ways.next_noted(), Some(Noted::Asked { from: "10.0.0.53".parse().unwrap(), at }));
    let way = |us| Way { round_trip_us: Some(us), loss_permille: 0, hops: None, age_s: 0 };
    let (resolver, now_s) = ("10.0.0.53".parse().unwrap(), (lab.unix_ms / 1000) as u32);
    ways.measured(resolver, &way(30_000), now_s);
    ways.hear(SiteNumber(2), resolver, &way(90_000), now_s);
    ways.hear(SiteNumber(3), resolver, &way(10_000), now_s);
    assert_eq!(chosen(&mut lab, "10.0.0.53"), ["192.0.2.3".to_string()].into());
    assert_eq!(chosen(&mut lab, "10.0.0.99"), ["192.0.2.3".to_string()].into(), "a neighbor of it");
    assert_eq!(ways.next_noted(), None, "it is known");
    let steering = Steering { ways: Survey::Looked(ways.clone()), ..lab.snapshot.steering().clone() };
    let looked = Snapshot::new(lab.snapshot.zones().to_vec(), Arc::default()).with(steering);
    let told = |from: &str| {
        let (name, resolver) = (Name::parse(NAME).unwrap(), from.parse().unwrap());
        explain(&looked, &Wanted { name: &name, v6: false, resolver, subnet: None, unix_ms: lab.unix_ms })
            .choice
            .unwrap()
    };
    let choice = told("10.0.0.53");
    assert_eq!(choice.steps, [Step::Least { load: 0, by: Near::Resolver, site: SiteNumber(3) }]);
    let known: Vec<Option<u32>> = choice.ways.iter().map(|(_, way)| way.and_then(|way| way.round_trip_us)).collect();
    assert_eq!(known, [Some(30_000), Some(90_000), Some(10_000)]);
    let choice = told("10.0.9.53");
    assert!(choice.ways.iter().all(|(_, way)| way.is_none()) && choice.ways.len() == 3);
    assert_eq!(ways.next_noted(), None);
}

#[test]
fn loss_on_the_way_to_the_resolver_weighs_as_load_does() {
    let (mut lab, _, ways) = three();
    let (resolver, now_s) = ("10.0.0.53".parse().unwrap(), (lab.unix_ms / 1000) as u32);
    let way = |us, loss_permille| Way { round_trip_us: Some(us), loss_permille, hops: Some(5), age_s: 0 };
    ways.measured(resolver, &way(10_000, 250), now_s);
    ways.hear(SiteNumber(2), resolver, &way(20_000, 90), now_s);
    ways.hear(SiteNumber(3), resolver, &way(90_000, 0), now_s);
    assert_eq!(chosen(&mut lab, "10.0.0.53"), ["192.0.2.2".to_string()].into());
    // What is not known of one does not count against the others.
    ways.hear(SiteNumber(3), resolver, &Way { round_trip_us: None, ..way(1, 0) }, now_s);
    assert_eq!(chosen(&mut lab, "10.0.0.53").len(), 3);
}

#[test]
fn hops_count_among_ways_that_are_as_long_where_all_are_known() {
    let (mut lab, _, ways) = three();
    let (resolver, now_s) = ("10.0.0.53".parse().unwrap(), (lab.unix_ms / 1000) as u32);
    let way = |hops| Way { round_trip_us: Some(10_000), loss_permille: 0, hops, age_s: 0 };
    ways.measured(resolver, &way(Some(3)), now_s);
    ways.hear(SiteNumber(2), resolver, &way(Some(9)), now_s);
    ways.hear(SiteNumber(3), resolver, &way(None), now_s);
    assert_eq!(chosen(&mut lab, "10.0.0.53").len(), 3, "of the third they are not known");
    ways.hear(SiteNumber(3), resolver, &way(Some(4)), now_s);
    assert_eq!(chosen(&mut lab, "10.0.0.53"), ["192.0.2.1", "192.0.2.3"].map(String::from).into());
}
