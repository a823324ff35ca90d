//! The table, one thread at a time.

use super::super::view::FlowDetails;
use super::super::*;
use super::*;
use crate::wire::ip::UDP;
use tcp::{ACK, FIN, SYN};

#[test]
fn both_sides_lead_to_one_flow() {
    let table = table(16, 1);
    let new = remote(v4(1, 40_000), v4(250, 2000));
    let flow = insert(&table, &new, 5).expect("room");
    let client = find(&table, &new.client_key()).expect("the client's side");
    let server = find(&table, &new.server_key().expect("two-sided")).expect("the server's side");
    assert_eq!(client, flow);
    assert_eq!(server, Flow { side: Side::Server, ..flow });
    assert_eq!((flow.client, flow.vip, flow.local, flow.target), (new.client, new.vip, new.local, new.target));
    assert_eq!((flow.mode, flow.state, flow.epoch, flow.hops), (Mode::Remote, State::SynSent, 1, [0, 0]));
    for side in [Side::Client, Side::Server] {
        let (hit, miss) = (flow.key(side), flow.key(side).reversed());
        assert!(find(&table, &hit).is_some() && find(&table, &miss).is_none());
        assert!(find(&table, &crate::wire::ip::FlowKey { protocol: crate::wire::ip::UDP, ..hit }).is_none());
    }
}

#[test]
fn ipv6_addresses_come_back_whole() {
    let table = table(16, 1);
    let new = nat6(v6(1, 40_000));
    let flow = insert(&table, &new, 5).expect("room");
    assert_eq!(find(&table, &new.client_key()), Some(flow));
    assert_eq!((flow.client, flow.vip, flow.local, flow.target), (new.client, new.vip, new.local, new.target));
    // The same first words, other last ones: another key.
    assert!(find(&table, &nat6(v6(2, 40_000)).client_key()).is_none());
    // A record that was IPv6 once says nothing of it as IPv4.
    table.remove(flow.at).expect("it stands");
    let new = nat(v4(1, 40_000));
    assert_eq!(insert(&table, &new, 5).map(|flow| flow.client), Ok(new.client));
}

#[test]
fn a_tunnel_is_told_whole_whichever_families_it_joins() {
    let table = table(16, 1);
    let kinds = [Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue, Encapsulation::Gue1];
    for (port, encapsulation) in (1..).zip(kinds) {
        let base = NewFlow { mode: Mode::Tunnel, encapsulation, ..nat(v4(1, port)) };
        let six = NewFlow { mode: Mode::Tunnel, encapsulation, ..nat6(v6(1, port)) };
        for new in [
            base,
            NewFlow { target_family: V6, target: v6(20, 110), ..base },
            six,
            NewFlow { target_family: V4, target: v4(20, 110), ..six },
        ] {
            let flow = insert(&table, &new, 5).expect("room");
            assert_eq!(find(&table, &new.client_key()), Some(flow));
            assert_eq!((flow.mode, flow.encapsulation), (Mode::Tunnel, encapsulation));
            assert_eq!((flow.family, flow.target_family), (new.family, new.target_family));
            assert_eq!((flow.client, flow.vip, flow.target), (new.client, new.vip, new.target));
            table.remove(flow.at).expect("it stands");
        }
    }
}

#[test]
fn per_packet_flows_have_the_servers_key_alone() {
    let table = table(16, 1);
    let new = NewFlow { per_packet: true, protocol: UDP, state: State::Udp, ..nat(v4(1, 40_000)) };
    let flow = insert(&table, &new, 5).expect("room");
    assert_eq!(find(&table, &new.client_key()), None);
    assert_eq!(
        find(&table, &new.server_key().unwrap()).map(|found| (found.at, found.side)),
        Some((flow.at, Side::Server))
    );
    assert_eq!(table.words(), 1);
    // The same client by the same VIP to another server, and to this one again.
    insert(&table, &NewFlow { target: v4(21, 53), ..new }, 5).expect("a record of its own");
    assert_eq!(insert(&table, &new, 5), Err(Refused::ServerTwin));
    assert_eq!((table.words(), table.len()), (2, 2));
    table.remove(flow.at).expect("it stands");
    assert_eq!((table.words(), table.len()), (1, 1));
}

