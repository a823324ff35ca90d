//! The file's meaning, every message word for word, and hostile text.

#[path = "tests/per_packet.rs"]
mod per_packet;

use super::*;
use crate::config::{
    Backend, Check, CheckKind, Encapsulation, Idle, Login, Mode, OnDown, Protocol, Scheduler, Timeouts, Workers, walk,
};
use proptest::prelude::*;
use std::time::Duration;

#[path = "tests/terms.rs"]
mod terms;

const EXAMPLE: &str = include_str!("../../config.example");

/// A file without errors that has every section.
const GOOD: &str = r#"[site]
name = "south"

[datapath]
interfaces = ["wan0", "lan0"]

[proxy]
addresses = ["203.0.113.250", "2001:db8:1::250"]

[[peer]]
name = "north"
proxy_addresses = ["198.51.100.250"]

[[service]]
name = "pop3"
vip = "203.0.113.10"
port = 110

[service.check]
kind = "pop3"

[[service.real]]
name = "pop-a"
address = "10.0.0.11"

[[service.real]]
name = "pop-b"
address = "10.0.0.12"

[[service.remote]]
site = "north"
vip = "198.51.100.10"

[[service]]
name = "web6"
vip = "2001:db8:1::10"
port = 80

[[service.real]]
address = "fd00::11"
port = 8080
"#;

