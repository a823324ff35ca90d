//! Lines and DNS: their meaning, and every message.

use super::*;
use crate::config::file::parse;
use crate::config::file::tests::one_error_in;
use crate::config::{CheckKind, Config, diff::diff};

/// A file of DNS alone that has every section.
const GOOD: &str = r#"[site]
name = "south"

[[line]]
name = "isp1"
address = "203.0.113.1"
targets = ["203.0.113.254", "9.9.9.9"]

[[line]]
name = "isp2"
address = "198.51.100.1"
targets = ["198.51.100.254"]
need = "all"
check = { kind = "tcp", port = 80 }

[dns]
listen = ["203.0.113.1:53", "[2001:db8::1]:53"]

[[dns.zone]]
origin = "Company.Example"
file = "company.zone"
secondaries = ["192.0.2.53"]
tsig_key = "transfer"

[[dns.key]]
name = "transfer"
secret = "AAECAwQFBgcICQoLDA0ODw=="

[[dns.pool]]
name = "mail"
names = ["mail.company.example."]

[[dns.pool.member]]
name = "a"
addresses = ["203.0.113.10"]
line = "isp1"
check = { kind = "smtp" }

[[dns.pool.member]]
name = "b"
addresses = ["198.51.100.10", "2001:db8::10"]
line = "isp2"
"#;

