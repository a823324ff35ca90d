//! What packets say of a target's health, in passing: did it answer the SYN, refuse it, or leave the client waiting?
//!
//! In one-sided flows the target's answers pass by farside. There the client tells: an ACK after its SYN is an answer, the SYN
//! once more is none. A SYN that nothing follows is no evidence there: it may have been answered to a client that never was.

use super::Shared;
use crate::flow::{Flow, FlowDetails, Side, State};
use crate::service::build::is_probe;

/// Of a packet on a flow that was in [`State::SynSent`] and now is in `after`; `again`: it is the client's SYN. To be called
/// after the packet was counted.
pub fn of_packet(flow: &Flow, after: State, again: bool, shared: &Shared) {
    let answered = matches!(after, State::SynReceived | State::Established | State::ClientFin);
    let refused = after == State::Aborted && flow.side == Side::Server;
    // The first SYN of a connection says nothing, and of all packets here it is the most frequent.
    let again = again && shared.table.packets_from(flow.at, Side::Client) > 1;
    if !answered && !refused && !again {
        return;
    }
    // Checks count by their own answer.
    let Some(details) = shared.table.details(flow.at).filter(|on| !is_probe(&on.flow.client.addr, on.flow.family))
    else {
        return;
    };
    let evidence = &shared.status.slot(details.target_slot).evidence;
    if answered {
        evidence.clear();
    } else if refused {
        evidence.note_refused();
    } else {
        evidence.note_unanswered();
    }
}

/// Of a flow that has gone off the record, and was no check.
pub fn of_the_end(gone: &FlowDetails, shared: &Shared) {
    if gone.flow.state == State::SynSent && !gone.flow.mode.one_sided() {
        shared.status.slot(gone.target_slot).evidence.note_unanswered();
    }
}