#[test]
fn what_is_not_on_record_is_touched_in_vain() {
    let table = table(1, 1);
    let mut flow = NewFlow { per_packet: true, protocol: UDP, state: State::Udp, ..direct(v4(1, 40_000)) }.unrecorded();
    insert(&table, &nat(v4(2, 2)), 5).expect("room");
    table.touch(&flow, 9, 1, 100);
    table.note_ack(&flow, 9);
    assert!(!table.set_hop(&mut flow, Side::Server, 7, 1));
    assert!(
        table.details(flow.at).is_none() && table.target_slot(flow.at).is_none() && table.remove(flow.at).is_none()
    );
    table.for_each(|on| assert_eq!((on.packets, on.flow.hops, on.last_seen), ([0, 0], [0, 0], 5)));
}

#[test]
fn one_sided_flows_have_one_key() {
    let table = table(16, 1);
    let new = direct(v4(1, 40_000));
    let flow = insert(&table, &new, 0).expect("room");
    assert!(find(&table, &new.client_key()).is_some());
    assert!(find(&table, &flow.key(Side::Server)).is_none());
    assert!(table.remove(flow.at).is_some() && table.is_empty());
    assert!(find(&table, &new.client_key()).is_none());
}

#[test]
fn a_key_on_record_refuses_and_leaves_nothing() {
    let table = table(16, 1);
    let new = remote(v4(1, 40_000), v4(250, 2000));
    insert(&table, &new, 0).expect("room");
    assert_eq!(insert(&table, &remote(v4(1, 40_000), v4(250, 2001)), 0), Err(Refused::Twin));
    let other = remote(v4(2, 40_000), v4(250, 2000));
    assert_eq!(insert(&table, &other, 0), Err(Refused::ServerTwin));
    assert_eq!(table.len(), 1);
    assert!(find(&table, &other.client_key()).is_none());
}

#[test]
fn a_full_table_refuses_and_takes_again_after_a_removal() {
    let table = table(10, 3);
    let flows: Vec<Flow> = (0..10).map(|i| insert(&table, &nat(v4(1, i)), 0).expect("room")).collect();
    assert_eq!((table.len(), table.capacity()), (10, 10));
    assert_eq!(insert(&table, &nat(v4(1, 10)), 0), Err(Refused::Full));
    table.remove(flows[3].at).expect("it stands");
    insert(&table, &nat(v4(1, 10)), 0).expect("room");
}

#[test]
fn crowded_buckets_refuse_and_leave_nothing() {
    // One bucket of 8 for 20 records: four flows of two words.
    let table = FlowTable::with_buckets(20, 1, 1, KEY);
    let flows: Vec<Flow> = (0..4).map(|i| insert(&table, &nat(v4(1, i)), 0).expect("room")).collect();
    assert_eq!(insert(&table, &nat(v4(1, 4)), 0), Err(Refused::NoRoom));
    assert_eq!(insert(&table, &direct(v4(1, 4)), 0), Err(Refused::NoRoom));
    table.remove(flows[0].at).expect("it stands");
    insert(&table, &direct(v4(1, 4)), 0).expect("a place");
    // One place is left: half of a flow does not stay there.
    assert_eq!(insert(&table, &nat(v4(1, 5)), 0), Err(Refused::NoRoom));
    insert(&table, &direct(v4(1, 5)), 0).expect("the last place");
    assert_eq!(table.len(), 5);
}

