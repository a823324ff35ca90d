//! The kernel path against the journey: what the kernel programs carry, they carry as `forward` would, byte for byte, and
//! what is out of the ordinary they leave to it. Needs root.

use super::bench::{CLIENT6, KEY, REAL6, REMOTE6, VIP6, config, ip, one_sided};
use super::{Bench, CLIENT, LAN, REAL_A, REMOTE, VIP, WAN};
use crate::config::{CheckKind, Config, Encapsulation, Mode};
use crate::device::Offload;
use crate::flow::{FlowTable, TICK_MS};
use crate::forward::paths::Paths;
use crate::route::{Hop, HopTable};
use crate::service::status::StatusTable;
use crate::sys::bpf::{Programs, SharedMaps, Sizes, WayPort, Ways, monotonic_ns};
use crate::sys::pin::{allowed_cpus, pin_to};
use crate::sys::rows::{CarriedCell, Rows};
use crate::testing::{Build, Seen};
use crate::wire::ip::{FlowKey, TCP, UDP, V4, V6, family_of};
use crate::wire::l4::{ACK, FIN, RST, SYN};
use pnet_packet::ipv4;
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;

const PSH: u8 = 8;
const URG: u8 = 32;

/// What the programs return.
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

struct Lab {
    bench: Bench,
    programs: Programs,
    carried: Rows<CarriedCell>,
    /// There are several workers, and so a fanout program is asked first.
    fanout: bool,
}

impl Lab {
    fn new() -> Lab {
        Lab::with(config())
    }

    fn with(config: Config) -> Lab {
        // The programs leave each other word by CPU.
        pin_to(allowed_cpus().unwrap()[0]).unwrap();
        let max_flows = config.datapath.max_flows;
        let flow_buckets = FlowTable::buckets_for(max_flows) as u32;
        let sizes = Sizes { flow_buckets, max_flows, workers: 2 };
        let start = monotonic_ns() - 1000 * TICK_MS * 1_000_000;
        let mut programs = Programs::load((KEY.k0, KEY.k1), &sizes, start, TICK_MS * 1_000_000).unwrap();
        let SharedMaps { flows, records, hops, paths, status, carried } = programs.memory().unwrap();
        let table = FlowTable::in_memory(records, flows, 1, KEY);
        let hops = HopTable::in_memory(hops).unwrap();
        let mut bench = Bench::in_memory(config, table, hops, StatusTable::in_memory(status).unwrap());
        bench.shared.paths = Paths::in_memory(paths).unwrap();
        let services = [VIP, VIP6].map(|vip| {
            let vip: std::net::SocketAddr = vip.parse().unwrap();
            (vip.ip(), vip.port(), TCP)
        });
        let syslog = (ip("203.0.113.10"), 514, UDP);
        programs.set_services(&[services[0], services[1], syslog]).unwrap();
        programs
            .set_pips(&[(ip(super::PIP), 1024..=1123, false), (ip(super::bench::PIP6), 1024..=1123, false)])
            .unwrap();
        let mut lab = Lab { bench, programs, carried, fanout: true };
        lab.open();
        lab
    }

    fn open(&mut self) {
        let (fib, tunnels) = (&self.bench.fib, &self.bench.services.tunnels);
        let port = |(number, port): (u8, &crate::route::PortInfo)| WayPort {
            ifindex: 5 + u32::from(number),
            mac: port.mac,
            sources: [V4, V6].map(|family| fib.source(number, family).unwrap_or_default().octets()),
        };
        let ports = (0..).zip(fib.ports()).map(port).collect();
        let sources = tunnels.sources.each_ref().map(|listed| listed.iter().map(|addr| addr.octets()).collect());
        let ways = Ways { epoch: fib.epoch(), ports, gue_port: tunnels.gue_port, sources };
        self.programs.set_ways(Some(&ways)).unwrap();
    }

    /// A connection on which enough has passed for the kernel path; gives the target and what it sees as the source.
    fn settled(&mut self, client: &str, vip: &str) -> (String, String) {
        let (_, syn) = self.bench.connect(client, vip);
        for _ in 0..8 {
            self.bench.pass(WAN, &Build::tcp(client, vip, ACK));
            self.bench.pass(LAN, &Build::tcp(&syn.dst.to_string(), &syn.src.to_string(), ACK));
        }
        (syn.dst.to_string(), syn.src.to_string())
    }

