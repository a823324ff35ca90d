//! RFC 5508, NAT Behavioral Requirements for ICMP: a test for each requirement that a load balancer can meet, on the NAT leg and
//! on the leg to a remote site, in both directions. In its words the client is in the external realm and a local real server in the
//! private one; on the leg to a remote site it is the client that is private, and the PIP its public address.
//!
//! Not applicable: REQ-1, 2 and 6 (queries of hosts behind the NAT and their sessions: farside carries none; the
//! pings of a VIP it answers itself), REQ-7 (hairpinning), REQ-9 (a policy that is optional).
//!
//! Not met, on purpose:
//! - REQ-3a (to drop an error whose quoted packet has a wrong IP checksum): routers quote packets after they have changed them,
//!   and an error lost is a connection that hangs. The key of the flow is what the quote is judged by.
//! - REQ-4, where an error reaches the client: its source becomes the VIP, whoever sent it. Strange sources are what providers
//!   filter (BCP 38), and what is behind the VIP is nobody's business.
//! - REQ-8 (code 13 for a flow that cannot be opened): requirement A9 wants an RST, and for UDP port unreachable, which ends
//!   the client's waiting; hosts take code 13 for a passing trouble (RFC 1122 4.2.3.9).

use super::leg::{self, Leg};
use super::{Bench, LAN, WAN};
use crate::counters::Refusal;
use crate::forward::Verdict;
use crate::testing::{Build, Seen};
use crate::wire::checksum;
use crate::wire::l4::{ACK, RST, SYN};
use crate::wire::put_raw16;

fn all() -> Vec<Leg> {
    leg::tcp().into_iter().chain(leg::udp()).collect()
}

/// Puts another payload into an error, everything else as it was.
fn quoting(error: &Build, payload: Vec<u8>) -> Build {
    Build { payload, ..error.clone() }
}

fn unreachable(leg: &Leg) -> (u8, u8) {
    if leg.is_v4() { (3, 1) } else { (1, 3) }
}

#[test]
fn req_3_an_error_with_a_wrong_checksum_is_dropped() {
    for mut leg in all() {
        let (error, _) = leg.error_about_answer(leg.router(), unreachable(&leg), 0);
        let mut frame = error.frame();
        let last = frame.len() - 1;
        frame[last] ^= 1;
        let verdict = leg.bench.run(WAN, &frame, Default::default());
        assert_eq!(verdict, Err(Verdict::Refuse(Refusal::IcmpChecksum)));
        assert_eq!(leg.bench.moved(), [("drop_icmp_checksum", 1)]);
    }
}

#[test]
fn req_3a_is_not_met_a_wrong_checksum_in_the_quoted_header_stays_as_wrong_as_it_was() {
    for mut leg in all().into_iter().filter(Leg::is_v4) {
        let (error, right) = leg.error_about_answer(leg.router(), (3, 1), 0);
        let mut quoted = error.payload.clone();
        quoted[8] -= 1; // A TTL that the router counted down without summing anew.
        let seen = leg.bench.pass(WAN, &quoting(&error, quoted)).1;
        assert_eq!((seen.payload[8], &seen.payload[10..]), (right[8] - 1, &right[10..]));
    }
}

#[test]
fn req_3b_options_of_the_quoted_packet_are_passed_over() {
    for mut leg in all().into_iter().filter(Leg::is_v4) {
        let (error, right) = leg.error_about_request(leg.router(), (3, 1), 0);
        let with_options = |packet: &[u8]| {
            let mut packet = [&packet[..20], &[7, 7, 4, 0, 0, 0, 0, 0], &packet[20..]].concat();
            (packet[0], packet[10], packet[11]) = (0x47, 0, 0);
            let check = !checksum::fold(checksum::sum(&packet[..28]));
            put_raw16(&mut packet, 10, check);
            packet
        };
        let seen = leg.bench.pass(leg.port, &quoting(&error, with_options(&error.payload))).1;
        assert_eq!(seen.payload, with_options(&right));
    }
}

#[test]
fn req_3c_the_transport_checksum_of_the_quoted_packet_is_not_judged() {
    for mut leg in all() {
        let (error, right) = leg.error_about_answer(leg.router(), unreachable(&leg), 0);
        let l4 = if leg.is_v4() { 20 } else { 40 };
        let mut quoted = error.payload.clone();
        // Only the first eight bytes behind the ports are ever sure to be there; spoil what the sum covers beside it.
        let last = quoted.len() - 1;
        quoted[last] ^= 0xff;
        let seen = leg.bench.pass(WAN, &quoting(&error, quoted)).1;
        assert_eq!(seen.payload[..l4 + 8], right[..l4 + 8]);
    }
}

