//! Mode "dynamic": a resolver keeps its site over a node's restart, and has the same at every node that shares through a Redis server,
//! whatever becomes of that server.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::farside::Farside;
use crate::support::namespace::Namespace;
use crate::support::process::Process;
use crate::support::redis;
use crate::support::wait::{eventually, until};

const SERVER: &str = "10.0.0.5:6379";

/// Two name servers, a Redis server and resolvers, on one machine by many addresses.
struct Place {
    machine: Namespace,
    directory: TempDir,
}

/// `south` listens at 10.0.0.1, `north` at 10.0.0.2.
const NODES: [(&str, &str); 2] = [("south", "10.0.0.1"), ("north", "10.0.0.2")];

impl Place {
    fn new(number: u32) -> Place {
        let directory = tempfile::Builder::new()
            .prefix(&format!("farside-test-{}-", std::process::id()))
            .tempdir()
            .expect("a directory for the test");
        let machine = Namespace::new(number, "names", directory.path());
        machine.ip("addr add 10.0.0.1/32 dev lo
                    addr add 10.0.0.2/32 dev lo
                    addr add 10.0.0.5/32 dev lo
                    route add local 10.1.0.0/16 dev lo");
        let zone = "$TTL 60\n@ SOA ns1 hostmaster 1 1h 15m 2w 5m\n@ NS ns1\nns1 A 10.0.0.1\n*.learn A 192.0.2.99\n";
        fs::write(directory.path().join("company.example.zone"), zone).expect("write the zone");
        Place { machine, directory }
    }

    fn node(&self, at: usize, more: &str) -> Farside {
        let (name, address) = NODES[at];
        let home: PathBuf = self.directory.path().join(name);
        fs::create_dir_all(&home).expect("a directory for the node");
        let socket = format!("{}/socket", home.display());
        let peer = NODES[1 - at].0;
        let text = format!(
            "[site]\nname = \"{name}\"\n[admin]\nsocket = \"{socket}\"\n[[peer]]\nname = \"{peer}\"\n\
             proxy_addresses = [\"192.0.2.{at}\"]\n\
             [dns]\nlisten = [\"{address}:53\"]\nstate_dir = \"{home}\"\n{more}\n\
             [[dns.zone]]\norigin = \"company.example.\"\nfile = \"../company.example.zone\"\n\
             [[dns.pool]]\nname = \"mail\"\nnames = [\"mail.company.example.\"]\nmodes = [\"dynamic\"]\n\
             [[dns.pool.member]]\nname = \"a\"\naddresses = [\"192.0.2.10\"]\nsite = \"south\"\n\
             [[dns.pool.member]]\nname = \"b\"\naddresses = [\"192.0.2.20\"]\nsite = \"north\"\n",
            home = home.display()
        );
        let mut farside = Farside::launch_on(&self.machine, &home, &text, &socket);
        farside.wait_ready();
        farside
    }

    /// The site of the resolver with this number, as node `at` has it.
    fn ask(&self, at: usize, resolver: u8) -> String {
        let (own, server) = (format!("10.1.0.{resolver}"), format!("@{}", NODES[at].1));
        let arguments = ["-b", &own, &server, "mail.company.example", "A", "+short", "+tries=2", "+time=3"];
        let site = self.machine.run("dig", &arguments);
        assert!(site.starts_with("192.0.2."), "{site}");
        site
    }

    fn redis(&self) -> Process {
        redis::start(&self.machine, &[[10, 0, 0, 5].into()])
    }
}

fn records(farside: &Farside) -> u64 {
    farside.show("dns")["store"]["records"].as_u64().expect("a number")
}

#[test]
fn a_resolver_keeps_its_site_over_a_restart() {
    let place = Place::new(2000);
    let farside = place.node(0, "");
    let sites: Vec<String> = (1..=20).map(|resolver| place.ask(0, resolver)).collect();
    assert!(["192.0.2.10\n", "192.0.2.20\n"].iter().all(|site| sites.iter().any(|is| is == site)), "{sites:?}");
    let again = |what: &str| {
        let is: Vec<String> = (1..=20).map(|resolver| place.ask(0, resolver)).collect();
        assert_eq!(is, sites, "{what}");
    };
    again("asked once more");
    let store = farside.show("dns")["store"].clone();
    assert_eq!((&store["records"], &store["hits"], &store["misses"]), (&20.into(), &20.into(), &20.into()), "{store}");
    farside.stop();
    let farside = place.node(0, "");
    assert_eq!(records(&farside), 20);
    again("after a restart");
    farside.stop();
    // What cannot be read is left aside.
    fs::write(place.directory.path().join("south/store"), "rubbish").expect("write a file");
    let farside = place.node(0, "");
    farside.wait_logged("store.broken");
    assert_eq!(records(&farside), 0);
    farside.stop();
}

#[test]
fn nodes_that_share_through_a_server_agree_whatever_becomes_of_it() {
    let place = Place::new(2001);
    fs::write(place.directory.path().join("password"), "secret\n").expect("write the password");
    let section = format!("[dns.redis]\naddress = \"{SERVER}\"\npassword_file = \"../password\"\nprefix = \"t*st\"");
    let mut server = place.redis();
    let nodes = [0, 1].map(|at| place.node(at, &section));
    // Each node is asked by some resolvers first; then the other knows them.
    let ask_and_compare = |first: std::ops::RangeInclusive<u8>| {
        let all = *first.end();
        let chosen: Vec<(u8, String)> =
            first.map(|resolver| (resolver, place.ask(usize::from(resolver % 2), resolver))).collect();
        eventually("both nodes know all", || {
            let known = [0, 1].map(|at| records(&nodes[at]));
            let told = || format!("{known:?}\n{}\n{}", nodes[0].log(), nodes[1].log());
            if known == [u64::from(all); 2] { Ok(()) } else { Err(told()) }
        });
        for (resolver, site) in chosen {
            assert_eq!([0, 1].map(|at| place.ask(at, resolver)), [site.clone(), site], "{resolver}");
        }
    };
    let heard = |text: &str| nodes.iter().for_each(|node| node.wait_logged(text));
    ask_and_compare(1..=20);
    heard("are shared through");

    // It stands still: answers go on, and what was chosen meanwhile is told later.
    server.signal(Signal::STOP);
    heard("are not shared through 10.0.0.5:6379: it does not answer");
    let meanwhile: Vec<String> = (21..=30).map(|resolver| place.ask(0, resolver)).collect();
    assert_eq!(meanwhile.len(), 10);
    assert_eq!(nodes[0].show("dns")["redis"]["connected"], false);
    server.signal(Signal::CONT);
    heard("again");
    until("the other node knows them", || records(&nodes[1]) == 30);
    assert_eq!((21..=30).map(|resolver| place.ask(1, resolver)).collect::<Vec<_>>(), meanwhile);

    // It dies, and another one that knows nothing comes in its place.
    server.kill();
    until("the loss is seen", || nodes.iter().all(|node| node.show("dns")["redis"]["connected"] == false));
    let meanwhile: Vec<String> = (31..=40).map(|resolver| place.ask(1, resolver)).collect();
    let mut server = place.redis();
    until("the other node knows them", || records(&nodes[0]) == 40);
    assert_eq!((31..=40).map(|resolver| place.ask(0, resolver)).collect::<Vec<_>>(), meanwhile);
    // All records, their changes, and both sites' states.
    let count = || redis::ask(&place.machine, [10, 0, 0, 5].into(), &["dbsize"]);
    until("the new server has all", || count() == "43");
    ask_and_compare(41..=50);

    // A node that starts later has all from the server, its own file or not.
    let [south, north] = nodes;
    south.stop();
    fs::remove_file(place.directory.path().join("south/store")).expect("the file that it has left");
    let south = place.node(0, &section);
    until("it knows all", || records(&south) == 50);
    assert_eq!((31..=40).map(|resolver| place.ask(0, resolver)).collect::<Vec<_>>(), meanwhile);
    south.stop();
    north.stop();
    server.kill();
}

#[test]
fn resolvers_that_ask_for_one_clients_name_are_sent_to_one_site() {
    let place = Place::new(2002);
    let farside = place.node(0, "learn_groups = \"learn.company.example.\"");
    // In turn, but dig may ask twice, and threads have turns of their own: two that were sent to different sites.
    let sites: Vec<String> = (1..=20).map(|resolver| place.ask(0, resolver)).collect();
    let other = (2..=20).find(|resolver| sites[usize::from(*resolver) - 1] != sites[0]).expect("two sites");
    let both = [1, other];
    let tell = |resolver: u8, way: &str| {
        let own = format!("10.1.0.{resolver}");
        let arguments =
            ["-b", &own, "@10.0.0.1", "k3v9x0q2m7ta.learn.company.example", "A", "+ignore", "+nocookie", way];
        place.machine.run("dig", &arguments)
    };
    for resolver in both.into_iter().chain([other + 1]) {
        let forged = tell(resolver, "+notcp");
        assert!(forged.contains("flags: qr aa tc") && !forged.contains("192.0.2.99"), "{forged}");
    }
    for resolver in both {
        let shown = tell(resolver, "+tcp");
        assert!(shown.contains("192.0.2.99"), "{shown}");
    }
    let learned = || farside.show("dns")["learned"].clone();
    let group = serde_json::json!([both.map(|resolver| format!("10.1.0.{resolver}"))]);
    until("they are a group", || learned() == group);
    let sites = both.map(|resolver| place.ask(0, resolver));
    assert_eq!(sites[0], sites[1]);
    farside.stop();
}
