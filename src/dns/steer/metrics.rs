//! The site with the least load, and of these the nearest.

use super::Near;
use super::sites::Family;
use crate::sites::ways::Seen;
use crate::sites::{Load, MAX_SITES, SiteTable};

/// Loads that differ by less count as one: they change from second to second, and all that ask in one second shall not go to one
/// site for a hair's breadth.
const NEAR_PERMILLE: u64 = 100;

/// Of connections, and of packets per second, a member has few with less: what one site has more of them is no load then, but chance.
const FEW_CONNECTIONS: u64 = 10;
const FEW_PACKETS: u64 = 100;

/// Ways to a resolver that differ by less count as equally long, in microseconds: what an echo takes on a short way says more of the hosts
/// than of the way.
const NEAR_US: u32 = 1000;

/// What [`least`] has found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Least {
    /// By their bits.
    pub sites: u64,
    /// Theirs, or hardly less.
    pub load: u32,
    pub by: Near,
}

/// How far away a site is from something.
#[derive(Clone, Copy, Default)]
struct Distance {
    round_trip_us: u32,
    hops: Option<u8>,
}

/// What is known of a site; loads change while they are read, so all is read once.
#[derive(Clone, Copy, Default)]
struct Site {
    bit: u64,
    /// That are up.
    members: u64,
    load: Load,
    /// To the resolver, and how much is lost on the way.
    way: Option<(Distance, u16)>,
    /// From here.
    from_here: Option<Distance>,
}

impl Site {
    fn connections(&self) -> u64 {
        u64::from(self.load.connections) * 1000 / self.members.max(1)
    }

    fn packets(&self) -> u64 {
        u64::from(self.load.packets_per_s) * 1000 / self.members.max(1)
    }
}

/// The sites of a family that are the best choice. None: not of all of them the load is known, and what is not known cannot be compared.
///
/// A load is the sum of four numbers: CPU in permille; open connections and packets per second, each per member that is up and in
/// permille of the site that has most (or of [`FEW_CONNECTIONS`] and [`FEW_PACKETS`], where nobody has as many); and lost packets in
/// permille, on the way from here and on the way to the resolver, either where it is known of all. A site that says it is full counts only
/// where all do.
///
/// Of sites with equal loads the nearest count: those that are within a tenth (or a millisecond) of the shortest round-trip time to the
/// resolver, if that is known from all of them; or else within a tenth of the shortest from here, if that is known of all of them. Of
/// these, those within one hop of the fewest.
pub(super) fn least(table: &SiteTable, family: &Family, ways: Option<&Seen>) -> Option<Least> {
    let mut sites = [Site::default(); MAX_SITES];
    let mut count = 0;
    for ((number, members), site) in family.sites().zip(&mut sites) {
        let load = table.get(number)?;
        let way = ways
            .and_then(|ways| ways.from(number))
            .and_then(|way| Some((Distance { round_trip_us: way.round_trip_us?, hops: way.hops }, way.loss_permille)));
        let from_here = load.round_trip_us.map(|round_trip_us| Distance { round_trip_us, hops: load.hops });
        *site = Site { bit: number.bit(), members, load, way, from_here };
        count += 1;
    }
    let sites = &sites[..count];
    let open = sites.iter().any(|site| !site.load.full);
    let candidates = || sites.iter().filter(move |site| !(open && site.load.full));
    let most_connections = candidates().map(Site::connections).max()?.max(FEW_CONNECTIONS * 1000);
    let most_packets = candidates().map(Site::packets).max()?.max(FEW_PACKETS * 1000);
    let measured = candidates().all(|site| site.way.is_some());
    let measured_from_here = candidates().all(|site| site.load.loss_permille.is_some());
    let sum = |site: &Site| {
        let shares = site.connections() * 1000 / most_connections + site.packets() * 1000 / most_packets;
        let lost_to_resolver = site.way.filter(|_| measured).map_or(0, |(_, loss_permille)| loss_permille);
        let lost = site.load.loss_permille.filter(|_| measured_from_here).unwrap_or(0);
        u64::from(site.load.cpu_permille) + shares + u64::from(lost) + u64::from(lost_to_resolver)
    };
    let load = candidates().map(sum).min()?;
    let light = || candidates().filter(move |site| sum(site) <= load + NEAR_PERMILLE);
    let by_ways = || nearest(|| light().map(|site| (site.bit, site.way.map(|(distance, _)| distance))), NEAR_US);
    let from_here = || nearest(|| light().map(|site| (site.bit, site.from_here)), 0);
    let all = || light().fold(0, |bits, site| bits | site.bit);
    let nearest = by_ways().map(|sites| (sites, Near::Resolver));
    let nearest = nearest.or_else(|| Some((from_here()?, Near::Site)));
    let (sites, by) = nearest.unwrap_or_else(|| (all(), Near::Unknown));
    Some(Least { sites, load: u32::try_from(load).unwrap_or(u32::MAX), by })
}

/// The nearest ones, by their bits. None: not of all of them it is known how far away they are. `least_us`: less is no difference.
fn nearest<S: Iterator<Item = (u64, Option<Distance>)>>(sites: impl Fn() -> S, least_us: u32) -> Option<u64> {
    if sites().any(|(_, distance)| distance.is_none()) {
        return None;
    }
    let known = || sites().filter_map(|(bit, distance)| Some((bit, distance?)));
    let shortest_us = known().map(|(_, distance)| distance.round_trip_us).min()?;
    let most_us = shortest_us.saturating_add(least_us.max(shortest_us / 10));
    let near = || known().filter(move |(_, distance)| distance.round_trip_us <= most_us);
    // Likewise: where hops are not known of all they decide nothing.
    let are_known = near().all(|(_, distance)| distance.hops.is_some());
    let fewest = near().filter_map(|(_, distance)| distance.hops).min().unwrap_or(0);
    let is_few = |hops: Option<u8>| hops.is_none_or(|hops| hops <= fewest.saturating_add(1));
    Some(near().filter(|(_, distance)| !are_known || is_few(distance.hops)).fold(0, |bits, (bit, _)| bits | bit))
}
