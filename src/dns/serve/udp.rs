//! A thread that answers by UDP: takes what has come in batches, answers from the snapshot that stands, sends in batches. Nothing is
//! allocated or locked for a query, and the clock is read once per batch.

use super::super::{Ahead, Asked, Scratch, Transport};
use super::respond::{Response, respond};
use super::rings::Rings;
use super::serial::unix_ms;
use super::{Shared, Tally};
use crate::device::af_packet::AfPacket;
use crate::sys::datagrams::{BATCH, Datagrams};
use crate::sys::poll::Poll;
use crate::sys::wake::Waker;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The longest sleep. Nothing depends on it.
pub(super) const NAP: Duration = Duration::from_secs(60);

/// Batches taken from one socket before the next one's turn.
const BATCHES: usize = 4;

pub struct Server {
    pub(super) sockets: Vec<(UdpSocket, IpAddr)>,
    pub(super) shared: Arc<Shared>,
    pub(super) scratch: Scratch,
    pub(super) ahead: Ahead,
    pub(super) tally: Arc<Tally>,
    batch: Datagrams,
    pub(super) waker: Waker,
    rings: Option<Rings>,
    seed: u64,
}

impl Server {
    /// Thread number `index`. Errors are those of asking the sockets for their addresses and of making a descriptor.
    pub fn new(index: usize, sockets: Vec<UdpSocket>, shared: Arc<Shared>) -> std::io::Result<Server> {
        let sockets = sockets.into_iter().map(|socket| socket.local_addr().map(|address| (socket, address.ip())));
        let served = shared.served.load();
        let mut seed = [0; 8];
        // Without random numbers threads begin with the same address, and that is all.
        let _ = getrandom::fill(&mut seed);
        let seed = u64::from_ne_bytes(seed);
        let scratch = Scratch::new(shared.counts[index].clone(), served.snapshot.settings(), seed);
        drop(served);
        Ok(Server {
            sockets: sockets.collect::<std::io::Result<_>>()?,
            tally: shared.tallies[index].clone(),
            shared,
            scratch,
            ahead: Ahead::default(),
            batch: Datagrams::default(),
            waker: Waker::new()?,
            rings: None,
            seed,
        })
    }

    /// Plain questions come by this device too, and their answers leave by it.
    pub fn take_rings(&mut self, device: AfPacket) {
        self.rings = Some(Rings::new(device, self.seed));
    }

    /// Ends the thread's sleep; with [`Shared::stop`] set it ends.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Until [`Shared::stop`].
    pub fn run(mut self) {
        match self.rings.take() {
            Some(rings) => self.run_by_rings(rings),
            None => self.run_by_sockets(),
        }
    }

    fn run_by_sockets(mut self) {
        let sockets = self.sockets.iter().map(|(socket, _)| socket.as_raw_fd());
        let mut poll = Poll::new(sockets.chain([self.waker.as_raw_fd()]));
        let mut more = true;
        while !self.shared.stop.load(Relaxed) {
            // Who asks a socket in vain makes a system call for nothing; the next one says which to ask.
            if !more {
                poll.wait(NAP);
                if poll.is_ready(self.sockets.len()) {
                    self.waker.clear();
                }
            }
            let all = std::mem::take(&mut more);
            for i in 0..self.sockets.len() {
                more |= (all || poll.is_ready(i)) && self.drain(i);
            }
        }
    }

    /// Answers what waits at the i-th socket. Does more?
    pub(super) fn drain(&mut self, i: usize) -> bool {
        for _ in 0..BATCHES {
            let count = self.batch.receive(&self.sockets[i].0);
            if count > 0 {
                self.answer(count, self.sockets[i].1);
                self.batch.send(&self.sockets[i].0);
            }
            if count < BATCH {
                return false;
            }
        }
        true
    }

    fn answer(&mut self, count: usize, to: IpAddr) {
        let served = self.shared.served.load();
        let now_ms = self.shared.start.elapsed().as_millis() as u64;
        let unix_ms = unix_ms();
        let room = usize::from(served.snapshot.settings().udp_size);
        let batch = &self.batch;
        let from = |i| batch.datagram(i).map(|(_, sender)| sender.ip());
        self.ahead.look(&served.snapshot, count, |i| batch.message(i), from);
        for i in 0..count {
            let Some((_, sender)) = self.batch.datagram(i) else { continue };
            let (message, answer) = self.batch.exchange(i);
            let room = room.min(answer.len());
            let (from, foreseen) = (sender.ip(), self.ahead.foreseen(i));
            let asked = Asked { message, from, to, transport: Transport::Udp, now_ms, unix_ms, foreseen };
            // A transfer is a matter of TCP: the pure half answers who asks for one here.
            if let Response::Answer(length) =
                respond(&asked, &served, &mut self.scratch, &self.tally, &mut answer[..room])
            {
                self.batch.answer(i, length);
            }
        }
    }
}
