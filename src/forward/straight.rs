//! The straight way: nearly all packets are of flows that stand, and need the addresses changed and nothing else. They take it, and
//! come out as [`super::forward`] would have them come out; whatever is in the least out of the ordinary goes the whole
//! way. What it leaves out are questions whose answer is known: the kernel path (`src/bpf/path.h`) asks the same ones.

use super::cut::DONT_FRAGMENT;
use super::{Context, rewrite};
use crate::device::Frame;
use crate::flow::{Hint, Mode, Side};
use crate::service::build::is_probe;
use crate::wire::ip::{TCP, UDP, V4, V4_HEADER, V6};
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
