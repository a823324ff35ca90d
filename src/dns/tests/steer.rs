//! Pools that send resolvers to sites.

mod metrics;
mod model;

use super::*;
use crate::affinity::{Share, Store, Who};
use crate::config::dns::Prefix;
use crate::dns::explain::{Wanted, explain};
use crate::dns::steer::prefixes::Prefixes;
use crate::dns::steer::stripe::hash_of;
use crate::dns::steer::{Dynamic, Group, Groups, Memory, Near, Place, Plan, Steering, Step, Stripe, Survey};
use crate::sites::{Load, SiteNumber, SiteTable};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "www.company.example.";

const TEXT: &str = "
$TTL 1h
@ SOA ns1 admin 1 1h 15m 2w 5m
  NS ns1
  MX 10 www
ns1 A 192.0.2.1
alias CNAME www
";

const STRIPE: Plan = Plan {
    dynamic: None,
    topology: false,
    stripe: Some(Stripe::Rendezvous),
    metrics: false,
    client_subnet: false,
    places: Vec::new(),
};

/// Members `(site, addresses)`; site n has the number n.
fn pool(members: &[(u8, &[&str])], plan: Plan) -> Pool {
    let names = vec![Name::parse(NAME).unwrap()];
    let name = |at: usize| format!("m{at}");
    let place = |(at, (site, _)): (usize, &(u8, &[&str]))| Place {
        site: SiteNumber(*site),
        hash: hash_of(&format!("site-{site}"), &name(at)),
    };
    let plan = Some(Plan { places: members.iter().enumerate().map(place).collect(), ..plan });
    let member = |(at, (_, addresses)): (usize, &(u8, &[&str]))| Member {
        name: name(at),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        weight: 1,
    };
    let members = members.iter().enumerate().map(member).collect();
    let (ttl_s, max_answers, min_up, when_down) = (30, 0, 1, WhenDown::All);
    Pool { name: "www".into(), slot: 0, names, ttl_s, max_answers, min_up, when_down, members, plan }
}

fn lab(pool: &Pool, steering: Steering) -> Lab {
    let mut lab = Lab::with(&[("company.example.", TEXT)], &[Arc::new(pool.clone())], Settings::default());
    lab.snapshot = lab.snapshot.with(steering);
    lab
}

