//! The straight way against the whole one: what goes straight leaves as it would have otherwise, and leaves the same on record.

use super::bench::{CLIENT6, Left, REAL6, REMOTE6, VIP6, ip, one_sided};
use super::{Bench, CLIENT, LAN, REAL_A, REAL_B, REMOTE, VIP, WAN};
use crate::config::{Encapsulation, Mode};
use crate::counters::Counters;
use crate::device::{Frame, HEADROOM, Offload};
use crate::flow::Hint;
use crate::forward::ahead::{self, Ahead};
use crate::forward::{Context, straight};
use crate::route::Hop;
use crate::testing::Build;
use crate::wire::Packet;
use crate::wire::ip::{V4, V6};
use crate::wire::l4::{ACK, FIN, RST, SYN};
use crate::wire::{Parsed, parse};
use proptest::prelude::*;

const PSH: u8 = 8;
const SYSLOG: &str = "203.0.113.10:514";

/// A flow that stands, as its two ends see it: port, source and destination of the client's packets, of the server's.
#[derive(Clone, Debug)]
struct Stands {
    udp: bool,
    sides: [(u8, String, String); 2],
}

/// A connection of each family to a real server and one to a remote site, and datagrams likewise.
fn stand(bench: &mut Bench) -> Vec<Stands> {
    let mut flows = Vec::new();
    for (up, back) in [(true, LAN), (false, WAN)] {
        for targets in ["pop3/10.0.0", "pop6/[fd00::11]", "syslog/10.0.0.11"] {
            bench.set_up(targets, up);
        }
        for (client, vip, target) in
            [(CLIENT, VIP, if up { REAL_A } else { REMOTE }), (CLIENT6, VIP6, if up { REAL6 } else { REMOTE6 })]
        {
            let client = if up { client.to_owned() } else { client.replace("40000", "40001") };
            let (_, syn) = bench.connect(&client, vip);
            assert_eq!(syn.dst.to_string(), target);
            bench.pass(back, &Build::tcp(target, &syn.src.to_string(), ACK));
            let sides = [(WAN, client, vip.to_owned()), (back, target.to_owned(), syn.src.to_string())];
            flows.push(Stands { udp: false, sides });
        }
        let client = format!("198.18.0.7:{}", 5000 + u16::from(up));
        let sent = bench.pass(WAN, &Build::udp(&client, SYSLOG, b"first")).1;
        let (target, local) = (sent.dst.to_string(), sent.src.to_string());
        bench.pass(back, &Build::udp(&target, &local, b"answer"));
        let sides = [(WAN, client, SYSLOG.to_owned()), (back, target, local)];
        flows.push(Stands { udp: true, sides });
    }
    // Datagrams stay with a target only while it is up.
    bench.set_up("syslog/10.0.0.11", true);
    flows
}

impl Stands {
    fn packet(&self, side: usize, flags: u8, payload: usize) -> (u8, Build) {
        let (port, src, dst) = &self.sides[side];
        let payload = vec![7; payload];
        let packet = match self.udp {
            true => Build::udp(src, dst, &payload),
            false => Build { payload, ack: 9000 + u32::from(flags), ..Build::tcp(src, dst, flags) },
        };
        (*port, packet)
    }
}

/// Tries something with a frame, and all that is known of its packet.
fn with<T>(bench: &mut Bench, port: u8, bytes: &[u8], each: impl FnOnce(Frame, &Packet, Hint, &mut Context) -> T) -> T {
    let mut buf = [&[0; HEADROOM], bytes].concat();
    let len = bytes.len();
    let frame = Frame { buf: &mut buf, start: HEADROOM, len, offload: Offload::default(), port, wire_len: len };
    let Ok(Parsed::Ip(packet)) = parse(bytes) else { panic!("{bytes:?}") };
    let (hint, counters) = (bench.hint(&packet), Counters::new(1));
    let mut ahead = Ahead::default();
    let mut ctx = Context { counters: counters.worker(0), ..bench.context(&mut ahead) };
    each(frame, &packet, hint, &mut ctx)
}

/// Would it go straight? It does so here, with all that follows, but for its leaving.
fn goes_straight(bench: &mut Bench, port: u8, bytes: &[u8]) -> bool {
    with(bench, port, bytes, |mut frame, packet, hint, ctx| straight::carry(&mut frame, packet, hint, ctx).is_some())
}

/// The same for one that opens a connection.
fn opens_straight(bench: &mut Bench, packet: &Build) -> bool {
    with(bench, WAN, &packet.frame(), |mut frame, packet, hint, ctx| {
        let hint = ahead::look(packet, hint, ctx);
        let foreseen = ahead::foreseen(hint, ctx);
        foreseen.is_some_and(|to| {
            straight::open(&mut frame, packet, hint.hash, &to, ctx).is_some_and(|opened| opened.is_ok())
        })
    })
}

