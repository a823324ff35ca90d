use super::ip::{TCP, UDP, V4, V6};
use super::l4::{ACK, SYN};
use super::*;
use crate::counters::Refusal;
use crate::testing::{Build, cut, join, piece};
use proptest::prelude::*;

fn packet(frame: &[u8]) -> Packet {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn refusal(frame: &[u8]) -> Refusal {
    parse(frame).expect_err("refused")
}

#[test]
fn a_tcp_packet_gives_its_tuple_and_flags() {
    let frame = Build::tcp("198.51.100.7:40000", "203.0.113.10:110", SYN).frame();
    let packet = packet(&frame);
    assert_eq!((packet.family, packet.protocol, packet.tcp_flags, packet.ttl), (V4, TCP, SYN, 64));
    assert_eq!(format!("{:?}", packet.key()), "6 [198.51.100.7]:40000 -> [203.0.113.10]:110");
    assert_eq!(packet.end as usize, frame.len());
}

#[test]
fn padding_behind_the_packet_does_not_count() {
    let mut frame = Build::udp("[2001:db8::7]:5000", "[2001:db8::10]:53", b"x").frame();
    let end = frame.len();
    frame.resize(100, 0);
    let packet = packet(&frame);
    assert_eq!((packet.family, packet.protocol, packet.end as usize), (V6, UDP, end));
}

/// Each line: what is wrong, how it gets wrong, and its name.
#[test]
fn what_cannot_be_is_refused_by_name() {
    type Spoil = fn(&mut Vec<u8>);
    let cases: &[(&str, Spoil, Refusal)] = &[
        ("cut off in the Ethernet header", |f| f.truncate(13), Refusal::ShortFrame),
        ("cut off in the IP header", |f| f.truncate(30), Refusal::IpHeader),
        ("IP version 5", |f| f[14] = 0x55, Refusal::IpVersion),
        ("a header of 16 bytes", |f| f[14] = 0x44, Refusal::IpHeader),
        ("longer than the frame", |f| f[17] += 1, Refusal::IpLength),
        ("shorter than its header", |f| (f[16], f[17]) = (0, 19), Refusal::IpLength),
        ("a wrong header checksum", |f| f[24] ^= 1, Refusal::IpChecksum),
    ];
    for (what, spoil, name) in cases {
        let mut frame = Build::tcp("198.51.100.7:40000", "203.0.113.10:110", SYN).frame();
        spoil(&mut frame);
        assert_eq!(refusal(&frame), *name, "{what}");
    }
}

#[test]
fn tcp_headers_that_cannot_be_are_refused() {
    let spoil = |spoil: fn(&mut Vec<u8>)| {
        let mut frame = Build::tcp("198.51.100.7:40000", "203.0.113.10:110", SYN).frame();
        spoil(&mut frame);
        refusal(&frame)
    };
    assert_eq!(spoil(|f| f[46] = 0x40), Refusal::TcpHeader, "data offset 4");
    assert_eq!(spoil(|f| f[46] = 0xf0), Refusal::TcpHeader, "data offset behind the end");
    assert_eq!(spoil(|f| f[47] = 0x03), Refusal::TcpFlags, "SYN and FIN");
    assert_eq!(spoil(|f| f[47] = 0x06), Refusal::TcpFlags, "SYN and RST");
    assert_eq!(spoil(|f| f[47] = 0x00), Refusal::TcpFlags, "no flag");
    assert_eq!(spoil(|f| f[47] = 0x29), Refusal::TcpFlags, "FIN, PSH, URG");
    assert_eq!(spoil(|f| (f[34], f[35]) = (0, 0)), Refusal::PortZero);
}

#[test]
fn sources_that_cannot_be_are_martians() {
    for src in ["127.0.0.1:1000", "0.0.0.0:1000", "224.0.0.1:1000", "255.255.255.255:1000", "203.0.113.10:110"] {
        assert_eq!(refusal(&Build::tcp(src, "203.0.113.10:110", SYN).frame()), Refusal::Martian, "{src}");
    }
    for src in ["[::1]:1000", "[ff02::1]:1000", "[::]:1000", "[2001:db8::10]:110"] {
        assert_eq!(refusal(&Build::tcp(src, "[2001:db8::10]:110", SYN).frame()), Refusal::Martian, "{src}");
    }
}

#[test]
fn options_have_their_own_name() {
    let mut frame = Build::udp("198.51.100.7:5000", "203.0.113.10:53", b"0123").frame();
    frame[14] = 0x46; // The UDP header's first word becomes an option.
    fix_v4_checksum(&mut frame);
    assert_eq!(refusal(&frame), Refusal::IpOptions);
}

/// A datagram of 3008 bytes of IP payload, both families, in pieces.
fn pieces(v4: bool, cuts: &[usize]) -> Vec<Vec<u8>> {
    let ends = if v4 { ("198.51.100.7:5000", "203.0.113.10:53") } else { ("[2001:db8::7]:5000", "[2001:db8::10]:53") };
    cut(&Build::udp(ends.0, ends.1, &[7; 3000]).frame(), 0x1234_5678, cuts)
}

#[test]
fn a_first_fragment_has_ports_and_the_later_ones_have_a_place() {
    for (v4, id, l4) in [(true, 0x5678, 34), (false, 0x1234_5678, 62)] {
        let seen = pieces(v4, &[1480, 2000]).iter().map(|frame| packet(frame)).collect::<Vec<_>>();
        let places = seen.iter().map(|packet| packet.fragment.map(|f| (f.id, f.offset, f.more, f.protocol)));
        let wanted = [(id, 0, true, UDP), (id, 1480, true, UDP), (id, 2000, false, UDP)].map(Some);
        assert!(places.eq(wanted), "{seen:?}");
        assert_eq!(seen.iter().map(|packet| packet.src_port).collect::<Vec<_>>(), [5000, 0, 0]);
        assert_eq!(seen.iter().map(|packet| packet.is_later_fragment()).collect::<Vec<_>>(), [false, true, true]);
        assert!(seen.iter().all(|packet| (packet.l4, packet.protocol) == (l4, UDP)), "{seen:?}");
    }
}

/// RFC 6946: with nothing before and nothing after it, it is no fragment.
#[test]
fn a_fragment_header_around_all_of_a_packet_is_walked_over() {
    let packet = packet(&pieces(false, &[])[0]);
    assert_eq!((packet.fragment, packet.l4, packet.dst_port), (None, 62, 53));
}

/// RFC 1858 3.1 and 3.2, RFC 3128.
#[test]
fn fragments_that_hide_the_tcp_header_are_refused() {
    for (src, dst) in [("198.51.100.7:4000", "203.0.113.10:110"), ("[2001:db8::7]:4000", "[2001:db8::10]:110")] {
        let mut build = Build::tcp(src, dst, SYN);
        build.options = vec![1; 20];
        build.payload = vec![0; 100];
        for cuts in [[8, 48], [16, 48]] {
            let frames = cut(&build.frame(), 1, &cuts);
            assert_eq!(refusal(&frames[0]), Refusal::FragmentTiny, "a header that is cut");
            assert_eq!(refusal(&frames[1]), Refusal::FragmentTiny, "a piece of the header");
        }
        let frames = cut(&build.frame(), 1, &[32, 40, 64]);
        assert_eq!(refusal(&frames[0]), Refusal::FragmentTiny, "options that are cut");
        let frames = cut(&build.frame(), 1, &[40]);
        assert_eq!(packet(&frames[0]).tcp_flags, SYN);
        assert_eq!(packet(&frames[1]).tcp_flags, 0);
    }
    assert_eq!(packet(&pieces(true, &[8])[0]).dst_port, 53, "a UDP header is 8 bytes");
    assert!(packet(&pieces(false, &[8])[1]).is_later_fragment());
}

#[test]
fn fragments_of_impossible_length_are_refused() {
    for v4 in [true, false] {
        let whole = pieces(v4, &[]).remove(0);
        // An id of its own makes `piece` work on a frame without a fragment header.
        let whole = if v4 { whole } else { join(&[whole]) };
        let with = |from: usize, length: usize| piece(&whole, 1, from, &vec![0; length]);
        assert_eq!(refusal(&with(8, 1001)), Refusal::FragmentLength, "no multiple of 8, and others follow");
        assert_eq!(refusal(&with(8, 0)), Refusal::FragmentLength, "nothing");
        // The ping of death.
        assert_eq!(refusal(&with(65_528, 8)), Refusal::FragmentLength, "behind the end of the largest packet");
        let most = if v4 { 65_535 - 20 } else { 65_535 };
        assert!(packet(&with(65_000, most - 65_000)).is_later_fragment());
        assert_eq!(refusal(&with(65_000, most - 65_000 + 1)), Refusal::FragmentLength);
    }
}

#[test]
fn a_fragment_of_a_fragment_and_a_cut_fragment_header_are_refused() {
    let mut frame = pieces(false, &[1480]).remove(0);
    frame[54] = 44;
    assert_eq!(refusal(&frame), Refusal::IpExtension);
    let mut frame = pieces(false, &[1480]).remove(0);
    frame.truncate(60);
    put_be16(&mut frame, 18, 6);
    assert_eq!(refusal(&frame), Refusal::IpExtension);
}

/// In IPv6, headers may stand on both sides of the fragment header; what is in front is in every piece.
#[test]
fn extension_headers_around_the_fragment_header() {
    let options = [UDP, 0, 1, 4, 0, 0, 0, 0];
    let mut frame = pieces(false, &[1480]).remove(0);
    frame[54] = 60;
    frame.splice(62..62, options);
    put_be16(&mut frame, 18, 8 + 8 + 1480);
    let first = packet(&frame);
    assert_eq!((first.l4, first.protocol, first.dst_port, first.fragment.unwrap().protocol), (70, UDP, 53, 60));
    let mut frame = pieces(false, &[1480]).remove(1);
    frame[54] = 60;
    let later = packet(&frame);
    assert_eq!((later.l4, later.protocol, later.fragment.unwrap().at), (62, 60, 54));
}

/// RFC 792, RFC 4443: the ports are in the first fragment only.
#[test]
fn an_error_about_a_first_fragment_is_usable_and_one_about_a_later_is_not() {
    let frames = pieces(false, &[1480]);
    let error = |quote: &[u8]| Build::icmp("2001:db8::99", "2001:db8::7", 2, 0, quote).frame();
    let first = error(&frames[0][14..]);
    let quoted = icmp::quoted(&first, &packet(&first)).unwrap();
    assert_eq!((quoted.key.src.port, quoted.key.dst.port, quoted.l4 - quoted.l3), (5000, 53, 48));
    let later = error(&frames[1][14..]);
    assert_eq!(icmp::quoted(&later, &packet(&later)).unwrap_err(), Refusal::IcmpQuote);
}

fn fix_v4_checksum(frame: &mut [u8]) {
    let header_len = usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let check = !checksum::fold(checksum::sum(&frame[14..14 + header_len]));
    put_raw16(frame, 24, check);
}

#[test]
fn extension_headers_are_walked_over_and_bounded() {
    let with = |chain: &[u8], first: u8| {
        let mut frame = Build::tcp("[2001:db8::7]:4000", "[2001:db8::10]:110", ACK).frame();
        frame[20] = first;
        frame.splice(54..54, chain.iter().copied());
        let length = (frame.len() - 54) as u16;
        put_be16(&mut frame, 18, length);
        frame
    };
    assert_eq!(packet(&with(&[6, 0, 1, 4, 0, 0, 0, 0], 60)).l4, 54 + 8, "destination options");
    assert_eq!(packet(&with(&[60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0], 0)).l4, 54 + 16);
    assert_eq!(refusal(&with(&[6, 0, 0, 0, 0, 0, 0, 0], 43)), Refusal::IpOptions, "a routing header");
    assert_eq!(refusal(&with(&[6, 200, 1, 4, 0, 0, 0, 0], 60)), Refusal::IpExtension, "longer than the packet");
    assert_eq!(refusal(&with(&[60, 0, 1, 4, 0, 0, 0, 0].repeat(7), 60)), Refusal::IpExtension, "too many");
}

#[test]
fn the_mss_option_is_found_among_others_or_not_at_all() {
    let header = |options: &[u8]| [&[0; 20], options].concat();
    assert_eq!(l4::mss_option(&header(&[2, 4, 5, 180])), Some(22));
    assert_eq!(l4::mss_option(&header(&[1, 2, 4, 5, 180, 0, 0, 0])), Some(23));
    assert_eq!(l4::mss_option(&header(&[4, 2, 3, 3, 7, 2, 4, 5])), None, "cut off");
    assert_eq!(l4::mss_option(&header(&[0, 2, 4, 5, 180, 0, 0, 0])), None, "behind the end of options");
    assert_eq!(l4::mss_option(&header(&[8, 0, 2, 4])), None, "an option of no length");
    assert_eq!(l4::mss_option(&header(&[])), None);
}

proptest! {
    /// Whatever is parsed, its offsets lie inside the frame.
    #[test]
    fn rubbish_never_reads_outside(
        mut frame in prop::collection::vec(any::<u8>(), 0..200),
        ethertype in prop::sample::select(vec![[8u8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]),
        version in any::<bool>(),
    ) {
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&ethertype);
            if version {
                frame[14] = if ethertype == [8, 0] { 0x45 } else { 0x60 };
            }
        }
        if let Ok(Parsed::Ip(packet)) = parse(&frame) {
            prop_assert!(usize::from(packet.l4) <= packet.end as usize);
            prop_assert!(packet.end as usize <= frame.len());
            prop_assert!(packet.fragment.is_none_or(|f| usize::from(f.at) + 8 <= packet.end as usize && f.offset % 8 == 0));
            let _ = icmp::quoted(&frame, &packet).map(|quoted| assert!(quoted.l4 + 8 <= packet.end as usize));
        }
    }
}
