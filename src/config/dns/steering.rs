//! By what pools choose sites: modes, `[[dns.topology]]` and `[[dns.group]]`, as written and what of them must fit together.

use super::super::meaning::Seen;
use super::super::value::{self, Problem, quoted};
use super::super::walk::{self, At, Place, Section, Walk};
use super::super::words::Word;
use super::super::written::Written;
use super::meaning::there;
use super::written::{Dns, optional_list, title};
use super::{Group as MeantGroup, Mode, Prefix, Topology as MeantTopology};
use toml::de::{DeTable, DeValue};

pub(in super::super) struct Topology {
    pub title: String,
    pub place: Place,
    pub prefixes: Vec<At<Prefix>>,
    pub file: Option<At<String>>,
    pub countries: Vec<At<String>>,
    pub continents: Vec<At<String>>,
    pub site: Option<At<String>>,
}

pub(in super::super) struct Group {
    pub name: Option<At<String>>,
    pub resolvers: Vec<At<Prefix>>,
}

pub(super) fn topology(walk: &mut Walk, table: &DeTable, place: Place) -> Topology {
    let section = Section::open(walk, "[[dns.topology]]", place.clone(), table, walk::DNS_TOPOLOGY);
    Topology {
        title: section.title.clone(),
        place,
        prefixes: optional_list(walk, &section, "prefixes", prefix, "[\"10.1.0.0/16\", \"2001:db8:1::/48\"]"),
        file: section.read(walk, "file", value::line("a file's path", true)),
        countries: optional_list(walk, &section, "countries", country, "[\"DE\", \"AT\"]"),
        continents: optional_list(walk, &section, "continents", continent, "[\"EU\"]"),
        site: section.required(walk, "site", value::name, "\"south\", this site or a peer"),
    }
}

pub(super) fn group(walk: &mut Walk, table: &DeTable, place: Place) -> Group {
    let section = Section::open(walk, title(table, "dns.group"), place, table, walk::DNS_GROUP);
    Group {
        name: section.required(walk, "name", value::name, "\"isp-resolvers\""),
        resolvers: section.list(walk, "resolvers", prefix, "[\"192.0.2.1\", \"198.51.100.0/28\"]"),
    }
}

/// As databases call them.
const CONTINENTS: [&str; 7] = ["AF", "AN", "AS", "EU", "NA", "OC", "SA"];

fn country(value: &DeValue) -> Result<String, Problem> {
    let code = value::string(value)?;
    if code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(code);
    }
    let help = "write the two capital letters of ISO 3166-1, as in \"DE\"";
    Err(Problem { message: format!("is no country: {}", quoted(&code)), help: help.into() })
}

fn continent(value: &DeValue) -> Result<String, Problem> {
    let code = value::string(value)?;
    if CONTINENTS.contains(&code.as_str()) {
        return Ok(code);
    }
    let help = format!("write one of {}", CONTINENTS.join(", "));
    Err(Problem { message: format!("is no continent: {}", quoted(&code)), help })
}

fn prefix(value: &DeValue) -> Result<Prefix, Problem> {
    let text = value::string(value)?;
    let help = "write an address or a prefix such as \"10.1.0.0/16\" or \"2001:db8:1::/48\"";
    text.parse().map_err(|why| Problem { message: format!("{why}: {}", quoted(&text)), help: help.into() })
}

/// In the order in which they decide; the last one is always told.
pub(super) fn modes(walk: &mut Walk, section: &Section) -> Vec<At<Mode>> {
    let mut modes: Vec<At<Mode>> =
        optional_list(walk, section, "modes", value::word, "[\"topology\", \"stripe\", \"round_robin\"]");
    let rank = |mode: Mode| mode.min(Mode::RoundRobin);
    let words = |modes: &[At<Mode>]| {
        let words: Vec<String> = modes.iter().map(|mode| format!("\"{}\"", mode.value.word())).collect();
        words.join(", ")
    };
    for at in 1..modes.len() {
        let (before, this) = (&modes[at - 1], &modes[at]);
        let (message, help) = match (before.value, this.value) {
            (before, this) if before == this => {
                (format!("mode \"{}\" is listed twice", this.word()), "list each mode once".into())
            }
            (before, this) if rank(before) == rank(this) => (
                "\"round_robin\" and \"metrics\" both come last".into(),
                "choose one of them: what comes last decides always".into(),
            ),
            (before, this) if before > this => {
                let mut sorted = modes.clone();
                sorted.sort_by_key(|mode| mode.value);
                (
                    format!("mode \"{}\" decides before \"{}\", wherever it is listed", this.word(), before.word()),
                    format!("list them in their order: modes = [{}]", words(&sorted)),
                )
            }
            _ => continue,
        };
        walk.collides(&this.place, &before.place, "listed here", message, help);
        break;
    }
    if modes.last().is_none_or(|mode| mode.value < Mode::RoundRobin) {
        modes.push(At { value: Mode::RoundRobin, place: section.place.clone() });
    }
    modes
}

