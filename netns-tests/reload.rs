//! The configuration changes while it runs.

use std::fs;
use std::net::SocketAddr;

use crate::support::client::{open, who};
use crate::support::config::{Config, Remote, Service, quick_check, real_target, remote_target};
use crate::support::crowd::Crowd;
use crate::support::play::{PORT, Play, standard};
use crate::support::wait::until;
use crate::support::world::{BOTH, Family, Site, World};

use rustix::process::Signal;

#[test]
fn a_reload_under_load_loses_no_connection() {
    let play = Play::new(2);
    let full = standard(&play.world, 1);
    let small = full.clone().each(|service| drop(service.reals.remove(0)));
    let crowd = Crowd::start(&play.world.client, play.vip(1, Family::V4), 1000);
    for step in 1..=10 {
        crowd.allow(100 * step);
        play.farside(1).reload(if step % 2 == 1 { &small } else { &full });
        match step {
            5 => play.sicken(1),
            8 => play.heal(1),
            _ => {}
        }
        until("the sessions of this step", || crowd.open() >= 100 * step - 50);
    }
    until("all sessions open", || crowd.open() == 1000);
    let outcome = crowd.finish();
    assert!(outcome.failed.is_empty(), "{outcome:?}\n{}", play.logs());
    assert_eq!(outcome.served.values().sum::<usize>(), 1000);
}

/// No server of before is there after the reload, and nobody knows yet of a new one whether it serves.
#[test]
fn a_reload_that_replaces_all_servers_refuses_nobody() {
    let play = Play::new(1);
    let old = standard(&play.world, 1);
    let farside = play.farside(1);
    let crowd = Crowd::start(&play.world.client, play.vip(1, Family::V4), 400);
    for step in 1..=8 {
        crowd.allow(50 * step);
        farside.reload(&old.clone().each(|service| {
            service.remotes.clear();
            service.reals.iter_mut().for_each(|(name, ..)| *name = format!("{name}-{step}"));
        }));
        until("the sessions of this step", || crowd.open() == 50 * step);
    }
    let outcome = crowd.finish();
    assert!(outcome.failed.is_empty(), "{outcome:?}\n{}", play.logs());
}

#[test]
fn a_bad_file_changes_nothing() {
    let play = Play::new(1);
    let farside = play.farside(1);
    let good = standard(&play.world, 1).text();
    let bad = good.replace("protocol = \"tcp\"", "protokoll = \"tcp\"");
    farside.rewrite(&bad);
    let (success, said) = farside.tell(&["reload"]);
    assert!(!success && said.contains("protokoll"), "{said}");
    farside.signal(Signal::HUP);
    farside.wait_logged("protokoll");
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 1);
    }
    farside.rewrite(&good);
    farside.order(&["reload"]);
}

#[test]
fn where_services_cannot_be_taken_the_zones_stay_as_they_were_too() {
    let zone = |site: &Site, txt: &str| {
        let text =
            format!("$TTL 60\n@ SOA ns admin 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\nword TXT \"{txt}\"\n");
        fs::write(site.directory().join("company.zone"), text).unwrap();
    };
    let with_zone = |world: &World, mut config: Config| {
        let site = world.site(1);
        zone(site, "before");
        config.more = format!(
            "[dns]\nlisten = [\"127.0.0.1:53\"]\nstate_dir = \"{0}\"\n\n\
             [[dns.zone]]\norigin = \"company.example.\"\nfile = \"{0}/company.zone\"\n",
            site.directory().display()
        );
        config
    };
    let play = Play::with(1, |world, _, config| with_zone(world, config));
    let (site, farside) = (play.world.site(1), play.farside(1));
    let config = with_zone(&play.world, standard(&play.world, 1));
    let word = || site.host.run("dig", &["+short", "@127.0.0.1", "word.company.example", "TXT"]).trim().to_string();
    assert_eq!(word(), "\"before\"");
    zone(site, "after");
    // Its checks would be sent from an address of the host, which has none toward there.
    site.host.ip("route add unreachable 198.18.99.9/32");
    let mut lost = config.clone();
    lost.pips.clear();
    lost.services.push(Service::new("lost", "198.18.99.1".parse().unwrap(), "tcp", PORT, &quick_check("tcp")));
    let service = lost.services.last_mut().unwrap();
    service.extra = "mode = \"direct\"".into();
    service.reals.push(("r1".into(), "198.18.99.9".parse().unwrap(), PORT, 1));
    lost.services.iter_mut().for_each(|service| service.remotes.clear());
    farside.rewrite(&lost.text());
    let (success, said) = farside.tell(&["reload"]);
    assert!(!success && said.contains("198.18.99.9"), "{said}");
    // Each is answered by the control thread, after a turn in which it would have put out the zone.
    (0..3).for_each(|_| drop(farside.show("dns")));
    assert_eq!(word(), "\"before\"");
    farside.rewrite(&config.text());
    farside.order(&["reload"]);
    until("the new zone", || word() == "\"after\"");
}

