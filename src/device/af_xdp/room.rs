//! A worker's AF_XDP sockets and the memory that they share. A chunk is spare, in a batch, or in a ring of one of the sockets; none is
//! lost on the way, since what one hand cannot take comes back ([`Chunk`]).

use super::unfinished;
use crate::device::Offload;
use crate::sys::bpf::Programs;
use crate::sys::prefetch::prefetch;
use crate::sys::umem::{Chunk, FRONT, Umem};
use crate::sys::xsk::{Received, Xsk};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

pub(super) struct Room {
    umem: Umem,
    spare: Vec<Chunk>,
    ports: Vec<Port>,
    /// Frames come from the wire, with complete checksums: the cards receive into our memory themselves.
    from_wire: bool,
}

/// This worker's queues of one interface. All that leaves by it leaves by the first, so that it stays in order.
#[derive(Default)]
struct Port {
    lanes: Vec<Lane>,
    /// The queue that is asked first next time.
    turn: usize,
}

/// A socket, and what it holds of our chunks.
struct Lane {
    xsk: Xsk,
    queue: u32,
    /// Chunks that it may receive into, or has and we have not taken yet.
    to_receive: u32,
    slots: u32,
    told: (u64, u64),
}

impl Room {
    pub(super) fn new(umem: Umem, spare: Vec<Chunk>, ports: usize, from_wire: bool) -> Room {
        Room { umem, spare, ports: (0..ports).map(|_| Port::default()).collect(), from_wire }
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// A socket that is bound already.
    pub(super) fn any(&self) -> Option<&Xsk> {
        self.lanes().next().map(|lane| &lane.xsk)
    }

    pub(super) fn add(&mut self, port: usize, queue: u32, xsk: Xsk, slots: u32) {
        self.ports[port].lanes.push(Lane { xsk, queue, to_receive: 0, slots, told: (0, 0) });
    }

    /// From now on the program sends the queues' packets here.
    pub(super) fn show(&self, programs: &mut Programs) -> io::Result<()> {
        for (port, Port { lanes, .. }) in self.ports.iter().enumerate() {
            for lane in lanes {
                programs.show_socket(port, lane.queue, &lane.xsk)?;
            }
        }
        Ok(())
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.ports.iter().flat_map(|port| &port.lanes)
    }

    pub(super) fn sockets(&self) -> usize {
        self.lanes().count()
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = RawFd> {
        self.lanes().map(|lane| lane.xsk.as_raw_fd())
    }

    pub(super) fn bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        self.umem.bytes(chunk)
    }

    pub(super) fn bytes_mut<'a>(&'a self, chunk: &'a mut Chunk) -> &'a mut [u8] {
        self.umem.bytes_mut(chunk)
    }

    /// Takes up to `max` frames that wait at a port: chunk, start, length, and what is left to do of it.
    pub(super) fn receive(
        &mut self,
        port: usize,
        max: usize,
        mut each: impl FnMut(Chunk, usize, usize, Offload),
    ) -> usize {
        let Some(Port { lanes, turn }) = self.ports.get_mut(port) else { return 0 };
        let mut count = 0;
        let all = lanes.len();
        for i in 0..all {
            let at = *turn + i;
            let lane = &mut lanes[if at >= all { at - all } else { at }];
            let before = count;
            while count < max
                && let Some(Received { chunk, start, len }) = lane.xsk.receive()
            {
                lane.to_receive -= 1;
                let frame = &self.umem.bytes(&chunk)[start..start + len];
                let offload = if self.from_wire {
                    if let Some(first) = frame.first() {
                        prefetch(first);
                    }
                    Offload::default()
                } else {
                    unfinished::look(frame)
                };
                each(chunk, start, len, offload);
                count += 1;
            }
            if count == before {
                lane.xsk.poke();
            }
        }
        *turn = if *turn + 1 >= all { 0 } else { *turn + 1 };
        count
    }

    /// Whether frames leave by one of our sockets there.
    pub(super) fn sends_by(&self, port: usize) -> bool {
        self.ports.get(port).and_then(|port| port.lanes.first()).is_some_and(|lane| !lane.xsk.is_down())
    }

    /// Queues a frame where it lies. It comes back if there is no room.
    pub(super) fn send(&mut self, port: usize, chunk: Chunk, span: Range<usize>) -> Result<(), Chunk> {
        let Some(lane) = self.ports[port].lanes.first_mut() else { return Err(chunk) };
        lane.xsk.send(chunk, span)
    }

    /// Queues a copy of a frame, after `change`. False: no room.
    pub(super) fn send_copy(&mut self, port: usize, frame: &[u8], change: impl FnOnce(&mut [u8])) -> bool {
        if FRONT + frame.len() > self.umem.chunk_size() {
            return false;
        }
        if self.spare.is_empty() {
            self.collect();
        }
        let Some(mut chunk) = self.spare.pop() else { return false };
        let span = FRONT..FRONT + frame.len();
        let copy = &mut self.umem.bytes_mut(&mut chunk)[span.clone()];
        copy.copy_from_slice(frame);
        change(copy);
        match self.send(port, chunk, span) {
            Ok(()) => true,
            Err(chunk) => {
                self.spare.push(chunk);
                false
            }
        }
    }

    /// Sends all that is queued. Gives the number of frames that were refused.
    pub(super) fn kick(&mut self) -> u64 {
        let refused = self.ports.iter_mut().flat_map(|port| &mut port.lanes).map(|lane| lane.xsk.kick()).sum();
        self.collect();
        refused
    }

    /// Takes back the chunks of frames that have left.
    fn collect(&mut self) {
        for lane in self.ports.iter_mut().flat_map(|port| &mut port.lanes) {
            while let Some(chunk) = lane.xsk.sent() {
                self.spare.push(chunk);
            }
        }
    }

    /// A frame of the batch that went nowhere.
    pub(super) fn take_back(&mut self, chunk: Chunk) {
        self.spare.push(chunk);
    }

    /// Gives each socket as much to receive into as it has room for.
    pub(super) fn refill(&mut self) {
        for lane in self.ports.iter_mut().flat_map(|port| &mut port.lanes) {
            while lane.to_receive < lane.slots
                && let Some(chunk) = self.spare.pop()
            {
                if let Err(chunk) = lane.xsk.give(chunk) {
                    self.spare.push(chunk);
                    break;
                }
                lane.to_receive += 1;
            }
            lane.xsk.settle();
        }
    }

    /// Frames lost on their way in and out, since the last call. A system call per socket.
    pub(super) fn losses(&mut self) -> (u64, u64) {
        let mut sum = (0, 0);
        for lane in self.ports.iter_mut().flat_map(|port| &mut port.lanes) {
            let now = lane.xsk.losses();
            let told = std::mem::replace(&mut lane.told, now);
            sum = (sum.0 + now.0.saturating_sub(told.0), sum.1 + now.1.saturating_sub(told.1));
        }
        sum
    }
}

#[cfg(test)]
impl Room {
    /// Chunks that are there to receive into, and spare ones.
    pub(super) fn whereabouts(&self) -> (usize, usize) {
        (self.lanes().map(|lane| lane.to_receive as usize).sum(), self.spare.len())
    }
}
