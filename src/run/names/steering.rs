//! By what pools choose sites: what the configuration asks for and the files of networks say, put together.

use super::geo::{self, Regions};
use crate::config::dns as config;
use crate::config::dns::{Mode, Prefix};
use crate::config::file::io_words;
use crate::dns::steer::prefixes::{MAX_PREFIXES, Prefixes};
use crate::dns::steer::stripe::hash_of;
use crate::dns::steer::{Dynamic, Group, Groups, Place, Plan, Stripe};
use crate::sites::{MAX_SITES, Registry, SiteNumber};
use std::path::Path;
use std::sync::Arc;

/// What pools choose by that only a reload changes.
#[derive(Clone, Default)]
pub struct Lists {
    pub groups: Arc<Groups>,
    pub topology: Arc<Prefixes>,
    /// Of countries and continents.
    pub places: Arc<Prefixes>,
}

/// A longer file of networks is refused, in bytes.
const LONGEST: u64 = 512 << 20;

/// Of what is wrong with one file so many are told.
const TOLD: usize = 10;

fn number(sites: &Registry, name: &str) -> Result<SiteNumber, String> {
    sites.number(name).ok_or_else(|| {
        format!("site {name} is one more than the {MAX_SITES} that farside can know of from start to end: restart it")
    })
}

/// None: all of a pool's addresses are answered. The error is a sentence.
pub fn plan(pool: &config::Pool, sites: &Registry) -> Result<Option<Plan>, String> {
    if pool.modes == [Mode::RoundRobin] {
        return Ok(None);
    }
    let has = |mode| pool.modes.contains(&mode);
    let place = |member: &config::Member| {
        Ok(Place { site: number(sites, &member.site)?, hash: hash_of(&member.site, &member.name) })
    };
    let members = pool.members.iter();
    let of = members.map(|member| (member.name.as_str(), member.site.as_str(), &*member.addresses));
    let share = Dynamic::share_of(&pool.share, of);
    let method = match pool.stripe {
        config::Stripe::Rendezvous => Stripe::Rendezvous,
        config::Stripe::Modulus => Stripe::Modulus,
    };
    Ok(Some(Plan {
        dynamic: has(Mode::Dynamic).then(|| Dynamic { share, ttl_by_hour_s: pool.persistence_by_hour_s() }),
        topology: has(Mode::Topology),
        stripe: has(Mode::Stripe).then_some(method),
        metrics: has(Mode::Metrics),
        client_subnet: pool.client_subnet,
        places: pool.members.iter().map(place).collect::<Result<_, String>>()?,
    }))
}

/// Reads the files. The errors are sentences, at least one.
pub fn lists(config: &config::Dns, sites: &Registry) -> Result<Lists, Vec<String>> {
    let group = |group: &config::Group| Group { name: group.name.clone(), resolvers: group.resolvers.clone() };
    let groups: Vec<Group> = config.groups.iter().map(group).collect();
    let groups = Groups::new(&groups, config.group_mask_v4, config.group_mask_v6)
        .map_err(|_| vec!["a network is in two groups".to_string()])?;
    let (topology, places) = (topology(config, sites)?, places(config, sites).map_err(|sentence| vec![sentence])?);
    Ok(Lists { groups: Arc::new(groups), topology: Arc::new(topology), places: Arc::new(places) })
}

fn places(config: &config::Dns, sites: &Registry) -> Result<Prefixes, String> {
    let Some(path) = &config.geo_database else { return Ok(Prefixes::default()) };
    let mut regions = Regions::default();
    for topology in &config.topologies {
        let site = u32::from(number(sites, &topology.site)?.0);
        regions.countries.extend(topology.countries.iter().map(|code| (code.as_str(), site)));
        regions.continents.extend(topology.continents.iter().map(|code| (code.as_str(), site)));
    }
    geo::read(path, &regions)
}

