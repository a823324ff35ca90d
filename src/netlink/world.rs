//! What the kernel's dumps say, in farside's words. Nothing here keeps state.

use super::socket::Raw;
use crate::route::{MAX_WAYS, PortInfo, Prefix, Route, Rule, Table, Target, Way};
use crate::wire::ip::family_of;
use hashbrown::HashSet;
use netlink_packet_core::{NlasIterator, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType, RouteVia,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
/// Attributes of rules, as in linux/fib_rules.h.
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;
/// IFF_UP and IFF_LOWER_UP: switched on, and has a carrier.
const LINK_UP: u32 = 1 | 1 << 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub ifindex: u32,
    pub name: String,
    /// An ARPHRD number.
    pub kind: u16,
    /// None: it has no 6-byte address.
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    pub up: bool,
}

/// Read by hand: a link message has dozens of attributes, of which three matter here, and one that a newer kernel
/// shapes otherwise must not make an interface disappear. Layout: `struct ifinfomsg` (16 bytes), then attributes.
pub(super) fn link(payload: &[u8]) -> Option<Link> {
    let (header, attributes) = payload.split_first_chunk::<16>()?;
    let [family, _, k0, k1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    if family != 0 {
        return None; // a bridge speaks of its port
    }
    let mut link = Link {
        ifindex: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: String::new(),
        kind: u16::from_ne_bytes([k0, k1]),
        mac: None,
        mtu: 0,
        up: u32::from_ne_bytes([f0, f1, f2, f3]) & LINK_UP == LINK_UP,
    };
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_IFNAME => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').into(),
            IFLA_MTU => link.mtu = value.first_chunk().map_or(0, |mtu| u32::from_ne_bytes(*mtu)),
            _ => {}
        }
    }
    Some(link)
}

/// An address of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub ifindex: u32,
    pub ip: IpAddr,
    /// The lowest is the best to speak from.
    pub rank: u8,
}

pub(super) fn address(payload: &[u8]) -> Option<Address> {
    let message = AddressMessage::parse(payload).ok()?;
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    // With a peer, IFA_ADDRESS is the peer's.
    let ip = local.or(address)?;
    let flags = message.header.flags;
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let rank = if flags.intersects(unusable) {
        4
    } else if message.header.scope != AddressScope::Universe {
        3
    } else if flags.contains(AddressHeaderFlags::Deprecated) {
        2
    } else if flags.contains(AddressHeaderFlags::Secondary) {
        1 // for IPv6: temporary
    } else {
        0
    };
    Some(Address { ifindex: message.header.index, ip, rank })
}

/// Whose interface an index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Port(u8),
    Tap,
    Host,
}

/// A row of the routing tables. None: it plays no part in forwarding (none of `tables`, a cached exception, dead), or is not
/// of `family`: a kernel without that family answers with all that it has.
pub(super) fn route(
    raw: &Raw,
    family: u8,
    tables: &HashSet<Table>,
    owner: impl Fn(u32) -> Owner,
) -> Result<Option<Route>, ()> {
    // struct rtmsg (12 bytes): family, destination and source length, TOS, table. Looked at before anything is parsed, as other
    // tables may be large.
    let Some((header, attributes)) = raw.payload.split_first_chunk::<12>() else { return Err(()) };
    let [found, _, source_len, tos, number, ..] = *header;
    let number = if number == libc::RT_TABLE_COMPAT { table_attribute(attributes).ok_or(())? } else { number.into() };
    let table = table_of(number);
    let af = if family == 4 { libc::AF_INET } else { libc::AF_INET6 };
    if !tables.contains(&table) || found as i32 != af || source_len != 0 || tos != 0 {
        return Ok(None);
    }
    let message = RouteMessage::parse(raw.payload).map_err(drop)?;
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return Ok(None);
    }
    let mut prefix = if family == 4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (mut metric, mut mtu, mut encapsulated) = (0, 0, false);
    let mut single = Leg { weight: 1, flags: header.flags.bits() as u8, ..Leg::default() };
    let mut legs = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(dst) => prefix = ip_of(dst).ok_or(())?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Metrics(metrics) => {
                for item in metrics {
                    if let RouteMetric::Mtu(bytes) = item {
                        mtu = *bytes;
                    }
                }
            }
            RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => encapsulated = true,
            RouteAttribute::MultiPath(hops) => {
                for hop in hops.iter().take(MAX_WAYS) {
                    let mut leg = Leg {
                        oif: hop.interface_index,
                        weight: hop.hops as u16 + 1,
                        flags: hop.flags.bits(),
                        ..Leg::default()
                    };
                    hop.attributes.iter().for_each(|attribute| leg.read(attribute));
                    legs.push(leg);
                }
            }
            other => single.read(other),
        }
    }
    let oif = single.oif;
    if legs.is_empty() {
        legs.push(single);
    }
    let target = match header.kind {
        RouteType::Local if owner(oif) == Owner::Tap => Target::Tap,
        RouteType::Local => Target::Local,
        RouteType::Unicast if encapsulated => Target::NoRoute,
        RouteType::Unicast => {
            legs.retain(|leg| leg.flags & RouteNextHopFlags::Dead.bits() == 0 && owner(leg.oif) != Owner::Tap);
            if legs.is_empty() {
                return Ok(None);
            }
            let ways: Vec<Way> = legs.iter().filter_map(|leg| leg.way(&owner)).collect();
            if ways.is_empty() { Target::NoRoute } else { Target::Ways(ways) }
        }
        RouteType::Throw => Target::Throw,
        _ => Target::NoRoute,
    };
    Ok(Some(Route { table, prefix, len: header.destination_prefix_length, metric, mtu, target }))
}

