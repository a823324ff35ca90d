//! RFC 4787, NAT Behavioral Requirements for Unicast UDP: a test for each requirement that a load balancer can meet, on the NAT
//! leg and on the leg to a remote site.
//!
//! Not applicable, as they are about hosts that go out through a NAT, while here it is clients that come in by a service:
//! - REQ-1 (endpoint-independent mapping), REQ-2 (one external address per host), REQ-3a (the lent port in the range of the client's),
//!   REQ-4 (port parity), REQ-7 (internal addresses that conflict with external ones), REQ-8 (filtering: farside lets in what
//!   matches the flow's two endpoints), REQ-9 (hairpinning).
//!
//! REQ-5c's five minutes are recommended as the default; it is two, the least that REQ-5 allows, by the project's contract.
//! REQ-13a, to fragment what is too large and may be, has tests in `cut.rs`; REQ-14, fragments that come, has tests of its own.

use super::bench::config;
use super::leg;
use super::{Bench, WAN};
use crate::flow::State;
use crate::testing::Build;
use crate::wire::ip::UDP as UDP_PROTOCOL;
use std::collections::HashSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn req_3_no_port_is_lent_to_two_flows_at_once() {
    let mut bench = Bench::new();
    bench.set_up("syslog/10.0", false);
    let mut lent = HashSet::new();
    for n in 0..100 {
        let client = format!("198.18.0.{}:{}", 1 + n % 2, 2000 + n / 2);
        let seen = bench.pass(WAN, &Build::udp(&client, "203.0.113.10:514", b"m")).1;
        assert!(lent.insert(seen.src), "flow {n}");
    }
    let refused = bench.pass(WAN, &Build::udp("198.18.0.1:9", "203.0.113.10:514", b"m")).1;
    assert_eq!(refused.icmp, (3, 3), "refused, not overloaded");
}

#[test]
fn req_5_a_flow_may_be_silent_for_two_minutes() {
    for mut leg in leg::udp() {
        leg.bench.wait(119 * SECOND);
        leg.server_sends(&leg.server_packet(0));
        leg.bench.wait(121 * SECOND);
        assert!(!leg.lives());
    }
}

#[test]
fn req_5b_the_timer_is_configurable() {
    let mut config = config();
    config.timeouts.udp = 300 * SECOND;
    for mut leg in leg::all(UDP_PROTOCOL, config) {
        leg.bench.wait(299 * SECOND);
        leg.server_sends(&leg.server_packet(0));
    }
}

#[test]
fn req_6_datagrams_of_either_side_keep_the_flow() {
    for mut leg in leg::udp() {
        for turn in 0..6 {
            leg.bench.wait(119 * SECOND);
            if turn % 2 == 0 {
                leg.client_sends(&leg.client_packet(0));
            } else {
                leg.server_sends(&leg.server_packet(0));
            }
        }
    }
    // Also if only one of them ever speaks.
    for mut leg in leg::udp() {
        for _ in 0..3 {
            leg.bench.wait(119 * SECOND);
            leg.client_sends(&leg.client_packet(0));
        }
    }
}

#[test]
fn req_10_no_application_is_looked_into() {
    for mut leg in leg::udp() {
        let mut packet = leg.client_packet(0);
        packet.payload = b"INVITE sip:a@203.0.113.10 SIP/2.0\r\nVia: SIP/2.0/UDP 198.18.0.7:40000\r\n\r\n".to_vec();
        assert_eq!(leg.client_sends(&packet).payload, packet.payload);
    }
}

#[test]
fn req_11_a_flow_is_translated_the_same_way_whatever_comes_and_goes_beside_it() {
    for mut leg in leg::udp() {
        for n in 0..50 {
            let mut other = leg.client_packet(0);
            other.src.set_port(2000 + n);
            leg.bench.pass(WAN, &other);
            leg.client_sends(&leg.client_packet(0));
            leg.server_sends(&leg.server_packet(0));
        }
    }
}

#[test]
fn req_12_no_icmp_message_ends_a_flow() {
    for mut leg in leg::udp() {
        for kind in 0..=132 {
            for code in [0, 3, 4] {
                let (about_answer, _) = leg.error_about_answer(leg.router(), (kind, code), 0);
                let (about_request, _) = leg.error_about_request(leg.router(), (kind, code), 0);
                let _ = leg.bench.run(WAN, &about_answer.frame(), Default::default());
                let _ = leg.bench.run(leg.port, &about_request.frame(), Default::default());
            }
        }
        leg.client_sends(&leg.client_packet(0));
        leg.server_sends(&leg.server_packet(0));
        leg.bench.shared.table.for_each(|on| assert_eq!(on.flow.state, State::Udp));
    }
}

#[test]
fn req_12a_whoever_sends_an_icmp_error_is_heard() {
    for mut leg in leg::udp() {
        let kind = if leg.is_v4() { (3, 3) } else { (1, 4) };
        let sources: [&str; 4] = if leg.is_v4() {
            ["198.18.0.7", "192.0.2.77", "10.9.9.9", "100.64.0.1"]
        } else {
            ["2001:db8:c::7", "2001:db8:77::1", "fd99::9", "fe80::9"]
        };
        for source in sources {
            let (error, quoted) = leg.error_about_answer(source, kind, 0);
            assert_eq!(leg.bench.pass(WAN, &error).1.payload, quoted);
            let (error, quoted) = leg.error_about_request(source, kind, 0);
            if error.src.ip() != error.dst.ip() {
                assert_eq!(leg.bench.pass(leg.port, &error).1.payload, quoted);
            }
        }
    }
}

#[test]
fn req_12b_destination_unreachable_is_translated() {
    for mut leg in leg::udp() {
        let kind = if leg.is_v4() { (3, 3) } else { (1, 4) };
        leg.errors_pass(kind, 0);
    }
}

#[test]
fn req_13_what_is_too_large_and_must_stay_whole_is_answered_with_the_mtu() {
    for mut leg in leg::udp() {
        let (server, mut packet) = (leg.server.clone(), leg.client_packet(0));
        packet.payload = vec![3; 1480];
        let seen = leg.bench.pass(WAN, &packet).1;
        let answer = if leg.is_v4() { (3, 4) } else { (2, 0) };
        assert_eq!((seen.icmp, seen.rest, seen.dst.ip()), (answer, 1500, packet.src.ip()));
        let mut packet = leg.server_packet(0);
        packet.payload = vec![3; 1480];
        let (port, seen) = leg.bench.pass(leg.port, &packet);
        assert_eq!((port, seen.icmp, seen.rest), (leg.port, answer, 1500));
        assert_eq!(seen.dst.ip(), leg::Leg::address(&server));
    }
}
