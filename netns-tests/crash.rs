//! farside dies, or is told to stop: nothing stays behind, and the next one goes on.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::process::Signal;

use crate::support::client::open;
use crate::support::farside::Farside;
use crate::support::namespace::Namespace;
use crate::support::play::{Play, standard};
use crate::support::wait::{eventually, until};
use crate::support::world::{BOTH, World};

/// What is installed on a box, by the command that shows it.
fn installed(host: &Namespace) -> BTreeMap<&'static str, String> {
    // The kernel may take a second to say that a new link's other end is up.
    until("the links up", || host.run("ip", &["link", "show"]).matches("state UP").count() == 2);
    let commands = [
        "ip -d link show",
        "ip address show",
        "ip rule show",
        "ip route show table all",
        "ip -6 route show table all",
        "ip maddress show",
        "tc qdisc show",
        "tc filter show dev wan0 ingress",
        "tc filter show dev lan0 ingress",
        "nft list ruleset",
    ];
    let show = |command: &'static str| {
        let mut words = command.split(' ');
        let program = words.next().expect("a program");
        let text = host.run(program, &words.collect::<Vec<_>>());
        // Lifetimes tick, and a rate limit of the route cache is none of farside's.
        let lines = text.lines().filter(|line| !line.contains("valid_lft"));
        (command, lines.collect::<Vec<_>>().join("\n"))
    };
    commands.into_iter().map(show).collect()
}

fn nothing_is_left(host: &Namespace, before: &BTreeMap<&'static str, String>) {
    eventually("the box as it was", || {
        for (command, text) in installed(host) {
            if text != before[command] {
                return Err(format!("{command}: was\n{}\nis\n{text}", before[command]));
            }
        }
        Ok(())
    });
}

#[test]
fn a_stop_leaves_nothing_behind() {
    let world = World::new(1);
    let before = installed(&world.site(1).host);
    let config = standard(&world, 1);
    for _ in 0..2 {
        let farside = Farside::start(world.site(1), &config);
        farside.stop();
        nothing_is_left(&world.site(1).host, &before);
        assert!(!Path::new(config.socket()).exists(), "the socket is still there");
    }
}

#[test]
fn a_kill_leaves_nothing_behind_and_clients_reconnect_at_once() {
    let mut play = Play::new(2);
    let config = standard(&play.world, 1);
    play.take_farside(1).stop();
    let before = installed(&play.world.site(1).host);
    for family in BOTH {
        play.put_farside(1, Farside::start(play.world.site(1), &config));
        let (mut session, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
        play.take_farside(1).kill();
        nothing_is_left(&play.world.site(1).host, &before);

        play.put_farside(1, Farside::start(play.world.site(1), &config));
        let error = session.ask("NOOP").expect_err("a new farside does not know the old session");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it says so at once: {error}");
        assert_eq!(play.serving_site(1, family), 1);
        play.take_farside(1).kill();
    }
}

/// A second farside on the same box would fight the first for every packet.
#[test]
fn a_second_farside_is_refused() {
    let play = Play::new(1);
    let config = standard(&play.world, 1);
    let mut second = Farside::launch(play.world.site(1), &config);
    assert!(!second.wait_end().success());
    assert!(second.log().contains("another farside"), "{}", second.log());
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 1, "the first goes on");
    }
}

#[test]
fn an_interrupt_stops_it_as_well() {
    let mut play = Play::new(1);
    let mut farside = play.take_farside(1);
    farside.signal(Signal::INT);
    assert!(farside.wait_end().success(), "{}", farside.log());
    assert!(!Path::new(standard(&play.world, 1).socket()).exists(), "the socket is still there");
}
