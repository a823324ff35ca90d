//! When each target is probed, and what its answers add up to. No socket and no clock: time comes in as an argument,
//! probes are started and answered by whoever asks [`Schedule::next`].
//!
//! A target's probes never overlap. The first is due at once; the later ones come an interval apart, give or take a
//! little chance, so that checks that began together spread out. At most [`MAX_RUNNING`] run at a time, and the others
//! wait their turn: a start with thousands of targets must not use up descriptors and call that a dead server.
//!
//! What clients' connections meet with ([`crate::service::evidence`]) speeds the fall of a target that is up: enough of it, and the
//! next probe is due at once, and those after it at [`quick`] pace until it has passed or is down. It never does more: whether a
//! target is down is for its probes to say, and nothing but probes brings it up.
//!
//! A target's status: Checking until its first answer, which decides at once. Up, until `fall` answers in a row say no.
//! Down, until `rise` in a row say yes. Checking is down to the data path.

use super::{Target, TargetHealth, Transition};
use crate::config::CheckKind;
use crate::service::status::StatusTable;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most probes at a time.
pub const MAX_RUNNING: usize = 512;

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Healthy,
    /// In words for people.
    Unhealthy(String),
    /// It could not be asked for want of something here (descriptors, memory). That says nothing about the target, so
    /// it does not count, unless nothing at all is known of the target yet.
    Unasked(String),
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Start a probe of this target.
    Start(usize),
    /// Its time is over: end it, and say so to [`Schedule::finish`].
    TimedOut(usize),
}

pub struct Schedule {
    status: Arc<StatusTable>,
    /// By id. An id stays a target's as long as the target stays.
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// Ids in the order in which the targets were given.
    order: Vec<usize>,
    /// Whose turn comes when. An item that no longer says what its entry's phase says is stale.
    alarms: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Those whose turn it is, and that have to wait for others to end.
    queue: VecDeque<usize>,
    running: usize,
    /// When a probe last ended and made room for another.
    room_since: Option<Instant>,
    /// Entries without a first answer.
    checking: usize,
    transitions: Vec<Transition>,
    random: u64,
}

struct Entry {
    target: Target,
    state: State,
    /// When `state` began.
    since: Instant,
    /// Answers in a row that speak against `state`.
    against: u32,
    last_error: Option<String>,
    certificate_expires: Option<i64>,
    phase: Phase,
    /// No probe has ended yet.
    fresh: bool,
    /// Before this no probe is brought forward, lest evidence that probes do not confirm makes a storm of them.
    calm_until: Instant,
    /// Evidence speaks against it, and its probes come quickly until it is clear what it is.
    hurried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Checking,
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Never probed.
    Idle,
    Waiting {
        at: Instant,
    },
    Queued,
    Running {
        since: Instant,
        /// None once it was said that its time is over.
        until: Option<Instant>,
    },
}

impl Schedule {
    /// `seed`: any number; it decides how probes spread.
    pub fn new(status: Arc<StatusTable>, seed: u64) -> Schedule {
        Schedule {
            status,
            entries: Vec::new(),
            free: Vec::new(),
            order: Vec::new(),
            alarms: BinaryHeap::new(),
            queue: VecDeque::new(),
            running: 0,
            room_since: None,
            checking: 0,
            transitions: Vec::new(),
            random: seed | 1,
        }
    }

