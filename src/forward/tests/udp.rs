//! UDP, which has no SYN: flows that leave a dead target, and services that are scheduled per packet.

use super::bench::{config, ip, one_sided};
use super::{Bench, LAN, PIP, VIP, WAN};
use crate::config::{Config, Encapsulation, Mode, Protocol, Real};
use crate::counters::Refusal;
use crate::device::Offload;
use crate::forward::Verdict;
use crate::testing::Build;
use crate::wire::ip::{FlowKey, UDP, V4};
use std::collections::HashSet;
use std::time::Duration;

const CLIENT: &str = "198.18.0.7:5000";
const SYSLOG: &str = "203.0.113.10:514";
const A: &str = "10.0.0.11:514";
const B: &str = "10.0.0.12:514";
const NORTH: &str = "198.51.100.10:514";
const DNS: &str = "203.0.113.10:53";

fn real(name: &str, port: u16) -> Real {
    Real { name: name.into(), address: ip(name), port, weight: 1, max_connections: 0, backup: false }
}

/// Syslog on two real servers.
fn two() -> Bench {
    let mut config = config();
    config.services[1].reals = vec![real("10.0.0.11", 514), real("10.0.0.12", 514)];
    Bench::with(config)
}

/// Where a client's datagram goes.
fn sent(bench: &mut Bench, client: &str, vip: &str) -> String {
    bench.pass(WAN, &Build::udp(client, vip, b"message")).1.dst.to_string()
}

#[test]
fn a_flow_whose_server_goes_down_moves_with_its_next_datagram() {
    let mut bench = two();
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), A);
    bench.set_up("syslog/10.0.0.11", false);
    bench.moved();
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), B);
    assert_eq!(bench.moved(), [("flows_local", 1), ("flows_ended", 1), ("udp_flows_moved", 1)]);
    assert_eq!((bench.active("syslog/10.0.0.11"), bench.active("syslog/10.0.0.12")), (0, 1));
    bench.set_up("syslog/10.0.0.11", true);
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), B, "and stays there");
    assert_eq!(bench.moved(), []);
}

#[test]
fn answers_from_the_dead_server_are_no_longer_the_flows() {
    let mut bench = two();
    sent(&mut bench, CLIENT, SYSLOG);
    bench.set_up("syslog/10.0.0.11", false);
    // What it sent before it died still passes, as long as the client is silent.
    assert_eq!(bench.pass(LAN, &Build::udp(A, CLIENT, b"late")).1.src.to_string(), SYSLOG);
    sent(&mut bench, CLIENT, SYSLOG);
    assert_eq!(bench.stop(LAN, &Build::udp(A, CLIENT, b"later")), Verdict::NotOurs);
    assert_eq!(bench.pass(LAN, &Build::udp(B, CLIENT, b"answer")).1.src.to_string(), SYSLOG);
}

#[test]
fn a_drained_server_keeps_its_flows() {
    let mut bench = two();
    let slot = bench.services.services()[1].reals[0].slot;
    sent(&mut bench, CLIENT, SYSLOG);
    bench.shared.status.slot(slot).set_drained(true);
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), A);
    assert_eq!(sent(&mut bench, "198.18.0.7:5001", SYSLOG), B, "and gets no new ones");
    bench.shared.status.slot(slot).set_up(false);
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), B, "dead is dead");
}

#[test]
fn a_flow_moves_to_the_remote_site_and_stays_there_while_that_is_up() {
    let mut bench = two();
    sent(&mut bench, CLIENT, SYSLOG);
    bench.set_up("syslog/10.0.0", false);
    let carried = bench.pass(WAN, &Build::udp(CLIENT, SYSLOG, b"message")).1;
    assert_eq!((carried.src.ip(), carried.dst.to_string()), (ip(PIP), NORTH.into()));
    bench.set_up("syslog/10.0.0", true);
    let still = bench.pass(WAN, &Build::udp(CLIENT, SYSLOG, b"message")).1;
    assert_eq!((still.src, still.dst), (carried.src, carried.dst), "only death moves it");
    bench.set_up("syslog/north", false);
    assert_ne!(sent(&mut bench, CLIENT, SYSLOG), NORTH);
    assert_eq!(bench.counters.total(crate::counters::Count::UdpFlowsMoved), 2);
    assert_eq!(bench.active("syslog/north"), 0);
}

