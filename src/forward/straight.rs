//! The straight way: nearly all packets are of flows that stand, and need the addresses changed and nothing else. They take it, and
//! come out as [`super::forward`] would have them come out; whatever is in the least out of the ordinary goes the whole
//! way. What it leaves out are questions whose answer is known: the kernel path (`src/bpf/path.h`) asks the same ones.
//!
//! So do most packets that open a connection, to a real server that was foreseen ([`super::ahead`]): what is known of them is put on
//! record from the packet itself, and nothing is handed from room to room.

use super::ahead::Foreseen;
use super::cut::DONT_FRAGMENT;
use super::open::flow_to;
use super::{Context, Shared, fit_mss, rewrite};
use crate::counters::{Count, Refusal};
use crate::device::Frame;
use crate::flow::{Hint, Mode, Refused, Side};
use crate::service::build::is_probe;
use crate::wire::ip::{Addr, Endpoint, TCP, UDP, V4, V4_HEADER, V6};
use crate::wire::l4::{ACK, FIN, RST, SYN};
use crate::wire::{ETHERNET, Packet, be16, be32};

/// Where an IPv4 packet's payload begins: none that is let in has options.
const V4_PAYLOAD: u16 = (ETHERNET + V4_HEADER) as u16;

/// The port by which the packet leaves, all of it that is not padding. None: it has to go the whole way, and nothing has been
/// changed or counted.
#[inline(always)]
pub fn carry(frame: &mut Frame, packet: &Packet, hint: Hint, ctx: &Context) -> Option<u8> {
    if packet.fragment.is_some() || packet.ttl <= 1 || packet.tcp_flags & (SYN | FIN | RST) != 0 {
        return None;
    }
    if packet.family == V4 { carry_v4(frame, packet, hint, ctx) } else { carry_v6(frame, packet, hint, ctx) }
}

#[inline(never)]
fn carry_v4(frame: &mut Frame, packet: &Packet, hint: Hint, ctx: &Context) -> Option<u8> {
    // What is known beforehand need not be asked.
    carry_on(frame, &Packet { family: V4, l4: V4_PAYLOAD, fragment: None, ..*packet }, hint, ctx)
}

#[inline(never)]
fn carry_v6(frame: &mut Frame, packet: &Packet, hint: Hint, ctx: &Context) -> Option<u8> {
    carry_on(frame, &Packet { family: V6, fragment: None, ..*packet }, hint, ctx)
}

#[inline(always)]
fn carry_on(frame: &mut Frame, packet: &Packet, hint: Hint, ctx: &Context) -> Option<u8> {
    let flow = ctx.shared.table.standing(&packet.key(), hint, ctx.fib.epoch())?;
    if flow.side == Side::Client {
        // A datagram leaves a target that is down: `super::is_lost`.
        if packet.protocol == UDP && !ctx.shared.status.slot(flow.target_slot()).is_up() {
            return None;
        }
        // A check may be of a real server (`super::probe`), and what may be cut needs a new identification (`super::fragment`).
        let divisible = || packet.family == V4 && be16(frame.buf, frame.start + ETHERNET + 6) & DONT_FRAGMENT == 0;
        if flow.mode() == Mode::Remote && (divisible() || is_probe(&packet.src, packet.family)) {
            return None;
        }
    }
    let hop = ctx.shared.hops.get(flow.hop)?;
    if rewrite::largest_packet(frame, packet) > hop.mtu {
        return None;
    }
    let bytes = &mut frame.buf[frame.start..frame.start + frame.len];
    let acknowledges = packet.protocol == TCP && packet.tcp_flags & ACK != 0;
    flow.note(ctx.now.tick, packet.end - ETHERNET as u32, || {
        acknowledges.then(|| be32(bytes, usize::from(packet.l4) + 8))
    });
    rewrite::addresses(bytes, packet, &frame.offload, &flow.onward.second, &flow.onward.first);
    rewrite::macs(bytes, hop.mac, ctx.fib.ports()[usize::from(hop.port)].mac);
    Some(hop.port)
}

/// The port by which it leaves, or why it does not.
type Opened = Result<u8, Refusal>;

/// Puts the connection that the packet opens on record, if it goes through farside both ways, and carries the packet. `hash` is of its
/// key. None: it has to go the whole way, neither the packet is changed nor anything counted, and it has no place.
#[inline(always)]
pub fn open(frame: &mut Frame, packet: &Packet, hash: u64, to: &Foreseen, ctx: &mut Context) -> Option<Opened> {
    if packet.ttl <= 1 || to.service.mode != Mode::Nat {
        return None;
    }
    if packet.family == V4 { open_v4(frame, packet, hash, to, ctx) } else { open_v6(frame, packet, hash, to, ctx) }
}

#[inline(never)]
fn open_v4(frame: &mut Frame, packet: &Packet, hash: u64, to: &Foreseen, ctx: &mut Context) -> Option<Opened> {
    // What is known beforehand need not be copied.
    let short = |addr: Addr| Addr([addr.0[0], 0, 0, 0]);
    let Endpoint { addr, port } = to.target.endpoint;
    let (src, dst) = (short(packet.src), short(packet.dst));
    let packet = Packet { family: V4, l4: V4_PAYLOAD, fragment: None, src, dst, ..*packet };
    open_on(frame, &packet, hash, to, Endpoint { addr: short(addr), port }, ctx)
}

#[inline(never)]
fn open_v6(frame: &mut Frame, packet: &Packet, hash: u64, to: &Foreseen, ctx: &mut Context) -> Option<Opened> {
    open_on(frame, &Packet { family: V6, fragment: None, ..*packet }, hash, to, to.target.endpoint, ctx)
}

/// `target` is the endpoint of the one that was foreseen.
#[inline(always)]
fn open_on(
    frame: &mut Frame,
    packet: &Packet,
    hash: u64,
    to: &Foreseen,
    target: Endpoint,
    ctx: &mut Context,
) -> Option<Opened> {
    let Shared { table, status, hops, .. } = ctx.shared;
    let id = ctx.ahead.ways.toward(&target.addr, packet.family, ctx.fib);
    let hop = hops.get(id)?;
    if rewrite::largest_packet(frame, packet) > hop.mtu || !to.service.place_at(to.target, status) {
        return None;
    }
    let key = packet.key();
    let mut flow = flow_to(to.target, Mode::Nat, to.service, &key, key.src, None, ctx);
    (flow.target, flow.target_family, flow.hops[Side::Server as usize]) = (target, packet.family, id);
    let at = match table.insert_in_line(&flow, [hash, to.server_hash], ctx.now.tick) {
        Ok(at) => at,
        Err(refused) => {
            status.give_up(to.target.slot);
            let full = matches!(refused, Refused::Full | Refused::NoRoom);
            return full.then_some(Err(Refusal::TableFull));
        }
    };
    ctx.counters.add(Count::FlowsLocal, 1);
    table.touch_at(at, Side::Client, ctx.now.tick, 1, packet.end - ETHERNET as u32);
    fit_mss(frame, packet, &hop, ctx);
    let bytes = &mut frame.buf[frame.start..frame.start + frame.len];
    rewrite::addresses(bytes, packet, &frame.offload, &key.src, &target);
    rewrite::macs(bytes, hop.mac, ctx.fib.ports()[usize::from(hop.port)].mac);
    Some(Ok(hop.port))
}
