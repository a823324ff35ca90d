//! Stickiness: whose packets reach which real server, and until when.

use super::*;
use crate::config::{OnDown, Scheduler};
use crate::flow::{FlowTable, HashKey};
use crate::route::HopTable;
use crate::service::status::StatusTable;
use crate::wire::l4::{ACK, FIN, RST, SYN};
use std::net::IpAddr;
use std::time::Duration;

const GUE: Encapsulation = Encapsulation::Gue;

/// By maglev, as Katran's services are.
fn hashed() -> Config {
    let mut config = site(GUE);
    config.services.iter_mut().for_each(|service| service.scheduler = Scheduler::Maglev);
    config
}

fn real_of(bench: &mut Bench, packet: &Build) -> IpAddr {
    reaches(bench, GUE, packet).dst
}

fn client(n: usize) -> String {
    format!("198.18.{}.{}:{}", n / 200, n % 200 + 1, 20_000 + n)
}

/// How many of all went to each of these.
fn shares(chosen: &[IpAddr], reals: [&str; 3]) -> [usize; 3] {
    reals.map(|real| chosen.iter().filter(|at| **at == ip(real)).count())
}

/// Enough of them that each real server has its share.
fn clients() -> Vec<String> {
    (0..900).map(client).collect()
}

#[test]
fn flows_of_many_clients_reach_all_real_servers_in_equal_shares() {
    let mut bench = bench_of(hashed());
    let syns: Vec<_> = clients().iter().map(|client| real_of(&mut bench, &Build::tcp(client, WEB4, SYN))).collect();
    let datagrams: Vec<_> =
        clients().iter().map(|client| real_of(&mut bench, &Build::udp(client, QUIC4, b"any"))).collect();
    for chosen in [syns, datagrams] {
        let shares = shares(&chosen, REALS4);
        assert_eq!(shares.iter().sum::<usize>(), 900);
        assert!(shares.iter().all(|share| (250..350).contains(share)), "{shares:?}");
    }
    assert_eq!(bench.moved(), [("flows_local", 1800), ("encapsulated", 1800)]);
}

#[test]
fn a_flow_stays_with_its_server_whatever_happens_to_the_others() {
    let mut bench = bench_of(hashed());
    let first = real_of(&mut bench, &Build::tcp(CLIENT4, WEB4, SYN));
    bench.moved();
    let others: Vec<_> = REALS4.into_iter().filter(|real| ip(real) != first).collect();
    let stays = |bench: &mut Bench, why: &str| {
        for _ in 0..20 {
            assert_eq!(real_of(bench, &Build::tcp(CLIENT4, WEB4, ACK)), first, "{why}");
        }
        assert_eq!(bench.moved(), [("encapsulated", 20)]);
    };
    stays(&mut bench, "nothing happens");
    others.iter().for_each(|other| bench.set_up(&format!("web4/{other}"), false));
    stays(&mut bench, "the others are down");
    others.iter().for_each(|other| bench.set_up(&format!("web4/{other}"), true));
    stays(&mut bench, "the others are up again");
    let mut config = hashed();
    config.services[0].reals.push(crate::config::Real {
        name: "new".into(),
        address: ip("10.0.0.14"),
        port: 80,
        weight: 100,
        max_connections: 0,
        backup: false,
    });
    bench.reload(&config);
    stays(&mut bench, "a heavy one is new");
    config.services[0].reals.iter_mut().find(|real| real.address == first).unwrap().weight = 0;
    bench.reload(&config);
    stays(&mut bench, "it gets no new ones");
    bench.set_up(&format!("web4/{first}"), false);
    stays(&mut bench, "even it is down: its connections are not moved");
}

/// Katran: a VIP may be hashed by the destination port alone.
#[test]
fn all_of_a_clients_ports_reach_one_server_by_maglev() {
    let mut bench = bench_of(hashed());
    for address in ["198.18.7.1", "198.18.7.2", "198.18.7.3", "198.18.7.4"] {
        let first = real_of(&mut bench, &Build::tcp(&format!("{address}:1024"), WEB4, SYN));
        for port in (2000..40_000).step_by(1999) {
            assert_eq!(real_of(&mut bench, &Build::tcp(&format!("{address}:{port}"), WEB4, SYN)), first);
        }
    }
}

/// Katran's answer to the loss of a load balancer: another one hashes to the same real server.
#[test]
fn two_boxes_choose_the_same_server_for_a_new_connection() {
    let mut one = bench_of(hashed());
    let config = hashed();
    let flows = config.datapath.max_flows;
    let table = FlowTable::new(flows, 1, HashKey { k0: 77, k1: 78 });
    let mut other = Bench::in_memory(config, table, HopTable::new(), StatusTable::new());
    let fib = bench_of(hashed());
    (other.shared.hops, other.fib) = (fib.shared.hops, fib.fib);
    for client in clients() {
        let syn = Build::tcp(&client, WEB4, SYN);
        assert_eq!(real_of(&mut one, &syn), real_of(&mut other, &syn), "{client}");
    }
}