#[test]
fn req_3d_padding_and_extensions_pass_as_they_are() {
    for mut leg in all() {
        let (mut error, right) = leg.error_about_request(leg.router(), unreachable(&leg), 0);
        // RFC 4884: the original datagram padded to 128 bytes, its length in words of 4 (or 8), and an MPLS label behind.
        let extension = [0x20, 0, 0x3f, 0x1a, 0, 8, 1, 1, 0x01, 0x23, 0x41, 0xfe];
        let padded = |packet: &[u8]| {
            let mut packet = packet.to_vec();
            packet.resize(128, 0);
            [&packet[..], &extension].concat()
        };
        error.rest = if leg.is_v4() { 32 << 16 } else { 16 << 24 };
        let seen = leg.bench.pass(leg.port, &quoting(&error, padded(&error.payload))).1;
        assert_eq!((seen.payload, seen.rest), (padded(&right), error.rest));
    }
}

#[test]
fn req_4_an_error_from_the_clients_side_reaches_the_server_about_its_own_packet() {
    for mut leg in all() {
        let (error, quoted) = leg.error_about_answer(leg.router(), unreachable(&leg), 0);
        let (port, seen) = leg.bench.pass(WAN, &error);
        assert_eq!((seen.payload, seen.icmp), (quoted, error.icmp), "a, b");
        assert_eq!(
            (port, seen.dst.ip()),
            (leg.port, Leg::address(&leg.server)),
            "c: where the quoted packet came from"
        );
        let src = if leg.carried { Leg::address(&leg.near) } else { Leg::address(leg.router()) };
        assert_eq!(seen.src.ip(), src, "a real server hears the router; a remote site the PIP, as REQ-5c has it");
        assert_eq!(leg.bench.moved(), [("icmp_errors_translated", 1)]);
    }
}

#[test]
fn req_4_as_little_as_eight_bytes_behind_the_ip_header_will_do() {
    for mut leg in all() {
        let l4 = if leg.is_v4() { 20 } else { 40 };
        let (error, quoted) = leg.error_about_answer(leg.router(), unreachable(&leg), 0);
        let seen = leg.bench.pass(WAN, &quoting(&error, error.payload[..l4 + 8].to_vec())).1;
        assert_eq!(seen.payload, quoted[..l4 + 8]);
        let verdict = leg.bench.stop(WAN, &quoting(&error, error.payload[..l4 + 7].to_vec()));
        assert_eq!(verdict, Verdict::Refuse(Refusal::IcmpQuote));
    }
}

#[test]
fn req_4_and_5_an_error_about_nothing_on_record_is_dropped_silently() {
    for mut leg in all() {
        let shifted = |mut error: Build| {
            let l4 = if leg.is_v4() { 20 } else { 40 };
            error.payload[l4 + 3] ^= 1; // The port that the quoted packet was going to.
            error
        };
        let about_answer = shifted(leg.error_about_answer(leg.router(), unreachable(&leg), 0).0);
        let about_request = shifted(leg.error_about_request(leg.router(), unreachable(&leg), 0).0);
        assert_eq!(leg.bench.stop(WAN, &about_answer), Verdict::Refuse(Refusal::IcmpUnsolicited));
        assert_eq!(leg.bench.stop(leg.port, &about_request), Verdict::Refuse(Refusal::IcmpUnsolicited));
        assert_eq!(leg.bench.moved(), [("drop_icmp_unsolicited", 2)]);
    }
}

#[test]
fn req_5_an_error_from_the_servers_side_reaches_the_client_about_its_own_packet_from_the_vip() {
    for mut leg in all() {
        for source in [leg.router().to_string(), Leg::address(&leg.server).to_string()] {
            let (error, quoted) = leg.error_about_request(&source, unreachable(&leg), 0);
            let (port, seen) = leg.bench.pass(leg.port, &error);
            assert_eq!((seen.payload, seen.icmp), (quoted, error.icmp), "a, b");
            assert_eq!(
                (port, seen.dst.ip(), seen.src.ip()),
                (WAN, Leg::address(leg.client), Leg::address(leg.vip)),
                "c"
            );
        }
    }
}

#[test]
fn req_8_a_flow_that_cannot_be_opened_is_refused_in_its_protocols_own_words() {
    let mut bench = Bench::new();
    for prefix in ["pop3", "syslog"] {
        bench.set_up(prefix, false);
    }
    let tcp = bench.pass(WAN, &Build::tcp("198.18.0.7:9", super::VIP, SYN)).1;
    assert_eq!(tcp.flags, RST | ACK);
    let udp = bench.pass(WAN, &Build::udp("198.18.0.7:9", "203.0.113.10:514", b"m")).1;
    assert_eq!(udp.icmp, (3, 3));
}

