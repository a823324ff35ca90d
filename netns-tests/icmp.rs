//! TTL, MTU, and the errors that speak of them.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::capture::Capture;
use crate::support::client::connect;
use crate::support::config::{Service, quick_check};
use crate::support::download::{Downloads, Reading};
use crate::support::play::Play;
use crate::support::wait::{PATIENCE, until};
use crate::support::world::{BOTH, Family, World};

/// A connection attempt whose packets live for `hops`.
fn connect_with_ttl(play: &Play, to: SocketAddr, hops: u32) -> std::io::Result<TcpStream> {
    play.world.client.inside(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        match to {
            SocketAddr::V4(_) => socket.set_ttl_v4(hops)?,
            SocketAddr::V6(_) => socket.set_unicast_hops_v6(hops)?,
        }
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket.into())
    })
}

/// client -1- router -2- site 1 -3- real server, or site 1 -3- router -4- site 2 -5- real server.
#[test]
fn every_hop_counts_and_says_when_it_was_the_last() {
    let mut play = Play::new(2);
    for (carried, needed) in [(false, 3), (true, 5)] {
        if carried {
            play.fall(1);
        }
        for family in BOTH {
            let vip = play.vip(1, family);
            for hops in 1..needed {
                let filter = match family {
                    Family::V4 => "icmp[0] == 11",
                    Family::V6 => "icmp6[0] == 3",
                };
                let seen = Capture::start(&play.world.client, "eth0", filter);
                let result = connect_with_ttl(&play, vip, hops);
                assert!(result.is_err(), "{family:?}, carried: {carried}: {hops} hops cannot be enough");
                until("time exceeded", || !seen.text().is_empty());
                let text = seen.stop();
                // It quotes the client's own packet: to the VIP, whatever became of it on its way.
                assert!(text.contains(&vip.ip().to_string()), "{hops} hops: {text}");
            }
            connect_with_ttl(&play, vip, needed).unwrap_or_else(|e| panic!("{family:?}, {needed} hops: {e}"));
        }
    }
}

/// The MSS in a SYN that tcpdump shows.
fn mss(text: &str) -> Vec<u32> {
    let numbers = text.split("mss ").skip(1);
    numbers.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}

#[test]
fn mss_is_clamped_to_the_narrowest_link() {
    const MTU: u32 = 1300;
    let size = 8 << 20;
    let mut servers = Vec::new();
    let mut play = Play::with(2, |world: &World, site, mut config| {
        // The box's end of the LAN alone is narrow: neither client nor server knows.
        world.site(1).host.ip(&format!("link set lan0 mtu {MTU}"));
        for real in &world.site(site).reals {
            let start = |family| Downloads::start(&real.host, SocketAddr::new(real.address(family), 80), size);
            servers.extend(BOTH.map(start));
        }
        for family in BOTH {
            config.services.push(Service::standard(world, site, family, "web", "tcp", 80, &quick_check("tcp")));
        }
        config
    });
    servers.iter().for_each(|server| server.allow(size));
    for family in BOTH {
        let limit = if family == Family::V4 { MTU - 40 } else { MTU - 60 };
        let filter = match family {
            Family::V4 => "tcp[13] & 2 != 0",
            Family::V6 => "ip6[6] == 6 and ip6[53] & 2 != 0",
        };
        let (lan, client) = (
            Capture::start(
                &play.world.switch,
                "site1",
                &format!("({filter}) and not net 10.1.0.1 and not net fd00:1::1"),
            ),
            Capture::start(&play.world.client, "eth0", filter),
        );
        connect(&play.world.client, play.vip(1, family)).expect("a connection");
        until("the SYN and its answer", || mss(&lan.text()).len() >= 2 && mss(&client.text()).len() >= 2);
        let (lan, client) = (mss(&lan.stop()), mss(&client.stop()));
        assert!(lan.iter().any(|&mss| mss <= limit), "the server sees no more than {limit}: {lan:?}");
        assert!(client[1] <= limit, "nor does the client: {client:?}");
    }
    let download = |play: &Play| {
        let from = |family| SocketAddr::new(play.world.site(1).vip(family), 80);
        let readings = BOTH.map(|family| Reading::start(&play.world.client, from(family), Duration::ZERO));
        for reading in readings {
            assert_eq!(reading.finish(), Ok(size));
        }
    };
    download(&play);
    play.sicken(1);
    // Another narrow link, in the middle of the way to the other site.
    play.world.router.ip("link set site2 mtu 1400");
    play.world.site(2).host.ip("link set wan0 mtu 1400");
    download(&play);
    play.heal(1);
    play.fall(1);
}
