//! `[[line]]` and `[dns]` as written: every value read and bounded by itself.

use super::super::value::{self, Problem};
use super::super::walk::{self, At, Place, Section, Walk};
use super::super::written::{self, CheckDefaults, DAY, Kind, MILLISECOND, SECOND};
use super::super::{Check, CheckKind};
use super::{Algorithm, Hours, MAX_RECORDS, Mode, Need, Stripe, Tcp, hours, redis, steering};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

pub(in super::super) struct Line {
    pub name: Option<At<String>>,
    pub address: Option<At<IpAddr>>,
    pub targets: Vec<At<IpAddr>>,
    pub need: Need,
    pub check: Check,
}

pub(in super::super) struct Dns {
    pub place: Place,
    pub listen: Vec<At<SocketAddr>>,
    pub fast_path: Vec<At<String>>,
    pub state_dir: String,
    pub nsid: String,
    pub version: String,
    pub rate_limit: u32,
    pub slip: u32,
    pub tcp: Tcp,
    pub zones: Vec<Zone>,
    pub keys: Vec<Key>,
    pub pools: Vec<Pool>,
    pub topologies: Vec<steering::Topology>,
    pub geo_database: Option<At<String>>,
    pub groups: Vec<steering::Group>,
    pub group_mask_v4: u8,
    pub group_mask_v6: u8,
    pub max_records: u32,
    pub learn_groups: Option<At<String>>,
    pub measure_resolvers: u32,
    pub measure_every: Duration,
    pub redis: Option<redis::Written>,
}

pub(in super::super) struct Zone {
    pub origin: Option<At<String>>,
    pub file: Option<At<String>>,
    pub dnssec: At<bool>,
    pub secondaries: Vec<At<IpAddr>>,
    pub tsig_key: Option<At<String>>,
}

pub(in super::super) struct Key {
    pub name: Option<At<String>>,
    pub algorithm: Algorithm,
    pub secret: Option<At<Vec<u8>>>,
}

pub(in super::super) struct Pool {
    pub title: String,
    pub place: Place,
    pub name: Option<At<String>>,
    pub names: Vec<At<String>>,
    pub modes: Vec<At<Mode>>,
    pub stripe: Stripe,
    pub client_subnet: bool,
    pub persistence_ttl: Duration,
    pub persistence_hours: Vec<Hours>,
    pub share: String,
    pub ttl: Duration,
    pub ttl_cut: bool,
    pub max_answers: u32,
    pub min_up: At<u32>,
    pub when_down: At<String>,
    pub members: Vec<Member>,
}

pub(in super::super) struct Member {
    pub name: Option<At<String>>,
    pub addresses: Vec<At<IpAddr>>,
    pub site: Option<At<String>>,
    pub line: Option<At<String>>,
    pub service: Option<At<String>>,
    pub weight: u32,
    pub check: Option<Check>,
}

/// The title of a table that has a name, as a person would point to it.
pub(super) fn title(table: &DeTable, header: &str) -> String {
    let named = table.iter().find(|(key, _)| key.get_ref() == "name").and_then(|(_, value)| value.get_ref().as_str());
    named.map_or(format!("[[{header}]]"), |name| format!("[[{header}]] {}", value::quoted(name)))
}

/// A list that may be empty or not there.
pub(super) fn optional_list<T>(
    walk: &mut Walk,
    section: &Section,
    key: &'static str,
    read: impl Fn(&DeValue) -> Result<T, Problem>,
    example: &str,
) -> Vec<At<T>> {
    match section.get(key).map(|value| value.get_ref()) {
        Some(DeValue::Array(list)) if list.is_empty() => Vec::new(),
        Some(_) => section.list(walk, key, read, example),
        None => Vec::new(),
    }
}

