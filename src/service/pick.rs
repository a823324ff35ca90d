//! Schedulers: which real server or remote site takes a new connection. Nothing here is asked about a connection that
//! is on record already.

use super::status::StatusTable;
use super::{Service, Target};
use crate::config::Scheduler;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Slots of a Maglev table: a prime, well over 100 times any sensible number of servers (Maglev, NSDI 2016, 5.3).
pub const MAGLEV_SLOTS: usize = 65537;

/// The longest sequence of a weighted rotation; weights that would need more are scaled down.
const LONGEST_ROTATION: u32 = 4096;

/// A service's scheduler with what it computed from the list of real servers, and where its rotation stands.
pub struct Picker {
    scheduler: Scheduler,
    /// Real servers by number. Rotation: in smooth order, each as often as its weight says. Maglev: the lookup table.
    order: Box<[u16]>,
    /// The next place in `order`; shared by all workers so that the rotation is exact.
    cursor: AtomicU32,
    /// The same for remote sites.
    remote_cursor: AtomicU32,
}

/// Where a new connection goes.
pub enum Choice<'a> {
    Real(&'a Target),
    Remote(&'a Target),
    Nobody,
}

impl Picker {
    pub fn new(scheduler: Scheduler, reals: &[Target]) -> Picker {
        let order = match scheduler {
            Scheduler::RoundRobin => rotation(reals.iter().map(|real| real.weight.min(1))),
            Scheduler::Maglev => maglev(reals),
            _ => rotation(reals.iter().map(|real| real.weight)),
        };
        Picker { scheduler, order, cursor: AtomicU32::new(0), remote_cursor: AtomicU32::new(0) }
    }

    /// The next of the rotation that may take a connection. The cursor moves on over those that may not, too: then the
    /// others keep their proportions instead of the next in line inheriting all.
    fn rotate<'a>(&self, reals: &'a [Target], status: &StatusTable) -> Option<&'a Target> {
        for _ in 0..self.order.len() {
            let at = self.cursor.fetch_add(1, Relaxed) as usize % self.order.len();
            let real = &reals[usize::from(self.order[at])];
            if takes_new(real, status) {
                return Some(real);
            }
        }
        // None is up; or other workers turned the cursor at the same time, and each turn of ours met one that is not.
        self.order.iter().map(|number| &reals[usize::from(*number)]).find(|real| takes_new(real, status))
    }

    /// The one that `hash` falls on; as long as that one may take nothing, the hash is stirred, so that its clients
    /// spread over all the others while everybody else's choice stays.
    fn by_hash<'a>(&self, reals: &'a [Target], status: &StatusTable, hash: u64) -> Option<&'a Target> {
        if self.order.is_empty() {
            return None;
        }
        let mut stirred = hash;
        for _ in 0..4 * reals.len() {
            let real = &reals[usize::from(self.order[(stirred % self.order.len() as u64) as usize])];
            if takes_new(real, status) {
                return Some(real);
            }
            stirred = (stirred ^ (stirred >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        }
        reals.iter().find(|real| takes_new(real, status))
    }

    /// The one with the least `cost` per weight; among equals the next in turn.
    fn least<'a>(
        &self,
        reals: &'a [Target],
        status: &StatusTable,
        cost: impl Fn(&Target) -> u64,
    ) -> Option<&'a Target> {
        let first = self.cursor.fetch_add(1, Relaxed) as usize;
        let mut best: Option<(&Target, u64)> = None;
        for turn in 0..reals.len() {
            let real = &reals[(first + turn) % reals.len()];
            if !takes_new(real, status) {
                continue;
            }
            let cost = cost(real);
            // a / wa < b / wb, without division.
            let better = best.is_none_or(|(other, least)| {
                u128::from(cost) * u128::from(other.weight) < u128::from(least) * u128::from(real.weight)
            });
            if better {
                best = Some((real, cost));
            }
        }
        best.map(|(real, _)| real)
    }
}

