//! The device on real interfaces ([`crate::device::lab`]). Needs root.

use super::*;
use crate::device::lab::*;
use crate::sys::bpf::Programs;
use crate::sys::socket::SolicitedNodes;
use crate::sys::testing::cable;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

fn settings(workers: usize) -> Settings {
    Settings { interfaces: vec!["h0".into(), "h1".into()], workers, slots: 30, slot: Slot::Large }
}

/// `clsact`: as on kernels before 6.6.
fn what_is_farsides_is_kept_from_the_host(clsact: bool) {
    let site = site();
    let mut programs = programs(1);
    let (mut device, ingress) = site.host.run(|| {
        if clsact {
            programs.use_clsact_only();
        }
        let (mut devices, _) = open(settings(1), &programs, None).unwrap();
        (devices.remove(0), programs.attach_ingress("h0").unwrap())
    });
    let before = ip_in_receives(&site.host);
    udp_to(&site.client, VIP, 20, 100);
    let frames = receive_all(&mut device, WHILE);
    assert_eq!(frames.len(), 20);
    assert!(frames.iter().all(|(port, frame)| *port == 0 && frame.len() == 142));
    assert_eq!(ip_in_receives(&site.host), before, "the host's stack has seen farside's packets");

    // The host's own service, at its own address, and what it forwards, are not farside's.
    site.server.run(|| {
        let listener = TcpListener::bind("10.2.0.2:110").unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        });
        site.client.run(|| {
            let mut stream = TcpStream::connect("10.2.0.2:110").unwrap();
            stream.write_all(b"through the host").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"through the host");
        });
        echo.join().unwrap();
    });
    site.host.run(|| {
        let socket = UdpSocket::bind("10.1.0.1:110").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        udp_to(&site.client, "10.1.0.1:110", 1, 10);
        assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 10);
    });
    assert!(receive_all(&mut device, WHILE).is_empty(), "farside has taken the host's packets");

    let filters = || site.host.sh("tc filter show dev h0 ingress; tc qdisc show dev h0");
    if clsact {
        assert!(filters().contains("farside_ingress"), "{}", filters());
    }
    site.host.run(|| drop(ingress));
    assert!(!filters().contains("farside_ingress") && !filters().contains("clsact"), "{}", filters());
    let before = ip_in_receives(&site.host);
    udp_to(&site.client, VIP, 5, 100);
    assert_eq!(ip_in_receives(&site.host), before + 5);
}

#[test]
fn what_is_farsides_is_kept_from_the_host_by_tcx() {
    what_is_farsides_is_kept_from_the_host(false);
}

#[test]
fn what_is_farsides_is_kept_from_the_host_by_a_filter() {
    what_is_farsides_is_kept_from_the_host(true);
}

#[test]
fn a_filter_left_by_a_crash_is_cleaned_up_and_others_filters_are_not() {
    let site = site();
    site.host.run(|| {
        let mut programs = programs(1);
        programs.use_clsact_only();
        std::mem::forget(programs.attach_ingress("h0").unwrap());
        std::mem::forget(programs.attach_ingress("h1").unwrap());
    });
    site.host.sh("tc filter add dev h1 egress prio 9 bpf bytecode \"1,6 0 0 0,\"");
    let filters = |dev| site.host.sh(&format!("tc filter show dev {dev} ingress; tc qdisc show dev {dev}"));
    assert!(filters("h0").contains("farside_ingress"), "{}", filters("h0"));
    site.host.run(|| {
        assert!(crate::sys::bpf::clean_leftovers("h0").unwrap());
        assert!(!crate::sys::bpf::clean_leftovers("h0").unwrap());
        assert!(crate::sys::bpf::clean_leftovers("h1").unwrap());
    });
    assert!(!filters("h0").contains("farside_ingress") && !filters("h0").contains("clsact"));
    assert!(!filters("h1").contains("farside_ingress") && filters("h1").contains("clsact"));
}

/// A server that has the VIP and is reached by the device alone. The client is a PIP so that the answers are farside's.
fn direct_site(workers: usize) -> (Site, Programs, Vec<AfPacket>, Interfaces, [[u8; 6]; 2]) {
    let site = site();
    site.server.ip("addr add 10.1.0.100/32 dev lo");
    let macs = [mac(&site.client.mac("c0")), mac(&site.server.mac("s0"))];
    let mut programs = programs(workers as u32);
    programs.set_pips(&[("10.1.0.2".parse().unwrap(), 0..=65535, false)]).unwrap();
    let (devices, interfaces) = site.host.run(|| open(settings(workers), &programs, None).unwrap());
    site.host.run(|| {
        std::mem::forget(programs.attach_ingress("h0").unwrap());
        std::mem::forget(programs.attach_ingress("h1").unwrap());
    });
    (site, programs, devices, interfaces, macs)
}

