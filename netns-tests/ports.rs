//! What a site lends to the connections it carries away: PIP ports, and how it runs out of them.

use std::io::ErrorKind;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::support::client::{Session, open};
use crate::support::config::remote_target;
use crate::support::play::Play;
use crate::support::wait::eventually;
use crate::support::world::{BOTH, Family};

const LENT: usize = 40;

/// Two sites, of which the first has few ports to lend and no server left.
fn stage(interval: &str) -> Play {
    let mut play = Play::with(2, |_, _, config| {
        let config = config.each(|service| service.check = service.check.replace("200ms", interval));
        config.with(|config| {
            config.ports = format!("2000-{}", 2000 + LENT - 1);
            config.port_rest = "1s".into();
            config.timeouts = "tcp_closing = \"1s\"\ntcp_reset = \"1s\"".into();
        })
    });
    play.fall(1);
    play
}

/// Opens sessions well past the number of ports: each worker lends its share, and a client's source port decides which
/// worker. The sessions, and how many were refused.
fn exhaust(play: &Play, family: Family) -> (Vec<Session>, u64) {
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..LENT * 10 {
        match open(&play.world.client, play.vip(1, family)) {
            Ok((session, greeting)) => {
                assert!(greeting.starts_with("+OK r2"), "{greeting}");
                held.push(session);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                refused += 1;
            }
        }
    }
    (held, refused)
}

#[test]
fn exhausted_ports_refuse_at_once_warn_before_and_come_back() {
    // Few checks: each takes a port for a while as well.
    let play = stage("1s");
    for family in BOTH {
        let (mut held, refused) = exhaust(&play, family);
        assert!(refused > 0 && held.len() <= LENT && held.len() >= LENT / 2, "{} held, {refused} refused", held.len());
        assert!(play.farside(1).counter("drop_ports_exhausted") > 0);
        play.farside(1).wait_logged("90 %");
        for session in &mut held {
            assert_eq!(session.ask("NOOP").expect("those that have a port go on"), "+OK");
        }
        for session in held {
            session.reset();
        }
        eventually("a port to come back", || play.who(1, family).map(drop).map_err(|e| e.to_string()));
    }
}

/// The other site is as well as before when this one has no port left to ask it by.
#[test]
fn a_site_is_not_down_for_want_of_ports_here() {
    let play = stage("200ms");
    for family in BOTH {
        let (held, refused) = exhaust(&play, family);
        assert!(refused > 0);
        // Many checks' time.
        for _ in 0..20 {
            sleep(Duration::from_millis(100));
            let health = play.farside(1).show("health");
            let is_remote = |row: &&Value| row["target"] == remote_target("pop3", family, 2).as_str();
            let remote = health.as_array().expect("a list").iter().find(is_remote).expect("the other site");
            assert_eq!(remote["status"], "up", "{remote}\n{}", play.farside(1).log());
        }
        held.into_iter().for_each(Session::reset);
    }
}

/// Many more short connections than there are ports, one after the other: every port is lent again and again.
#[test]
fn ports_are_lent_again_and_again() {
    let mut play = Play::with(2, |_, _, config| {
        config.with(|config| {
            config.ports = "2000-2199".into();
            config.port_rest = "1s".into();
            config.timeouts = "tcp_closing = \"1s\"\ntcp_reset = \"1s\"".into();
        })
    });
    play.fall(1);
    let (mut served, mut refused) = (0, 0);
    while served < 600 {
        match play.who(1, BOTH[served % 2]) {
            Ok(_) => served += 1,
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                refused += 1;
                assert!(refused < 10_000, "{served} served, {refused} refused");
                sleep(Duration::from_millis(20));
            }
            Err(e) => panic!("after {served} sessions: {e}"),
        }
    }
}
