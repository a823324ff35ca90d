//! The words that workers read for every packet, and the queue by which they ask for what is missing.

use super::Neighbor;
use crate::sys::rows::{HopCell, Rows};
use crossbeam_queue::ArrayQueue;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Names a next hop: a neighbour on a port. Below [`MAX_HOPS`].
pub type HopId = u16;

/// No next hop: never resolved.
pub const NO_HOP: HopId = 0;

/// The way back to the health checks' own device; resolved while that device exists.
pub const TAP_HOP: HopId = 1;

/// The most next hops of one process, [`NO_HOP`] and [`TAP_HOP`] included. A power of two.
pub const MAX_HOPS: usize = 16384;

const VALID: u64 = 1 << 56;
const USED: u32 = 1 << 31;
const MTU_MAX: u32 = USED - 1;

/// What a frame needs to reach the next hop, beside the port's own MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The destination of the frame.
    pub mac: [u8; 6],
    pub port: u8,
    /// The longest IP packet that fits, in bytes.
    pub mtu: u32,
}

/// One word per next hop: mac (48 bits, first byte lowest) | port (8) | flags (8, bit 0: valid). Control writes, workers
/// read; lives as long as the process. A word stands for itself (it is never torn, nothing is published through it), so
/// Relaxed is enough: whoever reads the old word sends to the old MAC, as if the packet had come a moment earlier.
///
/// Beside it the MTU, and a bit that readers set so that control knows which neighbours traffic needs; they set it
/// only where it is clear, so that a hop in use costs readers no write.
///
/// The kernel programs read the same cells.
pub struct HopTable {
    cells: Rows<HopCell>,
}

impl HopTable {
    pub fn new() -> HopTable {
        HopTable { cells: (0..MAX_HOPS).map(|_| HopCell::default()).collect::<Box<[_]>>().into() }
    }

    /// In memory that is all zero. None: these are not [`MAX_HOPS`] cells.
    pub fn in_memory(cells: Rows<HopCell>) -> Option<HopTable> {
        (cells.len() == MAX_HOPS).then_some(HopTable { cells })
    }

    #[inline]
    fn cell(&self, id: HopId) -> &HopCell {
        &self.cells[id as usize & (MAX_HOPS - 1)]
    }

    /// None: not resolved at present.
    #[inline(always)]
    pub fn get(&self, id: HopId) -> Option<Hop> {
        let cell = self.cell(id);
        let word = cell.word.load(Relaxed);
        let mtu = cell.mtu.load(Relaxed);
        if mtu & USED == 0 && id != NO_HOP {
            cell.mtu.fetch_or(USED, Relaxed);
        }
        if word & VALID == 0 {
            return None;
        }
        let [a, b, c, d, e, f, port, _] = word.to_le_bytes();
        Some(Hop { mac: [a, b, c, d, e, f], port, mtu: mtu & MTU_MAX })
    }

    #[inline]
    pub fn is_valid(&self, id: HopId) -> bool {
        self.cell(id).word.load(Relaxed) & VALID != 0
    }

    /// Control only. `id` other than [`NO_HOP`].
    pub fn set(&self, id: HopId, hop: Hop) {
        debug_assert!(id != NO_HOP && (id as usize) < MAX_HOPS);
        let [a, b, c, d, e, f] = hop.mac;
        let cell = self.cell(id);
        let used = cell.mtu.load(Relaxed) & USED;
        cell.mtu.store(hop.mtu.min(MTU_MAX) | used, Relaxed);
        cell.word.store(u64::from_le_bytes([a, b, c, d, e, f, hop.port, 1]), Relaxed);
    }

    /// Control only.
    pub fn clear(&self, id: HopId) {
        self.cell(id).word.store(0, Relaxed);
    }

    /// Control only: has it been read since the last time this was asked?
    pub fn take_used(&self, id: HopId) -> bool {
        let mtu = &self.cell(id).mtu;
        mtu.load(Relaxed) & USED != 0 && mtu.fetch_and(!USED, Relaxed) & USED != 0
    }
}

impl Default for HopTable {
    fn default() -> Self {
        HopTable::new()
    }
}

/// What workers want resolved. Bounded; the same neighbour may lie in it many times (control asks the kernel once).
pub struct ResolveQueue {
    queue: ArrayQueue<Neighbor>,
    /// Set by the first `ask` after control has looked, which wakes control; so a flood costs one wake-up per look.
    /// AcqRel pairs `ask` with `listen`: who finds it set knows that a `take` is still to come that will see the entry.
    pending: AtomicBool,
    waker: OnceLock<Arc<mio::Waker>>,
}

/// Entries that may wait; at one look per wake-up this is some milliseconds of a flood.
const ASKS: usize = 1024;

impl ResolveQueue {
    pub fn new() -> ResolveQueue {
        ResolveQueue { queue: ArrayQueue::new(ASKS), pending: AtomicBool::new(false), waker: OnceLock::new() }
    }

    /// How control's loop is woken; once, before workers start. Without it requests wait for control's next tick.
    pub fn set_waker(&self, waker: Arc<mio::Waker>) {
        let _ = self.waker.set(waker);
    }

    /// Worker: have this neighbour resolved. False: the queue is full; ask again with a later packet.
    pub fn ask(&self, neighbor: Neighbor) -> bool {
        let queued = self.queue.push(neighbor).is_ok();
        if !self.pending.swap(true, AcqRel)
            && let Some(waker) = self.waker.get()
        {
            // It fails only if the loop's descriptor is gone, and then the process is on its way out.
            let _ = waker.wake();
        }
        queued
    }

    /// Control: before a round of [`ResolveQueue::take`].
    pub fn listen(&self) {
        self.pending.swap(false, AcqRel);
    }

    /// Control: the next request.
    pub fn take(&self) -> Option<Neighbor> {
        self.queue.pop()
    }
}

impl Default for ResolveQueue {
    fn default() -> Self {
        ResolveQueue::new()
    }
}
