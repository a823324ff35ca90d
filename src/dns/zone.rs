//! A zone: what its file says, bound to its pools ([`Contents`]), and that together with the pools' state and a serial ([`Zone`]).
//!
//! # Theory of operation
//!
//! A zone is a few large arrays: names and record sets in wire form in one blob, nodes in canonical order (RFC 4034 6.1), the sets
//! of a node side by side, and a hash table from names to nodes. Names that exist only because others exist below them (empty
//! non-terminals) are nodes without sets, so that the ancestors of a node are nodes up to the origin: where a name is missing, the
//! closest one above it is found by bisection. What lies above a node is on the node: the delegation or DNAME that it is
//! under, and its wildcard.

pub(super) mod build;
mod check;
mod fetch;

use super::dnssec::Signer;
use super::name::{self, Index, Name, Suffixes};
use super::pool::{Image, Pool, PoolState};
use super::wire::rtype;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::borrow::Cow;
use std::hash::Hasher;
use std::sync::Arc;

/// No node, no marks, no pool.
pub(super) const NOWHERE: u32 = u32::MAX;

/// A name of the zone.
#[derive(Clone, Copy)]
pub(super) struct Node {
    /// Where it is in the blob.
    name: u32,
    /// The first of its sets.
    sets: u32,
    /// The delegation that it is at or below.
    pub cut: u32,
    /// The node `*` right below it.
    pub wildcard: u32,
    /// Index in [`Contents::pools`].
    pub pool: u32,
    count: u16,
    length: u8,
}

/// The records of one name and type, in canonical order.
#[derive(Clone, Copy)]
pub(super) struct Set {
    pub rtype: u16,
    pub count: u16,
    /// In the blob: the records, each with a pointer to the question's name as its owner.
    data: u32,
    length: u32,
    /// The first of its marks, one for each record; or [`NOWHERE`].
    pub marks: u32,
}

/// Of a record whose data end in a name that matters.
pub(super) struct Mark {
    /// The node of that name, if it is one of the zone's.
    pub target: u32,
    /// Where in the data the name begins.
    pub tail: u16,
    /// Where in the data the zone's origin begins, if a pointer may stand there instead; or [`Mark::WHOLE`].
    pub cut: u16,
}

impl Mark {
    pub const WHOLE: u16 = u16::MAX;
}

/// Of a zone's SOA all but the serial.
pub(super) struct Soa {
    pub ttl_s: u32,
    pub mname: Name,
    /// Where in the name the origin begins, if a pointer may stand there.
    pub mname_cut: Option<usize>,
    pub rname: Name,
    pub rname_cut: Option<usize>,
    /// Refresh, retry, expire, minimum.
    pub timers: [u8; 16],
}

impl Soa {
    /// Bytes of its data, uncompressed.
    pub fn longest(&self) -> usize {
        self.mname.wire().len() + self.rname.wire().len() + 20
    }

    /// How long it is remembered that something does not exist (RFC 2308 3).
    pub fn negative_ttl_s(&self) -> u32 {
        let [.., a, b, c, d] = self.timers;
        self.ttl_s.min(u32::from_be_bytes([a, b, c, d]))
    }

    fn data(&self, serial: u32) -> Vec<u8> {
        [self.mname.wire(), self.rname.wire(), &serial.to_be_bytes(), &self.timers].concat()
    }
}

/// What does not change while the file and the pools' definitions do not.
pub struct Contents {
    origin: Name,
    /// Of the origin, the root's not counted.
    labels: usize,
    nodes: Box<[Node]>,
    sets: Box<[Set]>,
    marks: Box<[Mark]>,
    blob: Box<[u8]>,
    index: Index,
    soa: Soa,
    serial: u32,
    pools: Vec<Arc<Pool>>,
    /// The nodes that have pools, in order.
    pool_nodes: Vec<u32>,
    signer: Option<Arc<Signer>>,
    /// Sum over all records but the pools'; the SOA without its serial.
    digest: u128,
}

impl Contents {
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// Those pools of the ones that [`super::master::load`] was given that have a name in this zone, in that order.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// The serial in the file.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Names, those between included.
    pub fn names(&self) -> usize {
        self.nodes.len()
    }

