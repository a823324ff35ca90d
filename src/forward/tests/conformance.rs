//! The cases that Katran's test suite has for a load balancer that sends packets on in tunnels, written afresh: same
//! situations, own packets and addresses, every field of what leaves, and every counter that moves. Each case runs in all four
//! encapsulations (Katran: IPIP and GUE, two copies of the list) and, where the family is not the point, in IPv4 and IPv6.
//!
//! | Katran's cases | here | and |
//! |---|---|---|
//! | UDP to a v4 VIP, v4 real | [`base`] `a_datagram_to_a_v4_vip...` | same |
//! | TCP to a v4 VIP, v4 real | [`base`] `a_connection_to_a_v4_vip...` | same, but it has to begin with a SYN |
//! | TCP to a v4 VIP, v6 real | [`base`] `a_v4_vip_on_v6_reals...` | same, and v6 in v4 besides |
//! | TCP to a v6 VIP, v6 real | [`base`] `a_connection_to_a_v6_vip...` | same |
//! | ToS and traffic class copied | [`base`] `every_dscp_and_mark...` | same, all 256 |
//! | VIP of any port | [`base`] `a_port_without_a_service...` | differs: a service has one port, others are refused |
//! | hash by destination port alone | [`sticky`] `all_of_a_clients_ports...` | differs: not offered; maglev hashes the client's address alone |
//! | LRU hit | [`sticky`] `a_flow_stays...` | same; and no new flow puts an old one out |
//! | LRU miss in mid-connection | [`sticky`] `tcp_without_a_connection...` | differs: what is not on record gets an RST, and is not hashed |
//! | the hash itself | [`sticky`] `two_boxes...`, `flows_of_many_clients...` | same: boxes choose alike, shares are equal |
//! | ICMP echo, v4 and v6 | [`icmp`] `a_ping...` | same; large ones too, and in pieces (`fragments.rs`) |
//! | frag-needed and packet-too-big, steered by what they quote | [`icmp`] `an_error_about_an_answer...` | same, and all other errors |
//! | the same without a flow | [`icmp`] `an_error_about_no_flow...` | differs: dropped, and not hashed |
//! | drop of IPv4 options | [`base`] `options...` | same; harmless IPv6 extension headers pass |
//! | drop of IPv4 and IPv6 fragments | [`pieces`] `a_datagram_in_pieces...` | differs: forwarded after their first one |
//! | pass of what is not for a VIP | [`base`] `what_is_for_no_vip...` | same |
//! | pass of ARP | [`base`] `arp...` | same, but for VIPs it is answered: the host does not have them |
//! | pass of tunnels that are not configured | [`base`] `tunnels_that_end_here...` | same |
//! | QUIC connection ids, 12 cases; UdpStableRt | [`sticky`] `a_quic_client...` | differs: not read, a flow is its 5-tuple. Maglev, source hash and persistence keep a client whose port changes; one whose address changes may get another server |
//! | 1515 bytes: dropped | [`icmp`] `a_datagram_of_1501_bytes...` | differs: told, or cut where its sender allows that |
//! | UDP migration, UdpFlowMigration | [`sticky`] `datagrams_leave...`, `tcp_stays...` | same, without a switch: UDP always leaves a dead server, TCP never |
//! | a VIP without real servers: dropped | [`base`] `without_a_real_server...` | differs: told |
//! | TPR, 17 cases twice: server's number in a TCP option | [`sticky`] `tcp_options...` | differs: not read, and passed on unchanged |
//! | LpmSrc: server by the client's network | [`sticky`] `clients_of_every_network...` | differs: not offered |
//! | CidrVip | [`base`] `only_the_vip_itself...` | differs: a VIP is one address |
//! | IcmpTooBig | [`icmp`] `what_is_too_large...` | same, the MTU less the overhead of each encapsulation |
//! | HC: health checks in the encapsulation | [`checks`] `a_check_reaches...` | same, by a door for each real server instead of a mark |
//! | XPopDecap, EgressDecap, DecapStats: takes off and puts on again | [`base`] `a_packet_inside_a_tunnel_to_the_vip...` | differs: not offered; another site is reached by its VIP (`remote.rs`) |
//! | the same with a TTL at its end: dropped | [`base`] `the_time_to_live_ends...` | differs: told |
//! | none: NAT and direct mode | [`modes`] `in_nat_mode...`, `in_direct_mode...` | fields, sizes and stickiness of the same flows |
//! | decap: 17 GUE, 10 IPIP, 5 of tc | `src/decap/conformance.rs` | see there |

