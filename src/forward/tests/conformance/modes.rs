//! The same in NAT and direct mode, which Katran has not: what its tunnels would carry inside, in the real server's own words or as
//! it was sent; every byte of it.

use super::*;
use crate::config::Scheduler;
use crate::wire::l4::{ACK, FIN, SYN};
use std::collections::HashSet;
use std::net::SocketAddr;

fn bench_in(mode: Mode) -> Bench {
    let mut config = site(Encapsulation::Ipip);
    config.services.retain(|service| !service.name.starts_with("cross"));
    config.services.iter_mut().for_each(|service| service.mode = mode);
    bench_of(config)
}

const FLOWS: [(&str, &str); 4] = [(CLIENT4, WEB4), (CLIENT4, QUIC4), (CLIENT6, WEB6), (CLIENT6, QUIC6)];

/// Packets of one flow from `src` to `dst`, of all sizes and marks.
fn packets(src: &str, dst: &str, tcp: bool, first: u8) -> Vec<Build> {
    let mut packets = Vec::new();
    for (n, payload) in [&b""[..], b"a", b"odd", b"even", &[0xff; 1024], &[7; 1399]].into_iter().enumerate() {
        let flags = if n == 0 { first } else { ACK };
        let packet = match tcp {
            true => Build { ack: 77, payload: payload.to_vec(), ..Build::tcp(src, dst, flags) },
            false => Build::udp(src, dst, payload),
        };
        packets.push(Build { tos: 0xb8 + n as u8 % 4, ttl: 2 + n as u8, ..packet });
    }
    packets
}

#[test]
fn in_nat_mode_each_end_gets_the_others_packets_in_its_own_words() {
    for (client, vip) in FLOWS {
        let mut bench = bench_in(Mode::Nat);
        let tcp = vip.ends_with(":80");
        let mut real: Option<SocketAddr> = None;
        for packet in packets(client, vip, tcp, SYN) {
            let (port, frame, _) = bench.run(WAN, &packet.frame(), Offload::default()).unwrap();
            let to = *real.get_or_insert(Seen::of(&frame).dst);
            let expected = Build { dst: to, ttl: packet.ttl - 1, ..packet };
            let mac = mac_of(&to.ip().to_string());
            assert_eq!((port, frame), (LAN, [&mac[..], &LAN_MAC, &expected.frame()[12..]].concat()));
        }
        assert_eq!(bench.moved(), [("flows_local", 1)]);
        let real = real.unwrap();
        for packet in packets(&real.to_string(), client, tcp, SYN | ACK) {
            let (port, frame, _) = bench.run(LAN, &packet.frame(), Offload::default()).unwrap();
            let expected = Build { src: vip.parse().unwrap(), ttl: packet.ttl - 1, ..packet };
            let macs = [&THEIR_MAC[..], &[2, 0, 0, 0, 0, WAN]].concat();
            assert_eq!((port, frame), (WAN, [&macs, &expected.frame()[12..]].concat()));
        }
        assert_eq!(bench.moved(), []);
    }
}

#[test]
fn in_direct_mode_packets_arrive_as_they_were_sent() {
    for (client, vip) in FLOWS {
        let mut bench = bench_in(Mode::Direct);
        let mut servers = HashSet::new();
        for packet in packets(client, vip, vip.ends_with(":80"), SYN) {
            let sent = packet.frame();
            let (port, frame, _) = bench.run(WAN, &sent, Offload::default()).unwrap();
            assert_eq!((port, &frame[6..]), (LAN, &[&LAN_MAC[..], &sent[12..]].concat()[..]));
            servers.insert(frame[..6].to_vec());
        }
        assert_eq!(servers.len(), 1);
        assert!(REALS4.into_iter().chain(REALS6).any(|real| servers.contains(&mac_of(real)[..])));
        assert_eq!(bench.moved(), [("flows_local", 1)]);
    }
}

#[test]
fn in_every_mode_the_mtu_that_is_told_is_the_one_that_fits() {
    for mode in [Mode::Nat, Mode::Direct] {
        for (client, vip) in FLOWS {
            let mut bench = bench_in(mode);
            let (headers, tcp) = (if client.starts_with('[') { 40 } else { 20 }, vip.ends_with(":80"));
            let (own, kind) = if headers == 40 { ("2001:db8:1::1", (2, 0)) } else { ("203.0.113.1", (3, 4)) };
            let of = |size: usize| match tcp {
                true => Build { payload: vec![3; size - headers - 20], ..Build::tcp(client, vip, ACK) },
                false => Build::udp(client, vip, &vec![3; size - headers - 8]),
            };
            bench.pass(WAN, &if tcp { Build::tcp(client, vip, SYN) } else { of(100) });
            bench.pass(WAN, &of(1500));
            bench.moved();
            is_answered_by(&mut bench, &of(1501), &error_about(&of(1501), own, kind, 1500));
            assert_eq!(bench.moved(), [("icmp_errors_sent", 1), ("drop_too_big", 1)]);
        }
    }
}

/// All schedulers use all servers, and none splits a flow.
#[test]
fn whatever_the_mode_and_scheduler_a_flow_has_one_server_and_flows_have_all() {
    use Scheduler::*;
    for mode in [Mode::Nat, Mode::Direct, Mode::Tunnel] {
        let mut config = site(Encapsulation::Gre);
        config.services.retain(|service| service.name == "web4");
        config.services[0].mode = mode;
        for scheduler in
            [RoundRobin, WeightedRoundRobin, LeastConnections, WeightedLeastConnections, SourceHash, Maglev, Fastest]
        {
            config.services[0].scheduler = scheduler;
            let mut bench = bench_of(config.clone());
            let mut seen = HashSet::new();
            for n in 1..60 {
                let client = format!("198.18.4.{n}:{}", 7000 + n);
                let to = |bench: &mut Bench, flags| {
                    let (_, frame, _) =
                        bench.run(WAN, &Build::tcp(&client, WEB4, flags).frame(), Offload::default()).unwrap();
                    frame[..6].to_vec()
                };
                let first = to(&mut bench, SYN);
                for flags in [SYN, ACK, ACK, ACK | FIN] {
                    assert_eq!(to(&mut bench, flags), first, "{mode:?} {scheduler:?}");
                }
                seen.insert(first);
            }
            assert_eq!(seen.len(), 3, "{mode:?} {scheduler:?}");
        }
    }
}