pub(in super::super) fn line(walk: &mut Walk, table: &DeTable, place: Place) -> Line {
    let section = Section::open(walk, title(table, "line"), place, table, walk::LINE);
    const DEFAULTS: CheckDefaults =
        CheckDefaults { kind: Kind::Icmp, interval: SECOND, timeout: Duration::from_millis(800), rise: 2, fall: 3 };
    let check = written::check_of(walk, &section, "line.check", walk::BARE_CHECK, &DEFAULTS);
    Line {
        name: section.required(walk, "name", value::name, "\"isp1\""),
        address: section.required(walk, "address", value::address, "\"203.0.113.1\", this host's on the line"),
        targets: section.list(walk, "targets", value::address, "[\"203.0.113.254\", \"9.9.9.9\"]"),
        need: section.or(walk, "need", value::word, Need::Any).value,
        check: with_port(walk, &section, check),
    }
}

/// What is checked here is an address without a port of its own: the protocol's usual one, where it has one.
fn with_port(walk: &mut Walk, section: &Section, check: Check) -> Check {
    let usual = match &check.kind {
        CheckKind::None | CheckKind::Icmp => return check,
        CheckKind::Tcp => None,
        CheckKind::Http { tls: false, .. } => Some(80),
        CheckKind::Http { tls: true, .. } => Some(443),
        CheckKind::Pop3 { .. } => Some(110),
        CheckKind::Imap { .. } => Some(143),
        CheckKind::Smtp { .. } => Some(25),
        CheckKind::Dns { .. } => Some(53),
    };
    if check.port.is_none() && usual.is_none() {
        let place = section.key_place("check").unwrap_or_else(|| section.place.clone());
        walk.absent(
            &place,
            format!("the check of {} has no `port`", section.title),
            "add the port that is to be connected to, as in: check = { kind = \"tcp\", port = 25 }",
        );
    }
    Check { port: check.port.or(usual), ..check }
}

pub(in super::super) fn dns(walk: &mut Walk, table: &DeTable, place: Place) -> Dns {
    let section = Section::open(walk, "[dns]", place.clone(), table, walk::DNS);
    let each = |walk: &mut Walk, key, header| section.tables(walk, key, header).into_iter();
    Dns {
        place,
        listen: section.list(walk, "listen", listen, "[\"203.0.113.1:53\", \"198.51.100.1:53\"]"),
        fast_path: optional_list(walk, &section, "fast_path", value::interface, "[\"wan0\", \"wan1\"]"),
        state_dir: section.or(walk, "state_dir", directory, "/var/lib/farside".into()).value,
        nsid: section.or(walk, "nsid", text, String::new()).value,
        version: section.or(walk, "version", text, String::new()).value,
        rate_limit: section.or(walk, "rate_limit", value::number("a number", 0..=1_000_000), 0).value,
        slip: section.or(walk, "slip", value::number("a number", 0..=10), 2).value,
        tcp: Tcp {
            max_connections: section
                .or(walk, "max_tcp", value::number("a number of connections", 1..=1_000_000), 10_000)
                .value,
            max_per_client: section
                .or(walk, "max_tcp_per_client", value::number("a number of connections", 1..=1_000_000), 100)
                .value,
            idle: section.or(walk, "tcp_idle", value::duration(100 * MILLISECOND..=3600 * SECOND), 10 * SECOND).value,
        },
        zones: each(walk, "zone", "dns.zone").map(|(table, place)| zone(walk, table, place)).collect(),
        keys: each(walk, "key", "dns.key").map(|(table, place)| key(walk, table, place)).collect(),
        pools: each(walk, "pool", "dns.pool").map(|(table, place)| pool(walk, table, place)).collect(),
        topologies: each(walk, "topology", "dns.topology")
            .map(|(table, place)| steering::topology(walk, table, place))
            .collect(),
        groups: each(walk, "group", "dns.group").map(|(table, place)| steering::group(walk, table, place)).collect(),
        geo_database: section.read(walk, "geo_database", value::line("a file's path", true)),
        group_mask_v4: written::prefix(walk, &section, "group_mask_v4", 32),
        group_mask_v6: written::prefix(walk, &section, "group_mask_v6", 128),
        max_records: section
            .or(walk, "max_records", value::number("a number of records", 1..=MAX_RECORDS), 200_000)
            .value,
        learn_groups: section
            .read(walk, "learn_groups", optional_name)
            .and_then(|name| Some(At { value: name.value?, place: name.place })),
        measure_resolvers: section
            .or(walk, "measure_resolvers", value::number("a number of measurements a second", 0..=1000), 0)
            .value,
        measure_every: section.or(walk, "measure_every", value::duration(SECOND..=DAY), 600 * SECOND).value,
        redis: section.table(walk, "redis", "dns.redis").map(|(table, place)| redis::read(walk, table, place)),
    }
}

