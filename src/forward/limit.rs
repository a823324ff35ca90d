//! How many answers of its own (RST, ICMP errors) a worker may send.

use super::Now;
use crate::flow::TICK_MS;

/// A token bucket, filled by the tick.
pub struct Bucket {
    per_tick: u32,
    most: u32,
    left: u32,
    filled: u32,
}

impl Bucket {
    /// `per_s` on average, and at most as many at once.
    pub fn new(per_s: u32) -> Bucket {
        Bucket { per_tick: (per_s * TICK_MS as u32 / 1000).max(1), most: per_s, left: per_s, filled: 0 }
    }

    pub fn take(&mut self, now: Now) -> bool {
        let ticks = now.tick.wrapping_sub(self.filled);
        if ticks > 0 {
            self.left = self.left.saturating_add(ticks.saturating_mul(self.per_tick)).min(self.most);
            self.filled = now.tick;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// A worker's limits.
pub struct Limits {
    /// Generous: after a restart every client of a busy site must be told at once that its connection is gone.
    pub resets: Bucket,
    /// As routers do (RFC 4443 2.4 f, RFC 1812 4.3.2.8).
    pub icmp: Bucket,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { resets: Bucket::new(20_000), icmp: Bucket::new(1_000) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_no_more() {
        let mut bucket = Bucket::new(1000);
        let mut take = |tick| (0..5000).filter(|_| bucket.take(Now { tick, micros: 0 })).count();
        assert_eq!(take(0), 1000);
        assert_eq!(take(0), 0);
        assert_eq!(take(1), TICK_MS as usize);
        assert_eq!(take(1_000_000), 1000);
    }
}
