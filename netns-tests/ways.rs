//! The way to resolvers: measured at each site, told to the others, and what mode "metrics" makes of it.

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::config::Config;
use crate::support::echo::{Echo, Manner};
use crate::support::farside::Farside;
use crate::support::link::{linked, wait_up};
use crate::support::wait::{eventually, until};
use crate::support::world::{BOTH, Family, World, site_name};

const NAME: &str = "www.company.example";

/// Its pings are answered by hand.
fn resolver(family: Family) -> IpAddr {
    match family {
        Family::V4 => "192.0.2.53",
        Family::V6 => "2001:db8:c::53",
    }
    .parse()
    .expect("an address")
}

struct Stage {
    farsides: Vec<Farside>,
    echo: Echo,
    world: World,
    asked: Cell<Instant>,
}

/// Linked sites with a pool of all of them, and no services: nothing comes but questions. `keys`: more lines of `[dns]`.
fn stage(sites: u8, keys: &str) -> Stage {
    let world = World::new(sites);
    for family in BOTH {
        let length = if family == Family::V4 { "24" } else { "64 nodad" };
        let (length, nodad) = length.split_once(' ').unwrap_or((length, ""));
        world.client.ip(&format!("addr add {}/{length} dev eth0 {nodad}", resolver(family)));
    }
    let echo = Echo::start(&world.client, &BOTH.map(resolver));
    let mut farsides: Vec<Farside> = (1..=sites)
        .map(|site| {
            let config = config(&world, site, keys);
            Farside::launch(world.site(site), &config)
        })
        .collect();
    farsides.iter_mut().for_each(Farside::wait_ready);
    for (at, to) in (1..=sites).flat_map(|at| (1..=sites).map(move |to| (at, to))).filter(|(at, to)| at != to) {
        wait_up(&farsides[usize::from(at) - 1], to);
    }
    Stage { farsides, echo, world, asked: Cell::new(Instant::now()) }
}

fn config(world: &World, site: u8, keys: &str) -> Config {
    let (own, mut config) = (world.site(site), linked(world, site, Config::new(world, site)));
    let zone = own.directory().join("zone");
    fs::write(&zone, "$TTL 60\n@ SOA ns admin 1 1h 15m 2w 5m\n@ NS ns.elsewhere.example.\n").expect("a zone");
    let listen = BOTH.map(|family| format!("\"{}\"", SocketAddr::new(own.wan_address(family), 53)));
    config.more += &format!(
        "[dns]\nlisten = [{}]\nstate_dir = {:?}\n{keys}[[dns.zone]]\norigin = \"company.example.\"\nfile = {zone:?}\n\
         [[dns.pool]]\nname = \"www\"\nnames = [\"{NAME}.\"]\nmodes = [\"metrics\"]\nttl = \"1s\"\n",
        listen.join(", "),
        own.directory().join("state")
    );
    for member in world.sites() {
        let [four, six] = BOTH.map(|family| member.vip(family));
        let name = member.name();
        config.more += &format!(
            "[[dns.pool.member]]\nname = \"{name}\"\nsite = \"{name}\"\naddresses = [\"{four}\", \"{six}\"]\n"
        );
    }
    config
}

impl Stage {
    fn farside(&self, site: u8) -> &Farside {
        &self.farsides[usize::from(site) - 1]
    }

    /// The resolver asks the name server of a site; whose address it gets.
    #[track_caller]
    fn ask(&self, at: u8, family: Family, more: &[&str]) -> u8 {
        let (server, from) = (format!("@{}", self.world.site(at).wan_address(family)), resolver(family).to_string());
        let fixed = ["+short", "-b", &from, &server, NAME, "A"];
        let text = self.world.client.run("dig", &[&fixed, more].concat());
        let got: IpAddr = text.trim().parse().unwrap_or_else(|_| panic!("one address: {text:?}"));
        let mut sites = self.world.sites().iter();
        sites.find(|site| site.vip(Family::V4) == got).expect("a site's").number
    }

    /// Once in a second, so that a load is none.
    fn keep_asking(&self, at: u8, family: Family) {
        if self.asked.get().elapsed() > Duration::from_secs(1) {
            self.asked.set(Instant::now());
            self.ask(at, family, &[]);
        }
    }

    /// How this site's pings are answered: after so many milliseconds, one of so many not, with so much to live.
    fn set(&self, site: u8, family: Family, ms: u64, (loses, ttl): (u32, u32)) {
        let after = Duration::from_millis(ms);
        self.echo.set(self.world.site(site).wan_address(family), Some(Manner { after, loses, ttl }));
    }

    fn explained(&self, at: u8, family: Family) -> Value {
        let resolver = resolver(family).to_string();
        let said = self.farside(at).order(&["explain", NAME, "--resolver", &resolver, "--json"]);
        serde_json::from_str(&said).expect("JSON")
    }

