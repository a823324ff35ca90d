use super::*;
use crate::affinity::{Share, Who};
use crate::sites::state::{Served, member_id};
use std::path::Path;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86400);

/// A node with everything that it needs, its listener on loopback.
struct Node {
    table: Arc<SiteTable>,
    sites: Arc<Registry>,
    store: Arc<Store>,
    ways: Arc<Ways>,
    links: Links,
}

/// Files of certificates and keys, by names.
struct Keys(tempfile::TempDir);

impl Keys {
    fn new(names: &[&str]) -> Keys {
        let keys = Keys(tempfile::tempdir().unwrap());
        names.iter().for_each(|name| keys.make(name, name));
        keys
    }

    fn make(&self, file: &str, site: &str) {
        let (certificate, key) = keys::certificate(site, DAY).unwrap();
        self.write(file, &certificate, &key);
    }

    fn write(&self, file: &str, certificate: &str, key: &str) {
        use std::os::unix::fs::PermissionsExt;
        let (certificate_path, key_path) = keys::paths(self.0.path(), file);
        std::fs::write(&certificate_path, certificate).unwrap();
        std::fs::write(&key_path, key).unwrap();
        std::fs::set_permissions(&key_path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn identity(&self, own: &str, peers: &[&str]) -> Result<Identity, String> {
        let (certificate, key) = keys::paths(self.0.path(), own);
        let peers: Vec<_> = peers.iter().map(|peer| keys::paths(self.0.path(), peer).0).collect();
        Identity::read(&certificate, &key, peers.iter().map(|path| &**path as &Path))
    }
}

/// `peers`: name, and where it listens if this node dials it.
fn node(own: &str, identity: Identity, peers: &[(&str, Option<SocketAddr>)], listen: &str) -> Node {
    let (sites, table) = (Arc::new(Registry::default()), Arc::new(SiteTable::default()));
    sites.number(own).unwrap();
    let store = Arc::new(Store::new(10_000, (own.len() as u64, 7)));
    let peer = |(name, address): &(&str, Option<SocketAddr>)| PeerOf {
        name: name.to_string(),
        site: sites.number(name).unwrap(),
        address: *address,
    };
    let peers = peers.iter().map(peer).collect();
    let (table_of, sites_of) = (table.clone(), sites.clone());
    let ways = Arc::new(Ways::new(1 << 16, sites.find(own).unwrap(), (own.len() as u64, 7)));
    let (store_of, ways_of) = (Some(store.clone()), Some(ways.clone()));
    let common = Common { own: own.into(), sites: sites_of, table: table_of, store: store_of, ways: ways_of };
    let links = Links::start(common, identity, peers, &[listen.parse().unwrap()]).unwrap();
    Node { table, sites, store, ways, links }
}

/// South listens, north dials.
fn pair(keys: &Keys) -> (Node, Node) {
    pair_at(keys, "127.0.0.1:0")
}

fn pair_at(keys: &Keys, listen: &str) -> (Node, Node) {
    let south = node("south", keys.identity("south", &["north"]).unwrap(), &[("north", None)], listen);
    let to = south.links.listening()[0];
    let north = node("north", keys.identity("north", &["south"]).unwrap(), &[("south", Some(to))], "127.0.0.1:0");
    (south, north)
}

/// Waits for what must come.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

fn who(n: u32) -> Who {
    Who::from(std::net::IpAddr::from(n.to_be_bytes()))
}

impl Node {
    fn stands(&self) -> bool {
        self.links.reports().iter().all(|report| report.stands)
    }

    fn why(&self) -> String {
        self.links.reports()[0].why.clone()
    }

    fn put(&self, n: u32, site: &str, stamp_ms: u64) {
        self.store.put(who(n), Share(1), self.sites.find(site).unwrap(), 3600, stamp_ms, u64::MAX);
    }

    fn site_of(&self, n: u32) -> String {
        self.store.read(who(n), Share(1)).map_or(String::new(), |record| self.sites.name(record.site).to_string())
    }
}

#[test]
fn two_sites_tell_each_other_how_they_are_and_forget_it_when_the_link_is_lost() {
    let (south, north) = pair(&Keys::new(&["south", "north"]));
    until("the link", || south.stands() && north.stands());
    let vip = "203.0.113.10".parse().unwrap();
    let served = Served { vip, port: 110, protocol: 6, up: true, full: false };
    let state = State {
        full: true,
        connections: 12,
        packets_per_s: 34,
        cpu_permille: 56,
        services: vec![served],
        members: vec![(member_id("mail", "a"), true)],
    };
    south.links.tell(state.clone());
    let of_south = north.sites.find("south").unwrap();
    until("south's state", || north.table.get(of_south).is_some_and(|load| load.connections == 12));
    let load = north.table.get(of_south).unwrap();
    assert_eq!((load.full, load.packets_per_s, load.cpu_permille), (true, 34, 56));
    assert_eq!(north.links.reports()[0].state.as_deref(), Some(&state));
    until("a measurement", || north.links.reports()[0].round_trip_us.is_some_and(|time| time > 0));
    let ahead = north.links.reports()[0].ahead_us.unwrap();
    assert!(ahead.abs() < 1_000_000, "both have the same clock, and one is {ahead} us ahead");
    drop(south);
    until("the end", || !north.stands());
    assert_eq!(north.table.get(of_south), None);
    assert!(north.links.reports()[0].state.is_none() && !north.why().is_empty());
}

#[test]
fn records_reach_the_other_site_and_the_newest_counts() {
    let (south, north) = pair(&Keys::new(&["south", "north"]));
    let now = now_ms();
    south.put(1, "south", now - 5000);
    north.put(1, "north", now - 3000);
    south.put(2, "south", now - 1000);
    north.put(3, "north", now - 1000);
    let all = |node: &Node| [1, 2, 3].map(|n| node.site_of(n));
    until("the records", || [&south, &north].iter().all(|node| all(node) == ["north", "south", "north"]));
    // Both at the same moment: the smaller name.
    let at = now_ms();
    south.put(4, "south", at);
    north.put(4, "north", at);
    until("the smaller name", || south.site_of(4) == "north" && north.site_of(4) == "north");
}

#[test]
fn what_was_missed_while_the_link_was_down_is_found_by_digests() {
    let keys = Keys::new(&["south", "north"]);
    let (south, north) = pair(&keys);
    let long_ago = now_ms() - 60_000;
    for n in 0..3000 {
        south.put(n, "south", long_ago);
        north.put(n + 2000, "north", long_ago + u64::from(n % 2) * 10);
    }
    // As if both had told of their changes to a link that lost them.
    for node in [&south, &north] {
        node.store.changes(crate::affinity::Consumer::Links, 0, usize::MAX >> 1, &mut Vec::new());
    }
    until("all", || north.site_of(0) == "south" && south.site_of(4999) == "north");
    let same = |n: u32| !south.site_of(n).is_empty() && south.site_of(n) == north.site_of(n);
    until("the rest", || (0..5000).all(same));
    assert!(south.links.counts().repairs + north.links.counts().repairs >= 2);
}

#[test]
fn ways_to_resolvers_are_told_once_and_all_again_to_who_begins_anew() {
    use crate::sites::ways::{Network, Way};
    let keys = Keys::new(&["south", "north"]);
    let (south, north) = pair(&keys);
    let now_s = || (now_ms() / 1000) as u32;
    let resolver = |n: u16| std::net::IpAddr::from([10, (n >> 8) as u8, n as u8, 53]);
    let way = Way { round_trip_us: Some(12_000), loss_permille: 250, hops: Some(7), age_s: 0 };
    let heard = |by: &Node, of: &str, n: u16| {
        let site = by.sites.find(of).unwrap();
        by.ways.seen(Network::of(resolver(n)), u64::MAX, now_s()).and_then(|seen| seen.from(site))
    };
    let is_told = |by: &Node, of: &str, n: u16| heard(by, of, n).is_some_and(|heard| Way { age_s: 0, ..heard } == way);
    // More than one message holds.
    (0..5000).for_each(|n| south.ways.measured(resolver(n), &way, now_s()));
    north.ways.measured(resolver(7), &Way { round_trip_us: None, ..way }, now_s());
    until("all of south's", || (0..5000).all(|n| is_told(&north, "south", n)));
    until("north's", || heard(&south, "north", 7).is_some_and(|way| way.round_trip_us.is_none()));
    assert_eq!((south.ways.counts().told, north.ways.counts().taken), (5000, 5000));
    assert!(heard(&south, "south", 4999).is_some(), "its own stays its own");
    south.ways.measured(resolver(7), &way, now_s());
    until("one more", || north.ways.counts().taken == 5001);
    // Another node takes north's place and knows nothing.
    let to = south.links.listening()[0];
    drop(north);
    let north = node("north", keys.identity("north", &["south"]).unwrap(), &[("south", Some(to))], "127.0.0.1:0");
    until("all again", || (0..5000).all(|n| is_told(&north, "south", n)));
    assert_eq!(north.ways.counts().taken, 5000);
}

#[test]
fn three_sites_are_linked_each_with_each() {
    let keys = Keys::new(&["east", "north", "south"]);
    let south = node(
        "south",
        keys.identity("south", &["east", "north"]).unwrap(),
        &[("east", None), ("north", None)],
        "[::1]:0",
    );
    let to_south = Some(south.links.listening()[0]);
    let identity = keys.identity("north", &["east", "south"]).unwrap();
    let north = node("north", identity, &[("east", None), ("south", to_south)], "127.0.0.1:0");
    let to_north = Some(north.links.listening()[0]);
    let identity = keys.identity("east", &["north", "south"]).unwrap();
    let east = node("east", identity, &[("north", to_north), ("south", to_south)], "127.0.0.1:0");
    let nodes = [&south, &north, &east];
    until("all links", || nodes.iter().all(|node| node.stands()));
    let now = now_ms();
    south.put(1, "south", now);
    north.put(2, "north", now);
    east.put(3, "east", now);
    let all = |node: &&Node| [1, 2, 3].map(|n| node.site_of(n)) == ["south", "north", "east"];
    until("all records", || nodes.iter().all(all));
}

#[test]
fn a_stranger_gets_nothing() {
    let keys = Keys::new(&["south", "north", "stranger"]);
    let south = node("south", keys.identity("south", &["north"]).unwrap(), &[("north", None)], "127.0.0.1:0");
    let to = south.links.listening()[0];
    // It says that it is north, and does not have north's key.
    keys.make("false-north", "north");
    for name in ["stranger", "false-north"] {
        let identity = keys.identity(name, &["south"]).unwrap();
        let stranger = node("north", identity, &[("south", Some(to))], "127.0.0.1:0");
        until("a refusal", || stranger.why().contains("refuses this site's certificate"));
        assert!(!stranger.stands() && !south.stands());
    }
    assert!(south.links.counts().refused >= 2);
    // South is not south: north does not speak to it.
    let wrong = keys.identity("north", &["stranger"]).unwrap();
    let north = node("north", wrong, &[("south", Some(to))], "127.0.0.1:0");
    until("a refusal", || north.why().contains("not the one that the configuration names"));
    assert_eq!(south.links.counts().begun, 0);
    // Without TLS, and with TLS and no certificate.
    use std::io::{Read, Write};
    let refused = south.links.counts().refused;
    let mut plain = std::net::TcpStream::connect(to).unwrap();
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.windows(5).any(|bytes| bytes == b"south"));
    until("a count", || south.links.counts().refused > refused);
    // And the right one is let in after all.
    let north = node("north", keys.identity("north", &["south"]).unwrap(), &[("south", Some(to))], "127.0.0.1:0");
    until("the link", || south.stands() && north.stands());
}

#[test]
fn a_certificate_that_has_ended_gets_nothing() {
    let keys = Keys::new(&["south", "north"]);
    let (certificate, key) = ends("north", SystemTime::now() - DAY);
    keys.write("north", &certificate, &key);
    let (south, north) = pair(&keys);
    until("a refusal", || north.why().contains("has expired"));
    until("a count", || south.links.counts().refused > 0);
    assert!(!south.stands() && !north.stands());
}

#[test]
fn a_link_ends_with_a_certificate() {
    let keys = Keys::new(&["south", "north"]);
    // Time enough to be linked, on a machine that is not too slow.
    let (certificate, key) = ends("north", SystemTime::now() + Duration::from_secs(5));
    keys.write("north", &certificate, &key);
    let (south, north) = pair(&keys);
    until("the end", || north.why().contains("has expired"));
    until("the end", || !south.stands() && !north.stands() && south.links.counts().refused > 0);
}

/// A certificate that holds until then.
fn ends(site: &str, end: SystemTime) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![site.to_string()]).unwrap();
    params.not_before = (end - 3 * DAY).into();
    params.not_after = end.into();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_site_that_begins_anew_is_linked_anew() {
    let keys = Keys::new(&["south", "north"]);
    // Below the ports that are given to who asks for any: nobody else takes it while it is free.
    let listen = "127.99.7.2:10054";
    let (south, north) = pair_at(&keys, listen);
    let listening = south.links.listening()[0];
    until("the link", || south.stands() && north.stands());
    drop(south);
    until("the end", || !north.stands());
    let south = node("south", keys.identity("south", &["north"]).unwrap(), &[("north", None)], listen);
    until("the link", || south.stands() && north.stands());
    let again =
        node("north", keys.identity("north", &["south"]).unwrap(), &[("south", Some(listening))], "127.0.0.1:0");
    until("the second", || again.stands() && south.links.counts().begun >= 2);
}

