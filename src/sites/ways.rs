//! The ways to resolvers: how far a resolver's network is from each site. Read by any thread without locks, written by who measures
//! and who hears of other sites' measurements.
//!
//! # Theory of operation
//!
//! A network ([`Network`]) has a row: its name in one word, and a word for each site that says all that is known of the way from there
//! (`pack`), so that it is never half of one thing and half of another. Rows are found by a keyed hash, eight in a corner that is one
//! cache line of names; where a corner is full the row goes in which nothing has been measured for longest. All memory is
//! taken at start.
//!
//! A writer that gives a row to another network takes its name off first and puts the new one on last. A reader looks at the name before it
//! reads and again after, and knows nothing where that has changed.
//!
//! Who answers says who asks ([`Ways::note`]), into a queue that never waits: addresses whose way from here is not known, or from
//! too long ago. Who measures takes them out.

use super::{MAX_SITES, SiteNumber};
use crossbeam_queue::ArrayQueue;
use siphasher::sip::SipHasher13;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Networks of one table: 36 MB with all that belongs to them.
pub const NETWORKS: usize = 1 << 16;

/// Rows of one corner.
const CORNER: usize = 8;

/// Addresses that wait to be measured.
pub const QUEUE: usize = 1024;

/// Who asks on and on is noted once in so many seconds.
const AGAIN_S: u32 = 2;
const LATELY: usize = 4096;

/// What was measured longer ago is not known any more, in seconds.
pub const LASTS_S: u32 = 86_400;

/// A longer way counts as this long, in microseconds.
const LONGEST_US: u32 = (1 << 24) - 1;

/// Of a word: 24 bits of microseconds (0: no answer came), 10 of loss, 6 of hops and one (0: not known), 24 of the second in which it was
/// measured. 0: never.
const LOSS_AT: u32 = 24;
const HOPS_AT: u32 = 34;
const TIME_AT: u32 = 40;
const MOST_HOPS: u8 = 62;

/// Resolvers that count as equally far away: an IPv4 /24 or an IPv6 /48. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(u64);

impl Network {
    #[inline]
    pub fn of(address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(address) => Network(1 << 62 | u64::from(u32::from(address) >> 8)),
            IpAddr::V6(address) => Network(1 << 63 | (u128::from(address) >> 80) as u64),
        }
    }
}

/// The way from a site to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// There and back, the least of what was measured. None: nobody answers there.
    pub round_trip_us: Option<u32>,
    /// Of what was sent and had to be answered.
    pub loss_permille: u16,
    /// Routers between, if it is known.
    pub hops: Option<u8>,
    /// How long ago it was measured.
    pub age_s: u32,
}

impl Way {
    fn pack(&self, now_s: u32) -> u64 {
        let us = self.round_trip_us.map_or(0, |us| us.clamp(1, LONGEST_US));
        let hops = self.hops.map_or(0, |hops| hops.min(MOST_HOPS) + 1);
        let at = now_s.wrapping_sub(self.age_s) & 0xff_ffff;
        let word = u64::from(us)
            | u64::from(self.loss_permille.min(1000)) << LOSS_AT
            | u64::from(hops) << HOPS_AT
            | u64::from(at) << TIME_AT;
        // The one second in half a year in which nothing would look like never.
        if word == 0 { 1 << TIME_AT } else { word }
    }

    /// None: it was never measured, or too long ago.
    fn unpack(word: u64, now_s: u32) -> Option<Way> {
        let age_s = now_s.wrapping_sub((word >> TIME_AT) as u32) & 0xff_ffff;
        // Clocks are set back by a little now and then.
        let age_s = if age_s > 0xff_ffff - 60 { 0 } else { age_s };
        if word == 0 || age_s > LASTS_S {
            return None;
        }
        let us = word as u32 & LONGEST_US;
        Some(Way {
            round_trip_us: (us > 0).then_some(us),
            loss_permille: (word >> LOSS_AT) as u16 & 0x3ff,
            hops: ((word >> HOPS_AT) as u8 & 0x3f).checked_sub(1),
            age_s,
        })
    }
}

