//! Packets in pieces: each goes after the first one, and what the target puts together is the packet that the journey would have
//! made of the whole.

use super::bench::{PIP6, config, one_sided, service};
use super::{Bench, CLIENT, LAN, PIP, REMOTE, VIP, WAN};
use crate::config::{Encapsulation, Mode, Protocol};
use crate::counters::Refusal;
use crate::device::Offload;
use crate::forward::Verdict;
use crate::testing::{Build, Seen, cut, join, piece, read_piece};
use crate::wire::l4::{ACK, SYN};
use crate::wire::{checksum, put_raw16};
use proptest::prelude::*;
use std::cell::RefCell;
use std::time::Duration;

/// The same service in both families.
struct Ends {
    client: &'static str,
    other_client: &'static str,
    vip: &'static str,
    real: &'static str,
    pip: &'static str,
    remote: &'static str,
}

const V4: Ends = Ends {
    client: "198.18.0.7:5000",
    other_client: "198.18.0.8:5000",
    vip: "203.0.113.10:514",
    real: "10.0.0.11:514",
    pip: PIP,
    remote: "198.51.100.10:514",
};

const V6: Ends = Ends {
    client: "[2001:db8:c::7]:5000",
    other_client: "[2001:db8:c::8]:5000",
    vip: "[2001:db8:1::10]:514",
    real: "[fd00::11]:514",
    pip: PIP6,
    remote: "[2001:db8:2::10]:514",
};

const BOTH: [&Ends; 2] = [&V4, &V6];
const ID: u32 = 0x1234;

fn bench(carried: bool) -> Bench {
    let mut config = config();
    config.services.push(service("syslog6", V6.vip, Protocol::Udp, &[V6.real], V6.remote));
    let bench = Bench::with(config);
    for real in ["syslog/10.0", "syslog6/[fd00"] {
        bench.set_up(real, !carried);
    }
    bench
}

/// 4000 bytes, no two neighbors alike.
fn text() -> Vec<u8> {
    (0..4000_u32).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// A datagram as Ethernet cuts it.
fn pieces(src: &str, dst: &str, id: u32) -> Vec<Vec<u8>> {
    cut(&Build::udp(src, dst, &text()).frame(), id, &[1440, 2880])
}

type Left = Result<(u8, Vec<u8>), Verdict>;

/// Runs frames, and after each what it sets free.
fn run<'a>(bench: &mut Bench, port: u8, frames: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Left> {
    let mut left = Vec::new();
    for frame in frames {
        match bench.run_all(port, frame, Offload::default()) {
            Ok((port, frames, _)) => left.extend(frames.into_iter().map(|frame| Ok((port, frame)))),
            Err(verdict) => left.push(Err(verdict)),
        }
        left.extend(bench.run_ready().into_iter().map(|ran| ran.map(|(port, frame, _)| (port, frame))));
    }
    left
}

/// What has left, all by one port.
fn sent(left: Vec<Left>) -> (u8, Vec<Vec<u8>>) {
    let (ports, frames): (Vec<u8>, Vec<_>) = left.into_iter().filter_map(Result::ok).unzip();
    assert!(ports.windows(2).all(|two| two[0] == two[1]), "{ports:?}");
    (ports[0], frames)
}

fn refused(refusal: Refusal) -> Left {
    Err(Verdict::Refuse(refusal))
}

/// Runs all of a datagram; gives where it went, its identification, and what it is when it is put together there.
fn arrives(bench: &mut Bench, port: u8, frames: &[Vec<u8>]) -> (u8, u32, Seen) {
    let (port, frames) = sent(run(bench, port, frames));
    let id = read_piece(&frames[0]).0;
    (port, id, Seen::of(&join(&frames)))
}

