//! What schedulers compute once from the list of servers: the order of a weighted rotation, and the Maglev table.

use super::Target;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Slots of a Maglev table: a prime, well over 100 times any sensible number of servers (Maglev, NSDI 2016, 5.3).
pub const MAGLEV_SLOTS: usize = 65537;

/// The longest sequence of a weighted rotation; weights that would need more are scaled down.
const LONGEST_ROTATION: u32 = 4096;

/// Smooth weighted rotation: at each step everybody gains its weight, the richest is next and pays the sum of all. Spreads
/// each server's turns evenly (the scheme that nginx made common). Gives places in `weights`.
pub fn rotation(weights: impl Iterator<Item = u32>) -> Box<[u16]> {
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

/// The Maglev lookup table (NSDI 2016, 3.4): each server has its own permutation of the slots, and they take turns at
/// claiming the next free one of theirs. Gives numbers of `reals`; those of weight 0 get nothing, and `takes_part` says who else
/// stays out. Empty if nobody is left.
///
/// The paper leaves open how turns follow weights, and in which order servers take them. Here server s has its n-th turn at
/// the time n / weight(s), and of two turns at one time the smaller identity goes first. So two servers' turns come in an
/// order that depends on nothing but the two: neither on the file's order nor on who else is there. That is what keeps
/// disturbance small when a server leaves or joins, the heaviest included.
///
/// Built over all servers, up or not, from their names, addresses and weights alone, so that every node of the site
/// builds the same one.
pub fn maglev(reals: &[Target], takes_part: impl Fn(&Target) -> bool) -> Box<[u16]> {
    const FREE: u16 = u16::MAX;
    let mut turns: BinaryHeap<Walk> = (0..)
        .zip(reals)
        .filter(|(_, real)| real.weight > 0 && takes_part(real))
        .map(|(number, real)| Walk::new(number, real))
        .collect();
    let mut table = vec![FREE; MAGLEV_SLOTS].into_boxed_slice();
    for _ in 0..MAGLEV_SLOTS {
        let Some(mut walk) = turns.pop() else { return Box::default() };
        while table[walk.at] != FREE {
            walk.at = (walk.at + walk.skip) % MAGLEV_SLOTS;
        }
        table[walk.at] = walk.number;
        walk.turn += 1;
        turns.push(walk);
    }
    table
}

/// A server on its way through its permutation.
struct Walk<'t> {
    number: u16,
    real: &'t Target,
    /// Its next turn, from 1.
    turn: u64,
    /// The slot where it stands, and how far its steps go.
    at: usize,
    skip: usize,
}

impl<'t> Walk<'t> {
    fn new(number: u16, real: &'t Target) -> Walk<'t> {
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
        Walk { number, real, turn: 1, at: (mix(1) % slots) as usize, skip: (mix(2) % (slots - 1) + 1) as usize }
    }
}

impl Ord for Walk<'_> {
    /// Sooner is greater, as the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        let identity = |walk: &Walk| (walk.real.endpoint.addr.octets(), walk.real.endpoint.port);
        // a / wa < b / wb, without division.
        let (mine, theirs) = (self.turn * u64::from(other.real.weight), other.turn * u64::from(self.real.weight));
        let by_identity = || identity(other).cmp(&identity(self)).then_with(|| other.real.name.cmp(&self.real.name));
        theirs.cmp(&mine).then_with(by_identity)
    }
}

impl PartialOrd for Walk<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Walk<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Walk<'_> {}

#[cfg(test)]
mod tests;
