//! One place of the store: the words of a record, and how they are read and written while other threads do the same.

use super::{AHEAD_MOST_MS, Consumer, Record, Share, Who, until_ms};
use crate::sites::SiteNumber;
use crate::sys::atomic::{AtomicU64, Ordering::*, fence};
use crate::sys::sip::Sip;

/// How often a step is tried again that another thread has come before.
const TRIES: usize = if cfg!(feature = "loom") { 2 } else { 16 };

const BUSY: u64 = 1;
const TURN_BITS: u32 = 21;
const TURNS: u64 = (1 << TURN_BITS) - 1;
const TURN_SHIFT: u32 = 1;
const STAMP_SHIFT: u32 = TURN_SHIFT + TURN_BITS;
/// In the year 2109.
const STAMP_MOST: u64 = (1 << (64 - STAMP_SHIFT)) - 1;

const HITS: u64 = u32::MAX as u64;
const TALLY_TURN_SHIFT: u32 = 32;
const DIRTY_SHIFT: u32 = 56;
/// The stamp has moved since it was to be told last.
const MOVED: u64 = 1 << 63;

/// A record is told again when its stamp has moved by this part of its TTL, about: 1/16.
const TELL_SHIFT: u32 = 4;
/// A stamp that has not moved for so long is told as it is.
const STILL_MS: u64 = 2000;

const TAKEN: u64 = 1 << 63;
const SITE_SHIFT: u32 = 32;

/// What a record is found by, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    who: [u64; 2],
    share: u64,
}

impl Key {
    #[inline]
    pub fn new(who: Who, share: Share) -> Key {
        let who = u128::from_ne_bytes(who.0);
        Key { who: [who as u64, (who >> 64) as u64], share: share.0 }
    }

    fn who(&self) -> Who {
        Who((u128::from(self.who[1]) << 64 | u128::from(self.who[0])).to_ne_bytes())
    }

    #[inline]
    pub fn hash(&self, (k0, k1): (u64, u64)) -> u64 {
        let mut sip = Sip::new(k0, k1);
        [self.who[0], self.who[1], self.share, 24 << 56].into_iter().for_each(|word| sip.word(word));
        sip.finish()
    }
}

/// A line of memory of its own: less would now and then cost two.
#[derive(Default)]
#[repr(C)]
#[cfg_attr(not(feature = "loom"), repr(align(64)))]
pub(super) struct Place {
    head: AtomicU64,
    tally: AtomicU64,
    who: [AtomicU64; 2],
    share: AtomicU64,
    what: AtomicU64,
}

/// A record as it was at one moment.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub key: Key,
    head: u64,
    tally: u64,
    what: u64,
}

impl Seen {
    pub fn site(&self) -> SiteNumber {
        SiteNumber((self.what >> SITE_SHIFT) as u8)
    }

    pub fn stamp_ms(&self) -> u64 {
        self.head >> STAMP_SHIFT
    }

    /// Has the stamp, moving to this, gone far enough to tell of it? At other times for each, so that not all are told at once.
    fn is_to_tell(&self, stamp_ms: u64) -> bool {
        let part_ms = (u64::from(self.what as u32) * 1000) >> TELL_SHIFT;
        let bits = part_ms.max(1000).ilog2();
        let phase = (self.key.who[0] ^ self.key.who[1]).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - bits);
        (self.stamp_ms() + phase) >> bits != (stamp_ms + phase) >> bits
    }

    pub fn until_ms(&self) -> u64 {
        until_ms(self.stamp_ms(), self.what as u32)
    }

    pub fn record(&self) -> Record {
        let (who, share) = (self.key.who(), Share(self.key.share));
        let (ttl_s, hits) = (self.what as u32, self.tally as u32);
        Record { who, share, site: self.site(), ttl_s, stamp_ms: self.stamp_ms(), hits }
    }
}

fn turn(head: u64) -> u64 {
    head >> TURN_SHIFT & TURNS
}

/// Is it another record by now, or about to be?
fn has_moved(was: u64, is: u64) -> bool {
    (was ^ is) & (TURNS << TURN_SHIFT) != 0 || is & BUSY != 0
}

impl Place {
    /// Worth reading? What is being written may be missed: then the record was not there a moment ago.
    #[inline]
    pub fn may_be(&self, key: &Key) -> bool {
        self.who[0].load(Relaxed) == key.who[0] && self.who[1].load(Relaxed) == key.who[1]
    }

    /// The record; None: there is none, or it is being written all the time.
    #[inline]
    pub fn read(&self) -> Option<Seen> {
        let mut head = self.head.load(Acquire);
        for _ in 0..TRIES {
            let who = [self.who[0].load(Relaxed), self.who[1].load(Relaxed)];
            let key = Key { who, share: self.share.load(Relaxed) };
            let (what, tally) = (self.what.load(Relaxed), self.tally.load(Relaxed));
            fence(Acquire);
            let after = self.head.load(Relaxed);
            if head & BUSY == 0 && !has_moved(head, after) {
                return (what & TAKEN != 0).then_some(Seen { key, head: after, tally, what });
            }
            std::hint::spin_loop();
            head = self.head.load(Acquire);
        }
        None
    }

