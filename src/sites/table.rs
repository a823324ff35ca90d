//! What is known of each site's load just now: written by who hears of it, read by any thread, without locks.

use super::{MAX_SITES, SiteNumber};
use crossbeam_utils::CachePadded;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32};

/// Something is known: the site says it, or it is this one.
const KNOWN: u32 = 1;
/// It has no room for connections that are new.
const FULL: u32 = 2;

/// How a site is, as it measures itself, and how far away it is, as this one measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub full: bool,
    /// Open ones.
    pub connections: u32,
    /// That come in.
    pub packets_per_s: u32,
    /// Of all its CPUs.
    pub cpu_permille: u16,
    /// There and back. 0: it is this site, or not measured.
    pub round_trip_us: u32,
    /// Of what is sent there.
    pub loss_permille: u16,
    /// Routers between. 0: none, or not measured.
    pub hops: u8,
}

#[derive(Default)]
struct Row {
    status: AtomicU32,
    connections: AtomicU32,
    packets_per_s: AtomicU32,
    cpu_permille: AtomicU32,
    round_trip_us: AtomicU32,
    loss_permille: AtomicU32,
    hops: AtomicU32,
}

/// By [`SiteNumber`]. Each word is whole by itself; words of two reports may be read together, which does no harm to a comparison.
pub struct SiteTable {
    rows: Box<[CachePadded<Row>]>,
    /// This site's number; all ones before it is known.
    own: AtomicU8,
}

impl Default for SiteTable {
    fn default() -> SiteTable {
        SiteTable { rows: (0..MAX_SITES).map(|_| CachePadded::default()).collect(), own: AtomicU8::new(u8::MAX) }
    }
}

impl SiteTable {
    /// What the site says now.
    pub fn set(&self, site: SiteNumber, load: &Load) {
        let Some(row) = self.rows.get(usize::from(site.0)) else { return };
        row.connections.store(load.connections, Relaxed);
        row.packets_per_s.store(load.packets_per_s, Relaxed);
        row.cpu_permille.store(load.cpu_permille.into(), Relaxed);
        row.round_trip_us.store(load.round_trip_us, Relaxed);
        row.loss_permille.store(load.loss_permille.into(), Relaxed);
        row.hops.store(load.hops.into(), Relaxed);
        row.status.store(KNOWN | if load.full { FULL } else { 0 }, Release);
    }

    /// Which one is this site.
    pub fn set_own(&self, site: SiteNumber) {
        self.own.store(site.0, Relaxed);
    }

    pub fn own(&self) -> Option<SiteNumber> {
        let own = self.own.load(Relaxed);
        (usize::from(own) < MAX_SITES).then_some(SiteNumber(own))
    }

    /// Nothing is known of it any more.
    pub fn forget(&self, site: SiteNumber) {
        if let Some(row) = self.rows.get(usize::from(site.0)) {
            row.status.store(0, Release);
        }
    }

    /// None: nothing is known of it.
    pub fn get(&self, site: SiteNumber) -> Option<Load> {
        let row = self.rows.get(usize::from(site.0))?;
        let status = row.status.load(Acquire);
        (status & KNOWN != 0).then(|| Load {
            full: status & FULL != 0,
            connections: row.connections.load(Relaxed),
            packets_per_s: row.packets_per_s.load(Relaxed),
            cpu_permille: row.cpu_permille.load(Relaxed) as u16,
            round_trip_us: row.round_trip_us.load(Relaxed),
            loss_permille: row.loss_permille.load(Relaxed) as u16,
            hops: row.hops.load(Relaxed) as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_as_it_said_last_until_it_is_forgotten() {
        let table = SiteTable::default();
        let site = SiteNumber(3);
        assert_eq!(table.get(site), None);
        let load = Load { full: true, connections: 7, packets_per_s: 9, cpu_permille: 500, ..Load::default() };
        table.set(site, &load);
        assert_eq!((table.get(site), table.get(SiteNumber(4))), (Some(load), None));
        table.set(site, &Load { round_trip_us: 12, loss_permille: 1, hops: 4, ..Load::default() });
        assert_eq!(table.get(site).map(|load| (load.full, load.hops)), Some((false, 4)));
        table.forget(site);
        assert_eq!(table.get(site), None);
        // A number that nobody has.
        table.set(SiteNumber(200), &load);
        assert_eq!(table.get(SiteNumber(200)), None);
    }
}
