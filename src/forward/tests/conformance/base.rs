//! Fields: what reaches a real server, and what does not.

use super::*;
use crate::counters::Refusal;
use crate::wire::l4::{ACK, FIN, RST, SYN};
use pnet_packet::ipv4;

const PSH: u8 = 8;

/// The first packet of a flow and what follows it.
fn a_flow_arrives(encapsulation: Encapsulation, client: &str, vip: &str, reals: [&str; 3]) {
    let mut bench = bench(encapsulation);
    let tcp = vip.ends_with(":80");
    let packet = |flags, payload: &[u8]| match tcp {
        true => Build { payload: payload.to_vec(), ack: 5001, ..Build::tcp(client, vip, flags) },
        false => Build::udp(client, vip, payload),
    };
    let first = reaches(&mut bench, encapsulation, &packet(SYN, if tcp { b"" } else { b"first" }));
    assert!(reals.map(ip).contains(&first.dst), "{}", first.dst);
    assert_eq!(bench.moved(), [("flows_local", 1), ("encapsulated", 1)]);
    for (flags, payload) in [(ACK, &b""[..]), (ACK | PSH, b"GET / HTTP/1.0\r\n\r\n"), (ACK, b"odd"), (ACK | FIN, b"")] {
        let next = reaches(&mut bench, encapsulation, &packet(flags, payload));
        assert_eq!((next.dst, next.ports, next.label), (first.dst, first.ports, first.label), "one outer flow");
        assert_eq!(bench.moved(), [("encapsulated", 1)]);
    }
}

#[test]
fn a_datagram_to_a_v4_vip_reaches_a_v4_real() {
    ALL.into_iter().for_each(|encapsulation| a_flow_arrives(encapsulation, CLIENT4, QUIC4, REALS4));
}

#[test]
fn a_connection_to_a_v4_vip_reaches_a_v4_real() {
    ALL.into_iter().for_each(|encapsulation| a_flow_arrives(encapsulation, CLIENT4, WEB4, REALS4));
}

#[test]
fn a_connection_to_a_v6_vip_reaches_a_v6_real() {
    ALL.into_iter().for_each(|encapsulation| a_flow_arrives(encapsulation, CLIENT6, WEB6, REALS6));
}

#[test]
fn a_datagram_to_a_v6_vip_reaches_a_v6_real() {
    ALL.into_iter().for_each(|encapsulation| a_flow_arrives(encapsulation, CLIENT6, QUIC6, REALS6));
}

#[test]
fn a_v4_vip_on_v6_reals_and_a_v6_vip_on_v4_reals() {
    ALL.into_iter().for_each(|encapsulation| a_flow_arrives(encapsulation, CLIENT4, CROSS4, REALS6));
    ALL.into_iter().for_each(|encapsulation| a_flow_arrives(encapsulation, CLIENT6, CROSS6, REALS4));
}

#[test]
fn every_dscp_and_mark_is_on_the_outer_packet_too() {
    for encapsulation in ALL {
        for (client, vip) in [(CLIENT4, WEB4), (CLIENT6, WEB6), (CLIENT4, CROSS4), (CLIENT6, CROSS6)] {
            let mut bench = bench(encapsulation);
            reaches(&mut bench, encapsulation, &Build::tcp(client, vip, SYN));
            for tos in 0..=255 {
                let out = reaches(&mut bench, encapsulation, &Build { tos, ..Build::tcp(client, vip, ACK) });
                assert_eq!(out.tos, tos);
            }
        }
    }
}

/// Katran: a VIP may have all ports.
#[test]
fn a_port_without_a_service_is_refused_though_the_vip_has_others() {
    for (client, vip) in [(CLIENT4, "203.0.113.80:81"), (CLIENT6, "[2001:db8:1::80]:81")] {
        let mut bench = bench(Encapsulation::Ipip);
        for packet in [Build::tcp(client, vip, SYN), Build::udp(client, vip, b"any")] {
            assert_eq!(bench.stop(WAN, &packet), Verdict::Refuse(Refusal::NoService));
            assert_eq!(bench.moved(), [("drop_no_service", 1)]);
        }
    }
}

/// Katran: a VIP may be a network.
#[test]
fn only_the_vip_itself_is_farsides_and_its_neighbors_are_the_hosts() {
    let mut bench = bench(Encapsulation::Gue);
    for vip in ["203.0.113.81:80", "203.0.113.79:80"] {
        is_left_to_the_host(&mut bench, &Build::tcp(CLIENT4, vip, SYN));
    }
    for vip in ["[2001:db8:1::81]:80", "[2001:db8:1::8000]:80", "[2001:db8:1::]:443"] {
        is_left_to_the_host(&mut bench, &Build::tcp(CLIENT6, vip, SYN));
        is_left_to_the_host(&mut bench, &Build::udp(CLIENT6, vip, b"any"));
    }
}