/// All flows on record.
fn on_record(bench: &Bench) -> Vec<String> {
    let mut known = Vec::new();
    bench.shared.table.for_each(|on| known.push(format!("{on:?}")));
    known
}

/// Connections of each real server of the first service, and of all of it.
fn counted(bench: &Bench) -> ([u32; 2], u32) {
    let places = [REAL_A, REAL_B].map(|real| bench.active(&format!("pop3/{real}")));
    (places, bench.shared.status.service_active(bench.services.services()[0].slot))
}

#[test]
fn what_stands_goes_straight_and_the_rest_goes_the_whole_way() {
    let mut bench = Bench::new();
    for flow in stand(&mut bench) {
        for side in [0, 1] {
            for payload in [0, 1, 1400] {
                let (port, packet) = flow.packet(side, ACK | PSH, payload);
                assert!(goes_straight(&mut bench, port, &packet.frame()), "{packet:?}");
            }
            let mut odd = vec![flow.packet(side, ACK, 1500).1, Build { ttl: 1, ..flow.packet(side, ACK, 1).1 }];
            if !flow.udp {
                odd.extend([SYN, SYN | ACK, FIN | ACK, RST].map(|flags| flow.packet(side, flags, 0).1));
            }
            for packet in odd {
                assert!(!goes_straight(&mut bench, flow.sides[side].0, &packet.frame()), "{packet:?}");
            }
            let (port, packet) = flow.packet(side, ACK, 1);
            bench.ahead = false;
            assert!(!goes_straight(&mut bench, port, &packet.frame()), "nobody has looked for its flow");
            bench.ahead = true;
            let mut hops = [0; 2];
            bench.shared.table.for_each(|on| {
                hops = if on.flow.client == super::endpoint(&flow.sides[0].1) { on.flow.hops } else { hops }
            });
            let hop = bench.shared.hops.get(hops[1 - side]).unwrap();
            bench.shared.hops.clear(hops[1 - side]);
            assert!(!goes_straight(&mut bench, port, &packet.frame()), "the next hop is silent");
            bench.shared.hops.set(hops[1 - side], hop);
            assert!(goes_straight(&mut bench, port, &packet.frame()));
        }
    }
}

#[test]
fn a_datagram_for_a_target_that_is_down_and_a_packet_that_may_be_cut_on_its_way_from_a_pip_go_the_whole_way() {
    let mut bench = Bench::new();
    let flows = stand(&mut bench);
    let (port, packet) = flows[2].packet(0, 0, 1);
    assert!(goes_straight(&mut bench, port, &packet.frame()));
    bench.set_up("syslog/10.0.0.11", false);
    assert!(!goes_straight(&mut bench, port, &packet.frame()));
    let (port, packet) = flows[2].packet(1, 0, 1);
    assert!(goes_straight(&mut bench, port, &packet.frame()), "an answer asks nobody whether its sender lives");
    for (flow, straight) in [(&flows[0], true), (&flows[3], false)] {
        let (port, packet) = flow.packet(0, ACK, 1);
        assert_eq!(goes_straight(&mut bench, port, &divisible(packet.frame())), straight);
        let (port, packet) = flow.packet(1, ACK, 1);
        assert!(goes_straight(&mut bench, port, &divisible(packet.frame())));
    }
}

/// An IPv4 frame without "don't fragment".
fn divisible(mut frame: Vec<u8>) -> Vec<u8> {
    assert_eq!(frame[20], 0x40);
    frame[20] = 0;
    frame[24..26].fill(0);
    let check = pnet_packet::util::checksum(&frame[14..34], usize::MAX);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame
}

#[test]
fn a_connection_to_a_real_server_opens_straight_and_what_is_in_its_way_is_seen_to_on_the_whole_one() {
    let mut bench = Bench::new();
    let syn = |port: u16| Build::tcp(&format!("198.18.0.7:{port}"), VIP, SYN);
    assert!(opens_straight(&mut bench, &syn(40000)));
    assert!(opens_straight(&mut bench, &Build::tcp(CLIENT6, VIP6, SYN)));
    assert!(opens_straight(&mut bench, &Build::udp(CLIENT, SYSLOG, b"first")));
    assert!(!opens_straight(&mut bench, &syn(40000)), "it is on record");
    assert!(!opens_straight(&mut bench, &Build { ttl: 1, ..syn(40001) }));
    assert!(!opens_straight(&mut bench, &Build { payload: vec![0; 1461], ..syn(40001) }));
    assert!(!opens_straight(&mut bench, &Build::tcp(CLIENT, VIP, ACK)));
    for (real, port) in [(REAL_A, 40001), (REAL_B, 40002)] {
        bench.set_up(&format!("pop3/{real}"), false);
        assert_eq!(opens_straight(&mut bench, &syn(port)), port == 40001);
    }
    assert_eq!(counted(&bench).0.iter().sum::<u32>(), 2);
    assert_eq!(bench.shared.table.len(), 4, "and nothing is left of those that did not");

    for mode in [Mode::Direct, Mode::Tunnel] {
        assert!(!opens_straight(&mut Bench::with(one_sided(mode, Encapsulation::Ipip)), &syn(40000)), "{mode:?}");
    }
}

