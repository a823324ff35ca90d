//! RFC 5382, NAT Behavioral Requirements for TCP: a test for each requirement that a load balancer can meet, on the NAT leg and on
//! the leg to a remote site.
//!
//! Not applicable, as they are about hosts that go out through a NAT, while here it is clients that come in by a service, and
//! every mapping is of one connection:
//! - REQ-1 (endpoint-independent mapping), REQ-3 (filtering: farside lets in what matches the connection's two endpoints, which
//!   is stricter than either of the two that are recommended), REQ-8 (hairpinning: no host of the site is reached by a PIP).
//!
//! Not met, on purpose:
//! - REQ-4 (no answer to an unsolicited SYN within 6 seconds): nobody opens connections to a PIP, so no outbound SYN could
//!   follow; the reset says so at once, as requirement A9 wants.
//! - REQ-5's four minutes for transitory states are not the defaults (30 seconds and 2 minutes); RFC 7857 2.1 allows it for
//!   connections that are partly open. Whoever wants them configures them.

use super::bench::config;
use super::leg::{self, Leg};
use super::{Bench, PIP, VIP, WAN};
use crate::testing::Build;
use crate::wire::ip::TCP as TCP_PROTOCOL;
use crate::wire::l4::{ACK, FIN, RST, SYN};
use std::collections::HashSet;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn req_2_all_valid_sequences_of_packets_pass() {
    // The handshake is behind them.
    for mut leg in leg::tcp() {
        for (from_client, flags, data) in [
            (false, ACK, true),
            (true, ACK, false),
            (true, ACK, true),
            (false, ACK, false),
            // Sent again.
            (true, ACK, true),
            (true, FIN | ACK, true),
            (false, ACK, true),
            (true, FIN | ACK, false),
            (false, FIN | ACK, false),
            (true, ACK, false),
            (false, FIN | ACK, false),
            (true, ACK, false),
        ] {
            let mut packet = if from_client { leg.client_packet(flags) } else { leg.server_packet(flags) };
            packet.payload = if data { b"data".to_vec() } else { Vec::new() };
            let seen = if from_client { leg.client_sends(&packet) } else { leg.server_sends(&packet) };
            assert_eq!((seen.flags, seen.payload), (flags, packet.payload));
        }
        assert_eq!(leg.bench.moved(), []);
    }
}

#[test]
fn req_2_both_may_send_their_fin_at_the_same_time_and_either_may_reset() {
    for mut leg in leg::tcp() {
        leg.client_sends(&leg.client_packet(FIN | ACK));
        leg.server_sends(&leg.server_packet(FIN | ACK));
        leg.client_sends(&leg.client_packet(ACK));
        leg.server_sends(&leg.server_packet(ACK));
    }
    for mut leg in leg::tcp() {
        assert_eq!(leg.server_sends(&leg.server_packet(RST | ACK)).flags, RST | ACK);
        assert_eq!(leg.client_sends(&leg.client_packet(RST)).flags, RST);
    }
}

#[test]
fn req_2a_simultaneous_open() {
    for leg in leg::tcp() {
        let Leg { mut bench, client, vip, port, .. } = leg;
        // Another connection of the same client.
        let mut from = Build::tcp(client, vip, SYN);
        from.src.set_port(40_001);
        let syn = bench.pass(WAN, &from).1;
        let (near, server) = (syn.src.to_string(), syn.dst.to_string());
        for flags in [SYN, SYN | ACK] {
            assert_eq!(bench.pass(port, &Build::tcp(&server, &near, flags)).1.flags, flags);
            from.flags = SYN | ACK;
            assert_eq!(bench.pass(WAN, &from).1.flags, SYN | ACK);
        }
        bench.wait(124 * MINUTE - Duration::from_secs(1));
        assert_eq!(bench.pass(port, &Build::tcp(&server, &near, ACK)).1.dst, from.src);
    }
}

#[test]
fn req_4_is_not_met_an_unsolicited_syn_to_a_pip_is_reset_at_once() {
    let mut bench = Bench::new();
    let seen = bench.pass(WAN, &Build::tcp("198.18.0.7:9", &format!("{PIP}:1030"), SYN)).1;
    assert_eq!((seen.flags, seen.ack), (RST | ACK, 1001));
}