#[test]
fn the_other_protocol_at_a_services_port_is_refused() {
    let mut bench = bench(Encapsulation::Gue);
    for packet in [Build::udp(CLIENT4, WEB4, b"any"), Build::tcp(CLIENT6, QUIC6, SYN)] {
        assert_eq!(bench.stop(WAN, &packet), Verdict::Refuse(Refusal::NoService));
    }
    assert_eq!(bench.moved(), [("drop_no_service", 2)]);
}

/// A frame of [`Build`] with this between the IP header and the rest; in IPv6 of that header's number.
fn with_header(packet: &Build, number: u8, header: &[u8]) -> Vec<u8> {
    let mut frame = packet.frame();
    if packet.src.is_ipv4() {
        frame[14] += (header.len() / 4) as u8;
        let length = (frame.len() - 14 + header.len()) as u16;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame.splice(34..34, header.iter().copied());
        let check = ipv4::checksum(&ipv4::Ipv4Packet::new(&frame[14..]).unwrap());
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    } else {
        let length = (frame.len() - 54 + header.len()) as u16;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        let header = [&[frame[20]], &header[1..]].concat();
        frame[20] = number;
        frame.splice(54..54, header);
    }
    frame
}

#[test]
fn options_and_routing_headers_are_refused() {
    let mut bench = bench(Encapsulation::Ipip);
    const NOTHING: [u8; 4] = [1; 4];
    const LOOSE_ROUTE: [u8; 8] = [131, 7, 4, 10, 0, 0, 12, 0];
    let router_alert = [148, 4, 0, 0];
    for options in [&NOTHING[..], &LOOSE_ROUTE, &router_alert] {
        for packet in [Build::tcp(CLIENT4, WEB4, SYN), Build::udp(CLIENT4, QUIC4, b"any")] {
            let refused = bench.run(WAN, &with_header(&packet, 0, options), Offload::default());
            assert_eq!(refused, Err(Verdict::Refuse(Refusal::IpOptions)));
        }
    }
    let routing = with_header(&Build::tcp(CLIENT6, WEB6, SYN), 43, &[0, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(bench.run(WAN, &routing, Offload::default()), Err(Verdict::Refuse(Refusal::IpOptions)));
    assert_eq!(bench.moved(), [("drop_ip_options", 7)]);
}

/// Katran looks for TCP or UDP right behind the IPv6 header.
#[test]
fn harmless_extension_headers_pass_with_the_packet() {
    for encapsulation in ALL {
        let mut bench = bench(encapsulation);
        for (number, flags) in [(60, SYN), (0, ACK)] {
            let frame = with_header(&Build::tcp(CLIENT6, WEB6, flags), number, &[0, 0, 1, 4, 0, 0, 0, 0]);
            let (port, out, _) = bench.run(WAN, &frame, Offload::default()).unwrap();
            let mut expected = frame[14..].to_vec();
            expected[7] = 63;
            assert_eq!((port, &open(&out, shim(encapsulation)).inner[14..]), (LAN, &expected[..]));
        }
        assert_eq!(bench.moved(), [("flows_local", 1), ("encapsulated", 2)]);
    }
}

#[test]
fn what_is_for_no_vip_is_the_hosts() {
    let mut bench = bench(Encapsulation::Ipip);
    for (client, other) in [(CLIENT4, "203.0.113.1:80"), (CLIENT4, "192.0.2.1:80"), (CLIENT6, "[2001:db8:1::1]:80")] {
        is_left_to_the_host(&mut bench, &Build::tcp(client, other, SYN));
        is_left_to_the_host(&mut bench, &Build::udp(client, other, b"any"));
    }
    is_left_to_the_host(&mut bench, &Build::icmp("198.18.0.7", "203.0.113.1", 8, 0, b"ping"));
    is_left_to_the_host(&mut bench, &Build::icmp("2001:db8:c::7", "2001:db8:1::1", 128, 0, b"ping"));
}

/// Katran passes ARP, as the kernel has its VIPs on the loopback interface.
#[test]
fn arp_is_the_hosts_but_for_the_vips() {
    let mut bench = bench(Encapsulation::Ipip);
    let arp = |target: [u8; 4]| {
        let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &THEIR_MAC, &[203, 0, 113, 254], &[0; 6], &target].concat();
        [&[0xff; 6][..], &THEIR_MAC, &[8, 6], &body].concat()
    };
    let asked = bench.run(WAN, &arp([203, 0, 113, 1]), Offload::default());
    assert_eq!((asked, bench.moved()), (Err(Verdict::NotOurs), vec![]));
    let (port, frame, _) = bench.run(WAN, &arp([203, 0, 113, 80]), Offload::default()).unwrap();
    let body: [&[u8]; 5] =
        [&[0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, WAN], &[203, 0, 113, 80], &THEIR_MAC, &[203, 0, 113, 254], &[]];
    assert_eq!((port, &frame[14..]), (WAN, &body.concat()[..]));
    assert_eq!(bench.moved(), [("arp_replies", 1)]);
}

/// A client's packet in each encapsulation, from another load balancer to `outer`.
fn tunnels(outer_src: &str, outer: &str) -> Vec<Build> {
    let v6 = outer.contains(':');
    let with_port = |at: &str, port| if v6 { format!("[{at}]:{port}") } else { format!("{at}:{port}") };
    let (from, to) = (with_port(outer_src, 50000), with_port(outer, 6080));
    let mut all = Vec::new();
    for (inner, protocol, ethertype) in [
        (Build::tcp(CLIENT4, WEB4, SYN).packet(), 4, [8, 0]),
        (Build::tcp(CLIENT6, WEB6, SYN).packet(), 41, [0x86, 0xdd]),
    ] {
        let with = |protocol, header: &[u8]| Build { protocol, ..Build::udp(&from, &to, &[header, &inner].concat()) };
        all.extend([with(protocol, &[]), with(47, &[0, 0, ethertype[0], ethertype[1]])]);
        all.extend([with(17, &[0, protocol, 0, 0]), with(17, &[])]);
    }
    all
}

#[test]
fn tunnels_that_end_here_are_the_hosts() {
    for encapsulation in ALL {
        let mut bench = bench(encapsulation);
        for (src, dst) in [("192.0.2.9", "203.0.113.1"), ("2001:db8:9::9", "2001:db8:1::1")] {
            tunnels(src, dst).iter().for_each(|packet| is_left_to_the_host(&mut bench, packet));
        }
    }
}

#[test]
fn a_packet_inside_a_tunnel_to_the_vip_is_not_taken_out() {
    for encapsulation in ALL {
        let mut bench = bench(encapsulation);
        for (src, dst) in [("192.0.2.9", "203.0.113.80"), ("2001:db8:9::9", "2001:db8:1::80")] {
            for packet in tunnels(src, dst) {
                assert_eq!(bench.stop(WAN, &packet), Verdict::Refuse(Refusal::NoService));
                assert_eq!(bench.moved(), [("drop_no_service", 1)]);
            }
        }
    }
}

/// Katran drops without a word.
#[test]
fn without_a_real_server_clients_are_told_at_once() {
    for encapsulation in ALL {
        let mut bench = bench(encapsulation);
        for service in ["web4", "web6", "quic4", "quic6"] {
            bench.set_up(service, false);
        }
        for (client, vip) in [(CLIENT4, WEB4), (CLIENT6, WEB6)] {
            let answer = Build { seq: 0, ack: 1001, ..Build::tcp(vip, client, RST | ACK) };
            is_answered_by(&mut bench, &Build::tcp(client, vip, SYN), &answer);
            assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_no_server", 1)]);
        }
        for (client, vip, at, kind) in
            [(CLIENT4, QUIC4, "203.0.113.80", (3, 3)), (CLIENT6, QUIC6, "2001:db8:1::80", (1, 4))]
        {
            let datagram = Build::udp(client, vip, &[9; 1200]);
            is_answered_by(&mut bench, &datagram, &error_about(&datagram, at, kind, 0));
            assert_eq!(bench.moved(), [("icmp_errors_sent", 1), ("drop_no_server", 1)]);
        }
    }
}

#[test]
fn the_time_to_live_ends_at_the_tunnels_start_and_the_client_is_told() {
    for encapsulation in ALL {
        for (client, vip, own, kind) in
            [(CLIENT4, WEB4, "203.0.113.1", (11, 0)), (CLIENT6, WEB6, "2001:db8:1::1", (3, 0))]
        {
            for ttl in [0, 1] {
                let mut bench = bench(encapsulation);
                let syn = Build { ttl, ..Build::tcp(client, vip, SYN) };
                is_answered_by(&mut bench, &syn, &error_about(&syn, own, kind, 0));
                assert_eq!(bench.moved(), [("flows_local", 1), ("icmp_errors_sent", 1), ("drop_ttl_exceeded", 1)]);
                reaches(&mut bench, encapsulation, &Build { ttl: 2, ..syn });
            }
        }
    }
}
