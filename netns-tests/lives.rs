//! How connections end, and what becomes of those that do not.

use std::io::ErrorKind;

use crate::support::client::{connect, connect_from, open};
use crate::support::config::Config;
use crate::support::farside::Farside;
use crate::support::play::{Play, standard};
use crate::support::wait::{eventually, until};
use crate::support::world::{BOTH, Family, World};

fn quick_timeouts(_: &World, _: u8, config: Config) -> Config {
    let timeouts = "tcp_syn = \"2s\"\ntcp_established = \"4s\"\ntcp_closing = \"2s\"\ntcp_reset = \"2s\"\nudp = \"2s\"";
    config.with(|config| config.timeouts = timeouts.into())
}

/// Waits until site 1 keeps no flow of the client's.
fn all_forgotten(play: &Play) {
    eventually("the end of the client's flows", || {
        let flows = flows_of_the_client(play);
        if flows.is_empty() { Ok(()) } else { Err(format!("{flows:?}")) }
    });
}

/// Others there may be the health checks of site 2.
fn flows_of_the_client(play: &Play) -> Vec<serde_json::Value> {
    let addresses = BOTH.map(|family| play.world.client_address(family).to_string());
    let is_of = |flow: &serde_json::Value| {
        let client = flow["client"].as_str().expect("a flow's client");
        addresses.iter().any(|address| client.contains(address.as_str()))
    };
    play.farside(1).flows().into_iter().filter(is_of).collect()
}

#[test]
fn half_open_connections_expire() {
    let play = Play::with(2, quick_timeouts);
    // The client's kernel drops every answer, and is kept from retransmitting by never seeing a reason to: SYN only.
    for family in BOTH {
        let vip = play.vip(1, family);
        let ip = if family == Family::V4 { "ip" } else { "ip6" };
        let rules = format!(
            "table {ip} deaf {{ chain input {{ type filter hook input priority 0; {ip} saddr {} drop; }}\n }}",
            vip.ip()
        );
        play.world.client.run("nft", &[&rules]);
        let pending = play.world.client.inside(|| {
            let socket = socket2::Socket::new(socket2::Domain::for_address(vip), socket2::Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            let _ = socket.connect(&vip.into());
            std::io::Result::Ok(socket)
        });
        let pending = pending.expect("a socket");
        until("a half-open flow", || !flows_of_the_client(&play).is_empty());
        drop(pending);
    }
    all_forgotten(&play);
}

#[test]
fn a_reset_ends_the_connection_at_both_ends() {
    let mut play = Play::with(2, quick_timeouts);
    for family in BOTH {
        for carried in [false, true] {
            if carried {
                play.fall(1);
            }
            let (session, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
            session.reset();
            // The server dies: its kernel sends RST.
            let (mut session, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
            assert!(greeting.starts_with(if carried { "+OK r2" } else { "+OK r1" }), "{greeting}");
            play.fall(if carried { 2 } else { 1 });
            let error = session.ask("NOOP").expect_err("the server is dead");
            assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
            play.rise(1);
            play.rise(2);
            play.wait_remote("up", 1, 2);
        }
    }
    all_forgotten(&play);
}

#[test]
fn idle_connections_expire_and_are_refused_after() {
    let play = Play::with(2, quick_timeouts);
    for family in BOTH {
        let (mut session, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
        all_forgotten(&play);
        let error = session.ask("NOOP").expect_err("the connection is forgotten");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
}

#[test]
fn traffic_keeps_a_connection_alive() {
    let mut play = Play::with(2, quick_timeouts);
    play.fall(1);
    for family in BOTH {
        let (mut session, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
        // Longer than the timeout of an idle connection, all in all.
        for _ in 0..6 {
            std::thread::sleep(std::time::Duration::from_secs(1));
            assert_eq!(session.ask("NOOP").expect("an answer"), "+OK");
        }
    }
}

#[test]
fn a_half_closed_connection_goes_on_the_other_way() {
    let mut play = Play::new(2);
    for carried in [false, true] {
        if carried {
            play.fall(1);
        }
        for family in BOTH {
            let mut session = connect(&play.world.client, play.vip(1, family)).expect("a connection");
            session.line().expect("the greeting");
            session.send("SIZE 3000000").expect("sending");
            session.send("QUIT").expect("sending");
            session.finish_sending();
            assert_eq!(session.line().expect("a long answer").len(), 3_000_000);
            assert_eq!(session.line().expect("a farewell"), "+OK");
        }
    }
}

#[test]
fn a_port_is_used_again_at_once() {
    let play = Play::new(2);
    for family in BOTH {
        let vip = play.vip(1, family);
        for round in 0..20 {
            // The client ends by RST and comes back from the same port.
            // A child that another test is starting holds a copy of our socket until its exec: then the port is not free.
            let mut session =
                eventually("the port to be free", || match connect_from(&play.world.client, 40_000, vip) {
                    Err(e) if e.kind() == ErrorKind::AddrNotAvailable => Err(e.to_string()),
                    result => Ok(result.unwrap_or_else(|e| panic!("{round}: {e}"))),
                });
            let greeting = session.line().unwrap_or_else(|e| panic!("{round}: {e}"));
            assert!(greeting.starts_with("+OK r1"), "{round}: {greeting:?}");
            session.reset();
        }
    }
}

#[test]
fn what_belongs_to_no_connection_is_refused() {
    let mut play = Play::new(2);
    for family in BOTH {
        let (mut session, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
        // farside is restarted without a memory of the session.
        play.take_farside(1).kill();
        let farside = Farside::start(play.world.site(1), &standard(&play.world, 1));
        play.put_farside(1, farside);
        let error = session.ask("NOOP").expect_err("nobody knows this connection");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        assert!(play.farside(1).counter("drop_no_flow") > 0);
    }
}