    /// A question has been answered by the record that was seen: its stamp is now, unless it is ahead of that by no more than clocks
    /// may differ. The consumers (their bits) that had nothing to tell of it until now.
    #[inline]
    pub fn touch(&self, seen: &Seen, now_ms: u64) -> u64 {
        let (mut head, stamp_ms) = (seen.head, later(seen.stamp_ms(), now_ms));
        for _ in 0..TRIES {
            let moved = stamped(head, later(head >> STAMP_SHIFT, stamp_ms));
            if moved == head {
                break;
            }
            match self.head.compare_exchange(head, moved, AcqRel, Acquire) {
                Ok(_) => break,
                Err(other) if has_moved(head, other) => return 0,
                Err(other) => head = other,
            }
        }
        let marks = if seen.is_to_tell(stamp_ms) { Consumer::MASK << DIRTY_SHIFT } else { MOVED };
        self.add(seen, 1, marks)
    }

    /// Adds hits and sets marks, consumers' bits or [`MOVED`]; the consumers' bits that were not set before.
    fn add(&self, seen: &Seen, hits: u64, marks: u64) -> u64 {
        let mut tally = self.tally.load(Relaxed);
        for _ in 0..TRIES {
            if tally >> TALLY_TURN_SHIFT & TURNS != turn(seen.head) {
                return 0;
            }
            let more = if tally & HITS == HITS { 0 } else { hits };
            // What is to be told needs no other mark.
            let cleared = if marks & MOVED == 0 { tally & !MOVED } else { tally };
            let new = (cleared | marks) + more;
            match self.tally.compare_exchange(tally, new, AcqRel, Relaxed) {
                Ok(_) => return (!tally & marks & !MOVED) >> DIRTY_SHIFT,
                Err(other) => tally = other,
            }
        }
        0
    }

    /// Sets consumers' bits of the record that was seen.
    pub fn mark(&self, seen: &Seen, consumers: u64) {
        self.add(seen, 0, consumers << DIRTY_SHIFT);
    }

    /// The consumers (their bits) that have to be told that the stamp has moved, and now stands still.
    pub fn settle(&self, seen: &Seen, now_ms: u64) -> u64 {
        let still = now_ms.saturating_sub(seen.stamp_ms()) >= STILL_MS;
        if seen.tally & MOVED != 0 && still { self.add(seen, 0, Consumer::MASK << DIRTY_SHIFT) } else { 0 }
    }

    /// A stamp that only a wrong clock can have made becomes now.
    pub fn cut_stamp(&self, seen: &Seen, now_ms: u64) {
        let cut = stamped(seen.head, later(seen.stamp_ms(), now_ms));
        if seen.stamp_ms() > now_ms && cut != seen.head {
            // Whoever has changed it has just set a better one.
            let _ = self.head.compare_exchange(seen.head, cut, AcqRel, Relaxed);
        }
    }

    /// Only with the bucket's lock held. The consumers (their bits) have yet to be told.
    pub fn write(&self, record: &Record, consumers: u64) {
        let key = Key::new(record.who, record.share);
        let what = TAKEN | u64::from(record.site.0) << SITE_SHIFT | u64::from(record.ttl_s);
        self.replace(key, what, record.stamp_ms.min(STAMP_MOST), consumers << DIRTY_SHIFT | u64::from(record.hits));
    }

    /// Only with the bucket's lock held.
    pub fn clear(&self) {
        self.replace(Key { who: [0; 2], share: 0 }, 0, 0, 0);
    }

    fn replace(&self, key: Key, what: u64, stamp_ms: u64, tally: u64) {
        let old = self.head.fetch_or(BUSY, Relaxed);
        fence(Release);
        let turn = (turn(old) + 1) & TURNS;
        // A swap, so that this word changes by nothing but read-modify-writes: a late CAS of the last record then comes
        // before it or fails, and that is plain to see (and for loom to follow).
        self.tally.swap(tally | turn << TALLY_TURN_SHIFT, Relaxed);
        self.who[0].store(key.who[0], Relaxed);
        self.who[1].store(key.who[1], Relaxed);
        self.share.store(key.share, Relaxed);
        self.what.store(what, Relaxed);
        self.head.store(stamp_ms << STAMP_SHIFT | turn << TURN_SHIFT, Release);
    }

    /// The record, if the consumer (its bit) has not been told of it; now it is.
    pub fn collect(&self, consumer: u64) -> Option<Record> {
        let bit = consumer << DIRTY_SHIFT;
        if self.tally.load(Relaxed) & bit == 0 {
            return None;
        }
        self.tally.fetch_and(!bit, AcqRel);
        // One that is being written just now will be told of when it is there.
        self.read().map(|seen| seen.record())
    }
}

fn stamped(head: u64, stamp_ms: u64) -> u64 {
    head & (TURNS << TURN_SHIFT | BUSY) | stamp_ms << STAMP_SHIFT
}

/// Of a stamp and the clock the later, but a stamp too far ahead.
fn later(stamp_ms: u64, now_ms: u64) -> u64 {
    let ahead = stamp_ms > now_ms && stamp_ms - now_ms <= AHEAD_MOST_MS;
    if ahead { stamp_ms } else { now_ms.min(STAMP_MOST) }
}
