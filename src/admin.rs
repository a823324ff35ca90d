//! The administrator's door: the Unix socket of `show`, `reload` and `drain`, both ends, and the metrics listener.
//!
//! [`Admin`] sits on the control thread's event loop and never waits: `door` opens the socket, `session` is one
//! client's exchange (`request` and `http` are what is said in it), [`client`] is the other end, [`text`] prints it.
//! Everything is bounded: clients, their requests, the piece of a long reply that waits to be sent, and the work of one
//! call. A client that is slow, silent or talks rubbish costs a slot until its time is over or a new client needs it.

pub mod client;
mod door;
mod http;
mod request;
pub mod rows;
mod session;
pub mod text;

use crate::config;
use crate::config::file::io_words;
use door::Door;
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use rows::{DnsRows, ExplainRow, FlowRow, HealthRow, ServiceRow, SiteRow, Wish, WorkerRow};
use session::{Progress, Session, Stream};
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// How many tokens [`Admin`] takes from its base token on.
pub const TOKENS: usize = FIRST_CLIENT + CLIENTS + SCRAPERS;

const DOOR: usize = 0;
const METRICS: usize = 1;
const FIRST_CLIENT: usize = 2;
/// The most clients of the Unix socket at a time.
const CLIENTS: usize = 16;
/// The most clients of the metrics listener at a time.
const SCRAPERS: usize = 32;
/// The most clients taken in one call.
const ACCEPTED: usize = 64;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// Who knows the answers: called on the control thread, must not block.
pub trait Answers {
    fn services(&mut self) -> Vec<ServiceRow>;

    /// Flows from `cursor` on (0: the first) and the next cursor, None at the end. At most `max` of them; fewer, even
    /// none, where looking at more would take long: a call shall take about a millisecond. A flow that comes or
    /// goes between two calls may be told or not.
    fn flows(&mut self, cursor: usize, max: usize) -> (Vec<FlowRow>, Option<usize>);

    fn health(&mut self) -> Vec<HealthRow>;

    /// Every count by its name.
    fn counters(&mut self) -> BTreeMap<String, u64>;

    fn workers(&mut self) -> Vec<WorkerRow>;

    fn dns(&mut self) -> DnsRows;

    /// This site first.
    fn sites(&mut self) -> Vec<SiteRow>;

    /// What would be answered to whom. The error is a sentence.
    fn explain(&mut self, wish: &Wish) -> Result<ExplainRow, String>;

    /// Reads the file again. What changed, in words, one change a line; or why nothing did.
    fn reload(&mut self) -> Result<String, String>;

    /// Starts (`on`) or ends draining `target`, which is `service/name`. What was done, or why not.
    fn drain(&mut self, target: &str, on: bool) -> Result<String, String>;

    /// All metrics, in Prometheus' text format 0.0.4.
    fn metrics(&mut self) -> String;
}

/// The Unix socket and the metrics listener, open until dropped; then the socket's file is gone too.
pub struct Admin {
    door: Door,
    metrics: Option<TcpListener>,
    registry: Option<Registry>,
    base: usize,
    /// [`CLIENTS`] slots for the Unix socket, then [`SCRAPERS`] for the metrics listener.
    sessions: Vec<Option<Session>>,
    /// Which of the listeners have clients waiting that an earlier call left there, and since when they may be taken.
    waiting: [Option<Instant>; 2],
}

impl Admin {
    /// Opens both. A socket file that a killed farside left is replaced; one that is alive is an error: another farside
    /// is running. Errors are sentences.
    pub fn open(config: &config::Admin) -> Result<Admin, String> {
        let door = Door::open(&config.socket)?;
        let metrics = match config.metrics {
            Some(address) => Some(
                TcpListener::bind(address)
                    .map_err(|error| format!("cannot listen for metrics on {address}: {}", io_words(&error)))?,
            ),
            None => None,
        };
        let sessions = (0..CLIENTS + SCRAPERS).map(|_| None).collect();
        Ok(Admin { door, metrics, registry: None, base: 0, sessions, waiting: [None; 2] })
    }

