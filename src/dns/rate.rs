//! How many answers of one kind a network gets: so that a flood of queries that pretend to come from a victim does not become a flood of
//! answers to it. A bounded table of buckets; where a place is wanted, the one that was not used for longest goes.

use super::snapshot::RateLimit;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::IpAddr;

/// A place is looked for in so many.
const WAYS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// Truncated, so that a real client comes by TCP.
    Slip,
    Drop,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// 0: free.
    tag: u32,
    /// When tokens were last added.
    at_ms: u32,
    /// Thousandths of answers.
    tokens: u32,
    /// Answers kept back one after the other.
    kept: u32,
}

pub(super) struct Limiter {
    limit: RateLimit,
    buckets: Box<[Bucket]>,
    key: u64,
}

impl Limiter {
    pub fn new(limit: &RateLimit, key: u64) -> Limiter {
        let places = limit.table.max(WAYS).next_power_of_two();
        Limiter { limit: limit.clone(), buckets: vec![Bucket::default(); places].into(), key }
    }

    pub fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// `like`: equal for answers that are like each other.
    pub fn ask(&mut self, from: IpAddr, like: u64, now_ms: u64) -> Verdict {
        let mut hasher = SipHasher13::new_with_keys(self.key, !self.key);
        match from.to_canonical() {
            IpAddr::V4(from) => {
                hasher.write_u32(u32::from(from) & mask(u128::from(u32::MAX), self.limit.prefix_v4, 32) as u32)
            }
            IpAddr::V6(from) => hasher.write_u128(u128::from(from) & mask(u128::MAX, self.limit.prefix_v6, 128)),
        }
        hasher.write_u64(like);
        let hash = hasher.finish();
        let set = (hash as usize & (self.buckets.len() - 1)) & !(WAYS - 1);
        let ways = &mut self.buckets[set..set + WAYS];
        let (tag, now) = ((hash >> 32) as u32 | 1, now_ms as u32);
        let full = self.limit.per_second.saturating_mul(1000);
        let bucket = match ways.iter().position(|bucket| bucket.tag == tag) {
            Some(way) => &mut ways[way],
            None => {
                let oldest = ways.iter_mut().max_by_key(|bucket| (bucket.tag == 0, now.wrapping_sub(bucket.at_ms)));
                let Some(bucket) = oldest else { return Verdict::Pass };
                *bucket = Bucket { tag, at_ms: now, tokens: full, kept: 0 };
                bucket
            }
        };
        let passed_ms = now.wrapping_sub(bucket.at_ms);
        bucket.tokens = bucket.tokens.saturating_add(passed_ms.saturating_mul(self.limit.per_second)).min(full);
        bucket.at_ms = now;
        if bucket.tokens >= 1000 {
            (bucket.tokens, bucket.kept) = (bucket.tokens - 1000, 0);
            return Verdict::Pass;
        }
        bucket.kept = bucket.kept.wrapping_add(1);
        if self.limit.slip != 0 && bucket.kept % self.limit.slip == 0 { Verdict::Slip } else { Verdict::Drop }
    }
}

/// The upper `prefix` of `width` bits of `ones`.
fn mask(ones: u128, prefix: u8, width: u8) -> u128 {
    let host = u32::from(width.saturating_sub(prefix));
    ones & ones.checked_shl(host).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_second: u32, slip: u32, table: usize) -> Limiter {
        Limiter::new(&RateLimit { per_second, slip, table, ..RateLimit::default() }, 7)
    }

    #[test]
    fn a_network_gets_so_many_a_second_and_every_second_one_above_slips() {
        let mut limiter = limiter(10, 2, 64);
        let mut ask = |from: &str, like, now| limiter.ask(from.parse().unwrap(), like, now);
        let first: Vec<Verdict> = (0..14).map(|_| ask("192.0.2.1", 1, 5000)).collect();
        assert_eq!(first[..10], [Verdict::Pass; 10]);
        assert_eq!(first[10..], [Verdict::Drop, Verdict::Slip, Verdict::Drop, Verdict::Slip]);
        // The same /24 shares; another one, and other answers, have their own.
        assert_eq!(ask("192.0.2.200", 1, 5000), Verdict::Drop);
        assert_eq!(ask("192.0.3.1", 1, 5000), Verdict::Pass);
        assert_eq!(ask("192.0.2.1", 2, 5000), Verdict::Pass);
        // A tenth of a second later there is one more.
        assert_eq!(ask("192.0.2.1", 1, 5100), Verdict::Pass);
        assert_eq!(ask("192.0.2.1", 1, 5100), Verdict::Drop);
        let later = (0..11).map(|_| ask("192.0.2.1", 1, 60_000)).filter(|verdict| *verdict == Verdict::Pass);
        assert_eq!(later.count(), 10);
    }

    #[test]
    fn a_full_table_forgets_the_oldest_and_does_not_grow() {
        let mut limiter = limiter(1, 0, 16);
        for n in 0..1000_u32 {
            let from = IpAddr::V4((n << 8).into());
            assert_eq!(limiter.ask(from, 1, u64::from(n)), Verdict::Pass);
        }
        assert_eq!(limiter.buckets.len(), 16);
        assert_eq!(limiter.ask(IpAddr::V4((999 << 8).into()), 1, 999), Verdict::Drop);
    }

    #[test]
    fn ipv6_counts_by_56_bits() {
        let mut limiter = limiter(1, 0, 64);
        assert_eq!(limiter.ask("2001:db8:0:1::1".parse().unwrap(), 1, 0), Verdict::Pass);
        assert_eq!(limiter.ask("2001:db8:0:ff::2".parse().unwrap(), 1, 0), Verdict::Drop);
        assert_eq!(limiter.ask("2001:db8:0:100::1".parse().unwrap(), 1, 0), Verdict::Pass);
    }
}
