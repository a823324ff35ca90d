//! Who tells that a connection is no longer open: exactly one.

use super::super::*;
use super::*;
use crate::wire::l4::{ACK, FIN, RST, SYN};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A packet of `side` as the journey takes it. True: it is the one that closed the connection.
fn takes(table: &FlowTable, key: &crate::wire::ip::FlowKey, flags: u8) -> bool {
    let Some(mut flow) = find(table, key) else { return false };
    if table.details(flow.at).is_none() {
        return false;
    }
    let (before, after) = table.advance(&mut flow, flags);
    let one_sided = flow.mode.one_sided();
    is_open(before, one_sided) && !is_open(after, one_sided)
}

/// Both sides close, one resets, and the sweep takes the record away, all at once.
#[test]
fn a_connection_is_closed_once_by_a_packet_or_by_its_end() {
    const ROUNDS: u32 = if cfg!(debug_assertions) { 3_000 } else { 100_000 };
    let table = table(8, 4);
    let new = nat(v4(1, 40_000));
    let (client, server) = (new.client_key(), new.server_key().expect("two-sided"));
    let (turn, told, done) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let mut ends = [0, 0];
    std::thread::scope(|scope| {
        for side in 0..2 {
            let (table, turn, told, done) = (&table, &turn, &told, &done);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    while turn.load(SeqCst) != round {
                        std::thread::yield_now();
                    }
                    let key = if side == 0 { client } else { server };
                    for flags in [FIN | ACK, FIN | ACK, RST | ACK] {
                        told.fetch_add(u32::from(takes(table, &key, flags)), SeqCst);
                    }
                    done.fetch_add(1, SeqCst);
                }
            });
        }
        for round in 1..=ROUNDS {
            let mut flow = insert(&table, &new, round).expect("room");
            table.set_state(&mut flow, State::Established);
            told.store(0, SeqCst);
            done.store(0, SeqCst);
            turn.store(round, SeqCst);
            // Some ends come early, some late.
            (0..round % 97 * 8).for_each(|_| std::hint::spin_loop());
            let gone = table.remove(flow.at).expect("nobody else removes it");
            while done.load(SeqCst) != 2 {
                std::thread::yield_now();
            }
            let open = is_open(gone.flow.state, false);
            assert_eq!(told.load(SeqCst) + u32::from(open), 1, "{:?}", gone.flow.state);
            ends[usize::from(open)] += 1;
        }
    });
    println!("{} closed by a packet, {} by the end of the record", ends[0], ends[1]);
}

#[test]
fn the_last_state_of_a_removed_flow_stays_the_last() {
    let table = table(8, 1);
    let new = nat(v4(1, 40_000));
    let flow = insert(&table, &new, 1).unwrap();
    let mut stale = find(&table, &new.server_key().unwrap()).unwrap();
    assert_eq!(table.remove(flow.at).unwrap().flow.state, State::SynSent);
    assert_eq!(table.advance(&mut stale, SYN | ACK), (State::SynSent, State::SynSent));
}
