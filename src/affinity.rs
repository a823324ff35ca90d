//! Which site each resolver was sent to: what the dynamic mode of pools goes by.
//!
//! # Theory of operation
//!
//! A *record* stands for a resolver and a set of pools that share: the site, how long it is remembered, the time of the last
//! question. It holds while `now <= stamp + ttl`; each question that it answers moves its stamp, so it lasts as long as the
//! resolver keeps asking. All memory is taken at start: an array of buckets of 16 places, chosen by a hash under a key drawn
//! at every start; twice as many places as records may be, so that a bucket overflows rarely. Then its oldest record goes.
//!
//! *A place* is 6 words:
//!
//! ```text
//!   head    stamp 42 | turn 21 | busy 1      the stamp in milliseconds since 1970
//!   tally   moved 1 | dirty 7 | turn 24 | hits 32      turn: the same as in the head
//!   who     128
//!   share   64
//!   what    taken 1 | site 8 | ttl 32        the TTL in seconds
//! ```
//!
//! Who writes a record (a new one, another node's, none) holds the bucket's lock, sets `busy`, writes, and then stores the head
//! with the next turn. Who reads loads the head before and after: the same turn and not busy, and what was read between belongs
//! together. A *hit* takes no lock: it is such a reading and two CAS, one that moves the stamp, one that counts; both words
//! hold the turn, so neither can touch the record that took the place meanwhile. Each is tried a few times only; who loses that
//! often has lost to other questions of the same resolver, which have moved the stamp as far.
//!
//! *Changes* are told to other nodes by two consumers (links, a server): a record has a bit for each in its tally, set by the CAS
//! that counts, and each bucket has one in a summary. Who finds a record's bit not set sets the summary's after it; who collects
//! takes the summary's bit first and then those of the records. So none is lost, and a resolver that asks a thousand times in a
//! second costs one message. ([`Store::changes`].) A stamp that moves is told when it has moved by a 16th of the TTL or so, and when
//! it has stopped: until then it is marked as moved, and the sweep finds it. So others may have a stamp that is older by that much at most,
//! and 10^5 resolvers that ask all the time and are remembered for an hour cost some hundred messages in a second.
//!
//! *Conflicts*: of two records for the same resolver the one with the newest stamp counts, then the one with the smaller site
//! name, then the longer TTL, then more hits: an order of all records there can be, so nodes that have seen the same
//! records, in whatever order and how often ever, hold the same. ([`Store::merge`].)

mod digest;
pub mod file;
mod foresee;
mod place;

use crate::config::dns::MAX_RECORDS;
use crate::sites::{Registry, SiteNumber, same_hash};
use crate::sys::atomic::{AtomicU64, Ordering::*};
use crate::sys::huge;
pub use digest::{RANGES, Ranges};
pub use foresee::Hint;
#[cfg(feature = "loom")]
use loom::sync::{Mutex, MutexGuard};
use place::{Key, Place, Seen};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::PoisonError;
#[cfg(not(feature = "loom"))]
use std::sync::{Mutex, MutexGuard};

/// Places of a bucket; loom tries all that can happen in one.
const BUCKET: usize = if cfg!(feature = "loom") { 1 } else { 16 };

/// A stamp further ahead than this is no other node's clock being a little fast but a clock that was wrong.
pub const AHEAD_MOST_MS: u64 = 3_600_000;

/// How often a bucket's lock exists at most.
const LOCKS: usize = 1024;

/// Of the next store.
static NUMBERS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Whose site is remembered, the same value at all sites: an address (IPv4 as an IPv4-mapped address), the first address of
/// a network, or a group's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who(pub [u8; 16]);

impl From<IpAddr> for Who {
    fn from(address: IpAddr) -> Who {
        Who(match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        })
    }
}

impl Who {
    /// The group `name`: an address of the discard-only prefix (RFC 6666), from which nobody asks.
    pub fn group(name: &str) -> Who {
        let mut octets = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0).octets();
        octets[8..].copy_from_slice(&same_hash(name.as_bytes()).to_be_bytes());
        Who(octets)
    }

    /// None: a group.
    pub fn address(&self) -> Option<IpAddr> {
        let address = Ipv6Addr::from(self.0);
        (self.0[..8] != [1, 0, 0, 0, 0, 0, 0, 0]).then(|| IpAddr::V6(address).to_canonical())
    }
}

