//! Walking over the records in pieces: for `show flows`, and for a worker that looks for a target's connections.

use super::atomic::Ordering::Relaxed;
use super::record::LIVE;
use super::table::FlowTable;
use super::view::{FlowDetails, FlowRef};

impl FlowTable {
    /// Of the target that a flow goes to; `None` if the flow is gone. Less to read than [`FlowTable::details`].
    #[inline]
    pub fn target_slot(&self, at: FlowRef) -> Option<u16> {
        let record = self.records.get(at.index as usize)?;
        let slot = record.owner.load(Relaxed) as u16;
        record.still_at(at.version).then_some(slot)
    }

    /// Calls back for every flow among the `look` records from `cursor` on, until `most` have been told. Returns the cursor
    /// to go on from; None at the end.
    pub fn scan(&self, cursor: u32, look: u32, most: usize, mut each: impl FnMut(&FlowDetails)) -> Option<u32> {
        let end = (self.records.len() as u32).min(cursor.saturating_add(look));
        let mut told = 0;
        for index in cursor..end {
            if told == most {
                return Some(index);
            }
            let version = self.records[index as usize].version();
            if version.phase() == LIVE
                && let Some(details) = self.details(FlowRef { index, version: version.0 })
            {
                told += 1;
                each(&details);
            }
        }
        (end < self.records.len() as u32).then_some(end)
    }

    /// The same over a worker's own records, `cursor` counting from the first of them.
    pub fn scan_range(&self, worker: usize, cursor: u32, look: u32, each: impl FnMut(&FlowDetails)) -> Option<u32> {
        let range = self.free.range(worker);
        let from = range.start.saturating_add(cursor).min(range.end);
        let look = look.min(range.end - from);
        self.scan(from, look, usize::MAX, each);
        let next = from + look;
        (next < range.end).then_some(next - range.start)
    }
}
