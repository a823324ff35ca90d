//! Writes a message: record sets are copied from where they lie in wire form, and names that end as the question does get a
//! pointer there instead (RFC 1035 4.1.4). A set is written whole or not at all.

use super::cookie::Cookie;
use super::pool::Rotation;
use super::query::{COOKIE, NSID, SUBNET};
use super::wire::{HEADER, class, rtype};
use super::zone::{Contents, Mark, NOWHERE, Set, Soa};

/// Sections of a message that have records, by their counts' places in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Answer = 0,
    Authority = 1,
    Additional = 2,
}

/// Pointers have 14 bits.
pub(super) const POINTER_END: usize = 0x4000;

pub(super) struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
    /// The message ends here at most.
    limit: usize,
    /// Where the records begin.
    records: usize,
    /// Where the zone's origin stands in the question.
    origin: usize,
    counts: [u16; 3],
}

/// A message without its header, as far as it is written.
#[derive(Clone, Copy)]
pub(super) struct Draft<'d> {
    pub message: &'d [u8],
    /// Where the records begin.
    pub records: usize,
    /// Where the zone's origin stands.
    pub origin: usize,
    pub limit: usize,
    pub counts: [u16; 3],
}

/// A name that has been written, for owners that are this name or an end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub at: usize,
    /// So many of its bytes stand there; the rest is the zone's origin, which stands elsewhere.
    pub own: usize,
}

/// Names whose addresses belong into the additional section.
pub(super) struct Targets {
    nodes: [(u32, Written); 32],
    count: usize,
    /// The nodes whose DNAME has been written.
    redirects: [u32; 32],
    redirected: usize,
}

impl Targets {
    pub fn new() -> Targets {
        let nodes = [(NOWHERE, Written { at: 0, own: 0 }); 32];
        Targets { nodes, count: 0, redirects: [NOWHERE; 32], redirected: 0 }
    }

    pub fn clear(&mut self) {
        (self.count, self.redirected) = (0, 0);
    }

    /// Puts down that a node's DNAME is written; false if that is so already.
    pub fn redirects(&mut self, node: u32) -> bool {
        if self.redirects[..self.redirected].contains(&node) {
            return false;
        }
        if let Some(place) = self.redirects.get_mut(self.redirected) {
            *place = node;
            self.redirected += 1;
        }
        true
    }

    pub fn get(&self, at: usize) -> Option<(u32, Written)> {
        self.nodes[..self.count].get(at).copied()
    }

    /// Each once; more than there is room for are left out.
    fn add(&mut self, node: u32, name: Written) {
        if node != NOWHERE
            && self.count < self.nodes.len()
            && !self.nodes[..self.count].iter().any(|(had, _)| *had == node)
        {
            self.nodes[self.count] = (node, name);
            self.count += 1;
        }
    }
}

/// What goes into the OPT record of the answer.
#[derive(Default)]
pub(super) struct OptReply<'a> {
    pub dnssec_ok: bool,
    pub nsid: Option<&'a [u8]>,
    pub cookie: Option<Cookie>,
    /// The query's option, whose scope is 0.
    pub subnet: Option<&'a [u8]>,
    /// For how many bits of the client's address the answer holds; 0: it does not depend on that (RFC 7871 7.2.1).
    pub scope: u8,
}

impl OptReply<'_> {
    pub fn length(&self) -> usize {
        let option = |data: Option<usize>| data.map_or(0, |long| 4 + long);
        11 + option(self.nsid.map(<[u8]>::len))
            + option(self.cookie.map(|it| it.len()))
            + option(self.subnet.map(<[u8]>::len))
    }
}