/// The pools that share records, the same value at all sites: a hash of their common word, or of their members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub who: Who,
    pub share: Share,
    pub site: SiteNumber,
    pub ttl_s: u32,
    /// Of the last question, in milliseconds since 1970.
    pub stamp_ms: u64,
    /// Questions that it has answered.
    pub hits: u32,
}

impl Record {
    /// The last moment at which it holds, in milliseconds since 1970.
    pub fn until_ms(&self) -> u64 {
        until_ms(self.stamp_ms, self.ttl_s)
    }

    /// Does it say where the resolver goes at `now_ms`, while the sites of the bits in `up_sites` are up?
    pub fn holds(&self, now_ms: u64, up_sites: u64) -> bool {
        holds(self.until_ms(), self.site, now_ms, up_sites)
    }
}

#[inline]
fn holds(until_ms: u64, site: SiteNumber, now_ms: u64, up_sites: u64) -> bool {
    now_ms <= until_ms && site.bit() & up_sites != 0
}

fn until_ms(stamp_ms: u64, ttl_s: u32) -> u64 {
    stamp_ms.saturating_add(u64::from(ttl_s) * 1000)
}

/// Who tells others of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// Links between sites.
    Links = 0,
    /// A Redis or Valkey server.
    Server = 1,
}

impl Consumer {
    const ALL: [Consumer; 2] = [Consumer::Links, Consumer::Server];
    /// All their bits.
    const MASK: u64 = 0b11;

    fn bit(self) -> u64 {
        1 << self as u64
    }
}

/// What has become of records, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// That are there now.
    pub records: u64,
    /// New records took the places of these before their time.
    pub evicted: u64,
    /// Their time was over.
    pub expired: u64,
    /// Taken over from other nodes.
    pub merged: u64,
}

/// See the head of this file.
pub struct Store {
    buckets: Box<[[Place; BUCKET]]>,
    locks: Box<[Mutex<()>]>,
    /// Of each consumer: a bit per bucket, set: the bucket has records that it has not been told of.
    dirty: [Box<[AtomicU64]>; 2],
    seed: (u64, u64),
    /// By which hints are known to be its own.
    number: u32,
    most: u64,
    records: AtomicU64,
    evicted: AtomicU64,
    expired: AtomicU64,
    merged: AtomicU64,
}

impl Store {
    /// For `most` records, at most [`MAX_RECORDS`]; 128 bytes for each are taken at once. `seed`: random, so that nobody
    /// can choose addresses that crowd one bucket.
    pub fn new(most: u32, seed: (u64, u64)) -> Store {
        let most = most.clamp(1, MAX_RECORDS);
        let buckets = if cfg!(feature = "loom") { 1 } else { (most as usize * 2).div_ceil(BUCKET) };
        let summary = || (0..buckets.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Store {
            buckets: huge::boxed(buckets, |_| std::array::from_fn(|_| Place::default())),
            locks: (0..buckets.min(LOCKS)).map(|_| Mutex::new(())).collect(),
            dirty: [summary(), summary()],
            seed,
            number: NUMBERS.fetch_add(1, Relaxed),
            most: u64::from(most),
            records: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            merged: AtomicU64::new(0),
        }
    }

    /// Buckets: what the cursors of [`Store::sweep`], [`Store::scan`] and [`Store::changes`] count.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    pub fn counts(&self) -> StoreCounts {
        StoreCounts {
            records: self.records.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            expired: self.expired.load(Relaxed),
            merged: self.merged.load(Relaxed),
        }
    }

    /// The bucket of a resolver, and the place where it is most likely found.
    fn home(&self, key: &Key) -> (usize, usize) {
        let hash = key.hash(self.seed);
        let bucket = (((hash & 0xffff_ffff) * self.buckets.len() as u64) >> 32) as usize;
        (bucket, (hash >> 60) as usize % BUCKET)
    }

    /// The bucket's places, beginning at `first`.
    #[inline]
    fn places(&self, (bucket, first): (usize, usize)) -> impl Iterator<Item = &Place> {
        let places = &self.buckets[bucket];
        (first..first + BUCKET).map(|at| &places[at % BUCKET])
    }

    #[inline]
    fn find(&self, home: (usize, usize), key: &Key) -> Option<(&Place, Seen)> {
        let mut places = self.places(home).filter(|place| place.may_be(key));
        places.find_map(|place| place.read().filter(|seen| seen.key == *key).map(|seen| (place, seen)))
    }

