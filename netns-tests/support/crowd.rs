//! Thousands of POP3 sessions at once, on one thread.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::namespace::Namespace;
use super::server::MAILS;
use super::wait::PATIENCE;

/// So many sessions are being opened at the same time at most.
const OPENING: usize = 64;

/// Clients that open sessions one after the other, hold them all, and finish them all when told.
pub struct Crowd {
    thread: JoinHandle<Outcome>,
    open: Arc<AtomicUsize>,
    allowed: Arc<AtomicUsize>,
    finish: Arc<AtomicBool>,
}

/// What became of the sessions.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Sessions that read their mail and took their leave, by the name of who served them.
    pub served: BTreeMap<String, usize>,
    /// Sessions that failed, by the reason.
    pub failed: BTreeMap<String, usize>,
}

impl Crowd {
    /// Starts `count` sessions to `to`, of which [`Crowd::allow`] allows to open.
    pub fn start(namespace: &Namespace, to: SocketAddr, count: usize) -> Crowd {
        let (open, allowed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let finish = Arc::new(AtomicBool::new(false));
        let (gauge, limit, end) = (open.clone(), allowed.clone(), finish.clone());
        let thread = namespace.thread(move || run(to, count, &gauge, &limit, &end).expect("poll the sessions"));
        Crowd { thread, open, allowed, finish }
    }

    /// Lets sessions open up to this many in total.
    pub fn allow(&self, sessions: usize) {
        self.allowed.store(sessions, Ordering::Release);
    }

    /// How many sessions have been greeted, or have failed, up to now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Has all sessions read a mail and leave.
    pub fn finish(self) -> Outcome {
        self.finish.store(true, Ordering::Release);
        self.thread.join().expect("the crowd's thread")
    }
}

struct Member {
    stream: TcpStream,
    input: Vec<u8>,
    /// Empty until the greeting.
    server: String,
    asked: bool,
}

fn run(
    to: SocketAddr,
    count: usize,
    open: &AtomicUsize,
    allowed: &AtomicUsize,
    finish: &AtomicBool,
) -> io::Result<Outcome> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut members: Vec<Option<Member>> = Vec::with_capacity(count);
    let mut outcome = Outcome::default();
    let (mut greeted, mut ended, mut told) = (0, 0, false);
    let mut deadline = Instant::now() + 10 * PATIENCE;
    while ended < count {
        let finishing = finish.load(Ordering::Acquire);
        let limit = if finishing { count } else { allowed.load(Ordering::Acquire).min(count) };
        while members.len() < limit && members.len() - greeted < OPENING {
            let token = Token(members.len());
            let opened = TcpStream::connect(to).and_then(|mut stream| {
                poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                Ok(Member { stream, input: Vec::new(), server: String::new(), asked: false })
            });
            match opened {
                Ok(member) => members.push(Some(member)),
                Err(e) => {
                    members.push(None);
                    (greeted, ended) = (greeted + 1, ended + 1);
                    *outcome.failed.entry(format!("connect: {e}")).or_default() += 1;
                }
            }
        }
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => result?,
        }
        let mut touched: Vec<usize> = events.iter().map(|event| event.token().0).collect();
        if finishing && greeted == count && !told {
            deadline = Instant::now() + 2 * PATIENCE;
            told = true;
            touched = (0..count).collect();
        }
        for index in touched {
            let Some(member) = &mut members[index] else { continue };
            let before = member.server.is_empty();
            let step = member.go_on(told);
            let after = member.server.is_empty();
            match step {
                Ok(false) => greeted += usize::from(before && !after),
                Ok(true) => {
                    *outcome.served.entry(std::mem::take(&mut member.server)).or_default() += 1;
                    (members[index], ended) = (None, ended + 1);
                }
                Err(e) => {
                    let phase = if after { "before the greeting" } else { "after the greeting" };
                    *outcome.failed.entry(format!("{phase}: {e}")).or_default() += 1;
                    greeted += usize::from(before);
                    (members[index], ended) = (None, ended + 1);
                }
            }
        }
        open.store(greeted, Ordering::Release);
        if Instant::now() > deadline {
            *outcome.failed.entry("never finished".into()).or_default() += count - ended;
            break;
        }
    }
    Ok(outcome)
}

impl Member {
    /// Reads what there is; asks for a mail and leaves when `finish`. True: done, and well.
    fn go_on(&mut self, finish: bool) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        let mut chunk = [0; 4096];
        let ended = loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break true,
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break false,
                Err(e) => return Err(e),
            }
        };
        if self.server.is_empty() && self.input.ends_with(b"\r\n") {
            let greeting = String::from_utf8_lossy(&self.input).into_owned();
            self.server = greeting.split_whitespace().nth(1).unwrap_or("nobody").to_owned();
            self.input.clear();
        }
        if finish && !self.asked && !self.server.is_empty() {
            self.stream.write_all(b"USER jane\r\nPASS secret\r\nRETR 1\r\nQUIT\r\n")?;
            self.asked = true;
        }
        if !ended {
            return Ok(false);
        }
        let expected = format!("+OK\r\n+OK\r\n+OK\r\n{}.\r\n+OK\r\n", MAILS[0]);
        if self.asked && self.input == expected.as_bytes() { Ok(true) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}
