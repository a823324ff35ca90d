//! IP addresses as the data path holds them, and the 5-tuple.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IANA protocol numbers; wire values stay integers.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

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
    pub fn v4(octets: [u8; 4]) -> Addr {
        Addr([u32::from_ne_bytes(octets), 0, 0, 0])
    }

    pub fn v6(octets: [u8; 16]) -> Addr {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Addr(words)
    }

    /// The 16 wire bytes; for IPv4 the first four count.
    pub fn octets(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *bytes = word.to_ne_bytes();
        }
        octets
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
