//! What is counted of queries: each worker for itself in words that only it writes, as in [`crate::counters`].

use crate::counters::names;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

names! {
    /// Things that happened.
    Count "dns_" {
        QueriesUdp = "queries_udp",
        /// Taken past the host's stack (`[dns] fast_path`); those that are UDP queries are among these too.
        QueriesFast = "queries_fast",
        /// Likewise taken, but a checksum was wrong: the host would have dropped it as well.
        FastBadFrame = "fast_bad_frame",
        /// The ring was full, and the query lost.
        FastRingFull = "fast_ring_full",
        /// The kernel did not send the answer: the interface is down, its queue full.
        FastSendRefused = "fast_send_refused",
        QueriesTcp = "queries_tcp",
        QueriesCookie = "queries_cookie",
        /// Queries for a zone, whole or in part.
        TransfersAsked = "transfers_asked",
        /// Queries signed by TSIG.
        Signed = "signed",
        Noerror = "noerror",
        Formerr = "formerr",
        Nxdomain = "nxdomain",
        Notimp = "notimp",
        Refused = "refused",
        Notauth = "notauth",
        Badvers = "badvers",
        Badcookie = "badcookie",
        /// NOERROR with no record of the type.
        Nodata = "nodata",
        /// Names that another server is authoritative for.
        Referrals = "referrals",
        /// Answers with TC: the client comes again by TCP.
        Truncated = "truncated",
        /// Answers made short by the rate limit, so that who really asks comes again by TCP.
        Slipped = "slipped",
        /// Answers with addresses from a pool.
        PoolAnswers = "pool_answers",
        /// Choices of a site that a record made (mode "dynamic").
        StoreHits = "store_hits",
        /// Such choices that found no record that held.
        StoreMisses = "store_misses",
        /// Signatures made for answers of signed zones; those that were there already are not among them.
        Signatures = "signatures",
        /// Signed denials that had to wait for TCP: too many were asked for in one second.
        DenialsDeferred = "denials_deferred",
    }
}

names! {
    /// Why a query is not answered.
    Silence "dns_drop_" {
        /// Not even a header.
        Short = "short",
        /// It is an answer, not a query: answering answers would start a loop between servers.
        Response = "response",
        /// The client's network gets more of the same than the rate limit lets through.
        RateLimited = "rate_limited",
        /// The caller's buffer is shorter than the query's answer could ever be.
        NoRoom = "no_room",
    }
}

const COUNTS: usize = Count::ALL.len();
const SLOTS: usize = COUNTS + Silence::ALL.len();

/// One thread's counts.
pub struct Counts {
    slots: [AtomicU64; SLOTS],
}

impl Default for Counts {
    fn default() -> Counts {
        Counts { slots: [const { AtomicU64::new(0) }; SLOTS] }
    }
}

impl Counts {
    /// Only the thread that owns these counts may call this: it is no read-modify-write.
    #[inline]
    pub fn add(&self, count: Count) {
        self.bump(count as usize, 1);
    }

    /// As [`Counts::add`], so many at once.
    pub fn add_all(&self, count: Count, many: u64) {
        self.bump(count as usize, many);
    }

    /// As [`Counts::add`].
    #[inline]
    pub fn silence(&self, reason: Silence) {
        self.bump(COUNTS + reason as usize, 1);
    }

    #[inline]
    fn bump(&self, slot: usize, many: u64) {
        let slot = &self.slots[slot];
        slot.store(slot.load(Relaxed) + many, Relaxed);
    }

    pub fn get(&self, count: Count) -> u64 {
        self.slots[count as usize].load(Relaxed)
    }

    pub fn dropped(&self, reason: Silence) -> u64 {
        self.slots[COUNTS + reason as usize].load(Relaxed)
    }

    /// Every count with its name, drops included.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = Count::ALL.iter().map(|count| (count.name(), self.get(*count)));
        counts.chain(Silence::ALL.iter().map(|reason| (reason.name(), self.dropped(*reason))))
    }
}
