//! Steering: which site's addresses a resolver is answered. Pools whose only mode is "round_robin" know nothing of it.
//!
//! # Theory of operation
//!
//! [`choose`] asks the pool's modes one after the other, always in the same order; each decides or leaves it to the next:
//!
//! 1. *dynamic*: the site that the store remembers, if the record still holds and the site has a member up;
//!    If it remembers none, the site of the one that asked last of the resolver's learned group ([`learn`]);
//! 2. *topology*: the site that the resolver's address belongs to by the longest network that holds it, if a member is up there;
//! 3. *stripe*: the member that the resolver's number falls on, among those that are up ([`stripe`]);
//! 4. *metrics*: the site with the least load, of these the nearest, as far as that is known; or else, and for "round_robin", the members
//!    in turn.
//!
//! What 2 to 4 have chosen the store remembers for the next time, if the pool's modes have "dynamic".
//!
//! A choice is of a site, and the answer holds addresses of its members only: they lie ready for each site ([`Sites`]), in the orders that
//! a pool's answers have anyway. Each family of addresses is looked at by itself, so a resolver is never sent to a site
//! without an address of the family that it asks for. A record of a site that is up and has none stays as it is, and the answer is chosen
//! as if there were no record: asking for A and AAAA in turn shall not move the record to and fro.
//!
//! While fewer members of a family are up than `min_up` asks for, nothing is chosen and no record is touched: `when_down` says what
//! is answered, as in every pool.

pub mod learn;
mod metrics;
pub mod prefixes;
mod sites;
pub mod stripe;
mod who;

use super::Foreseen;
use crate::affinity::{Hint, Record, Share, Store, Who};
use crate::config::dns::Prefix;
use crate::sites::ways::{Network, Seen};
use crate::sites::{SiteNumber, SiteTable, Ways, same_hash};
use learn::Learner;
use metrics::Least;
use prefixes::Prefixes;
pub(super) use sites::{Family, Sites};
use std::net::IpAddr;
use std::sync::Arc;
pub use stripe::Stripe;
pub(super) use who::Asker;
pub use who::{Group, Groups};

/// By what a pool chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub dynamic: Option<Dynamic>,
    pub topology: bool,
    pub stripe: Option<Stripe>,
    /// By load; or else in turn.
    pub metrics: bool,
    /// A client's network, where the resolver tells it, counts instead of the resolver (RFC 7871).
    pub client_subnet: bool,
    /// Of each member of the pool.
    pub places: Vec<Place>,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub site: SiteNumber,
    /// The same value at all sites: [`stripe::hash_of`].
    pub hash: u64,
}

/// What is remembered of resolvers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dynamic {
    pub share: Share,
    /// How long after the last question, by the hour of the day (UTC) in which the site was chosen.
    pub ttl_by_hour_s: [u32; 24],
}

impl Dynamic {
    /// What pools share records by, the same value at all sites: a word, or if that is empty their members, whose order does not matter;
    /// of each its name, its site and its addresses.
    pub fn share_of<'m>(word: &str, members: impl Iterator<Item = (&'m str, &'m str, &'m [IpAddr])>) -> Share {
        let line = |(name, site, addresses): (&str, &str, &[IpAddr])| {
            let mut addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            addresses.sort_unstable();
            format!("{name} {site} {}\n", addresses.join(" "))
        };
        let mut lines: Vec<String> = members.map(line).collect();
        lines.sort_unstable();
        let text = if word.is_empty() { lines.concat() } else { word.to_string() };
        Share(same_hash(text.as_bytes()))
    }
}

/// What all pools choose by.
#[derive(Clone, Default)]
pub struct Steering {
    pub groups: Arc<Groups>,
    /// From networks of resolvers to numbers of sites.
    pub topology: Arc<Prefixes>,
    /// Likewise, by the countries and continents that they lie in; for networks that `topology` has not.
    pub places: Arc<Prefixes>,
    pub memory: Memory,
    pub loads: Arc<SiteTable>,
    pub ways: Survey,
    /// Of groups, if they are to be learned.
    pub learner: Option<Arc<Learner>>,
}

/// What remembers.
#[derive(Clone, Default)]
pub enum Memory {
    #[default]
    None,
    Kept(Arc<Store>),
    /// Read, never written: for who only wants to know what would be answered.
    Looked(Arc<Store>),
}

/// How far resolvers are from sites.
#[derive(Clone, Default)]
pub enum Survey {
    #[default]
    None,
    Kept(Arc<Ways>),
    /// Read; who asks is not noted: for who only wants to know what would be answered.
    Looked(Arc<Ways>),
}