    /// The same where the server's answers pass by.
    fn settled_one_sided(&mut self, client: &str, vip: &str) {
        self.bench.run(WAN, &Build::tcp(client, vip, SYN).frame(), Offload::default()).unwrap();
        for _ in 0..16 {
            self.bench.run(WAN, &Build::tcp(client, vip, ACK).frame(), Offload::default()).unwrap();
        }
    }

    /// What the kernel makes of a frame; None: it is the worker's.
    fn kernel(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut frame = frame.to_vec();
        // A test run takes this for the host's own.
        frame[..6].fill(0);
        let (to_ring, ran) = self.programs.ask(self.fanout, &frame, || ());
        match (to_ring, ran.verdict) {
            (0, REDIRECT) => Some(ran.frame),
            (1.., SHOT) => None,
            other => panic!("{other:?}"),
        }
    }

    fn sum(&self, of: fn(&CarriedCell) -> &std::sync::atomic::AtomicU64) -> u64 {
        self.carried.iter().map(|cell| of(cell).load(Relaxed)).sum()
    }

    fn packets(&self, client: &str, vip: &str) -> [u32; 2] {
        let (src, dst) = (super::endpoint(client), super::endpoint(vip));
        let family = family_of(vip.parse::<std::net::SocketAddr>().unwrap().ip());
        let key = FlowKey { src, dst, protocol: TCP, family };
        let table = &self.bench.shared.table;
        table.details(table.lookup(&key, table.hash(&key)).unwrap().at).unwrap().packets
    }
}

/// Both must send the same frame.
fn same(lab: &mut Lab, port: u8, packet: &Build) {
    let frame = packet.frame();
    let kernel = lab.kernel(&frame).unwrap_or_else(|| panic!("the worker's: {packet:?}"));
    let (_, forwarded, _) = lab.bench.run(port, &frame, Offload::default()).unwrap();
    assert_eq!(kernel[..forwarded.len()], forwarded, "{packet:?}");
}

#[test]
fn a_packet_of_a_flow_that_stands_leaves_as_the_worker_would_send_it() {
    let mut lab = Lab::new();
    for (client, vip, target, up) in [
        (CLIENT, VIP, REAL_A, true),
        (CLIENT6, VIP6, REAL6, true),
        (CLIENT, VIP, REMOTE, false),
        (CLIENT6, VIP6, REMOTE6, false),
    ] {
        lab.fanout = up == (vip == VIP);
        lab.bench.set_up("pop3/10.0.0", up);
        lab.bench.set_up("pop6/[fd00::11]", up);
        let client = if up { client.to_owned() } else { client.replace("40000", "40001") };
        let (to, from) = lab.settled(&client, vip);
        assert_eq!(to, target);
        let before = (lab.sum(|cell| &cell.packets), lab.packets(&client, vip));
        for payload in [&b""[..], b"x", b"RETR 1\r\n", &[7; 1400]] {
            let mut packet = Build::tcp(&client, vip, ACK | PSH);
            (packet.payload, packet.tos, packet.seq) = (payload.to_vec(), 0xb9, 7000);
            same(&mut lab, WAN, &packet);
            let mut packet = Build::tcp(&to, &from, ACK | URG);
            (packet.payload, packet.ttl) = (payload.to_vec(), 2);
            same(&mut lab, LAN, &packet);
        }
        let after = (lab.sum(|cell| &cell.packets), lab.packets(&client, vip));
        assert_eq!(after.0 - before.0, 8, "counted");
        assert_eq!([0, 1].map(|side| after.1[side] - before.1[side]), [8, 8], "on record, by both");
    }
    assert_eq!(lab.sum(|cell| &cell.missed), 0);
}

/// Where the old addresses and the new ones add up so that the carry of the sum's words carries again.
#[test]
fn no_carry_of_a_checksum_is_lost() {
    let mut lab = Lab::new();
    lab.bench.set_up("pop3/10.0.0", false);
    let client = "197.51.100.250:40002";
    assert_eq!(lab.settled(client, VIP).0, REMOTE);
    same(&mut lab, WAN, &Build::tcp(client, VIP, ACK));
}

