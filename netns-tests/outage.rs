//! Nobody is left to serve: clients hear so at once, and sites do not pass them to and fro.

use std::io::ErrorKind;
use std::net::SocketAddr;

use crate::support::capture::Capture;
use crate::support::client::{Datagrams, open};
use crate::support::config::{Config, Service, quick_check};
use crate::support::farside::Farside;
use crate::support::play::{PORT, Play};
use crate::support::world::{BOTH, World, private};

#[test]
fn with_all_sites_down_clients_are_refused_at_once() {
    let mut play = Play::new(2);
    play.fall(2);
    play.wait_remote("down", 1, 2);
    play.fall(1);
    play.wait_remote("down", 2, 1);
    for family in BOTH {
        for site in [1, 2] {
            let error = play.who(site, family).expect_err("nobody serves");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "site {site}, {family:?}: {error}");
        }
    }
    assert!(play.farside(1).counter("drop_no_server") >= 2);
    play.rise(2);
    play.wait_remote("up", 1, 2);
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 2);
    }
}

/// Site 1 and site 2 each have nothing but the other, and both believe in it. Whoever arrives is carried once, and
/// refused there.
#[test]
fn two_sites_without_servers_never_bounce_a_connection() {
    let believe = |_: &World, _: u8, config: Config| {
        config.each(|service| {
            service.reals.clear();
            service.check = "kind = \"none\"".into();
        })
    };
    let play = Play::with(2, believe);
    for family in BOTH {
        let between = Capture::start(&play.world.router, "site2", &format!("tcp port {PORT}"));
        let error = play.who(1, family).expect_err("nobody serves");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}: {error}");
        let seen = between.stop();
        let syns = seen.matches("Flags [S]").count();
        let resets = seen.matches("Flags [R").count();
        assert_eq!((syns, resets), (1, 1), "one SYN to site 2, one RST back:\n{seen}");
    }
    assert_eq!(play.farside(2).counter("drop_no_server_for_peer"), 2);
}

#[test]
fn udp_without_servers_is_answered_port_unreachable() {
    let world = World::new(2);
    let launch = |site| {
        let mut config = Config::new(&world, site);
        for family in BOTH {
            let mut service = Service::standard(&world, site, family, "echo", "udp", 7, &quick_check("icmp"));
            // Nobody has these addresses: their checks fail.
            for (real, last) in service.reals.iter_mut().zip(98..) {
                real.1 = private(site, family, last);
            }
            service.remotes.clear();
            config.services.push(service);
        }
        Farside::start(world.site(site), &config)
    };
    let _farside = launch(1);
    for family in BOTH {
        let client = Datagrams::new(&world.client, SocketAddr::new(world.site(1).vip(family), 7));
        let error = client.ask("anybody?").expect_err("nobody serves");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}: {error}");
    }
}

#[test]
fn a_site_that_vanishes_leaves_nobody_hanging() {
    // The line to site 2 is cut: sessions carried there cannot go on, new ones are refused once its checks have failed.
    let mut play = Play::new(2);
    play.fall(1);
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 2);
    }
    play.world.router.ip("link set site2 down");
    play.wait_remote("down", 1, 2);
    for family in BOTH {
        let error = open(&play.world.client, play.vip(1, family)).map(|_| ()).expect_err("nobody serves");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}: {error}");
    }
}
