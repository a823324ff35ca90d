//! What a reload changes, in words.

use super::value::in_words;
use super::{Check, CheckKind, Config, Encapsulation, Mode, Peer, Real, Remote, Service, Timeouts, Word, dns};
use std::collections::HashMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What becomes different when `new` follows `old`, one sentence per change; empty: nothing.
/// Errors are what cannot change while farside runs, one sentence each.
pub fn diff(old: &Config, new: &Config) -> Result<Vec<String>, Vec<String>> {
    let fixed = fixed(old, new);
    if !fixed.is_empty() {
        return Err(fixed);
    }
    let mut changes = Changes::default();
    changes.value("site", "name", &old.site, &new.site);
    tunnels(&mut changes, old, new);
    proxy(&mut changes, old, new);
    timeouts(&mut changes, &old.timeouts, &new.timeouts);
    let name = |peer: &Peer| peer.name.clone();
    changes.named(&old.peers, &new.peers, name, |changes, peers| match peers {
        Pair::Added(peer) => changes.say(format!("added peer {}", peer.name)),
        Pair::Removed(peer) => changes.say(format!("removed peer {}", peer.name)),
        Pair::Both(old, new) => {
            let subject = format!("peer {}", new.name);
            changes.addresses(&subject, "proxy address", &old.proxy_addresses, &new.proxy_addresses);
            if old.link != new.link {
                changes.say(format!("{subject}: the link to it is made anew"));
            }
        }
    });
    let name = |service: &Service| service.name.clone();
    changes.named(&old.services, &new.services, name, |changes, services| match services {
        Pair::Added(service) => changes.say(format!("added service {} ({})", service.name, door(service))),
        Pair::Removed(service) => changes.say(format!("removed service {} ({})", service.name, door(service))),
        Pair::Both(old, new) => service(changes, old, new),
    });
    if old.link != new.link {
        changes.say("link: made anew".into());
    }
    dns::diff::lines(&mut changes, &old.lines, &new.lines);
    if let (Some(old), Some(new)) = (&old.dns, &new.dns) {
        dns::diff::dns(&mut changes, old, new);
    }
    Ok(changes.said)
}

/// What is taken at start and kept: sockets, rings, threads, memory.
fn fixed(old: &Config, new: &Config) -> Vec<String> {
    let mut fixed = Vec::new();
    let mut keep = |same: bool, key: &str| {
        if !same {
            fixed.push(format!("{key} cannot change while farside runs: restart it"));
        }
    };
    let (was, is) = (&old.datapath, &new.datapath);
    keep(was.interfaces == is.interfaces, "[datapath] interfaces");
    keep(was.backend == is.backend, "[datapath] backend");
    keep(was.workers == is.workers, "[datapath] workers");
    keep(was.max_flows == is.max_flows, "[datapath] max_flows");
    keep(was.max_persistent == is.max_persistent, "[datapath] max_persistent");
    keep(was.ring_slots == is.ring_slots, "[datapath] ring_slots");
    keep(was.idle == is.idle, "[datapath] idle");
    keep(was.busy_poll_us == is.busy_poll_us, "[datapath] busy_poll_us");
    keep(was.busy_poll_budget == is.busy_poll_budget, "[datapath] busy_poll_budget");
    keep(was.kernel_path == is.kernel_path, "[datapath] kernel_path");
    keep(old.admin.socket == new.admin.socket, "[admin] socket");
    keep(old.admin.metrics == new.admin.metrics, "[admin] metrics");
    dns::diff::fixed(old, new, &mut keep);
    fixed
}

