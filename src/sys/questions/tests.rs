//! What the programs say of a packet, asked of the kernel itself (BPF_PROG_TEST_RUN). Needs root.

use super::*;
use crate::sys::testing::test_run;
use crate::testing::Build;

const ASKED: [&str; 2] = ["203.0.113.1:53", "[2001:db8:1::1]:53"];
const ASKS: [&str; 2] = ["192.0.2.7:40053", "[2001:db8::7]:40053"];

fn loaded(threads: u32) -> Questions {
    let mut questions = Questions::load(threads, 1).expect("loading kernel programs (are you root?)");
    questions.set_listeners(&ASKED.map(|asked| asked.parse().unwrap())).unwrap();
    questions
}

/// A test run takes what has the loopback's hardware address for the host's.
fn to_us(build: &Build) -> Vec<u8> {
    let mut frame = build.frame();
    frame[..12].fill(0);
    frame
}

/// What the ingress program and the sockets' filter say, which has to be the same. A test run takes the Ethernet header off before a
/// socket's program, a packet socket does not.
fn is_taken(questions: &mut Questions, frame: &[u8]) -> bool {
    let filter = test_run(questions.filter_fd(), &[&frame[..14], frame].concat(), 1).verdict != 0;
    let program = ingress(&mut questions.ebpf).unwrap();
    let shot = match test_run(program.fd().unwrap().as_fd(), frame, 1).verdict as i32 {
        2 => true,
        -1 => false,
        other => panic!("verdict {other}"),
    };
    assert_eq!(filter, shot, "{frame:02x?}");
    shot
}

#[test]
fn plain_questions_to_a_listener_are_taken() {
    let mut questions = loaded(1);
    for (from, to) in ASKS.into_iter().zip(ASKED) {
        let plain = Build::udp(from, to, b"twelve bytes");
        assert!(is_taken(&mut questions, &to_us(&plain)));
        let padded = [to_us(&plain), vec![0; 6]].concat();
        assert!(is_taken(&mut questions, &padded));
        assert!(!is_taken(&mut questions, &plain.frame()), "for another machine");
        assert!(!is_taken(&mut questions, &to_us(&Build::tcp(from, to, 2))));
        assert!(!is_taken(&mut questions, &to_us(&Build::icmp(from, to, 8, 0, b"ping"))));
        let other_port = to.replace(":53", ":54");
        assert!(!is_taken(&mut questions, &to_us(&Build::udp(from, &other_port, b"twelve bytes"))));
        assert!(!is_taken(&mut questions, &to_us(&Build::udp(to, from, b"twelve bytes"))));
        assert!(!is_taken(&mut questions, &to_us(&Build::udp(from, to, b"no header"))), "too short");
        let at_most = 1500 - if from.starts_with('[') { 48 } else { 28 };
        assert!(is_taken(&mut questions, &to_us(&Build::udp(from, to, &vec![0; at_most]))));
        assert!(!is_taken(&mut questions, &to_us(&Build::udp(from, to, &vec![0; at_most + 1]))));
    }
    questions.set_listeners(&[]).unwrap();
    for (from, to) in ASKS.into_iter().zip(ASKED) {
        assert!(!is_taken(&mut questions, &to_us(&Build::udp(from, to, b"twelve bytes"))));
    }
}

#[test]
fn odd_frames_are_left_to_the_host() {
    let mut questions = loaded(1);
    let plain = ASKS.into_iter().zip(ASKED).map(|(from, to)| to_us(&Build::udp(from, to, b"twelve bytes")));
    let [four, six]: [Vec<u8>; 2] = plain.collect::<Vec<_>>().try_into().unwrap();
    let mut check = |what: &str, frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(!is_taken(&mut questions, &frame), "{what}");
    };
    check("options", &four, 14, &[0x46]);
    check("a first fragment", &four, 20, &[0x20]);
    check("a later fragment", &four, 21, &[1]);
    check("cut off", &four, 16, &[0x05, 0xdc]);
    check("shorter than its header", &four, 16, &[0, 19]);
    check("from this network", &four, 26, &[0]);
    check("from the loopback", &four, 26, &[127]);
    check("from a group", &four, 26, &[224]);
    check("from everybody", &four, 26, &[255; 4]);
    check("from the address that is asked", &four, 26, &[203, 0, 113, 1]);
    check("from no port", &four, 34, &[0, 0]);
    check("a datagram shorter than its packet", &four, 38, &[0, 19]);
    check("a datagram longer than its packet", &four, 38, &[0, 21]);
    check("another version", &six, 14, &[0x50]);
    check("a fragment", &six, 20, &[44]);
    check("options", &six, 20, &[60]);
    check("cut off", &six, 18, &[1, 0]);
    check("from a group", &six, 22, &[0xff, 2]);
    check("from a link", &six, 22, &[0xfe, 0x80]);
    check("from a link, as it could also be written", &six, 22, &[0xfe, 0xbf]);
    check("from the loopback, or IPv4 within", &six, 22, &[0; 8]);
    check("from no port", &six, 54, &[0, 0]);
    check("a datagram longer than its packet", &six, 58, &[0, 21]);
}

#[test]
fn clients_are_spread_over_the_threads() {
    let questions = loaded(4);
    for (from, to) in ASKS.into_iter().zip(ASKED) {
        let mut of_thread = [0; 4];
        for port in 1024..1424 {
            let frame = to_us(&Build::udp(&from.replace("40053", &port.to_string()), to, b"twelve bytes"));
            let thread = test_run(questions.fanout_fd(), &frame, 1).verdict;
            assert_eq!(test_run(questions.fanout_fd(), &frame, 1).verdict, thread, "one client, one thread");
            of_thread[thread as usize] += 1;
        }
        assert!(of_thread.iter().all(|count| *count > 50), "{of_thread:?}");
    }
}
