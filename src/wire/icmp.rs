//! ICMP (RFC 792) and ICMPv6 (RFC 4443): types, and the packet that an error quotes.

use super::ip::{
    Addr, Endpoint, FlowKey, GRE, IPIP, IPV6, Payload, TCP, UDP, V4, V4_HEADER, V6, V6_HEADER, walk_extensions,
};
use super::l4::UDP_HEADER;
use super::{Packet, be16};
use crate::counters::Refusal;

pub const ECHO_REPLY: u8 = 0;
pub const UNREACHABLE: u8 = 3;
pub const SOURCE_QUENCH: u8 = 4;
pub const ECHO: u8 = 8;
pub const TIME_EXCEEDED: u8 = 11;
pub const PARAMETER_PROBLEM: u8 = 12;
/// Codes of [`UNREACHABLE`].
pub const PORT_UNREACHABLE: u8 = 3;
pub const FRAGMENTATION_NEEDED: u8 = 4;

pub const V6_UNREACHABLE: u8 = 1;
pub const V6_PACKET_TOO_BIG: u8 = 2;
pub const V6_TIME_EXCEEDED: u8 = 3;
pub const V6_PARAMETER_PROBLEM: u8 = 4;
pub const V6_ECHO: u8 = 128;
pub const V6_ECHO_REPLY: u8 = 129;
pub const V6_NEIGHBOR_SOLICITATION: u8 = 135;
pub const V6_NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Code of [`V6_UNREACHABLE`].
pub const V6_PORT_UNREACHABLE: u8 = 4;

/// Is this an error about a packet that farside may have sent? Redirects and source quench are not: they are advice
/// to a host about its own routes (RFC 5508 4.3 leaves them out as well).
pub fn is_error(family: u8, kind: u8) -> bool {
    if family == V4 {
        matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
    } else {
        matches!(kind, V6_UNREACHABLE | V6_PACKET_TOO_BIG | V6_TIME_EXCEEDED | V6_PARAMETER_PROBLEM)
    }
}

/// The packet that an ICMP error quotes. Offsets count from the start of the frame.
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    pub key: FlowKey,
    /// Where its IP header starts.
    pub l3: usize,
    /// Where its L4 header starts; at least 8 bytes of it are there (RFC 792 promises no more).
    pub l4: usize,
}

/// Reads the quoted packet of the ICMP error in `packet`. Its total length and checksum are not looked at: it is cut
/// off, and some routers quote it after they have changed it.
pub fn quoted(frame: &[u8], packet: &Packet) -> Result<Quoted, Refusal> {
    let quoted = quoted_at(frame, usize::from(packet.l4) + super::l4::ICMP_HEADER, packet)?;
    if quoted.key.family == packet.family { Ok(quoted) } else { Err(Refusal::IcmpQuote) }
}

/// The same of a packet that is quoted from `l3` on.
fn quoted_at(frame: &[u8], l3: usize, packet: &Packet) -> Result<Quoted, Refusal> {
    let ip = frame.get(l3..packet.end as usize).ok_or(Refusal::IcmpQuote)?;
    let family = ip.first().map_or(0, |byte| byte >> 4);
    let (protocol, l4, src, dst) = if family == V4 {
        let header = ip.first_chunk::<V4_HEADER>().ok_or(Refusal::IcmpQuote)?;
        let header_len = usize::from(header[0] & 15) * 4;
        let fragment_offset = be16(header, 6) & 0x1fff;
        if header[0] >> 4 != V4 || header_len < V4_HEADER || fragment_offset != 0 {
            return Err(Refusal::IcmpQuote);
        }
        let src = Addr::v4([header[12], header[13], header[14], header[15]]);
        let dst = Addr::v4([header[16], header[17], header[18], header[19]]);
        (header[9], header_len, src, dst)
    } else {
        let header = ip.first_chunk::<V6_HEADER>().ok_or(Refusal::IcmpQuote)?;
        if header[0] >> 4 != V6 {
            return Err(Refusal::IcmpQuote);
        }
        let Payload { protocol, at: l4, fragment } = walk_extensions(ip, header[6]).map_err(|_| Refusal::IcmpQuote)?;
        if fragment.is_some_and(|fragment| fragment.offset > 0) {
            return Err(Refusal::IcmpQuote);
        }
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[8..24]);
        let src = Addr::v6(octets);
        octets.copy_from_slice(&header[24..40]);
        (protocol, l4, src, Addr::v6(octets))
    };
    if protocol != TCP && protocol != UDP {
        return Err(Refusal::IcmpQuote);
    }
    let ports = ip.get(l4..l4 + 8).ok_or(Refusal::IcmpQuote)?;
    let key = FlowKey {
        src: Endpoint { addr: src, port: be16(ports, 0) },
        dst: Endpoint { addr: dst, port: be16(ports, 2) },
        protocol,
        family,
    };
    Ok(Quoted { key, l3, l4: l3 + l4 })
}

