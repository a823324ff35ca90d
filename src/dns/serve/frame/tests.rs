use super::*;
use crate::testing::{Build, OUR_MAC, Seen, THEIR_MAC};

const ENDS: [(&str, &str); 2] = [("192.0.2.7:40053", "203.0.113.1:53"), ("[2001:db8::7]:40053", "[2001:db8:1::1]:53")];
const PARTIAL: Offload = Offload {
    needs_csum: true,
    csum_valid: false,
    csum_start: 0,
    csum_offset: 6,
    gso_type: 0,
    gso_size: 0,
    hdr_len: 0,
};

fn built(message: &[u8]) -> [Build; 2] {
    ENDS.map(|(from, to)| Build::udp(from, to, message))
}

/// A ring's slot: the frame, and room behind it.
fn slot(frame: &[u8]) -> Vec<u8> {
    let mut slot = frame.to_vec();
    slot.resize(1600, 0xee);
    slot
}

#[test]
fn an_answer_goes_back_by_the_way_the_question_came() {
    for build in built(b"question") {
        let build = Build { tos: 0xb8, ttl: 3, ..build };
        let mut buf = slot(&build.frame());
        let question = Question::read(&build.frame(), Offload::default()).unwrap();
        assert_eq!(&buf[question.message()], b"question");
        assert_eq!((question.client(), question.asked()), (build.src.ip(), build.dst.ip()));
        for answer in [&b"a longer answer of an odd length"[..], b"less"] {
            let mut buf = buf.clone();
            buf[question.message().start..][..answer.len()].copy_from_slice(answer);
            let len = question.turn(&mut buf, answer.len(), 0xbeef);
            // Every checksum is right, or this panics.
            let seen = Seen::of(&buf[..len]);
            assert_eq!((seen.dst_mac, seen.src_mac), (THEIR_MAC, OUR_MAC));
            assert_eq!((seen.src, seen.dst), (build.dst, build.src));
            assert_eq!((seen.ttl, seen.tos, seen.payload.as_slice()), (64, 0, answer));
            if build.src.is_ipv4() {
                assert_eq!(buf[18..22], [0xbe, 0xef, 0, 0], "may be cut on its way");
            }
        }
        let longest = vec![7; 1232];
        buf[question.message().start..][..1232].copy_from_slice(&longest);
        let len = question.turn(&mut buf, 1232, 0);
        assert_eq!(Seen::of(&buf[..len]).payload, longest);
    }
}

/// A sum of zero is sent as its other form: zero itself says that there is none.
#[test]
fn a_checksum_is_never_zero() {
    for build in built(b"..") {
        let question = Question::read(&build.frame(), Offload::default()).unwrap();
        let zero = (0..=u16::MAX).find(|word| {
            let mut buf = slot(&build.frame());
            let at = question.message().start;
            buf[at..at + 2].copy_from_slice(&word.to_be_bytes());
            let len = question.turn(&mut buf, 2, 0);
            assert_ne!(raw16(&buf, at - 2), 0);
            raw16(&buf, at - 2) == 0xffff && fold(sum(&buf[at..len])) != 0
        });
        assert!(zero.is_some());
    }
}

#[test]
fn a_wrong_checksum_is_no_question() {
    for build in built(b"question") {
        let good = build.frame();
        let udp = usize::from(Question::read(&good, Offload::default()).unwrap().udp);
        for at in [udp + 6, udp + 8, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(Question::read(&bad, Offload::default()), None, "{at}");
            // A device that says that it has looked is believed, as the host would.
            let looked = Offload { csum_valid: true, ..Offload::default() };
            assert!(Question::read(&bad, looked).is_some());
        }
        let mut none = good.clone();
        none[udp + 6..udp + 8].fill(0);
        assert_eq!(Question::read(&none, Offload::default()).is_some(), build.src.is_ipv4());
    }
    let mut header = built(b"question")[0].frame();
    header[24] ^= 1;
    assert_eq!(Question::read(&header, Offload { csum_valid: true, ..Offload::default() }), None);
}

/// A sender on the same machine leaves the sum to a device that never comes.
#[test]
fn a_partial_checksum_is_as_good_as_a_right_one() {
    for build in built(b"question") {
        let build = Build { partial: true, ..build };
        assert_eq!(Question::read(&build.frame(), Offload::default()), None);
        assert!(Question::read(&build.frame(), PARTIAL).is_some());
    }
}

#[test]
fn what_is_not_plain_is_no_question() {
    for build in built(b"question") {
        let good = build.frame();
        let read = |frame: &[u8]| Question::read(frame, PARTIAL);
        assert!(read(&good).is_some());
        // Padded, as short frames are.
        assert!(read(&[good.as_slice(), &[0; 20]].concat()).is_some());
        (0..good.len()).for_each(|len| assert_eq!(read(&good[..len]), None, "{len}"));
        let changed = |at: usize, bytes: &[u8]| {
            let mut frame = good.clone();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            if build.src.is_ipv4() {
                frame[24..26].fill(0);
                let check = !fold(sum(&frame[14..34]));
                put_raw16(&mut frame, 24, check);
            }
            frame
        };
        let head = if build.src.is_ipv4() { 20 } else { 40 };
        assert_eq!(read(&changed(6, &[3])), None, "from a group");
        assert_eq!(read(&changed(12, &[0x81, 0])), None, "tagged");
        assert_eq!(read(&changed(14 + head, &[0, 0])), None, "from port 0");
        assert_eq!(read(&changed(14 + head + 4, &[0, 17])), None, "longer than its packet");
        assert_eq!(Question::read(&good, Offload { gso_type: 4, ..PARTIAL }), None, "several in one");
        if build.src.is_ipv4() {
            assert_eq!(read(&changed(14, &[0x46])), None, "options");
            assert_eq!(read(&changed(20, &[0x20, 0])), None, "the first fragment");
            assert_eq!(read(&changed(20, &[0, 1])), None, "a later fragment");
            assert_eq!(read(&changed(23, &[6])), None, "TCP");
            assert_eq!(read(&changed(26, &[224, 0, 0, 1])), None, "from a group");
        } else {
            assert_eq!(read(&changed(20, &[6])), None, "TCP");
            assert_eq!(read(&changed(20, &[60])), None, "options");
            assert_eq!(read(&changed(20, &[44])), None, "a fragment");
            assert_eq!(read(&changed(22, &[0xff])), None, "from a group");
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_frame_makes_it_panic(at in 0usize..70, bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40), six: bool) {
        let mut frame = built(b"question")[usize::from(six)].frame();
        for (place, byte) in frame.iter_mut().skip(at).zip(&bytes) {
            *place = *byte;
        }
        if let Some(question) = Question::read(&frame, PARTIAL) {
            assert!(question.message().end <= frame.len());
            question.turn(&mut slot(&frame), 1232, 1);
        }
    }
}
