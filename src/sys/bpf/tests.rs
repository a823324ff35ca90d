//! What the programs say of a packet, asked of the kernel itself (BPF_PROG_TEST_RUN). Needs root.

use super::*;
use crate::sys::pin::{allowed_cpus, pin_to};
use crate::sys::rows::FLOW_BUCKET;
use crate::sys::testing::test_run;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::Relaxed;

const KEY: (u64, u64) = (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
const WORKERS: u32 = 7;
const FLOW_BUCKETS: u32 = 16;
const FLOWS: u32 = 32;

const TCP: u8 = 6;
const UDP: u8 = 17;

const VIP: &str = "203.0.113.10";
const VIP6: &str = "2001:db8::10";
/// A VIP that the host has itself.
const HOST_VIP: &str = "203.0.113.11";
const PIP: &str = "203.0.113.250";
const PIP6: &str = "2001:db8::250";
const HOST_PIP: &str = "203.0.113.251";
const CLIENT: &str = "192.0.2.1";
const CLIENT6: &str = "2001:db8:1::1";
const REAL: &str = "10.0.0.11";
const REAL6: &str = "2001:db8:2::11";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn programs() -> Programs {
    // The programs leave each other word by CPU.
    pin_to(allowed_cpus().unwrap()[0]).unwrap();
    let sizes = Sizes { flow_buckets: FLOW_BUCKETS, max_flows: FLOWS, workers: WORKERS };
    let mut programs = Programs::load(KEY, &sizes, 0, 1).expect("loading kernel programs (are you root?)");
    programs
        .set_services(&[(ip(VIP), 110, TCP), (ip(VIP), 53, UDP), (ip(VIP6), 110, TCP), (ip(HOST_VIP), 110, TCP)])
        .unwrap();
    let pips = [PIP, PIP6].map(|pip| (ip(pip), 2000..=2999, false));
    programs.set_pips(&pips).unwrap();
    programs.set_host_addresses(&[ip(HOST_VIP), ip(HOST_PIP)]).unwrap();
    let pips = [PIP, PIP6, HOST_PIP].map(|pip| (ip(pip), 2000..=2999, false));
    programs.set_pips(&pips).unwrap();
    programs.enter_by_loopback();
    programs
}

/// The verdict of the ingress program, as a word; the XDP program's has to be the same.
fn verdict(programs: &mut Programs, frame: &[u8]) -> &'static str {
    let program = xdp::xdp(&mut programs.ebpf).unwrap();
    let xdp = test_run(program.fd().unwrap().as_fd(), frame, 1).verdict;
    let program = ingress(&mut programs.ebpf).unwrap();
    match (test_run(program.fd().unwrap().as_fd(), frame, 1).verdict as i32, xdp) {
        // TC_ACT_SHOT and XDP_REDIRECT, or TC_ACT_UNSPEC and XDP_PASS.
        (2, 4) => "ours",
        (-1, 2) => "host's",
        other => panic!("verdicts {other:?}"),
    }
}

/// Whether a packet socket gets it, as a single worker's or one in a group. A test run takes the Ethernet header off before a
/// socket's program, a packet socket does not.
fn reaches_farside(programs: &Programs, frame: &[u8]) -> bool {
    let filter = || test_run(programs.filter_fd(), &[&frame[..14], frame].concat(), 1).verdict != 0;
    let alone = filter();
    test_run(programs.fanout_fd(), frame, 1);
    assert_eq!(filter(), alone, "the same by word of the fanout program");
    alone
}

fn worker(programs: &Programs, frame: &[u8]) -> u32 {
    let worker = test_run(programs.fanout_fd(), frame, 1).verdict;
    // Nothing comes between the two in the kernel.
    test_run(programs.filter_fd(), &[&frame[..14], frame].concat(), 1);
    worker
}

