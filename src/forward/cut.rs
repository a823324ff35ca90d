//! Cutting a packet into what the wire takes: segments that a sender has left joined, fragments of a packet that is too large,
//! or both, each with the outer headers in front that the packet has.
//!
//! The kernel joins segments of one flow before a packet socket sees them, and a packet socket hands them back joined only if
//! they are plain TCP or UDP: `virtio_net_hdr` has no word for what is encapsulated. So those are cut here as the kernel would
//! (net/ipv4/tcp_offload.c, udp_offload.c): sequence numbers go on, FIN and PSH belong to the last segment, CWR to the first.
//!
//! IPv4 packets whose sender allows it are fragmented (RFC 791 3.2) inside the tunnel, not around it, so that the far end has
//! nothing to put together.

use super::encap;
use super::rewrite::complete_checksum;
use crate::device::{Frame, HEADROOM};
use crate::wire::ip::{Addr, TCP, UDP, V4_HEADER, V6_HEADER};
use crate::wire::l4::{FIN, UDP_HEADER, checksum_offset};
use crate::wire::{ETHERNET, Packet, be16, be32, checksum, put_be16, put_be32, put_raw16, raw16};

/// TCP flags.
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Of an IPv4 header's fragment field: don't fragment, more fragments, and the offset in units of 8 bytes.
pub const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// VIRTIO_NET_HDR_GSO_UDP: one datagram that its sender's device shall fragment, not several datagrams; and the bit beside a
/// type that is none itself.
const GSO_UDP_FRAGMENTS: u8 = 3;
const GSO_ECN: u8 = 0x80;

/// The longest packet that may come out of a piece, and the room for outer headers in front of it.
const BUFFER: usize = HEADROOM + ETHERNET + u16::MAX as usize;

/// A frame that shall leave in pieces. Offsets count from `start`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Of the frame in its buffer.
    pub start: usize,
    pub len: usize,
    /// Where the IP header of the packet that is cut is; what lies before it is put before each piece.
    pub inner: u16,
    pub l4: u16,
    pub protocol: u8,
    /// Payload bytes of each of the joined segments; 0: it is a single packet.
    pub segment: u16,
    /// Bytes of the largest IP packet that may come out, without outer headers.
    pub most: u32,
}

impl Cut {
    /// A packet that lies at `frame.start` and has been given `grown` bytes of outer headers.
    pub fn new(frame: &Frame, packet: &Packet, grown: usize, most: u32) -> Cut {
        Cut {
            start: frame.start - grown,
            len: packet.end as usize + grown,
            inner: (ETHERNET + grown) as u16,
            l4: packet.l4 + grown as u16,
            protocol: packet.protocol,
            segment: if is_joined(frame) && matches!(packet.protocol, TCP | UDP) { frame.offload.gso_size } else { 0 },
            most,
        }
    }
}

/// Is it several packets?
pub fn is_joined(frame: &Frame) -> bool {
    frame.offload.gso_type != 0 && frame.offload.gso_size != 0 && !is_to_be_fragmented(frame)
}

/// Is it one packet whose sender wants it fragmented?
fn is_to_be_fragmented(frame: &Frame) -> bool {
    frame.offload.gso_type & !GSO_ECN == GSO_UDP_FRAGMENTS
}

/// May its pieces be fragments? IPv6 leaves that to the sender alone.
pub fn may_fragment(frame: &Frame, packet: &Packet) -> bool {
    let field = be16(frame.buf, frame.start + ETHERNET + 6);
    packet.family == crate::wire::ip::V4 && (field & DONT_FRAGMENT == 0 || is_to_be_fragmented(frame))
}

/// A worker's place to cut at: memory for a segment and for a fragment of it, and how far it is.
pub struct Cutter {
    segment: Box<[u8]>,
    fragment: Box<[u8]>,
    /// Of `segment`.
    len: usize,
    /// Payload bytes that have been dealt with.
    done: usize,
    /// Payload bytes of `segment` that have left as fragments; None: it leaves whole.
    fragmented: Option<usize>,
    over: bool,
}

impl Cutter {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Cutter {
        let buffer = || vec![0; BUFFER].into_boxed_slice();
        Cutter { segment: buffer(), fragment: buffer(), len: 0, done: 0, fragmented: None, over: false }
    }

    /// To be called before the first [`Cutter::piece`] of each packet.
    pub fn begin(&mut self) {
        (self.done, self.fragmented, self.over) = (0, None, false);
    }

    /// The next piece of the packet, a whole frame. None: all have been given. `buf` is the buffer of the frame.
    pub fn piece(&mut self, cut: &Cut, buf: &[u8]) -> Option<&[u8]> {
        if self.fragmented.is_none() {
            if self.over {
                return None;
            }
            self.take_segment(cut, buf.get(cut.start..cut.start + cut.len)?)?;
        }
        let inner = usize::from(cut.inner);
        match self.fragmented {
            Some(done) => self.fragment(cut, done),
            None => {
                let frame = &mut self.segment[..self.len];
                if inner > ETHERNET {
                    encap::finish(frame);
                }
                Some(frame)
            }
        }
    }

