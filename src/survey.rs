//! How far resolvers are from this site: measured by a few echoes, seldom, and by the TCP connections that come anyway.
//!
//! # Theory of operation
//!
//! Threads that answer note who asks for names of pools that choose by metrics ([`Ways::note`]), and whom another site has measured is
//! noted as well ([`Ways::hear`]), so that all sites come to know of the same networks. One thread takes out what was noted: it sends a few
//! echoes, spread over some seconds, from the address that was asked, and writes down the quickest answer, what got
//! lost, and how many routers the answer passed. A network that answers nothing is known to say nothing, which is not the same
//! as loss.
//!
//! *Forged questions*: anybody can ask in anybody's name, and have farside send pings to whom he likes. So measurements are few: so many
//! in a second as the configuration says, whoever asks, and one of a network in a while. What is noted beyond that is dropped and counted.

mod schedule;

use crate::sites::Ways;
use crate::sites::ways::{Network, Noted, Way};
use crate::sys::echo::EchoSocket;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use schedule::{Echo, Schedule};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::warn;

/// What was noted is looked at so often.
const NAP: Duration = Duration::from_millis(200);

/// Networks of which nothing is known any more are forgotten so often.
const SWEEP: Duration = Duration::from_secs(600);

/// Messages taken from one socket before others have their turn.
const AT_ONCE: usize = 1024;

/// The longest answer that is of interest, with its headers, in bytes.
const LONGEST: usize = 256;

/// The thread that measures, until dropped.
pub struct Survey {
    ways: Arc<Ways>,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    per_second: AtomicU32,
    stop: AtomicBool,
}

impl Survey {
    /// Nothing is sent before [`Survey::set`]. The error is a sentence.
    pub fn start(ways: Arc<Ways>) -> Result<Survey, String> {
        let told = |why: std::io::Error| format!("[dns] the ways to resolvers cannot be measured: {why}");
        let poll = Poll::new().map_err(told)?;
        let waker = Waker::new(poll.registry(), Token(0)).map_err(told)?;
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(|why| told(std::io::Error::other(why)))?;
        let shared = Arc::new(Shared::default());
        let post = Post {
            ways: ways.clone(),
            shared: shared.clone(),
            poll,
            schedule: Schedule::new(seed),
            sockets: HashMap::new(),
            told: false,
        };
        let thread = std::thread::Builder::new().name("dns-ways".into()).spawn(move || post.run()).map_err(told)?;
        Ok(Survey { ways, shared, waker, thread: Some(thread) })
    }

    /// At most so many measurements begin in a second (0: none), and what one has found is good for `every`.
    pub fn set(&self, per_second: u32, every: Duration) {
        self.shared.per_second.store(per_second, Relaxed);
        self.ways.set_measuring(per_second > 0, u32::try_from(every.as_secs()).unwrap_or(u32::MAX));
    }

    pub fn ways(&self) -> &Arc<Ways> {
        &self.ways
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Post {
    ways: Arc<Ways>,
    shared: Arc<Shared>,
    poll: Poll,
    schedule: Schedule,
    /// By the address that they send from.
    sockets: HashMap<IpAddr, EchoSocket>,
    /// That there is no socket to be had has been said.
    told: bool,
}

impl Post {
    fn run(mut self) {
        let (mut events, mut swept) = (Events::with_capacity(16), Instant::now());
        while !self.shared.stop.load(Relaxed) {
            let nap = self.schedule.next_deadline().map_or(NAP, |at| at.saturating_duration_since(Instant::now()));
            if let Err(why) = self.poll.poll(&mut events, Some(nap.min(NAP)))
                && why.kind() != ErrorKind::Interrupted
            {
                warn!("ways to resolvers are measured no more: the event loop broke: {why}");
                return;
            }
            self.receive();
            let now_s = unix_s();
            while let Some(noted) = self.ways.next_noted() {
                self.take(noted, now_s);
            }
            self.step(now_s);
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.ways.sweep(now_s);
            }
        }
    }

    fn take(&mut self, noted: Noted, now_s: u32) {
        match noted {
            Noted::Asked { from, at } => {
                if self.ways.is_due(Network::of(from), now_s) && !self.schedule.ask(from, at) {
                    self.ways.limit();
                }
            }
            Noted::Connected { from, round_trip_us } => {
                // Of the rest the handshake says nothing: what is known of it stays.
                let before = self.before(from, now_s);
                let (loss_permille, hops) = before.map_or((0, None), |way| (way.loss_permille, way.hops));
                let way = Way { round_trip_us: Some(round_trip_us), loss_permille, hops, age_s: 0 };
                self.ways.measured(from, &way, now_s);
            }
        }
    }

    /// What was measured last, if somebody answered.
    fn before(&self, address: IpAddr, now_s: u32) -> Option<Way> {
        let own = self.ways.own();
        let seen = self.ways.seen(Network::of(address), own.bit(), now_s)?.from(own)?;
        seen.round_trip_us.map(|_| seen)
    }

    fn step(&mut self, now_s: u32) {
        let Post { schedule, sockets, poll, told, .. } = self;
        let per_second = self.shared.per_second.load(Relaxed);
        let send = |echo: &Echo| {
            let any: IpAddr = match echo.to {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let at = echo.at.filter(|at| at.is_ipv4() == echo.to.is_ipv4());
            let mut tries = at.into_iter().chain([any]);
            tries.any(|source| send_from(source, echo, sockets, poll, told))
        };
        let done = schedule.step(Instant::now(), per_second, send);
        for (address, mut way) in done {
            if let (Some(before), Some(_)) = (self.before(address, now_s), way.round_trip_us) {
                // A few echoes say little of loss: what was lost before counts as much.
                way.loss_permille = (way.loss_permille + before.loss_permille) / 2;
            }
            self.ways.measured(address, &way, now_s);
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; LONGEST];
        for socket in self.sockets.values() {
            for _ in 0..AT_ONCE {
                match socket.receive(&mut buffer) {
                    Ok(came) => {
                        let message = buffer.get(came.at..came.at + came.length).unwrap_or_default();
                        self.schedule.answer(came.from, message, came.left, Instant::now());
                    }
                    // An error of a message that was sent: that one is not answered.
                    Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
        }
    }
}

/// Sends an echo from an address, by a socket that is opened for it if there is none. False: it did not go.
fn send_from(
    source: IpAddr,
    echo: &Echo,
    sockets: &mut HashMap<IpAddr, EchoSocket>,
    poll: &Poll,
    told: &mut bool,
) -> bool {
    let socket = match sockets.entry(source) {
        Entry::Occupied(socket) => socket,
        Entry::Vacant(place) => {
            let opened = EchoSocket::open(source);
            match opened.and_then(|socket| register(poll, socket.fd()).map(|()| socket)) {
                Ok(socket) => place.insert_entry(socket),
                Err(why) => {
                    if source.is_unspecified() && !std::mem::replace(told, true) {
                        warn!("ways to resolvers cannot be measured: no ICMP socket can be opened: {why}");
                    }
                    return false;
                }
            }
        }
    };
    // It stays, whatever the error: an address that is gone may come back, and answers to other echoes are on their way to it.
    socket.get().send(&echo.message, echo.to).is_ok()
}

fn register(poll: &Poll, fd: RawFd) -> std::io::Result<()> {
    // All of them are looked at whenever one has something.
    poll.registry().register(&mut SourceFd(&fd), Token(1), Interest::READABLE)
}

/// Seconds since 1970.
fn unix_s() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

#[cfg(test)]
mod tests;