const SENDER: &str = "198.18.0.7:5000";
const SYSLOG: &str = "203.0.113.10:514";

#[test]
fn datagrams_leave_as_the_worker_would_send_them() {
    for up in [true, false] {
        let mut lab = Lab::new();
        lab.bench.set_up("syslog/10.0.0.11", up);
        let first = lab.bench.pass(WAN, &Build::udp(SENDER, SYSLOG, b"first")).1;
        let (target, local) = (first.dst.to_string(), first.src.to_string());
        assert_eq!(target, if up { "10.0.0.11:514" } else { "198.51.100.10:514" });
        let back = if up { LAN } else { WAN };
        for _ in 0..16 {
            lab.bench.pass(WAN, &Build::udp(SENDER, SYSLOG, b"more"));
            lab.bench.pass(back, &Build::udp(&target, &local, b"answer"));
        }
        for payload in [&b""[..], b"x", &[7; 1400]] {
            same(&mut lab, WAN, &Build::udp(SENDER, SYSLOG, payload));
            same(&mut lab, back, &Build::udp(&target, &local, payload));
        }
        // Not summed, and a sum that comes out as nothing.
        let mut frame = Build::udp(SENDER, SYSLOG, b"not summed").frame();
        frame[40..42].fill(0);
        let kernel = lab.kernel(&frame).unwrap();
        assert_eq!(kernel[..frame.len()], lab.bench.run(WAN, &frame, Offload::default()).unwrap().1);
        assert_eq!(kernel[40..42], [0, 0]);
        // The sum over nothing is what makes it so.
        let nothing = Build::udp(SENDER, SYSLOG, &[0; 2]).frame();
        let forwarded = lab.bench.run(WAN, &nothing, Offload::default()).unwrap().1;
        let packet = Build::udp(SENDER, SYSLOG, &forwarded[40..42]);
        assert_eq!(lab.bench.run(WAN, &packet.frame(), Offload::default()).unwrap().1[40..42], [0xff, 0xff]);
        same(&mut lab, WAN, &packet);
        let short = |length: u8| {
            let mut frame = Build::udp(SENDER, SYSLOG, b"length").frame();
            frame[39] = length;
            frame
        };
        for length in [7, 15] {
            assert_eq!(lab.kernel(&short(length)), None);
        }
    }
}

#[test]
fn a_datagram_for_a_target_that_is_down_is_the_workers_and_a_drained_one_keeps_its_own() {
    let mut lab = Lab::new();
    for _ in 0..17 {
        lab.bench.pass(WAN, &Build::udp(SENDER, SYSLOG, b"more"));
    }
    let frame = Build::udp(SENDER, SYSLOG, b"more").frame();
    assert!(lab.kernel(&frame).is_some());
    let key = FlowKey { src: super::endpoint(SENDER), dst: super::endpoint(SYSLOG), protocol: UDP, family: V4 };
    let table = &lab.bench.shared.table;
    let slot = table.details(table.lookup(&key, table.hash(&key)).unwrap().at).unwrap().target_slot;
    lab.bench.shared.status.slot(slot).set_drained(true);
    assert!(lab.kernel(&frame).is_some());
    lab.bench.shared.status.slot(slot).set_up(false);
    assert_eq!(lab.kernel(&frame), None);
    let answer = Build::udp("10.0.0.11:514", SENDER, b"late").frame();
    assert!(!lab.kernel_or_host(&answer), "no answer has shown the way back yet");
    lab.bench.pass(LAN, &Build::udp("10.0.0.11:514", SENDER, b"late"));
    assert!(lab.kernel(&answer).is_some(), "what it still answers reaches the client");
}

#[test]
fn direct_mode_changes_the_macs_and_nothing_else() {
    let mut lab = Lab::with(one_sided(Mode::Direct, Encapsulation::Ipip));
    for (client, vip) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
        lab.settled_one_sided(client, vip);
        let mut packet = Build::tcp(client, vip, ACK | PSH);
        (packet.payload, packet.ttl) = (vec![7; 1400], 17);
        same(&mut lab, WAN, &packet);
        assert_eq!(Seen::of(&lab.kernel(&packet.frame()).unwrap()).ttl, 17);
        // From the very server: it would go round and round.
        let mut back = packet.frame();
        back[6..12].copy_from_slice(&if vip == VIP { [2, 0, 0, 0, 2, 11] } else { [2, 0, 0, 0, 2, 66] });
        assert!(lab.kernel(&back).is_some(), "by another interface it may come");
    }
}

