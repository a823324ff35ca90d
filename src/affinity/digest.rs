//! How two nodes find out what one of them has missed: all records there can be are divided into ranges, and what is in a range
//! has a digest.

use super::{Record, Store};
use crate::sites::Registry;
use siphasher::sip::SipHasher13;

/// Ranges that records are divided into, the same on all nodes.
pub const RANGES: usize = 1024;

/// A set of ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges([u64; RANGES / 64]);

impl Ranges {
    /// Those in which two nodes' digests differ.
    pub fn different(own: &[u64; RANGES], other: &[u64; RANGES]) -> Ranges {
        let mut ranges = Ranges([0; RANGES / 64]);
        (0..RANGES).filter(|range| own[*range] != other[*range]).for_each(|range| ranges.add(range));
        ranges
    }

    /// From the words of [`Ranges::words`].
    pub fn from_words(words: [u64; RANGES / 64]) -> Ranges {
        Ranges(words)
    }

    pub fn words(&self) -> &[u64; RANGES / 64] {
        &self.0
    }

    fn add(&mut self, range: usize) {
        self.0[range / 64] |= 1 << (range % 64);
    }

    pub fn has(&self, range: usize) -> bool {
        self.0.get(range / 64).is_some_and(|word| word >> (range % 64) & 1 == 1)
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// The range that a record is in.
fn range(record: &Record) -> usize {
    let mut octets = [0; 24];
    octets[..16].copy_from_slice(&record.who.0);
    octets[16..].copy_from_slice(&record.share.0.to_be_bytes());
    SipHasher13::new_with_keys(0, 1).hash(&octets) as usize % RANGES
}

/// Hits are left out: they are no reason to tell of a record.
fn hash(record: &Record, sites: &Registry) -> u64 {
    let (site, mut octets) = (sites.name(record.site), Vec::with_capacity(100));
    octets.extend_from_slice(&record.who.0);
    octets.extend_from_slice(&record.share.0.to_be_bytes());
    octets.extend_from_slice(&record.stamp_ms.to_be_bytes());
    octets.extend_from_slice(&record.ttl_s.to_be_bytes());
    octets.extend_from_slice(site.as_bytes());
    SipHasher13::new_with_keys(0, 2).hash(&octets)
}

impl Store {
    /// Adds to each range's digest (all 0 at first) the records in `count` buckets from `from` on whose stamps are before
    /// `before_ms` and which hold until then at least; where to go on, None: these were the last. Newer records are on their way
    /// as changes: with a `before_ms` that lies some time back, nodes that hold the same have the same digests while resolvers ask.
    pub fn digest(
        &self,
        slice: (usize, usize),
        before_ms: u64,
        sites: &Registry,
        sums: &mut [u64; RANGES],
    ) -> Option<usize> {
        self.digest_by(slice, 0, before_ms, sites, sums)
    }

    /// The same by another node's clock, which is `ahead_ms` ahead of this one's; so is `before_ms`.
    pub fn digest_by(
        &self,
        (from, count): (usize, usize),
        ahead_ms: i64,
        before_ms: u64,
        sites: &Registry,
        sums: &mut [u64; RANGES],
    ) -> Option<usize> {
        self.scan(from, count, |mut record| {
            record.stamp_ms = record.stamp_ms.saturating_add_signed(ahead_ms);
            if record.stamp_ms < before_ms && record.until_ms() >= before_ms {
                sums[range(&record)] ^= hash(&record, sites);
            }
        })
    }

    /// The records of some ranges, in `count` buckets from `from` on; where to go on, None: these were the last.
    pub fn records_in(&self, ranges: &Ranges, (from, count): (usize, usize), out: &mut Vec<Record>) -> Option<usize> {
        self.scan(from, count, |record| {
            if ranges.has(range(&record)) {
                out.push(record);
            }
        })
    }
}
