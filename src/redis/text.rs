//! Records as they stand on the server: in words that an administrator can read there too.
//!
//! ```text
//!   key      PREFIX:r:WHO:SHARE                    both in hexadecimal digits
//!   value    STAMP_MS TTL_S HITS SITE              of the key
//!   change   WHO:SHARE STAMP_MS TTL_S HITS SITE    one on each line of a change
//! ```

use crate::affinity::{Record, Share, Who};
use crate::sites::Registry;

/// No TTL that is configured is longer: 7 days.
const TTL_MOST_S: u32 = 7 * 86400;

/// Who and share, as in a key.
pub fn name(record: &Record) -> String {
    format!("{:032x}:{:016x}", u128::from_be_bytes(record.who.0), record.share.0)
}

/// `ahead_ms`: by how much the server's clock is ahead; stamps go by it there.
pub fn value(record: &Record, ahead_ms: i64, sites: &Registry) -> String {
    let Record { ttl_s, stamp_ms, hits, site, .. } = record;
    format!("{} {ttl_s} {hits} {}", stamp_ms.saturating_add_signed(ahead_ms), sites.name(*site))
}

/// None: it is no record, or of a site that is not known here.
pub fn record(name: &str, value: &str, ahead_ms: i64, sites: &Registry) -> Option<Record> {
    let (who, share) = name.split_once(':')?;
    let mut words = value.splitn(4, ' ');
    let mut word = || words.next();
    let (stamp_ms, ttl_s, hits) = (word()?.parse::<u64>().ok()?, word()?.parse::<u32>().ok()?, word()?.parse().ok()?);
    Some(Record {
        who: Who(u128::from_str_radix(who, 16).ok()?.to_be_bytes()),
        share: Share(u64::from_str_radix(share, 16).ok()?),
        site: sites.find(word()?)?,
        ttl_s: ttl_s.min(TTL_MOST_S),
        stamp_ms: stamp_ms.saturating_add_signed(ahead_ms.saturating_neg()),
        hits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sites() -> Registry {
        let sites = Registry::default();
        assert!(sites.number("south").is_some() && sites.number("north").is_some());
        sites
    }

    proptest! {
        #[test]
        fn a_record_reads_back(
            (who, share, north, ttl_s) in (any::<[u8; 16]>(), any::<u64>(), any::<bool>(), 0..=TTL_MOST_S),
            (stamp_ms, hits, ahead_ms) in (10_000_000u64..1 << 42, any::<u32>(), -10_000_000i64..10_000_000),
        ) {
            let sites = sites();
            let site = sites.find(if north { "north" } else { "south" }).unwrap();
            let written = Record { who: Who(who), share: Share(share), site, ttl_s, stamp_ms, hits };
            let (name, value) = (name(&written), value(&written, ahead_ms, &sites));
            prop_assert_eq!(record(&name, &value, ahead_ms, &sites), Some(written));
        }

        #[test]
        fn no_text_hurts(name in "\\PC{0,60}", value in "[0-9 a-z-]{0,60}", ahead: i64) {
            let _ = record(&name, &value, ahead, &sites());
        }
    }

    #[test]
    fn what_is_not_known_is_no_record() {
        let sites = sites();
        let name = format!("{:032x}:{:016x}", 1, 2);
        assert!(record(&name, "1000 60 3 north", 0, &sites).is_some());
        for value in ["1000 60 3 west", "1000 60 3", "-1 60 3 north", "1000 60 north", ""] {
            assert_eq!(record(&name, value, 0, &sites), None, "{value}");
        }
        assert_eq!(record("12", "1000 60 3 north", 0, &sites), None);
        assert_eq!(record(&name, "1000 4000000000 3 north", 0, &sites).map(|record| record.ttl_s), Some(TTL_MOST_S));
    }
}