/// An Ethernet frame to the loopback's hardware address, which is what the test run takes for the host's.
fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// `fragment`: offset in units of 8 bytes, and whether more follow.
fn ip_packet(src: &str, dst: &str, protocol: u8, fragment: (u16, bool), id: u16, payload: &[u8]) -> Vec<u8> {
    match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut packet = vec![0x45, 0];
            packet.extend((20 + payload.len() as u16).to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend((fragment.0 | u16::from(fragment.1) << 13).to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = fragment != (0, false);
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((payload.len() as u16 + if header { 8 } else { 0 }).to_be_bytes());
            packet.extend([if header { 44 } else { protocol }, 64]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            if header {
                packet.extend([protocol, 0]);
                packet.extend((fragment.0 << 3 | u16::from(fragment.1)).to_be_bytes());
                packet.extend(u32::from(id).to_be_bytes());
            }
            packet.extend(payload);
            packet
        }
        _ => panic!("one family"),
    }
}

fn kind(dst: &str) -> u16 {
    if ip(dst).is_ipv4() { 0x0800 } else { 0x86dd }
}

fn frame(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(kind(dst), &ip_packet(src, dst, protocol, (0, false), 1, payload))
}

fn ports(sport: u16, dport: u16) -> Vec<u8> {
    let mut header = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    header.resize(20, 0);
    header
}

fn packet(src: &str, sport: u16, dst: &str, dport: u16, protocol: u8) -> Vec<u8> {
    frame(src, dst, protocol, &ports(sport, dport))
}

/// An ICMP message to `dst` that quotes a packet.
fn icmp_error(dst: &str, kind: u8, quoted: (&str, u16, &str, u16)) -> Vec<u8> {
    let (src, sport, to, dport) = quoted;
    icmp_error_about(dst, kind, &ip_packet(src, to, TCP, (0, false), 9, &ports(sport, dport)))
}

fn icmp_error_about(dst: &str, kind: u8, packet: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(packet);
    let (router, protocol) = if ip(dst).is_ipv4() { ("198.18.0.1", 1) } else { ("2001:db8:9::1", 58) };
    frame(router, dst, protocol, &message)
}

fn arp(operation: u8, target: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    ethernet(0x0806, &message)
}

fn solicitation(target: &str) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    let [.., a, b, c] = target.octets();
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    let group = format!("ff02::1:ff{a:02x}:{b:02x}{c:02x}");
    let mut frame = frame(CLIENT6, &group, 58, &message);
    frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, a, b, c]);
    frame
}

fn flow_hash(src: &str, sport: u16, dst: &str, dport: u16, protocol: u8) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(KEY.0, KEY.1);
    let last = u64::from(sport) | u64::from(dport) << 16 | u64::from(protocol) << 32;
    match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            hasher.write(&[src.octets(), dst.octets()].concat());
            hasher.write(&(last | 4 << 40).to_le_bytes()[..6]);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            hasher.write(&[src.octets(), dst.octets()].concat());
            hasher.write(&(last | 6 << 40).to_le_bytes()[..6]);
        }
        _ => panic!("one family"),
    }
    hasher.finish().max(1)
}

/// A packet's addresses, ports and protocol.
type Tuple<'t> = (&'t str, u16, &'t str, u16, u8);

/// Phases of a record, as in `flow/record.rs`.
const OFFERED: u32 = 2;
const LIVE: u32 = 3;

