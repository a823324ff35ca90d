//! The file's sections as written: every value read and bounded by itself, with its place, defaults filled in. What
//! must fit together is [`super::meaning`]'s matter.

use super::value::{self, Problem};
use super::walk::{self, At, Place, Section, Walk};
use super::{
    Admin, Backend, Check, CheckKind, Datapath, Encapsulation, Idle, Login, Mode, OnDown, Overflow, Protocol,
    Scheduler, Timeouts, Word, Workers, dns, link,
};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

pub(super) struct Written {
    pub site: At<String>,
    pub datapath: Datapath,
    pub admin: Admin,
    pub proxy: Option<Proxy>,
    pub peers: Vec<Peer>,
    pub link: Option<link::WrittenLink>,
    pub services: Vec<Service>,
    pub timeouts: Timeouts,
    pub lines: Vec<dns::written::Line>,
    pub dns: Option<dns::written::Dns>,
}

pub(super) struct Proxy {
    pub addresses: Vec<At<IpAddr>>,
    pub ports: RangeInclusive<u16>,
    pub port_rest: Duration,
}

/// What is required and not there, or wrong, is None; that has been told.
pub(super) struct Peer {
    pub name: Option<At<String>>,
    pub proxy_addresses: Vec<At<IpAddr>>,
    pub link: link::WrittenPeer,
}

pub(super) struct Service {
    pub title: String,
    pub place: Place,
    pub name: Option<At<String>>,
    pub vip: Option<At<IpAddr>>,
    pub port: Option<At<u16>>,
    pub protocol: At<Protocol>,
    pub mode: At<Mode>,
    pub encapsulation: Encapsulation,
    pub scheduler: Scheduler,
    pub on_down: OnDown,
    pub persistence: Duration,
    pub persistence_mask_v4: u8,
    pub persistence_mask_v6: u8,
    pub max_connections: u32,
    pub overflow: At<Overflow>,
    pub per_packet: At<bool>,
    pub check: Check,
    pub reals: Vec<Real>,
    pub remotes: Vec<Remote>,
}

pub(super) struct Real {
    /// As given, or made from address and port.
    pub name: Option<At<String>>,
    pub address: Option<At<IpAddr>>,
    pub port: Option<u16>,
    /// Where its port is written; None: it is the service's.
    pub port_place: Option<Place>,
    pub weight: u32,
    pub max_connections: u32,
    pub backup: bool,
}

pub(super) struct Remote {
    pub site: Option<At<String>>,
    pub vip: Option<At<IpAddr>>,
    pub port: Option<u16>,
    pub priority: u32,
    pub weight: u32,
}

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY: Duration = Duration::from_secs(86400);

pub(super) fn read(walk: &mut Walk, root: &DeTable) -> Written {
    let root = Section::open(walk, "the file", 0..0, root, walk::ROOT);
    let empty = DeTable::new();
    let mut one = |key: &'static str, keys| {
        let (table, place) = root.table(walk, key, key).unwrap_or((&empty, 0..0));
        Section::open(walk, format!("[{key}]"), place, table, keys)
    };
    let (site, datapath_section) = (one("site", walk::SITE), one("datapath", walk::DATAPATH));
    let (admin_section, timeouts_section) = (one("admin", walk::ADMIN), one("timeouts", walk::TIMEOUTS));
    let given = |key| root.get(key).is_some();
    if !given("datapath") && (given("service") || !given("dns")) {
        walk.absent(
            &(0..0),
            "there is no [datapath]",
            "add: [datapath] with interfaces = [\"wan0\", \"lan0\"], where the traffic comes and goes",
        );
    }
    Written {
        site: site.or(walk, "name", value::name, host_name()),
        datapath: datapath(walk, &datapath_section, given("datapath")),
        admin: admin(walk, &admin_section),
        proxy: root.table(walk, "proxy", "proxy").map(|(table, place)| proxy(walk, table, place)),
        peers: root.tables(walk, "peer", "peer").into_iter().map(|(table, place)| peer(walk, table, place)).collect(),
        link: root.table(walk, "link", "link").map(|(table, place)| link::link(walk, table, place)),
        services: root
            .tables(walk, "service", "service")
            .into_iter()
            .map(|(table, place)| service(walk, table, place))
            .collect(),
        timeouts: timeouts(walk, &timeouts_section),
        lines: root
            .tables(walk, "line", "line")
            .into_iter()
            .map(|(table, place)| dns::written::line(walk, table, place))
            .collect(),
        dns: root.table(walk, "dns", "dns").map(|(table, place)| dns::written::dns(walk, table, place)),
    }
}

