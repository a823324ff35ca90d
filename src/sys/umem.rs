//! The memory of AF_XDP sockets (Documentation/networking/af_xdp.rst): one area, cut into chunks of one size, each of which is at
//! any moment either ours or the kernel's.
//!
//! A [`Chunk`] is the right to one of them. It is made once per chunk, moves into a ring with the chunk and comes back out of one,
//! and nobody can copy it: whoever has it is the only one to read and write the bytes.

use super::map::Mapping;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What the kernel leaves free in front of a received frame (XDP_PACKET_HEADROOM, linux/bpf.h), in bytes.
pub const FRONT: usize = 256;

/// The right to one chunk. Dropping it leaks the chunk.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    index: u32,
    /// Of the area it is part of.
    area: u32,
}

/// The area. Clones share it.
#[derive(Clone)]
pub struct Umem {
    memory: Arc<Mapping>,
    /// Bytes of a chunk: a power of two.
    size: usize,
    count: u32,
    number: u32,
}

impl Umem {
    /// An area of `count` chunks of `size` bytes (2048 or 4096), and the right to each.
    pub fn new(count: u32, size: usize) -> io::Result<(Umem, Vec<Chunk>)> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!([2048, 4096].contains(&size), "the kernel knows chunks of 2048 and 4096 bytes");
        let memory = Arc::new(Mapping::anonymous(count as usize * size)?);
        let umem = Umem { memory, size, count, number: NEXT.fetch_add(1, Relaxed) };
        let chunks = (0..count).map(|index| Chunk { index, area: umem.number }).collect();
        Ok((umem, chunks))
    }

    /// Bytes of a chunk.
    pub fn chunk_size(&self) -> usize {
        self.size
    }

    /// What the kernel is told of the area: its address, and its length in bytes.
    pub(super) fn extent(&self) -> (u64, u64) {
        (self.memory.start() as u64, (self.count as usize * self.size) as u64)
    }

    fn start(&self, chunk: &Chunk) -> *mut u8 {
        assert_eq!(chunk.area, self.number, "a chunk of another area");
        // SAFETY: `new` made chunks below `count` only, and `at` lets no others in.
        unsafe { self.memory.start().add(chunk.index as usize * self.size) }
    }

    pub fn bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        // SAFETY: the chunk is ours as long as `chunk` is borrowed, and to write takes a mutable borrow of it.
        unsafe { std::slice::from_raw_parts(self.start(chunk), self.size) }
    }

    pub fn bytes_mut<'a>(&'a self, chunk: &'a mut Chunk) -> &'a mut [u8] {
        // SAFETY: the chunk is ours, and the mutable borrow of the only right to it is the only way to its bytes.
        unsafe { std::slice::from_raw_parts_mut(self.start(chunk), self.size) }
    }

    /// Where `within` the chunk lies in the area, as rings have it.
    pub(super) fn address(&self, chunk: &Chunk, within: usize) -> u64 {
        assert!(chunk.area == self.number && within < self.size, "not of this area");
        chunk.index as u64 * self.size as u64 + within as u64
    }

    /// The right to the chunk at an address that the kernel has given back, and where in it the address points. Kept to those who
    /// read the kernel's side of a ring: it must be one that had been handed over.
    pub(super) fn at(&self, address: u64) -> Option<(Chunk, usize)> {
        let index = address / self.size as u64;
        let chunk = Chunk { index: u32::try_from(index).ok().filter(|index| *index < self.count)?, area: self.number };
        Some((chunk, address as usize % self.size))
    }

    /// Whether a frame fits into a chunk at this place.
    pub fn has_room(&self, span: &Range<usize>) -> bool {
        span.start <= span.end && span.end <= self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_lie_beside_each_other() {
        let (umem, mut chunks) = Umem::new(4, 2048).unwrap();
        for (i, chunk) in chunks.iter_mut().enumerate() {
            umem.bytes_mut(chunk).fill(i as u8);
        }
        for (i, chunk) in chunks.iter().enumerate() {
            assert_eq!(umem.bytes(chunk), [i as u8; 2048]);
            let (found, within) = umem.at(umem.address(chunk, 77)).unwrap();
            assert_eq!((&found, within), (chunk, 77));
        }
        assert_eq!(umem.at(4 * 2048), None);
    }

    #[test]
    #[should_panic(expected = "a chunk of another area")]
    fn a_chunk_of_another_area_opens_nothing() {
        let (umem, _) = Umem::new(4, 2048).unwrap();
        let (_, chunks) = Umem::new(8, 2048).unwrap();
        umem.bytes(&chunks[0]);
    }
}