fn store() -> Arc<Store> {
    Arc::new(Store::new(1000, (1, 2)))
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn topology(networks: &[(&str, u8)]) -> Arc<Prefixes> {
    let networks: Vec<_> = networks.iter().map(|(text, site)| (prefix(text), u32::from(*site))).collect();
    Arc::new(Prefixes::new(&networks).unwrap())
}

/// The addresses answered, in order.
fn addresses(shown: &str) -> Vec<String> {
    section(shown, "an").iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
}

impl Lab {
    fn asks(&mut self, from: &str, rtype: &str) -> Vec<String> {
        self.from = from.parse().unwrap();
        addresses(&self.ask(NAME, rtype))
    }
}

const TWO: [(u8, &[&str]); 3] =
    [(1, &["192.0.2.11", "2001:db8::11"]), (1, &["192.0.2.12"]), (2, &["198.51.100.21", "2001:db8::21"])];

#[test]
fn an_answer_holds_one_sites_addresses_and_always_the_same_ones() {
    let mut lab = lab(&pool(&TWO, STRIPE), Steering::default());
    let mut seen: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for n in 0..200 {
        let from = format!("10.0.0.{n}");
        let mut answer = lab.asks(&from, "A");
        let mut again = lab.asks(&from, "A");
        // The site's addresses rotate.
        assert!(answer.len() == 1 || answer[0] != again[0]);
        let six = lab.asks(&from, "AAAA");
        answer.sort();
        again.sort();
        assert_eq!(answer, again);
        assert_eq!(six.len(), 1);
        *seen.entry(answer).or_default() += 1;
    }
    // A site weighs by its members.
    let [south, north] = [vec!["192.0.2.11", "192.0.2.12"], vec!["198.51.100.21"]]
        .map(|site| seen[&site.into_iter().map(String::from).collect::<Vec<_>>()]);
    assert!(south + north == 200 && (110..160).contains(&south), "{south} {north}");
}

#[test]
fn max_answers_is_heeded_within_a_site() {
    let one = Pool { max_answers: 1, ..pool(&TWO[..2], STRIPE) };
    let mut lab = lab(&one, Steering::default());
    let firsts: BTreeSet<_> = (0..4).map(|_| lab.asks("10.0.0.1", "A")).collect();
    assert!(firsts.len() == 2 && firsts.iter().all(|answer| answer.len() == 1), "{firsts:?}");
}

#[test]
fn by_modulus_the_remainder_counts_the_members_that_are_up() {
    let plan = Plan { stripe: Some(Stripe::Modulus), ..STRIPE };
    let mut lab =
        lab(&pool(&[(1, &["192.0.2.1"]), (2, &["192.0.2.2"]), (3, &["192.0.2.3"])], plan), Steering::default());
    // 10.0.0.0 is 1 modulo 3.
    assert_eq!([0, 1, 2].map(|n| lab.asks(&format!("10.0.0.{n}"), "A")), [["192.0.2.2"], ["192.0.2.3"], ["192.0.2.1"]]);
    lab.states(&[0b101]);
    assert_eq!([0, 1].map(|n| lab.asks(&format!("10.0.0.{n}"), "A")), [["192.0.2.1"], ["192.0.2.3"]]);
    lab.states(&[0]);
    let turns: BTreeSet<_> = (0..3).map(|_| lab.asks("10.0.0.0", "A")).collect();
    assert!(turns.len() == 3 && turns.iter().all(|answer| answer.len() == 3), "nobody is up: all, in turn: {turns:?}");
}

#[test]
fn the_number_of_a_network_is_of_the_bits_that_it_has() {
    let plan = Plan { stripe: Some(Stripe::Modulus), ..STRIPE };
    let steering = Steering { groups: Arc::new(Groups::new(&[], 24, 48).unwrap()), ..Steering::default() };
    let mut lab = lab(&pool(&[(1, &["192.0.2.1"]), (2, &["192.0.2.2"])], plan), steering);
    // All of them are 0 modulo 2 as addresses.
    assert_eq!([0, 1].map(|n| lab.asks(&format!("10.0.{n}.7"), "A")), [["192.0.2.1"], ["192.0.2.2"]]);
    assert_eq!([0, 1].map(|n| lab.asks(&format!("2001:db8:{n}::7"), "A")), [["192.0.2.1"], ["192.0.2.2"]]);
}

#[test]
fn topology_is_by_the_longest_network_and_leaves_sites_that_are_down_to_the_next_mode() {
    let topology = topology(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.2.0.0/16", 9)]);
    let steering = Steering { topology, ..Steering::default() };
    let plan = Plan { topology: true, stripe: Some(Stripe::Modulus), ..STRIPE };
    let mut lab = lab(&pool(&[(1, &["192.0.2.1"]), (2, &["192.0.2.2"])], plan), steering);
    assert_eq!([lab.asks("10.9.0.0", "A"), lab.asks("10.9.0.1", "A")], [["192.0.2.1"], ["192.0.2.1"]]);
    assert_eq!([lab.asks("10.1.0.0", "A"), lab.asks("10.1.0.1", "A")], [["192.0.2.2"], ["192.0.2.2"]]);
    // A site that the pool has not, and nobody's network: the remainder.
    assert_eq!([lab.asks("10.2.0.0", "A"), lab.asks("10.2.0.1", "A")], [["192.0.2.1"], ["192.0.2.2"]]);
    assert_eq!([lab.asks("11.0.0.0", "A"), lab.asks("11.0.0.1", "A")], [["192.0.2.1"], ["192.0.2.2"]]);
    lab.states(&[0b01]);
    assert_eq!(lab.asks("10.1.0.1", "A"), ["192.0.2.1"]);
}

#[test]
fn a_group_counts_as_one() {
    let group = Group { name: "isp".into(), resolvers: vec![prefix("10.0.0.0/24"), prefix("2001:db8:7::/64")] };
    let steering = Steering { groups: Arc::new(Groups::new(&[group], 32, 128).unwrap()), ..Steering::default() };
    for method in [Stripe::Modulus, Stripe::Rendezvous] {
        let plan = Plan { stripe: Some(method), ..STRIPE };
        let mut lab = lab(&pool(&[(1, &["192.0.2.1"]), (2, &["192.0.2.2"])], plan), steering.clone());
        let all: BTreeSet<_> = (0..99).map(|n| lab.asks(&format!("10.0.0.{n}"), "A")).collect();
        assert_eq!(all.len(), 1, "{method:?}");
        assert!(all.contains(&lab.asks("2001:db8:7::9", "A")));
        let others: BTreeSet<_> = (0..99).map(|n| lab.asks(&format!("10.0.1.{n}"), "A")).collect();
        assert_eq!(others.len(), 2, "{method:?}");
    }
}

/// The answer, and the option in it.
fn with_subnet(lab: &mut Lab, name: &str, option: &[u8]) -> (Vec<String>, Vec<u8>) {
    let reply = lab.reply(&edns(query(name, "A"), 1232, 0, &[(8, option)]));
    assert_eq!(reply[reply.len() - option.len() - 4..][..4], [0, 8, 0, option.len() as u8]);
    (addresses(&show(&reply)), reply[reply.len() - option.len()..].to_vec())
}

#[test]
fn a_clients_network_counts_where_it_may_and_the_scope_says_so() {
    let plan = Plan { stripe: Some(Stripe::Modulus), client_subnet: true, ..STRIPE };
    let two: [(u8, &[&str]); 2] = [(1, &["192.0.2.1"]), (2, &["192.0.2.2"])];
    let mut own = lab(&pool(&two, plan.clone()), Steering::default());
    own.from = "10.0.0.0".parse().unwrap();
    for n in 0..2 {
        let network = [0, 1, 24, 0, 10, 7, n];
        let scoped = [0, 1, 24, 24, 10, 7, n];
        let (answer, option) = with_subnet(&mut own, NAME, &network);
        assert_eq!((answer[0].as_str(), &option[..]), (["192.0.2.1", "192.0.2.2"][usize::from(n)], &scoped[..]));
        let (_, option) = with_subnet(&mut own, "alias.company.example.", &network);
        assert_eq!(option, scoped, "an alias of it too");
        let (_, option) = with_subnet(&mut own, "ns1.company.example.", &network);
        assert_eq!(option, network, "what is the same for all has no scope");
    }
    // A client that will not be told from others: the resolver counts.
    assert_eq!(with_subnet(&mut own, NAME, &[0, 1, 0, 0]), (vec!["192.0.2.1".into()], vec![0, 1, 0, 0]));
    own.states(&[0]);
    assert_eq!(with_subnet(&mut own, NAME, &[0, 1, 8, 0, 11]).1, [0, 1, 8, 0, 11], "nothing is chosen");
    let mut deaf = lab(&pool(&two, Plan { client_subnet: false, ..plan }), Steering::default());
    deaf.from = "10.0.0.0".parse().unwrap();
    assert_eq!(with_subnet(&mut deaf, NAME, &[0, 1, 8, 0, 11]), (vec!["192.0.2.1".into()], vec![0, 1, 8, 0, 11]));
}

#[test]
fn additional_addresses_are_the_resolvers_own() {
    let plan = Plan { stripe: Some(Stripe::Modulus), client_subnet: true, ..STRIPE };
    let mut lab = lab(&pool(&[(1, &["192.0.2.1"]), (2, &["192.0.2.2"])], plan), Steering::default());
    for (from, address) in [("10.0.0.0", "192.0.2.1"), ("10.0.0.1", "192.0.2.2")] {
        lab.from = from.parse().unwrap();
        let reply = lab.reply(&edns(query("company.example.", "MX"), 1232, 0, &[(8, &[0, 1, 8, 0, 11])]));
        let shown = show(&reply);
        assert!(shown.contains(&format!("ar {NAME} 30 A {address}")), "{shown}");
        assert!(reply.ends_with(&[0, 1, 8, 0, 11]));
    }
}

const DYNAMIC: Plan = Plan {
    dynamic: Some(Dynamic { share: Share(7), ttl_by_hour_s: [60; 24] }),
    topology: false,
    stripe: None,
    metrics: false,
    client_subnet: false,
    places: Vec::new(),
};

#[test]
fn a_remembered_site_stays_while_the_resolver_keeps_asking() {
    let memory = Memory::Kept(store());
    let mut lab = lab(&pool(&TWO, DYNAMIC), Steering { memory, ..Steering::default() });
    let site = |answer: &[String]| if answer[0].starts_with("192") || answer[0].ends_with("::11") { 1 } else { 2 };
    let first: Vec<u8> = (0..3).map(|n| site(&lab.asks(&format!("10.0.0.{n}"), "A"))).collect();
    assert!(first.contains(&1) && first.contains(&2), "in turn: {first:?}");
    for _ in 0..9 {
        lab.unix_ms += 60_000;
        let again: Vec<u8> = (0..3).map(|n| site(&lab.asks(&format!("10.0.0.{n}"), "AAAA"))).collect();
        assert_eq!(again, first);
    }
    // Its site goes: another one, which stays when the first comes back.
    let away = first.iter().position(|site| *site == 1).unwrap();
    let from = format!("10.0.0.{away}");
    lab.states(&[0b100]);
    assert_eq!(site(&lab.asks(&from, "A")), 2);
    lab.states(&[0b111]);
    assert_eq!(site(&lab.asks(&from, "A")), 2);
}

#[test]
fn asking_for_the_other_family_does_not_move_a_record() {
    let memory = Memory::Kept(store());
    let members: [(u8, &[&str]); 2] = [(1, &["192.0.2.11"]), (2, &["198.51.100.21", "2001:db8::21"])];
    let topology = topology(&[("10.0.0.0/8", 1)]);
    let plan = Plan { topology: true, ..DYNAMIC };
    let mut lab = lab(&pool(&members, plan), Steering { memory, topology, ..Steering::default() });
    for _ in 0..3 {
        assert_eq!(lab.asks("10.0.0.1", "A"), ["192.0.2.11"]);
        assert_eq!(lab.asks("10.0.0.1", "AAAA"), ["2001:db8::21"]);
    }
    lab.states(&[0b10]);
    assert_eq!(lab.asks("10.0.0.1", "A"), ["198.51.100.21"]);
}

#[test]
fn few_are_up_and_when_down_decides_without_touching_records() {
    let store = store();
    let memory = Memory::Kept(store.clone());
    let few = Pool { min_up: 2, when_down: WhenDown::Member(2), ..pool(&TWO, DYNAMIC) };
    let mut lab = lab(&few, Steering { memory, ..Steering::default() });
    lab.states(&[0b001]);
    assert_eq!(lab.asks("10.0.0.1", "A"), ["198.51.100.21"]);
    assert_eq!(store.counts().records, 0);
    lab.states(&[0b011]);
    assert_eq!(lab.asks("10.0.0.1", "A").len(), 2);
    assert_eq!(store.counts().records, 1);
}

/// Of a batch the records are asked for ahead, each under who counts as asking; what comes of that is time, and no other answer.
#[test]
fn what_is_foreseen_changes_no_answer() {
    const MANY: u8 = 40;
    let groups = [Group { name: "isp".into(), resolvers: vec![prefix("10.0.0.0/29"), prefix("10.2.0.0/16")] }];
    let groups = Arc::new(Groups::new(&groups, 31, 64).unwrap());
    let plan = Plan { client_subnet: true, ..DYNAMIC };
    let memory = [store(), store()].map(Memory::Kept);
    let [mut plain, mut foreseen] = memory.map(|memory| {
        lab(&pool(&TWO, plan.clone()), Steering { memory, groups: groups.clone(), ..Steering::default() })
    });
    let message = |n: usize| match n % 4 {
        0 => query("alias.company.example.", "A"),
        1 => edns(query(NAME, "A"), 1232, 0, &[(8, &[0, 1, 24, 0, 10, 2, n as u8])]),
        _ => query(NAME, ["A", "AAAA"][n % 2]),
    };
    let batch: Vec<(IpAddr, Vec<u8>)> =
        (0..MANY).map(|n| ([10, 0, n / 20, n].into(), message(usize::from(n)))).collect();
    let (mut ahead, mut strange) = (Ahead::default(), Ahead::default());
    // Another store has other places.
    let memory = Memory::Kept(Arc::new(Store::new(100_000, (1, 2))));
    let other = lab(&pool(&TWO, plan), Steering { memory, groups, ..Steering::default() });
    strange.look(&other.snapshot, batch.len(), |i| &batch[i].1, |i| Some(batch[i].0));
    for round in 0..3 {
        ahead.look(&foreseen.snapshot, batch.len(), |i| &batch[i].1, |i| Some(batch[i].0));
        for (i, (from, message)) in batch.iter().enumerate() {
            (plain.from, foreseen.from) = (*from, *from);
            foreseen.foreseen = ahead.foreseen(i).copied();
            let who = match (i % 4, i) {
                (0, _) => None,
                (1, _) | (_, ..8) => Some(Who::group("isp")),
                (..) => Some(Who::from(IpAddr::from([10, 0, i as u8 / 20, i as u8 & !1]))),
            };
            assert_eq!(foreseen.foreseen.is_some(), who.is_some(), "{i}");
            assert!(foreseen.foreseen.is_none_or(|of| of.hint(who.unwrap()).is_some()), "{i}");
            if round == 2 {
                foreseen.foreseen = strange.foreseen(i).copied();
            }
            assert_eq!(foreseen.reply(message), plain.reply(message), "{i}");
        }
        (plain.unix_ms, foreseen.unix_ms) = (plain.unix_ms + 50_000, foreseen.unix_ms + 50_000);
    }
    let counts = [&plain, &foreseen].map(|lab| {
        let Memory::Kept(store) = &lab.snapshot.steering().memory else { panic!("it has a store") };
        let mut all = Vec::new();
        store.scan(0, usize::MAX, |record| all.push((record.who, record.site, record.stamp_ms, record.hits)));
        all.sort_unstable();
        all
    });
    assert_eq!(counts[0], counts[1]);
    // The group, and pairs of resolvers.
    assert!(counts[0].len() > 15, "{}", counts[0].len());
    ahead.look(&foreseen.snapshot, 2, |i| &batch[i].1, |i| Some(batch[i].0));
    assert!((0..65).all(|i| ahead.foreseen(i).is_none()), "what was foreseen of the last batch is over");
}

#[test]
fn pools_share_by_a_word_or_by_their_members() {
    let south: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    let turned = [south[1], south[0]];
    let share = |word: &str, members: &[(&str, &str, &[IpAddr])]| Dynamic::share_of(word, members.iter().copied());
    let (a, b) = (("a", "south", &south[..]), ("b", "north", &south[..1]));
    assert_eq!(share("", &[a, b]), share("", &[b, ("a", "south", &turned[..])]));
    assert_ne!(share("", &[a, b]), share("", &[a]));
    assert_ne!(share("", &[a]), share("", &[("a", "north", &south[..])]));
    assert_eq!(share("word", &[a]), share("word", &[b]));
}

/// The share of 40000 resolvers that another answer is given to when one of n members goes.
fn moved(method: Stripe, n: u8) -> f64 {
    let addresses: Vec<String> = (1..=n).map(|n| format!("192.0.2.{n}")).collect();
    let lists: Vec<[&str; 1]> = addresses.iter().map(|address| [address.as_str()]).collect();
    let members: Vec<(u8, &[&str])> = lists.iter().zip(1..).map(|(list, site)| (site, &list[..])).collect();
    let mut lab = lab(&pool(&members, Plan { stripe: Some(method), ..STRIPE }), Steering::default());
    let mut seed = 20_261_121_u64;
    let mut resolvers: Vec<IpAddr> = Vec::new();
    for _ in 0..40_000 {
        // An LCG of Knuth's; its upper bits.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        resolvers.push(IpAddr::from(((seed >> 32) as u32).to_be_bytes()));
    }
    let query = query(NAME, "A");
    let mut all = || -> Vec<u8> {
        let answer = |from: &IpAddr| {
            lab.from = *from;
            *lab.reply(&query).last().unwrap()
        };
        let answers = resolvers.iter().map(answer).collect();
        lab.states(&[!1]);
        answers
    };
    let (before, after) = (all(), all());
    let mut shares = vec![0_usize; usize::from(n) + 1];
    before.iter().for_each(|member| shares[usize::from(*member)] += 1);
    let fair = 40_000 / usize::from(n);
    assert!(shares[1..].iter().all(|share| share.abs_diff(fair) < fair / 10), "{method:?} {shares:?}");
    before.iter().zip(&after).filter(|(before, after)| before != after).count() as f64 / 40_000.0
}

#[test]
fn when_a_member_goes_as_many_resolvers_move_as_theory_says() {
    for n in [2, 4, 8, 12] {
        let part = 1.0 / f64::from(n);
        let (modulus, rendezvous) = (moved(Stripe::Modulus, n), moved(Stripe::Rendezvous, n));
        // By modulus a resolver keeps its member if both remainders say the same one: the remainder by n is r > 0 and that by n-1 is r-1,
        // which holds for n-1 of the n (n-1) pairs.
        assert!((modulus - (1.0 - part)).abs() < 0.01, "{n}: {modulus}");
        assert!((rendezvous - part).abs() < 0.01, "{n}: {rendezvous}");
    }
}

#[test]
fn by_metrics_the_least_load_is_asked_and_what_is_not_known_is_not_compared() {
    let plan = Plan { stripe: None, metrics: true, ..STRIPE };
    let loads = Arc::new(SiteTable::default());
    let mut lab = lab(
        &pool(&[(1, &["192.0.2.1"]), (2, &["192.0.2.2"]), (3, &["192.0.2.3"])], plan),
        Steering { loads: loads.clone(), ..Steering::default() },
    );
    let mut chosen = || -> BTreeSet<char> {
        let answers = (0..9).map(|n| lab.asks(&format!("10.0.0.{n}"), "A").join(" "));
        answers.map(|answer| answer.chars().last().unwrap()).collect()
    };
    let all: BTreeSet<char> = ['1', '2', '3'].into();
    let set = |site, load: Load| loads.set(SiteNumber(site), &load);
    set(1, Load { cpu_permille: 900, ..Load::default() });
    set(2, Load { cpu_permille: 300, round_trip_us: Some(5000), ..Load::default() });
    assert_eq!(chosen(), all, "of the third nothing is known");
    set(3, Load { cpu_permille: 350, round_trip_us: Some(5100), ..Load::default() });
    assert_eq!(chosen(), ['2', '3'].into(), "a hair's breadth is none");
    // Of equals the nearest; while of one of them nobody knows how far it is, that is not compared.
    set(3, Load { cpu_permille: 350, round_trip_us: Some(90_000), ..Load::default() });
    assert_eq!(chosen(), ['2'].into());
    set(2, Load { cpu_permille: 300, ..Load::default() });
    assert_eq!(chosen(), ['2', '3'].into());
    set(2, Load { cpu_permille: 300, ..Load::HERE });
    assert_eq!(chosen(), ['2'].into());
    let near = Load { round_trip_us: Some(5000), ..Load::default() };
    set(2, Load { cpu_permille: 300, hops: Some(2), ..near });
    set(3, Load { cpu_permille: 350, hops: Some(9), ..near });
    assert_eq!(chosen(), ['2'].into());
    set(3, Load { cpu_permille: 350, ..near });
    assert_eq!(chosen(), ['2', '3'].into());
    set(2, Load { cpu_permille: 300, full: true, ..Load::default() });
    assert_eq!(chosen(), ['3'].into());
    // A packet or two more make no load.
    set(1, Load { cpu_permille: 900, ..Load::default() });
    set(2, Load { packets_per_s: 9, ..Load::default() });
    set(3, Load { connections: 1, ..Load::default() });
    assert_eq!(chosen(), ['2', '3'].into());
    // Per member: the busiest is a whole, the others are parts of it.
    set(1, Load { connections: 100, ..Load::default() });
    set(2, Load { connections: 400, ..Load::default() });
    set(3, Load { connections: 60, packets_per_s: 500, ..Load::default() });
    assert_eq!(chosen(), ['1'].into());
    set(1, Load { connections: 100, loss_permille: Some(950), ..Load::default() });
    assert_eq!(chosen(), ['1'].into(), "nobody knows what others lose");
    for (site, connections, packets_per_s, lost) in [(1, 100, 0, 950), (2, 400, 0, 0), (3, 60, 500, 0)] {
        set(site, Load { connections, packets_per_s, loss_permille: Some(lost), ..Load::default() });
    }
    assert_eq!(chosen(), ['2'].into());
    loads.forget(SiteNumber(2));
    assert_eq!(chosen(), all);
}

#[test]
fn explaining_says_what_is_answered_and_changes_nothing() {
    let store = store();
    let steering = |memory| Steering { memory, topology: topology(&[("10.1.0.0/16", 9)]), ..Steering::default() };
    let plan = Plan { topology: true, stripe: Some(Stripe::Modulus), ..DYNAMIC };
    let mut lab = lab(&pool(&TWO, plan), steering(Memory::Kept(store.clone())));
    let told = |lab: &Lab, name: &str, from: &str| {
        let zones = lab.snapshot.zones().to_vec();
        let looked = Snapshot::new(zones, Arc::default()).with(steering(Memory::Looked(store.clone())));
        let (name, resolver) = (Name::parse(name).unwrap(), from.parse().unwrap());
        explain(&looked, &Wanted { name: &name, v6: false, resolver, subnet: None, unix_ms: lab.unix_ms })
    };
    let south = SiteNumber(1);
    for (from, step) in
        [("10.1.0.2", Step::BelongsToNoneUp(prefix("10.1.0.0/16"), SiteNumber(9))), ("10.2.0.1", Step::BelongsNowhere)]
    {
        // Both are 1 modulo 3.
        let before = told(&lab, NAME, from);
        let choice = before.choice.unwrap();
        assert_eq!(choice.steps, [Step::NotRemembered, step, Step::Falls { members: 3, member: 1, site: south }]);
        assert_eq!(choice.record, None);
        let addresses: Vec<String> = before.addresses.iter().map(ToString::to_string).collect();
        let mut answered = lab.asks(from, "A");
        answered.sort();
        assert_eq!((addresses.len(), before.ttl_s, before.rcode), (2, Some(30), 0));
        assert!(addresses.iter().all(|address| answered.contains(address)));
        for name in [NAME, "alias.company.example."] {
            let after = told(&lab, name, from).choice.unwrap();
            assert_eq!(after.steps, [Step::Remembered(south)]);
            assert_eq!(after.record.map(|record| (record.site, record.hits)), Some((south, 0)));
        }
    }
    assert_eq!(store.counts().records, 2);
    let other = told(&lab, "ns1.company.example.", "10.1.0.0");
    assert!(other.pool.is_none() && other.choice.is_none() && other.addresses.len() == 1);
    lab.states(&[0]);
    let down = told(&lab, NAME, "10.1.0.0");
    assert!(down.pool.is_some() && down.choice.is_none() && down.addresses.len() == 3);
    assert_eq!(told(&lab, "elsewhere.example.", "10.1.0.0").rcode, 5);
}
