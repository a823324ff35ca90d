//! One flow's memory: two cache lines, taken at start, never given back, so that whoever holds a stale index reads a
//! record still - an older or a younger one, and the version tells.
//!
//! # Theory of operation
//!
//! `version` is `{generation 21 | kind 8 | phase 3}`. A generation is one life, and walks through the phases in order:
//!
//! ```text
//!   FREE -> WRITING -> OFFERED -> LIVE -> DYING -> FREE of the next generation
//!                         |                 ^
//!                         '--> DOOMED ------'   (or straight from OFFERED, when its owner gives up)
//! ```
//!
//! - FREE: on a free list; whoever takes it from there owns it.
//! - WRITING: its owner writes the fields. The only phase in which *life fields* (addresses, ports, pool, target, birth)
//!   change; so life fields read between two looks at one generation in OFFERED or later are whole.
//! - OFFERED: the index may point at it, lookups pass it by, rival inserts read it (`table.rs` tells why).
//! - DOOMED: a rival won; only the owner can go on from here.
//! - LIVE: found by lookups. Anyone may claim it for removal by CAS to DYING, and exactly one succeeds.
//! - DYING: the claimer takes it out of the index, then frees it.
//!
//! `kind` does not change during a life, so it is as good as a life field and comes for free with each look at
//! the version.
//!
//! Fields that change while LIVE: `state` holds its generation's low 16 bits and changes only by CAS, so a worker that still
//! holds an ended life cannot touch its successor (unless it sleeps through 65536 lives of one record). Counters,
//! `last_seen` and acknowledgements are plain stores behind a look at the version; in the few instructions between the two a
//! stale worker can put an old value there, which spoils a statistic and nothing else. Two workers that see packets of the
//! same direction at one moment may lose a count the same way; that is the price of not locking the bus per packet.
//!
//! The kernel programs read records too, and carry packets of flows that stand by them (`src/bpf/path.h`): they are one
//! more such worker, which counts, and looks at the version before and not after, so that in the same few instructions it may
//! send a packet by a record that has just ended, as if the packet had come a moment earlier.
//!
//! Line 0 holds all that a packet of an IPv4 flow needs; an IPv6 address, be it the target's alone (a tunnel may be of the other
//! family), needs its rest from line 1.

use super::atomic::{AtomicU64, Ordering::*, fence};
use super::view::TICKS_PER_S;
use super::{Encapsulation, Mode, NewFlow, PoolId, Side, State, Tick};
pub use crate::sys::rows::FlowCell as Record;
use crate::wire::ip::{Addr, Endpoint, FlowKey, TCP, UDP, V4, V6};

pub const FREE: u32 = 0;
pub const WRITING: u32 = 1;
pub const OFFERED: u32 = 2;
pub const LIVE: u32 = 3;
/// Lost to a rival by its client key.
pub const DOOMED_CLIENT: u32 = 4;
/// Lost to a rival by its server key.
pub const DOOMED_SERVER: u32 = 5;
pub const DYING: u32 = 6;

const PHASE: u32 = 7;
const KIND_SHIFT: u32 = 3;
const KIND: u32 = 0xff << KIND_SHIFT;
const GENERATION_SHIFT: u32 = 11;

const KIND_V6: u32 = 1 << KIND_SHIFT;
const KIND_UDP: u32 = 2 << KIND_SHIFT;
const KIND_ACKS: u32 = 4 << KIND_SHIFT;
const MODE_SHIFT: u32 = KIND_SHIFT + 3;
const ENCAPSULATION_SHIFT: u32 = KIND_SHIFT + 5;
const KIND_TARGET_V6: u32 = 0x80 << KIND_SHIFT;

/// A value of [`Record::version`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version(pub u32);

impl Version {
    #[inline]
    pub fn phase(self) -> u32 {
        self.0 & PHASE
    }

    /// The generation's low 16 bits, as they stand in index words and state words.
    #[inline]
    pub fn generation(self) -> u16 {
        (self.0 >> GENERATION_SHIFT) as u16
    }

    #[inline]
    pub fn same_life(self, other: Version) -> bool {
        (self.0 ^ other.0) >> GENERATION_SHIFT == 0
    }

