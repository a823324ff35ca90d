//! Sites that tell each other how they are through a Redis server: what that changes for the forwarder and for pools, and what is left of
//! it when the server or a site is slow or gone.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::{self, Session};
use crate::support::config::Config;
use crate::support::farside::Farside;
use crate::support::link::{cut, heal, linked, wait, wait_up};
use crate::support::namespace::Namespace;
use crate::support::play::{Play, standard};
use crate::support::process::Process;
use crate::support::redis;
use crate::support::wait::{eventually, until};
use crate::support::world::{BOTH, Family, World};

/// The router's, where the Redis server is: every site gets there.
fn server_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => [192, 0, 2, 1].into(),
        Family::V6 => "2001:db8:c::1".parse().expect("an address"),
    }
}

fn server(world: &World) -> Process {
    redis::start(&world.router, &BOTH.map(server_address))
}

fn asked(play: &Play, command: &[&str]) -> String {
    redis::ask(&play.world.router, server_address(Family::V4), command)
}

/// [`named`] with the server.
fn through_redis(world: &World, site: u8, config: Config) -> Config {
    shared(world, site, named(world, site, config))
}

/// A site that serves no names, with the server.
fn only_forwards(world: &World, site: u8, config: Config) -> Config {
    let state_dir = world.site(site).directory().join("state");
    let dns = format!("[dns]\nlisten = [\"127.0.0.1:5353\"]\nstate_dir = {state_dir:?}\n");
    shared(world, site, config.with(|config| config.more += &dns))
}

/// `[dns.redis]`; the second site gets there by IPv6.
fn shared(world: &World, site: u8, config: Config) -> Config {
    let password = world.site(site).directory().join("password");
    fs::write(&password, redis::PASSWORD).expect("a password");
    let server = SocketAddr::new(server_address(if site == 2 { Family::V6 } else { Family::V4 }), redis::PORT);
    config.with(|config| config.more += &format!("[dns.redis]\naddress = \"{server}\"\npassword_file = {password:?}\n"))
}

/// `[dns]` with a pool of all sites' VIPs. Of other sites' members nothing is checked.
fn named(world: &World, site: u8, mut config: Config) -> Config {
    let own = world.site(site);
    let file = |name: &str| own.directory().join(name);
    let (zone, ns) = (file("zone"), own.wan_address(Family::V4));
    fs::write(&zone, format!("$TTL 60\n@ SOA ns admin 1 1h 15m 2w 5m\n@ NS ns\nns A {ns}\n")).expect("a zone");
    config.more += &format!(
        "[dns]\nlisten = [\"{}\"]\nstate_dir = {:?}\n[[dns.zone]]\norigin = \"company.example.\"\nfile = {zone:?}\n\
         [[dns.pool]]\nname = \"mail\"\nnames = [\"mail.company.example.\"]\n",
        SocketAddr::new(ns, 53),
        file("state")
    );
    for member in world.sites() {
        let [four, six] = BOTH.map(|family| member.vip(family));
        config.more += &format!(
            "[[dns.pool.member]]\nname = \"{name}\"\nsite = \"{name}\"\naddresses = [\"{four}\", \"{six}\"]\n",
            name = member.name()
        );
    }
    config
}

/// Three sites and a server. Site 1's real servers are drained, and it checks nothing by itself; site 2 takes one connection of each family
/// at a time.
fn stage(change: impl Fn(&World, u8, Config) -> Config) -> (Play, Process) {
    let mut process = None;
    let play = Play::with(3, |world: &World, site, config: Config| {
        process.get_or_insert_with(|| server(world));
        let config = change(world, site, config);
        match site {
            1 => config.each(|service| service.check = "kind = \"none\"".into()),
            2 => config.each(|service| service.extra = "max_connections = 1".into()),
            _ => config,
        }
    });
    for target in ["pop3/r1a", "pop3/r1b", "pop3-6/r1a", "pop3-6/r1b"] {
        play.farside(1).order(&["drain", target]);
    }
    (play, process.expect("a server"))
}

#[track_caller]
fn wait_heard(farside: &Farside, of: u8) {
    wait(farside, of, "its state", |row| row["heard"] == "redis" && row["connections"].is_number());
}

#[track_caller]
fn all_heard(play: &Play) {
    for (at, of) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
        wait_heard(play.farside(at), of);
    }
}

#[track_caller]
fn wait_forgotten(farside: &Farside, of: u8) {
    wait(farside, of, "the loss", |row| row["heard"].is_null() && row["cpu_permille"].is_null());
}

