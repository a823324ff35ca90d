//! Packets that wait for a neighbor's MAC: a bounded store of copies, all memory taken at start.

use crate::counters::Refusal;
use crate::device::{Frame, HEADROOM, Offload};
use crate::flow::TICK_MS;
use crate::forward::Now;

/// How many may wait at once.
const PLACES: usize = 256;

/// The longest frame that is kept. A longer one is data of a connection whose neighbor has gone silent; TCP sends it again.
const LONGEST: usize = 2048;

/// How long one waits: as long as the kernel tries to resolve a neighbor, three tries a second apart.
const PATIENCE_TICKS: u32 = 3000 / TICK_MS as u32 + 1;

struct Place {
    len: usize,
    offload: Offload,
    port: u8,
    since: u32,
}

pub struct Held {
    bytes: Box<[u8]>,
    /// In the order of arrival.
    waiting: Vec<(usize, Place)>,
    free: Vec<usize>,
}

impl Held {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Held {
        Held {
            bytes: vec![0; PLACES * (HEADROOM + LONGEST)].into_boxed_slice(),
            waiting: Vec::with_capacity(PLACES),
            free: (0..PLACES).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn keep(&mut self, frame: &Frame, now: Now) -> Result<(), Refusal> {
        if frame.len > LONGEST {
            return Err(Refusal::HoldFull);
        }
        let place = self.free.pop().ok_or(Refusal::HoldFull)?;
        let at = place * (HEADROOM + LONGEST) + HEADROOM;
        self.bytes[at..at + frame.len].copy_from_slice(&frame.buf[frame.start..frame.start + frame.len]);
        let place_of = Place { len: frame.len, offload: frame.offload, port: frame.port, since: now.tick };
        self.waiting.push((place, place_of));
        Ok(())
    }

    /// Hands each waiting frame to `run`, oldest first; those for which it answers true have left.
    pub fn retry(&mut self, mut run: impl FnMut(&mut Frame) -> bool) {
        let Held { bytes, waiting, free } = self;
        waiting.retain(|(place, held)| {
            let at = place * (HEADROOM + LONGEST);
            let mut frame = Frame {
                buf: &mut bytes[at..at + HEADROOM + LONGEST],
                start: HEADROOM,
                len: held.len,
                offload: held.offload,
                port: held.port,
                wire_len: held.len,
            };
            let left = run(&mut frame);
            if left {
                free.push(*place);
            }
            !left
        });
    }

    /// Lets those go that have waited too long; gives their number.
    pub fn expire(&mut self, now: Now) -> usize {
        let Held { waiting, free, .. } = self;
        let before = waiting.len();
        waiting.retain(|(place, held)| {
            let patient = now.tick.wrapping_sub(held.since) <= PATIENCE_TICKS;
            if !patient {
                free.push(*place);
            }
            patient
        });
        before - waiting.len()
    }
}
