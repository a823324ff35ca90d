//! From records in any order to a zone.

use super::super::dnssec::{Key, Signer};
use super::super::name::{self, Index, Name, Suffixes};
use super::super::pool::Pool;
use super::super::wire::{class, rtype};
use super::{Contents, Mark, NOWHERE, Node, Record, Set, Soa, check, digest};
use crate::sys::huge;
use std::borrow::Cow;
use std::sync::Arc;

/// Where something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dns) struct Place {
    /// Index of the files that were read.
    pub file: u16,
    /// Bytes.
    pub at: u32,
    pub length: u32,
}

/// More than this are not looked for: a file that is no zone at all has one in each line.
pub(in crate::dns) const MOST_FAULTS: usize = 1000;

/// Of DNSKEY records, where the zone's file has none.
const DNSKEY_TTL_S: u32 = 3600;

/// Something wrong.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::dns) struct Fault {
    /// None: the zone as a whole.
    pub place: Option<Place>,
    pub message: String,
    pub help: String,
    /// Another place that it collides with, and what that is.
    pub other: Option<(Place, &'static str)>,
}

/// A record as it was read; its parts are in the arena.
struct Raw {
    /// The owner for sorting: its labels from the root on, in lower case, a zero behind each.
    key: u32,
    name: u32,
    data: u32,
    ttl_s: u32,
    key_length: u16,
    data_length: u16,
    rtype: u16,
    name_length: u8,
    place: Option<Place>,
}

/// Stands for a pool among the records, before all of them: its data is the pool's index.
const POOL: u16 = 0;

pub(in crate::dns) struct Builder {
    origin: Name,
    arena: Vec<u8>,
    raws: Vec<Raw>,
    /// The last owner, which the next record often has too.
    last: Option<(u32, u8, u32, u16)>,
    signer: Option<Arc<Signer>>,
    pub faults: Vec<Fault>,
}

impl Builder {
    pub fn new(origin: &Name) -> Builder {
        let (arena, raws, faults) = (Vec::new(), Vec::new(), Vec::new());
        Builder { origin: origin.clone(), arena, raws, last: None, signer: None, faults }
    }

    /// The zone is signed by these keys, and has them as its DNSKEY records. To be called behind the last record.
    pub fn sign(&mut self, signer: &Arc<Signer>) {
        let origin = self.origin.clone();
        let source = Source { arena: &self.arena, raws: &self.raws };
        // Others may stand in the file: another server's, while the zone moves.
        let there: Vec<u32> = (0..self.raws.len() as u32)
            .filter(|raw| self.raws[*raw as usize].rtype == rtype::DNSKEY)
            .filter(|raw| source.name(*raw).eq_ignore_ascii_case(origin.wire()))
            .collect();
        let ttl_s = there.first().map_or(DNSKEY_TTL_S, |raw| self.raws[*raw as usize].ttl_s);
        let new = |key: &&Key| !there.iter().any(|raw| source.data(*raw) == key.data());
        let new: Vec<Vec<u8>> = signer.keys().iter().filter(new).map(|key| key.data().to_vec()).collect();
        for data in new {
            self.push(origin.wire(), rtype::DNSKEY, ttl_s, &data, None);
        }
        self.signer = Some(signer.clone());
    }

    pub fn wrong(&mut self, place: Option<Place>, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(Fault { place, message: message.into(), help: help.into(), other: None });
    }

    /// A record of a name in the zone. `owner` and names in `data` are whole and uncompressed. False: there is no more room.
    pub fn push(&mut self, owner: &[u8], rtype: u16, ttl_s: u32, data: &[u8], place: Option<Place>) -> bool {
        // What is pushed is copied once more into the blob, with 12 bytes in front.
        if self.arena.len() + self.raws.len() * 16 > u32::MAX as usize - 0x20000 {
            return false;
        }
        let known = self.last.filter(|(at, length, ..)| self.arena[*at as usize..][..usize::from(*length)] == *owner);
        let (name, name_length, key, key_length) = known.unwrap_or_else(|| {
            let name = self.arena.len() as u32;
            self.arena.extend_from_slice(owner);
            let key = self.arena.len();
            push_key(owner, &mut self.arena);
            (name, owner.len() as u8, key as u32, (self.arena.len() - key) as u16)
        });
        self.last = Some((name, name_length, key, key_length));
        let at = self.arena.len() as u32;
        self.arena.extend_from_slice(data);
        let data_length = data.len() as u16;
        self.raws.push(Raw { key, name, data: at, ttl_s, key_length, data_length, rtype, name_length, place });
        true
    }

