//! The device on real interfaces ([`crate::device::lab`]): veth, whose driver has XDP but no zero copy. Needs root.

use super::*;
use crate::device::af_packet;
use crate::device::lab::*;
use crate::sys::bpf::{Place, Programs};
use crate::sys::ring::Slot;
use crate::sys::tap::Tap;
use crate::sys::testing::cable;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

fn settings(workers: usize) -> Settings {
    let packet =
        af_packet::Settings { interfaces: vec!["h0".into(), "h1".into()], workers, slots: 30, slot: Slot::Large };
    Settings { packet, slots: 256, busy: None }
}

const NATIVE: Way = Way::Xdp { place: Place::Driver, zero_copy: false, queues: 1 };

/// With the ingress programs, as farside runs them.
fn opened(site: &Site, programs: &mut Programs, settings: Settings) -> (Vec<AfXdp>, Interfaces) {
    site.host.run(|| {
        let opened = open(settings, programs, None).unwrap();
        std::mem::forget(programs.attach_ingress("h0").unwrap());
        std::mem::forget(programs.attach_ingress("h1").unwrap());
        opened
    })
}

/// A server that has the VIP and is reached by the device alone. The client is a PIP so that the answers are farside's.
fn direct_site(site: Site, settings: Settings) -> (Site, Programs, Vec<AfXdp>, Interfaces, [[u8; 6]; 2]) {
    site.server.ip("addr add 10.1.0.100/32 dev lo");
    let macs = [mac(&site.client.mac("c0")), mac(&site.server.mac("s0"))];
    let mut programs = programs(settings.packet.workers as u32);
    programs.set_pips(&[("10.1.0.2".parse().unwrap(), 0..=65535, false)]).unwrap();
    let (devices, interfaces) = opened(&site, &mut programs, settings);
    (site, programs, devices, interfaces, macs)
}

/// Frames that came by the packet sockets behind.
fn by_packet(device: &mut AfXdp, port: usize) -> usize {
    (0..device.receive(port, BATCH)).filter(|i| matches!(device.batch[*i], Entry::Packet(_))).count()
}

fn bytes_equal(client: &mut TcpStream, server: &mut TcpStream, words: &[u8]) {
    use std::io::{Read, Write};
    client.write_all(words).unwrap();
    let mut heard = vec![0; words.len()];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(heard, words);
}

#[test]
fn what_is_farsides_is_kept_from_the_host_and_the_rest_is_left_to_it() {
    let site = site();
    let mut programs = programs(1);
    let (mut devices, interfaces) = opened(&site, &mut programs, settings(1));
    assert_eq!(interfaces.ways(), [NATIVE, NATIVE]);
    let before = ip_in_receives(&site.host);
    udp_to(&site.client, VIP, 20, 100);
    let frames = receive_all(&mut devices[0], WHILE);
    assert_eq!(frames.len(), 20);
    assert!(frames.iter().all(|(port, frame)| *port == 0 && frame.len() == 142));
    assert_eq!(ip_in_receives(&site.host), before, "the host's stack has seen farside's packets");

    // What the host forwards, and its own service.
    site.server.run(|| {
        let listener = TcpListener::bind("10.2.0.2:110").unwrap();
        let mut client = site.client.run(|| TcpStream::connect("10.2.0.2:110").unwrap());
        bytes_equal(&mut client, &mut listener.accept().unwrap().0, &[7; 100_000]);
    });
    site.host.run(|| {
        let socket = UdpSocket::bind("10.1.0.1:110").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        udp_to(&site.client, "10.1.0.1:110", 1, 10);
        assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 10);
    });
    assert!(receive_all(&mut devices[0], WHILE).is_empty(), "farside has taken the host's packets");

    // The program goes with its owner.
    let links = || site.host.sh("ip -d link show h0");
    assert!(links().contains("prog/xdp"), "{}", links());
    drop((interfaces, devices));
    assert!(!links().contains("prog/xdp"), "{}", links());
}

/// Both ends' stacks leave checksums to their devices, and verify what they get.
#[test]
fn a_download_arrives_unharmed() {
    let (site, _programs, devices, _interfaces, macs) = direct_site(site(), settings(1));
    let (mut devices, passed) = while_passing_on(devices, macs, || download(&site, 1 << 20));
    assert!(passed[0] > (8 << 20) / 1448, "{} frames", passed[0]);
    // All chunks are where they belong: ready to receive into, or spare.
    devices[0].flush();
    let room = devices[0].room.as_ref().unwrap();
    assert_eq!(room.whereabouts(), (2 * 256, 2 * 256 + 2 * BATCH));
}