/// Katran sends it to where the hash says. Here, a flow that has been forgotten is no more.
#[test]
fn tcp_without_a_connection_is_refused() {
    for (client, vip) in [(CLIENT4, WEB4), (CLIENT6, WEB6)] {
        let mut bench = bench_of(hashed());
        for flags in [ACK, ACK | FIN, SYN | ACK] {
            let packet = Build { ack: 5001, ..Build::tcp(client, vip, flags) };
            is_answered_by(&mut bench, &packet, &Build { seq: 5001, ..Build::tcp(vip, client, RST) });
            assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_no_flow", 1)]);
        }
        assert_eq!(bench.stop(WAN, &Build::tcp(client, vip, RST)), Verdict::Refuse(crate::counters::Refusal::NoFlow));
        assert_eq!(bench.moved(), [("drop_no_flow", 1)]);
    }
}

#[test]
fn datagrams_leave_a_dead_server_and_no_other_and_do_not_come_back() {
    let mut bench = bench_of(hashed());
    let send = |bench: &mut Bench| -> Vec<IpAddr> {
        clients().iter().map(|client| real_of(bench, &Build::udp(client, QUIC4, b"any"))).collect()
    };
    let before = send(&mut bench);
    assert_eq!(send(&mut bench), before);
    bench.moved();
    let dead = ip("10.0.0.12");
    bench.set_up("quic4/10.0.0.12", false);
    let after = send(&mut bench);
    let moved = shares(&before, REALS4)[1] as u64;
    assert!(!after.contains(&dead));
    for (before, after) in before.iter().zip(&after).filter(|(before, _)| **before != dead) {
        assert_eq!(before, after);
    }
    let inherited = [0, 2].map(|at| shares(&after, REALS4)[at] - shares(&before, REALS4)[at]);
    assert!(inherited.iter().all(|n| *n > moved as usize / 3), "both others inherit: {inherited:?}");
    let counted = [("flows_local", moved), ("flows_ended", moved), ("udp_flows_moved", moved), ("encapsulated", 900)];
    assert_eq!(bench.moved(), counted);
    bench.set_up("quic4/10.0.0.12", true);
    assert_eq!(send(&mut bench), after);
    assert_eq!(bench.moved(), [("encapsulated", 900)]);
}

#[test]
fn tcp_stays_with_a_dead_server_and_new_connections_avoid_it() {
    let mut bench = bench_of(hashed());
    let send = |bench: &mut Bench, flags| -> Vec<IpAddr> {
        clients().iter().map(|client| real_of(bench, &Build::tcp(client, WEB4, flags))).collect()
    };
    let before = send(&mut bench, SYN);
    send(&mut bench, ACK);
    bench.moved();
    bench.set_up("web4/10.0.0.13", false);
    assert_eq!(send(&mut bench, ACK), before);
    assert_eq!(bench.moved(), [("encapsulated", 900)]);
    for n in 0..100 {
        let syn = Build::tcp(&format!("198.19.0.{n}:5000"), WEB4, SYN);
        assert_ne!(real_of(&mut bench, &syn), ip("10.0.0.13"));
    }
}

/// Not in Katran, whose real servers would find out by themselves.
#[test]
fn tcp_of_a_dead_server_is_reset_where_the_service_says_so() {
    let mut config = hashed();
    config.services[0].on_down = OnDown::Reset;
    let mut bench = bench_of(config);
    real_of(&mut bench, &Build::tcp(CLIENT4, WEB4, SYN));
    real_of(&mut bench, &Build { seq: 1001, ack: 7001, ..Build::tcp(CLIENT4, WEB4, ACK) });
    let sent = bench.reset_all();
    assert_eq!(sent.len(), 1, "to the client; the server is dead");
    let seen = Seen::of(&sent[0].1);
    assert_eq!((seen.src.to_string().as_str(), seen.dst.to_string().as_str()), (WEB4, CLIENT4));
    assert_eq!((seen.flags, seen.seq), (RST, 7001));
}

/// Headers of QUIC (RFC 9000 17) with this connection id.
fn quic(id: [u8; 8]) -> [Vec<u8>; 5] {
    let long = |kind: u8| [&[0xc0 | kind << 4, 0, 0, 0, 1, 8][..], &id, &[0; 40]].concat();
    [long(0), long(1), long(2), long(3), [&[0x40][..], &id, &[0; 30]].concat()]
}

