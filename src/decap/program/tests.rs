//! What the kernel program makes of frames, asked of the kernel itself (BPF_PROG_TEST_RUN), beside what user space makes of them.
//! Needs root.

use super::*;
use crate::decap::strip::{GueVariants, Refused, Wrap, carry_mark, strip};
use crate::sys::testing::Namespace;
use crate::wire::checksum::{fold, pseudo_header, sum};
use crate::wire::ip::{TCP, UDP};
use crate::wire::put_raw16;

const VIPS: [&str; 2] = ["203.0.113.10", "2001:db8:1::10"];
const HERE: [&str; 2] = ["10.0.0.2", "fd00::2"];
const THERE: [&str; 2] = ["10.0.0.1", "fd00::1"];
const CLIENT: [&str; 2] = ["192.0.2.1", "2001:db8:c::1"];
const PORT: u16 = 6080;
/// TC_ACT_REDIRECT and TC_ACT_UNSPEC.
const REDIRECTED: i32 = 7;
const LEFT: i32 = -1;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn program(wraps: [bool; 5]) -> Program {
    let mut program = Program::load(1, PORT, wraps).expect("loading the program (are you root?)");
    program.set_addresses(&HERE.map(ip), &VIPS.map(ip)).unwrap();
    program
}

/// An IP packet, whole.
fn packet(src: &str, dst: &str, protocol: u8, class: u8, payload: &[u8]) -> Vec<u8> {
    match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut packet = vec![0x45, class, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(payload);
            let len = packet.len() as u16;
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            sign(&mut packet);
            packet
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut packet = vec![0x60 | class >> 4, class << 4, 0, 0, 0, 0, protocol, 64];
            packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(payload);
            packet
        }
        _ => panic!("one family"),
    }
}

/// The IPv4 header's checksum anew.
fn sign(packet: &mut [u8]) {
    put_raw16(packet, 10, 0);
    let check = !fold(sum(&packet[..20]));
    put_raw16(packet, 10, check);
}

/// TCP or UDP from a client to a VIP.
fn inner(six: usize, protocol: u8, class: u8) -> Vec<u8> {
    let (mut l4, at) = if protocol == TCP { (vec![0; 20], 16) } else { (vec![0; 8], 6) };
    l4[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    if protocol == TCP {
        l4[12..14].copy_from_slice(&[0x50, 0x10]);
    }
    l4.extend(b"what the client says.");
    if protocol == UDP {
        l4[5] = l4.len() as u8;
    }
    let pseudo = pseudo_header(&ip(CLIENT[six]).into(), &ip(VIPS[six]).into(), protocol, l4.len() as u32);
    let check = !fold(pseudo + sum(&l4));
    put_raw16(&mut l4, at, check);
    packet(CLIENT[six], VIPS[six], protocol, class, &l4)
}

const WRAPS: [&str; 4] = ["ipip", "gre", "gue", "gue1"];

/// The outer protocol, and what stands between the outer IP header and the inner packet.
fn headers(wrap: &str, ip: &[u8]) -> (u8, Vec<u8>) {
    let six = ip[0] >> 4 == 6;
    let protocol = if six { 41 } else { 4 };
    let udp = |more: usize| {
        let len = (8 + more + ip.len()) as u16;
        [&[0xc0, 0][..], &PORT.to_be_bytes(), &len.to_be_bytes(), &[0, 0]].concat()
    };
    match wrap {
        "ipip" => (protocol, vec![]),
        "gre" if six => (47, vec![0, 0, 0x86, 0xdd]),
        "gre" => (47, vec![0, 0, 0x08, 0]),
        "gue" => (17, [udp(4), vec![0, protocol, 0, 0]].concat()),
        _ => (17, udp(0)),
    }
}

fn ethernet(packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0] };
    [&[0; 12][..], &kind, packet].concat()
}

fn tunneled(six: usize, wrap: &str, class: u8, ip: &[u8]) -> Vec<u8> {
    let (protocol, headers) = headers(wrap, ip);
    ethernet(&packet(THERE[six], HERE[six], protocol, class, &[&headers, ip].concat()))
}

/// As user space has it: what follows the outer IP (and UDP) header goes to `strip`.
fn stripped(six: usize, wrap: &str, class: u8, frame: &[u8]) -> Result<Vec<u8>, Refused> {
    let start = 14 + [20, 40][six];
    let (wrap, skip) = match (wrap, frame[start] >> 4) {
        ("ipip", 4) => (Wrap::Ipv4, 0),
        ("ipip", _) => (Wrap::Ipv6, 0),
        ("gre", _) => (Wrap::Gre, 0),
        _ => (Wrap::Gue, 8),
    };
    let mut bytes = frame[start + skip..].to_vec();
    let inner = strip(&bytes, wrap, GueVariants([true, true]))?;
    let ip = &mut bytes[inner.range];
    carry_mark(ip, class)?;
    Ok(ip.to_vec())
}