#[test]
fn an_interface_whose_driver_has_no_xdp_gets_it_behind_the_driver() {
    let site = site();
    // Its peer sends by more queues than it receives by: then veth takes no program (veth_xdp_set in drivers/net/veth.c).
    site.client.ip("link del c0");
    site.client.ip(&format!(
        "link add c0 numtxqueues 2 numrxqueues 1 type veth peer name h0 numtxqueues 1 numrxqueues 1 netns {}",
        site.host.name
    ));
    site.client.ip("addr add 10.1.0.2/24 dev c0");
    site.client.ip("link set c0 up");
    site.host.ip("link set h0 up");
    site.client.ip(&format!("neigh add 10.1.0.100 lladdr {} dev c0 nud permanent", site.host.mac("h0")));
    let (site, _programs, devices, interfaces, macs) = direct_site(site, settings(1));
    assert_eq!(interfaces.ways(), [Way::Xdp { place: Place::Generic, zero_copy: false, queues: 1 }, NATIVE]);
    let before = ip_in_receives(&site.host);
    while_passing_on(devices, macs, || download(&site, 1 << 17));
    assert_eq!(ip_in_receives(&site.host), before);
}

/// A worker has the queues q with q % workers == w; which queue a packet comes by, the sender decides.
#[test]
fn every_queue_has_a_worker() {
    let site = site();
    for (space, end, other) in [(&site.client, "c0", "h0"), (&site.server, "s0", "h1")] {
        space.ip(&format!("link del {end}"));
        let queues = "numtxqueues 3 numrxqueues 3";
        space.ip(&format!("link add {end} {queues} type veth peer name {other} {queues} netns {}", site.host.name));
        space.ip(&format!("link set {end} up"));
        site.host.ip(&format!("link set {other} up"));
    }
    site.client.ip("addr add 10.1.0.2/24 dev c0");
    site.server.ip("addr add 10.2.0.2/24 dev s0");
    site.host.ip("addr add 10.1.0.1/24 dev h0");
    site.host.ip("addr add 10.2.0.1/24 dev h1");
    site.server.ip("route add default via 10.2.0.1");
    site.client.ip(&format!("neigh add 10.1.0.100 lladdr {} dev c0 nud permanent", site.host.mac("h0")));
    let (site, _programs, devices, interfaces, macs) = direct_site(site, settings(2));
    let way = Way::Xdp { place: Place::Driver, zero_copy: false, queues: 3 };
    assert_eq!(interfaces.ways(), [way.clone(), way]);
    assert_eq!(interfaces.queues(), [4, 2]);
    let before = ip_in_receives(&site.host);
    let (_, passed) = while_passing_on(devices, macs, || {
        // By chance all of 24 connections meet one worker once in millions of times.
        (0..24).for_each(|_| download(&site, 1000));
    });
    assert!(passed.iter().all(|count| *count > 0), "{passed:?}");
    assert_eq!(ip_in_receives(&site.host), before, "the host's stack has seen farside's packets");
}

#[test]
fn a_worker_without_a_queue_can_send_all_the_same() {
    let (site, _programs, mut devices, interfaces, macs) = direct_site(site(), settings(2));
    assert_eq!(interfaces.ways(), [NATIVE, NATIVE]);
    assert_eq!(interfaces.queues(), [2, 0]);
    let heard = site.server.run(|| UdpSocket::bind(VIP).unwrap());
    heard.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    udp_to(&site.client, VIP, 1, 100);
    let (_, mut frame) = receive_all(&mut devices[0], WHILE).remove(0);
    frame[..6].copy_from_slice(&macs[1]);
    let offload = unfinished::look(&frame);
    assert!(offload.needs_csum, "a veth's peer leaves the checksum to it");
    for device in &mut devices {
        assert!(device.send_copy(&frame, offload, 1));
        device.flush();
        assert_eq!(heard.recv(&mut [0; 200]).unwrap(), 100);
    }
}

