//! What a reload changes of lines and DNS, in words. What a zone's file says is not the configuration's.

use super::super::diff::{Changes, Pair, check};
use super::super::{Config, Word};
use super::{Dns, Group, Hours, Key, Line, Member, Mode, Pool, Topology, WhenDown, Zone};
use std::net::IpAddr;

/// What is taken at start and kept: `keep` is told of each key whether it is the same.
pub(in super::super) fn fixed(old: &Config, new: &Config, keep: &mut impl FnMut(bool, &str)) {
    match (&old.dns, &new.dns) {
        (Some(old), Some(new)) => {
            keep(old.listen == new.listen, "[dns] listen");
            keep(old.fast_path == new.fast_path, "[dns] fast_path");
            keep(old.state_dir == new.state_dir, "[dns] state_dir");
            keep(old.tcp.max_connections == new.tcp.max_connections, "[dns] max_tcp");
            keep(old.tcp.max_per_client == new.tcp.max_per_client, "[dns] max_tcp_per_client");
            keep(old.tcp.idle == new.tcp.idle, "[dns] tcp_idle");
            keep(old.rate_limit == new.rate_limit, "[dns] rate_limit");
            keep(old.slip == new.slip, "[dns] slip");
            keep(old.max_records == new.max_records, "[dns] max_records");
        }
        (old, new) => keep(old.is_some() == new.is_some(), "whether there is a [dns]"),
    }
}

pub(in super::super) fn lines(changes: &mut Changes, old: &[Line], new: &[Line]) {
    changes.named(
        old,
        new,
        |line| line.name.clone(),
        |changes, lines| match lines {
            Pair::Added(line) => changes.say(format!("added line {} ({})", line.name, line.address)),
            Pair::Removed(line) => changes.say(format!("removed line {} ({})", line.name, line.address)),
            Pair::Both(old, new) => {
                let subject = format!("line {}", new.name);
                let Line { name: _, address, targets, need, check: was } = old;
                changes.value(&subject, "address", address, &new.address);
                changes.addresses(&subject, "target", targets, &new.targets);
                changes.word(&subject, "need", *need, new.need);
                check(changes, &subject, was, &new.check);
            }
        },
    );
}

pub(in super::super) fn dns(changes: &mut Changes, old: &Dns, new: &Dns) {
    changes.value("dns", "nsid", &shown(&old.nsid), &shown(&new.nsid));
    changes.value("dns", "version", &shown(&old.version), &shown(&new.version));
    let server = |dns: &Dns| {
        dns.redis.as_ref().map_or("none".into(), |redis| format!("{} under {}", redis.address, redis.prefix))
    };
    if old.redis != new.redis && server(old) == server(new) {
        changes.say("dns: the password file of redis changed".into());
    }
    changes.value("dns", "learn_groups", &or_none(&old.learn_groups), &or_none(&new.learn_groups));
    changes.value("dns", "measure_resolvers", &old.measure_resolvers, &new.measure_resolvers);
    changes.duration("dns", "measure_every", old.measure_every, new.measure_every);
    changes.value("dns", "redis", &server(old), &server(new));
    changes.named(&old.keys, &new.keys, |key| key.name.clone(), keys);
    changes.named(&old.zones, &new.zones, |zone| zone.origin.clone(), zones);
    changes.named(&old.pools, &new.pools, |pool| pool.name.clone(), pools);
    let path =
        |file: &Option<std::path::PathBuf>| file.as_ref().map_or("none".into(), |file| file.display().to_string());
    changes.value("dns", "geo_database", &path(&old.geo_database), &path(&new.geo_database));
    changes.value("dns", "group_mask_v4", &old.group_mask_v4, &new.group_mask_v4);
    changes.value("dns", "group_mask_v6", &old.group_mask_v6, &new.group_mask_v6);
    changes.named(&old.groups, &new.groups, |group| group.name.clone(), groups);
    topologies(changes, &old.topologies, &new.topologies);
}

fn groups(changes: &mut Changes, groups: Pair<Group>) {
    match groups {
        Pair::Added(group) => changes.say(format!("dns: added group {}", group.name)),
        Pair::Removed(group) => changes.say(format!("dns: removed group {}", group.name)),
        Pair::Both(old, new) if old.resolvers != new.resolvers => {
            changes.say(format!("dns: group {}: resolvers changed", new.name));
        }
        Pair::Both(..) => {}
    }
}

/// They have no names; files are compared by their names.
fn topologies(changes: &mut Changes, old: &[Topology], new: &[Topology]) {
    let of = |topologies: &[Topology], site: &str| -> Vec<Topology> {
        topologies.iter().filter(|topology| topology.site == site).cloned().collect()
    };
    let mut sites: Vec<&str> = old.iter().chain(new).map(|topology| topology.site.as_str()).collect();
    sites.sort_unstable();
    sites.dedup();
    for site in sites.into_iter().filter(|site| of(old, site) != of(new, site)) {
        changes.say(format!("dns: topology of site {site} changed"));
    }
}

