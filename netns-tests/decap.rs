//! `farside decap` by itself: tunneled packets made by hand reach a server on the VIP, and nothing else does.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::support::namespace::Namespace;
use crate::support::process::Process;
use crate::support::server::UdpEcho;
use crate::support::tunnel::{Decap, WRAPS, Wrap, send, udp_packet, unfinish};
use crate::support::wait::{PATIENCE, eventually};
use crate::support::world::{BOTH, World};

const PORT: u16 = 7;

/// A site whose box routes, so that the server's answers find the client.
fn stage() -> (World, [IpAddr; 2]) {
    let world = World::new(1);
    let site = world.site(1);
    site.host.sysctl("net/ipv4/ip_forward", "1");
    site.host.sysctl("net/ipv6/conf/all/forwarding", "1");
    let vips = BOTH.map(|family| site.vip(family));
    (world, vips)
}

/// The client's socket, which takes what comes from the VIP.
fn client(world: &World, vip: SocketAddr, address: IpAddr) -> UdpSocket {
    let socket = world.client.inside(|| {
        let socket = UdpSocket::bind((address, 0))?;
        socket.connect(vip)?;
        std::io::Result::Ok(socket)
    });
    let socket = socket.expect("a client's socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn heard(socket: &UdpSocket) -> Vec<u8> {
    try_hear(socket).expect("the server's answer")
}

fn try_hear(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let received = loop {
        match socket.recv(&mut buffer) {
            // With a timeout the kernel does not go on waiting by itself after a signal.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => break received?,
        }
    };
    buffer.truncate(received);
    Ok(buffer)
}

/// Both versions of IP in both, small and as large as they come, whatever the wrapping; with a strict reverse path filter, too.
#[test]
fn every_tunnel_ends_at_the_vip() {
    every_tunnel_ends("off");
}

/// The same where the kernel program is. What is larger than the link comes in fragments, and so by the sockets; so does UDP in a
/// tunnel that has a checksum of its own, as GUE sent by a socket has.
#[test]
fn every_tunnel_ends_at_the_vip_by_the_program_or_the_sockets() {
    every_tunnel_ends("auto");
}

fn every_tunnel_ends(program: &str) {
    let (world, vips) = stage();
    let (site, real) = (world.site(1), world.site(1).real('a'));
    real.host.sysctl("net/ipv4/conf/all/rp_filter", "1");
    let decap = Decap::start(&real.host, "eth0", &vips, &["--program", program]);
    let (mut cases, mut sent) = (0, 0);
    for inside in BOTH {
        let vip = SocketAddr::new(site.vip(inside), PORT);
        let _echo = UdpEcho::start(&real.host, vip, "r1a");
        let socket = client(&world, vip, world.client_address(inside));
        socket.set_read_timeout(Some(PATIENCE / 10)).expect("a timeout");
        let from = socket.local_addr().expect("an address");
        for outside in BOTH {
            for wrap in WRAPS {
                for size in [0, 1, 1_400, 60_000] {
                    let payload: Vec<u8> = (0..size).map(|n| (n * 7 + cases) as u8).collect();
                    let mut packet = udp_packet(from, vip, 0, &payload);
                    // As the sockets see packets that come from this very machine, or that its kernel has merged. The kernel
                    // knows these itself, and takes no other's word.
                    if size == 1_400 && program == "off" {
                        unfinish(&mut packet);
                    }
                    let answer = [b"r1a: ", &payload[..]].concat();
                    eventually(&format!("{inside:?} in {outside:?} {wrap:?}, {size} bytes"), || {
                        send(&site.host, real.address(outside), wrap, 0, &packet);
                        sent += 1;
                        // A kernel at work loses some of the pieces between two namespaces: nobody has said a datagram arrives.
                        match try_hear(&socket) {
                            Ok(heard) if heard == answer => Ok(()),
                            Ok(_) => Err("another answer".into()),
                            Err(error) => Err(error.to_string()),
                        }
                    });
                    cases += 1;
                }
            }
        }
    }
    // None was lost here, and none delivered twice.
    for loss in ["drop_undelivered", "drop_socket_full"] {
        decap.wait_count(loss, 0);
    }
    for (name, share) in [("delivered", 1), ("received_gre", 4), ("received_gue", 2), ("received_ipv6", 8)] {
        let count = decap.count(name);
        assert!(
            (cases / share..=cases / share + sent - cases).contains(&count),
            "{name} {count} of {cases}, {sent} sent"
        );
    }
    // Half of the wrappings, three of four sizes.
    let by_program = if program == "off" { 0 } else { cases / 2 * 3 / 4 };
    let taken = decap.count("delivered_by_program");
    assert!((by_program..=by_program + sent - cases).contains(&taken), "{taken} of {cases}, {sent} sent");
}

/// The program takes what is sent to addresses that the host has, whenever they came to it, and leaves others' packets alone.
#[test]
fn the_program_knows_the_hosts_addresses() {
    let (world, vips) = stage();
    let (site, real) = (world.site(1), world.site(1).real('a'));
    let vip = SocketAddr::new(vips[0], PORT);
    let decap = Decap::start(&real.host, "eth0", &vips, &[]);
    let _echo = UdpEcho::start(&real.host, vip, "r1a");
    let socket = client(&world, vip, world.client_address(BOTH[0]));
    let from = socket.local_addr().expect("an address");
    let later = "10.77.0.1".parse().expect("an address");
    site.host.ip(&format!("route add 10.77.0.1/32 via {}", real.address(BOTH[0])));
    real.host.ip("addr add 10.77.0.1/32 dev eth0");
    // It hears of the address after the kernel does; until then the sockets have the packet. Each is answered.
    eventually("the new address", || {
        send(&site.host, later, Wrap::Ipip, 0, &udp_packet(from, vip, 0, b"to the new one"));
        assert_eq!(heard(&socket), b"r1a: to the new one");
        let taken = decap.count("delivered_by_program");
        if taken > 0 { Ok(()) } else { Err(taken.to_string()) }
    });
}

#[test]
fn what_is_not_for_a_vip_or_was_not_asked_for_is_dropped_and_counted() {
    let (world, vips) = stage();
    let (site, real) = (world.site(1), world.site(1).real('a'));
    let vip = SocketAddr::new(vips[0], PORT);
    let decap = Decap::start(&real.host, "eth0", &vips[..1], &["--encapsulation", "gue"]);
    let _echo = UdpEcho::start(&real.host, vip, "r1a");
    let socket = client(&world, vip, world.client_address(BOTH[0]));
    let from = socket.local_addr().expect("an address");
    let to = real.address(BOTH[0]);
    // The server's own address, another VIP, another protocol of IP, the other variant: none of them is answered.
    send(&site.host, to, Wrap::Gue, 0, &udp_packet(from, SocketAddr::new(to, PORT), 0, b"inside"));
    let other = SocketAddr::new(site.pip(BOTH[0]), PORT);
    send(&site.host, to, Wrap::Gue, 0, &udp_packet(from, other, 0, b"other"));
    send(&site.host, to, Wrap::Ipip, 0, &udp_packet(from, vip, 0, b"ipip"));
    send(&site.host, to, Wrap::Gue1, 0, &udp_packet(from, vip, 0, b"variant"));
    // Congestion where nobody knows the mark: lost. Where somebody does: passed on, in a packet that is still good.
    send(&site.host, to, Wrap::Gue, 3, &udp_packet(from, vip, 0, b"congested"));
    send(&site.host, to, Wrap::Gue, 3, &udp_packet(from, vip, 2, b"marked"));
    assert_eq!(heard(&socket), b"r1a: marked");
    decap.wait_count("drop_not_for_vip", 2);
    decap.wait_count("drop_gue_variant", 1);
    decap.wait_count("drop_congested", 1);
    decap.wait_count("received_ipv4", 0);
    decap.wait_count("delivered", 1);
}

/// The device and all that is on it goes with the process, however that ends; and the counters are told at the end.
#[test]
fn nothing_stays_behind() {
    let (world, vips) = stage();
    let real = world.site(1).real('a');
    let before = real.host.run("ip", &["-o", "address"]);
    let mut decap = Decap::start(&real.host, "eth0", &vips, &["--tun", "vips0"]);
    let during = real.host.run("ip", &["-o", "address", "show", "dev", "vips0"]);
    for vip in vips {
        assert!(during.contains(&format!(" {vip}/")), "{during}");
    }
    // Usable as soon as decap says that it is ready: the kernel does not look for another owner first.
    assert!(
        during.lines().any(|line| line.contains(&format!(" {}/128 ", vips[1])) && line.contains(" nodad")),
        "{during}"
    );
    assert!(decap.process.terminate().success());
    assert!(decap.process.stderr().contains("\ndelivered 0\n"), "{}", decap.process.stderr());
    assert_eq!(real.host.run("ip", &["-o", "address"]), before);
    Decap::start(&real.host, "eth0", &vips, &[]).process.kill();
    assert_eq!(real.host.run("ip", &["-o", "address"]), before);
}

/// What cannot work ends at once, with a sentence.
#[test]
fn a_start_that_cannot_succeed_says_why() {
    let (world, vips) = stage();
    let host = &world.site(1).real('a').host;
    let vip = vips[0].to_string();
    let refused = |host: &Namespace, program: &[&str], arguments: &[&str]| {
        let bin = crate::support::farside::binary();
        let words = [&program[1..], &[&bin, "decap"], arguments].concat();
        let output = host.output(program[0], &words);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let as_root = ["env"];
    let error = refused(host, &as_root, &["--interface", "nosuch0", "--vip", &vip]);
    assert!(error.starts_with("farside: interface nosuch0 does not exist"), "{error}");
    let error = refused(
        host,
        &as_root,
        &["--interface", "eth0", "--vip", "255.255.255.255", "--tun", "a-name-too-long-for-it"],
    );
    assert!(error.contains("is not an interface's name"), "{error}");
    let nobody = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
    let error = refused(host, &nobody, &["--interface", "eth0", "--vip", &vip]);
    assert!(error.contains("needs root"), "{error}");
    let _first = Decap::start(host, "eth0", &vips, &[]);
    let error = refused(host, &as_root, &["--interface", "eth0", "--vip", &vip]);
    assert!(error.contains("UDP port 6080 is taken"), "{error}");
    // A host that has no IPv6.
    host.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let more = ["--gue-port", "6081"];
    let mut second: Process = Decap::start(host, "eth0", &vips[1..], &more).process;
    assert!(second.terminate().success(), "IPv6 is switched on where it was only off for new devices");
}
