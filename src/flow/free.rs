//! Free records: one stack per worker, lock-free, linked through the records themselves.
//!
//! Records are divided among the workers in equal ranges; a record returns to the stack of its range, and the sweep of a worker
//! covers its range. So a worker mostly inserts, sweeps and frees the same memory, and meets another's stack
//! only when its own is empty. Last in, first out: the record that died last is the one most likely still in a cache.
//!
//! A head is `{tag 32 | index + 1}`, 0 in the low half is the end. The tag grows with each change, so that a head that
//! was popped and pushed back meanwhile (ABA) is seen to have changed. Reading the link of a record that another
//! worker just took is harmless: records are never given back, and the tag makes the CAS fail.

use super::atomic::{AtomicU32, AtomicU64, Ordering::*};
use super::record::Record;
use crate::sys::prefetch::prefetch;
use crossbeam_utils::CachePadded;
use std::ops::Range;

/// In steps of so many records the part grows that is swept.
const REACH: u32 = 64;

pub struct Share {
    head: AtomicU64,
    /// Records that came back to this range ever. It wraps, as the tag does.
    given: AtomicU32,
    /// Of this range only so many records, from its start, have ever been in use, rounded up to [`REACH`]: there is nothing to sweep
    /// behind them. Records are handed out from the start on, so that it follows the most flows that there were at a time.
    high: AtomicU32,
    /// Where the sweep goes on, counted from the start of the range. Only the range's worker moves it.
    pub hand: AtomicU32,
}

pub struct FreeList {
    shares: Box<[CachePadded<Share>]>,
    /// Records of a range; the last range may be shorter.
    stride: u32,
    records: u32,
}

impl FreeList {
    /// All of `records` are free.
    pub fn new(records: &[Record], workers: usize) -> FreeList {
        let count = records.len() as u32;
        let list = FreeList {
            shares: (0..workers)
                .map(|_| {
                    CachePadded::new(Share {
                        head: AtomicU64::new(0),
                        given: AtomicU32::new(0),
                        high: AtomicU32::new(0),
                        hand: AtomicU32::new(0),
                    })
                })
                .collect(),
            stride: count.div_ceil(workers as u32).max(1),
            records: count,
        };
        for (worker, share) in list.shares.iter().enumerate() {
            let range = list.range(worker);
            for index in range.clone() {
                records[index as usize].owner.store(if index + 1 < range.end { index + 2 } else { 0 }, Relaxed);
            }
            share.head.store(if range.is_empty() { 0 } else { u64::from(range.start) + 1 }, Relaxed);
        }
        list
    }

    /// The records of a worker; `worker` counts modulo the number of workers.
    pub fn range(&self, worker: usize) -> Range<u32> {
        let start = (self.stride * (worker % self.shares.len()) as u32).min(self.records);
        start..(start + self.stride).min(self.records)
    }

    pub fn share(&self, worker: usize) -> &Share {
        &self.shares[worker % self.shares.len()]
    }

    /// Takes a record, from the worker's own range if there is one left.
    pub fn take(&self, records: &[Record], worker: usize) -> Option<u32> {
        (0..self.shares.len()).find_map(|i| {
            let share = self.share(worker + i);
            let index = share.pop(records)?;
            share.reach(index % self.stride);
            Some(index)
        })
    }

    /// How many records of a worker's range there may be something in.
    pub fn reached(&self, worker: usize) -> u32 {
        let range = self.range(worker);
        self.share(worker).high.load(Relaxed).min(range.end - range.start)
    }

    /// Gives a record back that [`FreeList::take`] gave out.
    pub fn give(&self, records: &[Record], index: u32) {
        let share = self.share((index / self.stride) as usize);
        share.push(records, index);
        // Release: whoever sees it sees the push in the tag.
        share.given.fetch_add(1, Release);
    }

    /// Records in use.
    pub fn used(&self) -> u32 {
        self.shares.iter().map(|share| share.used()).sum()
    }
}

fn head(old: u64, link: u32) -> u64 {
    ((old >> 32).wrapping_add(1) << 32) | u64::from(link)
}

impl Share {
    /// Records of this range that are in use; those on their way back may be among them.
    fn used(&self) -> u32 {
        // In this order it is never less than it should be.
        let given = self.given.load(Acquire);
        let tag = (self.head.load(Relaxed) >> 32) as u32;
        tag.wrapping_sub(given.wrapping_mul(2))
    }

    // Acquire and Release of the head pair with each other: who pops a record sees all that was done to it before the push.

    fn pop(&self, records: &[Record]) -> Option<u32> {
        let mut old = self.head.load(Acquire);
        loop {
            let index = (old as u32).checked_sub(1)?;
            let link = records[index as usize].owner.load(Relaxed);
            match self.head.compare_exchange_weak(old, head(old, link), AcqRel, Acquire) {
                Ok(_) => {
                    if let Some(next) = link.checked_sub(1) {
                        // Both lines of the one that is taken next: here is the only hint of it.
                        let next = &records[next as usize];
                        prefetch(next);
                        prefetch(next.second_line());
                    }
                    return Some(index);
                }
                Err(other) => old = other,
            }
        }
    }

    /// `index` within the range is in use.
    fn reach(&self, index: u32) {
        if self.high.load(Relaxed) <= index {
            self.high.fetch_max((index + 1).next_multiple_of(REACH), Relaxed);
        }
    }

    fn push(&self, records: &[Record], index: u32) {
        let mut old = self.head.load(Relaxed);
        loop {
            records[index as usize].owner.store(old as u32, Relaxed);
            match self.head.compare_exchange_weak(old, head(old, index + 1), AcqRel, Relaxed) {
                Ok(_) => return,
                Err(other) => old = other,
            }
        }
    }
}
