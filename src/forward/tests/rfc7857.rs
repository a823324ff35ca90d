//! RFC 7857, Updates to NAT Behavioral Requirements: a test for each section that a load balancer can meet, on the NAT leg and on
//! the leg to a remote site.
//!
//! Not applicable, as they are about hosts that go out through a NAT: 4 (address pooling), 5 and 6 (mapping and filtering
//! that do not depend on the protocol), 7 (refresh of a mapping that has no connection), 8 (port parity), 11 (queries), 12
//! (hairpinning). 9 (ports at random, RFC 6056) is the ledger's: its tests are in `flow/tests/ports.rs`.
//!
//! 2.2 wants a mapping to be kept for four minutes after an RST; the default is ten seconds, by the project's contract, and
//! four minutes can be configured. What the time is for, to see whether the RST was taken, is there in both.
//! 10 (RFC 6864 5.3.1, identifications that do not meet behind one address): farside does not change them. Datagrams
//! with DF may have any; two clients' fragments from one PIP with the same one may meet, as they do behind most NATs.

use super::bench::config;
use super::leg::{self, Leg};
use super::{PIP, VIP, WAN};
use crate::flow::State;
use crate::testing::Build;
use crate::wire::ip::TCP as TCP_PROTOCOL;
use crate::wire::l4::{ACK, FIN, RST, SYN};
use std::collections::HashSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn state(leg: &Leg) -> State {
    let mut state = None;
    leg.bench.shared.table.for_each(|on| state = Some(on.flow.state));
    state.expect("it is on record")
}

/// Figure 1, without its first half, which is RFC 5382's REQ-2.
#[test]
fn section_2_a_connection_is_tracked_through_its_ends() {
    for mut leg in leg::tcp() {
        assert_eq!(state(&leg), State::Established);
        leg.client_sends(&leg.client_packet(FIN | ACK));
        leg.bench.wait(7439 * SECOND);
        assert_eq!(state(&leg), State::ClientFin, "one FIN: the connection's own timeout");
        leg.server_sends(&leg.server_packet(FIN | ACK));
        leg.bench.wait(119 * SECOND);
        assert_eq!(state(&leg), State::Closing, "both: a transitory one");
        leg.bench.wait(2 * SECOND);
        assert!(!leg.lives());
    }
    for mut leg in leg::tcp() {
        leg.server_sends(&leg.server_packet(FIN | ACK));
        leg.bench.wait(7439 * SECOND);
        leg.client_sends(&leg.client_packet(ACK));
        leg.client_sends(&leg.client_packet(FIN | ACK));
        assert_eq!(state(&leg), State::Closing);
    }
}

#[test]
fn section_2_1_opening_and_closing_have_timeouts_of_their_own() {
    let mut config = config();
    (config.timeouts.tcp_syn, config.timeouts.tcp_closing) = (20 * SECOND, 240 * SECOND);
    for mut leg in leg::all(TCP_PROTOCOL, config) {
        leg.client_sends(&leg.client_packet(FIN | ACK));
        leg.server_sends(&leg.server_packet(FIN | ACK));
        let mut opening = leg.client_packet(SYN);
        opening.src.set_port(40_001);
        leg.bench.pass(WAN, &opening);
        assert_eq!(leg.bench.shared.table.len(), 2);
        leg.bench.wait(21 * SECOND);
        assert_eq!(state(&leg), State::Closing, "the one that opened is gone");
        leg.bench.wait(218 * SECOND);
        assert!(leg.lives());
        leg.bench.wait(2 * SECOND);
        assert!(!leg.lives());
    }
}

#[test]
fn section_2_2_a_reset_is_translated_and_the_mapping_kept_until_nothing_more_comes() {
    let mut four_minutes = config();
    four_minutes.timeouts.tcp_reset = 240 * SECOND;
    for (config, kept) in [(config(), 10), (four_minutes, 240)] {
        for from_client in [true, false] {
            for mut leg in leg::all(TCP_PROTOCOL, config.clone()) {
                if from_client {
                    assert_eq!(leg.client_sends(&leg.client_packet(RST)).flags, RST);
                } else {
                    assert_eq!(leg.server_sends(&leg.server_packet(RST)).flags, RST);
                }
                leg.bench.wait((kept - 1) * SECOND);
                assert!(leg.lives());
                leg.bench.wait(2 * SECOND);
                assert!(!leg.lives());
            }
        }
    }
}

#[test]
fn section_2_2_packets_after_a_reset_bring_the_connection_back() {
    for from_client in [true, false] {
        for mut leg in leg::tcp() {
            leg.client_sends(&leg.client_packet(RST));
            if from_client {
                leg.client_sends(&leg.client_packet(ACK));
            } else {
                leg.server_sends(&leg.server_packet(ACK));
            }
            leg.bench.wait(7439 * SECOND);
            assert_eq!(state(&leg), State::Established);
        }
    }
}

/// What may be, is: else a PIP would have 64,000 connections for all remote sites together.
#[test]
fn section_3_a_port_may_be_lent_towards_two_remote_endpoints_at_once() {
    let mut config = config();
    config.proxy.as_mut().unwrap().ports = 1024..=1033;
    let mut second = config.services[0].clone();
    (second.name, second.port) = ("imap".into(), 143);
    second.remotes[0].port = 993;
    config.services.push(second);
    let mut bench = super::Bench::with(config);
    for prefix in ["pop3/10.0", "imap/10.0"] {
        bench.set_up(prefix, false);
    }
    let (mut lent, mut ends) = (HashSet::new(), HashSet::new());
    for n in 0..20 {
        let vip = if n % 2 == 0 { VIP.to_string() } else { VIP.replace("110", "143") };
        let seen = bench.pass(WAN, &Build::tcp(&format!("198.18.0.7:{}", 2000 + n), &vip, SYN)).1;
        assert_eq!((seen.flags, seen.src.ip().to_string().as_str()), (SYN, PIP));
        lent.insert(seen.src.port());
        ends.insert((seen.src, seen.dst));
    }
    assert_eq!((lent.len(), ends.len()), (10, 20));
}

#[test]
fn section_7_1_icmp_errors_do_not_keep_a_mapping() {
    for (mut leg, timeout) in
        leg::tcp().into_iter().map(|leg| (leg, 7440)).chain(leg::udp().into_iter().map(|leg| (leg, 120)))
    {
        let kind = if leg.is_v4() { (3, 3) } else { (1, 4) };
        leg.bench.wait((timeout - 1) * SECOND);
        leg.errors_pass(kind, 0);
        leg.bench.wait(2 * SECOND);
        assert!(!leg.lives());
    }
}

#[test]
fn section_7_1_resets_that_answer_what_was_under_way_do_not_keep_a_mapping() {
    for mut leg in leg::tcp() {
        leg.client_sends(&leg.client_packet(RST));
        let mut data = leg.server_packet(ACK);
        data.payload = vec![1; 100];
        leg.server_sends(&data);
        for _ in 0..4 {
            leg.bench.wait(2 * SECOND);
            leg.client_sends(&leg.client_packet(RST));
        }
        leg.bench.wait(2 * SECOND);
        assert!(!leg.lives());
    }
}

#[test]
fn section_10_identifications_pass_as_they_are() {
    for mut leg in leg::tcp().into_iter().filter(Leg::is_v4) {
        let (_, frame, _) = leg.bench.run(WAN, &leg.client_packet(ACK).frame(), Default::default()).unwrap();
        assert_eq!(frame[18..22], [0x12, 0x34, 0x40, 0], "with DF");
    }
}
