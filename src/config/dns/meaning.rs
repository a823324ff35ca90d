//! What of `[[line]]` and `[dns]` must fit together, and with the rest of the file.

use super::super::meaning::{Seen, family};
use super::super::value::{nearest, quoted};
use super::super::walk::{At, Walk};
use super::super::written::Written;
use super::written;
use super::{Dns, Key, Line, MAX_MEMBERS, Member, Pool, WhenDown, Zone, redis, steering};
use std::net::IpAddr;

/// More lines' targets and members' checks than this are refused.
const MAX_CHECKED: usize = 8192;

/// As many interfaces as a data path may have.
const MAX_FAST: usize = 64;

/// Tells of all that does not fit together.
pub(in super::super) fn check(walk: &mut Walk, written: &Written) {
    lines(walk, &written.lines);
    let Some(dns) = &written.dns else {
        if let Some(name) = written.lines.first().and_then(|line| line.name.as_ref()) {
            walk.absent(
                &name.place,
                "there are lines and no [dns]",
                "lines decide what DNS answers: add [dns], or leave them out",
            );
        }
        return;
    };
    listeners(walk, written, dns);
    fast_path(walk, dns);
    zones(walk, dns);
    pools(walk, written, dns);
    steering::check(walk, written, dns);
    let members = dns.pools.iter().flat_map(|pool| &pool.members).filter(|member| member.check.is_some());
    let checked = written.lines.iter().map(|line| line.targets.len()).sum::<usize>()
        + members.map(|member| member.addresses.len()).sum::<usize>();
    if checked > MAX_CHECKED {
        walk.wrong(
            &dns.place,
            format!("{checked} targets of lines and checked addresses of members are more than {MAX_CHECKED}"),
            "leave out checks that lines or services answer for already",
        );
    }
}

/// Tells of a second one of the same name.
fn once<'w>(walk: &mut Walk, names: &mut Seen<&'w str>, what: &str, name: Option<&'w At<String>>, help: &str) {
    let Some(name) = name else { return };
    if let Some(first) = names.before(name.value.as_str(), &name.place) {
        walk.collides(&name.place, &first, "first here", format!("two {what} are named {}", quoted(&name.value)), help);
    }
}

fn lines(walk: &mut Walk, lines: &[written::Line]) {
    let (mut names, mut addresses) = (Seen::new(), Seen::new());
    for line in lines {
        once(walk, &mut names, "lines", line.name.as_ref(), "give each line a name of its own");
        let Some(address) = &line.address else { continue };
        if let Some(first) = addresses.before(address.value, &address.place) {
            let message = format!("two lines have the address {}", address.value);
            walk.collides(&address.place, &first, "first here", message, "write this host's address on each line");
        }
        for target in line.targets.iter().filter(|target| target.value.is_ipv4() != address.value.is_ipv4()) {
            let (of, is) = (family(address.value), family(target.value));
            let message = format!("target {} is {is}, and the line's address {} is {of}", target.value, address.value);
            walk.collides(
                &target.place,
                &address.place,
                "the line's",
                message,
                "a [[line]] is of one family: add another",
            );
        }
        let mut targets = Seen::new();
        for target in &line.targets {
            if let Some(first) = targets.before(target.value, &target.place) {
                let message = format!("target {} is listed twice", target.value);
                walk.collides(&target.place, &first, "first here", message, "list each target once");
            }
        }
    }
}

fn listeners(walk: &mut Walk, written: &Written, dns: &written::Dns) {
    let mut seen = Seen::new();
    for listen in &dns.listen {
        if let Some(first) = seen.before(listen.value, &listen.place) {
            let message = format!("{} is listed twice", listen.value);
            walk.collides(&listen.place, &first, "first here", message, "list each address once");
        }
        let vip = written.services.iter().filter_map(|service| service.vip.as_ref());
        if let Some(vip) = vip.into_iter().find(|vip| vip.value == listen.value.ip()) {
            let message =
                format!("DNS cannot listen on {}: it is a VIP, which this host's own stack does not have", vip.value);
            walk.collides(&listen.place, &vip.place, "a VIP", message, "write an address of this host");
        }
    }
}

fn fast_path(walk: &mut Walk, dns: &written::Dns) {
    let mut seen = Seen::new();
    for interface in &dns.fast_path {
        if let Some(first) = seen.before(interface.value.as_str(), &interface.place) {
            let message = format!("interface {} is listed twice", interface.value);
            walk.collides(&interface.place, &first, "first here", message, "name each interface once");
        }
    }
    if let Some(one_too_many) = dns.fast_path.get(MAX_FAST) {
        walk.wrong(&one_too_many.place, format!("more than {MAX_FAST} interfaces"), format!("list at most {MAX_FAST}"));
    }
}