    /// Waits until a site would send the resolver there for that reason, and says so a few times in a row: the machine's load, which
    /// all sites measure at different moments, may decide now and then.
    #[track_caller]
    fn wait_sent(&self, at: u8, to: u8, family: Family, because: &str, mut meanwhile: impl FnMut()) -> Value {
        let wanted = self.world.site(to).vip(Family::V4).to_string();
        let what = format!("{family:?}: {} sends to {}, {because}", site_name(at), site_name(to));
        let mut row = 0;
        eventually(&what, || {
            meanwhile();
            let said = self.explained(at, family);
            let why = said["modes"][0]["why"].as_str().unwrap_or_default().to_string();
            row = if said["answer"]["addresses"][0] == *wanted && why.contains(because) { row + 1 } else { 0 };
            if row == 5 { Ok(said) } else { Err(format!("{said:#}\n{}", self.farside(at).show("sites"))) }
        })
    }
}

impl Stage {
    /// Waits until a site knows of the way from another what `is` wants; the resolver goes on asking south.
    #[track_caller]
    fn wait_way(&self, at: u8, of: u8, family: Family, what: &str, is: impl Fn(&Value) -> bool) {
        eventually(&format!("{family:?}: the way from {}: {what}", site_name(of)), || {
            self.keep_asking(1, family);
            let said = self.explained(at, family);
            let mut ways = said["ways"].as_array().expect("a list").iter();
            let way = ways.find(|way| way["site"] == site_name(of)).expect("the site's");
            if is(way) { Ok(()) } else { Err(format!("{said:#}")) }
        });
    }
}

const TO_RESOLVER: &str = "the nearest to the resolver";

#[test]
fn a_resolver_is_sent_to_the_site_that_it_is_nearest_to_and_follows_when_ways_change() {
    let stage = stage(3, "measure_resolvers = 50\nmeasure_every = \"1s\"\n");
    for family in BOTH {
        stage.set(1, family, 160, (0, 64));
        stage.set(2, family, 20, (0, 64));
        stage.set(3, family, 80, (0, 64));
        // One question at one site: all measure.
        stage.ask(1, family, &[]);
        for at in 1..=3 {
            let said = stage.wait_sent(at, 2, family, TO_RESOLVER, || {});
            let ways = said["ways"].as_array().expect("a list");
            assert_eq!(ways.len(), 3, "{said:#}");
            for (way, least) in ways.iter().zip([160.0, 20.0, 80.0]) {
                let ms = way["round_trip_ms"].as_f64().expect("a number");
                assert!(ms >= least && way["hops"] == 1 && way["loss_permille"] == 0, "{said:#}");
            }
        }
        // Its real answers, at any site.
        for at in 1..=3 {
            until("an answer of the nearest", || stage.ask(at, family, &[]) == 2);
        }
        // Ways change, and who goes on asking follows. South is out of this, far away.
        let asking = || stage.keep_asking(1, family);
        let at_least = |least: f64| move |way: &Value| way["round_trip_ms"].as_f64().is_some_and(|ms| ms >= least);
        stage.set(1, family, 450, (0, 64));
        stage.wait_way(3, 1, family, "far", at_least(450.0));
        stage.set(2, family, 240, (0, 64));
        stage.wait_way(3, 2, family, "long", at_least(240.0));
        stage.wait_sent(3, 3, family, TO_RESOLVER, asking);
        // Every second ping of east's is lost: worse than the longer way.
        stage.set(3, family, 80, (2, 64));
        stage.wait_way(3, 3, family, "lossy", |way| way["loss_permille"].as_u64().is_some_and(|loss| loss > 200));
        stage.wait_sent(3, 2, family, TO_RESOLVER, asking);
        // Both as far away in time, north by fewer routers; then east.
        stage.set(3, family, 240, (0, 50));
        stage.wait_way(3, 3, family, "far", at_least(240.0));
        stage.wait_way(3, 3, family, "good again", |way| way["loss_permille"].as_u64().is_some_and(|loss| loss < 90));
        stage.wait_way(3, 3, family, "15 routers", |way| way["hops"] == 15);
        stage.wait_sent(3, 2, family, TO_RESOLVER, asking);
        stage.set(2, family, 240, (0, 40));
        stage.wait_way(3, 2, family, "25 routers", |way| way["hops"] == 25);
        stage.wait_sent(3, 3, family, TO_RESOLVER, asking);
        // One site's pings are answered no more: what was the rule before is it again.
        stage.echo.set(stage.world.site(2).wan_address(family), None);
        stage.wait_way(3, 2, family, "silent", |way| way["age_s"].is_number() && way["round_trip_ms"].is_null());
        stage.wait_sent(3, 3, family, "the nearest to this site", asking);
        let text = stage.farside(3).order(&["explain", NAME, "--resolver", &resolver(family).to_string()]);
        assert!(text.contains("WAY FROM") && text.contains("nobody answers"), "{text}");
    }
    for site in 1..=3 {
        let counts = stage.farside(site).counters();
        for count in ["measured", "told", "taken_over"] {
            assert!(counts[&format!("dns_ways_{count}")] > 0, "{count} at {}: {counts:?}", site_name(site));
        }
        let ways = &stage.farside(site).show("dns")["ways"];
        assert!(ways["networks"] == 2 && ways["evicted"] == 0 && ways["rate_limited"] == 0, "{ways:#}");
    }
    assert!(stage.farside(2).counter("dns_ways_unanswered") > 0);
}

