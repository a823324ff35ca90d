//! One client's exchange: it asks once, it is answered, and the connection ends.
//!
//! - *Asking*: bytes come in until they are a request. Next: answering.
//! - *Answering*: what is to be sent leaves as the client takes it; a long reply is made piece by piece, the next only
//!   when the last has left. Next: leaving.
//! - *Leaving*: all is sent and said to be; what the client may still send is thrown away until it closes, since
//!   closing first would tear the answer out of its hands. Next: over.

use super::request::{self, Reply};
use super::{Answers, http};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// The longest request, in bytes.
const LONGEST_REQUEST: usize = 8192;
/// The most bytes sent in one call.
const SENT_AT_ONCE: usize = 256 << 10;
/// The most bytes thrown away after a request.
const THROWN_AWAY: usize = 256 << 10;

/// How long a client may take for what, before it is dropped.
struct Patience {
    asking: Duration,
    /// From one byte taken to the next.
    taking: Duration,
    leaving: Duration,
    /// From coming to going; None: as long as it goes on taking.
    whole: Option<Duration>,
}

/// The administrator may read a long reply in a pager.
const ADMINISTRATOR: Patience = Patience {
    asking: Duration::from_secs(60),
    taking: Duration::from_secs(1800),
    leaving: Duration::from_secs(5),
    whole: None,
};
const SCRAPER: Patience = Patience {
    asking: Duration::from_secs(5),
    taking: Duration::from_secs(10),
    leaving: Duration::from_secs(2),
    whole: Some(Duration::from_secs(60)),
};

pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Stream::Unix(stream) => registry.register(stream, token, interest),
            Stream::Tcp(stream) => registry.register(stream, token, interest),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buf),
            Stream::Tcp(stream) => stream.read(buf),
        }
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(buf),
            Stream::Tcp(stream) => stream.write(buf),
        }
    }

    fn end_sending(&self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// For the loop's next event or the deadline.
    Waits,
    /// The session is done with, well or not.
    Over,
}

enum Stage {
    Asking(Vec<u8>),
    Answering(Reply),
    Leaving { thrown_away: usize },
}

pub(super) struct Session {
    stream: Stream,
    stage: Stage,
    came: Instant,
    /// When it last sent or took anything.
    moved: Instant,
    /// There is more to do at once, for the loop has no event to tell so.
    goes_on: bool,
}

impl Session {
    pub fn new(stream: Stream, now: Instant) -> Session {
        Session { stream, stage: Stage::Asking(Vec::new()), came: now, moved: now, goes_on: false }
    }

    pub fn last_moved(&self) -> Instant {
        self.moved
    }

    /// When [`Session::drive`] is to be called at the latest.
    pub fn deadline(&self) -> Instant {
        if self.goes_on { self.moved } else { self.end_of_patience() }
    }

    fn end_of_patience(&self) -> Instant {
        let patience = match self.stream {
            Stream::Unix(_) => &ADMINISTRATOR,
            Stream::Tcp(_) => &SCRAPER,
        };
        let stage = match self.stage {
            Stage::Asking(_) => self.came + patience.asking,
            Stage::Answering(_) => self.moved + patience.taking,
            Stage::Leaving { .. } => self.moved + patience.leaving,
        };
        patience.whole.map_or(stage, |whole| stage.min(self.came + whole))
    }

    /// Does what can be done now, and not more than a bounded piece of it.
    pub fn drive(&mut self, now: Instant, answers: &mut dyn Answers) -> Progress {
        if now >= self.end_of_patience() {
            return Progress::Over;
        }
        self.goes_on = false;
        let step = match self.stage {
            Stage::Asking(_) => self.ask(now, answers),
            Stage::Answering(_) => self.answer(now, answers),
            Stage::Leaving { .. } => self.leave(),
        };
        match step {
            Ok(progress) => progress,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Progress::Waits,
            Err(_) => Progress::Over,
        }
    }

    fn ask(&mut self, now: Instant, answers: &mut dyn Answers) -> io::Result<Progress> {
        let Stage::Asking(asked) = &mut self.stage else { return Ok(Progress::Over) };
        let mut buf = [0; 1024];
        let reply = loop {
            match self.stream.read(&mut buf) {
                // A client that asks for nothing, or closes amid its request.
                Ok(0) => return Ok(Progress::Over),
                Ok(count) => {
                    asked.extend_from_slice(&buf[..count]);
                    self.moved = now;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let reply = match self.stream {
                Stream::Unix(_) => request::reply(asked, asked.len() >= LONGEST_REQUEST, answers),
                Stream::Tcp(_) => http::reply(asked, asked.len() >= LONGEST_REQUEST, answers),
            };
            if let Some(reply) = reply {
                break reply;
            }
        };
        self.stage = Stage::Answering(reply);
        self.answer(now, answers)
    }

    fn answer(&mut self, now: Instant, answers: &mut dyn Answers) -> io::Result<Progress> {
        let Stage::Answering(reply) = &mut self.stage else { return Ok(Progress::Over) };
        let mut sent = 0;
        while sent < SENT_AT_ONCE {
            if reply.unsent().is_empty() {
                // One piece a call: making it is the work that holds the loop up.
                if reply.is_last() {
                    self.stream.end_sending()?;
                    self.stage = Stage::Leaving { thrown_away: 0 };
                    return self.leave();
                }
                if sent > 0 {
                    break;
                }
                reply.next_piece(answers);
            }
            match self.stream.write(reply.unsent()) {
                Ok(0) => return Ok(Progress::Over),
                Ok(count) => {
                    reply.sent(count);
                    sent += count;
                    self.moved = now;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.goes_on = true;
        Ok(Progress::Waits)
    }

    fn leave(&mut self) -> io::Result<Progress> {
        let Stage::Leaving { thrown_away } = &mut self.stage else { return Ok(Progress::Over) };
        let mut buf = [0; 4096];
        while *thrown_away < THROWN_AWAY {
            match self.stream.read(&mut buf) {
                Ok(0) => return Ok(Progress::Over),
                Ok(count) => *thrown_away += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Progress::Over)
    }
}
