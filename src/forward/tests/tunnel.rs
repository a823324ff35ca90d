//! Tunnel mode: the client's packet reaches the real server inside of another one.

use super::bench::{Bench, CLIENT, CLIENT6, LAN, ROUTER_MAC, VIP, VIP6, WAN, endpoint, ip, one_sided};
use crate::config::{Config, Encapsulation, Mode};
use crate::counters::Refusal;
use crate::device::Offload;
use crate::flow::State;
use crate::forward::Verdict;
use crate::testing::{Build, Seen};
use crate::wire::icmp;
use crate::wire::ip::{FlowKey, TCP, V4};
use crate::wire::l4::{ACK, SYN};
use pnet_packet::{Packet, ipv4, ipv6, udp};
use std::net::IpAddr;

pub const ALL: [Encapsulation; 4] = [Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue, Encapsulation::Gue1];

pub const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, LAN];

/// An encapsulated packet read back, lengths and checksums of the outer headers verified by an independent implementation.
#[derive(Debug, PartialEq)]
pub struct Opened {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub tos: u8,
    pub label: u32,
    pub protocol: u8,
    /// Source and destination, if there is UDP.
    pub ports: Option<(u16, u16)>,
    /// What is between the IP header (and UDP's) and the inner packet.
    pub shim: Vec<u8>,
    /// The inner packet in the outer frame's MAC addresses.
    pub inner: Vec<u8>,
}

/// `shim`: bytes of it.
pub fn open(frame: &[u8], shim: usize) -> Opened {
    let (src, dst, ttl, tos, label, protocol, l4): (IpAddr, IpAddr, u8, u8, u32, u8, Vec<u8>) = match frame[12..14] {
        [8, 0] => {
            let ip = ipv4::Ipv4Packet::new(&frame[14..]).unwrap();
            assert_eq!(ip.get_checksum(), ipv4::checksum(&ip), "outer checksum");
            assert_eq!(usize::from(ip.get_total_length()), frame.len() - 14, "outer length");
            assert_eq!((ip.get_flags(), ip.get_fragment_offset(), ip.get_header_length()), (2, 0, 5), "outer DF");
            let tos = ip.get_dscp() << 2 | ip.get_ecn();
            let (src, dst) = (ip.get_source().into(), ip.get_destination().into());
            (src, dst, ip.get_ttl(), tos, 0, ip.get_next_level_protocol().0, ip.payload().to_vec())
        }
        [0x86, 0xdd] => {
            let ip = ipv6::Ipv6Packet::new(&frame[14..]).unwrap();
            assert_eq!(usize::from(ip.get_payload_length()), frame.len() - 54, "outer length");
            let (src, dst) = (ip.get_source().into(), ip.get_destination().into());
            let next = ip.get_next_header().0;
            let (tos, label) = (ip.get_traffic_class(), ip.get_flow_label());
            (src, dst, ip.get_hop_limit(), tos, label, next, ip.payload().to_vec())
        }
        _ => panic!("no IP"),
    };
    let mut at = 0;
    let mut ports = None;
    if protocol == 17 {
        let datagram = udp::UdpPacket::new(&l4).unwrap();
        assert_eq!(usize::from(datagram.get_length()), l4.len(), "outer UDP length");
        let right = match (src, dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => udp::ipv6_checksum(&datagram, &src, &dst),
            _ => 0,
        };
        assert_eq!(datagram.get_checksum(), right, "outer UDP checksum");
        ports = Some((datagram.get_source(), datagram.get_destination()));
        at = 8;
    }
    let packet = &l4[at + shim..];
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let inner = [&frame[..12], &kind[..], packet].concat();
    Opened { src, dst, ttl, tos, label, protocol, ports, shim: l4[at..at + shim].to_vec(), inner }
}

/// Bytes of [`Opened::shim`].
pub fn shim(encapsulation: Encapsulation) -> usize {
    match encapsulation {
        Encapsulation::Ipip | Encapsulation::Gue1 => 0,
        Encapsulation::Gre | Encapsulation::Gue => 4,
    }
}

/// The mode's services, the real servers' addresses replaced by these where there are two families.
fn config(encapsulation: Encapsulation) -> Config {
    one_sided(Mode::Tunnel, encapsulation)
}

fn bench(encapsulation: Encapsulation) -> Bench {
    Bench::with(config(encapsulation))
}

fn send(bench: &mut Bench, packet: &Build, encapsulation: Encapsulation) -> Opened {
    let (port, frame, offload) = bench.run(WAN, &packet.frame(), Offload::default()).unwrap();
    assert_eq!((port, offload), (LAN, Offload::default()));
    assert_eq!(frame[6..12], LAN_MAC);
    open(&frame, shim(encapsulation))
}

