//! Direct and tunnel mode: the packet reaches the real server as the client sent it, addressed to the VIP, which the server
//! has on an interface that answers no ARP. Its answers pass farside by.
//!
//! In direct mode the frame's MAC addresses are all that changes, as on a bridge: not even the TTL. A packet that goes in a
//! circle would do so for ever, so one whose next hop is where it came from, or this machine, is refused.
//!
//! In tunnel mode the packet is forwarded into the tunnel, so its TTL goes down by one (RFC 2003 3.1); the outer headers
//! ([`super::encap`]) grow into the room in front of the frame. The sender's unfinished work is done first: a checksum that is
//! still partial is completed, since the machine at the far end could not tell that it is, and joined segments are cut
//! ([`super::cut`]).

use super::cut::{self, Cut};
use super::encap::{self, Outer};
use super::next_hop::{multipath_hash, next_hop};
use super::{Context, Verdict, end, fragment, icmp, leaves, note, reply, rewrite};
use crate::counters::{Count, Refusal};
use crate::device::{Frame, Offload, Span};
use crate::flow::{Flow, Mode, Side};
use crate::route::Hop;
use crate::service::Service;
use crate::wire::ip::{FlowKey, ICMP, ICMPV6, V4, V4_HEADER, V6, V6_HEADER};
use crate::wire::l4::ICMP_HEADER;
use crate::wire::{self, ETHERNET, Packet, be16, be32, put_be32, put_raw16, raw16};

/// A client's packet goes on to the real server.
pub fn carry(frame: &mut Frame, packet: &Packet, flow: &mut Flow, ctx: &mut Context) -> Verdict {
    let hop = match way(frame, flow, ctx) {
        Ok(hop) => hop,
        Err(verdict) => return verdict,
    };
    if flow.mode == Mode::Tunnel && packet.ttl <= 1 {
        return icmp::time_exceeded(frame, packet, flow, ctx);
    }
    let most = room(flow, &hop, ctx);
    if largest(frame, packet, flow) > most && !cut::may_fragment(frame, packet) {
        return icmp::too_big(frame, packet, most, flow, ctx);
    }
    let bytes = &mut frame.buf[frame.start..frame.start + frame.len];
    note(bytes, packet, flow, ctx);
    fragment::passes(bytes, packet, flow, ctx);
    send(frame, packet, flow, &hop, ctx)
}

/// A check's packet goes the same way, with the addresses that it has on record; `onward` is the same flow as it would be if it
/// were a client's.
pub fn carry_check(frame: &mut Frame, packet: &Packet, mut flow: Flow, mut onward: Flow, ctx: &mut Context) -> Verdict {
    let hop = match way(frame, &mut onward, ctx) {
        Ok(hop) => hop,
        Err(verdict) => return verdict,
    };
    if packet.ttl <= 2 {
        return icmp::time_exceeded(frame, packet, &flow, ctx);
    }
    let most = room(&onward, &hop, ctx);
    if largest(frame, packet, &onward) > most && !cut::may_fragment(frame, packet) {
        return icmp::too_big(frame, packet, most, &flow, ctx);
    }
    let bytes = &mut frame.buf[frame.start..frame.start + frame.len];
    let closed = note(bytes, packet, &mut flow, ctx);
    fragment::passes(bytes, packet, &flow, ctx);
    let (src, dst) = (&flow.local, &flow.target);
    rewrite::addresses(bytes, packet, &frame.offload, src, dst);
    let (src_port, dst_port) = (src.port, dst.port);
    let packet = Packet { src: src.addr, dst: dst.addr, src_port, dst_port, ttl: packet.ttl - 1, ..*packet };
    if closed {
        end(&flow, ctx);
    }
    send(frame, &packet, &onward, &hop, ctx)
}

/// An ICMP error about a packet of the real server's, which came to the VIP, goes on to that server.
pub fn carry_error(frame: &mut Frame, packet: &Packet, mut flow: Flow, ctx: &mut Context) -> Verdict {
    let hop = match way(frame, &mut flow, ctx) {
        Ok(hop) => hop,
        Err(verdict) => return verdict,
    };
    if flow.mode == Mode::Tunnel && packet.ttl <= 1 {
        return Verdict::Refuse(Refusal::TtlExceeded);
    }
    if largest(frame, packet, &flow) > room(&flow, &hop, ctx) && !cut::may_fragment(frame, packet) {
        return Verdict::Refuse(Refusal::TooBig);
    }
    ctx.counters.add(Count::IcmpErrorsTranslated, 1);
    send(frame, packet, &flow, &hop, ctx)
}

