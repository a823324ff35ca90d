//! How many answers came from which zone and pool: each thread counts for itself in words that only it writes.

use super::super::Reply;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Zones, and pools, that are counted; those with a slot above have no count.
pub const SLOTS: usize = 1024;

/// One thread's.
pub struct Tally {
    zones: Box<[AtomicU64]>,
    pools: Box<[AtomicU64]>,
}

impl Default for Tally {
    fn default() -> Tally {
        let none = || (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Tally { zones: none(), pools: none() }
    }
}

impl Tally {
    /// Only the thread that owns this may call it: it is no read-modify-write.
    #[inline]
    pub fn count(&self, reply: &Reply) {
        let bump = |slots: &[AtomicU64], slot: Option<u16>| {
            if let Some(count) = slot.and_then(|slot| slots.get(usize::from(slot))) {
                count.store(count.load(Relaxed) + 1, Relaxed);
            }
        };
        bump(&self.zones, reply.zone);
        bump(&self.pools, reply.pool);
    }

    pub fn zone(&self, slot: u16) -> u64 {
        self.zones.get(usize::from(slot)).map_or(0, |count| count.load(Relaxed))
    }

    pub fn pool(&self, slot: u16) -> u64 {
        self.pools.get(usize::from(slot)).map_or(0, |count| count.load(Relaxed))
    }
}