    #[inline]
    pub fn with_phase(self, phase: u32) -> Version {
        Version(self.0 & !PHASE | phase)
    }

    fn with_kind(self, kind: u32) -> Version {
        Version(self.0 & !KIND | kind)
    }

    /// FREE, of the next generation.
    pub fn next_life(self) -> Version {
        Version((self.0 >> GENERATION_SHIFT).wrapping_add(1) << GENERATION_SHIFT | FREE)
    }

    /// Is it a LIVE one of this generation, of a flow of both sides whose packets have this family and protocol?
    #[inline]
    pub fn carries(self, generation: u16, family: u8, protocol: u8) -> bool {
        const ONE_SIDED: u32 = 2 << MODE_SHIFT;
        const MASK: u32 = PHASE | KIND_V6 | KIND_UDP | ONE_SIDED | 0xffff << GENERATION_SHIFT;
        let kind = if family == V4 { 0 } else { KIND_V6 } | if protocol == TCP { 0 } else { KIND_UDP };
        self.0 & MASK == u32::from(generation) << GENERATION_SHIFT | kind | LIVE
    }

    #[inline]
    pub fn family(self) -> u8 {
        if self.0 & KIND_V6 == 0 { V4 } else { V6 }
    }

    #[inline]
    pub fn protocol(self) -> u8 {
        if self.0 & KIND_UDP == 0 { TCP } else { UDP }
    }

    #[inline]
    pub fn mode(self) -> Mode {
        Mode::from_bits(self.0 >> MODE_SHIFT)
    }

    /// Means something in tunnel mode only.
    #[inline]
    pub fn encapsulation(self) -> Encapsulation {
        match self.0 >> ENCAPSULATION_SHIFT & 3 {
            0 => Encapsulation::Ipip,
            1 => Encapsulation::Gre,
            2 => Encapsulation::Gue,
            _ => Encapsulation::Gue1,
        }
    }

    #[inline]
    pub fn target_family(self) -> u8 {
        if self.0 & KIND_TARGET_V6 == 0 { V4 } else { V6 }
    }

    /// Has it an address that takes more than one word?
    #[inline]
    pub fn is_wide(self) -> bool {
        self.0 & (KIND_V6 | KIND_TARGET_V6) != 0
    }

    #[inline]
    pub fn track_acks(self) -> bool {
        self.0 & KIND_ACKS != 0
    }
}

/// The kind bits of a flow.
#[inline(always)]
fn kind(new: &NewFlow) -> u32 {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    let encapsulation = match new.encapsulation {
        Encapsulation::Ipip => 0,
        Encapsulation::Gre => 1,
        Encapsulation::Gue => 2,
        Encapsulation::Gue1 => 3,
    };
    bit(new.family != V4, KIND_V6)
        | bit(new.protocol == UDP, KIND_UDP)
        | bit(new.track_acks, KIND_ACKS)
        | (new.mode as u32) << MODE_SHIFT
        | encapsulation << ENCAPSULATION_SHIFT
        | bit(new.target_family != V4, KIND_TARGET_V6)
}

/// A value of [`Record::state`]: `{generation 16 | epoch 8 | state 8 | hop to the server 16 | hop to the client 16}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word(pub u64);

impl Word {
    pub fn new(generation: u16, state: State, epoch: u8, hops: [u16; 2]) -> Word {
        Word(
            u64::from(generation) << 48
                | u64::from(epoch) << 40
                | (state as u64) << 32
                | u64::from(hops[1]) << 16
                | u64::from(hops[0]),
        )
    }

    #[inline]
    pub fn generation(self) -> u16 {
        (self.0 >> 48) as u16
    }

    #[inline]
    pub fn epoch(self) -> u8 {
        (self.0 >> 40) as u8
    }

    #[inline]
    pub fn state(self) -> State {
        State::from_bits((self.0 >> 32) as u8)
    }

    /// Can the next packet move nothing, unless its flags say so? See [`next`](super::next).
    #[inline]
    pub fn stands(self) -> bool {
        const STATES: u32 = 1 << State::Established as u32
            | 1 << State::ClientFin as u32
            | 1 << State::ServerFin as u32
            | 1 << State::Udp as u32;
        STATES >> (self.0 >> 32 & 31) & 1 != 0
    }

