//! Taking the outer headers off: bytes in, the packet inside out, or why not. Pure.
//!
//! What comes here is what the kernel's raw and UDP sockets hand out: whole datagrams, reassembled if they came in pieces,
//! their outer checksums looked at. The inner packet is taken as it is but for two things that the end of a tunnel owes it:
//! its congestion mark (RFC 6040), and the word on its checksum (see [`checksum`]).

use crate::wire::checksum::{Delta, fold, pseudo_header, sum};
use crate::wire::ip::{Addr, TCP, UDP, V4, V4_HEADER, V6, V6_HEADER};
use crate::wire::{be16, put_raw16, raw16};
use std::ops::Range;

/// How an inner packet is wrapped: what stands right behind the outer IP (for GUE: UDP) header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// An IPv4 packet: protocol 4 (RFC 2003, RFC 2473).
    Ipv4,
    /// An IPv6 packet: protocol 41 (RFC 4213, RFC 2473).
    Ipv6,
    /// Protocol 47 (RFC 2784, RFC 2890).
    Gre,
    /// Over UDP (draft-ietf-intarea-gue-09), variants 0 and 1.
    Gue,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Why a datagram goes no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refused {
            $($(#[$doc])* $name,)*
        }

        impl Refused {
            pub const ALL: &[Refused] = &[$(Refused::$name,)*];

            pub fn word(self) -> &'static str {
                match self { $(Refused::$name => $word,)* }
            }
        }
    };
}

refusals! {
    /// The outer header or the tunnel's own is cut off, or says that it is longer than all there is.
    OuterHeader = "outer_header",
    /// GRE of another version, or with source routes.
    GreFlags = "gre_flags",
    /// GRE has a checksum, and it is wrong.
    GreChecksum = "gre_checksum",
    /// A GUE control message, or optional fields that must not be passed over unread.
    GueFlags = "gue_flags",
    /// GUE of a variant that was not asked for, or that does not exist.
    GueVariant = "gue_variant",
    /// What is inside is neither IPv4 nor IPv6, or not what the tunnel's header says.
    InnerProtocol = "inner_protocol",
    /// The inner IP header is cut off or contradicts itself.
    InnerHeader = "inner_header",
    /// The inner packet is longer than what came.
    InnerLength = "inner_length",
    /// The inner packet is not for any of the VIPs.
    NotForVip = "not_for_vip",
    /// The path was congested and marked the outer packet, but the inner one's ends do not know marks: for them it is lost
    /// (RFC 6040, 4.2).
    Congested = "congested",
}

/// Which variants of GUE are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GueVariants(pub [bool; 2]);

/// The inner packet: where in the datagram, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    pub range: Range<usize>,
    /// [`V4`] or [`V6`].
    pub family: u8,
    pub dst: Addr,
}

/// The traffic class and the payload of the outer IPv4 packet that a raw socket hands out with its header.
pub fn behind_ipv4(bytes: &[u8]) -> Result<(u8, usize), Refused> {
    let header = bytes.first_chunk::<V4_HEADER>().ok_or(Refused::OuterHeader)?;
    let len = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != V4 || len < V4_HEADER || len > bytes.len() {
        return Err(Refused::OuterHeader);
    }
    Ok((header[1], len))
}

/// Finds the inner packet in `bytes`, which start behind the outer IP or UDP header.
pub fn strip(bytes: &[u8], wrap: Wrap, variants: GueVariants) -> Result<Inner, Refused> {
    match wrap {
        Wrap::Ipv4 => inner(bytes, 0, V4),
        Wrap::Ipv6 => inner(bytes, 0, V6),
        Wrap::Gre => gre(bytes),
        Wrap::Gue => gue(bytes, variants),
    }
}

fn gre(bytes: &[u8]) -> Result<Inner, Refused> {
    const CHECKSUM: u16 = 0x8000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    if bytes.len() < 4 {
        return Err(Refused::OuterHeader);
    }
    let flags = be16(bytes, 0);
    // RFC 2784, 2.3: of the other bits the first ones (routes of RFC 1701) and the version have to be 0; those between them
    // have no meaning yet, and a receiver has to ignore them.
    const RESERVED: u16 = 0x03f8;
    if flags & !(CHECKSUM | KEY | SEQUENCE | RESERVED) != 0 {
        return Err(Refused::GreFlags);
    }
    let fields = [CHECKSUM, KEY, SEQUENCE].iter().filter(|flag| flags & **flag != 0).count();
    let start = 4 + 4 * fields;
    if start > bytes.len() {
        return Err(Refused::OuterHeader);
    }
    if flags & CHECKSUM != 0 && fold(sum(bytes)) != 0xffff {
        return Err(Refused::GreChecksum);
    }
    match be16(bytes, 2) {
        crate::wire::ETHERTYPE_IPV4 => inner(bytes, start, V4),
        crate::wire::ETHERTYPE_IPV6 => inner(bytes, start, V6),
        _ => Err(Refused::InnerProtocol),
    }
}

