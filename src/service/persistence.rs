//! Which real server a client had last: what `[[service]] persistence` goes by.
//!
//! # Theory of operation
//!
//! A cache of words, taken at start, shared by all workers. A *client* is a service and the client's address, cut to the
//! service's prefix length; its keyed hash chooses a bucket, which is one cache line of 8 words:
//!
//! ```text
//!   tag 20 | life 6 | slot 14 | stamp 24        0: empty
//! ```
//!
//! `tag` is more of the hash, `slot` the real server's, `life` the low bits of the slot's, so that a slot's next target does not
//! inherit the clients of the one before; `stamp` is the tick of the client's last connection. All that is known of a client
//! is one word: it is read in one load, changed in one CAS, and there is nothing that could be torn. The word stands for
//! itself, so all accesses are Relaxed; who follows it takes a place at the target first, which looks at the slot's life once
//! more ([`super::status`]).
//!
//! Two clients of one bucket with the same tag (one look in 130,000 finds such) are taken for one: one of them gets to a server
//! that it did not have, of its own service nevertheless, since a slot that is no real server of the service is no answer.
//!
//! *Remembering*: look for the client's tag again. If another worker has meanwhile remembered the same client, its word counts:
//! two first connections of one client at the same moment end up on one server. Else the word goes where the client's
//! own old word is, or into an empty place, or in place of the oldest word of the bucket, which is what forgets clients when
//! there are more than room. Both is decided on one reading of the bucket: who has not seen the other's word there has seen
//! its place as it was before, chooses the same place, and loses it. A bucket has twice the places that `max_persistent` asks
//! for, so that it takes a crowd to make one overflow. Always one CAS; if it fails the bucket is looked at again, a few
//! times, and then not remembering is the lesser evil. (Should the control thread empty a place between the looks of two
//! workers, each may find another place for the same client: the first place counts from then on, and one connection was
//! somewhere else.)
//!
//! *Stamps* wrap after 48 days and mean something for half of that; a word that is older is taken away by control, which
//! walks over the table all the time ([`Memory::sweep`]). It takes away what has expired, too, so that the oldest words of a bucket
//! are not those of services with long timeouts by chance.

use crate::flow::{HashKey, TICK_MS, Tick};
use crate::sys::huge;
use crate::wire::ip::{Addr, Endpoint, FlowKey, V4};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Words of a bucket.
const BUCKET: usize = 8;

/// How often a bucket is looked at again after a lost race.
const TRIES: usize = 8;

const STAMP_BITS: u32 = 24;
const STAMP: u64 = (1 << STAMP_BITS) - 1;
const SLOT_SHIFT: u32 = 24;
const LIFE_SHIFT: u32 = 38;
const LIFE: u64 = 63;
const TAG_SHIFT: u32 = 44;

/// No stamp that counts is older: the configuration lets a client be remembered for 7 days at most.
const OLDEST: Tick = 10 * 86400 * (1000 / TICK_MS as u32);

const _: () = assert!(super::status::MAX_TARGETS <= 1 << (LIFE_SHIFT - SLOT_SHIFT) && OLDEST < 1 << (STAMP_BITS - 1));

/// The most clients that a memory can be asked to hold.
pub const MAX_CLIENTS: u32 = 1 << 26;

#[repr(align(64))]
struct Bucket([AtomicU64; BUCKET]);

/// See the head of this file.
pub struct Memory {
    buckets: Box<[Bucket]>,
    key: HashKey,
}

/// A client of a service: a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(u64);

/// A word and where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    place: usize,
    word: u64,
}

impl Known {
    /// The real server's slot, which may be another target's by now.
    pub fn slot(&self) -> u16 {
        (self.word >> SLOT_SHIFT) as u16 & ((1 << (LIFE_SHIFT - SLOT_SHIFT)) - 1)
    }

    /// Was the slot in this life?
    pub fn is_of(&self, life: u32) -> bool {
        self.word >> LIFE_SHIFT & LIFE == u64::from(life) & LIFE
    }
}

/// What came of [`Memory::remember`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is remembered. `evicted`: for that another client was forgotten.
    Mine { evicted: bool },
    /// Another worker has just remembered the same client with this.
    Others(Known),
    /// Too many workers at one bucket: the client is not remembered this time.
    Nothing,
}

impl Memory {
    /// For `clients` clients, at most [`MAX_CLIENTS`], hashed under `key`. 16 bytes for each, rounded up to a power of two.
    pub fn new(clients: u32, key: HashKey) -> Memory {
        let buckets = (clients as usize * 2).div_ceil(BUCKET).next_power_of_two();
        Memory { buckets: huge::boxed(buckets, |_| Bucket(Default::default())), key }
    }

    /// The client at `addr`, cut to `prefix` bits, of the service in slot `service`.
    pub fn client(&self, service: u16, addr: &Addr, family: u8, prefix: u8) -> Client {
        let src = Endpoint { addr: cut(addr, family, prefix), port: 0 };
        let dst = Endpoint { addr: Addr::default(), port: service };
        Client(self.key.hash(&FlowKey { src, dst, protocol: 0, family }))
    }

