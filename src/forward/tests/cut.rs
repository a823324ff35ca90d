//! Cutting: joined segments that go into a tunnel, packets whose sender lets them be fragmented.

use super::bench::{Bench, CLIENT, CLIENT6, LAN, VIP, VIP6, WAN, one_sided};
use super::tunnel::open;
use crate::config::{Encapsulation, Mode};
use crate::device::Offload;
use crate::testing::{Build, Seen};
use crate::wire::ip::{TCP, UDP};
use crate::wire::l4::{ACK, FIN, SYN};
use pnet_packet::ipv4;
use proptest::prelude::*;

const PSH: u8 = 8;
const CWR: u8 = 0x80;

/// What the kernel says of joined segments.
fn joined(packet: &Build, gso_size: u16) -> Offload {
    let v6 = packet.src.is_ipv6();
    let csum_start = if v6 { 54 } else { 34 };
    Offload {
        needs_csum: packet.partial,
        csum_start,
        csum_offset: if packet.protocol == TCP { 16 } else { 6 },
        gso_type: match (packet.protocol, v6) {
            (UDP, _) => 5,
            (_, false) => 1,
            (_, true) => 4,
        },
        gso_size,
        hdr_len: csum_start + if packet.protocol == TCP { 20 + packet.options.len() as u16 } else { 8 },
        csum_valid: false,
    }
}

/// A tunnel's bench on which the flow of `packet` is on record.
fn tunnel(encapsulation: Encapsulation, packet: &Build) -> Bench {
    let mut bench = Bench::with(one_sided(Mode::Tunnel, encapsulation));
    if packet.protocol == TCP {
        let syn = Build { flags: SYN, payload: Vec::new(), partial: false, ..packet.clone() };
        bench.run(WAN, &syn.frame(), Offload::default()).unwrap();
    }
    bench
}

fn identification(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[18], frame[19]])
}

