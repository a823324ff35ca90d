//! Questions past the host's stack: a thread takes frames from packet rings and sends answers by them, and sees to its sockets, where
//! all comes that is not plain, when there is nothing to do or every so often.

use super::super::{Asked, Count, Transport};
use super::frame::Question;
use super::respond::{Response, respond};
use super::serial::unix_ms;
use super::udp::{NAP, Server};
use crate::device::af_packet::AfPacket;
use crate::device::{BATCH, Device, Frame, Offload, Span};
use crate::sys::datagrams::ROOM;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Rounds over busy rings before the sockets are asked as well.
const ROUNDS: u32 = 8;

/// How often the kernel is asked what it has dropped.
const LOSSES: Duration = Duration::from_secs(1);

/// What a thread needs for its rings; all memory is taken at start.
pub struct Rings {
    device: AfPacket,
    questions: [Option<Question>; BATCH],
    /// Room for one answer.
    answer: Box<[u8; ROOM]>,
    /// Of IPv4 packets' identifications: never zero.
    ids: u64,
    asked_losses: Instant,
}

impl Rings {
    /// `seed`: random.
    pub fn new(device: AfPacket, seed: u64) -> Rings {
        let answer = Box::new([0; ROOM]);
        Rings { device, questions: [None; BATCH], answer, ids: seed | 1, asked_losses: Instant::now() }
    }

    /// The next identification (Marsaglia's xorshift): none that tells who else was answered.
    fn id(&mut self) -> u16 {
        self.ids ^= self.ids << 13;
        self.ids ^= self.ids >> 7;
        self.ids ^= self.ids << 17;
        (self.ids >> 32) as u16
    }
}

impl Server {
    /// Until [`super::Shared::stop`].
    pub(super) fn run_by_rings(mut self, mut rings: Rings) {
        let sockets = self.sockets.iter().map(|(socket, _)| socket.as_raw_fd());
        rings.device.watch(sockets.chain([self.waker.as_raw_fd()]));
        let (mut round, mut waits) = (0u32, false);
        while !self.shared.stop.load(Relaxed) {
            let mut count = 0;
            for port in 0..rings.device.ports() {
                count += self.turn_around(&mut rings, port);
            }
            round = round.wrapping_add(1);
            if count > 0 && !round.is_multiple_of(ROUNDS) {
                continue;
            }
            rings.device.wait(if count > 0 || waits { Duration::ZERO } else { NAP });
            waits = false;
            for i in 0..self.sockets.len() {
                waits |= rings.device.is_ready(i) && self.drain(i);
            }
            if rings.device.is_ready(self.sockets.len()) {
                self.waker.clear();
            }
            self.count_losses(&mut rings);
        }
    }

    /// Answers a batch of what waits at one interface. How many frames those were.
    fn turn_around(&mut self, rings: &mut Rings, port: usize) -> usize {
        let count = rings.device.receive(port, BATCH);
        if count == 0 {
            return 0;
        }
        let served = self.shared.served.load();
        for i in 0..count {
            let offload = rings.device.frame(i).offload;
            rings.questions[i] = Question::read(rings.device.bytes(i), offload);
        }
        let Rings { device, questions, .. } = &*rings;
        let message = |i: usize| questions[i].map_or(&[][..], |question| &device.bytes(i)[question.message()]);
        let from = |i: usize| questions[i].map(|question| question.client());
        self.ahead.look(&served.snapshot, count, message, from);
        let now_ms = self.shared.start.elapsed().as_millis() as u64;
        let unix_ms = unix_ms();
        let longest = usize::from(served.snapshot.settings().udp_size).min(ROOM);
        for i in 0..count {
            let Some(question) = rings.questions[i] else {
                self.scratch.counts.add(Count::FastBadFrame);
                continue;
            };
            self.scratch.counts.add(Count::QueriesFast);
            let id = rings.id();
            let Frame { buf, start, .. } = rings.device.frame(i);
            let (frame, message) = (&mut buf[start..], question.message());
            let room = longest.min(frame.len() - message.start);
            let (from, to, foreseen) = (question.client(), question.asked(), self.ahead.foreseen(i));
            let asked = Asked {
                message: &frame[message.clone()],
                from,
                to,
                transport: Transport::Udp,
                now_ms,
                unix_ms,
                foreseen,
            };
            let out = &mut rings.answer[..room];
            let Response::Answer(length) = respond(&asked, &served, &mut self.scratch, &self.tally, out) else {
                continue;
            };
            frame[message.start..][..length].copy_from_slice(&out[..length]);
            let len = question.turn(frame, length, id);
            rings.device.send(i, Span { start, len, offload: Offload::default() }, port);
        }
        rings.device.flush();
        count
    }

    fn count_losses(&self, rings: &mut Rings) {
        if rings.asked_losses.elapsed() < LOSSES {
            return;
        }
        rings.asked_losses = Instant::now();
        let losses = rings.device.losses();
        self.scratch.counts.add_all(Count::FastRingFull, losses.ring_full);
        self.scratch.counts.add_all(Count::FastSendRefused, losses.send_refused);
    }
}
