//! Site proxying: no local server is up, the connection goes to the remote site by a PIP and a lent port.

use super::bench::{CLIENT6, PIP6, REMOTE6, VIP6, config, ip};
use super::{Bench, CLIENT, CLIENT_MAC, LAN, PEER, PIP, REAL_A, REMOTE, VIP, WAN};
use crate::counters::Refusal;
use crate::forward::Verdict;
use crate::route::{Fib, Route, Table, Target, Way};
use crate::testing::Build;
use crate::wire::l4::{ACK, FIN, RST, SYN};
use std::collections::HashSet;
use std::time::Duration;

/// No local server of `service` is up.
fn carried(service: &str) -> Bench {
    let bench = Bench::new();
    bench.set_up(&format!("{service}/10.0"), false);
    bench
}

#[test]
fn without_a_local_server_a_syn_goes_from_the_pip_to_the_remote_vip() {
    let mut bench = carried("pop3");
    let (port, seen) = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    assert_eq!((port, seen.dst_mac, seen.dst.to_string().as_str()), (WAN, CLIENT_MAC, REMOTE));
    assert_eq!(seen.src.ip().to_string(), PIP);
    assert!((1024..=1123).contains(&seen.src.port()), "a port of the range: {}", seen.src.port());
    assert_eq!(bench.moved(), [("flows_remote", 1)]);
}

#[test]
fn the_remote_answer_comes_from_the_vip_to_the_client_until_both_have_closed() {
    let mut bench = carried("pop3");
    let (_, syn) = bench.connect(CLIENT, VIP);
    let (pip, remote) = (syn.src.to_string(), syn.dst.to_string());
    for (port, packet) in [
        (WAN, Build::tcp(CLIENT, VIP, ACK)),
        (WAN, Build::tcp(&remote, &pip, ACK)),
        (WAN, Build::tcp(CLIENT, VIP, FIN | ACK)),
        (WAN, Build::tcp(&remote, &pip, FIN | ACK)),
        (WAN, Build::tcp(CLIENT, VIP, ACK)),
    ] {
        let seen = bench.pass(port, &packet).1;
        let from_client = packet.src.to_string() == CLIENT;
        let (src, dst) = if from_client { (pip.as_str(), remote.as_str()) } else { (VIP, CLIENT) };
        assert_eq!((seen.src.to_string().as_str(), seen.dst.to_string().as_str()), (src, dst));
    }
}

#[test]
fn the_same_in_ipv6() {
    let mut bench = Bench::new();
    bench.set_up("pop6/[fd00", false);
    let (_, syn) = bench.connect(CLIENT6, VIP6);
    assert_eq!((syn.src.ip().to_string().as_str(), syn.dst.to_string().as_str()), (PIP6, REMOTE6));
}

#[test]
fn udp_is_carried_too() {
    let mut bench = carried("syslog");
    let seen = bench.pass(WAN, &Build::udp("198.18.0.7:5000", "203.0.113.10:514", b"m")).1;
    assert_eq!((seen.src.ip().to_string().as_str(), seen.dst.to_string().as_str()), (PIP, "198.51.100.10:514"));
    let back = bench.pass(WAN, &Build::udp("198.51.100.10:514", &seen.src.to_string(), b"a")).1;
    assert_eq!((back.src.to_string().as_str(), back.dst.to_string().as_str()), ("203.0.113.10:514", "198.18.0.7:5000"));
}

#[test]
fn a_pip_is_never_lent_to_local_servers() {
    let mut bench = Bench::new();
    assert_eq!(bench.connect(CLIENT, VIP).1.src.to_string(), CLIENT);
    assert_eq!(bench.shared.ledger.headroom(bench.services.services()[0].remotes[0].pools[0].1).free, 100);
}

#[test]
fn when_local_servers_come_back_new_connections_are_local_and_carried_ones_stay() {
    let mut bench = carried("pop3");
    let (_, syn) = bench.connect(CLIENT, VIP);
    bench.set_up("pop3/10.0", true);
    let still = bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK)).1;
    assert_eq!((still.src, still.dst), (syn.src, syn.dst));
    let new = bench.pass(WAN, &Build::tcp("198.18.0.7:40001", VIP, SYN)).1;
    assert_eq!(new.dst.to_string(), REAL_A);
}

