//! Tunnel mode with `farside decap` at the far end, and checks that go the way of clients' packets.

use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::setup::setup;
use crate::support::client::{Datagrams, open};
use crate::support::config::{Config, Service, on_af_xdp, quick_check, real_target};
use crate::support::farside::Farside;
use crate::support::play::{PORT, Play};
use crate::support::server::{Pop3, UdpEcho};
use crate::support::tunnel::{Decap, udp_packet};
use crate::support::wait::{PATIENCE, eventually, until};
use crate::support::world::{BOTH, Family, World};

/// What runs on the real servers of a site.
#[derive(Default)]
struct Servers {
    decaps: Vec<Decap>,
    pop3: Vec<Pop3>,
    udp: Vec<UdpEcho>,
}

/// The real servers have the VIPs behind `farside decap`; farside's services are in tunnel mode, IPv6 in IPv4 and the other way
/// round if `crossed`.
fn behind_tunnels(
    world: &World,
    config: Config,
    encapsulation: &'static str,
    crossed: bool,
    servers: &mut Servers,
) -> Config {
    let site = world.site(1);
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        site.host.sysctl(key, "1");
    }
    let vips = BOTH.map(|family| site.vip(family));
    for real in &site.reals {
        servers.decaps.push(Decap::start(&real.host, "eth0", &vips, &[]));
        for vip in vips {
            servers.pop3.push(Pop3::start(&real.host, SocketAddr::new(vip, PORT), &real.name));
            servers.udp.push(UdpEcho::start(&real.host, SocketAddr::new(vip, 7), &real.name));
        }
    }
    let mut config = config;
    let check = format!("{}\nport = {PORT}", quick_check("pop3"));
    for family in BOTH {
        config.services.push(Service::standard(world, 1, family, "echo", "udp", 7, &check));
    }
    config.each(|service| {
        service.extra = format!("mode = \"tunnel\"\nencapsulation = \"{encapsulation}\"");
        if crossed {
            let other = if service.vip.is_ipv4() { Family::V6 } else { Family::V4 };
            for (real, written) in site.reals.iter().zip(&mut service.reals) {
                written.1 = real.address(other);
            }
        }
    })
}

fn stage(encapsulation: &'static str, crossed: bool) -> (Servers, Play) {
    let mut servers = Servers::default();
    let play = Play::with(1, |world, _, config| behind_tunnels(world, config, encapsulation, crossed, &mut servers));
    (servers, play)
}

