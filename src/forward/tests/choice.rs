//! Which target a connection gets: persistence, limits, backups, overflow.

use super::bench::{CLIENT6, VIP6, config, ip};
use super::{Bench, CLIENT, LAN, PEER, REAL_A, REAL_B, REMOTE, VIP, WAN};
use crate::config::{Config, Overflow, Real, Scheduler};
use crate::counters::Refusal;
use crate::forward::Verdict;
use crate::testing::Build;
use crate::wire::l4::{ACK, FIN, RST, SYN};
use std::time::Duration;

const C: &str = "10.0.0.11:1102";

/// Where this client's connection from this port goes; None: it is refused.
fn asks(bench: &mut Bench, client: &str, port: u16) -> Option<String> {
    let seen = bench.pass(WAN, &Build::tcp(&format!("{client}:{port}"), VIP, SYN)).1;
    (seen.flags & RST == 0).then(|| seen.dst.to_string())
}

fn real(at: &str) -> Real {
    let at: std::net::SocketAddr = at.parse().unwrap();
    Real { name: at.to_string(), address: at.ip(), port: at.port(), weight: 1, max_connections: 0, backup: false }
}

/// The first service remembers for a minute.
fn persistent() -> Config {
    let mut config = config();
    config.services[0].persistence = Duration::from_secs(60);
    config
}

/// Two connections at each of two real servers, one at a backup, none elsewhere.
fn limited() -> Config {
    let mut config = config();
    let reals = &mut config.services[0].reals;
    reals.iter_mut().for_each(|real| real.max_connections = 2);
    reals.push(Real { max_connections: 1, backup: true, ..real(C) });
    config
}

fn close(bench: &mut Bench, client: &str, port: u16, real: &str) {
    let client = format!("{client}:{port}");
    bench.pass(LAN, &Build::tcp(real, &client, SYN | ACK));
    bench.pass(WAN, &Build::tcp(&client, VIP, FIN | ACK));
    bench.pass(LAN, &Build::tcp(real, &client, FIN | ACK));
}

#[test]
fn the_same_client_comes_back_to_the_same_server_and_after_the_timeout_it_does_not() {
    let mut bench = Bench::with(persistent());
    assert_eq!(asks(&mut bench, "198.18.0.7", 1).unwrap(), REAL_A);
    assert_eq!(asks(&mut bench, "198.18.0.8", 1).unwrap(), REAL_B, "the next in turn");
    for port in 2..6 {
        bench.wait(Duration::from_secs(50));
        assert_eq!(asks(&mut bench, "198.18.0.7", port).unwrap(), REAL_A, "connection {port}");
    }
    bench.moved();
    assert_eq!(asks(&mut bench, "198.18.0.7", 6).unwrap(), REAL_A);
    assert_eq!(bench.moved(), [("flows_local", 1), ("persistence_hits", 1)]);
    assert_eq!(asks(&mut bench, "198.18.0.9", 1).unwrap(), REAL_A, "the turn had gone on by one client only");
    bench.wait(Duration::from_secs(61));
    bench.moved();
    assert_eq!(asks(&mut bench, "198.18.0.7", 7).unwrap(), REAL_B);
    assert_eq!(bench.moved(), [("flows_local", 1)]);
}

#[test]
fn a_retransmitted_syn_is_no_second_connection() {
    let mut bench = Bench::with(persistent());
    asks(&mut bench, "198.18.0.7", 1);
    asks(&mut bench, "198.18.0.7", 1);
    assert_eq!(bench.moved(), [("flows_local", 1)]);
}