/// The first label of the machine's name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label = name.trim().split('.').next().unwrap_or_default();
    if label.is_empty() { "farside".into() } else { label.into() }
}

fn datapath(walk: &mut Walk, section: &Section, given: bool) -> Datapath {
    let mut interfaces: Vec<At<String>> = Vec::new();
    let read =
        if given { section.list(walk, "interfaces", value::interface, "[\"wan0\", \"lan0\"]") } else { Vec::new() };
    for interface in read {
        match interfaces.iter().find(|other| other.value == interface.value) {
            Some(other) => walk.collides(
                &interface.place,
                &other.place,
                "first here",
                format!("interface {} is listed twice", interface.value),
                "name each interface once",
            ),
            None => interfaces.push(interface),
        }
    }
    const MOST: usize = 64;
    if let Some(one_too_many) = interfaces.get(MOST) {
        walk.wrong(&one_too_many.place, format!("more than {MOST} interfaces"), format!("list at most {MOST}"));
    }
    Datapath {
        interfaces: interfaces.into_iter().map(|interface| interface.value).collect(),
        backend: section.or(walk, "backend", value::word, Backend::Auto).value,
        workers: section.or(walk, "workers", workers, Workers::Auto).value,
        max_flows: section.or(walk, "max_flows", value::number("a number", 1..=1 << 26), 1_000_000).value,
        max_persistent: section.or(walk, "max_persistent", value::number("a number", 1..=1 << 26), 65536).value,
        ring_slots: section.or(walk, "ring_slots", value::number("a number", 64..=16384), 512).value,
        idle: section.or(walk, "idle", value::word, Idle::Adaptive).value,
        busy_poll_us: section.or(walk, "busy_poll_us", value::number("microseconds", 0..=10_000), 0).value,
        busy_poll_budget: section.or(walk, "busy_poll_budget", value::number("a number", 1..=1024), 64).value,
        kernel_path: section.or(walk, "kernel_path", value::boolean, true).value,
        tunnel_sources: tunnel_sources(walk, section),
        gue_port: section.or(walk, "gue_port", value::port, 6080).value,
    }
}

fn tunnel_sources(walk: &mut Walk, section: &Section) -> Vec<IpAddr> {
    let mut sources: Vec<At<IpAddr>> = Vec::new();
    let read = match section.get("tunnel_sources").map(|value| value.get_ref()) {
        Some(DeValue::Array(list)) if list.is_empty() => Vec::new(),
        Some(_) => section.list(walk, "tunnel_sources", value::address, "[\"10.0.0.1\"]"),
        None => Vec::new(),
    };
    for source in read {
        match sources.iter().find(|other| other.value == source.value) {
            Some(other) => walk.collides(
                &source.place,
                &other.place,
                "first here",
                format!("tunnel source {} is listed twice", source.value),
                "list each address once",
            ),
            None => sources.push(source),
        }
    }
    sources.into_iter().map(|source| source.value).collect()
}

fn workers(value: &DeValue) -> Result<Workers, Problem> {
    const MOST: u32 = 255;
    const CPUS: u32 = 1023;
    match value {
        DeValue::String(word) if word == "auto" => Ok(Workers::Auto),
        DeValue::Integer(_) => {
            value::number("a number of workers", 1..=MOST)(value).map(|count| Workers::Count(count as usize))
        }
        DeValue::Array(list) if !list.is_empty() && list.len() <= MOST as usize => {
            let mut cpus = Vec::new();
            for item in list {
                let cpu = value::number("a list of CPUs, each", 0..=CPUS)(item.get_ref())? as usize;
                if cpus.contains(&cpu) {
                    let message = format!("lists CPU {cpu} twice");
                    return Err(Problem { message, help: "one worker runs on a CPU: list each once".into() });
                }
                cpus.push(cpu);
            }
            Ok(Workers::Cpus(cpus))
        }
        _ => Err(Problem {
            message: "must be \"auto\", a number, or a list of CPUs".into(),
            help: format!("write \"auto\", a number from 1 to {MOST}, or a list of CPUs such as [2, 3]"),
        }),
    }
}

fn admin(walk: &mut Walk, section: &Section) -> Admin {
    Admin {
        socket: section.or(walk, "socket", socket, "/run/farside/farside.sock".into()).value.into(),
        metrics: section.or(walk, "metrics", value::listener, None).value,
    }
}