    /// Memory.
    pub fn bytes(&self) -> usize {
        let arrays = size_of_val(&*self.nodes) + size_of_val(&*self.sets) + size_of_val(&*self.marks);
        arrays + self.blob.len() + self.index.bytes()
    }

    /// By what the zone is signed, if it is.
    pub fn signer(&self) -> Option<&Arc<Signer>> {
        self.signer.as_ref()
    }

    pub(super) fn pool(&self, node: u32) -> Option<&Arc<Pool>> {
        self.pools.get(self.node(node).pool as usize)
    }

    /// The first node behind a name in canonical order; [`Contents::names`] if there is none.
    pub(super) fn first_behind(&self, name: &[u8]) -> u32 {
        let (mut low, mut high) = (0, self.nodes.len() as u32);
        while low < high {
            let middle = low + (high - low) / 2;
            if name::canonical(self.name(middle), name).is_gt() { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// The nodes that have pools.
    pub(super) fn pool_nodes(&self) -> &[u32] {
        &self.pool_nodes
    }

    pub(super) fn soa(&self) -> &Soa {
        &self.soa
    }

    pub(super) fn node(&self, node: u32) -> &Node {
        &self.nodes[node as usize]
    }

    pub(super) fn name(&self, node: u32) -> &[u8] {
        let node = self.node(node);
        &self.blob[node.name as usize..][..usize::from(node.length)]
    }

    pub(super) fn sets(&self, node: u32) -> &[Set] {
        let node = self.node(node);
        &self.sets[node.sets as usize..][..usize::from(node.count)]
    }

    #[inline]
    pub(super) fn set(&self, node: u32, rtype: u16) -> Option<&Set> {
        self.sets(node).iter().find(|set| set.rtype == rtype)
    }

    pub(super) fn data(&self, set: &Set) -> &[u8] {
        &self.blob[set.data as usize..][..set.length as usize]
    }

    pub(super) fn marks(&self, set: &Set) -> &[Mark] {
        match set.marks {
            NOWHERE => &[],
            marks => &self.marks[marks as usize..][..usize::from(set.count)],
        }
    }

    /// The data of one record of a set.
    pub(super) fn records<'c>(&'c self, set: &Set) -> impl Iterator<Item = (u32, &'c [u8])> + use<'c> {
        let mut rest = self.data(set);
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_first_chunk::<12>()?;
            let (data, tail) = tail.split_at(usize::from(u16::from_be_bytes([head[10], head[11]])));
            rest = tail;
            Some((u32::from_be_bytes([head[6], head[7], head[8], head[9]]), data))
        })
    }

    /// The TTL and the data of the first record.
    pub(super) fn first(&self, set: &Set) -> (u32, &[u8]) {
        self.records(set).next().unwrap_or((0, &[]))
    }

    #[inline]
    fn exact(&self, name: &Suffixes, skip: usize) -> Option<u32> {
        self.index.find(name.hash(skip), |node| self.name(node).eq_ignore_ascii_case(name.end(skip)))
    }

    /// The node of a name that lies in the zone, or else the closest one above it, and how many labels that is shorter.
    #[inline]
    pub(super) fn find(&self, name: &Suffixes) -> (u32, usize) {
        if let Some(node) = self.exact(name, 0) {
            return (node, 0);
        }
        // `missing` labels less are too few, `there` are enough.
        let (mut missing, mut there, mut found) = (0, name.labels().saturating_sub(self.labels), 0);
        while there - missing > 1 {
            let middle = missing + (there - missing) / 2;
            match self.exact(name, middle) {
                Some(node) => (there, found) = (middle, node),
                None => missing = middle,
            }
        }
        (found, there)
    }
}

/// A version of a zone.
pub struct Zone {
    contents: Arc<Contents>,
    images: Box<[Image]>,
    serial: u32,
    slot: u16,
    fingerprint: u128,
}

impl Zone {
    /// `states`: of [`Contents::pools`], one each in that order; for a missing one all members are down. `slot` is for the
    /// caller's counters.
    pub fn new(contents: Arc<Contents>, states: &[PoolState], serial: u32, slot: u16) -> Zone {
        let down = PoolState { up: 0, ttl_most_s: u32::MAX };
        let states = states.iter().copied().chain(std::iter::repeat(down));
        let images = contents.pools.iter().zip(states).map(|(pool, state)| Image::new(pool, state)).collect();
        let mut zone = Zone { contents, images, serial, slot, fingerprint: 0 };
        let mut records = Vec::new();
        for node in &zone.contents.pool_nodes {
            zone.pool_records(*node, &mut records);
        }
        let sum = records.iter().fold(zone.contents.digest, |sum, record| sum.wrapping_add(digest(record)));
        zone.fingerprint = sum;
        zone
    }

