//! `farside replay`, driven as a user does: captures in, captures and counts out.

use farside::wire;

#[path = "../src/testing.rs"]
#[allow(dead_code)]
mod testing;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, TsResolution};
use proptest::prelude::*;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;
use testing::{Build, OUR_MAC, Seen, THEIR_MAC, cut, join};
use wire::l4::{ACK, FIN, RST, SYN};

const CONFIG: &str = r#"
[site]
name = "south"
[datapath]
interfaces = ["wan0", "lan0"]
max_flows = 1000
[proxy]
addresses = ["203.0.113.250", "2001:db8:1::250"]
ports = "1024-1123"
[[peer]]
name = "north"
proxy_addresses = ["198.51.100.250"]
[[service]]
name = "pop3"
vip = "203.0.113.10"
port = 110
[[service.real]]
name = "pop-a"
address = "10.0.0.11"
port = 1100
[[service.real]]
name = "pop-b"
address = "10.0.0.12"
[[service.remote]]
site = "north"
vip = "198.51.100.10"
port = 995
[[service]]
name = "pop6"
vip = "2001:db8:1::10"
port = 110
[[service.real]]
name = "six"
address = "fd00::11"
[[service.remote]]
site = "north"
vip = "2001:db8:2::10"
port = 110
"#;

const CLIENT: &str = "198.18.0.7:40000";
const VIP: &str = "203.0.113.10:110";
const REAL_A: &str = "10.0.0.11:1100";
const REMOTE: &str = "198.51.100.10:995";
const REAL_MAC: [u8; 6] = [2, 0, 0, 0, 2, 11];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const ALL_POP3_DOWN: [&str; 4] = ["--down", "pop3/pop-a", "--down", "pop3/pop-b"];

/// A frame and its time stamp.
type Stamped = (Duration, Vec<u8>);

fn at(seconds: f64, frame: Vec<u8>) -> Stamped {
    // Some day in 2026, so that no test leans on a capture that starts at 0.
    (Duration::from_secs(1_780_000_000) + Duration::from_secs_f64(seconds), frame)
}

/// A packet from this MAC instead of the usual one.
fn from(mac: [u8; 6], packet: &Build) -> Vec<u8> {
    let mut frame = packet.frame();
    frame[6..12].copy_from_slice(&mac);
    frame
}

struct Bench {
    dir: TempDir,
}

/// What a replay gave.
struct Replayed {
    frames: Vec<Stamped>,
    bytes: Vec<u8>,
    counts: serde_json::Map<String, serde_json::Value>,
    summary: String,
}

impl Replayed {
    fn seen(&self, at: usize) -> Seen {
        Seen::of(&self.frames[at].1)
    }

    fn count(&self, name: &str) -> u64 {
        self.counts[name].as_u64().unwrap()
    }

    /// The drops that there were.
    fn drops(&self) -> Vec<(&str, u64)> {
        let drops = self.counts.iter().filter(|(name, count)| name.starts_with("drop_") && **count != 0);
        drops.map(|(name, count)| (name.as_str(), count.as_u64().unwrap())).collect()
    }
}

impl Bench {
    fn new() -> Bench {
        Bench::with(CONFIG)
    }

