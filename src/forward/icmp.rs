//! ICMP in both versions: echo to a VIP is answered, errors about a flow are translated like the flow's packets, with the
//! packet that they quote (RFC 5508), and farside's own errors are sent.

use super::{Context, Verdict, leaves, next_hop, one_sided, probe, reply, rewrite, stray};
use crate::counters::{Count, Refusal};
use crate::device::{Frame, Offload, Span};
use crate::flow::{Flow, Mode, Side};
use crate::wire::checksum::Delta;
use crate::wire::ip::{Addr, Endpoint, TCP, UDP, V4};
use crate::wire::l4::checksum_offset;
use crate::wire::{Packet, checksum, icmp, put_be16, put_raw16, raw16};

/// Where the source address stands in an IP header.
fn addresses_at(family: u8) -> (usize, usize) {
    if family == V4 { (12, 4) } else { (8, 16) }
}

pub fn handle(frame: &mut Frame, packet: &Packet, ctx: &mut Context) -> Verdict {
    let bytes = &frame.buf[frame.start..frame.start + packet.end as usize];
    let message = &bytes[usize::from(packet.l4)..];
    let kind = message[0];
    let valid = frame.offload.needs_csum
        || checksum::fold(reply::icmp_sum(message, packet.family, &packet.src, &packet.dst)) == 0xffff;
    if icmp::is_error(packet.family, kind) {
        if valid && let Some(verdict) = one_sided::too_big_for_tunnel(frame, packet, ctx) {
            return verdict;
        }
        let bytes = &frame.buf[frame.start..frame.start + packet.end as usize];
        return match icmp::quoted(bytes, packet) {
            _ if !valid => Verdict::Refuse(Refusal::IcmpChecksum),
            Ok(quoted) => translate(frame, packet, &quoted, ctx),
            Err(_) if is_hosts_too(bytes, packet, ctx) => Verdict::NotOurs,
            Err(refusal) => Verdict::Refuse(refusal),
        };
    }
    if packet.family == V4 && kind == icmp::SOURCE_QUENCH && is_about_flow(bytes, packet, ctx) {
        return Verdict::Refuse(Refusal::SourceQuench);
    }
    if packet.family != V4 && kind == icmp::V6_NEIGHBOR_SOLICITATION {
        return if valid {
            super::neighbor::answer_solicitation(frame, packet, ctx)
        } else {
            Verdict::Refuse(Refusal::IcmpChecksum)
        };
    }
    let addressed = ctx.services.is_vip(&packet.dst, packet.family)
        || ctx.services.pip(&packet.dst, packet.family).is_some_and(|pip| !pip.host_owned);
    if !addressed {
        return stray(frame, packet, ctx);
    }
    let (echo, answer) =
        if packet.family == V4 { (icmp::ECHO, icmp::ECHO_REPLY) } else { (icmp::V6_ECHO, icmp::V6_ECHO_REPLY) };
    match kind {
        _ if !valid => Verdict::Refuse(Refusal::IcmpChecksum),
        kind if kind == echo => answer_echo(frame, packet, answer, ctx),
        _ => Verdict::Refuse(Refusal::IcmpType),
    }
}

/// Is what an ICMP message quotes a packet of a flow on record?
fn is_about_flow(bytes: &[u8], packet: &Packet, ctx: &Context) -> bool {
    icmp::quoted(bytes, packet).is_ok_and(|quoted| {
        let key = quoted.key.reversed();
        ctx.shared.table.lookup(&key, ctx.shared.table.hash(&key)).is_some()
    })
}

/// Has the host got this error too, and does farside find nothing about itself in it?
fn is_hosts_too(bytes: &[u8], packet: &Packet, ctx: &Context) -> bool {
    icmp::is_hosts_too(bytes, packet)
        && !ctx.services.is_vip(&packet.dst, packet.family)
        && ctx.services.pip(&packet.dst, packet.family).is_none()
}