#[test]
fn a_datagram_in_pieces_goes_to_the_real_server_and_its_answer_to_the_client() {
    for ends in BOTH {
        let mut bench = bench(false);
        let (port, id, seen) = arrives(&mut bench, WAN, &pieces(ends.client, ends.vip, ID));
        assert_eq!((port, id), (LAN, ID), "the client's identification stays");
        assert_eq!((seen.src.to_string().as_str(), seen.dst.to_string().as_str()), (ends.client, ends.real));
        assert_eq!((seen.ttl, &seen.payload), (63, &text()));
        let (port, id, seen) = arrives(&mut bench, LAN, &pieces(ends.real, ends.client, 77));
        assert_eq!((port, id), (WAN, 77), "and so does the server's");
        assert_eq!((seen.src.to_string().as_str(), seen.dst.to_string().as_str()), (ends.vip, ends.client));
        assert_eq!((seen.ttl, &seen.payload), (63, &text()));
        assert_eq!(bench.moved(), [("flows_local", 1)], "nothing else happened");
    }
}

#[test]
fn a_carried_datagram_in_pieces_goes_from_the_pip_under_one_new_identification() {
    for ends in BOTH {
        let mut bench = bench(true);
        let (port, id, seen) = arrives(&mut bench, WAN, &pieces(ends.client, ends.vip, ID));
        assert_eq!((port, seen.dst.to_string().as_str(), &seen.payload), (WAN, ends.remote, &text()));
        assert_eq!(seen.src.ip().to_string(), ends.pip);
        let (_, next, again) = arrives(&mut bench, WAN, &pieces(ends.client, ends.vip, ID + 1));
        assert_eq!(again.src, seen.src, "one flow");
        assert!(id != ID && next != ID + 1 && id != next, "{id:x} {next:x}");
        let (port, id, seen) = arrives(&mut bench, WAN, &pieces(ends.remote, &seen.src.to_string(), 77));
        assert_eq!((port, id), (WAN, 77));
        assert_eq!((seen.src.to_string().as_str(), seen.dst.to_string().as_str()), (ends.vip, ends.client));
        assert_eq!(seen.payload, text());
        assert_eq!(bench.moved(), [("flows_remote", 1)]);
    }
}

/// RFC 6864 5.3: what differed in the client's address only would otherwise be mixed up at the remote site.
#[test]
fn two_clients_with_one_identification_are_told_apart_behind_the_pip() {
    for ends in BOTH {
        let mut bench = bench(true);
        let (one, other) = (pieces(ends.client, ends.vip, ID), pieces(ends.other_client, ends.vip, ID));
        let mixed: Vec<_> = one.iter().zip(&other).flat_map(|(a, b)| [a, b]).collect();
        let (_, frames) = sent(run(&mut bench, WAN, mixed));
        let id = read_piece(&frames[0]).0;
        let (first, second): (Vec<_>, Vec<_>) = frames.into_iter().partition(|frame| read_piece(frame).0 == id);
        let (first, second) = (Seen::of(&join(&first)), Seen::of(&join(&second)));
        assert_eq!((first.src.ip(), first.dst), (second.src.ip(), second.dst));
        assert_ne!(first.src.port(), second.src.port());
        assert_eq!((&first.payload, &second.payload), (&text(), &text()));
    }
}

/// A router behind farside may cut them still.
#[test]
fn carried_packets_that_may_be_cut_get_an_identification_of_farsides_and_others_keep_theirs() {
    let mut bench = bench(true);
    let id = |frame: &[u8]| u16::from_be_bytes([frame[18], frame[19]]);
    let whole = Build::udp(V4.client, V4.vip, b"message").frame();
    let mut may_be_cut = whole.clone();
    may_be_cut[20] = 0;
    let check = u16::from_be_bytes([whole[24], whole[25]]);
    may_be_cut[24..26].copy_from_slice(&(check + 0x4000).to_be_bytes());
    let mut run = |frame: &[u8]| bench.run(WAN, frame, Offload::default()).unwrap().1;
    assert_eq!(id(&run(&whole)), id(&whole));
    let (one, two) = (run(&may_be_cut), run(&may_be_cut));
    assert_eq!(Seen::of(&one), Seen::of(&two), "every checksum is right");
    assert!(id(&one) != id(&whole) && id(&one) != id(&two), "{:x} {:x}", id(&one), id(&two));
}

