//! The flow table: fixed capacity, shared by all workers, lock-free for readers and writers.
//!
//! # Theory of operation
//!
//! Records (`super::record`) hold the flows; an index of hashed buckets finds them. A bucket is one cache line of 8
//! words, a word is `{tag 16 | generation 16 | side 1 | used 1 | record 30}`, 0 is empty. Both keys of a flow, the client's and the
//! server's, have a word of their own that names the same record and the side. A key may stand in either of two
//! buckets that its hash names; words never move, for moving is what would take locks.
//!
//! *Lookup*: scan the two buckets for the tag, go to the record, compare version and key. A word whose generation is not the
//! record's is a leftover of a moment; a record that is not LIVE is not there yet or not any more.
//!
//! *Insert* makes both keys appear in one step or not at all:
//!
//! 1. take a free record, write it, make it OFFERED
//! 2. put a word for each key into an empty place (CAS). Lookups find the word and pass it by: not LIVE
//! 3. fence (SeqCst; [`fence_after_change`])
//! 4. scan the buckets of both keys for rivals: words of other records, LIVE or OFFERED, with the same key.
//!    LIVE: lost. OFFERED with a lower record number: lost. OFFERED with a higher number: it is made DOOMED (CAS), and if
//!    that fails it is looked at again
//! 5. commit: CAS OFFERED -> LIVE. If that fails a rival made it DOOMED: lost. Lost means: take the words out, free the record.
//!
//! Why no two flows with one key can both become LIVE: each put its word (2) before its fence (3), and scanned (4) after it.
//! Of two SeqCst fences one is first, and the thread whose fence is second sees the other's word. Call the one that sees B, the
//! other A. If A's record is LIVE, B loses. If A is OFFERED with the lower number, B loses. If A is OFFERED with
//! the higher number, B dooms it, and as A's commit and B's doom are CASes on one word, only one of them succeeds: either A never
//! commits, or B finds it LIVE and loses. If A is past that, it lost or is being removed, and is no rival.
//! Both may lose to a third; then the caller looks again, finds nothing, and drops the packet, which will be sent again.
//!
//! *Remove*: CAS LIVE -> DYING, which one caller wins; it empties both words, then frees the record under the next generation.
//! A word is emptied only by the one who owns its record's end, and a place is filled only by CAS from 0; so a
//! plain store will do for emptying.

use super::atomic::{Ordering::*, fence_after_change};
use super::displaced::Displaced;
use super::free::FreeList;
use super::key::HashKey;
use super::record::{DOOMED_CLIENT, DOOMED_SERVER, DYING, LIVE, OFFERED, Record, Version, Word};
use super::view::{Flow, FlowDetails, FlowRef, NewFlow, Refused, details, view};
use super::{Side, State, Tick, next};
use crate::sys::huge;
use crate::sys::prefetch::prefetch;
use crate::sys::rows::{FLOW_BUCKET, FlowBucket, Round, Rows};
use crate::sys::tags::{ALL, tagged};
use crate::wire::ip::FlowKey;
use std::num::NonZeroU64;

/// Words of a bucket.
pub(super) const BUCKET: usize = FLOW_BUCKET;

/// While the first bucket of a key has more than this many words used, the emptier of its two is taken; below, the first, so
/// that a lookup mostly needs one line.
const CROWDED: usize = if cfg!(feature = "loom") { 0 } else { 4 };

/// Looks before a CAS that only save time are left out for loom: it remembers but the last access to an atomic, so that
/// a thread's own look would hide from it that the CAS races with another thread's earlier load.
const LOOM_BLIND: bool = cfg!(feature = "loom");

/// The most flows that a table can hold.
pub const MAX_FLOWS: u32 = 1 << 30;

/// See the head of this file.
pub struct FlowTable {
    pub(super) records: Rows<Record>,
    buckets: Round<FlowBucket>,
    displaced: Displaced,
    pub(super) free: FreeList,
    key: HashKey,
}

/// A word of the index that is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(NonZeroU64);