#[test]
fn ipv4_in_ipv4_by_each_encapsulation() {
    for encapsulation in ALL {
        let mut bench = bench(encapsulation);
        let mut syn = Build::tcp(CLIENT, VIP, SYN);
        syn.tos = 0xbb; // DSCP EF, congestion experienced.
        let out = send(&mut bench, &syn, encapsulation);
        assert_eq!((out.src, out.dst), (ip("10.0.0.1"), ip("10.0.0.11")), "from the interface's address");
        assert_eq!((out.ttl, out.tos), (64, 0xbb));
        let (protocol, gue, shim): (u8, bool, &[u8]) = match encapsulation {
            Encapsulation::Ipip => (4, false, &[]),
            Encapsulation::Gre => (47, false, &[0, 0, 8, 0]),
            Encapsulation::Gue => (17, true, &[0, 4, 0, 0]),
            Encapsulation::Gue1 => (17, true, &[]),
        };
        assert_eq!((out.protocol, &out.shim[..], out.ports.is_some()), (protocol, shim, gue));
        if let Some((source, destination)) = out.ports {
            assert!(source >= 49152 && destination == 6080, "{source} -> {destination}");
        }
        let inner = Seen::of(&out.inner);
        assert_eq!((inner.src.to_string().as_str(), inner.dst.to_string().as_str()), (CLIENT, VIP));
        assert_eq!((inner.ttl, inner.tos, inner.dst_mac), (63, 0xbb, [2, 0, 0, 0, 2, 11]));
        assert_eq!(bench.moved(), [("flows_local", 1), ("encapsulated", 1)]);
    }
}

#[test]
fn ipv6_in_ipv6_by_each_encapsulation() {
    for encapsulation in ALL {
        let mut bench = bench(encapsulation);
        let mut syn = Build::tcp(CLIENT6, VIP6, SYN);
        syn.tos = 0x2a;
        let out = send(&mut bench, &syn, encapsulation);
        assert_eq!((out.src, out.dst), (ip("fd00::1"), ip("fd00::11")));
        assert_eq!((out.ttl, out.tos), (64, 0x2a));
        assert_ne!(out.label, 0);
        let (protocol, shim): (u8, &[u8]) = match encapsulation {
            Encapsulation::Ipip => (41, &[]),
            Encapsulation::Gre => (47, &[0, 0, 0x86, 0xdd]),
            Encapsulation::Gue => (17, &[0, 41, 0, 0]),
            Encapsulation::Gue1 => (17, &[]),
        };
        assert_eq!((out.protocol, &out.shim[..]), (protocol, shim));
        let inner = Seen::of(&out.inner);
        assert_eq!((inner.src.to_string().as_str(), inner.dst.to_string().as_str()), (CLIENT6, VIP6));
        assert_eq!((inner.ttl, inner.tos), (63, 0x2a));
    }
}

#[test]
fn ipv4_in_ipv6_and_ipv6_in_ipv4_by_each_encapsulation() {
    for encapsulation in ALL {
        let mut config = config(encapsulation);
        config.services[0].reals.truncate(1);
        config.services[0].reals[0].address = ip("fd00::11");
        config.services[2].reals[0].address = ip("10.0.0.11");
        let mut bench = Bench::with(config);
        for flags in [SYN, ACK] {
            let out = send(&mut bench, &Build::tcp(CLIENT, VIP, flags), encapsulation);
            assert_eq!((out.src, out.dst), (ip("fd00::1"), ip("fd00::11")));
            let inner = Seen::of(&out.inner);
            assert_eq!((inner.dst.to_string().as_str(), inner.ttl, inner.flags), (VIP, 63, flags));
            let out = send(&mut bench, &Build::tcp(CLIENT6, VIP6, flags), encapsulation);
            assert_eq!((out.src, out.dst), (ip("10.0.0.1"), ip("10.0.0.11")));
            let inner = Seen::of(&out.inner);
            assert_eq!((inner.dst.to_string().as_str(), inner.ttl, inner.flags), (VIP6, 63, flags));
        }
        assert_eq!(bench.moved(), [("flows_local", 2), ("encapsulated", 4)]);
    }
}

#[test]
fn udp_too() {
    for encapsulation in ALL {
        let mut bench = bench(encapsulation);
        let message = Build::udp("198.18.0.7:5000", "203.0.113.10:514", b"message");
        let inner = Seen::of(&send(&mut bench, &message, encapsulation).inner);
        assert_eq!((inner.dst.to_string().as_str(), &inner.payload[..]), ("203.0.113.10:514", &b"message"[..]));
    }
}

