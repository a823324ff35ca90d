//! A snapshot made by hand, for tests and `replay`.

use super::{Fib, Hop, HopId, HopTable, Neighbor, PortInfo, Route, Routes, Rule, Table, Target, Way};
use crate::wire::ip::family_of;
use hashbrown::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// A network, written `10.0.0.0/8` or `2001:db8::/32`; host bits may be set. Without `/` it is a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub addr: IpAddr,
    pub len: u8,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        let (addr, len) = text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
        let addr: IpAddr = addr.parse().map_err(|_| format!("{addr:?} is not an IP address"))?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => bits,
            Some(len) => match len.parse() {
                Ok(len) if len <= bits => len,
                _ => return Err(format!("{len:?} is not a prefix length from 0 to {bits}")),
            },
        };
        Ok(Prefix { addr, len })
    }
}

/// Made by [`Fib::builder`]. Hop ids are given in the order of [`Builder::neighbor`], from 2.
#[derive(Default)]
pub struct Builder {
    epoch: u8,
    ports: Vec<PortInfo>,
    routes: Vec<Route>,
    /// Before those for the main table.
    rules: Vec<Rule>,
    neighbors: Vec<(Neighbor, [u8; 6])>,
    hops: Option<Arc<HopTable>>,
}

impl Builder {
    pub fn epoch(mut self, epoch: u8) -> Builder {
        self.epoch = epoch;
        self
    }

    /// Uses this table instead of a new one.
    pub fn hops(mut self, hops: Arc<HopTable>) -> Builder {
        self.hops = Some(hops);
        self
    }

    /// The next port. Each address comes with the network it is in: a route to that network and the local address itself.
    pub fn port(mut self, name: &str, mac: [u8; 6], mtu: u32, addresses: &[Prefix]) -> Builder {
        let port = self.ports.len() as u8;
        for &Prefix { addr, len } in addresses {
            self.push(Table::Local, Prefix { addr, len: if addr.is_ipv4() { 32 } else { 128 } }, Target::Local);
            self.push(Table::Main, Prefix { addr, len }, way(port, None));
        }
        let addresses = addresses.iter().map(|prefix| prefix.addr).collect();
        self.ports.push(PortInfo { name: name.into(), ifindex: port as u32 + 1, mac, mtu, up: true, addresses });
        self
    }

    /// A route by `port`, through `gateway` if there is one.
    pub fn route(mut self, prefix: Prefix, port: u8, gateway: Option<IpAddr>) -> Builder {
        self.push(Table::Main, prefix, way(port, gateway));
        self
    }

    /// A route that leads nowhere.
    pub fn blackhole(mut self, prefix: Prefix) -> Builder {
        self.push(Table::Main, prefix, Target::NoRoute);
        self
    }

    /// Any other route.
    pub fn raw_route(mut self, route: Route) -> Builder {
        self.routes.push(route);
        self
    }

    /// What comes from there looks into this table before the main table, after those of earlier rules.
    pub fn rule(mut self, from: Prefix, table: u32) -> Builder {
        let to = Prefix {
            addr: if from.addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
            len: 0,
        };
        self.rules.push(Rule { from, to, table: Table::Other(table) });
        self
    }

    /// A neighbour whose MAC is known.
    pub fn neighbor(mut self, port: u8, ip: IpAddr, mac: [u8; 6]) -> Builder {
        self.neighbors.push((Neighbor::new(port, ip), mac));
        self
    }

    pub fn build(self) -> Fib {
        let hops = self.hops.unwrap_or_default();
        let mut names = HashMap::new();
        for (i, (neighbor, mac)) in self.neighbors.into_iter().enumerate() {
            let id = i as HopId + 2;
            let mtu = self.ports.get(neighbor.port as usize).map_or(1500, |port| port.mtu);
            hops.set(id, Hop { mac, port: neighbor.port, mtu });
            names.insert(neighbor, id);
        }
        let host: HashSet<IpAddr> = self.ports.iter().flat_map(|port| port.addresses.iter().copied()).collect();
        let [local4, main4, local6, main6] = Rule::usual();
        let rules = [local4, local6].into_iter().chain(self.rules).chain([main4, main6]).collect();
        let routes = Arc::new(Routes::by_rules(self.routes, rules));
        Fib::assemble(self.epoch, self.ports.into(), routes, names, Arc::new(host), hops)
    }

    fn push(&mut self, table: Table, prefix: Prefix, target: Target) {
        let Prefix { addr, len } = prefix;
        self.routes.push(Route { table, prefix: addr, len, metric: 0, mtu: 0, target });
    }
}

fn way(port: u8, gateway: Option<IpAddr>) -> Target {
    let gateway = gateway.map(|ip| (family_of(ip), ip.into()));
    Target::Ways(vec![Way { port, gateway, weight: 1, alive: true }])
}