impl Survey {
    pub fn ways(&self) -> Option<&Arc<Ways>> {
        match self {
            Survey::None => None,
            Survey::Kept(ways) | Survey::Looked(ways) => Some(ways),
        }
    }
}

impl Steering {
    /// Where the one of a resolver's learned group went that asked last, of those whose sites are up.
    fn mates_site(&self, who: Who, share: Share, now_ms: u64, up: u64) -> Option<SiteNumber> {
        let mates = self.learner.as_ref()?.mates(who)?;
        let records = mates.iter().filter_map(|mate| self.memory.read(*mate, share));
        let good = records.filter(|record| record.holds(now_ms, up));
        good.max_by_key(|record| (record.stamp_ms, record.who)).map(|record| record.site)
    }
}

impl Memory {
    fn read(&self, who: Who, share: Share) -> Option<Record> {
        match self {
            Memory::None => None,
            Memory::Kept(store) | Memory::Looked(store) => store.read(who, share),
        }
    }

    /// Where it is looked up what is remembered of `who`.
    #[inline]
    pub(super) fn foresee(&self, who: Who, share: Share) -> Option<Hint> {
        match self {
            Memory::None | Memory::Looked(_) => None,
            Memory::Kept(store) => Some(store.foresee(who, share)),
        }
    }

    /// Begins to load what is there.
    #[inline]
    pub(super) fn fetch(&self, hint: &Hint) {
        if let Memory::Kept(store) = self {
            store.fetch(hint);
        }
    }

    /// Goes on with it, when what [`Memory::fetch`] has asked for is there.
    #[inline]
    pub(super) fn fetch_more(&self, hint: &Hint, who: Who) {
        if let Memory::Kept(store) = self {
            store.fetch_more(hint, who);
        }
    }

    #[inline]
    fn follow(&self, (who, share): (Who, Share), foreseen: Option<&Hint>, now_ms: u64, up: u64) -> Option<SiteNumber> {
        match self {
            Memory::None => None,
            Memory::Kept(store) => match foreseen {
                Some(hint) => store.follow_foreseen(hint, (who, share), now_ms, up),
                None => store.follow(who, share, now_ms, up),
            },
            Memory::Looked(store) => {
                store.read(who, share).filter(|record| record.holds(now_ms, up)).map(|record| record.site)
            }
        }
    }

    /// Gives the site that is remembered: another thread may have been first.
    fn put(&self, who: Who, dynamic: &Dynamic, site: SiteNumber, now_ms: u64, up: u64) -> SiteNumber {
        match self {
            Memory::Kept(store) => {
                let hour = (now_ms / 3_600_000 % 24) as usize;
                store.put(who, dynamic.share, site, dynamic.ttl_by_hour_s[hour], now_ms, up)
            }
            Memory::None | Memory::Looked(_) => site,
        }
    }
}

/// Who asks, as the message says it.
#[derive(Clone, Copy)]
pub(super) struct Client<'c> {
    pub from: IpAddr,
    /// The address that was asked.
    pub to: IpAddr,
    /// RFC 7871: the option's data, found to be in order.
    pub subnet: Option<&'c [u8]>,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// What has been found out ahead.
    pub foreseen: Option<&'c Foreseen>,
    pub steering: &'c Steering,
}

impl Client<'_> {
    /// Who counts as asking where a pool allows clients' networks, or does not.
    #[inline]
    pub fn asker(&self, client_subnet: bool) -> Asker {
        match self.foreseen.and_then(|foreseen| foreseen.asker(client_subnet)) {
            Some(asker) => *asker,
            None => self.found_asker(client_subnet),
        }
    }

    fn found_asker(&self, client_subnet: bool) -> Asker {
        let subnet =
            self.subnet.filter(|_| client_subnet).and_then(|option| Asker::of_subnet(option, &self.steering.groups));
        subnet.unwrap_or_else(|| Asker::of(self.from, &self.steering.groups))
    }

    fn now_s(&self) -> u32 {
        (self.now_ms / 1000) as u32
    }

    /// What is known of the ways to who asks, from these sites by their bits. A client's network is somewhere else than the resolver that
    /// names it, and is not measured.
    pub fn ways(&self, asker: &Asker, sites: u64) -> Option<Seen> {
        let ways = self.steering.ways.ways().filter(|_| asker.scope == 0)?;
        ways.seen(Network::of(self.from), sites, self.now_s())
    }

    /// The way to who asks is measured, if that is wanted and has not been done yet.
    fn note(&self, asker: &Asker) {
        if let Survey::Kept(ways) = &self.steering.ways
            && asker.scope == 0
        {
            ways.note(self.from, self.to, self.now_s());
        }
    }
}

