//! The store beside a plain transcription of E4, E5 and E7.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    /// A question: what the site is chosen afresh to be, of those that are up.
    Ask {
        who: u32,
        share: u64,
        site: u8,
        ttl_s: u32,
        up: u64,
    },
    Told(Record),
    Pass {
        ms: u64,
    },
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ask = (0u32..40, 0u64..3, 0u8..4, 0u32..8, 0u64..16);
    let ask = ask.prop_map(|(who, share, site, ttl_s, up)| Step::Ask { who, share, site, ttl_s, up: up | 1 << site });
    let pass = prop_oneof![0u64..20, 900u64..8100].prop_map(|ms| Step::Pass { ms });
    let told = records().prop_map(Step::Told);
    prop::collection::vec(prop_oneof![6 => ask, 2 => told, 2 => pass, 1 => Just(Step::Sweep)], 1..300)
}

/// Few different stamps, so that they are often the same.
fn records() -> impl Strategy<Value = Record> {
    let fields = (0u32..40, 0u64..3, 0u8..4, 0u32..8, 0u64..30, 0u32..3);
    fields.prop_map(|(number, share, site, ttl_s, second, hits)| Record {
        who: who(number),
        share: Share(share),
        site: SiteNumber(site),
        ttl_s,
        stamp_ms: second * 1000,
        hits,
    })
}

/// E4 and E7 as they are written.
#[derive(Default)]
struct Model(BTreeMap<(Who, Share), Record>);

impl Model {
    fn ask(&mut self, new: Record, up: u64, now: u64) -> (bool, SiteNumber) {
        if let Some(record) = self.0.get_mut(&(new.who, new.share))
            && now <= record.stamp_ms + u64::from(record.ttl_s) * 1000
            && up >> record.site.0 & 1 == 1
        {
            // Other nodes' clocks may be ahead.
            record.stamp_ms = record.stamp_ms.max(now);
            record.hits += 1;
            return (true, record.site);
        }
        self.0.insert((new.who, new.share), new);
        (false, new.site)
    }

    fn told(&mut self, new: Record, now: u64, sites: &Registry) {
        if now > new.stamp_ms + u64::from(new.ttl_s) * 1000 {
            return;
        }
        let rank = |record: &Record| {
            let name = std::cmp::Reverse(sites.name(record.site).to_string());
            (record.stamp_ms, name, record.ttl_s, record.hits)
        };
        let old = self.0.entry((new.who, new.share)).or_insert(new);
        if rank(&new) > rank(old) {
            *old = new;
        }
    }
}

proptest! {
    #[test]
    fn the_store_does_as_it_is_written(steps in steps()) {
        let (store, sites, mut model, mut now) = (Store::new(500, SEED), sites(), Model::default(), 10_000);
        for step in steps {
            match step {
                Step::Ask { who: number, share, site, ttl_s, up } => {
                    let (who, share, site) = (who(number), Share(share), SiteNumber(site));
                    let new = Record { who, share, site, ttl_s, stamp_ms: now, hits: 0 };
                    let (known, expected) = model.ask(new, up, now);
                    let found = store.follow(who, share, now, up);
                    prop_assert_eq!(found, known.then_some(expected));
                    if found.is_none() {
                        prop_assert_eq!(store.put(who, share, site, ttl_s, now, up), expected);
                    }
                }
                Step::Told(record) => {
                    store.merge(&record, None, now, &sites);
                    model.told(record, now, &sites);
                }
                Step::Pass { ms } => now += ms,
                Step::Sweep => {
                    store.sweep(0, usize::MAX, now);
                    model.0.retain(|_, record| now <= record.stamp_ms + u64::from(record.ttl_s) * 1000);
                }
            }
            prop_assert_eq!(store.counts().records, model.0.len() as u64);
        }
        prop_assert_eq!(all(&store), model.0.into_values().collect::<Vec<_>>());
    }

    /// In whatever order, how often ever, and by whatever way round.
    #[test]
    fn nodes_that_have_heard_the_same_hold_the_same(
        (records, order) in prop::collection::vec(records(), 1..150).prop_flat_map(|records| {
            let order = prop::collection::vec(0..records.len(), 0..100).prop_map(|more| more);
            let all = Just((0..records.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(records), (all, order).prop_map(|(mut all, more)| { all.splice(0..0, more); all }))
        }),
    ) {
        let (sites, nodes) = (sites(), [(); 3].map(|()| Store::new(500, SEED)));
        records.iter().for_each(|record| _ = nodes[0].merge(record, None, 0, &sites));
        order.iter().for_each(|at| _ = nodes[1].merge(&records[*at], None, 0, &sites));
        prop_assert_eq!(all(&nodes[0]), all(&nodes[1]));
        // A third node hears of half from one and of half from another, and from all once more.
        let (early, late) = records.split_at(records.len() / 2);
        let beside = Store::new(500, SEED);
        late.iter().for_each(|record| _ = beside.merge(record, None, 0, &sites));
        early.iter().for_each(|record| _ = nodes[2].merge(record, None, 0, &sites));
        let told = changes(&beside, Consumer::Links);
        told.iter().chain(&told).for_each(|record| _ = nodes[2].merge(record, None, 0, &sites));
        prop_assert_eq!(all(&nodes[0]), all(&nodes[2]));
    }

    /// Nodes answer, tell each other and are told in turn, and in the end of all that is left.
    #[test]
    fn nodes_that_have_told_each_other_hold_the_same(
        steps in prop::collection::vec((0usize..3, 0u32..30, 0u8..4, 1u64..2000, prop::option::of(0usize..3)), 1..150),
    ) {
        let (sites, nodes, mut now) = (sites(), [(); 3].map(|()| Store::new(500, SEED)), 1000);
        let mut mail: [Vec<Record>; 3] = Default::default();
        let tell = |from: usize, mail: &mut [Vec<Record>; 3]| {
            let told = changes(&nodes[from], Consumer::Links);
            (0..3).filter(|to| *to != from).for_each(|to| mail[to].extend_from_slice(&told));
        };
        for (node, number, site, ms, teller) in steps {
            now += ms;
            if nodes[node].follow(who(number), POOL, now, ALL).is_none() {
                nodes[node].put(who(number), POOL, SiteNumber(site), 100_000, now, ALL);
            }
            if let Some(teller) = teller {
                tell(teller, &mut mail);
                let received = std::mem::take(&mut mail[teller]);
                received.iter().for_each(|record| _ = nodes[teller].merge(record, Some(Consumer::Links), now, &sites));
            }
        }
        nodes.iter().for_each(|node| _ = node.sweep(0, usize::MAX, now + 2000));
        (0..3).for_each(|node| tell(node, &mut mail));
        for (node, received) in nodes.iter().zip(mail) {
            received.iter().for_each(|record| _ = node.merge(record, Some(Consumer::Links), now, &sites));
        }
        prop_assert_eq!(all(&nodes[0]), all(&nodes[1]));
        prop_assert_eq!(all(&nodes[0]), all(&nodes[2]));
    }
}
