//! Stripes: resolvers spread over the members that are up by their addresses alone, so that nothing is remembered and every name server of
//! every site says the same.

use super::Place;
use super::who::Asker;
use crate::sites::same_hash;

/// How the resolver's number falls on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stripe {
    /// The member that the resolver's hash with it is highest of (Thaler, Ravishankar 1998): when one of n goes, its own resolvers move,
    /// 1/n of all.
    Rendezvous,
    /// N members are up, X is the remainder of the number by N, and one more: the X-th of those that are up, in the order of the
    /// configuration. When one of n goes, (n-1)/n of all resolvers move.
    Modulus,
}

impl Stripe {
    /// The place of the one among the members that are up. None: there are none.
    ///
    /// The source looks at the member found once more and begins again with one less if it has gone down meanwhile. Here an
    /// answer is made from one state of all members from its beginning to its end, so none goes down meanwhile.
    pub(super) fn find(self, up: &[Place], asker: &Asker) -> Option<usize> {
        if up.is_empty() {
            return None;
        }
        match self {
            Stripe::Modulus => Some((asker.number() % up.len() as u128) as usize),
            Stripe::Rendezvous => {
                let who = same_hash(&asker.who.0);
                let mut best = (0, 0);
                for (at, place) in up.iter().enumerate() {
                    let score = mixed(who ^ place.hash);
                    if at == 0 || score > best.0 {
                        best = (score, at);
                    }
                }
                Some(best.1)
            }
        }
    }
}

/// Of a member of a site; the names are the same at all sites, and so is this.
pub fn hash_of(site: &str, member: &str) -> u64 {
    let mut text = site.as_bytes().to_vec();
    // No name has it.
    text.push(0);
    text.extend_from_slice(member.as_bytes());
    same_hash(&text)
}

/// Every bit depends on every bit: the finalizer of splitmix64 (Steele, Lea, Flood 2014).
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}