    #[inline]
    pub fn hops(self) -> [u16; 2] {
        [self.0 as u16, (self.0 >> 16) as u16]
    }
}

/// Two addresses and ports, as one key's worth: (client, vip) or (target, local).
#[derive(Clone, Copy)]
pub struct Ends {
    pub first: Endpoint,
    pub second: Endpoint,
}

const NO_POOL: u16 = 0xffff;

/// What is written once per life besides the [`Ends`].
pub struct Life {
    pub target_slot: u16,
    pub pool: Option<PoolId>,
    pub worker: u8,
    pub born_s: u32,
}

impl Record {
    #[inline]
    pub fn version(&self) -> Version {
        // Pairs with the Release of `write` and of `step`.
        Version(self.version.load(Acquire))
    }

    /// Second look, after reading life fields that a [`Record::version`] went before: is it the same life still?
    #[inline]
    pub fn still(&self, version: Version) -> bool {
        // Pairs with the Release fence in `write`: if a field of a later life was read above, its WRITING is seen here.
        fence(Acquire);
        Version(self.version.load(Relaxed)).same_life(version)
    }

    /// [`Record::still`], and in the same phase.
    #[inline]
    pub fn still_at(&self, version: u32) -> bool {
        // As in `still`.
        fence(Acquire);
        self.version.load(Relaxed) == version
    }

    /// From one phase of a life to another; false if it was not at `from`.
    pub fn step(&self, from: Version, phase: u32) -> bool {
        self.version.compare_exchange(from.0, from.with_phase(phase).0, AcqRel, Acquire).is_ok()
    }

    /// FREE to OFFERED, by the owner. Returns the version as offered.
    #[inline(always)]
    pub fn write(&self, new: &NewFlow, now: Tick) -> Version {
        // The owner took it from a free list: nobody else writes the version now.
        let version = Version(self.version.load(Relaxed)).with_kind(kind(new));
        self.version.store(version.with_phase(WRITING).0, Relaxed);
        // Pairs with the Acquire fence in `still`.
        fence(Release);
        self.last_seen.store(now, Relaxed);
        // A late CAS of the last life finds no word of its generation any more (`seal`).
        self.state.store(Word::new(version.generation(), new.state, new.epoch, new.hops).0, Relaxed);
        let NewFlow { client, vip, target, local, .. } = new;
        let ports = |first: &Endpoint, second: &Endpoint| u64::from(first.port) | u64::from(second.port) << 16;
        self.addrs[0].store(join(client.addr.0[0], vip.addr.0[0]), Relaxed);
        self.addrs[1].store(join(target.addr.0[0], local.addr.0[0]), Relaxed);
        self.ports.store(ports(client, vip) | ports(target, local) << 32, Relaxed);
        if version.is_wide() {
            let words = [rest(&client.addr, &vip.addr), rest(&target.addr, &local.addr)];
            for (at, word) in self.more.iter().flatten().zip(words.into_iter().flatten()) {
                at.store(word, Relaxed);
            }
        }
        for side in 0..2 {
            self.packets[side].store(0, Relaxed);
            self.bytes[side].store(0, Relaxed);
        }
        self.acks[Side::Client as usize].store(0, Relaxed);
        self.acks[Side::Server as usize].store(new.stamp, Relaxed);
        self.birth.store(u32::from(new.worker) << 24 | (now / TICKS_PER_S) & 0xff_ffff, Relaxed);
        let pool = new.pool.map_or(NO_POOL, |pool| pool.0);
        self.owner.store(u32::from(new.target_slot) | u32::from(pool) << 16, Relaxed);
        let offered = version.with_phase(OFFERED);
        self.version.store(offered.0, Release);
        offered
    }

    /// Are packets with this key those of `side`? To be followed by [`Record::still`] if the answer matters. Reads
    /// line 1 only for IPv6.
    #[inline]
    pub fn matches(&self, version: Version, side: Side, key: &FlowKey) -> bool {
        version.family() == key.family && version.protocol() == key.protocol && self.has(side, key)
    }