#[test]
fn a_flows_packets_have_one_outer_source_and_flows_spread_over_all() {
    let mut config = config(Encapsulation::Gue);
    config.datapath.tunnel_sources = ["192.0.2.1", "2001:db8:ffff::1", "192.0.2.2", "192.0.2.3"].map(ip).to_vec();
    config.datapath.gue_port = 6081;
    let mut bench = Bench::with(config);
    let (mut sources, mut ports) = (Vec::new(), Vec::new());
    for n in 0..200 {
        let client = format!("198.18.0.7:{}", 40_000 + n);
        let first = send(&mut bench, &Build::tcp(&client, VIP, SYN), Encapsulation::Gue);
        let second = send(&mut bench, &Build::tcp(&client, VIP, ACK), Encapsulation::Gue);
        assert_eq!((first.src, first.ports), (second.src, second.ports));
        sources.push(first.src);
        ports.push(first.ports.unwrap().0);
        assert_eq!(first.ports.unwrap().1, 6081);
    }
    for source in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let share = sources.iter().filter(|ip| **ip == source.parse::<IpAddr>().unwrap()).count();
        assert!((40..95).contains(&share), "{source}: {share}");
    }
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() > 190, "{}", ports.len());
}

#[test]
fn a_real_server_behind_a_gateway_is_reached_by_it() {
    let mut config = config(Encapsulation::Ipip);
    config.services[0].reals.truncate(1);
    config.services[0].reals[0].address = ip("10.9.0.1");
    let out = send(&mut Bench::with(config), &Build::tcp(CLIENT, VIP, SYN), Encapsulation::Ipip);
    assert_eq!((out.dst, Seen::of(&out.inner).dst_mac), (ip("10.9.0.1"), ROUTER_MAC));
}

#[test]
fn the_clients_half_is_tracked_alone() {
    let mut bench = bench(Encapsulation::Ipip);
    for (flags, state) in [(SYN, State::SynSent), (ACK, State::Established)] {
        send(&mut bench, &Build::tcp(CLIENT, VIP, flags), Encapsulation::Ipip);
        let key = FlowKey { src: endpoint(CLIENT), dst: endpoint(VIP), protocol: TCP, family: V4 };
        let flow = bench.shared.table.lookup(&key, bench.shared.table.hash(&key)).unwrap();
        assert_eq!(flow.state, state);
    }
}

#[test]
fn a_partial_checksum_is_completed_before() {
    for (client, vip, start) in [(CLIENT, VIP, 34), (CLIENT6, VIP6, 54)] {
        let mut bench = bench(Encapsulation::Gue);
        let mut syn = Build::tcp(client, vip, SYN);
        syn.partial = true;
        let offload = Offload { needs_csum: true, csum_start: start, csum_offset: 16, ..Offload::default() };
        let (_, frame, sent) = bench.run(WAN, &syn.frame(), offload).unwrap();
        assert_eq!(sent, Offload::default());
        assert_eq!(Seen::of(&open(&frame, 4).inner).flags, SYN, "its checksum is right");
    }
}

#[test]
fn a_ttl_that_ends_is_told() {
    let mut bench = bench(Encapsulation::Ipip);
    let mut syn = Build::tcp(CLIENT, VIP, SYN);
    syn.ttl = 1;
    let (port, error) = bench.pass(WAN, &syn);
    assert_eq!((port, error.icmp), (WAN, (11, 0)));
    assert_eq!(bench.moved(), [("flows_local", 1), ("icmp_errors_sent", 1), ("drop_ttl_exceeded", 1)]);
}

#[test]
fn too_large_for_the_tunnel_is_told_with_the_mtu_less_the_overhead() {
    for (encapsulation, v4, v6) in [
        (Encapsulation::Ipip, 1480, 1460),
        (Encapsulation::Gre, 1476, 1456),
        (Encapsulation::Gue, 1468, 1448),
        (Encapsulation::Gue1, 1472, 1452),
    ] {
        for (client, vip, headers, most, kind) in [(CLIENT, VIP, 40, v4, (3, 4)), (CLIENT6, VIP6, 60, v6, (2, 0))] {
            let mut bench = bench(encapsulation);
            send(&mut bench, &Build::tcp(client, vip, SYN), encapsulation);
            let mut data = Build::tcp(client, vip, ACK);
            data.payload = vec![1; most - headers];
            let out = send(&mut bench, &data, encapsulation);
            assert_eq!(Seen::of(&out.inner).payload, data.payload, "just fits");
            bench.moved();
            data.payload.push(1);
            let (port, error) = bench.pass(WAN, &data);
            assert_eq!((port, error.icmp, error.rest as usize), (WAN, kind, most));
            assert_eq!(bench.moved(), [("icmp_errors_sent", 1), ("drop_too_big", 1)]);
        }
    }
}