fn good(text: &str) -> Config {
    parse(text, "farside.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[test]
fn a_file_means_what_it_says() {
    let config = good(GOOD);
    assert_eq!(config.site, "south");
    assert_eq!(config.datapath.interfaces, ["wan0", "lan0"]);
    assert_eq!(config.datapath.backend, Backend::Auto);
    assert_eq!(config.datapath.workers, Workers::Auto);
    assert_eq!(config.datapath.max_flows, 1_000_000);
    assert_eq!(config.datapath.max_persistent, 65536);
    assert_eq!(config.datapath.ring_slots, 512);
    assert_eq!(config.datapath.idle, Idle::Adaptive);
    assert_eq!((config.datapath.busy_poll_us, config.datapath.busy_poll_budget), (0, 64));
    assert_eq!(config.admin.socket.to_str(), Some("/run/farside/farside.sock"));
    assert_eq!(config.admin.metrics, None);
    let proxy = config.proxy.unwrap();
    assert_eq!(proxy.addresses.len(), 2);
    assert_eq!((proxy.ports, proxy.port_rest), (1024..=65535, Duration::from_secs(5)));
    assert_eq!(config.peers[0].name, "north");
    let pop3 = &config.services[0];
    assert_eq!((pop3.protocol, pop3.mode, pop3.encapsulation), (Protocol::Tcp, Mode::Nat, Encapsulation::Ipip));
    assert_eq!((pop3.scheduler, pop3.on_down), (Scheduler::WeightedRoundRobin, OnDown::Keep));
    let check = Check {
        kind: CheckKind::Pop3 { login: None },
        port: None,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 4,
        passive: true,
    };
    assert_eq!(pop3.check, check);
    assert_eq!((pop3.reals[1].name.as_str(), pop3.reals[1].port, pop3.reals[1].weight), ("pop-b", 110, 1));
    let remote = &pop3.remotes[0];
    assert_eq!((remote.site.as_str(), remote.port, remote.priority, remote.weight), ("north", 110, 1, 1));
    let web = &config.services[1];
    assert_eq!(web.check, Check { kind: CheckKind::Tcp, ..check });
    assert_eq!(web.reals[0].name, "[fd00::11]:8080");
    let seconds = Duration::from_secs;
    let timeouts = Timeouts {
        tcp_syn: seconds(30),
        tcp_established: seconds(7440),
        tcp_closing: seconds(120),
        tcp_reset: seconds(10),
        udp: seconds(120),
    };
    assert_eq!(config.timeouts, timeouts);
}

#[test]
fn every_form_of_a_value_is_read() {
    let with = |old: &str, new: &str| good(&GOOD.replacen(old, new, 1));
    let kind = |new: &str| with("kind = \"pop3\"", new).services[0].check.kind.clone();
    let workers = |new: &str| with("[proxy]", &format!("workers = {new}\n[proxy]")).datapath.workers;
    assert_eq!(workers("3"), Workers::Count(3));
    assert_eq!(workers("[2, 0]"), Workers::Cpus(vec![2, 0]));
    assert_eq!(workers("\"auto\""), Workers::Auto);
    let login = || Some(Login { user: "u".into(), password: "p q".into() });
    assert_eq!(kind("kind='pop3'\nuser='u'\npassword='p q'"), CheckKind::Pop3 { login: login() });
    assert_eq!(kind("kind='imap'\nuser='u'\npassword='p q'"), CheckKind::Imap { login: login() });
    assert_eq!(kind("kind='smtp'"), CheckKind::Smtp { helo: "farside".into() });
    assert_eq!(kind("kind='dns'\nname='company.example.'"), CheckKind::Dns { name: "company.example.".into() });
    assert_eq!(kind("kind='icmp'"), CheckKind::Icmp);
    assert_eq!(kind("kind='none'"), CheckKind::None);
    let http = |tls, status| CheckKind::Http { tls, path: "/".into(), host: None, status };
    assert_eq!(kind("kind='http'"), http(false, 200..=399));
    assert_eq!(kind("kind='https'\nstatus=204"), http(true, 204..=204));
    assert_eq!(kind("kind='http'\nstatus='200-299'"), http(false, 200..=299));
    assert_eq!(with("port = 110", "port = 110\nprotocol='udp'").services[0].protocol, Protocol::Udp);
    let udp = with("[service.check]\nkind = \"pop3\"", "protocol = 'udp'");
    assert_eq!(udp.services[0].check.kind, CheckKind::Icmp);
    let inline = with("[service.check]\nkind = \"pop3\"", "check = { kind = 'smtp', helo = 'x', port = 25 }");
    assert_eq!(inline.services[0].check.port, Some(25));
    assert_eq!(
        with("addresses = [\"203", "ports='5000-5999'\nport_rest='0s'\naddresses = [\"203").proxy.unwrap().ports,
        5000..=5999
    );
    let metrics = with("[proxy]", "[admin]\nmetrics='[::1]:9110'\nsocket='/tmp/x'\n[proxy]").admin;
    assert_eq!(metrics.metrics, Some("[::1]:9110".parse().unwrap()));
    let remote_only = with(
        "[[service.real]]\naddress = \"fd00::11\"\nport = 8080",
        "[[service.remote]]\nsite='north'\nvip='2001:db8:2::10'",
    );
    assert!(remote_only.services[1].reals.is_empty());
}

#[test]
fn a_site_without_a_name_has_the_machines() {
    assert!(!good(&GOOD.replacen("name = \"south\"\n", "", 1)).site.is_empty());
}

/// Replaces the first `old` of `whole`; the file then has this one error, at line:column, with this help.
#[track_caller]
pub(in crate::config) fn one_error_in(whole: &str, old: &str, new: &str, place: &str, message: &str, help: &str) {
    assert!(whole.contains(old), "{old}");
    let text = whole.replacen(old, new, 1);
    let errors = parse(&text, "f").expect_err(message);
    let rendered = errors.to_string();
    assert_eq!(errors.count(), 1, "{rendered}");
    assert!(rendered.starts_with(&format!("error: {message}\n")), "{rendered}\nnot: {message}");
    assert!(rendered.contains(&format!("--> f:{place}\n")), "{rendered}\nnot at: {place}");
    assert!(rendered.ends_with(&format!("= help: {help}")), "{rendered}\nnot: {help}");
}

#[track_caller]
fn one_error(old: &str, new: &str, place: &str, message: &str, help: &str) {
    one_error_in(GOOD, old, new, place, message, help);
}

#[test]
fn values_that_will_not_do() {
    const PORT: &str = "write a whole number from 1 to 65535, without quotes";
    const ADDRESS: &str = "write an IPv4 or IPv6 address such as \"192.0.2.10\" or \"2001:db8::10\"";
    const ONE: &str = "write the address of one machine";
    let vip = |new: &str, message: &str, help: &str| {
        one_error("vip = \"203.0.113.10\"", &format!("vip = {new}"), "16:7", message, help)
    };
    vip("\"203.0.113\"", "`vip` must be an IP address, not \"203.0.113\"", ADDRESS);
    vip("7", "`vip` must be an IP address, not 7", ADDRESS);
    vip(
        "\"203.0.113.10:110\"",
        "`vip` must be an IP address, not \"203.0.113.10:110\"",
        "the port goes in a key of its own",
    );
    vip(
        "\"203.0.113.10/24\"",
        "`vip` must be an IP address, not \"203.0.113.10/24\"",
        "write the address alone, without a prefix length",
    );
    vip("\"0.0.0.0\"", "`vip` cannot be 0.0.0.0: that is no address", ONE);
    vip("\"127.0.0.1\"", "`vip` cannot be 127.0.0.1: that is a loopback address, which never leaves this machine", ONE);
    vip("\"224.0.0.1\"", "`vip` cannot be 224.0.0.1: that is a multicast address", ONE);
    vip("\"ff02::1\"", "`vip` cannot be ff02::1: that is a multicast address", ONE);
    vip("\"255.255.255.255\"", "`vip` cannot be 255.255.255.255: that is the broadcast address", ONE);
    vip("\"fe80::1\"", "`vip` cannot be fe80::1: that is link-local, and means something else on every interface", ONE);
    vip("\"::ffff:1.2.3.4\"", "`vip` cannot be ::ffff:1.2.3.4: that is IPv4 in disguise: write the IPv4 address", ONE);
    let port =
        |new: &str, message: &str, help: &str| one_error("port = 110", &format!("port = {new}"), "17:8", message, help);
    port("0", "`port` must be a port number from 1 to 65535, not 0", PORT);
    port("65536", "`port` must be a port number from 1 to 65535, not 65536", PORT);
    port("-1", "`port` must be a port number from 1 to 65535, not -1", PORT);
    port("99999999999999999999", "`port` must be a port number from 1 to 65535, not 99999999999999999999", PORT);
    port("1.5", "`port` must be a port number from 1 to 65535, not 1.5", PORT);
    port("\"110\"", "`port` must be a port number from 1 to 65535, not \"110\"", "write the number without quotes");
    let check = |new: &str, place: &str, message: &str, help: &str| {
        one_error("kind = \"pop3\"", &format!("kind = \"pop3\"\n{new}"), place, message, help)
    };
    const DURATION: &str = "write a number with its unit: \"500ms\", \"2s\", \"5m\", \"2h4m\", \"1d\"";
    check(
        "interval = 2",
        "21:12",
        "`interval` must be a duration, not 2",
        "a duration has a unit: \"2s\" for seconds, \"2ms\" for milliseconds",
    );
    check("interval = \"2 s\"", "21:12", "`interval` must be a duration, not \"2 s\"", DURATION);
    check(
        "timeout = \"0s\"",
        "21:11",
        "`timeout` must be from 10ms to 1h, not \"0s\"",
        "write a duration from \"10ms\" to \"1h\"",
    );
    check(
        "rise = 0",
        "21:8",
        "`rise` must be a count from 1 to 1000, not 0",
        "write a whole number from 1 to 1000, without quotes",
    );
    check("path = \"/x\"", "21:1", "a check of kind \"pop3\" has no `path`", "`path` goes with \"http\", \"https\"");
    check("user = \"a\"", "21:1", "there is a `user` and no `password`", "add: password = \"...\"");
    check(
        "user = \"a\\r\\nDELE 1\"\npassword = \"x\"",
        "21:8",
        "`user` must be a user's name, not \"a\\r\\nDELE 1\"",
        "write 1 to 512 bytes, without line breaks and other control characters",
    );
    one_error(
        "kind = \"pop3\"",
        "kind = \"pop\"",
        "20:8",
        "`kind` cannot be \"pop\"",
        "did you mean \"pop3\"? The words are \"tcp\", \"http\", \"https\", \"pop3\", \"imap\", \"smtp\", \"dns\", \"icmp\", \"none\"",
    );
    one_error(
        "kind = \"pop3\"",
        "kind = \"dns\"",
        "19:1",
        "the [service.check] of [[service]] \"pop3\" has no `name`",
        "add: name = \"company.example\", a name that the server knows",
    );
    one_error(
        "port = 110",
        "port = 110\nprotocol = \"sctp\"",
        "18:12",
        "`protocol` cannot be \"sctp\"",
        "write one of \"tcp\", \"udp\"",
    );
    one_error(
        "addresses = [\"203",
        "ports = \"2000-1000\"\naddresses = [\"203",
        "8:9",
        "`ports` begins above its end: \"2000-1000\"",
        "write \"1000-2000\"",
    );
    one_error(
        "[proxy]",
        "[admin]\nmetrics = \":9110\"\n[proxy]",
        "8:11",
        "`metrics` must be an address and a port, not \":9110\"",
        "write an address and a port such as \"127.0.0.1:9110\" or \"[::1]:9110\"; \"\" for none",
    );
    one_error(
        "[proxy]",
        "workers = [1, 1]\n[proxy]",
        "7:11",
        "`workers` lists CPU 1 twice",
        "one worker runs on a CPU: list each once",
    );
    one_error(
        "\"lan0\"",
        "\"a-far-too-long-name\"",
        "5:23",
        "a value of `interfaces` cannot be \"a-far-too-long-name\": no interface has a name of more than 15 bytes",
        "`ip link` lists this machine's interfaces; a name has 1 to 15 bytes",
    );
    one_error(
        "[\"wan0\", \"lan0\"]",
        "[]",
        "5:14",
        "`interfaces` is empty",
        "write: interfaces = [\"wan0\", \"lan0\"]",
    );
    one_error(
        "name = \"pop-a\"",
        "name = \"pop/a\"",
        "23:8",
        "`name` cannot contain '/'",
        "a name has 1 to 64 characters, without spaces, slashes, quotes and backslashes",
    );
}

#[test]
fn direct_and_tunnel_mode_are_for_real_servers_at_the_services_own_port() {
    let web = |text: &str| GOOD.replacen("port = 80\n", text, 1);
    let direct = web("port = 8080\nmode = \"direct\"\n");
    assert_eq!(good(&direct).services[1].mode, Mode::Direct);
    for (word, encapsulation) in [
        ("ipip", Encapsulation::Ipip),
        ("gre", Encapsulation::Gre),
        ("gue", Encapsulation::Gue),
        ("gue1", Encapsulation::Gue1),
    ] {
        // The real server of an IPv6 service at an IPv4 address.
        let text = web(&format!("port = 8080\nmode = \"tunnel\"\nencapsulation = \"{word}\"\n"));
        let service = &good(&text.replacen("fd00::11", "10.0.0.9", 1)).services[1];
        assert_eq!((service.mode, service.encapsulation), (Mode::Tunnel, encapsulation));
    }
    one_error(
        "port = 80\n",
        "port = 80\nmode = \"direct\"\n",
        "42:8",
        "in mode \"direct\" packets reach the real server as the client sent them, to port 80, not 8080",
        "leave `port` out here, or write mode = \"nat\"",
    );
    let other_family = direct.replacen("fd00::11", "10.0.0.9", 1);
    let errors = parse(&other_family, "farside.toml").unwrap_err().to_string();
    assert!(errors.contains("real server 10.0.0.9 is IPv4, and its VIP 2001:db8:1::10 is IPv6"), "{errors}");
}

#[test]
fn tunnel_sources_are_addresses_each_once() {
    let sources =
        |list: &str| GOOD.replacen("[proxy]", &format!("tunnel_sources = {list}\ngue_port = 6081\n[proxy]"), 1);
    let config = good(&sources("[\"10.0.0.1\", \"fd00::1\"]"));
    assert_eq!(config.datapath.tunnel_sources.len(), 2);
    assert_eq!(config.datapath.gue_port, 6081);
    assert!(good(&sources("[]")).datapath.tunnel_sources.is_empty());
    one_error(
        "[proxy]",
        "tunnel_sources = [\"10.0.0.1\", \"10.0.0.1\"]\n[proxy]",
        "7:31",
        "tunnel source 10.0.0.1 is listed twice",
        "list each address once",
    );
}

#[test]
fn what_is_not_known() {
    let service = |new: &str, place: &str, message: &str, help: &str| {
        one_error("port = 110", &format!("port = 110\n{new}"), place, message, help)
    };
    service("prot = 1", "18:1", "unknown key `prot` in [[service]] \"pop3\"", "did you mean `port`?");
    service(
        "colour = 1",
        "18:1",
        "unknown key `colour` in [[service]] \"pop3\"",
        "its keys are name, vip, port, protocol, mode, encapsulation, scheduler, on_down, persistence, persistence_mask_v4, persistence_mask_v6, max_connections, overflow, per_packet, check, real, remote",
    );
    service("port_rest = \"5s\"", "18:1", "unknown key `port_rest` in [[service]] \"pop3\"", "it is a key of [proxy]");
    one_error(
        "[proxy]",
        "[timeout]\nudp = \"1m\"\n[proxy]",
        "7:2",
        "unknown key `timeout` in the file",
        "did you mean `timeouts`?",
    );
    one_error(
        "[[peer]]",
        "[peer]",
        "10:2",
        "`peer` is a list of tables",
        "write [[peer]], with two brackets, for each",
    );
}

#[test]
fn what_is_missing() {
    one_error(
        "interfaces = [\"wan0\", \"lan0\"]\n",
        "",
        "4:1",
        "[datapath] has no `interfaces`",
        "add: interfaces = [\"wan0\", \"lan0\"]",
    );
    one_error(
        "[datapath]\ninterfaces = [\"wan0\", \"lan0\"]\n",
        "",
        "1:1",
        "there is no [datapath]",
        "add: [datapath] with interfaces = [\"wan0\", \"lan0\"], where the traffic comes and goes",
    );
    one_error(
        "vip = \"203.0.113.10\"\n",
        "",
        "14:1",
        "[[service]] \"pop3\" has no `vip`",
        "add: vip = \"203.0.113.10\"",
    );
    one_error(
        "address = \"10.0.0.11\"\n",
        "",
        "22:1",
        "a [[service.real]] of [[service]] \"pop3\" has no `address`",
        "add: address = \"10.0.0.11\"",
    );
    one_error(
        "[[service.real]]\naddress = \"fd00::11\"\nport = 8080\n",
        "",
        "34:1",
        "[[service]] \"web6\" has no server",
        "add a [[service.real]], a [[service.remote]], or both",
    );
}

#[test]
fn what_does_not_fit_together() {
    one_error(
        "address = \"10.0.0.11\"",
        "address = \"fd00::1\"",
        "24:11",
        "real server fd00::1 is IPv6, and its VIP 203.0.113.10 is IPv4",
        "write the server's address of the VIP's family",
    );
    one_error(
        "\"10.0.0.12\"",
        "\"10.0.0.11\"",
        "28:11",
        "two real servers of [[service]] \"pop3\" are at 10.0.0.11:110",
        "to give one more of the work, raise its weight",
    );
    const NAMES: &str = "`drain` and `show` tell a service's real servers and remote sites apart by their names";
    one_error("pop-b", "pop-a", "27:8", "two targets of [[service]] \"pop3\" are named \"pop-a\"", NAMES);
    one_error("pop-b", "north", "31:8", "two targets of [[service]] \"pop3\" are named \"north\"", NAMES);
    one_error("web6", "pop3", "35:8", "two services are named \"pop3\"", "give each service a name of its own");
    one_error(
        "name = \"web6\"\nvip = \"2001:db8:1::10\"\nport = 80\n\n[[service.real]]\naddress = \"fd00::11\"",
        "name = \"web\"\nvip = \"203.0.113.10\"\nport = 110\n\n[[service.real]]\naddress = \"10.0.0.1\"",
        "37:8",
        "two services are at 203.0.113.10:110, tcp",
        "join them, or change one's vip, port or protocol",
    );
    one_error(
        "\"10.0.0.11\"",
        "\"203.0.113.10\"",
        "24:11",
        "real server's address 203.0.113.10 is a VIP",
        "write the server's own address",
    );
    one_error(
        "\"10.0.0.11\"",
        "\"203.0.113.250\"",
        "24:11",
        "real server's address 203.0.113.250 is a [proxy] address",
        "write the server's own address",
    );
    one_error(
        "\"203.0.113.10\"",
        "\"203.0.113.250\"",
        "16:7",
        "VIP 203.0.113.250 is a [proxy] address too",
        "take another address for one of the two",
    );
    one_error(
        "\"203.0.113.10\"",
        "\"198.51.100.250\"",
        "16:7",
        "VIP 198.51.100.250 is a peer's proxy address",
        "take another address for one of the two",
    );
    one_error(
        "\"198.51.100.250\"",
        "\"203.0.113.250\"",
        "12:20",
        "203.0.113.250 is a peer's proxy address and this site's own",
        "list here what the other site lends",
    );
    one_error(
        "\"2001:db8:1::250\"",
        "\"203.0.113.250\"",
        "8:31",
        "proxy address 203.0.113.250 is listed twice",
        "list each address once",
    );
    one_error(
        "[[service]]",
        "[[peer]]\nname = \"north\"\n\n[[service]]",
        "15:8",
        "two peers are named \"north\"",
        "list all of a site's addresses in one [[peer]]",
    );
    one_error(
        "\"south\"",
        "\"north\"",
        "11:8",
        "peer \"north\" has this site's own name",
        "a [[peer]] is another site; this one's name is in [site]",
    );
    one_error("site = \"north\"", "site = \"nroth\"", "31:8", "there is no peer \"nroth\"", "did you mean \"north\"?");
    one_error(
        "site = \"north\"",
        "site = \"east\"",
        "31:8",
        "there is no peer \"east\"",
        "add a [[peer]] with name = \"east\"",
    );
    one_error(
        "\"198.51.100.10\"",
        "\"203.0.113.10\"",
        "32:7",
        "remote VIP 203.0.113.10 is this site's own",
        "write the VIP of the other site's service",
    );
    one_error(
        "\"198.51.100.10\"",
        "\"2001:db8:2::10\"",
        "32:7",
        "remote VIP 2001:db8:2::10 is IPv6, and the service's VIP 203.0.113.10 is IPv4",
        "write the other site's VIP of this family",
    );
    one_error(
        "\"203.0.113.250\", ",
        "",
        "32:7",
        "no IPv4 [proxy] address to carry connections to 198.51.100.10 from",
        "add an IPv4 address of this site to `addresses` in [proxy]",
    );
    one_error(
        "[proxy]\naddresses = [\"203.0.113.250\", \"2001:db8:1::250\"]\n",
        "",
        "30:7",
        "no IPv4 [proxy] address to carry connections to 198.51.100.10 from",
        "add: [proxy] with addresses = [\"203.0.113.250\"], an address of this site",
    );
}

#[test]
fn text_that_is_no_toml() {
    one_error(
        "\"203.0.113.10\"",
        "203.0.113.10",
        "16:12",
        "invalid float",
        "put text, an address too, in double quotes",
    );
    one_error("\"pop-a\"", "pop-a", "23:8", "string values must be quoted", "put text in double quotes");
    one_error(
        "\"pop-a\"",
        "\"pop-a",
        "23:14",
        "invalid basic string",
        "close the string with a double quote on its line",
    );
    one_error("vip =", "vip", "16:5", "key with no value", "write: key = value");
    one_error(
        "[datapath]",
        "[datapath",
        "4:10",
        "unclosed table",
        "close the header: [section], or [[section]] where there are several",
    );
}

#[test]
fn all_errors_come_at_once_each_with_its_place_line_caret_and_hint() {
    let text = r#"[datapath]
interfaces = ["wan0", "wan0"]
worker = 2

[[service]]
name = "pop3"
vip = 203.0.113.10
port = 110
scheduler = "round-robin"

[[service.remote]]
site = "north"
vip = "198.51.100.10"
"#;
    let expected = r#"error: interface wan0 is listed twice
 --> farside.toml:2:23
  |
2 | interfaces = ["wan0", "wan0"]
  |               ------  ^^^^^^
  |               |
  |               first here
  |
  = help: name each interface once

error: unknown key `worker` in [datapath]
 --> farside.toml:3:1
  |
3 | worker = 2
  | ^^^^^^
  |
  = help: did you mean `workers`?

error: invalid float
 --> farside.toml:7:12
  |
7 | vip = 203.0.113.10
  |            ^^^^^^^
  |
  = help: put text, an address too, in double quotes

error: `scheduler` cannot be "round-robin"
 --> farside.toml:9:13
  |
9 | scheduler = "round-robin"
  |             ^^^^^^^^^^^^^
  |
  = help: did you mean "round_robin"? The words are "round_robin", "weighted_round_robin", "least_connections", "weighted_least_connections", "source_hash", "maglev", "fastest""#;
    assert_eq!(parse(text, "farside.toml").unwrap_err().to_string(), expected);
}

#[test]
fn a_file_that_cannot_be_read_is_a_sentence() {
    let error = |path: &str| load(Path::new(path)).unwrap_err().to_string();
    assert_eq!(error("/no/such/file"), "error: cannot read /no/such/file: No such file or directory");
    assert_eq!(error("/"), "error: cannot read /: Is a directory");
    assert!(error("/dev/zero").ends_with("it is longer than 16 MiB"));
    let path = std::env::temp_dir().join(format!("farside-latin1-{}", std::process::id()));
    std::fs::write(&path, b"[site]\nname = \"s\xfcd\"\n").unwrap();
    let latin1 = error(path.to_str().unwrap());
    std::fs::remove_file(&path).unwrap();
    assert!(latin1.ends_with(": line 2 is not UTF-8 text"), "{latin1}");
}

/// Lines `key = value` of the example, with the section that they stand in.
fn example_keys(commented: bool) -> Vec<(usize, String, String)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for (number, line) in EXAMPLE.lines().enumerate() {
        if line.starts_with('[') {
            section = line.to_string();
        }
        let line = if commented { line.strip_prefix("# ").unwrap_or("") } else { line };
        let key = line.split_once(" = ").map(|(key, _)| key).filter(|key| !key.contains(' ') && !key.contains('#'));
        keys.extend(key.map(|key| (number, section.clone(), key.to_string())));
    }
    keys
}

#[test]
fn the_example_shows_every_key() {
    let shown: Vec<_> = [example_keys(false), example_keys(true)].concat();
    for (section, keys) in walk::SECTIONS {
        const TABLES: &[&str] =
            &["check", "real", "remote", "zone", "key", "pool", "member", "topology", "group", "redis"];
        for key in keys.iter().filter(|key| !TABLES.contains(key)) {
            assert!(shown.iter().any(|(_, s, k)| s == section && k == key), "{section} {key}");
        }
    }
}

/// Values that no default can stand for.
const NOT_DEFAULTS: &[(&str, &[&str])] = &[
    ("[site]", &["name"]),
    ("[datapath]", &["interfaces"]),
    ("[proxy]", &["addresses"]),
    ("[link]", &["listen", "certificate", "key"]),
    ("[[peer]]", &["name", "proxy_addresses", "link", "certificate"]),
    ("[[service]]", &["name", "vip", "port"]),
    ("[[service.real]]", &["name", "address"]),
    ("[[service.remote]]", &["site", "vip"]),
    ("[[line]]", &["name", "address", "targets"]),
    ("[dns]", &["listen"]),
    ("[[dns.zone]]", &["origin", "file", "secondaries", "tsig_key"]),
    ("[[dns.key]]", &["name", "secret"]),
    ("[dns.redis]", &["address", "password_file"]),
    ("[[dns.pool]]", &["name", "names", "persistence_hours"]),
    ("[[dns.pool.member]]", &["name", "addresses", "line", "service", "check"]),
    ("[[dns.topology]]", &["prefixes", "site"]),
    ("[[dns.group]]", &["name", "resolvers"]),
];

#[test]
fn the_example_shows_the_defaults() {
    let config = good(EXAMPLE);
    for (number, section, key) in example_keys(false) {
        if NOT_DEFAULTS.iter().any(|(of, keys)| *of == section && keys.contains(&key.as_str())) {
            continue;
        }
        let lines = EXAMPLE.lines().enumerate().filter(|(n, _)| *n != number).map(|(_, line)| line);
        assert_eq!(good(&lines.collect::<Vec<_>>().join("\n")), config, "{section} {key}");
    }
}

#[test]
fn the_examples_commented_keys_are_right() {
    for (number, section, key) in example_keys(true) {
        let commented = EXAMPLE.lines().nth(number).unwrap();
        let line = commented.trim_start_matches("# ");
        if section == "[dns]" || section == "[[dns.topology]]" {
            let database = EXAMPLE.replacen("# geo_database", "geo_database", 1);
            good(&database.replacen(commented, line, 1));
            continue;
        }
        let (kind, rest) = match key.as_str() {
            "path" | "host" | "status" => ("https", ""),
            "user" => ("imap", "password = 'x'\n"),
            "password" => ("imap", "user = 'x'\n"),
            "helo" => ("smtp", ""),
            "name" => ("dns", ""),
            _ => ("tcp", ""),
        };
        let with = EXAMPLE.replacen("kind = \"tcp\"", &format!("kind = \"{kind}\"\n{rest}{line}"), 1);
        let check = good(&with).services[0].check.clone();
        if ["path", "status", "helo"].contains(&key.as_str()) {
            let without = EXAMPLE.replacen("kind = \"tcp\"", &format!("kind = \"{kind}\""), 1);
            assert_eq!(good(&without).services[0].check, check, "{key}");
        }
    }
}

#[test]
fn deep_nesting_and_long_keys_do_no_harm() {
    const DEPTH: usize = 1 << 16;
    for text in [
        "[".repeat(DEPTH),
        format!("a={}", "[".repeat(DEPTH)),
        format!("a={}", "{a=".repeat(DEPTH)),
        format!("a{}=1", ".a".repeat(DEPTH)),
    ] {
        let errors = parse(&text, "f").unwrap_err();
        assert!(!errors.render(true).is_empty());
    }
}

const TRAPS: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "\"",
    "'",
    "\"\"\"",
    "=",
    ".",
    ",",
    "{",
    "}",
    "#",
    "\n",
    "\r\n",
    "\\",
    "0x",
    "1e9",
    "\u{feff}",
    "\u{1b}",
    "é",
    "日本",
    "\t",
    "-1",
    "99999999999",
];

