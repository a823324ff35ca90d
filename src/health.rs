//! Health: asks every target at intervals whether it serves, and writes the answer into its status word.
//!
//! Three rooms. [`schedule`] knows when and counts: which target is due, what its answers add up to. [`link`] is one
//! probe's socket. [`probe`] is what is said over it: state machines of bytes in, bytes out, that end in yes or no.
//! [`Health`] joins them on somebody else's event loop: it never sleeps, and the time comes in as an argument.

pub mod link;
pub mod probe;
pub mod schedule;

#[cfg(test)]
mod tests;

use self::link::{Link, Progress};
use self::schedule::{Job, Outcome, Schedule};
use crate::config::{Check, Protocol};
use crate::service::status::{MAX_TARGETS, StatusTable};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many tokens [`Health`] takes from its base token on.
pub const TOKENS: usize = MAX_TARGETS;

/// What a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    Real,
    Remote,
    /// Something beyond a WAN line.
    Line,
    /// An address of a DNS pool's member.
    Member,
}

impl TargetKind {
    /// As `show health` prints it.
    pub fn word(self) -> &'static str {
        match self {
            TargetKind::Real => "real",
            TargetKind::Remote => "remote",
            TargetKind::Line => "line",
            TargetKind::Member => "member",
        }
    }
}

/// Somebody to be checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// `service/name`, `line/address` or `pool/member/address`; unique.
    pub name: String,
    pub kind: TargetKind,
    /// Its slot in the [`StatusTable`], unique; below [`MAX_TARGETS`].
    pub slot: u16,
    pub check: Check,
    /// Where it serves; `check.port` replaces the port if given.
    pub address: SocketAddr,
    /// The service's: a DNS check asks over it.
    pub protocol: Protocol,
    /// Address (and port, usually 0) that probes are sent from; None: the host chooses.
    pub source: Option<SocketAddr>,
    /// Interface that probes are bound to (SO_BINDTODEVICE); None: the host routes them.
    pub device: Option<String>,
}

/// One line of `show health`.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetHealth {
    pub target: String,
    /// [`TargetKind::word`].
    pub kind: &'static str,
    /// "checking" before the first answer, then "down", "draining" (passes its checks, and an operator drains it) or "up".
    pub status: &'static str,
    pub drained: bool,
    /// How long it has been up or down (draining counts as up), or been checked without an answer.
    pub since: Duration,
    /// Why it is down, or why the latest check of a target that is up failed.
    pub last_error: Option<String>,
    /// When the certificate it showed expires, in seconds since 1970; None unless the check is https.
    pub certificate_expires: Option<i64>,
}

/// A target came up or went down.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    pub slot: u16,
    pub name: String,
    pub up: bool,
    /// In words for a log line: why it went down, or what it passed.
    pub reason: String,
    /// Its first answer since it was added: it was neither up nor down before.
    pub first: bool,
}

/// The socket of a check through the data path has been closed: the flow that it was has nothing more to say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Closed {
    pub source: SocketAddr,
    pub door: SocketAddr,
    /// TCP; else UDP.
    pub stream: bool,
}

/// How long a link is kept after its answer, for the server to close it too.
const PARTING: Duration = Duration::from_secs(1);

/// How often what clients' connections met with is looked at.
const EVIDENCE_LOOK: Duration = Duration::from_millis(250);

/// All targets and their probes.
pub struct Health {
    schedule: Schedule,
    /// When evidence is looked at next; None: nobody heeds it.
    evidence_at: Option<Instant>,
    /// By the schedule's ids: the probe that runs, or the latest one, which takes its leave.
    links: Vec<Option<Active>>,
    /// Links that take their leave, by when that ends; an entry whose serial has gone is stale.
    parting: VecDeque<(Instant, usize, u64)>,
    /// The event loop and the first of our tokens.
    events: Option<(Registry, usize)>,
    tls_config: Arc<rustls::ClientConfig>,
    serial: u64,
    closed: Vec<Closed>,
}

struct Active {
    link: Link,
    /// Which of all links it is.
    serial: u64,
    since: Instant,
    /// How long the connection took has been noted.
    timed: bool,
}

impl Health {
    pub fn new(status: Arc<StatusTable>) -> Health {
        let mut seed = [0; 8];
        // Without random numbers probes bunch up, and that is all.
        let _ = getrandom::fill(&mut seed);
        Health {
            schedule: Schedule::new(status, u64::from_ne_bytes(seed)),
            evidence_at: None,
            links: Vec::new(),
            parting: VecDeque::new(),
            events: None,
            tls_config: probe::tls::config(),
            serial: 0,
            closed: Vec::new(),
        }
    }

    /// Joins an event loop; before this no probe starts. Tokens `base_token..base_token + TOKENS` are taken.
    /// Errors are those of duplicating the loop's descriptor.
    pub fn register(&mut self, registry: &Registry, base_token: usize) -> io::Result<()> {
        self.events = Some((registry.try_clone()?, base_token));
        Ok(())
    }

    /// From now on these are checked, each for the first time at the next [`Health::tick`]. A target known by name and
    /// address keeps its status, and its counts too if its check is the same. A new one is down until its first probe
    /// is done; with [`crate::config::CheckKind::None`] it is up at once. Slots of targets that are gone stay as they
    /// are, for connections that a worker still gives them by the old snapshot.
    pub fn set_targets(&mut self, targets: Vec<Target>, now: Instant) {
        for id in self.schedule.set_targets(targets, now) {
            self.drop_link(id);
        }
        self.evidence_at = self.schedule.heeds_evidence().then_some(now);
    }

