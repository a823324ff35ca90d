//! THE JOURNEY of one packet: (frame, state, now) -> [`Verdict`]. No device, clock or file is known here, so that the
//! worker, `replay`, the tests and the benches run one and the same function.
//!
//! Nearly all packets are of flows that stand, and go straight (`straight`). What is told here is the whole way:
//!
//! 1. What is it? ARP, neighbor solicitation, ICMP and fragments have rooms of their own.
//! 2. Is its flow on record? Then the record says everything: `carry`.
//! 3. Else: is it for a service, and does it open a connection? Choose a target, lend a PIP port if the target is a
//!    remote site, put both sides on record or neither: `open`. Then carry it. For most of a batch's new connections that was looked
//!    at ahead, before their turn came ([`ahead`]), and they go straight too.
//! 4. Carry: next hop, TTL, size, TCP state, then the rewrite; in direct and tunnel mode `one_sided::carry`.
//!
//! A packet that goes no further gets a named [`Refusal`]; some refusals are also answered (RST, ICMP).

pub mod ahead;
pub mod cut;
pub mod encap;
mod evidence;
pub mod fragment;
pub mod icmp;
pub mod limit;
pub mod neighbor;
mod next_hop;
pub mod one_sided;
mod open;
pub mod paths;
pub mod per_packet;
mod probe;
pub mod reply;
pub mod reset;
pub mod rewrite;
pub mod straight;

use crate::counters::{Count, Refusal, WorkerCounters};
use crate::device::{Frame, Span};
use crate::flow::{DATA, Flow, FlowDetails, FlowTable, Hint, Ledger, Side, State, is_open};
use crate::route::{Fib, Hop, HopTable, ResolveQueue};
use crate::service::build::is_probe;
use crate::service::persistence::Memory;
use crate::service::status::StatusTable;
use crate::service::{ServiceMap, Target};
use crate::wire::ip::{ICMP, ICMPV6, TCP, UDP, V4, V6};
use crate::wire::l4::{ACK, FIN, RST, SYN};
use crate::wire::{ETHERNET, Packet, Parsed, be32};
use ahead::Ahead;
use cut::Cut;
use fragment::Fragments;
use limit::Limits;
use next_hop::next_hop;
use open::{To, connect, open};
use paths::Paths;
use std::sync::Arc;

/// What lives as long as the process and is shared by all workers.
pub struct Shared {
    pub table: FlowTable,
    pub ledger: Ledger,
    pub status: Arc<StatusTable>,
    /// Which real server a client had last.
    pub memory: Memory,
    pub hops: Arc<HopTable>,
    pub resolve: Arc<ResolveQueue>,
    pub paths: Paths,
}

/// The time, read once per burst.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// In units of [`TICK_MS`](crate::flow::TICK_MS) since the start.
    pub tick: u32,
    /// Microseconds since the start; wraps after 71 minutes.
    pub micros: u32,
}

/// All that `forward` knows besides the frame.
pub struct Context<'a> {
    pub shared: &'a Shared,
    pub services: &'a ServiceMap,
    pub fib: &'a Fib,
    pub counters: &'a WorkerCounters,
    pub limits: &'a mut Limits,
    pub fragments: &'a mut Fragments,
    pub ahead: &'a mut Ahead,
    pub worker: u8,
    pub now: Now,
}

/// What shall become of a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Send this part of it by this port.
    Transmit { span: Span, port: u8 },
    /// Cut it and send the pieces by this port.
    Cut { cut: Cut, port: u8 },
    /// The next hop's MAC is being asked for: keep a copy, untouched, and run it again soon.
    Hold,
    /// A fragment ahead of the first one of its packet: a copy is kept ([`Fragments::take_ready`]).
    Kept,
    /// It ends here.
    Refuse(Refusal),
    /// The host's.
    NotOurs,
}

/// `hint` is of the packet's 5-tuple, and none if it has none.
#[inline(always)]
pub fn forward(frame: &mut Frame, parsed: &Result<Parsed, Refusal>, hint: Hint, ctx: &mut Context) -> Verdict {
    let packet = match parsed {
        Ok(Parsed::Ip(packet)) => packet,
        Ok(Parsed::Arp(request)) => return neighbor::answer_arp(frame, request, ctx),
        Ok(Parsed::Other) => return Verdict::NotOurs,
        Err(refusal) => return Verdict::Refuse(*refusal),
    };
    match straight::carry(frame, packet, hint, ctx) {
        Some(port) => leaves(frame, packet, port),
        None => the_whole_way(frame, packet, hint, ctx),
    }
}