fn zone(walk: &mut Walk, table: &DeTable, place: Place) -> Zone {
    let named = table.iter().find(|(key, _)| key.get_ref() == "origin").and_then(|(_, value)| value.get_ref().as_str());
    let title = named.map_or("[[dns.zone]]".into(), |name| format!("[[dns.zone]] {}", value::quoted(name)));
    let section = Section::open(walk, title, place, table, walk::DNS_ZONE);
    Zone {
        origin: section.required(walk, "origin", domain_name, "\"company.example.\""),
        file: section.required(walk, "file", value::line("a file's path", true), "\"company.example.zone\""),
        dnssec: section.or(walk, "dnssec", value::boolean, false),
        secondaries: optional_list(walk, &section, "secondaries", secondary, "[\"192.0.2.53\"]"),
        tsig_key: section
            .read(walk, "tsig_key", optional_name)
            .and_then(|key| Some(At { value: key.value?, place: key.place })),
    }
}

fn key(walk: &mut Walk, table: &DeTable, place: Place) -> Key {
    let section = Section::open(walk, title(table, "dns.key"), place, table, walk::DNS_KEY);
    Key {
        name: section.required(walk, "name", domain_name, "\"transfer\", as the secondary calls it"),
        algorithm: section.or(walk, "algorithm", value::word, Algorithm::Sha256).value,
        secret: section.required(walk, "secret", secret, "\"...\", as `tsig-keygen` prints it"),
    }
}

fn pool(walk: &mut Walk, table: &DeTable, place: Place) -> Pool {
    let title = title(table, "dns.pool");
    let section = Section::open(walk, title.clone(), place.clone(), table, walk::DNS_POOL);
    Pool {
        name: section.required(walk, "name", value::name, "\"mail\""),
        names: section.list(walk, "names", domain_name, "[\"mail.company.example.\"]"),
        modes: steering::modes(walk, &section),
        stripe: section.or(walk, "stripe", value::word, Stripe::Rendezvous).value,
        client_subnet: section.or(walk, "client_subnet", value::boolean, false).value,
        persistence_ttl: section.or(walk, "persistence_ttl", whole_seconds, 3600 * SECOND).value,
        persistence_hours: hours::read(walk, &section),
        share: section.or(walk, "share", text, String::new()).value,
        ttl: section.or(walk, "ttl", whole_seconds, 30 * SECOND).value,
        ttl_cut: section.or(walk, "ttl_cut", value::boolean, false).value,
        max_answers: section.or(walk, "max_answers", value::number("a number", 0..=1000), 0).value,
        min_up: section.or(walk, "min_up", value::number("a number", 0..=1000), 1),
        when_down: section.or(walk, "when_down", value::name, "all".into()),
        members: section
            .tables(walk, "member", "dns.pool.member")
            .into_iter()
            .map(|(table, place)| member(walk, &title, table, place))
            .collect(),
        title,
        place,
    }
}

fn member(walk: &mut Walk, pool: &str, table: &DeTable, place: Place) -> Member {
    let section = Section::open(walk, format!("a [[dns.pool.member]] of {pool}"), place, table, walk::DNS_MEMBER);
    const DEFAULTS: CheckDefaults =
        CheckDefaults { kind: Kind::Tcp, interval: Duration::from_secs(2), timeout: SECOND, rise: 2, fall: 4 };
    let check = section.get("check").is_some().then(|| {
        let check = written::check_of(walk, &section, "dns.pool.member.check", walk::BARE_CHECK, &DEFAULTS);
        with_port(walk, &section, check)
    });
    Member {
        name: section.required(walk, "name", value::name, "\"isp1\""),
        addresses: section.list(walk, "addresses", value::address, "[\"203.0.113.10\"]"),
        site: section.read(walk, "site", value::name),
        line: section.read(walk, "line", value::name),
        service: section.read(walk, "service", value::name),
        weight: written::weight(walk, &section),
        check,
    }
}

