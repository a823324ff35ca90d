//! One slot per target (real server or remote site of a service): its status word and its live counts. Slots live
//! outside the snapshot, so that a reload keeps them; control writes the word, workers read it.
//!
//! # Theory of operation: a connection is counted before it is made
//!
//! A limit is kept by all workers together, without a lock: who wants to give a target a connection first *takes* a place,
//! which is one CAS of `active` from n to n + 1, n below the limit. So `active` is never above the limit, and never below the
//! open connections; between the two are those that are being put on record at this moment. A place is given back
//! by exactly one: by the one who had it and put nothing on record ([`StatusTable::give_up`]), or whose packet was the one that
//! closed the connection ([`crate::flow::is_open`]), or who takes it off the record while it is open ([`StatusTable::release`]).
//!
//! A closed connection stays on record for its stragglers, so flows are counted besides: with the place its flow begins, and it ends
//! when it goes off the record ([`TargetSlot::end`]). Both counts are one word: each more would cost a new connection another trip to
//! a line that all workers write.
//!
//! Nothing stands between the look at the status word and the taking but a few instructions, and still control may mark the
//! target down in them, find that it has no connection, and give its slot to another target ([`super::registry`]). Therefore
//! the word is looked at *after* the taking, and the place given back if the answer is no. Both sides use SeqCst: control writes
//! the word and then reads the count, a worker writes the count and then reads the word, and of two such pairs at least one
//! sees the other's write. So a slot that was found empty after its target was marked down stays empty, and `life`, which tells
//! one target of a slot from the next, stays as it is as long as anybody has a place.
//!
//! A service has a count of its own, of all its targets' connections. A place is taken there first and given back last, so it
//! is never below its targets' sum.

use super::evidence::Evidence;
use crate::sys::rows::{Rows, StatusCell};
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64};

/// The most targets of one process, old ones whose connections still run included.
pub const MAX_TARGETS: usize = 16384;

/// The most services of one process, likewise. Each has a target.
pub const MAX_SERVICES: usize = MAX_TARGETS;

/// Passes its checks.
pub const UP: u32 = 1;
/// An operator drains it: no new connections, whatever the checks say.
pub const DRAINED: u32 = 2;
/// A remote site says that it has no room for what would be carried there, or no server.
pub const REFUSES: u32 = 8;
/// Its first check has not spoken yet: it is not up, and nobody knows that it is down.
pub const AWAITED: u32 = 4;

/// The lowest bit of what a remote site says of its load.
const HEADROOM: u32 = 8;

/// One flow that began, in [`TargetSlot::taken`]; one active connection is 1.
const BEGUN: u64 = 1 << 32;

pub struct TargetSlot {
    /// All slots' status words, and which is this one's: [`UP`], [`DRAINED`], [`AWAITED`] and [`REFUSES`], and from bit
    /// [`HEADROOM`] on a byte of [`TargetSlot::headroom`]. The kernel programs read them too.
    words: Arc<Rows<StatusCell>>,
    at: usize,
    /// `{flows that began 32 | active 32}`. The former, checks included, wrap. Active: open connections, and those that are being made.
    taken: AtomicU64,
    /// Flows ever that began and are not on record any more, or never were.
    ended: AtomicU64,
    /// Those that began and were no connections: checks.
    others: AtomicU64,
    /// Smoothed time from SYN to SYN-ACK in microseconds, 0 until one was measured. See
    /// [`TargetSlot::note_connect`].
    pub connect_us: AtomicU32,
    /// What clients' connections met with lately.
    pub evidence: Evidence,
    /// How many targets have had the slot.
    life: AtomicU32,
    /// Its service's slot.
    service: AtomicU16,
    /// Its answers to clients do not pass by: [`TargetSlot::note_check`] counts.
    one_sided: AtomicBool,
}

