//! What is noted of a target's health in passing.

use super::bench::{REAL6, VIP6};
use super::{Bench, CLIENT, LAN, REAL_A, REMOTE, VIP, WAN};
use crate::service::evidence::Evidence;
use crate::testing::Build;
use crate::wire::l4::{ACK, RST, SYN};
use std::time::Duration;

const SIX: &str = "pop6/[fd00::11]";

fn evidence<'a>(bench: &'a Bench, target: &str) -> &'a Evidence {
    let all = bench.services.services().iter().flat_map(|service| service.reals.iter().chain(&service.remotes));
    let slot = all.into_iter().find(|t| t.name.starts_with(target)).unwrap().slot;
    &bench.shared.status.slot(slot).evidence
}

/// Is there enough against `target`?
fn suspect(bench: &Bench, target: &str) -> bool {
    evidence(bench, target).is_enough()
}

fn client(port: u16) -> String {
    format!("198.18.0.7:{port}")
}

#[test]
fn refused_connections_are_evidence_until_one_is_answered() {
    let mut bench = Bench::new();
    bench.set_up("pop3/10.0.0.12", false);
    for port in 1..=3 {
        assert!(!suspect(&bench, "pop3/10.0.0.11"), "{port}");
        bench.pass(WAN, &Build::tcp(&client(port), VIP, SYN));
        bench.pass(LAN, &Build::tcp(REAL_A, &client(port), RST | ACK));
    }
    assert!(suspect(&bench, "pop3/10.0.0.11"));
    bench.pass(WAN, &Build::tcp(&client(9), VIP, SYN));
    bench.pass(LAN, &Build::tcp(REAL_A, &client(9), SYN | ACK));
    assert!(!suspect(&bench, "pop3/10.0.0.11"));
}

#[test]
fn a_syn_that_comes_again_is_evidence_and_the_first_one_is_not() {
    let mut bench = Bench::new();
    bench.set_up("pop3/10.0.0.12", false);
    for port in 1..=20 {
        bench.pass(WAN, &Build::tcp(&client(port), VIP, SYN));
    }
    assert!(!suspect(&bench, "pop3/10.0.0.11"), "nobody has had time to answer");
    for again in 1..=3 {
        assert!(!suspect(&bench, "pop3/10.0.0.11"), "{again}");
        bench.pass(WAN, &Build::tcp(&client(1), VIP, SYN));
    }
    assert!(suspect(&bench, "pop3/10.0.0.11"));
}

#[test]
fn connections_that_expire_without_an_answer_are_evidence() {
    let mut bench = Bench::new();
    for port in 1..=3 {
        bench.pass(WAN, &Build::tcp(&format!("[2001:db8:c::7]:{port}"), VIP6, SYN));
    }
    assert!(!suspect(&bench, SIX));
    bench.wait(Duration::from_secs(30));
    assert!(suspect(&bench, SIX));
    // Connections that stood and then went silent speak against nobody.
    evidence(&bench, SIX).clear();
    for port in 4..=7 {
        let client = format!("[2001:db8:c::7]:{port}");
        bench.pass(WAN, &Build::tcp(&client, VIP6, SYN));
        bench.pass(LAN, &Build::tcp(REAL6, &client, SYN | ACK));
    }
    bench.wait(Duration::from_secs(7440));
    assert!(!suspect(&bench, SIX));
}

#[test]
fn the_clients_own_reset_is_no_evidence() {
    let mut bench = Bench::new();
    for port in 1..=9 {
        bench.pass(WAN, &Build::tcp(&client(port), VIP, SYN));
        bench.pass(WAN, &Build::tcp(&client(port), VIP, RST));
    }
    assert!(!suspect(&bench, "pop3/10.0.0.11") && !suspect(&bench, "pop3/10.0.0.12"));
}

#[test]
fn a_remote_site_is_judged_alike() {
    let mut bench = Bench::new();
    bench.set_up("pop3/10.0.0.11", false);
    bench.set_up("pop3/10.0.0.12", false);
    for _ in 0..4 {
        let (_, seen) = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
        assert_eq!(seen.dst.to_string(), REMOTE);
    }
    assert!(suspect(&bench, "pop3/north"));
}
