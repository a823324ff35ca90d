//! DNS over TCP (RFC 7766): one thread and one event loop for all connections. A client may ask on without waiting for answers, which
//! come in the order of the questions. Nobody waits for a client that is slow: what it does not take stays in its connection, and until
//! then nothing more is taken from it. Connections are bounded in number, of all clients and of each, and in silence.

mod connection;

use super::super::steer::Survey;
use super::super::{Scratch, Transport};
use super::serial::unix_ms;
use super::{Served, Shared, Tally};
use crate::config::dns::Tcp as Bounds;
use connection::{Connection, Desk, Progress};
use hashbrown::HashMap;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const WAKE: usize = 0;
const FIRST_LISTENER: usize = 1;

/// After an accept that failed for want of descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Connections taken from one listener before others have their turn.
const ACCEPTED: usize = 256;

pub struct Server {
    listeners: Vec<(TcpListener, IpAddr)>,
    poll: Poll,
    waker: Arc<Waker>,
    bounds: Bounds,
    shared: Arc<Shared>,
    scratch: Scratch,
    tally: Arc<Tally>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    open: usize,
    per_client: HashMap<IpAddr, u32>,
    /// By when they last moved, as far as that was known when they were put here: whoever comes out first is looked at again.
    silent: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    /// Connections that have more to do without an event to say so.
    going: VecDeque<(usize, u64)>,
    /// Listeners with clients left waiting, and from when on they may be taken.
    waiting: Vec<Option<Instant>>,
    serial: u64,
    room: Box<[u8]>,
}

