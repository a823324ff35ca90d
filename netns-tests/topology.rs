//! The stage itself, before farside steps on it: when these fail, look there first.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::support::capture::Capture;
use crate::support::client::Datagrams;
use crate::support::crowd::Crowd;
use crate::support::dovecot::{Dovecot, PASSWORD, USER, mails};
use crate::support::download::{Downloads, Reading};
use crate::support::namespace::Namespace;
use crate::support::server::{Pop3, UdpEcho};
use crate::support::wait::until;
use crate::support::world::{BOTH, Family, World};

#[test]
fn everybody_reaches_whom_they_should() {
    let world = World::new(3);
    for site in world.sites() {
        for family in BOTH {
            let ping = |from: &Namespace, to: IpAddr| {
                from.output("ping", &["-n", "-c", "1", "-W", "5", &to.to_string()]).status.success()
            };
            assert!(ping(&world.client, site.wan_address(family)), "client to site {}", site.number);
            for real in &site.reals {
                assert!(ping(&site.host, real.address(family)), "box to {}", real.name);
                assert!(!crossing(&world, real.address(family)), "the internet must not know {}", real.name);
            }
            for other in world.sites() {
                assert!(ping(&site.host, other.wan_address(family)), "site {} to {}", site.number, other.number);
            }
        }
    }
}

fn crossing(world: &World, to: IpAddr) -> bool {
    world.client.output("ping", &["-n", "-c", "1", "-W", "1", &to.to_string()]).status.success()
}

/// The four translations, made by nftables in farside's place.
#[test]
fn mail_is_read_through_two_sites_of_nftables() {
    let world = World::new(2);
    let (south, north) = (world.site(1), world.site(2));
    let _dovecot = Dovecot::start(north, north.real('a'));
    for family in BOTH {
        let (ip, subnet) = match family {
            Family::V4 => ("ip", "24"),
            Family::V6 => ("ip6", "64"),
        };
        let table = |from, to: String, extra: &str| {
            format!(
                "table {ip} t {{
                    chain pre {{ type nat hook prerouting priority -100; {ip} daddr {from} tcp dport 110 dnat to {to}; }}
                    chain post {{ type nat hook postrouting priority 100; {extra}; }}
                }}"
            )
        };
        for site in [south, north] {
            site.host.ip(&format!("addr add {}/{subnet} dev wan0", site.vip(family)));
            site.host.ip(&format!("addr add {}/{subnet} dev wan0", site.pip(family)));
            site.host.sysctl("net/ipv4/ip_forward", "1");
            site.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        }
        let pip = format!("{ip} daddr {} snat to {}", north.vip(family), south.pip(family));
        south.host.run("nft", &[&table(south.vip(family), north.vip(family).to_string(), &pip)]);
        north.host.run("nft", &[&table(north.vip(family), north.real('a').address(family).to_string(), "")]);

        let lan = Capture::start(&north.host, "lan0", "tcp port 110");
        let url = match family {
            Family::V4 => format!("pop3://{}/3", south.vip(family)),
            Family::V6 => format!("pop3://[{}]/3", south.vip(family)),
        };
        let login = format!("{USER}:{PASSWORD}");
        let mail = world.client.run("curl", &["-sS", "-g", "-m", "20", "-u", &login, &url]);
        assert_eq!(mail, mails()[2]);
        let seen = lan.stop();
        assert!(seen.contains(&south.pip(family).to_string()), "{seen}");
    }
}

/// The crowd and the downloads themselves, with nothing but a kernel between client and server.
#[test]
fn crowds_and_downloads_work_without_farside() {
    let world = World::new(1);
    let (site, real) = (world.site(1), world.site(1).real('a'));
    site.host.sysctl("net/ipv4/ip_forward", "1");
    site.host.sysctl("net/ipv6/conf/all/forwarding", "1");
    world.router.ip("route add 10.1.0.0/24 via 203.0.113.2\nroute add fd00:1::/64 via 2001:db8:1::2");
    let size = 64 << 20;
    for family in BOTH {
        let at = |port| SocketAddr::new(real.address(family), port);
        let _server = Pop3::start(&real.host, at(110), &real.name);
        let crowd = Crowd::start(&world.client, at(110), 1000);
        crowd.allow(1000);
        until("all sessions open", || crowd.open() == 1000);
        let outcome = crowd.finish();
        assert_eq!(outcome.served.get("r1a"), Some(&1000), "{outcome:?}");

        let downloads = Downloads::start(&real.host, at(80), size);
        let reading = Reading::start(&world.client, at(80), Duration::ZERO);
        downloads.allow(size / 2);
        until("a half", || reading.got() == size / 2);
        downloads.allow(size);
        assert_eq!(reading.finish(), Ok(size));

        let _echo = UdpEcho::start(&real.host, at(7), &real.name);
        assert_eq!(Datagrams::new(&world.client, at(7)).ask("hello").expect("an answer"), "r1a: hello");
    }
}