/// Katran reads the server's number from the connection id. farside reads nothing but addresses and ports.
#[test]
fn a_quic_client_stays_whatever_its_connection_id_and_when_its_port_changes() {
    for (address, vip) in [("198.18.9.1", QUIC4), ("[2001:db8:c::9]", QUIC6)] {
        let mut bench = bench_of(hashed());
        let at = |port: u16| format!("{address}:{port}");
        let first = real_of(&mut bench, &Build::udp(&at(5000), vip, &quic([0; 8])[0]));
        for id in [[0; 8], [0x40, 4, 0, 0, 0, 0, 0, 1], [0x80, 0, 3, 4, 5, 6, 7, 8], [0xff; 8]] {
            for datagram in quic(id) {
                assert_eq!(real_of(&mut bench, &Build::udp(&at(5000), vip, &datagram)), first);
            }
        }
        assert_eq!(bench.moved(), [("flows_local", 1), ("encapsulated", 21)]);
        // A NAT on the way has given it other ports.
        for port in 6000..6050 {
            assert_eq!(real_of(&mut bench, &Build::udp(&at(port), vip, &quic([7; 8])[4])), first);
        }
    }
}

#[test]
fn a_quic_client_that_changes_its_port_stays_by_persistence_with_any_scheduler() {
    let mut config = hashed();
    config.services[2].scheduler = Scheduler::RoundRobin;
    config.services[2].persistence = Duration::from_secs(60);
    let mut bench = bench_of(config);
    let first = real_of(&mut bench, &Build::udp("198.18.9.1:5000", QUIC4, &quic([1; 8])[0]));
    bench.moved();
    for port in 6000..6020 {
        let datagram = Build::udp(&format!("198.18.9.1:{port}"), QUIC4, &quic([1; 8])[4]);
        assert_eq!(real_of(&mut bench, &datagram), first);
    }
    assert_eq!(bench.moved(), [("flows_local", 20), ("encapsulated", 20), ("persistence_hits", 20)]);
}

/// TPR, kind 0xb7: a real server's number. Whatever stands there, even what cannot, is the two ends' business.
#[test]
fn tcp_options_choose_nothing_and_pass_unchanged() {
    let id = |id: u32| [&[0xb7, 6][..], &id.to_le_bytes(), &[1, 1]].concat();
    let mut all = vec![id(0), id(1023), id(1024), id(1025), id(u32::MAX)];
    all.push(vec![0xb7, 1, 0, 4, 0, 0, 1, 1]);
    all.push(vec![0xb7, 200, 0, 4, 0, 0, 1, 1]);
    all.push([&[0, 0, 0, 0][..], &id(1025)].concat());
    all.push([vec![1; 32], id(1024)].concat());
    all.push([&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2][..], &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9], &id(7)].concat());
    let mut bench = bench_of(hashed());
    for (client, vip) in [("198.18.0.7", WEB4), ("[2001:db8:c::7]", WEB6), ("198.18.0.7", CROSS4)] {
        let first = real_of(&mut bench, &Build::tcp(&format!("{client}:1024"), vip, SYN));
        bench.moved();
        for (port, options) in (5000..).zip(&all) {
            for flags in [SYN, ACK, ACK | 8] {
                let with = Build { options: options.clone(), ..Build::tcp(&format!("{client}:{port}"), vip, flags) };
                assert_eq!(real_of(&mut bench, &with), first, "as without options");
            }
            assert_eq!(bench.moved(), [("flows_local", 1), ("encapsulated", 3)]);
        }
    }
}

/// Katran: a VIP's real server may be told by the client's network.
#[test]
fn clients_of_every_network_are_served_by_all() {
    let mut bench = bench_of(hashed());
    for network in ["192.168.100", "10.77.0", "100.64.1", "198.51.100"] {
        let chosen: Vec<_> =
            (1..=100).map(|n| real_of(&mut bench, &Build::tcp(&format!("{network}.{n}:5000"), WEB4, SYN))).collect();
        assert!(shares(&chosen, REALS4).iter().all(|share| *share > 15), "{:?}", shares(&chosen, REALS4));
    }
    for network in ["fc00:2307:1", "fc00:2", "2001:db8:aa"] {
        let chosen: Vec<_> = (1..=100)
            .map(|n| real_of(&mut bench, &Build::udp(&format!("[{network}::{n}]:5000"), QUIC6, b"any")))
            .collect();
        assert!(shares(&chosen, REALS6).iter().all(|share| *share > 15), "{:?}", shares(&chosen, REALS6));
    }
}

#[test]
fn flows_spread_over_outer_ports_and_labels_but_each_has_one() {
    let mut bench = bench_of(hashed());
    let mut seen = std::collections::HashSet::new();
    for client in clients() {
        let flow = reaches(&mut bench, GUE, &Build::tcp(&client, CROSS4, SYN));
        for _ in 0..3 {
            let again = reaches(&mut bench, GUE, &Build::tcp(&client, CROSS4, ACK));
            assert_eq!((again.ports, again.label), (flow.ports, flow.label));
        }
        seen.insert((flow.ports, flow.label));
    }
    assert!(seen.len() > 880, "{}", seen.len());
}
