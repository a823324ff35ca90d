//! Fragments: Katran drops them all. Here they reach the real server that the first one goes to, each in the flow's tunnel, and make
//! up there what the client has sent.

use super::*;
use crate::counters::Refusal;
use crate::testing::{cut, join, read_piece};
use crate::wire::l4::SYN;

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// What leaves, of frames in this order and of what each sets free.
fn run(bench: &mut Bench, frames: &[&Vec<u8>]) -> Vec<Vec<u8>> {
    let mut left = Vec::new();
    for frame in frames {
        let ran = bench.run(WAN, frame, Offload::default());
        for ran in [ran].into_iter().chain(bench.run_ready()) {
            match ran {
                Ok((port, frame, _)) => {
                    assert_eq!(port, LAN);
                    left.push(frame);
                }
                Err(verdict) => assert_eq!(verdict, Verdict::Kept),
            }
        }
    }
    left
}

#[test]
fn a_datagram_in_pieces_arrives_in_one_tunnel_in_whatever_order() {
    let text: Vec<u8> = (0..3600_u32).map(|n| (n * 7 + n / 251) as u8).collect();
    for encapsulation in ALL {
        let mut bench = bench(encapsulation);
        for (client, vip) in [(CLIENT4, QUIC4), (CLIENT6, QUIC6)] {
            for (n, order) in ORDERS.into_iter().enumerate() {
                let client = client.replace(":40000", &format!(":{}", 40_000 + n));
                let datagram = Build { tos: 0x2a, ..Build::udp(&client, vip, &text) };
                let pieces = cut(&datagram.frame(), 0x1234 + n as u32, &[1200, 2400]);
                let left = run(&mut bench, &order.map(|at| &pieces[at]));
                let opened: Vec<_> = left.iter().map(|frame| open(frame, shim(encapsulation))).collect();
                assert_eq!(opened.len(), 3);
                for piece in &opened {
                    let of = |piece: &Opened| (piece.src, piece.dst, piece.ports, piece.label, piece.ttl, piece.tos);
                    assert_eq!(of(piece), of(&opened[0]), "one outer flow");
                    assert_eq!((piece.ttl, piece.tos), (64, 0x2a));
                    assert_eq!(read_piece(&piece.inner).0, 0x1234 + n as u32);
                }
                let inner: Vec<_> = opened.iter().map(|piece| piece.inner.clone()).collect();
                let seen = Seen::of(&join(&inner));
                let mac = mac_of(&opened[0].dst.to_string());
                assert_eq!(seen, Seen { ttl: 63, dst_mac: mac, src_mac: LAN_MAC, ..Seen::of(&datagram.frame()) });
                let held = order.iter().position(|at| *at == 0).unwrap() as u64;
                let mut moved = vec![("flows_local", 1), ("encapsulated", 3)];
                moved.extend((held > 0).then_some(("fragments_held", held)));
                assert_eq!(bench.moved(), moved);
            }
        }
    }
}

#[test]
fn pieces_and_whole_datagrams_of_a_flow_reach_the_same_server() {
    let mut bench = bench(Encapsulation::Gue);
    for n in 0..50 {
        let client = format!("198.18.1.{n}:5000");
        let whole = reaches(&mut bench, Encapsulation::Gue, &Build::udp(&client, QUIC4, b"whole"));
        let pieces = cut(&Build::udp(&client, QUIC4, &[7; 2000]).frame(), n, &[1200]);
        for frame in run(&mut bench, &[&pieces[1], &pieces[0]]) {
            let piece = open(&frame, 4);
            assert_eq!((piece.dst, piece.ports), (whole.dst, whole.ports));
        }
    }
}

/// Katran's own two cases: offset 1 without a first piece, and an IPv6 fragment header that has nothing behind it.
#[test]
fn a_piece_that_cannot_be_is_refused_and_one_without_a_first_goes_nowhere() {
    let mut bench = bench(Encapsulation::Ipip);
    let alone = |client, vip| crate::testing::piece(&Build::tcp(client, vip, SYN).frame(), 1, 8, &[0; 8]);
    for (client, vip) in [(CLIENT4, WEB4), (CLIENT6, WEB6)] {
        let stopped = bench.run(WAN, &alone(client, vip), Offload::default());
        assert_eq!(stopped, Err(Verdict::Refuse(Refusal::FragmentTiny)), "it would write over the TCP header");
        assert_eq!(bench.moved(), [("drop_fragment_tiny", 1)]);
    }
    for (client, vip) in [(CLIENT4, QUIC4), (CLIENT6, QUIC6)] {
        let frame = crate::testing::piece(&Build::udp(client, vip, &[0; 64]).frame(), 1, 8, &[0; 8]);
        assert_eq!(bench.run(WAN, &frame, Offload::default()), Err(Verdict::Kept));
        assert_eq!(bench.moved(), [("fragments_held", 1)]);
    }
    bench.wait(std::time::Duration::from_secs(4));
    assert_eq!(bench.moved(), [("drop_fragment_timeout", 2)]);
    let mut empty = crate::testing::piece(&Build::tcp(CLIENT6, WEB6, SYN).frame(), 1, 0, &[0; 8]);
    empty.truncate(62);
    empty[18..20].copy_from_slice(&8_u16.to_be_bytes());
    assert_eq!(bench.run(WAN, &empty, Offload::default()), Err(Verdict::Refuse(Refusal::FragmentLength)));
}