#[test]
fn a_peers_connection_is_served_here_or_refused_and_never_carried_on() {
    let mut bench = Bench::new();
    let from_peer = format!("{PEER}:1024");
    assert_eq!(bench.pass(WAN, &Build::tcp(&from_peer, VIP, SYN)).1.dst.to_string(), REAL_A);
    bench.set_up("pop3/10.0", false);
    bench.moved();
    let (port, seen) = bench.pass(WAN, &Build::tcp(&format!("{PEER}:1025"), VIP, SYN));
    assert_eq!((port, seen.flags, seen.ack), (WAN, RST | ACK, 1001));
    assert_eq!((seen.src.to_string(), seen.dst.to_string()), (VIP.into(), format!("{PEER}:1025")));
    assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_no_server_for_peer", 1)]);
}

#[test]
fn with_no_server_anywhere_the_client_is_refused_at_once() {
    let mut bench = Bench::new();
    for prefix in ["pop3", "syslog", "pop6"] {
        bench.set_up(prefix, false);
    }
    let seen = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1;
    assert_eq!((seen.flags, seen.seq, seen.ack), (RST | ACK, 0, 1001));
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT6, VIP6, SYN)).1.flags, RST | ACK);
    let datagram = Build::udp("198.18.0.7:5000", "203.0.113.10:514", b"m");
    let seen = bench.pass(WAN, &datagram).1;
    assert_eq!((seen.icmp, seen.src.ip().to_string().as_str()), ((3, 3), "203.0.113.10"));
    assert_eq!(seen.payload, datagram.packet());
    let moved = [("resets_sent", 2), ("icmp_errors_sent", 1), ("drop_no_server", 3)];
    assert_eq!(bench.moved(), moved);
}

#[test]
fn ports_run_out_the_client_is_refused_and_they_come_back_after_a_rest() {
    let mut bench = carried("pop3");
    let mut lent = HashSet::new();
    for n in 0..100 {
        lent.insert(bench.pass(WAN, &Build::tcp(&format!("198.18.0.7:{}", 2000 + n), VIP, SYN)).1.src.port());
    }
    assert_eq!(lent.len(), 100, "no port twice");
    bench.moved();
    let seen = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1;
    assert_eq!(seen.flags, RST | ACK);
    assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_ports_exhausted", 1)]);
    assert_eq!(bench.active("pop3/north"), 100);
    bench.shared.ledger.set_rest(crate::flow::ticks(Duration::from_secs(5)));
    bench.wait(Duration::from_secs(31));
    assert_eq!((bench.active("pop3/north"), bench.moved()), (0, vec![("flows_ended", 100)]));
    let again = |bench: &mut Bench| bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1.flags;
    assert_eq!(again(&mut bench), RST | ACK, "they rest");
    bench.wait(Duration::from_secs(5));
    assert_eq!(again(&mut bench), SYN);
}

#[test]
fn a_second_pip_lends_when_the_first_has_nothing_left() {
    let mut config = config();
    config.proxy.as_mut().unwrap().addresses.push("203.0.113.251".parse().unwrap());
    let mut bench = Bench::with(config);
    bench.set_up("pop3/10.0", false);
    let mut pips = HashSet::new();
    for n in 0..200 {
        let seen = bench.pass(WAN, &Build::tcp(&format!("198.18.0.7:{}", 2000 + n), VIP, SYN)).1;
        assert_eq!(seen.flags, SYN, "connection {n}");
        pips.insert(seen.src.ip().to_string());
    }
    assert_eq!(pips.len(), 2);
}

#[test]
fn a_forgotten_connection_is_reset_at_both_ends() {
    let mut bench = Bench::new();
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    (data.seq, data.ack) = (7000, 8000);
    let seen = bench.pass(WAN, &data).1;
    assert_eq!((seen.flags, seen.seq), (RST, 8000));
    let mut data = Build::tcp(REMOTE, &format!("{PIP}:1030"), ACK);
    (data.seq, data.ack) = (7000, 9000);
    let seen = bench.pass(WAN, &data).1;
    assert_eq!((seen.flags, seen.seq, seen.src.to_string()), (RST, 9000, format!("{PIP}:1030")));
    assert_eq!(bench.moved(), [("resets_sent", 2), ("drop_no_flow", 2)]);
    let reset = Build::tcp(CLIENT, VIP, RST);
    assert_eq!(bench.stop(WAN, &reset), Verdict::Refuse(Refusal::NoFlow), "an RST is never answered");
}

