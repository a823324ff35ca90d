//! Sites that share which site each resolver was sent to: the same answer at whichever site a resolver asks, whatever is lost on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use crate::support::config::Config;
use crate::support::farside::Farside;
use crate::support::link::{cut, heal, linked, wait_up};
use crate::support::play::{Play, standard};
use crate::support::process::Process;
use crate::support::wait::{eventually, until};
use crate::support::world::{BOTH, Family, World, site_name};

const NAME: &str = "mail.company.example";

/// The last part of resolvers' addresses, in the client's networks.
const RESOLVERS: [u8; 6] = [21, 22, 23, 24, 25, 26];

fn address(family: Family, last: u8) -> String {
    match family {
        Family::V4 => format!("192.0.2.{last}"),
        Family::V6 => format!("2001:db8:c::{last}"),
    }
}

/// A site's farside: POP3 as ever, and its name server, with a pool of all sites' VIPs.
fn config(world: &World, site: u8) -> Config {
    let (own, mut config) = (world.site(site), linked(world, site, standard(world, site)));
    let zone = own.directory().join("zone");
    let ns = own.wan_address(Family::V4);
    fs::write(&zone, format!("$TTL 60\n@ SOA ns admin 1 1h 15m 2w 5m\n@ NS ns\nns A {ns}\n")).expect("a zone");
    let listen = BOTH.map(|family| format!("\"{}\"", std::net::SocketAddr::new(own.wan_address(family), 53)));
    config.more += &format!(
        "[dns]\nlisten = [{}]\nstate_dir = {:?}\n[[dns.zone]]\norigin = \"company.example.\"\nfile = {zone:?}\n\
         [[dns.pool]]\nname = \"mail\"\nnames = [\"{NAME}.\"]\nmodes = [\"dynamic\", \"round_robin\"]\nttl = \"1s\"\n",
        listen.join(", "),
        own.directory().join("state")
    );
    for member in world.sites() {
        let [four, six] = BOTH.map(|family| member.vip(family));
        // Of another site's members that site tells.
        let service = if member.number == site { "service = \"pop3\"\n" } else { "" };
        config.more += &format!(
            "[[dns.pool.member]]\nname = \"{name}\"\nsite = \"{name}\"\naddresses = [\"{four}\", \"{six}\"]\n{service}",
            name = member.name()
        );
    }
    config.each(|service| service.extra = "persistence = \"10m\"".into())
}

/// So many sites, linked, and resolvers' addresses at the client.
fn stage(sites: u8) -> Play {
    let play = Play::with(sites, |world: &World, site, _| config(world, site));
    for last in RESOLVERS {
        let [four, six] = BOTH.map(|family| address(family, last));
        play.world.client.ip(&format!("addr add {four}/24 dev eth0\naddr add {six}/64 dev eth0 nodad"));
    }
    all_linked(&play, sites);
    play
}

fn all_linked(play: &Play, sites: u8) {
    for (at, to) in (1..=sites).flat_map(|at| (1..=sites).map(move |to| (at, to))).filter(|(at, to)| at != to) {
        wait_up(play.farside(at), to);
    }
}