/// A session at site 2, which has one place for each family.
#[track_caller]
fn take_the_place(play: &Play, family: Family) -> Session {
    eventually("a place at site 2", || {
        client::open(&play.world.client, play.vip(2, family)).map(|(session, _)| session).map_err(|e| e.to_string())
    })
}

/// Waits until sessions of both families at site 1's VIP are served by this site.
#[track_caller]
fn wait_served_by(play: &Play, site: u8) {
    for family in BOTH {
        eventually(&format!("service by site {site}, {family:?}"), || match play.who(1, family) {
            Ok(name) if name.starts_with(&format!("r{site}")) => Ok(()),
            other => Err(format!("{other:?}\n{:#}\n{}", play.farside(1).show("sites"), play.logs())),
        });
    }
}

fn member(farside: &Farside, name: &str) -> Value {
    let dns = farside.show("dns");
    let rows = dns["pools"][0]["members"].as_array().expect("a list of members");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}: {dns:#}")).clone()
}

#[track_caller]
fn wait_member(farside: &Farside, name: &str, up: bool) {
    eventually(&format!("member {name} {}", if up { "in" } else { "out" }), || {
        let row = member(farside, name);
        let told = up || row["reason"] == format!("site {name} says that it is out");
        if row["up"] == up && told { Ok(()) } else { Err(format!("{row:#}\n{}", farside.log())) }
    });
}

/// How many addresses site 1's name server gives.
fn answered(play: &Play) -> usize {
    let server = format!("@{}", play.world.site(1).wan_address(Family::V4));
    play.world
        .client
        .run("dig", &["+short", "+tries=2", "+time=3", &server, "mail.company.example", "A"])
        .lines()
        .count()
}

#[test]
fn a_site_that_says_through_redis_that_it_is_full_or_without_servers_gets_no_carried_connection() {
    let (mut play, _server) = stage(through_redis);
    all_heard(&play);
    wait_served_by(&play, 2);
    let sessions = BOTH.map(|family| take_the_place(&play, family));
    wait(play.farside(1), 2, "full", |row| row["full"] == true && row["connections"] == 2);
    wait_served_by(&play, 3);
    drop(sessions);
    wait(play.farside(1), 2, "room", |row| row["full"] == false);
    wait_served_by(&play, 2);
    play.fell(2);
    wait_served_by(&play, 3);
    play.raise(2);
    wait_served_by(&play, 2);

    // What a site says of its own member counts everywhere.
    assert_eq!(answered(&play), 3);
    play.farside(3).order(&["drain", "mail/east"]);
    for at in [1, 2] {
        wait_member(play.farside(at), "east", false);
    }
    until("an answer without it", || answered(&play) == 2);
    play.farside(3).order(&["undrain", "mail/east"]);
    wait_member(play.farside(1), "east", true);

    let sites = play.farside(1).show("sites");
    let rows = sites.as_array().expect("a list");
    let column = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("link"), ["own", "none", "none"], "{sites:#}");
    assert_eq!(column("heard"), [Value::Null, "redis".into(), "redis".into()], "{sites:#}");
    for row in &rows[1..] {
        assert!(row["cpu_permille"].is_number() && row["packets_per_s"].is_number(), "{row:#}");
        for unknown in ["round_trip_ms", "loss_permille", "hops", "skew_ms", "why"] {
            assert!(row[unknown].is_null(), "{row:#}");
        }
    }
    let text = play.farside(1).order(&["show", "sites"]);
    assert!(text.starts_with("SITE ") && text.contains("HEARD BY") && text.contains("redis"), "{text}");

    // What others write there does no harm: beside a site's word, in its place, of a later version.
    assert_eq!(play.farside(1).counter("redis_states_unreadable"), 0);
    let spoil = |command: &[&str]| {
        let before = play.farside(1).counter("redis_states_unreadable");
        // The site takes away what is not its own, so it is put there until somebody has seen it.
        until(&format!("{command:?} is seen"), || {
            asked(&play, command);
            play.farside(1).counter("redis_states_unreadable") > before
        });
    };
    spoil(&["hset", "farside:state:north", "other", "rubbish"]);
    spoil(&["hset", "farside:state:north", "other", "99999999999999 of a time to come"]);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis();
    spoil(&["hset", "farside:state:north", "other", &format!("{now_ms} \u{1}\u{2} of a version to come")]);
    spoil(&["set", "farside:state:east", "rubbish"]);
    for of in [2, 3] {
        wait_heard(play.farside(1), of);
    }
    until("north has taken away what is not its own", || asked(&play, &["hlen", "farside:state:north"]) == "1");
    until("east has its place again", || asked(&play, &["type", "farside:state:east"]) == "hash");
    wait_heard(play.farside(1), 3);
    wait_served_by(&play, 2);
}

