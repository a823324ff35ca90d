//! The half of the room that has sockets. Threads take queries and answer them: one per worker for UDP ([`udp`]), one for all of TCP
//! ([`tcp`]). What they go by is published by control behind one pointer ([`Shared`]). For control there are the zones' serials
//! ([`serial`]) and what secondaries are told ([`notify`]). Questions
//! that are taken past the host's stack (`rings`) come in frames (`frame`).

mod frame;
pub mod listen;
pub mod notify;
mod respond;
mod rings;
pub mod serial;
pub mod sign;
mod tally;
pub mod tcp;
pub mod udp;

use super::counts::Counts;
use super::name::Name;
use super::snapshot::Snapshot;
use super::zone::Zone;
use arc_swap::ArcSwap;
use sign::Keys;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;
pub use tally::{SLOTS, Tally};

/// Older versions of a zone that are kept for IXFR; they share what has not changed.
pub const VERSIONS: usize = 32;

/// All that is served at one moment.
pub struct Served {
    pub snapshot: Snapshot,
    /// Of each of the snapshot's zones: its versions, the newest first, and who may have it.
    pub transfers: Vec<Transfers>,
    pub keys: Keys,
}

/// A zone as secondaries get it.
#[derive(Clone, Default)]
pub struct Transfers {
    pub versions: Vec<Arc<Zone>>,
    pub access: Access,
}

/// Who may transfer a zone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    pub secondaries: Vec<IpAddr>,
    /// If there is one, a request must be signed with it, and then may come from anywhere.
    pub key: Option<Name>,
}

impl Access {
    /// May a request from `client`, signed with `key`, have the zone?
    pub fn permits(&self, client: IpAddr, key: Option<&Name>) -> bool {
        match &self.key {
            Some(wanted) => key == Some(wanted),
            None => self.secondaries.contains(&client.to_canonical()),
        }
    }
}

/// What control and the threads that answer share.
pub struct Shared {
    pub served: ArcSwap<Served>,
    /// One for each thread, that of TCP last.
    pub counts: Vec<Arc<Counts>>,
    /// Likewise.
    pub tallies: Vec<Arc<Tally>>,
    pub tcp: TcpCounts,
    /// The threads' clock began.
    pub start: Instant,
    pub stop: AtomicBool,
}

/// Of TCP connections.
#[derive(Default)]
pub struct TcpCounts {
    pub open: AtomicU64,
    pub accepted: AtomicU64,
    /// Closed at once: their client has as many as it may.
    pub refused: AtomicU64,
    /// Closed before their time to make room for others.
    pub evicted: AtomicU64,
}

impl Shared {
    /// `threads`: those of UDP.
    pub fn new(served: Served, threads: usize) -> Shared {
        Shared {
            served: ArcSwap::from_pointee(served),
            counts: (0..=threads).map(|_| Arc::default()).collect(),
            tallies: (0..=threads).map(|_| Arc::default()).collect(),
            tcp: TcpCounts::default(),
            start: Instant::now(),
            stop: AtomicBool::new(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_more_than_an_address() {
        let (secondary, other) = (IpAddr::from([192, 0, 2, 53]), IpAddr::from([192, 0, 2, 54]));
        let key = Name::parse("transfer.").unwrap();
        let by_address = Access { secondaries: vec![secondary], key: None };
        assert!(by_address.permits(secondary, None) && by_address.permits(secondary, Some(&key)));
        assert!(!by_address.permits(other, None) && !by_address.permits(other, Some(&key)));
        assert!(by_address.permits("::ffff:192.0.2.53".parse().unwrap(), None));
        let by_key = Access { secondaries: vec![secondary], key: Some(key.clone()) };
        assert!(by_key.permits(other, Some(&Name::parse("TRANSFER").unwrap())));
        assert!(!by_key.permits(secondary, None));
        assert!(!by_key.permits(secondary, Some(&Name::parse("another.").unwrap())));
        assert!(!Access::default().permits(secondary, None));
    }
}
