//! The way through the tree that the TOML parser made, with every value's place in the text.

use super::errors::{Finding, Kind};
use super::value::{Problem, quoted};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of the text.
pub(super) type Place = Range<usize>;

/// A value and where it is written; for a default, where the section begins.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// Collects what is wrong on the way.
#[derive(Default)]
pub(super) struct Walk {
    pub findings: Vec<Finding>,
}

impl Walk {
    pub fn wrong(&mut self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.find(place, message, help, Kind::Wrong, None);
    }

    /// As [`Walk::wrong`], because of what stands at `other`, which `label` says in a word or two.
    pub fn collides(
        &mut self,
        place: &Place,
        other: &Place,
        label: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.find(place, message, help, Kind::Wrong, Some((other.clone(), label)));
    }

    /// Something that must be there is not.
    pub fn absent(&mut self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.find(place, message, help, Kind::Absent, None);
    }

    fn find(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<String>,
        kind: Kind,
        other: Option<(Place, &'static str)>,
    ) {
        let (message, help) = (message.into(), help.into());
        self.findings.push(Finding { place: Some(place.clone()), message, help, kind, other });
    }
}

/// One table of the file.
pub(super) struct Section<'t> {
    /// As a person would point to it: `[[service]] "pop3"`.
    pub title: String,
    pub place: Place,
    table: &'t DeTable<'t>,
    keys: &'static [&'static str],
}

/// All sections and their keys, to say where a key belongs that stands in the wrong one.
pub(super) const SECTIONS: &[(&str, &[&str])] = &[
    ("[site]", SITE),
    ("[datapath]", DATAPATH),
    ("[admin]", ADMIN),
    ("[proxy]", PROXY),
    ("[link]", LINK),
    ("[[peer]]", PEER),
    ("[[service]]", SERVICE),
    ("[service.check]", CHECK),
    ("[[service.real]]", REAL),
    ("[[service.remote]]", REMOTE),
    ("[timeouts]", TIMEOUTS),
    ("[[line]]", LINE),
    ("[dns]", DNS),
    ("[dns.redis]", DNS_REDIS),
    ("[[dns.zone]]", DNS_ZONE),
    ("[[dns.key]]", DNS_KEY),
    ("[[dns.pool]]", DNS_POOL),
    ("[[dns.pool.member]]", DNS_MEMBER),
    ("[[dns.topology]]", DNS_TOPOLOGY),
    ("[[dns.group]]", DNS_GROUP),
];
pub(super) const ROOT: &[&str] =
    &["site", "datapath", "admin", "proxy", "link", "peer", "service", "timeouts", "line", "dns"];
pub(super) const SITE: &[&str] = &["name"];
pub(super) const DATAPATH: &[&str] = &[
    "interfaces",
    "backend",
    "workers",
    "max_flows",
    "max_persistent",
    "ring_slots",
    "idle",
    "busy_poll_us",
    "busy_poll_budget",
    "kernel_path",
    "tunnel_sources",
    "gue_port",
];
pub(super) const ADMIN: &[&str] = &["socket", "metrics"];
pub(super) const PROXY: &[&str] = &["addresses", "ports", "port_rest"];
pub(super) const LINK: &[&str] = &["listen", "certificate", "key"];
pub(super) const PEER: &[&str] = &["name", "proxy_addresses", "link", "certificate"];
pub(super) const SERVICE: &[&str] = &[
    "name",
    "vip",
    "port",
    "protocol",
    "mode",
    "encapsulation",
    "scheduler",
    "on_down",
    "persistence",
    "persistence_mask_v4",
    "persistence_mask_v6",
    "max_connections",
    "overflow",
    "per_packet",
    "check",
    "real",
    "remote",
];
pub(super) const CHECK: &[&str] = &[
    "kind", "interval", "timeout", "rise", "fall", "passive", "port", "path", "host", "status", "user", "password",
    "helo", "name",
];
pub(super) const REAL: &[&str] = &["name", "address", "port", "weight", "max_connections", "backup"];
pub(super) const REMOTE: &[&str] = &["site", "vip", "port", "priority", "weight"];
pub(super) const TIMEOUTS: &[&str] = &["tcp_syn", "tcp_established", "tcp_closing", "tcp_reset", "udp"];

