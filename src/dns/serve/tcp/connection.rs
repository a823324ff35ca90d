//! One connection: bytes to questions, answers to bytes.
//!
//! - *Asking*: questions come in, each behind its length; all that are whole are answered. While there is more to send than
//!   [`SENT_AHEAD`] nothing is taken in.
//! - *Transferring*: a zone goes out message by message, each made when the one before has left. Then asking again.
//! - *Leaving*: the client has sent all that it will; what it asked for is still sent.

use super::super::super::transfer::Transfer;
use super::super::super::wire::LONGEST;
use super::super::super::{Asked, Scratch, Transport};
use super::super::respond::{Response, respond};
use super::super::sign::{LONGEST_SIGNATURE, Signed};
use super::super::{Served, Tally};
use crate::sys::tcp_info::tcp_info;
use mio::net::TcpStream;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::time::Instant;

/// Bytes of answers that may wait before no more questions are answered.
const SENT_AHEAD: usize = 64 << 10;

/// Steps of one call: reads, answers, messages of a transfer.
const STEPS: usize = 64;

/// Bytes of a message's length.
const PREFIX: usize = 2;

/// Buffers of connections that have nothing in them are given back if they are larger.
const KEPT: usize = 1 << 10;

/// What answering needs, for one call.
pub(super) struct Desk<'d> {
    pub served: &'d Served,
    pub scratch: &'d mut Scratch,
    pub tally: &'d Tally,
    /// For one message.
    pub room: &'d mut [u8],
    pub transport: Transport,
    pub now: Instant,
    pub now_ms: u64,
    pub unix_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// For the socket's next event.
    Waits,
    /// There is more to do; others first.
    GoesOn,
    Over,
}

pub(super) struct Connection {
    stream: TcpStream,
    /// Which of all connections it is.
    pub serial: u64,
    /// Whom it counts for.
    pub client: IpAddr,
    peer: IpAddr,
    to: IpAddr,
    /// When it last brought a whole question or took bytes of an answer: a question that comes in drops is silence.
    pub moved: Instant,
    asked: Vec<u8>,
    /// What is to be sent, from `sent` on.
    answers: Vec<u8>,
    sent: usize,
    transfer: Option<(Transfer, Option<Box<Signed>>)>,
    /// The client sends no more.
    leaving: bool,
    has_asked: bool,
}

impl Connection {
    pub fn new(stream: TcpStream, serial: u64, client: IpAddr, peer: IpAddr, to: IpAddr, now: Instant) -> Connection {
        Connection {
            stream,
            serial,
            client,
            peer,
            to,
            moved: now,
            asked: Vec::new(),
            answers: Vec::new(),
            sent: 0,
            transfer: None,
            leaving: false,
            has_asked: false,
        }
    }

    /// Who has asked, and how far away it is, in microseconds.
    pub fn round_trip(&self) -> Option<(IpAddr, u32)> {
        let info = tcp_info(&self.stream).ok().filter(|_| self.has_asked)?;
        Some((self.peer, info.least_us))
    }

    /// Does what can be done now, and not more than a bounded piece of it.
    pub fn drive(&mut self, desk: &mut Desk) -> Progress {
        for _ in 0..STEPS {
            match self.step(desk) {
                Ok(true) => {}
                Ok(false) => return Progress::Over,
                Err(why) if why.kind() == ErrorKind::WouldBlock => {
                    self.give_back();
                    return Progress::Waits;
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Progress::Over,
            }
        }
        Progress::GoesOn
    }

    /// False: it is over.
    fn step(&mut self, desk: &mut Desk) -> io::Result<bool> {
        if self.answers.len() - self.sent > SENT_AHEAD {
            self.flush(desk.now)?;
        } else if let Some((transfer, signed)) = &mut self.transfer {
            if !next_message(transfer, signed, &mut self.answers, (desk.unix_ms / 1000) as u32) {
                self.transfer = None;
            }
        } else if let Some(length) = whole_message(&self.asked) {
            self.moved = desk.now;
            self.has_asked = true;
            self.answer(length, desk);
        } else {
            self.flush(desk.now)?;
            if self.leaving {
                return Ok(false);
            }
            match self.stream.read(desk.room)? {
                0 => self.leaving = true,
                count => self.asked.extend_from_slice(&desk.room[..count]),
            }
        }
        Ok(true)
    }

    /// Answers the question of `length` bytes that `asked` begins with.
    fn answer(&mut self, length: usize, desk: &mut Desk) {
        let asked = Asked {
            message: &self.asked[PREFIX..PREFIX + length],
            from: self.peer,
            to: self.to,
            transport: desk.transport,
            now_ms: desk.now_ms,
            unix_ms: desk.unix_ms,
            foreseen: None,
        };
        match respond(&asked, desk.served, desk.scratch, desk.tally, desk.room) {
            Response::Answer(length) => {
                self.answers.extend_from_slice(&(length as u16).to_be_bytes());
                self.answers.extend_from_slice(&desk.room[..length]);
            }
            Response::Nothing => {}
            Response::Transfer(transfer, signed) => self.transfer = Some((transfer, signed)),
        }
        self.asked.drain(..PREFIX + length);
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        while self.sent < self.answers.len() {
            match self.stream.write(&self.answers[self.sent..])? {
                0 => return Err(ErrorKind::WriteZero.into()),
                count => {
                    self.sent += count;
                    self.moved = now;
                }
            }
        }
        self.answers.clear();
        self.sent = 0;
        Ok(())
    }

    /// Ten thousand that wait shall need little.
    fn give_back(&mut self) {
        for buffer in [&mut self.asked, &mut self.answers] {
            if buffer.is_empty() && buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
        }
    }
}

/// The length of the message that `asked` begins with, if all of it is there.
fn whole_message(asked: &[u8]) -> Option<usize> {
    let (prefix, rest) = asked.split_first_chunk::<PREFIX>()?;
    let length = usize::from(u16::from_be_bytes(*prefix));
    (rest.len() >= length).then_some(length)
}

/// Puts the next message of a transfer out. False: there is none.
fn next_message(transfer: &mut Transfer, signed: &mut Option<Box<Signed>>, out: &mut Vec<u8>, unix_s: u32) -> bool {
    let most = if signed.is_some() { LONGEST - LONGEST_SIGNATURE } else { LONGEST };
    let mut message = Vec::new();
    if !transfer.next(most, &mut message) {
        return false;
    }
    if let Some(signed) = signed {
        signed.sign(&mut message, unix_s);
    }
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend_from_slice(&message);
    true
}