/// Who is to be measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Noted {
    /// It has asked here, at this address; None: at another site.
    Asked { from: IpAddr, at: Option<IpAddr> },
    /// It has come by TCP, which has measured the way already, in microseconds.
    Connected { from: IpAddr, round_trip_us: u32 },
}

/// Nobody asks from another kind of address, and a ping to one could be answered by many.
fn is_one(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_multicast() || address.is_unspecified() || broadcast)
}

/// What is known of one network at one moment.
pub struct Seen {
    words: [u64; MAX_SITES],
    now_s: u32,
}

impl Seen {
    #[inline]
    pub fn from(&self, site: SiteNumber) -> Option<Way> {
        Way::unpack(*self.words.get(usize::from(site.0))?, self.now_s)
    }
}

/// What has happened, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Networks of which something is known.
    pub networks: u64,
    /// Measured, by echoes or by a TCP connection, and somebody answered.
    pub measured: u64,
    /// Nobody did.
    pub unanswered: u64,
    /// Not measured, as more were to be than may be.
    pub rate_limited: u64,
    /// Networks that made room for others.
    pub evicted: u64,
    /// Told to other sites, each time to each.
    pub told: u64,
    /// Taken over from other sites.
    pub taken: u64,
}

#[derive(Default)]
struct Counters {
    networks: AtomicU64,
    measured: AtomicU64,
    unanswered: AtomicU64,
    rate_limited: AtomicU64,
    evicted: AtomicU64,
    told: AtomicU64,
    taken: AtomicU64,
}

/// A way from this site, for others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OwnWay {
    /// Whom the echoes were sent to.
    pub address: IpAddr,
    pub way: Way,
}

/// What only writers know of a row.
#[derive(Clone, Copy)]
struct Origin {
    /// Who was measured last.
    address: IpAddr,
    /// When the way from here last changed, by [`Writer::serial`]; 0: it is not known.
    serial: u64,
}

struct Writer {
    origins: Box<[Origin]>,
    serial: u64,
}

/// See the head of this file.
pub struct Ways {
    own: SiteNumber,
    hasher: SipHasher13,
    names: Box<[AtomicU64]>,
    /// [`MAX_SITES`] for each of the names.
    words: Box<[AtomicU64]>,
    writer: Mutex<Writer>,
    /// As [`Writer::serial`], for who only wants to know whether anything has changed.
    serial: AtomicU64,
    queue: ArrayQueue<Noted>,
    /// Who was noted lately, by hashes of the network and the time: two that share a place are noted more often, and that is all.
    lately: Box<[AtomicU64]>,
    /// Echoes are sent, and what they have measured is good for so many seconds.
    measures: AtomicBool,
    every_s: AtomicU32,
    counters: Counters,
}