/// RFC 4787 REQ-14: in order and out of order, in both directions as far as the kernel's program lets them.
#[test]
fn pieces_in_any_order_arrive() {
    for ends in BOTH {
        for (order, held) in [([0, 2, 1], 0), ([1, 0, 2], 1), ([1, 2, 0], 2), ([2, 0, 1], 1), ([2, 1, 0], 2)] {
            for carried in [false, true] {
                let mut bench = bench(carried);
                let frames = pieces(ends.client, ends.vip, ID);
                let left = run(&mut bench, WAN, order.map(|at| &frames[at]));
                assert_eq!(left.iter().filter(|left| **left == Err(Verdict::Kept)).count(), held, "{order:?}");
                let seen = Seen::of(&join(&sent(left).1));
                assert_eq!(
                    (seen.dst.to_string().as_str(), &seen.payload),
                    (if carried { ends.remote } else { ends.real }, &text())
                );
                let flows = if carried { "flows_remote" } else { "flows_local" };
                let all = [(flows, 1), ("fragments_held", held as u64)];
                assert_eq!(bench.moved(), all[..if held > 0 { 2 } else { 1 }]);
            }
        }
    }
}

#[test]
fn a_real_servers_pieces_wait_for_their_first_and_a_strangers_are_the_hosts() {
    for ends in BOTH {
        let mut bench = bench(false);
        run(&mut bench, WAN, [&Build::udp(ends.client, ends.vip, b"?").frame()]);
        let answer = pieces(ends.real, ends.client, ID);
        assert_eq!(run(&mut bench, LAN, [&answer[2], &answer[1]]), [Verdict::Kept; 2].map(Err));
        let (port, all) = sent(run(&mut bench, LAN, [&answer[0]]));
        assert_eq!((port, all.len()), (WAN, 3));
        let stranger = pieces(ends.other_client, ends.client, ID);
        assert_eq!(run(&mut bench, LAN, [&stranger[2]]), [Err(Verdict::NotOurs)]);
    }
}

#[test]
fn what_waited_leaves_in_the_order_it_came() {
    let mut bench = bench(false);
    let frames = pieces(V4.client, V4.vip, ID);
    let (_, left) = sent(run(&mut bench, WAN, [&frames[2], &frames[1], &frames[0]]));
    assert_eq!(left.iter().map(|frame| read_piece(frame).1).collect::<Vec<_>>(), [0, 2880, 1440]);
}

/// RFC 8200 4.5 allows it, and nobody can tell here whether the bytes are the same.
#[test]
fn the_same_piece_twice_passes_once() {
    for ends in BOTH {
        let mut bench = bench(false);
        let frames = pieces(ends.client, ends.vip, ID);
        let order = [1, 1, 0, 0, 1, 2];
        let left = run(&mut bench, WAN, order.map(|at| &frames[at]));
        assert_eq!(left.iter().filter(|left| **left == refused(Refusal::FragmentDuplicate)).count(), 3);
        assert_eq!(Seen::of(&join(&sent(left).1)).payload, text());
    }
}

/// All in one batch: what waited is run again after it only.
#[test]
fn a_copy_of_what_has_passed_meanwhile_is_no_new_packet() {
    let mut bench = bench(false);
    let frames = pieces(V4.client, V4.vip, ID);
    for at in [1, 0, 1, 2] {
        let _ = bench.run(WAN, &frames[at], Offload::default());
    }
    assert_eq!(bench.run_ready(), []);
    let moved = [("flows_local", 1), ("fragments_held", 1), ("drop_fragment_duplicate", 1)];
    assert_eq!(bench.moved(), moved);
}

/// RFC 5722, RFC 1858: of two versions of a byte the target never sees the second, nor what it could be made a whole with.
#[test]
fn pieces_that_overlap_spoil_their_packet_and_no_other() {
    for ends in BOTH {
        let whole = Build::udp(ends.client, ends.vip, &text()).frame();
        for (from, length) in [(1432, 16), (0, 8), (0, 1448), (744, 696), (8, 1440), (2880, 1056)] {
            let mut bench = bench(false);
            let frames = pieces(ends.client, ends.vip, ID);
            let other = pieces(ends.other_client, ends.vip, ID);
            assert!(run(&mut bench, WAN, [&frames[0], &frames[2], &other[0]]).iter().all(Result::is_ok));
            let evil = piece(&whole, ID, from, &vec![0xee; length]);
            assert_eq!(run(&mut bench, WAN, [&evil]), [refused(Refusal::FragmentOverlap)], "{from} {length}");
            let rest = [refused(Refusal::FragmentOverlap), refused(Refusal::FragmentOverlap)];
            assert_eq!(run(&mut bench, WAN, [&frames[1], &frames[0]]), rest);
            assert!(run(&mut bench, WAN, &other[1..]).iter().all(Result::is_ok));
            bench.wait(Duration::from_secs(31));
            assert!(run(&mut bench, WAN, &frames).iter().all(Result::is_ok), "it is over");
        }
    }
}

