//! TCP as the Internet sends it: openings, endings and headers that are rare, each as a frame in and a frame out. farside
//! only watches; where a packet is refused, the reason has a name.

use super::bench::{CLIENT6, REAL6, VIP6, config};
use super::{Bench, CLIENT, LAN, PIP, REAL_A, REAL_B, VIP, WAN, leg};
use crate::counters::Refusal;
use crate::device::Offload;
use crate::flow::State;
use crate::forward::Verdict;
use crate::testing::{Build, Seen};
use crate::wire::l4::{ACK, FIN, RST, SYN};
use crate::wire::{checksum, put_raw16};
use std::time::Duration;

const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// The state of the only flow.
fn state(bench: &Bench) -> State {
    let mut states = Vec::new();
    bench.shared.table.for_each(|on| states.push(on.flow.state));
    assert_eq!(states.len(), 1);
    states[0]
}

/// A connection on each leg: its bench, where the server's packets come in, what it sees as client, and its own address.
fn legs() -> impl Iterator<Item = (Bench, u8, String, String)> {
    leg::tcp().into_iter().filter(|leg| leg.is_v4()).map(|leg| (leg.bench, leg.port, leg.near, leg.server))
}

/// Runs a packet and asserts that behind the ports nothing but the checksum has changed, nor in the IP header anything but TTL,
/// addresses and checksum.
fn passes_unchanged(bench: &mut Bench, port: u8, packet: &Build) -> Seen {
    let frame = packet.frame();
    let (_, out, _) = bench.run(port, &frame, Offload::default()).unwrap_or_else(|e| panic!("{e:?}: {packet:?}"));
    assert_eq!(out.len(), frame.len());
    let l4 = if packet.src.is_ipv4() { 34 } else { 54 };
    let same = |range: std::ops::Range<usize>| assert_eq!(out[range.clone()], frame[range.clone()], "bytes {range:?}");
    same(12..if l4 == 34 { 22 } else { 21 });
    same(l4 + 4..l4 + 16);
    same(l4 + 18..frame.len());
    Seen::of(&out)
}

/// Sends one packet each way.
fn passes_both_ways(leg: &mut (Bench, u8, String, String), change: impl Fn(&mut Build)) {
    let (bench, port, local, server) = leg;
    let mut packets = [(WAN, Build::tcp(CLIENT, VIP, ACK)), (*port, Build::tcp(server, local, ACK))];
    for (port, packet) in &mut packets {
        change(packet);
        passes_unchanged(bench, *port, packet);
    }
}

#[test]
fn simultaneous_open_the_servers_own_syn_passes_and_the_connection_stands() {
    for local in [true, false] {
        let mut bench = Bench::new();
        bench.set_up("pop3/10.0", local);
        let (port, syn) = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
        let (near, server) = (syn.src.to_string(), syn.dst.to_string());
        let (_, seen) = bench.pass(port, &Build::tcp(&server, &near, SYN));
        assert_eq!((seen.flags, seen.src.to_string()), (SYN, VIP.into()));
        assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN | ACK)).1.flags, SYN | ACK);
        assert_eq!(bench.pass(port, &Build::tcp(&server, &near, SYN | ACK)).1.flags, SYN | ACK);
        assert_eq!(state(&bench), State::Established);
        bench.wait(Duration::from_secs(7400));
        assert_eq!(bench.pass(port, &Build::tcp(&server, &near, ACK)).1.src.to_string(), VIP);
    }
}

#[test]
fn a_half_closed_connection_carries_data_the_other_way_for_hours() {
    for mut leg in legs() {
        let (bench, port, local, server) = &mut leg;
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, FIN | ACK));
        for _ in 0..3 {
            bench.wait(Duration::from_secs(7400));
            let mut data = Build::tcp(server, local, ACK | PSH);
            data.payload = vec![7; 1000];
            assert_eq!(bench.pass(*port, &data).1.payload, data.payload);
            bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
        }
        assert_eq!(state(bench), State::ClientFin);
        bench.pass(*port, &Build::tcp(server, local, FIN | ACK));
        assert_eq!(state(bench), State::Closing);
        bench.wait(Duration::from_secs(121));
        assert_eq!(bench.shared.table.len(), 0);
    }
}

#[test]
fn a_reset_passes_and_the_record_waits_whether_it_was_taken() {
    for mut leg in legs() {
        let (bench, port, local, server) = &mut leg;
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, RST));
        assert_eq!(state(bench), State::ResetByClient);
        // What was under way still arrives, and proves nothing.
        let mut data = Build::tcp(server, local, ACK);
        data.payload = vec![1; 100];
        assert_eq!(bench.pass(*port, &data).1.dst.to_string(), CLIENT);
        assert_eq!(state(bench), State::ResetByClient);
        bench.wait(Duration::from_secs(9));
        assert_eq!(bench.shared.table.len(), 1);
        bench.wait(Duration::from_secs(2));
        assert_eq!(bench.shared.table.len(), 0);
    }
}