#[test]
fn a_probe_by_its_door_reaches_the_remote_site_whatever_its_status_and_from_a_pip() {
    let mut bench = Bench::new();
    bench.set_up("pop3/north", false);
    let door = format!("{}:110", bench.door("pop3/north"));
    let host = "169.254.64.1:5000";
    let seen = bench.pass(LAN, &Build::tcp(host, &door, SYN)).1;
    assert_eq!((seen.src.ip().to_string().as_str(), seen.dst.to_string().as_str()), (PIP, REMOTE));
    assert!((512..1024).contains(&seen.src.port()), "beside the ports of connections: {}", seen.src.port());
    assert_eq!((bench.active("pop3/north"), bench.moved()), (0, vec![("flows_probe", 1)]), "it is no connection");
}

#[test]
fn a_check_that_has_closed_returns_its_port_at_once() {
    let mut bench = Bench::new();
    // Where no tap is, its answers have nowhere to go: the client's half will do.
    let (host, door) = ("169.254.64.1:5000", format!("{}:110", bench.door("pop3/north")));
    let syn = bench.pass(LAN, &Build::tcp(host, &door, SYN)).1;
    let mut flow = None;
    bench.shared.table.for_each(|on| flow = Some(on.flow));
    bench.shared.table.set_state(&mut flow.unwrap(), crate::flow::State::Closing);
    assert_eq!(bench.pass(LAN, &Build::tcp(host, &door, ACK)).1.src, syn.src, "the last acknowledgement passes");
    assert_eq!(bench.shared.table.len(), 0);
    assert_eq!(bench.active("pop3/north"), 0);
}

/// Two lines: the VIP's is another than the one of the default route, and the PIP's a third.
#[test]
fn each_packet_leaves_by_the_line_of_its_source() {
    let net = |text: &str| text.parse().unwrap();
    let table = |number, gateway: &str| Route {
        table: Table::Other(number),
        prefix: ip("0.0.0.0"),
        len: 0,
        metric: 0,
        mtu: 0,
        target: Target::Ways(vec![Way { port: LAN, gateway: Some((4, ip(gateway).into())), weight: 1, alive: true }]),
    };
    let with_lines = |mut bench: Bench| {
        let hops = bench.fib.hops().clone();
        let macs = [("10.0.0.11", 11), ("10.0.0.12", 12), ("10.0.0.101", 101), ("10.0.0.102", 102)];
        let fib = Fib::builder()
            .hops(hops)
            .port("wan0", [2, 0, 0, 0, 0, WAN], 1500, &[net("203.0.113.1/24")])
            .port("lan0", [2, 0, 0, 0, 0, LAN], 1500, &[net("10.0.0.1/24")])
            .route(net("0.0.0.0/0"), WAN, Some(ip("203.0.113.254")))
            .rule(net(&VIP[..VIP.find(':').unwrap()]), 1)
            .rule(net(PIP), 2)
            .raw_route(table(1, "10.0.0.101"))
            .raw_route(table(2, "10.0.0.102"));
        bench.fib = macs.iter().fold(fib, |fib, (at, last)| fib.neighbor(LAN, ip(at), [2, 0, 0, 0, 2, *last])).build();
        bench
    };
    let mut bench = with_lines(Bench::new());
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1.dst_mac, [2, 0, 0, 0, 2, 11], "the client has no rule");
    assert_eq!(bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, SYN | ACK)).1.dst_mac, [2, 0, 0, 0, 2, 101]);
    let mut bench = with_lines(carried("pop3"));
    let syn = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1;
    assert_eq!(syn.dst_mac, [2, 0, 0, 0, 2, 102]);
    let answer = bench.pass(LAN, &Build::tcp(REMOTE, &syn.src.to_string(), ACK)).1;
    assert_eq!(answer.dst_mac, [2, 0, 0, 0, 2, 101]);
}