pub(super) const LINE: &[&str] = &["name", "address", "targets", "need", "check"];
/// The keys of a check of something that clients' connections do not tell of: [`CHECK`] without `passive`.
pub(super) const BARE_CHECK: &[&str] = &[
    "kind", "interval", "timeout", "rise", "fall", "port", "path", "host", "status", "user", "password", "helo", "name",
];
pub(super) const DNS: &[&str] = &[
    "listen",
    "fast_path",
    "state_dir",
    "nsid",
    "version",
    "rate_limit",
    "slip",
    "max_tcp",
    "max_tcp_per_client",
    "tcp_idle",
    "max_records",
    "learn_groups",
    "measure_resolvers",
    "measure_every",
    "redis",
    "geo_database",
    "group_mask_v4",
    "group_mask_v6",
    "zone",
    "key",
    "pool",
    "topology",
    "group",
];
pub(super) const DNS_REDIS: &[&str] = &["address", "password_file", "prefix"];
pub(super) const DNS_ZONE: &[&str] = &["origin", "file", "dnssec", "secondaries", "tsig_key"];
pub(super) const DNS_KEY: &[&str] = &["name", "algorithm", "secret"];
pub(super) const DNS_POOL: &[&str] = &[
    "name",
    "names",
    "modes",
    "stripe",
    "client_subnet",
    "ttl",
    "ttl_cut",
    "max_answers",
    "min_up",
    "when_down",
    "persistence_ttl",
    "persistence_hours",
    "share",
    "member",
];
pub(super) const DNS_MEMBER: &[&str] = &["name", "addresses", "site", "line", "service", "weight", "check"];
pub(super) const DNS_TOPOLOGY: &[&str] = &["prefixes", "file", "countries", "continents", "site"];
pub(super) const DNS_GROUP: &[&str] = &["name", "resolvers"];

