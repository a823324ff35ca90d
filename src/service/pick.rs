//! The choice of a target for a new connection. Nothing here is asked about a connection that is on record already.
//!
//! Who is asked, in this order: the real server that the client had last, if the service remembers
//! ([`super::persistence`]); the scheduler, over the real servers that are no backups; the scheduler over the backups; the remote
//! sites. Each answer that can be followed has a place for the connection already: see [`super::status`]. So limits are
//! exact whatever the number of workers, and so is "least connections": it takes the place where it found the least
//! only if the count there is still the one that it compared, and else compares again. Counts elsewhere may fall
//! meanwhile, but while connections only come, no server ever has two more than another of the same weight.

use super::order::{maglev, rotation};
use super::persistence::{Client, Kept, Known, Memory};
use super::status::{StatusTable, TargetSlot};
use super::{Service, Target};
use crate::config::{Overflow, Scheduler};
use crate::counters::{Count, Refusal, WorkerCounters};
use crate::flow::Tick;
use crate::wire::ip::Addr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How often "least" compares again after losing a place to another worker; each time another connection was made.
const COMPARISONS: usize = 4096;

/// A service's scheduler with what it computed from the lists of real servers, and where its rotation stands.
pub struct Picker {
    scheduler: Scheduler,
    primaries: Tier,
    backups: Tier,
    /// As [`Tier::cursor`], for remote sites.
    remote_cursor: AtomicU32,
    /// Real servers by slot: (slot, number).
    by_slot: Box<[(u16, u16)]>,
}

/// Real servers of which the next tier is asked only if none takes the connection.
struct Tier {
    /// Real servers by number, without those of weight 0.
    members: Box<[u16]>,
    /// The same. Rotation: in smooth order, each as often as its weight says. Maglev: the lookup table.
    order: Box<[u16]>,
    /// The next place in `order`; shared by all workers so that the rotation is exact.
    cursor: AtomicU32,
}

/// Where a new connection goes.
#[derive(Debug)]
pub enum Choice<'a> {
    /// It has a place there and at the service, and whoever does not put it on record gives both back
    /// ([`StatusTable::give_up`]).
    Real(&'a Target),
    /// Likewise.
    Remote(&'a Target),
    Nobody(Refusal),
}

/// What is known besides the service itself when a target is chosen.
#[derive(Clone, Copy)]
pub struct Books<'a> {
    pub status: &'a StatusTable,
    pub memory: &'a Memory,
    pub counters: &'a WorkerCounters,
    pub now: Tick,
}

/// Who wants a connection.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The client's address.
    pub addr: &'a Addr,
    /// It is a peer's proxy address: its connections are not carried on.
    pub peer: bool,
    /// How many real servers could not be used for it after all, since they have a connection from the same address and port
    /// already: then the client's own is no answer, and hashing goes on to the next.
    pub clashes: u32,
    /// The number of the real server that was foreseen ([`Service::foresee`]): it is asked first.
    pub foreseen: Option<u16>,
}

/// Place `at` in a row of `len` that begins anew at its end.
#[inline]
fn turn(at: u32, len: usize) -> usize {
    // No row has as many as 2^32 places.
    (at % len as u32) as usize
}

impl Tier {
    fn new(scheduler: Scheduler, reals: &[Target], backup: bool) -> Tier {
        let is_in = |real: &Target| real.backup == backup && real.weight > 0;
        let weight = |real: &Target| if is_in(real) { real.weight } else { 0 };
        let order = match scheduler {
            Scheduler::RoundRobin => rotation(reals.iter().map(|real| weight(real).min(1))),
            Scheduler::Maglev => maglev(reals, is_in),
            _ => rotation(reals.iter().map(weight)),
        };
        let members = (0..).zip(reals).filter(|(_, real)| is_in(real)).map(|(number, _)| number).collect();
        Tier { members, order, cursor: AtomicU32::new(0) }
    }

