//! Direct mode: the client's packet reaches the real server as it was sent, but for the MAC addresses.

use super::bench::{
    Bench, CLIENT, CLIENT_MAC, CLIENT6, LAN, REMOTE, ROUTER_MAC, VIP, VIP6, WAN, endpoint, ip, one_sided,
};
use crate::config::{Encapsulation, Mode};
use crate::counters::Refusal;
use crate::device::Offload;
use crate::flow::State;
use crate::forward::Verdict;
use crate::testing::{Build, Seen};
use crate::wire::icmp;
use crate::wire::ip::{FlowKey, TCP, V4};
use crate::wire::l4::{ACK, FIN, RST, SYN};
use std::time::Duration;

const A_MAC: [u8; 6] = [2, 0, 0, 0, 2, 11];
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, LAN];

fn bench() -> Bench {
    Bench::with(one_sided(Mode::Direct, Encapsulation::Ipip))
}

/// The frame as it came, with these MAC addresses.
fn readdressed(frame: &[u8], dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    [&dst[..], &src[..], &frame[12..]].concat()
}

fn state(bench: &Bench) -> Option<State> {
    let key = FlowKey { src: endpoint(CLIENT), dst: endpoint(VIP), protocol: TCP, family: V4 };
    bench.shared.table.lookup(&key, bench.shared.table.hash(&key)).map(|flow| flow.state)
}

#[test]
fn only_the_mac_addresses_change() {
    let mut bench = bench();
    let mut syn = Build::tcp(CLIENT, VIP, SYN);
    (syn.tos, syn.ttl, syn.options) = (0xb9, 1, vec![2, 4, 0x23, 0x28]);
    let frame = syn.frame();
    let (port, out, _) = bench.run(WAN, &frame, Offload::default()).unwrap();
    assert_eq!((port, out), (LAN, readdressed(&frame, A_MAC, LAN_MAC)), "TTL 1 and the MSS of 9000 stay, too");
    assert_eq!(bench.moved(), [("flows_local", 1)]);
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    data.payload = b"USER probe".to_vec();
    let (_, out, _) = bench.run(WAN, &data.frame(), Offload::default()).unwrap();
    assert_eq!(out, readdressed(&data.frame(), A_MAC, LAN_MAC));
}

#[test]
fn the_same_in_ipv6_and_udp() {
    let mut bench = bench();
    let syn = Build::tcp(CLIENT6, VIP6, SYN).frame();
    let (_, out, _) = bench.run(WAN, &syn, Offload::default()).unwrap();
    assert_eq!(out, readdressed(&syn, [2, 0, 0, 0, 2, 66], LAN_MAC));
    let message = Build::udp("198.18.0.7:5000", "203.0.113.10:514", b"message").frame();
    let (_, out, _) = bench.run(WAN, &message, Offload::default()).unwrap();
    assert_eq!(out, readdressed(&message, A_MAC, LAN_MAC));
    assert_eq!(bench.moved(), [("flows_local", 2)]);
}

#[test]
fn joined_segments_stay_joined() {
    let mut bench = bench();
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
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
    let (port, out, sent) = bench.run(WAN, &data.frame(), offload).unwrap();
    assert_eq!((port, sent), (LAN, offload));
    assert_eq!(out, readdressed(&data.frame(), A_MAC, LAN_MAC));
}

#[test]
fn the_clients_half_is_tracked_alone() {
    let mut bench = bench();
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    assert_eq!(state(&bench), Some(State::SynSent));
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
    assert_eq!((state(&bench), bench.active("pop3/10.0.0.11:1100")), (Some(State::Established), 1));
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, FIN | ACK));
    assert_eq!(state(&bench), Some(State::ClientFin));
    bench.wait(Duration::from_secs(121));
    assert_eq!((state(&bench), bench.active("pop3/10.0.0.11:1100")), (None, 0), "tcp_closing");
}

#[test]
fn a_reset_and_a_new_connection_by_the_same_port() {
    let mut bench = bench();
    for flags in [SYN, ACK, RST, SYN] {
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, flags));
    }
    assert_eq!(state(&bench), Some(State::SynSent));
    assert_eq!(bench.moved(), [("flows_local", 2), ("flows_ended", 1)]);
}

#[test]
fn the_real_servers_answer_is_the_hosts() {
    let mut bench = bench();
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    // The host is its gateway, say, and forwards it like anything else.
    assert_eq!(bench.stop(LAN, &Build::tcp(VIP, CLIENT, SYN | ACK)), Verdict::NotOurs);
    assert_eq!(bench.moved(), [("flows_local", 1)]);
}

