//! A reload loses no connection: those of removed services, real servers, remote sites and PIPs run on until they end.

use super::bench::{config, ip, one_sided};
use super::{Bench, CLIENT, LAN, PIP, REAL_A, REMOTE, VIP, WAN};
use crate::config::{CheckKind, Encapsulation, Mode};
use crate::counters::Refusal;
use crate::forward::Verdict;
use crate::service::build::{Host, Lent, build};
use crate::testing::Build;
use crate::wire::ip::{Addr, TCP, V4};
use crate::wire::l4::{ACK, FIN, RST, SYN};
use std::net::IpAddr;
use std::time::Duration;

const OTHER: &str = "198.18.0.8:40000";

#[test]
fn connections_of_a_removed_service_run_on_and_new_ones_are_refused_at_once() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    let mut without = config();
    without.services.remove(0);
    bench.reload(&without);
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK)).1.dst.to_string(), REAL_A);
    assert_eq!(bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, ACK)).1.src.to_string(), VIP);
    bench.moved();
    assert_eq!(bench.pass(WAN, &Build::tcp(OTHER, VIP, SYN)).1.flags, RST | ACK);
    assert_eq!(bench.pass(WAN, &Build::tcp(OTHER, VIP, ACK)).1.flags, RST);
    assert_eq!(bench.moved(), [("resets_sent", 2), ("drop_no_service", 1), ("drop_no_flow", 1)]);
    let ping = Build::icmp("198.18.0.7", "203.0.113.10", 8, 0, b"still here");
    assert_eq!(bench.pass(WAN, &ping).1.icmp, (0, 0));
    bench.let_go();
    assert_eq!(bench.leaving.services().count(), 1, "it is in use");
}

#[test]
fn a_removed_service_is_let_go_when_its_last_connection_has_ended() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    let mut without = config();
    without.services.retain(|service| service.name == "pop6");
    bench.reload(&without);
    bench.let_go();
    let left: Vec<_> = bench.leaving.services().map(|(vip, ..)| vip.port).collect();
    assert_eq!(left, [110], "port 514 had no connection");
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, FIN | ACK));
    bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, FIN | ACK));
    bench.wait(Duration::from_secs(121));
    bench.let_go();
    assert!(bench.leaving.is_empty());
    assert_eq!(bench.stop(WAN, &Build::tcp(CLIENT, VIP, SYN)), Verdict::NotOurs);
}

#[test]
fn a_service_that_moves_to_another_vip_keeps_its_connections_at_the_old_one() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    let mut moved = config();
    moved.services[0].vip = ip("203.0.113.20");
    bench.reload(&moved);
    bench.let_go();
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK)).1.dst.to_string(), REAL_A);
    assert!(bench.services.is_leaving(&super::endpoint(VIP), TCP, V4));
    bench.reload(&config());
    assert!(!bench.services.is_leaving(&super::endpoint(VIP), TCP, V4), "it has come back");
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK)).1.dst.to_string(), REAL_A);
}

#[test]
fn a_carried_connection_outlives_its_pip_and_its_site() {
    let mut bench = Bench::new();
    bench.set_up("pop3/10.0", false);
    let (_, syn) = bench.connect(CLIENT, VIP);
    let mut without = config();
    without.services[0].remotes.clear();
    without.proxy.as_mut().unwrap().addresses = vec![ip("203.0.113.251"), ip(super::bench::PIP6)];
    bench.reload(&without);
    bench.let_go();
    let pip = syn.src.to_string();
    assert_eq!(bench.pass(WAN, &Build::tcp(REMOTE, &pip, ACK)).1.src.to_string(), VIP);
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK)).1.src.to_string(), pip);
    let addresses: Vec<_> = bench.services.leaving_addresses().map(|(addr, family)| addr.to_ip(*family)).collect();
    assert_eq!(addresses, [ip(PIP)], "neighbors are still told where it is");
    assert_eq!(bench.registry.name(bench.slot_of(CLIENT, VIP)), Some("pop3/north"), "`show flows` names it");
    bench.wait(Duration::from_secs(7450));
    bench.let_go();
    assert!(bench.leaving.is_empty());
    assert_eq!(bench.stop(WAN, &Build::tcp(REMOTE, &pip, ACK)), Verdict::NotOurs);
}

