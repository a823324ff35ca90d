//! Groups of resolvers that are learned: those that ask for one client's name.
//!
//! # Theory of operation
//!
//! A page or a mail has a name in it that no other copy has: one label of random characters below a suffix. Who asks for it asks for one
//! client, whose resolvers are thus known to belong together: those of one provider that take turns. Each question for such a name
//! is a *sighting*, put into a queue by the thread that answers; control takes them out every second. When a name has been
//! known for [`WINDOW_MS`], the two to four resolvers that have asked for it are a group, or their groups are one.
//!
//! A group changes no record's owner, so that nodes that have learned different things still agree about each resolver. It
//! decides in two places: a resolver without a record goes where the one of its group went that asked last ([`Learner::mates`]), and
//! when a group is made its members are sent where that one went. Both are records like others, and told to other nodes as they are.
//!
//! *Forged questions*: anybody can ask in anybody's name by UDP. So only what comes by TCP or with a cookie of ours is a
//! sighting, and other questions for such names are answered "come by TCP". A client can still ask two resolvers that it may use for
//! one name, and so join them. Hence only resolvers of one network are joined (/16 of IPv4, /32 of IPv6), 16 at most; all that can be
//! gained is that these few have one site. Everything here has a maximum, and what is not seen again for a day is forgotten.

use crate::affinity::{Record, Share, Store, Who};
use crate::sites::Registry;
use arc_swap::ArcSwap;
use crossbeam_queue::ArrayQueue;
use siphasher::sip::SipHasher13;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Names are watched for so long after the first question for them, in milliseconds.
const WINDOW_MS: u64 = 10_000;
/// So long a name is known, so that it does not count as new again.
const KNOWN_MS: u64 = 600_000;
/// A member that has not been seen with another of its group for so long leaves it.
const LEAVES_MS: u64 = 86_400_000;

/// A name that more resolvers ask for is no client's own.
const MOST_OF_A_NAME: usize = 4;
const MOST_OF_A_GROUP: usize = 16;
const MOST_NAMES: usize = 65_536;
const MOST_RESOLVERS: usize = 16_384;
/// Sightings between two visits of control's.
const QUEUE: usize = 4096;
/// A shorter label is no random one, in bytes.
const SHORTEST: usize = 12;

/// See the head of this file.
pub struct Learner {
    /// In wire form, in small letters.
    suffix: Box<[u8]>,
    queue: ArrayQueue<(u64, Who)>,
    groups: ArcSwap<HashMap<Who, Arc<[Who]>>>,
    known: Mutex<Known>,
    hasher: SipHasher13,
}

/// What control knows.
#[derive(Default)]
struct Known {
    names: HashMap<u64, Name>,
    /// Groups by numbers, and the number of each resolver's.
    groups: HashMap<u64, Vec<Member>>,
    of: HashMap<Who, u64>,
    next: u64,
}

struct Name {
    first_ms: u64,
    /// One more than a name may have at most.
    whos: Vec<Who>,
    done: bool,
}

#[derive(Clone, Copy)]
struct Member {
    who: Who,
    seen_ms: u64,
}

impl Learner {
    /// `suffix`: a name in wire form. `seed`: random, so that nobody can choose names that collide.
    pub fn new(suffix: &[u8], seed: (u64, u64)) -> Learner {
        Learner {
            suffix: suffix.to_ascii_lowercase().into(),
            queue: ArrayQueue::new(QUEUE),
            groups: ArcSwap::default(),
            known: Mutex::default(),
            hasher: SipHasher13::new_with_keys(seed.0, seed.1),
        }
    }

    pub fn suffix(&self) -> &[u8] {
        &self.suffix
    }

    /// Is this name, in wire form, one that tells of a client?
    #[inline]
    pub fn is_telling(&self, name: &[u8]) -> bool {
        let label = name.len().wrapping_sub(self.suffix.len());
        name.len() > self.suffix.len()
            && usize::from(name[0]) + 1 == label
            && label > SHORTEST
            && name[label..].eq_ignore_ascii_case(&self.suffix)
    }

