//! Answers of farside's own, written over the packet that they answer: RST, ICMP errors. They leave by the port that the packet
//! came in by, to the MAC that it came from.

use super::{Context, Verdict};
use crate::counters::{Count, Refusal};
use crate::device::{Frame, Offload, Span};
use crate::wire::ip::{Addr, Endpoint, ICMP, ICMPV6, TCP, V4, V4_HEADER, V6_HEADER};
use crate::wire::l4::{ACK, FIN, ICMP_HEADER, RST, SYN, TCP_HEADER};
use crate::wire::{
    ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, be32, checksum, icmp, put_be16, put_be32, put_raw16,
};

/// TTL of packets that start here.
const TTL: u8 = 64;

/// The most bytes of an ICMP error, IP header included (RFC 1812 4.3.2.3, RFC 4443 2.4 c).
const V4_ERROR: usize = 576;
const V6_ERROR: usize = 1280;

/// Counts the refusal and tells the sender: RST for TCP, port unreachable for UDP.
pub fn refuse(frame: &mut Frame, packet: &Packet, refusal: Refusal, ctx: &mut Context) -> Verdict {
    let answered = if packet.protocol == TCP {
        reset(frame, packet, ctx)
    } else {
        let code = if packet.family == V4 { icmp::PORT_UNREACHABLE } else { icmp::V6_PORT_UNREACHABLE };
        let kind = if packet.family == V4 { icmp::UNREACHABLE } else { icmp::V6_UNREACHABLE };
        error(frame, packet, (kind, code), 0, packet.dst, ctx)
    };
    match answered {
        Some(span) => {
            ctx.counters.refuse(refusal);
            Verdict::Transmit { span, port: frame.port }
        }
        None => Verdict::Refuse(refusal),
    }
}

/// An RST to the sender of a TCP packet (RFC 9293 3.10.7.1). None: it was an RST itself, or too many were sent lately.
fn reset(frame: &mut Frame, packet: &Packet, ctx: &mut Context) -> Option<Span> {
    if packet.tcp_flags & RST != 0 {
        return None;
    }
    if !ctx.limits.resets.take(ctx.now) {
        ctx.counters.add(Count::AnswersSuppressed, 1);
        return None;
    }
    let tcp = &frame.buf[frame.start + usize::from(packet.l4)..frame.start + packet.end as usize];
    let (seq, ack) = (be32(tcp, 4), be32(tcp, 8));
    let payload = tcp.len() as u32 - u32::from(tcp[12] >> 4) * 4;
    let counted = u32::from(packet.tcp_flags & SYN != 0) + u32::from(packet.tcp_flags & FIN != 0);
    let segment = if packet.tcp_flags & ACK != 0 {
        Segment { seq: ack, ack: 0, flags: RST }
    } else {
        Segment { seq: 0, ack: seq.wrapping_add(payload + counted), flags: RST | ACK }
    };
    turn_macs(frame);
    let (src, dst) = (packet.key().dst, packet.key().src);
    ctx.counters.add(Count::ResetsSent, 1);
    let bytes = &mut frame.buf[frame.start..];
    let len = write_segment(bytes, packet.family, src, dst, &segment)?;
    Some(Span { start: frame.start, len, offload: Offload::default() })
}

/// What a TCP segment without data says.
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
}

/// Writes a TCP segment without data behind the MAC addresses of a frame; gives the frame's length. None: no room.
pub fn write_segment(bytes: &mut [u8], family: u8, src: Endpoint, dst: Endpoint, segment: &Segment) -> Option<usize> {
    let l4 = write_ip(bytes, family, TCP, &src.addr, &dst.addr, TCP_HEADER)?;
    let end = l4 + TCP_HEADER;
    let tcp = &mut bytes[l4..end];
    tcp.fill(0);
    put_be16(tcp, 0, src.port);
    put_be16(tcp, 2, dst.port);
    put_be32(tcp, 4, segment.seq);
    put_be32(tcp, 8, segment.ack);
    tcp[12] = (TCP_HEADER as u8 / 4) << 4;
    tcp[13] = segment.flags;
    let pseudo = checksum::pseudo_header(&src.addr, &dst.addr, TCP, TCP_HEADER as u32);
    let check = !checksum::fold(pseudo + checksum::sum(tcp));
    put_raw16(tcp, 16, check);
    Some(end)
}

