//! A burst's look-ups, in passes, so that the cache misses of its packets overlap: what a pass asks for has come when the next
//! one needs it.
//!
//! 1. [`FlowTable::prefetch`]: the bucket in which a key most likely stands
//! 2. [`FlowTable::prefetch_record`]: the record that it leads to, or the other bucket
//! 3. [`FlowTable::prefetch_late`]: the record, if it was the other bucket
//! 4. [`FlowTable::follow`]: the flow, by the word that was found on the way

use super::atomic::AtomicU64;
use super::table::{BUCKET, Entry, FlowTable, any_entry, tag};
use super::view::Flow;
use crate::sys::prefetch::prefetch;
use crate::wire::ip::{FlowKey, V4};

/// What is known of a key before it is looked up: its hash, and a word of the index that may be the key's.
#[derive(Clone, Copy)]
pub struct Hint {
    /// [`FlowTable::hash`] of the key; 0: there is no key.
    pub hash: u64,
    pub(super) entry: Option<Entry>,
}

impl Hint {
    /// Nothing but the hash.
    #[inline]
    pub fn of(hash: u64) -> Hint {
        Hint { hash, entry: None }
    }

    /// Is there a word?
    #[inline]
    pub fn leads_on(&self) -> bool {
        self.entry.is_some()
    }
}

impl FlowTable {
    /// First pass. Not both buckets: each line that is asked for costs, however early.
    #[inline(always)]
    pub fn prefetch(&self, key: &FlowKey) -> Hint {
        let hash = self.hash_key().hash(key);
        prefetch(self.bucket(hash));
        Hint::of(hash)
    }

    /// Second pass.
    #[inline]
    pub fn prefetch_record(&self, hash: u64, family: u8) -> Hint {
        let hint = self.hint(hash, self.bucket(hash), family);
        if hint.entry.is_none() {
            prefetch(self.bucket(hash >> 32));
        }
        hint
    }

    /// Third pass, for those that [lead](Hint::leads_on) nowhere yet.
    #[inline]
    pub fn prefetch_late(&self, hash: u64, family: u8) -> Hint {
        self.hint(hash, self.bucket(hash >> 32), family)
    }

    #[inline(always)]
    fn hint(&self, hash: u64, bucket: &[AtomicU64; BUCKET], family: u8) -> Hint {
        let entry = any_entry(bucket, tag(hash));
        if let Some(entry) = entry {
            let record = self.record(entry.index());
            prefetch(record);
            if family != V4 {
                prefetch(record.second_line());
            }
        }
        Hint { hash, entry }
    }

    /// Last pass. As [`FlowTable::lookup`], without another look at the index if the hint was right. It is as good as a word
    /// that was read there just now: if the life that it names is over, the record says so.
    #[inline]
    pub fn follow(&self, key: &FlowKey, hint: Hint) -> Option<Flow> {
        if let Some(entry) = hint.entry
            && let Some(flow) = self.flow_of(entry, key)
        {
            return Some(flow);
        }
        self.lookup(key, hint.hash)
    }
}