/// Keys are looked for in one bucket until one of those that begin there has been put elsewhere, and then in both.
#[test]
fn flows_are_found_wherever_their_words_went() {
    let table = FlowTable::with_buckets(60, 8, 1, KEY);
    let news: Vec<NewFlow> = (0..48).map(|port| direct(v4(1, port))).collect();
    let hint = |new: &NewFlow| {
        let hint = table.prefetch(&new.client_key());
        let first = table.prefetch_record(hint.hash, V4);
        if first.leads_on() { first } else { table.prefetch_late(hint.hash, V4) }
    };
    let (mut there, mut elsewhere) = (Vec::new(), 0);
    for new in &news {
        assert!(find(&table, &new.client_key()).is_none() && table.follow(&new.client_key(), hint(new)).is_none());
        there.push((new, insert(&table, new, 0).expect("room")));
        for (new, flow) in &there {
            assert_eq!(find(&table, &new.client_key()), Some(*flow));
            assert_eq!(table.follow(&new.client_key(), hint(new)), Some(*flow));
            assert_eq!(insert(&table, new, 0), Err(Refused::Twin));
        }
    }
    for (new, flow) in &there {
        elsewhere += u32::from(!table.prefetch_record(table.hash(&new.client_key()), V4).leads_on());
        table.remove(flow.at).expect("it stands");
        assert!(find(&table, &new.client_key()).is_none());
    }
    assert!(elsewhere > 0, "some were put into their second buckets");
    assert_eq!(table.words(), 0);
}

#[test]
fn a_flow_is_removed_once() {
    let table = table(16, 1);
    let new = NewFlow { track_acks: true, worker: 9, ..remote(v4(1, 40_000), v4(250, 2000)) };
    let mut flow = insert(&table, &new, 400).expect("room");
    table.touch(&flow, 410, 3, 4000);
    table.note_ack(&flow, 77);
    let server = find(&table, &flow.key(Side::Server)).expect("it stands");
    table.touch(&server, 420, 1, 60);
    table.note_ack(&server, 78);
    assert_eq!(table.advance(&mut flow, SYN), (State::SynSent, State::SynSent));
    let FlowDetails { target_slot, pool, worker, packets, bytes, acks, .. } =
        table.details(flow.at).expect("it stands");
    assert_eq!((target_slot, pool, worker), (7, Some(PoolId(3)), 9));
    assert_eq!((packets, bytes, acks), ([3, 1], [4000, 60], [77, 78]));
    let details = table.remove(flow.at).expect("it stands");
    assert_eq!((details.packets, details.idle(450), details.age_s(480)), ([3, 1], 30, 20));
    assert!(table.remove(flow.at).is_none() && table.details(flow.at).is_none());
    assert!(table.is_empty());
}

#[test]
fn a_stale_view_does_not_touch_the_successor() {
    let table = table(1, 1);
    let mut old = insert(&table, &nat(v4(1, 1)), 0).expect("room");
    table.remove(old.at).expect("it stands");
    let new = insert(&table, &nat(v4(1, 2)), 0).expect("room");
    table.touch(&old, 9, 1, 1);
    assert!(!table.set_state(&mut old.clone(), State::Closing));
    assert!(!table.set_hop(&mut old.clone(), Side::Client, 5, 1));
    table.advance(&mut old, tcp::RST);
    assert!(table.remove(old.at).is_none());
    assert_eq!(find(&table, &new.key(Side::Client)), Some(new));
    assert_eq!(table.details(new.at).map(|details| (details.packets, details.last_seen)), Some(([0, 0], 0)));
}

#[test]
fn packets_move_the_state_on() {
    let table = table(16, 1);
    let mut client = insert(&table, &nat(v4(1, 1)), 0).expect("room");
    let mut server = find(&table, &client.key(Side::Server)).expect("it stands");
    assert_eq!(table.advance(&mut server, SYN | ACK), (State::SynSent, State::SynReceived));
    // The client's view is out of date; the step counts from what is on record.
    assert_eq!(table.advance(&mut client, ACK), (State::SynSent, State::SynSent));
    let mut client = find(&table, &client.key(Side::Client)).expect("it stands");
    assert_eq!(table.advance(&mut client, ACK), (State::SynReceived, State::Established));
    let mut server = find(&table, &client.key(Side::Server)).expect("it stands");
    assert_eq!(table.advance(&mut server, FIN | ACK), (State::Established, State::ServerFin));
    assert_eq!(table.advance(&mut client, FIN | ACK), (State::ServerFin, State::Closing));
    assert!(client.is_fresh_start(SYN) && !client.is_fresh_start(SYN | ACK));
    assert!(!Flow { side: Side::Server, ..client }.is_fresh_start(SYN));
}

