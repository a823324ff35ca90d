//! Records of resolvers, as they travel between sites.

use super::message::{MOST_RECORDS, Message, Records, Told};
use crate::affinity::{Consumer, Record, Share, Store, Who};
use crate::sites::{Registry, SiteNumber};
use std::collections::HashMap;

/// Messages that tell of all these records.
pub fn tell(records: &[Record], sites: &Registry) -> Vec<Message> {
    records.chunks(MOST_RECORDS).map(|records| Message::Records(batch(records, sites))).collect()
}

fn batch(records: &[Record], sites: &Registry) -> Records {
    let mut batch = Records::default();
    let mut places: HashMap<SiteNumber, u8> = HashMap::new();
    for record in records {
        let site = *places.entry(record.site).or_insert_with(|| {
            batch.sites.push(sites.name(record.site).to_string());
            (batch.sites.len() - 1) as u8
        });
        batch.records.push(Told {
            who: record.who.0,
            share: record.share.0,
            site,
            ttl_s: record.ttl_s,
            stamp_ms: record.stamp_ms,
            hits: record.hits,
        });
    }
    batch
}

/// Takes over what counts more than what is here. `correction_ms` is added to the stamps. Sites that this one does not know are left out.
/// How many were taken.
pub fn take(batch: &Records, correction_ms: i64, store: &Store, sites: &Registry, now_ms: u64) -> u64 {
    let numbers: Vec<Option<SiteNumber>> = batch.sites.iter().map(|name| sites.find(name)).collect();
    let mut taken = 0;
    for told in &batch.records {
        let Some(Some(site)) = numbers.get(usize::from(told.site)) else { continue };
        let record = Record {
            who: Who(told.who),
            share: Share(told.share),
            site: *site,
            ttl_s: told.ttl_s,
            stamp_ms: told.stamp_ms.saturating_add_signed(correction_ms),
            hits: told.hits,
        };
        taken += u64::from(store.merge(&record, Some(Consumer::Links), now_ms, sites));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_over_by_name_with_their_stamps_corrected() {
        let (here, there) = (Registry::default(), Registry::default());
        // Numbers differ between nodes, and one site is not known there.
        let numbers = ["south", "north", "west"].map(|name| here.number(name).unwrap());
        ["north", "south"].iter().for_each(|name| assert!(there.number(name).is_some()));
        let (one, two) = (Store::new(100, (1, 2)), Store::new(100, (3, 4)));
        for (n, site) in numbers.iter().enumerate() {
            one.put(Who([n as u8; 16]), Share(5), *site, 60, 100_000, u64::MAX);
        }
        let mut records = Vec::new();
        assert_eq!(one.changes(Consumer::Links, 0, 100, &mut records), None);
        let messages = tell(&records, &here);
        let [Message::Records(batch)] = &messages[..] else { panic!() };
        assert_eq!(take(batch, -3000, &two, &there, 98_000), 2);
        let read = |n: u8| two.read(Who([n; 16]), Share(5)).map(|record| (there.name(record.site), record.stamp_ms));
        assert_eq!([read(0), read(1), read(2)], [Some(("south", 97_000)), Some(("north", 97_000)), None]);
        assert_eq!(take(batch, -3000, &two, &there, 98_000), 0, "the same once more changes nothing");
    }
}