fn zones(walk: &mut Walk, dns: &written::Dns) {
    // For sites' states alone no zone is needed.
    if dns.zones.is_empty() && dns.redis.is_none() {
        walk.absent(
            &dns.place,
            "[dns] has no zone",
            "add: [[dns.zone]] with origin = \"company.example.\" and file = \"company.example.zone\"",
        );
    }
    let (mut origins, mut keys) = (Seen::new(), Seen::new());
    for key in &dns.keys {
        once(walk, &mut keys, "keys", key.name.as_ref(), "give each key a name of its own");
    }
    for zone in &dns.zones {
        once(walk, &mut origins, "zones", zone.origin.as_ref(), "a zone has one file");
        let copied_by = zone.secondaries.first().map(|first| &first.place);
        if let (true, Some(place)) = (zone.dnssec.value, copied_by.or(zone.tsig_key.as_ref().map(|key| &key.place))) {
            walk.collides(
                place,
                &zone.dnssec.place,
                "signed here",
                "a zone that is signed is not transferred in this version",
                "farside signs each answer as it gives it, and a copy of the zone has no signatures: leave one of them out",
            );
        }
        if let Some(wanted) = &zone.tsig_key {
            let known = dns.keys.iter().filter_map(|key| key.name.as_ref()).map(|key| key.value.as_str());
            there(walk, wanted, "key", "[[dns.key]]", known);
        }
    }
}

/// Tells if `wanted` is not among `known`.
pub(super) fn there<'w>(
    walk: &mut Walk,
    wanted: &At<String>,
    what: &str,
    header: &str,
    known: impl Iterator<Item = &'w str>,
) {
    let known: Vec<&str> = known.collect();
    if known.contains(&wanted.value.as_str()) {
        return;
    }
    let help = match nearest(&wanted.value, known.into_iter()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("add a {header} with name = {}", quoted(&wanted.value)),
    };
    walk.absent(&wanted.place, format!("there is no {what} {}", quoted(&wanted.value)), help);
}

fn pools(walk: &mut Walk, written: &Written, dns: &written::Dns) {
    if let Some(suffix) = &dns.learn_groups
        && !dns
            .zones
            .iter()
            .any(|zone| zone.origin.as_ref().is_none_or(|origin| is_within(&suffix.value, &origin.value)))
    {
        let message = format!("{} lies in none of the zones", suffix.value);
        walk.absent(&suffix.place, message, "write the whole name, of a wildcard in one of the zones");
    }
    let (mut names, mut owners) = (Seen::new(), Seen::new());
    for pool in &dns.pools {
        once(walk, &mut names, "pools", pool.name.as_ref(), "give each pool a name of its own");
        for name in &pool.names {
            if let Some(first) = owners.before(name.value.as_str(), &name.place) {
                let message = format!("{} is a name of two pools, or of one twice", name.value);
                walk.collides(&name.place, &first, "first here", message, "a name's addresses come from one pool");
            }
            // One that is wrong may be the one that is meant.
            let within = |origin: &At<String>| is_within(&name.value, &origin.value);
            if !dns.zones.iter().any(|zone| zone.origin.as_ref().is_none_or(within)) {
                let message = format!("{} lies in none of the zones", name.value);
                walk.absent(&name.place, message, "write the whole name, or add its [[dns.zone]]");
            }
        }
        members(walk, written, pool);
    }
}

/// Both absolute and in small letters.
fn is_within(name: &str, origin: &str) -> bool {
    origin == "." || name == origin || name.strip_suffix(origin).is_some_and(|rest| rest.ends_with('.'))
}

fn members(walk: &mut Walk, written: &Written, pool: &written::Pool) {
    if pool.members.is_empty() {
        let help = "add: [[dns.pool.member]] with name = \"isp1\" and addresses = [\"203.0.113.10\"]";
        walk.absent(&pool.place, format!("{} has no member", pool.title), help);
        return;
    }
    if let Some(name) = pool.members.get(MAX_MEMBERS).and_then(|member| member.name.as_ref()) {
        let message = format!("{} has more than {MAX_MEMBERS} members", pool.title);
        walk.wrong(&name.place, message, "give one member several addresses, or make two pools");
    }
    let (mut names, mut addresses) = (Seen::new(), Seen::new());
    for member in &pool.members {
        let what = format!("members of {}", pool.title);
        once(walk, &mut names, &what, member.name.as_ref(), "give each member of a pool a name of its own");
        for address in &member.addresses {
            if let Some(first) = addresses.before(address.value, &address.place) {
                let message = format!("{} is in {} twice", address.value, pool.title);
                walk.collides(
                    &address.place,
                    &first,
                    "first here",
                    message,
                    "to have it answered more often, raise its weight",
                );
            }
        }
        if let Some(line) = &member.line {
            let known = written.lines.iter().filter_map(|line| line.name.as_ref()).map(|name| name.value.as_str());
            there(walk, line, "line", "[[line]]", known);
        }
        if let Some(service) = &member.service {
            let known = written.services.iter().filter_map(|service| service.name.as_ref());
            there(walk, service, "service", "[[service]]", known.map(|name| name.value.as_str()));
        }
        if let Some(site) = &member.site {
            let peers = written.peers.iter().filter_map(|peer| peer.name.as_ref());
            let known = peers.chain([&written.site]).map(|name| name.value.as_str());
            there(walk, site, "site", "[[peer]]", known);
        }
        family_of_line(walk, written, member);
    }
    if pool.when_down.value != "all" && pool.when_down.value != "none" {
        let known = pool.members.iter().filter_map(|member| member.name.as_ref()).map(|name| name.value.as_str());
        there(walk, &pool.when_down, "member", "[[dns.pool.member]]", known);
    }
    if pool.min_up.value as usize > pool.members.len() {
        walk.wrong(
            &pool.min_up.place,
            format!("{} can never have {} members up: it has {}", pool.title, pool.min_up.value, pool.members.len()),
            "lower `min_up`, or add members",
        );
    }
}

