//! The packets of which fragments are under way: a table of fixed size, of one worker, which needs no locks.
//!
//! A place is found by a keyed hash: it chooses a row of [`WAYS`] places, any of which will do. Where all are taken, the oldest of
//! the row goes. Nobody outside knows the key, so whoever wants another's packet forgotten has to flood all rows.

use super::ranges::Ranges;
use crate::flow::{FlowRef, Side, TICK_MS, Tick};
use crate::forward::Now;
use crate::wire::ip::{Endpoint, FlowKey, V4};
use crate::wire::{Packet, ip::Fragment};

/// Packets that may be in pieces at once.
pub const DATAGRAMS: usize = 1024;

const WAYS: usize = 8;

/// How long a first fragment is waited for: pieces overtake each other by another way or queue, which takes milliseconds. A
/// copy that waits longer takes another's room.
const AWAIT_TICKS: Tick = 3000 / TICK_MS as Tick;

/// How long the rest may take after the first: as long as Linux puts together (`ipfrag_time`), so that what it could still use is
/// not dropped here. RFC 8200 4.5 has 60 s, RFC 791 15 s.
const FOLLOW_TICKS: Tick = 30_000 / TICK_MS as Tick;

/// IPv4 numbers its packets with 16 bits and is round in no time (RFC 4963): another first fragment after so long is a new
/// packet's. One that the network had doubled would come in milliseconds.
const REUSE_TICKS: Tick = 2000 / TICK_MS as Tick;

/// What becomes of a packet's fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The first one has yet to come, or its next hop's MAC.
    Awaited,
    /// They go the way of this flow's packets from that side.
    Flow(FlowRef, Side),
    /// Nothing is on record: the first one chose this target of the service, for a client's datagram with these ports.
    Unrecorded { target: Endpoint, ports: [u16; 2] },
    /// They go back as an echo.
    Echo,
    /// The first one was refused.
    Refused,
    /// Two of them overlapped.
    Overlapped,
}

/// What all fragments of a packet have in common (RFC 791 3.2; in IPv6 the protocol does not count, RFC 8200 4.5), and its hash.
#[derive(Clone, Copy)]
pub struct Name {
    key: FlowKey,
    hash: u64,
}

impl Name {
    /// `hash`: any keyed hash.
    pub fn new(packet: &Packet, fragment: &Fragment, hash: impl FnOnce(&FlowKey) -> u64) -> Name {
        let key = FlowKey {
            src: Endpoint { addr: packet.src, port: fragment.id as u16 },
            dst: Endpoint { addr: packet.dst, port: (fragment.id >> 16) as u16 },
            protocol: if packet.family == V4 { fragment.protocol } else { 0 },
            family: packet.family,
        };
        Name { key, hash: hash(&key) }
    }
}

#[derive(Clone, Copy)]
struct Datagram {
    key: FlowKey,
    way: Way,
    /// What it is called from here on, if not by the sender's identification.
    id: Option<u32>,
    /// When its way was decided; of an awaited one, when the first piece came.
    since: Tick,
}

pub struct Datagrams {
    places: Box<[Option<Datagram>]>,
    ranges: Box<[Ranges]>,
    used: usize,
}

impl Datagrams {
    pub fn new() -> Datagrams {
        Datagrams {
            places: vec![None; DATAGRAMS].into_boxed_slice(),
            ranges: (0..DATAGRAMS).map(|_| Ranges::new()).collect(),
            used: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn row(name: &Name) -> std::ops::Range<usize> {
        let row = name.hash as usize % (DATAGRAMS / WAYS) * WAYS;
        row..row + WAYS
    }

    /// The place of a packet.
    pub fn find(&self, name: &Name) -> Option<usize> {
        Self::row(name).find(|at| self.places[*at].is_some_and(|datagram| datagram.key == name.key))
    }

    /// Gives an unknown packet a place, awaited. True: another had to go from there.
    pub fn add(&mut self, name: &Name, now: Now) -> (usize, bool) {
        let age = |at: usize| self.places[at].map_or(Tick::MAX, |datagram| now.tick.wrapping_sub(datagram.since));
        let at = Self::row(name).max_by_key(|at| age(*at)).unwrap_or_default();
        let taken = self.places[at].is_some();
        self.remove(at);
        self.places[at] = Some(Datagram { key: name.key, way: Way::Awaited, id: None, since: now.tick });
        self.used += 1;
        (at, taken)
    }

    pub fn remove(&mut self, at: usize) {
        if self.places[at].take().is_some() {
            self.ranges[at].clear();
            self.used -= 1;
        }
    }

    pub fn way(&self, at: usize) -> Way {
        self.places[at].map_or(Way::Refused, |datagram| datagram.way)
    }

    pub fn id(&self, at: usize) -> Option<u32> {
        self.places[at].and_then(|datagram| datagram.id)
    }

    pub fn decide(&mut self, at: usize, way: Way, id: Option<u32>, now: Now) {
        if let Some(datagram) = &mut self.places[at] {
            (datagram.way, datagram.id, datagram.since) = (way, id, now.tick);
        }
    }

    pub fn ranges(&mut self, at: usize) -> &mut Ranges {
        &mut self.ranges[at]
    }

    /// Is a first fragment, now, another packet's that has got the same identification?
    pub fn is_reused(&self, at: usize, now: Now) -> bool {
        self.places[at].is_some_and(|datagram| {
            datagram.key.family == V4
                && matches!(datagram.way, Way::Flow(..) | Way::Unrecorded { .. } | Way::Echo)
                && now.tick.wrapping_sub(datagram.since) > REUSE_TICKS
        })
    }

    /// Forgets what is too old; `each` hears the places.
    pub fn expire(&mut self, now: Now, mut each: impl FnMut(usize)) {
        for at in 0..DATAGRAMS {
            let Some(datagram) = &self.places[at] else { continue };
            let most = if datagram.way == Way::Awaited { AWAIT_TICKS } else { FOLLOW_TICKS };
            if now.tick.wrapping_sub(datagram.since) > most {
                self.remove(at);
                each(at);
            }
        }
    }
}