#[test]
fn where_a_connection_cannot_be_put_on_record_its_place_is_given_back() {
    let mut config = super::bench::config();
    config.datapath.max_flows = 2;
    config.services[0].reals[1].max_connections = 1;
    let mut bench = Bench::with(config);
    let syn = |port: u16| Build::tcp(&format!("198.18.0.7:{port}"), VIP, SYN);
    assert!(opens_straight(&mut bench, &syn(40000)) && opens_straight(&mut bench, &syn(40001)));
    assert_eq!(counted(&bench), ([1, 1], 2));
    assert!(!opens_straight(&mut bench, &syn(40002)), "the table is full");
    assert_eq!(counted(&bench), ([1, 1], 2));

    // Foreseen for a place that is taken before its turn comes.
    let mut config = super::bench::config();
    config.services[0].reals[0].max_connections = 1;
    config.services[0].max_connections = 2;
    let mut bench = Bench::with(config);
    let full = with(&mut bench, WAN, &syn(40000).frame(), |mut frame, packet, hint, ctx| {
        let hint = ahead::look(packet, hint, ctx);
        let to = ahead::foreseen(hint, ctx).expect("a place");
        assert!(to.service.place_at(to.target, &ctx.shared.status));
        straight::open(&mut frame, packet, hint.hash, &to, ctx)
    });
    assert_eq!((full, counted(&bench)), (None, ([1, 0], 1)));
}

