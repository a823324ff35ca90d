//! Light servers for the real servers: they say who they are, and can fall and rise at once.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Socket, Type};

use super::namespace::Namespace;

/// A POP3 server for many sessions, on one thread. It greets as `+OK <name> ready.`, takes any login, holds [`MAILS`]
/// and also knows `SIZE n`, an answer of n bytes. Dropping it resets all its connections, as the death of a process does.
pub struct Pop3 {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

pub const MAILS: [&str; 2] = ["Subject: one\r\n\r\nfirst mail\r\n", "Subject: two\r\n\r\nsecond mail\r\n"];

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

impl Pop3 {
    /// Listens at `address` in `namespace`; connections are taken as soon as this returns.
    #[track_caller]
    pub fn start(namespace: &Namespace, address: SocketAddr, name: &str) -> Pop3 {
        let listener = namespace.inside(|| listen(address)).unwrap_or_else(|e| panic!("listen at {address}: {e}"));
        let poll = Poll::new().expect("a poll");
        let waker = Waker::new(poll.registry(), WAKER).expect("a waker");
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, name) = (stop.clone(), name.to_owned());
        let thread = std::thread::spawn(move || serve(poll, listener, &name, &flag));
        Pop3 { stop, waker, thread: Some(thread) }
    }
}

impl Drop for Pop3 {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A listening socket with room for a crowd.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

struct Session {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    closing: bool,
}

fn serve(mut poll: Poll, listener: std::net::TcpListener, name: &str, stop: &AtomicBool) {
    listener.set_nonblocking(true).expect("a non-blocking listener");
    let mut listener = TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("register the listener");
    let (mut events, mut sessions, mut next) = (Events::with_capacity(1024), HashMap::new(), 0);
    while !stop.load(Ordering::Acquire) {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            result => result.expect("poll"),
        }
        for event in &events {
            match event.token() {
                LISTENER => {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let both = Interest::READABLE | Interest::WRITABLE;
                        poll.registry().register(&mut stream, Token(next), both).expect("register a session");
                        let output = format!("+OK {name} ready.\r\n").into_bytes();
                        let mut session = Session { stream, input: Vec::new(), output, closing: false };
                        if session.go_on() {
                            sessions.insert(Token(next), session);
                        }
                        next += 1;
                    }
                }
                WAKER => {}
                token => {
                    if sessions.get_mut(&token).is_some_and(|session| !session.go_on()) {
                        sessions.remove(&token);
                    }
                }
            }
        }
    }
    // As when a process is killed with data unread: the other side is to notice at once.
    for session in sessions.values() {
        let _ = socket2::SockRef::from(&session.stream).set_linger(Some(Duration::ZERO));
    }
}

impl Session {
    /// Reads, answers, writes as far as it goes. False: the session is over.
    fn go_on(&mut self) -> bool {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                // The client has nothing more to say, but may still listen.
                Ok(0) => {
                    self.closing = true;
                    break;
                }
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        while let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = self.input.drain(..end + 2).collect();
            self.closing |= answer(&String::from_utf8_lossy(&line[..end]), &mut self.output);
        }
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        !self.closing
    }
}

/// Answers one command; true: it was the last.
fn answer(line: &str, output: &mut Vec<u8>) -> bool {
    let mut words = line.split_whitespace();
    let (command, argument) = (words.next().unwrap_or("").to_uppercase(), words.next());
    let number = argument.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    let text = match command.as_str() {
        "CAPA" => "+OK\r\nUSER\r\nUIDL\r\n.\r\n".into(),
        "STAT" => format!("+OK {} {}\r\n", MAILS.len(), MAILS.map(str::len).iter().sum::<usize>()),
        "LIST" | "UIDL" => {
            let rows: String = (1..=MAILS.len()).map(|n| format!("{n} {}\r\n", MAILS[n - 1].len())).collect();
            format!("+OK\r\n{rows}.\r\n")
        }
        "RETR" if (1..=MAILS.len()).contains(&number) => format!("+OK\r\n{}.\r\n", MAILS[number - 1]),
        "SIZE" => format!("{}\r\n", "x".repeat(number)),
        "RETR" => "-ERR no such mail\r\n".into(),
        _ => "+OK\r\n".into(),
    };
    output.extend_from_slice(text.as_bytes());
    command == "QUIT"
}

/// A UDP server that answers `<name>: <what was sent>`.
pub struct UdpEcho {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    #[track_caller]
    pub fn start(namespace: &Namespace, address: SocketAddr, name: &str) -> UdpEcho {
        let socket = namespace.inside(|| UdpSocket::bind(address)).unwrap_or_else(|e| panic!("bind {address}: {e}"));
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, name) = (stop.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !flag.load(Ordering::Acquire) {
                let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
                let _ = socket.send_to(&[name.as_bytes(), b": ", &buffer[..n]].concat(), from);
            }
        });
        UdpEcho { stop, thread: Some(thread) }
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
