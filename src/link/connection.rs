//! One TCP connection with TLS on it, and the talk over it.

use super::session::{Said, Session};
use super::tls;
use crate::affinity::Ranges;
use crate::sys::tcp_info::{TcpInfo, hops, tcp_info};
use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// More than this waits to be sent, in bytes, and the other site is too slow to be told more for now.
pub const OUTBOX: usize = 1 << 20;

/// Loss is measured over so many pieces of time, of so long each.
const MARKS: usize = 6;
const MARK: Duration = Duration::from_secs(10);

pub struct Connection {
    pub stream: TcpStream,
    tls: rustls::Connection,
    pub address: SocketAddr,
    /// Who it is, or, of one that was dialed, who it must be. None: it has not shown it.
    pub peer: Option<usize>,
    pub dialed: bool,
    /// From the end of the handshake on.
    pub session: Option<Session>,
    pub since: Instant,
    /// Routers between, of one that was accepted.
    hops: Option<u8>,
    pub heard: Instant,
    /// Records of these ranges are still to be told, from this bucket on.
    pub repair: Option<(Ranges, usize)>,
    /// When digests were compared last.
    pub compared: Option<Instant>,
    /// How often this side has begun that.
    pub comparisons: u32,
    /// Up to which of this site's ways to resolvers have been told ([`crate::sites::Ways::news`]).
    pub ways: u64,
    marks: VecDeque<(Instant, TcpInfo)>,
}

/// Why a connection is over.
#[derive(Debug, PartialEq)]
pub enum Over {
    /// In words, of the other site.
    Because(String),
    /// Its certificate will not do, or it has none.
    Refused(String),
}

impl Connection {
    pub fn new(stream: TcpStream, tls: rustls::Connection, address: SocketAddr, peer: Option<usize>) -> Connection {
        let now = Instant::now();
        let (dialed, marks) = (peer.is_some(), VecDeque::new());
        let hops = if dialed { None } else { hops(&stream) };
        let _ = stream.set_nodelay(true);
        Connection {
            stream,
            tls,
            address,
            peer,
            dialed,
            session: None,
            since: now,
            hops,
            heard: now,
            repair: None,
            compared: None,
            comparisons: 0,
            ways: 0,
            marks,
        }
    }

    pub fn stands(&self) -> bool {
        self.session.as_ref().is_some_and(Session::stands)
    }

    /// May it be told more?
    pub fn has_room(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.outbox.len() < OUTBOX)
    }

    /// Takes what has come and sends what waits, as far as both go without waiting. `greet` gives the talk once it is known who is there;
    /// None: nobody who may be.
    pub fn drive(
        &mut self,
        now_us: u64,
        greet: impl FnOnce(&rustls::Connection) -> Option<(usize, Session)>,
    ) -> Result<Vec<Said>, Over> {
        let taken = self.take(now_us, greet);
        // Also the alert that tells the other side why.
        let sent = self.send();
        let said = taken?;
        sent.map(|()| said)
    }

    fn take(
        &mut self,
        now_us: u64,
        greet: impl FnOnce(&rustls::Connection) -> Option<(usize, Session)>,
    ) -> Result<Vec<Said>, Over> {
        let (mut said, mut greet) = (Vec::new(), Some(greet));
        loop {
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => return Err(Over::Because("it closed the connection".into())),
                Ok(_) => self.heard = Instant::now(),
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(said),
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) => return Err(Over::Because(in_words(&why))),
            }
            self.tls.process_new_packets().map_err(|error| over(&error))?;
            if self.session.is_none() && !self.tls.is_handshaking() {
                let known = greet.take().and_then(|greet| greet(&self.tls));
                let (peer, mut session) =
                    known.ok_or_else(|| Over::Refused("it is this site's part to dial".into()))?;
                session.hops = self.hops;
                (self.peer, self.session) = (Some(peer), Some(session));
            }
            let Some(session) = &mut self.session else { continue };
            let mut buffer = [0; 16384];
            loop {
                match self.tls.reader().read(&mut buffer) {
                    Ok(0) => return Err(Over::Because("it closed the connection".into())),
                    Ok(length) => {
                        let taken = session.receive(&buffer[..length], now_us, &mut said);
                        taken.map_err(|why| Over::Because(why.into()))?;
                    }
                    Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                    Err(why) => return Err(Over::Because(format!("the connection broke: {why}"))),
                }
            }
        }
    }

    /// Sends what waits.
    pub fn send(&mut self) -> Result<(), Over> {
        loop {
            if let Some(session) = self.session.as_mut().filter(|session| !session.outbox.is_empty()) {
                // As much as its bounded buffer takes.
                let taken = self.tls.writer().write(&session.outbox).unwrap_or(0);
                session.outbox.drain(..taken);
            }
            if !self.tls.wants_write() {
                return Ok(());
            }
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(Over::Because(in_words(&why))),
            }
        }
    }

    /// Says goodbye, if there is somebody.
    pub fn close(&mut self) {
        self.tls.send_close_notify();
        let _ = self.send();
    }

    /// Of a thousand segments sent in the last minute, how many had to be sent again. None: too little has been sent.
    pub fn loss_permille(&mut self, now: Instant) -> Option<u16> {
        let info = tcp_info(&self.stream).ok()?;
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= MARK) {
            self.marks.push_back((now, info));
            if self.marks.len() > MARKS {
                self.marks.pop_front();
            }
        }
        let (_, first) = self.marks.front()?;
        let sent = info.sent.saturating_sub(first.sent);
        let again = info.sent_again.saturating_sub(first.sent_again).min(sent);
        (sent >= 10).then(|| (u64::from(again) * 1000 / u64::from(sent)) as u16)
    }
}

fn over(error: &rustls::Error) -> Over {
    let words = tls::in_words(error);
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Over::Refused(words),
        _ => Over::Because(words),
    }
}

/// Why a connection could not be made.
fn in_words(why: &std::io::Error) -> String {
    match why.kind() {
        ErrorKind::ConnectionRefused => "nobody listens there".into(),
        ErrorKind::TimedOut => "no answer".into(),
        _ => format!("the connection broke: {why}"),
    }
}
