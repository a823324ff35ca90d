//! Neighbors, links and routes change under way.

use std::net::IpAddr;

use crate::support::client::open;
use crate::support::namespace::Namespace;
use crate::support::play::Play;
use crate::support::wait::{eventually, until};
use crate::support::world::BOTH;

/// A machine announces itself to the box after its MAC has changed: it asks for the box's.
fn announce(machine: &Namespace, interface: &str, to: [IpAddr; 2]) {
    for address in to {
        until("an answer from the box", || {
            machine.run("ip", &["neighbor", "flush", "dev", interface]);
            machine.output("ping", &["-n", "-c", "1", "-W", "1", &address.to_string()]).status.success()
        });
    }
}

#[test]
fn a_real_server_gets_another_mac() {
    let play = Play::new(1);
    for (family, mac) in BOTH.into_iter().zip(["02:00:00:00:11:11", "02:00:00:00:22:22"]) {
        let site = play.world.site(1);
        let (mut session, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
        let real = site.real(if greeting.contains("r1a") { 'a' } else { 'b' });
        real.host.ip(&format!("link set eth0 address {mac}"));
        announce(&real.host, "eth0", BOTH.map(|family| site.lan_address(family)));
        assert_eq!(session.ask("NOOP").expect("the session goes on"), "+OK");
        assert_eq!(play.serving_site(1, family), 1);
    }
}

#[test]
fn the_router_gets_another_mac() {
    let mut play = Play::new(2);
    play.fall(1);
    for (family, mac) in BOTH.into_iter().zip(["02:00:00:00:33:33", "02:00:00:00:44:44"]) {
        let (mut session, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
        play.world.router.ip(&format!("link set site1 address {mac}"));
        announce(&play.world.router, "site1", BOTH.map(|family| play.world.site(1).wan_address(family)));
        assert_eq!(session.ask("NOOP").expect("the session goes on"), "+OK");
        assert_eq!(play.serving_site(1, family), 2);
    }
}

#[test]
fn links_flap_and_sessions_go_on() {
    let mut play = Play::new(2);
    for family in BOTH {
        let (mut session, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
        assert!(greeting.starts_with("+OK r1"), "{greeting}");
        let site = play.world.site(1);
        // The other end loses its carrier, as a pulled plug would do it; routes and addresses of the box stay.
        for _ in 0..3 {
            play.world.switch.ip("link set site1 down");
            play.world.switch.ip("link set site1 up");
        }
        assert_eq!(session.ask("NOOP").expect("the session goes on after the LAN's flap"), "+OK");
        for real in &site.reals {
            play.world.switch.ip(&format!("link set {} down", real.name));
            play.world.switch.ip(&format!("link set {} up", real.name));
        }
        assert_eq!(session.ask("NOOP").expect("the session goes on after the server's flap"), "+OK");
        play.wait_reals("up", 1);

        play.fall(1);
        let (mut carried, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
        play.world.router.ip("link set site2 down\nlink set site2 up");
        restore_router(&play);
        assert_eq!(carried.ask("NOOP").expect("the carried session goes on"), "+OK");
        play.wait_remote("up", 1, 2);
        play.rise(1);
    }
}

/// IPv6 addresses go when a link goes down.
fn restore_router(play: &Play) {
    let arguments = ["addr", "replace", "2001:db8:2::1/64", "dev", "site2", "nodad"];
    play.world.router.run("ip", &arguments);
}

/// The box's own interface goes down and comes back, and the operator puts the default route back.
#[test]
fn the_boxs_own_link_goes_down_and_up() {
    let play = Play::new(1);
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 1);
    }
    let host = &play.world.site(1).host;
    host.ip("link set wan0 down");
    host.ip("link set wan0 up");
    host.run("ip", &["route", "replace", "default", "via", "203.0.113.1"]);
    host.run("ip", &["addr", "replace", "2001:db8:1::2/64", "dev", "wan0", "nodad"]);
    host.run("ip", &["-6", "route", "replace", "default", "via", "2001:db8:1::1"]);
    for family in BOTH {
        eventually("service after the flap", || play.who(1, family).map(drop).map_err(|e| e.to_string()));
    }
}

/// The way to the other site changes from one router address to another.
#[test]
fn a_route_changes() {
    let mut play = Play::new(2);
    play.world.router.ip("addr add 203.0.113.3/24 dev site1
                          addr add 2001:db8:1::3/64 dev site1 nodad");
    play.fall(1);
    let sessions = BOTH.map(|family| open(&play.world.client, play.vip(1, family)).expect("a session").0);
    let host = &play.world.site(1).host;
    host.run("ip", &["route", "replace", "default", "via", "203.0.113.3"]);
    host.run("ip", &["-6", "route", "replace", "default", "via", "2001:db8:1::3"]);
    for mut session in sessions {
        assert_eq!(session.ask("NOOP").expect("the session goes on"), "+OK");
    }
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 2);
    }
}