#[test]
fn a_resolver_that_answers_no_ping_is_sent_by_the_sites_own_ways() {
    let stage = stage(2, "measure_resolvers = 50\n");
    for family in BOTH {
        stage.ask(1, family, &[]);
        for at in 1..=2 {
            let silent = |way: &Value| way["age_s"].is_number() && way["round_trip_ms"].is_null();
            eventually("silence at both sites", || {
                let said = stage.explained(at, family);
                let all = said["ways"].as_array().is_some_and(|ways| ways.iter().all(silent));
                if all { Ok(()) } else { Err(format!("{said:#}")) }
            });
            stage.wait_sent(at, at, family, "the nearest to this site", || {});
        }
    }
    for at in 1..=2 {
        let counts = stage.farside(at).counters();
        assert_eq!((counts["dns_ways_measured"], counts["dns_ways_unanswered"]), (0, 2), "{counts:?}");
        // Four each, and no more: the ten minutes are not over.
        stage.ask(at, Family::V4, &[]);
        for family in BOTH {
            assert_eq!(stage.echo.came(stage.world.site(at).wan_address(family)), 4);
        }
    }
}

#[test]
fn without_the_key_no_ping_is_sent_and_connections_measure_all_the_same() {
    let stage = stage(2, "");
    for family in BOTH {
        stage.set(1, family, 0, (0, 64));
        stage.ask(1, family, &[]);
        stage.ask(1, family, &["+tcp"]);
        let said = eventually("a measurement", || {
            let said = stage.explained(2, family);
            if said["ways"][0]["round_trip_ms"].is_number() { Ok(said) } else { Err(format!("{said:#}")) }
        });
        assert!(said["ways"][0]["hops"].is_null() && said["ways"][1]["age_s"].is_null(), "{said:#}");
    }
    assert_eq!(stage.farside(1).counter("dns_ways_measured"), 2);
    assert_eq!(BOTH.map(|family| stage.echo.came(stage.world.site(1).wan_address(family))), [0, 0]);
    // A reload has it measured.
    let config = config(&stage.world, 1, "measure_resolvers = 5\nmeasure_every = \"1s\"\n");
    let said = stage.farsides[0].reload(&config);
    assert!(said.contains("measure_resolvers"), "{said}");
    until("a ping", || {
        stage.ask(1, Family::V4, &[]);
        stage.echo.came(stage.world.site(1).wan_address(Family::V4)) > 0
    });
}

#[test]
fn a_flood_of_forged_questions_makes_few_pings() {
    const PER_SECOND: u32 = 3;
    const NETWORKS: u32 = 4000;
    let stage = stage(2, &format!("measure_resolvers = {PER_SECOND}\n"));
    // All of these are the client's, so that it can ask in their names, and sees who is pinged.
    stage.world.client.ip("route add local 100.64.0.0/10 dev lo");
    stage.world.router.ip("route add 100.64.0.0/10 via 192.0.2.10");
    let victims = Echo::start(&stage.world.client, &["0.0.0.0".parse().expect("an address")]);
    let mut question = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in NAME.split('.') {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let to = SocketAddr::new(stage.world.site(1).wan_address(Family::V4), 53);
    let start = Instant::now();
    stage.world.client.inside(|| {
        for n in 0..NETWORKS {
            let from = IpAddr::from((0x6440_0001 + (n << 8)).to_be_bytes());
            let socket = UdpSocket::bind((from, 0)).expect("an address of the client's");
            socket.send_to(&question, to).expect("a question");
        }
    });
    until("a refusal", || stage.farside(1).counter("dns_ways_rate_limited") > 0);
    let came = |site: u8| victims.came(stage.world.site(site).wan_address(Family::V4));
    for site in 1..=2 {
        until("pings", || came(site) > 6 * PER_SECOND);
        // Four each; a measurement goes on into the next second.
        let most = 4 * PER_SECOND * (start.elapsed().as_secs() as u32 + 2);
        assert!(came(site) <= most, "{} pings of {}, {most} are the most", came(site), site_name(site));
    }
    let row = &stage.farside(1).show("dns")["ways"];
    assert!(row["rate_limited"].as_u64().is_some_and(|count| count < u64::from(NETWORKS)), "{row:#}");
}