/// A router in a tunnel says that an encapsulated packet of ours is too large for its next link. That is remembered, and if it
/// quotes enough of the packet that was inside, the client is told at once; else its next large packet is answered.
///
/// The host gets this error too, if the tunnel's source is its own address. None: it is no such error.
pub fn too_big_for_tunnel(frame: &mut Frame, packet: &Packet, ctx: &mut Context) -> Option<Verdict> {
    let bytes = &frame.buf[frame.start..frame.start + packet.end as usize];
    let l4 = usize::from(packet.l4);
    if !wire::icmp::is_too_big(packet.family, bytes[l4], bytes[l4 + 1]) {
        return None;
    }
    let mtu = if packet.family == V4 { u32::from(be16(bytes, l4 + 6)) } else { be32(bytes, l4 + 4) };
    let tunnels = &ctx.services.tunnels;
    let quoted = wire::icmp::quoted_tunnel(bytes, packet, tunnels.gue_port)?;
    let own = tunnels.sources[usize::from(packet.family == V6)].contains(&quoted.src)
        || ctx.fib.host_owns(&quoted.src, packet.family);
    if quoted.src != packet.dst || !own || !tunnels.ends.contains(&(quoted.dst, packet.family)) {
        return None;
    }
    // What is quoted tells whether we have sent it. A stranger may leave it out, and can lower an MTU that he knows the ends of.
    let flow = match quoted.inner {
        Some(inner) => {
            let flow = ctx.shared.table.lookup(&inner.key, ctx.shared.table.hash(&inner.key));
            let ours = |flow: &Flow| flow.mode == Mode::Tunnel && flow.target.addr == quoted.dst;
            let FlowKey { dst, protocol, family, .. } = inner.key;
            // Datagrams that choose one by one are on no record.
            let unrecorded = |service: &Service| service.per_packet && service.mode == Mode::Tunnel;
            match flow.filter(ours) {
                Some(flow) => Some((flow, inner)),
                None if ctx.services.find(&dst, protocol, family).is_some_and(unrecorded) => None,
                None => return Some(Verdict::Refuse(Refusal::IcmpUnsolicited)),
            }
        }
        None => None,
    };
    ctx.shared.paths.learn(&quoted.dst, packet.family, mtu, ctx.now);
    ctx.counters.add(Count::TunnelMtuLearned, 1);
    Some(match flow {
        Some((flow, inner)) => tell_client(frame, packet, &flow, inner.l3, ctx),
        None => Verdict::NotOurs,
    })
}

/// Makes of an error about an encapsulated packet the client's error about what was inside, which is quoted from `inner` on.
fn tell_client(frame: &mut Frame, packet: &Packet, flow: &Flow, inner: usize, ctx: &mut Context) -> Verdict {
    let v4 = flow.family == V4;
    let bytes = &frame.buf[frame.start..frame.start + packet.end as usize];
    if v4 && be16(bytes, inner + 6) & cut::DONT_FRAGMENT == 0 {
        // From now on its like is cut.
        return Verdict::NotOurs;
    }
    let mut back = Flow { side: Side::Server, ..*flow };
    let hop = match next_hop(&mut back, ctx) {
        Ok(hop) => hop,
        Err(verdict) => return verdict,
    };
    // As large as what fits now, whoever has said so.
    let Some(path) = ctx.shared.paths.mtu(&flow.target.addr, ctx.now) else { return Verdict::NotOurs };
    let most = path.saturating_sub(encap::overhead(flow.encapsulation, flow.target_family) as u32);
    if !ctx.limits.icmp.take(ctx.now) {
        ctx.counters.add(Count::AnswersSuppressed, 1);
        return Verdict::NotOurs;
    }
    let kind = if v4 {
        [wire::icmp::UNREACHABLE, wire::icmp::FRAGMENTATION_NEEDED]
    } else {
        [wire::icmp::V6_PACKET_TOO_BIG, 0]
    };
    let ip = if v4 { V4_HEADER } else { V6_HEADER };
    let quote = (packet.end as usize - inner).min(reply::longest_quote(flow.family));
    let at = ETHERNET + ip + ICMP_HEADER;
    let bytes = &mut frame.buf[frame.start..];
    // What it stands behind, an outer header and an ICMP error's, is at least as long as what it shall stand behind.
    bytes.copy_within(inner..inner + quote, at);
    let protocol = if v4 { ICMP } else { ICMPV6 };
    let (src, dst) = (flow.vip.addr, flow.client.addr);
    let Some(l4) = reply::write_ip(bytes, flow.family, protocol, &src, &dst, ICMP_HEADER + quote) else {
        return Verdict::NotOurs;
    };
    let message = &mut bytes[l4..at + quote];
    message[..4].copy_from_slice(&[kind[0], kind[1], 0, 0]);
    put_be32(message, 4, most);
    reply::write_icmp_checksum(message, flow.family, &src, &dst);
    rewrite::macs(bytes, hop.mac, ctx.fib.ports()[usize::from(hop.port)].mac);
    ctx.counters.add(Count::IcmpErrorsSent, 1);
    let span = Span { start: frame.start, len: at + quote, offload: Offload::default() };
    Verdict::Transmit { span, port: hop.port }
}

