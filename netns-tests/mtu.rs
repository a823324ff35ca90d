//! Links that are narrower than both ends believe, beyond what farside's own interfaces know: ICMP has to find its way through
//! farside to the sender, or nothing large would ever arrive. No end probes for the MTU by itself.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::client::open;
use crate::support::namespace::Namespace;
use crate::support::play::Play;
use crate::support::world::{BOTH, Family, World};

const NARROW: u32 = 1300;

/// What the ends believe, and go by.
fn no_probing(world: &World) {
    let reals = world.sites().iter().flat_map(|site| &site.reals).map(|real| &real.host);
    for host in reals.chain([&world.client]) {
        host.sysctl("net/ipv4/tcp_mtu_probing", "0");
        host.sysctl("net/ipv4/ip_no_pmtu_disc", "0");
    }
}

/// Each site's POP3 has its first real server alone.
fn one_server(play_at: impl Fn(&World, u8) + Copy) -> Play {
    Play::with(2, |world, site, config| {
        no_probing(world);
        play_at(world, site);
        config.each(|service| service.reals.truncate(1))
    })
}

/// The client sends 2 MB to the VIP of site 1 in large lines.
fn upload(play: &Play, family: Family) {
    let (mut session, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
    let line = format!("NOOP {}", "x".repeat(100_000));
    for n in 0..20 {
        assert_eq!(session.ask(&line).unwrap_or_else(|e| panic!("{family:?}, line {n}: {e}")), "+OK");
    }
}

/// The client gets 2 MB from the VIP of site 1.
fn download(play: &Play, family: Family) {
    let (mut session, _) = open(&play.world.client, play.vip(1, family)).expect("a session");
    let line = session.ask("SIZE 2000000").unwrap_or_else(|e| panic!("{family:?}: {e}"));
    assert_eq!(line.len(), 2_000_000);
}

/// Runs a transfer for both families; at each of `sites` farside must have translated an error for each.
fn learns(play: &Play, sites: &[u8], transfer: impl Fn(&Play, Family)) {
    let translated = |site: &u8| play.farside(*site).counter("icmp_errors_translated");
    let before: Vec<_> = sites.iter().map(translated).collect();
    BOTH.into_iter().for_each(|family| transfer(play, family));
    for (site, before) in sites.iter().zip(before) {
        let now = translated(site);
        assert!(now >= before + 2, "site {site} has translated {} errors", now - before);
    }
}

/// Puts a router between the LAN of a site and its first real server, whose link to the server is narrow.
fn behind_a_router(world: &World, site: u8) -> Namespace {
    static NEXT: AtomicU32 = AtomicU32::new(7000);
    let router = Namespace::new(NEXT.fetch_add(1, Ordering::Relaxed), "mid", world.directory());
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        router.sysctl(key, "1");
    }
    let (own, real) = (world.site(site), world.site(site).real('a'));
    let at = |family| real.address(family);
    let (four, six) = (at(Family::V4), at(Family::V6));
    let lan = |last: u16| (format!("10.{site}.0.{last}"), format!("fd00:{site}::{last}"));
    let ((mid4, mid6), (box4, box6)) = (lan(20), lan(1));
    world.switch.ip(&format!(
        "link del {name}
         link add {name} type veth peer name near netns {mid}
         link set {name} master br{site} up",
        name = real.name,
        mid = router.name()
    ));
    router.ip(&format!(
        "link add far type veth peer name eth0 netns {}
         addr add {mid4}/24 dev near
         addr add {mid6}/64 dev near nodad
         addr add 10.9.{site}.1/24 dev far
         addr add fd09:{site}::1/64 dev far nodad
         link set near up
         link set far mtu {NARROW}
         link set far up
         route add {four}/32 dev far
         route add {six}/128 dev far
         route add default via {box4}
         route add default via {box6}",
        real.host.name()
    ));
    real.host.ip(&format!(
        "addr add {four}/32 dev eth0
         addr add {six}/128 dev eth0 nodad
         addr add 10.9.{site}.11/24 dev eth0
         addr add fd09:{site}::11/64 dev eth0 nodad
         link set eth0 up
         route add default via 10.9.{site}.1 src {four}
         route add default via fd09:{site}::1 src {six}"
    ));
    own.host.ip(&format!("route add {four}/32 via {mid4}\nroute add {six}/128 via {mid6}"));
    router
}

/// client == router -- site 1 == real server: the client's own link.
#[test]
fn a_narrow_link_between_the_client_and_farside() {
    let mut play = one_server(|_, _| ());
    play.world.router.ip(&format!("link set client mtu {NARROW}"));
    learns(&play, &[1], download);
    forget(&play);
    // Carried: the error comes to site 1, and goes on from there to the server of site 2, by site 2's farside.
    play.fall(1);
    learns(&play, &[1, 2], download);
}

/// Site 1 == mid -- real server: beyond the LAN that farside knows.
#[test]
fn a_narrow_link_between_farside_and_the_real_server() {
    let mut routers = Vec::new();
    let mut play = Play::with(2, |world, site, config| {
        no_probing(world);
        routers.push(behind_a_router(world, site));
        config.each(|service| service.reals.truncate(1))
    });
    learns(&play, &[1], upload);
    forget(&play);
    // Carried: the error comes to site 2's farside, about site 1's packet, and then to site 1's about the client's.
    play.fall(1);
    learns(&play, &[2, 1], upload);
}

/// Site 1 -- router == site 2.
#[test]
fn a_narrow_link_between_the_sites() {
    let mut play = one_server(|_, _| ());
    play.fall(1);
    play.world.router.ip(&format!("link set site2 mtu {NARROW}"));
    learns(&play, &[1], upload);
    forget(&play);
    // What the servers send is too large for the other end of the way.
    play.world.router.ip(&format!("link set site2 mtu 1500\nlink set site1 mtu {NARROW}"));
    learns(&play, &[2], download);
}

/// Drops what the ends have learned.
fn forget(play: &Play) {
    let reals = play.world.sites().iter().flat_map(|site| &site.reals).map(|real| &real.host);
    for host in reals.chain([&play.world.client]) {
        host.run("ip", &["route", "flush", "cache"]);
        host.run("ip", &["-6", "route", "flush", "cache"]);
    }
}
