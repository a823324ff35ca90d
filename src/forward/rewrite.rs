//! Changing a packet in place: addresses, ports, TTL, checksums, MACs, MSS.

use crate::device::{Frame, Offload};
use crate::wire::checksum::Delta;
use crate::wire::ip::{Addr, Endpoint, TCP, UDP, V4, V4_HEADER};
use crate::wire::l4::{UDP_HEADER, checksum_offset, mss_option};
use crate::wire::{ETHERNET, Packet, be16, checksum, put_be16, put_raw16, raw16};

/// Offsets of an IPv4 header's fields from its start, of an IPv6 header's from the start of the frame.
const V4_TTL: usize = 8;
const V4_CHECKSUM: usize = 10;
const V4_ADDRESSES: usize = 12;
const V6_HOP_LIMIT: usize = ETHERNET + 7;
const V6_ADDRESSES: usize = ETHERNET + 8;

/// Gives the packet a new source and destination, addresses and ports, and takes one from its TTL.
#[inline(always)]
pub fn addresses(bytes: &mut [u8], packet: &Packet, offload: &Offload, src: &Endpoint, dst: &Endpoint) {
    let addresses = ip_header(bytes, packet, &src.addr, &dst.addr);
    // The sum of the whole packet is in the first fragment, with the ports.
    if packet.is_later_fragment() {
        return;
    }
    let l4 = usize::from(packet.l4);
    let mut ports = Delta::default();
    ports.word16(packet.src_port.to_be(), src.port.to_be());
    ports.word16(packet.dst_port.to_be(), dst.port.to_be());
    put_be16(bytes, l4, src.port);
    put_be16(bytes, l4 + 2, dst.port);
    update_l4_checksum(bytes, l4, packet.protocol, offload, addresses, ports);
}

/// The IP header's part of a rewrite: addresses, TTL, header checksum. Gives what the new addresses change in the sum of a
/// pseudo-header.
#[inline(always)]
pub fn ip_header(bytes: &mut [u8], packet: &Packet, src: &Addr, dst: &Addr) -> Delta {
    let mut addresses = Delta::default();
    addresses.addr(packet.family, &packet.src, src);
    addresses.addr(packet.family, &packet.dst, dst);
    if packet.family == V4 {
        let header = &mut bytes[ETHERNET..ETHERNET + V4_HEADER];
        let mut delta = addresses;
        let old = raw16(header, V4_TTL);
        header[V4_TTL] -= 1;
        delta.word16(old, raw16(header, V4_TTL));
        let check = delta.apply(raw16(header, V4_CHECKSUM));
        put_raw16(header, V4_CHECKSUM, check);
        header[V4_ADDRESSES..V4_ADDRESSES + 4].copy_from_slice(&src.0[0].to_ne_bytes());
        header[V4_ADDRESSES + 4..V4_ADDRESSES + 8].copy_from_slice(&dst.0[0].to_ne_bytes());
    } else {
        bytes[V6_HOP_LIMIT] -= 1;
        bytes[V6_ADDRESSES..V6_ADDRESSES + 16].copy_from_slice(&src.octets());
        bytes[V6_ADDRESSES + 16..V6_ADDRESSES + 32].copy_from_slice(&dst.octets());
    }
    addresses
}

/// `pseudo` is what changed in the pseudo-header, `rest` what changed in the L4 header itself: a checksum that is still
/// partial holds the sum of the pseudo-header only, the device adds the rest when it sends.
#[inline(always)]
fn update_l4_checksum(bytes: &mut [u8], l4: usize, protocol: u8, offload: &Offload, pseudo: Delta, rest: Delta) {
    let at = l4 + checksum_offset(protocol);
    let check = raw16(bytes, at);
    let partial = offload.needs_csum && usize::from(offload.csum_start) == l4;
    if partial {
        put_raw16(bytes, at, pseudo.apply_partial(check));
        return;
    }
    // A UDP sender that did not sum has said so with 0 (RFC 768); a sum that comes out as 0 is sent as 0xffff.
    if protocol == UDP && check == 0 {
        return;
    }
    let check = pseudo.and(rest).apply(check);
    put_raw16(bytes, at, if protocol == UDP && check == 0 { 0xffff } else { check });
}

#[inline(always)]
pub fn macs(bytes: &mut [u8], dst: [u8; 6], src: [u8; 6]) {
    bytes[..6].copy_from_slice(&dst);
    bytes[6..12].copy_from_slice(&src);
}

/// Finishes a checksum that the sender has left to the device.
pub fn complete_checksum(frame: &mut Frame, packet: &Packet) {
    let Offload { needs_csum, csum_start, csum_offset, .. } = frame.offload;
    if !needs_csum {
        return;
    }
    frame.offload.needs_csum = false;
    let bytes = &mut frame.buf[frame.start..frame.start + packet.end as usize];
    let at = usize::from(csum_start) + usize::from(csum_offset);
    if at + 2 <= bytes.len() {
        // The field holds the sum of the pseudo-header, so that it counts in.
        let check = !checksum::fold(checksum::sum(&bytes[csum_start.into()..]));
        put_raw16(bytes, at, if packet.protocol == UDP && check == 0 { 0xffff } else { check });
    }
}

/// Bytes of the largest IP packet that this frame will be on the wire: its segments', if it is several.
#[inline(always)]
pub fn largest_packet(frame: &Frame, packet: &Packet) -> u32 {
    let whole = packet.end - ETHERNET as u32;
    if frame.offload.gso_type == 0 || packet.fragment.is_some() {
        return whole;
    }
    let l4 = usize::from(packet.l4);
    let l4_header =
        if packet.protocol == TCP { usize::from(frame.buf[frame.start + l4 + 12] >> 4) * 4 } else { UDP_HEADER };
    whole.min((l4 - ETHERNET + l4_header) as u32 + u32::from(frame.offload.gso_size))
}

/// Lowers the MSS that a SYN offers to what fits `mtu`. True if it had to.
pub fn clamp_mss(bytes: &mut [u8], packet: &Packet, offload: &Offload, mtu: u32) -> bool {
    let l4 = usize::from(packet.l4);
    let header_len = usize::from(bytes[l4 + 12] >> 4) * 4;
    let Some(at) = mss_option(&bytes[l4..l4 + header_len]).map(|at| l4 + at) else { return false };
    let headers = if packet.family == V4 { 40 } else { 60 };
    let most = mtu.saturating_sub(headers).min(u32::from(u16::MAX)) as u16;
    let offered = be16(bytes, at);
    if offered <= most {
        return false;
    }
    let mut delta = Delta::default();
    // The option may stand at an odd place: then its bytes belong to two words of the sum, swapped (RFC 1071 2B).
    let swap = |value: u16| if (at - l4) % 2 == 1 { value.swap_bytes() } else { value };
    delta.word16(swap(offered.to_be()), swap(most.to_be()));
    put_be16(bytes, at, most);
    update_l4_checksum(bytes, l4, packet.protocol, offload, Delta::default(), delta);
    true
}