fn gue(bytes: &[u8], GueVariants(variants): GueVariants) -> Result<Inner, Refused> {
    let first = *bytes.first().ok_or(Refused::OuterHeader)?;
    let variant = usize::from(first >> 6);
    if variants.get(variant) != Some(&true) {
        return Err(Refused::GueVariant);
    }
    // Variant 1 has no header: its number is the upper half of the version that an IP packet starts with.
    if variant == 1 {
        return inner(bytes, 0, first >> 4);
    }
    const CONTROL: u8 = 0x20;
    if bytes.len() < 4 {
        return Err(Refused::OuterHeader);
    }
    if first & CONTROL != 0 || be16(bytes, 2) != 0 {
        return Err(Refused::GueFlags);
    }
    let start = 4 + 4 * usize::from(first & 0x1f);
    if start > bytes.len() {
        return Err(Refused::OuterHeader);
    }
    match bytes[1] {
        4 => inner(bytes, start, V4),
        41 => inner(bytes, start, V6),
        _ => Err(Refused::InnerProtocol),
    }
}

/// The IP packet at `start`, which the header before it says is of `family`. What follows behind it is padding.
fn inner(bytes: &[u8], start: usize, family: u8) -> Result<Inner, Refused> {
    let ip = &bytes[start..];
    let version = *ip.first().ok_or(Refused::InnerHeader)? >> 4;
    if version != family {
        return Err(Refused::InnerProtocol);
    }
    let (len, dst) = match version {
        V4 => {
            let header = ip.first_chunk::<V4_HEADER>().ok_or(Refused::InnerHeader)?;
            let header_len = usize::from(header[0] & 15) * 4;
            let len = usize::from(be16(header, 2));
            if header_len < V4_HEADER || header_len > len {
                return Err(Refused::InnerHeader);
            }
            (len, Addr::v4([header[16], header[17], header[18], header[19]]))
        }
        V6 => {
            let header = ip.first_chunk::<V6_HEADER>().ok_or(Refused::InnerHeader)?;
            let mut dst = [0; 16];
            dst.copy_from_slice(&header[24..40]);
            (V6_HEADER + usize::from(be16(header, 4)), Addr::v6(dst))
        }
        _ => return Err(Refused::InnerProtocol),
    };
    if len > ip.len() {
        return Err(Refused::InnerLength);
    }
    Ok(Inner { range: start..start + len, family, dst })
}

/// Carries the outer packet's congestion mark over to the inner one (RFC 6040, 4.2, figure 4). `ip`: the inner packet, found by
/// [`strip`]; `outer`: the outer traffic class.
pub fn carry_mark(ip: &mut [u8], outer: u8) -> Result<(), Refused> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    let v4 = ip[0] >> 4 == V4;
    let old = if v4 { ip[1] & 3 } else { ip[1] >> 4 & 3 };
    let new = match (old, outer & 3) {
        (NOT_ECT, CE) => return Err(Refused::Congested),
        (NOT_ECT, _) => NOT_ECT,
        (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        (old, _) => old,
    };
    if new == old {
        return Ok(());
    }
    if v4 {
        let before = raw16(ip, 0);
        ip[1] = ip[1] & !3 | new;
        let mut delta = Delta::default();
        delta.word16(before, raw16(ip, 0));
        let check = delta.apply(raw16(ip, 10));
        put_raw16(ip, 10, check);
    } else {
        ip[1] = ip[1] & !0x30 | new << 4;
    }
    Ok(())
}

/// What can be said of the checksum of the TCP or UDP packet inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Looked at, and right.
    Right,
    /// It was never finished: the field holds the pseudo-header's sum.
    Partial {
        /// Where the TCP or UDP header starts.
        start: u16,
        /// The field's place in it.
        offset: u16,
    },
    /// Wrong, or there is none, or it covers more than this packet: the host shall look by itself.
    Unknown,
}

/// Looks at the checksum of the inner packet `ip`, found by [`strip`].
///
/// On its way through this host's kernel a packet may have been merged from several (GRO), or it comes from a neighbor on the
/// same machine that left the checksum to hardware that does not exist: then the kernel knows that the data is good and that
/// the field has not been finished, but a raw socket does not tell. Taken at its word, such a packet would be dropped.
pub fn checksum(ip: &[u8]) -> Checksum {
    let (src, dst, protocol, at) = if ip[0] >> 4 == V4 {
        // A fragment's checksum covers the others too.
        if be16(ip, 6) & 0x3fff != 0 {
            return Checksum::Unknown;
        }
        let addr = |at: usize| Addr::v4([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
        (addr(12), addr(16), ip[9], usize::from(ip[0] & 15) * 4)
    } else {
        let addr = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&ip[at..at + 16]);
            Addr::v6(octets)
        };
        (addr(8), addr(24), ip[6], V6_HEADER)
    };
    let (offset, shortest) = match protocol {
        TCP => (16, 20),
        UDP => (6, 8),
        _ => return Checksum::Unknown,
    };
    let l4 = &ip[at..];
    if l4.len() < shortest {
        return Checksum::Unknown;
    }
    let check = raw16(l4, offset);
    if protocol == UDP && check == 0 {
        return Checksum::Unknown;
    }
    let pseudo = pseudo_header(&src, &dst, protocol, l4.len() as u32);
    if fold(pseudo + sum(l4)) == 0xffff {
        Checksum::Right
    } else if check == fold(pseudo) {
        Checksum::Partial { start: at as u16, offset: offset as u16 }
    } else {
        Checksum::Unknown
    }
}

#[cfg(test)]
mod tests;
