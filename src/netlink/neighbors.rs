//! The book of next hops: which neighbour has which [`HopId`], and what is known of it.
//!
//! A neighbour gets an id when the kernel first knows its MAC, and keeps it when the MAC is lost, so that flows that hold
//! the id go on by themselves when the neighbour comes back. States: known (MAC here, port up, word valid) | lost
//! (no MAC or port down, word clear) | forgotten (lost and unused for [`FORGET`], or pushed out by newer ones when the
//! table is full). The id of a forgotten neighbour rests until the snapshot without it has been out for [`REST`], longer
//! than any burst that still runs on the one before; the new epoch keeps all later ones away from it.

use crate::route::{Hop, HopId, HopTable, MAX_HOPS, Neighbor, TAP_HOP};
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a neighbour in use is confirmed. Shorter than the minute after which the kernel may clear away a neighbour
/// that it does not use itself.
pub(super) const CONFIRM: Duration = Duration::from_secs(25);
/// How often the book is gone through: a neighbour that packets go to after a pause is confirmed within this time, a
/// router without a MAC is asked for again.
pub(super) const ROUND: Duration = Duration::from_secs(5);
const FORGET: Duration = Duration::from_secs(600);
const REST: Duration = Duration::from_secs(1);
/// One neighbour is asked for at most this often, however many packets want it.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Neighbours asked for and not found yet. Beyond this requests wait; the kernel holds no more either (gc_thresh3).
const MAX_ASKED: usize = 1024;
/// Pushed out at once when the table is full.
const EVICT: usize = 64;

struct Entry {
    id: HopId,
    mac: Option<[u8; 6]>,
    fixed: bool,
    used_at: Instant,
    /// When the kernel was last asked to confirm it.
    confirmed_at: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
struct PortState {
    up: bool,
    mtu: u32,
}

pub(super) struct Neighbors {
    hops: Arc<HopTable>,
    ports: Vec<PortState>,
    entries: HashMap<Neighbor, Entry>,
    /// Next routers, and the longest packet that the routes through them allow (0: the port's).
    gateways: HashMap<Neighbor, u32>,
    asked: HashMap<Neighbor, Instant>,
    free: Vec<HopId>,
    /// Since when the snapshot without it is out; None: it is not yet.
    resting: VecDeque<(HopId, Option<Instant>)>,
    /// A neighbour came or went since the last [`Neighbors::names`].
    pub changed: bool,
    /// An id was taken away since then: the epoch must move.
    pub revoked: bool,
    /// A neighbour found no id; another look at the kernel's table will bring it.
    pub starved: bool,
}

impl Neighbors {
    pub fn new(hops: Arc<HopTable>, ports: usize) -> Neighbors {
        Neighbors {
            hops,
            ports: vec![PortState::default(); ports],
            entries: HashMap::new(),
            gateways: HashMap::new(),
            asked: HashMap::new(),
            free: (TAP_HOP + 1..MAX_HOPS as HopId).rev().collect(),
            resting: VecDeque::new(),
            changed: false,
            revoked: false,
            starved: false,
        }
    }

    /// The kernel's word on one neighbour; `mac` None: it is lost.
    pub fn learn(&mut self, neighbor: Neighbor, mac: Option<[u8; 6]>, fixed: bool, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&neighbor) {
            entry.mac = mac;
            entry.fixed = fixed;
        } else if mac.is_some() {
            let Some(id) = self.take_id(now) else {
                self.starved = true;
                return;
            };
            self.asked.remove(&neighbor);
            self.hops.take_used(id);
            self.entries.insert(neighbor, Entry { id, mac, fixed, used_at: now, confirmed_at: None });
            self.changed = true;
        }
        self.write(&neighbor);
    }

    /// The kernel's whole table: who is not in it is lost, except those that `newer` says were heard of meanwhile.
    pub fn learn_all(
        &mut self,
        rows: &HashMap<Neighbor, ([u8; 6], bool)>,
        newer: impl Fn(&Neighbor) -> bool,
        now: Instant,
    ) {
        let gone: Vec<Neighbor> =
            self.entries.keys().filter(|n| !rows.contains_key(*n) && !newer(n)).copied().collect();
        for neighbor in gone {
            self.learn(neighbor, None, false, now);
        }
        for (neighbor, (mac, fixed)) in rows {
            if !newer(neighbor) {
                self.learn(*neighbor, Some(*mac), *fixed, now);
            }
        }
    }

    pub fn set_port(&mut self, port: u8, up: bool, mtu: u32) {
        let Some(state) = self.ports.get_mut(port as usize) else { return };
        if (state.up, state.mtu) != (up, mtu) {
            *state = PortState { up, mtu };
            self.write_all();
        }
    }

    pub fn set_port_up(&mut self, port: u8, up: bool) {
        if let Some(PortState { mtu, .. }) = self.ports.get(port as usize).copied() {
            self.set_port(port, up, mtu);
        }
    }

    pub fn set_gateways(&mut self, gateways: HashMap<Neighbor, u32>) {
        if self.gateways != gateways {
            self.gateways = gateways;
            self.write_all();
        }
    }

    fn write_all(&self) {
        self.entries.keys().for_each(|neighbor| self.write(neighbor));
    }

    /// Brings the word of one neighbour up to date.
    fn write(&self, neighbor: &Neighbor) {
        let Some(entry) = self.entries.get(neighbor) else { return };
        let port = self.ports.get(neighbor.port as usize).copied().unwrap_or_default();
        match entry.mac {
            Some(mac) if port.up => {
                let route_mtu = self.gateways.get(neighbor).copied().filter(|mtu| *mtu != 0).unwrap_or(u32::MAX);
                self.hops.set(entry.id, Hop { mac, port: neighbor.port, mtu: port.mtu.min(route_mtu) });
            }
            _ => self.hops.clear(entry.id),
        }
    }