    fn members<'a>(&self, reals: &'a [Target]) -> impl Iterator<Item = &'a Target> {
        self.members.iter().map(|number| &reals[usize::from(*number)])
    }

    /// The next of the rotation that takes the connection. The cursor moves on over those that do not, too: then the
    /// others keep their proportions instead of the next in line inheriting all.
    fn rotate<'a>(&self, reals: &'a [Target], status: &StatusTable) -> Option<&'a Target> {
        for _ in 0..self.order.len() {
            let at = turn(self.cursor.fetch_add(1, Relaxed), self.order.len());
            let real = &reals[usize::from(self.order[at])];
            if take(real, status) {
                return Some(real);
            }
        }
        // None takes it; or other workers turned the cursor at the same time, and each turn of ours met one that does not.
        self.members(reals).find(|real| take(real, status))
    }

    /// The one that `hash` falls on; as long as that one takes nothing, the hash is stirred, so that its clients
    /// spread over all the others while everybody else's choice stays, and they are back as soon as it takes them again.
    fn by_hash<'a>(&self, reals: &'a [Target], status: &StatusTable, hash: u64, clashes: u32) -> Option<&'a Target> {
        if self.order.is_empty() {
            return None;
        }
        let stir = |hash: u64| (hash ^ (hash >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        let mut stirred = (0..clashes).fold(hash, |hash, _| stir(hash));
        for _ in 0..4 * self.members.len() {
            let real = &reals[usize::from(self.order[(stirred % self.order.len() as u64) as usize])];
            if take(real, status) {
                return Some(real);
            }
            stirred = stir(stirred);
        }
        self.members(reals).find(|real| take(real, status))
    }

    /// The one with the least `cost(slot, its connections with this one)` per `weight`; among equals the next in turn.
    fn least<'a>(
        &self,
        reals: &'a [Target],
        status: &StatusTable,
        cost: impl Fn(&TargetSlot, u32) -> u64,
        weight: impl Fn(&Target) -> u32,
    ) -> Option<&'a Target> {
        let first = self.cursor.fetch_add(1, Relaxed) as usize % self.members.len().max(1);
        let (after, before) = self.members.split_at(first.min(self.members.len()));
        for _ in 0..COMPARISONS {
            let mut best: Option<(&Target, u32, u64)> = None;
            for number in before.iter().chain(after) {
                let real = &reals[usize::from(*number)];
                let slot = status.slot(real.slot);
                let active = slot.active();
                if !takes_new(real, status) || is_full(real, active) {
                    continue;
                }
                let cost = cost(slot, active + 1);
                // a / wa < b / wb, without division.
                let better = best.is_none_or(|(other, _, least)| {
                    u128::from(cost) * u128::from(weight(other)) < u128::from(least) * u128::from(weight(real))
                });
                if better {
                    best = Some((real, active, cost));
                }
            }
            let (real, active, _) = best?;
            if status.slot(real.slot).take_at(active, real.life) {
                return Some(real);
            }
        }
        self.members(reals).find(|real| take(real, status))
    }
}

impl Picker {
    pub fn new(scheduler: Scheduler, reals: &[Target]) -> Picker {
        let mut by_slot: Box<[_]> = (0..).zip(reals).map(|(number, real)| (real.slot, number)).collect();
        by_slot.sort_unstable();
        Picker {
            scheduler,
            primaries: Tier::new(scheduler, reals, false),
            backups: Tier::new(scheduler, reals, true),
            remote_cursor: AtomicU32::new(0),
            by_slot,
        }
    }
}

impl Service {
    /// The number of the real server that the next connection from `client` will most likely go to, and its turn with it, if the
    /// service rotates: to be followed by a [`Service::pick`] that knows of it. None: that depends on what happens until then, or
    /// nobody takes it.
    pub fn foresee(&self, status: &StatusTable, client: &Addr) -> Option<u16> {
        let Picker { scheduler, primaries: Tier { order, cursor, .. }, .. } = &self.picker;
        let most = self.terms.max_connections;
        let full = most > 0 && status.service_active(self.slot) >= most;
        if full || order.is_empty() || self.terms.persistence > 0 || self.per_packet {
            return None;
        }
        let takes = |at: usize| has_room(&self.reals[usize::from(order[at])], status).then_some(order[at]);
        match scheduler {
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => {
                (0..order.len()).find_map(|_| takes(turn(cursor.fetch_add(1, Relaxed), order.len())))
            }
            Scheduler::SourceHash | Scheduler::Maglev => {
                takes((self.client_hash(client) % order.len() as u64) as usize)
            }
            Scheduler::LeastConnections | Scheduler::WeightedLeastConnections | Scheduler::Fastest => None,
        }
    }