/// Pieces that mean something to the file, and some that do not.
fn piece() -> impl Strategy<Value = String> {
    let words: Vec<&str> = GOOD.split_inclusive(char::is_whitespace).collect();
    prop_oneof![
        3 => proptest::sample::select(words).prop_map(str::to_string),
        1 => proptest::sample::select(TRAPS).prop_map(str::to_string),
        1 => any::<char>().prop_map(String::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        if let Err(errors) = parse(&text, "f") {
            prop_assert!(errors.count() > 0);
            prop_assert!(!errors.render(true).is_empty());
        }
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(
        damage in prop::collection::vec(
            (any::<prop::sample::Index>(), 0usize..40, prop::collection::vec(piece(), 0..4)),
            1..6,
        ),
    ) {
        let mut text = GOOD.to_string();
        for (place, cut, pieces) in damage {
            let start = text.floor_char_boundary(place.index(text.len() + 1));
            let end = text.floor_char_boundary((start + cut).min(text.len()));
            text.replace_range(start..end, &pieces.concat());
        }
        if let Err(errors) = parse(&text, "f") {
            prop_assert!(errors.count() > 0);
            let rendered = errors.to_string();
            prop_assert!(!rendered.contains('\u{1b}'), "terminal codes pass through: {:?}", rendered);
        }
    }
}