#[test]
fn a_server_that_stands_still_or_dies_leaves_own_checks_and_is_told_of_once_and_so_is_its_return() {
    let (mut play, mut server) = stage(through_redis);
    all_heard(&play);
    play.farside(3).order(&["drain", "mail/east"]);
    wait_member(play.farside(1), "east", false);
    play.fell(2);
    wait_served_by(&play, 3);
    let lost = "sites' states are not shared through 192.0.2.1:6379";
    let back = "sites' states are shared through 192.0.2.1:6379 again";
    let counts = |play: &Play| [lost, back].map(|text| play.farside(1).log().matches(text).count());
    assert_eq!(counts(&play), [0, 0]);
    for lives in 1..=2 {
        if lives == 1 {
            server.signal(Signal::STOP);
        } else {
            server.kill();
        }
        for of in [2, 3] {
            wait_forgotten(play.farside(1), of);
        }
        let why = if lives == 1 { "it does not answer" } else { "" };
        play.farside(1).wait_logged(&format!("{lost}: {why}"));
        // Its own checks, which are none, are all that site 1 has now; answers and forwarding go on.
        for family in BOTH {
            until("a connection to site 2 after all", || play.who(1, family).is_err());
            assert_eq!(play.serving_site(3, family), 3);
        }
        wait_member(play.farside(1), "east", true);
        assert_eq!(answered(&play), 3);
        wait(play.farside(1), 2, "a reason", |row| {
            row["link"] == "none" && row["why"] == "192.0.2.1:6379 does not answer"
        });
        if lives == 1 {
            server.signal(Signal::CONT);
        } else {
            server = self::server(&play.world);
        }
        all_heard(&play);
        wait_served_by(&play, 3);
        wait_member(play.farside(1), "east", false);
        until("both are told of", || counts(&play) == [lives, lives]);
    }
    let log = play.farside(1).log();
    assert_eq!(counts(&play), [2, 2], "{log}");
    assert!(!log.contains("any more"), "that the server was lost says it all: {log}");
    assert_eq!(play.farside(1).counter("redis_states_lost"), 2);

    // A site that is gone is forgotten alone, and heard again when it has started again.
    let heard = |text: &str| play.farside(1).log().matches(text).count();
    assert_eq!(heard("north is heard through"), 1);
    let old = play.take_farside(2);
    old.kill();
    wait_forgotten(play.farside(1), 2);
    play.farside(1).wait_logged("north is not heard through 192.0.2.1:6379 any more");
    wait_heard(play.farside(1), 3);
    play.raise(2);
    let config = through_redis(&play.world, 2, standard(&play.world, 2));
    let again = Farside::start(play.world.site(2), &config);
    play.put_farside(2, again);
    wait_heard(play.farside(1), 2);
    wait_served_by(&play, 2);
    let heard = |text: &str| play.farside(1).log().matches(text).count();
    assert_eq!([heard("north is heard through"), heard("north is not heard through")], [2, 1]);
    // One that stops in order takes its word with it.
    play.take_farside(2).stop();
    assert_eq!(asked(&play, &["exists", "farside:state:north"]), "0");
    wait_forgotten(play.farside(1), 2);
}

#[test]
fn a_links_word_goes_before_redis_and_redis_stands_in_for_a_link_that_is_lost() {
    let (mut play, mut server) = stage(|world, site, config| {
        linked(world, site, if site == 3 { only_forwards } else { through_redis }(world, site, config))
    });
    for of in [2, 3] {
        wait_up(play.farside(1), of);
    }
    play.fell(2);
    wait_served_by(&play, 3);
    let by = |way: &'static str| move |row: &Value| row["heard"] == way && row["connections"].is_number();
    wait(play.farside(1), 2, "its word", |row| by("link")(row) && row["round_trip_ms"].is_number());
    cut(&play.world, 1, 2);
    wait(play.farside(1), 2, "its word by the other way", |row| by("redis")(row) && row["link"] == "down");
    let row = play.farside(1).show("sites")[1].clone();
    assert!(row["round_trip_ms"].is_null() && row["why"].is_string(), "{row:#}");
    wait_served_by(&play, 3);
    heal(&play.world, 1, 2);
    wait(play.farside(1), 2, "its word by the link", |row| by("link")(row) && row["link"] == "up");
    server.kill();
    play.farside(1).wait_logged("sites' states are not shared through");
    play.raise(2);
    wait_served_by(&play, 2);
    // A reload without the server ends it, and one with it begins again.
    play.farside(1).reload(&linked(&play.world, 1, named(&play.world, 1, standard(&play.world, 1))));
    assert!(!play.farside(1).counters().contains_key("redis_states_rounds"));
    let _server = self::server(&play.world);
    play.farside(1).reload(&linked(&play.world, 1, through_redis(&play.world, 1, standard(&play.world, 1))));
    until("rounds again", || play.farside(1).counter("redis_states_rounds") > 0);
}

