//! Packets that go no further, and by which name.

use super::bench::VIP6;
use super::{Bench, CLIENT, LAN, PIP, REAL_A, VIP, WAN};
use crate::counters::Refusal;
use crate::forward::Verdict;
use crate::testing::Build;
use crate::wire::l4::{ACK, FIN, RST, SYN};
use crate::wire::{checksum, put_raw16};

#[test]
fn our_own_addresses_as_a_source_are_a_loop() {
    let mut bench = Bench::new();
    for src in [format!("{PIP}:1024"), "203.0.113.10:9000".into()] {
        let to_udp = Build::tcp(&src, VIP, SYN);
        if src.starts_with("203.0.113.10:") {
            assert_eq!(bench.stop(WAN, &to_udp), Verdict::Refuse(Refusal::Martian), "its own destination");
        } else {
            assert_eq!(bench.stop(WAN, &to_udp), Verdict::Refuse(Refusal::Loop));
        }
    }
    assert_eq!(bench.shared.table.len(), 0);
}

#[test]
fn without_a_flow_only_a_plain_syn_opens_one() {
    let mut bench = Bench::new();
    for flags in [ACK, SYN | ACK, FIN | ACK, ACK | 0x08] {
        assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, flags)).1.flags & RST, RST, "{flags:#x}");
    }
    assert_eq!(bench.shared.table.len(), 0);
    assert_eq!(bench.moved(), [("resets_sent", 4), ("drop_no_flow", 4)]);
}

#[test]
fn resets_are_limited_and_what_is_kept_back_is_counted() {
    let mut bench = Bench::new();
    for _ in 0..25_000 {
        let _ = bench.run(WAN, &Build::tcp(CLIENT, VIP, ACK).frame(), Default::default());
    }
    assert_eq!(bench.moved(), [("resets_sent", 20_000), ("answers_suppressed", 5000), ("drop_no_flow", 25_000)]);
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_the_old() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    let mut refused = 0;
    for n in 0..2000_u32 {
        let client = format!("198.18.{}.{}:1000", 1 + n / 250, 1 + n % 250);
        if bench.pass(WAN, &Build::tcp(&client, VIP, SYN)).1.flags & RST != 0 {
            refused += 1;
        }
    }
    assert_eq!(bench.shared.table.len(), 1000);
    assert_eq!(refused, 1001);
    assert!(bench.moved().contains(&("drop_table_full", 1001)));
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK)).1.dst.to_string(), REAL_A);
}

#[test]
fn an_answer_that_nobody_asked_for_is_the_hosts() {
    let mut bench = Bench::new();
    assert_eq!(bench.stop(LAN, &Build::tcp(REAL_A, CLIENT, SYN | ACK)), Verdict::NotOurs);
}

#[test]
fn what_a_vip_serves_no_protocol_for_is_refused() {
    let mut bench = Bench::new();
    let mut sctp = Build::udp("198.18.0.7", "203.0.113.10", b"0123456789abcdef");
    sctp.protocol = 132;
    assert_eq!(bench.stop(WAN, &sctp), Verdict::Refuse(Refusal::NoService));
    assert_eq!(bench.stop(WAN, &Build::udp(CLIENT, VIP, b"pop3 is tcp")), Verdict::Refuse(Refusal::NoService));
}

/// ICMP of the other IP version: nothing has looked at its length.
#[test]
fn icmp_of_the_other_version_is_an_unknown_protocol_and_may_be_empty() {
    let mut bench = Bench::new();
    for (src, dst, protocol) in [("198.18.0.7", "203.0.113.10", 58), ("2001:db8:c::7", "2001:db8:1::10", 1)] {
        let (src, dst) =
            (std::net::SocketAddr::new(src.parse().unwrap(), 0), std::net::SocketAddr::new(dst.parse().unwrap(), 0));
        let mut frame = Build::udp(&src.to_string(), &dst.to_string(), b"").frame();
        let v6 = src.is_ipv6();
        frame.truncate(if v6 { 54 } else { 34 });
        if v6 {
            frame[18..20].fill(0);
            frame[20] = protocol;
        } else {
            frame[16..18].copy_from_slice(&20_u16.to_be_bytes());
            frame[23] = protocol;
            frame[24..26].fill(0);
            let check = !checksum::fold(checksum::sum(&frame[14..34]));
            put_raw16(&mut frame, 24, check);
        }
        assert_eq!(bench.run(WAN, &frame, Default::default()), Err(Verdict::Refuse(Refusal::NoService)));
    }
}

/// A real server on another link could never answer it.
#[test]
fn a_client_with_a_link_local_address_is_refused_at_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.pass(WAN, &Build::tcp("[fe80::7]:40000", VIP6, SYN)).1.flags, RST | ACK);
    assert_eq!(bench.pass(WAN, &Build::tcp("169.254.3.3:40000", VIP, SYN)).1.flags, RST | ACK);
    assert_eq!(bench.moved(), [("resets_sent", 2), ("drop_martian", 2)]);
    assert_eq!(bench.shared.table.len(), 0);
}