#[test]
fn a_second_end_of_a_packet_spoils_it() {
    let mut bench = bench(false);
    let frames = pieces(V4.client, V4.vip, ID);
    let longer = Build::udp(V4.client, V4.vip, &[0; 6000]).frame();
    assert!(run(&mut bench, WAN, [&frames[0], &frames[2]]).iter().all(Result::is_ok));
    assert_eq!(run(&mut bench, WAN, [&piece(&longer, ID, 5000, &[0; 1008])]), [refused(Refusal::FragmentOverlap)]);
}

#[test]
fn without_its_first_piece_a_packet_waits_three_seconds() {
    for ends in BOTH {
        let mut bench = bench(false);
        let frames = pieces(ends.client, ends.vip, ID);
        assert_eq!(run(&mut bench, WAN, &frames[1..]), [Err(Verdict::Kept), Err(Verdict::Kept)]);
        bench.wait(Duration::from_secs(2));
        assert_eq!(bench.moved(), [("fragments_held", 2)]);
        bench.wait(Duration::from_secs(2));
        assert_eq!(bench.moved(), [("drop_fragment_timeout", 2)]);
        assert_eq!(run(&mut bench, WAN, &frames[..1]).len(), 1, "nobody waits for it any more");
    }
}

#[test]
fn after_its_first_piece_a_packet_has_half_a_minute_for_the_rest() {
    for ends in BOTH {
        let mut bench = bench(false);
        let frames = pieces(ends.client, ends.vip, ID);
        assert!(run(&mut bench, WAN, &frames[..1])[0].is_ok());
        bench.wait(Duration::from_secs(29));
        assert!(run(&mut bench, WAN, &frames[1..2])[0].is_ok());
        bench.wait(Duration::from_secs(2));
        assert_eq!(run(&mut bench, WAN, &frames[2..]), [Err(Verdict::Kept)]);
    }
}

/// RFC 4963: a fast sender is round in seconds, and a piece of the old packet may have been lost.
#[test]
fn an_ipv4_identification_that_is_used_again_is_a_new_packets() {
    let mut bench = bench(true);
    let frames = pieces(V4.client, V4.vip, ID);
    let (_, old) = sent(run(&mut bench, WAN, &frames[..2]));
    assert_eq!(run(&mut bench, WAN, &frames[..1]), [refused(Refusal::FragmentDuplicate)]);
    bench.wait(Duration::from_secs(3));
    let (_, id, seen) = arrives(&mut bench, WAN, &frames);
    assert_eq!(seen.payload, text());
    assert_ne!(id, read_piece(&old[0]).0, "nor is it mixed up with the old one behind farside");
}

#[test]
fn when_too_many_packets_are_in_pieces_the_oldest_is_forgotten() {
    let mut bench = bench(false);
    let first = |n: u32| piece(&Build::udp(V4.client, V4.vip, &text()).frame(), n, 0, &[0, 1, 2, 2, 0, 16, 0, 0]);
    for n in 0..10_000 {
        assert!(run(&mut bench, WAN, [&first(n)])[0].is_ok(), "the new ones pass");
        bench.now.tick += u32::from(n % 1000 == 0);
    }
    let moved = bench.moved();
    let forgotten = moved.iter().find(|(name, _)| *name == "fragments_forgotten").unwrap().1;
    assert!(forgotten >= 10_000 - 1024, "{moved:?}");
    let later = |n: u32| piece(&Build::udp(V4.client, V4.vip, &text()).frame(), n, 8, &[0; 8]);
    assert!(run(&mut bench, WAN, [&later(9_999)])[0].is_ok(), "known");
    assert_eq!(run(&mut bench, WAN, [&later(1)]), [Err(Verdict::Kept)], "not known any more");
}