#[test]
fn a_link_that_goes_down_and_up_costs_only_what_was_sent_meanwhile() {
    let (site, _programs, devices, _interfaces, macs) = direct_site(site(), settings(1));
    let mut lost = 0;
    let (mut devices, _) = while_passing_on(devices, macs, || {
        download(&site, 1000);
        site.host.ip("link set h1 down");
        for _ in 0..10 {
            udp_to(&site.client, VIP, 1, 100);
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(WHILE);
        site.host.ip("link set h1 up");
        site.server.ip("route replace default via 10.2.0.1");
        std::thread::sleep(WHILE);
        download(&site, 1000);
    });
    lost += devices[0].losses().send_refused;
    // The first to find it down waits in the ring.
    assert!((5..10).contains(&lost), "{lost}");
}

#[test]
fn an_interface_that_is_made_anew_is_taken_up_again() {
    let (site, mut programs, devices, mut interfaces, mut macs) = direct_site(site(), settings(2));
    let (devices, _) = while_passing_on(devices, macs, || download(&site, 1000));
    site.server.ip("link del s0");
    let (devices, _) = while_passing_on(devices, macs, || {
        udp_to(&site.client, VIP, 10, 100);
        site.host.run(|| {
            assert_eq!(interfaces.renew(&programs).unwrap(), [0usize; 0]);
            assert!(!interfaces.go_on(&mut programs).unwrap());
        });
    });
    cable((&site.server, "s0"), (&site.host, "h1"));
    site.host.ip("addr add 10.2.0.1/24 dev h1");
    site.server.ip("addr add 10.2.0.2/24 dev s0");
    site.server.ip("route add default via 10.2.0.1");
    macs[1] = mac(&site.server.mac("s0"));
    let (mut devices, _) = while_passing_on(devices, macs, || {
        site.host.run(|| {
            assert_eq!(interfaces.renew(&programs).unwrap(), [1]);
            std::mem::forget(programs.attach_ingress("h1").unwrap());
        });
        let end = Instant::now() + Duration::from_secs(10);
        while !site.host.run(|| interfaces.go_on(&mut programs).unwrap()) {
            assert!(Instant::now() < end, "the workers do not give up their sockets");
            std::thread::sleep(Duration::from_millis(1));
        }
        download(&site, 1000);
    });
    assert_eq!(interfaces.ways(), [NATIVE, NATIVE]);
    // What the download's ends still had to say to each other.
    receive_all(&mut devices[0], WHILE);
    udp_to(&site.client, VIP, 10, 100);
    std::thread::sleep(WHILE);
    assert_eq!(by_packet(&mut devices[0], 0), 0);
    // The last words of the download may be among them.
    let came = devices[0].batch.len();
    let is_udp = |i: &usize| {
        let frame = devices[0].frame(*i);
        frame.buf[frame.start + 23] == 17
    };
    assert_eq!((0..came).filter(is_udp).count(), 10);
}

#[test]
fn a_queue_without_a_socket_goes_by_the_packet_socket() {
    let site = site();
    let mut programs = programs(1);
    let (mut devices, _interfaces) = opened(&site, &mut programs, settings(1));
    let before = ip_in_receives(&site.host);
    drop(devices[0].move_into(None));
    udp_to(&site.client, VIP, 10, 100);
    std::thread::sleep(WHILE);
    assert_eq!(by_packet(&mut devices[0], 0), 10);
    assert_eq!(ip_in_receives(&site.host), before);
}

#[test]
fn an_interface_that_is_down_at_the_start_works_as_soon_as_it_is_up() {
    let site = site();
    let mut programs = programs(1);
    site.host.ip("link set h0 down");
    let (mut devices, _interfaces) = opened(&site, &mut programs, settings(1));
    site.host.ip("link set h0 up");
    std::thread::sleep(WHILE);
    udp_to(&site.client, VIP, 10, 100);
    std::thread::sleep(WHILE);
    assert_eq!(by_packet(&mut devices[0], 0), 0);
    assert_eq!(devices[0].batch.len(), 10);
}

#[test]
fn a_ring_that_is_full_says_how_much_it_has_lost() {
    let site = site();
    let mut programs = programs(1);
    let (mut devices, _interfaces) = opened(&site, &mut programs, Settings { slots: 32, ..settings(1) });
    udp_to(&site.client, VIP, 50, 100);
    std::thread::sleep(WHILE);
    assert_eq!(devices[0].losses().ring_full, 18);
    assert_eq!(devices[0].losses().ring_full, 0);
    assert_eq!(receive_all(&mut devices[0], WHILE).len(), 32);
}

#[test]
fn packets_too_large_for_a_chunk_are_refused_at_the_start() {
    let site = site();
    let mut programs = programs(1);
    site.host.ip("link set h1 mtu 9000");
    let refused =
        |programs: &mut Programs| site.host.run(|| open(settings(1), programs, None).err().map(|why| why.to_string()));
    let why = refused(&mut programs).unwrap();
    assert!(why.starts_with("interface h1 has an MTU of 9000 bytes, and AF_XDP takes packets of up to 3822"), "{why}");
    site.host.ip("link set h1 mtu 3822");
    assert_eq!(refused(&mut programs), None);
}

#[test]
fn a_large_chunk_holds_a_large_packet() {
    let site = site();
    for (space, end) in [(&site.client, "c0"), (&site.host, "h0"), (&site.host, "h1"), (&site.server, "s0")] {
        space.ip(&format!("link set {end} mtu 3000"));
    }
    let (site, _programs, devices, _interfaces, macs) = direct_site(site, settings(1));
    let heard = site.server.run(|| UdpSocket::bind(VIP).unwrap());
    heard.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    while_passing_on(devices, macs, || {
        udp_to(&site.client, VIP, 1, 2972);
        assert_eq!(heard.recv(&mut [0; 4000]).unwrap(), 2972);
    });
}

#[test]
fn the_waker_ends_a_sleep_and_so_does_a_frame() {
    let site = site();
    let mut programs = programs(1);
    let (mut devices, _interfaces) = opened(&site, &mut programs, settings(1));
    let waker = devices[0].waker();
    let start = Instant::now();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        waker.wake();
    });
    devices[0].wait(Duration::from_secs(10));
    thread.join().unwrap();
    assert!((40..5000).contains(&start.elapsed().as_millis()));
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| udp_to(&site.client, VIP, 1, 100));
        while devices[0].receive(0, BATCH) == 0 {
            devices[0].wait(Duration::from_secs(10));
        }
    });
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_tap_carries_frames_both_ways() {
    let site = site();
    let mut programs = programs(1);
    let (mut devices, _interfaces) = site.host.run(|| {
        let tap = Tap::create("farside0").unwrap();
        tap.set_mac([2, 0, 0, 0, 0, 1]).unwrap();
        tap.set_up().unwrap();
        open(settings(1), &mut programs, Some(tap)).unwrap()
    });
    site.host.ip("addr add 10.3.0.1/24 dev farside0");
    site.host.ip("neigh add 10.3.0.2 lladdr 02:00:00:00:00:02 dev farside0");
    let device = &mut devices[0];
    assert_eq!(device.ports(), 3);
    let echo = site.host.run(|| UdpSocket::bind("10.3.0.1:7").unwrap());
    echo.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    echo.send_to(b"ping", (Ipv4Addr::new(10, 3, 0, 2), 9)).unwrap();
    let frames = receive_all(device, WHILE);
    let (_, frame) = frames.into_iter().find(|(port, f)| *port == 2 && f[12..14] == [8, 0]).unwrap();
    assert_eq!(&frame[42..46], b"ping");

    // What came by a ring leaves by the tap: to the host's own address, as if a client had asked.
    udp_to(&site.client, VIP, 1, 4);
    std::thread::sleep(WHILE);
    assert_eq!(device.receive(0, BATCH), 1);
    let asked = device.frame(0);
    let (start, len, offload) = (asked.start, asked.len, asked.offload);
    let bytes = &mut asked.buf[start..start + len];
    bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    assert!(device.send(0, Span { start, len, offload }, 2));
    device.flush();
    let seen = site.host.sh("cat /sys/class/net/farside0/statistics/rx_packets");
    assert_eq!(seen.trim(), "1");
}

#[test]
fn busy_polling_is_asked_for() {
    let site = site();
    let busy = Some(crate::sys::xsk::BusyPoll { time_us: 20, budget: 64 });
    let (site, _programs, devices, _interfaces, macs) = direct_site(site, Settings { busy, ..settings(1) });
    while_passing_on(devices, macs, || download(&site, 10_000));
}

#[test]
fn another_ones_program_is_left_alone() {
    let site = site();
    let (mut first, mut second) = (programs(1), programs(1));
    let (_devices, _interfaces) = opened(&site, &mut first, settings(1));
    let (_others, interfaces) = opened(&site, &mut second, settings(1));
    let why = |way: &Way| matches!(way, Way::Packet(why) if why.contains("takes no XDP program"));
    assert!(interfaces.ways().iter().all(why), "{:?}", interfaces.ways());
    assert_eq!(interfaces.queues(), [0]);
}