    fn with(config: &str) -> Bench {
        let bench = Bench { dir: TempDir::new().unwrap() };
        std::fs::write(bench.path("config"), config).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn farside(&self, input: &Path, output: &Path, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farside"));
        command.arg("replay").arg("--config").arg(self.path("config")).arg(input).arg(output).args(more);
        command.output().unwrap()
    }

    /// Replays what lies at `in.pcap`.
    fn replay(&self, more: &[&str]) -> Replayed {
        let (output, counts) = (self.path("out.pcap"), self.path("counts.json"));
        let more = [&["--counters", counts.to_str().unwrap()], more].concat();
        let done = self.farside(&self.path("in.pcap"), &output, &more);
        assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), ""));
        let bytes = std::fs::read(&output).unwrap();
        let mut reader = PcapReader::new(&bytes[..]).unwrap();
        let mut frames = Vec::new();
        while let Some(packet) = reader.next_packet() {
            let packet = packet.unwrap();
            frames.push((packet.timestamp, packet.data.into_owned()));
        }
        let counts = serde_json::from_slice(&std::fs::read(&counts).unwrap()).unwrap();
        Replayed { frames, bytes, counts, summary: text(&done.stdout).into() }
    }

    fn replay_of(&self, frames: &[Stamped], more: &[&str]) -> Replayed {
        std::fs::write(self.path("in.pcap"), capture(frames)).unwrap();
        self.replay(more)
    }

    /// The sentence of a replay that fails.
    fn fails(&self, input: &Path, output: &Path, more: &[&str]) -> String {
        let done = self.farside(input, output, more);
        assert_eq!((done.status.code(), text(&done.stdout)), (Some(1), ""));
        text(&done.stderr).trim_end().into()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn capture(frames: &[Stamped]) -> Vec<u8> {
    let header = PcapHeader { ts_resolution: TsResolution::NanoSecond, snaplen: 1 << 18, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (time, frame) in frames {
        writer.write_packet(&PcapPacket::new(*time, frame.len() as u32, frame)).unwrap();
    }
    writer.into_writer()
}

fn tcp(src: &str, dst: &str, flags: u8, seq: u32, ack: u32) -> Build {
    Build { seq, ack, ..Build::tcp(src, dst, flags) }
}

/// A connection to the first real server, to the end of the handshake.
fn handshake() -> Vec<Stamped> {
    vec![
        at(0.0, tcp(CLIENT, VIP, SYN, 1000, 0).frame()),
        at(0.1, from(REAL_MAC, &tcp(REAL_A, CLIENT, SYN | ACK, 5000, 1001))),
        at(0.2, tcp(CLIENT, VIP, ACK, 1001, 5001).frame()),
    ]
}

#[test]
fn a_connection_goes_to_a_local_server_and_back() {
    let mut frames = handshake();
    let data = Build { payload: b"USER joe\r\n".to_vec(), ..tcp(CLIENT, VIP, ACK, 1001, 5001) };
    frames.push(at(0.3, data.frame()));
    let replayed = Bench::new().replay_of(&frames, &[]);
    assert_eq!(replayed.summary, "4 frames in, 4 out, 0 dropped, 0 not farside's\n");
    assert_eq!(replayed.drops(), []);
    let (syn, answer, data) = (replayed.seen(0), replayed.seen(1), replayed.seen(3));
    let ends = |seen: &Seen| (seen.src.to_string(), seen.dst.to_string(), seen.src_mac, seen.dst_mac);
    assert_eq!(ends(&syn), (CLIENT.into(), REAL_A.into(), OUR_MAC, REAL_MAC));
    assert_eq!(ends(&answer), (VIP.into(), CLIENT.into(), OUR_MAC, THEIR_MAC));
    assert_eq!((syn.flags, syn.seq, syn.ttl, answer.ack), (SYN, 1000, 63, 1001));
    assert_eq!((data.payload, data.dst.to_string()), (b"USER joe\r\n".to_vec(), REAL_A.into()));
    let times = |frames: &[Stamped]| frames.iter().map(|(time, _)| *time).collect::<Vec<_>>();
    assert_eq!(times(&replayed.frames), times(&frames));
    assert_eq!((replayed.count("flows_local"), replayed.count("flows_active")), (1, 1));
    assert_eq!((replayed.count("rx_packets"), replayed.count("tx_packets")), (4, 4));
}

#[test]
fn with_no_local_server_a_connection_is_carried_to_the_other_site() {
    let bench = Bench::new();
    let syn = at(0.0, tcp(CLIENT, VIP, SYN, 1000, 0).frame());
    let out = bench.replay_of(std::slice::from_ref(&syn), &ALL_POP3_DOWN).seen(0);
    assert_eq!((out.src.ip().to_string(), out.dst.to_string()), ("203.0.113.250".into(), REMOTE.into()));
    // The capture does not say where the other site is: behind a router.
    assert_eq!(out.dst_mac, GATEWAY_MAC);
    let port = out.src.port();
    assert!((1024..=1123).contains(&port));

    // The same port is lent again, so that the other site's answers can be in the capture.
    let router = [2, 0, 0, 0, 7, 7];
    let answer = from(router, &tcp(REMOTE, &out.src.to_string(), SYN | ACK, 7000, 1001));
    let replayed = bench.replay_of(&[syn, at(0.05, answer)], &ALL_POP3_DOWN);
    let (out, back) = (replayed.seen(0), replayed.seen(1));
    assert_eq!((out.src.port(), out.dst_mac), (port, router));
    assert_eq!((back.src.to_string(), back.dst.to_string()), (VIP.into(), CLIENT.into()));
    assert_eq!((back.flags, back.seq, back.dst_mac), (SYN | ACK, 7000, THEIR_MAC));
    assert_eq!((replayed.count("flows_remote"), replayed.count("flows_local")), (1, 0));
}

#[test]
fn ipv6_goes_the_same_ways() {
    let bench = Bench::new();
    let (client, vip) = ("[2001:db8:c::7]:40000", "[2001:db8:1::10]:110");
    let real = from(REAL_MAC, &tcp("[fd00::11]:110", client, SYN | ACK, 5000, 1001));
    let frames = [at(0.0, tcp(client, vip, SYN, 1000, 0).frame()), at(0.1, real)];
    let local = bench.replay_of(&frames, &[]);
    assert_eq!((local.seen(0).dst.to_string(), local.seen(0).dst_mac), ("[fd00::11]:110".into(), REAL_MAC));
    assert_eq!((local.seen(1).src.to_string(), local.seen(1).dst_mac), (vip.into(), THEIR_MAC));
    let remote = bench.replay_of(&frames[..1], &["--down", "pop6/six"]);
    assert_eq!(remote.seen(0).dst.to_string(), "[2001:db8:2::10]:110");
    assert_eq!((remote.seen(0).src.ip().to_string(), remote.seen(0).dst_mac), ("2001:db8:1::250".into(), GATEWAY_MAC));
}

/// The configuration with POP3 in another mode, on real servers at the service's port.
fn in_mode(mode: &str) -> String {
    CONFIG.replacen("port = 110\n", &format!("port = 110\n{mode}\n"), 1).replacen("port = 1100\n", "", 1)
}

#[test]
fn in_direct_mode_packets_leave_as_they_came_but_for_the_mac_addresses() {
    let frames = [at(0.0, tcp(CLIENT, VIP, SYN, 1000, 0).frame()), at(0.1, tcp(CLIENT, VIP, ACK, 1001, 5001).frame())];
    let replayed = Bench::with(&in_mode("mode = \"direct\"")).replay_of(&frames, &[]);
    assert_eq!((replayed.drops(), replayed.frames.len()), (vec![], 2));
    for ((_, out), (_, frame)) in replayed.frames.iter().zip(&frames) {
        assert_eq!(out[..12], [[2, 1, 10, 0, 0, 11], OUR_MAC].concat(), "the capture does not place the server");
        assert_eq!(out[12..], frame[12..]);
    }
}

#[test]
fn in_tunnel_mode_packets_leave_in_another_one() {
    let mut syn = tcp(CLIENT, VIP, SYN, 1000, 0);
    syn.tos = 0x28;
    let frames = [at(0.0, syn.frame())];
    let replayed = Bench::with(&in_mode("mode = \"tunnel\"")).replay_of(&frames, &[]);
    let out = &replayed.frames[0].1;
    assert_eq!((replayed.drops(), replayed.count("encapsulated"), &out[..6]), (vec![], 1, &GATEWAY_MAC[..]));
    assert_eq!((out[15], out[23], &out[26..34]), (0x28, 4, &[192, 0, 2, 1, 10, 0, 0, 11][..]));
    let inner = [&out[..14], &out[34..]].concat();
    let seen = Seen::of(&inner);
    assert_eq!((seen.src.to_string().as_str(), seen.dst.to_string().as_str(), seen.ttl), (CLIENT, VIP, 63));

    let config = in_mode("mode = \"tunnel\"\nencapsulation = \"gue\"");
    let config = config.replacen("max_flows", "tunnel_sources = [\"10.0.0.1\"]\nmax_flows", 1);
    let out = &Bench::with(&config).replay_of(&frames, &[]).frames[0].1;
    assert_eq!(
        (out[23], &out[26..30], &out[36..38], &out[42..46]),
        (17, &[10, 0, 0, 1][..], &[0x17, 0xc0][..], &[0, 4, 0, 0][..])
    );
}

#[test]
fn with_nobody_up_clients_are_told() {
    let down = [&ALL_POP3_DOWN[..], &["--down", "pop3/north"]].concat();
    let replayed = Bench::new().replay_of(&[at(0.0, tcp(CLIENT, VIP, SYN, 1000, 0).frame())], &down);
    assert_eq!((replayed.seen(0).flags, replayed.seen(0).dst_mac), (RST | ACK, THEIR_MAC));
    assert_eq!(replayed.drops(), [("drop_no_server", 1)]);
    assert_eq!(replayed.summary, "1 frames in, 1 out, 1 dropped, 0 not farside's\n");
}

fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], THEIR_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(THEIR_MAC);
    frame.extend([203, 0, 113, 254]);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

#[test]
fn arp_is_answered_with_the_mac_that_the_capture_knows() {
    let bench = Bench::new();
    let request = at(0.0, arp_request([203, 0, 113, 10]));
    let alone = bench.replay_of(std::slice::from_ref(&request), &[]);
    assert_eq!(alone.frames[0].1[22..28], [2, 0, 0, 0, 0, 1]);
    let mut to_us = tcp(CLIENT, VIP, SYN, 1, 0).frame();
    to_us[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    let known = bench.replay_of(&[request, at(1.0, to_us)], &[]);
    let reply = &known.frames[0].1;
    assert_eq!(reply[..12], [THEIR_MAC, [2, 9, 9, 9, 9, 9]].concat());
    assert_eq!((&reply[20..22], &reply[22..32]), (&[0, 2][..], &[2, 9, 9, 9, 9, 9, 203, 0, 113, 10][..]));
    assert_eq!(known.count("arp_replies"), 1);
    let others = bench.replay_of(&[at(0.0, arp_request([203, 0, 113, 77]))], &[]);
    assert_eq!(others.summary, "1 frames in, 0 out, 0 dropped, 1 not farside's\n");
}

#[test]
fn a_packet_of_an_unknown_connection_is_reset() {
    let replayed = Bench::new().replay_of(&[at(0.0, tcp(CLIENT, VIP, ACK, 77, 99).frame())], &[]);
    let rst = replayed.seen(0);
    assert_eq!((rst.flags, rst.seq), (RST, 99));
    assert_eq!((rst.src.to_string(), rst.dst.to_string()), (VIP.into(), CLIENT.into()));
    assert_eq!(replayed.drops(), [("drop_no_flow", 1)]);
    assert_eq!(replayed.count("resets_sent"), 1);
}

#[test]
fn what_a_capture_on_farside_itself_holds_of_its_own_frames_teaches_nothing_wrong() {
    // The SYN as farside sent it on, with the client's address from farside's MAC - before the client's own in the capture.
    let mut sent_on = tcp(CLIENT, REAL_A, SYN, 1000, 0).frame();
    sent_on[..12].copy_from_slice(&[REAL_MAC, OUR_MAC].concat());
    let mut frames = handshake();
    frames.insert(0, at(0.0, sent_on));
    let replayed = Bench::new().replay_of(&frames, &[]);
    assert_eq!(replayed.summary, "4 frames in, 3 out, 0 dropped, 1 not farside's\n");
    assert_eq!(replayed.seen(1).dst_mac, THEIR_MAC);
}

#[test]
fn a_silence_of_hours_ends_connections() {
    let bench = Bench::new();
    let late = |seconds| {
        let mut frames = handshake();
        frames.push(at(seconds, tcp(CLIENT, VIP, ACK, 1001, 5001).frame()));
        bench.replay_of(&frames, &[])
    };
    let alive = late(2.0 * 3600.0);
    assert_eq!((alive.drops(), alive.count("flows_active")), (vec![], 1));
    let ended = late(3.0 * 3600.0);
    assert_eq!((ended.drops(), ended.count("flows_ended")), (vec![("drop_no_flow", 1)], 1));
    assert_eq!((ended.seen(3).flags, ended.count("flows_active")), (RST, 0));
    let decades = late(1e9);
    assert_eq!(decades.count("flows_ended"), 1);
}

#[test]
fn ports_rest_by_the_captures_clock() {
    let bench = Bench::with(&CONFIG.replace("1024-1123", "1024-1024"));
    // The first SYN is never answered: its flow ends 30 s later, a round of the sweep (4 s) at most after that; then the port
    // rests for 5 s.
    let two = |seconds| {
        let second = tcp("198.18.0.8:40000", VIP, SYN, 1, 0).frame();
        bench.replay_of(&[at(0.0, tcp(CLIENT, VIP, SYN, 1, 0).frame()), at(seconds, second)], &ALL_POP3_DOWN)
    };
    let out = two(25.0);
    assert_eq!((out.drops(), out.count("flows_ended")), (vec![("drop_ports_exhausted", 1)], 0));
    let resting = two(34.5);
    assert_eq!((resting.drops(), resting.count("flows_ended")), (vec![("drop_ports_exhausted", 1)], 1));
    for seconds in [39.6, 60.0, 86400.0] {
        let rested = two(seconds);
        assert_eq!((rested.drops(), rested.count("flows_remote")), (vec![], 2), "{seconds}");
        assert_eq!(rested.seen(1).src.port(), 1024);
    }
}

#[test]
fn time_stamps_that_go_back_do_no_harm() {
    let mut frames = handshake();
    frames[1].0 -= Duration::from_secs(86400);
    let replayed = Bench::new().replay_of(&frames, &[]);
    assert_eq!((replayed.frames.len(), replayed.drops()), (3, vec![]));
    assert_eq!(replayed.frames[1].0, frames[1].0);
}

#[test]
fn a_joined_segment_passes_and_other_long_packets_do_not() {
    let mut frames = handshake();
    // With the longest options there are.
    let options = [vec![1; 36], vec![0; 4]].concat();
    let joined = Build { payload: vec![7; 40_000], options, ..tcp(CLIENT, VIP, ACK, 1001, 5001) };
    frames.push(at(0.4, joined.frame()));
    let replayed = Bench::new().replay_of(&frames, &[]);
    assert_eq!((replayed.drops(), replayed.seen(3).payload.len()), (vec![], 40_000));

    let syslog = "[[service]]\nname = \"syslog\"\nvip = \"203.0.113.10\"\nport = 514\nprotocol = \"udp\"\n\
                  [service.check]\nkind = \"none\"\n[[service.real]]\naddress = \"10.0.0.11\"\n";
    let bench = Bench::with(&format!("{CONFIG}{syslog}"));
    let long = Build::udp("198.18.0.7:40000", "203.0.113.10:514", &[7; 2000]);
    assert_eq!(bench.replay_of(&[at(0.0, long.frame())], &[]).drops(), [("drop_too_big", 1)]);
}

/// In a capture, too, pieces wait for their first one, and not for ever.
#[test]
fn fragments_follow_their_first_one() {
    let syslog = "[[service]]\nname = \"syslog\"\nvip = \"203.0.113.10\"\nport = 514\nprotocol = \"udp\"\n\
                  [service.check]\nkind = \"none\"\n[[service.remote]]\nsite = \"north\"\nvip = \"198.51.100.10\"\n";
    let bench = Bench::with(&format!("{CONFIG}{syslog}"));
    let datagram = Build::udp("198.18.0.7:40000", "203.0.113.10:514", &[7; 4000]);
    let pieces = cut(&datagram.frame(), 7, &[1440, 2880]);
    let lost = cut(&datagram.frame(), 8, &[1440, 2880]);
    let frames: Vec<_> = [(0.0, &pieces[2]), (0.1, &pieces[0]), (0.2, &lost[1]), (0.3, &pieces[1]), (60.0, &lost[2])]
        .map(|(time, frame)| at(time, frame.clone()))
        .into();
    let replayed = bench.replay_of(&frames, &[]);
    let seen = Seen::of(&join(&replayed.frames.iter().map(|(_, frame)| frame.clone()).collect::<Vec<_>>()));
    assert_eq!((seen.dst.to_string(), seen.payload), ("198.51.100.10:514".into(), vec![7; 4000]));
    assert_eq!((replayed.drops(), replayed.count("fragments_held")), (vec![("drop_fragment_timeout", 1)], 3));
    let elsewhere = cut(&Build::udp("198.18.0.7:40000", "203.0.113.77:514", &[7; 4000]).frame(), 7, &[1440, 2880]);
    let elsewhere: Vec<_> = elsewhere.into_iter().map(|frame| at(0.0, frame)).collect();
    assert_eq!(bench.replay_of(&elsewhere, &[]).summary, "3 frames in, 0 out, 0 dropped, 3 not farside's\n");
}

#[test]
fn frames_captured_in_part_are_counted() {
    let bench = Bench::new();
    let header = PcapHeader { snaplen: 60, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (n, (_, frame)) in handshake().iter().enumerate() {
        let (data, orig_len) = (frame[..frame.len().min(60)].into(), if n == 2 { 1400 } else { frame.len() as u32 });
        let raw = RawPcapPacket { ts_sec: 1, ts_frac: n as u32, incl_len: frame.len().min(60) as u32, orig_len, data };
        writer.write_raw_packet(&raw).unwrap();
    }
    std::fs::write(bench.path("in.pcap"), writer.into_writer()).unwrap();
    let replayed = bench.replay(&[]);
    assert_eq!(replayed.drops(), [("drop_truncated", 1)]);
    assert_eq!(replayed.summary, "3 frames in, 2 out, 1 dropped, 0 not farside's\n");
    assert_eq!(replayed.frames[1].0, Duration::new(1, 1000));
}

/// A pcapng capture; the interface stands before each frame.
fn capture_ng(frames: &[(u32, Stamped)]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    for _ in 0..2 {
        let options = vec![InterfaceDescriptionOption::IfTsResol(9)];
        let interface = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options };
        writer.write_pcapng_block(interface).unwrap();
    }
    for (interface_id, (timestamp, frame)) in frames {
        let original_len = frame.len() as u32;
        let (interface_id, timestamp) = (*interface_id, *timestamp);
        let block = EnhancedPacketBlock { interface_id, timestamp, original_len, data: frame.into(), options: vec![] };
        writer.write_pcapng_block(block).unwrap();
    }
    writer.into_inner()
}

#[test]
fn a_captures_interfaces_are_the_ports() {
    let bench = Bench::new();
    let [syn, answer, ack] = <[Stamped; 3]>::try_from(handshake()).unwrap();
    std::fs::write(bench.path("in.pcap"), capture_ng(&[(0, syn), (1, answer), (0, ack)])).unwrap();
    let replayed = bench.replay(&[]);
    assert_eq!((replayed.frames.len(), replayed.drops()), (3, vec![]));
    assert_eq!((replayed.seen(0).dst_mac, replayed.seen(1).dst_mac), (REAL_MAC, THEIR_MAC));
    assert_eq!(replayed.frames[2].0, at(0.2, vec![]).0);
}

#[test]
fn the_same_capture_gives_the_same_output() {
    let bench = Bench::new();
    let frames: Vec<Stamped> = (0..300u32)
        .map(|n| {
            let client = format!("198.18.{}.{}:{}", n % 7, n % 200 + 1, 40000 + n % 31);
            let flags = [SYN, SYN, ACK, FIN | ACK][n as usize % 4];
            at(f64::from(n) * 0.7, from([2, 0, 0, 1, 0, n as u8], &tcp(&client, VIP, flags, n, 0)))
        })
        .collect();
    for down in [&[][..], &ALL_POP3_DOWN] {
        let (one, other) = (bench.replay_of(&frames, down), bench.replay_of(&frames, down));
        assert!(one.frames.len() >= 290, "{}", one.frames.len());
        assert!(one.bytes == other.bytes && one.counts == other.counts && one.summary == other.summary);
    }
    // Known by heart, still in no simple order.
    let remote = bench.replay_of(&frames, &ALL_POP3_DOWN);
    let syns = remote.frames.iter().map(|(_, frame)| Seen::of(frame)).filter(|seen| seen.flags == SYN);
    let ports: Vec<u16> = syns.map(|seen| seen.src.port()).take(10).collect();
    assert!(!ports.is_sorted(), "{ports:?}");
}

#[test]
fn counts_are_one_flat_object_with_all_names() {
    let replayed = Bench::new().replay_of(&handshake(), &[]);
    let expected = farside::counters::Count::ALL.iter().map(|count| count.name());
    let expected = expected.chain(farside::counters::Refusal::ALL.iter().map(|refusal| refusal.name()));
    // What the kernel programs carry and lose stands beside the workers' counts.
    let kernel = ["kernel_packets", "kernel_bytes", "drop_kernel_missed"];
    let mut expected: Vec<&str> = expected.chain(["flows_active"]).chain(kernel).collect();
    expected.sort_unstable();
    assert_eq!(replayed.counts.keys().collect::<Vec<_>>(), expected);
    assert!(replayed.counts.values().all(|count| count.is_u64()));
}

#[test]
fn a_capture_without_frames_is_fine() {
    let replayed = Bench::new().replay_of(&[], &[]);
    assert_eq!(replayed.summary, "0 frames in, 0 out, 0 dropped, 0 not farside's\n");
}

#[test]
fn errors_are_sentences() {
    let bench = Bench::new();
    let (good, out) = (bench.path("in.pcap"), bench.path("out.pcap"));
    let whole = capture(&handshake());
    std::fs::write(&good, &whole).unwrap();
    let name = |path: &Path| path.to_str().unwrap().to_string();

    let missing = bench.path("missing.pcap");
    let no_such = format!("farside: cannot read {}: No such file or directory", name(&missing));
    assert_eq!(bench.fails(&missing, &out, &[]), no_such);
    let pipe = bench.fails(Path::new("/dev/null"), &out, &[]);
    assert_eq!(pipe, "farside: cannot read /dev/null: it is not a file; a capture is read twice");
    let directory = bench.fails(bench.dir.path(), &out, &[]);
    assert_eq!(
        directory,
        format!("farside: cannot read {}: it is not a file; a capture is read twice", name(bench.dir.path()))
    );

    let bad = bench.path("bad.pcap");
    let fails_with = |bytes: &[u8]| {
        std::fs::write(&bad, bytes).unwrap();
        bench.fails(&bad, &out, &[]).replace(&name(&bad), "BAD")
    };
    assert_eq!(fails_with(b""), "farside: BAD: the capture is empty");
    let no_capture = "farside: BAD: not a capture that farside can read: ";
    assert!(fails_with(b"From: joe@example\nTo: all of you\n").starts_with(no_capture));
    assert_eq!(fails_with(&whole[..10]), "farside: BAD: the capture breaks off in the middle");
    let cut = fails_with(&whole[..whole.len() - 5]);
    assert_eq!(cut, "farside: BAD: the capture breaks off in the middle, after frame 2");
    let mut wifi = whole.clone();
    wifi[20..24].copy_from_slice(&105u32.to_be_bytes());
    assert!(fails_with(&wifi).starts_with("farside: BAD: the capture holds "), "{}", fails_with(&wifi));
    // No output is begun for an input that is of no use.
    assert!(!out.exists());

    let nowhere = bench.path("no/such/out.pcap");
    let no_directory = format!("farside: cannot write {}: No such file or directory", name(&nowhere));
    assert_eq!(bench.fails(&good, &nowhere, &[]), no_directory);
    let full = bench.fails(&good, Path::new("/dev/full"), &[]);
    assert_eq!(full, "farside: cannot write /dev/full: No space left on device");
    let counters = bench.fails(&good, &out, &["--counters", "/dev/full"]);
    assert_eq!(counters, "farside: cannot write /dev/full: No space left on device");

    let twice = |path: &Path| format!("farside: {} is given twice; each file needs a name of its own", name(path));
    assert_eq!(bench.fails(&good, &good, &[]), twice(&good));
    assert_eq!(bench.fails(&good, &out, &["--counters", &name(&good)]), twice(&good));
    let new = bench.path("new");
    assert_eq!(bench.fails(&good, &new, &["--counters", &name(&new)]), twice(&new));
    assert_eq!(std::fs::read(&good).unwrap(), whole);

    let unknown = bench.fails(&good, &out, &["--down", "pop3/pop-x"]);
    let known = "pop3/pop-a, pop3/pop-b, pop3/north, pop6/six, pop6/north";
    assert_eq!(unknown, format!("farside: there is no target pop3/pop-x; there are: {known}"));
    std::fs::write(bench.path("config"), "nonsense").unwrap();
    assert!(bench.fails(&good, &out, &[]).starts_with("error: "));
}

/// Replays these bytes in this process: a panic fails the test. Good or bad, the answer is a sentence.
fn survives(bench: &Bench, bytes: &[u8]) -> Result<String, String> {
    let (input, output) = (bench.path("in.pcap"), bench.path("out.pcap"));
    std::fs::write(&input, bytes).unwrap();
    let told = farside::replay::replay(&bench.path("config"), &input, &output, None, &[]);
    let sentence = told.as_ref().unwrap_or_else(|why| why);
    assert!(!sentence.is_empty() && !sentence.contains('\n'), "{sentence}");
    if told.is_ok() {
        let mut reader = PcapReader::new(File::open(&output).unwrap()).unwrap();
        while let Some(packet) = reader.next_packet() {
            packet.unwrap();
        }
    }
    told
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_survived(magic in 0..4usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let whole = [capture(&[]), capture_ng(&[]), Vec::new()];
        let start = whole.get(magic).cloned().unwrap_or(capture_ng(&[])[..12].to_vec());
        let _ = survives(&Bench::new(), &[start, bytes].concat());
    }

    #[test]
    fn random_frames_are_replayed(
        frames in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..120)), 0..20),
    ) {
        let frames: Vec<Stamped> = frames.into_iter().map(|(s, frame)| (Duration::from_secs(s.into()), frame)).collect();
        survives(&Bench::new(), &capture(&frames)).unwrap();
    }

    #[test]
    fn damaged_captures_are_survived(
        ng in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut frames = handshake();
        frames.push(at(9.0, arp_request([203, 0, 113, 10])));
        let numbered: Vec<_> = frames.iter().cloned().map(|frame| (u32::from(frame.1.len() % 2 == 1), frame)).collect();
        let mut bytes = if ng { capture_ng(&numbered) } else { capture(&frames) };
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        let _ = survives(&Bench::new(), &bytes);
    }
}