#[test]
fn with_nobody_left_the_client_is_told_at_once_and_nothing_has_moved() {
    let mut bench = two();
    sent(&mut bench, CLIENT, SYSLOG);
    bench.set_up("syslog", false);
    bench.moved();
    let (port, seen) = bench.pass(WAN, &Build::udp(CLIENT, SYSLOG, b"message"));
    assert_eq!((port, seen.icmp), (WAN, (3, 3)));
    assert_eq!(bench.moved(), [("flows_ended", 1), ("icmp_errors_sent", 1), ("drop_no_server", 1)]);
    bench.set_up("syslog", true);
    sent(&mut bench, CLIENT, SYSLOG);
    assert_eq!(bench.moved(), [("flows_local", 1)]);
}

#[test]
fn a_peers_flow_never_moves_on_to_another_site() {
    let mut bench = two();
    let peer = "198.51.100.250:2000";
    assert_eq!(sent(&mut bench, peer, SYSLOG), A);
    bench.set_up("syslog/10.0.0", false);
    assert_eq!(bench.pass(WAN, &Build::udp(peer, SYSLOG, b"message")).1.icmp, (3, 3));
    assert_eq!(bench.counters.total_refused(Refusal::NoServerForPeer), 1);
}

#[test]
fn a_removed_server_counts_as_dead_and_a_removed_services_flows_stay() {
    let mut before = config();
    before.services[1].reals = vec![real("10.0.0.11", 514), real("10.0.0.12", 514)];
    let mut bench = Bench::with(before.clone());
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), A);
    before.services[1].reals.remove(0);
    bench.reload(&before);
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), B);
    // All are replaced at once, and none has passed a check yet: the old one will do.
    before.services[1].reals[0] = real("10.0.0.13", 514);
    bench.reload(&before);
    bench.set_up("syslog", false);
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), B);
    before.services[1].reals[0] = real("10.0.0.12", 514);
    bench.reload(&before);
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), B);
    before.services.remove(1);
    bench.reload(&before);
    assert_eq!(sent(&mut bench, CLIENT, SYSLOG), B);
}

/// Who takes none of the connection is no other: a server of weight 0, and to a peer's flow another site.
#[test]
fn a_removed_server_keeps_its_flow_if_nobody_else_would_take_it() {
    for client in [CLIENT, "198.51.100.250:2000"] {
        let mut config = config();
        config.services[1].reals = vec![real("10.0.0.11", 514), real("10.0.0.12", 514)];
        let mut bench = Bench::with(config.clone());
        assert_eq!(sent(&mut bench, client, SYSLOG), A);
        config.services[1].reals.remove(0);
        config.services[1].reals[0].weight = 0;
        bench.reload(&config);
        bench.set_up("syslog/north", client != CLIENT);
        assert_eq!(sent(&mut bench, client, SYSLOG), A, "{client}");
    }
}

/// DNS on two real servers, each question for itself.
fn dns_config() -> Config {
    let mut config = config();
    let mut dns = config.services[1].clone();
    (dns.name, dns.port, dns.per_packet) = ("dns".into(), 53, true);
    dns.reals = vec![real("10.0.0.11", 53), real("10.0.0.12", 53)];
    dns.remotes[0].port = 53;
    config.services.push(dns);
    config
}

const DNS_A: &str = "10.0.0.11:53";
const DNS_B: &str = "10.0.0.12:53";

#[test]
fn per_packet_each_question_of_one_client_port_gets_the_next_server_and_its_answer_the_vip() {
    let mut bench = Bench::with(dns_config());
    for turn in 0..6 {
        let server = [DNS_A, DNS_B][turn % 2];
        assert_eq!(sent(&mut bench, CLIENT, DNS), server, "question {turn}");
        let (port, answer) = bench.pass(LAN, &Build::udp(server, CLIENT, b"answer"));
        assert_eq!((port, answer.src.to_string(), answer.dst.to_string()), (WAN, DNS.into(), CLIENT.into()));
    }
    assert_eq!(bench.moved(), [("flows_local", 2)], "one record for each server");
    assert_eq!(bench.shared.table.len(), 2);
    // The answers may come in another order than the questions.
    bench.pass(LAN, &Build::udp(DNS_B, CLIENT, b"late"));
    bench.pass(LAN, &Build::udp(DNS_A, CLIENT, b"later"));
}

