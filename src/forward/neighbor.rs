//! ARP and neighbor solicitation for VIPs, PIPs and the doors of the probe interface are answered here, since the host does not
//! own these addresses. For an address that the host does own, the host answers.

use super::reply::{turn_macs, write_icmp_checksum, write_ip};
use super::{Context, Verdict};
use crate::counters::{Count, Refusal};
use crate::device::{Frame, Offload, Span};
use crate::wire::ip::{Addr, ICMPV6, V4, V6};
use crate::wire::l4::ICMP_HEADER;
use crate::wire::{ETHERNET, Packet, arp, icmp, put_be16, put_be32};

/// Bytes of a neighbor advertisement with the target's MAC (RFC 4861 4.4).
const ADVERTISEMENT: usize = ICMP_HEADER + 16 + 8;

fn answers_for(addr: &Addr, family: u8, ctx: &Context) -> bool {
    match ctx.services.pip(addr, family) {
        Some(pip) => !pip.host_owned,
        None => ctx.services.is_vip(addr, family) || ctx.services.is_door(addr, family),
    }
}

/// "It is at my MAC."
pub fn answer_arp(frame: &mut Frame, request: &arp::Request, ctx: &mut Context) -> Verdict {
    if !answers_for(&request.target, V4, ctx) {
        return Verdict::NotOurs;
    }
    let mac = ctx.fib.ports()[usize::from(frame.port)].mac;
    turn_macs(frame);
    let bytes = &mut frame.buf[frame.start..frame.start + ETHERNET + arp::LENGTH];
    bytes[6..12].copy_from_slice(&mac);
    let body = &mut bytes[ETHERNET..];
    put_be16(body, 6, arp::REPLY);
    // The asker becomes the target, whole: MAC and address.
    body.copy_within(8..18, 18);
    body[8..14].copy_from_slice(&mac);
    body[14..18].copy_from_slice(&request.target.octets()[..4]);
    ctx.counters.add(Count::ArpReplies, 1);
    let span = Span { start: frame.start, len: ETHERNET + arp::LENGTH, offload: Offload::default() };
    Verdict::Transmit { span, port: frame.port }
}

/// Answers a neighbor solicitation whose checksum is right (RFC 4861 7.1.1, 7.2.4).
pub fn answer_solicitation(frame: &mut Frame, packet: &Packet, ctx: &mut Context) -> Verdict {
    let bytes = &frame.buf[frame.start..frame.start + packet.end as usize];
    let message = &bytes[usize::from(packet.l4)..];
    let Some(target) = message.get(ICMP_HEADER..).and_then(|rest| rest.first_chunk::<16>()) else {
        return Verdict::Refuse(Refusal::NeighborSolicitation);
    };
    let target = Addr::v6(*target);
    if !answers_for(&target, V6, ctx) {
        return Verdict::NotOurs;
    }
    // A hop limit below 255 means that a router has passed it on: somebody who is not on this link.
    if packet.ttl != 255 || message[1] != 0 || usize::from(packet.l4) != ETHERNET + crate::wire::ip::V6_HEADER {
        return Verdict::Refuse(Refusal::NeighborSolicitation);
    }
    // Somebody checks whether the address is free: all nodes shall hear that it is not.
    let probe = packet.src == Addr::default();
    let all_nodes = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let dst = if probe { all_nodes } else { packet.src };
    let mac = ctx.fib.ports()[usize::from(frame.port)].mac;
    turn_macs(frame);
    let bytes = &mut frame.buf[frame.start..];
    if probe {
        bytes[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    }
    bytes[6..12].copy_from_slice(&mac);
    let Some(l4) = write_ip(bytes, V6, ICMPV6, &target, &dst, ADVERTISEMENT) else {
        return Verdict::Refuse(Refusal::NeighborSolicitation);
    };
    bytes[ETHERNET + 7] = 255;
    let message = &mut bytes[l4..l4 + ADVERTISEMENT];
    message.fill(0);
    message[0] = icmp::V6_NEIGHBOR_ADVERTISEMENT;
    const SOLICITED: u32 = 1 << 30;
    const OVERRIDE: u32 = 1 << 29;
    put_be32(message, 4, if probe { OVERRIDE } else { SOLICITED | OVERRIDE });
    message[ICMP_HEADER..ICMP_HEADER + 16].copy_from_slice(&target.octets());
    const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
    message[ICMP_HEADER + 16..ICMP_HEADER + 18].copy_from_slice(&TARGET_LINK_LAYER_ADDRESS);
    message[ICMP_HEADER + 18..].copy_from_slice(&mac);
    write_icmp_checksum(message, V6, &target, &dst);
    ctx.counters.add(Count::NeighborAdvertisements, 1);
    let span = Span { start: frame.start, len: l4 + ADVERTISEMENT, offload: Offload::default() };
    Verdict::Transmit { span, port: frame.port }
}