/// All of the packet, by this port.
#[inline(always)]
fn leaves(frame: &Frame, packet: &Packet, port: u8) -> Verdict {
    let span = Span { start: frame.start, len: packet.end as usize, offload: frame.offload };
    Verdict::Transmit { span, port }
}

#[inline(never)]
fn the_whole_way(frame: &mut Frame, packet: &Packet, hint: Hint, ctx: &mut Context) -> Verdict {
    match &packet.fragment {
        Some(fragment) => fragment::handle(frame, packet, fragment, hint, ctx),
        None => whole(frame, packet, hint, ctx),
    }
}

/// A packet with an L4 header: whole, or the first fragment of one.
fn whole(frame: &mut Frame, packet: &Packet, hint: Hint, ctx: &mut Context) -> Verdict {
    match (packet.protocol, packet.family) {
        (TCP | UDP, _) => {}
        (ICMP, V4) | (ICMPV6, V6) => return icmp::handle(frame, packet, ctx),
        _ => return stray(frame, packet, ctx),
    }
    if let Some(foreseen) = ahead::foreseen(hint, ctx) {
        return match straight::open(frame, packet, hint.hash, &foreseen, ctx) {
            Some(Ok(port)) => leaves(frame, packet, port),
            Some(Err(refusal)) => reply::refuse(frame, packet, refusal, ctx),
            None => connect(frame, packet, hint.hash, foreseen.service, To::Foreseen(&foreseen), ctx),
        };
    }
    match ctx.shared.table.follow(&packet.key(), hint) {
        // The flags of what is not TCP are 0.
        Some(flow)
            if packet.tcp_flags & SYN != 0
                && (flow.is_fresh_start(packet.tcp_flags) || in_vain(&flow, packet, ctx)) =>
        {
            end(&flow, ctx);
            open(frame, packet, hint.hash, ctx)
        }
        Some(flow) if packet.protocol == UDP && is_lost(&flow, ctx) => {
            end(&flow, ctx);
            let verdict = open(frame, packet, hint.hash, ctx);
            if ctx.shared.table.lookup(&packet.key(), hint.hash).is_some() {
                ctx.counters.add(Count::UdpFlowsMoved, 1);
            }
            verdict
        }
        Some(mut flow) => carry(frame, packet, &mut flow, ctx),
        None => open(frame, packet, hint.hash, ctx),
    }
}

/// A SYN once more, since the target has not answered the first, and meanwhile the target is known to be down: there is no
/// connection yet that could be moved in mid-life, and the client shall not wait for its timeout. Checks of remote sites
/// stay with the site they are for.
#[inline]
fn in_vain(flow: &Flow, packet: &Packet, ctx: &Context) -> bool {
    flow.state == State::SynSent
        && flow.side == Side::Client
        && opens(packet)
        && !ctx.services.is_door(&flow.vip.addr, flow.family)
        && ctx.shared.table.details(flow.at).is_some_and(|on| !ctx.shared.status.slot(on.target_slot).is_up())
}

/// A client's datagram whose target is down. There is no connection that could break, only a sender that goes on sending,
/// perhaps for ever (syslog): a live target takes over. A drained one keeps what it has; one that a reload has removed is
/// asked by nobody any more whether it lives, and keeps it only as long as there is no other (those that came in its place may
/// not have passed a check yet). The flows of a removed service stay where they are.
#[inline]
fn is_lost(flow: &Flow, ctx: &Context) -> bool {
    if flow.side != Side::Client {
        return false;
    }
    let status = &ctx.shared.status;
    let Some(slot) = ctx.shared.table.target_slot(flow.at).filter(|slot| !status.slot(*slot).is_up()) else {
        return false;
    };
    ctx.services.find(&flow.vip, flow.protocol, flow.family).is_some_and(|service| {
        let takes_new = |target: &Target| target.weight > 0 && status.slot(target.slot).takes_new();
        // A peer's are carried to no other site.
        let peer = ctx.services.is_peer(&flow.client.addr, flow.family);
        service.reals.iter().any(|real| real.slot == slot || takes_new(real))
            || service.remotes.iter().any(|remote| remote.slot == slot || !peer && takes_new(remote))
    })
}