#[test]
fn without_an_address_to_send_from_it_is_refused() {
    let mut config = config(Encapsulation::Ipip);
    config.services[0].reals.truncate(1);
    config.services[0].reals[0].address = ip("fd00::11");
    let mut bench = Bench::with(config);
    bench.fib = crate::route::Fib::builder()
        .hops(bench.shared.hops.clone())
        .port("wan0", [2, 0, 0, 0, 0, WAN], 1500, &["203.0.113.1/24".parse().unwrap()])
        .port("lan0", LAN_MAC, 1500, &["fe80::1/64".parse().unwrap()])
        .route("fd00::/64".parse().unwrap(), LAN, None)
        .neighbor(LAN, ip("fd00::11"), [2, 0, 0, 0, 2, 66])
        .build();
    let verdict = bench.stop(WAN, &Build::tcp(CLIENT, VIP, SYN));
    assert_eq!(verdict, Verdict::Refuse(Refusal::NoTunnelSource), "a link-local address is none");
}

#[test]
fn an_error_about_the_servers_answer_goes_through_the_tunnel() {
    let mut config = config(Encapsulation::Gre);
    config.services[0].reals.truncate(1);
    config.services[0].reals[0].address = ip("fd00::11");
    let mut bench = Bench::with(config);
    send(&mut bench, &Build::tcp(CLIENT, VIP, SYN), Encapsulation::Gre);
    bench.moved();
    let answer = Build::tcp(VIP, CLIENT, ACK);
    let mut error = Build::icmp("198.18.5.5", "203.0.113.10", 3, icmp::FRAGMENTATION_NEEDED, &answer.packet()[..28]);
    error.rest = 1400;
    let out = send(&mut bench, &error, Encapsulation::Gre);
    assert_eq!(out.dst, ip("fd00::11"));
    let inner = Seen::of(&out.inner);
    assert_eq!((inner.src.ip(), inner.dst.ip(), inner.ttl), (ip("198.18.5.5"), ip("203.0.113.10"), 63));
    assert_eq!((inner.icmp, inner.rest, inner.payload), ((3, 4), 1400, answer.packet()[..28].to_vec()));
    assert_eq!(bench.moved(), [("icmp_errors_translated", 1), ("encapsulated", 1)]);
}

/// What a router says of an encapsulated frame: its packet's first `quoted` bytes, and the MTU of the next link.
fn too_big(frame: &[u8], quoted: usize, mtu: u32) -> Build {
    let packet = &frame[14..frame.len().min(14 + quoted)];
    let outer = open(frame, 0);
    let (router, kind, code) = if outer.src.is_ipv4() { ("10.0.0.254", 3, 4) } else { ("fd00::fe", 2, 0) };
    let mut error = Build::icmp(router, &outer.src.to_string(), kind, code, packet);
    error.rest = mtu;
    error
}

#[test]
fn a_narrow_link_in_the_tunnel_is_told_to_the_client_at_once_and_from_then_on() {
    for encapsulation in ALL {
        for (client, vip, inner_kind) in [(CLIENT, VIP, (3, 4)), (CLIENT6, VIP6, (2, 0))] {
            for (end, source, least) in [("10.0.0.11", "10.0.0.1", 20), ("fd00::11", "fd00::1", 40)] {
                let mut config = config(encapsulation);
                config.services[0].reals.truncate(1);
                config.services[0].reals[0].address = ip(end);
                config.services[2].reals[0].address = ip(end);
                let mut bench = Bench::with(config);
                send(&mut bench, &Build::tcp(client, vip, SYN), encapsulation);
                let mut data = Build::tcp(client, vip, ACK);
                data.payload = vec![1; 1380];
                let (_, frame, _) = bench.run(WAN, &data.frame(), Offload::default()).unwrap();
                assert_eq!(open(&frame, shim(encapsulation)).src, ip(source));
                bench.moved();
                let (port, told) = bench.pass(LAN, &too_big(&frame, 500, 1400));
                let gre_or_gue = match encapsulation {
                    Encapsulation::Ipip => 0,
                    Encapsulation::Gre => 4,
                    Encapsulation::Gue => 12,
                    Encapsulation::Gue1 => 8,
                };
                let most = 1400 - least - gre_or_gue;
                assert_eq!((port, told.icmp, told.rest), (WAN, inner_kind, most), "{encapsulation:?} by {end}");
                let vip_at: std::net::SocketAddr = vip.parse().unwrap();
                let client_at: std::net::SocketAddr = client.parse().unwrap();
                assert_eq!((told.src.ip(), told.dst.ip()), (vip_at.ip(), client_at.ip()));
                // It quotes the client's packet, as far as the router did, with the TTL that it had there.
                let sent = data.packet();
                assert_eq!(told.payload[told.payload.len() - 20..], sent[told.payload.len() - 20..told.payload.len()]);
                assert_eq!(bench.moved(), [("icmp_errors_sent", 1), ("tunnel_mtu_learned", 1)]);
                let (_, told) = bench.pass(WAN, &data);
                assert_eq!((told.icmp, told.rest), (inner_kind, most), "by farside itself");
                bench.now.tick += 2401;
                send(&mut bench, &data, encapsulation);
            }
        }
    }
}