#[test]
fn files_that_will_not_do_are_refused_in_words() {
    let keys = Keys::new(&["south", "north"]);
    let refused = |own: &str, peers: &[&str]| keys.identity(own, peers).err().unwrap();
    assert!(refused("nobody", &[]).contains("nobody.key: No such file"));
    assert!(refused("south", &["nobody"]).contains("nobody.crt"));
    assert!(refused("south", &["south"]).contains("the same certificate"));
    keys.write("mixed", &keys::certificate("x", DAY).unwrap().0, &keys::certificate("x", DAY).unwrap().1);
    assert!(refused("mixed", &[]).contains("no pair"), "{}", refused("mixed", &[]));
    use std::os::unix::fs::PermissionsExt;
    let (certificate, key) = keys::paths(keys.0.path(), "south");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(refused("south", &["north"]).contains("open to everybody"));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&certificate, "rubbish").unwrap();
    assert!(refused("south", &["north"]).contains("no certificate in PEM"));
}

#[test]
fn what_was_changed_just_before_the_link_stood_is_found_too() {
    let keys = Keys::new(&["south", "north"]);
    let south = node("south", keys.identity("south", &["north"]).unwrap(), &[("north", None)], "127.0.0.1:0");
    // Told a link that lost it, a moment ago: the first comparison takes it for being on its way.
    south.put(1, "south", now_ms());
    south.store.changes(crate::affinity::Consumer::Links, 0, 10, &mut Vec::new());
    let to = south.links.listening()[0];
    let north = node("north", keys.identity("north", &["south"]).unwrap(), &[("south", Some(to))], "127.0.0.1:0");
    let start = Instant::now();
    until("the record", || north.site_of(1) == "south" || start.elapsed() > Duration::from_secs(40));
    assert_eq!(north.site_of(1), "south", "it takes until the next comparison, a minute later");
}
