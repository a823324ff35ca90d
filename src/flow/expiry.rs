//! Timeouts by a clock hand: each worker walks over its range of the records, a few at a time, and takes out what
//! has been silent for too long. No timers, no lists, no locks; a flow outlives its timeout by one round at most.

use super::atomic::Ordering::*;
use super::record::{LIVE, Word};
use super::table::FlowTable;
use super::view::{FlowDetails, idle};
use super::{Tick, Timeouts};

impl FlowTable {
    /// Looks at the next `budget` records of the worker's range (at most all that were ever in use, once), removes the flows that have
    /// expired, and calls `gone` for each, counters as they were at last. Flows whose hops are not of route epoch `epoch` forget
    /// them, so that the epoch, which wraps, never comes round to one that is still on record. Returns the number
    /// removed. A worker sweeps its own range only.
    pub fn sweep(
        &self,
        worker: usize,
        budget: u32,
        now: Tick,
        epoch: u8,
        timeouts: &Timeouts,
        mut gone: impl FnMut(&FlowDetails),
    ) -> u32 {
        let range = self.free.range(worker);
        let size = self.sweep_range(worker);
        let share = self.free.share(worker);
        let mut hand = share.hand.load(Relaxed);
        let mut removed = 0;
        for _ in 0..budget.min(size) {
            hand = if hand + 1 < size { hand + 1 } else { 0 };
            let index = range.start + hand;
            let record = &self.records[index as usize];
            let version = record.version();
            let word = record.word();
            if version.phase() != LIVE || word.generation() != version.generation() {
                continue;
            }
            let limit = timeouts.of(word.state(), version.mode().one_sided());
            if idle(record.last_seen.load(Relaxed), now) >= limit {
                if let Some(details) = self.remove(self.reference(index, version)) {
                    removed += 1;
                    gone(&details);
                }
            } else if word.epoch() != epoch {
                record.change(version.generation(), |word| {
                    (word.epoch() != epoch).then(|| Word::new(word.generation(), word.state(), epoch, [0; 2]))
                });
            }
        }
        share.hand.store(hand, Relaxed);
        removed
    }

    /// Records of a worker's range that a sweep has to look at, for choosing a budget: none that was never in use.
    pub fn sweep_range(&self, worker: usize) -> u32 {
        self.free.reached(worker)
    }
}
