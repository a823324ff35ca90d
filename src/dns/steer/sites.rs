//! What a pool's sites answer in one state of its members, made ahead.

use super::super::pool::{Pool, PoolState, Rotation, alive, round};
use super::super::wire::rtype;
use super::{Place, Plan};
use crate::sites::SiteNumber;

/// Both families.
pub(in super::super) struct Sites {
    v4: Option<Family>,
    v6: Option<Family>,
}

/// Of one family of addresses, while enough members are up: there is at least one.
pub(in super::super) struct Family {
    up: u64,
    members: Box<[Place]>,
    /// Members' sites, in the order in which it is their turn.
    turns: Box<[SiteNumber]>,
    /// Of each site that is up: how many members, and what they answer.
    rotations: Box<[(SiteNumber, u64, Rotation)]>,
}

impl Sites {
    pub fn new(pool: &Pool, plan: &Plan, state: PoolState, ttl_s: u32) -> Sites {
        let family = |v4| Family::new(pool, plan, state.up, v4, ttl_s);
        Sites { v4: family(true), v6: family(false) }
    }

    /// None: too few are up; `when_down` decides.
    #[inline]
    pub fn family(&self, qtype: u16) -> Option<&Family> {
        if qtype == rtype::A { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    /// The sites that have a member up with an address of either family.
    pub fn up(&self) -> u64 {
        self.v4.iter().chain(&self.v6).fold(0, |up, family| up | family.up)
    }
}

impl Family {
    fn new(pool: &Pool, plan: &Plan, up: u64, v4: bool, ttl_s: u32) -> Option<Family> {
        let members: Vec<(usize, Place)> =
            alive(pool, up, v4)?.into_iter().filter_map(|m| Some((m, *plan.places.get(m)?))).collect();
        let weights: Vec<u32> = members.iter().map(|(m, _)| pool.members[*m].weight).collect();
        let mut sites: Vec<SiteNumber> = members.iter().map(|(_, place)| place.site).collect();
        let turns = round(&weights).into_iter().map(|at| sites[at]).collect();
        sites.sort_unstable();
        sites.dedup();
        let rotation = |site: &SiteNumber| {
            let own: Vec<usize> = members.iter().filter(|(_, place)| place.site == *site).map(|(m, _)| *m).collect();
            (*site, own.len() as u64, Rotation::new(pool, &own, v4, ttl_s))
        };
        Some(Family {
            up: sites.iter().fold(0, |up, site| up | site.bit()),
            rotations: sites.iter().map(rotation).collect(),
            members: members.into_iter().map(|(_, place)| place).collect(),
            turns,
        })
    }

    /// The sites that have a member up.
    #[inline]
    pub fn up(&self) -> u64 {
        self.up
    }

    /// Those that are up, in the configuration's order.
    #[inline]
    pub fn members(&self) -> &[Place] {
        &self.members
    }

    /// The sites that have a member up, and how many.
    pub fn sites(&self) -> impl Iterator<Item = (SiteNumber, u64)> {
        self.rotations.iter().map(|(site, members, _)| (*site, *members))
    }

    /// How many turns there are; at least one.
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// Which turn the n-th answer is, and whose, where only some sites have turns: that of the next one of them.
    pub fn turn(&self, turn: u32, sites: u64) -> (usize, SiteNumber) {
        let start = (turn as usize).checked_rem(self.turns.len()).unwrap_or(0);
        let places = (start..self.turns.len()).chain(0..start).map(|at| (at, self.turns[at]));
        let mut own = places.filter(|(_, site)| site.bit() & sites != 0);
        own.next().unwrap_or((0, SiteNumber(0)))
    }

    /// Of one of the sites that are up.
    #[inline]
    pub fn rotation(&self, site: SiteNumber) -> Option<&Rotation> {
        self.rotations.iter().find(|(own, ..)| *own == site).map(|(.., rotation)| rotation)
    }
}