/// The site that a resolver is sent to by the name server of site `at`: asked over its own version of IP, for an address of both.
#[track_caller]
fn sent_to(play: &Play, at: u8, last: u8, family: Family) -> u8 {
    let server = format!("@{}", play.world.site(at).wan_address(family));
    let from = address(family, last);
    let sites = BOTH.map(|asked| {
        let rtype = if asked == Family::V4 { "A" } else { "AAAA" };
        let output = play.world.client.output("dig", &["+short", "-b", &from, &server, NAME, rtype]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        site_at(play, &text).unwrap_or_else(|| panic!("site {at} says {text:?} to {from}\n{}", play.logs()))
    });
    assert_eq!(sites[0], sites[1], "one site for both versions of IP");
    sites[0]
}

/// The site whose VIP this is.
fn site_at(play: &Play, text: &str) -> Option<u8> {
    let address: IpAddr = text.trim().parse().ok()?;
    let is = |site: &&crate::support::world::Site| BOTH.iter().any(|family| site.vip(*family) == address);
    play.world.sites().iter().find(is).map(|site| site.number)
}

/// Waits until every site remembers so many resolvers.
#[track_caller]
fn wait_records(play: &Play, sites: u8, count: usize) {
    for site in 1..=sites {
        eventually(&format!("{count} records at {}", site_name(site)), || {
            let dns = play.farside(site).show("dns");
            if dns["store"]["records"] == count { Ok(()) } else { Err(format!("{:#}\n{}", dns["store"], play.logs())) }
        });
    }
}

/// Where all resolvers are sent by site `at`.
#[track_caller]
fn map(play: &Play, at: u8) -> BTreeMap<(String, u8), u8> {
    let all = BOTH.into_iter().flat_map(|family| RESOLVERS.map(|last| (family, last)));
    all.map(|(family, last)| ((address(family, last), last), sent_to(play, at, last, family))).collect()
}

#[test]
fn each_resolver_is_sent_to_one_site_by_all_and_that_outlives_a_node() {
    let mut play = stage(3);
    // Each is asked for the first time at another site.
    let first: BTreeMap<(String, u8), u8> = BOTH
        .into_iter()
        .flat_map(|family| RESOLVERS.map(|last| (family, last)))
        .map(|(family, last)| ((address(family, last), last), sent_to(&play, last % 3 + 1, last, family)))
        .collect();
    assert!(first.values().collect::<BTreeSet<_>>().len() > 1, "all were sent to one site: {first:?}");
    wait_records(&play, 3, first.len());
    for at in 1..=3 {
        assert_eq!(map(&play, at), first, "asked at {}", site_name(at));
    }
    // A node that starts again, without what it had written down, learns from the others.
    let old = play.take_farside(2);
    old.kill();
    fs::remove_dir_all(play.world.site(2).directory().join("state")).expect("what it had written down");
    let again = Farside::start(play.world.site(2), &config(&play.world, 2));
    play.put_farside(2, again);
    all_linked(&play, 3);
    wait_records(&play, 3, first.len());
    for at in 1..=3 {
        assert_eq!(map(&play, at), first, "asked at {} after north's restart", site_name(at));
    }
    // What a site says of its own member counts everywhere.
    play.farside(3).order(&["drain", "mail/east"]);
    for at in 1..=3 {
        eventually("east is out", || {
            let dns = play.farside(at).show("dns");
            let row =
                dns["pools"][0]["members"].as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "east"));
            let row = row.expect("the member");
            let told = at == 3 || row["reason"] == "site east says that it is out";
            if row["up"] == false && told { Ok(()) } else { Err(format!("{row:#}")) }
        });
    }
    let without: Vec<_> = map(&play, 1).into_iter().collect();
    for ((resolver, now), before) in without.iter().zip(first.values()) {
        assert!(if *before == 3 { *now != 3 } else { now == before }, "{resolver:?}: {before}, then {now}");
    }
}

#[test]
fn sites_that_were_cut_off_from_each_other_agree_again() {
    let play = stage(2);
    let ask = |at, last| sent_to(&play, at, last, Family::V4);
    let before = [21, 22, 23, 24].map(|last| ask(1, last));
    wait_records(&play, 2, 4);
    cut(&play.world, 1, 2);
    until("the loss at both", || {
        // This site comes first, then the other.
        [1, 2].iter().all(|at| play.farside(*at).show("sites")[1]["link"] == "down")
    });
    // New ones on both sides, and one that was sent elsewhere meanwhile: the other site, as far as this one knows.
    let (at_one, at_two) = (ask(1, 25), ask(2, 26));
    let moved = site_name(before[0]);
    play.farside(2).order(&["drain", &format!("mail/{moved}")]);
    let elsewhere = eventually("another site", || {
        let site = ask(2, 21);
        if site == before[0] { Err("still the same".into()) } else { Ok(site) }
    });
    assert_eq!(ask(1, 22), before[1], "site 1 goes on");
    play.farside(2).order(&["undrain", &format!("mail/{moved}")]);
    heal(&play.world, 1, 2);
    all_linked(&play, 2);
    wait_records(&play, 2, 6);
    for at in [1, 2] {
        eventually("what is newest", || {
            let is = [25, 26, 21, 22, 23, 24].map(|last| ask(at, last));
            let wanted = [at_one, at_two, elsewhere, before[1], before[2], before[3]];
            if is == wanted { Ok(()) } else { Err(format!("{is:?}, not {wanted:?} at {at}\n{}", play.logs())) }
        });
    }
}

