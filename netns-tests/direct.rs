//! Direct mode: the real servers have the VIP themselves and answer past farside, here by its box, which is their gateway
//! and forwards what they send like any router.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::capture::Capture;
use crate::support::client::{Datagrams, open};
use crate::support::config::{Config, Service, quick_check};
use crate::support::download::{Downloads, Reading};
use crate::support::play::{PORT, Play, site_of};
use crate::support::server::{Pop3, UdpEcho};
use crate::support::wait::until;
use crate::support::world::{BOTH, Family, World};

/// What runs on the real servers, at the VIPs.
#[derive(Default)]
struct Servers {
    pop3: Vec<Pop3>,
    udp: Vec<UdpEcho>,
    web: Vec<Downloads>,
}

const SIZE: u64 = 8 << 20;

/// The real servers of a site get its VIPs, on an interface that answers for them to nobody, and farside's services
/// direct mode.
fn give_vips(world: &World, site: u8, config: Config, servers: &mut Servers) -> Config {
    let own = world.site(site);
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        own.host.sysctl(key, "1");
    }
    for real in &own.reals {
        real.host.sysctl("net/ipv4/conf/all/arp_ignore", "1");
        real.host.sysctl("net/ipv4/conf/all/arp_announce", "2");
        real.host.ip(&format!(
            "addr add {}/32 dev lo
             addr add {}/128 dev lo nodad",
            own.vip(Family::V4),
            own.vip(Family::V6)
        ));
        for family in BOTH {
            let at = |port| SocketAddr::new(own.vip(family), port);
            servers.pop3.push(Pop3::start(&real.host, at(PORT), &real.name));
            servers.udp.push(UdpEcho::start(&real.host, at(7), &real.name));
            let web = Downloads::start(&real.host, at(80), SIZE);
            web.allow(SIZE);
            servers.web.push(web);
        }
    }
    let check = format!("{}\nport = {PORT}", quick_check("tcp"));
    let mut config = config;
    for family in BOTH {
        config.services.push(Service::standard(world, site, family, "echo", "udp", 7, &check));
        config.services.push(Service::standard(world, site, family, "web", "tcp", 80, &check));
    }
    config.each(|service| service.extra = "mode = \"direct\"".into())
}

fn stage(sites: u8) -> (Servers, Play) {
    let mut servers = Servers::default();
    let play = Play::with(sites, |world, site, config| give_vips(world, site, config, &mut servers));
    (servers, play)
}

#[test]
fn a_session_goes_to_the_server_by_farside_and_back_past_it() {
    let (_servers, play) = stage(1);
    for family in BOTH {
        let (mut session, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
        assert!(greeting.contains("r1"), "{greeting}");
        assert!(session.ask("STAT").expect("an answer").starts_with("+OK 2"));
        let flows = play.farside(1).flows();
        let flow = flows.iter().find(|flow| flow["vip"] == play.vip(1, family).to_string()).expect("the flow");
        assert_eq!((&flow["mode"], &flow["state"]), (&"direct".into(), &"established".into()), "{flow:#}");
        assert!(flow["client_packets"].as_u64() >= Some(3) && flow["server_packets"] == 0, "{flow:#}");
        drop(session);
        until("the client's end", || {
            play.farside(1)
                .flows()
                .iter()
                .any(|flow| flow["vip"] == play.vip(1, family).to_string() && flow["state"] == "client_fin")
        });
    }
    assert_eq!(play.farside(1).counter("drop_loop"), 0);
}

#[test]
fn sessions_spread_over_the_servers_and_leave_one_that_falls() {
    let (mut servers, mut play) = stage(1);
    for family in BOTH {
        let mut names: Vec<_> = (0..4).map(|_| play.who(1, family).expect("a session")).collect();
        names.sort();
        assert_eq!(names, ["r1a", "r1a", "r1b", "r1b"]);
    }
    servers.pop3.clear();
    play.fall(1);
    for family in BOTH {
        assert!(play.who(1, family).is_err(), "nobody is left, and the client is told at once");
    }
}

#[test]
fn packets_reach_the_server_as_the_client_sent_them() {
    let (_servers, play) = stage(1);
    // client -> router (-1) -> farside (as a bridge) -> real server.
    let seen = Capture::start(&play.world.switch, "site1", "tcp port 110 and host 203.0.113.10 and host 192.0.2.10");
    play.who(1, Family::V4).expect("a session");
    until("the client's packets", || seen.text().contains("> 203.0.113.10.110"));
    assert!(seen.stop().contains("ttl 63"));
}

#[test]
fn datagrams_are_answered_past_farside() {
    let (_servers, play) = stage(1);
    for family in BOTH {
        let client = Datagrams::new(&play.world.client, SocketAddr::new(play.world.site(1).vip(family), 7));
        let first = client.ask("hello").expect("an answer");
        assert!(first.starts_with("r1") && first.ends_with(": hello"), "{first}");
        assert_eq!(client.ask("again").expect("an answer"), format!("{}: again", &first[..3]));
    }
}

/// A link behind the router is narrower than both ends believe. The router's errors about the server's answers go to the VIP,
/// and by that to farside, which alone knows which server they are for.
#[test]
fn the_path_mtu_is_learned_through_farside() {
    let (_servers, play) = stage(1);
    play.world.router.ip("link set client mtu 1300");
    for family in BOTH {
        let before = play.farside(1).counter("icmp_errors_translated");
        let from = SocketAddr::new(play.world.site(1).vip(family), 80);
        assert_eq!(Reading::start(&play.world.client, from, Duration::ZERO).finish(), Ok(SIZE), "{family:?}");
        assert!(play.farside(1).counter("icmp_errors_translated") > before, "{family:?}");
    }
}

#[test]
fn what_is_carried_meets_direct_mode_at_the_other_site() {
    let (_servers, play) = stage(2);
    play.sicken(1);
    for family in BOTH {
        assert_eq!(site_of(&play.who(1, family).expect("a session")), 2);
        let from = SocketAddr::new(play.world.site(1).vip(family), 80);
        assert_eq!(Reading::start(&play.world.client, from, Duration::ZERO).finish(), Ok(SIZE), "{family:?}");
    }
}
