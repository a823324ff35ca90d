//! Identifications for packets whose source address many senders share.

use crate::flow::HashKey;
use crate::wire::ip::V4;

/// Hands out identifications, each once before any comes again, and none that another worker hands out: the numbers are shared
/// out among the workers. They go through a keyed permutation, since who can guess the next may put a piece of his own into a
/// stranger's packet (RFC 7739 3).
pub struct Ids {
    next: u32,
    worker: u32,
    workers: u32,
    keys: [u32; 4],
}

impl Ids {
    /// `key` is the same for all workers.
    pub fn new(worker: usize, workers: usize, key: HashKey) -> Ids {
        let HashKey { k0, k1 } = key;
        let keys = [k0 as u32, (k0 >> 32) as u32, k1 as u32, (k1 >> 32) as u32];
        Ids { next: 0, worker: worker as u32, workers: workers.max(1) as u32, keys }
    }

    /// The next one, of 16 bits in IPv4 and 32 in IPv6.
    pub fn fresh(&mut self, family: u8) -> u32 {
        let bits = if family == V4 { 16 } else { 32 };
        let share = (u64::from(u32::MAX >> (32 - bits)) + 1) / u64::from(self.workers);
        let number = u64::from(self.next) % share * u64::from(self.workers) + u64::from(self.worker);
        self.next = self.next.wrapping_add(1);
        permute(number as u32, bits / 2, &self.keys)
    }
}

/// A Feistel network of four rounds over two halves of `half` bits: no two numbers give the same.
fn permute(number: u32, half: u32, keys: &[u32; 4]) -> u32 {
    let mask = (1 << half) - 1;
    let (mut left, mut right) = (number >> half & mask, number & mask);
    for key in keys {
        let mixed = u64::from(right ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(29) ^ u64::from(*key);
        let mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40;
        (left, right) = (right, left ^ (mixed as u32 & mask));
    }
    left << half | right
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::V6;
    use std::collections::HashSet;

    const KEY: HashKey = HashKey { k0: 0x0123_4567_89ab_cdef, k1: 0xfedc_ba98_7654_3210 };

    #[test]
    fn no_two_packets_of_any_worker_get_the_same_before_all_are_used() {
        for workers in [1, 2, 3] {
            let mut seen = HashSet::new();
            for worker in 0..workers {
                let mut ids = Ids::new(worker, workers, KEY);
                seen.extend((0..65_536 / workers).map(|_| ids.fresh(V4)));
            }
            assert_eq!(seen.len(), 65_536 / workers * workers);
            assert!(seen.iter().all(|id| *id < 65_536));
        }
    }

    #[test]
    fn they_use_all_bits_and_follow_no_order() {
        let mut ids = Ids::new(0, 2, KEY);
        let some: Vec<u32> = (0..1000).map(|_| ids.fresh(V6)).collect();
        assert_eq!(some.iter().collect::<HashSet<_>>().len(), 1000);
        assert_eq!(some.iter().fold(0, |all, id| all | id), u32::MAX);
        let rising = some.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((400..600).contains(&rising), "{rising} of 999");
    }
}