/// May it be the first packet of a connection?
#[inline]
fn opens(packet: &Packet) -> bool {
    packet.protocol != TCP || packet.tcp_flags & (SYN | ACK | RST | FIN) == SYN
}

/// A packet whose flow is on record goes on its way, either way.
fn carry(frame: &mut Frame, packet: &Packet, flow: &mut Flow, ctx: &mut Context) -> Verdict {
    carry_on(frame, packet, flow, note, ctx)
}

/// As [`carry`], of the packet by which the flow has just been opened: it moves nothing but the counts.
fn carry_first(frame: &mut Frame, packet: &Packet, flow: &mut Flow, ctx: &mut Context) -> Verdict {
    let note = |_: &[u8], packet: &Packet, flow: &mut Flow, ctx: &Context| {
        ctx.shared.table.touch(flow, ctx.now.tick, 1, packet.end - ETHERNET as u32);
        false
    };
    carry_on(frame, packet, flow, note, ctx)
}

#[inline(always)]
fn carry_on(
    frame: &mut Frame,
    packet: &Packet,
    flow: &mut Flow,
    note: impl FnOnce(&[u8], &Packet, &mut Flow, &Context) -> bool,
    ctx: &mut Context,
) -> Verdict {
    if flow.mode.one_sided() {
        return one_sided::carry(frame, packet, flow, ctx);
    }
    if probe::is_to_real(flow, ctx) {
        return probe::carry(frame, packet, *flow, ctx);
    }
    let hop = match next_hop(flow, ctx) {
        Ok(hop) => hop,
        Err(verdict) => return verdict,
    };
    if packet.ttl <= 1 {
        return icmp::time_exceeded(frame, packet, flow, ctx);
    }
    let too_large = rewrite::largest_packet(frame, packet) > hop.mtu;
    if too_large && !cut::may_fragment(frame, packet) {
        return icmp::too_big(frame, packet, hop.mtu, flow, ctx);
    }
    fit_mss(frame, packet, &hop, ctx);
    let bytes = &mut frame.buf[frame.start..frame.start + frame.len];
    let closed = note(bytes, packet, flow, ctx);
    if closed && is_probe(&flow.client.addr, flow.family) {
        // Nobody else uses a check's 4-tuple: its port shall not wait for stragglers for minutes.
        end(flow, ctx);
    }
    fragment::passes(bytes, packet, flow, ctx);
    let (src, dst) = match flow.side {
        Side::Client => (&flow.local, &flow.target),
        Side::Server => (&flow.vip, &flow.client),
    };
    rewrite::addresses(bytes, packet, &frame.offload, src, dst);
    rewrite::macs(bytes, hop.mac, ctx.fib.ports()[usize::from(hop.port)].mac);
    if too_large {
        cut::prepare(frame, packet);
        ctx.counters.add(Count::Cut, 1);
        return Verdict::Cut { cut: Cut::new(frame, packet, 0, hop.mtu), port: hop.port };
    }
    leaves(frame, packet, hop.port)
}

/// A SYN offers no larger segments than both links that it passes here carry.
#[inline(always)]
fn fit_mss(frame: &mut Frame, packet: &Packet, hop: &Hop, ctx: &Context) {
    if packet.tcp_flags & SYN == 0 {
        return;
    }
    let mtu = hop.mtu.min(ctx.fib.ports()[usize::from(frame.port)].mtu);
    let bytes = &mut frame.buf[frame.start..frame.start + frame.len];
    if rewrite::clamp_mss(bytes, packet, &frame.offload, mtu) {
        ctx.counters.add(Count::MssClamped, 1);
    }
}

/// Brings the record up to date: counts, last seen, TCP state. True: both sides had closed, and this is what follows.
#[inline]
fn note(bytes: &[u8], packet: &Packet, flow: &mut Flow, ctx: &Context) -> bool {
    let table = &ctx.shared.table;
    let reset = matches!(flow.state, State::ResetByClient | State::ResetByServer);
    // Resets that follow a reset do not keep the record (RFC 7857 7.1).
    let again = (reset || matches!(flow.state, State::Aborted | State::Over)) && packet.tcp_flags & RST != 0;
    if !again {
        table.touch(flow, ctx.now.tick, 1, packet.end - ETHERNET as u32);
    }
    if packet.protocol != TCP || packet.is_later_fragment() {
        return false;
    }
    // Of most packets `step` would say so too: nothing begins or ends.
    let goes_on = flow.state == State::Established && packet.tcp_flags & (FIN | RST) == 0;
    let closed = !goes_on && step(bytes, packet, flow, ctx);
    if flow.track_acks && packet.tcp_flags & ACK != 0 {
        table.note_ack(flow, be32(bytes, usize::from(packet.l4) + 8));
    }
    closed
}