#[test]
fn copies_are_bounded_for_each_packet_and_for_all() {
    let mut bench = bench(false);
    let whole = Build::udp(V4.client, V4.vip, &[0; 60_000]).frame();
    let later = |id: u32, n: usize| piece(&whole, id, 8 + n * 8, &[0; 8]);
    let one: Vec<_> = (0..65).map(|n| later(1, n)).collect();
    let left = run(&mut bench, WAN, &one);
    assert!(left[..64].iter().all(|left| *left == Err(Verdict::Kept)));
    assert_eq!(left[64], refused(Refusal::FragmentHoldFull));
    assert_eq!(
        bench.moved(),
        [("drop_fragment_hold_full", 1), ("fragments_held", 64)].into_iter().rev().collect::<Vec<_>>()
    );
    for id in 2..=200 {
        assert_eq!(run(&mut bench, WAN, [&later(id, 0)]), [Err(Verdict::Kept)]);
    }
    assert_eq!(bench.moved(), [("fragments_held", 199), ("drop_fragment_hold_full", 7)], "256 fit, the oldest went");
    let jumbo = piece(&whole, 300, 8, &[0; 4000]);
    assert_eq!(run(&mut bench, WAN, [&jumbo]), [refused(Refusal::FragmentHoldFull)]);
}

#[test]
fn what_follows_a_refused_first_piece_is_refused_and_what_waited_for_it_too() {
    for ends in BOTH {
        let mut bench = bench(false);
        for name in ["syslog/", "syslog6/"] {
            bench.set_up(name, false);
        }
        let frames = pieces(ends.client, ends.vip, ID);
        let left = run(&mut bench, WAN, [&frames[2], &frames[0], &frames[1]]);
        assert_eq!((&left[0], &left[2]), (&Err(Verdict::Kept), &refused(Refusal::Fragment)));
        let (port, answer) = left[1].as_ref().unwrap();
        let unreachable = if ends.client == V4.client { (3, 3) } else { (1, 4) };
        assert_eq!((*port, Seen::of(answer).icmp), (WAN, unreachable), "the client is told, once");
        let moved = [("icmp_errors_sent", 1), ("fragments_held", 1), ("drop_fragment", 2), ("drop_no_server", 1)];
        assert_eq!(bench.moved(), moved);
        bench.set_up("syslog", true);
        assert!(run(&mut bench, WAN, &frames[..1])[0].is_ok(), "another try");
    }
}

#[test]
fn when_the_flow_has_ended_its_fragments_have_no_way() {
    let mut bench = bench(false);
    let frames = pieces(V4.client, V4.vip, ID);
    run(&mut bench, WAN, &frames[..1]);
    let mut flow = None;
    bench.shared.table.for_each(|on| flow = Some(on.flow.at));
    bench.shared.table.remove(flow.unwrap()).unwrap();
    assert_eq!(run(&mut bench, WAN, &frames[1..]), [refused(Refusal::Fragment), refused(Refusal::Fragment)]);
}

#[test]
fn a_datagram_without_a_checksum_stays_without_one() {
    let mut bench = bench(true);
    let mut frame = Build::udp(V4.client, V4.vip, &text()).frame();
    put_raw16(&mut frame, 40, 0);
    let (_, left) = sent(run(&mut bench, WAN, &cut(&frame, ID, &[1440, 2880])));
    let whole = join(&left);
    assert_eq!(whole[40..42], [0, 0]);
    assert_eq!(Seen::of(&whole).payload, text());
}