fn answer_echo(frame: &mut Frame, packet: &Packet, answer: u8, ctx: &mut Context) -> Verdict {
    if !ctx.limits.icmp.take(ctx.now) {
        ctx.counters.add(Count::AnswersSuppressed, 1);
        return Verdict::Refuse(Refusal::IcmpType);
    }
    reply::turn_macs(frame);
    let bytes = &mut frame.buf[frame.start..frame.start + packet.end as usize];
    let l4 = usize::from(packet.l4);
    let length = bytes.len() - l4;
    let headers = usize::from(packet.l4);
    // Extension headers of the request are not carried back.
    let Some(payload) = reply::write_ip(bytes, packet.family, packet.protocol, &packet.dst, &packet.src, length)
        .filter(|payload| *payload == headers)
    else {
        return Verdict::Refuse(Refusal::IcmpType);
    };
    let message = &mut bytes[payload..];
    message[0] = answer;
    put_raw16(message, 2, 0);
    reply::write_icmp_checksum(message, packet.family, &packet.dst, &packet.src);
    ctx.counters.add(Count::EchoReplies, 1);
    let span = Span { start: frame.start, len: packet.end as usize, offload: Offload::default() };
    Verdict::Transmit { span, port: frame.port }
}

/// Sends an ICMP error about a flow's packet on to the end that sent this packet, in that end's words.
///
/// The error comes from the side that the quoted packet was going to, so its quote turned round is a key of the flow:
/// an error about VIP -> client comes from the client's side, one about local -> target from the target's side.
fn translate(frame: &mut Frame, packet: &Packet, quoted: &icmp::Quoted, ctx: &mut Context) -> Verdict {
    let key = quoted.key.reversed();
    let hash = ctx.shared.table.hash(&key);
    let Some(mut flow) = ctx.shared.table.lookup(&key, hash) else {
        let bytes = &frame.buf[frame.start..frame.start + packet.end as usize];
        let hosts = is_hosts_too(bytes, packet, ctx);
        return if hosts { Verdict::NotOurs } else { Verdict::Refuse(Refusal::IcmpUnsolicited) };
    };
    if flow.mode.one_sided() {
        return one_sided::carry_error(frame, packet, flow, ctx);
    }
    if probe::is_to_real(&flow, ctx) {
        // This box has lost interest in its own check: the server need not know.
        return Verdict::Refuse(Refusal::IcmpUnsolicited);
    }
    let (dst, quoted_src, quoted_dst) = match flow.side {
        Side::Client => (flow.target, flow.target, flow.local),
        Side::Server => (flow.client, flow.client, flow.vip),
    };
    let hop = match next_hop(&mut flow, ctx) {
        Ok(hop) => hop,
        Err(verdict) => return verdict,
    };
    if packet.ttl <= 1 {
        return Verdict::Refuse(Refusal::TtlExceeded);
    }
    let src = outer_source(&flow, packet);
    let bytes = &mut frame.buf[frame.start..frame.start + packet.end as usize];
    let mut delta = rewrite_quoted(bytes, packet.family, quoted, quoted_src, quoted_dst);
    rewrite_outer(bytes, packet, src, dst.addr, &mut delta);
    rewrite::macs(bytes, hop.mac, ctx.fib.ports()[usize::from(hop.port)].mac);
    ctx.counters.add(Count::IcmpErrorsTranslated, 1);
    leaves(frame, packet, hop.port)
}

/// Towards a client the error comes from the VIP, since what is behind it is nobody's business; towards a remote site from the PIP, since
/// no provider lets strange sources out; towards a real server from the router that sent it, unless that goes by an address
/// that means nothing on another link.
fn outer_source(flow: &Flow, packet: &Packet) -> Addr {
    match (flow.side, flow.mode) {
        (Side::Server, _) => flow.vip.addr,
        (Side::Client, Mode::Remote) => flow.local.addr,
        (Side::Client, _) if packet.src.is_link_local(packet.family) => flow.vip.addr,
        (Side::Client, _) => packet.src,
    }
}