impl Service {
    /// Chooses for a new connection: a local real server if any may take it, else the best remote site, unless `local_only`
    /// (the connection comes from a peer). `client_hash` is of the client's address under the key that all nodes share.
    pub fn pick(&self, status: &StatusTable, client_hash: u64, local_only: bool) -> Choice<'_> {
        let picker = &self.picker;
        let active = |real: &Target| u64::from(status.slot(real.slot).active.load(Relaxed)) + 1;
        let real = match picker.scheduler {
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => picker.rotate(&self.reals, status),
            Scheduler::SourceHash | Scheduler::Maglev => picker.by_hash(&self.reals, status, client_hash),
            Scheduler::WeightedLeastConnections => picker.least(&self.reals, status, active),
            // Weights count only as zero or not: cost times weight takes the division by it out again.
            Scheduler::LeastConnections => {
                picker.least(&self.reals, status, |real| active(real) * u64::from(real.weight))
            }
            Scheduler::Fastest => picker.least(&self.reals, status, |real| {
                // Not measured yet counts as very fast, not as free: one that never answers is never measured.
                active(real) * u64::from(status.slot(real.slot).connect_us.load(Relaxed).max(1))
            }),
        };
        match real {
            Some(real) => Choice::Real(real),
            None if local_only => Choice::Nobody,
            None => self.best_remote(status).map_or(Choice::Nobody, Choice::Remote),
        }
    }

    /// Among the remote sites that are up, those of the lowest priority number; among these by weight.
    fn best_remote(&self, status: &StatusTable) -> Option<&Target> {
        let best = self.remotes.iter().find(|remote| takes_new(remote, status))?.priority;
        let equals = || self.remotes.iter().filter(|r| r.priority == best && takes_new(r, status));
        let weights: u64 = equals().map(|remote| u64::from(remote.weight)).sum();
        // A site may go down between the two passes; the last equal then takes what is left over.
        let mut point = u64::from(self.picker.remote_cursor.fetch_add(1, Relaxed)) % weights.max(1);
        let mut last = None;
        for remote in equals() {
            last = Some(remote);
            match point.checked_sub(u64::from(remote.weight)) {
                Some(left) => point = left,
                None => break,
            }
        }
        last
    }
}

fn takes_new(target: &Target, status: &StatusTable) -> bool {
    target.weight > 0 && status.slot(target.slot).takes_new()
}

/// Smooth weighted rotation: at each step everybody gains its weight, the richest is next and pays the sum of all. Spreads
/// each server's turns evenly (the scheme that nginx made common).
fn rotation(weights: impl Iterator<Item = u32>) -> Box<[u16]> {
    let mut weights: Vec<u32> = weights.collect();
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    weights.iter_mut().for_each(|weight| *weight /= divisor);
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    if sum > u64::from(LONGEST_ROTATION) {
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight = (u64::from(*weight) * u64::from(LONGEST_ROTATION) / sum).max(1) as u32;
        }
    }
    let sum: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
    let mut wealth = vec![0_i64; weights.len()];
    let next = |_| {
        for (wealth, weight) in wealth.iter_mut().zip(&weights) {
            *wealth += i64::from(*weight);
        }
        // The first of the richest, so that equal servers take turns in the order of the file.
        let richest = (0..wealth.len()).rev().max_by_key(|at| wealth[*at]).unwrap_or(0);
        wealth[richest] -= sum;
        richest as u16
    };
    (0..sum).map(next).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The Maglev lookup table (NSDI 2016, 3.4): each server has its own permutation of the slots and they take turns at
/// claiming the next free one, a server of twice the weight twice as often. Built over all servers, up or not, from
/// their names and addresses alone, so that every node of the site builds the same one.
fn maglev(reals: &[Target]) -> Box<[u16]> {
    let heaviest = reals.iter().map(|real| real.weight).max().unwrap_or(0);
    if heaviest == 0 {
        return Box::default();
    }
    const FREE: u16 = u16::MAX;
    let mut table = vec![FREE; MAGLEV_SLOTS].into_boxed_slice();
    let mut walks: Vec<(u64, u64, u64)> = reals.iter().map(permutation).collect();
    let mut filled = 0;
    loop {
        for (number, walk) in walks.iter_mut().enumerate() {
            // Credit grows by the weight each round; a turn costs the heaviest weight.
            walk.2 += u64::from(reals[number].weight);
            if walk.2 < u64::from(heaviest) {
                continue;
            }
            walk.2 -= u64::from(heaviest);
            while table[walk.0 as usize] != FREE {
                walk.0 = (walk.0 + walk.1) % MAGLEV_SLOTS as u64;
            }
            table[walk.0 as usize] = number as u16;
            filled += 1;
            if filled == MAGLEV_SLOTS {
                return table;
            }
        }
    }
}

/// Offset and skip of a server's permutation, and its credit of turns.
fn permutation(real: &Target) -> (u64, u64, u64) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let address = real.endpoint.addr.octets();
    let port = real.endpoint.port.to_be_bytes();
    for byte in address.iter().chain(&port).chain(real.name.as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mix = |salt: u64| {
        let mut x = hash ^ salt;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let slots = MAGLEV_SLOTS as u64;
    (mix(1) % slots, mix(2) % (slots - 1) + 1, 0)
}

#[cfg(test)]
mod tests;
