//! What E1 to E6 of the requirements say, written down plainly, and what farside answers: the same, whatever comes.

use super::*;
use proptest::prelude::*;

/// As many resolvers ask: those of the first network and the first of the second are a group, topology knows some.
const RESOLVERS: [&str; 8] =
    ["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2", "10.1.0.1", "10.1.0.2", "2001:db8::1", "2001:db8:1::2"];

fn group_of(resolver: &str) -> Option<&'static str> {
    ["10.0.0.1", "10.0.0.2", "10.0.1.1"].contains(&resolver).then_some("isp")
}

/// Longest first.
const NETWORKS: [(&str, u8); 5] =
    [("10.1.0.1/32", 3), ("10.0.0.0/24", 1), ("10.1.0.0/16", 2), ("2001:db8::/32", 2), ("10.0.0.0/8", 0)];

fn site_of(resolver: &str) -> Option<u8> {
    let address: IpAddr = resolver.parse().unwrap();
    NETWORKS.iter().find(|(network, _)| prefix(network).contains(address)).map(|(_, site)| *site)
}

#[derive(Clone, Debug)]
struct Sample {
    site: u8,
    v4: bool,
    v6: bool,
    weight: u32,
}

/// A pool as a reload may leave it.
#[derive(Clone, Debug)]
struct Modes {
    dynamic: bool,
    topology: bool,
    modulus: bool,
    min_up: usize,
    ttl_s: u32,
}

#[derive(Clone, Debug)]
enum Event {
    Asks { resolver: usize, v4: bool, after_ms: u64 },
    States(u64),
    Reload(Modes),
}

