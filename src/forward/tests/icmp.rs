//! Echo, errors about flows in both directions with the packet they quote, ARP and neighbor solicitation.

use super::bench::{CLIENT6, PIP6, REAL6, VIP6, ip};
use super::{Bench, CLIENT, CLIENT_MAC, LAN, PIP, REAL_A, REMOTE, VIP, WAN};
use crate::counters::Refusal;
use crate::device::Offload;
use crate::forward::Verdict;
use crate::testing::{Build, OUR_MAC, Seen, THEIR_MAC};
use crate::wire::l4::{ACK, SYN};

const ROUTER: &str = "192.0.2.77";

#[test]
fn a_ping_of_the_vip_and_of_the_pip_is_answered() {
    let mut bench = Bench::new();
    for (client, address, echo, answer) in [
        ("198.18.0.7", "203.0.113.10", 8, 0),
        ("198.18.0.7", PIP, 8, 0),
        ("2001:db8:c::7", "2001:db8:1::10", 128, 129),
        ("2001:db8:c::7", PIP6, 128, 129),
    ] {
        let mut ping = Build::icmp(client, address, echo, 0, b"0123456789");
        ping.rest = 0x1234_0001;
        let (port, seen) = bench.pass(WAN, &ping);
        assert_eq!((port, seen.icmp, seen.rest), (WAN, (answer, 0), 0x1234_0001));
        assert_eq!((seen.src.ip(), seen.dst.ip()), (ping.dst.ip(), ping.src.ip()));
        assert_eq!((seen.payload, seen.dst_mac, seen.src_mac), (ping.payload, THEIR_MAC, OUR_MAC));
    }
    assert_eq!(bench.moved(), [("echo_replies", 4)]);
}

#[test]
fn an_error_from_the_clients_side_reaches_the_real_server_in_its_words() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    bench.moved();
    // A router on the way to the client found the answer too big; it quotes eight bytes of TCP.
    let quote = &Build::tcp(VIP, CLIENT, ACK).packet()[..28];
    let mut error = Build::icmp(ROUTER, "203.0.113.10", 3, 4, quote);
    error.rest = 1400;
    let (port, seen) = bench.pass(WAN, &error);
    assert_eq!((port, seen.icmp, seen.rest), (LAN, (3, 4), 1400));
    assert_eq!((seen.src.ip().to_string().as_str(), seen.dst.ip()), (ROUTER, ip("10.0.0.11")));
    let quoted = Build::tcp(REAL_A, CLIENT, ACK).packet();
    assert_eq!(seen.payload, quoted[..28], "as the real server sent it");
    assert_eq!(bench.moved(), [("icmp_errors_translated", 1)]);
}

#[test]
fn an_error_about_a_carried_packet_reaches_the_client_from_the_vip() {
    let mut bench = Bench::new();
    bench.set_up("pop3/10.0", false);
    let (_, syn) = bench.connect(CLIENT, VIP);
    let pip = syn.src.to_string();
    let mut data = Build::tcp(&pip, REMOTE, ACK);
    data.payload = vec![9; 40];
    let mut error = Build::icmp(ROUTER, PIP, 3, 4, &data.packet());
    error.rest = 1300;
    let (port, seen) = bench.pass(WAN, &error);
    assert_eq!(
        (port, seen.icmp, seen.rest, seen.src.ip(), seen.dst.ip()),
        (WAN, (3, 4), 1300, ip("203.0.113.10"), ip("198.18.0.7"))
    );
    let mut quoted = Build::tcp(CLIENT, VIP, ACK);
    quoted.payload = vec![9; 40];
    assert_eq!(seen.payload, quoted.packet(), "as the client sent it, TCP checksum included");
}

#[test]
fn an_error_about_a_carried_answer_reaches_the_remote_site_from_the_pip() {
    let mut bench = Bench::new();
    bench.set_up("pop3/10.0", false);
    let (_, syn) = bench.connect(CLIENT, VIP);
    let error = Build::icmp("198.18.0.7", "203.0.113.10", 3, 3, &Build::tcp(VIP, CLIENT, ACK).packet());
    let seen = bench.pass(WAN, &error).1;
    assert_eq!((seen.src.ip(), seen.dst.ip()), (ip(PIP), ip("198.51.100.10")));
    assert_eq!(seen.payload, Build::tcp(REMOTE, &syn.src.to_string(), ACK).packet());
}