/// Whatever the wrap, the families and the congestion marks: taken, with the same bytes as by the sockets, or left to these.
#[test]
fn plain_tunnels_are_taken_off_as_user_space_does_it() {
    let mut program = program([true; 5]);
    let (mut taken, mut bytes) = (0, 0);
    for (outer, wrap) in (0..2).flat_map(|six| WRAPS.map(|wrap| (six, wrap))) {
        for (six, protocol) in [(0, TCP), (1, TCP), (0, UDP), (1, UDP)] {
            for (outside, inside) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))) {
                let case = format!("{wrap} over {outer}, {protocol} of {six}, marks {outside} {inside}");
                let ip = self::inner(six, protocol, 0xb8 | inside);
                let frame = tunneled(outer, wrap, 0x28 | outside, &ip);
                let ran = program.ask(&frame);
                match stripped(outer, wrap, 0x28 | outside, &frame) {
                    Ok(wanted) => {
                        assert_eq!(ran.verdict as i32, REDIRECTED, "{case}");
                        assert_eq!(&ran.frame[14..], wanted, "{case}");
                        (taken, bytes) = (taken + 1, bytes + wanted.len() as u64);
                    }
                    Err(why) => {
                        assert_eq!((why, outside, inside), (Refused::Congested, 3, 0), "{case}");
                        assert_eq!((ran.verdict as i32, ran.frame), (LEFT, frame), "{case}");
                    }
                }
            }
        }
    }
    let Taken { packets, bytes: counted } = program.taken();
    assert_eq!((packets.iter().sum::<u64>(), counted), (taken, bytes));
    assert_eq!(packets, [60, 60, 120, 120, 120], "of 64 and 128, those without a mark to lose");
}

/// Everything else is not touched.
#[test]
fn what_is_not_plain_is_left_to_the_sockets() {
    let plain = |wrap: &str| tunneled(0, wrap, 0, &inner(0, TCP, 0));
    // IPv4 over Ethernet: the outer header starts at 14, what it carries at 34.
    let changed = |wrap: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = plain(wrap);
        change(&mut frame);
        sign(&mut frame[14..34]);
        frame
    };
    let mut program = program([true; 5]);
    for wrap in WRAPS {
        assert_eq!(program.ask(&changed(wrap, &|_| {})).verdict as i32, REDIRECTED, "{wrap}");
    }
    let ip = inner(0, UDP, 0);
    let six = inner(1, TCP, 0);
    let mut extended = vec![17, 0, 1, 4, 0, 0, 0, 0];
    extended.extend(&ip);
    let to = |dst: &str, ip: &[u8]| ethernet(&packet(THERE[0], dst, 4, 0, ip));
    let not_vip = packet(CLIENT[0], HERE[0], UDP, 0, &[0; 8]);
    for (what, frame) in [
        ("a first fragment", changed("ipip", &|f| f[20] = 0x20)),
        ("a later fragment", changed("ipip", &|f| f[21] = 9)),
        ("another machine's address", to("10.0.0.3", &ip)),
        ("no VIP inside", to(HERE[0], &not_vip)),
        ("another machine's frame", changed("ipip", &|f| f[0] = 2)),
        ("an outer header that is damaged", {
            let mut frame = plain("ipip");
            frame[15] = 3;
            frame
        }),
        ("outer options", {
            let (mut frame, end) = (plain("ipip"), 34);
            frame.splice(end..end, [1, 1, 1, 1]);
            (frame[14], frame[17]) = (0x46, frame[17] + 4);
            put_raw16(&mut frame, 24, 0);
            let check = !fold(sum(&frame[14..38]));
            put_raw16(&mut frame, 24, check);
            frame
        }),
        ("an outer extension header", ethernet(&packet(THERE[1], HERE[1], 60, 0, &extended))),
        ("TCP", ethernet(&packet(THERE[0], HERE[0], TCP, 0, &[0; 40]))),
        ("IPv6 said to be IPv4", to(HERE[0], &six)),
        ("GRE with a key", changed("gre", &|f| f[34] = 0x20)),
        ("GRE with something else inside", changed("gre", &|f| f[36] = 0x88)),
        ("a GUE control message", changed("gue", &|f| f[42] = 0x20)),
        ("GUE with fields", changed("gue", &|f| f[42] = 1)),
        ("GUE with flags", changed("gue", &|f| f[45] = 1)),
        ("GUE of variant 2", changed("gue", &|f| f[42] = 0x80)),
        ("GUE variant 1 with version 5", changed("gue1", &|f| f[42] = 0x55)),
        ("another port", changed("gue", &|f| f[37] += 1)),
        ("a UDP length that is not the packet's", changed("gue", &|f| f[39] -= 1)),
        ("a checksum of the tunnel's that alone may tell damage", {
            let mut frame = tunneled(0, "gue", 0, &ip);
            frame[41] = 1;
            frame
        }),
        ("padding inside", changed("ipip", &|f| (f.push(0), f[17] += 1).1)),
        ("an inner packet that is cut off", changed("ipip", &|f| f[37] += 1)),
        ("an inner header that is longer than its packet", {
            let mut frame = to(HERE[0], &ip);
            frame[34] = 0x4f;
            frame
        }),
        ("less than a header", ethernet(&packet(THERE[0], HERE[0], 4, 0, &ip[..19]))),
        ("nothing", ethernet(&packet(THERE[0], HERE[0], 47, 0, &[]))),
    ] {
        let ran = program.ask(&frame);
        assert_eq!((ran.verdict as i32, ran.frame), (LEFT, frame), "{what}");
    }
    let mut summed = plain("gue");
    summed[41] = 1;
    assert_eq!(program.ask(&summed).verdict as i32, REDIRECTED, "TCP is summed itself");
}