impl<'o> Writer<'o> {
    /// `question`: the bytes of the query's, copied as they are. None: there is no room even for that.
    pub fn new(out: &'o mut [u8], limit: usize, question: &[u8]) -> Option<Writer<'o>> {
        let limit = limit.min(out.len());
        let records = HEADER + question.len();
        (records <= limit).then(|| {
            out[HEADER..records].copy_from_slice(question);
            Writer { out, at: records, limit, records, origin: HEADER, counts: [0; 3] }
        })
    }

    /// The question's name without its first so many bytes is the zone's origin.
    pub fn origin_after(&mut self, bytes: usize) {
        self.origin = HEADER + bytes;
    }

    /// The question's name.
    pub fn question_name(&self) -> Written {
        Written { at: HEADER, own: usize::MAX }
    }

    /// Where the end of a written name stands that begins `skip` bytes into it.
    pub fn end_of(&self, name: Written, skip: usize) -> usize {
        if skip < name.own { name.at + skip } else { self.origin + (skip - name.own) }
    }

    /// Takes back all records.
    pub fn clear(&mut self) {
        (self.at, self.counts) = (self.records, [0; 3]);
    }

    fn room(&self, bytes: usize) -> bool {
        self.at + bytes <= self.limit
    }

    /// Only where there is room.
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn put_word(&mut self, word: u16) {
        self.put(&word.to_be_bytes());
    }

    fn pointer(at: usize) -> Option<u16> {
        (at < POINTER_END).then_some(0xc000 | at as u16)
    }

    /// A set whose owner stands at `owner`. Names in it whose addresses are wanted are put down in `targets`, and the last
    /// name written is given back. None: there is no room, and nothing was written.
    pub fn set(
        &mut self,
        section: Section,
        owner: usize,
        contents: &Contents,
        set: &Set,
        targets: &mut Targets,
    ) -> Option<Written> {
        let data = contents.data(set);
        let pointer = Self::pointer(owner)?;
        let had = self.at;
        let mut last = Written { at: owner, own: usize::MAX };
        if set.marks == NOWHERE {
            if !self.room(data.len()) {
                return None;
            }
            self.put(data);
            if owner != HEADER {
                self.own(had, pointer);
            }
        } else {
            let mut rest = data;
            for mark in contents.marks(set) {
                let (record, tail) = rest.split_at(12 + usize::from(u16::from_be_bytes([rest[10], rest[11]])));
                rest = tail;
                let whole = mark.cut == Mark::WHOLE;
                let kept = if whole { record.len() } else { 12 + usize::from(mark.cut) };
                if !self.room(kept + 2) {
                    self.at = had;
                    return None;
                }
                let start = self.at;
                self.put(&record[..kept]);
                self.out[start..start + 2].copy_from_slice(&pointer.to_be_bytes());
                if !whole {
                    self.put_word(0xc000 | self.origin as u16);
                    self.out[start + 10..start + 12].copy_from_slice(&(mark.cut + 2).to_be_bytes());
                }
                let name = start + 12 + usize::from(mark.tail);
                last = Written { at: name, own: if whole { usize::MAX } else { usize::from(mark.cut - mark.tail) } };
                targets.add(mark.target, last);
            }
        }
        self.counts[section as usize] += set.count;
        Some(last)
    }

    /// Changes the owners of all records from `from` on.
    fn own(&mut self, from: usize, pointer: u16) {
        let mut at = from;
        while at < self.at {
            self.out[at..at + 2].copy_from_slice(&pointer.to_be_bytes());
            at += 12 + usize::from(u16::from_be_bytes([self.out[at + 10], self.out[at + 11]]));
        }
    }

    /// A pool's addresses. False: there is no room, and nothing was written.
    pub fn addresses(&mut self, section: Section, owner: usize, rotation: &Rotation, turn: u32) -> bool {
        let Some(pointer) = Self::pointer(owner).filter(|_| self.room(rotation.bytes())) else {
            return false;
        };
        let had = self.at;
        rotation.answer(turn).for_each(|record| self.put(record));
        if owner != HEADER {
            self.own(had, pointer);
        }
        self.counts[section as usize] += rotation.len() as u16;
        true
    }

    /// The zone's SOA. False: as [`Writer::addresses`].
    pub fn soa(&mut self, section: Section, soa: &Soa, serial: u32, ttl_s: u32) -> bool {
        let had = self.at;
        if !self.room(12 + soa.longest()) {
            return false;
        }
        self.put_word(0xc000 | self.origin as u16);
        self.put_word(rtype::SOA);
        self.put_word(class::IN);
        self.put(&ttl_s.to_be_bytes());
        self.put_word(0);
        for (name, cut) in [(&soa.mname, soa.mname_cut), (&soa.rname, soa.rname_cut)] {
            match cut {
                Some(cut) => {
                    self.put(&name.wire()[..cut]);
                    self.put_word(0xc000 | self.origin as u16);
                }
                None => self.put(name.wire()),
            }
        }
        self.put(&serial.to_be_bytes());
        self.put(&soa.timers);
        let long = (self.at - had - 12) as u16;
        self.out[had + 10..had + 12].copy_from_slice(&long.to_be_bytes());
        self.counts[section as usize] += 1;
        true
    }

    /// A record of its own making; `data` in two parts. Gives where the data begin; None: as [`Writer::set`].
    pub fn record(&mut self, owner: usize, fixed: (u16, u16, u32), data: (&[u8], &[u8])) -> Option<usize> {
        let (rtype, class, ttl_s) = fixed;
        let long = data.0.len() + data.1.len();
        let pointer = Self::pointer(owner).filter(|_| self.room(12 + long))?;
        self.put_word(pointer);
        self.put_word(rtype);
        self.put_word(class);
        self.put(&ttl_s.to_be_bytes());
        self.put_word(long as u16);
        let start = self.at;
        self.put(data.0);
        self.put(data.1);
        self.counts[Section::Answer as usize] += 1;
        Some(start)
    }

    /// What has been written, to be gone over once more.
    pub fn draft(&self) -> Draft<'_> {
        let Writer { records, origin, limit, counts, .. } = *self;
        Draft { message: &self.out[..self.at], records, origin, limit, counts }
    }

