//! UDP, which has no SYN to say where a connection begins.

use std::io::ErrorKind;
use std::net::SocketAddr;

use crate::support::client::Datagrams;
use crate::support::config::{Config, Service, quick_check};
use crate::support::play::Play;
use crate::support::server::UdpEcho;
use crate::support::world::{BOTH, Family, World};

pub const PORT: u16 = 7;

fn stage() -> (Vec<UdpEcho>, Play) {
    stage_with(|config| config)
}

/// The usual play, and a UDP echo besides. Its health is asked at the POP3 servers' port. `change`: what else is different.
pub fn stage_with(change: impl Fn(Config) -> Config) -> (Vec<UdpEcho>, Play) {
    let mut servers = Vec::new();
    let play = Play::with(2, |world: &World, site, mut config| {
        for real in &world.site(site).reals {
            let start = |family| UdpEcho::start(&real.host, SocketAddr::new(real.address(family), PORT), &real.name);
            servers.extend(BOTH.map(start));
        }
        for family in BOTH {
            let check = format!("{}\nport = 110", quick_check("tcp"));
            config.services.push(Service::standard(world, site, family, "echo", "udp", PORT, &check));
        }
        change(config)
    });
    (servers, play)
}

fn client(play: &Play, family: Family) -> Datagrams {
    Datagrams::new(&play.world.client, SocketAddr::new(play.world.site(1).vip(family), PORT))
}

#[test]
fn datagrams_are_served_here_or_carried() {
    let (_servers, play) = stage();
    for family in BOTH {
        let local = client(&play, family);
        assert!(local.ask("hello").expect("an answer").starts_with("r1"));
        play.sicken(1);
        let carried = client(&play, family);
        let first = carried.ask("hello").expect("an answer");
        assert!(first.starts_with("r2") && first.ends_with(": hello"), "{first}");
        play.heal(1);
        for n in 0..50 {
            let answer = carried.ask(&n.to_string()).expect("an answer");
            assert_eq!(answer, format!("{}: {n}", &first[..3]), "a flow keeps its server");
        }
        assert!(local.ask("still here").expect("an answer").starts_with("r1"));
    }
}

/// Nothing listens on the real server's port: its host says so, and the client hears it from the VIP.
#[test]
fn port_unreachable_is_translated_back() {
    let (servers, play) = stage();
    drop(servers);
    for carried in [false, true] {
        if carried {
            play.sicken(1);
        }
        for family in BOTH {
            let error = client(&play, family).ask("anybody?").expect_err("nobody listens");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}, carried: {carried}: {error}");
        }
        assert!(play.farside(1).counter("icmp_errors_translated") >= 2);
    }
}

#[test]
fn large_datagrams_arrive_whole() {
    let (_servers, play) = stage();
    for carried in [false, true] {
        if carried {
            play.sicken(1);
        }
        for family in BOTH {
            let text = "x".repeat(1400);
            assert!(client(&play, family).ask(&text).expect("an answer").ends_with(&text));
        }
    }
}