#[test]
fn a_tunnel_is_the_same_from_the_kernel() {
    for encapsulation in [Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue, Encapsulation::Gue1] {
        for crossed in [false, true] {
            let mut config = one_sided(Mode::Tunnel, encapsulation);
            if crossed {
                config.services[0].reals.truncate(1);
                config.services[0].reals[0].address = ip("fd00::11");
                config.services[2].reals[0].address = ip("10.0.0.11");
            } else {
                config.datapath.tunnel_sources = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(ip).to_vec();
            }
            let mut lab = Lab::with(config);
            for (n, (client, vip)) in
                [(CLIENT, VIP), (CLIENT6, VIP6), ("198.18.0.7:40007", VIP)].into_iter().enumerate()
            {
                lab.settled_one_sided(client, vip);
                // Its device is to sum it, and the kernel is told where that is to be done.
                for (payload, partial) in [(0, false), (1, false), (1000, false), (1000, true)] {
                    let mut packet = Build::tcp(client, vip, ACK | PSH);
                    (packet.payload, packet.tos, packet.ttl) = (vec![7; payload], 0xb9 + n as u8, 9);
                    packet.partial = partial;
                    let outer_v6 = (vip == VIP6) != crossed;
                    if outer_v6 && [Encapsulation::Gue, Encapsulation::Gue1].contains(&encapsulation) {
                        assert_eq!(lab.kernel(&packet.frame()), None, "a sum over all of it is the worker's work");
                        lab.bench.run(WAN, &packet.frame(), Offload::default()).unwrap();
                    } else {
                        same(&mut lab, WAN, &packet);
                    }
                }
            }
        }
    }
}

#[test]
fn more_tunnel_sources_than_the_programs_know_are_the_workers_affair() {
    for (most, carried) in [(16, true), (17, false)] {
        let mut config = one_sided(Mode::Tunnel, Encapsulation::Ipip);
        config.datapath.tunnel_sources = (1..=most).map(|n| [192, 0, 2, n].into()).collect();
        let mut lab = Lab::with(config);
        lab.settled_one_sided(CLIENT, VIP);
        let packet = Build::tcp(CLIENT, VIP, ACK);
        assert_eq!(lab.kernel(&packet.frame()).is_some(), carried, "{most}");
        assert_eq!(lab.sum(|cell| &cell.missed), 0);
    }
}

#[test]
fn what_does_not_fit_a_tunnel_is_the_workers_also_by_what_a_router_has_said() {
    for (client, vip, real) in [(CLIENT, VIP, "10.0.0.11"), (CLIENT6, VIP6, "fd00::11")] {
        let mut config = one_sided(Mode::Tunnel, Encapsulation::Gre);
        config.services[0].reals.truncate(1);
        let mut lab = Lab::with(config);
        lab.settled_one_sided(client, vip);
        let headers = if vip == VIP { 40 } else { 60 };
        let overhead = if vip == VIP { 24 } else { 44 };
        let mut packet = Build::tcp(client, vip, ACK);
        packet.payload = vec![1; 1500 - overhead - headers];
        same(&mut lab, WAN, &packet);
        let learned = 1400 - overhead - headers;
        packet.payload = vec![1; learned + 1];
        same(&mut lab, WAN, &packet);
        // By the programs' clock, which goes by the real one from tick 1000 on.
        lab.bench.shared.paths.learn(&ip(real).into(), family_of(ip(real)), 1400, lab.bench.now);
        assert_eq!(lab.kernel(&packet.frame()), None);
        packet.payload = vec![1; learned];
        lab.bench.run(WAN, &packet.frame(), Offload::default()).unwrap();
        same(&mut lab, WAN, &packet);
        packet.payload = vec![1; 1500];
        assert_eq!(lab.kernel(&packet.frame()), None);
    }
}