impl TargetSlot {
    fn new(words: &Arc<Rows<StatusCell>>, at: usize) -> TargetSlot {
        TargetSlot {
            words: words.clone(),
            at,
            taken: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            others: AtomicU64::new(0),
            connect_us: AtomicU32::new(0),
            evidence: Evidence::default(),
            life: AtomicU32::new(0),
            service: AtomicU16::new(0),
            one_sided: AtomicBool::new(false),
        }
    }

    #[inline]
    fn word(&self) -> &AtomicU32 {
        &self.words[self.at].word
    }

    /// May it be given a new connection, its limit apart?
    pub fn takes_new(&self) -> bool {
        self.word().load(SeqCst) & (UP | DRAINED | REFUSES) == UP
    }

    pub fn is_up(&self) -> bool {
        self.word().load(Relaxed) & UP != 0
    }

    /// May its first check bring it up at any moment?
    pub fn is_awaited(&self) -> bool {
        self.word().load(Relaxed) & (AWAITED | DRAINED) == AWAITED
    }

    pub fn is_drained(&self) -> bool {
        self.word().load(Relaxed) & DRAINED != 0
    }

    /// Of a remote site: what is left of its CPUs, in 255ths. Half, while it does not say.
    #[inline]
    pub fn headroom(&self) -> u8 {
        match (self.word().load(Relaxed) >> HEADROOM) as u8 {
            0 => 128,
            said => said,
        }
    }

    /// What a remote site says: whether it refuses connections, and its headroom, at least 1; 0: it says nothing.
    pub fn set_said(&self, refuses: bool, headroom: u8) {
        let said = u32::from(headroom) << HEADROOM | if refuses { REFUSES } else { 0 };
        let kept = |word: u32| Some(word & !(0xff << HEADROOM | REFUSES) | said);
        let _ = self.word().fetch_update(SeqCst, Relaxed, kept);
    }

    /// Of the target that has the slot now. It changes only while there is no connection.
    pub fn life(&self) -> u32 {
        self.life.load(Relaxed)
    }

    /// Open connections, and those that are being made.
    pub fn active(&self) -> u32 {
        self.taken.load(SeqCst) as u32
    }

    /// Counts one more connection to the target that has the slot in `life`, if that takes new ones and has fewer than
    /// `limit` (0: no limit), and begins its flow. True: it is counted.
    pub fn take(&self, limit: u32, life: u32) -> bool {
        let counted = match limit {
            0 => {
                self.taken.fetch_add(BEGUN + 1, SeqCst);
                true
            }
            _ => self.take_if(|active| active < limit),
        };
        counted && self.confirm(life)
    }

    /// As [`TargetSlot::take`], if exactly `seen` are counted still: then the comparison that chose it by this number holds.
    pub fn take_at(&self, seen: u32, life: u32) -> bool {
        self.take_if(|active| active == seen) && self.confirm(life)
    }

    fn take_if(&self, may: impl Fn(u32) -> bool) -> bool {
        let more = |taken: u64| may(taken as u32).then(|| taken.wrapping_add(BEGUN + 1));
        self.taken.fetch_update(SeqCst, Relaxed, more).is_ok()
    }

    /// A connection is closed; its flow stays on record.
    fn close(&self) {
        self.taken.fetch_sub(1, SeqCst);
    }

    /// Nothing comes of a connection that was counted. The service's count stays: for another of its targets.
    pub fn give_up(&self) {
        self.taken.fetch_sub(BEGUN + 1, SeqCst);
    }

    /// The second look; see the head of this file.
    fn confirm(&self, life: u32) -> bool {
        let stays = self.takes_new() && self.life.load(SeqCst) == life;
        if !stays {
            self.give_up();
        }
        stays
    }

    /// The flow of a check is about to be put on record: it has no place.
    pub fn begin_check(&self) {
        self.taken.fetch_add(BEGUN, SeqCst);
        self.others.fetch_add(1, Relaxed);
    }

    /// A flow that began is off the record.
    pub fn end(&self) {
        self.ended.fetch_add(1, SeqCst);
    }

