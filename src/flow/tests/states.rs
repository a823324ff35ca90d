//! The state machine, every packet on every state.

use super::super::*;
use super::TIMEOUTS;
use State::*;
use tcp::{ACK, FIN, RST, SYN};

const SIDES: [Side; 2] = [Side::Client, Side::Server];

/// Every state, every side, every mix of flags, seen from both sides or one.
fn every(mut check: impl FnMut(State, Side, u8, bool)) {
    for state in State::ALL {
        for flags in 0..=u8::MAX {
            check(state, Side::Client, flags, true);
            SIDES.into_iter().for_each(|side| check(state, side, flags, false));
        }
    }
}

fn journey(start: State, one_sided: bool, packets: &[(Side, u8, State)]) {
    packets.iter().enumerate().fold(start, |state, (i, &(side, flags, expected))| {
        let state = next(state, side, flags, one_sided);
        assert_eq!(state, expected, "packet {i}");
        state
    });
}

const C: Side = Side::Client;
const S: Side = Side::Server;

#[test]
fn a_connection_opens_and_closes() {
    journey(
        SynSent,
        false,
        &[
            (C, SYN, SynSent),
            (S, SYN | ACK, SynReceived),
            (S, SYN | ACK, SynReceived),
            (C, ACK, Established),
            (S, ACK, Established),
            (C, ACK | FIN, ClientFin),
            (S, ACK, ClientFin),
            (C, ACK | FIN, ClientFin),
            (S, ACK | FIN, Closing),
            (C, ACK, Closing),
        ],
    );
}

#[test]
fn the_server_may_close_first_and_the_client_go_on() {
    journey(Established, false, &[(S, ACK | FIN, ServerFin), (C, ACK, ServerFin), (C, ACK | FIN, Closing)]);
    journey(SynReceived, false, &[(S, ACK | FIN, ServerFin), (C, ACK | FIN, Closing)]);
}

#[test]
fn a_reset_is_taken_back_by_the_side_that_sent_it() {
    journey(Established, false, &[(C, RST, ResetByClient), (S, ACK | DATA, ResetByClient), (C, ACK, Established)]);
    journey(
        Established,
        false,
        &[(S, RST, ResetByServer), (C, ACK | DATA, ResetByServer), (S, ACK | DATA, Established)],
    );
    journey(ClientFin, false, &[(S, RST, ResetByServer), (S, ACK | FIN, ServerFin)]);
    // What a client sends that has forgotten the connection is a new SYN, and no sign that the reset was forged.
    journey(Established, false, &[(C, RST, ResetByClient), (C, SYN, ResetByClient)]);
}

#[test]
fn a_reset_is_taken_back_by_the_other_sides_challenge_alone() {
    journey(Established, false, &[(C, RST, ResetByClient), (S, ACK, Established)]);
    journey(Established, false, &[(S, RST | ACK, ResetByServer), (C, ACK, Established)]);
    for flags in [ACK | DATA, ACK | FIN, SYN | ACK, ACK | FIN | DATA] {
        journey(Established, false, &[(C, RST, ResetByClient), (S, flags, ResetByClient)]);
        journey(Established, false, &[(S, RST, ResetByServer), (C, flags | DATA, ResetByServer)]);
    }
}

#[test]
fn simultaneous_open() {
    journey(SynSent, false, &[(S, SYN, SynReceived), (C, SYN | ACK, Established), (S, SYN | ACK, Established)]);
    journey(SynSent, false, &[(S, SYN, SynReceived), (S, SYN | ACK, SynReceived), (C, ACK, Established)]);
}

#[test]
fn a_refused_connection_does_not_come_back() {
    journey(SynSent, false, &[(S, RST | ACK, Aborted), (C, ACK, Aborted), (S, ACK, Aborted)]);
    journey(SynSent, false, &[(S, RST | ACK, Aborted), (S, SYN | ACK, SynReceived)]);
}

