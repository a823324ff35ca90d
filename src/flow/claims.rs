//! Which answers of real servers are farside's: the set of the flow hashes under which NAT-mode flows expect them. The
//! kernel program that sorts incoming packets reads it; workers write it when a flow comes and goes.
//!
//! A row of 64-bit words in buckets of 8; a word is a hash, 0 is empty. A hash stands in one of two buckets, `hash & mask` or
//! `hash >> 32 & mask`. It stands there once for each flow that claimed it, so that two claims and one release
//! leave one. Words stand for themselves (nothing is published through them), so Relaxed will do everywhere. The
//! kernel may read a moment late; the first packet of a flow is sent after its claim, and the answer to it comes
//! later still.

use crate::sys::huge;
use crate::sys::prefetch::prefetch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Words of a bucket.
pub const BUCKET: usize = 8;

/// Of a first bucket so many words are tried before the second one is looked at: so many that most claims stand there, and so few
/// that the buckets of a full set stay alike.
const NEAR: usize = 5;

enum Memory {
    None,
    Own(Box<[AtomicU64]>),
    Lent(Arc<dyn AsRef<[AtomicU64]> + Send + Sync>),
}

/// Puts a claim into the first empty word. False: there is none.
#[inline]
fn fill(words: &[AtomicU64], hash: u64) -> bool {
    words.iter().any(|word| word.load(Relaxed) == 0 && word.compare_exchange(0, hash, Relaxed, Relaxed).is_ok())
}

pub struct Claims {
    memory: Memory,
    /// Number of buckets less one.
    mask: u64,
}

impl Claims {
    /// How many buckets it takes for the claims of `max_flows` flows: a power of two, at most 60 % full.
    pub fn buckets_for(max_flows: u32) -> usize {
        (max_flows as usize * 10).div_ceil(6 * BUCKET).next_power_of_two()
    }

    /// Nobody asks: claims are accepted and forgotten.
    pub fn none() -> Claims {
        Claims { memory: Memory::None, mask: 0 }
    }

    /// In memory of the process's own.
    pub fn own(max_flows: u32) -> Claims {
        let buckets = Claims::buckets_for(max_flows);
        let words = huge::boxed(buckets * BUCKET, |_| AtomicU64::new(0));
        Claims { memory: Memory::Own(words), mask: buckets as u64 - 1 }
    }

    /// In memory that is shared with the kernel, all zero at first. `None` unless it holds a power of two of buckets.
    pub fn lent(memory: Arc<dyn AsRef<[AtomicU64]> + Send + Sync>) -> Option<Claims> {
        let words = (*memory).as_ref().len();
        let buckets = words / BUCKET;
        (buckets.is_power_of_two() && words.is_multiple_of(BUCKET))
            .then(|| Claims { memory: Memory::Lent(memory), mask: buckets as u64 - 1 })
    }

    fn words(&self) -> &[AtomicU64] {
        match &self.memory {
            Memory::None => &[],
            Memory::Own(words) => words,
            Memory::Lent(memory) => (**memory).as_ref(),
        }
    }

    /// The bucket that half a hash chooses; empty without memory.
    #[inline]
    fn bucket(&self, half: u64) -> &[AtomicU64] {
        let start = (half & self.mask) as usize * BUCKET;
        self.words().get(start..start + BUCKET).unwrap_or(&[])
    }

    /// The two buckets of a hash, twice the same one if they fall together; empty without memory.
    fn buckets(&self, hash: u64) -> [&[AtomicU64]; 2] {
        [self.bucket(hash), self.bucket(hash >> 32)]
    }

    /// Begins to load the bucket in which a claim is most likely to be put.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        if let Some(word) = self.bucket(hash).first() {
            prefetch(word);
        }
    }

    /// Adds one claim. False: both buckets are full, nothing changed. `hash` is not 0.
    #[inline]
    pub fn insert(&self, hash: u64) -> bool {
        // Two choices keep buckets from overflowing; but a claim that stands near the start of its first one costs one line.
        let near = self.bucket(hash).get(..NEAR).is_some_and(|near| fill(near, hash));
        near || matches!(self.memory, Memory::None) || self.insert_anywhere(hash)
    }

    #[inline(never)]
    fn insert_anywhere(&self, hash: u64) -> bool {
        let free = |bucket: &[AtomicU64]| bucket.iter().filter(|word| word.load(Relaxed) == 0).count();
        let [first, second] = self.buckets(hash);
        let order = if free(first) >= free(second) { [first, second] } else { [second, first] };
        order.into_iter().any(|bucket| fill(bucket, hash))
    }

    /// Takes one claim away. False: there was none.
    pub fn remove(&self, hash: u64) -> bool {
        matches!(self.memory, Memory::None)
            || self
                .buckets(hash)
                .into_iter()
                .flatten()
                .any(|word| word.load(Relaxed) == hash && word.compare_exchange(hash, 0, Relaxed, Relaxed).is_ok())
    }

    pub fn contains(&self, hash: u64) -> bool {
        self.buckets(hash).into_iter().flatten().any(|word| word.load(Relaxed) == hash)
    }

    /// Claims that stand now.
    pub fn len(&self) -> usize {
        self.words().iter().filter(|word| word.load(Relaxed) != 0).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