    /// Takes a place at a real server of its own that was foreseen, for a connection. False: there is none.
    #[inline]
    pub fn place_at(&self, real: &Target, status: &StatusTable) -> bool {
        if !status.enter(self.slot, self.terms.max_connections) {
            return false;
        }
        let taken = status.slot(real.slot).take(real.max_connections, real.life);
        if !taken {
            status.leave(self.slot);
        }
        taken
    }

    /// Chooses for a new connection: a local real server if any takes it, else the best remote site, unless the
    /// connection is a peer's.
    pub fn pick(&self, books: &Books, asker: &Asker) -> Choice<'_> {
        let status = books.status;
        if !status.enter(self.slot, self.terms.max_connections) {
            return Choice::Nobody(Refusal::ServiceFull);
        }
        if let Some(real) = self.local(books, asker) {
            return Choice::Real(real);
        }
        // Who takes new connections and took none is at its limit.
        let full = self.reals.iter().any(|real| takes_new(real, status));
        let stays = asker.peer || full && self.terms.overflow == Overflow::Refuse;
        if !stays && let Some(remote) = self.best_remote(status) {
            if full {
                books.counters.add(Count::ChosenOverflow, 1);
            }
            return Choice::Remote(remote);
        }
        status.leave(self.slot);
        let others = if stays { &[][..] } else { &self.remotes };
        let any = |is: &dyn Fn(&Target) -> bool| self.reals.iter().chain(others).any(is);
        // One that would take it now has come up since it was looked at.
        let late = any(&|target| has_room(target, status));
        // So it is for some milliseconds after a reload has put new servers in the place of all others.
        let awaited = any(&|target| target.weight > 0 && status.slot(target.slot).is_awaited());
        Choice::Nobody(match (late, full, awaited, asker.peer) {
            (true, ..) | (false, false, true, _) => Refusal::NotChecked,
            (false, true, ..) => Refusal::ServersFull,
            (false, false, false, true) => Refusal::NoServerForPeer,
            (false, false, false, false) => Refusal::NoServer,
        })
    }

    /// A real server: the client's own if it has one that takes the connection, else as the scheduler says.
    fn local(&self, books: &Books, asker: &Asker) -> Option<&Target> {
        let Books { status, memory, counters, now } = *books;
        if let Some(real) = asker.foreseen.and_then(|number| self.reals.get(usize::from(number)))
            && status.slot(real.slot).take(real.max_connections, real.life)
        {
            return Some(real);
        }
        let timeout = self.terms.persistence;
        if timeout == 0 || asker.clashes > 0 {
            return self.schedule(books, asker);
        }
        let client = memory.client(self.slot, asker.addr, self.family, self.terms.prefix);
        let known = memory.find(client, now, timeout);
        if let Some(known) = known {
            if let Some(real) = self.return_to(known, status) {
                memory.refresh(client, known, now);
                counters.add(Count::PersistenceHits, 1);
                return Some(real);
            }
            counters.add(Count::PersistenceMoved, 1);
        }
        let real = self.schedule(books, asker)?;
        Some(self.remember(books, client, known, real))
    }

    /// Remembers `real`, which has been chosen; or, if another worker has remembered the client meanwhile, goes there too.
    fn remember<'a>(&'a self, books: &Books, client: Client, known: Option<Known>, real: &'a Target) -> &'a Target {
        let Books { status, memory, counters, now } = *books;
        match memory.remember(client, known, (real.slot, real.life), now, self.terms.persistence) {
            Kept::Mine { evicted: true } => counters.add(Count::PersistenceEvicted, 1),
            Kept::Mine { evicted: false } | Kept::Nothing => {}
            Kept::Others(other) => {
                if let Some(others) = self.return_to(other, status) {
                    status.slot(real.slot).give_up();
                    return others;
                }
            }
        }
        real
    }

    /// The real server that a client had, with a place for one more connection. A backup is left as soon as another takes any:
    /// it stands in, and clients that come often would stay with it for ever.
    fn return_to(&self, known: Known, status: &StatusTable) -> Option<&Target> {
        let by_slot = &self.picker.by_slot;
        let at = by_slot.binary_search_by_key(&known.slot(), |(slot, _)| *slot).ok()?;
        let real = &self.reals[usize::from(by_slot[at].1)];
        let another = || self.picker.primaries.members(&self.reals).any(|real| has_room(real, status));
        let stays = known.is_of(real.life) && !(real.backup && another());
        (stays && take(real, status)).then_some(real)
    }

    fn schedule(&self, books: &Books, asker: &Asker) -> Option<&Target> {
        self.by_scheduler(&self.picker.primaries, books.status, asker).or_else(|| {
            let backup = self.by_scheduler(&self.picker.backups, books.status, asker)?;
            books.counters.add(Count::ChosenBackup, 1);
            Some(backup)
        })
    }

    fn by_scheduler(&self, tier: &Tier, status: &StatusTable, asker: &Asker) -> Option<&Target> {
        let reals = &self.reals;
        match self.picker.scheduler {
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => tier.rotate(reals, status),
            Scheduler::SourceHash | Scheduler::Maglev => {
                tier.by_hash(reals, status, self.client_hash(asker.addr), asker.clashes)
            }
            Scheduler::LeastConnections => tier.least(reals, status, |_, active| active.into(), |_| 1),
            Scheduler::WeightedLeastConnections => {
                tier.least(reals, status, |_, active| active.into(), |real| real.weight)
            }
            Scheduler::Fastest => {
                // Not measured yet counts as very fast, not as free: one that never answers is never measured.
                let cost = |slot: &TargetSlot, active: u32| {
                    u64::from(active) * u64::from(slot.connect_us.load(Relaxed).max(1))
                };
                tier.least(reals, status, cost, |real| real.weight)
            }
        }
    }

    /// Among the remote sites that take connections, those of the lowest priority number; among these each as often as its weight
    /// says, times what is left of its CPUs. So weights hold while all are equally loaded, and while nobody says anything.
    fn best_remote(&self, status: &StatusTable) -> Option<&Target> {
        // Another look only if the best one goes down at this moment.
        for _ in 0..=self.remotes.len() {
            let remote = self.look_for_remote(status)?;
            if take(remote, status) {
                return Some(remote);
            }
        }
        None
    }

    fn look_for_remote(&self, status: &StatusTable) -> Option<&Target> {
        let best = self.remotes.iter().find(|remote| takes_new(remote, status))?.priority;
        let equals = || self.remotes.iter().filter(|r| r.priority == best && takes_new(r, status));
        let share = |remote: &Target| u64::from(remote.weight) * u64::from(status.slot(remote.slot).headroom());
        let shares: u64 = equals().map(share).sum();
        // Steps of the golden section: any number of them lie evenly over all shares, however large these are.
        let turn = self.picker.remote_cursor.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9);
        // What a site says may change between the two passes; the last equal then takes what is left over.
        let mut point = ((u128::from(turn) * u128::from(shares)) >> 32) as u64;
        let mut last = None;
        for remote in equals() {
            last = Some(remote);
            match point.checked_sub(share(remote)) {
                Some(left) => point = left,
                None => break,
            }
        }
        last
    }
}

/// Its limit apart.
fn takes_new(target: &Target, status: &StatusTable) -> bool {
    target.weight > 0 && status.slot(target.slot).takes_new()
}

fn has_room(target: &Target, status: &StatusTable) -> bool {
    takes_new(target, status) && !is_full(target, status.slot(target.slot).active())
}

fn is_full(target: &Target, active: u32) -> bool {
    target.max_connections > 0 && active >= target.max_connections
}

/// Takes a place for a connection, if there is one.
fn take(target: &Target, status: &StatusTable) -> bool {
    // A look first: it costs nothing, and a count that is not touched stays in all workers' caches.
    takes_new(target, status) && status.slot(target.slot).take(target.max_connections, target.life)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads;
