//! Zones as they are served: read and checked with their pools, put out in versions, each under its serial.

use super::steering::{self, Lists};
use crate::affinity::{Share, Store};
use crate::config::dns as config;
use crate::dns::dnssec::{Key, files};
use crate::dns::master;
use crate::dns::pool::{Member, Pool, PoolState, WhenDown};
use crate::dns::serve::serial::{Serials, unix_s};
use crate::dns::serve::sign::Keys;
use crate::dns::serve::{Access, SLOTS, Served, Transfers, VERSIONS};
use crate::dns::snapshot::{Cookies, RateLimit, Settings, Snapshot};
use crate::dns::steer::learn::Learner;
use crate::dns::steer::{Memory, Steering, Survey};
use crate::dns::{Contents, Name, Zone};
use crate::sites::{Registry, SiteTable, Ways};
use std::collections::HashMap;
use std::sync::Arc;
use tracing::{error, info};

/// What the files say.
pub struct Loaded {
    zones: Vec<(Arc<Contents>, Access)>,
    keys: Keys,
    lists: Lists,
}

/// What is wrong with zones' files.
pub struct ZoneFilesWrong {
    /// At least one.
    pub count: usize,
    pub rendered: String,
}

/// Numbers of zones and of pools, by which they are counted; a name keeps its own over reloads.
#[derive(Default)]
pub struct Slots {
    zones: HashMap<String, u16>,
    pools: HashMap<String, u16>,
    /// Likewise of sites.
    pub sites: Arc<Registry>,
    /// What is known of sites' loads.
    pub table: Arc<SiteTable>,
}

fn slot(slots: &mut HashMap<String, u16>, name: &str) -> u16 {
    // Those that are too many are not counted.
    let next = slots.len().min(SLOTS) as u16;
    *slots.entry(name.to_string()).or_insert(next)
}

impl Slots {
    pub fn zone(&mut self, origin: &str) -> u16 {
        slot(&mut self.zones, origin)
    }

    pub fn pool(&mut self, name: &str) -> u16 {
        slot(&mut self.pools, name)
    }

    pub fn known_pool(&self, name: &str) -> Option<u16> {
        self.pools.get(name).copied()
    }
}

/// Reads all zones' files and checks them, with terminal colours in errors if `styled`.
pub fn load(config: &config::Dns, slots: &mut Slots, styled: bool) -> Result<Loaded, ZoneFilesWrong> {
    let sentence = |rendered: String| ZoneFilesWrong { count: 1, rendered };
    let pools: Result<Vec<Arc<Pool>>, String> =
        config.pools.iter().map(|pool| meant(pool, slots.pool(&pool.name), &slots.sites).map(Arc::new)).collect();
    let pools = pools.map_err(sentence)?;
    let (mut zones, mut wrong) = (Vec::new(), Vec::new());
    let mut count = 0;
    let lists = steering::lists(config, &slots.sites).unwrap_or_else(|sentences| {
        count += sentences.len();
        wrong.extend(sentences.into_iter().map(|sentence| format!("error: {sentence}")));
        Lists::default()
    });
    for zone in &config.zones {
        let origin = name(&zone.origin).map_err(sentence)?;
        let mut read = |path: &std::path::Path| std::fs::read(path);
        let signer = match zone.dnssec.then(|| files::load(&config.keys_dir(), &origin)).transpose() {
            Ok(signer) => signer.map(Arc::new),
            Err(sentence) => {
                count += 1;
                wrong.push(format!("error: zone {origin}: {sentence}"));
                continue;
            }
        };
        match master::load_signed(&origin, &zone.file, &pools, signer.as_ref(), &mut read) {
            Ok(contents) => zones.push((Arc::new(contents), access(zone).map_err(sentence)?)),
            Err(errors) => {
                count += errors.count();
                wrong.push(errors.render(styled));
            }
        }
    }
    if count > 0 {
        return Err(ZoneFilesWrong { count, rendered: wrong.join("\n\n") });
    }
    Ok(Loaded { zones, keys: Keys::new(&config.keys).map_err(sentence)?, lists })
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|why| format!("the name {text} cannot be: {why}"))
}