fn serves(encapsulation: &'static str, crossed: bool) {
    let (servers, play) = stage(encapsulation, crossed);
    for family in BOTH {
        for _ in 0..2 {
            let (mut session, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
            assert!(greeting.contains("r1"), "{greeting}");
            // Enough for segments that are joined on their way.
            assert_eq!(session.ask("SIZE 300000").expect("an answer").len(), 300_000);
            let long = "x".repeat(100_000);
            assert_eq!(session.ask(&format!("NOOP {long}")).expect("an answer"), "+OK");
            assert_eq!(session.ask("QUIT").expect("an answer"), "+OK");
        }
        let udp = Datagrams::new(&play.world.client, SocketAddr::new(play.world.site(1).vip(family), 7));
        for size in [1, 1_000] {
            let text = "y".repeat(size);
            let answer = udp.ask(&text).expect("an answer");
            assert!(answer.starts_with("r1") && answer.ends_with(&format!(": {text}")), "{encapsulation} {size}");
        }
    }
    assert!(play.farside(1).counter("encapsulated") > 0);
    for decap in &servers.decaps {
        decap.wait_count("drop_not_for_vip", 0);
    }
}

#[test]
fn clients_are_served_through_ipip() {
    serves("ipip", false);
}

#[test]
fn clients_are_served_through_gre() {
    serves("gre", false);
}

#[test]
fn clients_are_served_through_gue() {
    serves("gue", false);
}

#[test]
fn clients_are_served_through_gue_variant_1() {
    serves("gue1", false);
}

#[test]
fn clients_are_served_through_ipv6_in_ipv4_and_ipv4_in_ipv6() {
    serves("ipip", true);
}

/// A datagram that its sender has summed, and one that is left to a device to sum: the kernel program makes room in each its own way.
#[test]
fn datagrams_pass_whoever_sums_them() {
    for encapsulation in ["ipip", "gre", "gue", "gue1"] {
        let (_servers, play) = stage(encapsulation, false);
        for family in BOTH {
            let (client, to) = (&play.world.client, SocketAddr::new(play.world.site(1).vip(family), 7));
            let (socket, raw) = client
                .inside(|| {
                    let socket = UdpSocket::bind((play.world.client_address(family), 0))?;
                    socket.connect(to)?;
                    socket.set_read_timeout(Some(PATIENCE / 30))?;
                    // Sends what has an IP header already, and the kernel looks no further.
                    let with_header = Some(Protocol::from(255));
                    std::io::Result::Ok((socket, Socket::new(Domain::for_address(to), Type::RAW, with_header)?))
                })
                .expect("the client's sockets");
            let from = socket.local_addr().expect("an address");
            let carried = play.farside(1).counter("kernel_packets");
            for n in 0..40 {
                let (whole, text) = (n % 2 == 0, format!("{n}{}", "z".repeat(n * 25)));
                eventually(&format!("{encapsulation} {family:?} {n}"), || {
                    let sent = if whole {
                        let packet = udp_packet(from, to, 0, text.as_bytes());
                        raw.send_to(&packet, &SocketAddr::new(to.ip(), 0).into())
                    } else {
                        socket.send(text.as_bytes())
                    };
                    let mut answer = [0; 2_000];
                    let heard = sent.and_then(|_| socket.recv(&mut answer)).map_err(|error| error.to_string())?;
                    let answer = String::from_utf8_lossy(&answer[..heard]).into_owned();
                    if answer.ends_with(&format!(": {text}")) { Ok(()) } else { Err(answer) }
                });
            }
            // With GUE over IPv6 the sum over all of it is a worker's.
            let able = !on_af_xdp() && (family == Family::V4 || !encapsulation.starts_with("gue"));
            let carried = play.farside(1).counter("kernel_packets") - carried;
            assert!(!able || carried >= 20, "{encapsulation} {family:?}: {carried}");
        }
    }
}

/// A server whose tunnel has no far end is down, though its service answers whoever asks it directly.
#[test]
fn a_broken_tunnel_takes_the_server_out() {
    let (mut servers, play) = stage("ipip", false);
    let real = play.world.site(1).real('a');
    let targets = BOTH.map(|family| real_target("pop3", family, "r1a"));
    play.farside(1).wait_status("up", &targets);
    servers.decaps[0].process.kill();
    play.farside(1).wait_status("down", &targets);
    play.farside(1).wait_status("up", &BOTH.map(|family| real_target("pop3", family, "r1b")));
    for family in BOTH {
        for _ in 0..4 {
            assert_eq!(play.who(1, family).expect("a session"), "r1b");
        }
        let direct = SocketAddr::new(real.address(family), 110);
        assert_eq!(crate::support::client::who(&play.world.site(1).host, direct).expect("an answer"), "r1a");
    }
    // And back.
    let vips = BOTH.map(|family| play.world.site(1).vip(family));
    servers.decaps[0] = Decap::start(&real.host, "eth0", &vips, &[]);
    play.farside(1).wait_status("up", &targets);
}

/// In direct mode the same of a server that lacks the VIP; and with no PIP at all, so that checks are sent from the host's own
/// address, by ports that the host's stack is kept from.
#[test]
fn a_direct_server_without_the_vip_is_down_and_the_hosts_own_address_will_do() {
    let mut servers = Vec::new();
    let play = Play::with(1, |world, _, config| {
        let site = world.site(1);
        for real in &site.reals {
            let (ok, text) = setup(&real.host, "direct", &BOTH.map(|family| site.vip(family)), &["--apply"]);
            assert!(ok, "{text}");
            for family in BOTH {
                let at = SocketAddr::new(site.vip(family), PORT);
                servers.push(Pop3::start(&real.host, at, &real.name));
            }
        }
        config.with(|config| config.pips.clear()).each(|service| service.extra = "mode = \"direct\"".into())
    });
    let real = play.world.site(1).real('a');
    let targets = BOTH.map(|family| real_target("pop3", family, "r1a"));
    play.farside(1).wait_status("up", &targets);
    // More checks than there are ports: each one's port comes back.
    let before = play.farside(1).counter("flows_probe");
    until("many checks", || play.farside(1).counter("flows_probe") > before + 100);
    play.farside(1).wait_status("up", &targets);
    assert_eq!(play.farside(1).counter("drop_ports_exhausted"), 0);
    real.host.ip(&format!("addr del {}/32 dev lo", play.world.site(1).vip(Family::V4)));
    play.farside(1).wait_status("down", &targets[..1]);
    assert_eq!(
        crate::support::client::who(&play.world.site(1).host, SocketAddr::new(real.address(Family::V4), PORT))
            .expect("its own port"),
        "r1a"
    );
    play.farside(1).wait_status("up", &targets[1..]);
}

/// A server that never answers, asked over UDP: a check's port comes back with the check, and not after minutes of silence.
#[test]
fn checks_that_are_not_answered_do_not_keep_their_ports() {
    let world = World::new(1);
    let (site, real) = (world.site(1), world.site(1).real('a'));
    let vip = site.vip(Family::V4);
    real.host.sysctl("net/ipv4/conf/all/arp_ignore", "1");
    real.host.ip(&format!("addr add {vip}/32 dev lo"));
    // Listens and says nothing, so that no ICMP error ends the check either.
    let _silent = real.host.inside(|| UdpSocket::bind((vip, 53))).expect("a socket");
    let check = "kind = \"dns\"\nname = \"company.example\"\ninterval = \"20ms\"\ntimeout = \"20ms\"";
    let mut dns = Service::standard(&world, 1, Family::V4, "dns", "udp", 53, check);
    dns.extra = "mode = \"direct\"".into();
    dns.reals.truncate(1);
    let config = Config::new(&world, 1).service(dns).with(|config| config.pips.clear());
    let farside = Farside::start(site, &config);
    // Twice as many as there are ports.
    until("many checks", || farside.counter("flows_probe") > 256);
    assert_eq!(farside.counter("drop_ports_exhausted"), 0);
    farside.wait_status("down", &[real_target("dns", Family::V4, "r1a")]);
}