fn socket(value: &DeValue) -> Result<String, Problem> {
    let path = value::string(value)?;
    let help = || "write an absolute path of at most 107 bytes such as \"/run/farside/farside.sock\"".into();
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(Problem {
            message: format!("must be a file's absolute path, not {}", value::quoted(&path)),
            help: help(),
        });
    }
    if path.len() > 107 {
        let message = format!("is too long for a Unix socket: {} bytes", path.len());
        return Err(Problem { message, help: help() });
    }
    Ok(path)
}

fn proxy(walk: &mut Walk, table: &DeTable, place: Place) -> Proxy {
    let section = Section::open(walk, "[proxy]", place, table, walk::PROXY);
    Proxy {
        addresses: section.list(walk, "addresses", value::address, "[\"203.0.113.250\"]"),
        ports: section.or(walk, "ports", value::range("ports", 1..=u16::MAX), 1024..=u16::MAX).value,
        port_rest: section.or(walk, "port_rest", value::duration(Duration::ZERO..=3600 * SECOND), 5 * SECOND).value,
    }
}

fn peer(walk: &mut Walk, table: &DeTable, place: Place) -> Peer {
    let section = Section::open(walk, "[[peer]]", place, table, walk::PEER);
    // A peer that lends no addresses can carry nothing here: then there is no loop to be kept from.
    let proxy_addresses = match section.get("proxy_addresses").map(|value| value.get_ref()) {
        Some(DeValue::Array(list)) if list.is_empty() => Vec::new(),
        Some(_) => section.list(walk, "proxy_addresses", value::address, "[\"198.51.100.250\"]"),
        None => Vec::new(),
    };
    let name = section.required(walk, "name", value::name, "\"north\"");
    Peer { name, proxy_addresses, link: link::peer(walk, &section) }
}

fn service(walk: &mut Walk, table: &DeTable, place: Place) -> Service {
    let named = table.iter().find(|(key, _)| key.get_ref() == "name").and_then(|(_, value)| value.get_ref().as_str());
    let title = named.map_or("[[service]]".to_string(), |name| format!("[[service]] {}", value::quoted(name)));
    let section = Section::open(walk, title.clone(), place.clone(), table, walk::SERVICE);
    let protocol = section.or(walk, "protocol", value::word, Protocol::Tcp);
    let port = section.required(walk, "port", value::port, "110");
    let mode = section.or(walk, "mode", value::word, Mode::Nat);
    let service_port = port.as_ref().map(|port| port.value);
    let each = |walk: &mut Walk, key, header| section.tables(walk, key, header);
    Service {
        name: section.required(walk, "name", value::name, "\"pop3\""),
        vip: section.required(walk, "vip", value::address, "\"203.0.113.10\""),
        mode,
        encapsulation: section.or(walk, "encapsulation", value::word, Encapsulation::Ipip).value,
        scheduler: section.or(walk, "scheduler", value::word, Scheduler::WeightedRoundRobin).value,
        on_down: section.or(walk, "on_down", value::word, OnDown::Keep).value,
        persistence: section.or(walk, "persistence", value::duration(Duration::ZERO..=7 * DAY), Duration::ZERO).value,
        persistence_mask_v4: prefix(walk, &section, "persistence_mask_v4", 32),
        persistence_mask_v6: prefix(walk, &section, "persistence_mask_v6", 128),
        max_connections: max_connections(walk, &section),
        overflow: section.or(walk, "overflow", value::word, Overflow::Remote),
        per_packet: per_packet(walk, &section, protocol.value),
        check: check(walk, &section, protocol.value),
        reals: each(walk, "real", "service.real")
            .into_iter()
            .map(|(table, place)| real(walk, &title, service_port, table, place))
            .collect(),
        remotes: each(walk, "remote", "service.remote")
            .into_iter()
            .map(|(table, place)| remote(walk, &title, service_port, table, place))
            .collect(),
        title,
        place,
        port,
        protocol,
    }
}

fn per_packet(walk: &mut Walk, section: &Section, protocol: Protocol) -> At<bool> {
    let per_packet = section.or(walk, "per_packet", value::boolean, false);
    if per_packet.value && protocol != Protocol::Udp {
        walk.wrong(
            &per_packet.place,
            "per_packet is for UDP: a TCP connection cannot change its server",
            "leave it out, or write protocol = \"udp\"",
        );
    }
    per_packet
}

pub(super) fn weight(walk: &mut Walk, section: &Section) -> u32 {
    section.or(walk, "weight", value::number("a weight", 0..=65535), 1).value
}

/// Of addresses with so many bits, all of which count by default.
pub(super) fn prefix(walk: &mut Walk, section: &Section, key: &'static str, bits: u8) -> u8 {
    section.or(walk, key, value::number("a number of bits", 1..=bits), bits).value
}

