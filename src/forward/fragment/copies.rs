//! Copies of fragments that came before the first one of their packet: a bounded store, all memory taken at start.

use crate::device::{Frame, HEADROOM, Offload};
use crate::wire::ip::Fragment;

/// How many may wait at once.
const PLACES: usize = 256;

/// How many of one packet: a packet of 64 KB has 45 on Ethernet.
const OF_ONE: usize = 64;

/// The longest frame that is kept. Longer ones are pieces of links with jumbo frames, where hardly anything is cut.
const LONGEST: usize = 2048;

/// Bytes that a copy and the room to change it need.
pub const SCRATCH: usize = HEADROOM + LONGEST + 128;

struct Copy {
    place: u16,
    /// The place of the packet that it is a piece of.
    of: u16,
    offset: u16,
    len: u16,
    port: u8,
    /// The first one has come.
    ready: bool,
    offload: Offload,
}

/// Why a fragment was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// One from the same offset waits already.
    Duplicate,
    /// It is too long, or too many of its packet wait.
    NoRoom,
}

pub struct Copies {
    bytes: Box<[u8]>,
    /// In the order of arrival.
    waiting: Vec<Copy>,
    free: Vec<u16>,
}

impl Copies {
    pub fn new() -> Copies {
        Copies {
            bytes: vec![0; PLACES * LONGEST].into_boxed_slice(),
            waiting: Vec::with_capacity(PLACES),
            free: (0..PLACES as u16).collect(),
        }
    }

    /// Keeps a copy. True: the oldest had to go for it.
    pub fn keep(&mut self, frame: &Frame, fragment: &Fragment, of: usize) -> Result<bool, NotKept> {
        let of = of as u16;
        if self.waiting.iter().any(|copy| copy.of == of && copy.offset == fragment.offset) {
            return Err(NotKept::Duplicate);
        }
        if frame.len > LONGEST || self.waiting.iter().filter(|copy| copy.of == of).count() >= OF_ONE {
            return Err(NotKept::NoRoom);
        }
        let full = self.free.is_empty();
        if full {
            let oldest = self.waiting.remove(0);
            self.free.push(oldest.place);
        }
        let place = self.free.pop().ok_or(NotKept::NoRoom)?;
        let at = usize::from(place) * LONGEST;
        self.bytes[at..at + frame.len].copy_from_slice(&frame.buf[frame.start..frame.start + frame.len]);
        self.waiting.push(Copy {
            place,
            of,
            offset: fragment.offset,
            len: frame.len as u16,
            port: frame.port,
            ready: false,
            offload: frame.offload,
        });
        Ok(full)
    }

    /// The packet's first fragment has come.
    pub fn make_ready(&mut self, of: usize) {
        for copy in self.waiting.iter_mut().filter(|copy| usize::from(copy.of) == of) {
            copy.ready = true;
        }
    }

    /// Lets go all of a packet's; gives how many.
    pub fn drop_of(&mut self, of: usize) -> u64 {
        let Copies { waiting, free, .. } = self;
        let before = waiting.len();
        waiting.retain(|copy| {
            let stays = usize::from(copy.of) != of;
            if !stays {
                free.push(copy.place);
            }
            stays
        });
        (before - waiting.len()) as u64
    }

    /// Takes out the oldest whose packet's first fragment has come, into `scratch` of [`SCRATCH`] bytes.
    pub fn take_ready<'a>(&mut self, scratch: &'a mut [u8]) -> Option<Frame<'a>> {
        let at = self.waiting.iter().position(|copy| copy.ready)?;
        let Copy { place, len, port, offload, .. } = self.waiting.remove(at);
        self.free.push(place);
        let (from, len) = (usize::from(place) * LONGEST, usize::from(len));
        scratch[HEADROOM..HEADROOM + len].copy_from_slice(&self.bytes[from..from + len]);
        Some(Frame { buf: scratch, start: HEADROOM, len, offload, port, wire_len: len })
    }
}
