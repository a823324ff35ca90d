//! All that answers are made of, at one moment.

use super::name::{Index, Suffixes};
use super::steer::Steering;
use super::zone::Zone;
use std::sync::Arc;

/// What holds for all zones.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The largest answer by UDP in bytes, also to clients that would take more: larger ones are cut in pieces on the way, and
    /// pieces get lost. 512 to 4096.
    pub udp_size: u16,
    /// Answered to who asks for NSID (RFC 5001) and to `id.server` and `hostname.bind` (RFC 4892); empty: to nobody.
    pub nsid: Vec<u8>,
    /// Answered to `version.bind` and `version.server`; empty: to nobody.
    pub version: String,
    pub cookies: Option<Cookies>,
    pub rate_limit: Option<RateLimit>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { udp_size: 1232, nsid: Vec::new(), version: String::new(), cookies: None, rate_limit: None }
    }
}

/// Secrets of DNS cookies (RFC 7873, RFC 9018). All servers that share an address must have the same.
#[derive(Clone, PartialEq)]
pub struct Cookies {
    pub secret: [u8; 16],
    /// Still taken from clients, no longer given.
    pub previous: Option<[u8; 16]>,
}

/// Not its secrets.
impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookies")
    }
}

/// How many answers of one kind a client's network gets by UDP. Each thread counts for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Answers per second and thread that are like each other: from one zone with the same code.
    pub per_second: u32,
    /// Of those above it every so-manyth goes out truncated, so that a real client comes by TCP; 0: none.
    pub slip: u32,
    /// Clients whose addresses have so many bits in common count as one.
    pub prefix_v4: u8,
    pub prefix_v6: u8,
    /// Networks remembered at the same time.
    pub table: usize,
}

impl Default for RateLimit {
    fn default() -> RateLimit {
        RateLimit { per_second: 200, slip: 2, prefix_v4: 24, prefix_v6: 56, table: 65536 }
    }
}

/// All zones and what holds for them.
pub struct Snapshot {
    zones: Vec<Arc<Zone>>,
    settings: Arc<Settings>,
    steering: Steering,
    /// From origins to zones.
    index: Index,
    /// Bit n: some origin has n labels.
    depths: u128,
}

impl Snapshot {
    /// No two zones may have the same origin; of two that have, the first one answers.
    pub fn new(zones: Vec<Arc<Zone>>, settings: Arc<Settings>) -> Snapshot {
        let (mut index, mut depths) = (Index::new(zones.len()), 0);
        let mut suffixes = Suffixes::new();
        for (at, zone) in zones.iter().enumerate() {
            suffixes.fill(zone.origin().wire());
            index.insert(suffixes.hash(0), at as u32);
            depths |= 1 << suffixes.labels();
        }
        Snapshot { zones, settings, steering: Steering::default(), index, depths }
    }

    /// With what pools that send resolvers to sites choose by; before that there are no groups, no topology and no memory.
    pub fn with(self, steering: Steering) -> Snapshot {
        Snapshot { steering, ..self }
    }

    #[inline]
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    pub fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The zone with the longest origin that the name without its first `skip` labels is or is below, and how many
    /// labels the name has in front of that.
    #[inline]
    pub(super) fn find(&self, name: &Suffixes, skip: usize) -> Option<(usize, usize)> {
        let labels = name.labels();
        (skip..=labels).filter(|skip| self.depths >> (labels - skip) & 1 == 1).find_map(|skip| {
            let is = |zone: u32| self.zones[zone as usize].origin().wire().eq_ignore_ascii_case(name.end(skip));
            self.index.find(name.hash(skip), is).map(|zone| (zone as usize, skip))
        })
    }
}
