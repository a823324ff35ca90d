//! The far end of tunnels, case by case: what Katran's programs for real servers are tested with, and what the standards of each
//! encapsulation say besides.
//!
//! | Katran's cases | here | and |
//! |---|---|---|
//! | GUE and IPIP: 4 in 4, 6 in 6, 4 in 6; an empty payload | `what_farside_sends...` | same; 6 in 4, GRE and GUE with a header besides |
//! | plain packets of IPv4, IPv6, ICMP, ARP pass | - | do not come here: only the sockets' protocols do |
//! | what comes to the GUE port and is no tunnel | `what_is_no_tunnel...` | refused and counted |
//! | drop of fragments | `an_inner_fragment...` | differs: outer ones are put together by the kernel, inner ones pass |
//! | echo requests | `whatever_is_inside...` | same |
//! | TPR options, counted | `whatever_is_inside...` | differs: neither read nor counted |
//! | tc: inner source set to the outer one | `whatever_is_inside...` | differs: not offered; the inner packet is the client's |
//! | EgressDecap: TTL at its end | `the_inner_ttl...` | differs: the inner packet has arrived, nothing forwards it |

use super::strip::behind_ipv4;
use super::*;
use crate::flow::Encapsulation as Sent;
use crate::forward::encap::{self, Outer};
use crate::testing::{Build, Seen, cut};
use crate::wire::ip::V6;
use crate::wire::l4::{ACK, SYN};
use crate::wire::{checksum, put_be16, put_raw16};
use pnet_packet::ipv4;

const VIP4: &str = "203.0.113.10:80";
const VIP6: &str = "[2001:db8:1::10]:80";
const CLIENT4: &str = "198.18.0.7:40000";
const CLIENT6: &str = "[2001:db8:c::7]:40000";
const BOTH: [(&str, &str); 2] = [(CLIENT4, VIP4), (CLIENT6, VIP6)];

fn taken(encapsulation: Encapsulation) -> Taken {
    Taken::from(&Options {
        interfaces: Vec::new(),
        vips: ["203.0.113.10", "2001:db8:1::10"].map(|vip| vip.parse().unwrap()).to_vec(),
        encapsulation,
        gue_port: 6080,
        tun: String::new(),
        program: super::program::Use::Off,
    })
}

fn unwrapped(bytes: &[u8], class: u8, wrap: Wrap, with_header: bool) -> Result<(Vec<u8>, VnetHdr), Refused> {
    let mut bytes = bytes.to_vec();
    let taken = taken(Encapsulation::All);
    taken.unwrap(&mut bytes, class, wrap, with_header).map(|(ip, header)| (ip.to_vec(), header))
}

/// What is inside a tunnel that starts with this header.
fn behind(header: &[u8], ip: &[u8], wrap: Wrap) -> Result<Vec<u8>, Refused> {
    unwrapped(&[header, ip].concat(), 0, wrap, false).map(|(ip, _)| ip)
}

/// A client's packet as farside sends it to an end of this family.
fn sent(packet: &Build, encapsulation: Sent, family: u8) -> Vec<u8> {
    let grown = encap::overhead(encapsulation, family);
    let mut frame = [vec![0; 14 + grown], packet.packet()].concat();
    let addr = |last| {
        Addr::from(if family == V4 {
            IpAddr::from([10, 0, 0, last])
        } else {
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last.into()])
        })
    };
    let outer = Outer {
        encapsulation,
        family,
        src: addr(1),
        dst: addr(11),
        inner_family: if packet.src.is_ipv4() { V4 } else { V6 },
        tos: packet.tos,
        spread: 0x1234_5678_9abc_def0,
        gue_port: 6080,
    };
    encap::write(&mut frame, &outer);
    encap::finish(&mut frame);
    frame
}

/// What a socket hands out of a frame: raw ones over IPv4 all of the packet, others what is behind the IP (for GUE: UDP) header.
fn handed_out(frame: &[u8], family: u8) -> (Vec<u8>, u8, Wrap, bool) {
    let ip = &frame[14..];
    let (class, protocol, header) =
        if family == V4 { (ip[1], ip[9], 20) } else { (ip[0] << 4 | ip[1] >> 4, ip[6], 40) };
    let (wrap, start) = match protocol {
        4 => (Wrap::Ipv4, header),
        41 => (Wrap::Ipv6, header),
        47 => (Wrap::Gre, header),
        17 => (Wrap::Gue, header + 8),
        other => panic!("{other}"),
    };
    let with_header = family == V4 && wrap != Wrap::Gue;
    (ip[if with_header { 0 } else { start }..].to_vec(), class, wrap, with_header)
}

