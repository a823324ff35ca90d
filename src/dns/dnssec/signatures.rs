//! Signatures that were made, kept by the thread that made them: a table of fixed size, where those that were not used for longest make
//! room.

use super::key::{Key, SIGNATURE};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

/// A place is looked for in so many.
const WAYS: usize = 4;

/// Words of a place: two of the hash, the turn in which it was last used, the signature. All zero: free.
const WORDS: usize = 3 + SIGNATURE / 8;

pub(super) struct Signatures {
    places: Box<[[u64; WORDS]]>,
    turn: u64,
    seed: u64,
}

impl Signatures {
    /// `places`: a power of two. Memory is taken as it is used.
    pub fn new(places: usize, seed: u64) -> Signatures {
        Signatures { places: vec![[0; WORDS]; places.max(WAYS)].into(), turn: 0, seed }
    }

    /// What a signature of `message` by `key` is kept under. Nobody who does not know the seed can choose two messages that have the same.
    pub fn hash(&self, key: &Key, message: &[u8]) -> [u64; 2] {
        let mut hasher = SipHasher13::new_with_keys(self.seed, !self.seed);
        hasher.write(key.public());
        hasher.write(message);
        let sum = hasher.finish128();
        [sum.h1, sum.h2 | 1]
    }

    fn ways(&mut self, hash: [u64; 2]) -> &mut [[u64; WORDS]] {
        let first = hash[0] as usize & (self.places.len() - 1) & !(WAYS - 1);
        &mut self.places[first..first + WAYS]
    }

    pub fn find(&mut self, hash: [u64; 2], out: &mut [u8; SIGNATURE]) -> bool {
        self.turn += 1;
        let turn = self.turn;
        let Some(place) = self.ways(hash).iter_mut().find(|place| place[..2] == hash) else { return false };
        place[2] = turn;
        out.chunks_exact_mut(8).zip(&place[3..]).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_ne_bytes()));
        true
    }

    pub fn keep(&mut self, hash: [u64; 2], signature: &[u8; SIGNATURE]) {
        let turn = self.turn;
        let Some(place) = self.ways(hash).iter_mut().min_by_key(|place| place[2]) else { return };
        (place[0], place[1], place[2]) = (hash[0], hash[1], turn);
        for (word, bytes) in place[3..].iter_mut().zip(signature.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_until_there_is_too_much_of_it() {
        let mut signatures = Signatures::new(16, 7);
        let mut out = [0; SIGNATURE];
        let hash = |n: u64| [n, n | 1];
        assert!(!signatures.find(hash(0), &mut out), "an empty place is no signature");
        for n in 0..4 {
            signatures.keep(hash(n * 16), &[n as u8; SIGNATURE]);
            assert!(signatures.find(hash(n * 16), &mut out) && out == [n as u8; SIGNATURE]);
        }
        // The first one is wanted again, so that the second goes.
        assert!(signatures.find(hash(0), &mut out) && out == [0; SIGNATURE]);
        signatures.keep(hash(64), &[9; SIGNATURE]);
        let had: Vec<bool> = (0..5).map(|n| signatures.find(hash(n * 16), &mut out)).collect();
        assert_eq!(had, [true, false, true, true, true]);
        assert_eq!(signatures.places.len(), 16);
    }
}