    /// Flows on record, the closed ones and checks included, and those that are about to be: as long as there are any, the slot is not
    /// another's.
    pub fn on_record(&self) -> u32 {
        self.flows().1
    }

    /// Those that are not on record any more, and those that are.
    fn flows(&self) -> (u64, u32) {
        // In this order the latter is never less than it should be.
        let ended = self.ended.load(SeqCst);
        let begun = (self.taken.load(SeqCst) / BEGUN) as u32;
        (ended, begun.wrapping_sub(ended as u32))
    }

    /// Connections ever.
    pub fn total(&self) -> u64 {
        let others = self.others.load(Relaxed);
        let (ended, on_record) = self.flows();
        (ended + u64::from(on_record)).saturating_sub(others)
    }

    /// Nothing on record, and nothing about to be; if the target is marked down it stays so.
    pub fn is_idle(&self) -> bool {
        self.on_record() == 0
    }

    /// As new, for another target. It must be idle, and down.
    pub fn reset(&self) {
        self.word().store(AWAITED, SeqCst);
        self.life.store(self.life().wrapping_add(1), SeqCst);
        // Which are none of its own.
        self.others.store(self.ended.load(Relaxed), Relaxed);
        self.connect_us.store(0, Relaxed);
        self.one_sided.store(false, Relaxed);
        self.evidence.clear();
    }

    /// As its checks say.
    pub fn set_up(&self, up: bool) {
        if up {
            self.word().fetch_or(UP, SeqCst);
            self.word().fetch_and(!AWAITED, SeqCst);
        } else {
            self.word().fetch_and(!(UP | AWAITED), SeqCst);
        }
    }

    /// Its first check is under way.
    pub fn set_awaited(&self) {
        self.word().fetch_and(!UP, SeqCst);
        self.word().fetch_or(AWAITED, SeqCst);
    }

    pub fn set_drained(&self, drained: bool) {
        if drained {
            self.word().fetch_or(DRAINED, SeqCst)
        } else {
            self.word().fetch_and(!DRAINED, SeqCst)
        };
    }

    /// Does the target answer clients past farside (direct and tunnel mode)? Then no SYN-ACK is seen that could be timed.
    pub fn set_one_sided(&self, one_sided: bool) {
        self.one_sided.store(one_sided, Relaxed);
    }

    /// A check's connection stood `micros` after it was begun. It is the measure of a one-sided target, and not looked at
    /// for others, which are measured by their clients' connections.
    pub fn note_check(&self, micros: u32) {
        if self.one_sided.load(Relaxed) {
            self.note_connect(micros);
        }
    }

    /// Takes the time from a SYN to its SYN-ACK into the moving average (weight 1/8, as TCP's own; RFC 6298 2.3).
    pub fn note_connect(&self, micros: u32) {
        let sample = micros.max(1);
        // Two at once may lose one sample: no harm to an average.
        let old = self.connect_us.load(Relaxed);
        let new = if old == 0 { sample } else { old - old / 8 + sample / 8 };
        self.connect_us.store(new.max(1), Relaxed);
    }
}

/// All slots, taken at start.
pub struct StatusTable {
    slots: Box<[CachePadded<TargetSlot>]>,
    /// Connections of services.
    services: Box<[CachePadded<AtomicU32>]>,
}

impl StatusTable {
    pub fn new() -> StatusTable {
        let words: Box<[_]> = (0..MAX_TARGETS).map(|_| StatusCell::default()).collect();
        StatusTable::on(words.into())
    }

    /// Status words in memory that is all zero. None: these are not [`MAX_TARGETS`] words.
    pub fn in_memory(words: Rows<StatusCell>) -> Option<StatusTable> {
        (words.len() == MAX_TARGETS).then(|| StatusTable::on(words))
    }