    fn bucket(&self, client: Client) -> &[AtomicU64; BUCKET] {
        &self.buckets[client.0 as usize & (self.buckets.len() - 1)].0
    }

    /// What is known of a client whose last connection was made no more than `timeout` ago.
    pub fn find(&self, client: Client, now: Tick, timeout: Tick) -> Option<Known> {
        let known = self.tagged(client)?;
        (age(known.word, now) <= timeout).then_some(known)
    }

    /// The first word with the client's tag.
    fn tagged(&self, client: Client) -> Option<Known> {
        tagged(&self.read(client), client)
    }

    /// The words of the client's bucket, each read once.
    fn read(&self, client: Client) -> [u64; BUCKET] {
        self.bucket(client).each_ref().map(|word| word.load(Relaxed))
    }

    /// The client has come again, to the server that is `known`.
    pub fn refresh(&self, client: Client, known: Known, now: Tick) {
        let word = known.word & !STAMP | stamp(now);
        if word != known.word {
            // Whoever else changed it did so just now.
            let _ = self.bucket(client)[known.place].compare_exchange(known.word, word, Relaxed, Relaxed);
        }
    }

    /// The client has the server in `slot`, in its `life`, from now on. `known` is what was found before, and is not to be followed.
    pub fn remember(
        &self,
        client: Client,
        known: Option<Known>,
        (slot, life): (u16, u32),
        now: Tick,
        timeout: Tick,
    ) -> Kept {
        let bucket = self.bucket(client);
        let word = tag(client) << TAG_SHIFT
            | (u64::from(life) & LIFE) << LIFE_SHIFT
            | u64::from(slot) << SLOT_SHIFT
            | stamp(now);
        for _ in 0..TRIES {
            let words = self.read(client);
            let (place, old) = match tagged(&words, client) {
                Some(other) if Some(other) != known && age(other.word, now) <= timeout => return Kept::Others(other),
                Some(own) => (own.place, own.word),
                None => emptiest(&words, now),
            };
            if bucket[place].compare_exchange(old, word, Relaxed, Relaxed).is_ok() {
                return Kept::Mine { evicted: old != 0 && old >> TAG_SHIFT != tag(client) };
            }
        }
        Kept::Nothing
    }

    /// Goes over the next `count` buckets from `cursor` on and forgets what has expired: `timeout` tells for a real server's slot
    /// how long its clients are remembered, 0 for a slot that is none's. Where to go on; the table is a ring.
    pub fn sweep(&self, cursor: usize, count: usize, now: Tick, timeout: impl Fn(u16) -> Tick) -> usize {
        let count = count.min(self.buckets.len());
        for at in cursor..cursor + count {
            for (place, word) in self.buckets[at & (self.buckets.len() - 1)].0.iter().enumerate() {
                let known = Known { place, word: word.load(Relaxed) };
                if known.word != 0 && age(known.word, now) > timeout(known.slot()).min(OLDEST) {
                    let _ = word.compare_exchange(known.word, 0, Relaxed, Relaxed);
                }
            }
        }
        (cursor + count) & (self.buckets.len() - 1)
    }

    /// How many clients are remembered. Reads the whole table; for tests.
    #[cfg(test)]
    pub fn clients(&self) -> usize {
        self.buckets.iter().flat_map(|bucket| &bucket.0).filter(|word| word.load(Relaxed) != 0).count()
    }
}

/// Not 0, so that no word is.
fn tag(client: Client) -> u64 {
    (client.0 >> TAG_SHIFT).max(1)
}

fn stamp(now: Tick) -> u64 {
    u64::from(now) & STAMP
}

/// Ticks since a word's stamp; none if another worker's clock was ahead.
fn age(word: u64, now: Tick) -> Tick {
    let since = (stamp(now).wrapping_sub(word & STAMP) & STAMP) as Tick;
    if since >> (STAMP_BITS - 1) == 0 { since } else { 0 }
}

/// The first of a bucket's words that has the client's tag.
fn tagged(words: &[u64; BUCKET], client: Client) -> Option<Known> {
    let place = words.iter().position(|word| word >> TAG_SHIFT == tag(client))?;
    Some(Known { place, word: words[place] })
}

/// The first empty place of a bucket, else that of the oldest word; and what stands there.
fn emptiest(words: &[u64; BUCKET], now: Tick) -> (usize, u64) {
    let mut oldest = (0, 0, 0);
    for (place, word) in words.iter().copied().enumerate() {
        if word == 0 {
            return (place, 0);
        }
        let age = age(word, now);
        if place == 0 || age > oldest.2 {
            oldest = (place, word, age);
        }
    }
    (oldest.0, oldest.1)
}

/// The first `prefix` bits of an address.
fn cut(addr: &Addr, family: u8, prefix: u8) -> Addr {
    let words = if family == V4 { 1 } else { 4 };
    let mut cut = Addr::default();
    for (at, word) in cut.0.iter_mut().enumerate().take(words) {
        let bits = u32::from(prefix).saturating_sub(32 * at as u32).min(32);
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        *word = addr.0[at] & mask.to_be();
    }
    cut
}

#[cfg(test)]
mod tests;
