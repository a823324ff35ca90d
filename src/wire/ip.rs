//! IP addresses as the data path holds them, and the 5-tuple.

use super::l4::{self, Ports};
use super::{ETHERNET, Packet, Parsed, be16, be32, checksum};
use crate::counters::Refusal;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IANA protocol numbers; wire values stay integers.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
/// IP packets inside of IP packets.
pub const IPIP: u8 = 4;
pub const IPV6: u8 = 41;
pub const GRE: u8 = 47;

/// The IP version of an [`Addr`], as it stands in the version field of a header.
pub const V4: u8 = 4;
pub const V6: u8 = 6;

/// An IPv4 or IPv6 address as it lies on the wire: each word is four wire bytes read as they are (native
/// endian load, network byte order inside). IPv4 uses the first word only; the rest is zero. Which of the two it is
/// stands beside it (`family` in [`FlowKey`], in a record, in a packet), so that a record of four addresses keeps
/// all that IPv4 needs in one cache line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    #[inline]
    pub fn v4(octets: [u8; 4]) -> Addr {
        Addr([u32::from_ne_bytes(octets), 0, 0, 0])
    }

    #[inline]
    pub fn v6(octets: [u8; 16]) -> Addr {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Addr(words)
    }

    /// The 16 wire bytes; for IPv4 the first four count.
    #[inline]
    pub fn octets(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *bytes = word.to_ne_bytes();
        }
        octets
    }

    /// Means something on one link only, and no router passes it on (RFC 3927 7, RFC 4291 2.5.6).
    #[inline]
    pub fn is_link_local(&self, family: u8) -> bool {
        let [a, b, ..] = self.0[0].to_ne_bytes();
        if family == V4 { [a, b] == [169, 254] } else { a == 0xfe && b & 0xc0 == 0x80 }
    }

    pub fn to_ip(&self, family: u8) -> IpAddr {
        if family == V4 {
            IpAddr::V4(Ipv4Addr::from(self.0[0].to_ne_bytes()))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.octets()))
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(ip) => Addr::v4(ip.octets()),
            IpAddr::V6(ip) => Addr::v6(ip.octets()),
        }
    }
}

/// 4 or 6.
pub fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { V4 } else { V6 }
}

/// An address and a port (host byte order). The family stands beside it, as for [`Addr`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Endpoint {
    pub addr: Addr,
    pub port: u16,
}

impl Endpoint {
    pub fn new(ip: IpAddr, port: u16) -> Endpoint {
        Endpoint { addr: ip.into(), port }
    }
}

/// The 5-tuple of a packet, as it travels: source first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub src: Endpoint,
    pub dst: Endpoint,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// [`V4`] or [`V6`].
    pub family: u8,
}

impl FlowKey {
    /// The key of the packets that travel the other way.
    pub fn reversed(&self) -> FlowKey {
        FlowKey { src: self.dst, dst: self.src, ..*self }
    }
}

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} [{}]:{} -> [{}]:{}",
            self.protocol,
            self.src.addr.to_ip(self.family),
            self.src.port,
            self.dst.addr.to_ip(self.family),
            self.dst.port
        )
    }
}

impl std::fmt::Debug for Addr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0[1..] == [0; 3] { write!(f, "{}", self.to_ip(V4)) } else { write!(f, "{}", self.to_ip(V6)) }
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{:?}]:{}", self.addr, self.port)
    }
}

/// Bytes of an IPv4 header without options, and of the IPv6 header.
pub const V4_HEADER: usize = 20;
pub const V6_HEADER: usize = 40;

/// The most IPv6 extension headers that farside walks over.
const MAX_EXTENSIONS: usize = 6;

