//! NAT mode to local real servers.

use super::bench::{CLIENT6, REAL6, VIP6, ip, one_sided};
use super::{Bench, CLIENT, CLIENT_MAC, LAN, REAL_A, REAL_B, VIP, WAN};
use crate::config::{Encapsulation, Mode};
use crate::counters::Refusal;
use crate::device::Offload;
use crate::flow::Side;
use crate::forward::Verdict;
use crate::route::{Fib, Neighbor};
use crate::testing::{Build, Seen};
use crate::wire::l4::{ACK, FIN, RST, SYN};
use std::time::Duration;

#[test]
fn a_syn_to_the_vip_goes_to_a_real_server_with_the_clients_address() {
    let mut bench = Bench::new();
    let mut syn = Build::tcp(CLIENT, VIP, SYN);
    syn.tos = 0xb9; // DSCP EF, ECT(1).
    let (port, seen) = bench.pass(WAN, &syn);
    assert_eq!(port, LAN);
    assert_eq!((seen.src.to_string(), seen.dst.to_string()), (CLIENT.into(), REAL_A.into()));
    assert_eq!((seen.ttl, seen.tos), (63, 0xb9));
    assert_eq!((seen.dst_mac, seen.src_mac), ([2, 0, 0, 0, 2, 11], [2, 0, 0, 0, 0, LAN]));
    assert_eq!(bench.moved(), [("flows_local", 1)]);
}

#[test]
fn the_real_servers_answer_comes_from_the_vip() {
    let mut bench = Bench::new();
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    let (port, seen) = bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, SYN | ACK));
    assert_eq!((port, seen.dst_mac), (WAN, CLIENT_MAC));
    assert_eq!((seen.src.to_string(), seen.dst.to_string(), seen.ttl), (VIP.into(), CLIENT.into(), 63));
}

#[test]
fn the_same_in_ipv6() {
    let mut bench = Bench::new();
    let (port, seen) = bench.connect(CLIENT6, VIP6);
    assert_eq!((port, seen.src.to_string(), seen.dst.to_string()), (LAN, CLIENT6.into(), REAL6.into()));
}

#[test]
fn udp_both_ways_and_without_a_checksum() {
    let mut bench = Bench::new();
    let (client, vip, real) = ("198.18.0.7:5000", "203.0.113.10:514", "10.0.0.11:514");
    let (_, seen) = bench.pass(WAN, &Build::udp(client, vip, b"message"));
    assert_eq!((seen.src.to_string(), seen.dst.to_string()), (client.into(), real.into()));
    let (_, seen) = bench.pass(LAN, &Build::udp(real, client, b"answer"));
    assert_eq!((seen.src.to_string(), seen.dst.to_string()), (vip.into(), client.into()));
    let mut frame = Build::udp(client, vip, b"message").frame();
    frame[40..42].fill(0);
    let (_, frame, _) = bench.run(WAN, &frame, Offload::default()).unwrap();
    assert_eq!(frame[40..42], [0, 0], "a sender that did not sum stays one");
}

#[test]
fn a_retransmitted_syn_goes_to_the_same_server() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1.dst.to_string(), REAL_A);
    }
    let other = bench.pass(WAN, &Build::tcp("198.18.0.7:40001", VIP, SYN)).1;
    assert_eq!(other.dst.to_string(), REAL_B);
    assert_eq!(bench.moved(), [("flows_local", 2)]);
}

#[test]
fn a_connection_stays_with_its_server_when_that_goes_down_or_is_drained() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    bench.set_up("pop3/10.0.0.11", false);
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK)).1.dst.to_string(), REAL_A);
    let new = bench.pass(WAN, &Build::tcp("198.18.0.7:40001", VIP, SYN)).1;
    assert_eq!(new.dst.to_string(), REAL_B, "new ones go elsewhere");
}

#[test]
fn a_partial_checksum_stays_partial() {
    let mut bench = Bench::new();
    let mut syn = Build::tcp(CLIENT, VIP, SYN);
    syn.partial = true;
    let offload = Offload { needs_csum: true, csum_start: 34, csum_offset: 16, ..Offload::default() };
    let (_, frame, sent) = bench.run(WAN, &syn.frame(), offload).unwrap();
    assert_eq!(sent, offload);
    let mut right = Build::tcp(CLIENT, REAL_A, SYN);
    right.partial = true;
    assert_eq!(frame[50..52], right.frame()[50..52], "the pseudo-header sum of the new addresses");
    // What the device then does must give a right checksum.
    let mut completed = frame.clone();
    let sum = crate::wire::checksum::sum(&frame[34..]);
    completed[50..52].copy_from_slice(&(!crate::wire::checksum::fold(sum)).to_ne_bytes());
    Seen::of(&completed);
}