#[test]
fn per_packet_a_record_awaits_its_answers_counts_and_goes_when_it_is_silent() {
    let mut bench = Bench::with(dns_config());
    sent(&mut bench, CLIENT, DNS);
    sent(&mut bench, CLIENT, DNS);
    for server in [DNS_A, DNS_B] {
        let key = FlowKey { src: super::endpoint(server), dst: super::endpoint(CLIENT), protocol: UDP, family: V4 };
        assert!(bench.shared.table.lookup(&key, bench.shared.table.hash(&key)).is_some());
    }
    assert_eq!(bench.active("dns/10.0.0.11"), 1);
    bench.wait(Duration::from_secs(119));
    assert_eq!(sent(&mut bench, CLIENT, DNS), DNS_A, "touched");
    bench.wait(Duration::from_secs(10));
    assert_eq!((bench.active("dns/10.0.0.11"), bench.active("dns/10.0.0.12")), (1, 0));
    bench.wait(Duration::from_secs(120));
    assert_eq!(bench.shared.table.len(), 0);
}

#[test]
fn per_packet_a_server_that_falls_gets_no_more_questions() {
    let mut bench = Bench::with(dns_config());
    sent(&mut bench, CLIENT, DNS);
    sent(&mut bench, CLIENT, DNS);
    bench.set_up("dns/10.0.0.11", false);
    for _ in 0..5 {
        assert_eq!(sent(&mut bench, CLIENT, DNS), DNS_B);
    }
    assert_eq!(bench.moved(), [("flows_local", 2)], "there is no flow that could move");
    bench.set_up("dns/10.0.0.11", true);
    let both: HashSet<_> = (0..2).map(|_| sent(&mut bench, CLIENT, DNS)).collect();
    assert_eq!(both.len(), 2);
}

#[test]
fn per_packet_a_remote_site_gets_an_ordinary_flow() {
    let mut bench = Bench::with(dns_config());
    bench.set_up("dns/10.0", false);
    let first = bench.pass(WAN, &Build::udp(CLIENT, DNS, b"question")).1;
    let second = bench.pass(WAN, &Build::udp(CLIENT, DNS, b"question")).1;
    assert_eq!((first.src, first.dst), (second.src, second.dst), "one lent port");
    assert_eq!((first.src.ip(), first.dst.to_string()), (ip(PIP), "198.51.100.10:53".into()));
    let answer = bench.pass(WAN, &Build::udp("198.51.100.10:53", &first.src.to_string(), b"answer")).1;
    assert_eq!((answer.src.to_string(), answer.dst.to_string()), (DNS.into(), CLIENT.into()));
    assert_eq!(bench.moved(), [("flows_remote", 1)]);
}

#[test]
fn per_packet_a_servers_icmp_error_reaches_the_client_and_a_clients_goes_nowhere() {
    let mut bench = Bench::with(dns_config());
    sent(&mut bench, CLIENT, DNS);
    let question = Build::udp(CLIENT, DNS_A, b"message").packet();
    let seen = bench.pass(LAN, &Build::icmp("10.0.0.11", "198.18.0.7", 3, 3, &question)).1;
    assert_eq!((seen.src.ip(), seen.payload), (ip("203.0.113.10"), Build::udp(CLIENT, DNS, b"message").packet()));
    // Which of the servers had answered?
    let answer = Build::udp(DNS, CLIENT, b"answer").packet();
    let verdict = bench.stop(WAN, &Build::icmp("198.18.0.7", "203.0.113.10", 3, 3, &answer));
    assert_eq!(verdict, Verdict::Refuse(Refusal::IcmpUnsolicited));
}

#[test]
fn per_packet_the_same_client_port_by_two_vips_never_gets_the_others_answers() {
    let mut config = dns_config();
    let mut second = config.services[3].clone();
    (second.name, second.vip) = ("dns2".into(), ip("203.0.113.11"));
    config.services.push(second);
    let mut bench = Bench::with(config);
    let other = "203.0.113.11:53";
    assert_eq!(sent(&mut bench, CLIENT, DNS), DNS_A);
    let mut by_other = HashSet::new();
    for _ in 0..4 {
        by_other.insert(sent(&mut bench, CLIENT, other));
    }
    assert_eq!(by_other, HashSet::from([DNS_B.to_string()]), "the server that the first has is passed over");
    assert_eq!(bench.pass(LAN, &Build::udp(DNS_B, CLIENT, b"answer")).1.src.to_string(), other);
    assert_eq!(bench.pass(LAN, &Build::udp(DNS_A, CLIENT, b"answer")).1.src.to_string(), DNS);
}