    /// An event of the loop. False: the token is not one of health's. To be called for all events of a turn before
    /// [`Health::tick`], so that answers that wait in a socket are not taken for missing.
    pub fn ready(&mut self, token: usize, now: Instant) -> bool {
        let Some((_, base)) = self.events else { return false };
        if !(base..base + TOKENS).contains(&token) {
            return false;
        }
        // An event of a link that has been replaced meanwhile is harmless to the new one.
        self.progress(token - base, now);
        true
    }

    /// When [`Health::tick`] wants to be called at the latest; None: nothing to do until targets are set.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.events.as_ref()?;
        let parting = self.parting.front().map(|(at, ..)| *at);
        self.schedule.next_deadline().into_iter().chain(parting).chain(self.evidence_at).min()
    }

    /// Starts the probes that are due and ends those that took too long. Calling it too early is harmless.
    pub fn tick(&mut self, now: Instant) {
        if self.events.is_none() {
            return;
        }
        while let Some(&(at, id, serial)) = self.parting.front()
            && at <= now
        {
            self.parting.pop_front();
            if matches!(self.links.get(id), Some(Some(active)) if active.serial == serial) {
                self.drop_link(id);
            }
        }
        if self.evidence_at.is_some_and(|at| at <= now) {
            self.schedule.look_at_evidence(now);
            self.evidence_at = Some(now + EVIDENCE_LOOK);
        }
        while let Some(job) = self.schedule.next(now) {
            match job {
                Job::Start(id) => self.start(id, now),
                Job::TimedOut(id) => self.time_out(id, now),
            }
        }
    }

    fn start(&mut self, id: usize, now: Instant) {
        self.drop_link(id);
        let opened = match self.open(id) {
            // Links that only take their leave make room.
            Err(Outcome::Unasked(_)) if !self.parting.is_empty() => {
                while let Some((_, id, serial)) = self.parting.pop_front() {
                    if matches!(self.links.get(id), Some(Some(active)) if active.serial == serial) {
                        self.drop_link(id);
                    }
                }
                self.open(id)
            }
            result => result,
        };
        match opened {
            Ok(link) => {
                self.serial += 1;
                if self.links.len() <= id {
                    self.links.resize_with(id + 1, || None);
                }
                self.links[id] = Some(Active { link, serial: self.serial, since: now, timed: false });
                self.progress(id, now);
            }
            Err(outcome) => self.schedule.finish(id, outcome, now),
        }
    }

    fn open(&self, id: usize) -> Result<Link, Outcome> {
        let unasked = |error: &dyn std::fmt::Display| Outcome::Unasked(format!("can't check: {error}"));
        let (Some(target), Some((registry, base))) = (self.schedule.target(id), &self.events) else {
            return Err(unasked(&"no such target"));
        };
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| unasked(&error))?;
        let link = Link::open(target, &self.tls_config, random)?;
        registry
            .register(&mut SourceFd(&link.fd()), Token(base + id), Interest::READABLE | Interest::WRITABLE)
            .map_err(|error| unasked(&error))?;
        Ok(link)
    }

    fn progress(&mut self, id: usize, now: Instant) {
        let Some(Some(active)) = self.links.get_mut(id) else { return };
        let progress = active.link.progress();
        if !active.timed && active.link.has_connected() {
            active.timed = true;
            self.schedule.note_connect(id, now.saturating_duration_since(active.since));
        }
        match progress {
            Progress::Pending => {}
            Progress::Gone => self.drop_link(id),
            Progress::Decided(outcome) => {
                if let Some(expires) = active.link.certificate_expires() {
                    self.schedule.note_certificate(id, expires);
                }
                // The sockets' events come once only, so its leave begins here.
                if outcome == Outcome::Healthy && active.link.progress() == Progress::Pending {
                    self.parting.push_back((now + PARTING, id, active.serial));
                } else {
                    self.drop_link(id);
                }
                self.schedule.finish(id, outcome, now);
            }
        }
    }

    fn time_out(&mut self, id: usize, now: Instant) {
        // When this process was the one that slept, the answer lies in the socket.
        self.progress(id, now);
        let timeout = self.schedule.target(id).map_or(Duration::ZERO, |target| target.check.timeout);
        let reason = match self.links.get(id) {
            Some(Some(active)) => active.link.overdue(timeout),
            _ => format!("no answer within {timeout:?}"),
        };
        if self.schedule.is_running(id) {
            self.drop_link(id);
            self.schedule.finish(id, Outcome::Unhealthy(reason), now);
        }
    }

    fn drop_link(&mut self, id: usize) {
        if let Some(link) = self.links.get_mut(id) {
            // Closing the socket takes it off the loop.
            self.closed.extend(link.take().and_then(|active| active.link.through_a_door()));
        }
    }

    /// Checks through the data path whose sockets were closed since it was last asked.
    pub fn closed(&mut self) -> Vec<Closed> {
        std::mem::take(&mut self.closed)
    }

    /// Has every target had a first answer? True when there are no targets.
    pub fn first_round_done(&self) -> bool {
        self.schedule.first_round_done()
    }

    /// In the order of [`Health::set_targets`].
    pub fn report(&self, now: Instant) -> Vec<TargetHealth> {
        self.schedule.report(now)
    }

    /// How long the status of each target will last at least, as far as its checks tell: the answers in a row that are still missing to the
    /// other status, an interval for each; [`Duration::MAX`] for one that is not checked. In the order of [`Health::set_targets`].
    pub fn lasting(&self) -> Vec<Duration> {
        self.schedule.lasting()
    }

    /// What changed since it was last asked, oldest first.
    pub fn transitions(&mut self) -> Vec<Transition> {
        self.schedule.transitions()
    }
}