mod base;
mod checks;
mod icmp;
mod modes;
mod pieces;
mod sticky;

use super::bench::{Bench, LAN, WAN, config, ip, service};
use super::tunnel::{ALL, LAN_MAC, Opened, open, shim};
use crate::config::{Config, Encapsulation, Mode, Protocol};
use crate::device::Offload;
use crate::forward::Verdict;
use crate::route::{Fib, Prefix};
use crate::testing::{Build, OUR_MAC, Seen, THEIR_MAC};

const WEB4: &str = "203.0.113.80:80";
const WEB6: &str = "[2001:db8:1::80]:80";
const QUIC4: &str = "203.0.113.80:443";
const QUIC6: &str = "[2001:db8:1::80]:443";
/// On real servers of the other family.
const CROSS4: &str = "203.0.113.46:80";
const CROSS6: &str = "[2001:db8:1::64]:80";

const CLIENT4: &str = "198.18.0.7:40000";
const CLIENT6: &str = "[2001:db8:c::7]:40000";

const REALS4: [&str; 3] = ["10.0.0.11", "10.0.0.12", "10.0.0.13"];
const REALS6: [&str; 3] = ["fd00::11", "fd00::12", "fd00::13"];

/// Six services of three real servers each, in one encapsulation; no remote sites.
fn site(encapsulation: Encapsulation) -> Config {
    let mut config = config();
    let row = |name, vip: &str, protocol, reals: [&str; 3]| {
        let port = vip.rsplit_once(':').unwrap().1;
        let reals =
            reals.map(|real| if real.contains(':') { format!("[{real}]:{port}") } else { format!("{real}:{port}") });
        let reals: Vec<&str> = reals.iter().map(String::as_str).collect();
        let mut service = service(name, vip, protocol, &reals, "198.51.100.10:80");
        service.remotes.clear();
        (service.mode, service.encapsulation) = (Mode::Tunnel, encapsulation);
        service
    };
    config.services = vec![
        row("web4", WEB4, Protocol::Tcp, REALS4),
        row("web6", WEB6, Protocol::Tcp, REALS6),
        row("quic4", QUIC4, Protocol::Udp, REALS4),
        row("quic6", QUIC6, Protocol::Udp, REALS6),
        row("cross4", CROSS4, Protocol::Tcp, REALS6),
        row("cross6", CROSS6, Protocol::Tcp, REALS4),
    ];
    config.datapath.max_flows = 4096;
    config
}

/// A bench of this, with all real servers as neighbors.
fn bench_of(config: Config) -> Bench {
    let mut bench = Bench::with(config);
    let net = |text: &str| text.parse::<Prefix>().unwrap();
    let mut fib = Fib::builder()
        .hops(bench.shared.hops.clone())
        .port("wan0", [2, 0, 0, 0, 0, WAN], 1500, &[net("203.0.113.1/24"), net("2001:db8:1::1/64")])
        .port("lan0", LAN_MAC, 1500, &[net("10.0.0.1/24"), net("fd00::1/64")])
        .route(net("0.0.0.0/0"), WAN, Some(ip("203.0.113.254")))
        .route(net("::/0"), WAN, Some(ip("2001:db8:1::fe")))
        .neighbor(WAN, ip("203.0.113.254"), THEIR_MAC)
        .neighbor(WAN, ip("2001:db8:1::fe"), THEIR_MAC);
    for real in REALS4.into_iter().chain(REALS6) {
        fib = fib.neighbor(LAN, ip(real), mac_of(real));
    }
    bench.fib = fib.build();
    bench
}

fn bench(encapsulation: Encapsulation) -> Bench {
    bench_of(site(encapsulation))
}