#[test]
fn without_a_real_server_it_goes_to_the_remote_site_as_ever() {
    let mut bench = bench();
    bench.set_up("pop3/10.0.0", false);
    let (port, seen) = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    assert_eq!((port, seen.dst.to_string().as_str(), seen.ttl), (WAN, REMOTE, 63));
    let (_, answer) = bench.pass(WAN, &Build::tcp(REMOTE, &seen.src.to_string(), SYN | ACK));
    assert_eq!((answer.src.to_string().as_str(), answer.dst.to_string().as_str()), (VIP, CLIENT));
}

#[test]
fn a_real_server_behind_a_gateway_is_refused() {
    let mut config = one_sided(Mode::Direct, Encapsulation::Ipip);
    config.services[0].reals.truncate(1);
    config.services[0].reals[0].address = ip("10.9.0.1");
    let mut bench = Bench::with(config);
    assert_eq!(bench.stop(WAN, &Build::tcp(CLIENT, VIP, SYN)), Verdict::Refuse(Refusal::NotOnLink));
    assert_eq!(bench.moved(), [("flows_local", 1), ("drop_not_on_link", 1)]);
}

#[test]
fn the_gateway_itself_may_be_a_real_server() {
    let mut config = one_sided(Mode::Direct, Encapsulation::Ipip);
    config.services[0].reals.truncate(1);
    config.services[0].reals[0].address = ip("10.0.0.254");
    let (_, seen) = Bench::with(config).pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    assert_eq!(seen.dst_mac, ROUTER_MAC);
}

#[test]
fn a_packet_never_goes_back_to_the_machine_that_it_came_from() {
    let mut bench = bench();
    let mut frame = Build::tcp(CLIENT, VIP, SYN).frame();
    frame[6..12].copy_from_slice(&A_MAC);
    let verdict = bench.run(LAN, &frame, Offload::default()).unwrap_err();
    assert_eq!(verdict, Verdict::Refuse(Refusal::Loop), "two farsides would play ball with it");
    frame[6..12].copy_from_slice(&CLIENT_MAC);
    bench.run(LAN, &frame, Offload::default()).unwrap();
}

#[test]
fn too_large_for_the_link_is_told_to_the_client() {
    let mut bench = bench();
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    data.payload = vec![1; 1461];
    let (port, error) = bench.pass(WAN, &data);
    assert_eq!((port, error.icmp, error.rest, error.dst.ip()), (WAN, (3, 4), 1500, ip("198.18.0.7")));
    assert_eq!(bench.moved(), [("flows_local", 1), ("icmp_errors_sent", 1), ("drop_too_big", 1)]);
}

#[test]
fn an_error_about_the_servers_answer_reaches_that_server_as_it_came() {
    let mut bench = bench();
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    // A router on the way to the client has met an answer of the server's that is too large for the next link.
    let answer = Build::tcp(VIP, CLIENT, ACK);
    let mut error = Build::icmp("198.18.5.5", "203.0.113.10", 3, icmp::FRAGMENTATION_NEEDED, &answer.packet()[..28]);
    error.rest = 1400;
    let (port, out, _) = bench.run(WAN, &error.frame(), Offload::default()).unwrap();
    assert_eq!((port, out), (LAN, readdressed(&error.frame(), A_MAC, LAN_MAC)));
    assert_eq!(bench.moved(), [("flows_local", 1), ("icmp_errors_translated", 1)]);
}

#[test]
fn a_ping_is_answered_here() {
    let mut bench = bench();
    let (port, seen) = bench.pass(WAN, &Build::icmp("198.18.0.7", "203.0.113.10", 8, 0, b"ping"));
    assert_eq!((port, seen.icmp), (WAN, (0, 0)));
}

#[test]
fn a_target_that_goes_down_resets_the_client_alone() {
    let mut config = one_sided(Mode::Direct, Encapsulation::Ipip);
    config.services[0].on_down = crate::config::OnDown::Reset;
    let mut bench = Bench::with(config);
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    let mut ack = Build::tcp(CLIENT, VIP, ACK);
    ack.ack = 5001;
    bench.pass(WAN, &ack);
    let sent = bench.reset_all();
    assert_eq!(sent.len(), 1);
    let (port, frame) = &sent[0];
    let seen = Seen::of(frame);
    assert_eq!((*port, seen.src.to_string().as_str(), seen.dst.to_string().as_str()), (WAN, VIP, CLIENT));
    assert_eq!((seen.flags, seen.seq), (RST, 5001));
    assert_eq!(state(&bench), None);
}
