//! Longest-prefix match. Prefixes lie in one hash map per table and family, keyed by (length, prefix); a lookup tries
//! the lengths that occur, longest first. Real tables have few lengths, and only a connection's first packet looks up, so
//! this beats a trie by being short and quickly built.

use crate::wire::ip::{Addr, V6};
use hashbrown::HashMap;
use std::net::IpAddr;

/// The most ways of one route that are used; the rest are ignored.
pub const MAX_WAYS: usize = 64;

/// Which of the kernel's tables a route stands in; `Local` is searched first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Local,
    Main,
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
    tables: [Prefixes; 4],
    routes: Vec<Route>,
}

#[derive(Default)]
struct Prefixes {
    /// The prefix lengths that occur, longest first.
    lengths: Vec<u8>,
    /// (length, prefix bits) -> index in `routes`.
    map: HashMap<(u8, u128), u32>,
}

impl Routes {
    pub fn new(routes: Vec<Route>) -> Routes {
        let mut tables: [Prefixes; 4] = Default::default();
        for (index, route) in routes.iter().enumerate() {
            let table = &mut tables[slot(route.table, route.prefix.is_ipv6())];
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
        Routes { tables, routes }
    }

    /// The routes as they were given.
    pub fn as_given(&self) -> &[Route] {
        &self.routes
    }

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The target of the best route to `dst`, None: there is no route.
    pub fn find(&self, dst: &Addr, family: u8) -> Option<&Target> {
        let v6 = family == V6;
        let dst = bits(dst);
        let index =
            self.tables[slot(Table::Local, v6)].find(dst).or_else(|| self.tables[slot(Table::Main, v6)].find(dst))?;
        self.routes.get(index as usize).map(|route| &route.target)
    }
}

impl Prefixes {
    fn find(&self, dst: u128) -> Option<u32> {
        self.lengths.iter().find_map(|&len| self.map.get(&(len, dst & mask(len))).copied())
    }
}

fn slot(table: Table, v6: bool) -> usize {
    table as usize * 2 + v6 as usize
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