    /// See [`super::Health::set_targets`]. Returns the ids whose probes, if they run, are to be abandoned.
    pub fn set_targets(&mut self, targets: Vec<Target>, now: Instant) -> Vec<usize> {
        let mut known: HashMap<String, usize> = HashMap::new();
        for &id in &self.order {
            if let Some(entry) = &self.entries[id] {
                known.insert(entry.target.name.clone(), id);
            }
        }
        let mut abandoned = Vec::new();
        let mut order = Vec::with_capacity(targets.len());
        let mut new = Vec::new();
        for target in targets {
            let same = known.get(&target.name).copied().filter(|&id| {
                self.entries[id]
                    .as_ref()
                    .is_some_and(|old| old.target.address == target.address && old.target.kind == target.kind)
            });
            match same {
                Some(id) => {
                    known.remove(&target.name);
                    if self.replace(id, target, now) {
                        abandoned.push(id);
                    }
                    order.push(Some(id));
                }
                None => {
                    new.push(target);
                    order.push(None);
                }
            }
        }
        for id in known.into_values() {
            self.end_run(id, now);
            self.entries[id] = None;
            self.free.push(id);
            abandoned.push(id);
        }
        let mut new = new.into_iter();
        self.order = order.into_iter().filter_map(|id| id.or_else(|| Some(self.add(new.next()?, now)))).collect();
        self.queue.retain(|&id| matches!(&self.entries[id], Some(Entry { phase: Phase::Queued, .. })));
        self.checking = self.entries.iter().flatten().filter(|entry| entry.state == State::Checking).count();
        abandoned
    }

    /// Puts what is meant now in place of what was. True: a probe of the old meaning is to be abandoned.
    fn replace(&mut self, id: usize, target: Target, now: Instant) -> bool {
        let Some(entry) = self.entries[id].as_mut() else { return false };
        let slot = self.status.slot(target.slot);
        let same = Target { slot: entry.target.slot, ..target.clone() } == entry.target;
        entry.target = target;
        match entry.state {
            State::Checking => slot.set_awaited(),
            state => slot.set_up(state == State::Up),
        }
        if same {
            return false;
        }
        // It keeps the status that it has earned, as a reload must not take a server away; the new check has to
        // speak `rise` or `fall` times like the old one.
        entry.against = 0;
        entry.certificate_expires = None;
        self.end_run(id, now);
        self.first_turn(id, now);
        true
    }