#[test]
fn a_forged_reset_is_taken_back_by_the_one_it_was_said_to_come_from() {
    for mut leg in legs() {
        let (bench, ..) = &mut leg;
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, RST));
        let mut data = Build::tcp(CLIENT, VIP, ACK);
        data.payload = b"NOOP\r\n".to_vec();
        bench.pass(WAN, &data);
        bench.wait(Duration::from_secs(7400));
        assert_eq!(state(bench), State::Established);
    }
}

/// RFC 5961 3.2: a reset that is in the window but not the very next byte is answered with a bare acknowledgement.
#[test]
fn a_forged_reset_is_taken_back_by_the_challenge_of_the_one_it_was_sent_to() {
    for mut leg in legs() {
        let (bench, port, local, server) = &mut leg;
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, RST));
        assert_eq!(bench.pass(*port, &Build::tcp(server, local, ACK)).1.flags, ACK, "the challenge passes");
        assert_eq!(state(bench), State::Established);
        bench.pass(*port, &Build::tcp(server, local, RST));
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
        bench.wait(Duration::from_secs(7400));
        assert_eq!(state(bench), State::Established, "and the other way round");
    }
}

/// RFC 5961 4: a SYN on a connection that stands is challenged; a client that has forgotten it answers with a reset and may
/// then begin anew.
#[test]
fn a_client_that_comes_back_by_the_same_port_is_challenged_resets_and_starts_afresh() {
    for mut leg in legs() {
        let (bench, port, local, server) = &mut leg;
        bench.moved();
        assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1.dst.to_string(), *server, "the same server");
        assert_eq!(bench.pass(*port, &Build::tcp(server, local, ACK)).1.flags, ACK);
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, RST));
        assert_eq!(bench.moved(), []);
        let again = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1;
        assert_eq!(again.flags, SYN);
        let count = if *port == LAN { "flows_local" } else { "flows_remote" };
        assert_eq!(bench.moved(), [(count, 1), ("flows_ended", 1)]);
    }
}

#[test]
fn a_port_in_time_wait_is_used_again_with_a_new_choice_and_another_lent_port() {
    for mut leg in legs() {
        let (bench, port, local, server) = &mut leg;
        bench.shared.ledger.set_rest(crate::flow::ticks(Duration::from_secs(5)));
        bench.pass(*port, &Build::tcp(server, local, FIN | ACK));
        bench.pass(WAN, &Build::tcp(CLIENT, VIP, FIN | ACK));
        bench.pass(*port, &Build::tcp(server, local, ACK));
        let again = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN)).1;
        if *port == LAN {
            assert_eq!(again.dst.to_string(), REAL_B, "the next in turn");
        } else {
            assert_ne!(again.src.to_string(), *local, "the old port rests");
            assert_eq!(again.src.ip().to_string(), PIP);
        }
        assert_eq!(state(bench), State::SynSent);
    }
}

#[test]
fn tcp_fast_open_the_cookie_and_the_data_on_the_syn_pass_unchanged() {
    for (client, vip) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
        let mut bench = Bench::new();
        let mut syn = Build::tcp(client, vip, SYN);
        syn.options = vec![34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
        syn.payload = b"CAPA\r\n".to_vec();
        passes_unchanged(&mut bench, WAN, &syn);
        // The server acknowledges the data with its SYN, and may send its own before the client's ACK.
        let server = if vip == VIP { REAL_A } else { REAL6 };
        let mut answer = Build::tcp(server, client, SYN | ACK);
        (answer.ack, answer.options) = (1007, vec![34, 2, 1, 1]);
        passes_unchanged(&mut bench, LAN, &answer);
        let mut data = Build::tcp(server, client, ACK);
        data.payload = b"+OK\r\n".to_vec();
        passes_unchanged(&mut bench, LAN, &data);
        passes_unchanged(&mut bench, WAN, &Build::tcp(client, vip, ACK));
        assert_eq!(state(&bench), State::Established);
    }
}

#[test]
fn options_pass_unchanged_known_and_unknown() {
    for mut leg in legs() {
        for options in [
            // SACK of two blocks.
            [&[1, 1, 5, 18][..], &[0x11; 16]].concat(),
            // Timestamps.
            vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            // TCP-AO, MPTCP, and a kind that nobody has assigned.
            [&[29, 16, 1, 2][..], &[0xaa; 12]].concat(),
            vec![30, 8, 0x20, 1, 2, 3, 4, 5],
            vec![250, 4, 0xff, 0xff],
            // A length that runs out of the header is the receiver's affair.
            vec![8, 200, 1, 1],
            vec![0; 40],
        ] {
            passes_both_ways(&mut leg, |packet| packet.options = options.clone());
        }
    }
}