impl Entry {
    const USED: NonZeroU64 = NonZeroU64::MIN.saturating_add((1 << 30) - 1);
    const SERVER: u64 = 1 << 31;

    fn new(hash: u64, version: Version, side: Side, index: u32) -> Entry {
        let side = if side == Side::Server { Entry::SERVER } else { 0 };
        let place = u64::from(tag(hash)) << 48 | u64::from(version.generation()) << 32 | side | u64::from(index);
        Entry(Entry::USED | place)
    }

    /// None: the place is empty.
    #[inline(always)]
    fn of(word: u64) -> Option<Entry> {
        NonZeroU64::new(word).map(Entry)
    }

    /// None: it is no word of the index, but another number below 2^30.
    #[inline(always)]
    pub(super) fn of_hint(word: u64) -> Option<Entry> {
        Entry::of(if word & Entry::USED.get() == 0 { 0 } else { word })
    }

    #[inline]
    pub(super) fn word(self) -> u64 {
        self.0.get()
    }

    #[inline]
    fn has_tag(self, tag: u16) -> bool {
        (self.word() >> 48) as u16 == tag
    }

    #[inline]
    pub(super) fn generation(self) -> u16 {
        (self.word() >> 32) as u16
    }

    #[inline]
    pub(super) fn side(self) -> Side {
        if self.word() & Entry::SERVER == 0 { Side::Client } else { Side::Server }
    }

    #[inline]
    pub(super) fn index(self) -> u32 {
        self.word() as u32 & (MAX_FLOWS - 1)
    }
}

/// From bits that choose no bucket (in tables of up to 2^16 buckets, and few of them in larger ones). Never 0: an empty
/// place has the tag of nobody.
#[inline]
pub(super) fn tag(hash: u64) -> u16 {
    ((hash >> 48) as u16 ^ (hash >> 16) as u16).max(1)
}

/// A word of a bucket with this tag.
#[inline(always)]
pub(super) fn any_entry(bucket: &FlowBucket, tag: u16) -> Option<Entry> {
    let hits = tagged(bucket, tag);
    // Straight code: whether there is one is hard to foretell.
    let word = bucket.0[(hits | 1 << (BUCKET - 1)).trailing_zeros() as usize].load(Acquire);
    Entry::of(if hits != 0 { word } else { 0 }).filter(|entry| entry.has_tag(tag))
}

/// The first answer that `each` gives for a word of a bucket with this tag.
#[inline(always)]
pub(super) fn entry_in<T>(bucket: &FlowBucket, tag: u16, each: &mut impl FnMut(Entry) -> Option<T>) -> Option<T> {
    let mut hits = tagged(bucket, tag);
    while hits != 0 {
        // Acquire: pairs with the CAS of `place`, so that the record is seen at least as far as OFFERED in that
        // life. By now the place may hold another word, with another tag.
        let entry = Entry::of(bucket.0[hits.trailing_zeros() as usize % BUCKET].load(Acquire));
        hits &= hits - 1;
        if let Some(entry) = entry
            && entry.has_tag(tag)
            && let Some(answer) = each(entry)
        {
            return Some(answer);
        }
    }
    None
}

/// The empty places of a bucket, one bit each: no word has the tag 0.
#[inline(always)]
fn empty(bucket: &FlowBucket) -> u32 {
    if LOOM_BLIND { ALL } else { tagged(bucket, 0) }
}

/// Puts a word into one of the places of a bucket that were seen empty. False: none is.
#[inline]
fn fill(bucket: &FlowBucket, mut room: u32, entry: Entry) -> bool {
    while room != 0 {
        let word = &bucket.0[room.trailing_zeros() as usize % BUCKET];
        room &= room - 1;
        // Acquire and Release: pairs with `entry_in`. SeqCst: see `fence_after_change`.
        if word.compare_exchange(0, entry.word(), SeqCst, Relaxed).is_ok() {
            return true;
        }
    }
    false
}

impl FlowTable {
    /// How many buckets it takes for `max_flows` flows: two words a flow, at most 60 % of the places used. Measured there, 1
    /// insert in 150,000 finds no room.
    pub fn buckets_for(max_flows: u32) -> usize {
        (2 * max_flows as usize * 10).div_ceil(6 * BUCKET).next_power_of_two()
    }