prop_compose! {
    /// Flow, side, flags, payload, TTL; may be cut, sum left to the device, joined segments.
    fn any_packet()(
        flow in 0..6usize, side in 0..2usize,
        flags in prop::sample::select(vec![ACK, ACK, ACK, ACK | PSH, ACK | PSH | 0x20, ACK | FIN, RST, RST | ACK, SYN, SYN | ACK]),
        payload in prop::sample::select(vec![0, 1, 2, 99, 1400, 1460, 1473, 4000]),
        ttl in prop::sample::select(vec![64, 64, 255, 2, 1]),
        odd in any::<[bool; 3]>(),
    ) -> (usize, usize, u8, usize, u8, [bool; 3]) {
        (flow, side, flags, payload, ttl, odd)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_ways_lead_to_the_same(packets in prop::collection::vec(any_packet(), 1..60)) {
        // One port to lend: then both lend the same.
        let mut benches = [1024..=1024, 1024..=1024].map(|ports| {
            let mut config = super::bench::config();
            config.proxy.as_mut().unwrap().ports = ports;
            Bench::with(config)
        });
        benches[1].ahead = false;
        let [flows, same] = benches.each_mut().map(stand);
        prop_assert_eq!(format!("{flows:?}"), format!("{same:?}"));
        for (flow, side, flags, payload, ttl, [cut, partial, joined]) in packets {
            let (port, packet) = flows[flow].packet(side, flags, payload);
            let v4 = packet.src.is_ipv4();
            let (csum_start, header) = (if v4 { 34 } else { 54 }, if flows[flow].udp { 8 } else { 20 });
            let partial = partial && !flows[flow].udp;
            let frame = Build { ttl, partial, ..packet }.frame();
            let frame = if cut && v4 { divisible(frame) } else { frame };
            let offload = Offload {
                needs_csum: partial,
                csum_start: if partial { csum_start } else { 0 },
                csum_offset: if partial { 16 } else { 0 },
                gso_type: match joined && partial && payload > 1400 { true if v4 => 1, true => 4, false => 0 },
                gso_size: 1400,
                hdr_len: csum_start + header,
                csum_valid: false,
            };
            let [left, other] = benches.each_mut().map(|bench| bench.run_all(port, &frame, offload));
            prop_assert_eq!(left, other);
            let [known, same] = benches.each_ref().map(on_record);
            prop_assert_eq!(known, same);
            let [moved, same] = benches.each_mut().map(Bench::moved);
            prop_assert_eq!(moved, same);
        }
    }
}

/// Service, client, flags, options, payload, TTL; may be cut, sum left to the device.
type First = (usize, u8, u8, &'static [u8], usize, u8, [bool; 2]);

prop_compose! {
    /// Of few clients.
    fn any_first()(
        service in 0..3usize, client in 0..12u8,
        flags in prop::sample::select(vec![SYN, SYN, SYN, SYN, SYN | 0xc0, ACK, SYN | ACK, RST]),
        options in prop::sample::select(vec![&[][..], &[2, 4, 5, 180], &[1, 2, 4, 5, 220, 0, 0, 0], &[2, 4, 0, 1], &[3, 3, 7, 0]]),
        payload in prop::sample::select(vec![0, 0, 1, 99, 1400, 1473]),
        ttl in prop::sample::select(vec![64, 64, 64, 255, 2, 1]),
        odd in any::<[bool; 2]>(),
    ) -> First {
        (service, client, flags, options, payload, ttl, odd)
    }
}

const NEIGHBORS: [&str; 3] = ["10.0.0.11", "10.0.0.12", "fd00::11"];

#[derive(Clone, Debug)]
enum Step {
    First(First),
    Up(&'static str, bool),
    Time(u64),
    /// One of [`NEIGHBORS`] speaks, or is silent.
    Hop(usize, bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    let targets = vec!["pop3/10.0.0.11", "pop3/10.0.0.12", "syslog/10.0.0.11", "pop6/[fd00::11]"];
    prop_oneof![
        12 => any_first().prop_map(Step::First),
        1 => (prop::sample::select(targets), any::<bool>()).prop_map(|(target, up)| Step::Up(target, up)),
        1 => (1..90u64).prop_map(Step::Time),
        1 => (0..NEIGHBORS.len(), any::<bool>()).prop_map(|(neighbor, speaks)| Step::Hop(neighbor, speaks)),
    ]
}

/// What a packet's frame is, and what the device is to do with it.
fn first((service, client, flags, options, payload, ttl, [cut, partial]): First) -> (Vec<u8>, Offload) {
    let (v4, v6) =
        (format!("198.18.0.{client}:{}", 4000 + u16::from(client) % 2), format!("[2001:db8:c::{client}]:4000"));
    let payload = vec![7; payload];
    let packet = match service {
        0 => Build { payload, options: options.to_vec(), ..Build::tcp(&v4, VIP, flags) },
        1 => Build::udp(&v4, SYSLOG, &payload),
        _ => Build { payload, options: options.to_vec(), ..Build::tcp(&v6, VIP6, flags) },
    };
    let (partial, header) = (partial && service != 1, 20 + options.len() as u16);
    let csum_start = if service == 2 { 54 } else { 34 };
    let frame = Build { ttl, partial, ..packet }.frame();
    let frame = if cut && service != 2 { divisible(frame) } else { frame };
    let sums =
        Offload { needs_csum: true, csum_start, csum_offset: 16, hdr_len: csum_start + header, ..Offload::default() };
    (frame, if partial { sums } else { Offload::default() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_ways_open_the_same(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut benches = [true, false].map(|ahead| {
            let mut config = super::bench::config();
            config.datapath.max_flows = 12;
            config.proxy.as_mut().unwrap().ports = 1024..=1024;
            config.services[0].max_connections = 8;
            config.services[0].reals[0].max_connections = 3;
            let mut bench = Bench::with(config);
            bench.ahead = ahead;
            bench
        });
        let hops = NEIGHBORS.map(|neighbor| {
            let family = if neighbor.contains(':') { V6 } else { V4 };
            benches[0].fib.lookup_plain(&ip(neighbor).into(), family).expect("a neighbor")
        });
        for step in steps {
            let [left, other]: [Option<Left>; 2] = benches.each_mut().map(|bench| match &step {
                Step::First(packet) => {
                    let (frame, offload) = first(*packet);
                    Some(bench.run_all(WAN, &frame, offload).map(|(port, frames, offload)| (port, frames.concat(), offload)))
                }
                Step::Up(target, up) => {
                    bench.set_up(target, *up);
                    None
                }
                Step::Time(seconds) => {
                    bench.wait(std::time::Duration::from_secs(*seconds));
                    None
                }
                Step::Hop(neighbor, speaks) => {
                    match bench.shared.hops.get(hops[*neighbor]) {
                        Some(_) if !speaks => bench.shared.hops.clear(hops[*neighbor]),
                        None if *speaks => {
                            bench.shared.hops.set(hops[*neighbor], Hop { mac: [9; 6], port: LAN, mtu: 1500 });
                        }
                        _ => {}
                    }
                    None
                }
            });
            prop_assert_eq!(left, other);
            let [known, same] = benches.each_ref().map(|bench| {
                (on_record(bench), counted(bench))
            });
            prop_assert_eq!(known, same);
            let [moved, same] = benches.each_mut().map(Bench::moved);
            prop_assert_eq!(moved, same);
        }
    }
}