#[test]
fn an_error_that_quotes_too_little_for_the_client_is_remembered_and_the_hosts() {
    let mut bench = bench(Encapsulation::Gue);
    send(&mut bench, &Build::tcp(CLIENT, VIP, SYN), Encapsulation::Gue);
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    data.payload = vec![1; 1380];
    let (_, frame, _) = bench.run(WAN, &data.frame(), Offload::default()).unwrap();
    bench.moved();
    assert_eq!(bench.stop(LAN, &too_big(&frame, 28, 1300)), Verdict::NotOurs);
    assert_eq!(bench.moved(), [("tunnel_mtu_learned", 1)]);
    assert_eq!(bench.pass(WAN, &data).1.rest, 1300 - 32);
}

#[test]
fn packets_that_may_be_fragmented_are_from_then_on() {
    let mut bench = bench(Encapsulation::Ipip);
    let datagram = Build::udp("198.18.0.7:5000", "203.0.113.10:514", &[7; 1400]);
    let mut frame = datagram.frame();
    frame[20] = 0;
    let sum = ipv4::checksum(&ipv4::Ipv4Packet::new(&frame[14..]).unwrap());
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let (_, whole, _) = bench.run(WAN, &frame, Offload::default()).unwrap();
    bench.moved();
    assert_eq!(bench.stop(LAN, &too_big(&whole, 500, 1300)), Verdict::NotOurs);
    let (_, pieces, _) = bench.run_all(WAN, &frame, Offload::default()).unwrap();
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(|piece| piece.len() <= 1314));
    assert_eq!(bench.moved(), [("encapsulated", 1), ("tunnel_mtu_learned", 1), ("cut", 1)]);
}

#[test]
fn errors_about_packets_that_were_not_sent_are_not_believed() {
    let mut bench = bench(Encapsulation::Ipip);
    send(&mut bench, &Build::tcp(CLIENT, VIP, SYN), Encapsulation::Ipip);
    let (_, frame, _) = bench.run(WAN, &Build::tcp(CLIENT, VIP, ACK).frame(), Offload::default()).unwrap();
    bench.moved();
    let forged = |bench: &mut Bench, at: usize, byte: u8| {
        let mut forged = frame.clone();
        forged[at] = byte;
        let packet = &forged[14..];
        let mut error = Build::icmp("10.0.0.254", "10.0.0.1", 3, 4, packet);
        error.rest = 600;
        bench.stop(LAN, &error)
    };
    // Another client's port; another real server; another source.
    assert_eq!(forged(&mut bench, 55, 1), Verdict::Refuse(Refusal::IcmpUnsolicited));
    assert_eq!(forged(&mut bench, 33, 99), Verdict::NotOurs, "of a tunnel of the host's, perhaps");
    assert_eq!(forged(&mut bench, 29, 99), Verdict::Refuse(Refusal::IcmpQuote), "not even the host has sent this");
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    data.payload = vec![1; 1400];
    send(&mut bench, &data, Encapsulation::Ipip);
}

#[test]
fn datagrams_that_choose_one_by_one_learn_of_a_narrow_link_too() {
    let mut config = config(Encapsulation::Ipip);
    config.services[1].per_packet = true;
    let mut bench = Bench::with(config);
    let datagram = Build::udp("198.18.0.7:5000", "203.0.113.10:514", &[7; 1400]);
    let (_, frame, _) = bench.run(WAN, &datagram.frame(), Offload::default()).unwrap();
    bench.moved();
    assert_eq!(bench.stop(LAN, &too_big(&frame, 500, 1300)), Verdict::NotOurs, "no record says whose it was");
    assert_eq!(bench.moved(), [("tunnel_mtu_learned", 1)]);
    assert_eq!(bench.pass(WAN, &datagram).1.rest, 1280);
}
