//! What is known of each site's load just now: written by who hears of it, read by any thread, without locks.

use super::{MAX_SITES, SiteNumber};
use crossbeam_utils::CachePadded;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

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
    /// There and back; 0 of this site. None, as of what follows: not measured.
    pub round_trip_us: Option<u32>,
    /// Of what is sent there.
    pub loss_permille: Option<u16>,
    /// Routers between.
    pub hops: Option<u8>,
}

impl Load {
    /// How far away this site is from itself.
    pub const HERE: Load = Load {
        full: false,
        connections: 0,
        packets_per_s: 0,
        cpu_permille: 0,
        round_trip_us: Some(0),
        loss_permille: Some(0),
        hops: Some(0),
    };
}

/// Stands for what is not measured; none is that long.
const UNKNOWN: u32 = u32::MAX;

fn word(measured: Option<impl Into<u32>>) -> u32 {
    measured.map_or(UNKNOWN, Into::into)
}

fn measured(word: u32) -> Option<u32> {
    (word != UNKNOWN).then_some(word)
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
}

impl Default for SiteTable {
    fn default() -> SiteTable {
        SiteTable { rows: (0..MAX_SITES).map(|_| CachePadded::default()).collect() }
    }
}

impl SiteTable {
    /// What the site says now.
    pub fn set(&self, site: SiteNumber, load: &Load) {
        let Some(row) = self.rows.get(usize::from(site.0)) else { return };
        row.connections.store(load.connections, Relaxed);
        row.packets_per_s.store(load.packets_per_s, Relaxed);
        row.cpu_permille.store(load.cpu_permille.into(), Relaxed);
        row.round_trip_us.store(word(load.round_trip_us), Relaxed);
        row.loss_permille.store(word(load.loss_permille), Relaxed);
        row.hops.store(word(load.hops), Relaxed);
        row.status.store(KNOWN | if load.full { FULL } else { 0 }, Release);
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
            round_trip_us: measured(row.round_trip_us.load(Relaxed)),
            loss_permille: measured(row.loss_permille.load(Relaxed)).map(|loss| loss as u16),
            hops: measured(row.hops.load(Relaxed)).map(|hops| hops as u8),
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
        table.set(site, &Load { round_trip_us: Some(12), loss_permille: Some(1), hops: Some(4), ..Load::default() });
        assert_eq!(
            table.get(site).map(|load| (load.full, load.round_trip_us, load.hops)),
            Some((false, Some(12), Some(4)))
        );
        table.set(site, &load);
        assert_eq!(table.get(site), Some(load), "what is not measured any more is not known");
        table.set(site, &Load { connections: 7, ..Load::HERE });
        assert_eq!(table.get(site), Some(Load { connections: 7, ..Load::HERE }));
        table.forget(site);
        assert_eq!(table.get(site), None);
        // A number that nobody has.
        table.set(SiteNumber(200), &load);
        assert_eq!(table.get(SiteNumber(200)), None);
    }
}
