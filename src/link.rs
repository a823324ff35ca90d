//! What sites tell each other: one connection between each two, TLS 1.3 with a certificate on both sides.
//!
//! # Theory of operation
//!
//! Of two sites the one dials whose name comes first; it tries again for ever, at longer and longer intervals. Both show a certificate,
//! and take none but the one of the configuration ([`tls`]). Then both say who they are, and from then on, every second: how the site is
//! (what is up there, how much it does), which records of resolvers have changed, which ways to resolvers it has measured, and what time
//! it is ([`message`]). So each
//! measures how far away the other is and how its clock differs ([`clock`]); records' stamps are corrected by that. Once a
//! minute, and twice at the beginning of a link, who dials sends a digest of all records ([`crate::affinity::Store::digest`]); where
//! the other's differs both tell all that they have. That finds what was missed while a link was down, or too slow.
//!
//! What comes in changes nothing but four things: the board, which control reads, the [`SiteTable`], the [`Store`] and the [`Ways`]. A
//! link that is lost takes the site off the table: then it is known by this site's own checks alone.
//!
//! All of it is one thread's work (`post`), off the data path, and bounded: strangers, what is kept of a message, what waits to be sent.

mod clock;
mod connection;
pub mod keys;
pub mod message;
mod post;
mod session;
mod share;
pub mod tls;

use crate::affinity::Store;
use crate::sites::state::State;
use crate::sites::{Registry, SiteNumber, SiteTable, Ways};
use crate::sys::tcp_info::keep_first_packets;
use clock::Clock;
use mio::Poll;
use mio::net::TcpListener;
use post::Post;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tls::Identity;

/// Another site.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerOf {
    pub name: String,
    pub site: SiteNumber,
    /// Where it is dialed; None: it dials.
    pub address: Option<SocketAddr>,
}

/// What links read and write beside their connections.
#[derive(Clone)]
pub struct Common {
    /// This site's name.
    pub own: String,
    pub sites: Arc<Registry>,
    pub table: Arc<SiteTable>,
    /// None: no records are exchanged.
    pub store: Option<Arc<Store>>,
    /// None: ways to resolvers are not exchanged.
    pub ways: Option<Arc<Ways>>,
}

/// One link, for people and for who decides by it.
#[derive(Clone, Debug)]
pub struct Report {
    pub name: String,
    pub site: SiteNumber,
    pub stands: bool,
    /// Since when it does, or does not.
    pub since: Instant,
    /// Why it does not stand; empty otherwise.
    pub why: String,
    /// Of the other end, as seen from here.
    pub address: Option<SocketAddr>,
    /// By how much its clock is ahead.
    pub ahead_us: Option<i64>,
    pub round_trip_us: Option<u32>,
    pub loss_permille: Option<u16>,
    /// Routers between.
    pub hops: Option<u8>,
    /// When its certificate ends, in seconds since 1970.
    pub ends: Option<i64>,
    /// What it says of itself; None: nothing yet, or not any more.
    pub state: Option<Arc<State>>,
}

/// What has happened, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Links that stood.
    pub begun: u64,
    /// Links that were lost.
    pub lost: u64,
    /// Connections that got nothing: an unknown, wrong or expired certificate, or none.
    pub refused: u64,
    pub records_sent: u64,
    pub records_received: u64,
    /// Of these, those that counted more than what was here.
    pub records_taken: u64,
    /// Digests that differed.
    pub repairs: u64,
}

/// Of connections that got nothing.
#[derive(Default)]
struct Refusals {
    since_told: u64,
    told_ends: Option<Instant>,
}

struct Board {
    own: Arc<State>,
    reports: Vec<Report>,
    counts: Counts,
}

impl Board {
    fn begin(&mut self, peer: usize, address: SocketAddr) {
        self.counts.begun += 1;
        let report = &mut self.reports[peer];
        (report.stands, report.since, report.address) = (true, Instant::now(), Some(address));
        report.why.clear();
    }

    fn hear(&mut self, peer: usize, state: State, clock: &Clock, (loss_permille, hops): (Option<u16>, Option<u8>)) {
        let report = &mut self.reports[peer];
        (report.ahead_us, report.round_trip_us) = (clock.ahead_us(), clock.round_trip_us());
        (report.loss_permille, report.hops) = (loss_permille, hops);
        report.state = Some(Arc::new(state));
    }