fn modes() -> impl Strategy<Value = Modes> {
    (any::<[bool; 3]>(), 0..3usize, 1..60u32).prop_map(|([dynamic, topology, modulus], min_up, ttl_s)| Modes {
        dynamic,
        topology,
        modulus,
        min_up,
        ttl_s,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let asks = (0..RESOLVERS.len(), any::<bool>(), 0..40_000u64);
    prop_oneof![
        8 => asks.prop_map(|(resolver, v4, after_ms)| Event::Asks { resolver, v4, after_ms }),
        2 => any::<u64>().prop_map(Event::States),
        1 => modes().prop_map(Event::Reload),
    ]
}

fn members() -> impl Strategy<Value = Vec<Sample>> {
    let member = (0..4u8, any::<bool>(), any::<bool>(), 0..4u32);
    let member = member.prop_map(|(site, v4, v6, weight)| Sample { site, v4: v4 || !v6, v6, weight });
    proptest::collection::vec(member, 1..6)
}

/// E4: "site, TTL, time stamp, hits".
struct Record {
    site: u8,
    ttl_s: u32,
    stamp_ms: u64,
    hits: u32,
}

#[derive(Debug, PartialEq)]
enum Expected {
    Site(u8),
    /// One of those that are up, in turn.
    AnyOf(BTreeSet<u8>),
    All,
}

struct Model {
    members: Vec<Sample>,
    up: u64,
    modes: Modes,
    /// By resolver or group.
    records: BTreeMap<String, Record>,
}

impl Model {
    fn of_family(&self, v4: bool) -> Vec<usize> {
        let has = |member: &Sample| (if v4 { member.v4 } else { member.v6 }) && member.weight > 0;
        (0..self.members.len()).filter(|at| has(&self.members[*at])).collect()
    }

    /// Of the family; None: `when_down` decides.
    fn up(&self, v4: bool) -> Option<Vec<usize>> {
        let all = self.of_family(v4);
        let up: Vec<usize> = all.iter().copied().filter(|at| self.up >> at & 1 == 1).collect();
        (!up.is_empty() && up.len() >= self.modes.min_up.min(all.len())).then_some(up)
    }

    fn sites(&self, v4: bool) -> BTreeSet<u8> {
        self.up(v4).unwrap_or_default().iter().map(|at| self.members[*at].site).collect()
    }

    /// E3: "N = members up for that name; X = (resolver address as integer mod N) + 1; walk the circular list, counting down X on
    /// members that are up, skipping those that are down; at 0, the candidate."
    fn stripe(&self, resolver: &str, v4: bool) -> Option<u8> {
        let up = self.up(v4)?;
        let number = match resolver.parse().unwrap() {
            _ if group_of(resolver).is_some() => {
                let hash = crate::affinity::Who::group("isp").0;
                u64::from_be_bytes(hash[8..].try_into().unwrap()).into()
            }
            IpAddr::V4(address) => u32::from(address).into(),
            IpAddr::V6(address) => u128::from(address),
        };
        let n = up.len() as u128;
        let mut x = number % n + 1;
        let mut at = 0;
        loop {
            if up.contains(&at) {
                x -= 1;
                if x == 0 {
                    return Some(self.members[at].site);
                }
            }
            at = (at + 1) % self.members.len();
        }
    }

    /// E2 and E3, and what comes last.
    fn afresh(&self, resolver: &str, v4: bool) -> Expected {
        if self.modes.topology
            && let Some(site) = site_of(resolver)
            && self.sites(v4).contains(&site)
        {
            return Expected::Site(site);
        }
        match self.stripe(resolver, v4) {
            Some(site) if self.modes.modulus => Expected::Site(site),
            _ => Expected::AnyOf(self.sites(v4)),
        }
    }

    fn asked(&mut self, resolver: &str, v4: bool, now_ms: u64) -> Expected {
        if self.up(v4).is_none() {
            return Expected::All;
        }
        if !self.modes.dynamic {
            return self.afresh(resolver, v4);
        }
        let either = &self.sites(true) | &self.sites(false);
        let mine = self.sites(v4);
        if let Some(record) = self.records.get_mut(group_of(resolver).unwrap_or(resolver))
            // E4: "Valid while now <= stamp + TTL. Valid and the site is up: same site again, stamp := now, hits + 1".
            && now_ms <= record.stamp_ms + u64::from(record.ttl_s) * 1000
            && either.contains(&record.site)
        {
            record.stamp_ms = now_ms;
            record.hits += 1;
            if mine.contains(&record.site) {
                return Expected::Site(record.site);
            }
        }
        self.afresh(resolver, v4)
    }

    /// E4: "Otherwise a site is chosen afresh, and a new record replaces the old one."
    fn answered(&mut self, resolver: &str, site: u8, now_ms: u64) {
        let either = &self.sites(true) | &self.sites(false);
        let who = group_of(resolver).unwrap_or(resolver);
        let holds = |record: &Record| {
            now_ms <= record.stamp_ms + u64::from(record.ttl_s) * 1000 && either.contains(&record.site)
        };
        if self.modes.dynamic && !self.records.get(who).is_some_and(holds) {
            let record = Record { site, ttl_s: self.modes.ttl_s, stamp_ms: now_ms, hits: 0 };
            self.records.insert(who.into(), record);
        }
    }
}

fn real(members: &[Sample], modes: &Modes) -> Pool {
    // The last byte of an address: its member, and its site.
    let text = |at: usize, member: &Sample| (format!("192.0.2.{}", at * 8 + usize::from(member.site)), member.v4);
    let text6 = |at: usize, member: &Sample| (format!("2001:db8::{:x}", at * 8 + usize::from(member.site)), member.v6);
    let lists: Vec<Vec<String>> = (0..members.len())
        .map(|at| [text(at, &members[at]), text6(at, &members[at])])
        .map(|both| both.into_iter().filter(|(_, has)| *has).map(|(text, _)| text).collect())
        .collect();
    let lists: Vec<Vec<&str>> = lists.iter().map(|list| list.iter().map(String::as_str).collect()).collect();
    let list: Vec<(u8, &[&str])> = lists.iter().zip(members).map(|(list, member)| (member.site, &list[..])).collect();
    let plan = Plan {
        dynamic: modes.dynamic.then_some(Dynamic { share: Share(1), ttl_by_hour_s: [modes.ttl_s; 24] }),
        topology: modes.topology,
        stripe: modes.modulus.then_some(Stripe::Modulus),
        metrics: false,
        client_subnet: false,
        places: Vec::new(),
    };
    let mut pool = pool(&list, plan);
    pool.min_up = modes.min_up;
    pool.members.iter_mut().zip(members).for_each(|(real, member)| real.weight = member.weight);
    pool
}

fn steering(store: &Arc<Store>) -> Steering {
    let resolvers = vec![prefix("10.0.0.0/24"), prefix("10.0.1.1")];
    let group = Group { name: "isp".into(), resolvers };
    let groups = Arc::new(Groups::new(&[group], 32, 128).unwrap());
    Steering { groups, topology: topology(&NETWORKS), memory: Memory::Kept(store.clone()), ..Steering::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn farside_answers_what_the_requirements_say(
        members in members(),
        first in modes(),
        events in proptest::collection::vec(event(), 1..80),
    ) {
        let store = store();
        let mut lab = lab(&real(&members, &first), steering(&store));
        let mut model = Model { members, up: u64::MAX, modes: first, records: BTreeMap::new() };
        for event in events {
            match event {
                Event::States(up) => model.up = up,
                Event::Reload(modes) => {
                    model.modes = modes;
                    let made = super::lab(&real(&model.members, &model.modes), steering(&store));
                    lab.snapshot = made.snapshot;
                }
                Event::Asks { resolver, v4, after_ms } => {
                    lab.unix_ms += after_ms;
                    let resolver = RESOLVERS[resolver];
                    let expected = model.asked(resolver, v4, lab.unix_ms);
                    let answer = lab.asks(resolver, if v4 { "A" } else { "AAAA" });
                    let number = |address: &String| match address.parse().unwrap() {
                        IpAddr::V4(address) => address.octets()[3],
                        IpAddr::V6(address) => address.octets()[15],
                    };
                    let got: BTreeSet<u8> = answer.iter().map(number).collect();
                    let sites: BTreeSet<u8> = got.iter().map(|number| number % 8).collect();
                    let of = |members: Vec<usize>| -> BTreeSet<u8> {
                        members.into_iter().map(|at| at as u8 * 8 + model.members[at].site).collect()
                    };
                    let Some(up) = model.up(v4) else {
                        // N = 0: all, up or not; those that have no weight only where there are no others.
                        prop_assert_eq!(expected, Expected::All);
                        let normal = of(model.of_family(v4));
                        prop_assert!(got == normal || normal.is_empty());
                        continue;
                    };
                    prop_assert_eq!(sites.len(), 1, "{:?}", &answer);
                    let site = *sites.first().unwrap();
                    match expected {
                        Expected::Site(expected) => prop_assert_eq!(site, expected),
                        Expected::AnyOf(sites) => prop_assert!(sites.contains(&site)),
                        Expected::All => prop_assert!(false, "all were expected"),
                    }
                    let own = up.into_iter().filter(|at| model.members[*at].site == site).collect();
                    prop_assert_eq!(got, of(own));
                    model.answered(resolver, site, lab.unix_ms);
                }
            }
            lab.states(&[model.up]);
        }
        for (name, record) in &model.records {
            let who = match name.parse::<IpAddr>() {
                Ok(address) => crate::affinity::Who::from(address),
                Err(_) => crate::affinity::Who::group(name),
            };
            let real = store.read(who, Share(1)).unwrap();
            let real = (real.site.0, real.ttl_s, real.stamp_ms, real.hits);
            prop_assert_eq!(real, (record.site, record.ttl_s, record.stamp_ms, record.hits), "{}", name);
        }
        prop_assert_eq!(store.counts().records as usize, model.records.len());
    }

    /// The highest of what is left is the highest of all, if it is left.
    #[test]
    fn by_rendezvous_nobody_moves_but_who_must(
        members in members(),
        states in proptest::collection::vec(any::<u64>(), 1..12),
        resolver in any::<u32>(),
    ) {
        let mut pool = real(&members, &Modes { dynamic: false, topology: false, modulus: false, min_up: 1, ttl_s: 1 });
        for (at, member) in pool.members.iter_mut().enumerate() {
            // A site of its own each, so that the answer is the member.
            member.addresses = vec![IpAddr::from([192, 0, 2, at as u8])];
            member.weight = 1;
        }
        let mut plan = pool.plan.take().unwrap();
        plan.stripe = Some(Stripe::Rendezvous);
        plan.places.iter_mut().enumerate().for_each(|(at, place)| place.site = SiteNumber(at as u8));
        pool.plan = Some(plan);
        let all = (1u64 << members.len()) - 1;
        let mut lab = lab(&pool, Steering::default());
        let mut chosen: Vec<(u64, u8)> = Vec::new();
        for state in states.iter().map(|state| state & all).filter(|state| *state != 0) {
            lab.states(&[state]);
            let member: Vec<u8> = lab.asks(&IpAddr::from(resolver.to_be_bytes()).to_string(), "A")
                .iter().map(|address| address.rsplit('.').next().unwrap().parse().unwrap()).collect();
            prop_assert!(state >> member[0] & 1 == 1);
            for (before, had) in &chosen {
                if state & before == state && state >> had & 1 == 1 {
                    prop_assert_eq!(member[0], *had);
                }
            }
            chosen.push((state, member[0]));
        }
    }
}