#[test]
fn a_young_flow_is_the_workers() {
    let mut lab = Lab::new();
    lab.bench.connect(CLIENT, VIP);
    assert_eq!(lab.kernel(&Build::tcp(CLIENT, VIP, ACK).frame()), None);
}

#[test]
fn what_another_cpu_is_just_carrying_is_not_waited_for() {
    let mut lab = Lab::new();
    lab.settled(CLIENT, VIP);
    let packet = |seq: u32| {
        let mut packet = Build::tcp(CLIENT, VIP, ACK);
        packet.seq = seq;
        packet.frame()
    };
    // Decided on, and not yet carried.
    assert_eq!(lab.programs.ask_of_two(&packet(1), &packet(2)), (0, false));
    assert!(lab.kernel(&packet(3)).is_some());
}

#[test]
fn a_packet_does_not_overtake_those_that_wait_for_the_worker() {
    let mut lab = Lab::new();
    lab.settled(CLIENT, VIP);
    let mut young = Build::tcp(CLIENT, VIP, ACK);
    assert!(lab.kernel(&young.frame()).is_some(), "none waits");
    // One that the worker has to see waits in its ring.
    young.options = vec![1; 4];
    lab.programs.set_ways(None).unwrap();
    assert_eq!(lab.kernel(&young.frame()), None);
    lab.open();
    assert_eq!(lab.kernel(&Build::tcp(CLIENT, VIP, ACK).frame()), None, "it would overtake");
    lab.bench.pass(WAN, &young);
    assert_eq!(lab.kernel(&Build::tcp(CLIENT, VIP, ACK).frame()), None, "the second waits still");
    lab.bench.pass(WAN, &young);
    lab.bench.pass(WAN, &young);
    assert!(lab.kernel(&Build::tcp(CLIENT, VIP, ACK).frame()).is_some(), "all are sent");
}

#[test]
fn what_is_out_of_the_ordinary_is_the_workers() {
    let mut lab = Lab::new();
    lab.settled(CLIENT, VIP);
    let good = Build::tcp(CLIENT, VIP, ACK).frame();
    let mut change = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        let taken = lab.kernel_or_host(&frame);
        assert!(!taken, "{what}");
        // What it counted as handed to the worker is as good as sent.
        for _ in 0..2 {
            lab.bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
        }
        assert!(lab.kernel(&good).is_some(), "and the next one is carried again after: {what}");
    };
    for flags in [SYN, ACK | FIN, RST, RST | ACK, SYN | ACK, 0, FIN] {
        change(&format!("flags {flags:#x}"), &|frame| frame[47] = flags);
    }
    change("TTL 1", &|frame| frame[22] = 1);
    change("a fragment", &|frame| frame[20] = 0x20);
    change("an offset", &|frame| frame[21] = 1);
    change("IP options", &|frame| frame[14] = 0x46);
    change("longer than it is", &|frame| frame[16] = 0x40);
    change("too short for TCP", &|frame| frame[17] = 39);
    change("a TCP header that ends behind the packet", &|frame| frame[46] = 0xf0);
    change("a TCP header that is too short", &|frame| frame[46] = 0x40);
    change("another port", &|frame| frame[35] ^= 1);
}

impl Lab {
    /// Is it carried? If not it is the worker's or, since it is of no flow, whoever's.
    fn kernel_or_host(&mut self, frame: &[u8]) -> bool {
        let mut frame = frame.to_vec();
        frame[..6].fill(0);
        self.programs.ask(self.fanout, &frame, || ()).1.verdict == REDIRECT
    }
}

/// All clients' packets to a remote site come from one PIP: what a router may cut gets an identification of farside's own.
#[test]
fn what_may_be_cut_on_its_way_to_a_remote_site_is_the_workers() {
    for (up, carried) in [(true, true), (false, false)] {
        let mut lab = Lab::new();
        lab.bench.set_up("pop3/10.0.0", up);
        let (to, from) = lab.settled(CLIENT, VIP);
        let divisible = |src: &str, dst: &str| {
            let mut frame = Build::tcp(src, dst, ACK).frame();
            frame[20] = 0;
            let check = ipv4::checksum(&ipv4::Ipv4Packet::new(&frame[14..]).unwrap());
            frame[24..26].copy_from_slice(&check.to_be_bytes());
            frame
        };
        assert_eq!(lab.kernel(&divisible(CLIENT, VIP)).is_some(), carried);
        assert!(lab.kernel(&divisible(&to, &from)).is_some(), "an answer keeps the server's");
        assert_eq!(lab.sum(|cell| &cell.missed), 0);
    }
}

