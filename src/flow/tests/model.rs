//! Random steps on the table, beside a plain map.

use super::super::*;
use super::*;
use crate::wire::ip::FlowKey;
use proptest::prelude::*;
use std::collections::HashMap;

#[derive(Clone, Debug)]
enum Step {
    Insert { client: u8, local: u8, mode: u8, v6: bool, worker: u8 },
    Remove(usize),
    Touch(usize, u8),
    Advance(usize, bool, u8),
    Wait(u16),
    Sweep(u8, u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12u8, 0..6u8, 0..4u8, any::<bool>(), 0..3u8)
            .prop_map(|(client, local, mode, v6, worker)| Step::Insert { client, local, mode, v6, worker }),
        3 => any::<usize>().prop_map(Step::Remove),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(i, bytes)| Step::Touch(i, bytes)),
        4 => (any::<usize>(), any::<bool>(), 0..32u8).prop_map(|(i, client, flags)| Step::Advance(i, client, flags)),
        2 => (0..600u16).prop_map(Step::Wait),
        2 => (0..3u8, 0..20u8).prop_map(|(worker, budget)| Step::Sweep(worker, budget)),
    ]
}

fn new_flow(client: u8, local: u8, mode: u8, six: bool, worker: u8) -> NewFlow {
    let at = |last: u8, port: u16| if six { v6(last.into(), port) } else { v4(last, port) };
    let mode = [Mode::Nat, Mode::Remote, Mode::Direct, Mode::Tunnel][usize::from(mode)];
    let client = at(client, 40_000);
    NewFlow {
        family: if six { V6 } else { V4 },
        target_family: if six { V6 } else { V4 },
        mode,
        client,
        // In NAT mode two VIPs share a server, so that server keys collide.
        vip: at(100 + local % 2, 110),
        local: if mode == Mode::Remote { at(250, 2000 + u16::from(local)) } else { client },
        target: at(20, 110),
        worker,
        ..remote(client, client)
    }
}

struct Entry {
    flow: Flow,
    seen: Tick,
    bytes: [u64; 2],
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_table_is_a_map(steps in prop::collection::vec(any_step(), 1..120)) {
        const CAPACITY: u32 = 12;
        let table = table(CAPACITY, 3);
        let mut flows: Vec<Entry> = Vec::new();
        let mut now: Tick = u32::MAX - 1000;
        let keys = |flow: &Flow| -> Vec<(FlowKey, Side)> {
            let sides = if flow.mode.one_sided() { &[Side::Client][..] } else { &[Side::Client, Side::Server] };
            sides.iter().map(|&side| (flow.key(side), side)).collect()
        };
        for step in steps {
            match step {
                Step::Insert { client, local, mode, v6, worker } => {
                    let new = new_flow(client, local, mode, v6, worker);
                    let taken = |key: &FlowKey| flows.iter().any(|e| keys(&e.flow).iter().any(|(k, _)| k == key));
                    let expected = if flows.len() as u32 == CAPACITY {
                        Some(Refused::Full)
                    } else if taken(&new.client_key()) {
                        Some(Refused::Twin)
                    } else if new.server_key().is_some_and(|key| taken(&key)) {
                        Some(Refused::ServerTwin)
                    } else {
                        None
                    };
                    match insert(&table, &new, now) {
                        Ok(flow) => {
                            prop_assert_eq!(expected, None);
                            flows.push(Entry { flow, seen: now, bytes: [0, 0] });
                        }
                        Err(refused) => prop_assert_eq!(Some(refused), expected),
                    }
                }
                Step::Remove(i) if !flows.is_empty() => {
                    let entry = flows.swap_remove(i % flows.len());
                    let details = table.remove(entry.flow.at);
                    prop_assert_eq!(details.map(|d| (d.flow, d.bytes)), Some((entry.flow, entry.bytes)));
                    prop_assert!(table.remove(entry.flow.at).is_none());
                }
                Step::Touch(i, bytes) if !flows.is_empty() => {
                    let i = i % flows.len();
                    table.touch(&flows[i].flow, now, 1, bytes.into());
                    flows[i].seen = now;
                    flows[i].bytes[0] += u64::from(bytes);
                }
                Step::Advance(i, client, flags) if !flows.is_empty() => {
                    let i = i % flows.len();
                    let entry = &mut flows[i];
                    let side = if client || entry.flow.mode.one_sided() { Side::Client } else { Side::Server };
                    let expected = next(entry.flow.state, side, flags, entry.flow.mode.one_sided());
                    let mut flow = find(&table, &entry.flow.key(side)).expect("it stands");
                    prop_assert_eq!(flow.side, side);
                    table.advance(&mut flow, flags);
                    prop_assert_eq!(flow.state, expected);
                    entry.flow.state = expected;
                }
                Step::Wait(ticks) => now = now.wrapping_add(ticks.into()),
                Step::Sweep(worker, budget) => {
                    let mut gone = Vec::new();
                    table.sweep(worker.into(), budget.into(), now, 1, &TIMEOUTS, |details| gone.push(details.flow));
                    for flow in gone {
                        let i = flows.iter().position(|e| e.flow == flow).expect("it was on record");
                        let entry = flows.swap_remove(i);
                        let limit = TIMEOUTS.of(flow.state, flow.mode.one_sided());
                        prop_assert!(now.wrapping_sub(entry.seen) >= limit);
                    }
                }
                _ => {}
            }
            prop_assert_eq!(table.len() as usize, flows.len());
        }
        // What stands is found from its sides, and nothing else is.
        let standing: HashMap<FlowKey, Flow> =
            flows.iter().flat_map(|e| keys(&e.flow).into_iter().map(|(k, side)| (k, Flow { side, ..e.flow }))).collect();
        for (mode, client, local, v6) in (0..4)
            .flat_map(|m| (0..12).flat_map(move |c| (0..6).flat_map(move |l| [(m, c, l, false), (m, c, l, true)])))
        {
            let new = new_flow(client, local, mode, v6, 0);
            for key in std::iter::once(new.client_key()).chain(new.server_key()) {
                prop_assert_eq!(find(&table, &key), standing.get(&key).copied());
            }
        }
        // A full round long after takes out all.
        for worker in 0..3 {
            table.sweep(worker, CAPACITY, now.wrapping_add(1_000_000), 1, &TIMEOUTS, |_| ());
        }
        prop_assert!(table.is_empty());
    }
}
