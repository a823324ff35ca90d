//! Datagrams in, inner packets or refusals out; and rubbish.

use super::*;
use crate::wire::checksum;
use proptest::prelude::*;

const BOTH: GueVariants = GueVariants([true, true]);
const VIP4: [u8; 4] = [203, 0, 113, 10];
const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];

/// A UDP packet of IPv4, its checksums right.
fn ipv4(tos: u8, payload: &[u8]) -> Vec<u8> {
    let len = 28 + payload.len() as u16;
    let mut ip = vec![0x45, tos, 0, 0, 0x12, 0x34, 0x40, 0, 64, UDP, 0, 0, 192, 0, 2, 10];
    ip.extend(VIP4);
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    let check = !fold(sum(&ip));
    put_raw16(&mut ip, 10, check);
    ip.extend([0x30, 0x39, 0, 53, 0, 0, 0, 0]);
    ip[24..26].copy_from_slice(&(len - 20).to_be_bytes());
    ip.extend(payload);
    finish(&mut ip, 20, 6);
    ip
}

/// A TCP packet of IPv6, its checksum right.
fn ipv6(class: u8, payload: &[u8]) -> Vec<u8> {
    let len = 20 + payload.len() as u16;
    let mut ip = vec![0x60 | class >> 4, class << 4, 0, 0, 0, 0, TCP, 64];
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    ip.extend([0x20, 1, 0xd, 0xb8, 0, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
    ip.extend(VIP6);
    ip.extend([0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    ip.extend(payload);
    finish(&mut ip, 40, 16);
    ip
}

fn pseudo(ip: &[u8], l4: usize) -> u64 {
    let length = (ip.len() - l4) as u32;
    if ip[0] >> 4 == V4 {
        let addr = |at: usize| Addr::v4(ip[at..at + 4].try_into().unwrap());
        pseudo_header(&addr(12), &addr(16), ip[9], length)
    } else {
        let addr = |at: usize| Addr::v6(ip[at..at + 16].try_into().unwrap());
        pseudo_header(&addr(8), &addr(24), ip[6], length)
    }
}

fn finish(ip: &mut [u8], l4: usize, offset: usize) {
    let check = !fold(pseudo(ip, l4) + sum(&ip[l4..]));
    put_raw16(ip, l4 + offset, check);
}

fn with(header: &[u8], ip: &[u8]) -> Vec<u8> {
    [header, ip].concat()
}

fn stripped(bytes: &[u8], wrap: Wrap) -> Result<(Vec<u8>, u8, Addr), Refused> {
    strip(bytes, wrap, BOTH).map(|inner| (bytes[inner.range].to_vec(), inner.family, inner.dst))
}

#[test]
fn every_wrap_of_either_version_comes_off() {
    let (four, six) = (ipv4(0, b"hello"), ipv6(0, b"hello"));
    for (header, wraps) in [
        (&[][..], [Wrap::Ipv4, Wrap::Ipv6]),
        (&[0, 0, 0, 0], [Wrap::Gue; 2]),
        (&[0x01, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef], [Wrap::Gue; 2]),
        (&[0, 0, 0, 0], [Wrap::Gre; 2]),
        (&[0x20, 0, 0, 0, 0, 0, 0, 7], [Wrap::Gre; 2]),
        (&[0x30, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9], [Wrap::Gre; 2]),
        (&[][..], [Wrap::Gue; 2]),
    ] {
        for (ip, wrap, family, dst) in [(&four, wraps[0], V4, Addr::v4(VIP4)), (&six, wraps[1], V6, Addr::v6(VIP6))] {
            let mut header = header.to_vec();
            match wrap {
                Wrap::Gue if !header.is_empty() => header[1] = if family == V4 { 4 } else { 41 },
                Wrap::Gre => {
                    let ethertype: u16 = if family == V4 { 0x0800 } else { 0x86dd };
                    header[2..4].copy_from_slice(&ethertype.to_be_bytes());
                }
                _ => {}
            }
            let mut bytes = with(&header, ip);
            assert_eq!(stripped(&bytes, wrap), Ok((ip.clone(), family, dst)), "{wrap:?} {header:02x?}");
            // What pads the outer packet is no part of the inner one.
            bytes.extend([0; 7]);
            assert_eq!(stripped(&bytes, wrap), Ok((ip.clone(), family, dst)), "{wrap:?} {header:02x?}, padded");
        }
    }
}

#[test]
fn a_gre_checksum_counts_if_there_is_one() {
    let mut bytes = with(&[0x80, 0, 0x08, 0, 0, 0, 0, 0], &ipv4(0, b"odd"));
    let check = !fold(checksum::sum(&bytes));
    put_raw16(&mut bytes, 4, check);
    assert!(stripped(&bytes, Wrap::Gre).is_ok());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(stripped(&bytes, Wrap::Gre), Err(Refused::GreChecksum));
}

#[test]
fn what_is_no_tunnel_is_refused_by_its_name() {
    let ip = ipv4(0, b"");
    let gre = |header: [u8; 4]| stripped(&with(&header, &ip), Wrap::Gre).unwrap_err();
    assert_eq!(gre([0x40, 0, 8, 0]), Refused::GreFlags, "source routes");
    assert_eq!(gre([0x00, 1, 8, 0]), Refused::GreFlags, "PPTP");
    assert_eq!(gre([0, 0, 0x65, 0x58]), Refused::InnerProtocol, "Ethernet inside");
    assert_eq!(gre([0, 0, 0x86, 0xdd]), Refused::InnerProtocol, "says IPv6");
    let gue = |header: &[u8]| stripped(&with(header, &ip), Wrap::Gue).unwrap_err();
    assert_eq!(gue(&[0x20, 4, 0, 0]), Refused::GueFlags, "control");
    assert_eq!(gue(&[0, 4, 0x80, 0]), Refused::GueFlags, "an option");
    assert_eq!(gue(&[0, 6, 0, 0]), Refused::InnerProtocol, "TCP at once");
    assert_eq!(gue(&[0, 41, 0, 0]), Refused::InnerProtocol, "says IPv6");
    assert_eq!(gue(&[0x1f, 4, 0, 0]), Refused::OuterHeader, "longer than all there is");
    assert_eq!(gue(&[0x80, 4, 0, 0]), Refused::GueVariant);
    assert_eq!(stripped(&[0x55; 40], Wrap::Gue), Err(Refused::InnerProtocol), "variant 1, IP version 5");
    assert_eq!(stripped(&ip, Wrap::Ipv6), Err(Refused::InnerProtocol));
    for (variants, header, taken) in [([true, false], &[0u8, 4, 0, 0][..], true), ([true, false], &[], false)] {
        let strip = |variants| strip(&with(header, &ip), Wrap::Gue, GueVariants(variants)).is_ok();
        assert_eq!((strip(variants), strip([!variants[0], !variants[1]])), (taken, !taken));
    }
}

#[test]
fn inner_headers_that_lie_are_refused() {
    let change = |at: usize, value: u8| {
        let mut ip = ipv4(0, b"hello");
        ip[at] = value;
        stripped(&ip, Wrap::Ipv4).unwrap_err()
    };
    assert_eq!(change(0, 0x44), Refused::InnerHeader);
    assert_eq!(change(0, 0x4f), Refused::InnerHeader);
    assert_eq!(change(3, 19), Refused::InnerHeader);
    assert_eq!(change(3, 34), Refused::InnerLength);
    let mut six = ipv6(0, b"hello");
    six[5] += 1;
    assert_eq!(stripped(&six, Wrap::Ipv6), Err(Refused::InnerLength));
    assert_eq!(stripped(&[], Wrap::Ipv4), Err(Refused::InnerHeader));
    assert_eq!(stripped(&[0x45; 19], Wrap::Ipv4), Err(Refused::InnerHeader));
    assert_eq!(stripped(&[0x60; 39], Wrap::Ipv6), Err(Refused::InnerHeader));
}

#[test]
fn the_outer_ipv4_header_may_have_options() {
    let mut outer = vec![0x46, 0x2e];
    outer.extend([0; 22]);
    assert_eq!(behind_ipv4(&outer), Ok((0x2e, 24)));
    assert_eq!(behind_ipv4(&outer[..23]), Err(Refused::OuterHeader));
    outer[0] = 0x66;
    assert_eq!(behind_ipv4(&outer), Err(Refused::OuterHeader));
}

/// RFC 6040, figure 4: rows are the inner mark, columns the outer one, in the order Not-ECT, ECT(0), ECT(1), CE.
#[test]
fn congestion_marks_are_carried_over_as_rfc_6040_says() {
    let marks = [0, 2, 1, 3];
    let table = [
        [Some(0), Some(0), Some(0), None],
        [Some(2), Some(2), Some(1), Some(3)],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    let dscp = 0xb8;
    for (inner, row) in marks.into_iter().zip(table) {
        for (outer, expected) in marks.into_iter().zip(row) {
            for packet in [ipv4, ipv6] {
                let mut ip = packet(dscp | inner, b"hello");
                let done = carry_mark(&mut ip, 0x28 | outer);
                match expected {
                    Some(mark) => assert_eq!((done, ip), (Ok(()), packet(dscp | mark, b"hello")), "{inner} {outer}"),
                    None => assert_eq!((done, ip), (Err(Refused::Congested), packet(dscp | inner, b"hello"))),
                }
            }
        }
    }
}

#[test]
fn an_unfinished_checksum_is_told_from_a_wrong_one() {
    for (mut ip, l4, offset) in [(ipv4(0, b"hello"), 20, 6), (ipv6(0, b"hello"), 40, 16)] {
        assert_eq!(super::checksum(&ip), Checksum::Right);
        let partial = fold(pseudo(&ip, l4));
        put_raw16(&mut ip, l4 + offset, partial);
        let expected = Checksum::Partial { start: l4 as u16, offset: offset as u16 };
        assert_eq!(super::checksum(&ip), expected);
        put_raw16(&mut ip, l4 + offset, partial ^ 0x0101);
        assert_eq!(super::checksum(&ip), Checksum::Unknown);
    }
    let mut none = ipv4(0, b"hello");
    put_raw16(&mut none, 26, 0);
    assert_eq!(super::checksum(&none), Checksum::Unknown, "UDP without a checksum");
    let mut fragment = ipv4(0, b"hello");
    fragment[6] = 0x20;
    assert_eq!(super::checksum(&fragment), Checksum::Unknown, "the first of several pieces");
    let mut ping = ipv4(0, b"hello");
    ping[9] = 1;
    assert_eq!(super::checksum(&ping), Checksum::Unknown);
}

proptest! {
    /// Whatever comes, nothing panics, and what is called an inner packet is one: inside the datagram, as long as it says.
    #[test]
    fn rubbish_is_refused_or_within_bounds(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        start in prop::sample::select(vec![None, Some(0x45u8), Some(0x60), Some(0x00), Some(0x20), Some(0x80)]),
        family in prop::sample::select(vec![None, Some(4u8), Some(41)]),
        class in any::<u8>(),
    ) {
        if let (Some(start), Some(first)) = (start, bytes.first_mut()) {
            *first = start;
        }
        if let (Some(family), Some(second)) = (family, bytes.get_mut(1)) {
            *second = family;
        }
        let _ = behind_ipv4(&bytes);
        for wrap in [Wrap::Ipv4, Wrap::Ipv6, Wrap::Gre, Wrap::Gue] {
            let mut bytes = bytes.clone();
            if let Ok(Inner { range, family, .. }) = strip(&bytes, wrap, BOTH) {
                let ip = &mut bytes[range];
                prop_assert_eq!(ip[0] >> 4, family);
                let len = if family == V4 { usize::from(be16(ip, 2)) } else { 40 + usize::from(be16(ip, 4)) };
                prop_assert_eq!(ip.len(), len);
                let _ = super::checksum(ip);
                let _ = carry_mark(ip, class);
            }
        }
    }

    /// Good packets cut short anywhere are refused, never taken for shorter ones.
    #[test]
    fn a_packet_cut_short_is_refused(cut in 0usize..60, six in any::<bool>()) {
        let (ip, wrap) = if six { (ipv6(0, b"hello"), Wrap::Ipv6) } else { (ipv4(0, b"hello"), Wrap::Ipv4) };
        let cut = cut.min(ip.len() - 1);
        prop_assert!(strip(&ip[..cut], wrap, BOTH).is_err());
    }
}
