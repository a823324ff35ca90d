//! Which parts of a packet have passed: a bit for every 8 bytes, the unit in which packets are cut.

/// In a packet of 64 KB.
pub const UNITS: usize = 65_536 / 8;

const WORDS: usize = UNITS / 64;

/// How a piece lies to those that have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing of it has passed.
    Fresh,
    /// Exactly this piece has (RFC 8200 4.5 lets it be told from an overlap).
    Duplicate,
    /// Something of it has, or it contradicts what is known of the packet's end (RFC 5722, RFC 1858 4).
    Overlap,
}

/// A piece: its first unit, the one behind its last, and whether that is the packet's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    from: u16,
    to: u16,
    last: bool,
}

impl Piece {
    /// `offset` and `length` in bytes, together at most 65535.
    pub fn new(offset: u16, length: usize, last: bool) -> Piece {
        let from = offset / 8;
        Piece { from, to: from + (length.min(UNITS * 8 - usize::from(offset)).div_ceil(8)) as u16, last }
    }
}

/// The pieces of one packet that have passed.
pub struct Ranges {
    passed: [u64; WORDS],
    /// Where pieces began.
    starts: [u64; WORDS],
    /// Units of `passed`.
    count: u16,
    /// Behind the last unit of `passed`.
    reach: u16,
    /// Units of the packet; 0: not known yet.
    total: u16,
}

impl Ranges {
    pub const fn new() -> Ranges {
        Ranges { passed: [0; WORDS], starts: [0; WORDS], count: 0, reach: 0, total: 0 }
    }

    pub fn clear(&mut self) {
        // Most packets are short.
        let words = usize::from(self.reach).div_ceil(64);
        self.passed[..words].fill(0);
        self.starts[..words].fill(0);
        (self.count, self.reach, self.total) = (0, 0, 0);
    }

    pub fn place(&self, piece: Piece) -> Place {
        let Piece { from, to, last } = piece;
        let covered = count(&self.passed, from, to);
        if covered == to - from && has(&self.starts, from) && count(&self.starts, from, to) == 1 {
            let ends_here = to == self.reach || has(&self.starts, to) || !has(&self.passed, to);
            if ends_here && last == (to == self.total) {
                return Place::Duplicate;
            }
        }
        let beyond = self.total != 0 && (to > self.total || last);
        let early_end = last && to < self.reach;
        if covered > 0 || beyond || early_end { Place::Overlap } else { Place::Fresh }
    }

    /// A [`Place::Fresh`] piece passes. True: it was the last that was missing.
    pub fn pass(&mut self, piece: Piece) -> bool {
        for (word, mask) in masks(piece.from, piece.to) {
            self.passed[word] |= mask;
        }
        self.starts[usize::from(piece.from) / 64] |= 1 << (piece.from % 64);
        self.count += piece.to - piece.from;
        self.reach = self.reach.max(piece.to);
        if piece.last {
            self.total = piece.to;
        }
        self.count == self.total
    }
}

fn has(bits: &[u64; WORDS], unit: u16) -> bool {
    bits.get(usize::from(unit / 64)).is_some_and(|word| word >> (unit % 64) & 1 != 0)
}

/// The words that `from..to` lies in, and which bits of them.
fn masks(from: u16, to: u16) -> impl Iterator<Item = (usize, u64)> {
    let (from, to) = (usize::from(from), usize::from(to).min(UNITS));
    (from / 64..to.div_ceil(64)).map(move |word| {
        let low = u64::MAX << from.saturating_sub(word * 64);
        let high = u64::MAX >> (word * 64 + 64).saturating_sub(to);
        (word, low & high)
    })
}

/// How many bits of `from..to` are set.
fn count(bits: &[u64; WORDS], from: u16, to: u16) -> u16 {
    masks(from, to).map(|(word, mask)| (bits[word] & mask).count_ones() as u16).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn piece(from: u16, to: u16, last: bool) -> Piece {
        Piece { from, to, last }
    }

    #[test]
    fn bytes_are_rounded_up_to_units() {
        assert_eq!(Piece::new(1480, 1480, false), piece(185, 370, false));
        assert_eq!(Piece::new(2960, 1, true), piece(370, 371, true));
        assert_eq!(Piece::new(65528, 7, true), piece(8191, 8192, true));
    }

    #[test]
    fn pieces_in_any_order_make_a_whole() {
        let pieces = [piece(0, 185, false), piece(185, 370, false), piece(370, 400, true)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]] {
            let mut ranges = Ranges::new();
            let whole = order.map(|at| {
                assert_eq!(ranges.place(pieces[at]), Place::Fresh);
                ranges.pass(pieces[at])
            });
            assert_eq!(whole, [false, false, true]);
        }
    }

    #[test]
    fn a_piece_that_has_passed_is_told_from_one_that_overlaps() {
        let mut ranges = Ranges::new();
        ranges.pass(piece(0, 10, false));
        ranges.pass(piece(10, 20, false));
        assert_eq!(ranges.place(piece(0, 10, false)), Place::Duplicate);
        assert_eq!(ranges.place(piece(10, 20, false)), Place::Duplicate);
        for overlap in [
            (0, 20, false),
            (0, 9, false),
            (5, 10, false),
            (0, 11, false),
            (19, 21, false),
            (10, 20, true),
            (9, 30, true),
        ] {
            assert_eq!(ranges.place(piece(overlap.0, overlap.1, overlap.2)), Place::Overlap, "{overlap:?}");
        }
    }

    #[test]
    fn a_packet_has_one_end() {
        let mut ranges = Ranges::new();
        ranges.pass(piece(10, 20, true));
        assert_eq!(ranges.place(piece(20, 21, false)), Place::Overlap, "behind the end");
        assert_eq!(ranges.place(piece(20, 21, true)), Place::Overlap, "another end");
        assert_eq!(ranges.place(piece(10, 20, true)), Place::Duplicate);
        assert_eq!(ranges.place(piece(0, 10, false)), Place::Fresh);
        ranges.clear();
        ranges.pass(piece(100, 110, false));
        assert_eq!(ranges.place(piece(20, 30, true)), Place::Overlap, "an end before what has passed");
    }

    proptest! {
        /// Against a row of booleans.
        #[test]
        fn what_is_fresh_and_what_is_whole(cuts in prop::collection::vec((0..8192_u16, 1..400_u16), 1..40)) {
            let (mut ranges, mut model) = (Ranges::new(), vec![false; UNITS]);
            for (from, len) in cuts {
                let to = (from + len).min(UNITS as u16);
                let taken = model[usize::from(from)..usize::from(to)].iter().any(|unit| *unit);
                let new = piece(from, to, false);
                prop_assert_eq!(ranges.place(new) == Place::Fresh, !taken);
                if !taken {
                    ranges.pass(new);
                    model[usize::from(from)..usize::from(to)].fill(true);
                    prop_assert_eq!(ranges.place(new), Place::Duplicate);
                }
            }
            ranges.clear();
            prop_assert_eq!(count(&ranges.passed, 0, UNITS as u16), 0);
            prop_assert_eq!(count(&ranges.starts, 0, UNITS as u16), 0);
        }
    }
}
