//! What goes into the table and what comes out of it: plain data.

use super::atomic::Ordering::Relaxed;
use super::record::{Ends, Record, Version};
use super::{Encapsulation, Mode, PoolId, Side, State, TICK_MS, Tick, is_fresh_start};
use crate::wire::ip::{Endpoint, FlowKey};

/// Of a record's time of birth.
pub(super) const TICKS_PER_S: u32 = (1000 / TICK_MS) as u32;

/// What the first packet of a flow decides.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// 4 or 6, of all endpoints; in tunnel mode of all but the target.
    pub family: u8,
    /// Of the target; `family` but in tunnel mode.
    pub target_family: u8,
    /// TCP or UDP.
    pub protocol: u8,
    pub mode: Mode,
    /// Tunnel mode: how packets travel to the target. Means nothing else.
    pub encapsulation: Encapsulation,
    pub client: Endpoint,
    pub vip: Endpoint,
    /// What the target sees as the source: the client in NAT mode, a PIP and a lent port for a remote site. In one-sided
    /// modes it means nothing; make it the client.
    pub local: Endpoint,
    pub target: Endpoint,
    /// In the [`StatusTable`](crate::service::status::StatusTable).
    pub target_slot: u16,
    /// The pool that lent `local.port`, to which the one who removes the flow returns it.
    pub pool: Option<PoolId>,
    pub worker: u8,
    /// [`note_ack`](super::FlowTable::note_ack) is to be remembered.
    pub track_acks: bool,
    /// Found by the target's packets alone: see "One packet, one choice" in [`super`].
    pub per_packet: bool,
    pub state: State,
    /// Next hop towards the client, the server; 0: none yet.
    pub hops: [u16; 2],
    /// Route epoch that the hops are from.
    pub epoch: u8,
    /// Stands in the place of the server's acknowledgement number ([`FlowDetails::acks`]) until there is one.
    pub stamp: u32,
}

impl NewFlow {
    /// The key of the client's packets.
    pub fn client_key(&self) -> FlowKey {
        self.key(Side::Client)
    }

    /// The key of the target's packets; `None` if they don't pass through here.
    pub fn server_key(&self) -> Option<FlowKey> {
        (!self.mode.one_sided()).then(|| self.key(Side::Server))
    }

    #[inline]
    pub(super) fn key(&self, side: Side) -> FlowKey {
        let (src, dst) = match side {
            Side::Client => (self.client, self.vip),
            Side::Server => (self.target, self.local),
        };
        FlowKey { src, dst, protocol: self.protocol, family: self.family }
    }

    /// The flow as its first packet sees it, once it has been put on record.
    #[inline]
    pub fn on_record(&self, at: FlowRef) -> Flow {
        Flow { at, ..self.unrecorded() }
    }

    /// The flow as its first packet sees it, without a record: what is done to it on record is done to nothing.
    #[inline]
    pub fn unrecorded(&self) -> Flow {
        Flow {
            at: FlowRef::NONE,
            side: Side::Client,
            family: self.family,
            target_family: self.target_family,
            protocol: self.protocol,
            mode: self.mode,
            encapsulation: self.encapsulation,
            track_acks: self.track_acks,
            state: self.state,
            epoch: self.epoch,
            hops: self.hops,
            client: self.client,
            vip: self.vip,
            local: self.local,
            target: self.target,
        }
    }
}

/// Which record, in which life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowRef {
    pub(super) index: u32,
    /// As it is while LIVE.
    pub(super) version: u32,
}

impl FlowRef {
    /// No record's.
    const NONE: FlowRef = FlowRef { index: u32::MAX, version: 0 };
}

/// What the table knew of a flow at the moment of a look: plain data, whole, and possibly out of date by now. Changes go
/// through the table, which tells if the flow is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub at: FlowRef,
    /// Where the packet that found it comes from.
    pub side: Side,
    pub family: u8,
    /// Of the target; `family` but in tunnel mode.
    pub target_family: u8,
    pub protocol: u8,
    pub mode: Mode,
    /// Means something in tunnel mode only.
    pub encapsulation: Encapsulation,
    pub track_acks: bool,
    pub state: State,
    /// Route epoch that the hops were looked up in.
    pub epoch: u8,
    /// Next hop towards the client, the server ([`Side`] as index); 0: none.
    pub hops: [u16; 2],
    pub client: Endpoint,
    pub vip: Endpoint,
    /// What the target sees as the source.
    pub local: Endpoint,
    pub target: Endpoint,
}