#[test]
fn a_remembered_client_whose_server_is_down_or_drained_goes_elsewhere_and_stays_there() {
    for drained in [false, true] {
        let mut bench = Bench::with(persistent());
        assert_eq!(asks(&mut bench, "198.18.0.7", 1).unwrap(), REAL_A);
        let slot = bench.services.services()[0].reals[0].slot;
        let away = |bench: &Bench, away: bool| match drained {
            true => bench.shared.status.slot(slot).set_drained(away),
            false => bench.shared.status.slot(slot).set_up(!away),
        };
        away(&bench, true);
        bench.moved();
        assert_eq!(asks(&mut bench, "198.18.0.7", 2).unwrap(), REAL_B);
        assert_eq!(bench.moved(), [("flows_local", 1), ("persistence_moved", 1)]);
        away(&bench, false);
        assert_eq!(asks(&mut bench, "198.18.0.7", 3).unwrap(), REAL_B);
    }
}

#[test]
fn a_client_that_was_carried_to_the_remote_site_is_local_again_as_soon_as_that_is_possible() {
    let mut bench = Bench::with(persistent());
    bench.set_up("pop3/10.0", false);
    assert_eq!(asks(&mut bench, "198.18.0.7", 1).unwrap(), REMOTE);
    bench.set_up("pop3/10.0", true);
    bench.moved();
    asks(&mut bench, "198.18.0.7", 2);
    assert_eq!(bench.moved(), [("flows_local", 1)]);
}

#[test]
fn weight_0_sends_remembered_clients_elsewhere_too() {
    let mut bench = Bench::with(persistent());
    assert_eq!(asks(&mut bench, "198.18.0.7", 1).unwrap(), REAL_A);
    let mut zero = persistent();
    zero.services[0].reals[0].weight = 0;
    bench.reload(&zero);
    assert_eq!(asks(&mut bench, "198.18.0.7", 2).unwrap(), REAL_B);
}

#[test]
fn what_is_remembered_outlives_a_reload_and_does_not_pass_to_who_gets_the_slot_next() {
    let mut bench = Bench::with(persistent());
    assert_eq!(asks(&mut bench, "198.18.0.7", 1).unwrap(), REAL_A);
    let slot = bench.slot_of("198.18.0.7:1", VIP);
    let mut longer = persistent();
    longer.services[0].persistence = Duration::from_secs(3600);
    longer.services[0].reals.swap(0, 1);
    bench.reload(&longer);
    assert_eq!(asks(&mut bench, "198.18.0.7", 2).unwrap(), REAL_A, "whatever its place in the file");
    bench.wait(Duration::from_secs(31));
    longer.services[0].reals.pop();
    bench.reload(&longer);
    longer.services[0].reals.insert(0, real(C));
    bench.reload(&longer);
    assert_eq!(bench.services.services()[0].reals[0].slot, slot, "it has the slot now");
    bench.moved();
    asks(&mut bench, "198.18.0.7", 3);
    assert_eq!(bench.moved(), [("flows_local", 1), ("persistence_moved", 1)]);
}

#[test]
fn clients_of_one_ipv6_network_count_as_one() {
    let mut config = config();
    config.services[2].persistence = Duration::from_secs(60);
    config.services[2].persistence_mask_v6 = 64;
    config.services[2].reals.push(real("[fd00::11]:1101"));
    let mut bench = Bench::with(config);
    let first = bench.pass(WAN, &Build::tcp(CLIENT6, VIP6, SYN)).1.dst;
    for host in 1..5 {
        let neighbor = format!("[2001:db8:c::{host}:1]:9");
        assert_eq!(bench.pass(WAN, &Build::tcp(&neighbor, VIP6, SYN)).1.dst, first);
    }
    assert_ne!(bench.pass(WAN, &Build::tcp("[2001:db8:c:1::7]:9", VIP6, SYN)).1.dst, first);
}

#[test]
fn udp_clients_are_remembered_too() {
    let mut config = config();
    config.services[1].persistence = Duration::from_secs(60);
    config.services[1].reals.push(real("10.0.0.12:514"));
    let mut bench = Bench::with(config);
    let ask = |bench: &mut Bench, port: u16| {
        bench.pass(WAN, &Build::udp(&format!("198.18.0.7:{port}"), "203.0.113.10:514", b"m")).1.dst
    };
    let first = ask(&mut bench, 1);
    assert!((2..6).all(|port| ask(&mut bench, port) == first));
}