fn max_connections(walk: &mut Walk, section: &Section) -> u32 {
    section.or(walk, "max_connections", value::number("a number", 0..=1 << 30), 0).value
}

fn real(walk: &mut Walk, service: &str, service_port: Option<u16>, table: &DeTable, place: Place) -> Real {
    let section = Section::open(walk, format!("a [[service.real]] of {service}"), place, table, walk::REAL);
    let address = section.required(walk, "address", value::address, "\"10.0.0.11\"");
    let own_port = section.read(walk, "port", value::port);
    let port_place = own_port.as_ref().map(|port| port.place.clone());
    let port = own_port.map(|port| port.value).or(service_port);
    let own_name = address.as_ref().zip(port).map(|(address, port)| At {
        value: std::net::SocketAddr::new(address.value, port).to_string(),
        place: address.place.clone(),
    });
    let name = if section.get("name").is_some() { section.read(walk, "name", value::name) } else { own_name };
    Real {
        name,
        address,
        port,
        port_place,
        weight: weight(walk, &section),
        max_connections: max_connections(walk, &section),
        backup: section.or(walk, "backup", value::boolean, false).value,
    }
}

fn remote(walk: &mut Walk, service: &str, service_port: Option<u16>, table: &DeTable, place: Place) -> Remote {
    let section = Section::open(walk, format!("a [[service.remote]] of {service}"), place, table, walk::REMOTE);
    Remote {
        site: section.required(walk, "site", value::name, "\"north\""),
        vip: section.required(walk, "vip", value::address, "\"198.51.100.10\""),
        port: section.read(walk, "port", value::port).map(|port| port.value).or(service_port),
        priority: section.or(walk, "priority", value::number("a priority", 0..=65535), 1).value,
        weight: weight(walk, &section),
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    None,
    Tcp,
    Icmp,
    Http,
    Https,
    Pop3,
    Imap,
    Smtp,
    Dns,
}

impl Word for Kind {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("tcp", Kind::Tcp),
        ("http", Kind::Http),
        ("https", Kind::Https),
        ("pop3", Kind::Pop3),
        ("imap", Kind::Imap),
        ("smtp", Kind::Smtp),
        ("dns", Kind::Dns),
        ("icmp", Kind::Icmp),
        ("none", Kind::None),
    ];
}

/// Keys that mean something to some kinds only.
const KEYS_OF_KINDS: &[(&str, &[Kind])] = &[
    ("port", &[Kind::Tcp, Kind::Http, Kind::Https, Kind::Pop3, Kind::Imap, Kind::Smtp, Kind::Dns]),
    ("path", &[Kind::Http, Kind::Https]),
    ("host", &[Kind::Http, Kind::Https]),
    ("status", &[Kind::Http, Kind::Https]),
    ("user", &[Kind::Pop3, Kind::Imap]),
    ("password", &[Kind::Pop3, Kind::Imap]),
    ("helo", &[Kind::Smtp]),
    ("name", &[Kind::Dns]),
];

/// What a check is where its section does not say.
pub(super) struct CheckDefaults {
    pub kind: Kind,
    pub interval: Duration,
    pub timeout: Duration,
    pub rise: u32,
    pub fall: u32,
}

/// A service without [service.check] is checked all the same: by a TCP connection, and by an echo request where the
/// service is UDP, since nothing else can be known of a UDP server whose protocol is not named.
fn check(walk: &mut Walk, service: &Section, protocol: Protocol) -> Check {
    let kind = if protocol == Protocol::Tcp { Kind::Tcp } else { Kind::Icmp };
    let defaults = CheckDefaults { kind, interval: 2 * SECOND, timeout: SECOND, rise: 2, fall: 4 };
    check_of(walk, service, "service.check", walk::CHECK, &defaults)
}

