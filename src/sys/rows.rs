//! Rows of cells that live as long as the process: in memory of its own, or in an array that the kernel programs read
//! and write too. The layout of the latter is said here, for both sides; `src/bpf/path.h` mirrors it.

// The flow table's protocols are what loom tries.
use super::atomic as tried;
use super::map::Mapping;
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Words of a bucket of the flow table's index. With loom's eyes a table must be tiny.
pub const FLOW_BUCKET: usize = if cfg!(feature = "loom") { 4 } else { 8 };

/// A bucket of the flow table's index; `flow/table.rs` says what a word means.
#[cfg_attr(not(feature = "loom"), repr(C, align(64)))]
#[derive(Default)]
pub struct FlowBucket(pub [tried::AtomicU64; FLOW_BUCKET]);

/// One flow; `flow/record.rs` says what the fields mean and who may change them when.
#[repr(C)]
#[cfg_attr(not(feature = "loom"), repr(align(64)))]
#[derive(Default)]
pub struct FlowCell {
    // Line 0.
    pub version: tried::AtomicU32,
    /// Tick of the last packet.
    pub last_seen: tried::AtomicU32,
    pub state: tried::AtomicU64,
    /// First address words: client | vip << 32, target | local << 32. Life fields.
    pub addrs: [tried::AtomicU64; 2],
    /// client | vip << 16 | target << 32 | local << 48. Life field.
    pub ports: tried::AtomicU64,
    /// Packets from the client, from the server; they wrap.
    pub packets: [tried::AtomicU32; 2],
    /// Bytes likewise.
    pub bytes: [tried::AtomicU64; 2],
    // Line 1.
    /// Address words 1 to 3, paired as in `addrs`; stale where all addresses are IPv4. Life fields.
    pub more: [[tried::AtomicU64; 3]; 2],
    /// Last acknowledgement number from the client, from the server.
    pub acks: [tried::AtomicU32; 2],
    /// worker << 24 | seconds mod 2^24. Life field.
    pub birth: tried::AtomicU32,
    /// target slot | pool << 16. Life field; while FREE it is the free list's link.
    pub owner: tried::AtomicU32,
}

#[cfg(not(feature = "loom"))]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<FlowCell>() == 128 && align_of::<FlowCell>() == 64);
    assert!(offset_of!(FlowCell, version) == 0 && offset_of!(FlowCell, bytes) + 16 == 64);
    assert!(offset_of!(FlowCell, more) == 64);
};

/// One next hop; `route/hops.rs` says what the fields mean.
#[repr(C)]
#[derive(Default)]
pub struct HopCell {
    pub word: AtomicU64,
    pub mtu: AtomicU32,
    zero: AtomicU32,
}

/// A target's status word; `service/status.rs` says what it means. Arrays of kernel programs have places of eight bytes.
#[repr(C)]
#[derive(Default)]
pub struct StatusCell {
    pub word: AtomicU32,
    zero: AtomicU32,
}

/// What one CPU has carried in the kernel. The kernel programs write, each CPU its own.
#[repr(C, align(64))]
#[derive(Default)]
pub struct CarriedCell {
    pub packets: AtomicU64,
    pub bytes: AtomicU64,
    /// Decided for the kernel path, and then the flow had changed.
    pub missed: AtomicU64,
}

/// What may lie in memory that somebody else writes at any moment.
///
/// # Safety
/// All fields are atomics, so that any bytes are a value and a change under one's hands is no surprise.
pub unsafe trait Plain: Sync {}

// SAFETY: atomics only.
unsafe impl Plain for FlowBucket {}
// SAFETY: atomics only.
unsafe impl Plain for FlowCell {}
// SAFETY: atomics only.
unsafe impl Plain for HopCell {}
// SAFETY: atomics only.
unsafe impl Plain for CarriedCell {}
// SAFETY: an atomic.
unsafe impl Plain for AtomicU64 {}
// SAFETY: atomics only.
unsafe impl Plain for StatusCell {}

/// A row of cells of fixed length; reads like a slice.
pub struct Rows<T> {
    start: NonNull<T>,
    len: usize,
    /// None: `start` and `len` are a box's.
    mapping: Option<Mapping>,
}

// SAFETY: as a boxed slice of `T`: the cells belong to the process, not to a thread.
unsafe impl<T: Send> Send for Rows<T> {}
// SAFETY: as above; shared access gives out `&T` only.
unsafe impl<T: Sync> Sync for Rows<T> {}

impl<T> From<Box<[T]>> for Rows<T> {
    fn from(cells: Box<[T]>) -> Rows<T> {
        let len = cells.len();
        Rows { start: NonNull::from(Box::leak(cells)).cast(), len, mapping: None }
    }
}

impl<T: Plain> Rows<T> {
    const WHOLE_PLACES: () = assert!(size_of::<T>().is_multiple_of(8));

    /// The first `len` cells behind a descriptor that holds as many, all zero at first.
    pub(super) fn mapped(fd: BorrowedFd<'_>, len: usize) -> io::Result<Rows<T>> {
        let () = Rows::<T>::WHOLE_PLACES;
        let mapping = Mapping::new(fd, len * size_of::<T>())?;
        let start = NonNull::new(mapping.start().cast::<T>()).ok_or_else(|| io::Error::other("nothing is mapped"))?;
        Ok(Rows { start, len, mapping: Some(mapping) })
    }
}

/// A row of 2^n cells that is counted round and round. There is no look at its bounds, which would be one for each look-up of each
/// packet, for nothing.
pub struct Round<T> {
    rows: Rows<T>,
    mask: usize,
}

impl<T> From<Rows<T>> for Round<T> {
    fn from(rows: Rows<T>) -> Round<T> {
        assert!(rows.len.is_power_of_two(), "{} cells are no power of two", rows.len);
        Round { mask: rows.len - 1, rows }
    }
}

impl<T> Round<T> {
    /// The number of the cell that `at` falls on.
    #[inline(always)]
    pub fn place(&self, at: u64) -> usize {
        at as usize & self.mask
    }

    #[inline(always)]
    pub fn at(&self, at: u64) -> &T {
        // SAFETY: `place` is at most the number of the last cell, and the row is as `Rows::deref` says.
        unsafe { self.rows.start.add(self.place(at)).as_ref() }
    }
}

impl<T> Deref for Round<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.rows
    }
}

impl<T> Deref for Rows<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is the beginning of `len` cells, page-aligned in a mapping or as the box had them, which live as
        // long as `self`. In a mapping every cell is `Plain` (`mapped` asks for it), so zeroes are values and others may write.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Rows<T> {
    fn drop(&mut self) {
        if self.mapping.is_none() {
            // SAFETY: they are the box's that `from` has leaked, and nobody else frees it.
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len)) });
        }
    }
}