fn shown(text: &str) -> String {
    format!("\"{text}\"")
}

/// Without their secrets.
fn keys(changes: &mut Changes, keys: Pair<Key>) {
    match keys {
        Pair::Added(key) => changes.say(format!("dns: added key {}", key.name)),
        Pair::Removed(key) => changes.say(format!("dns: removed key {}", key.name)),
        Pair::Both(old, new) => {
            let subject = format!("dns: key {}", new.name);
            changes.word(&subject, "algorithm", old.algorithm, new.algorithm);
            if old.secret != new.secret {
                changes.say(format!("{subject}: secret changed"));
            }
        }
    }
}

fn zones(changes: &mut Changes, zones: Pair<Zone>) {
    match zones {
        Pair::Added(zone) => changes.say(format!("added zone {}", zone.origin)),
        Pair::Removed(zone) => changes.say(format!("removed zone {}", zone.origin)),
        Pair::Both(old, new) => {
            let subject = format!("zone {}", new.origin);
            let Zone { origin: _, file, dnssec, secondaries, tsig_key } = old;
            changes.value(&subject, "file", &file.display().to_string(), &new.file.display().to_string());
            changes.value(&subject, "dnssec", dnssec, &new.dnssec);
            changes.addresses(&subject, "secondary", secondaries, &new.secondaries);
            changes.value(&subject, "tsig_key", &or_none(tsig_key), &or_none(&new.tsig_key));
        }
    }
}

fn or_none(name: &Option<String>) -> String {
    name.clone().unwrap_or("none".into())
}

fn pools(changes: &mut Changes, pools: Pair<Pool>) {
    match pools {
        Pair::Added(pool) => changes.say(format!("added pool {} ({})", pool.name, pool.names.join(", "))),
        Pair::Removed(pool) => changes.say(format!("removed pool {} ({})", pool.name, pool.names.join(", "))),
        Pair::Both(old, new) => {
            let subject = format!("pool {}", new.name);
            let Pool { name: _, names, ttl, ttl_cut, max_answers, min_up, when_down, members: was, .. } = old;
            let Pool { modes, stripe, client_subnet, persistence_ttl, persistence_hours, share, .. } = old;
            let hours = |hours: &[Hours]| hours.iter().map(Hours::words).collect::<Vec<_>>().join(", ");
            let listed = |modes: &[Mode]| modes.iter().map(|mode| mode.word()).collect::<Vec<_>>().join(", ");
            changes.value(&subject, "names", &names.join(", "), &new.names.join(", "));
            changes.value(&subject, "modes", &listed(modes), &listed(&new.modes));
            changes.word(&subject, "stripe", *stripe, new.stripe);
            changes.value(&subject, "client_subnet", client_subnet, &new.client_subnet);
            changes.duration(&subject, "persistence_ttl", *persistence_ttl, new.persistence_ttl);
            changes.value(&subject, "persistence_hours", &hours(persistence_hours), &hours(&new.persistence_hours));
            changes.value(&subject, "share", &shown(share), &shown(&new.share));
            changes.duration(&subject, "ttl", *ttl, new.ttl);
            changes.value(&subject, "ttl_cut", ttl_cut, &new.ttl_cut);
            changes.value(&subject, "max_answers", max_answers, &new.max_answers);
            changes.value(&subject, "min_up", min_up, &new.min_up);
            changes.value(&subject, "when_down", &last_resort(when_down), &last_resort(&new.when_down));
            changes.named(
                was,
                &new.members,
                |member| member.name.clone(),
                |changes, pair| members(changes, &subject, pair),
            );
        }
    }
}

fn last_resort(when_down: &WhenDown) -> String {
    match when_down {
        WhenDown::All => "all".into(),
        WhenDown::None => "none".into(),
        WhenDown::Member(name) => name.clone(),
    }
}

fn addresses(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn members(changes: &mut Changes, pool: &str, pair: Pair<Member>) {
    match pair {
        Pair::Added(new) => changes.say(format!("{pool}: added member {} ({})", new.name, addresses(&new.addresses))),
        Pair::Removed(old) => {
            changes.say(format!("{pool}: removed member {} ({})", old.name, addresses(&old.addresses)))
        }
        Pair::Both(old, new) => {
            let subject = format!("{pool}: member {}", new.name);
            let Member { name: _, addresses: were, site, line, service, weight, check: was } = old;
            changes.addresses(&subject, "address", were, &new.addresses);
            changes.value(&subject, "site", site, &new.site);
            changes.value(&subject, "line", &or_none(line), &or_none(&new.line));
            changes.value(&subject, "service", &or_none(service), &or_none(&new.service));
            changes.value(&subject, "weight", weight, &new.weight);
            match (was, &new.check) {
                (Some(was), Some(is)) => check(changes, &subject, was, is),
                (None, Some(_)) => changes.say(format!("{subject}: added its check")),
                (Some(_), None) => changes.say(format!("{subject}: removed its check")),
                (None, None) => {}
            }
        }
    }
}
