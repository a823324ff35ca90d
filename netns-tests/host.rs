//! The box that farside runs on keeps its own life.

use std::net::{IpAddr, SocketAddr};

use crate::support::capture::Capture;
use crate::support::client::{open, who};
use crate::support::crowd::Crowd;
use crate::support::namespace::Namespace;
use crate::support::play::Play;
use crate::support::server::Pop3;
use crate::support::wait::until;
use crate::support::world::{BOTH, Family};

fn forwarding(host: &Namespace, on: &str) {
    host.sysctl("net/ipv4/ip_forward", on);
    host.sysctl("net/ipv6/conf/all/forwarding", on);
}

/// Everything of the host's that could be mistaken for farside's, with the host as a router and not.
#[test]
fn the_hosts_own_traffic_goes_on() {
    let mut play = Play::new(2);
    for family in BOTH {
        let site = play.world.site(1);
        let own = SocketAddr::new(site.wan_address(family), 22);
        // A service of the host's own, also at the port of a service of farside's.
        let _ssh = Pop3::start(&site.host, own, "ssh");
        let _pop = Pop3::start(&site.host, SocketAddr::new(own.ip(), 110), "host");
        // And somebody in the internet that a real server talks to by itself.
        let outside = SocketAddr::new(play.world.client_address(family), 25);
        let _mail_exchange = Pop3::start(&play.world.client, outside, "mx");
        let (bits, net) = match family {
            Family::V4 => (24, "10.1.0.0"),
            Family::V6 => (64, "fd00:1::"),
        };
        play.world.router.ip(&format!("route add {net}/{bits} via {}", own.ip()));

        for (carried, router) in [(false, "0"), (false, "1"), (true, "1"), (true, "0")] {
            if carried {
                play.fall(1);
            }
            let site = play.world.site(1);
            forwarding(&site.host, router);
            let serving = if carried { 2 } else { 1 };
            assert_eq!(play.serving_site(1, family), serving);
            assert_eq!(who(&play.world.client, own).expect("the host's ssh"), "ssh");
            assert_eq!(who(&play.world.client, SocketAddr::new(own.ip(), 110)).expect("its POP3"), "host");
            assert_eq!(who(&site.host, outside).expect("the host's own connection"), "mx");
            if router == "1" {
                assert_eq!(who(&site.real('a').host, outside).expect("what the host routes"), "mx");
            }
            // The host's stack neither answers nor forwards what is farside's: another client would be reset.
            let (mut session, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
            assert_eq!(session.ask("NOOP").expect("an answer"), "+OK");
            assert_eq!(session.ask("QUIT").expect("an answer"), "+OK");
            if carried {
                play.rise(1);
            }
        }
        play.world.router.ip(&format!("route del {net}/{bits}"));
    }
}

/// Counts what the host's stack gets to see of packets to the VIP's service and from it, even if it routes.
fn count_what_the_host_sees(host: &Namespace, vips: [IpAddr; 2]) {
    let rules = format!(
        "table inet seen {{
            counter vip {{ }}
            chain early {{ type filter hook prerouting priority -400;
                ip daddr {} tcp dport 110 counter name vip
                ip6 daddr {} tcp dport 110 counter name vip
                ip saddr 10.1.0.0/24 ip daddr 192.0.2.0/24 counter name vip
                ip6 saddr fd00:1::/64 ip6 daddr 2001:db8:c::/64 counter name vip
                }}
                }}",
        vips[0], vips[1]
    );
    host.run("nft", &[&rules]);
}

fn seen_by_the_host(host: &Namespace) -> u64 {
    let text = host.run("nft", &["list counter inet seen vip"]);
    let packets = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    packets.and_then(|n| n.parse().ok()).expect("a counter")
}

#[test]
fn the_hosts_stack_sees_nothing_of_farsides() {
    let mut play = Play::new(2);
    let host = &play.world.site(1).host;
    forwarding(host, "1");
    count_what_the_host_sees(host, BOTH.map(|family| play.world.site(1).vip(family)));
    for family in BOTH {
        for _ in 0..20 {
            assert_eq!(play.serving_site(1, family), 1);
        }
    }
    assert_eq!(seen_by_the_host(&play.world.site(1).host), 0);
    // The counter does count: with farside gone, a packet to the VIP is the host's to see.
    play.take_farside(1).kill();
    let url = format!("pop3://{}/", play.vip(1, Family::V4));
    play.world.client.output("curl", &["-sS", "-m", "1", &url]);
    assert!(seen_by_the_host(&play.world.site(1).host) > 0);
}

