//! The device in memory, for tests: frames are injected and collected, and the network can be made a bad one.

use super::{BATCH, Device, Frame, HEADROOM, Offload, Span};
use std::collections::VecDeque;
use std::time::Duration;

/// What happens to injected frames: probabilities from 0 to 1, decided by a generator that starts from `seed`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss: f64,
    pub duplication: f64,
    /// The frame overtakes up to three frames that wait before it.
    pub reorder: f64,
    pub seed: u64,
}

/// A frame that has left: port, bytes, what is left undone.
pub type Sent = (usize, Vec<u8>, Offload);

pub struct Memory {
    waiting: Vec<VecDeque<(Vec<u8>, Offload)>>,
    batch: Vec<Held>,
    queued: Vec<Sent>,
    sent: Vec<Sent>,
    faults: Faults,
    random: u64,
    /// Of each port: frames that it still takes before it is full.
    room: Vec<usize>,
}

/// A frame of the batch. Its buffer has the head room of a ring's slot.
struct Held {
    buf: Vec<u8>,
    len: usize,
    offload: Offload,
    port: u8,
    sent: bool,
}

impl Memory {
    pub fn new(ports: usize) -> Memory {
        Memory::with_faults(ports, Faults::default())
    }

    pub fn with_faults(ports: usize, faults: Faults) -> Memory {
        Memory {
            waiting: (0..ports).map(|_| VecDeque::new()).collect(),
            batch: Vec::with_capacity(BATCH),
            queued: Vec::new(),
            sent: Vec::new(),
            faults,
            random: faults.seed,
            room: vec![usize::MAX; ports],
        }
    }

    /// Puts a frame on the wire to `port`; it may get lost, doubled or overtake others as the faults say.
    pub fn inject(&mut self, port: usize, frame: &[u8], offload: Offload) {
        if self.chance(self.faults.loss) {
            return;
        }
        let copies = 1 + usize::from(self.chance(self.faults.duplication));
        for _ in 0..copies {
            let back = if self.chance(self.faults.reorder) { 1 + self.next() as usize % 3 } else { 0 };
            let queue = &mut self.waiting[port];
            let at = queue.len().saturating_sub(back);
            queue.insert(at, (frame.to_vec(), offload));
        }
    }

    /// All frames that have left since the last call, in order.
    pub fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// Frames that wait at `port`.
    pub fn waiting(&self, port: usize) -> usize {
        self.waiting[port].len()
    }

    /// From now on `port` takes only so many more frames, then it has no room.
    pub fn set_room(&mut self, port: usize, frames: usize) {
        self.room[port] = frames;
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn queue(&mut self, frame: Vec<u8>, offload: Offload, port: usize) -> bool {
        match self.room.get_mut(port) {
            None | Some(0) => false,
            Some(room) => {
                *room -= 1;
                self.queued.push((port, frame, offload));
                true
            }
        }
    }
}

impl Device for Memory {
    fn ports(&self) -> usize {
        self.waiting.len()
    }

    fn receive(&mut self, port: usize, max: usize) -> usize {
        let count = self.waiting[port].len().min(max).min(BATCH.saturating_sub(self.batch.len()));
        for (frame, offload) in self.waiting[port].drain(..count) {
            let mut buf = vec![0; HEADROOM];
            buf.extend_from_slice(&frame);
            self.batch.push(Held { buf, len: frame.len(), offload, port: port as u8, sent: false });
        }
        count
    }

    fn frame(&mut self, i: usize) -> Frame<'_> {
        let held = &mut self.batch[i];
        let (len, offload, port) = (held.len, held.offload, held.port);
        Frame { buf: &mut held.buf, start: HEADROOM, len, offload, port, wire_len: len }
    }

    fn send(&mut self, i: usize, span: Span, port: usize) -> bool {
        let held = &mut self.batch[i];
        assert!(!held.sent, "a frame is sent at most once");
        held.sent = true;
        let frame = held.buf[span.start..span.start + span.len].to_vec();
        self.queue(frame, span.offload, port)
    }

    fn send_copy(&mut self, frame: &[u8], offload: Offload, port: usize) -> bool {
        self.queue(frame.to_vec(), offload, port)
    }

    fn make_room(&mut self) {
        self.sent.append(&mut self.queued);
    }

    fn flush(&mut self) {
        self.make_room();
        self.batch.clear();
    }

    /// Returns at once: nothing can come while the caller sleeps.
    fn wait(&mut self, _timeout: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_injected_is_received_sent_and_collected() {
        let mut device = Memory::new(2);
        device.inject(1, b"frame", Offload::default());
        assert_eq!(device.receive(0, BATCH), 0);
        assert_eq!(device.receive(1, BATCH), 1);
        let frame = device.frame(0);
        assert_eq!((&frame.buf[frame.start..][..frame.len], frame.port), (&b"frame"[..], 1));
        let span = Span { start: frame.start - 4, len: 9, offload: frame.offload };
        assert!(device.send(0, span, 0));
        assert!(device.send_copy(b"own", Offload::default(), 1));
        assert!(device.sent().is_empty(), "nothing leaves before flush");
        device.flush();
        let sent = device.sent();
        assert_eq!(sent[0], (0, b"\0\0\0\0frame".to_vec(), Offload::default()));
        assert_eq!(sent[1].1, b"own");
    }

    #[test]
    fn a_port_without_room_refuses() {
        let mut device = Memory::new(1);
        device.set_room(0, 1);
        assert!(device.send_copy(b"1", Offload::default(), 0));
        assert!(!device.send_copy(b"2", Offload::default(), 0));
    }

    #[test]
    fn faults_happen_as_often_as_told_and_alike_for_a_seed() {
        let faults = Faults { loss: 0.2, duplication: 0.1, reorder: 0.3, seed: 7 };
        let run = || {
            let mut device = Memory::with_faults(1, faults);
            for i in 0..1000u32 {
                device.inject(0, &i.to_be_bytes(), Offload::default());
            }
            let mut got = Vec::new();
            while device.receive(0, BATCH) > 0 {
                for i in 0..device.batch.len() {
                    let frame = device.frame(i);
                    got.push(u32::from_be_bytes(frame.buf[frame.start..].try_into().unwrap()));
                }
                device.flush();
            }
            got
        };
        let got = run();
        assert_eq!(got, run());
        assert!((820..940).contains(&got.len()), "{}", got.len());
        assert!(!got.is_sorted());
    }
}