/// Tells of all that does not fit together.
pub(super) fn check(walk: &mut Walk, written: &Written, dns: &Dns) {
    let (mut seen, mut names, mut resolvers) = (Seen::new(), Seen::new(), Seen::new());
    let (mut countries, mut continents) = (Seen::new(), Seen::new());
    for topology in &dns.topologies {
        let regions = || topology.countries.iter().chain(&topology.continents);
        if topology.prefixes.is_empty() && topology.file.is_none() && regions().next().is_none() {
            walk.absent(
                &topology.place,
                format!("{} has neither `prefixes` nor a `file`, `countries` or `continents`", topology.title),
                "add: prefixes = [\"10.1.0.0/16\"], whose resolvers belong to the site",
            );
        }
        if let (Some(region), None) = (regions().next(), &dns.geo_database) {
            walk.absent(
                &region.place,
                "there is no database to look countries and continents up in",
                "add to [dns]: geo_database = \"GeoLite2-Country.mmdb\"",
            );
        }
        for (list, listed) in [(&topology.countries, &mut countries), (&topology.continents, &mut continents)] {
            for region in list {
                if let Some(first) = listed.before(region.value.as_str(), &region.place) {
                    let message = format!("{} is in the topology twice", region.value);
                    walk.collides(&region.place, &first, "first here", message, "a region belongs to one site");
                }
            }
        }
        if let Some(site) = &topology.site {
            let peers = written.peers.iter().filter_map(|peer| peer.name.as_ref());
            there(walk, site, "site", "[[peer]]", peers.chain([&written.site]).map(|name| name.value.as_str()));
        }
        for prefix in &topology.prefixes {
            if let Some(first) = seen.before(prefix.value, &prefix.place) {
                let message = format!("{} is in the topology twice", prefix.value);
                walk.collides(&prefix.place, &first, "first here", message, "a network belongs to one site");
            }
        }
    }
    for group in &dns.groups {
        if let Some(name) = &group.name
            && let Some(first) = names.before(name.value.as_str(), &name.place)
        {
            let message = format!("two groups are named {}", quoted(&name.value));
            walk.collides(&name.place, &first, "first here", message, "give each group a name of its own");
        }
        for prefix in &group.resolvers {
            if let Some(first) = resolvers.before(prefix.value, &prefix.place) {
                let message = format!("{} is in two groups, or in one twice", prefix.value);
                walk.collides(&prefix.place, &first, "first here", message, "a resolver is of one group");
            }
        }
    }
    for mode in dns.pools.iter().flat_map(|pool| &pool.modes) {
        if mode.value == Mode::Topology && dns.topologies.is_empty() {
            walk.absent(
                &mode.place,
                "mode \"topology\" has nothing to go by",
                "add: [[dns.topology]] with prefixes = [\"10.1.0.0/16\"] and site = \"south\"",
            );
        }
    }
}

/// None: something required is not there, and that has been told; so below.
pub(super) fn topology_meant(topology: Topology) -> Option<MeantTopology> {
    Some(MeantTopology {
        prefixes: topology.prefixes.into_iter().map(|prefix| prefix.value).collect(),
        file: topology.file.map(|file| file.value.into()),
        countries: topology.countries.into_iter().map(|country| country.value).collect(),
        continents: topology.continents.into_iter().map(|continent| continent.value).collect(),
        site: topology.site?.value,
    })
}

pub(super) fn group_meant(group: Group) -> Option<MeantGroup> {
    let resolvers = group.resolvers.into_iter().map(|prefix| prefix.value).collect();
    Some(MeantGroup { name: group.name?.value, resolvers })
}