#[test]
fn servers_and_sites_come_and_go_by_reload() {
    let mut play = Play::with(2, |_, site, config| match site {
        1 => config.each(|service| {
            service.remotes.clear();
            service.reals.truncate(1);
        }),
        _ => config,
    });
    for family in BOTH {
        let (mut session, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
        assert!(greeting.starts_with("+OK r1a"), "{greeting}");
        // a leaves, b comes: the old session stays with a.
        let other = standard(&play.world, 1).each(|service| {
            service.remotes.clear();
            service.reals.remove(0);
        });
        let said = play.farside(1).reload(&other);
        assert!(said.contains("r1b") && said.contains("r1a"), "{said}");
        play.farside(1).wait_status("up", &[real_target("pop3", family, "r1b")]);
        assert_eq!(play.who(1, family).expect("a session"), "r1b");
        assert_eq!(session.ask("NOOP").expect("the removed server's session goes on"), "+OK");

        // A remote site comes.
        play.farside(1).reload(&standard(&play.world, 1));
        play.wait_remote("up", 1, 2);
        play.fall(1);
        assert_eq!(play.serving_site(1, family), 2);
        play.rise(1);
        play.farside(1).reload(&standard(&play.world, 1).each(|service| {
            service.remotes.clear();
            service.reals.truncate(1);
        }));
    }
}

#[test]
fn a_drained_server_keeps_its_sessions_and_gets_no_more() {
    let mut play = Play::new(2);
    for family in BOTH {
        let target = |real| real_target("pop3", family, real);
        play.farside(1).order(&["drain", &target("r1b")]);
        let (mut session, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
        assert!(greeting.starts_with("+OK r1a"), "{greeting}");
        play.farside(1).order(&["drain", &target("r1a")]);
        play.farside(1).wait_status("draining", &[target("r1a"), target("r1b")]);
        assert_eq!(play.serving_site(1, family), 2, "with all local servers draining the other site takes over");
        assert_eq!(session.ask("NOOP").expect("the old session goes on"), "+OK");
        play.farside(1).order(&["undrain", &target("r1a")]);
        assert_eq!(play.who(1, family).expect("a session"), "r1a");
        play.farside(1).order(&["undrain", &target("r1b")]);

        // A remote site can be drained as well.
        let remote = remote_target("pop3", family, 2);
        play.farside(1).order(&["drain", &remote]);
        play.fall(1);
        let error = play.who(1, family).expect_err("nobody takes it");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        play.farside(1).order(&["undrain", &remote]);
        assert_eq!(play.serving_site(1, family), 2);
        play.rise(1);
    }
    let (success, said) = play.farside(1).tell(&["drain", "pop3/nobody"]);
    assert!(!success && said.contains("pop3/nobody"), "{said}");
}

#[test]
fn on_down_reset_ends_the_sessions_of_a_server_that_falls() {
    let reset = |config: Config| config.each(|service| service.extra = "on_down = \"reset\"".into());
    let play = Play::with(2, |_, _, config| reset(config));
    for family in BOTH {
        let (mut session, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
        assert!(greeting.starts_with("+OK r1"), "{greeting}");
        play.sicken(1);
        let error = session.line().expect_err("the session is over");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        assert_eq!(play.serving_site(1, family), 2);
        play.heal(1);
    }
}

/// A second service appears on the same VIP, and goes again.
#[test]
fn services_come_and_go_by_reload() {
    let play = Play::new(2);
    let full = standard(&play.world, 1);
    let mut more = full.clone();
    for service in &full.services {
        let mut twin = service.clone();
        twin.name = format!("twin-{}", service.name);
        twin.port = 2110;
        let remotes = service.remotes.iter().map(|remote| Remote { port: 110, ..remote.clone() });
        twin.remotes = remotes.collect();
        more.services.push(twin);
    }
    for family in BOTH {
        let at = SocketAddr::new(play.world.site(1).vip(family), 2110);
        play.farside(1).reload(&more);
        until("the new service", || who(&play.world.client, at).is_ok());
        play.farside(1).reload(&full);
        // Its port is the host's again, which has no such address.
        let url = format!("http://{at}/");
        until("the end of the service", || !play.world.client.output("curl", &["-gsm", "1", &url]).status.success());
        assert_eq!(play.serving_site(1, family), 1);
    }
}

/// Sessions at a VIP that a reload takes away run on, those served here and those carried by a PIP that goes with it,
/// though the router has to ask anew where both are. New ones are refused, and when the old ones have ended nothing is left.
#[test]
fn sessions_outlive_their_vip_and_their_pip() {
    let play = Play::with(2, |_, _, config| config.with(|config| config.timeouts = "tcp_closing = \"1s\"".into()));
    let full = standard(&play.world, 1).with(|config| config.timeouts = "tcp_closing = \"1s\"".into());
    for family in BOTH {
        let (mut local, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
        assert!(greeting.starts_with("+OK r1"), "{greeting}");
        play.sicken(1);
        let (mut carried, greeting) = open(&play.world.client, play.vip(1, family)).expect("a session");
        assert!(greeting.starts_with("+OK r2"), "{greeting}");
        play.heal(1);
        let vip = play.world.site(1).vip(family);
        let without = full.clone().with(|config| {
            config.services.retain(|service| service.vip != vip);
            config.pips.retain(|pip| pip.is_ipv4() != vip.is_ipv4());
        });
        play.farside(1).reload(&without);
        play.world.router.run("ip", &["neighbor", "flush", "all"]);
        for session in [&mut local, &mut carried] {
            assert_eq!(session.ask("NOOP").unwrap_or_else(|e| panic!("{e}\n{}", play.logs())), "+OK");
        }
        let error = play.who(1, family).expect_err("the service is gone");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
        for mut session in [local, carried] {
            assert!(session.ask("QUIT").expect("an answer").starts_with("+OK"));
        }
        play.farside(1).wait_logged("the last connections of what a reload removed have ended");
        play.farside(1).reload(&full);
        play.farside(1).wait_status("up", &[real_target("pop3", family, "r1a")]);
        assert_eq!(play.serving_site(1, family), 1);
    }
}
