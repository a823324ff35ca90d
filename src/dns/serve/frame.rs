//! A question in an Ethernet frame, and its answer in the same frame: it goes back to the machine that handed the question over, from
//! the address that was asked.

use crate::device::Offload;
use crate::wire::checksum::{fold, header, pseudo_header, sum};
use crate::wire::ip::{Addr, UDP, V4, V4_HEADER, V6_HEADER};
use crate::wire::l4::UDP_HEADER;
use crate::wire::{ETHERNET, Parsed, be16, parse, put_be16, put_raw16, raw16};
use std::net::IpAddr;
use std::ops::Range;

/// Of IPv4 and IPv6.
const HOPS: u8 = 64;

/// A plain question: UDP without options, extension headers or fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub from: Addr,
    /// The address that was asked.
    pub to: Addr,
    family: u8,
    /// Where the UDP header and the message's end are, from the start of the frame.
    udp: u16,
    end: u16,
}

impl Question {
    /// Reads a frame. None: it is not plain, or a checksum is wrong, as the host's own stack would find. Never panics.
    pub fn read(frame: &[u8], offload: Offload) -> Option<Question> {
        let Ok(Parsed::Ip(packet)) = parse(frame) else { return None };
        let plain = ETHERNET + if packet.family == V4 { V4_HEADER } else { V6_HEADER };
        let udp = usize::from(packet.l4);
        // An answer goes to one machine, not to a group of them.
        let to_group = frame[6] & 1 == 1;
        if packet.protocol != UDP || packet.fragment.is_some() || udp != plain || to_group || offload.gso_type != 0 {
            return None;
        }
        let length = usize::from(be16(frame, udp + 4));
        let question = Question {
            from: packet.src,
            to: packet.dst,
            family: packet.family,
            udp: packet.l4,
            end: u16::try_from(udp + length).ok()?,
        };
        let known_good = offload.needs_csum || offload.csum_valid;
        (known_good || question.checksum_is_right(frame)).then_some(question)
    }

    fn checksum_is_right(&self, frame: &[u8]) -> bool {
        let udp = usize::from(self.udp);
        if raw16(frame, udp + 6) == 0 {
            // IPv4 may do without (RFC 768), IPv6 may not (RFC 8200 8.1).
            return self.family == V4;
        }
        fold(self.pseudo_header(usize::from(self.end)) + sum(&frame[udp..usize::from(self.end)])) == 0xffff
    }

    fn pseudo_header(&self, end: usize) -> u64 {
        pseudo_header(&self.from, &self.to, UDP, (end - usize::from(self.udp)) as u32)
    }

    /// Where the message lies in the frame, and where its answer is to be written.
    pub fn message(&self) -> Range<usize> {
        usize::from(self.udp) + UDP_HEADER..usize::from(self.end)
    }

    pub fn client(&self) -> IpAddr {
        self.from.to_ip(self.family)
    }

    pub fn asked(&self) -> IpAddr {
        self.to.to_ip(self.family)
    }

    /// Makes the frame the answer's, whose message of `length` bytes, at most 1500, stands at [`Question::message`]'s start already;
    /// gives the frame's length. `buf` starts with the frame that was read. `id`: of the IPv4 packet, in case it is cut on its way.
    pub fn turn(&self, buf: &mut [u8], length: usize, id: u16) -> usize {
        let udp = usize::from(self.udp);
        let end = udp + UDP_HEADER + length;
        swap::<6>(buf, 0, 6);
        if self.family == V4 {
            let (head, _) = buf[ETHERNET..].split_at_mut(V4_HEADER);
            head[1] = 0;
            put_be16(head, 2, (end - ETHERNET) as u16);
            put_be16(head, 4, id);
            // May be cut.
            put_be16(head, 6, 0);
            head[8] = HOPS;
            put_raw16(head, 10, 0);
            swap::<4>(head, 12, 16);
            if let Some(whole) = head.first_chunk() {
                let check = !fold(header(whole));
                put_raw16(head, 10, check);
            }
        } else {
            let head = &mut buf[ETHERNET..];
            head[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            put_be16(head, 4, (end - udp) as u16);
            head[7] = HOPS;
            swap::<16>(head, 8, 24);
        }
        swap::<2>(buf, udp, udp + 2);
        put_be16(buf, udp + 4, (end - udp) as u16);
        put_raw16(buf, udp + 6, 0);
        // The addresses' sum is the same in both directions.
        let check = !fold(self.pseudo_header(end) + sum(&buf[udp..end]));
        // Zero would mean that there is none.
        put_raw16(buf, udp + 6, if check == 0 { 0xffff } else { check });
        end
    }
}

/// Changes `N` bytes at `a` for those at `b`, which lie behind them.
#[inline]
fn swap<const N: usize>(buf: &mut [u8], a: usize, b: usize) {
    let (front, back) = buf.split_at_mut(b);
    front[a..a + N].swap_with_slice(&mut back[..N]);
}

#[cfg(test)]
mod tests;