/// Writes a record as the flow table would, of a flow whose server sends these packets.
fn write(memory: &SharedMaps, index: u32, phase: u32, (src, sport, dst, dport, protocol): Tuple) {
    let words = |text: &str| -> [u64; 4] {
        let octets = match ip(text) {
            IpAddr::V4(ip) => [&ip.octets()[..], &[0; 12]].concat(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        std::array::from_fn(|i| u32::from_ne_bytes(octets[4 * i..4 * i + 4].try_into().unwrap()).into())
    };
    let (src_words, dst_words, record) = (words(src), words(dst), &memory.records[index as usize]);
    let pair = |i: usize| src_words[i] | dst_words[i] << 32;
    record.addrs[1].store(pair(0), Relaxed);
    (1..4).for_each(|i| record.more[1][i - 1].store(pair(i), Relaxed));
    record.ports.store((u64::from(sport) | u64::from(dport) << 16) << 32, Relaxed);
    let kind = u32::from(ip(src).is_ipv6()) | u32::from(protocol == UDP) << 1;
    record.version.store(GENERATION << 11 | kind << 3 | phase, Relaxed);
}

const GENERATION: u32 = 9;

/// Puts a word for the server's side of a record into a place of one of a hash's buckets.
fn point(memory: &SharedMaps, index: u32, generation: u32, hash: u64, second: bool, place: usize) {
    let bucket = if second { hash >> 32 } else { hash } % u64::from(FLOW_BUCKETS);
    let tag = ((hash >> 48) as u16 ^ (hash >> 16) as u16).max(1);
    let (server, used) = (1 << 31, 1 << 30);
    let word = u64::from(tag) << 48 | u64::from(generation) << 32 | server | used | u64::from(index);
    memory.flows[bucket as usize].0[place % FLOW_BUCKET].store(word, Relaxed);
}

/// Puts a flow on record whose server sends these packets.
fn await_answer(memory: &SharedMaps, index: u32, answer: Tuple, second: bool) {
    let (src, sport, dst, dport, protocol) = answer;
    write(memory, index, LIVE, answer);
    point(memory, index, GENERATION, flow_hash(src, sport, dst, dport, protocol), second, 5);
}

macro_rules! says {
    ($programs:expr, $want:literal, $($frame:expr),+ $(,)?) => {
        $(assert_eq!(verdict(&mut $programs, &$frame), $want, "{}", stringify!($frame));)+
    };
}

#[test]
fn a_service_is_farsides_and_the_rest_of_its_address_is_the_hosts() {
    let mut programs = programs();
    says!(
        programs,
        "ours",
        packet(CLIENT, 4000, VIP, 110, TCP),
        packet(CLIENT, 4000, VIP, 53, UDP),
        packet(CLIENT6, 4000, VIP6, 110, TCP),
        packet(CLIENT, 4000, HOST_VIP, 110, TCP),
    );
    says!(
        programs,
        "host's",
        packet(CLIENT, 4000, VIP, 110, UDP),
        packet(CLIENT, 4000, VIP, 22, TCP),
        packet(CLIENT6, 4000, VIP6, 22, TCP),
        packet(CLIENT, 4000, "203.0.113.99", 110, TCP),
        packet(VIP, 110, CLIENT, 4000, TCP),
        frame(CLIENT, VIP, 47, &[0; 20]),
        ethernet(0x88cc, &[0; 46]),
        ethernet(0x0800, &[]),
    );
}

#[test]
fn other_machines_packets_are_not_touched() {
    let mut programs = programs();
    let mut frame = packet(CLIENT, 4000, VIP, 110, TCP);
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    says!(programs, "host's", frame);
}

#[test]
fn a_lent_port_is_farsides_and_goes_to_its_worker() {
    let mut programs = programs();
    for port in [2000, 2345, 2999] {
        let frames = [
            packet(CLIENT, 110, PIP, port, TCP),
            packet(CLIENT, 110, HOST_PIP, port, UDP),
            packet(CLIENT6, 110, PIP6, port, TCP),
        ];
        for frame in frames {
            says!(programs, "ours", frame);
            assert_eq!(worker(&programs, &frame), u32::from(port) % WORKERS);
        }
    }
    says!(programs, "host's", packet(CLIENT, 110, PIP, 1999, TCP), packet(CLIENT6, 110, PIP6, 3000, TCP));
}

#[test]
fn a_real_servers_answer_is_farsides_only_on_a_flow_that_is_on_record() {
    let mut programs = programs();
    let memory = programs.memory().unwrap();
    let cases = [(REAL, CLIENT, false), (REAL, "192.0.2.2", true), (REAL6, CLIENT6, false)];
    for ((real, client, second), index) in cases.into_iter().zip(0..) {
        let answer = packet(real, 110, client, 4000, TCP);
        says!(programs, "host's", answer);
        await_answer(&memory, index, (real, 110, client, 4000, TCP), second);
        says!(programs, "ours", answer);
        says!(
            programs,
            "host's",
            packet(real, 110, client, 4001, TCP),
            packet(real, 110, client, 4000, UDP),
            packet(client, 4000, real, 110, TCP),
        );
    }
}

#[test]
fn a_word_of_the_index_alone_makes_no_answer_and_hides_none() {
    let mut programs = programs();
    let memory = programs.memory().unwrap();
    let answer = (REAL, 110, CLIENT, 4000, TCP);
    let hash = flow_hash(REAL, 110, CLIENT, 4000, TCP);
    let frame = packet(REAL, 110, CLIENT, 4000, TCP);
    // Others with the same tag, before and behind: another flow's, another life's.
    write(&memory, 1, LIVE, (REAL, 110, CLIENT, 4001, TCP));
    write(&memory, 2, LIVE, answer);
    point(&memory, 1, GENERATION, hash, false, 0);
    point(&memory, 1, GENERATION, hash, false, 7);
    point(&memory, 2, GENERATION - 1, hash, false, 6);
    // Not to be found yet.
    write(&memory, 3, OFFERED, answer);
    point(&memory, 3, GENERATION, hash, false, 2);
    says!(programs, "host's", frame);
    write(&memory, 3, LIVE, answer);
    says!(programs, "ours", frame);
}

#[test]
fn both_directions_of_a_flow_meet_on_one_worker() {
    let mut programs = programs();
    let memory = programs.memory().unwrap();
    let mut seen = [0; WORKERS as usize];
    for port in 4000..4500 {
        await_answer(&memory, 0, (REAL, 110, CLIENT, port, TCP), false);
        let there = worker(&programs, &packet(CLIENT, port, VIP, 110, TCP));
        assert_eq!(there, worker(&programs, &packet(REAL, 110, CLIENT, port, TCP)));
        seen[there as usize] += 1;
    }
    assert!(seen.iter().all(|&flows| (40..110).contains(&flows)), "{seen:?}");
}

#[test]
fn icmp_to_an_address_of_farsides_alone_is_farsides() {
    let mut programs = programs();
    let echo = [8, 0, 0, 0, 0, 1, 0, 1];
    let echo6 = [128, 0, 0, 0, 0, 1, 0, 1];
    says!(
        programs,
        "ours",
        frame(CLIENT, VIP, 1, &echo),
        frame(CLIENT, PIP, 1, &echo),
        frame(CLIENT6, VIP6, 58, &echo6),
        frame(CLIENT6, PIP6, 58, &echo6),
    );
    says!(
        programs,
        "host's",
        frame(CLIENT, HOST_VIP, 1, &echo),
        frame(CLIENT, HOST_PIP, 1, &echo),
        frame(CLIENT, REAL, 1, &echo),
        frame(CLIENT6, REAL6, 58, &echo6),
    );
}

#[test]
fn what_may_be_about_a_tunnel_of_farsides_is_farsides_and_the_hosts() {
    let mut programs = programs();
    let about = |dst: &str, kind: u8, code: u8, src: &str, to: &str, protocol: u8| {
        let mut message = vec![kind, code, 0, 0, 0, 0, 5, 0];
        message.extend(ip_packet(src, to, protocol, (0, false), 9, &[0x17, 0xc0, 0x17, 0xc0, 0, 0, 0, 0]));
        let (router, protocol) = if ip(dst).is_ipv4() { ("198.18.0.1", 1) } else { ("2001:db8:9::1", 58) };
        frame(router, dst, protocol, &message)
    };
    let (host, host6) = ("10.0.0.1", "2001:db8:2::1");
    for protocol in [4, 41, 47, UDP] {
        for frame in [about(host, 3, 4, host, REAL, protocol), about(host6, 2, 0, host6, REAL6, protocol)] {
            assert_eq!((verdict(&mut programs, &frame), reaches_farside(&programs, &frame)), ("host's", true));
        }
        for frame in [
            about(host, 3, 3, host, REAL, protocol),
            about(host, 3, 4, CLIENT, REAL, protocol),
            about(host6, 1, 0, host6, REAL6, protocol),
            about(host6, 2, 0, CLIENT6, REAL6, protocol),
        ] {
            assert_eq!((verdict(&mut programs, &frame), reaches_farside(&programs, &frame)), ("host's", false));
        }
    }
    let frame = about(host, 3, 4, host, REAL, TCP);
    assert_eq!((verdict(&mut programs, &frame), reaches_farside(&programs, &frame)), ("host's", false));
}

#[test]
fn an_icmp_error_follows_the_packet_it_quotes() {
    let mut programs = programs();
    says!(
        programs,
        "ours",
        icmp_error(PIP, 3, (PIP, 2345, "198.51.100.10", 110)),
        icmp_error(HOST_PIP, 3, (HOST_PIP, 2345, "198.51.100.10", 110)),
        icmp_error(HOST_VIP, 3, (HOST_VIP, 110, CLIENT, 4000)),
        icmp_error(PIP6, 2, (PIP6, 2345, "2001:db8:5::1", 110)),
        icmp_error(VIP6, 2, (VIP6, 110, CLIENT6, 4000)),
    );
    says!(
        programs,
        "host's",
        icmp_error(HOST_PIP, 3, (HOST_PIP, 1999, "198.51.100.10", 110)),
        icmp_error(HOST_VIP, 3, (HOST_VIP, 22, CLIENT, 4000)),
        icmp_error(HOST_VIP, 5, (HOST_VIP, 110, CLIENT, 4000)),
        icmp_error(CLIENT, 3, (CLIENT, 4000, REAL, 110)),
        icmp_error(CLIENT6, 2, (CLIENT6, 4000, REAL6, 110)),
    );
    let memory = programs.memory().unwrap();
    await_answer(&memory, 0, (REAL, 110, CLIENT, 4000, TCP), false);
    await_answer(&memory, 1, (REAL6, 110, CLIENT6, 4000, TCP), false);
    says!(
        programs,
        "ours",
        icmp_error(CLIENT, 3, (CLIENT, 4000, REAL, 110)),
        icmp_error(CLIENT6, 2, (CLIENT6, 4000, REAL6, 110)),
    );
}

#[test]
fn an_icmp_error_follows_a_first_fragment_too() {
    let mut programs = programs();
    let memory = programs.memory().unwrap();
    for (client, real, kind) in [(CLIENT, REAL, 3), (CLIENT6, REAL6, 2)] {
        await_answer(&memory, 0, (real, 53, client, 4000, UDP), false);
        let about = |fragment, payload: &[u8]| {
            icmp_error_about(client, kind, &ip_packet(client, real, UDP, fragment, 9, payload))
        };
        says!(programs, "ours", about((0, true), &ports(4000, 53)));
        says!(programs, "host's", about((0, true), &ports(4000, 54)), about((1, true), &ports(4000, 53)));
    }
}

#[test]
fn farside_is_asked_for_its_addresses_hardware_and_the_host_for_its_own() {
    let mut programs = programs();
    let v4 = |text: &str| text.parse().unwrap();
    says!(programs, "ours", arp(1, v4(VIP)), arp(1, v4(PIP)), solicitation(VIP6), solicitation(PIP6));
    says!(
        programs,
        "host's",
        arp(1, v4(HOST_VIP)),
        arp(1, v4(HOST_PIP)),
        arp(1, v4(CLIENT)),
        arp(2, v4(VIP)),
        solicitation(REAL6),
    );
}

#[test]
fn fragments_follow_the_first_of_them() {
    let mut programs = programs();
    let memory = programs.memory().unwrap();
    let at = |src: &str, dst: &str, fragment, id, payload: &[u8]| {
        ethernet(kind(dst), &ip_packet(src, dst, UDP, fragment, id, payload))
    };
    for (client, vip, real) in [(CLIENT, HOST_VIP, REAL), (CLIENT6, VIP6, REAL6)] {
        let mut services = programs.told_services.clone();
        services.push((ip(vip), 53, UDP));
        programs.set_services(&services).unwrap();

        says!(programs, "ours", at(client, vip, (0, true), 7, &ports(4000, 53)));
        says!(programs, "ours", at(client, vip, (2, true), 7, &[0; 16]), at(client, vip, (4, false), 7, &[0; 16]));
        assert_eq!(
            worker(&programs, &at(client, vip, (0, true), 7, &ports(4000, 53))),
            worker(&programs, &at(client, vip, (4, false), 7, &[0; 16]))
        );
        says!(programs, "host's", at(client, vip, (0, true), 8, &ports(4000, 2049)));

        says!(programs, "host's", at(real, client, (2, false), 7, &[0; 16]));
        await_answer(&memory, 0, (real, 53, client, 4000, UDP), false);
        says!(programs, "ours", at(real, client, (0, true), 7, &ports(53, 4000)));
        says!(programs, "ours", at(real, client, (2, false), 7, &[0; 16]));
        says!(programs, "host's", at(real, client, (2, false), 8, &[0; 16]));
        // The same identification once more, on something that the host routes for that server.
        says!(programs, "host's", at(real, client, (0, true), 7, &ports(2049, 4000)));
        says!(programs, "host's", at(real, client, (2, false), 7, &[0; 16]));
    }
    // Of an unknown datagram: by the address.
    says!(programs, "ours", at(CLIENT, VIP, (2, false), 70, &[0; 16]), at(CLIENT6, PIP6, (2, false), 70, &[0; 16]));
    says!(programs, "host's", at(CLIENT, HOST_VIP, (2, false), 70, &[0; 16]));
}

#[test]
fn a_real_servers_later_fragment_that_comes_first_goes_to_both() {
    let mut programs = programs();
    let memory = programs.memory().unwrap();
    let at = |src: &str, dst: &str, fragment, id, payload: &[u8]| {
        ethernet(kind(dst), &ip_packet(src, dst, UDP, fragment, id, payload))
    };
    for (real, client) in [(REAL, CLIENT), (REAL6, CLIENT6)] {
        let later = |id| at(real, client, (2, false), id, &[0; 16]);
        says!(programs, "host's", later(90));
        assert!(!reaches_farside(&programs, &later(90)));
        programs.set_reals(&[ip(REAL), ip(REAL6)]).unwrap();
        says!(programs, "host's", later(90), at(client, real, (2, false), 90, &[0; 16]));
        assert!(reaches_farside(&programs, &later(90)), "farside's too");
        assert!(!reaches_farside(&programs, &at(client, real, (2, false), 90, &[0; 16])));
        // The first one says whose it is.
        says!(programs, "host's", at(real, client, (0, true), 90, &ports(2049, 4000)), later(90));
        assert!(!reaches_farside(&programs, &later(90)), "the host's alone");
        await_answer(&memory, 0, (real, 53, client, 4000, UDP), false);
        says!(programs, "ours", at(real, client, (0, true), 91, &ports(53, 4000)), later(91));
        programs.set_reals(&[]).unwrap();
    }
}

#[test]
fn extension_headers_are_looked_behind() {
    let mut programs = programs();
    let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0];
    payload.extend([TCP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend(ports(4000, 110));
    says!(programs, "ours", frame(CLIENT6, VIP6, 0, &payload));
    says!(programs, "host's", frame(CLIENT6, REAL6, 0, &payload));
}

#[test]
fn what_is_taken_back_is_the_hosts_again() {
    let mut programs = programs();
    programs.set_services(&[(ip(VIP), 25, TCP)]).unwrap();
    programs.set_pips(&[]).unwrap();
    says!(programs, "ours", packet(CLIENT, 4000, VIP, 25, TCP), arp(1, VIP.parse().unwrap()));
    says!(
        programs,
        "host's",
        packet(CLIENT, 4000, VIP, 110, TCP),
        packet(CLIENT6, 4000, VIP6, 110, TCP),
        packet(CLIENT, 110, PIP, 2345, TCP),
        arp(1, PIP.parse().unwrap()),
        solicitation(VIP6),
    );
}

#[test]
fn what_sockets_are_charged_for_fits_on_old_kernels() {
    let programs = programs();
    let door: &SocketFilter = programs.ebpf.program("farside_door").unwrap().try_into().unwrap();
    let bytes = door.info().unwrap().size_translated().unwrap();
    assert!(bytes < 1024, "{bytes} bytes; all that a socket has there is 20 KB");
}

#[test]
fn a_kernel_without_af_xdp_is_told_the_same_things() {
    let sizes = Sizes { flow_buckets: FLOW_BUCKETS, max_flows: FLOWS, workers: WORKERS };
    let mut plain = Programs::load_object(PLAIN, KEY, &sizes, 0, 1).unwrap();
    plain.set_services(&[(ip(VIP), 110, TCP)]).unwrap();
    let ours = packet(CLIENT, 4000, VIP, 110, TCP);
    assert!(reaches_farside(&plain, &ours) && !reaches_farside(&plain, &packet(CLIENT, 4000, VIP, 111, TCP)));
    assert_eq!(worker(&plain, &ours), worker(&programs(), &ours));
    let why = plain.attach_xdp("lo", 1).err().map(|why| why.to_string());
    assert!(why.is_some_and(|why| why.contains("CONFIG_XDP_SOCKETS")));
    // And to be asked nothing about it later.
    plain.set_entrance("lo", 1, 0, 1).unwrap();
    plain.clear_entrance(1);
}