    /// Puts another message in the place of what has been written, from the question on; it is within the limit.
    pub fn replace(&mut self, message: &[u8], counts: [u16; 3]) {
        if let (Some(place), true) = (self.out.get_mut(HEADER..message.len()), message.len() <= self.limit) {
            place.copy_from_slice(&message[HEADER..]);
            (self.at, self.counts) = (message.len(), counts);
        }
    }

    /// The header, and the OPT record, for which the caller kept room. Gives the message's length.
    pub fn finish(self, query: &[u8], flags: u16, rcode: u16, opt: Option<(&OptReply, u16)>) -> usize {
        let Writer { out, mut at, mut counts, records, .. } = self;
        if let Some((opt, size)) = opt {
            let mut put = |bytes: &[u8]| {
                out[at..at + bytes.len()].copy_from_slice(bytes);
                at += bytes.len();
            };
            put(&[0]);
            put(&rtype::OPT.to_be_bytes());
            put(&size.to_be_bytes());
            put(&[(rcode >> 4) as u8, 0, if opt.dnssec_ok { 0x80 } else { 0 }, 0]);
            put(&((opt.length() - 11) as u16).to_be_bytes());
            let mut option = |code: u16, data: &[u8]| {
                put(&code.to_be_bytes());
                put(&(data.len() as u16).to_be_bytes());
                put(data);
            };
            opt.nsid.iter().for_each(|nsid| option(NSID, nsid));
            opt.cookie.iter().for_each(|cookie| option(COOKIE, cookie));
            opt.subnet.iter().for_each(|subnet| option(SUBNET, subnet));
            // It is the last one, and this its fourth byte.
            if let Some(subnet) = opt.subnet.filter(|_| opt.scope > 0) {
                out[at - subnet.len() + 3] = opt.scope;
            }
            counts[Section::Additional as usize] += 1;
        }
        out[..2].copy_from_slice(&query[..2]);
        out[2..4].copy_from_slice(&(flags | (rcode & 15)).to_be_bytes());
        out[4..6].copy_from_slice(&u16::from(records > HEADER).to_be_bytes());
        for (count, at) in counts.iter().zip([6, 8, 10]) {
            out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        at
    }
}