#[test]
fn a_super_packet_passes_whole() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    (data.partial, data.payload) = (true, vec![7; 60_000]);
    let offload = Offload {
        needs_csum: true,
        csum_start: 34,
        csum_offset: 16,
        gso_type: 1,
        gso_size: 1448,
        hdr_len: 54,
        csum_valid: false,
    };
    let (port, frame, sent) = bench.run(WAN, &data.frame(), offload).unwrap();
    assert_eq!((port, frame.len(), sent), (LAN, 60_054, offload));
}

#[test]
fn the_mss_is_clamped_to_the_narrower_side_and_never_raised() {
    let mut bench = Bench::new();
    let mss = |bench: &mut Bench, client: &str, vip: &str, offered: u16| {
        let mut syn = Build::tcp(client, vip, SYN);
        syn.options = [&[1, 1, 1, 1, 2, 4][..], &offered.to_be_bytes()].concat();
        let options = bench.pass(WAN, &syn).1.options;
        u16::from_be_bytes([options[6], options[7]])
    };
    assert_eq!(mss(&mut bench, CLIENT, VIP, 8960), 1460);
    assert_eq!(mss(&mut bench, "198.18.0.7:40001", VIP, 536), 536);
    assert_eq!(mss(&mut bench, CLIENT6, VIP6, 8960), 1440);
    assert_eq!(bench.moved(), [("flows_local", 3), ("mss_clamped", 2)]);
}

#[test]
fn an_mss_option_at_an_odd_place_keeps_the_checksum_right() {
    let mut bench = Bench::new();
    let mut syn = Build::tcp(CLIENT, VIP, SYN);
    syn.options = vec![1, 2, 4, 0x23, 0x00, 1, 1, 0];
    let seen = bench.pass(WAN, &syn).1;
    assert_eq!(seen.options, [1, 2, 4, 0x05, 0xb4, 1, 1, 0]);
}

#[test]
fn a_closed_connection_is_forgotten_and_its_server_has_one_less() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    assert_eq!(bench.active("pop3/10.0.0.11:1100"), 1);
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, FIN | ACK));
    bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, FIN | ACK));
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
    bench.moved();
    bench.wait(Duration::from_secs(119));
    assert_eq!(bench.moved(), [], "the last acknowledgements may still come");
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.moved(), [("flows_ended", 1)]);
    assert_eq!(bench.active("pop3/10.0.0.11:1100"), 0);
}

#[test]
fn an_idle_connection_lives_for_two_hours_and_a_half_open_one_for_half_a_minute() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    bench.pass(WAN, &Build::tcp("198.18.0.8:1", VIP, SYN));
    bench.wait(Duration::from_secs(31));
    assert_eq!(bench.moved().last(), Some(&("flows_ended", 1)));
    bench.wait(Duration::from_secs(7200));
    assert_eq!(bench.moved(), [], "RFC 5382 REQ-5");
    bench.wait(Duration::from_secs(300));
    assert_eq!(bench.moved(), [("flows_ended", 1)]);
}

#[test]
fn a_new_syn_on_a_closing_connection_starts_afresh() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, FIN | ACK));
    bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, FIN | ACK));
    bench.moved();
    let again = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1;
    assert_eq!(again.dst.to_string(), REAL_B, "the next in turn");
    assert_eq!(bench.moved(), [("flows_local", 1), ("flows_ended", 1)]);
}

#[test]
fn a_reset_ends_a_connection_soon() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, RST));
    bench.moved();
    bench.wait(Duration::from_secs(11));
    assert_eq!(bench.moved(), [("flows_ended", 1)]);
}

#[test]
fn a_neighbor_that_has_gone_silent_is_known_to_be_wanted_as_long_as_packets_come_for_it() {
    let direct = one_sided(Mode::Direct, Encapsulation::Ipip);
    for (mut bench, flags) in [(Bench::new(), SYN), (Bench::new(), ACK), (Bench::with(direct), ACK)] {
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
        let mut hop = 0;
        bench.shared.table.for_each(|on| hop = on.flow.hops[Side::Server as usize]);
        bench.shared.hops.clear(hop);
        bench.shared.hops.take_used(hop);
        assert_eq!(bench.stop(WAN, &Build::tcp(CLIENT, VIP, flags)), Verdict::Hold);
        assert!(bench.shared.hops.take_used(hop));
    }
}