/// The number of a table, where it does not fit into the header.
fn table_attribute(attributes: &[u8]) -> Option<u32> {
    let mut attributes = NlasIterator::new(attributes).filter_map(Result::ok);
    let found = attributes.find(|attribute| attribute.kind() == libc::RTA_TABLE)?;
    found.value().first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[derive(Default)]
struct Leg {
    oif: u32,
    gateway: Option<IpAddr>,
    weight: u16,
    flags: u8,
    encapsulated: bool,
}

impl Leg {
    fn read(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(index) => self.oif = *index,
            RouteAttribute::Gateway(gateway) => self.gateway = ip_of(gateway),
            RouteAttribute::Via(RouteVia::Inet(ip)) => self.gateway = Some((*ip).into()),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => self.gateway = Some((*ip).into()),
            RouteAttribute::EncapType(_) => self.encapsulated = true,
            _ => {}
        }
    }

    /// None: not by one of farside's interfaces.
    fn way(&self, owner: impl Fn(u32) -> Owner) -> Option<Way> {
        let Owner::Port(port) = owner(self.oif) else { return None };
        if self.encapsulated {
            return None;
        }
        Some(Way {
            port,
            gateway: self.gateway.filter(|ip| !ip.is_unspecified()).map(|ip| (family_of(ip), ip.into())),
            weight: self.weight,
            alive: self.flags & RouteNextHopFlags::Linkdown.bits() == 0,
        })
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// A row of the neighbour tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NeighborRow {
    pub ifindex: u32,
    pub ip: IpAddr,
    /// Where frames for it go; None: the kernel does not know (or no longer).
    pub mac: Option<[u8; 6]>,
    /// The kernel never confirms it: an administrator's word.
    pub fixed: bool,
}

/// None: not an IP neighbour (a bridge's forwarding table uses these messages too), a proxy entry, multicast.
pub(super) fn neighbor(payload: &[u8]) -> Option<NeighborRow> {
    let family = *payload.first()? as i32;
    if family != libc::AF_INET && family != libc::AF_INET6 {
        return None;
    }
    let message = NeighbourMessage::parse(payload).ok()?;
    debug_assert!(matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6));
    if message.header.flags.contains(netlink_packet_route::neighbour::NeighbourFlags::Proxy) {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let ip = ip.filter(|ip| !ip.is_multicast())?;
    let (known, fixed) = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => {
            (true, false)
        }
        NeighbourState::Permanent | NeighbourState::Noarp => (true, true),
        _ => (false, false),
    };
    Some(NeighborRow { ifindex: message.header.ifindex, ip, mac: mac.filter(|_| known), fixed })
}

/// A policy rule (`ip rule`). None: it is for neither IPv4 nor IPv6.
///
/// # Errors
/// It asks for more than source, destination and table. Layout: `struct fib_rule_hdr` (12 bytes), then attributes.
pub(super) fn rule(payload: &[u8]) -> Result<Option<Rule>, ()> {
    const TO_TABLE: u8 = 1;
    const INVERT: u32 = 2;
    let Some((header, attributes)) = payload.split_first_chunk::<12>() else { return Err(()) };
    let [family, to_len, from_len, tos, number, _, _, action, f0, f1, f2, f3] = *header;
    let any: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Ok(None),
    };
    if action != TO_TABLE || tos != 0 || u32::from_ne_bytes([f0, f1, f2, f3]) & INVERT != 0 {
        return Err(());
    }
    let (mut from, mut to, mut table) = (any, any, u32::from(number));
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(drop)?;
        let value = attribute.value();
        let word = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        match attribute.kind() {
            FRA_DST => to = address_of(value).ok_or(())?,
            FRA_SRC => from = address_of(value).ok_or(())?,
            FRA_TABLE => table = word.ok_or(())?,
            // None is suppressed.
            FRA_SUPPRESS_PREFIXLEN if word == Some(u32::MAX) => {}
            FRA_PRIORITY | FRA_PAD | FRA_PROTOCOL => {}
            _ => return Err(()),
        }
    }
    if (from.is_ipv6(), to.is_ipv6()) != (any.is_ipv6(), any.is_ipv6()) {
        return Err(());
    }
    let (from, to) = (Prefix { addr: from, len: from_len }, Prefix { addr: to, len: to_len });
    Ok(Some(Rule { from, to, table: table_of(table) }))
}

fn address_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        _ => value.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
    }
}

fn table_of(number: u32) -> Table {
    match number {
        n if n == u32::from(libc::RT_TABLE_LOCAL) => Table::Local,
        n if n == u32::from(libc::RT_TABLE_MAIN) => Table::Main,
        other => Table::Other(other),
    }
}

/// Whose interface a link is, by name.
pub(super) fn owners(names: &[String], tap: Option<u8>) -> impl Fn(&Link) -> Owner + '_ {
    move |link| match names.iter().position(|name| *name == link.name) {
        Some(i) if Some(i as u8) == tap => Owner::Tap,
        Some(i) => Owner::Port(i as u8),
        None => Owner::Host,
    }
}

pub(super) fn port_info(name: &str, links: &[Link], addresses: &[Address]) -> PortInfo {
    let Some(link) = links.iter().find(|link| link.name == name) else {
        return PortInfo { name: name.into(), ..PortInfo::default() };
    };
    let mut own: Vec<_> = addresses.iter().filter(|a| a.ifindex == link.ifindex).collect();
    own.sort_by_key(|address| address.rank);
    PortInfo {
        name: name.into(),
        ifindex: link.ifindex,
        mac: link.mac.unwrap_or_default(),
        mtu: link.mtu,
        up: link.up && link.mac.is_some(),
        addresses: own.into_iter().map(|address| address.ip).collect(),
    }
}
