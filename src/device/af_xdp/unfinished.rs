//! Checksums that the sender left to its device, of frames that come without a word on that.
//!
//! A virtual interface (veth) hands XDP what its peer's stack has left to the hardware: in the checksum's place stands the sum of
//! the pseudo-header, not complemented, and nothing beside the frame says so. (`struct xdp_md` has no field for it, and the
//! kernel's own skb, which has, is gone when AF_XDP gets the frame.) So the place itself is asked: does it hold just that sum?
//!
//! A packet whose checksum is complete may hold it as well, once in 65536. It is then summed up anew when it leaves, which gives
//! what stood there before, unless the packet was damaged on its way, to look undamaged from here on: the checksum itself overlooks
//! one in 65536 of those.

use crate::device::Offload;
use crate::wire::checksum::{fold, pseudo_header, sum};
use crate::wire::ip::{TCP, UDP};
use crate::wire::l4::checksum_offset;
use crate::wire::{Parsed, be16, parse, put_raw16, raw16};

/// What the sender of a frame has left undone.
pub fn look(frame: &[u8]) -> Offload {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) if packet.fragment.is_none() && [TCP, UDP].contains(&packet.protocol) => {
            let (l4, end) = (usize::from(packet.l4), packet.end as usize);
            let length = if packet.protocol == UDP { usize::from(be16(frame, l4 + 4)) } else { end - l4 };
            // No stack pads what it hands over, or puts options behind a datagram (RFC 9868) and leaves the sum to its device.
            if l4 + length != frame.len() {
                return Offload::default();
            }
            let offset = checksum_offset(packet.protocol);
            let bare = fold(pseudo_header(&packet.src, &packet.dst, packet.protocol, length as u32));
            if raw16(frame, l4 + offset) != bare {
                return Offload::default();
            }
            Offload { needs_csum: true, csum_start: packet.l4, csum_offset: offset as u16, ..Offload::default() }
        }
        _ => Offload::default(),
    }
}

/// Completes the checksum of a frame that needs it.
pub fn finish(frame: &mut [u8], offload: Offload) {
    let start = usize::from(offload.csum_start);
    let at = start + usize::from(offload.csum_offset);
    if at + 2 > frame.len() {
        return;
    }
    // The place holds the pseudo-header's part. In UDP zero means that there is no checksum.
    let check = !fold(sum(&frame[start..]));
    put_raw16(frame, at, if check == 0 { 0xffff } else { check });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Build;
    use crate::wire::l4::{ACK, SYN};

    const ENDS: [(&str, &str); 2] =
        [("192.0.2.1:4000", "203.0.113.10:110"), ("[2001:db8::1]:4000", "[2001:db8::10]:110")];

    /// TCP and UDP of both families, of even and odd lengths.
    fn packets() -> Vec<Build> {
        let mut packets = Vec::new();
        for (src, dst) in ENDS {
            for len in [0, 1, 2, 999, 1400] {
                let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                packets.push(Build { payload: payload.clone(), ..Build::tcp(src, dst, ACK) });
                packets.push(Build::udp(src, dst, &payload));
            }
            packets.push(Build::tcp(src, dst, SYN));
        }
        packets
    }

    #[test]
    fn a_partial_checksum_is_found_and_completed() {
        for whole in packets() {
            let mut frame = Build { partial: true, ..whole.clone() }.frame();
            let offload = look(&frame);
            assert!(offload.needs_csum, "{whole:?}");
            finish(&mut frame, offload);
            assert_eq!(frame, whole.frame(), "{whole:?}");
        }
    }

    #[test]
    fn a_complete_checksum_is_left_alone() {
        for whole in packets() {
            assert_eq!(look(&whole.frame()), Offload::default(), "{whole:?}");
            // Padded by a network card.
            let mut padded = Build { partial: true, ..whole.clone() }.frame();
            padded.extend([0xaa; 6]);
            assert_eq!(look(&padded), Offload::default(), "{whole:?}");
        }
        for other in [vec![], vec![0; 60], Build::icmp(ENDS[0].0, ENDS[0].1, 8, 0, b"ping").frame()] {
            assert_eq!(look(&other), Offload::default());
        }
    }

    #[test]
    fn a_complete_checksum_that_looks_partial_stays_right() {
        let found = (0..=u16::MAX).find_map(|word| {
            let whole = Build::udp(ENDS[0].0, ENDS[0].1, &word.to_be_bytes()).frame();
            let offload = look(&whole);
            offload.needs_csum.then_some((whole, offload))
        });
        let (whole, offload) = found.expect("one of 65536");
        let mut frame = whole.clone();
        finish(&mut frame, offload);
        assert_eq!(frame, whole);
    }
}