const SENT: [Sent; 4] = [Sent::Ipip, Sent::Gre, Sent::Gue, Sent::Gue1];

/// Every way by which a packet may come.
fn ways() -> impl Iterator<Item = (Sent, u8)> {
    SENT.into_iter().flat_map(|encapsulation| [(encapsulation, V4), (encapsulation, V6)])
}

#[test]
fn what_farside_sends_comes_out_as_it_went_in() {
    for (encapsulation, family) in ways() {
        for (client, vip) in BOTH {
            for payload in [&b""[..], b"odd", &[7; 1300]] {
                for packet in [
                    Build { payload: payload.to_vec(), ..Build::tcp(client, vip, ACK) },
                    Build::udp(client, vip, payload),
                    Build { tos: 0xb9, ttl: 200, ..Build::tcp(client, vip, SYN) },
                ] {
                    let (bytes, class, wrap, with_header) = handed_out(&sent(&packet, encapsulation, family), family);
                    assert_eq!(class, packet.tos);
                    let padded = [&bytes[..], &[0; 46]].concat();
                    for bytes in [bytes, padded] {
                        let (ip, header) = unwrapped(&bytes, class, wrap, with_header).unwrap();
                        assert_eq!(ip, packet.packet(), "{encapsulation:?} by {family}");
                        assert_eq!(header, VnetHdr { flags: VNET_DATA_VALID, ..VnetHdr::default() });
                    }
                }
            }
        }
    }
}

#[test]
fn whatever_is_inside_for_the_vip_is_taken_as_it_is() {
    for (encapsulation, family) in ways() {
        let tpr = vec![0xb7, 6, 100, 0, 0, 0, 1, 1];
        for packet in [
            Build { options: tpr.clone(), ..Build::tcp(CLIENT4, VIP4, ACK) },
            Build { options: tpr.clone(), ..Build::tcp(CLIENT6, VIP6, SYN) },
            Build::icmp("198.18.0.7", "203.0.113.10", 8, 0, b"ping"),
            Build::icmp("2001:db8:c::7", "2001:db8:1::10", 128, 0, b"ping"),
            Build::icmp("192.0.2.77", "203.0.113.10", 3, 4, &Build::tcp(VIP4, CLIENT4, ACK).packet()[..28]),
        ] {
            let (bytes, class, wrap, with_header) = handed_out(&sent(&packet, encapsulation, family), family);
            assert_eq!(unwrapped(&bytes, class, wrap, with_header).unwrap().0, packet.packet());
        }
    }
}

#[test]
fn an_inner_fragment_passes_with_its_checksum_unlooked_at() {
    for (client, vip) in BOTH {
        for piece in cut(&Build::udp(client, vip, &[7; 3000]).frame(), 77, &[1200, 2400]) {
            let (ip, wrap) = (&piece[14..], if client.starts_with('[') { Wrap::Ipv6 } else { Wrap::Ipv4 });
            assert_eq!(unwrapped(ip, 0, wrap, false), Ok((ip.to_vec(), VnetHdr::default())));
        }
    }
}

#[test]
fn the_inner_ttl_is_the_hosts_business() {
    for (client, vip) in BOTH {
        for ttl in [0, 1, 2, 255] {
            let packet = Build { ttl, ..Build::tcp(client, vip, ACK) };
            let (bytes, class, wrap, with_header) = handed_out(&sent(&packet, Sent::Gre, V6), V6);
            assert_eq!(unwrapped(&bytes, class, wrap, with_header).unwrap().0, packet.packet());
        }
    }
}