/// The same client address and port by two VIPs would be one 5-tuple at the server.
#[test]
fn a_remembered_server_that_has_the_clients_port_already_is_passed_by_this_once() {
    let mut config = persistent();
    let mut other = config.services[0].clone();
    (other.name, other.vip) = ("pop3b".into(), ip("203.0.113.11"));
    config.services.push(other);
    let mut bench = Bench::with(config);
    let ask = |bench: &mut Bench, vip: &str, port: u16| {
        bench.pass(WAN, &Build::tcp(&format!("198.18.0.7:{port}"), vip, SYN)).1.dst.to_string()
    };
    assert_eq!(ask(&mut bench, "203.0.113.11:110", 1), REAL_A);
    assert_eq!(ask(&mut bench, VIP, 2), REAL_A);
    assert_eq!(ask(&mut bench, "203.0.113.11:110", 2), REAL_B, "port 2 is taken there");
    assert_eq!(ask(&mut bench, "203.0.113.11:110", 3), REAL_A, "its own server still");
    let actives = ["pop3/10.0.0.11:1100", "pop3b/10.0.0.11:1100", "pop3b/10.0.0.12:110"].map(|name| bench.active(name));
    assert_eq!(actives, [1, 2, 1], "the place that was of no use was given back");
}

#[test]
fn real_servers_fill_up_then_backups_then_the_remote_site_and_room_is_used_again() {
    let mut bench = Bench::with(limited());
    let first: Vec<_> = (1..7).map(|port| asks(&mut bench, "198.18.0.7", port).unwrap()).collect();
    assert_eq!(first, [REAL_A, REAL_B, REAL_A, REAL_B, C, REMOTE]);
    let moved = [("flows_local", 5), ("flows_remote", 1), ("chosen_backup", 1), ("chosen_overflow", 1)];
    assert_eq!(bench.moved(), moved);
    bench.set_up("pop3/north", false);
    assert_eq!(asks(&mut bench, "198.18.0.7", 7), None);
    assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_servers_full", 1)]);
    close(&mut bench, "198.18.0.7", 3, REAL_A);
    assert_eq!(bench.active("pop3/10.0.0.11:1100"), 1);
    assert_eq!(asks(&mut bench, "198.18.0.7", 8).unwrap(), REAL_A, "a closed connection takes no place");
    assert_eq!(asks(&mut bench, "198.18.0.7", 9), None);
    bench.wait(Duration::from_secs(31));
    assert_eq!((1..6).map(|port| asks(&mut bench, "198.18.0.7", 20 + port).unwrap()).filter(|at| at != C).count(), 4);
}

/// Two VIPs of one real server: what is left of a connection by the one is not in the way of a new one by the other.
#[test]
fn a_connection_that_was_closed_and_then_reset_makes_way_and_is_not_kept_by_more_resets() {
    let mut config = config();
    config.services[0].reals.truncate(1);
    let mut other = config.services[0].clone();
    (other.name, other.vip) = ("pop3b".into(), ip("203.0.113.11"));
    config.services.push(other);
    let mut bench = Bench::with(config);
    bench.connect(CLIENT, VIP);
    close(&mut bench, "198.18.0.7", 40000, REAL_A);
    let reset = |bench: &mut Bench| bench.pass(WAN, &Build::tcp(CLIENT, VIP, RST));
    reset(&mut bench);
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, "203.0.113.11:110", SYN)).1.dst.to_string(), REAL_A);
    assert_eq!(["pop3", "pop3b"].map(|service| bench.active(&format!("{service}/10.0.0.11:1100"))), [0, 1]);
    bench.connect("198.18.0.7:2", VIP);
    close(&mut bench, "198.18.0.7", 2, REAL_A);
    bench.moved();
    let reset = |bench: &mut Bench| bench.pass(WAN, &Build::tcp("198.18.0.7:2", VIP, RST));
    reset(&mut bench);
    bench.wait(Duration::from_secs(6));
    reset(&mut bench);
    bench.wait(Duration::from_secs(6));
    assert_eq!(bench.moved(), [("flows_ended", 1)], "RFC 7857 7.1");
}