#[test]
fn a_reload_changes_the_way_of_scheduling_and_old_records_are_in_nobodys_way() {
    let mut bench = Bench::with(dns_config());
    let mut ordinary = dns_config();
    ordinary.services[3].per_packet = false;
    sent(&mut bench, CLIENT, DNS);
    sent(&mut bench, CLIENT, DNS);
    bench.reload(&ordinary);
    let chosen = sent(&mut bench, CLIENT, DNS);
    for _ in 0..3 {
        assert_eq!(sent(&mut bench, CLIENT, DNS), chosen, "an ordinary flow now");
    }
    bench.reload(&dns_config());
    assert_eq!(sent(&mut bench, CLIENT, DNS), chosen, "which stays one until it ends");
    bench.wait(Duration::from_secs(121));
    let both: HashSet<_> = (0..2).map(|_| sent(&mut bench, CLIENT, DNS)).collect();
    assert_eq!(both.len(), 2);
}

#[test]
fn a_datagram_without_a_checksum_moves_without_one() {
    let mut bench = two();
    sent(&mut bench, CLIENT, SYSLOG);
    bench.set_up("syslog/10.0.0.11", false);
    let mut frame = Build::udp(CLIENT, SYSLOG, b"message").frame();
    frame[40..42].fill(0);
    let (_, frame, _) = bench.run(WAN, &frame, Offload::default()).unwrap();
    assert_eq!((&frame[30..34], &frame[40..42]), (&[10, 0, 0, 12][..], &[0, 0][..]));
}

#[test]
fn per_packet_in_one_sided_modes_nothing_is_remembered() {
    for mode in [Mode::Direct, Mode::Tunnel] {
        let mut config = one_sided(mode, Encapsulation::Ipip);
        config.services[0].protocol = Protocol::Udp;
        config.services[0].per_packet = true;
        let mut bench = Bench::with(config);
        let mut macs = HashSet::new();
        for _ in 0..4 {
            let (port, frame, _) =
                bench.run(WAN, &Build::udp(CLIENT, VIP, b"question").frame(), Offload::default()).unwrap();
            assert_eq!(port, LAN);
            macs.insert(frame[..6].to_vec());
        }
        assert_eq!(macs.len(), 2, "{mode:?}: both servers have their turns");
        assert_eq!(bench.shared.table.len(), 0);
        bench.moved();
        // Too large for the way there: the client is told, as ever.
        let mut large = Build::udp(CLIENT, VIP, b"");
        large.payload = vec![1; 1490];
        assert_eq!(bench.pass(WAN, &large).1.icmp, (3, 4));
        assert_eq!(bench.moved(), [("icmp_errors_sent", 1), ("drop_too_big", 1)]);
    }
}

#[test]
fn a_one_sided_flow_moves_too() {
    for mode in [Mode::Direct, Mode::Tunnel] {
        let mut config = one_sided(mode, Encapsulation::Gre);
        config.services[0].protocol = Protocol::Udp;
        let mut bench = Bench::with(config);
        let to = |bench: &mut Bench| {
            let (_, frame, _) = bench.run(WAN, &Build::udp(CLIENT, VIP, b"m").frame(), Offload::default()).unwrap();
            frame[5]
        };
        let first = to(&mut bench);
        assert_eq!(to(&mut bench), first);
        bench.set_up(if first == 11 { "pop3/10.0.0.11" } else { "pop3/10.0.0.12" }, false);
        assert_ne!(to(&mut bench), first);
        assert_eq!(bench.moved()[..3], [("flows_local", 2), ("flows_ended", 1), ("udp_flows_moved", 1)]);
    }
}

/// A place at a target is taken before it is known that the client has a record there already.
#[test]
fn per_packet_every_record_has_one_place_at_its_server() {
    let mut bench = Bench::with(dns_config());
    for _ in 0..20 {
        sent(&mut bench, CLIENT, DNS);
        sent(&mut bench, "198.18.0.8:5000", DNS);
    }
    assert_eq!(bench.active("dns/10.0.0.11") + bench.active("dns/10.0.0.12"), bench.shared.table.len());
    bench.wait(Duration::from_secs(121));
    assert_eq!((bench.active("dns/10.0.0.11"), bench.active("dns/10.0.0.12")), (0, 0));
    let mut config = one_sided(Mode::Direct, Encapsulation::Ipip);
    config.services[0].protocol = Protocol::Udp;
    config.services[0].per_packet = true;
    let mut bench = Bench::with(config);
    for _ in 0..4 {
        bench.run(WAN, &Build::udp(CLIENT, VIP, b"question").frame(), Offload::default()).unwrap();
    }
    let slots = bench.services.services()[0].reals.iter().map(|real| real.slot);
    let active = |slot| bench.shared.status.slot(slot).active();
    assert_eq!(slots.map(active).sum::<u32>(), 0);
}
