//! The device over AF_XDP sockets: frames come before the host's stack has made anything of them, into memory that all
//! interfaces of a worker share, so that a frame received on one leaves by another where it lies.
//!
//! A socket serves one queue of one interface. Worker w has the queues q with q % workers == w of every interface. All that these
//! sockets do not reach goes by a whole [`AfPacket`] that stands behind them: the tap, interfaces that take no XDP program, queues
//! that have come since, packets that are the host's as well (the XDP program lets them pass and the packet socket gets its
//! copy), joined segments, and frames to an interface of which the worker has no queue.
//!
//! AF_XDP has no word on checksums that are still partial: see [`unfinished`].

mod open;
mod room;
pub mod unfinished;

use super::af_packet::AfPacket;
use super::{BATCH, Device, Frame, Losses, Offload, Span};
use crate::sys::umem::Chunk;
use crate::sys::wake::Waker;
use crossbeam_queue::ArrayQueue;
pub use open::{DEFAULT_SLOTS, Interfaces, LARGEST_MTU, Settings, Way, open};
use room::Room;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// One worker's door to all interfaces.
pub struct AfXdp {
    packet: AfPacket,
    /// None: no queue is left for this worker, or control is making other sockets.
    room: Option<Room>,
    batch: Vec<Entry>,
    /// Frames of the batch that `packet` has.
    packets: usize,
    refused: u64,
    mail: Arc<Mail>,
}

/// A frame of the batch.
enum Entry {
    /// The so many-th of `packet`'s.
    Packet(usize),
    Chunk {
        /// None: handed on.
        chunk: Option<Chunk>,
        port: u8,
        start: u32,
        len: u32,
        offload: Offload,
    },
}

/// How a room is exchanged without costing a packet's time: control asks for the old one, closes it, and sends another. From the
/// closing on until the other is there the packet sockets have the traffic; what comes between the asking and the closing is lost.
struct Mail {
    asked: AtomicBool,
    old: ArrayQueue<Option<Room>>,
    new: ArrayQueue<Room>,
}

impl AfXdp {
    fn new(packet: AfPacket, room: Option<Room>) -> AfXdp {
        let mail = Mail { asked: AtomicBool::new(false), old: ArrayQueue::new(1), new: ArrayQueue::new(1) };
        let mut device = AfXdp {
            packet,
            room: None,
            batch: Vec::with_capacity(BATCH),
            packets: 0,
            refused: 0,
            mail: Arc::new(mail),
        };
        device.move_into(room);
        device
    }

    pub fn waker(&self) -> Waker {
        self.packet.waker()
    }

    fn move_into(&mut self, room: Option<Room>) -> Option<Room> {
        let old = std::mem::replace(&mut self.room, room);
        let sockets = self.room.iter().flat_map(Room::fds);
        self.packet.watch(sockets);
        old
    }

    fn take_mail(&mut self) {
        if !self.batch.is_empty() {
            return;
        }
        // The queues order what control has done before it asked, and after it was given.
        if self.mail.asked.load(Relaxed) && self.mail.asked.swap(false, Relaxed) {
            let old = self.move_into(None);
            let _ = self.mail.old.push(old);
        }
        if let Some(room) = self.mail.new.pop() {
            self.move_into(Some(room));
        }
    }

    /// By the packet socket, copied.
    fn send_by_packet(&mut self, i: usize, span: Span, port: usize) -> bool {
        let (Entry::Chunk { chunk: Some(chunk), .. }, Some(room)) = (&self.batch[i], &self.room) else { return false };
        let frame = &room.bytes(chunk)[span.start..][..span.len];
        if !self.packet.has_room(frame.len()) {
            self.packet.make_room();
        }
        self.packet.send_copy(frame, span.offload, port)
    }
}

impl Device for AfXdp {
    fn ports(&self) -> usize {
        self.packet.ports()
    }

    fn receive(&mut self, port: usize, max: usize) -> usize {
        let max = max.min(BATCH - self.batch.len());
        let mut count = 0;
        if let Some(room) = &mut self.room {
            let batch = &mut self.batch;
            count = room.receive(port, max, |chunk, start, len, offload| {
                let (start, len) = (start as u32, len as u32);
                batch.push(Entry::Chunk { chunk: Some(chunk), port: port as u8, start, len, offload });
            });
        }
        if count < max {
            let more = self.packet.receive(port, max - count);
            self.batch.extend((self.packets..self.packets + more).map(Entry::Packet));
            self.packets += more;
            count += more;
        }
        if count == 0 {
            self.take_mail();
        }
        count
    }

    fn frame(&mut self, i: usize) -> Frame<'_> {
        match &mut self.batch[i] {
            Entry::Packet(number) => self.packet.frame(*number),
            Entry::Chunk { chunk, port, start, len, offload } => {
                let (start, len) = (*start as usize, *len as usize);
                let buf = match (chunk, &self.room) {
                    (Some(chunk), Some(room)) => room.bytes_mut(chunk),
                    // Handed on: nobody asks for it again.
                    _ => &mut [],
                };
                Frame { buf, start, len, offload: *offload, port: *port, wire_len: len }
            }
        }
    }

    fn send(&mut self, i: usize, span: Span, port: usize) -> bool {
        let (chunk, room) = match (&mut self.batch[i], &mut self.room) {
            (Entry::Packet(number), _) => {
                let number = *number;
                return self.packet.send(number, span, port);
            }
            (Entry::Chunk { chunk, .. }, Some(room)) if room.sends_by(port) => (chunk, room),
            _ => return self.send_by_packet(i, span, port),
        };
        let Some(mut whole) = chunk.take() else { return false };
        if span.offload.needs_csum {
            unfinished::finish(&mut room.bytes_mut(&mut whole)[span.start..][..span.len], span.offload);
        }
        match room.send(port, whole, span.start..span.start + span.len) {
            Ok(()) => true,
            Err(back) => {
                *chunk = Some(back);
                false
            }
        }
    }

    fn send_copy(&mut self, frame: &[u8], offload: Offload, port: usize) -> bool {
        match &mut self.room {
            Some(room) if room.sends_by(port) && offload.gso_type == 0 => room.send_copy(port, frame, |copy| {
                if offload.needs_csum {
                    unfinished::finish(copy, offload);
                }
            }),
            _ => self.packet.send_copy(frame, offload, port),
        }
    }

    fn make_room(&mut self) {
        if let Some(room) = &mut self.room {
            self.refused += room.kick();
        }
        self.packet.make_room();
    }

    fn flush(&mut self) {
        // Frames of packet sockets wait for the flush; those of ours are copied into it, so nothing of theirs is needed after.
        if let Some(room) = &mut self.room {
            self.refused += room.kick();
            for entry in self.batch.drain(..) {
                if let Entry::Chunk { chunk: Some(chunk), .. } = entry {
                    room.take_back(chunk);
                }
            }
            room.refill();
        }
        self.batch.clear();
        self.packets = 0;
        self.packet.flush();
    }

    fn losses(&mut self) -> Losses {
        let mut losses = self.packet.losses();
        losses.send_refused += std::mem::take(&mut self.refused);
        if let Some(room) = &mut self.room {
            let (received, sent) = room.losses();
            losses.ring_full += received;
            losses.send_refused += sent;
        }
        losses
    }

    fn wait(&mut self, timeout: Duration) {
        self.take_mail();
        self.packet.wait(timeout);
    }
}

#[cfg(test)]
mod tests;
