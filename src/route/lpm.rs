//! Longest-prefix match. Prefixes lie in one hash map per table and family, keyed by (length, prefix); a lookup tries
//! the lengths that occur, longest first. Real tables have few lengths, and only a connection's first packet looks up, so
//! this beats a trie by being short and quickly built.

use super::Prefix;
use crate::wire::ip::{Addr, V6};
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most ways of one route that are used; the rest are ignored.
pub const MAX_WAYS: usize = 64;

/// Which of the kernel's tables a route stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    Local,
    Main,
    /// By the kernel's number.
    Other(u32),
}

/// Packets from here to there look into this table; if it has no route for them, the next rule decides (`ip rule`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Both are of one family; a length of 0 is everybody.
    pub from: Prefix,
    pub to: Prefix,
    pub table: Table,
}

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub port: u8,
    /// Family and address of the router; None: the destination itself is on the link.
    pub gateway: Option<(u8, Addr)>,
    /// The share of flows among the route's ways, at least 1.
    pub weight: u16,
    /// False: its link is down; it gets flows only if no other way is alive.
    pub alive: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Ways(Vec<Way>),
    Local,
    /// The host's address on the health checks' device.
    Tap,
    NoRoute,
    /// The table has no route for it after all; the next rule decides.
    Throw,
}

/// A route as control has it from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub table: Table,
    pub prefix: IpAddr,
    /// Bits of `prefix` that count.
    pub len: u8,
    /// The lowest wins; the first given among equals.
    pub metric: u32,
    /// The longest packet for this route in bytes, 0: the interface's.
    pub mtu: u32,
    pub target: Target,
}

/// All routes, compiled.
#[derive(Default)]
pub struct Routes {
    /// Of both families, one after the other.
    tables: Vec<Prefixes>,
    /// For IPv4, for IPv6.
    tries: [Vec<Try>; 2],
    routes: Vec<Route>,
    rules: Vec<Rule>,
}

/// A rule, compiled.
struct Try {
    from: Pattern,
    to: Pattern,
    /// Its place in `tables`.
    table: usize,
}

struct Pattern {
    bits: u128,
    mask: u128,
}

impl Pattern {
    fn new(prefix: Prefix) -> Pattern {
        let mask = mask(prefix.len);
        Pattern { bits: bits(&prefix.addr.into()) & mask, mask }
    }

    fn is_for(&self, addr: u128) -> bool {
        addr & self.mask == self.bits
    }
}

#[derive(Default)]
struct Prefixes {
    /// The prefix lengths that occur, longest first.
    lengths: Vec<u8>,
    /// (length, prefix bits) -> index in `routes`.
    map: HashMap<(u8, u128), u32>,
}

impl Routes {
    /// By the rules that a kernel has from the start: the local table, then the main table.
    pub fn new(routes: Vec<Route>) -> Routes {
        Routes::by_rules(routes, Rule::usual().into())
    }

    /// `rules`: of both families, the first to be tried first.
    pub fn by_rules(routes: Vec<Route>, rules: Vec<Rule>) -> Routes {
        let (mut tables, mut places) = (Vec::<Prefixes>::new(), HashMap::new());
        let mut place = |table, v6, tables: &mut Vec<Prefixes>| {
            *places.entry((table, v6)).or_insert_with(|| {
                tables.push(Prefixes::default());
                tables.len() - 1
            })
        };
        for (index, route) in routes.iter().enumerate() {
            let at = place(route.table, route.prefix.is_ipv6(), &mut tables);
            let table = &mut tables[at];
            let key = (route.len, bits(&route.prefix.into()) & mask(route.len));
            let best = table.map.entry(key).or_insert(index as u32);
            if route.metric < routes[*best as usize].metric {
                *best = index as u32;
            }
        }
        for table in &mut tables {
            table.lengths = table.map.keys().map(|(len, _)| *len).collect();
            table.lengths.sort_unstable_by(|a, b| b.cmp(a));
            table.lengths.dedup();
        }
        let mut tries: [Vec<Try>; 2] = Default::default();
        for Rule { from, to, table } in &rules {
            let v6 = from.addr.is_ipv6();
            let table = place(*table, v6, &mut tables);
            tries[v6 as usize].push(Try { from: Pattern::new(*from), to: Pattern::new(*to), table });
        }
        Routes { tables, tries, routes, rules }
    }

    /// The routes as they were given.
    pub fn as_given(&self) -> &[Route] {
        &self.routes
    }

    pub fn rules_as_given(&self) -> &[Rule] {
        &self.rules
    }

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Does any rule for packets of this family ask where they come from?
    pub fn look_at_sources(&self, family: u8) -> bool {
        self.tries[(family == V6) as usize].iter().any(|this| this.from.mask != 0)
    }

    /// The target of the best route from `src` to `dst`, None: there is no route. Both are of `family`; `src` is all zero where it is
    /// not known.
    pub fn find(&self, src: &Addr, dst: &Addr, family: u8) -> Option<&Target> {
        let (src, dst) = (bits(src), bits(dst));
        let tries =
            self.tries[(family == V6) as usize].iter().filter(|this| this.from.is_for(src) && this.to.is_for(dst));
        let tables = tries.filter_map(|this| self.tables.get(this.table));
        let mut targets =
            tables.filter_map(|table| self.routes.get(table.find(dst)? as usize)).map(|route| &route.target);
        targets.find(|target| **target != Target::Throw)
    }
}

impl Rule {
    /// What a kernel begins with, and does where it has no policy rules.
    pub fn usual() -> [Rule; 4] {
        let all =
            |v6| Prefix { addr: if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }, len: 0 };
        let rule = |(v6, table)| Rule { from: all(v6), to: all(v6), table };
        [(false, Table::Local), (false, Table::Main), (true, Table::Local), (true, Table::Main)].map(rule)
    }
}

impl Prefixes {
    fn find(&self, dst: u128) -> Option<u32> {
        self.lengths.iter().find_map(|&len| self.map.get(&(len, dst & mask(len))).copied())
    }
}

/// An IPv4 address takes the highest 32 bits, so that prefixes of both families are masked alike.
fn bits(addr: &Addr) -> u128 {
    u128::from_be_bytes(addr.octets())
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - (len as u32).min(128)).unwrap_or(0)
}

/// The way for this flow: by weight among those that are alive, among all if none is.
pub(super) fn choose(ways: &[Way], flow_hash: u64) -> Option<&Way> {
    if let [way] = ways {
        return Some(way);
    }
    let any_alive = ways.iter().any(|way| way.alive);
    let usable = || ways.iter().filter(move |way| way.alive || !any_alive);
    let total: u64 = usable().map(|way| way.weight as u64).sum();
    let mut point = ((flow_hash >> 32) * total) >> 32;
    for way in usable() {
        if point < way.weight as u64 {
            return Some(way);
        }
        point -= way.weight as u64;
    }
    None
}
