//! What a site lends to the connections it carries away: PIP ports, and how it runs out of them.

use std::io::ErrorKind;

use crate::support::client::open;
use crate::support::play::Play;
use crate::support::wait::eventually;
use crate::support::world::BOTH;

const LENT: usize = 20;

#[test]
fn exhausted_ports_refuse_at_once_warn_before_and_come_back() {
    let mut play = Play::with(2, |_, _, config| {
        config.with(|config| {
            config.ports = format!("2000-{}", 2000 + LENT - 1);
            config.port_rest = "1s".into();
            config.timeouts = "tcp_closing = \"1s\"\ntcp_reset = \"1s\"".into();
        })
    });
    play.fall(1);
    for family in BOTH {
        // Each worker lends its share; a client's source port decides which worker. Try well past the total.
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
        // A health check of site 2 may hold a port at any moment.
        assert!(refused > 0 && held.len() <= LENT && held.len() >= LENT / 2, "{} held, {refused} refused", held.len());
        assert!(play.farside(1).counter("drop_ports_exhausted") >= refused);
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
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Err(e) => panic!("after {served} sessions: {e}"),
        }
    }
}