impl Server {
    /// Errors are those of the event loop.
    pub fn new(listeners: Vec<std::net::TcpListener>, bounds: Bounds, shared: Arc<Shared>) -> io::Result<Server> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(WAKE))?);
        let mut taken = Vec::new();
        for (i, listener) in listeners.into_iter().enumerate() {
            let address = listener.local_addr()?.ip();
            let mut listener = TcpListener::from_std(listener);
            poll.registry().register(&mut listener, Token(FIRST_LISTENER + i), Interest::READABLE)?;
            taken.push((listener, address));
        }
        let index = shared.counts.len() - 1;
        let served = shared.served.load_full();
        let scratch = Scratch::new(shared.counts[index].clone(), served.snapshot.settings(), 0);
        Ok(Server {
            waiting: vec![None; taken.len()],
            listeners: taken,
            poll,
            waker,
            bounds,
            scratch,
            tally: shared.tallies[index].clone(),
            shared,
            connections: Vec::new(),
            free: Vec::new(),
            open: 0,
            per_client: HashMap::new(),
            silent: BinaryHeap::new(),
            going: VecDeque::new(),
            serial: 0,
            room: vec![0; super::super::wire::LONGEST].into(),
        })
    }

    /// Ends the thread's sleep; with [`Shared::stop`] set it ends.
    pub fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    /// Until [`Shared::stop`]. The error is the event loop's.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !self.shared.stop.load(Relaxed) {
            let nap = self.nap(Instant::now());
            match self.poll.poll(&mut events, nap) {
                Err(why) if why.kind() != ErrorKind::Interrupted => return Err(why),
                _ => {}
            }
            let now = Instant::now();
            let served = self.shared.served.load_full();
            let first = FIRST_LISTENER + self.listeners.len();
            for event in &events {
                match event.token().0 {
                    WAKE => {}
                    token if token < first => self.accept(token - FIRST_LISTENER, now),
                    token => self.drive(token - first, &served, now),
                }
            }
            for _ in 0..self.going.len() {
                let Some((slot, serial)) = self.going.pop_front() else { break };
                if self.is_same(slot, serial) {
                    self.drive(slot, &served, now);
                }
            }
            for listener in 0..self.listeners.len() {
                if self.waiting[listener].is_some_and(|at| at <= now) {
                    self.accept(listener, now);
                }
            }
            self.end_silent(now);
        }
        Ok(())
    }

    fn nap(&self, now: Instant) -> Option<Duration> {
        if !self.going.is_empty() {
            return Some(Duration::ZERO);
        }
        let silence = self.silent.peek().map(|Reverse((moved, ..))| *moved + self.bounds.idle);
        let waiting = self.waiting.iter().flatten().min().copied();
        silence.into_iter().chain(waiting).min().map(|at| at.saturating_duration_since(now))
    }

    fn is_same(&self, slot: usize, serial: u64) -> bool {
        matches!(self.connections.get(slot), Some(Some(connection)) if connection.serial == serial)
    }

    fn accept(&mut self, listener: usize, now: Instant) {
        self.waiting[listener] = None;
        for _ in 0..ACCEPTED {
            match self.listeners[listener].0.accept() {
                Ok((stream, peer)) => self.take_in(stream, peer.ip().to_canonical(), listener, now),
                Err(why) => match why.kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.waiting[listener] = Some(now + ACCEPT_AGAIN);
                        return;
                    }
                },
            }
        }
        self.waiting[listener] = Some(now);
    }

    fn take_in(&mut self, mut stream: TcpStream, peer: IpAddr, listener: usize, now: Instant) {
        let counts = &self.shared.tcp;
        let client = client(peer);
        let count = self.per_client.entry(client).or_insert(0);
        if *count >= self.bounds.max_per_client {
            counts.refused.fetch_add(1, Relaxed);
            return;
        }
        *count += 1;
        counts.accepted.fetch_add(1, Relaxed);
        if self.open >= self.bounds.max_connections as usize {
            self.make_room();
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let token = Token(FIRST_LISTENER + self.listeners.len() + slot);
        let _ = stream.set_nodelay(true);
        if self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).is_err() {
            self.free.push(slot);
            self.leave(client);
            return;
        }
        self.serial += 1;
        let to = self.listeners[listener].1;
        self.connections[slot] = Some(Connection::new(stream, self.serial, client, peer, to, now));
        self.silent.push(Reverse((now, slot, self.serial)));
        self.open += 1;
        self.shared.tcp.open.store(self.open as u64, Relaxed);
    }

    /// Closes the connection that has been silent for longest.
    fn make_room(&mut self) {
        while let Some(Reverse((moved, slot, serial))) = self.silent.pop() {
            let Some(Some(connection)) = self.connections.get(slot) else { continue };
            if connection.serial != serial {
                continue;
            }
            if connection.moved > moved {
                self.silent.push(Reverse((connection.moved, slot, serial)));
                continue;
            }
            self.close(slot);
            self.shared.tcp.evicted.fetch_add(1, Relaxed);
            return;
        }
    }

    fn end_silent(&mut self, now: Instant) {
        while let Some(&Reverse((moved, slot, serial))) = self.silent.peek() {
            if moved + self.bounds.idle > now {
                return;
            }
            self.silent.pop();
            if !self.is_same(slot, serial) {
                continue;
            }
            match &self.connections[slot] {
                Some(connection) if connection.moved + self.bounds.idle > now => {
                    self.silent.push(Reverse((connection.moved, slot, serial)));
                }
                _ => self.close(slot),
            }
        }
    }

    fn drive(&mut self, slot: usize, served: &Arc<Served>, now: Instant) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        let mut desk = Desk {
            served,
            scratch: &mut self.scratch,
            tally: &self.tally,
            room: &mut self.room,
            transport: Transport::Tcp,
            now,
            now_ms: now.duration_since(self.shared.start).as_millis() as u64,
            unix_ms: unix_ms(),
        };
        match connection.drive(&mut desk) {
            Progress::Waits => {}
            Progress::GoesOn => self.going.push_back((slot, connection.serial)),
            Progress::Over => self.close(slot),
        }
    }

    fn close(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        if let Survey::Kept(ways) = &self.shared.served.load().snapshot.steering().ways
            && let Some((from, round_trip_us)) = connection.round_trip()
        {
            ways.note_connection(from, round_trip_us, (unix_ms() / 1000) as u32);
        }
        self.leave(connection.client);
        self.free.push(slot);
        self.open -= 1;
        self.shared.tcp.open.store(self.open as u64, Relaxed);
    }

    fn leave(&mut self, client: IpAddr) {
        if let Some(count) = self.per_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.per_client.remove(&client);
            }
        }
    }
}

/// Who counts as one client: an IPv4 address, or an IPv6 network of 64 bits, all of whose addresses a host can have.
fn client(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests;