/// Stragglers, retransmitted FINs, RSTs, the end of the record, a new connection of the same ports: the place is given back
/// once.
#[test]
fn a_place_is_given_back_once_however_a_connection_ends() {
    let fin = |bench: &mut Bench, from_client: bool| {
        let packet = match from_client {
            true => Build::tcp(CLIENT, VIP, FIN | ACK),
            false => Build::tcp(REAL_A, CLIENT, FIN | ACK),
        };
        bench.pass(if from_client { WAN } else { LAN }, &packet);
    };
    let active = |bench: &Bench| bench.active("pop3/10.0.0.11:1100");
    let service = |bench: &Bench| bench.shared.status.service_active(bench.services.services()[0].slot);
    let on_record = |bench: &Bench| {
        let slot = bench.services.services()[0].reals[0].slot;
        bench.shared.status.slot(slot).on_record()
    };
    for client_first in [true, false] {
        let mut bench = Bench::new();
        bench.connect(CLIENT, VIP);
        fin(&mut bench, client_first);
        assert_eq!((active(&bench), service(&bench)), (1, 1), "half closed is open");
        fin(&mut bench, !client_first);
        assert_eq!((active(&bench), service(&bench), on_record(&bench)), (0, 0, 1));
        fin(&mut bench, client_first);
        fin(&mut bench, !client_first);
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, RST));
        bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, SYN | ACK));
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
        assert_eq!((active(&bench), service(&bench), on_record(&bench)), (0, 0, 1));
        bench.wait(Duration::from_secs(11));
        assert_eq!((active(&bench), service(&bench), on_record(&bench)), (0, 0, 0), "an RST after the end shortens it");
    }
    // The same ports again, while the old record is still there.
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    fin(&mut bench, true);
    fin(&mut bench, false);
    bench.set_up("pop3/10.0.0.12", false);
    bench.connect(CLIENT, VIP);
    assert_eq!((active(&bench), service(&bench), on_record(&bench)), (1, 1, 1));
    // An RST on an open connection may be forged: it keeps its place until the record ends.
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, RST));
    assert_eq!(active(&bench), 1);
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, RST));
    bench.wait(Duration::from_secs(11));
    assert_eq!((active(&bench), service(&bench), on_record(&bench)), (0, 0, 0));
}

#[test]
fn a_target_that_has_closed_connections_on_record_keeps_its_slot() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    let slot = bench.slot_of(CLIENT, VIP);
    close(&mut bench, "198.18.0.7", 40000, REAL_A);
    let mut other = config();
    other.services[0].reals.remove(0);
    bench.reload(&other);
    other.services[0].reals.push(real(C));
    bench.reload(&other);
    assert_ne!(bench.services.services()[0].reals[1].slot, slot);
    assert_eq!(bench.registry.name(slot), Some("pop3/10.0.0.11:1100"), "`show flows` names it");
}

#[test]
fn a_full_service_that_shall_not_overflow_refuses_and_is_carried_when_all_servers_are_down() {
    let mut config = limited();
    config.services[0].overflow = Overflow::Refuse;
    let mut bench = Bench::with(config);
    (1..6).for_each(|port| assert!(asks(&mut bench, "198.18.0.7", port).is_some()));
    assert_eq!(asks(&mut bench, "198.18.0.7", 6), None);
    bench.set_up("pop3/10.0", false);
    assert_eq!(asks(&mut bench, "198.18.0.7", 7).unwrap(), REMOTE);
}