    /// Takes all memory for `max_flows` flows (1 to [`MAX_FLOWS`]), divided among `workers` (1 to 256).
    pub fn new(max_flows: u32, workers: usize, key: HashKey) -> FlowTable {
        let max_flows = max_flows.clamp(1, MAX_FLOWS);
        FlowTable::with_buckets(max_flows as usize, FlowTable::buckets_for(max_flows), workers, key)
    }

    pub(super) fn with_buckets(max_flows: usize, buckets: usize, workers: usize, key: HashKey) -> FlowTable {
        let records = huge::boxed(max_flows, |_| Record::default());
        let buckets = huge::boxed(buckets, |_| FlowBucket::default());
        FlowTable::in_memory(records.into(), buckets.into(), workers, key)
    }

    /// In memory that is all zero: a record for each flow, and a power of two of buckets ([`FlowTable::buckets_for`]).
    pub fn in_memory(records: Rows<Record>, buckets: Rows<FlowBucket>, workers: usize, key: HashKey) -> FlowTable {
        FlowTable {
            free: FreeList::new(&records, workers.clamp(1, 256)),
            displaced: Displaced::new(buckets.len()),
            records,
            buckets: buckets.into(),
            key,
        }
    }

    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.key.hash(key)
    }

    #[inline]
    pub fn hash_key(&self) -> HashKey {
        self.key
    }

    /// The most flows on record at once.
    pub fn capacity(&self) -> u32 {
        self.records.len() as u32
    }

    /// Flows on record, those being inserted or removed included.
    pub fn len(&self) -> u32 {
        self.free.used()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) fn bucket(&self, half: u64) -> &FlowBucket {
        self.buckets.at(half)
    }

    #[inline]
    fn buckets(&self, hash: u64) -> [&FlowBucket; 2] {
        [self.bucket(hash), self.bucket(hash >> 32)]
    }

    /// The first answer that `each` gives for a word with the tag of `hash`, over its first bucket, then its second.
    #[inline]
    fn entries<T>(&self, hash: u64, mut each: impl FnMut(Entry) -> Option<T>) -> Option<T> {
        let tag = tag(hash);
        entry_in(self.bucket(hash), tag, &mut each)
            .or_else(|| self.second_bucket(hash).and_then(|bucket| entry_in(bucket, tag, &mut each)))
    }

    /// The second bucket of a key, if it may stand there.
    #[inline(always)]
    pub(super) fn second_bucket(&self, hash: u64) -> Option<&FlowBucket> {
        self.displaced.any(self.buckets.place(hash)).then(|| self.bucket(hash >> 32))
    }

    #[inline]
    pub(super) fn record(&self, index: u32) -> &Record {
        &self.records[index as usize]
    }

    /// The flow that a word stands for, if that is alive and has this key.
    #[inline(always)]
    pub(super) fn flow_of(&self, entry: Entry, key: &FlowKey) -> Option<Flow> {
        let record = self.record(entry.index());
        let version = record.version();
        let hit = version.phase() == LIVE
            && version.generation() == entry.generation()
            && record.matches(version, entry.side(), key);
        if !hit {
            return None;
        }
        let flow = view(record, entry.index(), version, entry.side());
        // If that life has ended since, there was a moment without such a flow: a miss is a true answer.
        record.still(version).then_some(flow)
    }

    /// The flow whose packets carry this key; its `side` tells which. `hash` is [`FlowTable::hash`] of the key.
    #[inline(never)]
    pub fn lookup(&self, key: &FlowKey, hash: u64) -> Option<Flow> {
        self.entries(hash, |entry| self.flow_of(entry, key))
    }

    /// Inserts both sides (the server's alone with [`NewFlow::per_packet`]), or neither.
    /// `client_hash` is [`FlowTable::hash`] of the client's key.
    pub fn insert(&self, new: &NewFlow, client_hash: u64, now: Tick) -> Result<Flow, Refused> {
        let server_hash = new.server_key().map_or(0, |key| self.prefetch_places(&key));
        let at = self.insert_by(new, [client_hash, server_hash], now)?;
        Ok(new.on_record(at))
    }

    /// Begins to load what the insert of a flow looks at for the server's key, and gives the key's hash.
    #[inline(always)]
    pub fn prefetch_places(&self, server: &FlowKey) -> u64 {
        let hash = self.key.hash(server);
        prefetch(self.bucket(hash));
        if let Some(second) = self.second_bucket(hash) {
            prefetch(second);
        }
        hash
    }

    /// [`FlowTable::insert`] by the hashes of both keys; in one-sided modes the server's means nothing.
    /// Gives where the flow is ([`NewFlow::on_record`]), and not all of it: that it would have to be handed up.
    pub fn insert_by(&self, new: &NewFlow, hashes: [u64; 2], now: Tick) -> Result<FlowRef, Refused> {
        self.insert_in_line(new, hashes, now)
    }

    /// The same where what is known of the flow beforehand shall make it shorter.
    #[inline(always)]
    pub fn insert_in_line(&self, new: &NewFlow, hashes: [u64; 2], now: Tick) -> Result<FlowRef, Refused> {
        let index = self.free.take(&self.records, usize::from(new.worker)).ok_or(Refused::Full)?;
        let offered = self.record(index).write(new, now);
        let mine = Mine { index, version: offered, hashes };
        if let Err(refused) = self.offer(&mine, new) {
            self.retire(&mine);
            return Err(refused);
        }
        Ok(self.reference(index, offered.with_phase(LIVE)))
    }

    /// Steps 2 to 5 of the insert. After an error, words of it may stand in the index still.
    #[inline(always)]
    fn offer(&self, mine: &Mine, new: &NewFlow) -> Result<(), Refused> {
        let [client_hash, server_hash] = mine.hashes;
        let by_client = !new.per_packet;
        let by_server = !new.mode.one_sided();
        let put = |hash, side| self.place(hash, Entry::new(hash, mine.version, side, mine.index));
        if by_client && !put(client_hash, Side::Client) || by_server && !put(server_hash, Side::Server) {
            return Err(Refused::NoRoom);
        }
        // Each thread's words are placed before its fence and its scan follows it: of two rivals at least one sees the other.
        fence_after_change();
        if by_client && self.loses(mine, new, Side::Client) {
            return Err(Refused::Twin);
        }
        if by_server && self.loses(mine, new, Side::Server) {
            return Err(Refused::ServerTwin);
        }
        let record = self.record(mine.index);
        if record.step(mine.version, LIVE) {
            return Ok(());
        }
        Err(if record.version().phase() == DOOMED_SERVER { Refused::ServerTwin } else { Refused::Twin })
    }

    /// Puts a word into an empty place of one of its buckets. False: there is none.
    #[inline]
    fn place(&self, hash: u64, entry: Entry) -> bool {
        let [first, second] = self.buckets(hash);
        let room = empty(first);
        // The baseline of x86-64 has no instruction that counts bits.
        let spare = (0..BUCKET - CROWDED - 1).fold(room, |room, _| room & room.wrapping_sub(1));
        if spare != 0 && fill(first, room, entry) {
            return true;
        }
        let elsewhere = empty(second);
        if elsewhere.count_ones() <= room.count_ones() && fill(first, room, entry) {
            return true;
        }
        self.displaced.note(self.buckets.place(hash));
        fill(second, elsewhere, entry) || fill(first, room, entry)
    }

    /// Step 4: does the flow being inserted lose to another one with its key of this side? Rivals that it wins over are doomed.
    #[inline(always)]
    fn loses(&self, mine: &Mine, new: &NewFlow, side: Side) -> bool {
        let hash = mine.hashes[side as usize];
        // Mostly its own word is the only one with its tag. It stands in the first bucket as long as none may stand elsewhere.
        let hits = tagged(self.bucket(hash), tag(hash));
        if hits & hits.wrapping_sub(1) == 0 && self.second_bucket(hash).is_none() {
            return false;
        }
        self.loses_to_another(mine, new, side)
    }

    #[inline(never)]
    fn loses_to_another(&self, mine: &Mine, new: &NewFlow, side: Side) -> bool {
        let others = |entry: Entry| entry.index() != mine.index && self.yields(mine, new, side, entry);
        self.entries(mine.hashes[side as usize], |entry| others(entry).then_some(())).is_some()
    }

    /// Does it lose to the flow that this word stands for?
    #[inline(never)]
    fn yields(&self, mine: &Mine, new: &NewFlow, side: Side, entry: Entry) -> bool {
        let (record, key) = (self.record(entry.index()), new.key(side));
        loop {
            let version = record.version();
            let contends = matches!(version.phase(), LIVE | OFFERED)
                && version.generation() == entry.generation()
                && record.matches(version, entry.side(), &key)
                && record.still(version);
            if !contends {
                return false;
            }
            if version.phase() == LIVE || entry.index() < mine.index {
                return true;
            }
            let doomed = if entry.side() == Side::Client { DOOMED_CLIENT } else { DOOMED_SERVER };
            if record.step(version, doomed) {
                return false;
            }
        }
    }

    /// Empties the words of a record that the caller owns the end of, and frees it.
    #[inline(never)]
    fn retire(&self, mine: &Mine) {
        let record = self.record(mine.index);
        // From OFFERED or DOOMED this is the owner's to say; from LIVE the caller has said it by CAS. Rivals that find it
        // OFFERED still would only doom it, which is no loss now.
        let version = mine.version.with_phase(DYING);
        record.version.store(version.0, Release);
        for (side, hash) in [(Side::Client, mine.hashes[0]), (Side::Server, mine.hashes[1])] {
            let entry = Entry::new(hash, version, side, mine.index);
            // Nobody else empties or changes this word. Release: who finds the place empty comes after all of this life.
            if let Some(word) = self
                .buckets(hash)
                .into_iter()
                .flat_map(|bucket| &bucket.0)
                .find(|word| word.load(Relaxed) == entry.word())
            {
                word.store(0, Release);
            }
        }
        record.version.store(version.next_life().0, Release);
        self.free.give(&self.records, mine.index);
    }

    /// Removes a flow. Of any number of callers exactly one gets `Some`: it returns the lent port and counts the target's
    /// connection off, unless it was closed before: the state is the last that the flow was in, and of all steps of
    /// [`FlowTable::advance`] exactly those have been told to somebody that led to it.
    pub fn remove(&self, at: FlowRef) -> Option<FlowDetails> {
        let record = self.records.get(at.index as usize)?;
        let version = Version(at.version);
        if version.phase() != LIVE || !record.step(version, DYING) {
            return None;
        }
        // Whoever moves the state on from here is too late, and whoever did so before is heard.
        let last = record.seal().state();
        let mut details = details(record, at.index, version);
        details.flow.state = last;
        let flow = &details.flow;
        let mut hashes = [self.hash(&flow.key(Side::Client)), 0];
        if !flow.mode.one_sided() {
            hashes[1] = self.hash(&flow.key(Side::Server));
        }
        self.retire(&Mine { index: at.index, version, hashes });
        Some(details)
    }

    /// The record of a flow, if that life of it is not over.
    #[inline]
    fn living(&self, at: FlowRef) -> Option<&Record> {
        let record = self.records.get(at.index as usize)?;
        (record.version.load(Relaxed) == at.version).then_some(record)
    }

    /// Counts a packet of `flow.side`: `packets` (more than one when segments came joined) with `bytes`.
    #[inline]
    pub fn touch(&self, flow: &Flow, now: Tick, packets: u32, bytes: u32) {
        self.touch_at(flow.at, flow.side, now, packets, bytes);
    }

    /// The same by the flow's name.
    #[inline(always)]
    pub fn touch_at(&self, at: FlowRef, side: Side, now: Tick, packets: u32, bytes: u32) {
        if let Some(record) = self.living(at) {
            record.count(side, now, packets, bytes);
        }
    }

    /// Packets that were counted from a side; 0 if the flow is gone.
    pub fn packets_from(&self, at: FlowRef, side: Side) -> u32 {
        self.living(at).map_or(0, |record| record.packets[side as usize].load(Relaxed))
    }

    /// Remembers an acknowledgement number from `flow.side`, if the flow was inserted with `track_acks`.
    #[inline]
    pub fn note_ack(&self, flow: &Flow, ack: u32) {
        if flow.track_acks
            && let Some(record) = self.living(flow.at)
        {
            record.acks[flow.side as usize].store(ack, Relaxed);
        }
    }

    /// Moves the flow on by a TCP packet of `flow.side` ([`next`]). Returns the states before and after, which stand in
    /// `flow` from now on; equal if nothing changed. Two workers never undo each other's step.
    #[inline]
    pub fn advance(&self, flow: &mut Flow, flags: u8) -> (State, State) {
        let (side, one_sided) = (flow.side, flow.mode.one_sided());
        if next(flow.state, side, flags, one_sided) == flow.state {
            return (flow.state, flow.state);
        }
        let mut before = flow.state;
        let after = self.record(flow.at.index).change(Version(flow.at.version).generation(), |word| {
            before = word.state();
            let state = next(before, side, flags, one_sided);
            (state != before).then(|| Word::new(word.generation(), state, word.epoch(), word.hops()))
        });
        flow.state = after.map_or(before, Word::state);
        (before, flow.state)
    }

    /// Sets the state whatever it was. False: the flow is gone.
    pub fn set_state(&self, flow: &mut Flow, state: State) -> bool {
        let word = self.record(flow.at.index).change(Version(flow.at.version).generation(), |word| {
            (word.state() != state).then(|| Word::new(word.generation(), state, word.epoch(), word.hops()))
        });
        flow.state = state;
        word.is_some()
    }

    /// Remembers the next hop of packets `toward` a side, looked up in route epoch `epoch`. If the other hop is of
    /// another epoch it is forgotten. False: the flow is gone.
    pub fn set_hop(&self, flow: &mut Flow, toward: Side, hop: u16, epoch: u8) -> bool {
        let Some(record) = self.records.get(flow.at.index as usize) else { return false };
        let word = record.change(Version(flow.at.version).generation(), |word| {
            let mut hops = if word.epoch() == epoch { word.hops() } else { [0; 2] };
            hops[toward as usize] = hop;
            let new = Word::new(word.generation(), word.state(), epoch, hops);
            (new != word).then_some(new)
        });
        if let Some(word) = word {
            (flow.hops, flow.epoch) = (word.hops(), word.epoch());
        }
        word.is_some()
    }

    /// All that is on record about a flow; `None` if it is gone.
    pub fn details(&self, at: FlowRef) -> Option<FlowDetails> {
        let record = self.records.get(at.index as usize)?;
        let version = record.version();
        if version.0 != at.version {
            return None;
        }
        let details = details(record, at.index, version);
        record.still(version).then_some(details)
    }

    /// Calls back for every flow that stays on record while it is looked at. Not for workers: it reads all records.
    pub fn for_each(&self, mut each: impl FnMut(&FlowDetails)) {
        for (index, record) in (0..).zip(&*self.records) {
            let version = record.version();
            if version.phase() == LIVE
                && let Some(details) = self.details(FlowRef { index, version: version.0 })
            {
                each(&details);
            }
        }
    }

    /// Words in the index; for tests.
    #[cfg(test)]
    pub(super) fn words(&self) -> usize {
        self.buckets.iter().flat_map(|bucket| &bucket.0).filter(|word| word.load(Relaxed) != 0).count()
    }

    pub(super) fn reference(&self, index: u32, version: Version) -> FlowRef {
        FlowRef { index, version: version.0 }
    }
}

/// A flow on its way in or out, as the thread sees it that owns its end.
struct Mine {
    index: u32,
    version: Version,
    /// Of the client's and the server's key; the latter is not looked at in one-sided modes.
    hashes: [u64; 2],
}