/// Rewrites the quoted packet's addresses and ports and its own checksums, as far as it is quoted. Gives what that
/// changes in the sum of the ICMP message.
fn rewrite_quoted(bytes: &mut [u8], family: u8, quoted: &icmp::Quoted, src: Endpoint, dst: Endpoint) -> Delta {
    let mut addresses = Delta::default();
    addresses.addr(quoted.key.family, &quoted.key.src.addr, &src.addr);
    addresses.addr(quoted.key.family, &quoted.key.dst.addr, &dst.addr);
    let mut ports = Delta::default();
    ports.word16(quoted.key.src.port.to_be(), src.port.to_be());
    ports.word16(quoted.key.dst.port.to_be(), dst.port.to_be());
    let mut message = addresses.and(ports);
    if family == V4 {
        let old = raw16(bytes, quoted.l3 + 10);
        let new = addresses.apply(old);
        put_raw16(bytes, quoted.l3 + 10, new);
        message.word16(old, new);
    }
    let (at, len) = addresses_at(family);
    let at = quoted.l3 + at;
    bytes[at..at + len].copy_from_slice(&src.addr.octets()[..len]);
    bytes[at + len..at + 2 * len].copy_from_slice(&dst.addr.octets()[..len]);
    put_be16(bytes, quoted.l4, src.port);
    put_be16(bytes, quoted.l4 + 2, dst.port);
    let protocol = quoted.key.protocol;
    debug_assert!(protocol == TCP || protocol == UDP);
    let check_at = quoted.l4 + checksum_offset(protocol);
    // Eight bytes of TCP end before its checksum.
    if check_at + 2 <= bytes.len() {
        let old = raw16(bytes, check_at);
        if protocol == TCP || old != 0 {
            let new = addresses.and(ports).apply(old);
            // As the sender wrote it: a UDP sum of 0 goes as 0xffff (RFC 768).
            let new = if protocol == UDP && new == 0 { 0xffff } else { new };
            put_raw16(bytes, check_at, new);
            message.word16(old, new);
        }
    }
    message
}

fn rewrite_outer(bytes: &mut [u8], packet: &Packet, src: Addr, dst: Addr, message: &mut Delta) {
    let addresses = rewrite::ip_header(bytes, packet, &src, &dst);
    if packet.family != V4 {
        // ICMPv6 sums the pseudo-header too (RFC 4443 2.3).
        *message = message.and(addresses);
    }
    let check_at = usize::from(packet.l4) + 2;
    let check = message.apply(raw16(bytes, check_at));
    put_raw16(bytes, check_at, check);
}

/// The packet's TTL ends here: says so, so that traceroute sees this box.
pub fn time_exceeded(frame: &mut Frame, packet: &Packet, flow: &Flow, ctx: &mut Context) -> Verdict {
    let kind = if packet.family == V4 { icmp::TIME_EXCEEDED } else { icmp::V6_TIME_EXCEEDED };
    own_error(frame, packet, (kind, 0), 0, Refusal::TtlExceeded, flow, ctx)
}

/// The packet is larger than the next hop's `mtu`: says so, for path MTU discovery (RFC 1191, RFC 8201).
pub fn too_big(frame: &mut Frame, packet: &Packet, mtu: u32, flow: &Flow, ctx: &mut Context) -> Verdict {
    let kind = if packet.family == V4 {
        (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED)
    } else {
        (icmp::V6_PACKET_TOO_BIG, 0)
    };
    own_error(frame, packet, kind, mtu, Refusal::TooBig, flow, ctx)
}

fn own_error(
    frame: &mut Frame,
    packet: &Packet,
    kind: (u8, u8),
    rest: u32,
    refusal: Refusal,
    flow: &Flow,
    ctx: &mut Context,
) -> Verdict {
    // In IPv6 a port may well have no address that is good beyond its link.
    let own = match (flow.side, flow.mode) {
        (Side::Server, Mode::Remote) => flow.local.addr,
        _ => flow.vip.addr,
    };
    let port = ctx.fib.port_address(frame.port, packet.family);
    let src = port.filter(|addr| !addr.is_link_local(packet.family)).unwrap_or(own);
    match reply::error(frame, packet, kind, rest, src, ctx) {
        Some(span) => {
            ctx.counters.refuse(refusal);
            Verdict::Transmit { span, port: frame.port }
        }
        None => Verdict::Refuse(refusal),
    }
}