    /// Copies the next segment, or the packet if it is but one.
    fn take_segment(&mut self, cut: &Cut, frame: &[u8]) -> Option<()> {
        let (inner, l4) = (usize::from(cut.inner), usize::from(cut.l4));
        if cut.segment == 0 {
            self.segment.get_mut(..frame.len())?.copy_from_slice(frame);
            (self.len, self.over) = (frame.len(), true);
        } else {
            let header = if cut.protocol == TCP { usize::from(frame[l4 + 12] >> 4) * 4 } else { UDP_HEADER };
            let headers = l4 + header;
            let payload = frame.get(headers + self.done..)?;
            let payload = &payload[..payload.len().min(cut.segment.into())];
            self.len = headers + payload.len();
            let segment = self.segment.get_mut(..self.len)?;
            segment[..headers].copy_from_slice(&frame[..headers]);
            segment[headers..].copy_from_slice(payload);
            let before = self.done;
            self.done += payload.len();
            self.over = headers + self.done >= frame.len();
            adjust(segment, cut, before, self.over);
        }
        let too_large = self.len - inner > cut.most as usize && self.segment[inner] >> 4 == 4;
        self.fragmented = too_large.then_some(0);
        Some(())
    }

    /// The fragment of the segment that begins after `done` bytes of its payload.
    fn fragment(&mut self, cut: &Cut, done: usize) -> Option<&[u8]> {
        let inner = usize::from(cut.inner);
        let header = usize::from(self.segment[inner] & 15) * 4;
        let headers = inner + header;
        let whole = &self.segment[headers..self.len];
        let unit = ((cut.most as usize).saturating_sub(header) & !7).max(8);
        let part = &whole[done..whole.len().min(done + unit)];
        let last = done + part.len() == whole.len();
        let frame = self.fragment.get_mut(..headers + part.len())?;
        frame[..headers].copy_from_slice(&self.segment[..headers]);
        frame[headers..].copy_from_slice(part);
        // It may be a fragment itself, with an offset and more to come.
        let field = be16(frame, inner + 6) & !DONT_FRAGMENT;
        let offset = (field & OFFSET) + (done / 8) as u16;
        let more = if last { field & MORE } else { MORE };
        put_be16(frame, inner + 6, offset & OFFSET | more);
        put_be16(frame, inner + 2, (header + part.len()) as u16);
        sum_header(&mut frame[inner..headers]);
        self.fragmented = (!last).then_some(done + part.len());
        if inner > ETHERNET {
            encap::finish(frame);
        }
        Some(frame)
    }
}

/// Makes of a copy of the joined packet's headers those of the segment that begins `before` bytes into the payload.
fn adjust(segment: &mut [u8], cut: &Cut, before: usize, last: bool) {
    let (inner, l4) = (usize::from(cut.inner), usize::from(cut.l4));
    let length = segment.len();
    let (src, dst) = if segment[inner] >> 4 == 4 {
        // Each is a packet of its own and has an identification of its own.
        let number = (before / usize::from(cut.segment)) as u16;
        let id = be16(segment, inner + 4).wrapping_add(number);
        put_be16(segment, inner + 4, id);
        put_be16(segment, inner + 2, (length - inner) as u16);
        sum_header(&mut segment[inner..inner + V4_HEADER]);
        let word = |at: usize| Addr::v4([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
        (word(inner + 12), word(inner + 16))
    } else {
        put_be16(segment, inner + 4, (length - inner - V6_HEADER) as u16);
        let word = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&segment[at..at + 16]);
            Addr::v6(octets)
        };
        (word(inner + 8), word(inner + 24))
    };
    let check_at = l4 + checksum_offset(cut.protocol);
    if cut.protocol == TCP {
        let seq = be32(segment, l4 + 4).wrapping_add(before as u32);
        put_be32(segment, l4 + 4, seq);
        if !last {
            segment[l4 + 13] &= !(FIN | PSH);
        }
        if before > 0 {
            segment[l4 + 13] &= !CWR;
        }
    } else {
        put_be16(segment, l4 + 4, (length - l4) as u16);
        // A sender that did not sum has said so with 0 (RFC 768).
        if raw16(segment, check_at) == 0 {
            return;
        }
    }
    put_raw16(segment, check_at, 0);
    let pseudo = checksum::pseudo_header(&src, &dst, cut.protocol, (length - l4) as u32);
    let check = !checksum::fold(pseudo + checksum::sum(&segment[l4..]));
    put_raw16(segment, check_at, if cut.protocol == UDP && check == 0 { 0xffff } else { check });
}

fn sum_header(header: &mut [u8]) {
    put_raw16(header, 10, 0);
    let check = !checksum::fold(checksum::sum(header));
    put_raw16(header, 10, check);
}

/// Makes a frame ready for [`Cut`]: of a single packet the checksum must be right before fragments part it.
pub fn prepare(frame: &mut Frame, packet: &Packet) {
    if !is_joined(frame) {
        complete_checksum(frame, packet);
    }
}
