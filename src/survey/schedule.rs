//! What is measured when, without sockets: who is asked in what order, how often, and what their answers come to.

use crate::sites::ways::{Network, Way};
use crate::sys::tcp_info::hops_of;
use crate::wire::checksum;
use siphasher::sip::SipHasher13;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Echoes of one measurement.
pub const ECHOES: usize = 4;

/// Between them, so that they don't all fall into one short jam.
const GAP: Duration = Duration::from_millis(500);

/// After the last one. What takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who waits for his turn.
const WAITING: usize = 1024;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Bytes in front of an echo's data: type, code, checksum, identifier, number.
const HEAD: usize = 8;

/// An ICMP echo request.
pub struct Echo {
    pub to: IpAddr,
    /// The address that it is to come from, if that matters.
    pub at: Option<IpAddr>,
    pub message: [u8; HEAD + 16],
}

struct Job {
    to: IpAddr,
    at: Option<IpAddr>,
    /// Tells its answers from others.
    serial: u64,
    /// When each was sent, if it could be, so far.
    sent: Vec<Option<Instant>>,
    answered: [bool; ECHOES],
    least: Option<Duration>,
    /// Of the quickest answer.
    hops: Option<u8>,
    next: Instant,
}

pub struct Schedule {
    hasher: SipHasher13,
    serial: u64,
    waiting: VecDeque<(IpAddr, Option<IpAddr>)>,
    wait: HashSet<Network>,
    jobs: HashMap<Network, Job>,
    /// The second that runs, and what began in it.
    begun: Option<(Instant, u32)>,
}

impl Schedule {
    /// `seed`: random, so that nobody who has not seen an echo can answer it.
    pub fn new(seed: [u8; 16]) -> Schedule {
        Schedule {
            hasher: SipHasher13::new_with_key(&seed),
            serial: 0,
            waiting: VecDeque::new(),
            wait: HashSet::new(),
            jobs: HashMap::new(),
            begun: None,
        }
    }

    /// Measures `to`, from `at`, as soon as may be. False: too many wait.
    pub fn ask(&mut self, to: IpAddr, at: Option<IpAddr>) -> bool {
        let network = Network::of(to);
        if self.jobs.contains_key(&network) || self.wait.contains(&network) {
            return true;
        }
        if self.waiting.len() >= WAITING {
            return false;
        }
        self.waiting.push_back((to, at));
        self.wait.insert(network)
    }

    /// Begins as many measurements as may begin in this second, and sends what is due: `send` says whether an echo could be sent. Who was
    /// measured, and what that has found.
    pub fn step(&mut self, now: Instant, per_second: u32, mut send: impl FnMut(&Echo) -> bool) -> Vec<(IpAddr, Way)> {
        if self.begun.is_none_or(|(since, _)| now.duration_since(since) >= Duration::from_secs(1)) {
            self.begun = Some((now, 0));
        }
        while let Some((_, count)) = self.begun.as_mut().filter(|(_, count)| *count < per_second)
            && let Some((to, at)) = self.waiting.pop_front()
        {
            *count += 1;
            self.serial += 1;
            self.wait.remove(&Network::of(to));
            let (sent, answered) = (Vec::with_capacity(ECHOES), [false; ECHOES]);
            let job = Job { to, at, serial: self.serial, sent, answered, least: None, hops: None, next: now };
            self.jobs.insert(Network::of(to), job);
        }
        let hasher = &self.hasher;
        for job in self.jobs.values_mut().filter(|job| job.next <= now && job.sent.len() < ECHOES) {
            let echo = echo(job, hasher);
            // Before it is sent: an answer is quick on a short way.
            let at = Instant::now().max(now);
            job.sent.push(send(&echo).then_some(at));
            job.next = now + if job.sent.len() < ECHOES { GAP } else { PATIENCE };
        }
        let mut done = Vec::new();
        self.jobs.retain(|_, job| {
            let whole = job.sent.len() == ECHOES && job.answered.iter().all(|answered| *answered);
            let over = whole || job.sent.len() == ECHOES && job.next <= now;
            if over {
                done.push((job.to, job.found()));
            }
            !over
        });
        done
    }

    /// When [`Schedule::step`] has something to do; who waits for the next second is not counted.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.jobs.values().map(|job| job.next).min()
    }

    /// An ICMP message from somebody, with so much left to live. What is no answer to an echo of ours is none, and counts for nothing.
    pub fn answer(&mut self, from: IpAddr, message: &[u8], left: Option<u8>, now: Instant) {
        let Some(job) = self.jobs.get_mut(&Network::of(from)).filter(|job| job.to == from) else { return };
        let reply = if from.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY_V6 };
        let (Some(head), Some(data)) = (message.get(..HEAD), message.get(HEAD..)) else { return };
        let number = usize::from(u16::from_be_bytes([head[6], head[7]]));
        if head[..2] != [reply, 0] || data != data_of(job, number as u16, &self.hasher) {
            return;
        }
        let Some(Some(sent)) = job.sent.get(number).copied() else { return };
        if std::mem::replace(&mut job.answered[number], true) {
            return;
        }
        let took = now.saturating_duration_since(sent);
        if job.least.is_none_or(|least| took < least) {
            job.least = Some(took);
            job.hops = left.and_then(hops_of);
        }
    }
}

impl Job {
    fn found(&self) -> Way {
        let sent = self.sent.iter().flatten().count();
        let answered = self.answered.iter().filter(|answered| **answered).count();
        let us = self.least.map(|least| u32::try_from(least.as_micros()).unwrap_or(u32::MAX).max(1));
        // Who answers nothing may not like to be asked: that says nothing of the way.
        let lost = if answered > 0 { sent - answered } else { 0 };
        let loss_permille = (lost * 1000).checked_div(sent).unwrap_or(0) as u16;
        Way { round_trip_us: us, loss_permille, hops: self.hops, age_s: 0 }
    }
}

/// What comes back unchanged: known to nobody who has not got it.
fn data_of(job: &Job, number: u16, hasher: &SipHasher13) -> [u8; 16] {
    let mut data = [0; 16];
    data[..8].copy_from_slice(&job.serial.to_be_bytes());
    let secret = hasher.hash(&[&data[..8], &number.to_be_bytes()].concat());
    data[8..].copy_from_slice(&secret.to_be_bytes());
    data
}

/// The next one of a job.
fn echo(job: &Job, hasher: &SipHasher13) -> Echo {
    let number = job.sent.len() as u16;
    let mut message = [0; HEAD + 16];
    message[0] = if job.to.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    // A ping socket puts in an identifier of its own.
    message[4..6].copy_from_slice(&(job.serial as u16).to_be_bytes());
    message[6..8].copy_from_slice(&number.to_be_bytes());
    message[HEAD..].copy_from_slice(&data_of(job, number, hasher));
    if job.to.is_ipv4() {
        // For ICMPv6 the kernel does it (RFC 3542 3.1).
        let sum = !checksum::fold(checksum::sum(&message));
        message[2..4].copy_from_slice(&sum.to_ne_bytes());
    }
    Echo { to: job.to, at: job.at, message }
}

#[cfg(test)]
mod tests;