#[test]
fn options_of_a_syn_but_the_mss_pass_unchanged() {
    let mut bench = Bench::new();
    let mut syn = Build::tcp(CLIENT, VIP, SYN | ECE | CWR);
    syn.options = vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];
    assert_eq!(passes_unchanged(&mut bench, WAN, &syn).flags, SYN | ECE | CWR);
    assert_eq!(bench.moved(), [("flows_local", 1)]);
}

#[test]
fn congestion_marks_pass_unchanged_in_both_headers() {
    for mut leg in legs() {
        for (tos, flags) in [(0x02, ACK | CWR), (0x03, ACK | ECE), (0x01, ACK), (0xb8 | 0x03, ACK | ECE | CWR | PSH)] {
            passes_both_ways(&mut leg, |packet| (packet.tos, packet.flags) = (tos, flags));
        }
    }
}

#[test]
fn urgent_data_pass_unchanged() {
    for (mut bench, port, local, server) in legs() {
        for (port, src, dst) in [(WAN, CLIENT, VIP), (port, server.as_str(), local.as_str())] {
            let mut packet = Build::tcp(src, dst, ACK | URG);
            packet.payload = b"!".to_vec();
            let mut frame = packet.frame();
            frame[52..54].copy_from_slice(&1_u16.to_be_bytes());
            frame[50..52].fill(0);
            let key = (super::endpoint(src).addr, super::endpoint(dst).addr);
            let pseudo = checksum::pseudo_header(&key.0, &key.1, crate::wire::ip::TCP, frame.len() as u32 - 34);
            let check = !checksum::fold(pseudo + checksum::sum(&frame[34..]));
            put_raw16(&mut frame, 50, check);
            let (_, out, _) = bench.run(port, &frame, Offload::default()).unwrap();
            assert_eq!((out[47], &out[52..]), (ACK | URG, &[0, 1, b'!'][..]));
            Seen::of(&out);
        }
    }
}

#[test]
fn keepalives_pass_and_keep_the_record() {
    for mut leg in legs() {
        for payload in [vec![], vec![0]] {
            leg.0.wait(Duration::from_secs(7000));
            passes_both_ways(&mut leg, |packet| (packet.seq, packet.payload) = (999, payload.clone()));
        }
        leg.0.wait(Duration::from_secs(7000));
        assert_eq!(state(&leg.0), State::Established);
    }
}

#[test]
fn a_syn_with_data_and_no_cookie_passes_and_its_refusal_counts_the_data() {
    let mut bench = Bench::new();
    let mut syn = Build::tcp(CLIENT, VIP, SYN);
    syn.payload = vec![5; 10];
    passes_unchanged(&mut bench, WAN, &syn);
    bench.set_up("pop3", false);
    syn.src = "198.18.0.8:40000".parse().unwrap();
    let refused = bench.pass(WAN, &syn).1;
    assert_eq!((refused.flags, refused.ack), (RST | ACK, 1011));
}

#[test]
fn a_syn_ack_that_answers_nothing_is_refused_and_one_too_many_passes() {
    let mut bench = Bench::new();
    let mut lost = Build::tcp(CLIENT, VIP, SYN | ACK);
    lost.ack = 77;
    let seen = bench.pass(WAN, &lost).1;
    assert_eq!((seen.flags, seen.seq), (RST, 77));
    assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_no_flow", 1)]);
    for mut leg in legs() {
        let (bench, port, local, server) = &mut leg;
        passes_unchanged(bench, *port, &Build::tcp(server, local, SYN | ACK));
        assert_eq!(state(bench), State::Established);
    }
}

#[test]
fn flags_that_no_sender_sets_are_refused_by_name_on_a_connection_too() {
    for mut leg in legs() {
        let (bench, port, local, server) = &mut leg;
        bench.moved();
        let mut refused = 0;
        for flags in [0, PSH, URG, FIN | PSH | URG, FIN, SYN | FIN, SYN | RST, SYN | FIN | ACK | PSH | URG, 0xff] {
            for (port, packet) in [(WAN, Build::tcp(CLIENT, VIP, flags)), (*port, Build::tcp(server, local, flags))] {
                assert_eq!(bench.stop(port, &packet), Verdict::Refuse(Refusal::TcpFlags), "{flags:#x}");
                refused += 1;
            }
        }
        assert_eq!(bench.moved(), [("drop_tcp_flags", refused)]);
        assert_eq!(state(bench), State::Established);
    }
}