/// A member's check is sent from its line's address.
fn family_of_line(walk: &mut Walk, written: &Written, member: &written::Member) {
    let (Some(name), Some(_)) = (&member.line, &member.check) else { return };
    let named = |line: &&written::Line| line.name.as_ref().is_some_and(|own| own.value == name.value);
    let Some(line) = written.lines.iter().find(named).and_then(|line| line.address.as_ref()) else { return };
    for address in member.addresses.iter().filter(|address| address.value.is_ipv4() != line.value.is_ipv4()) {
        let (of, is) = (family(line.value), family(address.value));
        let message = format!(
            "{} is {is} and would be checked from its line's address {}, which is {of}",
            address.value, line.value
        );
        let help = "make two members, each with a [[line]] of its family, or leave out `check` or `line`";
        walk.collides(&address.place, &line.place, "the line's", message, help);
    }
}

/// None: something required is not there, and that has been told; so below.
pub(in super::super) fn line(line: written::Line) -> Option<Line> {
    Some(Line {
        name: line.name?.value,
        address: line.address?.value,
        targets: values(line.targets),
        need: line.need,
        check: line.check,
    })
}

fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|item| item.value).collect()
}

pub(in super::super) fn dns(dns: written::Dns, site: &str) -> Option<Dns> {
    let zone = |zone: written::Zone| {
        Some(Zone {
            origin: zone.origin?.value,
            file: zone.file?.value.into(),
            dnssec: zone.dnssec.value,
            secondaries: values(zone.secondaries),
            tsig_key: zone.tsig_key.map(|key| key.value),
        })
    };
    let key =
        |key: written::Key| Some(Key { name: key.name?.value, algorithm: key.algorithm, secret: key.secret?.value });
    Some(Dns {
        listen: values(dns.listen),
        fast_path: values(dns.fast_path),
        state_dir: dns.state_dir.into(),
        nsid: dns.nsid,
        version: dns.version,
        rate_limit: dns.rate_limit,
        slip: dns.slip,
        tcp: dns.tcp,
        zones: dns.zones.into_iter().map(zone).collect::<Option<_>>()?,
        keys: dns.keys.into_iter().map(key).collect::<Option<_>>()?,
        pools: dns.pools.into_iter().map(|written| pool(written, site)).collect::<Option<_>>()?,
        topologies: dns.topologies.into_iter().map(steering::topology_meant).collect::<Option<_>>()?,
        groups: dns.groups.into_iter().map(steering::group_meant).collect::<Option<_>>()?,
        geo_database: dns.geo_database.map(|file| file.value.into()),
        group_mask_v4: dns.group_mask_v4,
        group_mask_v6: dns.group_mask_v6,
        max_records: dns.max_records,
        learn_groups: dns.learn_groups.map(|name| name.value),
        measure_resolvers: dns.measure_resolvers,
        measure_every: dns.measure_every,
        redis: match dns.redis {
            Some(written) => Some(redis::meant(written)?),
            None => None,
        },
    })
}

fn pool(pool: written::Pool, site: &str) -> Option<Pool> {
    let member = |member: written::Member| {
        Some(Member {
            name: member.name?.value,
            addresses: values::<IpAddr>(member.addresses),
            site: member.site.map_or_else(|| site.to_string(), |site| site.value),
            line: member.line.map(|line| line.value),
            service: member.service.map(|service| service.value),
            weight: member.weight,
            check: member.check,
        })
    };
    Some(Pool {
        name: pool.name?.value,
        names: values(pool.names),
        modes: values(pool.modes),
        stripe: pool.stripe,
        client_subnet: pool.client_subnet,
        persistence_ttl: pool.persistence_ttl,
        persistence_hours: pool.persistence_hours,
        share: pool.share,
        ttl: pool.ttl,
        ttl_cut: pool.ttl_cut,
        max_answers: pool.max_answers,
        min_up: pool.min_up.value,
        when_down: match pool.when_down.value.as_str() {
            "all" => WhenDown::All,
            "none" => WhenDown::None,
            name => WhenDown::Member(name.into()),
        },
        members: pool.members.into_iter().map(member).collect::<Option<_>>()?,
    })
}