impl Flow {
    /// Or is it one that [`NewFlow::unrecorded`] made?
    pub fn is_recorded(&self) -> bool {
        self.at != FlowRef::NONE
    }

    /// The key of packets that come from `side`.
    pub fn key(&self, side: Side) -> FlowKey {
        let (src, dst) = match side {
            Side::Client => (self.client, self.vip),
            Side::Server => (self.target, self.local),
        };
        FlowKey { src, dst, protocol: self.protocol, family: self.family }
    }

    /// Is a packet of the client's with these TCP flags the first of a new connection?
    #[inline]
    pub fn is_fresh_start(&self, flags: u8) -> bool {
        self.side == Side::Client && is_fresh_start(self.state, flags, self.mode.one_sided())
    }
}

/// A flow with all that is on record about it.
#[derive(Clone, Copy, Debug)]
pub struct FlowDetails {
    /// Its `side` means nothing here.
    pub flow: Flow,
    pub target_slot: u16,
    pub pool: Option<PoolId>,
    /// The worker that inserted it.
    pub worker: u8,
    /// From the client, from the server ([`Side`] as index). They wrap.
    pub packets: [u32; 2],
    pub bytes: [u64; 2],
    /// Last acknowledgement numbers, if they are tracked. In [`State::SynReceived`] the server's is always there.
    pub acks: [u32; 2],
    pub last_seen: Tick,
    born_s: u32,
}

impl FlowDetails {
    /// Ticks without a packet.
    pub fn idle(&self, now: Tick) -> Tick {
        idle(self.last_seen, now)
    }

    /// Seconds since the insert, modulo 194 days.
    pub fn age_s(&self, now: Tick) -> u32 {
        (now / TICKS_PER_S).wrapping_sub(self.born_s) & 0xff_ffff
    }
}

/// Ticks from `last_seen` to `now`; none if another worker's clock was ahead.
pub(super) fn idle(last_seen: Tick, now: Tick) -> Tick {
    (now.wrapping_sub(last_seen) as i32).max(0) as Tick
}

/// Why a flow was not inserted. Nothing of it is left in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `max_flows` are on record.
    Full,
    /// The buckets of one of its keys are full.
    NoRoom,
    /// The client's key is on record: another worker was faster. Look it up again; should it be gone by then, drop the
    /// packet.
    Twin,
    /// The server's key is on record, for another client or VIP: another local port or target is needed. With
    /// [`NewFlow::per_packet`] it may be the same VIP, and another worker was faster.
    ServerTwin,
}

/// The record as plain data; whole only if [`Record::still`] says so afterwards, or if the caller owns it.
#[inline(always)]
pub(super) fn view(record: &Record, index: u32, version: Version, side: Side) -> Flow {
    let word = record.word();
    let Ends { first: client, second: vip } = record.ends(Side::Client, version.is_wide());
    let Ends { first: target, second: local } = record.ends(Side::Server, version.is_wide());
    Flow {
        at: FlowRef { index, version: version.0 },
        side,
        family: version.family(),
        target_family: version.target_family(),
        protocol: version.protocol(),
        mode: version.mode(),
        encapsulation: version.encapsulation(),
        track_acks: version.track_acks(),
        state: word.state(),
        epoch: word.epoch(),
        hops: word.hops(),
        client,
        vip,
        local,
        target,
    }
}

pub(super) fn details(record: &Record, index: u32, version: Version) -> FlowDetails {
    let life = record.life();
    FlowDetails {
        flow: view(record, index, version, Side::Client),
        target_slot: life.target_slot,
        pool: life.pool,
        worker: life.worker,
        packets: [0, 1].map(|side| record.packets[side].load(Relaxed)),
        bytes: [0, 1].map(|side| record.bytes[side].load(Relaxed)),
        acks: [0, 1].map(|side| record.acks[side].load(Relaxed)),
        last_seen: record.last_seen.load(Relaxed),
        born_s: life.born_s,
    }
}