#[test]
fn what_was_not_asked_for_is_left_to_the_sockets() {
    for (i, (wrap, six)) in [("ipip", 0), ("ipip", 1), ("gre", 0), ("gue", 0), ("gue1", 0)].into_iter().enumerate() {
        for only in 0..5 {
            let ran = program(std::array::from_fn(|n| n == only)).ask(&tunneled(0, wrap, 0, &inner(six, TCP, 0)));
            assert_eq!(ran.verdict as i32, if only == i { REDIRECTED } else { LEFT }, "{wrap} {six}, only {only}");
        }
    }
}

#[test]
fn addresses_come_and_go() {
    let mut program = program([true; 5]);
    let frame = tunneled(0, "ipip", 0, &inner(0, TCP, 0));
    program.set_addresses(&[], &VIPS.map(ip)).unwrap();
    assert_eq!(program.ask(&frame).verdict as i32, LEFT);
    // An address may be both.
    program.set_addresses(&[ip(HERE[0]), ip(VIPS[0])], &VIPS.map(ip)).unwrap();
    assert_eq!(program.ask(&frame).verdict as i32, REDIRECTED);
}

/// Before Linux 6.6: a filter, which a crash leaves and the next start takes away, whether that one uses the program or not.
#[test]
fn a_filter_left_by_a_crash_is_cleaned_up() {
    let host = Namespace::new("host");
    host.ip("link add h0 type veth peer name h1");
    let filters = || host.sh("tc filter show dev h0 ingress; tc qdisc show dev h0");
    let options = |program| Options {
        interfaces: vec!["h0".into()],
        vips: VIPS.map(ip).to_vec(),
        encapsulation: Encapsulation::All,
        gue_port: PORT,
        tun: String::new(),
        program,
    };
    for way in [Use::Auto, Use::Off] {
        host.run(|| {
            let mut program = program([true; 5]);
            program.use_clsact_only();
            std::mem::forget(program.attach("h0").unwrap());
        });
        assert!(filters().contains("farside_decap"), "{}", filters());
        let mut notes = Vec::new();
        let fast = host.run(|| Fast::start(&options(way), 1, &mut notes));
        assert!(!filters().contains("farside_decap") && !filters().contains("clsact"), "{}", filters());
        assert_eq!((fast.is_some(), notes), (way == Use::Auto, vec![]));
    }
    host.run(|| {
        let mut program = program([true; 5]);
        program.use_clsact_only();
        let ingress = program.attach("h0").unwrap();
        assert!(filters().contains("farside_decap"));
        drop(ingress);
    });
    assert!(!filters().contains("clsact"), "{}", filters());
}

#[test]
fn an_interface_that_cannot_have_it_goes_by_sockets_with_a_note() {
    let host = Namespace::new("host");
    let options = Options {
        interfaces: vec!["lo".into()],
        vips: VIPS.map(ip).to_vec(),
        encapsulation: Encapsulation::All,
        gue_port: PORT,
        tun: String::new(),
        program: Use::Auto,
    };
    let mut notes = Vec::new();
    assert!(host.run(|| Fast::start(&options, 1, &mut notes)).is_some());
    let note = notes.concat();
    assert!(note.starts_with("packets from lo go by sockets: ") && note.contains("not an Ethernet"), "{note}");
}