    /// A resolver that is who it says has asked for a telling name. Neither waits nor allocates; when the queue is full it is not noted.
    pub fn sight(&self, name: &[u8], who: Who) {
        let mut lower = [0; 255];
        let Some(lower) = lower.get_mut(..name.len()) else { return };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let _ = self.queue.push((self.hasher.hash(lower), who));
    }

    /// The others of the resolver's group, if it is in one.
    pub fn mates(&self, who: Who) -> Option<Arc<[Who]>> {
        self.groups.load().get(&who).cloned()
    }

    /// All groups, each with its members in order.
    pub fn groups(&self) -> Vec<Vec<Who>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let sorted = |members: &Vec<Member>| {
            let mut whos: Vec<Who> = members.iter().map(|member| member.who).collect();
            whos.sort_unstable();
            whos
        };
        let mut groups: Vec<Vec<Who>> = known.groups.values().map(sorted).collect();
        groups.sort_unstable();
        groups
    }

    /// One visit of control's: learns from what has been seen, and sends new groups to one site each, for each of `shares`.
    pub fn learn(&self, store: &Store, sites: &Registry, shares: &[Share], now_ms: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..QUEUE {
            let Some((name, who)) = self.queue.pop() else { break };
            known.note(name, who, now_ms);
        }
        let joined = known.join(now_ms);
        let left = known.forget(now_ms);
        if joined.is_empty() && !left {
            return;
        }
        let whos = |members: &Vec<Member>| members.iter().map(|member| member.who).collect::<Vec<Who>>();
        let mut all = HashMap::with_capacity(known.of.len());
        for members in known.groups.values().map(whos) {
            let others = |who: &Who| members.iter().copied().filter(|other| other != who).collect::<Arc<[Who]>>();
            all.extend(members.iter().map(|who| (*who, others(who))));
        }
        self.groups.store(Arc::new(all));
        for members in joined.iter().filter_map(|group| known.groups.get(group)).map(whos) {
            shares.iter().for_each(|share| together(store, sites, &members, *share, now_ms));
        }
    }
}

/// Sends all that are remembered to the site of the one that asked last.
fn together(store: &Store, sites: &Registry, members: &[Who], share: Share, now_ms: u64) {
    let records = members.iter().filter_map(|who| store.read(*who, share));
    let records: Vec<Record> = records.filter(|record| record.until_ms() >= now_ms).collect();
    let Some(last) = records.iter().max_by_key(|record| (record.stamp_ms, record.who)) else { return };
    for record in records.iter().filter(|record| record.site != last.site) {
        // Newer than what it replaces, wherever that is known.
        let stamp_ms = record.stamp_ms.max(now_ms) + 1;
        store.merge(&Record { site: last.site, stamp_ms, ..*record }, None, now_ms, sites);
    }
}

/// Joined are only resolvers that share the first 16 bits of IPv4, 32 of IPv6.
fn network(who: Who) -> Option<[u8; 14]> {
    let mut network = [0; 14];
    match who.address()? {
        std::net::IpAddr::V4(_) => network.copy_from_slice(&who.0[..14]),
        std::net::IpAddr::V6(_) => network[..4].copy_from_slice(&who.0[..4]),
    }
    Some(network)
}

impl Known {
    fn note(&mut self, name: u64, who: Who, now_ms: u64) {
        if self.names.len() >= MOST_NAMES && !self.names.contains_key(&name) {
            return;
        }
        let name = self.names.entry(name).or_insert_with(|| Name { first_ms: now_ms, whos: Vec::new(), done: false });
        if !name.done && name.whos.len() <= MOST_OF_A_NAME && !name.whos.contains(&who) {
            name.whos.push(who);
        }
    }