/// A machine with name servers of two sites, by many addresses, and a Redis server.
struct Place {
    machine: Namespace,
    directory: TempDir,
}

impl Place {
    fn new(number: u32) -> Place {
        let directory = tempfile::Builder::new()
            .prefix(&format!("farside-test-{}-", std::process::id()))
            .tempdir()
            .expect("a directory for the test");
        let machine = Namespace::new(number, "names", directory.path());
        for last in 1..=5 {
            machine.ip(&format!("addr add 10.0.0.{last}/32 dev lo"));
        }
        let zone = "$TTL 60\n@ SOA ns1 hostmaster 1 1h 15m 2w 5m\n@ NS ns1\nns1 A 10.0.0.1\n";
        fs::write(directory.path().join("zone"), zone).expect("a zone");
        fs::write(directory.path().join("password"), redis::PASSWORD).expect("a password");
        Place { machine, directory }
    }

    /// A node of `site` at 10.0.0.`last`, with a member of each site's.
    fn node(&self, site: &str, last: u8) -> Farside {
        let home: PathBuf = self.directory.path().join(last.to_string());
        fs::create_dir_all(&home).expect("a directory for the node");
        let socket = format!("{}/socket", home.display());
        let peer = if site == "south" { "north" } else { "south" };
        let mut text = format!(
            "[site]\nname = \"{site}\"\n[admin]\nsocket = \"{socket}\"\n[[peer]]\nname = \"{peer}\"\n\
             proxy_addresses = [\"192.0.2.250\"]\n[dns]\nlisten = [\"10.0.0.{last}:53\"]\nstate_dir = \"{}\"\n\
             [dns.redis]\naddress = \"10.0.0.5:6379\"\npassword_file = \"../password\"\nprefix = \"t*st\"\n\
             [[dns.zone]]\norigin = \"company.example.\"\nfile = \"../zone\"\n\
             [[dns.pool]]\nname = \"mail\"\nnames = [\"mail.company.example.\"]\nmodes = [\"metrics\"]\n",
            home.display()
        );
        for (site, address) in [("south", "192.0.2.10"), ("north", "192.0.2.20")] {
            text +=
                &format!("[[dns.pool.member]]\nname = \"{site}\"\naddresses = [\"{address}\"]\nsite = \"{site}\"\n");
        }
        let mut farside = Farside::launch_on(&self.machine, &home, &text, &socket);
        farside.wait_ready();
        farside
    }
}

#[test]
fn several_nodes_of_one_site_are_heard_as_one() {
    let place = Place::new(2010);
    let address = IpAddr::from([10, 0, 0, 5]);
    let _server = redis::start(&place.machine, &[address]);
    let (south, one, two) = (place.node("south", 1), place.node("north", 2), place.node("north", 3));
    let nodes = || redis::ask(&place.machine, address, &["hlen", "t*st:state:north"]);
    until("both are there", || nodes() == "2");
    wait_heard(&south, 2);
    let explained =
        |text: &str| south.order(&["explain", "mail.company.example", "--resolver", "10.0.0.1"]).contains(text);
    until("loads are compared", || explained("with the least load"));
    // A member is out when no node of its site says that it is in.
    one.order(&["drain", "mail/north"]);
    two.order(&["drain", "mail/north"]);
    wait_member(&south, "north", false);
    one.order(&["undrain", "mail/north"]);
    wait_member(&south, "north", true);
    // Without the one that said so, what the other says is left.
    one.kill();
    wait_member(&south, "north", false);
    until("the field of the one that is gone is taken away", || nodes() == "1");
    two.stop();
    wait_forgotten(&south, 2);
    wait_member(&south, "north", true);
    until("loads are not compared", || explained("not of all sites the load is known"));
    south.wait_logged("north is not heard through 10.0.0.5:6379 any more");
    south.stop();
    assert_eq!(redis::ask(&place.machine, address, &["dbsize"]), "0");
}