/// On record it is a flow to a remote site at the VIP, whose next hop is the tunnel's.
#[test]
fn a_check_of_a_server_that_has_the_vip_is_never_carried() {
    let mut config = one_sided(Mode::Tunnel, Encapsulation::Ipip);
    config.services[0].check.kind = CheckKind::Tcp;
    let mut lab = Lab::with(config);
    let service = &lab.bench.services.services()[0];
    let slot = service.reals[0].slot;
    let door = lab.bench.probes.iter().find(|probe| probe.slot == slot).unwrap().door;
    let (host, door) = ("169.254.64.1:40000", format!("{door}:110"));
    let (_, syn, _) = lab.bench.run(LAN, &Build::tcp(host, &door, SYN).frame(), Offload::default()).unwrap();
    let inner = Seen::of(&[&syn[..12], &[8, 0], &syn[34..]].concat());
    let answer = |flags| Build::tcp(VIP, &inner.src.to_string(), flags);
    lab.bench.pass(LAN, &answer(SYN | ACK));
    let ack = Build::tcp(host, &door, ACK).frame();
    for _ in 0..16 {
        lab.bench.run(LAN, &ack, Offload::default()).unwrap();
        lab.bench.pass(LAN, &answer(ACK));
    }
    assert!(lab.kernel(&answer(ACK).frame()).is_some(), "the flow has settled");
    assert!(!lab.kernel_or_host(&ack));
}

#[test]
fn a_packet_that_does_not_fit_the_next_hop_is_the_workers() {
    let mut lab = Lab::new();
    lab.settled(CLIENT, VIP);
    let mut packet = Build::tcp(CLIENT, VIP, ACK);
    packet.payload = vec![1; 1460];
    same(&mut lab, WAN, &packet);
    packet.payload = vec![1; 1461];
    assert_eq!(lab.kernel(&packet.frame()), None);
}

#[test]
fn a_lost_neighbor_new_routes_and_a_closing_flow_end_it() {
    let mut lab = Lab::new();
    let (to, from) = lab.settled(CLIENT, VIP);
    let frame = Build::tcp(CLIENT, VIP, ACK).frame();
    assert!(lab.kernel(&frame).is_some());
    let hops = lab.bench.shared.hops.clone();
    let id = (2..100).find(|id| hops.get(*id).is_some_and(|hop: Hop| hop.mac == [2, 0, 0, 0, 2, 11])).unwrap();
    let hop = hops.get(id).unwrap();
    hops.clear(id);
    assert_eq!(lab.kernel(&frame), None, "the worker asks for the neighbor");
    hops.set(id, hop);
    lab.bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
    assert!(lab.kernel(&frame).is_some());

    let epoch = lab.bench.fib.epoch();
    let ports = |first| (first..first + 2).map(|ifindex| WayPort { ifindex, ..WayPort::default() }).collect();
    lab.programs.set_ways(Some(&Ways { epoch: epoch.wrapping_add(1), ports: ports(5), ..Ways::default() })).unwrap();
    assert_eq!(lab.kernel(&frame), None, "the worker looks the way up again");
    lab.bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
    let ports = vec![WayPort::default(); 2];
    lab.programs.set_ways(Some(&Ways { epoch, ports, ..Ways::default() })).unwrap();
    assert_eq!(lab.kernel(&frame), None, "the interface has gone");
    lab.bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
    lab.open();
    assert!(lab.kernel(&frame).is_some());

    lab.bench.pass(WAN, &Build::tcp(CLIENT, VIP, FIN | ACK));
    assert!(lab.kernel(&Build::tcp(&to, &from, ACK).frame()).is_some(), "half closed, the other half goes on");
    lab.bench.pass(LAN, &Build::tcp(&to, &from, FIN | ACK));
    assert_eq!(lab.kernel(&frame), None, "closing: the worker sees the end");
}

