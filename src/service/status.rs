//! One slot per target (real server or remote site of a service): its status word and its live counts. Slots live
//! outside the snapshot, so that a reload keeps them; control writes the word, workers read it.

use super::evidence::Evidence;
use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The most targets of one process, old ones whose connections still run included.
pub const MAX_TARGETS: usize = 16384;

/// Passes its checks.
pub const UP: u32 = 1;
/// An operator drains it: no new connections, whatever the checks say.
pub const DRAINED: u32 = 2;

#[derive(Default)]
pub struct TargetSlot {
    /// [`UP`] and [`DRAINED`]. Relaxed: a status stands for itself, nothing is published through it.
    word: AtomicU32,
    /// Connections on record now.
    pub active: AtomicU32,
    /// Connections ever.
    pub total: AtomicU64,
    /// Smoothed SYN to SYN-ACK time in microseconds, 0 until one was measured.
    pub connect_us: AtomicU32,
    /// What clients' connections met with lately.
    pub evidence: Evidence,
}

impl TargetSlot {
    /// May it be given a new connection?
    pub fn takes_new(&self) -> bool {
        self.word.load(Relaxed) & (UP | DRAINED) == UP
    }

    pub fn is_up(&self) -> bool {
        self.word.load(Relaxed) & UP != 0
    }

    pub fn is_drained(&self) -> bool {
        self.word.load(Relaxed) & DRAINED != 0
    }

    /// As new, for another target. Live connections stay counted: each one on record takes exactly one off when it ends.
    pub fn reset(&self) {
        self.word.store(0, Relaxed);
        self.total.store(0, Relaxed);
        self.connect_us.store(0, Relaxed);
        self.evidence.clear();
    }

    pub fn set_up(&self, up: bool) {
        if up {
            self.word.fetch_or(UP, Relaxed)
        } else {
            self.word.fetch_and(!UP, Relaxed)
        };
    }

    pub fn set_drained(&self, drained: bool) {
        if drained {
            self.word.fetch_or(DRAINED, Relaxed)
        } else {
            self.word.fetch_and(!DRAINED, Relaxed)
        };
    }
}

/// All slots, taken at start.
pub struct StatusTable {
    slots: Box<[CachePadded<TargetSlot>]>,
}

impl StatusTable {
    pub fn new() -> StatusTable {
        StatusTable { slots: (0..MAX_TARGETS).map(|_| CachePadded::default()).collect() }
    }

    /// `slot` < [`MAX_TARGETS`].
    pub fn slot(&self, slot: u16) -> &TargetSlot {
        &self.slots[slot as usize]
    }
}

impl Default for StatusTable {
    fn default() -> Self {
        StatusTable::new()
    }
}