#[test]
fn a_real_servers_port_unreachable_comes_from_the_vip() {
    let mut bench = Bench::new();
    let (client, vip, real) = ("198.18.0.7:5000", "203.0.113.10:514", "10.0.0.11:514");
    bench.pass(WAN, &Build::udp(client, vip, b"message"));
    let error = Build::icmp("10.0.0.11", "198.18.0.7", 3, 3, &Build::udp(client, real, b"message").packet());
    let (port, seen) = bench.pass(LAN, &error);
    assert_eq!((port, seen.src.ip(), seen.dst.ip()), (WAN, ip("203.0.113.10"), ip("198.18.0.7")));
    assert_eq!(seen.payload, Build::udp(client, vip, b"message").packet());
}

#[test]
fn the_same_in_ipv6() {
    let mut bench = Bench::new();
    bench.connect(CLIENT6, VIP6);
    let mut error =
        Build::icmp("2001:db8:77::1", "2001:db8:1::10", 2, 0, &Build::tcp(VIP6, CLIENT6, ACK).packet()[..48]);
    error.rest = 1280;
    let (port, seen) = bench.pass(WAN, &error);
    assert_eq!((port, seen.icmp, seen.rest, seen.dst.ip()), (LAN, (2, 0), 1280, ip("fd00::11")));
    assert_eq!(seen.payload, Build::tcp(REAL6, CLIENT6, ACK).packet()[..48]);
    let error = Build::icmp("fd00::11", "2001:db8:c::7", 1, 4, &Build::tcp(CLIENT6, REAL6, ACK).packet());
    let (port, seen) = bench.pass(LAN, &error);
    assert_eq!((port, seen.src.ip()), (WAN, ip("2001:db8:1::10")));
    assert_eq!(seen.payload, Build::tcp(CLIENT6, VIP6, ACK).packet());
}

#[test]
fn an_error_about_nothing_on_record_goes_nowhere() {
    let mut bench = Bench::new();
    let refuse =
        |bench: &mut Bench, payload: &[u8]| bench.stop(WAN, &Build::icmp(ROUTER, "203.0.113.10", 3, 4, payload));
    let about = Build::tcp(VIP, CLIENT, ACK).packet();
    assert_eq!(refuse(&mut bench, &about), Verdict::Refuse(Refusal::IcmpUnsolicited));
    assert_eq!(refuse(&mut bench, &about[..27]), Verdict::Refuse(Refusal::IcmpQuote), "less than RFC 792 promises");
    assert_eq!(refuse(&mut bench, &[]), Verdict::Refuse(Refusal::IcmpQuote));
    let mut wrong = Build::icmp(ROUTER, "203.0.113.10", 3, 4, &about).frame();
    wrong[36] ^= 1;
    assert_eq!(bench.run(WAN, &wrong, Offload::default()), Err(Verdict::Refuse(Refusal::IcmpChecksum)));
    let timestamp = Build::icmp(ROUTER, "203.0.113.10", 13, 0, &[0; 12]);
    assert_eq!(bench.stop(WAN, &timestamp), Verdict::Refuse(Refusal::IcmpType));
    let to_client = Build::icmp("10.0.0.11", "198.18.0.7", 8, 0, b"a ping of the real server's own");
    assert_eq!(bench.stop(LAN, &to_client), Verdict::NotOurs);
}

fn arp(target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], THEIR_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(THEIR_MAC);
    frame.extend([203, 0, 113, 254]);
    frame.extend([0; 6]);
    frame.extend(target);
    frame.resize(60, 0);
    frame
}