#[test]
fn req_10a_unreachable_time_exceeded_and_the_rest_of_the_errors_pass_with_every_code() {
    for mut leg in all() {
        let kinds: &[(u8, std::ops::RangeInclusive<u8>)] = if leg.is_v4() {
            &[(3, 0..=15), (11, 0..=1), (12, 0..=2)]
        } else {
            &[(1, 0..=8), (2, 0..=0), (3, 0..=1), (4, 0..=10)]
        };
        for (kind, codes) in kinds {
            for code in codes.clone() {
                leg.errors_pass((*kind, code), 0x0102_0304);
            }
        }
    }
}

#[test]
fn req_10a_a_packet_whose_ttl_ends_here_is_answered() {
    for mut leg in all() {
        for mut packet in [leg.client_packet(ACK), leg.server_packet(ACK)] {
            packet.ttl = 1;
            let port = if packet.src.to_string() == leg.client { WAN } else { leg.port };
            let (back, seen) = leg.bench.pass(port, &packet);
            let kind = if leg.is_v4() { (11, 0) } else { (3, 0) };
            assert_eq!((back, seen.icmp, seen.dst.ip(), seen.payload), (port, kind, packet.src.ip(), packet.packet()));
        }
    }
}

#[test]
fn req_10a_a_ping_of_the_vip_is_answered() {
    for mut leg in all() {
        let (kind, answer) = if leg.is_v4() { (8, 0) } else { (128, 129) };
        let (client, vip) = (Leg::address(leg.client).to_string(), Leg::address(leg.vip).to_string());
        let mut ping = Build::icmp(&client, &vip, kind, 0, &[7; 1000]);
        ping.rest = 0x0102_0304;
        let seen: Seen = leg.bench.pass(WAN, &ping).1;
        assert_eq!((seen.icmp, seen.rest, seen.payload), ((answer, 0), ping.rest, ping.payload));
    }
}

/// RFC 6633: it is dropped, whichever way it goes.
#[test]
fn req_10c_source_quench_is_dropped_by_its_name() {
    for mut leg in all().into_iter().filter(Leg::is_v4) {
        let (about_answer, _) = leg.error_about_answer(leg.router(), (4, 0), 0);
        let (about_request, _) = leg.error_about_request(leg.router(), (4, 0), 0);
        assert_eq!(leg.bench.stop(WAN, &about_answer), Verdict::Refuse(Refusal::SourceQuench));
        assert_eq!(leg.bench.stop(leg.port, &about_request), Verdict::Refuse(Refusal::SourceQuench));
        assert_eq!(leg.bench.moved(), [("drop_source_quench", 2)]);
    }
}

#[test]
fn req_11_what_is_neither_query_nor_error_is_dropped_at_the_vip_and_the_hosts_elsewhere() {
    let mut bench = Bench::new();
    // Redirect, router advertisement and solicitation, address mask.
    for kind in [5, 9, 10, 17, 18] {
        let message = Build::icmp("192.0.2.77", "203.0.113.10", kind, 0, &[0; 28]);
        assert_eq!(bench.stop(WAN, &message), Verdict::Refuse(Refusal::IcmpType));
        let message = Build::icmp("10.0.0.11", "198.18.0.7", kind, 0, &[0; 28]);
        assert_eq!(bench.stop(LAN, &message), Verdict::NotOurs);
    }
}

/// RFC 1122 3.2.2: errors about errors would never end.
#[test]
fn no_error_is_sent_about_an_error() {
    for mut leg in all() {
        for mut error in [
            leg.error_about_answer(leg.router(), unreachable(&leg), 0).0,
            leg.error_about_request(leg.router(), unreachable(&leg), 0).0,
        ] {
            error.ttl = 1;
            let port = if error.dst.ip() == Leg::address(leg.vip) { WAN } else { leg.port };
            assert_eq!(leg.bench.stop(port, &error), Verdict::Refuse(Refusal::TtlExceeded));
            assert_eq!(leg.bench.moved(), [("drop_ttl_exceeded", 1)]);
        }
        // One that quotes an error is about nothing of farside's.
        let inner = leg.error_about_answer(leg.router(), unreachable(&leg), 0).0.packet();
        let (outer, _) = leg.error_about_answer(leg.router(), unreachable(&leg), 0);
        assert_eq!(leg.bench.stop(WAN, &quoting(&outer, inner)), Verdict::Refuse(Refusal::IcmpQuote));
    }
}

#[test]
fn errors_of_farsides_own_are_limited_and_what_is_kept_back_is_counted() {
    let mut bench = Bench::new();
    bench.set_up("syslog", false);
    let datagram = Build::udp("198.18.0.7:9", "203.0.113.10:514", b"m").frame();
    let mut sent = 0;
    for _ in 0..50_000 {
        sent += u64::from(bench.run(WAN, &datagram, Default::default()).is_ok());
    }
    assert!(sent < 50_000);
    let moved = [("answers_suppressed", 50_000 - sent), ("icmp_errors_sent", sent), ("drop_no_server", 50_000)];
    assert_eq!(bench.moved(), moved);
}
