//! Random and mutated frames: nothing panics, nothing reads or writes outside, and what leaves is a sound packet.
//!
//! Three million frames, in the debug build, where arithmetic that overflows panics; `FARSIDE_RUBBISH` sets another number.

use super::{Bench, CLIENT, LAN, PIP, REAL_A, REMOTE, VIP, WAN, one_sided};
use crate::config::{Encapsulation, Mode};
use crate::counters::Refusal;
use crate::device::Offload;
use crate::route::Hop;
use crate::testing::{Build, cut};
use crate::wire::l4::{ACK, FIN, RST, SYN};
use crate::wire::{Parsed, checksum, parse};

/// xorshift64*: the same frames in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn frames() -> usize {
    std::env::var("FARSIDE_RUBBISH").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000_000)
}

/// One good frame of every kind that the data path knows.
fn seeds() -> Vec<Vec<u8>> {
    let pip = format!("{PIP}:1030");
    let mut with_options = Build::tcp(CLIENT, VIP, SYN);
    with_options.options = vec![2, 4, 0x23, 0, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let quote = Build::tcp(VIP, CLIENT, ACK).packet();
    let v6 = ("[2001:db8:c::7]:40000", "[2001:db8:1::10]:110");
    let mut seeds: Vec<Vec<u8>> = [SYN, ACK, FIN | ACK, RST, SYN | ACK]
        .iter()
        .flat_map(|flags| {
            [(CLIENT, VIP), (REAL_A, CLIENT), (REMOTE, pip.as_str()), v6].map(|(s, d)| Build::tcp(s, d, *flags).frame())
        })
        .collect();
    seeds.extend([
        with_options.frame(),
        Build::udp("198.18.0.7:5000", "203.0.113.10:514", b"message").frame(),
        Build::icmp("198.18.0.7", "203.0.113.10", 8, 0, b"ping").frame(),
        Build::icmp("192.0.2.77", "203.0.113.10", 3, 4, &quote).frame(),
        Build::icmp("2001:db8:77::1", "2001:db8:1::10", 2, 0, &Build::tcp(v6.1, v6.0, ACK).packet()).frame(),
        Build::icmp("2001:db8:1::fe", "ff02::1:ff00:10", 135, 0, &[0x20; 24]).frame(),
    ]);
    let datagrams = [
        Build::udp("198.18.0.7:5000", "203.0.113.10:514", &[7; 200]),
        Build::tcp(v6.0, v6.1, SYN),
        Build::tcp(CLIENT, VIP, ACK),
        Build::icmp("198.18.0.7", "203.0.113.10", 8, 0, &[7; 200]),
        Build::icmp("2001:db8:c::7", "2001:db8:1::10", 128, 0, &[7; 200]),
    ];
    // The same packets again and again, so that their pieces overlap, too.
    for (id, mut datagram) in datagrams.into_iter().enumerate() {
        datagram.payload.resize(200, 7);
        for cuts in [[24, 64, 128], [64, 120, 160]] {
            seeds.extend(cut(&datagram.frame(), id as u32, &cuts));
        }
    }
    seeds
}

fn fix_v4_checksum(frame: &mut [u8]) {
    let header = usize::from(frame.get(14).copied().unwrap_or(0) & 15) * 4;
    if frame.len() >= 14 + header.max(20) && frame[12..14] == [8, 0] && header >= 20 {
        frame[24..26].fill(0);
        let check = !checksum::fold(checksum::sum(&frame[14..14 + header]));
        frame[24..26].copy_from_slice(&check.to_ne_bytes());
    }
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..1 + random.below(6) {
        match random.below(8) {
            0 if frame.len() > 1 => frame.truncate(random.below(frame.len())),
            1 => frame.extend(std::iter::repeat_n(random.next() as u8, random.below(80))),
            _ if frame.is_empty() => {}
            // Mostly in the headers.
            2..5 => {
                let at = 12 + random.below(60);
                if let Some(byte) = frame.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
            5 => {
                let at = random.below(frame.len());
                frame[at] ^= 1 << random.below(8);
            }
            _ => {
                let at = random.below(frame.len());
                frame[at] = [0, 0xff, 0x7f, 0x80, 1][random.below(5)];
            }
        }
    }
    // Else nearly everything would end at the header checksum.
    if random.below(4) > 0 {
        fix_v4_checksum(frame);
    }
}

/// What has left can be read again: lengths, header checksum, ports.
fn assert_sound(frame: &[u8]) {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => assert_eq!(packet.end as usize, frame.len(), "{frame:02x?}"),
        // An ARP reply is no request.
        Ok(Parsed::Other) => assert_eq!((&frame[12..14], &frame[20..22]), (&[8, 6][..], &[0, 2][..])),
        other => panic!("{other:?}: {frame:02x?}"),
    }
}

/// A frame that was good once, or never, and what its sender may have left undone.
fn rubbish(n: usize, seeds: &[Vec<u8>], random: &mut Random) -> (Vec<u8>, Offload) {
    let mut frame = if n.is_multiple_of(10) {
        (0..random.below(200)).map(|_| random.next() as u8).collect()
    } else {
        seeds[random.below(seeds.len())].clone()
    };
    if n % 10 != 1 {
        mutate(random, &mut frame);
    }
    let offload = match random.below(8) {
        0 => Offload {
            needs_csum: true,
            csum_start: random.next() as u16,
            csum_offset: random.next() as u16,
            gso_type: random.next() as u8,
            gso_size: random.next() as u16,
            hdr_len: random.next() as u16,
            csum_valid: false,
        },
        1 => Offload { needs_csum: true, csum_start: 34, csum_offset: 16, ..Offload::default() },
        _ => Offload::default(),
    };
    (frame, offload)
}

#[test]
fn rubbish_neither_panics_nor_leaves_as_rubbish() {
    let mut bench = Bench::new();
    let mut random = Random(0x5eed);
    let seeds = seeds();
    bench.connect(CLIENT, VIP);
    let mut left = 0;
    for n in 0..frames() {
        let (frame, offload) = rubbish(n, &seeds, &mut random);
        if n % 5000 == 0 {
            for service in ["pop3/10", "syslog/10", "pop6/[fd"] {
                bench.set_up(service, random.below(2) == 0);
            }
            bench.wait(std::time::Duration::from_secs(40));
        }
        let port = if random.below(2) == 0 { WAN } else { LAN };
        if let Ok((_, frame, offload)) = bench.run(port, &frame, offload) {
            left += 1;
            assert_sound(&frame);
            assert!(offload == Offload::default() || frame.len() >= 42);
        }
        if n % 8 == 0 {
            bench.run_ready().into_iter().filter_map(Result::ok).for_each(|(_, frame, _)| assert_sound(&frame));
        }
    }
    assert!(left > frames() / 50, "most of it never got as far as to be forwarded: {left}");
}

/// The same in the modes that put something in front of packets and cut them, over a link so narrow that they must.
#[test]
fn rubbish_is_no_more_in_one_sided_modes() {
    let modes = [
        (Mode::Direct, Encapsulation::Ipip, "10.0.0.11"),
        (Mode::Tunnel, Encapsulation::Ipip, "fd00::11"),
        (Mode::Tunnel, Encapsulation::Gre, "10.0.0.11"),
        (Mode::Tunnel, Encapsulation::Gue, "fd00::11"),
    ];
    for (mode, encapsulation, end) in modes {
        let mut config = one_sided(mode, encapsulation);
        config.services[0].reals.truncate(1);
        config.services[0].reals[0].address = end.parse().unwrap();
        let mut bench = Bench::with(config);
        for id in 2..10 {
            if let Some(hop) = bench.shared.hops.get(id).filter(|hop| hop.port == LAN) {
                bench.shared.hops.set(id, Hop { mtu: 150, ..hop });
            }
        }
        let mut random = Random(0x5eed);
        let mut seeds = seeds();
        let (_, sent, _) = bench.run(WAN, &Build::tcp(CLIENT, VIP, SYN).frame(), Offload::default()).unwrap();
        let (source, kind) = if end.contains(':') { ("fd00::1", 2) } else { ("10.0.0.1", 3) };
        let router = if end.contains(':') { "fd00::fe" } else { "10.0.0.254" };
        seeds.push(Build::icmp(router, source, kind, if kind == 3 { 4 } else { 0 }, &sent[14..]).frame());
        let mut large = Build::udp("198.18.0.7:5000", "203.0.113.10:514", &[7; 300]).frame();
        large[20] = 0;
        fix_v4_checksum(&mut large);
        seeds.push(large);
        let (mut left, mut in_pieces) = (0, 0);
        for n in 0..frames() / 12 {
            let (frame, offload) = rubbish(n, &seeds, &mut random);
            if n % 5000 == 0 {
                bench.wait(std::time::Duration::from_secs(40));
            }
            if n % 8 == 0 {
                bench.run_ready().into_iter().filter_map(Result::ok).for_each(|(_, frame, _)| assert_sound(&frame));
            }
            let port = if random.below(2) == 0 { WAN } else { LAN };
            let Ok((_, pieces, _)) = bench.run_all(port, &frame, offload) else { continue };
            left += 1;
            in_pieces += usize::from(pieces.len() > 1);
            for piece in &pieces {
                match parse(piece) {
                    Err(Refusal::Fragment) if pieces.len() > 1 => {}
                    _ => assert_sound(piece),
                }
            }
        }
        assert!(
            left > frames() / 12 / 50 && in_pieces > 100,
            "{mode:?} {encapsulation:?}: {left}, {in_pieces} in pieces"
        );
    }
}