/// An unbound at one of the client's addresses that knows no name server but these sites'.
fn unbound(play: &Play, last: u8, family: Family, sites: &[u8]) -> Process {
    let address = address(family, last);
    let directory = play.world.directory().join(format!("unbound-{}", address.replace(':', "-")));
    fs::create_dir_all(&directory).expect("a directory");
    let stubs: String =
        sites.iter().map(|site| format!(" stub-addr: {}\n", play.world.site(*site).wan_address(family))).collect();
    let only = if family == Family::V4 { "do-ip6: no" } else { "do-ip4: no" };
    let text = format!(
        "server:\n interface: {address}\n outgoing-interface: {address}\n {only}\n access-control: 0.0.0.0/0 allow\n \
         access-control: ::/0 allow\n chroot: \"\"\n username: \"\"\n directory: {directory:?}\n pidfile: \"\"\n use-syslog: no\n \
         do-daemonize: no\n num-threads: 1\n module-config: \"iterator\"\n msg-cache-size: 1m\n rrset-cache-size: 1m\n \
         key-cache-size: 100k\n neg-cache-size: 100k\n infra-cache-numhosts: 100\n outgoing-range: 64\n\
         stub-zone:\n name: company.example\n{stubs} stub-prime: no\nremote-control:\n control-enable: no\n"
    );
    let file = directory.join("conf");
    fs::write(&file, text).expect("a configuration");
    play.world.client.spawn("unbound", "/usr/sbin/unbound", &["-d", "-c", file.to_str().expect("a readable path")])
}

/// Where a real resolver sends its clients.
#[track_caller]
fn resolved(play: &Play, last: u8, family: Family) -> u8 {
    let (server, rtype) = (format!("@{}", address(family, last)), if family == Family::V4 { "A" } else { "AAAA" });
    eventually("an answer of unbound", || {
        let output = play.world.client.output("dig", &["+short", "+time=2", "+tries=1", &server, NAME, rtype]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        site_at(play, &text).ok_or_else(|| format!("{text:?}\n{}", play.logs()))
    })
}

#[test]
fn a_client_of_a_real_resolver_finds_its_real_server_again_whatever_the_resolver_has_forgotten() {
    let play = stage(2);
    let (mut sites, mut asked) = (BTreeSet::new(), 0);
    for family in BOTH {
        for last in RESOLVERS {
            // One alone at first: of two that are asked at the same moment the newest answer counts.
            let resolver = unbound(&play, last, family, &[last % 2 + 1]);
            let site = resolved(&play, last, family);
            sites.insert(site);
            let server = play.who(site, family).expect("a session");
            drop(resolver);
            asked += 1;
            wait_records(&play, 2, asked);
            // Its cache is lost, and it asks one site, the other, or whichever it likes.
            for asks in [&[1][..], &[2], &[1, 2]] {
                let resolver = unbound(&play, last, family, asks);
                assert_eq!(resolved(&play, last, family), site, "{} asks {asks:?}", address(family, last));
                assert_eq!(play.who(site, family).expect("a session"), server, "the same real server");
                drop(resolver);
            }
        }
    }
    assert_eq!(sites.len(), 2, "resolvers are spread over both sites");
}