    fn add(&mut self, target: Target, now: Instant) -> usize {
        self.status.slot(target.slot).set_awaited();
        let entry = Entry {
            target,
            state: State::Checking,
            since: now,
            against: 0,
            last_error: None,
            certificate_expires: None,
            phase: Phase::Idle,
            fresh: true,
            calm_until: now,
            hurried: false,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id] = Some(entry);
                id
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        };
        self.first_turn(id, now);
        id
    }

    /// A target that is new, or has a new check: its turn is now.
    fn first_turn(&mut self, id: usize, now: Instant) {
        let Some(entry) = self.entries[id].as_mut() else { return };
        entry.fresh = true;
        if entry.target.check.kind == CheckKind::None {
            entry.phase = Phase::Idle;
            entry.last_error = None;
            if entry.state != State::Up {
                self.decide(id, true, "it is not checked".to_string(), now);
            }
        } else {
            entry.phase = Phase::Waiting { at: now };
            self.alarms.push(Reverse((now, id)));
        }
    }

    /// Its probe, if one runs, counts no more.
    fn end_run(&mut self, id: usize, now: Instant) {
        if let Some(entry) = self.entries[id].as_mut() {
            if matches!(entry.phase, Phase::Running { .. }) {
                self.running -= 1;
                self.room_since = Some(now);
            }
            entry.phase = Phase::Idle;
        }
    }

    /// The next thing that is due at `now`; to be asked until it says None.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        loop {
            if self.running < MAX_RUNNING
                && let Some(id) = self.queue.pop_front()
            {
                if let Some(entry) = self.entries[id].as_ref()
                    && entry.phase == Phase::Queued
                {
                    return Some(self.start(id, now));
                }
                continue;
            }
            let &Reverse((at, id)) = self.alarms.peek()?;
            if at > now {
                return None;
            }
            self.alarms.pop();
            let Some(entry) = self.entries[id].as_mut() else { continue };
            match entry.phase {
                Phase::Waiting { at: due } if due == at => {
                    entry.phase = Phase::Queued;
                    self.queue.push_back(id);
                }
                Phase::Running { since, until } if until == Some(at) => {
                    entry.phase = Phase::Running { since, until: None };
                    return Some(Job::TimedOut(id));
                }
                _ => {}
            }
        }
    }

    fn start(&mut self, id: usize, now: Instant) -> Job {
        if let Some(entry) = self.entries[id].as_mut() {
            let until = now + entry.target.check.timeout;
            entry.phase = Phase::Running { since: now, until: Some(until) };
            self.running += 1;
            self.alarms.push(Reverse((until, id)));
        }
        Job::Start(id)
    }

    /// When [`Schedule::next`] may have something to do at the earliest.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.queue.is_empty() && self.running < MAX_RUNNING {
            return self.room_since;
        }
        self.alarms.peek().map(|Reverse((at, _))| *at)
    }

    /// The probe of `id` has ended. Nothing happens if none of it runs.
    pub fn finish(&mut self, id: usize, outcome: Outcome, now: Instant) {
        let Some(Some(entry)) = self.entries.get_mut(id) else { return };
        let Phase::Running { since, .. } = entry.phase else { return };
        self.running -= 1;
        self.room_since = Some(now);
        let passed = outcome == Outcome::Healthy;
        self.count(id, outcome, now);
        let Some(Some(entry)) = self.entries.get_mut(id) else { return };
        if passed {
            self.status.slot(entry.target.slot).evidence.clear();
        }
        entry.hurried = !passed && entry.state == State::Up && is_suspect(entry, &self.status);
        let pace = if entry.hurried { quick(entry.target.check.interval) } else { entry.target.check.interval };
        let at = (since + gap(&mut self.random, pace, entry.fresh)).max(now);
        entry.phase = Phase::Waiting { at };
        entry.fresh = false;
        self.alarms.push(Reverse((at, id)));
    }

    /// Brings forward the probes of targets against which there is enough evidence.
    pub fn look_at_evidence(&mut self, now: Instant) {
        for (id, entry) in self.entries.iter_mut().enumerate() {
            let Some(entry) = entry.as_mut().filter(|entry| entry.state == State::Up && !entry.hurried) else {
                continue;
            };
            let Phase::Waiting { at } = entry.phase else { continue };
            let sooner = entry.calm_until.max(now);
            if sooner < at && is_suspect(entry, &self.status) {
                entry.hurried = true;
                entry.calm_until = sooner + quick(entry.target.check.interval);
                entry.phase = Phase::Waiting { at: sooner };
                self.alarms.push(Reverse((sooner, id)));
            }
        }
    }

    /// Is there a target that evidence may count against?
    pub fn heeds_evidence(&self) -> bool {
        self.entries
            .iter()
            .flatten()
            .any(|entry| entry.target.check.passive && entry.target.check.kind != CheckKind::None)
    }

    fn count(&mut self, id: usize, outcome: Outcome, now: Instant) {
        let Some(entry) = self.entries[id].as_mut() else { return };
        let check = &entry.target.check;
        let (passed, reason) = match outcome {
            Outcome::Healthy => (true, format!("passes its {} check", kind_word(&check.kind))),
            Outcome::Unhealthy(reason) => (false, reason),
            Outcome::Unasked(reason) => {
                entry.last_error = Some(reason.clone());
                if entry.state != State::Checking {
                    return;
                }
                (false, reason)
            }
        };
        if !passed {
            entry.last_error = Some(reason.clone());
        }
        let limit = match (entry.state, passed) {
            (State::Checking, _) => 0,
            (State::Up, false) => check.fall,
            (State::Down, true) => check.rise,
            (State::Up, true) | (State::Down, false) => {
                entry.against = 0;
                if passed {
                    entry.last_error = None;
                }
                return;
            }
        };
        entry.against += 1;
        if entry.against >= limit {
            self.decide(id, passed, reason, now);
        }
    }

    fn decide(&mut self, id: usize, up: bool, reason: String, now: Instant) {
        let Some(entry) = self.entries[id].as_mut() else { return };
        let first = entry.state == State::Checking;
        if first {
            self.checking = self.checking.saturating_sub(1);
        }
        entry.state = if up { State::Up } else { State::Down };
        entry.since = now;
        entry.against = 0;
        if up {
            entry.last_error = None;
        }
        let slot = self.status.slot(entry.target.slot);
        slot.set_up(up);
        let reason = if entry.hurried && !up { format!("{reason}; {}", slot.evidence.in_words()) } else { reason };
        slot.evidence.clear();
        self.transitions.push(Transition {
            slot: entry.target.slot,
            name: entry.target.name.clone(),
            up,
            reason,
            first,
        });
    }

    pub fn target(&self, id: usize) -> Option<&Target> {
        self.entries.get(id)?.as_ref().map(|entry| &entry.target)
    }

    /// Does a probe of `id` run?
    pub fn is_running(&self, id: usize) -> bool {
        matches!(self.entries.get(id), Some(Some(Entry { phase: Phase::Running { .. }, .. })))
    }

    /// A probe's TCP connection stood after this time.
    pub fn note_connect(&self, id: usize, after: Duration) {
        if let Some(target) = self.target(id) {
            self.status.slot(target.slot).note_check(u32::try_from(after.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// A probe of `id` has seen a certificate; seconds since 1970.
    pub fn note_certificate(&mut self, id: usize, expires: i64) {
        if let Some(Some(entry)) = self.entries.get_mut(id) {
            entry.certificate_expires = Some(expires);
        }
    }

    pub fn first_round_done(&self) -> bool {
        self.checking == 0
    }

    pub fn transitions(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.transitions)
    }

    /// See [`super::Health::lasting`].
    pub fn lasting(&self) -> Vec<Duration> {
        let entries = self.order.iter().filter_map(|&id| self.entries[id].as_ref());
        let missing = |entry: &Entry| match entry.state {
            State::Checking => 1,
            State::Up => entry.target.check.fall.saturating_sub(entry.against),
            State::Down => entry.target.check.rise.saturating_sub(entry.against),
        };
        entries
            .map(|entry| match entry.target.check.kind {
                CheckKind::None => Duration::MAX,
                _ => entry.target.check.interval.saturating_mul(missing(entry)),
            })
            .collect()
    }

    pub fn report(&self, now: Instant) -> Vec<TargetHealth> {
        let entries = self.order.iter().filter_map(|&id| self.entries[id].as_ref());
        entries
            .map(|entry| {
                let drained = self.status.slot(entry.target.slot).is_drained();
                TargetHealth {
                    target: entry.target.name.clone(),
                    kind: entry.target.kind.word(),
                    status: match entry.state {
                        State::Checking => "checking",
                        State::Down => "down",
                        State::Up if drained => "draining",
                        State::Up => "up",
                    },
                    drained,
                    since: now.saturating_duration_since(entry.since),
                    last_error: entry.last_error.clone(),
                    certificate_expires: entry.certificate_expires,
                }
            })
            .collect()
    }
}

/// The interval while evidence speaks against a target: a quarter, but not below a tenth of a second for that.
fn quick(interval: Duration) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(100);
    (interval / 4).max(SHORTEST).min(interval)
}

/// Do clients' connections say that it is down? A target that is not checked has nobody to ask, and stays up.
fn is_suspect(entry: &Entry, status: &StatusTable) -> bool {
    let check = &entry.target.check;
    check.passive && check.kind != CheckKind::None && status.slot(entry.target.slot).evidence.is_enough()
}

/// From one start to the next: the interval, give or take a twentieth. After the first probe it is shortened by up to
/// a half instead, which scatters those that began together.
fn gap(random: &mut u64, interval: Duration, fresh: bool) -> Duration {
    // xorshift64: any spread will do.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let unit = (*random >> 11) as f64 / (1u64 << 53) as f64;
    interval.mul_f64(if fresh { 0.5 + unit / 2.0 } else { 0.95 + unit / 10.0 })
}

fn kind_word(kind: &CheckKind) -> &'static str {
    match kind {
        CheckKind::None => "absent",
        CheckKind::Tcp => "TCP",
        CheckKind::Icmp => "ICMP",
        CheckKind::Http { tls: false, .. } => "HTTP",
        CheckKind::Http { tls: true, .. } => "HTTPS",
        CheckKind::Pop3 { .. } => "POP3",
        CheckKind::Imap { .. } => "IMAP",
        CheckKind::Smtp { .. } => "SMTP",
        CheckKind::Dns { .. } => "DNS",
    }
}

#[cfg(test)]
mod tests;