impl<'t> Section<'t> {
    /// Tells of every key that is not one of `keys`.
    pub fn open(
        walk: &mut Walk,
        title: impl Into<String>,
        place: Place,
        table: &'t DeTable<'t>,
        keys: &'static [&'static str],
    ) -> Section<'t> {
        let section = Section { title: title.into(), place, table, keys };
        for (key, _) in table {
            if !keys.contains(&key.get_ref().as_ref()) {
                let help = section.where_it_belongs(key.get_ref());
                walk.wrong(&key.span(), format!("unknown key {} in {}", ticked(key.get_ref()), section.title), help);
            }
        }
        section
    }

    fn where_it_belongs(&self, key: &str) -> String {
        if let Some(near) = super::value::nearest(key, self.keys.iter().copied()) {
            return format!("did you mean `{near}`?");
        }
        let elsewhere: Vec<&str> =
            SECTIONS.iter().filter(|(_, keys)| keys.contains(&key)).map(|(section, _)| *section).collect();
        if elsewhere.is_empty() {
            format!("its keys are {}", self.keys.join(", "))
        } else {
            format!("it is a key of {}", elsewhere.join(" and "))
        }
    }

    /// The value at `key` and its place.
    pub fn get(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(self.keys.contains(&key), "{key} is not listed for {}", self.title);
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, value)| value)
    }

    /// Where `key` itself is written.
    pub fn key_place(&self, key: &str) -> Option<Place> {
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(key, _)| key.span())
    }

    /// What `read` makes of the value at `key`. None: it is not there, or it is wrong, and that has been told.
    pub fn read<T>(
        &self,
        walk: &mut Walk,
        key: &'static str,
        read: impl FnOnce(&DeValue) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        let value = self.get(key)?;
        match read(value.get_ref()) {
            Ok(read) => Some(At { value: read, place: value.span() }),
            Err(Problem { message, help }) => {
                walk.wrong(&value.span(), format!("`{key}` {message}"), help);
                None
            }
        }
    }

    /// As [`Section::read`]; a key that is not there counts as `default`.
    pub fn or<T>(
        &self,
        walk: &mut Walk,
        key: &'static str,
        read: impl FnOnce(&DeValue) -> Result<T, Problem>,
        default: T,
    ) -> At<T> {
        self.read(walk, key, read).unwrap_or_else(|| At { value: default, place: self.place.clone() })
    }

    /// As [`Section::read`]; a key that is not there is told, with `example` for a hint.
    pub fn required<T>(
        &self,
        walk: &mut Walk,
        key: &'static str,
        read: impl FnOnce(&DeValue) -> Result<T, Problem>,
        example: &str,
    ) -> Option<At<T>> {
        if self.get(key).is_none() {
            self.missing(walk, key, example);
        }
        self.read(walk, key, read)
    }

    fn missing(&self, walk: &mut Walk, key: &str, example: &str) {
        walk.absent(&self.place, format!("{} has no `{key}`", self.title), format!("add: {key} = {example}"));
    }

    /// The values of the list at `key` that `read` can make something of.
    pub fn list<T>(
        &self,
        walk: &mut Walk,
        key: &'static str,
        read: impl Fn(&DeValue) -> Result<T, Problem>,
        example: &str,
    ) -> Vec<At<T>> {
        let Some(list) = self.get(key) else {
            self.missing(walk, key, example);
            return Vec::new();
        };
        let DeValue::Array(items) = list.get_ref() else {
            walk.wrong(&list.span(), format!("`{key}` must be a list"), format!("write: {key} = {example}"));
            return Vec::new();
        };
        if items.is_empty() {
            walk.wrong(&list.span(), format!("`{key}` is empty"), format!("write: {key} = {example}"));
        }
        let mut values = Vec::new();
        for item in items {
            match read(item.get_ref()) {
                Ok(value) => values.push(At { value, place: item.span() }),
                Err(Problem { message, help }) => {
                    walk.wrong(&item.span(), format!("a value of `{key}` {message}"), help);
                }
            }
        }
        values
    }

    /// The table at `key`, whose header is `[header]`.
    pub fn table(&self, walk: &mut Walk, key: &'static str, header: &str) -> Option<(&'t DeTable<'t>, Place)> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some((table, value.span())),
            _ => {
                let place = self.key_place(key).unwrap_or_else(|| value.span());
                walk.wrong(&place, format!("`{key}` must be one table"), format!("write [{header}], once"));
                None
            }
        }
    }

    /// The tables at `key`, whose header is `[[header]]`.
    pub fn tables(&self, walk: &mut Walk, key: &'static str, header: &str) -> Vec<(&'t DeTable<'t>, Place)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let mut tables = Vec::new();
        let mut misplaced = Vec::new();
        match value.get_ref() {
            DeValue::Array(items) => {
                for item in items {
                    match item.get_ref() {
                        DeValue::Table(table) => tables.push((table, item.span())),
                        _ => misplaced.push(item.span()),
                    }
                }
            }
            other => {
                misplaced.push(self.key_place(key).unwrap_or_else(|| value.span()));
                // Read all the same: what is wrong inside is told too, and nobody misses it.
                if let DeValue::Table(table) = other {
                    tables.push((table, value.span()));
                }
            }
        }
        for place in misplaced {
            walk.wrong(
                &place,
                format!("`{key}` is a list of tables"),
                format!("write [[{header}]], with two brackets, for each"),
            );
        }
        tables
    }
}

fn ticked(key: &str) -> String {
    format!("`{}`", quoted(key).trim_matches('"'))
}
