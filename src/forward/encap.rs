//! What an encapsulation puts in front of a packet: IP in IP (RFC 2003, RFC 2473, RFC 4213), GRE (RFC 2784), GUE in both its
//! variants (draft-ietf-intarea-gue-09). The outer packet may be of another family than the inner.
//!
//! ```text
//!   IPIP   Ethernet | IP, protocol 4 or 41  |                               inner IP packet
//!   GRE    Ethernet | IP, protocol 47       | flags 0, EtherType            inner IP packet
//!   GUE    Ethernet | IP, UDP to `gue_port` | version, length 0, 4 or 41, 0 inner IP packet
//!   GUE 1  Ethernet | IP, UDP to `gue_port` |                               inner IP packet (its version's bits say variant 1)
//! ```
//!
//! The headers are written in two steps: [`write`] what is the same for all packets of a flow, [`finish`] what depends on the
//! length, so that the pieces of a packet that is cut share the first step.

use crate::flow::Encapsulation;
use crate::wire::ip::{Addr, GRE, IPIP, IPV6, UDP, V4, V4_HEADER, V6_HEADER};
use crate::wire::l4::UDP_HEADER;
use crate::wire::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, be16, checksum, put_be16, put_be32, put_raw16};

const GRE_HEADER: usize = 4;
const GUE_HEADER: usize = 4;

/// As of all packets that start here.
const TTL: u8 = 64;

/// The first of the dynamic ports (RFC 6335 6), from which a flow's source port comes (RFC 8085 5.1.1 wants entropy there).
const FIRST_PORT: u16 = 49152;

/// Bytes of the largest encapsulation, IPv6 and GUE.
pub const LARGEST: usize = V6_HEADER + UDP_HEADER + GUE_HEADER;

/// What the outer headers say.
pub struct Outer {
    pub encapsulation: Encapsulation,
    /// Of `src` and `dst`.
    pub family: u8,
    pub src: Addr,
    pub dst: Addr,
    pub inner_family: u8,
    /// DSCP and ECN of the inner packet, both copied (RFC 2983 3.1; RFC 6040 4.1, normal mode).
    pub tos: u8,
    /// The same for all packets of a flow, so that the path and the far side keep them in order.
    pub spread: u64,
    pub gue_port: u16,
}

/// Bytes that an encapsulation adds to a packet.
pub fn overhead(encapsulation: Encapsulation, outer_family: u8) -> usize {
    let ip = if outer_family == V4 { V4_HEADER } else { V6_HEADER };
    ip + match encapsulation {
        Encapsulation::Ipip => 0,
        Encapsulation::Gre => GRE_HEADER,
        Encapsulation::Gue => UDP_HEADER + GUE_HEADER,
        Encapsulation::Gue1 => UDP_HEADER,
    }
}

/// Writes EtherType and outer headers behind the MAC addresses of a frame that has [`overhead`] bytes of room there. Lengths and
/// checksums are left to [`finish`].
pub fn write(frame: &mut [u8], outer: &Outer) {
    let Outer { encapsulation, family, src, dst, inner_family, tos, spread, gue_port } = outer;
    let protocol = match encapsulation {
        Encapsulation::Ipip => inner_protocol(*inner_family),
        Encapsulation::Gre => GRE,
        Encapsulation::Gue | Encapsulation::Gue1 => UDP,
    };
    put_be16(frame, ETHERNET - 2, if *family == V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 });
    let ip = &mut frame[ETHERNET..];
    let l4 = if *family == V4 {
        // An identification of 0 is allowed for packets that nobody may fragment (RFC 6864 4.1), and so are these: what is too
        // large is cut before, or its sender told.
        ip[..V4_HEADER]
            .copy_from_slice(&[0x45, *tos, 0, 0, 0, 0, 0x40, 0, TTL, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        ip[12..16].copy_from_slice(&src.octets()[..4]);
        ip[16..20].copy_from_slice(&dst.octets()[..4]);
        V4_HEADER
    } else {
        // RFC 6437 3: a flow label that is uniform over flows.
        let label = (spread >> 44) as u32;
        put_be32(ip, 0, 6 << 28 | u32::from(*tos) << 20 | label);
        ip[6..8].copy_from_slice(&[protocol, TTL]);
        ip[8..24].copy_from_slice(&src.octets());
        ip[24..40].copy_from_slice(&dst.octets());
        V6_HEADER
    };
    let l4 = &mut ip[l4..];
    match encapsulation {
        Encapsulation::Ipip => {}
        Encapsulation::Gre => {
            put_be16(l4, 0, 0);
            put_be16(l4, 2, if *inner_family == V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 });
        }
        Encapsulation::Gue | Encapsulation::Gue1 => {
            put_be16(l4, 0, FIRST_PORT | (spread >> 48) as u16);
            put_be16(l4, 2, *gue_port);
            if *encapsulation == Encapsulation::Gue {
                l4[UDP_HEADER..UDP_HEADER + GUE_HEADER].copy_from_slice(&[0, inner_protocol(*inner_family), 0, 0]);
            }
        }
    }
}

fn inner_protocol(family: u8) -> u8 {
    if family == V4 { IPIP } else { IPV6 }
}

/// Sets the lengths and checksums of the outer headers in front of a packet that is complete now; `frame` ends where it ends.
pub fn finish(frame: &mut [u8]) {
    let v4 = be16(frame, ETHERNET - 2) == ETHERTYPE_IPV4;
    let ip = &mut frame[ETHERNET..];
    let length = ip.len();
    let protocol = if v4 {
        put_be16(ip, 2, length as u16);
        put_raw16(ip, 10, 0);
        let check = !checksum::fold(checksum::sum(&ip[..V4_HEADER]));
        put_raw16(ip, 10, check);
        ip[9]
    } else {
        put_be16(ip, 4, (length - V6_HEADER) as u16);
        ip[6]
    };
    if protocol != UDP {
        return;
    }
    let at = if v4 { V4_HEADER } else { V6_HEADER };
    put_be16(ip, at + 4, (length - at) as u16);
    put_raw16(ip, at + 6, 0);
    // IPv4 leaves it at "not summed" (RFC 768): the inner packet has its own. IPv6 could for a tunnel (RFC 6935), but
    // receivers do not take it unless they are told to.
    if !v4 {
        let mut octets = [[0; 16]; 2];
        octets[0].copy_from_slice(&ip[8..24]);
        octets[1].copy_from_slice(&ip[24..40]);
        let [src, dst] = octets.map(Addr::v6);
        let pseudo = checksum::pseudo_header(&src, &dst, UDP, (length - at) as u32);
        let check = !checksum::fold(pseudo + checksum::sum(&ip[at..]));
        put_raw16(ip, at + 6, if check == 0 { 0xffff } else { check });
    }
}