    fn on(words: Rows<StatusCell>) -> StatusTable {
        let words = Arc::new(words);
        StatusTable {
            slots: (0..MAX_TARGETS).map(|at| CachePadded::new(TargetSlot::new(&words, at))).collect(),
            services: (0..MAX_SERVICES).map(|_| CachePadded::default()).collect(),
        }
    }

    /// `slot` < [`MAX_TARGETS`].
    pub fn slot(&self, slot: u16) -> &TargetSlot {
        &self.slots[slot as usize]
    }

    /// From now on the target in `slot` is the service's in `service`. Not while the slot has connections of another's.
    pub fn set_service(&self, slot: u16, service: u16) {
        self.slot(slot).service.store(service, SeqCst);
    }

    /// Connections of a service that are open, or about to be. `service` < [`MAX_SERVICES`].
    pub fn service_active(&self, service: u16) -> u32 {
        self.services[usize::from(service)].load(SeqCst)
    }

    /// Counts one more connection of a service, if it has fewer than `limit` (0: no limit). True: it is counted, and a place at
    /// one of its targets may be taken, with which it is given back.
    pub fn enter(&self, service: u16, limit: u32) -> bool {
        let active = &self.services[usize::from(service)];
        if limit == 0 {
            active.fetch_add(1, SeqCst);
            return true;
        }
        active.fetch_update(SeqCst, Relaxed, |active| (active < limit).then(|| active + 1)).is_ok()
    }

    /// Gives back what [`StatusTable::enter`] counted, when no target was found.
    pub fn leave(&self, service: u16) {
        self.services[usize::from(service)].fetch_sub(1, SeqCst);
    }

    /// A connection to the target in `slot` is closed: gives its place back, and its service's. The flow stays on record.
    pub fn release(&self, slot: u16) {
        self.with_service(slot, TargetSlot::close);
    }

    /// Nothing comes of a connection that has a place at the target in `slot`: gives it back, and its service's.
    pub fn give_up(&self, slot: u16) {
        self.with_service(slot, TargetSlot::give_up);
    }

    fn with_service(&self, slot: u16, give_back: impl Fn(&TargetSlot)) {
        let target = self.slot(slot);
        // Read first: with the last connection gone the slot may become another's.
        let service = target.service.load(Relaxed);
        give_back(target);
        self.leave(service);
    }
}

impl Default for StatusTable {
    fn default() -> Self {
        StatusTable::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_measure_those_whose_answers_do_not_pass_by_and_nobody_else() {
        let status = StatusTable::new();
        let slot = status.slot(3);
        slot.note_check(500);
        assert_eq!(slot.connect_us.load(Relaxed), 0);
        slot.note_connect(400);
        slot.set_one_sided(true);
        slot.note_check(1200);
        assert_eq!(slot.connect_us.load(Relaxed), 500, "an eighth of the difference");
        (0..100).for_each(|_| slot.note_check(0));
        assert!((1..8).contains(&slot.connect_us.load(Relaxed)), "measured, however fast");
    }

    #[test]
    fn connections_ever_are_those_that_came_on_record_and_were_no_checks() {
        let status = StatusTable::new();
        let slot = status.slot(3);
        slot.set_up(true);
        assert!((0..3).all(|_| slot.take(0, 0)));
        // One comes to nothing.
        slot.give_up();
        slot.begin_check();
        assert_eq!((slot.total(), slot.on_record(), slot.active(), slot.is_idle()), (2, 3, 2, false));
        (0..2).for_each(|_| slot.close());
        assert_eq!((slot.on_record(), slot.active(), slot.is_idle()), (3, 0, false), "closed, and still on record");
        (0..3).for_each(|_| slot.end());
        assert_eq!((slot.total(), slot.on_record(), slot.is_idle()), (2, 0, true));
        slot.set_up(false);
        slot.reset();
        assert_eq!((slot.total(), slot.is_idle()), (0, true));
        slot.set_up(true);
        assert!(slot.take(0, 1));
        assert_eq!((slot.total(), slot.on_record()), (1, 1), "of the next target");
    }
}