#[test]
fn a_peers_connection_does_not_overflow() {
    let mut bench = Bench::with(limited());
    (1..6).for_each(|port| assert!(asks(&mut bench, PEER, port).is_some()));
    bench.moved();
    assert_eq!(asks(&mut bench, PEER, 6), None);
    assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_servers_full", 1)]);
}

#[test]
fn a_services_limit_counts_all_its_connections_and_those_that_end_make_room() {
    let mut config = limited();
    config.services[0].max_connections = 6;
    let mut bench = Bench::with(config);
    assert_eq!((1..7).filter_map(|port| asks(&mut bench, "198.18.0.7", port)).count(), 6);
    bench.moved();
    assert_eq!(asks(&mut bench, "198.18.0.7", 7), None);
    assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_service_full", 1)]);
    bench.wait(Duration::from_secs(31));
    assert_eq!(asks(&mut bench, "198.18.0.7", 8).unwrap(), REAL_A);
}

#[test]
fn udp_flows_count_and_the_client_is_told_by_icmp() {
    let mut config = config();
    config.services[1].max_connections = 1;
    config.services[1].reals[0].max_connections = 1;
    let mut bench = Bench::with(config.clone());
    let ask = |bench: &mut Bench, port: u16| {
        bench.pass(WAN, &Build::udp(&format!("198.18.0.7:{port}"), "203.0.113.10:514", b"m")).1.icmp
    };
    assert_eq!([1, 2].map(|port| ask(&mut bench, port)), [(0, 0), (3, 3)]);
    assert_eq!(bench.moved(), [("flows_local", 1), ("icmp_errors_sent", 1), ("drop_service_full", 1)]);
    config.services[1].max_connections = 0;
    config.services[1].remotes.clear();
    bench.reload(&config);
    assert_eq!(ask(&mut bench, 3), (3, 3));
    assert_eq!(bench.moved(), [("icmp_errors_sent", 1), ("drop_servers_full", 1)]);
}

#[test]
fn a_lowered_limit_refuses_new_connections_and_leaves_the_old_ones() {
    let mut bench = Bench::new();
    for port in 1..5 {
        bench.connect(&format!("198.18.0.7:{port}"), VIP);
    }
    let mut low = limited();
    low.services[0].reals.truncate(2);
    low.services[0].reals[0].max_connections = 1;
    low.services[0].remotes.clear();
    bench.reload(&low);
    bench.moved();
    assert_eq!(asks(&mut bench, "198.18.0.7", 9), None);
    assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_servers_full", 1)]);
    for port in 1..5 {
        let still = bench.pass(WAN, &Build::tcp(&format!("198.18.0.7:{port}"), VIP, ACK)).1.dst.to_string();
        assert_eq!(still, if port % 2 == 1 { REAL_A } else { REAL_B });
    }
    low.services[0].max_connections = 3;
    bench.reload(&low);
    assert_eq!(asks(&mut bench, "198.18.0.7", 10), None);
    assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_service_full", 1)], "its count has outlived the reloads");
}

#[test]
fn checks_take_no_place_and_pass_when_all_places_are_taken() {
    let mut config = config();
    config.services[0].max_connections = 1;
    let mut bench = Bench::with(config);
    let door = format!("{}:110", bench.door("pop3/north"));
    let host = |port: u16| format!("169.254.64.1:{port}");
    assert_eq!(bench.pass(LAN, &Build::tcp(&host(1), &door, SYN)).1.dst.to_string(), REMOTE);
    assert!(asks(&mut bench, "198.18.0.7", 1).is_some());
    assert_eq!(bench.pass(LAN, &Build::tcp(&host(2), &door, SYN)).1.dst.to_string(), REMOTE);
    bench.wait(Duration::from_secs(31));
    assert_eq!(bench.moved(), [("flows_local", 1), ("flows_probe", 2), ("flows_ended", 1)]);
    assert!(asks(&mut bench, "198.18.0.7", 2).is_some());
}

