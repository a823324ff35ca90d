//! ICMP: what farside answers, what it sends on by what is quoted, what it tells.

use super::*;
use crate::counters::Refusal;
use crate::wire::l4::{ACK, SYN};
use crate::wire::put_raw16;

#[test]
fn a_ping_of_the_vip_is_answered_whatever_its_size() {
    let mut bench = bench(Encapsulation::Ipip);
    for (client, vip, echo, reply) in
        [("198.18.0.7", "203.0.113.80", 8, 0), ("2001:db8:c::7", "2001:db8:1::80", 128, 129)]
    {
        for size in [0, 1, 56, 1400, 1452] {
            let text: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let ping = Build { rest: 0x1234_0001, ttl: 3, ..Build::icmp(client, vip, echo, 0, &text) };
            let answer = Build { rest: ping.rest, ..Build::icmp(vip, client, reply, 0, &text) };
            is_answered_by(&mut bench, &ping, &answer);
            assert_eq!(bench.moved(), [("echo_replies", 1)]);
        }
    }
}

/// What a router on the way to the client says of the server's answers, which it got straight from the server.
#[test]
fn an_error_about_an_answer_goes_to_the_server_that_sent_it_in_the_flows_tunnel() {
    let (router4, router6) = ("192.0.2.77", "2001:db8:77::1");
    for encapsulation in ALL {
        for (client, vip, router, kinds) in [
            (CLIENT4, WEB4, router4, [(3, 4), (3, 1), (11, 0)]),
            (CLIENT4, QUIC4, router4, [(3, 4), (3, 3), (12, 0)]),
            (CLIENT4, CROSS4, router4, [(3, 4), (3, 1), (11, 1)]),
            (CLIENT6, WEB6, router6, [(2, 0), (1, 3), (3, 0)]),
            (CLIENT6, QUIC6, router6, [(2, 0), (1, 4), (4, 1)]),
            (CLIENT6, CROSS6, router6, [(2, 0), (1, 0), (3, 1)]),
        ] {
            let mut bench = bench(encapsulation);
            let answer = |client: &str| match vip.ends_with(":80") {
                true => Build { payload: vec![1; 400], ..Build::tcp(vip, client, ACK) }.packet(),
                false => Build::udp(vip, client, &[1; 400]).packet(),
            };
            let to = vip.parse::<std::net::SocketAddr>().unwrap().ip().to_string();
            for n in 0..6 {
                let client = client.replace(":40000", &format!(":{}", 50_000 + n));
                let opening = match vip.ends_with(":80") {
                    true => Build::tcp(&client, vip, SYN),
                    false => Build::udp(&client, vip, b"any"),
                };
                let flow = reaches(&mut bench, encapsulation, &opening);
                bench.moved();
                let answer = answer(&client);
                let headers = if client.starts_with('[') { 40 } else { 20 };
                // Routers quote as much as they like, but eight bytes behind the IP header at least.
                for quoted in [headers + 8, headers + 20, answer.len()] {
                    for kind in kinds {
                        let error = Build::icmp(router, &to, kind.0, kind.1, &answer[..quoted]);
                        let out = reaches(&mut bench, encapsulation, &Build { rest: 1400, tos: 0xc0, ..error });
                        assert_eq!((out.dst, out.ports, out.label), (flow.dst, flow.ports, flow.label));
                        assert_eq!(bench.moved(), [("icmp_errors_translated", 1), ("encapsulated", 1)]);
                    }
                }
            }
        }
    }
}

/// Katran asks its hash where such a flow would be. farside would know it.
#[test]
fn an_error_about_no_flow_is_dropped() {
    let mut bench = bench(Encapsulation::Gue);
    let reset = Verdict::Refuse(Refusal::IcmpUnsolicited);
    let error = Build::icmp("192.0.2.77", "203.0.113.80", 3, 4, &Build::tcp(WEB4, CLIENT4, ACK).packet());
    assert_eq!(bench.stop(WAN, &error), reset);
    let error = Build::icmp("2001:db8:77::1", "2001:db8:1::80", 2, 0, &Build::udp(QUIC6, CLIENT6, b"any").packet());
    assert_eq!(bench.stop(WAN, &error), reset);
    assert_eq!(bench.moved(), [("drop_icmp_unsolicited", 2)]);
}

