//! The thread that has the connections: dials, answers, tells, hears.

use super::connection::{Connection, Over};
use super::message::{MOST_WAYS, Message};
use super::session::{Said, Session};
use super::share;
use super::tls::{self, Identity};
use super::{Board, PeerOf, Refusals, Shared};
use crate::affinity::{Consumer, RANGES, Ranges, Store};
use crate::sites::Load;
use crate::sites::state::State;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};
use tracing::{info, warn};

/// Signs of life are asked for so often, and everything is told that has changed.
pub const BEAT: Duration = Duration::from_secs(1);
/// After so long without one the link is lost.
pub const SILENCE: Duration = Duration::from_secs(5);
/// From the first byte to the end of the greeting.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Digests are compared so often: what got lost is found.
const COMPARE: Duration = Duration::from_secs(60);
/// The second comparison comes so long after the first, which leaves out what was changed just before the link stood.
const COMPARE_AGAIN: Duration = Duration::from_secs(7);
/// Who is asked to compare more often does not.
const COMPARED: Duration = Duration::from_secs(5);
/// What was changed more recently is on its way.
const SETTLED_MS: u64 = 5_000;
/// The loop looks around so often at least.
const NAP: Duration = Duration::from_millis(200);
/// A peer that cannot be reached is dialed again after so long, then twice that, and so on up to the most.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_MOST: Duration = Duration::from_secs(10);
/// Connections that have not shown yet who they are; the oldest goes for a new one.
const STRANGERS: usize = 32;
/// The most that are let in in a second.
const ADMITTED: u32 = 50;
/// Whoever is refused is told of in the log so often at most.
const TOLD: Duration = Duration::from_secs(10);
/// Certificates are looked at so often.
const LOOK: Duration = Duration::from_secs(10);
/// A certificate that ends within this is told of.
const ENDS_SOON: Duration = Duration::from_secs(30 * 86400);
const DAY: Duration = Duration::from_secs(86400);
/// Records looked at in one go.
const SLICE: usize = 1 << 14;
/// Changes told in one beat, about.
const CHANGES: usize = 1 << 15;

pub const WAKE: Token = Token(0);
const LISTENERS: usize = 1;
const CONNECTIONS: usize = 1 << 16;

/// What is remembered of a peer between connections.
struct Way {
    /// When it is dialed next; None: it dials, or is connected.
    dial: Option<Instant>,
    wait: Duration,
    /// The connection that stands.
    connection: Option<usize>,
    /// That it does not stand has been told.
    told: bool,
}

pub struct Post {
    shared: Arc<Shared>,
    identity: Identity,
    server: Arc<rustls::ServerConfig>,
    peers: Vec<PeerOf>,
    ways: Vec<Way>,
    poll: Poll,
    listeners: Vec<TcpListener>,
    connections: Vec<Option<Connection>>,
    /// What was told last.
    state: Arc<State>,
    beat: Instant,
    looked: Instant,
    warned: Option<Instant>,
    admitted: (Instant, u32),
    /// Where to go on among the store's changes.
    changes: usize,
    refused: Refusals,
}

