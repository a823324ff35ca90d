//! The authoritative name server. All but [`serve`] is pure: bytes and snapshots in, bytes out, without a socket, clock or file.
//!
//! # A query's journey
//!
//! 1. [`query`] reads the message in one pass: header, question, EDNS; what cannot be read has an answer code, or, where an
//!    answer would do harm, a [`Silence`].
//! 2. The [`Snapshot`] finds the zone, the longest whose origin the name ends with (`name::Suffixes`: one pass over the name gives
//!    the hash of each of its ends).
//! 3. [`zone::Contents`] finds the node, or else the closest one above it: there the name is delegated away, redirected, made up by a
//!    wildcard, or does not exist.
//! 4. `reply` writes: record sets lie in wire form, so that writing copies bytes. Addresses of a pool name come from the
//!    `pool::Image` of what is up just now, from another first one each time; of pools with modes [`steer`] chooses the site first.
//! 5. `rate` decides whether it goes out, shortened, or not at all.
//! 6. [`dnssec`] puts signatures into what goes out, if the zone is signed and the client wants them.
//!
//! Control makes zones off the hot path: [`master::load`] reads and checks a zone's file, [`Zone::with`] adds the state of the pools and a
//! serial, [`Snapshot::new`] takes all zones. A snapshot never changes.

pub mod ahead;
pub mod answer;
mod cookie;
pub mod counts;
pub mod dnssec;
pub mod explain;
pub mod master;
pub mod name;
pub mod pool;
mod query;
mod rate;
mod reply;
mod resolve;
pub mod scratch;
pub mod serve;
pub mod snapshot;
pub mod steer;
pub mod transfer;
pub mod wire;
pub mod zone;

pub use ahead::{Ahead, Foreseen};
pub use answer::answer;
pub use counts::{Count, Counts, Silence};
pub use name::Name;
pub use pool::{Member, Pool, PoolState, WhenDown};
pub use scratch::Scratch;
pub use snapshot::{Cookies, RateLimit, Settings, Snapshot};
pub use zone::{Contents, Record, Zone};

use std::net::IpAddr;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    /// The message without its two bytes of length.
    Tcp,
}

/// A query as it came.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub message: &'a [u8],
    pub from: IpAddr,
    /// The address that was asked.
    pub to: IpAddr,
    pub transport: Transport,
    /// Monotonic; what is counted per second is counted by this one.
    pub now_ms: u64,
    /// Milliseconds since 1970: cookies carry it in seconds, and what is remembered of resolvers has it.
    pub unix_ms: u64,
    /// What [`Ahead`] has found out of this query by the same snapshot. Nothing but time depends on it.
    pub foreseen: Option<&'a Foreseen>,
}

impl Asked<'_> {
    /// Seconds since 1970, as cookies carry them (RFC 9018 4.3).
    fn unix_s(&self) -> u32 {
        (self.unix_ms / 1000) as u32
    }
}

/// What shall become of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `out` holds the answer.
    Answer(Reply),
    /// Nothing goes back.
    Nothing(Silence),
    /// By TCP only: somebody wants a zone. Who may have it is the caller's to decide; [`transfer::Transfer`] makes the messages, and
    /// [`transfer::refuse`] says no.
    Transfer(TransferAsked),
    /// The message is signed (TSIG, RFC 8945): the record starts at this byte and is the last one. The caller checks it, takes
    /// it away (one less in ARCOUNT), asks again, and signs the answer.
    Signed(usize),
}

/// An answer, and what there is to count of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Bytes of `out`.
    pub length: usize,
    /// With the upper bits from EDNS: 16 is BADVERS, 23 BADCOOKIE.
    pub rcode: u16,
    /// [`Zone::slot`] of the zone that it came from.
    pub zone: Option<u16>,
    /// [`Pool::slot`] of the pool that the addresses came from.
    pub pool: Option<u16>,
}

/// A zone is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferAsked {
    /// Index in [`Snapshot::zones`].
    pub zone: usize,
    /// IXFR: only what has changed since this serial. None: AXFR.
    pub since: Option<u32>,
}

#[cfg(test)]
mod tests;