#[test]
fn a_quote_with_a_wrong_checksum_around_it_goes_nowhere() {
    let mut bench = bench(Encapsulation::Gue);
    reaches(&mut bench, Encapsulation::Gue, &Build::tcp(CLIENT4, WEB4, SYN));
    bench.moved();
    let error = Build::icmp("192.0.2.77", "203.0.113.80", 3, 4, &Build::tcp(WEB4, CLIENT4, ACK).packet());
    let mut frame = error.frame();
    put_raw16(&mut frame, 40, 500_u16.to_be());
    assert_eq!(bench.run(WAN, &frame, Offload::default()), Err(Verdict::Refuse(Refusal::IcmpChecksum)));
    assert_eq!(bench.moved(), [("drop_icmp_checksum", 1)]);
}

/// Bytes that an encapsulation takes of a link's 1500.
fn overhead(encapsulation: Encapsulation, v6: bool) -> u32 {
    let ip = if v6 { 40 } else { 20 };
    ip + match encapsulation {
        Encapsulation::Ipip => 0,
        Encapsulation::Gre => 4,
        Encapsulation::Gue => 12,
        Encapsulation::Gue1 => 8,
    }
}

#[test]
fn what_is_too_large_for_the_tunnel_is_told_with_the_mtu_that_is_left() {
    for encapsulation in ALL {
        for (client, vip, v6_real, own, kind) in [
            (CLIENT4, WEB4, false, "203.0.113.1", (3, 4)),
            (CLIENT4, CROSS4, true, "203.0.113.1", (3, 4)),
            (CLIENT6, WEB6, true, "2001:db8:1::1", (2, 0)),
            (CLIENT6, CROSS6, false, "2001:db8:1::1", (2, 0)),
        ] {
            let mut bench = bench(encapsulation);
            let first = reaches(&mut bench, encapsulation, &Build::tcp(client, vip, SYN));
            assert_eq!(first.dst.is_ipv6(), v6_real);
            let most = 1500 - overhead(encapsulation, v6_real);
            let headers = if client.starts_with('[') { 60 } else { 40 };
            let mut data = Build { ack: 5001, ..Build::tcp(client, vip, ACK) };
            data.payload = (0..most as usize - headers).map(|n| n as u8).collect();
            reaches(&mut bench, encapsulation, &data);
            bench.moved();
            data.payload.push(1);
            is_answered_by(&mut bench, &data, &error_about(&data, own, kind, most));
            assert_eq!(bench.moved(), [("icmp_errors_sent", 1), ("drop_too_big", 1)]);
        }
    }
}

/// Katran's length of 1515 bytes with the Ethernet header: one more than a link of 1500 takes even without a tunnel.
#[test]
fn a_datagram_of_1501_bytes_is_told_or_cut_where_its_sender_allows_that() {
    for encapsulation in ALL {
        for (client, vip, own) in [(CLIENT4, QUIC4, "203.0.113.1"), (CLIENT6, QUIC6, "2001:db8:1::1")] {
            let mut bench = bench(encapsulation);
            let v6 = client.starts_with('[');
            let size = 1501 - if v6 { 48 } else { 28 };
            let datagram = Build::udp(client, vip, &(0..size).map(|n| n as u8).collect::<Vec<_>>());
            assert_eq!(datagram.frame().len(), 1515);
            let mtu = 1500 - overhead(encapsulation, v6);
            let kind = if v6 { (2, 0) } else { (3, 4) };
            is_answered_by(&mut bench, &datagram, &error_about(&datagram, own, kind, mtu));
            assert_eq!(bench.moved(), [("flows_local", 1), ("icmp_errors_sent", 1), ("drop_too_big", 1)]);
            if v6 {
                continue;
            }
            let whole = without_df(&datagram.frame());
            let (port, pieces, _) = bench.run_all(WAN, &whole, Offload::default()).unwrap();
            assert_eq!((port, pieces.len()), (LAN, 2));
            let inner: Vec<_> = pieces.iter().map(|piece| open(piece, shim(encapsulation)).inner).collect();
            let seen = Seen::of(&crate::testing::join(&inner));
            let sent = Seen::of(&whole);
            assert_eq!(seen, Seen { ttl: 63, dst_mac: seen.dst_mac, src_mac: LAN_MAC, ..sent });
            assert_eq!(bench.moved(), [("encapsulated", 1), ("cut", 1)]);
        }
    }
}

fn without_df(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[20] = 0;
    let check = pnet_packet::ipv4::checksum(&pnet_packet::ipv4::Ipv4Packet::new(&frame[14..]).unwrap());
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame
}