fn access(zone: &config::Zone) -> Result<Access, String> {
    let key = zone.tsig_key.as_deref().map(name).transpose()?;
    Ok(Access { secondaries: zone.secondaries.clone(), key })
}

fn meant(pool: &config::Pool, slot: u16, sites: &Registry) -> Result<Pool, String> {
    let index = |name: &str| pool.members.iter().position(|member| member.name == name).unwrap_or(0);
    let member = |member: &config::Member| Member {
        name: member.name.clone(),
        addresses: member.addresses.clone(),
        weight: member.weight,
    };
    Ok(Pool {
        name: pool.name.clone(),
        slot,
        names: pool.names.iter().map(|text| name(text)).collect::<Result<_, _>>()?,
        ttl_s: pool.ttl.as_secs() as u32,
        max_answers: pool.max_answers as usize,
        min_up: pool.min_up as usize,
        when_down: match &pool.when_down {
            config::WhenDown::All => WhenDown::All,
            config::WhenDown::None => WhenDown::None,
            config::WhenDown::Member(name) => WhenDown::Member(index(name)),
        },
        members: pool.members.iter().map(member).collect(),
        plan: steering::plan(pool, sites)?,
    })
}

/// What holds for all zones.
pub fn settings(config: &config::Dns, cookies: Option<Cookies>) -> Settings {
    let rate_limit = (config.rate_limit > 0).then(|| RateLimit {
        per_second: config.rate_limit,
        slip: config.slip,
        ..RateLimit::default()
    });
    Settings {
        nsid: config.nsid.clone().into_bytes(),
        version: config.version.clone(),
        cookies,
        rate_limit,
        ..Settings::default()
    }
}

/// Of what the zone's file says.
fn print_of(contents: &Arc<Contents>) -> u128 {
    let states = vec![NOTHING_UP; contents.pools().len()];
    Zone::new(contents.clone(), &states, 0, 0).fingerprint()
}

const NOTHING_UP: PoolState = PoolState { up: 0, ttl_most_s: u32::MAX };

/// A zone that is served.
pub struct Entry {
    pub origin: String,
    pub slot: u16,
    pub access: Access,
    contents: Arc<Contents>,
    /// The newest first; none before the first round of checks is done.
    pub versions: Vec<Arc<Zone>>,
}

impl Entry {
    /// The tags of the keys that the zone is signed by, if it is.
    pub fn keys(&self) -> Option<Vec<u16>> {
        self.contents.signer().map(|signer| signer.keys().iter().map(Key::tag).collect())
    }
}

/// All zones that are served.
pub struct Zones {
    pub entries: Vec<Entry>,
    pub keys: Keys,
    serials: Serials,
    settings: Arc<Settings>,
    lists: Lists,
    /// What pools remember by, and the sites' loads.
    memory: Memory,
    loads: Arc<SiteTable>,
    ways: Survey,
    learner: Option<Arc<Learner>>,
}

impl Zones {
    pub fn new(serials: Serials, settings: Settings, loads: Arc<SiteTable>) -> Zones {
        let (entries, keys, lists) = (Vec::new(), Keys::default(), Lists::default());
        let (memory, ways, learner) = (Memory::None, Survey::None, None);
        Zones { entries, keys, serials, settings: Arc::new(settings), lists, memory, loads, ways, learner }
    }

    /// Resolvers' sites are remembered there, from the next [`Zones::put_out`] on.
    pub fn remember(&mut self, store: Arc<Store>) {
        self.memory = Memory::Kept(store);
    }

    /// How far resolvers are is known there, from the next [`Zones::put_out`] on.
    pub fn survey(&mut self, ways: Arc<Ways>) {
        self.ways = Survey::Kept(ways);
    }