/// Reads an IPv4 packet behind its Ethernet header (RFC 791; the checks of RFC 1812 5.2.2).
///
/// Options are refused as a whole: hardly any honest packet carries them, and those that do ask a router for favours.
#[inline(always)]
pub(super) fn parse_v4(frame: &[u8], packet: &mut Packet) -> Result<(), Refusal> {
    const WORD_AND_LENGTH: u8 = V4 << 4 | (V4_HEADER / 4) as u8;
    let header = frame.first_chunk::<{ ETHERNET + V4_HEADER }>().ok_or(Refusal::IpHeader)?;
    let header = header.last_chunk::<V4_HEADER>().ok_or(Refusal::IpHeader)?;
    if header[0] != WORD_AND_LENGTH {
        return Err(refuse_v4(&frame[ETHERNET..], header));
    }
    let total = usize::from(be16(header, 2));
    let payload = frame.get(ETHERNET + V4_HEADER..ETHERNET + total).ok_or(Refusal::IpLength)?;
    if checksum::fold(checksum::header(header)) != 0xffff {
        return Err(Refusal::IpChecksum);
    }
    let src = Addr::v4([header[12], header[13], header[14], header[15]]);
    let dst = Addr::v4([header[16], header[17], header[18], header[19]]);
    if martian_v4([header[12], header[13], header[14], header[15]]) || src.0[0] == dst.0[0] {
        return Err(Refusal::Martian);
    }
    let protocol = header[9];
    let (mut ports, mut fragment) = (Ports::default(), None);
    // More to come, or not the first.
    if be16(header, 6) & 0x3fff == 0 {
        l4::parse(payload, protocol, V4, false, &mut ports)?;
    } else {
        let (id, offset) = (u32::from(be16(header, 4)), (be16(header, 6) & 0x1fff) << 3);
        let piece_of = Fragment { id, offset, more: header[6] & 0x20 != 0, protocol, at: 0 };
        ports = piece(payload, protocol, V4, piece_of, V4_HEADER, total - V4_HEADER)?;
        fragment = Some(piece_of);
    }
    *packet = Packet {
        family: V4,
        protocol,
        ttl: header[8],
        tcp_flags: ports.tcp_flags,
        l4: (ETHERNET + V4_HEADER) as u16,
        end: (ETHERNET + total) as u32,
        src,
        dst,
        src_port: ports.src,
        dst_port: ports.dst,
        fragment,
    };
    Ok(())
}

/// Why a packet goes no further whose header does not begin as one without options.
#[cold]
fn refuse_v4(ip: &[u8], header: &[u8; V4_HEADER]) -> Refusal {
    let (header_len, total) = (usize::from(header[0] & 15) * 4, usize::from(be16(header, 2)));
    if header[0] >> 4 != V4 {
        Refusal::IpVersion
    } else if header_len < V4_HEADER || header_len > ip.len() {
        Refusal::IpHeader
    } else if total < header_len || total > ip.len() {
        Refusal::IpLength
    } else if checksum::fold(checksum::sum(&ip[..header_len])) != 0xffff {
        Refusal::IpChecksum
    } else {
        Refusal::IpOptions
    }
}

/// One of the pieces that a packet was cut into (RFC 791 3.2, RFC 8200 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What all pieces of a packet have in common; 16 bits in IPv4.
    pub id: u32,
    /// Where it belongs in the payload, in bytes, a multiple of 8.
    pub offset: u16,
    /// Others follow it.
    pub more: bool,
    /// As the IPv4 or the fragment header has it, the same for all pieces; in IPv6 perhaps an extension header.
    pub protocol: u8,
    /// IPv6: where the fragment header starts, from the start of the frame.
    pub at: u16,
}

