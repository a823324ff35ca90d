//! RSTs that answer no packet: to both ends of a connection whose target has gone down (`on_down = "reset"`), and to a target
//! whose client never finished the handshake.
//!
//! An RST counts only if its sequence number is the very next that the receiver expects (RFC 5961 3.2), and that is what the
//! receiver itself acknowledged last: the record of such a flow keeps both sides' acknowledgement numbers.

use super::reply::{Segment, write_segment};
use super::{Context, end};
use crate::counters::Count;
use crate::flow::{FlowDetails, Side, State};
use crate::route::Step;
use crate::service::build::is_probe;
use crate::wire::ip::{Endpoint, TCP};
use crate::wire::l4::RST;

/// Ethernet, IPv6 and TCP headers.
const LONGEST: usize = 14 + 40 + 20;

/// Ends the flow and hands an RST for each end to `send`, with the port that it leaves by.
pub fn both_ends(details: &FlowDetails, ctx: &Context, mut send: impl FnMut(&[u8], u8)) {
    let flow = &details.flow;
    // A check is no connection; it finds out by itself.
    if is_probe(&flow.client.addr, flow.family) {
        return;
    }
    // Before the handshake is over there is nothing to reset at the client: its next SYN finds another server.
    if let Some(seq) = awaited_of_client(details) {
        write(flow.family, flow.local, flow.target, seq, ctx, &mut send);
    }
    if flow.protocol == TCP && !matches!(flow.state, State::SynSent | State::SynReceived) && flow.track_acks {
        let [client_ack, server_ack] = [Side::Client, Side::Server].map(|side| details.acks[side as usize]);
        write(flow.family, flow.vip, flow.client, client_ack, ctx, &mut send);
        // What a server said that answers past farside is not known.
        if !flow.mode.one_sided() {
            write(flow.family, flow.local, flow.target, server_ack, ctx, &mut send);
        }
    }
    end(flow, ctx);
}

/// A flow has expired whose target answered the client's SYN, and the client never did. The target still has a half-open connection
/// then, and its next SYN-ACK would find no flow: the host would take it for its own and, where it forwards, send
/// it on as it is, to a client that has never heard of that server. So the target is told with an RST. (To keep the flow
/// for a while would cure the same; but how long a server goes on is its own affair, and the RST also frees its backlog.)
/// Its sequence number is what the SYN-ACK acknowledged, so that it is the very next for the target (RFC 5961 3.2). One RST for each
/// SYN-ACK at most, and only as many as farside may send anyway: forged SYNs cannot be turned into a flood.
/// (A target whose very first SYN-ACK comes later than `tcp_syn` is not helped by this: nothing is known of it to reset.)
pub fn half_open(gone: &FlowDetails, ctx: &mut Context, mut send: impl FnMut(&[u8], u8)) {
    let flow = &gone.flow;
    let Some(seq) = awaited_of_client(gone) else { return };
    if !ctx.limits.resets.take(ctx.now) {
        ctx.counters.add(Count::AnswersSuppressed, 1);
        return;
    }
    write(flow.family, flow.local, flow.target, seq, ctx, &mut send);
}

/// The number that a target with a half-open connection expects next; None: it has none, or its SYN acknowledged nothing
/// (simultaneous open), so that nobody knows.
fn awaited_of_client(details: &FlowDetails) -> Option<u32> {
    let seq = details.acks[Side::Server as usize];
    (details.flow.state == State::SynReceived && seq != 0).then_some(seq)
}

fn write(family: u8, src: Endpoint, dst: Endpoint, seq: u32, ctx: &Context, send: &mut impl FnMut(&[u8], u8)) {
    let Step::Hop(id) = ctx.fib.lookup(&src.addr, &dst.addr, family, u64::from(dst.port)) else { return };
    let Some(hop) = ctx.shared.hops.get(id) else { return };
    let mut frame = [0; LONGEST];
    frame[..6].copy_from_slice(&hop.mac);
    frame[6..12].copy_from_slice(&ctx.fib.ports()[usize::from(hop.port)].mac);
    if let Some(len) = write_segment(&mut frame, family, src, dst, &Segment { seq, ack: 0, flags: RST }) {
        ctx.counters.add(Count::ResetsSent, 1);
        send(&frame[..len], hop.port);
    }
}