#[test]
fn a_flow_that_ends_between_decision_and_deed_is_not_carried() {
    let mut lab = Lab::new();
    lab.settled(CLIENT, VIP);
    let mut frame = Build::tcp(CLIENT, VIP, ACK).frame();
    frame[..6].fill(0);
    let (bench, programs) = (&mut lab.bench, &mut lab.programs);
    let (to_ring, ran) = programs.ask(true, &frame, || bench.wait(std::time::Duration::from_secs(8000)));
    assert_eq!((to_ring, ran.verdict), (0, SHOT));
    assert_eq!((lab.sum(|cell| &cell.packets), lab.sum(|cell| &cell.missed)), (0, 1));
}

/// What stands before the ingress program may have had no packet for some time: where its socket is closed already, say.
#[test]
fn a_word_on_one_packet_is_not_for_another() {
    for (client, vip) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
        let mut lab = Lab::new();
        lab.settled(client, vip);
        let mut frame = Build::tcp(client, vip, ACK).frame();
        frame[..6].fill(0);
        let ports = frame.len() - 20;
        let mut others = vec![frame.clone(); 4];
        others[0][ports - 1] ^= 1;
        others[1][ports - 5] ^= 1;
        others[2][ports + 1] ^= 1;
        others[3].push(0);
        for other in others {
            assert_eq!(lab.programs.ask_of_two(&frame, &other), (0, false));
            // What was not carried is as good as sent.
            lab.bench.pass(WAN, &Build::tcp(client, vip, ACK));
            assert!(lab.kernel(&frame).is_some());
        }
        assert_eq!(lab.programs.ask_of_two(&frame, &frame), (0, true));
    }
}

#[test]
fn the_sweep_sees_that_a_carried_flow_lives() {
    let mut lab = Lab::new();
    lab.settled(CLIENT, VIP);
    // The bench's clock goes ahead; the programs' goes by the real one.
    lab.bench.now.tick = 2;
    lab.bench.pass(WAN, &Build::tcp(CLIENT, VIP, ACK));
    assert!(lab.kernel(&Build::tcp(CLIENT, VIP, ACK).frame()).is_some());
    let (src, dst) = (super::endpoint(CLIENT), super::endpoint(VIP));
    let key = FlowKey { src, dst, protocol: TCP, family: V4 };
    let table = &lab.bench.shared.table;
    let seen = table.details(table.lookup(&key, table.hash(&key)).unwrap().at).unwrap().last_seen;
    assert!((1000..1000 + 60_000 / TICK_MS as u32).contains(&seen), "by the programs' clock: {seen}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any segment, either way, in either family, to a real server or a remote site.
    #[test]
    fn kernel_and_worker_agree(
        payload in proptest::collection::vec(any::<u8>(), 0..1400),
        (seq, ack, tos, ttl) in (any::<u32>(), any::<u32>(), any::<u8>(), 2u8..),
        flags in prop_oneof![Just(ACK), Just(ACK | PSH), Just(ACK | URG), Just(ACK | PSH | 0xc0)],
        (v6, remote, back, port) in (any::<bool>(), any::<bool>(), any::<bool>(), 1024u16..),
    ) {
        thread_local!(static LAB: std::cell::RefCell<Lab> = std::cell::RefCell::new(Lab::new()));
        LAB.with_borrow_mut(|lab| {
            let (client, vip) = if v6 { (format!("[2001:db8:c::7]:{port}"), VIP6) } else { (format!("198.18.0.7:{port}"), VIP) };
            lab.bench.set_up("pop3/10.0.0", !remote);
            lab.bench.set_up("pop6/[fd00::11]", !remote);
            let (to, from) = lab.settled(&client, vip);
            let mut packet = if back { Build::tcp(&to, &from, flags) } else { Build::tcp(&client, vip, flags) };
            (packet.payload, packet.seq, packet.ack, packet.tos, packet.ttl) = (payload, seq, ack, tos, ttl);
            same(lab, if back { LAN } else { WAN }, &packet);
            // Room for the next case.
            lab.bench.wait(std::time::Duration::from_secs(8000));
        });
    }
}