/// Who is counted and who is not follows from the client's address alone.
#[test]
fn nobody_but_checks_uses_doors_and_checks_use_nothing_else() {
    let mut bench = Bench::new();
    let door = format!("{}:110", bench.door("pop3/north"));
    for (client, to) in [("10.0.0.99:7", door.as_str()), ("[fd66:6172:7369:6465::1]:7", VIP6)] {
        let seen = bench.pass(LAN, &Build::tcp(client, to, SYN)).1;
        assert_eq!(seen.flags, RST | ACK, "{client}");
        assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_martian", 1)]);
    }
    assert_eq!(bench.shared.table.len(), 0);
}

/// B8: what two customers have behind the same address are two real servers.
#[test]
fn services_on_the_same_machine_share_no_limit() {
    let mut config = config();
    config.services[0].reals.truncate(1);
    config.services[0].reals[0].max_connections = 1;
    config.services[0].remotes.clear();
    let mut other = config.services[0].clone();
    (other.name, other.vip) = ("other".into(), ip("203.0.113.11"));
    config.services.push(other);
    let mut bench = Bench::with(config);
    assert!(asks(&mut bench, "198.18.0.7", 1).is_some());
    assert_eq!(asks(&mut bench, "198.18.0.7", 2), None);
    let by_the_other = bench.pass(WAN, &Build::tcp("198.18.0.7:3", "203.0.113.11:110", SYN)).1;
    assert_eq!(by_the_other.dst.to_string(), REAL_A);
}

#[test]
fn a_connection_that_comes_to_nothing_leaves_no_place_taken() {
    let mut config = config();
    config.datapath.max_flows = 3;
    config.services[0].max_connections = 3;
    let mut bench = Bench::with(config);
    (0..3).for_each(|n| _ = bench.pass(WAN, &Build::udp(&format!("198.18.0.7:{}", 9 + n), "203.0.113.10:514", b"m")));
    (0..5).for_each(|port| assert_eq!(asks(&mut bench, "198.18.0.7", 1 + port), None));
    assert_eq!(bench.moved().last(), Some(&("drop_table_full", 5)));
    bench.set_up("pop3/10.0", false);
    let mut without_pip = super::bench::config();
    without_pip.services[0].max_connections = 3;
    without_pip.proxy = None;
    bench.reload(&without_pip);
    bench.set_up("pop3/10.0", false);
    (0..5).for_each(|port| assert_eq!(asks(&mut bench, "198.18.0.7", 1 + port), None));
    assert_eq!(bench.moved().last(), Some(&("drop_ports_exhausted", 5)), "no place is missing");
    bench.wait(Duration::from_secs(121));
    bench.set_up("pop3/10.0", true);
    assert_eq!((0..4).filter_map(|port| asks(&mut bench, "198.18.0.7", 1 + port)).count(), 3);
}

/// `replay` depends on it.
#[test]
fn the_same_packets_make_the_same_choices() {
    for scheduler in [Scheduler::WeightedRoundRobin, Scheduler::LeastConnections, Scheduler::Maglev, Scheduler::Fastest]
    {
        let run = || {
            let mut config = limited();
            config.services[0].scheduler = scheduler;
            config.services[0].persistence = Duration::from_secs(20);
            let mut bench = Bench::with(config);
            let mut choices = Vec::new();
            for n in 0..60_u16 {
                choices.push(asks(&mut bench, &format!("198.18.{}.7", n % 7), n + 1));
                bench.wait(Duration::from_secs(u64::from(n % 5)));
            }
            choices
        };
        assert_eq!(run(), run(), "{scheduler:?}");
    }
}

#[test]
fn a_syn_and_fin_at_once_opens_nothing_and_takes_no_place() {
    let mut bench = Bench::with(limited());
    assert!(matches!(bench.stop(WAN, &Build::tcp(CLIENT, VIP, SYN | FIN)), Verdict::Refuse(Refusal::TcpFlags)));
    assert_eq!(bench.active("pop3/10.0.0.11:1100"), 0);
}