    fn is_known(&self, neighbor: &Neighbor) -> bool {
        self.entries.get(neighbor).is_some_and(|entry| self.hops.is_valid(entry.id))
    }

    /// A worker wants this one. True: ask the kernel.
    pub fn want(&mut self, neighbor: Neighbor, now: Instant) -> bool {
        if self.is_known(&neighbor) || !self.ports.get(neighbor.port as usize).is_some_and(|port| port.up) {
            return false;
        }
        if self.asked.len() >= MAX_ASKED {
            self.asked.retain(|_, at| now.duration_since(*at) < ASK_EVERY);
            if self.asked.len() >= MAX_ASKED {
                return false;
            }
        }
        match self.asked.get(&neighbor) {
            Some(at) if now.duration_since(*at) < ASK_EVERY => false,
            _ => {
                self.asked.insert(neighbor, now);
                true
            }
        }
    }

    /// Routers whose MAC is missing: resolved ahead of need, so that a connection's first packet need not wait.
    pub fn lost_gateways(&self) -> Vec<Neighbor> {
        let up = |n: &&Neighbor| self.ports.get(n.port as usize).is_some_and(|port| port.up);
        self.gateways.keys().filter(up).filter(|n| !self.is_known(n)).copied().collect()
    }

    /// Every [`ROUND`]: which neighbours the kernel shall confirm, because packets went there or they are routers. The
    /// kernel cannot see that farside uses a neighbour; left alone it would call it stale, and never notice that it is
    /// gone. Forgets those that have been lost for long.
    pub fn unconfirmed(&mut self, now: Instant) -> Vec<Neighbor> {
        let mut confirm = Vec::new();
        let mut forget = Vec::new();
        for (neighbor, entry) in &mut self.entries {
            let used = self.hops.take_used(entry.id);
            if used {
                entry.used_at = now;
            }
            let gateway = self.gateways.contains_key(neighbor);
            if self.hops.is_valid(entry.id) {
                let due = entry.confirmed_at.is_none_or(|at| now.duration_since(at) >= CONFIRM);
                if !entry.fixed && due && (gateway || used) {
                    entry.confirmed_at = Some(now);
                    confirm.push(*neighbor);
                }
            } else if !gateway && now.duration_since(entry.used_at) >= FORGET {
                forget.push(*neighbor);
            }
        }
        forget.iter().for_each(|neighbor| self.forget(neighbor));
        self.asked.retain(|_, at| now.duration_since(*at) < ASK_EVERY);
        confirm
    }

    /// For a new snapshot, which is published now.
    pub fn names(&mut self, now: Instant) -> HashMap<Neighbor, HopId> {
        self.changed = false;
        self.revoked = false;
        for (_, since) in &mut self.resting {
            since.get_or_insert(now);
        }
        self.entries.iter().map(|(neighbor, entry)| (*neighbor, entry.id)).collect()
    }

    /// The neighbours of one port are no longer what they were: the interface is another one now.
    pub fn lose_port(&mut self, port: u8) {
        for (_, entry) in self.entries.iter_mut().filter(|(n, _)| n.port == port) {
            entry.mac = None;
            self.hops.clear(entry.id);
        }
    }

    fn forget(&mut self, neighbor: &Neighbor) {
        if let Some(entry) = self.entries.remove(neighbor) {
            self.hops.clear(entry.id);
            self.resting.push_back((entry.id, None));
            self.changed = true;
            self.revoked = true;
        }
    }

    fn take_id(&mut self, now: Instant) -> Option<HopId> {
        while let Some(&(id, Some(since))) = self.resting.front()
            && now.duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.free.push(id);
        }
        let id = self.free.pop();
        if id.is_none() && self.resting.is_empty() {
            self.evict();
        }
        id
    }

    /// Room for newcomers: those that are lost, then those that were used longest ago.
    fn evict(&mut self) {
        let mut candidates: Vec<(bool, Instant, Neighbor)> = self
            .entries
            .iter()
            .filter(|(neighbor, _)| !self.gateways.contains_key(*neighbor))
            .map(|(neighbor, entry)| (self.hops.is_valid(entry.id), entry.used_at, *neighbor))
            .collect();
        candidates.sort_unstable_by_key(|(valid, used_at, _)| (*valid, *used_at));
        for (_, _, neighbor) in candidates.iter().take(EVICT) {
            self.forget(neighbor);
        }
    }

    /// Every neighbour with an id and, if it is known, its MAC. For `show` and tests.
    pub fn iter(&self) -> impl Iterator<Item = (Neighbor, HopId, Option<[u8; 6]>)> + '_ {
        self.entries.iter().map(|(neighbor, entry)| (*neighbor, entry.id, entry.mac))
    }
}

/// Routers of all ways, with the smallest MTU that a route through each demands.
pub(super) fn gateways(routes: &[crate::route::Route]) -> HashMap<Neighbor, u32> {
    let mut gateways: HashMap<Neighbor, u32> = HashMap::new();
    let mut seen = HashSet::new();
    for route in routes {
        let crate::route::Target::Ways(ways) = &route.target else { continue };
        for way in ways {
            let Some((family, addr)) = way.gateway else { continue };
            if !seen.insert((way.port, family, addr, route.mtu)) {
                continue;
            }
            let mtu = gateways.entry(Neighbor { port: way.port, family, addr }).or_insert(0);
            if route.mtu != 0 && (*mtu == 0 || route.mtu < *mtu) {
                *mtu = route.mtu;
            }
        }
    }
    gateways
}

#[cfg(test)]
mod tests;