/// An encapsulated packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug)]
pub struct QuotedTunnel {
    /// Of the outer packet, of the ICMP packet's family.
    pub src: Addr,
    pub dst: Addr,
    /// What was in it, as far as it is quoted.
    pub inner: Option<Quoted>,
}

/// Does an ICMP message say that a packet is too large for the next link?
pub fn is_too_big(family: u8, kind: u8, code: u8) -> bool {
    if family == V4 { (kind, code) == (UNREACHABLE, FRAGMENTATION_NEEDED) } else { kind == V6_PACKET_TOO_BIG }
}

/// Protocol, header's length, source and destination of a packet that an ICMP error quotes, without options.
fn quoted_header<'f>(frame: &'f [u8], packet: &Packet) -> Option<(&'f [u8], u8, usize, Addr, Addr)> {
    let ip = frame.get(usize::from(packet.l4) + super::l4::ICMP_HEADER..packet.end as usize)?;
    if packet.family == V4 {
        let fields = ip.first_chunk::<V4_HEADER>().filter(|fields| fields[0] == 0x45)?;
        let addr = |at: usize| Addr::v4([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]]);
        Some((ip, fields[9], V4_HEADER, addr(12), addr(16)))
    } else {
        let fields = ip.first_chunk::<V6_HEADER>().filter(|fields| fields[0] >> 4 == V6)?;
        let addr = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&fields[at..at + 16]);
            Addr::v6(octets)
        };
        Some((ip, fields[6], V6_HEADER, addr(8), addr(24)))
    }
}

/// Is it about a packet of the addressee's own that is too large and may be a tunnel's? The kernel programs hand these to farside and
/// to the host (`src/bpf/farside.c`, g).
pub fn is_hosts_too(frame: &[u8], packet: &Packet) -> bool {
    let at = usize::from(packet.l4);
    is_too_big(packet.family, frame[at], frame[at + 1])
        && quoted_header(frame, packet)
            .is_some_and(|(_, protocol, _, src, _)| src == packet.dst && matches!(protocol, IPIP | IPV6 | GRE | UDP))
}

/// Reads the packet that an ICMP error quotes as one of this host's tunnels'. None: it is no such packet.
pub fn quoted_tunnel(frame: &[u8], packet: &Packet, gue_port: u16) -> Option<QuotedTunnel> {
    let l3 = usize::from(packet.l4) + super::l4::ICMP_HEADER;
    let (ip, protocol, header, src, dst) = quoted_header(frame, packet)?;
    let l4 = &ip[header..];
    let shim = match protocol {
        IPIP | IPV6 => 0,
        GRE => 4,
        UDP if l4.len() >= UDP_HEADER && be16(l4, 2) == gue_port => {
            match l4.get(UDP_HEADER).map_or(0, |byte| byte >> 6) {
                0 => UDP_HEADER + 4,
                _ => UDP_HEADER,
            }
        }
        _ => return None,
    };
    Some(QuotedTunnel { src, dst, inner: quoted_at(frame, l3 + header + shim, packet).ok() })
}