#[test]
fn who_has_the_vip_or_the_pip_is_answered_and_the_rest_is_the_hosts() {
    let mut bench = Bench::new();
    for target in [[203, 0, 113, 10], [203, 0, 113, 250]] {
        let (port, frame, _) = bench.run(WAN, &arp(target), Offload::default()).unwrap();
        let mac = [2, 0, 0, 0, 0, WAN];
        let right =
            [&THEIR_MAC[..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &mac, &target, &THEIR_MAC, &[203, 0, 113, 254]];
        assert_eq!((port, frame), (WAN, right.concat()));
    }
    assert_eq!(bench.moved(), [("arp_replies", 2)]);
    let verdict = bench.run(WAN, &arp([203, 0, 113, 1]), Offload::default());
    assert_eq!(verdict, Err(Verdict::NotOurs));
}

/// A neighbor solicitation for `target`, as `src` sends it.
fn solicitation(src: &str, target: &str) -> Build {
    let mut option = vec![1, 1];
    option.extend(THEIR_MAC);
    let ip6: std::net::Ipv6Addr = target.parse().unwrap();
    let option = if src == "::" { Vec::new() } else { option };
    let mut build = Build::icmp(src, "ff02::1:ff00:10", 135, 0, &[&ip6.octets()[..], &option].concat());
    build.ttl = 255;
    build
}

#[test]
fn a_neighbor_solicitation_for_the_vip_is_answered() {
    let mut bench = Bench::new();
    let (port, seen) = bench.pass(WAN, &solicitation("2001:db8:1::fe", "2001:db8:1::10"));
    let mac = [2, 0, 0, 0, 0, WAN];
    assert_eq!((port, seen.dst_mac, seen.src_mac, seen.ttl), (WAN, THEIR_MAC, mac, 255));
    assert_eq!((seen.src.ip(), seen.dst.ip()), (ip("2001:db8:1::10"), ip("2001:db8:1::fe")));
    assert_eq!((seen.icmp, seen.rest), ((136, 0), 0x6000_0000), "solicited, override");
    let target: std::net::Ipv6Addr = "2001:db8:1::10".parse().unwrap();
    assert_eq!(seen.payload, [&target.octets()[..], &[2, 1], &mac].concat());
    assert_eq!(bench.moved(), [("neighbor_advertisements", 1)]);
}

#[test]
fn who_tries_to_take_the_vip_for_itself_is_told_with_all_others() {
    let mut bench = Bench::new();
    let seen = bench.pass(WAN, &solicitation("::", "2001:db8:1::10")).1;
    assert_eq!((seen.dst.ip(), seen.dst_mac, seen.rest), (ip("ff02::1"), [0x33, 0x33, 0, 0, 0, 1], 0x2000_0000));
}

#[test]
fn solicitations_from_afar_or_for_others_are_not_answered() {
    let mut bench = Bench::new();
    let mut routed = solicitation("2001:db8:1::fe", "2001:db8:1::10");
    routed.ttl = 254;
    assert_eq!(bench.stop(WAN, &routed), Verdict::Refuse(Refusal::NeighborSolicitation));
    assert_eq!(bench.stop(WAN, &solicitation("2001:db8:1::fe", "2001:db8:1::1")), Verdict::NotOurs);
}

#[test]
fn an_error_waits_for_the_neighbor_too() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    bench.shared.hops.clear(4); // 10.0.0.11, the third neighbor from id 2 on.
    let quote = Build::tcp(VIP, CLIENT, ACK).packet();
    assert_eq!(bench.stop(WAN, &Build::icmp(ROUTER, "203.0.113.10", 3, 4, &quote)), Verdict::Hold);
    bench.shared.hops.set(4, crate::route::Hop { mac: CLIENT_MAC, port: LAN, mtu: 1500 });
    let seen: Seen = bench.pass(WAN, &Build::icmp(ROUTER, "203.0.113.10", 3, 4, &quote)).1;
    assert_eq!(seen.dst_mac, CLIENT_MAC);
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1.flags, SYN);
}

/// Routers may have no other address on a link, and nobody passes such a packet on (RFC 4291 2.5.6).
#[test]
fn an_error_from_a_link_local_router_reaches_the_real_server_from_the_vip() {
    let mut bench = Bench::new();
    bench.connect(CLIENT6, VIP6);
    let quote = Build::tcp(VIP6, CLIENT6, ACK).packet();
    let seen = bench.pass(WAN, &Build::icmp("fe80::fe", "2001:db8:1::10", 2, 0, &quote)).1;
    assert_eq!((seen.src.ip(), seen.dst.ip()), (ip("2001:db8:1::10"), ip("fd00::11")));
}

#[test]
fn errors_of_our_own_come_from_the_vip_where_the_port_has_no_address_that_others_can_route() {
    let mut bench = Bench::new();
    bench.connect(CLIENT6, VIP6);
    bench.fib = crate::route::Fib::builder()
        .hops(bench.shared.hops.clone())
        .epoch(bench.fib.epoch())
        .port("wan0", [2, 0, 0, 0, 0, WAN], 1500, &["fe80::1/64".parse().unwrap()])
        .port("lan0", [2, 0, 0, 0, 0, LAN], 1500, &[])
        .build();
    for (port, mut packet) in [(WAN, Build::tcp(CLIENT6, VIP6, ACK)), (LAN, Build::tcp(REAL6, CLIENT6, ACK))] {
        packet.ttl = 1;
        let seen = bench.pass(port, &packet).1;
        assert_eq!((seen.icmp, seen.src.ip(), seen.dst.ip()), ((3, 0), ip("2001:db8:1::10"), packet.src.ip()));
    }
}