    /// Where the metrics listener is; None: there is none.
    pub fn metrics_address(&self) -> Option<std::net::SocketAddr> {
        self.metrics.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Joins an event loop; tokens `base_token..base_token + TOKENS` are taken. Errors are the loop's.
    pub fn register(&mut self, registry: &Registry, base_token: usize) -> io::Result<()> {
        self.base = base_token;
        registry.register(self.door.listener(), Token(base_token + DOOR), Interest::READABLE)?;
        if let Some(metrics) = &mut self.metrics {
            registry.register(metrics, Token(base_token + METRICS), Interest::READABLE)?;
        }
        self.registry = Some(registry.try_clone()?);
        Ok(())
    }

    /// An event of the loop. False: the token is not one of admin's.
    pub fn ready(&mut self, token: usize, now: Instant, answers: &mut dyn Answers) -> bool {
        match token.checked_sub(self.base) {
            Some(listener @ (DOOR | METRICS)) => self.accept(listener, now),
            Some(token) if token < TOKENS => self.drive(token - FIRST_CLIENT, now, answers),
            _ => return false,
        }
        true
    }

    /// When [`Admin::tick`] wants to be called at the latest; it is past while a long reply is under way.
    pub fn next_deadline(&self) -> Option<Instant> {
        let sessions = self.sessions.iter().flatten().map(Session::deadline);
        sessions.chain(self.waiting.into_iter().flatten()).min()
    }

    /// Goes on with long replies, a bounded piece each, and drops clients that take too long.
    pub fn tick(&mut self, now: Instant, answers: &mut dyn Answers) {
        for listener in [DOOR, METRICS] {
            if self.waiting[listener].is_some_and(|since| since <= now) {
                self.accept(listener, now);
            }
        }
        for slot in 0..self.sessions.len() {
            if self.sessions[slot].as_ref().is_some_and(|session| session.deadline() <= now) {
                self.drive(slot, now, answers);
            }
        }
    }

    fn drive(&mut self, slot: usize, now: Instant, answers: &mut dyn Answers) {
        if let Some(session) = &mut self.sessions[slot]
            && session.drive(now, answers) == Progress::Over
        {
            self.sessions[slot] = None;
        }
    }

    fn accept(&mut self, listener: usize, now: Instant) {
        self.waiting[listener] = None;
        for _ in 0..ACCEPTED {
            let accepted = match (listener, &self.metrics) {
                (DOOR, _) => self.door.listener().accept().map(|(stream, _)| Stream::Unix(stream)),
                (_, Some(metrics)) => metrics.accept().map(|(stream, _)| Stream::Tcp(stream)),
                (_, None) => return,
            };
            match accepted {
                Ok(stream) => self.take_in(stream, now),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.waiting[listener] = Some(now + ACCEPT_AGAIN);
                        return;
                    }
                },
            }
        }
        self.waiting[listener] = Some(now);
    }

    /// Gives a new client a slot: a free one, else that of the client that has been still for longest.
    fn take_in(&mut self, mut stream: Stream, now: Instant) {
        let slots = match stream {
            Stream::Unix(_) => 0..CLIENTS,
            Stream::Tcp(_) => CLIENTS..CLIENTS + SCRAPERS,
        };
        let Some(slot) = slots.min_by_key(|slot| self.sessions[*slot].as_ref().map(Session::last_moved)) else {
            return;
        };
        self.sessions[slot] = None;
        let token = Token(self.base + FIRST_CLIENT + slot);
        // The loop tells at once what a fresh stream is ready for: the first piece of work is done then.
        if let Some(registry) = &self.registry
            && stream.register(registry, token).is_ok()
        {
            self.sessions[slot] = Some(Session::new(stream, now));
        }
    }
}

#[cfg(test)]
mod tests;