    /// Checks all, and puts the zone together.
    pub fn finish(mut self, pools: &[Arc<Pool>]) -> Result<Contents, Vec<Fault>> {
        let mut ours = Vec::new();
        for pool in pools {
            let names: Vec<&Name> = pool.names.iter().filter(|name| name.is_in(&self.origin)).collect();
            if !names.is_empty() {
                for name in names {
                    self.push(name.wire(), POOL, 0, &(ours.len() as u32).to_be_bytes(), None);
                }
                ours.push(pool.clone());
            }
        }
        let Builder { origin, arena, raws, signer, mut faults, .. } = self;
        let source = Source { arena: &arena, raws: &raws };
        let order = source.sorted(&origin);
        let mut layout = Layout::new(&origin, order.len());
        for group in order.chunk_by(|a, b| source.key(*a) == source.key(*b)) {
            layout.name(&source, group);
        }
        let soa = layout.soa(&source, &mut faults);
        let places = Places { order: layout.order, firsts: layout.firsts, raws: &raws };
        let mut contents = Contents {
            labels: name::labels(origin.wire()),
            index: Index::new(layout.nodes.len()),
            serial: soa.as_ref().map_or(0, |(_, serial)| *serial),
            soa: soa.map_or_else(|| Soa::empty(&origin), |(soa, _)| soa),
            nodes: on_huge_pages(layout.nodes),
            sets: on_huge_pages(layout.sets),
            marks: layout.marks.into(),
            blob: on_huge_pages(layout.blob),
            pools: ours,
            pool_nodes: layout.pool_nodes,
            signer,
            digest: 0,
            origin,
        };
        contents.fill_index();
        contents.fill_targets();
        check::check(&contents, &places, &mut faults);
        contents.digest = contents.sum();
        if faults.is_empty() { Ok(contents) } else { Err(faults) }
    }
}

/// The records as read.
struct Source<'s> {
    arena: &'s [u8],
    raws: &'s [Raw],
}

impl<'s> Source<'s> {
    fn part(&self, at: u32, length: usize) -> &'s [u8] {
        &self.arena[at as usize..][..length]
    }

    fn key(&self, raw: u32) -> &'s [u8] {
        let raw = &self.raws[raw as usize];
        self.part(raw.key, usize::from(raw.key_length))
    }

    /// By name, type and data.
    fn sorted(&self, origin: &Name) -> Vec<u32> {
        // What all keys begin with says nothing; the next sixteen bytes mostly say all, and spare two looks into the arena.
        let mut front = Vec::new();
        push_key(origin.wire(), &mut front);
        let start = |raw: u32| {
            let mut word = [0; 16];
            let key = self.key(raw).get(front.len()..).unwrap_or_default();
            let long = key.len().min(16);
            word[..long].copy_from_slice(&key[..long]);
            u128::from_be_bytes(word)
        };
        let whole = |raw: u32| (self.key(raw), self.raws[raw as usize].rtype, self.data(raw));
        let mut order: Vec<(u128, u32)> = (0..self.raws.len() as u32).map(|raw| (start(raw), raw)).collect();
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| whole(a.1).cmp(&whole(b.1))));
        order.into_iter().map(|(_, raw)| raw).collect()
    }

    fn name(&self, raw: u32) -> &'s [u8] {
        let raw = &self.raws[raw as usize];
        self.part(raw.name, usize::from(raw.name_length))
    }

    fn data(&self, raw: u32) -> &'s [u8] {
        let raw = &self.raws[raw as usize];
        self.part(raw.data, usize::from(raw.data_length))
    }
}

/// Where the records of sets are written.
pub(super) struct Places<'r> {
    /// Of all records that are in sets, set by set.
    order: Vec<u32>,
    /// Where in `order` each set begins.
    firsts: Vec<u32>,
    raws: &'r [Raw],
}

