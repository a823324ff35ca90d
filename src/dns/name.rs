//! Domain names in wire form: labels, each behind its length, the root's empty one last. Two names are the same if they
//! are so without regard to the case of ASCII letters (RFC 4343).

use crate::sys::huge;
use crate::sys::prefetch::prefetch;
use std::cmp::Ordering;
use std::fmt;

/// The longest name in bytes (RFC 1035 2.3.4).
pub const LONGEST_NAME: usize = 255;

/// A whole name in wire form, uncompressed, in the case in which it was written.
#[derive(Clone)]
pub struct Name(Box<[u8]>);

impl Name {
    /// From text as in zone files, with or without the last dot; `\.` and `\DDD` as in RFC 1035 5.1.
    pub fn parse(text: &str) -> Result<Name, &'static str> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        push_text(text.as_bytes(), &mut wire)?;
        if wire.last() != Some(&0) {
            wire.push(0);
        }
        if wire.len() > LONGEST_NAME {
            return Err("the name is longer than 255 bytes");
        }
        Ok(Name(wire.into()))
    }

    /// From wire form, which must be one name and nothing else.
    pub fn from_wire(wire: &[u8]) -> Option<Name> {
        (length(wire)? == wire.len()).then(|| Name(wire.into()))
    }

    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The same name or one below it.
    pub fn is_in(&self, other: &Name) -> bool {
        is_in(&self.0, &other.0)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|byte| state.write_u8(byte.to_ascii_lowercase()));
    }
}

/// With the last dot.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Appends the labels of a name as people write it; the root's empty label only if the last dot is there (or it is `.` itself).
pub(super) fn push_text(text: &[u8], wire: &mut Vec<u8>) -> Result<(), &'static str> {
    if text == b"." {
        wire.push(0);
        return Ok(());
    }
    if text.is_empty() {
        return Err("a name is missing here");
    }
    let mut start = wire.len();
    wire.push(0);
    let mut at = 0;
    while at < text.len() {
        let (byte, long) = match text[at] {
            b'.' => {
                close(wire, start)?;
                start = wire.len();
                wire.push(0);
                at += 1;
                continue;
            }
            b'\\' => {
                escaped(&text[at + 1..]).ok_or("`\\` must be followed by a character or by three digits up to 255")?
            }
            byte => (byte, 1),
        };
        wire.push(byte);
        at += long;
    }
    // Behind a last dot the open label is empty, and that is the root's.
    if wire.len() - start > 1 { close(wire, start) } else { Ok(()) }
}

/// What stands behind a backslash, and how long it is with it.
pub(super) fn escaped(rest: &[u8]) -> Option<(u8, usize)> {
    match rest {
        [a, b, c, ..] if a.is_ascii_digit() && b.is_ascii_digit() && c.is_ascii_digit() => {
            let value = [a, b, c].into_iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
            Some((u8::try_from(value).ok()?, 4))
        }
        [first, ..] if !first.is_ascii_digit() => Some((*first, 2)),
        _ => None,
    }
}

fn close(wire: &mut [u8], start: usize) -> Result<(), &'static str> {
    match wire.len() - start - 1 {
        0 => Err("a name has no empty labels"),
        long @ 1..=63 => {
            wire[start] = long as u8;
            Ok(())
        }
        _ => Err("a label is longer than 63 bytes"),
    }
}

/// Bytes of the uncompressed name that `wire` begins with.
pub(super) fn length(wire: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let label = usize::from(*wire.get(at)?);
        at += label + 1;
        match label {
            0 => return Some(at),
            1..=63 if at < LONGEST_NAME => {}
            _ => return None,
        }
    }
}

/// `name` is `top` or below it; both whole and in wire form.
pub(super) fn is_in(name: &[u8], top: &[u8]) -> bool {
    let mut rest = name;
    while rest.len() > top.len() {
        rest = &rest[1 + usize::from(rest[0])..];
    }
    rest.eq_ignore_ascii_case(top)
}

/// As people read it, with the last dot.
pub(super) fn text(wire: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = wire;
    while let [long @ 1..=63, tail @ ..] = rest {
        let (label, tail) = tail.split_at((*long as usize).min(tail.len()));
        for byte in label {
            match byte {
                b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => text.extend(['\\', *byte as char]),
                0x21..=0x7e => text.push(*byte as char),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
        text.push('.');
        rest = tail;
    }
    if text.is_empty() { ".".into() } else { text }
}

/// The order of names in a zone (RFC 4034 6.1): by labels from the root on, in lower case.
pub(super) fn canonical(a: &[u8], b: &[u8]) -> Ordering {
    let (mut ours, mut theirs) = ([0; MOST_LABELS], [0; MOST_LABELS]);
    let (ours, theirs) = (find_starts(a, &mut ours), find_starts(b, &mut theirs));
    let label = |name: &'_ [u8], start: u8| {
        let (start, long) = (usize::from(start) + 1, usize::from(name[usize::from(start)]));
        start..(start + long).min(name.len())
    };
    for (a_start, b_start) in ours.iter().rev().zip(theirs.iter().rev()) {
        let (left, right) = (&a[label(a, *a_start)], &b[label(b, *b_start)]);
        let order = left.iter().map(u8::to_ascii_lowercase).cmp(right.iter().map(u8::to_ascii_lowercase));
        if order.is_ne() {
            return order;
        }
    }
    ours.len().cmp(&theirs.len())
}

/// As [`starts`], of the first [`MOST_LABELS`].
fn find_starts<'s>(wire: &[u8], starts: &'s mut [u8; MOST_LABELS]) -> &'s [u8] {
    let (mut at, mut count) = (0, 0);
    while let Some(label @ 1..=63) = wire.get(at)
        && count < MOST_LABELS
    {
        starts[count] = at as u8;
        at += 1 + usize::from(*label);
        count += 1;
    }
    &starts[..count]
}