#[test]
fn tcp_in_pieces_opens_a_connection_and_carries_data() {
    let mut bench = bench(false);
    bench.set_up("pop3/10", false);
    let mut syn = Build::tcp(CLIENT, VIP, SYN);
    (syn.options, syn.payload) = (vec![2, 4, 5, 180], vec![9; 600]);
    let frames = cut(&syn.frame(), 1, &[80, 400]);
    let (_, mut left) = sent(run(&mut bench, WAN, &frames[..2]));
    let port = u16::from_be_bytes([left[0][34], left[0][35]]);
    bench.pass(WAN, &Build::tcp(REMOTE, &format!("{PIP}:{port}"), SYN | ACK));
    left.extend(sent(run(&mut bench, WAN, &frames[2..])).1);
    let seen = Seen::of(&join(&left));
    assert_eq!((seen.flags, &seen.payload, &seen.options), (SYN, &syn.payload, &syn.options));
    let state = |bench: &Bench| {
        let mut state = None;
        bench.shared.table.for_each(|on| state = Some(on.flow.state.name()));
        state.unwrap()
    };
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    data.payload = text();
    let frames = cut(&data.frame(), 2, &[1440, 2880]);
    let left = run(&mut bench, WAN, [&frames[1]]);
    assert_eq!((left, state(&bench)), (vec![Err(Verdict::Kept)], "syn_received"));
    let (_, left) = sent(run(&mut bench, WAN, [&frames[0], &frames[2]]));
    assert_eq!((Seen::of(&join(&left)).payload, state(&bench)), (text(), "established"));
}

/// RFC 1122 3.2.2, RFC 1812 4.3.2.7.
#[test]
fn no_icmp_error_is_sent_about_a_later_fragment() {
    for (ends, time_exceeded) in [(&V4, (11, 0)), (&V6, (3, 0))] {
        let mut bench = bench(false);
        let mut datagram = Build::udp(ends.client, ends.vip, &text());
        datagram.ttl = 1;
        let dying = cut(&datagram.frame(), ID, &[1440, 2880]);
        let left = run(&mut bench, WAN, &dying[..1]);
        assert_eq!(Seen::of(&left[0].as_ref().unwrap().1).icmp, time_exceeded, "about the first one it is");
        let living = pieces(ends.client, ends.vip, ID + 1);
        assert!(run(&mut bench, WAN, &living[..1])[0].is_ok());
        let dying = cut(&datagram.frame(), ID + 1, &[1440, 2880]);
        assert_eq!(run(&mut bench, WAN, &dying[1..2]), [refused(Refusal::TtlExceeded)]);
        assert!(run(&mut bench, WAN, &living[1..]).iter().all(Result::is_ok), "what did not pass may still");
        let mut large = cut(&Build::udp(ends.client, ends.vip, &text()).frame(), ID + 2, &[1440]);
        if ends.client == V4.client {
            large[1] = with_df(&large[1]);
        }
        assert!(run(&mut bench, WAN, &large[..1])[0].is_ok());
        assert_eq!(run(&mut bench, WAN, &large[1..]), [refused(Refusal::TooBig)]);
    }
}

/// "Don't fragment", also of what is a fragment already.
fn with_df(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[20] |= 0x40;
    frame[24..26].fill(0);
    let check = !checksum::fold(checksum::sum(&frame[14..34]));
    put_raw16(&mut frame, 24, check);
    frame
}

/// RFC 791 3.2: a fragment may be cut again, and the pieces are of one packet still.
#[test]
fn a_fragment_that_is_too_large_for_the_next_link_is_cut_again() {
    for carried in [false, true] {
        let mut bench = bench(carried);
        let frames = cut(&Build::udp(V4.client, V4.vip, &text()).frame(), ID, &[2000]);
        for order in [[0, 1], [1, 0]] {
            let (_, left) = sent(run(&mut bench, WAN, order.map(|at| &frames[at])));
            assert_eq!(left.len(), 4);
            assert_eq!(Seen::of(&join(&left)).payload, text());
        }
    }
}

/// In direct and tunnel mode, too, nothing decides but the first one.
#[test]
fn pieces_reach_a_real_server_that_has_the_vip_itself() {
    for order in [[0, 1, 2], [2, 1, 0]] {
        for (mode, grown) in [(Mode::Direct, 0), (Mode::Tunnel, 20)] {
            let mut bench = Bench::with(one_sided(mode, Encapsulation::Ipip));
            let frames = pieces(V4.client, V4.vip, ID);
            let (port, left) = sent(run(&mut bench, WAN, order.map(|at| &frames[at])));
            let inner: Vec<_> = left.iter().map(|frame| [&frame[..14], &frame[14 + grown..]].concat()).collect();
            let seen = Seen::of(&join(&inner));
            assert_eq!((port, seen.src.to_string(), seen.dst.to_string()), (LAN, V4.client.into(), V4.vip.into()));
            assert_eq!((seen.payload, read_piece(&inner[0]).0), (text(), ID), "as it was sent");
            assert_eq!(seen.ttl, if mode == Mode::Direct { 64 } else { 63 });
            assert_eq!(bench.active("syslog/10.0.0.11:514"), 1);
            assert_eq!(run(&mut bench, WAN, &frames[1..2]), [Err(Verdict::Kept)], "all of it has passed");
        }
    }
}