#[inline(always)]
fn way(frame: &Frame, flow: &mut Flow, ctx: &Context) -> Result<Hop, Verdict> {
    let hop = next_hop(flow, ctx)?;
    if flow.mode == Mode::Direct {
        let back = hop.port == frame.port && frame.buf[frame.start + 6..frame.start + 12] == hop.mac;
        if back || hop.mac == ctx.fib.ports()[usize::from(hop.port)].mac {
            return Err(Verdict::Refuse(Refusal::Loop));
        }
    }
    Ok(hop)
}

/// Bytes of the largest packet of the client's that can go this way.
fn room(flow: &Flow, hop: &Hop, ctx: &Context) -> u32 {
    match flow.mode {
        Mode::Tunnel => {
            path_mtu(flow, hop, ctx).saturating_sub(encap::overhead(flow.encapsulation, flow.target_family) as u32)
        }
        _ => hop.mtu,
    }
}

/// Bytes of the largest packet that gets from here to the tunnel's far end, as far as that is known.
fn path_mtu(flow: &Flow, hop: &Hop, ctx: &Context) -> u32 {
    ctx.shared.paths.mtu(&flow.target.addr, ctx.now).map_or(hop.mtu, |mtu| mtu.min(hop.mtu))
}

/// Bytes of the largest packet that this frame is. What a device shall fragment is one packet still in a tunnel.
fn largest(frame: &Frame, packet: &Packet, flow: &Flow) -> u32 {
    match flow.mode {
        Mode::Tunnel if !cut::is_joined(frame) => packet.end - ETHERNET as u32,
        _ => rewrite::largest_packet(frame, packet),
    }
}

fn send(frame: &mut Frame, packet: &Packet, flow: &Flow, hop: &Hop, ctx: &Context) -> Verdict {
    if flow.mode == Mode::Tunnel { tunnel(frame, packet, flow, hop, ctx) } else { direct(frame, packet, hop, ctx) }
}

fn direct(frame: &mut Frame, packet: &Packet, hop: &Hop, ctx: &Context) -> Verdict {
    let largest = rewrite::largest_packet(frame, packet);
    rewrite::macs(&mut frame.buf[frame.start..], hop.mac, ctx.fib.ports()[usize::from(hop.port)].mac);
    if largest > hop.mtu {
        cut::prepare(frame, packet);
        ctx.counters.add(Count::Cut, 1);
        return Verdict::Cut { cut: Cut::new(frame, packet, 0, hop.mtu), port: hop.port };
    }
    leaves(frame, packet, hop.port)
}

fn tunnel(frame: &mut Frame, packet: &Packet, flow: &Flow, hop: &Hop, ctx: &Context) -> Verdict {
    let grown = encap::overhead(flow.encapsulation, flow.target_family);
    let spread = multipath_hash(flow);
    let tunnels = &ctx.services.tunnels;
    let listed = &tunnels.sources[usize::from(flow.target_family == V6)];
    let src = match listed.len() {
        0 => ctx.fib.source(hop.port, flow.target_family),
        // Several, so that the far side's receive queues, which hash addresses, share the work.
        several => Some(listed[(spread >> 32) as usize % several]),
    };
    let Some(src) = src else { return Verdict::Refuse(Refusal::NoTunnelSource) };
    let Some(start) = frame.start.checked_sub(grown) else { return Verdict::Refuse(Refusal::Truncated) };
    cut::prepare(frame, packet);
    let most = room(flow, hop, ctx);
    let pieces = cut::is_joined(frame) || largest(frame, packet, flow) > most;
    let tos = take_ttl(&mut frame.buf[frame.start + ETHERNET..], packet.family);
    let end = frame.start + packet.end as usize;
    let bytes = &mut frame.buf[start..end];
    rewrite::macs(bytes, hop.mac, ctx.fib.ports()[usize::from(hop.port)].mac);
    let outer = Outer {
        encapsulation: flow.encapsulation,
        family: flow.target_family,
        src,
        dst: flow.target.addr,
        inner_family: packet.family,
        tos,
        spread,
        gue_port: tunnels.gue_port,
    };
    encap::write(bytes, &outer);
    ctx.counters.add(Count::Encapsulated, 1);
    if pieces {
        ctx.counters.add(Count::Cut, 1);
        return Verdict::Cut { cut: Cut::new(frame, packet, grown, most), port: hop.port };
    }
    encap::finish(bytes);
    let span = Span { start, len: end - start, offload: Offload::default() };
    Verdict::Transmit { span, port: hop.port }
}

/// Takes one from the TTL of the IP packet; gives its DSCP and ECN.
fn take_ttl(ip: &mut [u8], family: u8) -> u8 {
    if family == V4 {
        let old = raw16(ip, 8);
        ip[8] -= 1;
        let mut delta = crate::wire::checksum::Delta::default();
        delta.word16(old, raw16(ip, 8));
        let check = delta.apply(raw16(ip, 10));
        put_raw16(ip, 10, check);
        ip[1]
    } else {
        ip[7] -= 1;
        ip[0] << 4 | ip[1] >> 4
    }
}