/// The packet without its "don't fragment".
fn divisible(packet: &Build) -> Vec<u8> {
    let mut frame = packet.frame();
    frame[20] = 0;
    let sum = ipv4::checksum(&ipv4::Ipv4Packet::new(&frame[14..]).unwrap());
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Puts fragments together, in whatever order, as a receiver does: gives the frame of the whole packet.
fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut length = None;
    for frame in fragments {
        let ip = ipv4::Ipv4Packet::new(&frame[14..]).unwrap();
        assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
        assert_eq!(usize::from(ip.get_total_length()), frame.len() - 14);
        assert_eq!(identification(frame), identification(&fragments[0]));
        let at = usize::from(ip.get_fragment_offset()) * 8;
        let end = at + frame.len() - 34;
        if whole.len() < end {
            whole.resize(end, 0);
        }
        whole[at..end].copy_from_slice(&frame[34..]);
        match ip.get_flags() {
            1 => assert_eq!((frame.len() - 34) % 8, 0),
            0 => length = Some(end),
            flags => panic!("flags {flags}"),
        }
    }
    assert_eq!(length, Some(whole.len()));
    let mut frame = [&fragments[0][..34], &whole[..]].concat();
    frame[16..18].copy_from_slice(&(20 + whole.len() as u16).to_be_bytes());
    frame[20..22].fill(0);
    let sum = ipv4::checksum(&ipv4::Ipv4Packet::new(&frame[14..]).unwrap());
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn joined_segments_go_into_the_tunnel_one_by_one() {
    let mut data = Build::tcp(CLIENT, VIP, ACK | PSH | FIN | CWR);
    (data.partial, data.seq, data.payload) = (true, u32::MAX - 1000, (0..3000u32).map(|n| n as u8).collect());
    let mut bench = tunnel(Encapsulation::Ipip, &data);
    bench.moved();
    let (port, pieces, offload) = bench.run_all(WAN, &data.frame(), joined(&data, 1400)).unwrap();
    assert_eq!((port, offload, pieces.len()), (LAN, Offload::default(), 3));
    let opened: Vec<_> = pieces.iter().map(|frame| open(frame, 0)).collect();
    let seen: Vec<_> = opened.iter().map(|outer| Seen::of(&outer.inner)).collect();
    assert_eq!(seen.iter().map(|seen| seen.payload.len()).collect::<Vec<_>>(), [1400, 1400, 200]);
    assert_eq!(seen.iter().map(|seen| seen.flags).collect::<Vec<_>>(), [ACK | CWR, ACK, ACK | PSH | FIN]);
    assert_eq!(seen.iter().map(|seen| seen.seq).collect::<Vec<_>>(), [u32::MAX - 1000, 399, 1799]);
    let ids: Vec<u16> = opened.iter().map(|outer| identification(&outer.inner)).collect();
    assert_eq!(ids, [0x1234, 0x1235, 0x1236]);
    assert_eq!(seen.concat_payloads(), data.payload);
    assert_eq!(bench.moved(), [("encapsulated", 1), ("cut", 1)]);
}

trait Payloads {
    fn concat_payloads(&self) -> Vec<u8>;
}

impl Payloads for Vec<Seen> {
    fn concat_payloads(&self) -> Vec<u8> {
        self.iter().flat_map(|seen| seen.payload.clone()).collect()
    }
}

#[test]
fn joined_segments_too_large_for_the_tunnel_are_told_to_the_client() {
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    (data.partial, data.payload) = (true, vec![1; 4000]);
    let mut bench = tunnel(Encapsulation::Gue, &data);
    bench.moved();
    let (port, error, _) = bench.run(WAN, &data.frame(), joined(&data, 1460)).unwrap();
    let error = Seen::of(&error);
    assert_eq!((port, error.icmp, error.rest), (WAN, (3, 4), 1468));
    assert_eq!(bench.moved(), [("icmp_errors_sent", 1), ("drop_too_big", 1)]);
}

#[test]
fn a_datagram_that_its_sender_wants_fragmented_is() {
    let mut datagram = Build::udp("198.18.0.7:5000", "203.0.113.10:514", &vec![3; 9000]);
    datagram.partial = true;
    let offload = Offload {
        needs_csum: true,
        csum_start: 34,
        csum_offset: 6,
        gso_type: 3,
        gso_size: 1480,
        hdr_len: 42,
        csum_valid: false,
    };
    let mut bench = tunnel(Encapsulation::Gre, &datagram);
    let (_, pieces, _) = bench.run_all(WAN, &datagram.frame(), offload).unwrap();
    let inner: Vec<_> = pieces.iter().map(|frame| open(frame, 4).inner).collect();
    assert_eq!(Seen::of(&reassemble(&inner)).payload, datagram.payload);
}

#[test]
fn a_large_packet_that_may_be_fragmented_is_in_every_mode() {
    for mode in [Mode::Nat, Mode::Direct, Mode::Tunnel] {
        let mut config = one_sided(mode, Encapsulation::Ipip);
        config.services[1].reals.truncate(1);
        let mut bench = Bench::with(config);
        let datagram = Build::udp("198.18.0.7:5000", "203.0.113.10:514", &vec![9; 1600]);
        let frame = divisible(&datagram);
        let (port, pieces, _) = bench.run_all(WAN, &frame, Offload::default()).unwrap();
        assert_eq!((port, pieces.len()), (LAN, 2), "{mode:?}");
        let most = pieces.iter().map(|piece| piece.len() - 14).max().unwrap();
        assert!(most <= 1500, "{most}");
        let plain: Vec<_> =
            if mode == Mode::Tunnel { pieces.iter().map(|frame| open(frame, 0).inner).collect() } else { pieces };
        let seen = Seen::of(&reassemble(&plain));
        assert_eq!(seen.payload, datagram.payload);
        let to = if mode == Mode::Nat { "10.0.0.11:514" } else { "203.0.113.10:514" };
        assert_eq!((seen.dst.to_string().as_str(), seen.ttl), (to, if mode == Mode::Direct { 64 } else { 63 }));
        let encapsulated = (mode == Mode::Tunnel).then_some(("encapsulated", 1));
        let moved: Vec<_> = [Some(("flows_local", 1)), encapsulated, Some(("cut", 1))].into_iter().flatten().collect();
        assert_eq!(bench.moved(), moved);
    }
}

#[test]
fn joined_segments_that_are_too_large_and_may_be_fragmented_are_both_parted_and_fragmented() {
    let mut data = Build::tcp(CLIENT, VIP, ACK);
    (data.partial, data.payload) = (true, (0..4380u32).map(|n| (n / 7) as u8).collect());
    let mut bench = tunnel(Encapsulation::Ipip, &data);
    let (_, pieces, _) = bench.run_all(WAN, &divisible(&data), joined(&data, 1460)).unwrap();
    assert_eq!(pieces.len(), 6);
    let inner: Vec<_> = pieces.iter().map(|frame| open(frame, 0).inner).collect();
    let seen: Vec<_> = inner.chunks(2).map(|pair| Seen::of(&reassemble(pair))).collect();
    assert_eq!(seen.concat_payloads(), data.payload);
}

#[test]
fn a_checksum_that_is_still_partial_is_completed_before_fragments_part_it() {
    let mut datagram = Build::udp("198.18.0.7:5000", "203.0.113.10:514", &vec![9; 1600]);
    datagram.partial = true;
    let offload = Offload { needs_csum: true, csum_start: 34, csum_offset: 6, ..Offload::default() };
    let mut bench = Bench::with(one_sided(Mode::Nat, Encapsulation::Ipip));
    let (_, pieces, sent) = bench.run_all(WAN, &divisible(&datagram), offload).unwrap();
    assert_eq!(sent, Offload::default());
    assert_eq!(Seen::of(&reassemble(&pieces)).dst.to_string(), "10.0.0.11:514");
}

fn any_encapsulation() -> impl Strategy<Value = Encapsulation> {
    prop::sample::select(vec![Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue, Encapsulation::Gue1])
}

proptest! {
    // Each case has a world of its own.
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn segments_put_together_are_what_was_joined(
        encapsulation in any_encapsulation(),
        (v6, udp, partial) in any::<(bool, bool, bool)>(),
        size in 8..=1400u16,
        payload in prop::collection::vec(any::<u8>(), 1..9000),
        seq in any::<u32>(),
        options in 0..=10usize,
    ) {
        let udp = udp && !v6;
        let (client, vip) = match (v6, udp) {
            (true, _) => (CLIENT6, VIP6),
            (false, true) => ("198.18.0.7:5000", "203.0.113.10:514"),
            (false, false) => (CLIENT, VIP),
        };
        let mut data = if udp { Build::udp(client, vip, &payload) } else { Build::tcp(client, vip, ACK | PSH) };
        (data.partial, data.seq, data.payload) = (partial, seq, payload);
        if !udp {
            data.options = vec![1; 4 * options];
        }
        let size = size.min(1448 - 60 - 4 * options as u16);
        let mut bench = tunnel(encapsulation, &data);
        let (_, pieces, _) = bench.run_all(WAN, &data.frame(), joined(&data, size)).unwrap();
        let shim = if matches!(encapsulation, Encapsulation::Gre | Encapsulation::Gue) { 4 } else { 0 };
        let seen: Vec<_> = pieces.iter().map(|frame| Seen::of(&open(frame, shim).inner)).collect();
        prop_assert_eq!(seen.len(), data.payload.len().div_ceil(size.into()));
        let mut at = 0usize;
        for piece in &seen {
            prop_assert!(piece.payload.len() == usize::from(size) || at + piece.payload.len() == data.payload.len());
            if !udp {
                prop_assert_eq!(piece.seq, seq.wrapping_add(at as u32));
            }
            prop_assert_eq!(&piece.options, &data.options);
            at += piece.payload.len();
        }
        prop_assert_eq!(seen.concat_payloads(), data.payload);
    }

    #[test]
    fn fragments_put_together_are_the_packet(
        mtu in 68..1500u32,
        length in 1..6000usize,
        (first, more) in (0..100u16, any::<bool>()),
    ) {
        use crate::device::Frame;
        use crate::forward::cut::{Cut, Cutter};
        use crate::wire::{Parsed, parse};
        let datagram = Build::udp("198.18.0.7:5000", "203.0.113.10:514", &vec![5; length]);
        let mut bytes = divisible(&datagram);
        let Ok(Parsed::Ip(packet)) = parse(&bytes) else { panic!("it parses") };
        // As if it were itself a fragment: cut on, it has the same place in the whole.
        let field = first | if more { 0x2000 } else { 0 };
        bytes[20..22].copy_from_slice(&field.to_be_bytes());
        let len = bytes.len();
        let original = bytes.clone();
        let frame =
            Frame { buf: &mut bytes, start: 0, len, offload: Offload::default(), port: 0, wire_len: len };
        let cut = Cut::new(&frame, &packet, 0, mtu);
        let mut cutter = Cutter::new();
        cutter.begin();
        let mut pieces = Vec::new();
        while let Some(piece) = cutter.piece(&cut, frame.buf) {
            prop_assert!(piece.len() - 14 <= mtu as usize);
            pieces.push(piece.to_vec());
        }
        if len - 14 <= mtu as usize {
            prop_assert_eq!(pieces, vec![original]);
        } else {
            let fields: Vec<u16> = pieces.iter().map(|piece| u16::from_be_bytes([piece[20], piece[21]])).collect();
            let (last, before) = fields.split_last().unwrap();
            prop_assert_eq!(last & 0x2000 != 0, more);
            prop_assert!(before.iter().all(|field| field & 0x2000 != 0));
            let mut payload: Vec<u8> = Vec::new();
            for piece in &pieces {
                let offset = u16::from_be_bytes([piece[20], piece[21]]) & 0x1fff;
                prop_assert_eq!(usize::from(offset - first) * 8, payload.len());
                payload.extend(&piece[34..]);
            }
            prop_assert_eq!(&payload, &original[34..]);
        }
    }
}