/// The server's next SYN-ACK would find no flow, and a host that forwards would send it on untranslated.
#[test]
fn a_handshake_that_expires_half_way_is_reset_at_the_server() {
    for local in [true, false] {
        let mut bench = Bench::new();
        bench.set_up("pop3/10.0", local);
        let (port, syn) = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
        let (near, server) = (syn.src.to_string(), syn.dst.to_string());
        let mut answer = Build::tcp(&server, &near, SYN | ACK);
        (answer.seq, answer.ack) = (5000, 1001);
        bench.pass(port, &answer);
        bench.wait(Duration::from_secs(20));
        bench.pass(port, &answer);
        bench.wait(Duration::from_secs(29));
        assert_eq!(bench.sent, [], "sent again, waited for again");
        bench.moved();
        bench.wait(Duration::from_secs(2));
        let (by, reset) = bench.sent.pop().expect("a reset");
        assert_eq!((by, reset.flags, reset.seq), (port, RST, 1001));
        assert_eq!((reset.src.to_string(), reset.dst.to_string()), (near, server));
        assert_eq!(bench.sent, [], "and one only: the client is not there");
        assert_eq!(bench.moved(), [("flows_ended", 1), ("resets_sent", 1)]);
    }
}

/// The same where the target has gone down meanwhile and its connections are to be reset.
#[test]
fn a_handshake_half_way_is_reset_at_a_server_that_goes_down() {
    for (mut bench, port, ..) in legs() {
        bench.wait(Duration::from_secs(8000));
        let (_, syn) = bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
        let mut answer = Build::tcp(&syn.dst.to_string(), &syn.src.to_string(), SYN | ACK);
        answer.ack = 1001;
        bench.pass(port, &answer);
        let sent = bench.reset_all();
        assert_eq!(sent.len(), 1);
        let reset = Seen::of(&sent[0].1);
        assert_eq!((sent[0].0, reset.flags, reset.seq), (port, RST, 1001));
        assert_eq!((reset.src, reset.dst), (syn.src, syn.dst));
        assert_eq!(bench.shared.table.len(), 0);
    }
}

#[test]
fn a_handshake_that_never_began_or_was_finished_or_refused_is_not_reset_at_its_end() {
    let mut bench = Bench::new();
    bench.connect(CLIENT, VIP);
    bench.pass(WAN, &Build::tcp("198.18.0.8:1", VIP, SYN));
    let refused = bench.pass(WAN, &Build::tcp("198.18.0.9:1", VIP, SYN)).1;
    bench.pass(LAN, &Build::tcp(&refused.dst.to_string(), "198.18.0.9:1", RST | ACK));
    bench.wait(Duration::from_secs(8000));
    assert_eq!((bench.shared.table.len(), bench.sent.len()), (0, 0));
}

#[test]
fn a_simultaneous_open_that_expires_half_way_is_not_reset_for_nobody_knows_the_number() {
    let mut bench = Bench::new();
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, SYN));
    bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, SYN));
    bench.wait(Duration::from_secs(31));
    assert_eq!((bench.shared.table.len(), bench.sent.len()), (0, 0));
}

/// The same client address and port at the same real server by two VIPs: one 5-tuple there, one connection at a time.
#[test]
fn a_connection_that_is_only_closing_makes_way_for_another_vips() {
    let mut config = config();
    config.services[0].reals.truncate(1);
    let mut second = config.services[0].clone();
    (second.name, second.vip) = ("pop3b".into(), "203.0.113.11".parse().unwrap());
    second.remotes.clear();
    config.services.push(second);
    let other = "203.0.113.11:110";
    let mut bench = Bench::with(config);
    bench.connect(CLIENT, VIP);
    bench.moved();
    assert_eq!(bench.pass(WAN, &Build::tcp(CLIENT, other, SYN)).1.flags, RST | ACK);
    assert_eq!(bench.moved(), [("resets_sent", 1), ("drop_tuple_clash", 1)]);
    bench.pass(WAN, &Build::tcp(CLIENT, VIP, FIN | ACK));
    bench.pass(LAN, &Build::tcp(REAL_A, CLIENT, FIN | ACK));
    assert_eq!(bench.connect(CLIENT, other).1.dst.to_string(), REAL_A);
    assert_eq!(bench.moved(), [("flows_local", 1), ("flows_ended", 1)]);
    // And after a reset likewise.
    bench.pass(WAN, &Build::tcp(CLIENT, other, RST));
    bench.connect(CLIENT, VIP);
    assert_eq!(bench.active("pop3/10.0.0.11:1100"), 1);
    assert_eq!(bench.active("pop3b/10.0.0.11:1100"), 0);
}