fn topology(config: &config::Dns, sites: &Registry) -> Result<Prefixes, Vec<String>> {
    let mut networks: Vec<(Prefix, u32)> = Vec::new();
    // Of each file: its first network's place, and the networks' lines.
    let mut files: Vec<(&Path, usize, Vec<u32>)> = Vec::new();
    let mut wrong = Vec::new();
    for topology in &config.topologies {
        let site = match number(sites, &topology.site) {
            Ok(site) => u32::from(site.0),
            Err(sentence) => return Err(vec![sentence]),
        };
        networks.extend(topology.prefixes.iter().map(|prefix| (*prefix, site)));
        let Some(path) = &topology.file else { continue };
        match read(path) {
            Ok((prefixes, lines)) => {
                files.push((path, networks.len(), lines));
                networks.extend(prefixes.into_iter().map(|prefix| (prefix, site)));
            }
            Err(sentences) => wrong.extend(sentences),
        }
    }
    if networks.len() > MAX_PREFIXES {
        wrong.push(format!("[[dns.topology]] has {} networks, more than {MAX_PREFIXES}", networks.len()));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Prefixes::new(&networks).map_err(|twice| {
        let places =
            [twice.first, twice.second].map(|at| match files.iter().rev().find(|(_, first, _)| *first <= at) {
                Some((path, first, lines)) if at - first < lines.len() => {
                    format!("{}, line {}", path.display(), lines[at - first])
                }
                _ => "the configuration".to_string(),
            });
        vec![format!(
            "{} belongs to two sites: by {} and by {}; leave one of them out",
            networks[twice.first].0, places[0], places[1]
        )]
    })
}

/// A file's networks and their lines: one on a line, `#` begins a comment. The errors are sentences.
fn read(path: &Path) -> Result<(Vec<Prefix>, Vec<u32>), Vec<String>> {
    let unreadable = |why: &str| vec![format!("cannot read the networks in {}: {why}", path.display())];
    let size = std::fs::metadata(path).map_err(|error| unreadable(&io_words(&error)))?.len();
    if size > LONGEST {
        return Err(unreadable("it is longer than 512 MiB"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&io_words(&error)))?;
    let (mut prefixes, mut lines, mut wrong, mut more) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (number, line) in text.lines().enumerate() {
        let written = line.split('#').next().unwrap_or_default().trim();
        if written.is_empty() {
            continue;
        }
        match written.parse::<Prefix>() {
            Ok(prefix) => {
                prefixes.push(prefix);
                lines.push(number as u32 + 1);
            }
            Err(_) if wrong.len() == TOLD => more += 1,
            Err(why) => {
                let shown: String = written.chars().take(60).flat_map(char::escape_debug).collect();
                wrong.push(format!("{}, line {}: \"{shown}\" {why}", path.display(), number + 1));
            }
        }
    }
    if more > 0 {
        wrong.push(format!("{}: {more} more lines are wrong", path.display()));
    }
    if wrong.is_empty() { Ok((prefixes, lines)) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;

    /// What is made of two lists, the second of which is a file with this text.
    fn made(text: &str) -> Result<Lists, String> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("nets"), text).unwrap();
        let config = "[site]\nname = \"south\"\n[[peer]]\nname = \"north\"\nproxy_addresses = [\"198.51.100.250\"]\n\
                      [dns]\nlisten = [\"203.0.113.1:53\"]\n[[dns.zone]]\norigin = \"a.example\"\nfile = \"z\"\n\
                      [[dns.topology]]\nprefixes = [\"10.0.0.0/8\"]\nsite = \"south\"\n\
                      [[dns.topology]]\nfile = \"nets\"\nsite = \"north\"\n";
        let path = directory.path().join("farside.toml").display().to_string();
        let dns = parse(config, &path).unwrap().dns.unwrap();
        let beside = format!("{}/", directory.path().display());
        lists(&dns, &Registry::default()).map_err(|sentences| sentences.join("\n").replace(&beside, ""))
    }

    #[test]
    fn a_file_has_a_network_on_each_line() {
        let topology = made("# of the north\n10.1.0.0/16 # all\n\n  2001:db8::/32\n").unwrap().topology;
        let site = |text: &str| topology.find(text.parse().unwrap()).map(|(_, site)| site);
        assert_eq!(["10.1.9.9", "10.2.0.1", "2001:db8::1", "11.0.0.1"].map(site), [Some(1), Some(0), Some(1), None]);
    }

    #[test]
    fn all_that_is_wrong_with_a_file_is_told_with_its_line() {
        let wrong = |text: &str| made(text).err().unwrap();
        assert_eq!(
            wrong("10.1.0.0/16\nnowhere\n10.2.0.1/16\n"),
            "nets, line 2: \"nowhere\" is no address or prefix\n\
             nets, line 3: \"10.2.0.1/16\" has bits set behind its prefix: the network is 10.2.0.0/16"
        );
        let many = wrong(&"x\n".repeat(30));
        assert!(many.lines().count() == 11 && many.ends_with("nets: 20 more lines are wrong"), "{many}");
        assert_eq!(
            wrong("10.1.0.0/16\n10.0.0.0/8\n"),
            "10.0.0.0/8 belongs to two sites: by the configuration and by nets, line 2; leave one of them out"
        );
    }

    #[test]
    fn a_million_networks_are_found_in() {
        let text: String = (0..1_000_000u32).map(|n| format!("{}/28\n", std::net::Ipv4Addr::from(n << 5))).collect();
        let topology = made(&text).unwrap().topology;
        let site =
            |address: u32| topology.find(Prefix::of(std::net::Ipv4Addr::from(address).into(), 32)).map(|(_, at)| at);
        assert_eq!(
            [site(77 << 5 | 15), site(77 << 5 | 16), site(999_999 << 5), site(u32::MAX)],
            [Some(1), None, Some(1), None]
        );
    }
}
