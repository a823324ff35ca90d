//! Memory shared with the kernel.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;

/// A mapping, of a descriptor or of memory alone. Unmapped when dropped.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; who may read and write what is its owner's to say.
unsafe impl Send for Mapping {}
// SAFETY: as above; `start` gives out a raw pointer only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, with all pages in place.
    pub(super) fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Mapping> {
        Mapping::at(fd, len, 0)
    }

    /// As [`Mapping::new`], from `offset` on.
    pub(super) fn at(fd: BorrowedFd<'_>, len: usize, offset: libc::off_t) -> io::Result<Mapping> {
        Mapping::map(fd.as_raw_fd(), len, offset, libc::MAP_SHARED)
    }

    /// Maps `len` bytes of memory that nobody else has, all zero; in huge pages if there are any.
    pub(super) fn anonymous(len: usize) -> io::Result<Mapping> {
        const HUGE: usize = 2 << 20;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // To be unmapped, huge pages want their own size.
        Mapping::map(-1, len.next_multiple_of(HUGE), 0, flags | libc::MAP_HUGETLB)
            .or_else(|_| Mapping::map(-1, len, 0, flags))
    }

    fn map(fd: RawFd, len: usize, offset: libc::off_t, flags: libc::c_int) -> io::Result<Mapping> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses an unused address range; nothing of ours is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags | libc::MAP_POPULATE, fd, offset) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { start, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours since `new`, and whoever borrows from it borrows from `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
