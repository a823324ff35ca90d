//! The Internet checksum (RFC 1071), and its change in place (RFC 1624).
//!
//! One's complement sums do not care about byte order as long as all words are read alike, so everything here works
//! on 16-bit words as they lie on the wire (native loads of network-order bytes) and never swaps.

use super::ip::{Addr, V4, V4_HEADER};

/// What a rewrite adds to a one's complement sum: for each word `~old + new`, not yet folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    #[inline]
    pub fn word16(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    #[inline]
    pub fn word32(&mut self, old: u32, new: u32) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// `family` is that of both.
    #[inline]
    pub fn addr(&mut self, family: u8, old: &Addr, new: &Addr) {
        let [a, b, c, d] = new.0;
        self.word32(old.0[0], a);
        if family != V4 {
            self.word32(old.0[1], b);
            self.word32(old.0[2], c);
            self.word32(old.0[3], d);
        }
    }

    /// Both changes.
    #[inline]
    pub fn and(self, other: Delta) -> Delta {
        Delta(self.0 + other.0)
    }

    /// RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
    #[inline]
    pub fn apply(self, check: u16) -> u16 {
        !fold(u64::from(!check) + self.0)
    }

    /// For a field that holds a sum that is not complemented yet: the pseudo-header sum of a packet whose checksum
    /// a device further on shall complete (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    #[inline]
    pub fn apply_partial(self, sum: u16) -> u16 {
        fold(u64::from(sum) + self.0)
    }
}

/// Folds a sum of 16- or 32-bit words to 16 bits.
#[inline]
pub fn fold(sum: u64) -> u16 {
    // Each half added to the other; the carry out of the lower sum runs into the upper one, where it belongs.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The sum of an IPv4 header without options, for [`fold`].
#[inline]
pub fn header(bytes: &[u8; V4_HEADER]) -> u64 {
    let [a, b, c, d, e] = std::array::from_fn(|i| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|byte| bytes[4 * i + byte]);
        u64::from(u32::from_ne_bytes([a, b, c, d]))
    });
    a + b + c + d + e
}

/// The sum of `bytes`, neither folded nor complemented; an odd last byte is padded with zero.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let (halves, last) = rest.as_chunks::<2>();
    for half in halves {
        sum += u64::from(u16::from_ne_bytes(*half));
    }
    if let [byte] = last {
        sum += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    sum
}

/// The sum of the pseudo-header (RFC 793 3.1, RFC 8200 8.1); `length` is that of the L4 header and payload, in bytes.
pub fn pseudo_header(src: &Addr, dst: &Addr, protocol: u8, length: u32) -> u64 {
    let addresses: u64 = src.0.iter().chain(&dst.0).map(|word| u64::from(*word)).sum();
    addresses + u64::from(u16::from(protocol).to_be()) + u64::from(length.to_be())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(bytes: &[u8]) -> u16 {
        !fold(sum(bytes))
    }

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let folded = fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]));
        assert_eq!(folded.to_ne_bytes(), [0xdd, 0xf2]);
    }

    proptest! {
        #[test]
        fn agrees_with_an_independent_implementation(bytes in prop::collection::vec(any::<u8>(), 20..200)) {
            let mut bytes = bytes;
            bytes.truncate(bytes.len() & !1);
            let oracle = pnet_packet::util::checksum(&bytes, usize::MAX);
            prop_assert_eq!(full(&bytes), oracle.to_be());
        }

        #[test]
        fn a_change_in_place_equals_a_new_sum(mut bytes in prop::collection::vec(any::<u8>(), 40..=40), new in any::<[u8; 8]>()) {
            bytes[36] |= 1; // An all-zero packet has two representations of its sum.
            let before = full(&bytes);
            let mut delta = Delta::default();
            let old = u32::from_ne_bytes(bytes[8..12].try_into().unwrap());
            delta.word32(old, u32::from_ne_bytes(new[0..4].try_into().unwrap()));
            let old = u16::from_ne_bytes(bytes[20..22].try_into().unwrap());
            delta.word16(old, u16::from_ne_bytes(new[4..6].try_into().unwrap()));
            bytes[8..12].copy_from_slice(&new[0..4]);
            bytes[20..22].copy_from_slice(&new[4..6]);
            prop_assert_eq!(delta.apply(before), full(&bytes));
            prop_assert_eq!(delta.apply_partial(!before), !full(&bytes));
        }
    }
}