#[test]
fn ports_that_are_out_stay_captured_when_the_range_shrinks() {
    let mut bench = Bench::new();
    bench.set_up("pop3/10.0", false);
    bench.connect(CLIENT, VIP);
    let mut narrow = config();
    narrow.proxy.as_mut().unwrap().ports = 2000..=2099;
    bench.reload(&narrow);
    bench.let_go();
    let captured = |bench: &Bench| {
        let pip = Addr::from(ip(PIP));
        bench.leaving.ports(&pip, V4, bench.services.pip(&pip, V4).unwrap())
    };
    assert_eq!(captured(&bench), 512..=2099, "with the ports that are set apart for checks");
    bench.wait(Duration::from_secs(7450));
    bench.let_go();
    assert_eq!(captured(&bench), 1488..=2099);
}

#[test]
fn a_removed_real_servers_connections_run_on_and_its_count_stays_right() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    let slot = bench.slot_of(CLIENT, VIP);
    let mut without = config();
    let gone = without.services[0].reals.remove(0);
    bench.reload(&without);
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK)).1.dst.to_string(), REAL_A);
    assert_eq!(bench.registry.name(slot), Some(format!("pop3/{}", gone.name).as_str()));
    bench.reload(&config());
    assert_eq!(bench.active(&format!("pop3/{}", gone.name)), 1);
}

#[test]
fn a_syn_waits_for_the_first_check_of_servers_that_a_reload_has_put_in() {
    let mut bench = Bench::new();
    bench.set_up("pop3/", false);
    let b = bench.slot_named("pop3/10.0.0.12:110");
    bench.shared.status.slot(b).set_awaited();
    bench.moved();
    assert_eq!(bench.stop(WAN, &Build::tcp(CLIENT, VIP, SYN)), Verdict::Refuse(Refusal::NotChecked));
    assert_eq!(bench.moved(), [("drop_not_checked", 1)], "and no RST");
    bench.set_up("pop3/10.0.0.12", true);
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1.dst.to_string(), super::REAL_B);
}

#[test]
fn a_retransmitted_syn_leaves_a_server_that_has_gone_down_meanwhile() {
    let mut bench = Bench::new();
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1.dst.to_string(), REAL_A);
    bench.set_up("pop3/10.0.0.11", false);
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1.dst.to_string(), super::REAL_B);
    assert_eq!((bench.active("pop3/10.0.0.11:1100"), bench.active("pop3/10.0.0.12:110")), (0, 1));
    // Once the server has answered, nothing moves the connection.
    bench.pass(LAN, &Build::tcp(super::REAL_B, CLIENT, SYN | ACK));
    bench.set_up("pop3/10.0.0.12", false);
    bench.set_up("pop3/10.0.0.11", true);
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1.dst.to_string(), super::REAL_B);
}

/// Health knows a remote site by its door: another door would make it a site that was never checked.
#[test]
fn the_doors_of_remote_sites_stay_when_services_come_and_go() {
    let mut bench = Bench::new();
    let before = bench.door("syslog/north");
    let mut without = config();
    without.services.remove(0);
    bench.reload(&without);
    assert_eq!(bench.door("syslog/north"), before);
}

#[test]
fn what_is_no_connection_of_a_leaving_service_stays_refused() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    let mut without = config();
    without.services.remove(0);
    bench.reload(&without);
    assert_eq!(bench.stop(WAN, &Build::tcp(OTHER, VIP, RST)), Verdict::Refuse(Refusal::NoFlow));
}

/// A host that has no address to check a server from.
struct NoWay;

impl Host for NoWay {
    fn owns(&self, _: IpAddr) -> bool {
        false
    }

    fn lend(&mut self, _: IpAddr, _: IpAddr) -> Result<Option<Lent>, String> {
        Err("no way".into())
    }
}

#[test]
fn a_configuration_that_is_refused_leaves_the_targets_alone() {
    let mut bench = Bench::new();
    let mut new = one_sided(Mode::Direct, Encapsulation::Ipip);
    new.proxy = None;
    new.services.iter_mut().for_each(|service| service.check.kind = CheckKind::Tcp);
    new.services[0].reals.remove(0);
    let Bench { shared, registry, .. } = &mut bench;
    let refused = build(&new, registry, &shared.status, &shared.ledger, NoWay).err().unwrap();
    assert!(refused.contains("no way"), "{refused}");
    let (_, syn) = bench.connect(CLIENT, VIP);
    assert_eq!(syn.dst.to_string(), REAL_A, "it is in the old configuration, and up");
}