fn good(text: &str) -> Config {
    parse(text, "/etc/farside/farside.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[test]
fn only_for_sites_states_no_zone_is_needed() {
    const BARE: &str = "[site]\nname = \"south\"\n[dns]\nlisten = [\"127.0.0.1:5353\"]\n";
    let error = parse(BARE, "/etc/farside/farside.toml").unwrap_err().to_string();
    assert!(error.contains("[dns] has no zone"), "{error}");
    let config = good(&format!("{BARE}[dns.redis]\naddress = \"10.0.0.5:6379\"\n"));
    assert!(config.dns.is_some_and(|dns| dns.zones.is_empty() && dns.redis.is_some()));
}

#[test]
fn a_file_means_what_it_says() {
    let config = good(GOOD);
    assert!(config.is_dns_alone());
    let seconds = Duration::from_secs;
    let line = &config.lines[0];
    assert_eq!((line.need, line.targets.len(), line.check.kind.clone()), (Need::Any, 2, CheckKind::Icmp));
    assert_eq!((line.check.interval, line.check.timeout), (seconds(1), Duration::from_millis(800)));
    assert_eq!((line.check.rise, line.check.fall, line.check.passive), (2, 3, false));
    assert_eq!((config.lines[1].need, config.lines[1].check.port), (Need::All, Some(80)));
    let dns = config.dns.unwrap();
    assert_eq!(dns.listen, ["203.0.113.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
    assert_eq!(dns.state_dir.to_str(), Some("/var/lib/farside"));
    assert!(dns.fast_path.is_empty());
    assert_eq!((dns.nsid.as_str(), dns.version.as_str(), dns.rate_limit, dns.slip), ("", "", 0, 2));
    assert_eq!(dns.tcp, Tcp { max_connections: 10_000, max_per_client: 100, idle: seconds(10) });
    let zone = &dns.zones[0];
    assert_eq!(zone.origin, "company.example.");
    assert_eq!(zone.file.to_str(), Some("/etc/farside/company.zone"));
    assert_eq!((zone.tsig_key.as_deref(), zone.dnssec), (Some("transfer."), false));
    assert_eq!(dns.keys_dir().to_str(), Some("/var/lib/farside/keys"));
    assert_eq!((dns.keys[0].name.as_str(), dns.keys[0].algorithm), ("transfer.", Algorithm::Sha256));
    assert_eq!(dns.keys[0].secret, (0..16).collect::<Vec<u8>>());
    let pool = &dns.pools[0];
    assert_eq!((pool.ttl, pool.ttl_cut, pool.max_answers, pool.min_up), (seconds(30), false, 0, 1));
    assert_eq!(pool.when_down, WhenDown::All);
    assert_eq!(pool.members[0].check.as_ref().unwrap().port, Some(25));
    assert_eq!((pool.members[0].site.as_str(), pool.members[0].weight), ("south", 1));
    assert!(pool.members[1].check.is_none());
}

#[track_caller]
fn one_error(old: &str, new: &str, place: &str, message: &str, help: &str) {
    one_error_in(GOOD, old, new, place, message, help);
}

#[test]
fn a_zone_is_signed_or_has_secondaries() {
    let signed = GOOD.replace("secondaries = [\"192.0.2.53\"]", "dnssec = true").replace("tsig_key = \"transfer\"", "");
    assert!(good(&signed).dns.unwrap().zones[0].dnssec);
    one_error(
        "tsig_key = \"transfer\"",
        "dnssec = true",
        "22:16",
        "a zone that is signed is not transferred in this version",
        "farside signs each answer as it gives it, and a copy of the zone has no signatures: leave one of them out",
    );
    one_error(
        "secondaries = [\"192.0.2.53\"]",
        "dnssec = true",
        "23:12",
        "a zone that is signed is not transferred in this version",
        "farside signs each answer as it gives it, and a copy of the zone has no signatures: leave one of them out",
    );
    one_error(
        "tsig_key = \"transfer\"",
        "dnssec = \"yes\"",
        "23:10",
        "`dnssec` must be true or false, not \"yes\"",
        "write true or false, without quotes",
    );
}

#[test]
fn values_that_will_not_do() {
    const LISTEN: &str = "write an address of this host and a port such as \"203.0.113.1:53\" or \"[2001:db8::1]:53\"";
    let listen = |new: &str, message: &str, help: &str| one_error("\"203.0.113.1:53\"", new, "17:11", message, help);
    listen("\"203.0.113.1\"", "a value of `listen` lacks a port: \"203.0.113.1\"", LISTEN);
    listen("\"a:53\"", "a value of `listen` must be an address and a port, not \"a:53\"", LISTEN);
    listen(
        "\"0.0.0.0:53\"",
        "a value of `listen` cannot be 0.0.0.0:53: answers have to come from the address that was asked",
        "list this host's addresses, one on each line",
    );
    one_error(
        "\"AAECAwQFBgcICQoLDA0ODw==\"",
        "\"no base 64\"",
        "27:10",
        "`secret` is not in base 64",
        "write the key in base 64, as `tsig-keygen` or `openssl rand -base64 32` prints it",
    );
    one_error(
        "\"Company.Example\"",
        "\"company..example\"",
        "20:10",
        "`origin` must be a domain name, not \"company..example\"",
        "labels have 1 to 63 letters, digits, hyphens or underscores each, the name at most 253; write other characters \
         in their ASCII form (xn--...)",
    );
    one_error(
        "name = \"mail\"\n",
        "name = \"mail\"\nttl = \"1500ms\"\n",
        "31:7",
        "`ttl` must be whole seconds, not 1s500ms",
        "write it in seconds, as in \"30s\"",
    );
    one_error(
        "check = { kind = \"tcp\", port = 80 }",
        "check = { kind = \"tcp\" }",
        "14:1",
        "the check of [[line]] \"isp2\" has no `port`",
        "add the port that is to be connected to, as in: check = { kind = \"tcp\", port = 25 }",
    );
    one_error(
        "port = 80 }",
        "port = 80, passive = true }",
        "14:36",
        "unknown key `passive` in the [line.check] of [[line]] \"isp2\"",
        "it is a key of [service.check]",
    );
}

#[test]
fn modes_are_listed_in_the_order_in_which_they_decide() {
    let with = |list: &str| GOOD.replacen("\"mail\"\n", &format!("\"mail\"\nmodes = {list}\n"), 1);
    let modes = |list: &str| good(&format!("{}{STEERED}", with(list))).dns.unwrap().pools[0].modes.clone();
    assert_eq!(modes("[]"), [Mode::RoundRobin]);
    assert_eq!(modes("[\"topology\"]"), [Mode::Topology, Mode::RoundRobin]);
    let listed = "[\"topology\", \"stripe\", \"metrics\"]";
    assert_eq!(modes(listed), [Mode::Topology, Mode::Stripe, Mode::Metrics]);
    let wrong = |list: &str, place: &str, message: &str, help: &str| {
        one_error("name = \"mail\"\n", &format!("name = \"mail\"\nmodes = {list}\n"), place, message, help);
    };
    wrong(
        "[\"round_robin\", \"stripe\"]",
        "31:25",
        "mode \"stripe\" decides before \"round_robin\", wherever it is listed",
        "list them in their order: modes = [\"stripe\", \"round_robin\"]",
    );
    wrong("[\"stripe\", \"stripe\"]", "31:20", "mode \"stripe\" is listed twice", "list each mode once");
    wrong(
        "[\"round_robin\", \"metrics\"]",
        "31:25",
        "\"round_robin\" and \"metrics\" both come last",
        "choose one of them: what comes last decides always",
    );
    wrong(
        "[\"strip\"]",
        "31:10",
        "a value of `modes` cannot be \"strip\"",
        "did you mean \"stripe\"? The words are \"dynamic\", \"topology\", \"stripe\", \"round_robin\", \"metrics\"",
    );
    wrong(
        "[\"topology\"]",
        "31:10",
        "mode \"topology\" has nothing to go by",
        "add: [[dns.topology]] with prefixes = [\"10.1.0.0/16\"] and site = \"south\"",
    );
}

const STEERED: &str = r#"
[[dns.topology]]
prefixes = ["10.1.0.0/16", "2001:db8::1"]
file = "nets.txt"
site = "south"

[[dns.group]]
name = "isp"
resolvers = ["192.0.2.1", "198.51.100.0/28"]
"#;

#[test]
fn topology_and_groups_mean_what_they_say() {
    let dns = good(&format!("{GOOD}{STEERED}")).dns.unwrap();
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let topology = Topology {
        prefixes: vec![prefix("10.1.0.0/16"), prefix("2001:db8::1")],
        file: Some("/etc/farside/nets.txt".into()),
        countries: Vec::new(),
        continents: Vec::new(),
        site: "south".into(),
    };
    assert_eq!(dns.topologies, [topology]);
    let resolvers = vec![prefix("192.0.2.1/32"), prefix("198.51.100.0/28")];
    assert_eq!(dns.groups, [Group { name: "isp".into(), resolvers }]);
    assert_eq!((dns.group_mask_v4, dns.group_mask_v6), (32, 128));
    assert_eq!((dns.measure_resolvers, dns.measure_every), (0, Duration::from_secs(600)));
}

#[test]
fn networks_that_will_not_do() {
    let wrong = |old: &str, new: &str, place: &str, message: &str, help: &str| {
        let line = |n: &str| n.parse::<usize>().unwrap() + GOOD.lines().count();
        let (at, column) = place.split_once(':').unwrap();
        let place = format!("{}:{column}", line(at));
        one_error_in(&format!("{GOOD}{STEERED}"), old, new, &place, message, help);
    };
    const HELP: &str = "write an address or a prefix such as \"10.1.0.0/16\" or \"2001:db8:1::/48\"";
    wrong(
        "10.1.0.0/16",
        "10.1.0.1/16",
        "3:13",
        "a value of `prefixes` has bits set behind its prefix: the network is 10.1.0.0/16: \"10.1.0.1/16\"",
        HELP,
    );
    wrong("\"192.0.2.1\"", "\"ns1\"", "9:14", "a value of `resolvers` is no address or prefix: \"ns1\"", HELP);
    wrong(
        "\"2001:db8::1\"",
        "\"10.1.0.0/16\"",
        "3:28",
        "10.1.0.0/16 is in the topology twice",
        "a network belongs to one site",
    );
    wrong(
        "\"198.51.100.0/28\"",
        "\"192.0.2.1/32\"",
        "9:27",
        "192.0.2.1 is in two groups, or in one twice",
        "a resolver is of one group",
    );
    wrong(
        "site = \"south\"\n\n[[dns.group]]",
        "site = \"noth\"\n\n[[dns.group]]",
        "5:8",
        "there is no site \"noth\"",
        "add a [[peer]] with name = \"noth\"",
    );
    wrong(
        "file = \"nets.txt\"",
        "countries = [\"DE\"]",
        "4:14",
        "there is no database to look countries and continents up in",
        "add to [dns]: geo_database = \"GeoLite2-Country.mmdb\"",
    );
    wrong(
        "file = \"nets.txt\"",
        "countries = [\"germany\"]",
        "4:14",
        "a value of `countries` is no country: \"germany\"",
        "write the two capital letters of ISO 3166-1, as in \"DE\"",
    );
    wrong(
        "file = \"nets.txt\"",
        "continents = [\"UE\"]",
        "4:15",
        "a value of `continents` is no continent: \"UE\"",
        "write one of AF, AN, AS, EU, NA, OC, SA",
    );
    wrong(
        "prefixes = [\"10.1.0.0/16\", \"2001:db8::1\"]\nfile = \"nets.txt\"\n",
        "",
        "2:1",
        "[[dns.topology]] has neither `prefixes` nor a `file`, `countries` or `continents`",
        "add: prefixes = [\"10.1.0.0/16\"], whose resolvers belong to the site",
    );
}

#[test]
fn what_does_not_fit_together() {
    one_error("line = \"isp2\"", "line = \"isp3\"", "42:8", "there is no line \"isp3\"", "did you mean \"isp1\"?");
    one_error(
        "line = \"isp2\"",
        "service = \"web\"",
        "42:11",
        "there is no service \"web\"",
        "add a [[service]] with name = \"web\"",
    );
    one_error(
        "line = \"isp2\"",
        "site = \"north\"",
        "42:8",
        "there is no site \"north\"",
        "add a [[peer]] with name = \"north\"",
    );
    one_error(
        "tsig_key = \"transfer\"",
        "tsig_key = \"transfr\"",
        "23:12",
        "there is no key \"transfr.\"",
        "did you mean \"transfer.\"?",
    );
    one_error(
        "name = \"mail\"\n",
        "name = \"mail\"\nwhen_down = \"elsewhere\"\n",
        "31:13",
        "there is no member \"elsewhere\"",
        "add a [[dns.pool.member]] with name = \"elsewhere\"",
    );
    one_error(
        "name = \"mail\"\n",
        "name = \"mail\"\nmin_up = 3\n",
        "31:10",
        "[[dns.pool]] \"mail\" can never have 3 members up: it has 2",
        "lower `min_up`, or add members",
    );
    one_error(
        "\"mail.company.example.\"",
        "\"mail.company.test.\"",
        "31:10",
        "mail.company.test. lies in none of the zones",
        "write the whole name, or add its [[dns.zone]]",
    );
    one_error(
        "\"198.51.100.254\"",
        "\"2001:db8::1\"",
        "12:12",
        "target 2001:db8::1 is IPv6, and the line's address 198.51.100.1 is IPv4",
        "a [[line]] is of one family: add another",
    );
    one_error(
        "line = \"isp2\"",
        "line = \"isp2\"\ncheck = { kind = \"icmp\" }",
        "41:31",
        "2001:db8::10 is IPv6 and would be checked from its line's address 198.51.100.1, which is IPv4",
        "make two members, each with a [[line]] of its family, or leave out `check` or `line`",
    );
    one_error(
        "\"[2001:db8::1]:53\"",
        "\"203.0.113.1:53\"",
        "17:29",
        "203.0.113.1:53 is listed twice",
        "list each address once",
    );
    one_error(
        "name = \"b\"",
        "name = \"a\"",
        "40:8",
        "two members of [[dns.pool]] \"mail\" are named \"a\"",
        "give each member of a pool a name of its own",
    );
}

#[test]
fn a_vip_cannot_be_listened_on() {
    let service = "[datapath]\ninterfaces = [\"wan0\"]\n[[service]]\nname = \"web\"\nvip = \"203.0.113.1\"\nport = 80\n\
                   [[service.real]]\naddress = \"10.0.0.1\"\n";
    let errors = parse(&format!("{GOOD}{service}"), "f").unwrap_err().to_string();
    assert!(
        errors.contains("DNS cannot listen on 203.0.113.1: it is a VIP, which this host's own stack does not have"),
        "{errors}"
    );
}

#[test]
fn services_need_a_data_path_with_or_without_dns() {
    let service =
        "[[service]]\nname = \"web\"\nvip = \"203.0.113.9\"\nport = 80\n[[service.real]]\naddress = \"10.0.0.1\"\n";
    let errors = parse(&format!("{GOOD}{service}"), "f").unwrap_err().to_string();
    assert!(errors.contains("there is no [datapath]"), "{errors}");
    let errors = parse("[site]\nname = \"south\"\n", "f").unwrap_err().to_string();
    assert!(errors.contains("there is no [datapath]"), "{errors}");
}

#[test]
fn a_reload_is_told_in_words() {
    let says = |edits: &[(&str, &str)], sentences: &[&str]| {
        let mut new = GOOD.to_string();
        for (old, with) in edits {
            assert!(new.contains(old), "{old}");
            new = new.replacen(old, with, 1);
        }
        assert_eq!(diff(&good(GOOD), &good(&new)).unwrap(), sentences);
    };
    says(&[], &[]);
    says(
        &[("need = \"all\"", ""), ("\"203.0.113.254\", ", ""), ("port = 80", "port = 81")],
        &["line isp1: removed target 203.0.113.254", "line isp2: need all -> any", "line isp2: check: port 80 -> 81"],
    );
    says(
        &[("AAEC", "AAED"), ("[\"192.0.2.53\"]", "[\"192.0.2.54\"]"), ("company.zone", "b.zone")],
        &[
            "dns: key transfer.: secret changed",
            "zone company.example.: file /etc/farside/company.zone -> /etc/farside/b.zone",
            "zone company.example.: removed secondary 192.0.2.53",
            "zone company.example.: added secondary 192.0.2.54",
        ],
    );
    says(
        &[
            ("name = \"mail\"\n", "name = \"mail\"\nttl = \"5s\"\nttl_cut = true\nwhen_down = \"b\"\n"),
            ("line = \"isp2\"", "weight = 2"),
        ],
        &[
            "pool mail: ttl 30s -> 5s",
            "pool mail: ttl_cut false -> true",
            "pool mail: when_down all -> b",
            "pool mail: member b: line isp2 -> none",
            "pool mail: member b: weight 1 -> 2",
        ],
    );
    let moved = GOOD.replacen("\"203.0.113.1:53\"", "\"203.0.113.2:53\"", 1);
    let refused = diff(&good(GOOD), &good(&moved)).unwrap_err();
    assert_eq!(refused, ["[dns] listen cannot change while farside runs: restart it"]);
}

#[test]
fn secrets_stay_out_of_logs() {
    assert!(!format!("{:?}", good(GOOD).dns.unwrap().keys).contains("12, 13"));
}