    fn end(&mut self, peer: usize, why: &str) {
        let report = &mut self.reports[peer];
        if report.stands {
            self.counts.lost += 1;
            (report.stands, report.since) = (false, Instant::now());
            (report.ahead_us, report.round_trip_us, report.state) = (None, None, None);
            (report.loss_permille, report.hops) = (None, None);
        }
        report.why = why.into();
    }
}

struct Shared {
    own: String,
    sites: Arc<Registry>,
    table: Arc<SiteTable>,
    store: Option<Arc<Store>>,
    ways: Option<Arc<Ways>>,
    /// Of control.
    waker: OnceLock<Arc<mio::Waker>>,
    /// How often something has been heard that control should look at.
    news: AtomicU64,
    board: Mutex<Board>,
    /// What this site says of itself has changed, and is told at once.
    fresh: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    fn heard(&self) {
        self.news.fetch_add(1, Relaxed);
        if let Some(waker) = self.waker.get() {
            let _ = waker.wake();
        }
    }
}

/// All links of this site, until dropped.
pub struct Links {
    shared: Arc<Shared>,
    waker: mio::Waker,
    thread: Option<JoinHandle<()>>,
    listening: Vec<SocketAddr>,
}

impl Links {
    /// Opens the listeners and begins to dial. `peers` are in the order of the identity's. The error is a sentence.
    pub fn start(
        common: Common,
        identity: Identity,
        peers: Vec<PeerOf>,
        listen: &[SocketAddr],
    ) -> Result<Links, String> {
        let poll = Poll::new().map_err(|why| format!("[link] cannot be started: {why}"))?;
        let waker = mio::Waker::new(poll.registry(), post::WAKE);
        let waker = waker.map_err(|why| format!("[link] cannot be started: {why}"))?;
        let bind = |address: &SocketAddr| {
            let listener =
                TcpListener::bind(*address).map_err(|why| format!("[link] cannot listen on {address}: {why}"))?;
            // Without it hops are not known, and nothing else is amiss.
            let _ = keep_first_packets(&listener);
            Ok::<_, String>(listener)
        };
        let listeners = listen.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let listening = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let report = |(at, peer): (usize, &PeerOf)| Report {
            name: peer.name.clone(),
            site: peer.site,
            stands: false,
            since: Instant::now(),
            why: if peer.address.is_some() { "not dialed yet" } else { "it has not dialed yet" }.into(),
            address: peer.address,
            ahead_us: None,
            round_trip_us: None,
            loss_permille: None,
            hops: None,
            ends: identity.peer_ends(at),
            state: None,
        };
        let board = Board {
            own: Arc::default(),
            reports: peers.iter().enumerate().map(report).collect(),
            counts: Counts::default(),
        };
        let Common { own, sites, table, store, ways } = common;
        let shared = Arc::new(Shared {
            own,
            sites,
            table,
            store,
            ways,
            waker: OnceLock::new(),
            news: AtomicU64::new(0),
            board: Mutex::new(board),
            fresh: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let post = Post::new(shared.clone(), identity, peers, poll, listeners)?;
        let thread = std::thread::Builder::new().name("links".into()).spawn(move || post.run());
        let thread = thread.map_err(|why| format!("[link] cannot be started: {why}"))?;
        Ok(Links { shared, waker, thread: Some(thread), listening })
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.shared.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is woken when something has been heard; the first one stays.
    pub fn set_waker(&self, waker: Arc<mio::Waker>) {
        let _ = self.shared.waker.set(waker);
    }

    /// It rises when something has been heard.
    pub fn news(&self) -> u64 {
        self.shared.news.load(Relaxed)
    }

    /// Where it listens.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// How this site is from now on. What is up there, and what has room, is told at once if it is other than before; the rest
    /// within a second.
    pub fn tell(&self, state: State) {
        let mut board = self.board();
        let was = std::mem::replace(&mut board.own, Arc::new(state));
        let is = &board.own;
        let urgent = (was.full, &was.services, &was.members) != (is.full, &is.services, &is.members);
        drop(board);
        self.shared.fresh.store(true, Relaxed);
        if urgent {
            let _ = self.waker.wake();
        }
    }

    /// One for each peer.
    pub fn reports(&self) -> Vec<Report> {
        self.board().reports.clone()
    }

    pub fn counts(&self) -> Counts {
        self.board().counts
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