/// Where the labels of a name start, the root's not among them.
pub(super) fn starts(wire: &[u8]) -> Vec<u8> {
    let (mut at, mut starts) = (0, Vec::new());
    while let Some(label @ 1..=63) = wire.get(at) {
        starts.push(at as u8);
        at += 1 + usize::from(*label);
    }
    starts
}

/// Labels of a name, the root's not counted.
pub(super) fn labels(wire: &[u8]) -> usize {
    starts(wire).len()
}

/// The most labels of a name, the root's not counted.
pub(super) const MOST_LABELS: usize = 127;

/// A name in lower case, and the hashes of all its ends: of `a.example.` those of `a.example.`, `example.` and `.`.
///
/// The hash takes one label after the other from the root on, so that all ends are hashed in one pass. It needs no key: what
/// lies in the tables is the operator's, and who asks puts nothing into them.
pub(super) struct Suffixes {
    /// Seven bytes more than the longest name, to be read by words.
    wire: [u8; 264],
    length: usize,
    /// Where each label starts; the root's is the last.
    starts: [u8; MOST_LABELS + 1],
    /// Of the end that starts there.
    hashes: [u64; MOST_LABELS + 1],
    labels: usize,
}

impl Suffixes {
    pub fn new() -> Suffixes {
        let (starts, hashes) = ([0; MOST_LABELS + 1], [0; MOST_LABELS + 1]);
        Suffixes { wire: [0; 264], length: 1, starts, hashes, labels: 0 }
    }

    /// `wire` is one whole uncompressed name ([`length`] has seen it); anything else is cut off where it stops being one.
    pub fn fill(&mut self, wire: &[u8]) {
        let wire = &wire[..wire.len().min(LONGEST_NAME)];
        // The bytes of lengths are below those of letters.
        for (to, from) in self.wire.iter_mut().zip(wire) {
            *to = from.to_ascii_lowercase();
        }
        self.wire[wire.len()..wire.len() + 8].fill(0);
        let (mut at, mut count) = (0, 0);
        while self.wire[at] != 0 && count < MOST_LABELS && at + usize::from(self.wire[at]) < wire.len() {
            self.starts[count] = at as u8;
            at += 1 + usize::from(self.wire[at]);
            count += 1;
        }
        self.wire[at] = 0;
        (self.starts[count], self.labels, self.length) = (at as u8, count, at + 1);
        let mut hash = SEED;
        self.hashes[count] = hash;
        for label in (0..count).rev() {
            let (start, end) = (usize::from(self.starts[label]), usize::from(self.starts[label + 1]));
            hash = extend(hash, &self.wire, start, end);
            self.hashes[label] = hash;
        }
    }

    /// Labels, the root's not counted.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// Bytes of the whole name.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Where the end without the first `skip` labels starts.
    pub fn start(&self, skip: usize) -> usize {
        usize::from(self.starts[skip.min(self.labels)])
    }

    /// The end without the first `skip` labels, in lower case.
    pub fn end(&self, skip: usize) -> &[u8] {
        &self.wire[self.start(skip)..self.length]
    }

    pub fn hash(&self, skip: usize) -> u64 {
        self.hashes[skip.min(self.labels)]
    }
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of a name from that of its parent and its first label, which lies from `start` to `end`, in lower case, its length in front.
#[inline]
fn extend(parent: u64, wire: &[u8; 264], start: usize, end: usize) -> u64 {
    let mut hash = parent;
    let mut at = start;
    while at < end {
        let mut word = [0; 8];
        word.copy_from_slice(&wire[at..at + 8]);
        let word = u64::from_le_bytes(word);
        let rest = end - at;
        let word = if rest < 8 { word & ((1 << (8 * rest)) - 1) } else { word };
        let product = u128::from(hash ^ word) * 0xa076_1d64_78bd_642f_u128;
        hash = (product as u64 ^ (product >> 64) as u64).wrapping_add(SEED);
        at += 8;
    }
    hash
}

/// A fixed hash table of numbers; what they stand for lies elsewhere.
pub(super) struct Index {
    /// The hash's upper half, and the number + 1; 0: empty. At most half of them are in use.
    slots: Box<[u64]>,
}

impl Index {
    pub fn new(most: usize) -> Index {
        Index { slots: huge::boxed((most.max(1) * 2).next_power_of_two(), |_| 0) }
    }

    /// As many as [`Index::new`] said at most.
    pub fn insert(&mut self, hash: u64, value: u32) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = (hash & !0xffff_ffff) | (u64::from(value) + 1);
    }

    /// Begins to load where [`Index::find`] will look.
    #[inline]
    pub fn fetch(&self, hash: u64) {
        prefetch(&self.slots[hash as usize & (self.slots.len() - 1)]);
    }

    /// The number with this hash that is the one.
    #[inline]
    pub fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            let value = (slot as u32).wrapping_sub(1);
            if slot >> 32 == hash >> 32 && is(value) {
                return Some(value);
            }
            at = (at + 1) & mask;
        }
    }

    pub fn bytes(&self) -> usize {
        self.slots.len() * 8
    }
}