pub(super) enum Pair<'c, T> {
    Added(&'c T),
    Removed(&'c T),
    Both(&'c T, &'c T),
}

#[derive(Default)]
pub(super) struct Changes {
    said: Vec<String>,
}

impl Changes {
    pub fn say(&mut self, sentence: String) {
        self.said.push(sentence);
    }

    pub fn value<T: PartialEq + Display>(&mut self, subject: &str, key: &str, old: &T, new: &T) {
        if old != new {
            self.say(format!("{subject}: {key} {old} -> {new}"));
        }
    }

    pub fn word<T: Word>(&mut self, subject: &str, key: &str, old: T, new: T) {
        self.value(subject, key, &old.word(), &new.word());
    }

    pub fn duration(&mut self, subject: &str, key: &str, old: Duration, new: Duration) {
        self.value(subject, key, &in_words(old), &in_words(new));
    }

    pub fn addresses(&mut self, subject: &str, what: &str, old: &[IpAddr], new: &[IpAddr]) {
        for address in old.iter().filter(|address| !new.contains(address)) {
            self.say(format!("{subject}: removed {what} {address}"));
        }
        for address in new.iter().filter(|address| !old.contains(address)) {
            self.say(format!("{subject}: added {what} {address}"));
        }
    }

    /// Pairs what has the same name: the old ones that are gone first, then the new file's order.
    pub fn named<T>(
        &mut self,
        old: &[T],
        new: &[T],
        name: impl Fn(&T) -> String,
        tell: impl Fn(&mut Changes, Pair<T>),
    ) {
        let before: HashMap<String, &T> = old.iter().map(|item| (name(item), item)).collect();
        let after: HashMap<String, &T> = new.iter().map(|item| (name(item), item)).collect();
        for item in old.iter().filter(|item| !after.contains_key(&name(item))) {
            tell(self, Pair::Removed(item));
        }
        for item in new {
            match before.get(&name(item)) {
                Some(old) => tell(self, Pair::Both(old, item)),
                None => tell(self, Pair::Added(item)),
            }
        }
    }
}

fn tunnels(changes: &mut Changes, old: &Config, new: &Config) {
    let (old, new) = (&old.datapath, &new.datapath);
    changes.addresses("datapath", "tunnel source", &old.tunnel_sources, &new.tunnel_sources);
    changes.value("datapath", "gue_port", &old.gue_port, &new.gue_port);
}

fn proxy(changes: &mut Changes, old: &Config, new: &Config) {
    let addresses = |config: &Config| config.proxy.as_ref().map_or(Vec::new(), |proxy| proxy.addresses.clone());
    changes.addresses("proxy", "address", &addresses(old), &addresses(new));
    if let (Some(old), Some(new)) = (&old.proxy, &new.proxy) {
        let ports = |ports: &std::ops::RangeInclusive<u16>| format!("{}-{}", ports.start(), ports.end());
        changes.value("proxy", "ports", &ports(&old.ports), &ports(&new.ports));
        changes.duration("proxy", "port_rest", old.port_rest, new.port_rest);
    }
}

fn timeouts(changes: &mut Changes, old: &Timeouts, new: &Timeouts) {
    // Taken apart by name, so that a new timeout cannot be forgotten here.
    let Timeouts { tcp_syn, tcp_established, tcp_closing, tcp_reset, udp } = *old;
    changes.duration("timeouts", "tcp_syn", tcp_syn, new.tcp_syn);
    changes.duration("timeouts", "tcp_established", tcp_established, new.tcp_established);
    changes.duration("timeouts", "tcp_closing", tcp_closing, new.tcp_closing);
    changes.duration("timeouts", "tcp_reset", tcp_reset, new.tcp_reset);
    changes.duration("timeouts", "udp", udp, new.udp);
}

/// Where its clients come to.
fn door(service: &Service) -> String {
    format!("{}, {}", SocketAddr::new(service.vip, service.port), service.protocol.word())
}

fn service(changes: &mut Changes, old: &Service, new: &Service) {
    let Service {
        name,
        vip: _,
        port: _,
        protocol: _,
        mode,
        encapsulation,
        scheduler,
        on_down,
        persistence,
        persistence_mask_v4,
        persistence_mask_v6,
        max_connections,
        overflow,
        per_packet,
        check: was,
        reals,
        remotes,
    } = old;
    let subject = format!("service {name}");
    changes.value(&subject, "address", &door(old), &door(new));
    changes.word::<Mode>(&subject, "mode", *mode, new.mode);
    changes.word::<Encapsulation>(&subject, "encapsulation", *encapsulation, new.encapsulation);
    changes.word(&subject, "scheduler", *scheduler, new.scheduler);
    changes.word(&subject, "on_down", *on_down, new.on_down);
    changes.duration(&subject, "persistence", *persistence, new.persistence);
    changes.value(&subject, "persistence_mask_v4", persistence_mask_v4, &new.persistence_mask_v4);
    changes.value(&subject, "persistence_mask_v6", persistence_mask_v6, &new.persistence_mask_v6);
    changes.value(&subject, "max_connections", max_connections, &new.max_connections);
    changes.word(&subject, "overflow", *overflow, new.overflow);
    changes.value(&subject, "per_packet", per_packet, &new.per_packet);
    check(changes, &subject, was, &new.check);
    let at = |real: &Real| SocketAddr::new(real.address, real.port);
    changes.named(
        reals,
        &new.reals,
        |real| real.name.clone(),
        |changes, reals| match reals {
            Pair::Added(real) => changes.say(format!("{subject}: added real {} ({})", real.name, at(real))),
            Pair::Removed(real) => changes.say(format!("{subject}: removed real {} ({})", real.name, at(real))),
            Pair::Both(old, new) => {
                let subject = format!("{subject}: real {}", new.name);
                changes.value(&subject, "address", &at(old), &at(new));
                changes.value(&subject, "weight", &old.weight, &new.weight);
                changes.value(&subject, "max_connections", &old.max_connections, &new.max_connections);
                changes.value(&subject, "backup", &old.backup, &new.backup);
            }
        },
    );
    let at = |remote: &Remote| SocketAddr::new(remote.vip, remote.port);
    changes.named(
        remotes,
        &new.remotes,
        |remote| remote.site.clone(),
        |changes, remotes| match remotes {
            Pair::Added(remote) => changes.say(format!("{subject}: added remote {} ({})", remote.site, at(remote))),
            Pair::Removed(remote) => changes.say(format!("{subject}: removed remote {} ({})", remote.site, at(remote))),
            Pair::Both(old, new) => {
                let subject = format!("{subject}: remote {}", new.site);
                changes.value(&subject, "vip", &at(old), &at(new));
                changes.value(&subject, "priority", &old.priority, &new.priority);
                changes.value(&subject, "weight", &old.weight, &new.weight);
            }
        },
    );
}

pub(super) fn check(changes: &mut Changes, subject: &str, old: &Check, new: &Check) {
    let Check { kind, port, interval, timeout, rise, fall, passive } = old;
    let subject = format!("{subject}: check");
    let (was, is) = (kind_in_words(kind), kind_in_words(&new.kind));
    changes.value(&subject, "kind", &was, &is);
    // A password is nobody's business: it changes without being told.
    if *kind != new.kind && was == is {
        changes.say(format!("{subject}: login changed"));
    }
    let port_in_words = |port: &Option<u16>| port.map_or("the server's own".to_string(), |port| port.to_string());
    changes.value(&subject, "port", &port_in_words(port), &port_in_words(&new.port));
    changes.duration(&subject, "interval", *interval, new.interval);
    changes.duration(&subject, "timeout", *timeout, new.timeout);
    changes.value(&subject, "rise", rise, &new.rise);
    changes.value(&subject, "fall", fall, &new.fall);
    changes.value(&subject, "passive", passive, &new.passive);
}

/// Without the password.
fn kind_in_words(kind: &CheckKind) -> String {
    let login =
        |login: &Option<super::Login>| login.as_ref().map_or(String::new(), |login| format!(" as {}", login.user));
    match kind {
        CheckKind::None => "none".into(),
        CheckKind::Tcp => "tcp".into(),
        CheckKind::Icmp => "icmp".into(),
        CheckKind::Http { tls, path, host, status } => {
            let scheme = if *tls { "https" } else { "http" };
            let host = host.as_ref().map_or(String::new(), |host| format!(" of {host}"));
            format!("{scheme} {path}{host}, status {}-{}", status.start(), status.end())
        }
        CheckKind::Pop3 { login: given } => format!("pop3{}", login(given)),
        CheckKind::Imap { login: given } => format!("imap{}", login(given)),
        CheckKind::Smtp { helo } => format!("smtp, helo {helo}"),
        CheckKind::Dns { name } => format!("dns {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;

    const OLD: &str = r#"[site]
name = "south"
[datapath]
interfaces = ["wan0", "lan0"]
[proxy]
addresses = ["203.0.113.250"]
[[peer]]
name = "north"
proxy_addresses = ["198.51.100.250"]
[[service]]
name = "pop3"
vip = "203.0.113.10"
port = 110
[service.check]
kind = "pop3"
user = "probe"
password = "old"
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
name = "web"
vip = "203.0.113.10"
port = 80
[[service.real]]
address = "10.0.0.21"
"#;

    fn read(text: &str) -> Config {
        parse(text, "f").unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn changed(edits: &[(&str, &str)]) -> Result<Vec<String>, Vec<String>> {
        let mut new = OLD.to_string();
        for (old, with) in edits {
            assert!(new.contains(old), "{old}");
            new = new.replacen(old, with, 1);
        }
        diff(&read(OLD), &read(&new))
    }

    fn says(edits: &[(&str, &str)], sentences: &[&str]) {
        assert_eq!(changed(edits).unwrap(), sentences);
    }

    #[test]
    fn tunnel_sources_and_port_change_while_running() {
        says(
            &[("[proxy]", "tunnel_sources = [\"10.0.0.1\"]\ngue_port = 6081\n[proxy]")],
            &["datapath: added tunnel source 10.0.0.1", "datapath: gue_port 6080 -> 6081"],
        );
    }

    #[test]
    fn nothing() {
        says(&[], &[]);
        says(&[("[[service]]\nname = \"web\"", "# a comment\n[[service]]\nname = \"web\"")], &[]);
    }

    #[test]
    fn targets_come_go_and_change() {
        let new_real = "[[service.real]]\nname = \"pop-c\"\naddress = \"10.0.0.13\"\n[[service.remote]]";
        says(&[("[[service.remote]]", new_real)], &["service pop3: added real pop-c (10.0.0.13:110)"]);
        let pop_b = "[[service.real]]\nname = \"pop-b\"\naddress = \"10.0.0.12\"\n";
        says(&[(pop_b, "")], &["service pop3: removed real pop-b (10.0.0.12:110)"]);
        says(&[("\"10.0.0.12\"", "\"10.0.0.12\"\nweight = 0")], &["service pop3: real pop-b: weight 1 -> 0"]);
        says(
            &[("\"10.0.0.12\"", "\"10.0.0.14\"")],
            &["service pop3: real pop-b: address 10.0.0.12:110 -> 10.0.0.14:110"],
        );
        let remote = "[[service.remote]]\nsite = \"north\"\nvip = \"198.51.100.10\"\n";
        says(&[(remote, "")], &["service pop3: removed remote north (198.51.100.10:110)"]);
        let changed = "vip = \"198.51.100.11\"\npriority = 2\n";
        says(
            &[("vip = \"198.51.100.10\"\n", changed)],
            &[
                "service pop3: remote north: vip 198.51.100.10:110 -> 198.51.100.11:110",
                "service pop3: remote north: priority 1 -> 2",
            ],
        );
    }

    #[test]
    fn services_come_go_and_change() {
        let (before, web) = OLD.split_at(OLD.rfind("[[service]]").unwrap());
        assert_eq!(diff(&read(OLD), &read(before)).unwrap(), ["removed service web (203.0.113.10:80, tcp)"]);
        assert_eq!(diff(&read(before), &read(OLD)).unwrap(), ["added service web (203.0.113.10:80, tcp)"]);
        assert!(!web.is_empty());
        says(
            &[("port = 80", "port = 81\nscheduler = \"maglev\"\non_down = \"reset\"")],
            &[
                "service web: address 203.0.113.10:80, tcp -> 203.0.113.10:81, tcp",
                "service web: scheduler weighted_round_robin -> maglev",
                "service web: on_down keep -> reset",
                "service web: removed real 10.0.0.21:80 (10.0.0.21:80)",
                "service web: added real 10.0.0.21:81 (10.0.0.21:81)",
            ],
        );
    }

    #[test]
    fn the_terms_of_a_service_change() {
        let terms = "port = 80\npersistence = \"30m\"\npersistence_mask_v4 = 24\npersistence_mask_v6 = 64\n\
            max_connections = 100\noverflow = \"refuse\"";
        says(
            &[("port = 80", terms), ("\"10.0.0.12\"", "\"10.0.0.12\"\nmax_connections = 5\nbackup = true")],
            &[
                "service pop3: real pop-b: max_connections 0 -> 5",
                "service pop3: real pop-b: backup false -> true",
                "service web: persistence 0s -> 30m",
                "service web: persistence_mask_v4 32 -> 24",
                "service web: persistence_mask_v6 128 -> 64",
                "service web: max_connections 0 -> 100",
                "service web: overflow remote -> refuse",
            ],
        );
    }

    #[test]
    fn checks_change_and_keep_their_secrets() {
        says(&[("\"old\"", "\"new\"")], &["service pop3: check: login changed"]);
        says(&[("\"probe\"", "\"other\"")], &["service pop3: check: kind pop3 as probe -> pop3 as other"]);
        says(
            &[(
                "kind = \"pop3\"\nuser = \"probe\"\npassword = \"old\"",
                "kind = \"http\"\nport = 8080\ninterval = \"500ms\"\nrise = 3",
            )],
            &[
                "service pop3: check: kind pop3 as probe -> http /, status 200-399",
                "service pop3: check: port the server's own -> 8080",
                "service pop3: check: interval 2s -> 500ms",
                "service pop3: check: rise 2 -> 3",
            ],
        );
    }

    #[test]
    fn the_rest_changes() {
        says(
            &[("[\"203.0.113.250\"]", "[\"203.0.113.251\"]\nports = \"2000-2999\"\nport_rest = \"1m\"")],
            &[
                "proxy: removed address 203.0.113.250",
                "proxy: added address 203.0.113.251",
                "proxy: ports 1024-65535 -> 2000-2999",
                "proxy: port_rest 5s -> 1m",
            ],
        );
        says(&[("[\"198.51.100.250\"]", "[]")], &["peer north: removed proxy address 198.51.100.250"]);
        says(&[("[[service]]", "[[peer]]\nname = \"east\"\n[[service]]")], &["added peer east"]);
        says(&[("[proxy]", "[timeouts]\nudp = \"30s\"\n[proxy]")], &["timeouts: udp 2m -> 30s"]);
        says(&[("\"south\"", "\"west\"")], &["site: name south -> west"]);
    }

    #[test]
    fn what_cannot_change_is_told_at_once() {
        let restart = |key: &str| format!("{key} cannot change while farside runs: restart it");
        assert_eq!(
            changed(&[
                (
                    "\"lan0\"]",
                    "\"lan1\"]\nworkers = 2\nmax_flows = 5\nmax_persistent = 7\nring_slots = 64\nidle = \"spin\"\nkernel_path = false\n\
                    backend = \"af_packet\"\nbusy_poll_us = 20\nbusy_poll_budget = 8\n\
                    [admin]\nmetrics = \"127.0.0.1:9110\"\nsocket = \"/x\""
                ),
                ("\"10.0.0.12\"", "\"10.0.0.14\""),
            ])
            .unwrap_err(),
            [
                "[datapath] interfaces",
                "[datapath] backend",
                "[datapath] workers",
                "[datapath] max_flows",
                "[datapath] max_persistent",
                "[datapath] ring_slots",
                "[datapath] idle",
                "[datapath] busy_poll_us",
                "[datapath] busy_poll_budget",
                "[datapath] kernel_path",
                "[admin] socket",
                "[admin] metrics"
            ]
            .map(restart)
        );
    }
}