/// One that chooses for itself and leaves no record: all pieces go where the first one does.
#[test]
fn a_datagram_in_pieces_chooses_once_where_each_chooses_for_itself() {
    for (mode, grown) in [(Mode::Direct, 0), (Mode::Tunnel, 20)] {
        for order in [[0, 1, 2], [2, 0, 1]] {
            let mut config = one_sided(mode, Encapsulation::Ipip);
            let mut other = config.services[1].reals[0].clone();
            (other.name, other.address) = ("10.0.0.12:514".into(), [10, 0, 0, 12].into());
            config.services[1].reals.push(other);
            config.services[1].per_packet = true;
            let mut bench = Bench::with(config);
            let mut macs = Vec::new();
            for id in 0..2 {
                let frames = pieces(V4.client, V4.vip, ID + id);
                let (port, left) = sent(run(&mut bench, WAN, order.map(|at| &frames[at])));
                assert!(left.iter().all(|frame| frame[..6] == left[0][..6]), "{mode:?}");
                macs.push(left[0][5]);
                let inner: Vec<_> = left.iter().map(|frame| [&frame[..14], &frame[14 + grown..]].concat()).collect();
                assert_eq!((port, Seen::of(&join(&inner)).payload), (LAN, text()));
            }
            macs.sort_unstable();
            assert_eq!((macs, bench.shared.table.len()), (vec![11, 12], 0));
        }
    }
}

/// The outer header leaves less room than the client's link has.
#[test]
fn a_piece_that_fills_the_link_is_cut_in_a_tunnel() {
    let mut bench = Bench::with(one_sided(Mode::Tunnel, Encapsulation::Ipip));
    let frames = cut(&Build::udp(V4.client, V4.vip, &text()).frame(), ID, &[1480, 2960]);
    let (_, left) = sent(run(&mut bench, WAN, [&frames[1], &frames[0], &frames[2]]));
    assert!(left.len() == 5 && left.iter().all(|frame| frame.len() <= 1514), "{}", left.len());
    let inner: Vec<_> = left.iter().map(|frame| [&frame[..14], &frame[34..]].concat()).collect();
    assert_eq!(Seen::of(&join(&inner)).payload, text());
}

#[test]
fn a_ping_in_pieces_is_answered_in_the_same_pieces() {
    for (ends, request, answer) in [(&V4, 8, 0), (&V6, 128, 129)] {
        for order in [[0, 1, 2], [2, 1, 0]] {
            let mut bench = bench(false);
            let (client, vip) = (ends.client.replace(":5000", ":0"), ends.vip.replace(":514", ":0"));
            let mut ping = Build::icmp(&client, &vip, request, 0, &text());
            ping.rest = 0x0007_0001;
            let frames = cut(&ping.frame(), ID, &[1440, 2880]);
            let (port, left) = sent(run(&mut bench, WAN, order.map(|at| &frames[at])));
            let seen = Seen::of(&join(&left));
            assert_eq!((port, seen.icmp, seen.rest, seen.ttl), (WAN, (answer, 0), 0x0007_0001, 64));
            assert_eq!((seen.src, seen.dst, &seen.payload), (ping.dst, ping.src, &text()));
            assert!(bench.moved().contains(&("echo_replies", 1)));
        }
    }
}

#[test]
fn other_icmp_in_pieces_is_refused() {
    let mut bench = bench(false);
    let frames = cut(&Build::icmp("198.18.0.7", "203.0.113.10", 13, 0, &text()).frame(), ID, &[1440, 2880]);
    let left = run(&mut bench, WAN, &frames);
    assert_eq!(left, [Refusal::FragmentIcmp, Refusal::Fragment, Refusal::Fragment].map(refused));
}