impl Places<'_> {
    /// Of a record of a set; `set` is the set's number.
    pub fn of(&self, set: usize, record: usize) -> Option<Place> {
        self.raws[self.order[self.firsts[set] as usize + record] as usize].place
    }

    pub fn ttl_s(&self, set: usize, record: usize) -> u32 {
        self.raws[self.order[self.firsts[set] as usize + record] as usize].ttl_s
    }
}

/// Answers come from all over a large zone.
fn on_huge_pages<T: Copy>(values: Vec<T>) -> Box<[T]> {
    huge::boxed(values.len(), |at| values[at])
}

/// A name for sorting. Bytes 0 and 1 are written as two, so that the zero behind a label comes before all others.
fn push_key(name: &[u8], out: &mut Vec<u8>) {
    for start in name::starts(name).iter().rev() {
        let start = usize::from(*start);
        for byte in &name[start + 1..][..usize::from(name[start])] {
            match byte.to_ascii_lowercase() {
                byte @ 0..=1 => out.extend_from_slice(&[1, byte + 1]),
                byte => out.push(byte),
            }
        }
        out.push(0);
    }
}

/// The arrays of a zone, as they grow.
struct Layout<'o> {
    origin: &'o Name,
    nodes: Vec<Node>,
    sets: Vec<Set>,
    marks: Vec<Mark>,
    blob: Vec<u8>,
    pool_nodes: Vec<u32>,
    /// The way from the origin to the last node: nodes, and how long their keys are.
    way: Vec<(u32, usize)>,
    /// The key of the last node.
    key: Vec<u8>,
    order: Vec<u32>,
    firsts: Vec<u32>,
    soas: Vec<u32>,
}