#[test]
fn a_download_of_large_segments_arrives_unharmed() {
    let (site, _programs, devices, _interfaces, macs) = direct_site(1);
    let words = 4 << 20;
    let (devices, passed) = while_passing_on(devices, macs, || download(&site, words));
    assert!(passed[0] < words * 8 / 1400, "{} frames: segments do not pass whole", passed[0]);
    assert_eq!(devices[0].refused(), 0);
}

#[test]
fn a_link_that_goes_down_and_up_costs_only_what_was_sent_meanwhile() {
    let (site, _programs, devices, _interfaces, macs) = direct_site(1);
    let (devices, _) = while_passing_on(devices, macs, || {
        download(&site, 1000);
        site.host.ip("link set h1 down");
        udp_to(&site.client, VIP, 10, 100);
        std::thread::sleep(WHILE);
        site.host.ip("link set h1 up");
        site.server.ip("route replace default via 10.2.0.1");
        std::thread::sleep(WHILE);
        download(&site, 1000);
    });
    assert!(devices[0].refused() >= 10, "{}", devices[0].refused());
}

#[test]
fn an_interface_that_is_made_anew_is_taken_up_again() {
    let (site, mut programs, devices, mut interfaces, macs) = direct_site(2);
    let mut macs = macs;
    let (devices, _) = while_passing_on(devices, macs, || download(&site, 1000));
    site.server.ip("link del s0");
    let (devices, _) = while_passing_on(devices, macs, || {
        udp_to(&site.client, VIP, 10, 100);
        site.host.run(|| assert_eq!(interfaces.renew(&programs).unwrap(), [0usize; 0]));
        std::thread::sleep(WHILE);
    });
    cable((&site.server, "s0"), (&site.host, "h1"));
    site.host.ip("addr add 10.2.0.1/24 dev h1");
    site.server.ip("addr add 10.2.0.2/24 dev s0");
    site.server.ip("route add default via 10.2.0.1");
    macs[1] = mac(&site.server.mac("s0"));
    site.host.run(|| {
        assert_eq!(interfaces.renew(&programs).unwrap(), [1]);
        std::mem::forget(programs.attach_ingress("h1").unwrap());
    });
    while_passing_on(devices, macs, || download(&site, 1000));
}

#[test]
fn every_worker_gets_its_own_ports_also_after_the_link_was_down() {
    let site = site();
    let mut programs = programs(3);
    programs.set_pips(&[("10.1.0.200".parse().unwrap(), 2000..=2999, false)]).unwrap();
    site.client.ip(&format!("neigh add 10.1.0.200 lladdr {} dev c0 nud permanent", site.host.mac("h0")));
    let (mut devices, _interfaces) = site.host.run(|| open(settings(3), &programs, None).unwrap());
    for round in 0..2 {
        for port in 2000..2030 {
            udp_to(&site.client, &format!("10.1.0.200:{port}"), 1, 30);
        }
        for (worker, device) in devices.iter_mut().enumerate() {
            let frames = receive_all(device, WHILE / 3);
            // Not the client's question for the address, which old kernels put in all the same.
            let udp = frames.iter().filter(|(_, f)| f[12..14] != [8, 6]);
            let ports: Vec<u16> = udp.map(|(_, f)| u16::from_be_bytes([f[36], f[37]])).collect();
            assert!(ports.iter().all(|port| usize::from(*port) % 3 == worker), "round {round}: {worker} got {ports:?}");
            assert_eq!(ports.len(), 10, "round {round}: {worker} got {ports:?}");
        }
        site.host.ip("link set h0 down");
        site.host.ip("link set h0 up");
        std::thread::sleep(WHILE);
    }
}

#[test]
fn an_interface_that_is_down_at_the_start_works_as_soon_as_it_is_up() {
    let site = site();
    let programs = programs(2);
    site.host.ip("link set h0 down");
    let (mut devices, _interfaces) = site.host.run(|| open(settings(2), &programs, None).unwrap());
    site.host.ip("link set h0 up");
    std::thread::sleep(WHILE);
    udp_to(&site.client, VIP, 10, 100);
    let got: usize = devices.iter_mut().map(|device| receive_all(device, WHILE).len()).sum();
    assert_eq!(got, 10);
}

