//! The site with the least load.

use super::sites::Family;
use crate::sites::{Load, SiteTable};

/// Loads that differ by less count as one: they change from second to second, and all that ask in one second shall not go to one
/// site for a hair's breadth.
const NEAR_PERMILLE: u64 = 100;

/// The sites that have the least load of a family's, by their bits, and what that is. None: not of all of them the load is known, and
/// what is not known cannot be compared.
///
/// A load is the sum of four numbers: CPU in permille; open connections and packets per second, each per member that is up and in
/// permille of the site that has most; and lost packets in permille, where they are measured for all. A site that says it is full counts
/// only where all do. Of sites with equal loads those count that are within a tenth of the shortest round-trip time, and one hop of the
/// fewest. How far away a site is that nobody has measured is not known: it counts as farther than all that were.
pub(super) fn least(table: &SiteTable, family: &Family) -> Option<(u64, u32)> {
    let known = || family.sites().filter_map(|(site, members)| Some((site.bit(), members, table.get(site)?)));
    if known().count() < family.sites().count() {
        return None;
    }
    let open = known().any(|(.., load)| !load.full);
    let candidates = || known().filter(move |(.., load)| !(open && load.full));
    let per_member = |count: u32, members: u64| u64::from(count) * 1000 / members.max(1);
    let connections = |load: &Load, members| per_member(load.connections, members);
    let packets = |load: &Load, members| per_member(load.packets_per_s, members);
    let most_connections = candidates().map(|(_, members, load)| connections(&load, members)).max()?.max(1);
    let most_packets = candidates().map(|(_, members, load)| packets(&load, members)).max()?.max(1);
    let lossy = candidates().all(|(.., load)| load.loss_permille.is_some());
    let sum = |load: &Load, members| {
        let shares =
            connections(load, members) * 1000 / most_connections + packets(load, members) * 1000 / most_packets;
        let lost = load.loss_permille.filter(|_| lossy).unwrap_or(0);
        u64::from(load.cpu_permille) + shares + u64::from(lost)
    };
    let least = candidates().map(|(_, members, load)| sum(&load, members)).min()?;
    let light = || candidates().filter(move |(_, members, load)| sum(load, *members) <= least + NEAR_PERMILLE);
    let far_us = |load: &Load| load.round_trip_us.unwrap_or(u32::MAX);
    let hops = |load: &Load| load.hops.unwrap_or(u8::MAX);
    let nearest_us = light().map(|(.., load)| far_us(&load)).min()?;
    let near = || light().filter(move |(.., load)| far_us(load) <= nearest_us.saturating_add(nearest_us / 10));
    let fewest = near().map(|(.., load)| hops(&load)).min()?;
    let bits = near().filter(|(.., load)| hops(load) <= fewest.saturating_add(1)).fold(0, |bits, (bit, ..)| bits | bit);
    Some((bits, u32::try_from(least).unwrap_or(u32::MAX)))
}