    /// The same zone with its pools in another state. Cheap: the contents are shared.
    pub fn with(&self, states: &[PoolState], serial: u32) -> Zone {
        Zone::new(self.contents.clone(), states, serial, self.slot)
    }

    pub fn contents(&self) -> &Arc<Contents> {
        &self.contents
    }

    pub fn origin(&self) -> &Name {
        &self.contents.origin
    }

    pub fn serial(&self) -> u32 {
        self.serial
    }

    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// Of all records but the serial: the same for two versions if and only if they have the same record set, in the next process
    /// too (a sum of SipHashes of 128 bits without a key). TTLs belong to it; what [`PoolState::ttl_most_s`] cuts off them does not.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// None: the node, which may be [`NOWHERE`], has no pool.
    pub(super) fn image(&self, node: u32) -> Option<&Image> {
        self.images.get(self.contents.nodes.get(node as usize)?.pool as usize)
    }

    /// Of all pools.
    pub(super) fn images(&self) -> &[Image] {
        &self.images
    }

    pub fn soa_record(&self) -> Record<'_> {
        let soa = &self.contents.soa;
        Record { owner: self.origin().wire(), rtype: rtype::SOA, ttl_s: soa.ttl_s, data: soa.data(self.serial).into() }
    }

    /// The records, as for AXFR without the SOA at the end: the SOA first, then the rest in the names' canonical order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let nodes = 0..self.contents.nodes.len() as u32;
        std::iter::once(self.soa_record()).chain(nodes.flat_map(|node| {
            let mut records = Vec::new();
            self.node_records(node, &mut records);
            records
        }))
    }

    /// Appends the records of a node but the SOA, in order.
    pub(super) fn node_records<'z>(&'z self, node: u32, out: &mut Vec<Record<'z>>) {
        let had = out.len();
        let owner = self.contents.name(node);
        for set in self.contents.sets(node) {
            let record = |(ttl_s, data)| Record { owner, rtype: set.rtype, ttl_s, data: Cow::Borrowed(data) };
            out.extend(self.contents.records(set).map(record));
        }
        if self.contents.node(node).pool != NOWHERE {
            self.pool_records(node, out);
            out[had..].sort();
        }
    }

    /// Appends the addresses that a pool answers at a node, under the pool's own TTL.
    pub(super) fn pool_records<'z>(&'z self, node: u32, out: &mut Vec<Record<'z>>) {
        let owner = self.contents.name(node);
        let Some(image) = self.image(node) else { return };
        for rtype in [rtype::A, rtype::AAAA] {
            let data = image.rotation(rtype).into_iter().flat_map(|rotation| rotation.data());
            let ttl_s = image.pool().ttl_s;
            out.extend(data.map(|data| Record { owner, rtype, ttl_s, data: Cow::Borrowed(data) }));
        }
    }
}

/// A record of a zone. All names are uncompressed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record<'z> {
    /// Wire form.
    pub owner: &'z [u8],
    pub rtype: u16,
    pub data: Cow<'z, [u8]>,
    pub ttl_s: u32,
}

/// Of a record, without regard to the owner's case.
fn digest(record: &Record) -> u128 {
    let mut hasher = SipHasher13::new();
    let mut owner = [0; name::LONGEST_NAME];
    let owner = &mut owner[..record.owner.len().min(name::LONGEST_NAME)];
    owner.copy_from_slice(&record.owner[..owner.len()]);
    owner.make_ascii_lowercase();
    hasher.write(owner);
    hasher.write(&record.rtype.to_be_bytes());
    hasher.write(&record.ttl_s.to_be_bytes());
    hasher.write(&record.data);
    hasher.finish128().as_u128()
}