#[test]
fn solicited_node_groups_are_joined_and_left() {
    let site = site();
    let groups = || site.host.ip("-6 maddr show dev h0");
    let addresses = ["2001:db8::10".parse().unwrap(), "2001:db8::250".parse().unwrap()];
    let joined = site.host.run(|| SolicitedNodes::join("h0", &addresses).unwrap());
    assert!(groups().contains("ff02::1:ff00:10") && groups().contains("ff02::1:ff00:250"), "{}", groups());
    drop(joined);
    assert!(!groups().contains("ff02::1:ff00:10"), "{}", groups());
}

#[test]
fn a_ring_that_is_full_says_how_much_it_has_lost() {
    let site = site();
    let programs = programs(1);
    let (mut devices, _interfaces) = site.host.run(|| open(settings(1), &programs, None).unwrap());
    udp_to(&site.client, VIP, 50, 100);
    std::thread::sleep(WHILE);
    assert_eq!(devices[0].kernel_drops(), 20);
    assert_eq!(devices[0].kernel_drops(), 0);
    assert_eq!(receive_all(&mut devices[0], WHILE).len(), 30);
}

#[test]
fn a_packet_whose_headers_are_not_linear_is_recognised() {
    let site = site();
    site.client.ip("link set c0 mtu 9000");
    site.host.ip("link set h0 mtu 9000");
    let mut programs = programs(1);
    let (mut devices, _interfaces) = site.host.run(|| open(settings(1), &programs, None).unwrap());
    let _ingress = site.host.run(|| programs.attach_ingress("h0").unwrap());
    let mut frame = mac(&site.host.mac("h0")).to_vec();
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0x13, 0x88, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 10, 1, 0, 100]);
    frame.extend([0x10, 0, 0, 110, 0x13, 0x74, 0, 0]);
    frame.resize(5014, 0);
    // More than a page, and only the Ethernet header linear.
    let header = VnetHdr { hdr_len: 14, ..VnetHdr::default() };
    let before = ip_in_receives(&site.host);
    let refused = site.client.run(|| {
        let socket = PacketSocket::new().unwrap();
        socket.bind(interface_index("c0").unwrap(), false).unwrap();
        socket.send_messages(&mut Messages::default(), [(header, &frame[..])].into_iter())
    });
    assert_eq!(refused, 0);
    assert_eq!(receive_all(&mut devices[0], WHILE), [(0, frame)]);
    assert_eq!(ip_in_receives(&site.host), before);
}

#[test]
fn the_waker_ends_a_sleep() {
    let site = site();
    let programs = programs(1);
    let (mut devices, _interfaces) = site.host.run(|| open(settings(1), &programs, None).unwrap());
    let waker = devices[0].waker();
    let start = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        waker.wake();
    });
    devices[0].wait(Duration::from_secs(10));
    assert!((40..2000).contains(&start.elapsed().as_millis()));
    devices[0].wait(Duration::from_millis(1));
}

#[test]
fn the_tap_carries_frames_both_ways() {
    let site = site();
    let programs = programs(2);
    let (mut devices, _interfaces) = site.host.run(|| {
        let tap = Tap::create("farside0").unwrap();
        tap.set_mac([2, 0, 0, 0, 0, 1]).unwrap();
        tap.set_up().unwrap();
        open(settings(2), &programs, Some(tap)).unwrap()
    });
    site.host.ip("addr add 10.3.0.1/24 dev farside0");
    site.host.ip("neigh add 10.3.0.2 lladdr 02:00:00:00:00:02 dev farside0");
    let device = &mut devices[0];
    let echo = site.host.run(|| UdpSocket::bind("10.3.0.1:7").unwrap());
    echo.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    echo.send_to(b"ping", (Ipv4Addr::new(10, 3, 0, 2), 9)).unwrap();
    let frames = receive_all(device, WHILE);
    let (_, mut frame) = frames.into_iter().find(|(port, f)| *port == 2 && f[12..14] == [8, 0]).unwrap();
    assert_eq!(&frame[42..46], b"ping");
    // Back as it came: all addresses exchanged, so that the checksums hold.
    for (a, b, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        for i in 0..len {
            frame.swap(a + i, b + i);
        }
    }
    // The answer to what one worker has received may come to another.
    for device in &mut devices {
        assert_eq!(device.ports(), 3);
        assert!(device.send_copy(&frame, Offload::default(), 2));
        device.flush();
        assert_eq!(echo.recv(&mut [0; 100]).unwrap(), 4);
    }
}
