//! Which keys may stand in their second bucket: a bit for each bucket of the index, set before a word whose first choice it is goes
//! elsewhere, for want of room. Where it is not set, the one line of the first bucket says all there is to say of a key: nearly so
//! for all keys while a table has never been as full as it may be. Bits stay set: when the last such word is gone is nobody's to know.
//!
//! A bit is set before the word is placed, by a thread that then fences and scans ([`super::table`]); so of two rivals the one whose
//! fence is second sees the other's bit as it sees its word.

use super::atomic::{AtomicU64, Ordering::*};
use crate::sys::huge;

pub struct Displaced(Box<[AtomicU64]>);

impl Displaced {
    pub fn new(buckets: usize) -> Displaced {
        Displaced(huge::boxed(buckets.div_ceil(64), |_| AtomicU64::new(0)))
    }

    /// A word whose first choice is `bucket` will go elsewhere.
    #[inline]
    pub fn note(&self, bucket: usize) {
        let bit = 1 << (bucket % 64);
        if self.0[bucket / 64].load(Relaxed) & bit == 0 {
            self.0[bucket / 64].fetch_or(bit, SeqCst);
        }
    }

    /// May a word whose first choice is `bucket` stand elsewhere?
    #[inline(always)]
    pub fn any(&self, bucket: usize) -> bool {
        self.0[bucket / 64].load(Relaxed) >> (bucket % 64) & 1 != 0
    }
}