/// Why a mode decided, or did not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// The record holds.
    Remembered(SiteNumber),
    /// It holds and stays; the site has no address of the family that is asked for.
    OtherFamily(SiteNumber),
    /// There is none, or it holds no more, or its site is down.
    NotRemembered,
    /// Another of its learned group was sent there.
    Together(SiteNumber),
    Belongs(Prefix, SiteNumber),
    /// The address belongs to a site that has no member up, or none in the pool.
    BelongsToNoneUp(Prefix, SiteNumber),
    BelongsNowhere,
    /// Of so many members that are up the one at this place, from 0.
    Falls {
        members: usize,
        member: usize,
        site: SiteNumber,
    },
    /// The least load is this; of the sites that have it and are the nearest, in turn, this one. `by`: what near goes by.
    Least {
        load: u32,
        by: Near,
        site: SiteNumber,
    },
    /// Not of all sites the load is known: the next one in turn.
    LoadsUnknown,
    /// Of so many turns this one.
    Turn {
        turns: usize,
        turn: usize,
        site: SiteNumber,
    },
}

/// By what the nearest of the sites with the least load are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Near {
    /// The ways from them to the resolver.
    Resolver,
    /// The ways from this site to them.
    Site,
    /// Not all of them are known, one way or the other: all are as near.
    Unknown,
}

/// Is told why.
pub(super) trait Witness {
    fn see(&mut self, step: Step);
}

impl Witness for Vec<Step> {
    fn see(&mut self, step: Step) {
        self.push(step);
    }
}

/// The site whose addresses of a family are answered, and the turn that is its own. `turn`: which answer of the pool's it is; `up`: the
/// sites that have a member up of either family. The family's sites are not empty. Never allocates, locks or waits, but for the
/// store's own lock when a record is put.
pub(super) fn choose<W: Witness>(
    plan: &Plan,
    family: &Family,
    up: u64,
    asker: &Asker,
    (client, turn): (&Client, u32),
    witness: &mut W,
) -> (SiteNumber, u32) {
    let Client { now_ms, foreseen, steering, .. } = *client;
    if plan.metrics {
        // Also where another mode decides: what is remembered ends one day, and then the way is known.
        client.note(asker);
    }
    let mut remember = None;
    if let Some(dynamic) = &plan.dynamic {
        let hint = foreseen.and_then(|foreseen| foreseen.hint(asker.who));
        match steering.memory.follow((asker.who, dynamic.share), hint, now_ms, up) {
            Some(site) if family.up() & site.bit() != 0 => {
                witness.see(Step::Remembered(site));
                return (site, turn);
            }
            Some(site) => witness.see(Step::OtherFamily(site)),
            None => {
                witness.see(Step::NotRemembered);
                if let Some(site) = steering.mates_site(asker.who, dynamic.share, now_ms, family.up()) {
                    witness.see(Step::Together(site));
                    return (steering.memory.put(asker.who, dynamic, site, now_ms, family.up()), turn);
                }
                remember = Some(dynamic);
            }
        }
    }
    let chosen = afresh(plan, family, asker, (client, turn), witness);
    match remember {
        Some(dynamic) => (steering.memory.put(asker.who, dynamic, chosen.0, now_ms, family.up()), chosen.1),
        None => chosen,
    }
}

fn afresh<W: Witness>(
    plan: &Plan,
    family: &Family,
    asker: &Asker,
    (client, turn): (&Client, u32),
    witness: &mut W,
) -> (SiteNumber, u32) {
    let steering = client.steering;
    if plan.topology {
        match steering.topology.find(asker.network).or_else(|| steering.places.find(asker.network)) {
            Some((network, site)) => {
                let site = SiteNumber(site as u8);
                if family.up() & site.bit() != 0 {
                    witness.see(Step::Belongs(network, site));
                    return (site, turn);
                }
                witness.see(Step::BelongsToNoneUp(network, site));
            }
            None => witness.see(Step::BelongsNowhere),
        }
    }
    let members = family.members();
    if let Some(method) = plan.stripe
        && let Some(member) = method.find(members, asker)
    {
        let site = members[member].site;
        witness.see(Step::Falls { members: members.len(), member, site });
        return (site, turn);
    }
    let turns = family.turns();
    // A site's own turns go on when its own come.
    let own = turn.checked_div(turns as u32).unwrap_or(turn);
    if plan.metrics {
        let ways = client.ways(asker, family.up());
        if let Some(Least { sites, load, by }) = metrics::least(&steering.loads, family, ways.as_ref()) {
            let (_, site) = family.turn(turn, sites);
            witness.see(Step::Least { load, by, site });
            return (site, own);
        }
        witness.see(Step::LoadsUnknown);
    }
    let (at, site) = family.turn(turn, u64::MAX);
    witness.see(Step::Turn { turns, turn: at, site });
    (site, own)
}