#[test]
fn all_of_a_packet_waits_until_its_next_hop_is_known() {
    let mut config = config();
    config.services.push(service("other", "203.0.113.10:515", Protocol::Udp, &["10.0.0.99:515"], V4.remote));
    let mut bench = Bench::with(config);
    let frames = pieces(V4.client, "203.0.113.10:515", ID);
    let left = run(&mut bench, WAN, &frames);
    assert_eq!(left, [Verdict::Hold, Verdict::Kept, Verdict::Kept].map(Err));
    assert_eq!(run(&mut bench, WAN, &frames[..1]), [Err(Verdict::Hold)], "as often as the worker tries");
}

/// They come from the wire in this order only where the kernel's program has let them through: see the head of the room.
#[test]
fn a_later_fragment_of_nobodys_is_the_hosts() {
    let mut bench = bench(false);
    for ends in BOTH {
        let frames = pieces(ends.other_client, ends.client, ID);
        assert_eq!(run(&mut bench, LAN, &frames), [Verdict::NotOurs; 3].map(Err));
    }
    assert_eq!(bench.moved(), []);
}

thread_local! {
    /// To build one takes longer than a case.
    static BENCHES: RefCell<[Option<Bench>; 2]> = const { RefCell::new([None, None]) };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Cut anywhere, shuffled, doubled: it comes out whole and translated, and what is doubled does not.
    #[test]
    fn however_it_is_cut_and_mixed_it_arrives_as_if_whole(
        length in 16..6000_usize,
        cuts in prop::collection::btree_set(1..750_usize, 0..20),
        (twice, shuffle) in (0..5_usize, any::<u64>()),
        (v6, carried, back) in any::<(bool, bool, bool)>(),
    ) {
        let ends = if v6 { &V6 } else { &V4 };
        let kept = BENCHES.with(|benches| benches.borrow_mut()[usize::from(carried)].take());
        let mut bench = kept.unwrap_or_else(|| bench(carried));
        bench.wait(Duration::from_secs(31));
        let payload: Vec<u8> = (0..length).map(|n| (n * 31 + n / 256) as u8).collect();
        let open = bench.pass(WAN, &Build::udp(ends.client, ends.vip, b"")).1;
        let (src, dst) = (open.src.to_string(), open.dst.to_string());
        let ((from, to), (new_from, new_to)) = if back {
            ((dst.as_str(), src.as_str()), (ends.vip, ends.client))
        } else {
            ((ends.client, ends.vip), (src.as_str(), dst.as_str()))
        };
        let anywhere = cuts.into_iter().map(|cut| cut * 8);
        // And wherever the link wants it.
        let mut cuts: Vec<usize> = anywhere.chain((1..5).map(|n| n * 1440)).filter(|cut| *cut < length + 8).collect();
        cuts.sort_unstable();
        cuts.dedup();
        prop_assume!(!cuts.is_empty());
        let mut frames = cut(&Build::udp(from, to, &payload).frame(), ID, &cuts);
        let mut random = shuffle;
        let mut below = |n: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % n
        };
        for _ in 0..twice {
            let copy = frames[below(frames.len())].clone();
            frames.push(copy);
        }
        for at in 0..frames.len() {
            let with = below(frames.len());
            frames.swap(at, with);
        }
        // Only what nobody takes for the host's comes before the first: see the head of the room.
        if back && !carried {
            let first = frames.iter().position(|frame| read_piece(frame).1 == 0).unwrap();
            frames.swap(0, first);
        }
        let port = if back && !carried { LAN } else { WAN };
        let left = run(&mut bench, port, &frames);
        let mut pieces = Vec::new();
        let mut whole = 0;
        for frame in left.into_iter().filter_map(Result::ok) {
            pieces.push(frame.1);
            if pieces.iter().map(|piece| piece.len() - read_piece(piece).3).sum::<usize>() == length + 8 {
                let seen = Seen::of(&join(&std::mem::take(&mut pieces)));
                prop_assert_eq!((seen.src.to_string(), seen.dst.to_string()), (new_from.to_string(), new_to.to_string()));
                prop_assert_eq!(&seen.payload, &payload);
                whole += 1;
            }
        }
        prop_assert!(whole >= 1);
        BENCHES.with(|benches| benches.borrow_mut()[usize::from(carried)] = Some(bench));
    }
}