/// The real server's.
fn mac_of(real: &str) -> [u8; 6] {
    let number = real.rsplit([':', '.']).next().unwrap().parse().unwrap();
    [2, 0, 0, 0, if real.contains(':') { 6 } else { 4 }, number]
}

/// Runs a client's packet; it reaches a real server, see [`arrives`].
fn reaches(bench: &mut Bench, encapsulation: Encapsulation, packet: &Build) -> Opened {
    let (port, frame, offload) = bench.run(WAN, &packet.frame(), Offload::default()).unwrap();
    assert_eq!((port, offload), (LAN, Offload::default()));
    arrives(&frame, encapsulation, packet)
}

/// What reaches a real server: `packet` as it was sent, but for a TTL that is one less, byte for byte with the checksums as an
/// independent implementation makes them; in front of it what the encapsulation says, and nothing else.
fn arrives(frame: &[u8], encapsulation: Encapsulation, packet: &Build) -> Opened {
    let out = open(frame, shim(encapsulation));
    let v6 = out.dst.is_ipv6();
    assert_eq!(out.src, ip(if v6 { "fd00::1" } else { "10.0.0.1" }), "from the address on the real servers' link");
    assert_eq!((out.ttl, out.tos), (64, packet.tos));
    assert_eq!(out.label != 0, v6);
    let (protocol, ethertype) = if packet.src.is_ipv4() { (4, [8, 0]) } else { (41, [0x86, 0xdd]) };
    let headers: (u8, Vec<u8>) = match encapsulation {
        Encapsulation::Ipip => (protocol, vec![]),
        Encapsulation::Gre => (47, vec![0, 0, ethertype[0], ethertype[1]]),
        Encapsulation::Gue => (17, vec![0, protocol, 0, 0]),
        Encapsulation::Gue1 => (17, vec![]),
    };
    assert_eq!((out.protocol, &out.shim), (headers.0, &headers.1));
    assert_eq!(out.ports.is_some(), out.protocol == 17);
    if let Some((from, to)) = out.ports {
        assert!(from >= 49152 && to == 6080, "{from} -> {to}");
    }
    let mut inner = packet.clone();
    inner.ttl -= 1;
    let mac = mac_of(&out.dst.to_string());
    assert_eq!(out.inner, [&mac[..], &LAN_MAC, &ethertype, &inner.packet()].concat());
    out
}

/// Runs a client's packet that farside answers itself; the answer is this one, back where the packet came from.
fn is_answered_by(bench: &mut Bench, packet: &Build, answer: &Build) {
    let (port, seen) = bench.pass(WAN, packet);
    let expected = Seen { dst_mac: THEIR_MAC, src_mac: OUR_MAC, ..Seen::of(&answer.frame()) };
    assert_eq!((port, seen), (WAN, expected));
}

fn is_left_to_the_host(bench: &mut Bench, packet: &Build) {
    assert_eq!(bench.stop(WAN, packet), Verdict::NotOurs);
    assert_eq!(bench.moved(), []);
}

/// The ICMP error about a packet, from `src`, as far as it may quote it.
fn error_about(packet: &Build, src: &str, (kind, code): (u8, u8), rest: u32) -> Build {
    let most = if packet.src.is_ipv4() { 576 - 28 } else { 1280 - 48 };
    let quoted = packet.packet();
    let to = packet.src.ip().to_string();
    Build { rest, ..Build::icmp(src, &to, kind, code, &quoted[..quoted.len().min(most)]) }
}

#[test]
fn every_case_that_the_table_names_is_there() {
    let cases = [
        include_str!("conformance/base.rs"),
        include_str!("conformance/checks.rs"),
        include_str!("conformance/icmp.rs"),
        include_str!("conformance/modes.rs"),
        include_str!("conformance/pieces.rs"),
        include_str!("conformance/sticky.rs"),
    ]
    .concat();
    let table = include_str!("conformance.rs").lines().filter(|line| line.starts_with("//! |"));
    let named: Vec<_> = table.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    let named: Vec<_> = named.iter().filter_map(|name| name.strip_suffix("...")).collect();
    assert!(named.len() >= 20, "{named:?}");
    for name in named {
        assert!(cases.contains(&format!("fn {}", name.trim_start_matches('.'))), "no case begins with {name}");
    }
}