    /// Groups of resolvers are learned there, from the next [`Zones::put_out`] on.
    pub fn learn(&mut self, learner: Option<Arc<Learner>>) {
        self.learner = learner;
    }

    pub fn learner(&self) -> Option<&Arc<Learner>> {
        self.learner.as_ref()
    }

    /// What pools share records by.
    pub fn shares(&self) -> Vec<Share> {
        let pools = self.entries.iter().flat_map(|entry| entry.contents.pools());
        let plans = pools.filter_map(|pool| pool.plan.as_ref()?.dynamic.as_ref());
        let mut shares: Vec<Share> = plans.map(|dynamic| dynamic.share).collect();
        shares.sort_unstable();
        shares.dedup();
        shares
    }

    /// Takes what was loaded for what is served from the next [`Zones::put_out`] on; versions of zones that stay are kept.
    /// Which of them say something else than before, in words.
    pub fn take(&mut self, loaded: Loaded, slots: &mut Slots, settings: Settings) -> Vec<String> {
        let mut changed = Vec::new();
        let mut old: HashMap<String, Vec<Arc<Zone>>> =
            self.entries.drain(..).map(|entry| (entry.origin, entry.versions)).collect();
        for (contents, access) in loaded.zones {
            let origin = contents.origin().to_string();
            let slot = slots.zone(&origin);
            let versions = old.remove(&origin).unwrap_or_default();
            if versions.first().is_some_and(|last| print_of(last.contents()) != print_of(&contents)) {
                changed.push(format!("zone {origin}: its file has changed"));
            }
            self.entries.push(Entry { origin, slot, access, contents, versions });
        }
        self.keys = loaded.keys;
        self.lists = loaded.lists;
        if *self.settings != settings {
            self.settings = Arc::new(settings);
        }
        changed
    }

    /// Puts out what is up now, `states` being those of the pools by their slots: a new version of each zone whose record set has
    /// changed. Which those are, and all that is to be served.
    pub fn put_out(&mut self, states: &HashMap<u16, PoolState>) -> (Vec<usize>, Served) {
        let mut changed = Vec::new();
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let of = |pool: &Arc<Pool>| states.get(&pool.slot).copied().unwrap_or(NOTHING_UP);
            let states: Vec<PoolState> = entry.contents.pools().iter().map(of).collect();
            let same = entry.versions.first().filter(|last| Arc::ptr_eq(last.contents(), &entry.contents));
            let draft = match same {
                Some(last) => last.with(&states, last.serial()),
                None => Zone::new(entry.contents.clone(), &states, 0, entry.slot),
            };
            let (serial, written) =
                self.serials.give(&entry.origin, draft.fingerprint(), entry.contents.serial(), unix_s());
            if let Err(sentence) = written {
                error!("{sentence}");
            }
            let version = Arc::new(if draft.serial() == serial { draft } else { draft.with(&states, serial) });
            match entry.versions.first_mut() {
                Some(last) if last.serial() == serial => *last = version,
                _ => {
                    info!("zone {} has serial {serial}", entry.origin);
                    entry.versions.insert(0, version);
                    entry.versions.truncate(VERSIONS);
                    changed.push(index);
                }
            }
        }
        (changed, self.served())
    }

    /// What the last [`Zones::put_out`] left; nothing before the first.
    pub fn served(&self) -> Served {
        let put_out = || self.entries.iter().filter(|entry| !entry.versions.is_empty());
        let transfers = |entry: &Entry| Transfers { versions: entry.versions.clone(), access: entry.access.clone() };
        let zones = put_out().map(|entry| entry.versions[0].clone()).collect();
        let Lists { groups, topology, places } = self.lists.clone();
        let (memory, loads, learner) = (self.memory.clone(), self.loads.clone(), self.learner.clone());
        let steering = Steering { groups, topology, places, memory, loads, ways: self.ways.clone(), learner };
        Served {
            snapshot: Snapshot::new(zones, self.settings.clone()).with(steering),
            transfers: put_out().map(transfers).collect(),
            keys: self.keys.clone(),
        }
    }
}
