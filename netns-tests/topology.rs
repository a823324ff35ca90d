//! The stage itself, before farside steps on it: when these fail, look there first.

use crate::support::capture::Capture;
use crate::support::dovecot::{Dovecot, PASSWORD, USER, mails};
use crate::support::world::{BOTH, World};

#[test]
fn everybody_reaches_whom_they_should() {
    let world = World::new(3);
    for site in world.sites() {
        for family in BOTH {
            let ping = |from: &crate::support::namespace::Namespace, to: std::net::IpAddr| {
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

fn crossing(world: &World, to: std::net::IpAddr) -> bool {
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
            crate::support::world::Family::V4 => ("ip", "24"),
            crate::support::world::Family::V6 => ("ip6", "64"),
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
            crate::support::world::Family::V4 => format!("pop3://{}/3", south.vip(family)),
            crate::support::world::Family::V6 => format!("pop3://[{}]/3", south.vip(family)),
        };
        let login = format!("{USER}:{PASSWORD}");
        let mail = world.client.run("curl", &["-sS", "-g", "-m", "20", "-u", &login, &url]);
        assert_eq!(mail, mails()[2]);
        let seen = lan.stop();
        assert!(seen.contains(&south.pip(family).to_string()), "{seen}");
    }
}