impl Post {
    pub fn new(
        shared: Arc<Shared>,
        identity: Identity,
        peers: Vec<PeerOf>,
        poll: Poll,
        mut listeners: Vec<TcpListener>,
    ) -> Result<Post, String> {
        let told = |why: std::io::Error| format!("[link] the event loop cannot be made: {why}");
        for (at, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(LISTENERS + at), Interest::READABLE).map_err(told)?;
        }
        let now = Instant::now();
        let way = |peer: &PeerOf| Way { dial: peer.address.map(|_| now), wait: AGAIN, connection: None, told: false };
        Ok(Post {
            server: identity.server().map_err(|why| format!("[link] {why}"))?,
            ways: peers.iter().map(way).collect(),
            shared,
            identity,
            peers,
            poll,
            listeners,
            connections: Vec::new(),
            state: Arc::default(),
            beat: now,
            looked: now - LOOK,
            warned: None,
            admitted: (now, 0),
            changes: 0,
            refused: Refusals::default(),
        })
    }

    /// Until it is told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.shared.stop.load(Relaxed) {
            if let Err(why) = self.poll.poll(&mut events, Some(NAP))
                && why.kind() != ErrorKind::Interrupted
            {
                warn!("the links to other sites have ended: the event loop broke: {why}");
                break;
            }
            for event in &events {
                match event.token() {
                    WAKE => {}
                    Token(listener) if listener < CONNECTIONS => {}
                    Token(connection) => self.drive(connection - CONNECTIONS),
                }
            }
            // A listener that was not emptied tells nothing new.
            (0..self.listeners.len()).for_each(|listener| self.admit(listener));
            self.chores(Instant::now());
        }
        self.connections.iter_mut().flatten().for_each(Connection::close);
        for peer in &self.peers {
            self.shared.table.forget(peer.site);
        }
    }

    fn admit(&mut self, listener: usize) {
        loop {
            let now = Instant::now();
            if now.duration_since(self.admitted.0) >= Duration::from_secs(1) {
                self.admitted = (now, 0);
            }
            if self.admitted.1 >= ADMITTED {
                return;
            }
            let Ok((stream, address)) = self.listeners[listener].accept() else { return };
            self.admitted.1 += 1;
            let strangers = || {
                let all = self.connections.iter().enumerate().filter_map(|(at, one)| Some((at, one.as_ref()?)));
                all.filter(|(_, one)| !one.dialed && !one.stands())
            };
            if strangers().count() >= STRANGERS
                && let Some((oldest, _)) = strangers().min_by_key(|(_, one)| one.since)
            {
                self.lose(oldest, &Over::Because("it took too long to say who it is".into()));
            }
            if let Ok(tls) = tls::answer(self.server.clone()) {
                self.add(Connection::new(stream, tls, address, None));
            }
        }
    }

    fn dial(&mut self, peer: usize, address: SocketAddr) {
        self.ways[peer].dial = None;
        let session = self.identity.client(peer).and_then(tls::dial);
        let stream = TcpStream::connect(address);
        match (session, stream) {
            (Ok(tls), Ok(stream)) => self.add(Connection::new(stream, tls, address, Some(peer))),
            (Err(why), _) => self.absent(peer, &tls::in_words(&why)),
            (_, Err(why)) => self.absent(peer, &format!("{address} cannot be dialed: {why}")),
        }
    }

    fn add(&mut self, mut connection: Connection) {
        let slot = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let (token, both) = (Token(CONNECTIONS + slot), Interest::READABLE | Interest::WRITABLE);
        if self.poll.registry().register(&mut connection.stream, token, both).is_ok() {
            self.connections[slot] = Some(connection);
            self.drive(slot);
        }
    }

    /// Does what can be done on a connection.
    fn drive(&mut self, slot: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        let (stood, expected) = (connection.stands(), connection.peer);
        let (identity, peers, own) = (&self.identity, &self.peers, &self.shared.own);
        let greet = |tls: &rustls::Connection| {
            let peer = identity.whose(tls.peer_certificates()?.first()?)?;
            let fits = expected.map_or(peers[peer].address.is_none(), |expected| expected == peer);
            fits.then(|| (peer, Session::new(own, &peers[peer].name, expected.is_some())))
        };
        match connection.drive(now_us(), greet) {
            Ok(said) => {
                if !stood && self.connections[slot].as_ref().is_some_and(Connection::stands) {
                    self.stands(slot);
                }
                said.into_iter().for_each(|said| self.hear(slot, said));
                self.send(slot);
            }
            Err(over) => self.lose(slot, &over),
        }
    }

    fn send(&mut self, slot: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(slot)
            && let Err(over) = connection.send()
        {
            self.lose(slot, &over);
        }
    }

    /// The other site has said who it is.
    fn stands(&mut self, slot: usize) {
        let Some((peer, address)) = self.connections[slot].as_ref().and_then(|one| Some((one.peer?, one.address)))
        else {
            return;
        };
        // It has begun anew, and the old connection is dead without knowing it.
        if let Some(old) = self.ways[peer].connection.replace(slot).filter(|old| *old != slot) {
            self.connections[old] = None;
        }
        self.ways[peer].dial = None;
        (self.ways[peer].wait, self.ways[peer].told) = (AGAIN, false);
        self.board(|board| board.begin(peer, address));
        info!("the link to {} stands", self.peers[peer].name);
        let state = self.state.clone();
        if let Some(session) = self.session(slot) {
            session.ping(now_us());
            session.say(&Message::State((*state).clone()));
        }
    }

    fn session(&mut self, slot: usize) -> Option<&mut Session> {
        self.connections.get_mut(slot)?.as_mut()?.session.as_mut()
    }

    fn board(&self, change: impl FnOnce(&mut Board)) {
        change(&mut self.shared.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn hear(&mut self, slot: usize, said: Said) {
        let Some(connection) = self.connections[slot].as_mut() else { return };
        let (Some(peer), Some(session)) = (connection.peer, &connection.session) else { return };
        let correction_ms = session.correction_ms();
        match said {
            Said::State(state) => {
                let (clock, hops) = (session.clock().clone(), session.hops);
                let loss_permille = connection.loss_permille(Instant::now());
                self.shared.table.set(
                    self.peers[peer].site,
                    &Load {
                        full: state.full,
                        connections: state.connections,
                        packets_per_s: state.packets_per_s,
                        cpu_permille: state.cpu_permille,
                        round_trip_us: clock.round_trip_us(),
                        loss_permille,
                        hops,
                    },
                );
                self.board(|board| board.hear(peer, state, &clock, (loss_permille, hops)));
                self.shared.heard();
            }
            Said::Records(batch) => {
                let Some(store) = &self.shared.store else { return };
                let taken = share::take(&batch, correction_ms, store, &self.shared.sites, now_us() / 1000);
                self.board(|board| {
                    board.counts.records_received += batch.records.len() as u64;
                    board.counts.records_taken += taken;
                });
            }
            Said::Digest { before_ms, sums } => {
                if connection.compared.is_some_and(|at| at.elapsed() < COMPARED) {
                    return;
                }
                connection.compared = Some(Instant::now());
                let Some(store) = &self.shared.store else { return };
                let own = self.digest(store, -correction_ms, before_ms);
                let ranges = Ranges::different(&own, &sums);
                if !ranges.is_empty() {
                    self.repair(slot, ranges.clone());
                    if let Some(session) = self.session(slot) {
                        session.say(&Message::Want(*ranges.words()));
                    }
                }
            }
            Said::Want(words) => self.repair(slot, Ranges::from_words(words)),
            Said::Ways(told) => {
                let (Some(ways), site) = (&self.shared.ways, self.peers[peer].site) else { return };
                told.iter().for_each(|told| ways.hear(site, told.address, &told.way, now_s()));
            }
        }
    }

    /// Of all records from before a moment, by the clock that is `ahead_ms` ahead.
    fn digest(&self, store: &Store, ahead_ms: i64, before_ms: u64) -> Box<[u64; RANGES]> {
        let (mut sums, mut from) = (Box::new([0; RANGES]), Some(0));
        while let Some(at) = from {
            from = store.digest_by((at, SLICE), ahead_ms, before_ms, &self.shared.sites, &mut sums);
        }
        sums
    }

    /// Begins to tell all records of these ranges.
    fn repair(&mut self, slot: usize, ranges: Ranges) {
        if let Some(Some(connection)) = self.connections.get_mut(slot)
            && self.shared.store.is_some()
        {
            connection.repair = Some((ranges, 0));
            self.board(|board| board.counts.repairs += 1);
        }
    }

    fn chores(&mut self, now: Instant) {
        for peer in 0..self.peers.len() {
            if self.ways[peer].dial.is_some_and(|at| at <= now)
                && let Some(address) = self.peers[peer].address
            {
                self.dial(peer, address);
            }
        }
        let fresh = self.shared.fresh.swap(false, Relaxed);
        if fresh {
            self.board_state();
        }
        let beat = now.duration_since(self.beat) >= BEAT;
        if beat {
            self.beat = now;
        }
        for slot in 0..self.connections.len() {
            self.attend(slot, now, beat, fresh);
        }
        if beat {
            self.tell_changes();
            self.tell_ways();
        }
        for slot in 0..self.connections.len() {
            self.tell_repair(slot);
            self.send(slot);
        }
        if now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            self.look_at_certificates(now);
        }
    }

    fn board_state(&mut self) {
        let mut state = Arc::default();
        self.board(|board| state = board.own.clone());
        self.state = state;
    }

    /// Looks whether somebody is there still, and gives a sign of life.
    fn attend(&mut self, slot: usize, now: Instant, beat: bool, fresh: bool) {
        let Some(connection) = self.connections[slot].as_mut() else { return };
        let stands = connection.stands();
        if !stands && now.duration_since(connection.since) >= HANDSHAKE {
            return self.lose(slot, &Over::Because("it does not answer".into()));
        }
        if stands && now.duration_since(connection.heard) >= SILENCE {
            let words = format!("nothing has been heard of it for {} s", SILENCE.as_secs());
            return self.lose(slot, &Over::Because(words));
        }
        if !stands || !connection.has_room() {
            return;
        }
        let wait = if connection.comparisons < 2 { COMPARE_AGAIN } else { COMPARE };
        let compares = connection.dialed && connection.compared.is_none_or(|at| now.duration_since(at) >= wait);
        // The first exchanges tell first how the clocks differ.
        let compares = compares && now.duration_since(connection.since) >= 2 * BEAT && beat;
        if compares {
            connection.compared = Some(now);
            connection.comparisons += 1;
        }
        let state = self.state.clone();
        if let Some(session) = self.session(slot) {
            if beat {
                session.ping(now_us());
            }
            if beat || fresh {
                session.say(&Message::State((*state).clone()));
            }
        }
        if compares && let Some(store) = &self.shared.store {
            let before_ms = (now_us() / 1000).saturating_sub(SETTLED_MS);
            let sums = self.digest(store, 0, before_ms);
            if let Some(session) = self.session(slot) {
                session.say(&Message::Digest { before_ms, sums });
            }
        }
    }

    /// Tells all who listen what has changed. Who is too slow is told when digests are compared.
    fn tell_changes(&mut self) {
        let Some(store) = self.shared.store.clone() else { return };
        if !self.connections.iter().flatten().any(Connection::stands) {
            return;
        }
        let mut records = Vec::new();
        self.changes = store.changes(Consumer::Links, self.changes, CHANGES, &mut records).unwrap_or(0);
        let messages = share::tell(&records, &self.shared.sites);
        for connection in self.connections.iter_mut().flatten().filter(|one| one.stands() && one.has_room()) {
            let Some(session) = &mut connection.session else { continue };
            messages.iter().for_each(|message| session.say(message));
        }
        self.board(|board| board.counts.records_sent += records.len() as u64);
    }

    /// Tells each who listens which ways to resolvers have been measured anew: all of them, if it has been told of none.
    fn tell_ways(&mut self) {
        let Some(ways) = &self.shared.ways else { return };
        for connection in self.connections.iter_mut().flatten().filter(|one| one.stands() && one.has_room()) {
            let Some(session) = &mut connection.session else { continue };
            let (news, told) = ways.news(connection.ways, MOST_WAYS, now_s());
            connection.ways = told;
            if !news.is_empty() {
                ways.told(news.len());
                session.say(&Message::Ways(news));
            }
        }
    }

    /// Goes on telling records of ranges that differ.
    fn tell_repair(&mut self, slot: usize) {
        let (Some(Some(connection)), Some(store)) = (self.connections.get_mut(slot), &self.shared.store) else {
            return;
        };
        let mut sent = 0;
        while connection.has_room()
            && let Some((ranges, from)) = connection.repair.take()
        {
            let mut records = Vec::new();
            let next = store.records_in(&ranges, (from, SLICE), &mut records);
            connection.repair = next.map(|next| (ranges, next));
            sent += records.len() as u64;
            let messages = share::tell(&records, &self.shared.sites);
            let Some(session) = &mut connection.session else { return };
            messages.iter().for_each(|message| session.say(message));
        }
        if sent > 0 {
            self.board(|board| board.counts.records_sent += sent);
        }
    }

    /// A connection is over.
    fn lose(&mut self, slot: usize, over: &Over) {
        let Some(mut connection) = self.connections[slot].take() else { return };
        connection.close();
        let (Over::Because(words) | Over::Refused(words)) = over;
        let Some(peer) = connection.peer else {
            return self.refuse(&connection.address, words);
        };
        if matches!(over, Over::Refused(_)) {
            self.refuse(&connection.address, words);
        }
        if self.ways[peer].connection == Some(slot) {
            self.ways[peer].connection = None;
            self.ways[peer].told = true;
            self.shared.table.forget(self.peers[peer].site);
            let name = &self.peers[peer].name;
            warn!("the link to {name} is lost: {words}; from now on {name} is judged by this site's own checks alone");
        }
        self.absent(peer, words);
        self.shared.heard();
    }

    /// There is no link to a peer, which is told once.
    fn absent(&mut self, peer: usize, words: &str) {
        let way = &mut self.ways[peer];
        if way.connection.is_some() {
            return;
        }
        if !std::mem::replace(&mut way.told, true) {
            warn!("the link to {} does not stand: {words}", self.peers[peer].name);
        }
        if self.peers[peer].address.is_some() && way.dial.is_none() {
            way.dial = Some(Instant::now() + way.wait);
            way.wait = (way.wait * 2).min(AGAIN_MOST);
        }
        self.board(|board| board.end(peer, words));
    }

    /// Somebody got nothing.
    fn refuse(&mut self, address: &SocketAddr, words: &str) {
        self.board(|board| board.counts.refused += 1);
        self.refused.since_told += 1;
        if self.warned.is_none_or(|at| at.elapsed() >= TOLD) {
            self.warned = Some(Instant::now());
            let more = match std::mem::take(&mut self.refused.since_told) {
                1 => String::new(),
                count => format!(" ({count} such connections)"),
            };
            warn!("{} is not linked: {words}{more}", address.ip().to_canonical());
        }
    }

    /// Ends what stands on a certificate that has ended, and tells of those that will.
    fn look_at_certificates(&mut self, now: Instant) {
        let now_s = (now_us() / 1_000_000) as i64;
        let ended: Vec<usize> = (0..self.peers.len())
            .filter(|peer| self.identity.peer_ends(*peer).is_some_and(|end| end < now_s))
            .filter_map(|peer| self.ways[peer].connection)
            .collect();
        for slot in ended {
            self.lose(slot, &Over::Because("its certificate has expired".into()));
        }
        if self.refused.told_ends.is_some_and(|at| now.duration_since(at) < DAY) {
            return;
        }
        self.refused.told_ends = Some(now);
        let soon = |end: Option<i64>| end.is_some_and(|end| end < now_s + ENDS_SOON.as_secs() as i64);
        let days = |end: Option<i64>| (end.unwrap_or(now_s) - now_s).max(0) / 86400;
        let own = self.identity.ends();
        if soon(own) {
            warn!("this site's certificate ends in {} days: make another, give it to all, reload", days(own));
        }
        for (at, peer) in self.peers.iter().enumerate() {
            let end = self.identity.peer_ends(at);
            if soon(end) {
                warn!("the certificate of {} ends in {} days", peer.name, days(end));
            }
        }
    }
}

/// Seconds since 1970.
fn now_s() -> u32 {
    (now_us() / 1_000_000) as u32
}

/// Microseconds since 1970.
fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