#[test]
fn req_5_an_established_connection_may_be_idle_for_2_hours_4_minutes() {
    for mut leg in leg::tcp() {
        leg.bench.wait(124 * MINUTE - Duration::from_secs(1));
        leg.server_sends(&leg.server_packet(ACK));
        leg.bench.wait(124 * MINUTE - Duration::from_secs(1));
        leg.client_sends(&leg.client_packet(ACK));
        leg.bench.wait(124 * MINUTE + Duration::from_secs(1));
        assert!(!leg.lives());
    }
}

#[test]
fn req_5_transitory_states_last_four_minutes_where_that_is_configured() {
    let mut config = config();
    (config.timeouts.tcp_syn, config.timeouts.tcp_closing) = (4 * MINUTE, 4 * MINUTE);
    for mut leg in leg::all(TCP_PROTOCOL, config.clone()) {
        leg.client_sends(&leg.client_packet(FIN | ACK));
        leg.server_sends(&leg.server_packet(FIN | ACK));
        leg.bench.wait(4 * MINUTE - Duration::from_secs(1));
        leg.client_sends(&leg.client_packet(ACK));
        leg.bench.wait(4 * MINUTE + Duration::from_secs(1));
        assert!(!leg.lives());
    }
    for mut leg in leg::all(TCP_PROTOCOL, config) {
        let mut opening = leg.client_packet(SYN);
        opening.src.set_port(40_001);
        let syn = leg.bench.pass(WAN, &opening).1;
        leg.bench.wait(4 * MINUTE - Duration::from_secs(1));
        let answer = Build::tcp(&syn.dst.to_string(), &syn.src.to_string(), SYN | ACK);
        assert_eq!(leg.bench.pass(leg.port, &answer).1.dst, opening.src);
    }
}

#[test]
fn req_6_no_application_is_looked_into() {
    for mut leg in leg::tcp() {
        let mut packet = leg.client_packet(ACK);
        packet.payload = b"PORT 198,18,0,7,156,64\r\n".to_vec();
        assert_eq!(leg.client_sends(&packet).payload, packet.payload);
        let mut packet = leg.server_packet(ACK);
        packet.payload = b"227 Entering Passive Mode (10,0,0,11,4,1)\r\n".to_vec();
        assert_eq!(leg.server_sends(&packet).payload, packet.payload);
    }
}

#[test]
fn req_7_no_port_is_lent_to_two_connections_at_once() {
    let mut bench = Bench::new();
    bench.set_up("pop3/10.0", false);
    let mut lent = HashSet::new();
    for n in 0..100 {
        // Two clients by the same port.
        let client = format!("198.18.0.{}:{}", 1 + n % 2, 2000 + n / 2);
        assert!(lent.insert(bench.pass(WAN, &Build::tcp(&client, VIP, SYN)).1.src), "connection {n}");
    }
    assert_eq!(bench.pass(WAN, &Build::tcp("198.18.0.1:9", VIP, SYN)).1.flags, RST | ACK, "refused, not overloaded");
}

#[test]
fn req_9_every_destination_unreachable_is_translated() {
    for mut leg in leg::tcp() {
        let (kind, codes) = if leg.is_v4() { (3, 0..=15) } else { (1, 0..=8) };
        for code in codes {
            let mtu = if (kind, code) == (3, 4) { 1300 } else { 0 };
            leg.errors_pass((kind, code), mtu);
        }
    }
}

#[test]
fn req_10_no_icmp_message_ends_a_connection() {
    for mut leg in leg::tcp() {
        for kind in 0..=255 {
            if leg.is_v4() || kind < 133 {
                let (about_answer, _) = leg.error_about_answer(leg.router(), (kind, 0), 0);
                let (about_request, _) = leg.error_about_request(leg.router(), (kind, 0), 0);
                let _ = leg.bench.run(WAN, &about_answer.frame(), Default::default());
                let _ = leg.bench.run(leg.port, &about_request.frame(), Default::default());
            }
        }
        leg.client_sends(&leg.client_packet(ACK));
        leg.server_sends(&leg.server_packet(ACK));
        leg.bench.wait(124 * MINUTE - Duration::from_secs(1));
        assert!(leg.lives());
    }
}