    /// The groups that names whose time is over have made.
    fn join(&mut self, now_ms: u64) -> Vec<u64> {
        let mut over: Vec<Vec<Who>> = Vec::new();
        self.names.retain(|_, name| {
            let age_ms = now_ms.saturating_sub(name.first_ms);
            if !name.done && age_ms >= WINDOW_MS {
                name.done = true;
                over.push(std::mem::take(&mut name.whos));
            }
            age_ms < KNOWN_MS
        });
        let mut joined = Vec::new();
        for mut whos in over.into_iter().filter(|whos| (2..=MOST_OF_A_NAME).contains(&whos.len())) {
            whos.sort_unstable();
            // Those of one network stand beside each other.
            for some in whos.chunk_by(|a, b| network(*a).is_some() && network(*a) == network(*b)) {
                if some.len() > 1 {
                    joined.extend(self.unite(some, now_ms));
                }
            }
        }
        joined
    }

    /// The group that these are of now; None: it was theirs before, or would be too large.
    fn unite(&mut self, whos: &[Who], now_ms: u64) -> Option<u64> {
        let mut numbers: Vec<u64> = whos.iter().filter_map(|who| self.of.get(who).copied()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut members: Vec<Member> = numbers.iter().flat_map(|number| &self.groups[number]).copied().collect();
        let before = members.len();
        for who in whos {
            match members.iter_mut().find(|member| member.who == *who) {
                Some(member) => member.seen_ms = now_ms,
                None => members.push(Member { who: *who, seen_ms: now_ms }),
            }
        }
        if members.len() > MOST_OF_A_GROUP || self.of.len() + members.len() - before > MOST_RESOLVERS {
            return None;
        }
        let is_new = numbers.len() != 1 || members.len() > before;
        let number = numbers.first().copied().unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        numbers.iter().for_each(|number| _ = self.groups.remove(number));
        self.of.extend(members.iter().map(|member| (member.who, number)));
        self.groups.insert(number, members);
        is_new.then_some(number)
    }

    /// Has anybody left?
    fn forget(&mut self, now_ms: u64) -> bool {
        let before = self.of.len();
        let Known { groups, of, .. } = self;
        groups.retain(|_, members| {
            members.retain(|member| {
                let stays = now_ms.saturating_sub(member.seen_ms) < LEAVES_MS;
                if !stays {
                    of.remove(&member.who);
                }
                stays
            });
            if let [alone] = &members[..] {
                of.remove(&alone.who);
            }
            members.len() > 1
        });
        of.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::name::Name as DomainName;
    use super::*;
    use crate::sites::SiteNumber;
    use std::net::IpAddr;

    const SHARE: Share = Share(1);

    struct Lab {
        learner: Learner,
        store: Store,
        sites: Registry,
        now_ms: u64,
    }

    fn wire(name: &str) -> Vec<u8> {
        DomainName::parse(name).unwrap().wire().to_vec()
    }

    fn who(address: &str) -> Who {
        Who::from(address.parse::<IpAddr>().unwrap())
    }

    impl Lab {
        fn new() -> Lab {
            let sites = Registry::default();
            assert!(sites.number("south").is_some() && sites.number("north").is_some());
            let learner = Learner::new(&wire("Learn.company.example."), (1, 2));
            Lab { learner, store: Store::new(1000, (1, 2)), sites, now_ms: 1_000_000 }
        }

        /// All of these ask for one name, and its time passes.
        fn ask(&mut self, name: &str, addresses: &[&str]) {
            let name = wire(&format!("{name}.learn.company.example."));
            addresses.iter().for_each(|address| self.learner.sight(&name, who(address)));
            self.pass(0);
            self.pass(WINDOW_MS);
        }

        fn pass(&mut self, ms: u64) {
            self.now_ms += ms;
            self.learner.learn(&self.store, &self.sites, &[SHARE], self.now_ms);
        }

        fn groups(&self) -> Vec<Vec<String>> {
            let text = |who: &Who| who.address().unwrap().to_string();
            self.learner.groups().iter().map(|whos| whos.iter().map(text).collect()).collect()
        }
    }

    #[test]
    fn a_clients_name_has_one_long_label_below_the_suffix() {
        let learner = Lab::new().learner;
        let is = |name: &str| learner.is_telling(&wire(name));
        assert!(is("0123456789ab.learn.company.example.") && is("0123456789AB.LEARN.company.example."));
        for other in [
            "learn.company.example.",
            "www.learn.company.example.",
            "0123456789ab.x.learn.company.example.",
            "0123456789ab.company.example.",
            "0123456789ab.elearn.company.example.",
            ".",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn who_asks_for_one_clients_name_is_of_one_group() {
        let mut lab = Lab::new();
        lab.ask("client-number-1", &["192.0.2.1", "192.0.2.2", "192.0.2.1"]);
        assert_eq!(lab.groups(), [["192.0.2.1", "192.0.2.2"]]);
        lab.ask("client-number-2", &["192.0.9.3", "192.0.2.2"]);
        assert_eq!(lab.groups(), [["192.0.2.1", "192.0.2.2", "192.0.9.3"]]);
        assert_eq!(*lab.learner.mates(who("192.0.2.2")).unwrap(), [who("192.0.2.1"), who("192.0.9.3")]);
        assert!(lab.learner.mates(who("192.0.2.7")).is_none());
        lab.ask("client-number-3", &["2001:db8::1", "2001:db8:7::1"]);
        lab.ask("client-number-4", &["192.0.2.9"]);
        assert_eq!(lab.groups().len(), 2);
    }

    #[test]
    fn who_is_far_apart_or_of_a_crowd_is_not_joined() {
        let mut lab = Lab::new();
        lab.ask("client-number-1", &["192.0.2.1", "192.1.2.2", "2001:db8::1", "2001:db9::1"]);
        lab.ask("a-name-of-many-1", &["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"]);
        let name = wire("client-number-2.learn.company.example.");
        lab.learner.sight(&name, who("192.0.2.1"));
        lab.pass(0);
        lab.pass(WINDOW_MS);
        lab.learner.sight(&name, who("192.0.2.2"));
        lab.pass(WINDOW_MS);
        lab.learner.sight(&wire("client-number-3.learn.company.example."), Who::group("isp"));
        lab.ask("client-number-3", &["192.0.2.1"]);
        assert_eq!(lab.groups(), Vec::<Vec<String>>::new());
    }

    #[test]
    fn groups_have_a_largest_size_and_an_end() {
        let mut lab = Lab::new();
        for n in 2..30 {
            lab.ask(&format!("client-number-{n}"), &["192.0.2.1", &format!("192.0.2.{n}")]);
        }
        assert_eq!(lab.groups()[0].len(), 16);
        lab.pass(LEAVES_MS - WINDOW_MS);
        lab.ask("client-number-99", &["192.0.2.1", "192.0.2.2"]);
        lab.pass(LEAVES_MS - WINDOW_MS);
        assert_eq!(lab.groups(), [["192.0.2.1", "192.0.2.2"]]);
        lab.pass(WINDOW_MS);
        assert!(lab.groups().is_empty() && lab.learner.mates(who("192.0.2.1")).is_none());
    }

    #[test]
    fn a_new_group_goes_where_the_last_of_it_went() {
        let mut lab = Lab::new();
        let [south, north] = ["south", "north"].map(|site| lab.sites.find(site).unwrap());
        let put = |lab: &Lab, address: &str, site: SiteNumber, ms: u64| {
            lab.store.put(who(address), SHARE, site, 3600, lab.now_ms + ms, u64::MAX)
        };
        put(&lab, "192.0.2.1", south, 0);
        put(&lab, "192.0.2.2", north, 5);
        put(&lab, "192.0.2.3", south, 9);
        lab.ask("client-number-1", &["192.0.2.1", "192.0.2.2"]);
        let site = |lab: &Lab, address: &str| lab.store.read(who(address), SHARE).map(|record| record.site);
        let sites = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|address| site(&lab, address));
        assert_eq!(sites, [Some(north), Some(north), Some(south)]);
    }
}
