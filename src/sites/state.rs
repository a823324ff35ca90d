//! What a site says of itself, as bytes; by whatever way it is told.
//!
//! Numbers come with the highest byte first, a list with its length in two bytes before it.

use super::fields::{Fields, Malformed};
use super::same_hash;
use std::net::{IpAddr, Ipv6Addr};

/// The most services and members that are told.
pub const MOST_SERVICES: usize = 8192;
pub const MOST_MEMBERS: usize = 8192;

/// How a site is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// None of its services takes a connection that is new, for want of room.
    pub full: bool,
    /// Open ones.
    pub connections: u32,
    /// That come in, DNS queries among them.
    pub packets_per_s: u32,
    /// Of all its CPUs.
    pub cpu_permille: u16,
    /// At most [`MOST_SERVICES`].
    pub services: Vec<Served>,
    /// Of pools, those that it manages: by [`member_id`], and whether it is up. At most [`MOST_MEMBERS`].
    pub members: Vec<(u64, bool)>,
}

/// One service of a site.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    pub vip: IpAddr,
    pub port: u16,
    /// The number in the IP header.
    pub protocol: u8,
    /// A real server takes connections, or would if it had room.
    pub up: bool,
    /// It has no room.
    pub full: bool,
}

/// By which two sites know that they mean the same member of the same pool.
pub fn member_id(pool: &str, member: &str) -> u64 {
    let mut name = pool.as_bytes().to_vec();
    // No name has one.
    name.push(b'/');
    name.extend_from_slice(member.as_bytes());
    same_hash(&name)
}

impl State {
    /// Puts it at the end of `out`. Lists that are too long are cut.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.full));
        out.extend_from_slice(&self.connections.to_be_bytes());
        out.extend_from_slice(&self.packets_per_s.to_be_bytes());
        out.extend_from_slice(&self.cpu_permille.to_be_bytes());
        let services = &self.services[..self.services.len().min(MOST_SERVICES)];
        out.extend_from_slice(&(services.len() as u16).to_be_bytes());
        for served in services {
            out.extend_from_slice(&octets(served.vip));
            out.extend_from_slice(&served.port.to_be_bytes());
            out.push(served.protocol);
            out.push(u8::from(served.up) | u8::from(served.full) << 1);
        }
        let members = &self.members[..self.members.len().min(MOST_MEMBERS)];
        out.extend_from_slice(&(members.len() as u16).to_be_bytes());
        for (id, up) in members {
            out.extend_from_slice(&id.to_be_bytes());
            out.push(u8::from(*up));
        }
    }

    /// What stands behind it is left: later versions add there.
    pub fn read(fields: &mut Fields) -> Result<State, Malformed> {
        let full = fields.u8()? & 1 != 0;
        let (connections, packets_per_s, cpu_permille) = (fields.u32()?, fields.u32()?, fields.u16()?.min(1000));
        let services = fields.list(MOST_SERVICES, 20, |fields| {
            let vip = address(fields.array()?);
            let (port, protocol, flags) = (fields.u16()?, fields.u8()?, fields.u8()?);
            Ok(Served { vip, port, protocol, up: flags & 1 != 0, full: flags & 2 != 0 })
        })?;
        let members = fields.list(MOST_MEMBERS, 9, |fields| Ok((fields.u64()?, fields.u8()? & 1 != 0)))?;
        Ok(State { full, connections, packets_per_s, cpu_permille, services, members })
    }
}

/// An address as it travels: IPv4 as mapped into IPv6.
pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// What [`octets`] has written.
pub fn address(octets: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}