    fn lock(&self, bucket: usize) -> MutexGuard<'_, ()> {
        self.locks[bucket % self.locks.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bucket has records that consumers (their bits) have not been told of.
    fn note(&self, bucket: usize, consumers: u64) {
        for consumer in Consumer::ALL.into_iter().filter(|consumer| consumers & consumer.bit() != 0) {
            self.dirty[consumer as usize][bucket / 64].fetch_or(1 << (bucket % 64), AcqRel);
        }
    }

    /// A question of `who`: the site that it was sent to before, if that record holds at `now_ms` and the site's bit in `up_sites` is
    /// set. Then the record's stamp is now, and it has answered one question more. No lock, no allocation, a bounded number of steps.
    #[inline]
    pub fn follow(&self, who: Who, share: Share, now_ms: u64, up_sites: u64) -> Option<SiteNumber> {
        let key = Key::new(who, share);
        self.follow_from(self.home(&key), &key, now_ms, up_sites)
    }

    #[inline]
    fn follow_from(&self, home: (usize, usize), key: &Key, now_ms: u64, up_sites: u64) -> Option<SiteNumber> {
        let (place, seen) = self.find(home, key)?;
        self.hit(home.0, place, &seen, now_ms, up_sites)
    }

    #[inline]
    fn hit(&self, bucket: usize, place: &Place, seen: &Seen, now_ms: u64, up_sites: u64) -> Option<SiteNumber> {
        if !holds(seen.until_ms(), seen.site(), now_ms, up_sites) {
            return None;
        }
        let consumers = place.touch(seen, now_ms);
        if consumers != 0 {
            self.note(bucket, consumers);
        }
        Some(seen.site())
    }

    /// `who` is sent to `site` from now on; gives the site that counts: another one, if another thread has sent the same resolver
    /// to one of `up_sites` a moment ago. Replaces the record that there was. May wait for another thread that does the same.
    pub fn put(&self, who: Who, share: Share, site: SiteNumber, ttl_s: u32, now_ms: u64, up_sites: u64) -> SiteNumber {
        let key = Key::new(who, share);
        let home = self.home(&key);
        let _lock = self.lock(home.0);
        let old = self.find(home, &key);
        if let Some(other) = old.and_then(|(place, seen)| self.hit(home.0, place, &seen, now_ms, up_sites)) {
            return other;
        }
        let record = Record { who, share, site, ttl_s, stamp_ms: now_ms, hits: 0 };
        let place = old.map(|(place, _)| place).or_else(|| self.room(home, now_ms, u64::MAX));
        if let Some(place) = place {
            place.write(&record, Consumer::MASK);
            self.note(home.0, Consumer::MASK);
        }
        site
    }

    /// A place for a new record in a locked bucket: an empty one, or that of a record whose time is over, or else of the oldest, which
    /// is forgotten, if its stamp is before `before_ms`.
    fn room(&self, home: (usize, usize), now_ms: u64, before_ms: u64) -> Option<&Place> {
        let full = self.records.load(Relaxed) >= self.most;
        let (mut empty, mut oldest) = (None, None::<(&Place, u64, u64)>);
        for place in self.places(home) {
            match place.read() {
                None => empty = empty.or(Some(place)),
                Some(seen) => {
                    let age = (seen.until_ms() >= now_ms, seen.stamp_ms());
                    if oldest.is_none_or(|(_, stamp, until)| age < (until >= now_ms, stamp)) {
                        oldest = Some((place, seen.stamp_ms(), seen.until_ms()));
                    }
                }
            }
        }
        match (empty, oldest) {
            (Some(empty), None) => Some(self.taken(empty)),
            (Some(empty), _) if !full => Some(self.taken(empty)),
            (_, Some((place, _, until))) if until < now_ms => {
                self.expired.fetch_add(1, Relaxed);
                Some(place)
            }
            (_, Some((place, stamp, _))) if stamp < before_ms => {
                self.evicted.fetch_add(1, Relaxed);
                Some(place)
            }
            _ => None,
        }
    }

    fn taken<'p>(&self, empty: &'p Place) -> &'p Place {
        self.records.fetch_add(1, Relaxed);
        empty
    }

    /// Takes a record over that another node has told of, if it counts more than what is here; then the other consumers than `from`
    /// are told of it. What is over already, or [far ahead](AHEAD_MOST_MS) of the clock, is not taken.
    pub fn merge(&self, record: &Record, from: Option<Consumer>, now_ms: u64, sites: &Registry) -> bool {
        let others = Consumer::MASK & !from.map_or(0, Consumer::bit);
        let taken = self.take(record, others, now_ms, sites);
        self.merged.fetch_add(u64::from(taken), Relaxed);
        taken
    }

    /// As [`Store::merge`], of a record that this node had before it was started anew.
    fn restore(&self, record: &Record, now_ms: u64, sites: &Registry) -> bool {
        self.take(record, 0, now_ms, sites)
    }

    fn take(&self, record: &Record, others: u64, now_ms: u64, sites: &Registry) -> bool {
        if record.until_ms() < now_ms || record.stamp_ms > now_ms.saturating_add(AHEAD_MOST_MS) {
            return false;
        }
        let key = Key::new(record.who, record.share);
        let home = self.home(&key);
        let _lock = self.lock(home.0);
        let place = match self.find(home, &key) {
            Some((place, seen)) if counts_more(record, &seen.record(), sites) => Some(place),
            Some(_) => None,
            None => self.room(home, now_ms, record.stamp_ms),
        };
        let Some(place) = place else { return false };
        place.write(record, others);
        self.note(home.0, others);
        true
    }

    /// What is remembered of `who`, whether it still holds or not.
    pub fn read(&self, who: Who, share: Share) -> Option<Record> {
        let key = Key::new(who, share);
        self.find(self.home(&key), &key).map(|(_, seen)| seen.record())
    }

    /// Forgets what is over, and marks as changed what has moved and stands still, in `count` buckets from `from` on. Where to go on; the
    /// buckets are a ring.
    pub fn sweep(&self, from: usize, count: usize, now_ms: u64) -> usize {
        let all = self.buckets.len();
        for bucket in (from..from + count.min(all)).map(|bucket| bucket % all) {
            for place in &self.buckets[bucket] {
                let Some(seen) = place.read() else { continue };
                place.cut_stamp(&seen, now_ms);
                let consumers = place.settle(&seen, now_ms);
                self.note(bucket, consumers);
                if seen.until_ms() < now_ms {
                    let _lock = self.lock(bucket);
                    if place.read().is_some_and(|seen| seen.until_ms() < now_ms) {
                        place.clear();
                        self.records.fetch_sub(1, Relaxed);
                        self.expired.fetch_add(1, Relaxed);
                    }
                }
            }
        }
        (from + count.min(all)) % all
    }

    /// Gives every record in `count` buckets from `from` on to `take`. Where to go on; None: these were the last.
    pub fn scan(&self, from: usize, count: usize, mut take: impl FnMut(Record)) -> Option<usize> {
        let end = from.saturating_add(count).min(self.buckets.len());
        let places = self.buckets.get(from..end).unwrap_or_default().iter().flatten();
        places.filter_map(Place::read).for_each(|seen| take(seen.record()));
        (end < self.buckets.len()).then_some(end)
    }

    /// What has changed since this consumer was told last, beginning at bucket `from`: about `most` records, or up to 1,023 more.
    /// Where to go on; None: that was all, begin at 0 the next time.
    pub fn changes(&self, consumer: Consumer, from: usize, most: usize, out: &mut Vec<Record>) -> Option<usize> {
        let summary = &self.dirty[consumer as usize];
        let end = out.len().saturating_add(most);
        for (at, word) in summary.iter().enumerate().skip(from / 64) {
            if out.len() >= end {
                return Some(at * 64);
            }
            let mut left = if word.load(Relaxed) == 0 { 0 } else { word.swap(0, AcqRel) };
            while left != 0 {
                let bucket = at * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                out.extend(self.buckets[bucket].iter().filter_map(|place| place.collect(consumer.bit())));
            }
        }
        None
    }

    /// The consumer could not tell of this record after all: it is among its changes once more.
    pub fn untold(&self, consumer: Consumer, record: &Record) {
        let key = Key::new(record.who, record.share);
        let home = self.home(&key);
        if let Some((place, seen)) = self.find(home, &key) {
            place.mark(&seen, consumer.bit());
            self.note(home.0, consumer.bit());
        }
    }
}

/// Does `new` count more than `old`, of the same resolver? See the head of this file.
fn counts_more(new: &Record, old: &Record, sites: &Registry) -> bool {
    let order = new.stamp_ms.cmp(&old.stamp_ms);
    let order = order.then_with(|| sites.name(old.site).cmp(sites.name(new.site)));
    order.then(new.ttl_s.cmp(&old.ttl_s)).then(new.hits.cmp(&old.hits)).is_gt()
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests;
#[cfg(all(test, not(feature = "loom")))]
mod tests;