/// The table at `check` of `owner`, whose header is `[header]` and whose keys are `keys`.
pub(super) fn check_of(
    walk: &mut Walk,
    owner: &Section,
    header: &'static str,
    keys: &'static [&'static str],
    defaults: &CheckDefaults,
) -> Check {
    let empty = DeTable::new();
    let (table, place) = owner.table(walk, "check", header).unwrap_or((&empty, owner.place.clone()));
    let section = Section::open(walk, format!("the [{header}] of {}", owner.title), place, table, keys);
    let kind_known =
        section.get("kind").is_none() || section.read(&mut Walk::default(), "kind", value::word::<Kind>).is_some();
    let kind = section.or(walk, "kind", value::word, defaults.kind).value;
    for (key, kinds) in KEYS_OF_KINDS {
        if let Some(place) = section.key_place(key).filter(|_| kind_known && !kinds.contains(&kind)) {
            let kinds: Vec<_> = kinds.iter().map(|kind| format!("\"{}\"", kind.word())).collect();
            walk.wrong(
                &place,
                format!("a check of kind \"{}\" has no `{key}`", kind.word()),
                format!("`{key}` goes with {}", kinds.join(", ")),
            );
        }
    }
    let (times, most) = (value::number("a count", 1..=1000), 3600 * SECOND);
    Check {
        kind: check_kind(walk, &section, kind),
        port: section.read(walk, "port", value::port).map(|port| port.value),
        interval: section.or(walk, "interval", value::duration(10 * MILLISECOND..=DAY), defaults.interval).value,
        timeout: section.or(walk, "timeout", value::duration(10 * MILLISECOND..=most), defaults.timeout).value,
        rise: section.or(walk, "rise", &times, defaults.rise).value,
        fall: section.or(walk, "fall", &times, defaults.fall).value,
        // Clients' connections tell of services only.
        passive: keys.contains(&"passive") && section.or(walk, "passive", value::truth, true).value,
    }
}

fn check_kind(walk: &mut Walk, section: &Section, kind: Kind) -> CheckKind {
    match kind {
        Kind::None => CheckKind::None,
        Kind::Tcp => CheckKind::Tcp,
        Kind::Icmp => CheckKind::Icmp,
        Kind::Http | Kind::Https => CheckKind::Http {
            tls: kind == Kind::Https,
            path: section.or(walk, "path", url_path, "/".into()).value,
            host: section.read(walk, "host", value::line("a host name", false)).map(|host| host.value),
            status: section.or(walk, "status", value::range("HTTP statuses", 100..=599), 200..=399).value,
        },
        Kind::Pop3 => CheckKind::Pop3 { login: login(walk, section) },
        Kind::Imap => CheckKind::Imap { login: login(walk, section) },
        Kind::Smtp => CheckKind::Smtp {
            helo: section.or(walk, "helo", value::line("a host name", false), "farside".into()).value,
        },
        Kind::Dns => CheckKind::Dns {
            name: section
                .required(walk, "name", dns_name, "\"company.example\", a name that the server knows")
                .map_or(String::new(), |name| name.value),
        },
    }
}

fn url_path(value: &DeValue) -> Result<String, Problem> {
    let path = value::line("a path without spaces", false)(value)?;
    if path.starts_with('/') {
        return Ok(path);
    }
    let message = format!("must begin with a slash, not {}", value::quoted(&path));
    Err(Problem { message, help: "write the path alone, as in \"/health\"; the host goes into `host`".into() })
}

fn dns_name(value: &DeValue) -> Result<String, Problem> {
    let name = value::line("a domain name", false)(value)?;
    let labels = name.strip_suffix('.').unwrap_or(&name);
    let good = |label: &str| !label.is_empty() && label.len() <= 63 && label.is_ascii();
    if labels.len() <= 253 && (name == "." || labels.split('.').all(good)) {
        return Ok(name);
    }
    let message = format!("must be a domain name, not {}", value::quoted(&name));
    Err(Problem { message, help: "labels have 1 to 63 ASCII characters each, the name at most 253".into() })
}

/// Both or neither.
fn login(walk: &mut Walk, section: &Section) -> Option<Login> {
    let user = section.read(walk, "user", value::line("a user's name", true));
    let password = section.read(walk, "password", value::line("a password", true));
    match (section.key_place("user"), section.key_place("password")) {
        (Some(place), None) => walk.absent(&place, "there is a `user` and no `password`", "add: password = \"...\""),
        (None, Some(place)) => walk.absent(&place, "there is a `password` and no `user`", "add: user = \"...\""),
        _ => {}
    }
    Some(Login { user: user?.value, password: password?.value })
}

fn timeouts(walk: &mut Walk, section: &Section) -> Timeouts {
    let mut timeout = |key, default| section.or(walk, key, value::duration(SECOND..=365 * DAY), default).value;
    Timeouts {
        tcp_syn: timeout("tcp_syn", 30 * SECOND),
        tcp_established: timeout("tcp_established", 7440 * SECOND),
        tcp_closing: timeout("tcp_closing", 120 * SECOND),
        tcp_reset: timeout("tcp_reset", 10 * SECOND),
        udp: timeout("udp", 120 * SECOND),
    }
}