impl Ways {
    /// For at most `networks`, rounded up to whole corners. `own`: this site; `seed`: random, so that nobody can choose networks that
    /// collide. Nothing is noted before [`Ways::set_measuring`].
    pub fn new(networks: usize, own: SiteNumber, seed: (u64, u64)) -> Ways {
        let rows = networks.div_ceil(CORNER).max(1).next_power_of_two() * CORNER;
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let origin = Origin { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), serial: 0 };
        Ways {
            own,
            hasher: SipHasher13::new_with_keys(seed.0, seed.1),
            names: words(rows),
            words: words(rows * MAX_SITES),
            writer: Mutex::new(Writer { origins: vec![origin; rows].into(), serial: 0 }),
            serial: AtomicU64::new(0),
            queue: ArrayQueue::new(QUEUE),
            lately: words(LATELY),
            measures: AtomicBool::new(false),
            every_s: AtomicU32::new(0),
            counters: Counters::default(),
        }
    }

    /// The site whose ways are measured here.
    pub fn own(&self) -> SiteNumber {
        self.own
    }

    /// Whether who asks is noted, and how long what is known of its way is good.
    pub fn set_measuring(&self, measures: bool, every_s: u32) {
        self.every_s.store(every_s, Relaxed);
        self.measures.store(measures, Relaxed);
    }

    fn corner(&self, network: Network) -> usize {
        self.hasher.hash(&network.0.to_ne_bytes()) as usize % (self.names.len() / CORNER) * CORNER
    }

    #[inline]
    fn row(&self, network: Network) -> Option<usize> {
        let corner = self.corner(network);
        (corner..corner + CORNER).find(|row| self.names[*row].load(Acquire) == network.0)
    }

    /// What is known of a network, of these sites by their bits. `now_s`: since 1970. Neither waits nor allocates.
    #[inline]
    pub fn seen(&self, network: Network, sites: u64, now_s: u32) -> Option<Seen> {
        let row = self.row(network)?;
        let (mut words, mut left) = ([0; MAX_SITES], sites);
        while left != 0 {
            let site = left.trailing_zeros() as usize;
            words[site] = self.words[row * MAX_SITES + site].load(Relaxed);
            left &= left - 1;
        }
        // Pairs with the fence of who gives the row to another network: whoever has read a word of that one's sees its name gone.
        fence(Acquire);
        (self.names[row].load(Relaxed) == network.0).then_some(Seen { words, now_s })
    }

    /// Does the way from here want to be measured?
    #[inline]
    pub fn is_due(&self, network: Network, now_s: u32) -> bool {
        let own = self.seen(network, self.own.bit(), now_s).and_then(|seen| seen.from(self.own));
        own.is_none_or(|way| way.age_s >= self.every_s.load(Relaxed))
    }

    /// Somebody has asked at an address of this host. Neither waits nor allocates; when the queue is full it is only counted.
    #[inline]
    pub fn note(&self, from: IpAddr, at: IpAddr, now_s: u32) {
        self.ask(from, Some(at), now_s);
    }

    #[inline]
    fn ask(&self, from: IpAddr, at: Option<IpAddr>, now_s: u32) {
        let network = Network::of(from);
        if self.measures.load(Relaxed) && is_one(from) && self.is_due(network, now_s) {
            let hash = self.hasher.hash(&network.0.to_ne_bytes());
            let (place, now) = (&self.lately[hash as usize % LATELY], hash ^ u64::from(now_s / AGAIN_S));
            if place.load(Relaxed) != now {
                place.store(now, Relaxed);
                self.push(Noted::Asked { from, at });
            }
        }
    }

    /// Somebody has come by TCP.
    pub fn note_connection(&self, from: IpAddr, round_trip_us: u32, now_s: u32) {
        if round_trip_us > 0 && self.is_due(Network::of(from), now_s) {
            self.push(Noted::Connected { from, round_trip_us });
        }
    }

    fn push(&self, noted: Noted) {
        if self.queue.push(noted).is_err() {
            self.limit();
        }
    }

    /// One was to be measured and is not.
    pub fn limit(&self) {
        self.counters.rate_limited.fetch_add(1, Relaxed);
    }

    /// The next one that was noted.
    pub fn next_noted(&self) -> Option<Noted> {
        self.queue.pop()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network's row, and whether it was another's.
    fn make(&self, network: Network, writer: &mut Writer, now_s: u32) -> usize {
        if let Some(row) = self.row(network) {
            return row;
        }
        let words = |row: usize| &self.words[row * MAX_SITES..(row + 1) * MAX_SITES];
        let age = |row: &usize| {
            let ages = words(*row).iter().filter_map(|word| Way::unpack(word.load(Relaxed), now_s));
            ages.map(|way| way.age_s).min().unwrap_or(u32::MAX)
        };
        let corner = self.corner(network);
        let free = (corner..corner + CORNER).find(|row| self.names[*row].load(Relaxed) == 0);
        let row = free.or_else(|| (corner..corner + CORNER).max_by_key(age)).unwrap_or(corner);
        if free.is_some() {
            self.counters.networks.fetch_add(1, Relaxed);
        } else {
            self.counters.evicted.fetch_add(1, Relaxed);
        }
        self.names[row].store(0, Relaxed);
        // See `seen`.
        fence(Release);
        words(row).iter().for_each(|word| word.store(0, Relaxed));
        writer.origins[row].serial = 0;
        self.names[row].store(network.0, Release);
        row
    }

    fn put(&self, row: usize, site: SiteNumber, way: &Way, now_s: u32) {
        if let Some(word) = self.words.get(row * MAX_SITES + usize::from(site.0)) {
            word.store(way.pack(now_s), Relaxed);
        }
    }

    /// The way from here, measured just now.
    pub fn measured(&self, address: IpAddr, way: &Way, now_s: u32) {
        let counter = if way.round_trip_us.is_some() { &self.counters.measured } else { &self.counters.unanswered };
        counter.fetch_add(1, Relaxed);
        let mut writer = self.writer();
        let row = self.make(Network::of(address), &mut writer, now_s);
        self.put(row, self.own, way, now_s);
        writer.serial += 1;
        writer.origins[row] = Origin { address, serial: writer.serial };
        self.serial.store(writer.serial, Relaxed);
    }

    /// Another site says how far it is from there. What this one does not know of the same network it then measures itself.
    pub fn hear(&self, site: SiteNumber, address: IpAddr, way: &Way, now_s: u32) {
        if site == self.own || usize::from(site.0) >= MAX_SITES || way.age_s > LASTS_S {
            return;
        }
        let network = Network::of(address);
        let mut writer = self.writer();
        let row = self.make(network, &mut writer, now_s);
        self.put(row, site, way, now_s);
        drop(writer);
        self.counters.taken.fetch_add(1, Relaxed);
        self.ask(address, None, now_s);
    }

    /// At most `most` of the ways from here that have changed after `serial`, the first ones of them, and the serial up to which that is.
    pub fn news(&self, serial: u64, most: usize, now_s: u32) -> (Vec<OwnWay>, u64) {
        if self.serial.load(Relaxed) <= serial {
            return (Vec::new(), serial);
        }
        let writer = self.writer();
        let mut rows: Vec<usize> =
            (0..writer.origins.len()).filter(|row| writer.origins[*row].serial > serial).collect();
        rows.sort_unstable_by_key(|row| writer.origins[*row].serial);
        let all = rows.len() <= most;
        rows.truncate(most);
        let last = rows.last().map_or(serial, |row| writer.origins[*row].serial);
        let way = |row: &usize| {
            let word = self.words[row * MAX_SITES + usize::from(self.own.0)].load(Relaxed);
            Some(OwnWay { address: writer.origins[*row].address, way: Way::unpack(word, now_s)? })
        };
        let ways: Vec<OwnWay> = rows.iter().filter_map(way).collect();
        (ways, if all { writer.serial } else { last })
    }

    /// So many have been told to another site.
    pub fn told(&self, count: usize) {
        self.counters.told.fetch_add(count as u64, Relaxed);
    }

    /// Forgets networks of which nothing is known any more.
    pub fn sweep(&self, now_s: u32) {
        let mut writer = self.writer();
        for row in 0..self.names.len() {
            if self.names[row].load(Relaxed) == 0 {
                continue;
            }
            let words = &self.words[row * MAX_SITES..(row + 1) * MAX_SITES];
            // What is left would look new again when the seconds have gone round.
            for word in words.iter().filter(|word| Way::unpack(word.load(Relaxed), now_s).is_none()) {
                word.store(0, Relaxed);
            }
            if words.iter().all(|word| word.load(Relaxed) == 0) {
                self.names[row].store(0, Release);
                writer.origins[row].serial = 0;
                self.counters.networks.fetch_sub(1, Relaxed);
            }
        }
    }

    pub fn counts(&self) -> Counts {
        let Counters { networks, measured, unanswered, rate_limited, evicted, told, taken } = &self.counters;
        let [networks, measured, unanswered, rate_limited, evicted, told, taken] =
            [networks, measured, unanswered, rate_limited, evicted, told, taken].map(|count| count.load(Relaxed));
        Counts { networks, measured, unanswered, rate_limited, evicted, told, taken }
    }
}

#[cfg(test)]
mod tests;