#[test]
fn one_side_alone_opens_and_closes() {
    journey(SynSent, true, &[(C, SYN, SynSent), (C, ACK, Established), (C, FIN | ACK, ClientFin), (C, ACK, ClientFin)]);
    assert_eq!(TIMEOUTS.of(ClientFin, true), TIMEOUTS.tcp_closing);
    assert_eq!(TIMEOUTS.of(ClientFin, false), TIMEOUTS.tcp_established);
}

#[test]
fn udp_stays_what_it_is() {
    every(|state, side, flags, one_sided| {
        assert_eq!(next(state, side, flags, one_sided) == Udp, state == Udp);
    });
}

#[test]
fn a_reset_never_prolongs_and_always_shows() {
    every(|state, side, flags, one_sided| {
        if flags & RST != 0 && state != Udp {
            let after = next(state, side, flags, one_sided);
            assert!(matches!(after, ResetByClient | ResetByServer | Aborted | Over));
            assert!(after != ResetByClient || side == C);
            assert!(after != ResetByServer || side == S);
        }
    });
}

#[test]
fn other_flags_say_nothing() {
    every(|state, side, flags, one_sided| {
        let known = flags & (FIN | SYN | RST | ACK | DATA);
        assert_eq!(next(state, side, flags, one_sided), next(state, side, known, one_sided));
    });
}

/// All states that packets of these sides can lead to.
fn reach(start: State, sides: &[Side], one_sided: bool) -> Vec<State> {
    let mut reached = vec![start];
    let mut at = 0;
    while let Some(&state) = reached.get(at) {
        for &side in sides {
            for flags in 0..=u8::MAX {
                let after = next(state, side, flags, one_sided);
                if !reached.contains(&after) {
                    reached.push(after);
                }
            }
        }
        at += 1;
    }
    reached
}

/// A flood from forged addresses gets no further than `tcp_syn`, whatever it sends.
#[test]
fn a_client_alone_never_looks_established() {
    assert_eq!(reach(SynSent, &[C], false), [SynSent, Aborted]);
    assert_eq!(reach(SynSent, &SIDES, false).len(), State::ALL.len() - 1, "all but that of UDP");
    assert!(!reach(SynSent, &[C], true).contains(&SynReceived));
}

#[test]
fn a_bare_syn_starts_afresh_only_where_the_old_is_over() {
    every(|state, _, flags, one_sided| {
        let over = matches!(state, Closing | ResetByClient | ResetByServer | Aborted | Over)
            || state == ClientFin && one_sided;
        assert_eq!(is_fresh_start(state, flags, one_sided), over && flags & (FIN | SYN | RST | ACK) == SYN);
    });
}

/// A place at the target is given back at the one step from open to closed.
#[test]
fn what_is_closed_stays_closed_and_an_open_connection_is_closed_by_a_fin_alone() {
    every(|state, side, flags, one_sided| {
        let after = next(state, side, flags, one_sided);
        assert!(is_open(state, one_sided) || !is_open(after, one_sided), "{state:?} -> {after:?}");
        if is_open(state, one_sided) && !is_open(after, one_sided) {
            assert!(flags & FIN != 0 && flags & RST == 0, "{state:?} -> {after:?}");
        }
    });
    journey(Closing, false, &[(C, RST, Over), (S, SYN | ACK, Over), (C, ACK, Over)]);
    journey(ClientFin, true, &[(C, RST, Over), (C, ACK, Over)]);
}

#[test]
fn states_have_names_and_come_back_from_their_bits() {
    for state in State::ALL {
        assert_eq!(State::from_bits(state as u8), state);
        assert_eq!(State::ALL.iter().filter(|other| other.name() == state.name()).count(), 1);
    }
}

#[test]
fn durations_become_ticks_rounded_up() {
    assert_eq!(ticks(Duration::from_millis(0)), 1);
    assert_eq!(ticks(Duration::from_millis(250)), 1);
    assert_eq!(ticks(Duration::from_millis(251)), 2);
    assert_eq!(ticks(Duration::from_secs(30)), 120);
    assert_eq!(ticks(Duration::MAX), u32::MAX / 2);
}