    /// [`Record::matches`], but for family and protocol.
    #[inline(always)]
    pub fn has(&self, side: Side, key: &FlowKey) -> bool {
        let i = side as usize;
        self.addrs[i].load(Relaxed) == join(key.src.addr.0[0], key.dst.addr.0[0])
            && (self.ports.load(Relaxed) >> (32 * i)) as u32 == u32::from(key.src.port) | u32::from(key.dst.port) << 16
            && (key.family == V4 || self.rest(i) == rest(&key.src.addr, &key.dst.addr))
    }

    /// Words 1 to 3 of two addresses.
    #[inline(always)]
    fn rest(&self, i: usize) -> [u64; 3] {
        let [a, b, c] = &self.more[i];
        [a.load(Relaxed), b.load(Relaxed), c.load(Relaxed)]
    }

    /// Counts packets of a side.
    #[inline(always)]
    pub fn count(&self, side: Side, now: u32, packets: u32, bytes: u32) {
        let i = side as usize;
        // Load and store, no read-modify-write: see "Fields that change while LIVE" above.
        self.last_seen.store(now, Relaxed);
        self.packets[i].store(self.packets[i].load(Relaxed).wrapping_add(packets), Relaxed);
        self.bytes[i].store(self.bytes[i].load(Relaxed).wrapping_add(u64::from(bytes)), Relaxed);
    }

    /// (client, vip) or (target, local). `wide`: as of its version.
    #[inline(always)]
    pub fn ends(&self, side: Side, wide: bool) -> Ends {
        let i = side as usize;
        let (word, ports) = (self.addrs[i].load(Relaxed), self.ports.load(Relaxed) >> (32 * i));
        // Written out, so that IPv4 is straight code.
        let end = |word: u64, port: u64| Endpoint { addr: Addr([word as u32, 0, 0, 0]), port: port as u16 };
        let mut ends = Ends { first: end(word, ports), second: end(word >> 32, ports >> 16) };
        if wide {
            let [a, b, c] = self.rest(i);
            ends.first.addr = Addr([word as u32, a as u32, b as u32, c as u32]);
            let high = |word: u64| (word >> 32) as u32;
            ends.second.addr = Addr([high(word), high(a), high(b), high(c)]);
        }
        ends
    }

    /// For prefetching.
    #[inline]
    pub fn second_line(&self) -> &[[AtomicU64; 3]; 2] {
        &self.more
    }

    pub fn life(&self) -> Life {
        let (birth, owner) = (self.birth.load(Relaxed), self.owner.load(Relaxed));
        let pool = (owner >> 16) as u16;
        Life {
            target_slot: owner as u16,
            pool: (pool != NO_POOL).then_some(PoolId(pool)),
            worker: (birth >> 24) as u8,
            born_s: birth & 0xff_ffff,
        }
    }

    #[inline]
    pub fn word(&self) -> Word {
        Word(self.state.load(Relaxed))
    }

    /// Ends the changes of the state word of one life, by the one who claimed its removal: what it is from now on is the last
    /// that it was.
    pub fn seal(&self) -> Word {
        // Into the next generation, which stands at the top. Release as in `change`.
        Word(self.state.fetch_add(1 << 48, Release))
    }

    /// Changes the state word of one life; `change` may be called again if another worker was faster, and leaves it with
    /// `None`. Returns the word as it stands then; `None` if that life is over.
    #[inline]
    pub fn change(&self, generation: u16, mut change: impl FnMut(Word) -> Option<Word>) -> Option<Word> {
        let mut word = self.word();
        loop {
            if word.generation() != generation {
                return None;
            }
            let Some(new) = change(word) else { return Some(word) };
            // Release: a reader that meets a word of a later life must find in `still` that its own is over.
            match self.state.compare_exchange_weak(word.0, new.0, Release, Relaxed) {
                Ok(_) => return Some(new),
                Err(other) => word = Word(other),
            }
        }
    }
}

#[inline]
fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Words 1 to 3 of two addresses, as they stand in [`Record::more`].
#[inline(always)]
fn rest(first: &Addr, second: &Addr) -> [u64; 3] {
    // Written out: an index that is known only when it runs would keep both addresses in memory.
    [join(first.0[1], second.0[1]), join(first.0[2], second.0[2]), join(first.0[3], second.0[3])]
}