impl Fragment {
    /// All of a packet, behind an IPv6 fragment header that cuts nothing (RFC 6946).
    #[inline]
    fn is_whole(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// The most bytes of an IPv4 packet, or of an IPv6 packet's payload.
const MAX_LENGTH: usize = 65_535;

/// Checks a fragment's place in its packet and reads the L4 header, where there is one. `payload`: what it has of the packet, from
/// there on; `before`: bytes of the whole packet's length in front of what is cut; `length`: bytes that this piece has of that.
#[cold]
fn piece(
    payload: &[u8],
    protocol: u8,
    family: u8,
    fragment: Fragment,
    before: usize,
    length: usize,
) -> Result<Ports, Refusal> {
    let (offset, mut ports) = (usize::from(fragment.offset), Ports::default());
    if length == 0 || (fragment.more && !length.is_multiple_of(8)) || before + offset + length > MAX_LENGTH {
        return Err(Refusal::FragmentLength);
    }
    if offset == 0 {
        // RFC 1858 3.1, RFC 7112 5: it must be whole, else nobody on the way could say what this is.
        let cut_header = payload.len() < l4::largest_header(protocol);
        return match l4::parse(payload, protocol, family, true, &mut ports) {
            Err(Refusal::TcpHeader | Refusal::UdpLength | Refusal::IcmpShort) if cut_header => {
                Err(Refusal::FragmentTiny)
            }
            Err(refusal) => Err(refusal),
            Ok(()) => Ok(ports),
        };
    }
    // RFC 1858 3.2, RFC 3128: it would write the TCP header anew behind the back of those who have read the first.
    if protocol == TCP && offset < l4::TCP_HEADER {
        return Err(Refusal::FragmentTiny);
    }
    Ok(ports)
}

/// Sources that no packet from a network may have (RFC 1812 5.3.7, RFC 6890): this host, loopback, multicast, reserved, broadcast.
#[inline]
pub fn martian_v4(src: [u8; 4]) -> bool {
    src[0] == 0 || src[0] == 127 || src[0] >= 224
}

/// Reads an IPv6 packet behind its Ethernet header (RFC 8200), walking over extension headers.
pub(super) fn parse_v6(frame: &[u8]) -> Result<Parsed, Refusal> {
    let ip = &frame[ETHERNET..];
    let header = ip.first_chunk::<V6_HEADER>().ok_or(Refusal::IpHeader)?;
    if header[0] >> 4 != V6 {
        return Err(Refusal::IpVersion);
    }
    let total = V6_HEADER + usize::from(be16(header, 4));
    if total > ip.len() {
        return Err(Refusal::IpLength);
    }
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[8..24]);
    let src = Addr::v6(octets);
    // Neighbor solicitations of a host that has no address yet come from "::" (RFC 4862 5.4.2); l4::parse sees to the rest.
    if octets[0] == 0xff || src == Addr::v6(Ipv6Addr::LOCALHOST.octets()) {
        return Err(Refusal::Martian);
    }
    octets.copy_from_slice(&header[24..40]);
    let dst = Addr::v6(octets);
    if src == dst {
        return Err(Refusal::Martian);
    }
    let Payload { protocol, at: l4, fragment } = walk_extensions(&ip[..total], header[6])?;
    // The whole packet's length counts the headers in front of the fragment header, not that itself.
    let before = fragment.map_or(0, |fragment| usize::from(fragment.at) - ETHERNET - V6_HEADER);
    let length = fragment.map_or(0, |fragment| ETHERNET + total - usize::from(fragment.at) - FRAGMENT_HEADER);
    if src == Addr::default() && protocol != ICMPV6 {
        return Err(Refusal::Martian);
    }
    let (payload, fragment) = (&ip[l4..total], fragment.filter(|fragment| !fragment.is_whole()));
    let mut ports = Ports::default();
    match fragment {
        None => l4::parse(payload, protocol, V6, false, &mut ports)?,
        Some(fragment) => ports = piece(payload, protocol, V6, fragment, before, length)?,
    }
    Ok(Parsed::Ip(Packet {
        family: V6,
        protocol,
        ttl: header[7],
        tcp_flags: ports.tcp_flags,
        l4: (ETHERNET + l4) as u16,
        end: (ETHERNET + total) as u32,
        src,
        dst,
        src_port: ports.src,
        dst_port: ports.dst,
        fragment,
    }))
}

const FRAGMENT_HEADER: usize = 8;

/// What is behind the extension headers.
pub(super) struct Payload {
    pub protocol: u8,
    /// Where it starts, from the start of the IP header.
    pub at: usize,
    /// What the fragment header says, if there is one.
    pub fragment: Option<Fragment>,
}

/// Looks for the payload of `ip`, behind its extension headers. Behind the fragment header of a later fragment it looks no
/// further: whatever comes there is the payload's.
pub(super) fn walk_extensions(ip: &[u8], first: u8) -> Result<Payload, Refusal> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let mut protocol = first;
    let mut at = V6_HEADER;
    let mut fragment = None;
    for _ in 0..MAX_EXTENSIONS {
        match protocol {
            HOP_BY_HOP | DESTINATION | AUTHENTICATION => {}
            // A source route (RFC 5095), whatever its type: nobody sends one to a VIP in good faith.
            ROUTING => return Err(Refusal::IpOptions),
            FRAGMENT if fragment.is_none() => {
                let header =
                    ip.get(at..).and_then(|b| b.first_chunk::<FRAGMENT_HEADER>()).ok_or(Refusal::IpExtension)?;
                let (id, word) = (be32(header, 4), be16(header, 2));
                let place = (ETHERNET + at) as u16;
                let piece = Fragment { id, offset: word & 0xfff8, more: word & 1 != 0, protocol: header[0], at: place };
                (protocol, at, fragment) = (header[0], at + FRAGMENT_HEADER, Some(piece));
                if piece.offset > 0 {
                    return Ok(Payload { protocol, at, fragment });
                }
                continue;
            }
            // A fragment of a fragment.
            FRAGMENT => return Err(Refusal::IpExtension),
            _ => return Ok(Payload { protocol, at, fragment }),
        }
        let [next, length] = *ip.get(at..at + 2).and_then(|b| b.first_chunk::<2>()).ok_or(Refusal::IpExtension)?;
        at += if protocol == AUTHENTICATION { (usize::from(length) + 2) * 4 } else { (usize::from(length) + 1) * 8 };
        if at > ip.len() {
            return Err(Refusal::IpExtension);
        }
        protocol = next;
    }
    Err(Refusal::IpExtension)
}
