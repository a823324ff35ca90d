//! NSEC records made for a question (RFC 4470): what they say and what lies between their ends.

use super::super::name::{self, LONGEST_NAME, Suffixes};
use super::super::wire::rtype;
use super::super::zone::{Contents, NOWHERE};
use std::cmp::Ordering;

/// A name of its own, in wire form and lower case.
#[derive(Clone, Copy)]
pub(super) struct Text {
    bytes: [u8; LONGEST_NAME],
    length: usize,
}

impl Text {
    /// The start of a name that goes on with the rest; None: it would be too long.
    fn join(first: &[u8], rest: &[u8]) -> Option<Text> {
        let length = first.len() + rest.len();
        let mut text = Text { bytes: [0; LONGEST_NAME], length };
        text.bytes.get_mut(..first.len())?.copy_from_slice(first);
        text.bytes.get_mut(first.len()..length)?.copy_from_slice(rest);
        text.bytes[..length].make_ascii_lowercase();
        Some(text)
    }

    /// Of a name of the zone.
    fn of(wire: &[u8]) -> Text {
        Text::join(wire, &[]).unwrap_or(Text { bytes: [0; LONGEST_NAME], length: 1 })
    }

    pub fn wire(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// An NSEC record: nothing exists between owner and next, and the owner has these types.
#[derive(Clone, Copy)]
pub(super) struct Proof {
    pub owner: Text,
    pub next: Text,
    /// Whose types they are; [`NOWHERE`]: the owner is a name made up for this, which has NSEC and RRSIG alone (RFC 4470 4).
    pub node: u32,
    /// A type that is left out, as it is just now not there.
    pub without: u16,
}

/// The most that one answer needs: two for the last name, and one for each alias that came from a wildcard.
const MOST: usize = 16;

/// The proofs of one answer.
pub(super) struct Proofs {
    list: [Proof; MOST],
    count: usize,
}

impl Proofs {
    pub fn new() -> Proofs {
        let root = Text { bytes: [0; LONGEST_NAME], length: 1 };
        Proofs { list: [Proof { owner: root, next: root, node: NOWHERE, without: 0 }; MOST], count: 0 }
    }

    pub fn clear(&mut self) {
        self.count = 0;
    }

    pub fn get(&self, at: usize) -> Option<&Proof> {
        self.list[..self.count].get(at)
    }

    /// Two of the same owner are one that says both. False: there are too many.
    pub fn add(&mut self, proof: Proof, origin: &[u8]) -> bool {
        let had = self.list[..self.count].iter_mut().find(|had| had.owner.wire() == proof.owner.wire());
        if let Some(had) = had {
            // The origin as the next one is the zone's end.
            let ends = |text: &Text| text.wire().eq_ignore_ascii_case(origin);
            let further = name::canonical(proof.next.wire(), had.next.wire()) == Ordering::Greater;
            if ends(&proof.next) || further && !ends(&had.next) {
                had.next = proof.next;
            }
            had.without = had.without.max(proof.without);
            if had.node == NOWHERE {
                had.node = proof.node;
            }
            return true;
        }
        match self.list.get_mut(self.count) {
            Some(place) => {
                *place = proof;
                self.count += 1;
                true
            }
            None => false,
        }
    }
}

/// The name that has, of its parent's children, `label` at its place.
fn child(label: &[u8], parent: &[u8]) -> Option<Text> {
    let mut first = [0; 64];
    first[0] = label.len() as u8;
    first.get_mut(1..1 + label.len())?.copy_from_slice(label);
    if label.is_empty() {
        return None;
    }
    Text::join(&first[..1 + label.len()], parent)
}

/// A name a little before `name`, none of whose own are below it. `name` is in lower case.
fn before(name: &[u8]) -> Option<Text> {
    let (label, parent) = first_label(name)?;
    let mut out = [0; 64];
    let mut long = label.len();
    out[..long].copy_from_slice(label);
    match out[long - 1] {
        0 => long -= 1,
        last => {
            // Capital letters are small ones.
            out[long - 1] = if last == b'Z' + 1 { b'A' - 1 } else { last - 1 };
            if long < 63 && name.len() < LONGEST_NAME {
                out[long] = 255;
                long += 1;
            }
        }
    }
    child(&out[..long], parent)
}

/// A name a little behind `name` and all that is below it.
fn behind(name: &[u8]) -> Option<Text> {
    let (label, parent) = first_label(name)?;
    let mut out = [0; 64];
    let mut long = label.len();
    out[..long].copy_from_slice(label);
    if long < 63 && name.len() < LONGEST_NAME {
        long += 1;
    } else {
        out[long - 1] = match out[long - 1] {
            255 => return None,
            last if last == b'A' - 1 => b'Z' + 1,
            last => last + 1,
        };
    }
    child(&out[..long], parent)
}

fn first_label(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let long = usize::from(*name.first()?);
    (long > 0 && long < name.len()).then(|| (&name[1..=long], &name[long + 1..]))
}

/// `name` does not exist, nor does anything below it; its parent does. In lower case.
pub(super) fn missing(contents: &Contents, name: &[u8]) -> Proof {
    let behind_it = contents.first_behind(name);
    let last = behind_it.saturating_sub(1);
    let is_free = |made: &Text| name::canonical(made.wire(), contents.name(last)) == Ordering::Greater;
    let (owner, node) = match before(name).filter(is_free) {
        Some(made) => (made, NOWHERE),
        None => {
            // Names below a delegation are no names of this zone.
            let cut = contents.node(last).cut;
            let node = if cut == NOWHERE { last } else { cut };
            (Text::of(contents.name(node)), node)
        }
    };
    let made = behind(name);
    let next = match (behind_it as usize) < contents.names() {
        true => {
            let there = contents.name(behind_it);
            made.filter(|made| name::canonical(made.wire(), there) != Ordering::Greater).unwrap_or(Text::of(there))
        }
        false => made.unwrap_or(Text::of(contents.origin().wire())),
    };
    Proof { owner, next, node, without: 0 }
}

/// The wildcard below the node `above` does not exist.
pub(super) fn no_wildcard(contents: &Contents, above: u32) -> Option<Proof> {
    Some(missing(contents, Text::join(b"\x01*", contents.name(above))?.wire()))
}

/// The node exists and has not the type `without`.
pub(super) fn has_not(contents: &Contents, node: u32, without: u16) -> Proof {
    let name = contents.name(node);
    // The first name that there could be behind it.
    let next = Text::join(b"\x01\0", name).unwrap_or_else(|| {
        let own = |next: &u32| matches!(contents.node(*next).cut, cut if cut == NOWHERE || cut == *next);
        let mut later = node + 1..contents.names() as u32;
        Text::of(contents.name(later.find(own).unwrap_or(0)))
    });
    Proof { owner: Text::of(name), next, node, without }
}

/// The name without its first labels but one: the first that is missing, where the one `skip` labels shorter exists.
pub(super) fn next_closer(name: &Suffixes, skip: usize) -> &[u8] {
    name.end(skip.saturating_sub(1))
}

/// Writes the list of a proof's types (RFC 4034 4.1.2). Bytes; None: there is no room.
pub(super) fn types(contents: &Contents, proof: &Proof, out: &mut [u8]) -> Option<usize> {
    let (mut long, mut last) = (0, 0);
    // Where the open window begins, and its number.
    let mut open: Option<(usize, u16)> = None;
    while let Some(next) = next_type(contents, proof, last) {
        last = next;
        let (window, byte) = (next >> 8, usize::from(next & 255) / 8);
        let start = match open {
            Some((start, number)) if number == window => start,
            _ => {
                open = Some((long, window));
                out.get_mut(long..long + 2)?.copy_from_slice(&[window as u8, 0]);
                long += 2;
                long - 2
            }
        };
        let bits = start + 2 + byte;
        out.get_mut(long..bits + 1)?.fill(0);
        long = bits + 1;
        out[bits] |= 0x80 >> (next & 7);
        out[start + 1] = byte as u8 + 1;
    }
    Some(long)
}

/// The next higher type of a proof's owner.
fn next_type(contents: &Contents, proof: &Proof, last: u16) -> Option<u16> {
    let mut found: Option<u16> = None;
    let mut take = |rtype: u16| {
        if rtype > last && rtype != proof.without && found.is_none_or(|found| rtype < found) {
            found = Some(rtype);
        }
    };
    take(rtype::NSEC);
    take(rtype::RRSIG);
    if proof.node != NOWHERE {
        let delegated = contents.node(proof.node).cut != NOWHERE;
        for set in contents.sets(proof.node) {
            // Addresses at a delegation are glue.
            if !delegated || matches!(set.rtype, rtype::NS | rtype::DS) {
                take(set.rtype);
            }
        }
        if proof.node == 0 {
            take(rtype::SOA);
        }
        if let Some(pool) = contents.pool(proof.node).filter(|_| proof.without != rtype::ANY) {
            // All that the pool could answer: a resolver that keeps this must not conclude more from it than was asked.
            for (rtype, v4) in [(rtype::A, true), (rtype::AAAA, false)] {
                if pool.members.iter().flat_map(|member| &member.addresses).any(|address| address.is_ipv4() == v4) {
                    take(rtype);
                }
            }
        }
    }
    found
}