/// Writes the EtherType and an IP header for `payload` bytes behind the MAC addresses; gives where the payload starts. None: header
/// and payload have no room.
pub fn write_ip(bytes: &mut [u8], family: u8, protocol: u8, src: &Addr, dst: &Addr, payload: usize) -> Option<usize> {
    let header_len = if family == V4 { V4_HEADER } else { V6_HEADER };
    let l4 = ETHERNET + header_len;
    if bytes.len() < l4 + payload {
        return None;
    }
    put_be16(bytes, 12, if family == V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 });
    let header = &mut bytes[ETHERNET..l4];
    header.fill(0);
    if family == V4 {
        header[0] = 0x45;
        put_be16(header, 2, (V4_HEADER + payload) as u16);
        header[6] = 0x40; // Don't fragment: an identification of 0 is allowed for such packets only (RFC 6864 4.1).
        header[8] = TTL;
        header[9] = protocol;
        header[12..16].copy_from_slice(&src.octets()[..4]);
        header[16..20].copy_from_slice(&dst.octets()[..4]);
        let check = !checksum::fold(checksum::sum(header));
        put_raw16(header, 10, check);
    } else {
        header[0] = 0x60;
        put_be16(header, 4, payload as u16);
        header[6] = protocol;
        header[7] = TTL;
        header[8..24].copy_from_slice(&src.octets());
        header[24..40].copy_from_slice(&dst.octets());
    }
    Some(l4)
}

/// The most bytes of a packet that an ICMP error quotes.
pub fn longest_quote(family: u8) -> usize {
    if family == V4 { V4_ERROR - V4_HEADER - ICMP_HEADER } else { V6_ERROR - V6_HEADER - ICMP_HEADER }
}

/// An ICMP error about `packet` to its sender, from `src`; `rest` is the second word of the header (an MTU, or 0). None: the
/// frame's buffer has no room for it, or too many were sent lately.
pub fn error(
    frame: &mut Frame,
    packet: &Packet,
    (kind, code): (u8, u8),
    rest: u32,
    src: Addr,
    ctx: &mut Context,
) -> Option<Span> {
    // Never about a later fragment (RFC 1122 3.2.2): the sender could not tell whose it is.
    if packet.is_later_fragment() {
        return None;
    }
    let family = packet.family;
    let header_len = if family == V4 { V4_HEADER } else { V6_HEADER };
    let quote_len = (packet.end as usize - ETHERNET).min(longest_quote(family));
    let grown = header_len + ICMP_HEADER;
    if frame.start + ETHERNET + grown + quote_len > frame.buf.len() {
        return None;
    }
    if !ctx.limits.icmp.take(ctx.now) {
        ctx.counters.add(Count::AnswersSuppressed, 1);
        return None;
    }
    turn_macs(frame);
    let bytes = &mut frame.buf[frame.start..];
    bytes.copy_within(ETHERNET..ETHERNET + quote_len, ETHERNET + grown);
    let protocol = if family == V4 { ICMP } else { ICMPV6 };
    let l4 = write_ip(bytes, family, protocol, &src, &packet.src, ICMP_HEADER + quote_len)?;
    let end = l4 + ICMP_HEADER + quote_len;
    let message = &mut bytes[l4..end];
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    put_be32(message, 4, rest);
    write_icmp_checksum(message, family, &src, &packet.src);
    ctx.counters.add(Count::IcmpErrorsSent, 1);
    Some(Span { start: frame.start, len: end, offload: Offload::default() })
}

/// Sums an ICMP message; its checksum field is zero so far. ICMPv6 takes the pseudo-header in (RFC 4443 2.3).
pub fn write_icmp_checksum(message: &mut [u8], family: u8, src: &Addr, dst: &Addr) {
    let check = !checksum::fold(icmp_sum(message, family, src, dst));
    put_raw16(message, 2, check);
}

/// The sum over an ICMP message, checksum field included.
pub fn icmp_sum(message: &[u8], family: u8, src: &Addr, dst: &Addr) -> u64 {
    let pseudo = if family == V4 { 0 } else { checksum::pseudo_header(src, dst, ICMPV6, message.len() as u32) };
    pseudo + checksum::sum(message)
}

/// Sends the packet back to where it came from, as if it had begun here.
pub fn turn_addresses(bytes: &mut [u8], family: u8) {
    let (src, ttl, length) =
        if family == V4 { (ETHERNET + 12, ETHERNET + 8, 4) } else { (ETHERNET + 8, ETHERNET + 7, 16) };
    let (left, right) = bytes[src..src + 2 * length].split_at_mut(length);
    left.swap_with_slice(right);
    bytes[ttl] = TTL;
    if family == V4 {
        let header = &mut bytes[ETHERNET..ETHERNET + V4_HEADER];
        put_raw16(header, 10, 0);
        let check = !checksum::fold(checksum::sum(header));
        put_raw16(header, 10, check);
    }
}

/// Sends the frame back to where it came from.
pub fn turn_macs(frame: &mut Frame) {
    let (dst, rest) = frame.buf[frame.start..].split_at_mut(6);
    dst.swap_with_slice(&mut rest[..6]);
}
