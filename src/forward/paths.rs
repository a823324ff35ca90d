//! What routers between farside and real servers have said of the largest packet that fits there. They tell the sender of the
//! encapsulated packet, which is this host; a client learns of it only if farside does, and answers its large packets itself
//! (RFC 2003 4 and 5.1).
//!
//! One word per place: tag 24 | MTU 16 | tick of expiry 24. An address has one place; two that share it are told apart by the tag
//! and take turns. A word stands for itself, so Relaxed is enough: whoever reads the old word sends one packet more that is
//! too large.

use super::Now;
use crate::flow::{Tick, ticks};
use crate::wire::ip::{Addr, V4};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Places; a power of two.
const PLACES: usize = 1024;

/// After so long a larger packet is tried again (RFC 1191 6.3, RFC 8201 4).
const KEPT: Duration = Duration::from_secs(600);

/// Less is believed of nobody: that of an IPv4 path as in the kernel (net.ipv4.route.min_pmtu), that of an IPv6 link (RFC 8200 5).
const LEAST_V4: u32 = 552;
const LEAST_V6: u32 = 1280;

const TICKS: u32 = (1 << 24) - 1;

/// Shared by all workers.
pub struct Paths {
    words: Box<[AtomicU64]>,
}

impl Paths {
    pub fn new() -> Paths {
        Paths { words: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Bytes of the largest packet that reaches `to`, its outer headers included, as far as that is known.
    #[inline]
    pub fn mtu(&self, to: &Addr, now: Now) -> Option<u32> {
        let (place, tag) = place(to);
        known(self.words[place].load(Relaxed), tag, now.tick)
    }

    /// A router on the way to `to` says that no larger packet fits. What is known and smaller stays until it expires.
    pub fn learn(&self, to: &Addr, family: u8, mtu: u32, now: Now) {
        let least = if family == V4 { LEAST_V4 } else { LEAST_V6 };
        let mtu = mtu.clamp(least, u16::MAX.into());
        let (place, tag) = place(to);
        let word = &self.words[place];
        if known(word.load(Relaxed), tag, now.tick).is_none_or(|old| mtu <= old) {
            let until = now.tick.wrapping_add(ticks(KEPT)) & TICKS;
            word.store(tag << 40 | u64::from(mtu) << 24 | u64::from(until), Relaxed);
        }
    }
}

impl Default for Paths {
    fn default() -> Paths {
        Paths::new()
    }
}

fn place(to: &Addr) -> (usize, u64) {
    let [a, b, c, d] = to.0.map(u64::from);
    let mut hash = (a | b << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (c | d << 32).rotate_left(29);
    hash = (hash ^ (hash >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    // A tag is never 0, which an empty place has.
    (hash as usize >> 20 & (PLACES - 1), (hash >> 40).max(1))
}

fn known(word: u64, tag: u64, now: Tick) -> Option<u32> {
    let left = (word as u32).wrapping_sub(now) & TICKS;
    // The clock of ticks comes round after 48 days; what is left then says nothing for the ten minutes before.
    (word >> 40 == tag && left <= ticks(KEPT)).then_some((word >> 24) as u32 & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::V6;

    fn at(tick: u32) -> Now {
        Now { tick, micros: 0 }
    }

    #[test]
    fn the_smallest_that_was_said_counts_for_ten_minutes() {
        let paths = Paths::new();
        let (a, b) = (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]));
        assert_eq!(paths.mtu(&a, at(0)), None);
        paths.learn(&a, V4, 1400, at(TICKS - 5));
        paths.learn(&a, V4, 1300, at(TICKS - 5));
        paths.learn(&a, V4, 1450, at(TICKS - 5));
        assert_eq!((paths.mtu(&a, at(TICKS + 1)), paths.mtu(&b, at(TICKS + 1))), (Some(1300), None));
        assert_eq!(paths.mtu(&a, at(TICKS - 5 + 2400)), Some(1300));
        assert_eq!(paths.mtu(&a, at(TICKS - 5 + 2401)), None);
        paths.learn(&a, V4, 1450, at(TICKS + 5000));
        assert_eq!(paths.mtu(&a, at(TICKS + 5000)), Some(1450));
    }

    #[test]
    fn nobody_is_believed_an_absurd_mtu() {
        let paths = Paths::new();
        let (four, six) = (Addr::v4([10, 0, 0, 1]), Addr::v6([0xfd; 16]));
        paths.learn(&four, V4, 0, at(1));
        paths.learn(&six, V6, 68, at(1));
        assert_eq!((paths.mtu(&four, at(1)), paths.mtu(&six, at(1))), (Some(552), Some(1280)));
    }
}