/// What is not farside's of a VIP (another port) is the host's, which has no such address: nothing answers.
#[test]
fn other_ports_of_a_vip_are_not_farsides() {
    let play = Play::new(1);
    for family in BOTH {
        let not_ours = play.farside(1).counter("flows_local");
        let vip = play.world.site(1).vip(family).to_string();
        let host = if family == Family::V6 { format!("[{vip}]") } else { vip };
        let url = format!("http://{host}:81/");
        let output = play.world.client.output("curl", &["-gsS", "-m", "2", &url]);
        assert!(!output.status.success());
        assert_eq!(play.farside(1).counter("flows_local"), not_ours);
    }
}

/// No packet with a private address ever gets out, whatever happens to servers and connections.
#[test]
fn nothing_leaks_untranslated() {
    let mut play = Play::new(2);
    for site in play.world.sites() {
        forwarding(&site.host, "1");
    }
    let private = "net 10.0.0.0/8 or net fd00::/16";
    // At the other end of the line: what farside sends passes by the box's own taps.
    let leaks = ["site1", "site2"].map(|line| Capture::start(&play.world.router, line, private));
    let control = Capture::start(&play.world.router, "site1", "src net 203.0.113.0/24 and tcp src port 110");
    let crowds = BOTH.map(|family| Crowd::start(&play.world.client, play.vip(1, family), 300));
    for step in 1..=3 {
        crowds.iter().for_each(|crowd| crowd.allow(100 * step));
        match step {
            1 => play.sicken(1),
            2 => play.heal(1),
            _ => {
                // Servers die with sessions open, and their kernels say so for minutes.
                play.fall(1);
                play.rise(1);
            }
        }
        until("the sessions of this step", || crowds.iter().all(|crowd| crowd.open() >= 100 * step - 50));
    }
    for crowd in crowds {
        crowd.finish();
    }
    // With farside stopped, a host that routes would send on what its real servers still say.
    assert!(!control.stop().is_empty(), "what farside sends can be seen there");
    for leak in leaks {
        let seen = leak.stop();
        assert!(seen.trim().is_empty(), "{seen}");
    }
}

#[test]
fn vips_and_pips_answer_arp_and_neighbor_solicitation_and_ping() {
    let play = Play::new(1);
    let site = play.world.site(1);
    let mac = site.host.run("ip", &["-o", "link", "show", "wan0"]);
    let mac = mac.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC").to_owned();
    for family in BOTH {
        for address in [site.vip(family), site.pip(family)] {
            let address = address.to_string();
            play.world.router.output("ip", &["neighbor", "del", &address, "dev", "site1"]);
            let ping = play.world.client.output("ping", &["-n", "-c", "2", "-W", "5", &address]);
            assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
            let known = play.world.router.run("ip", &["neighbor", "show", &address]);
            assert!(known.contains(&mac), "{address}: {known}, not {mac}");
        }
        // Its own address the host answers for.
        let own = site.wan_address(family).to_string();
        assert!(play.world.client.output("ping", &["-n", "-c", "1", "-W", "5", &own]).status.success());
        // And for what is nobody's, nobody answers.
        let nobody = crate::support::world::public(1, family, 77).to_string();
        assert!(!play.world.router.output("ping", &["-n", "-c", "1", "-W", "1", &nobody]).status.success());
    }
}

/// On start farside announces its addresses: whoever still sends to another machine's MAC learns better at once.
#[test]
fn addresses_are_announced_on_start() {
    let mut play = Play::new(1);
    play.take_farside(1).stop();
    let seen = Capture::start(&play.world.router, "site1", "arp or icmp6[0] == 136");
    let config = crate::support::play::standard(&play.world, 1);
    play.put_farside(1, crate::support::farside::Farside::start(play.world.site(1), &config));
    let site = play.world.site(1);
    for family in BOTH {
        for address in [site.vip(family), site.pip(family)] {
            until(&format!("an announcement of {address}"), || seen.text().contains(&address.to_string()));
        }
    }
}
