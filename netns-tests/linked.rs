//! Sites that tell each other how they are: what that changes for the forwarder, what its loss changes, and who is not told.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::support::client::{self, Session};
use crate::support::config::{Config, quick_check};
use crate::support::link::{self, cut, heal, linked, wait, wait_up};
use crate::support::play::Play;
use crate::support::wait::{eventually, until};
use crate::support::world::{BOTH, Family, World, site_name};

/// Three linked sites. Site 1's servers are drained, and it checks nothing by itself; site 2 takes one connection of each family at a time.
fn stage() -> Play {
    let play = Play::with(3, |world: &World, site, config: Config| {
        let config = linked(world, site, config);
        match site {
            1 => config.each(|service| service.check = "kind = \"none\"".into()),
            2 => config.each(|service| service.extra = "max_connections = 1".into()),
            _ => config,
        }
    });
    for (at, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
        wait_up(play.farside(at), to);
    }
    for target in ["pop3/r1a", "pop3/r1b", "pop3-6/r1a", "pop3-6/r1b"] {
        play.farside(1).order(&["drain", target]);
    }
    play
}

/// A session at site 2, which has one place for each family. Who had it last (a session before, a check of site 3's) may still be going.
#[track_caller]
fn take_the_place(play: &Play, family: Family) -> Session {
    eventually("a place at site 2", || {
        client::open(&play.world.client, play.vip(2, family)).map(|(session, _)| session).map_err(|e| e.to_string())
    })
}

/// Waits until a session at site 1's VIP is served by this site.
#[track_caller]
fn wait_served_by(play: &Play, site: u8, family: Family) {
    until(&format!("service by site {site}, {family:?}"), || {
        play.who(1, family).is_ok_and(|name| name.starts_with(&format!("r{site}")))
    });
}

#[test]
fn a_site_that_says_that_it_is_full_or_without_servers_gets_no_carried_connection() {
    let mut play = stage();
    for family in BOTH {
        wait_served_by(&play, 2, family);
    }
    for family in BOTH {
        let session = take_the_place(&play, family);
        wait_served_by(&play, 3, family);
        drop(session);
        wait_served_by(&play, 2, family);
    }
    let sessions = BOTH.map(|family| take_the_place(&play, family));
    wait(play.farside(1), 2, "full", |row| row["full"] == true && row["connections"] == 2);
    drop(sessions);
    wait(play.farside(1), 2, "room", |row| row["full"] == false);
    play.fell(2);
    for family in BOTH {
        wait_served_by(&play, 3, family);
    }
    play.raise(2);
    for family in BOTH {
        wait_served_by(&play, 2, family);
    }
    let sites = play.farside(1).show("sites");
    let rows = sites.as_array().expect("a list");
    assert_eq!(rows.iter().map(|row| row["link"].as_str().unwrap()).collect::<Vec<_>>(), ["own", "up", "up"]);
    for row in &rows[1..] {
        assert!(row["round_trip_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{row:#}");
        assert!(row["skew_ms"].as_f64().is_some_and(|ms| ms.abs() < 500.0), "one machine has one clock: {row:#}");
        assert_eq!(row["hops"], 1, "one router is between: {row:#}");
        assert!(row["cpu_permille"].is_number() && row["packets_per_s"].is_number(), "{row:#}");
    }
    let text = play.farside(1).order(&["show", "sites"]);
    assert!(text.starts_with("SITE ") && text.contains("north") && text.contains("east"), "{text}");
}

#[test]
fn a_link_that_is_lost_leaves_own_checks_and_is_told_of_once_and_so_is_its_return() {
    let mut play = stage();
    play.fell(2);
    for family in BOTH {
        wait_served_by(&play, 3, family);
    }
    let count = |text: &str| play.farside(1).log().matches(text).count();
    assert_eq!([count("the link to north stands"), count("the link to north is lost")], [1, 0]);
    cut(&play.world, 1, 2);
    wait(play.farside(1), 2, "the loss", |row| row["link"] == "down" && row["cpu_permille"].is_null());
    // Its own check of site 2, which is none, is all that site 1 has now.
    for family in BOTH {
        until("a connection to site 2 after all", || play.who(1, family).is_err());
    }
    wait_up(play.farside(1), 3);
    heal(&play.world, 1, 2);
    wait_up(play.farside(1), 2);
    for family in BOTH {
        wait_served_by(&play, 3, family);
    }
    assert_eq!([count("the link to north stands"), count("the link to north is lost")], [2, 1]);
    // A site that starts again is linked again.
    let old = play.take_farside(2);
    old.kill();
    wait(play.farside(1), 2, "the loss", |row| row["link"] == "down");
    play.raise(2);
    let config = linked(&play.world, 2, crate::support::play::standard(&play.world, 2));
    let again = crate::support::farside::Farside::start(play.world.site(2), &config);
    play.put_farside(2, again);
    wait_up(play.farside(1), 2);
    for family in BOTH {
        wait_served_by(&play, 2, family);
    }
}

#[test]
fn an_expired_a_wrong_and_an_unknown_certificate_get_nothing_until_the_right_one_is_there() {
    let play = Play::with(2, |world: &World, site, config: Config| {
        let config = linked(world, site, config);
        config.each(|service| service.check = quick_check("pop3"))
    });
    wait_up(play.farside(1), 2);
    let (certificate, key) = link::paths(play.world.site(2));
    let good = [&certificate, &key].map(|path| fs::read_to_string(path).expect("a file"));
    let put = |pair: &[String; 2]| {
        fs::write(&certificate, &pair[0]).expect("a certificate");
        fs::write(&key, &pair[1]).expect("a key");
    };
    let why = |at: u8, of: u8, text: &str| {
        wait(play.farside(at), of, text, |row| {
            row["link"] == "down" && row["why"].as_str().is_some_and(|why| why.contains(text))
        });
    };
    // Site 2 has another pair than the one that site 1 knows.
    put(&pair(Duration::from_secs(86400), false));
    play.farside(2).order(&["reload"]);
    why(2, 1, "refuses this site's certificate");
    until("a count", || play.farside(1).counter("link_refused") > 0);
    wait(play.farside(1), 2, "nothing", |row| row["link"] == "down" && row["connections"].is_null());
    // The one that both know has ended.
    put(&pair(Duration::from_secs(86400), true));
    play.farside(1).order(&["reload"]);
    play.farside(2).order(&["reload"]);
    why(2, 1, "has expired");
    // A reload with files that will not do changes nothing.
    put(&[good[0].clone(), "rubbish".into()]);
    let (done, said) = play.farside(2).tell(&["reload"]);
    assert!(!done && said.contains("no key in PEM") && said.contains("farside site keygen"), "{said}");
    put(&good);
    play.farside(1).order(&["reload"]);
    play.farside(2).order(&["reload"]);
    for (at, of) in [(1, 2), (2, 1)] {
        wait_up(play.farside(at), of);
    }
    let log = play.farside(1).log();
    assert!(log.contains("is not linked"), "{log}");
    assert_eq!(play.serving_site(1, Family::V4), 1, "{}", site_name(1));
}

/// A certificate and its key, in PEM, that begin or end now, but for a day.
fn pair(day: Duration, ended: bool) -> [String; 2] {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["north".to_string()]).expect("a name");
    let now = SystemTime::now();
    params.not_before = (now - 3 * day).into();
    params.not_after = if ended { now - day } else { now + day }.into();
    [params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem()]
}
