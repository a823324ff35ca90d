//! A burst's look-ups, in passes, so that the cache misses of its packets overlap: what a pass asks for has come when the next
//! one needs it.
//!
//! 1. [`FlowTable::prefetch`]: the bucket in which a key most likely stands
//! 2. [`FlowTable::prefetch_record`]: the record that it leads to, or the other bucket if the key may stand there
//! 3. [`FlowTable::prefetch_late`]: the record, if it was the other bucket
//! 4. [`FlowTable::follow`]: the flow, by the word that was found on the way

use super::table::{Entry, FlowTable, any_entry, tag};
use super::view::Flow;
use crate::sys::prefetch::prefetch;
use crate::sys::rows::FlowBucket;
use crate::wire::ip::{FlowKey, V4};

/// What is known of a key before it is looked up: its hash, and a word of the index that may be the key's; or, where there is none,
/// the number of a note about it.
#[derive(Clone, Copy)]
pub struct Hint {
    /// [`FlowTable::hash`] of the key; 0: there is no key.
    pub hash: u64,
    /// An [`Entry`], or a note's number; 0: neither.
    word: u64,
}

impl Hint {
    /// Nothing but the hash.
    #[inline]
    pub fn of(hash: u64) -> Hint {
        Hint { hash, word: 0 }
    }

    /// Is there a word?
    #[inline]
    pub fn leads_on(&self) -> bool {
        self.entry().is_some()
    }

    #[inline(always)]
    pub(super) fn entry(&self) -> Option<Entry> {
        Entry::of_hint(self.word)
    }

    /// Of the note that was made: nothing with this key was in the index, and what it would open is chosen.
    #[inline]
    pub fn note(&self) -> Option<usize> {
        (self.word != 0 && !self.leads_on()).then(|| self.word as usize - 1)
    }

    /// A hint that has no word refers to a note, by its number (less than 2^16).
    #[inline]
    pub fn noted(self, note: u16) -> Hint {
        Hint { word: u64::from(note) + 1, ..self }
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
        if !hint.leads_on()
            && let Some(second) = self.second_bucket(hash)
        {
            prefetch(second);
        }
        hint
    }

    /// Third pass, for those that [lead](Hint::leads_on) nowhere yet.
    #[inline]
    pub fn prefetch_late(&self, hash: u64, family: u8) -> Hint {
        self.second_bucket(hash).map_or(Hint::of(hash), |second| self.hint(hash, second, family))
    }

    #[inline(always)]
    fn hint(&self, hash: u64, bucket: &FlowBucket, family: u8) -> Hint {
        let entry = any_entry(bucket, tag(hash));
        if let Some(entry) = entry {
            let record = self.record(entry.index());
            prefetch(record);
            if family != V4 {
                prefetch(record.second_line());
            }
        }
        Hint { hash, word: entry.map_or(0, Entry::word) }
    }

    /// Last pass. As [`FlowTable::lookup`], without another look at the index if the hint was right. It is as good as a word
    /// that was read there just now: if the life that it names is over, the record says so.
    #[inline]
    pub fn follow(&self, key: &FlowKey, hint: Hint) -> Option<Flow> {
        if let Some(entry) = hint.entry()
            && let Some(flow) = self.flow_of(entry, key)
        {
            return Some(flow);
        }
        self.lookup(key, hint.hash)
    }
}