#[test]
fn hops_are_of_one_epoch() {
    let table = table(16, 1);
    let mut flow = insert(&table, &nat(v4(1, 1)), 0).expect("room");
    assert!(table.set_hop(&mut flow, Side::Client, 5, 1) && table.set_hop(&mut flow, Side::Server, 6, 1));
    assert_eq!((flow.hops, flow.epoch), ([5, 6], 1));
    assert!(table.set_hop(&mut flow, Side::Server, 8, 2));
    assert_eq!((flow.hops, flow.epoch), ([0, 8], 2));
    assert_eq!(find(&table, &flow.key(Side::Client)), Some(flow));
    // The hand forgets those of another epoch.
    table.sweep(0, 16, 0, 2, &TIMEOUTS, |_| panic!("nothing has expired"));
    assert_eq!(find(&table, &flow.key(Side::Client)), Some(flow));
    table.sweep(0, 16, 0, 3, &TIMEOUTS, |_| panic!("nothing has expired"));
    assert_eq!(find(&table, &flow.key(Side::Client)).map(|flow| (flow.hops, flow.epoch)), Some(([0, 0], 3)));
}

#[test]
fn the_hand_takes_what_has_been_silent_too_long() {
    let table = table(32, 2);
    // Close before the clock wraps.
    let start = u32::MAX - 60;
    let states = [State::SynSent, State::Established, State::Closing, State::ResetByClient, State::Udp];
    for (i, state) in (0..).zip(states) {
        insert(&table, &NewFlow { state, ..nat(v4(1, i)) }, start).expect("room");
    }
    let sweep = |now: Tick| {
        let mut gone: Vec<State> = Vec::new();
        let removed = table.sweep(0, 100, now, 1, &TIMEOUTS, |details| gone.push(details.flow.state));
        assert_eq!(removed as usize, gone.len());
        gone.sort_by_key(|state| *state as u8);
        gone
    };
    assert_eq!(sweep(start.wrapping_add(39)), []);
    assert_eq!(sweep(start.wrapping_add(40)), [State::ResetByClient]);
    // A clock that is behind expires nothing.
    assert_eq!(sweep(start.wrapping_sub(5)), []);
    let established = find(&table, &nat(v4(1, 1)).client_key()).expect("it stands");
    table.touch(&established, start.wrapping_add(120), 1, 1);
    assert_eq!(sweep(start.wrapping_add(120)), [State::SynSent]);
    assert_eq!(sweep(start.wrapping_add(29_879)), [State::Closing, State::Udp]);
    assert_eq!(sweep(start.wrapping_add(29_880)), [State::Established]);
    assert!(table.is_empty());
}

#[test]
fn the_hand_goes_on_where_it_stopped() {
    let table = table(10, 1);
    for i in 0..10 {
        insert(&table, &nat(v4(1, i)), 0).expect("room");
    }
    let taken: Vec<u32> = (0..4).map(|_| table.sweep(0, 3, 1000, 1, &TIMEOUTS, |_| ())).collect();
    assert_eq!(taken, [3, 3, 3, 1]);
}

#[test]
fn every_flow_is_shown_once() {
    let table = table(100, 3);
    for i in 0..50 {
        insert(&table, &NewFlow { worker: (i % 3) as u8, ..nat(v4(1, i)) }, 0).expect("room");
    }
    let mut ports = Vec::new();
    table.for_each(|details| ports.push(details.flow.client.port));
    ports.sort_unstable();
    assert_eq!(ports, (0..50).collect::<Vec<u16>>());
}

/// What the sizing rests on: at `max_flows` there is room for all but a few in a million.
#[test]
fn there_is_room_up_to_max_flows() {
    for max_flows in [1000, 157_286] {
        let table = table(max_flows, 2);
        let refused = (0..max_flows).filter(|&i| {
            let client = v4((i >> 16) as u8, i as u16);
            matches!(insert(&table, &NewFlow { worker: (i & 1) as u8, ..nat(client) }, 0), Err(Refused::NoRoom))
        });
        assert!(refused.count() <= 4);
    }
}