impl<'o> Layout<'o> {
    fn new(origin: &'o Name, records: usize) -> Layout<'o> {
        let mut key = Vec::new();
        push_key(origin.wire(), &mut key);
        let mut layout = Layout {
            origin,
            nodes: Vec::with_capacity(records),
            sets: Vec::with_capacity(records),
            marks: Vec::new(),
            blob: Vec::new(),
            pool_nodes: Vec::new(),
            way: Vec::new(),
            key: key.clone(),
            order: Vec::with_capacity(records),
            firsts: Vec::with_capacity(records),
            soas: Vec::new(),
        };
        layout.node(origin.wire(), key.len());
        layout
    }

    /// The next node in order, below the last of the way.
    fn node(&mut self, wire: &[u8], key_length: usize) -> u32 {
        let node = self.nodes.len() as u32;
        let parent = self.way.last().map(|(parent, _)| *parent as usize);
        let cut = parent.map_or(NOWHERE, |parent| self.nodes[parent].cut);
        if let Some(parent) = parent.filter(|_| wire.starts_with(b"\x01*")) {
            self.nodes[parent].wildcard = node;
        }
        let (name, sets) = (self.blob.len() as u32, self.sets.len() as u32);
        self.blob.extend_from_slice(wire);
        let length = wire.len() as u8;
        self.nodes.push(Node { name, sets, cut, wildcard: NOWHERE, pool: NOWHERE, count: 0, length });
        self.way.push((node, key_length));
        node
    }

    /// All records of one name, sorted by type.
    fn name(&mut self, source: &Source, group: &[u32]) {
        let (wire, key) = (source.name(group[0]), source.key(group[0]));
        let above = |way: &[(u32, usize)]| way.last().map_or(0, |(_, length)| *length);
        while self.way.len() > 1 && !key.starts_with(&self.key[..above(&self.way)]) {
            self.way.pop();
        }
        // What lies between: each zero in the key ends a label.
        let between: Vec<usize> = (above(&self.way) + 1..=key.len()).filter(|at| key[at - 1] == 0).collect();
        for (at, length) in between.iter().enumerate() {
            let skip = between.len() - 1 - at;
            let start = (0..skip).fold(0, |start, _| start + 1 + usize::from(wire[start]));
            self.node(&wire[start..], *length);
        }
        self.key.clear();
        self.key.extend_from_slice(key);
        let node = self.way.last().map_or(0, |(node, _)| *node);
        for run in group.chunk_by(|a, b| source.raws[*a as usize].rtype == source.raws[*b as usize].rtype) {
            match source.raws[run[0] as usize].rtype {
                POOL => {
                    let data = source.data(run[0]);
                    self.nodes[node as usize].pool = u32::from_be_bytes([data[0], data[1], data[2], data[3]]);
                    self.pool_nodes.push(node);
                }
                rtype::SOA if node == 0 => self.soas.extend_from_slice(run),
                rtype => {
                    if rtype == rtype::NS && node != 0 && self.nodes[node as usize].cut == NOWHERE {
                        self.nodes[node as usize].cut = node;
                    }
                    self.set(source, rtype, run);
                    self.nodes[node as usize].count += 1;
                }
            }
        }
        // The origin's node was made before there were sets.
        let count = u32::from(self.nodes[node as usize].count);
        self.nodes[node as usize].sets = self.sets.len() as u32 - count;
    }

    fn set(&mut self, source: &Source, rtype: u16, run: &[u32]) {
        let tail = tail(rtype);
        let marks = if tail.is_some() { self.marks.len() as u32 } else { NOWHERE };
        let data = self.blob.len();
        self.firsts.push(self.order.len() as u32);
        self.order.extend_from_slice(run);
        // All records of a set have the same TTL, or it is a fault.
        let ttl_s = source.raws[run[0] as usize].ttl_s;
        for raw in run {
            let record = source.data(*raw);
            self.blob.extend_from_slice(&[0xc0, 12]);
            self.blob.extend_from_slice(&rtype.to_be_bytes());
            self.blob.extend_from_slice(&class::IN.to_be_bytes());
            self.blob.extend_from_slice(&ttl_s.to_be_bytes());
            self.blob.extend_from_slice(&(record.len() as u16).to_be_bytes());
            self.blob.extend_from_slice(record);
            if let Some(tail) = tail {
                let cut = cut(&record[tail..], self.origin).filter(|_| rtype != rtype::SRV);
                let cut = cut.map_or(Mark::WHOLE, |cut| (tail + cut) as u16);
                self.marks.push(Mark { target: NOWHERE, tail: tail as u16, cut });
            }
        }
        let length = (self.blob.len() - data) as u32;
        let count = run.len().min(usize::from(u16::MAX)) as u16;
        self.sets.push(Set { rtype, count, data: data as u32, length, marks });
    }

    /// The origin's SOA, and its serial.
    fn soa(&self, source: &Source, faults: &mut Vec<Fault>) -> Option<(Soa, u32)> {
        let place = |raw: u32| source.raws[raw as usize].place;
        let mut wrong = |place, message: String, help: &str, other| {
            faults.push(Fault { place, message, help: help.into(), other });
        };
        let Some(first) = self.soas.first().copied() else {
            let help = "it needs one SOA record at `@`, with the primary's name, a mailbox, a serial and four times";
            wrong(None, format!("the zone {} has no SOA record", self.origin), help, None);
            return None;
        };
        for more in &self.soas[1..] {
            let other = place(first).map(|place| (place, "the first one"));
            wrong(place(*more), "a zone has one SOA record, and this is the second".into(), "", other);
        }
        let data = source.data(first);
        let mname = &data[..name::length(data)?];
        let rest = &data[mname.len()..];
        let rname = &rest[..name::length(rest)?];
        let (serial, timers) = rest[rname.len()..].split_first_chunk::<4>()?;
        let timers: [u8; 16] = timers.try_into().ok()?;
        let timer = |at: usize| u32::from_be_bytes([timers[at], timers[at + 1], timers[at + 2], timers[at + 3]]);
        let (refresh, retry, expire) = (timer(0), timer(4), timer(8));
        if refresh == 0 || retry == 0 {
            let message = "the SOA's refresh and retry must be more than 0".to_owned();
            wrong(place(first), message, "secondaries would ask without a pause", None);
        }
        if expire < refresh {
            let message = format!("the SOA's expire ({expire}) must not be less than its refresh ({refresh})");
            let help = "or secondaries give the zone up before they have asked again; one to four weeks are usual";
            wrong(place(first), message, help, None);
        }
        if rname[1..].iter().take(usize::from(rname[0])).any(|byte| *byte == b'@') {
            let message = "the SOA's mailbox has an `@`".to_owned();
            wrong(place(first), message, "write a dot instead: admin@example.com is `admin.example.com.`", None);
        }
        let soa = Soa {
            ttl_s: source.raws[first as usize].ttl_s,
            mname_cut: cut(mname, self.origin),
            mname: Name::from_wire(mname)?,
            rname_cut: cut(rname, self.origin),
            rname: Name::from_wire(rname)?,
            timers,
        };
        Some((soa, u32::from_be_bytes(*serial)))
    }
}

impl Soa {
    /// For a zone that has none, while it is checked.
    fn empty(origin: &Name) -> Soa {
        let (mname, rname) = (origin.clone(), origin.clone());
        Soa { ttl_s: 0, mname, mname_cut: None, rname, rname_cut: None, timers: [0; 16] }
    }
}

/// Where a record's data end in a name that may be written as a pointer (RFC 3597 4), or whose addresses go along.
fn tail(rtype: u16) -> Option<usize> {
    match rtype {
        rtype::NS | rtype::CNAME | rtype::PTR => Some(0),
        rtype::MX => Some(2),
        rtype::SRV => Some(6),
        _ => None,
    }
}

/// The data of a type have the form that is relied upon here.
pub(in crate::dns) fn in_order(rtype: u16, data: &[u8]) -> bool {
    let name = |from: usize| data.get(from..).and_then(name::length).map(|long| from + long);
    let end = match rtype {
        rtype::A => Some(4),
        rtype::AAAA => Some(16),
        rtype::SOA => name(0).and_then(name).map(|end| end + 20),
        rtype::DNAME => name(0),
        _ => tail(rtype).map_or(Some(data.len()), name),
    };
    end == Some(data.len())
}

/// Where in a name the origin begins, if a pointer to that is shorter.
fn cut(wire: &[u8], origin: &Name) -> Option<usize> {
    let origin = origin.wire();
    (origin.len() > 2 && name::is_in(wire, origin)).then(|| wire.len() - origin.len())
}

impl Contents {
    fn fill_index(&mut self) {
        let mut suffixes = Suffixes::new();
        for node in 0..self.nodes.len() as u32 {
            suffixes.fill(self.name(node));
            self.index.insert(suffixes.hash(0), node);
        }
    }