/// Another name server on this very machine will do too.
fn secondary(value: &DeValue) -> Result<IpAddr, Problem> {
    let text = value::string(value).unwrap_or_default();
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => Ok(address),
        _ => value::address(value),
    }
}

fn listen(value: &DeValue) -> Result<SocketAddr, Problem> {
    const HELP: &str = "write an address of this host and a port such as \"203.0.113.1:53\" or \"[2001:db8::1]:53\"";
    let text = value::string(value)?;
    let not = |what: String| Err(Problem { message: what, help: HELP.into() });
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => Err(Problem {
            message: format!("cannot be {text}: answers have to come from the address that was asked"),
            help: "list this host's addresses, one on each line".into(),
        }),
        Ok(address) if address.ip().is_multicast() || address.port() == 0 => {
            not(format!("cannot be {}", value::quoted(&text)))
        }
        Ok(address) => Ok(address),
        Err(_) if text.parse::<IpAddr>().is_ok() => not(format!("lacks a port: {}", value::quoted(&text))),
        Err(_) => not(format!("must be an address and a port, not {}", value::quoted(&text))),
    }
}

fn directory(value: &DeValue) -> Result<String, Problem> {
    let path = value::line("a directory's path", true)(value)?;
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(Problem {
        message: format!("must be a directory's absolute path, not {}", value::quoted(&path)),
        help: "write a path such as \"/var/lib/farside\"".into(),
    })
}

/// What goes into one character string of DNS; may be empty.
fn text(value: &DeValue) -> Result<String, Problem> {
    let text = value::string(value)?;
    if text.len() <= 255 && !text.contains(char::is_control) {
        return Ok(text);
    }
    Err(Problem { message: "is too long, or has control characters".into(), help: "write at most 255 bytes".into() })
}

/// A DNS TTL counts whole seconds.
pub(super) fn whole_seconds(value: &DeValue) -> Result<Duration, Problem> {
    let duration = value::duration(SECOND..=7 * DAY)(value)?;
    if duration.subsec_nanos() == 0 {
        return Ok(duration);
    }
    Err(Problem {
        message: format!("must be whole seconds, not {}", value::in_words(duration)),
        help: "write it in seconds, as in \"30s\"".into(),
    })
}

/// Absolute, in small letters, with the last dot.
fn domain_name(value: &DeValue) -> Result<String, Problem> {
    let written = value::line("a domain name", false)(value)?;
    let name = written.strip_suffix('.').unwrap_or(&written);
    let good = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'/';
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    if written == "." || (name.len() <= 253 && name.split('.').all(good)) {
        return Ok(if written == "." { written } else { format!("{}.", name.to_ascii_lowercase()) });
    }
    Err(Problem {
        message: format!("must be a domain name, not {}", value::quoted(&written)),
        help: "labels have 1 to 63 letters, digits, hyphens or underscores each, the name at most 253; write other \
               characters in their ASCII form (xn--...)"
            .into(),
    })
}

/// None for the empty string.
fn optional_name(value: &DeValue) -> Result<Option<String>, Problem> {
    match value {
        DeValue::String(text) if text.is_empty() => Ok(None),
        _ => domain_name(value).map(Some),
    }
}

/// Base 64 (RFC 4648 4).
fn secret(value: &DeValue) -> Result<Vec<u8>, Problem> {
    let text = value::string(value)?;
    // Never repeats the text: it is a secret.
    let problem = |message: &str| Problem {
        message: message.into(),
        help: "write the key in base 64, as `tsig-keygen` or `openssl rand -base64 32` prints it".into(),
    };
    let secret = from_base64(&text).ok_or_else(|| problem("is not in base 64"))?;
    if secret.len() < 8 || secret.len() > 256 { Err(problem("is too short, or too long")) } else { Ok(secret) }
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padded = text.len() - digits.len();
    if !text.len().is_multiple_of(4) || padded > 2 {
        return None;
    }
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::new());
    for digit in digits.bytes() {
        let digit = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}