#[test]
fn a_packet_to_an_unknown_neighbor_is_held_untouched_and_the_neighbor_asked_for() {
    let mut config = super::bench::config();
    config.services[0].reals[0].address = "10.0.0.99".parse().unwrap();
    let mut bench = Bench::with(config);
    assert_eq!(bench.stop(WAN, &Build::tcp(CLIENT, VIP, SYN)), Verdict::Hold);
    assert_eq!(bench.shared.resolve.take(), Some(Neighbor::new(LAN, ip("10.0.0.99"))));
    assert_eq!(bench.stop(WAN, &Build::tcp(CLIENT, VIP, SYN)), Verdict::Hold, "the same flow, held again");
    assert_eq!(bench.moved(), [("flows_local", 1)]);
}

#[test]
fn the_same_client_port_by_two_vips_gets_two_servers_and_then_a_refusal() {
    let mut config = super::bench::config();
    let mut second = config.services[0].clone();
    (second.name, second.vip) = ("pop3b".into(), "203.0.113.11".parse().unwrap());
    config.services.push(second);
    let mut bench = Bench::with(config);
    let first = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1;
    let second = bench.pass(WAN, &Build::tcp(CLIENT, "203.0.113.11:110", SYN)).1;
    assert_ne!(first.dst, second.dst, "one 5-tuple at the server, one flow");
    bench.set_up("pop3", false);
    bench.set_up("pop3b/10.0.0.12", true);
    let mut third = Build::tcp(CLIENT, "203.0.113.11:110", SYN);
    third.src = "198.18.0.7:40002".parse().unwrap();
    assert_eq!(bench.pass(WAN, &third).1.dst.to_string(), REAL_B);
    assert_eq!(bench.moved(), [("flows_local", 3)]);
}

#[test]
fn time_to_live_ends_here_and_the_client_is_told() {
    let mut bench = Bench::new();
    let mut syn = Build::tcp(CLIENT, VIP, SYN);
    syn.ttl = 1;
    let (port, seen) = bench.pass(WAN, &syn);
    assert_eq!((port, seen.icmp, seen.src.ip().to_string().as_str()), (WAN, (11, 0), "203.0.113.1"));
    assert_eq!(seen.dst.ip().to_string(), "198.18.0.7");
    assert_eq!(seen.payload[..], syn.packet()[..], "the packet as it came");
    assert_eq!(bench.moved(), [("flows_local", 1), ("icmp_errors_sent", 1), ("drop_ttl_exceeded", 1)]);
}

#[test]
fn a_packet_longer_than_the_next_hops_mtu_is_answered_with_that_mtu() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    bench.moved();
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    data.payload = vec![1; 1461];
    let (port, seen) = bench.pass(WAN, &data);
    assert_eq!((port, seen.icmp, seen.rest), (WAN, (3, 4), 1500));
    assert_eq!(seen.payload.len(), 576 - 28);
    assert_eq!(bench.moved(), [("icmp_errors_sent", 1), ("drop_too_big", 1)]);
    bench.connect(CLIENT6, VIP6);
    let mut data = Build::tcp(CLIENT6, VIP6, ACK);
    data.payload = vec![1; 1441];
    let seen = bench.pass(WAN, &data).1;
    assert_eq!((seen.icmp, seen.rest, seen.payload.len()), ((2, 0), 1500, 1280 - 48));
}

#[test]
fn a_flow_follows_a_route_that_changes() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    bench.fib = Fib::builder()
        .hops(bench.shared.hops.clone())
        .epoch(bench.fib.epoch() + 1)
        .port("wan0", [2, 0, 0, 0, 0, WAN], 1500, &[])
        .port("lan0", [2, 0, 0, 0, 0, LAN], 1500, &[])
        .route("0.0.0.0/0".parse().unwrap(), LAN, Some(ip("10.0.0.254")))
        .neighbor(LAN, ip("10.0.0.254"), [2, 0, 0, 0, 2, 254])
        .build();
    let (port, seen) = bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, ACK));
    assert_eq!((port, seen.dst_mac), (LAN, [2, 0, 0, 0, 2, 254]));
}

#[test]
fn what_is_for_no_service_is_the_hosts() {
    let mut bench = Bench::new();
    assert_eq!(bench.stop(WAN, &Build::tcp(CLIENT, "203.0.113.1:22", SYN)), Verdict::NotOurs);
    assert_eq!(bench.stop(LAN, &Build::tcp("10.0.0.11:40000", "198.18.0.7:80", SYN)), Verdict::NotOurs);
    let to_vip = bench.stop(WAN, &Build::tcp(CLIENT, "203.0.113.10:111", SYN));
    assert_eq!(to_vip, Verdict::Refuse(Refusal::NoService));
}