    /// Finds out whose addresses go along with NS, MX and SRV.
    fn fill_targets(&mut self) {
        let mut suffixes = Suffixes::new();
        let mut found = Vec::new();
        for set in &self.sets {
            if !matches!(set.rtype, rtype::NS | rtype::MX | rtype::SRV) {
                continue;
            }
            let first = set.marks as usize;
            for (at, (_, data)) in self.records(set).take(usize::from(set.count)).enumerate() {
                let wire = &data[usize::from(self.marks[first + at].tail)..];
                if !name::is_in(wire, self.origin.wire()) {
                    continue;
                }
                suffixes.fill(wire);
                let target = match self.find(&suffixes) {
                    (node, 0) => node,
                    (above, _) if self.node(above).cut == NOWHERE => self.node(above).wildcard,
                    _ => NOWHERE,
                };
                found.push((first + at, target));
            }
        }
        for (mark, target) in found {
            self.marks[mark].target = target;
        }
    }

    fn sum(&self) -> u128 {
        let mut sum = 0_u128;
        let mut add = |record: Record| sum = sum.wrapping_add(digest(&record));
        let soa = self.soa.data(0);
        add(Record { owner: self.origin.wire(), rtype: rtype::SOA, ttl_s: self.soa.ttl_s, data: Cow::Owned(soa) });
        for node in 0..self.nodes.len() as u32 {
            for set in self.sets(node) {
                for (ttl_s, data) in self.records(set) {
                    add(Record { owner: self.name(node), rtype: set.rtype, ttl_s, data: Cow::Borrowed(data) });
                }
            }
        }
        sum
    }
}