/// RFC 6040, figure 4, on the way through the whole agent; the DSCP stays the inner one (RFC 2983 3.1: the pipe's end).
#[test]
fn every_pair_of_congestion_marks_comes_out_as_rfc_6040_says() {
    const NOT: u8 = 0;
    const ECT1: u8 = 1;
    const ECT0: u8 = 2;
    const CE: u8 = 3;
    let rows = [
        (NOT, [(NOT, Some(NOT)), (ECT0, Some(NOT)), (ECT1, Some(NOT)), (CE, None)]),
        (ECT0, [(NOT, Some(ECT0)), (ECT0, Some(ECT0)), (ECT1, Some(ECT1)), (CE, Some(CE))]),
        (ECT1, [(NOT, Some(ECT1)), (ECT0, Some(ECT1)), (ECT1, Some(ECT1)), (CE, Some(CE))]),
        (CE, [(NOT, Some(CE)), (ECT0, Some(CE)), (ECT1, Some(CE)), (CE, Some(CE))]),
    ];
    for (encapsulation, family) in ways() {
        for (client, vip) in BOTH {
            for (inner, row) in rows {
                for (outer, expected) in row {
                    let packet = Build { tos: 0xb8 | inner, ..Build::tcp(client, vip, ACK) };
                    let mut frame = sent(&packet, encapsulation, family);
                    if family == V4 {
                        frame[15] = 0x28 | outer;
                    } else {
                        (frame[14], frame[15]) = (0x62, (0x8 | outer) << 4 | frame[15] & 15);
                    }
                    let (bytes, class, wrap, with_header) = handed_out(&frame, family);
                    assert_eq!(class, 0x28 | outer);
                    // A raw socket over IPv4 tells the class in the header, and there alone.
                    let class = if with_header { 0 } else { class };
                    let out = unwrapped(&bytes, class, wrap, with_header).map(|(ip, _)| ip);
                    let expected = match expected {
                        Some(mark) => Ok(Build { tos: 0xb8 | mark, ..packet }.packet()),
                        None => Err(Refused::Congested),
                    };
                    assert_eq!(out, expected, "{inner} in {outer}, {encapsulation:?} by {family}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_for_a_vip_is_refused_first() {
    for (client, other) in [
        (CLIENT4, "203.0.113.11:80"),
        (CLIENT4, "127.0.0.1:80"),
        (CLIENT4, "255.255.255.255:80"),
        (CLIENT6, "[2001:db8:1::11]:80"),
        (CLIENT6, "[::1]:80"),
        (CLIENT6, "[::ffff:203.0.113.10]:80"),
        // As it lies in memory, the first four bytes are the IPv4 VIP's.
        (CLIENT6, "[cb00:710a::]:80"),
        (VIP4, CLIENT4),
    ] {
        for (encapsulation, family) in ways() {
            let packet = Build::tcp(client, other, SYN);
            let (bytes, _, wrap, with_header) = handed_out(&sent(&packet, encapsulation, family), family);
            assert_eq!(unwrapped(&bytes, 3, wrap, with_header), Err(Refused::NotForVip), "{other}");
        }
    }
}

#[test]
fn each_optional_field_of_gre_is_passed_over_and_its_checksum_looked_at() {
    for (client, vip) in BOTH {
        let packet = Build { payload: b"odd".to_vec(), ..Build::tcp(client, vip, ACK) }.packet();
        let ethertype: u16 = if client.starts_with('[') { 0x86dd } else { 0x0800 };
        for (number, reserved) in (0..8).flat_map(|number| [0_u16, 0x0008, 0x0080, 0x0200, 0x03f8].map(|r| (number, r)))
        {
            let (sum, key, sequence) = (number & 1 != 0, number & 2 != 0, number & 4 != 0);
            let flags = u16::from(sum) << 15 | u16::from(key) << 13 | u16::from(sequence) << 12 | reserved;
            let mut bytes = [flags.to_be_bytes(), ethertype.to_be_bytes()].concat();
            bytes.extend([sum, key, sequence].iter().filter(|field| **field).flat_map(|_| [0xde, 0xad, 0xbe, 0xef]));
            bytes.extend(&packet);
            if sum {
                bytes[4..8].fill(0);
                let check = pnet_packet::util::checksum(&bytes, usize::MAX);
                put_be16(&mut bytes, 4, check);
            }
            // Bits 6 to 12 mean nothing yet, and nobody shall mind them (RFC 2784 2.3).
            assert_eq!(behind(&[], &bytes, Wrap::Gre), Ok(packet.clone()), "{flags:04x}");
            let mut wrong = bytes.clone();
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(behind(&[], &wrong, Wrap::Gre).err(), sum.then_some(Refused::GreChecksum));
            for cut in 0..bytes.len() {
                assert!(behind(&[], &bytes[..cut], Wrap::Gre).is_err(), "{flags:04x} cut at {cut}");
            }
        }
    }
}

#[test]
fn gre_with_routes_of_other_versions_or_with_something_else_inside_is_refused() {
    let packet = Build::tcp(CLIENT4, VIP4, ACK).packet();
    for flags in [0x4000_u16, 0x0800, 0x0400, 0x7c00].into_iter().chain(1..8) {
        let header = [flags.to_be_bytes(), [8, 0]].concat();
        assert_eq!(behind(&header, &packet, Wrap::Gre), Err(Refused::GreFlags), "{flags:04x}");
    }
    for ethertype in [0_u16, 0x6558, 0x8847, 0x86dd, 0x880b, 0x0806] {
        let header = [[0, 0], ethertype.to_be_bytes()].concat();
        assert_eq!(behind(&header, &packet, Wrap::Gre), Err(Refused::InnerProtocol), "{ethertype:04x}");
    }
}

/// Private data is what the header's length has beyond its flags' fields: passed over, as the kernel's fou does.
#[test]
fn gue_of_every_header_length_comes_off() {
    for (client, vip) in BOTH {
        let packet = Build::tcp(client, vip, ACK).packet();
        let protocol = if client.starts_with('[') { 41 } else { 4 };
        for words in 0..32_u8 {
            let header = [&[words, protocol, 0, 0][..], &vec![0xff; 4 * usize::from(words)]].concat();
            assert_eq!(behind(&header, &packet, Wrap::Gue), Ok(packet.clone()));
            let bytes = [header, packet.clone()].concat();
            for cut in 0..bytes.len() {
                assert!(behind(&[], &bytes[..cut], Wrap::Gue).is_err(), "{words} words, cut at {cut}");
            }
        }
    }
}

#[test]
fn what_is_no_tunnel_for_us_is_refused() {
    let packet = Build::tcp(CLIENT4, VIP4, ACK).packet();
    let gue = |header: [u8; 4]| behind(&header, &packet, Wrap::Gue);
    for control in 0..=255 {
        assert_eq!(gue([0x20, control, 0, 0]), Err(Refused::GueFlags), "a control message");
    }
    for bit in 0..16 {
        let flags = (1_u16 << bit).to_be_bytes();
        assert_eq!(gue([0, 4, flags[0], flags[1]]), Err(Refused::GueFlags), "flag {bit}");
    }
    for protocol in (0..=255).filter(|protocol| *protocol != 4) {
        assert_eq!(gue([0, protocol, 0, 0]), Err(Refused::InnerProtocol), "protocol {protocol}");
    }
    for first in 0x80..=0xff {
        assert_eq!(gue([first, 4, 0, 0]), Err(Refused::GueVariant), "variants 2 and 3");
    }
    for first in (0x40..0x80).filter(|first| ![4, 6].contains(&(first >> 4))) {
        assert_eq!(behind(&[], &[first; 60], Wrap::Gue), Err(Refused::InnerProtocol), "variant 1, but no IP");
    }
    assert_eq!(behind(&[], b"", Wrap::Gue), Err(Refused::OuterHeader));
    // A question to a DNS server has come to the wrong port.
    assert!(behind(&[], b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example", Wrap::Gue).is_err());
}

#[test]
fn a_variant_that_was_not_asked_for_is_refused() {
    let packet = Build::tcp(CLIENT6, VIP6, ACK).packet();
    let (header, bare) = ([&[0, 41, 0, 0][..], &packet].concat(), packet);
    for (encapsulation, results) in [
        (Encapsulation::Gue, [None, Some(Refused::GueVariant)]),
        (Encapsulation::Gue1, [Some(Refused::GueVariant), None]),
        (Encapsulation::All, [None, None]),
    ] {
        let taken = taken(encapsulation);
        let refused = [&header, &bare].map(|bytes| taken.unwrap(&mut bytes.clone(), 0, Wrap::Gue, false).err());
        assert_eq!(refused, results, "{encapsulation:?}");
    }
}

#[test]
fn whatever_is_cut_off_is_refused_at_every_length() {
    for (encapsulation, family) in ways() {
        for (client, vip) in BOTH {
            let packet = Build { payload: b"some data".to_vec(), ..Build::tcp(client, vip, ACK) };
            let (bytes, class, wrap, with_header) = handed_out(&sent(&packet, encapsulation, family), family);
            for cut in 0..bytes.len() {
                let refused = unwrapped(&bytes[..cut], class, wrap, with_header).unwrap_err();
                let cut_off = [Refused::OuterHeader, Refused::InnerHeader, Refused::InnerLength];
                assert!(cut_off.contains(&refused), "{refused:?} at {cut}");
            }
        }
    }
}

#[test]
fn outer_options_of_every_length_are_passed_over() {
    let packet = Build::tcp(CLIENT4, VIP4, ACK);
    let frame = sent(&packet, Sent::Ipip, V4);
    for words in 1..=10 {
        let mut bytes = frame[14..34].to_vec();
        bytes[0] += words;
        bytes.extend(vec![1; 4 * usize::from(words)]);
        assert_eq!(behind_ipv4(&bytes), Ok((0, 20 + 4 * usize::from(words))));
        bytes.extend(packet.packet());
        assert_eq!(unwrapped(&bytes, 0, Wrap::Ipv4, true).unwrap().0, packet.packet());
    }
    for first in (0..=0x44).chain(0x50..=0xff) {
        let bytes = [&[first], &frame[15..]].concat();
        assert_eq!(unwrapped(&bytes, 0, Wrap::Ipv4, true), Err(Refused::OuterHeader), "{first:02x}");
    }
}

#[test]
fn inner_options_stay_and_a_wrong_inner_header_checksum_stays_wrong() {
    let mut ip = Build::tcp(CLIENT4, VIP4, ACK).packet();
    ip[0] = 0x46;
    ip.splice(20..20, [1, 1, 1, 0]);
    put_be16(&mut ip, 2, 44);
    let check = ipv4::checksum(&ipv4::Ipv4Packet::new(&ip).unwrap());
    put_be16(&mut ip, 10, check);
    let valid = VnetHdr { flags: VNET_DATA_VALID, ..VnetHdr::default() };
    assert_eq!(unwrapped(&ip, 0, Wrap::Ipv4, false), Ok((ip.clone(), valid)));
    // The host drops it; a mark that is carried over must not make it right.
    let mut wrong = Build { tos: 2, ..Build::tcp(CLIENT4, VIP4, ACK) }.packet();
    put_be16(&mut wrong, 10, 0x1234);
    let (out, _) = unwrapped(&wrong, 3, Wrap::Ipv4, false).unwrap();
    assert_eq!(out[1], 3);
    assert_ne!(checksum::fold(checksum::sum(&out[..20])), 0xffff);
}

#[test]
fn the_host_is_told_what_is_known_of_the_inner_checksum() {
    for (client, vip) in BOTH {
        let v6 = client.starts_with('[');
        let (wrap, l4) = if v6 { (Wrap::Ipv6, 40) } else { (Wrap::Ipv4, 20) };
        for (packet, at) in [
            (Build { payload: b"odd".to_vec(), ..Build::tcp(client, vip, ACK) }, 16),
            (Build::udp(client, vip, b"datagram"), 6),
        ] {
            let header = |packet: &Build| unwrapped(&packet.packet(), 0, wrap, false).unwrap().1;
            assert_eq!(header(&packet), VnetHdr { flags: VNET_DATA_VALID, ..VnetHdr::default() });
            let partial = Build { partial: true, ..packet.clone() };
            let unfinished = VnetHdr { flags: VNET_NEEDS_CSUM, csum_start: l4, csum_offset: at, ..VnetHdr::default() };
            assert_eq!(header(&partial), unfinished);
            let mut wrong = packet.packet();
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(unwrapped(&wrong, 0, wrap, false), Ok((wrong.clone(), VnetHdr::default())), "the host looks");
            let mut none = packet.packet();
            put_raw16(&mut none, usize::from(l4 + at), 0);
            assert_eq!(unwrapped(&none, 0, wrap, false).unwrap().1, VnetHdr::default());
            let frame = [&[0; 12][..], if v6 { &[0x86, 0xdd] } else { &[8, 0] }, &packet.packet()].concat();
            assert_eq!(Seen::of(&frame).payload, packet.payload, "the independent implementation agrees");
        }
    }
}