/// A packet that may move the state of its flow. True as for [`note`].
#[inline(never)]
fn step(bytes: &[u8], packet: &Packet, flow: &mut Flow, ctx: &Context) -> bool {
    let table = &ctx.shared.table;
    let reset = matches!(flow.state, State::ResetByClient | State::ResetByServer);
    // Read first: when the last step is taken the flow may be gone, and whoever took it gives the place back all the same.
    let ends_at = if packet.tcp_flags & FIN != 0 {
        let Some(details) = table.details(flow.at) else { return false };
        Some(details.target_slot)
    } else {
        None
    };
    let data = if reset && carries_data(bytes, packet) { DATA } else { 0 };
    let (before, after) = table.advance(flow, packet.tcp_flags & !DATA | data);
    let one_sided = flow.mode.one_sided();
    if let Some(slot) = ends_at
        && is_open(before, one_sided)
        && !is_open(after, one_sided)
        && !is_probe(&flow.client.addr, flow.family)
    {
        ctx.shared.status.release(slot);
    }
    if after == State::SynReceived && before != after {
        if before == State::SynSent {
            measure_connect(flow, ctx);
        }
        // By it the server's half-open connection can be reset: see `reset::half_open`.
        let ack = if packet.tcp_flags & ACK != 0 { be32(bytes, usize::from(packet.l4) + 8) } else { 0 };
        table.note_ack(&Flow { track_acks: true, ..*flow }, ack);
    }
    if before == State::SynSent {
        evidence::of_packet(flow, after, flow.side == Side::Client && opens(packet), ctx.shared);
    }
    before == State::Closing && packet.tcp_flags & FIN == 0
}

/// Is there anything behind the TCP header?
fn carries_data(bytes: &[u8], packet: &Packet) -> bool {
    let l4 = usize::from(packet.l4);
    l4 + usize::from(bytes[l4 + 12] >> 4) * 4 < packet.end as usize
}

/// Takes the SYN to SYN-ACK time into the target's moving average.
fn measure_connect(flow: &Flow, ctx: &Context) {
    let Some(details) = ctx.shared.table.details(flow.at) else { return };
    let micros = ctx.now.micros.wrapping_sub(details.acks[Side::Server as usize]);
    ctx.shared.status.slot(details.target_slot).note_connect(micros);
}

/// For no service, and no flow's.
fn stray(frame: &mut Frame, packet: &Packet, ctx: &mut Context) -> Verdict {
    if packet.protocol == TCP && ctx.services.pip(&packet.dst, packet.family).is_some() {
        // A remote site's answer on a connection that is forgotten, for instance after a restart: tell it.
        return reply::refuse(frame, packet, Refusal::NoFlow, ctx);
    }
    let ours =
        ctx.services.is_vip(&packet.dst, packet.family) || ctx.services.pip(&packet.dst, packet.family).is_some();
    if ours { Verdict::Refuse(Refusal::NoService) } else { Verdict::NotOurs }
}

/// Takes a flow off the record, unless somebody else has, and settles what it held.
pub fn end(flow: &Flow, ctx: &Context) {
    if let Some(details) = ctx.shared.table.remove(flow.at) {
        settle(&details, ctx.shared, ctx.counters, ctx.now);
    }
}

/// What follows when a flow has gone off the record: its PIP port goes back, its target has one connection less, if that
/// was not closed before.
pub fn settle(gone: &FlowDetails, shared: &Shared, counters: &WorkerCounters, now: Now) {
    if let Some(pool) = gone.pool {
        shared.ledger.give_back(pool, gone.flow.local.port, now.tick);
    }
    let counted = !is_probe(&gone.flow.client.addr, gone.flow.family);
    if counted && is_open(gone.flow.state, gone.flow.mode.one_sided()) {
        shared.status.release(gone.target_slot);
    }
    if counted {
        evidence::of_the_end(gone, shared);
        counters.add(Count::FlowsEnded, 1);
    }
    // Last: after it the slot may be another target's.
    shared.status.slot(gone.target_slot).end();
}

#[cfg(test)]
pub(crate) mod tests;
