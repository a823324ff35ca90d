//! What a reload has taken out of the configuration and connections still use: services and PIPs that go on being captured
//! until the last of their connections has ended. They take no new ones.
//!
//! Who still uses them is read from the flow table itself, a slice at a time: a target's count of connections would not
//! tell, since a service may change its VIP and keep its targets.

use super::{Pip, ServiceMap};
use crate::flow::{FlowDetails, FlowTable, Mode};
use crate::wire::ip::{Addr, Endpoint};
use hashbrown::HashMap;
use std::ops::RangeInclusive;

/// A service's place: VIP and port, family, protocol.
type Place = (Endpoint, u8, u8);

/// Control's book.
#[derive(Default)]
pub struct Leaving {
    /// With each: has the pass that is under way met a connection of it?
    services: HashMap<Place, bool>,
    pips: HashMap<(Addr, u8), LeavingPip>,
    /// Where the pass goes on.
    cursor: u32,
    /// A worker may still be in a burst by the old snapshot: the first look after a reload sees nothing.
    fresh: bool,
}

struct LeavingPip {
    /// As it was.
    pip: Pip,
    /// The ports that the new configuration lends; None: it has no such PIP.
    stays: Option<RangeInclusive<u16>>,
    used: bool,
}

impl Leaving {
    /// `new` is to follow `old`: what that captured and this does not joins, what is configured again goes; then `new`
    /// is told.
    pub fn follow(&mut self, old: &ServiceMap, new: &mut ServiceMap) {
        let places = |map: &ServiceMap| -> Vec<Place> {
            map.services().iter().map(|service| (service.vip, service.family, service.protocol)).collect()
        };
        self.services.extend(places(old).into_iter().map(|place| (place, false)));
        for place in places(new) {
            self.services.remove(&place);
        }
        for (key, pip) in old.pips() {
            let was = self.pips.remove(key).map(|leaving| leaving.pip.ports);
            let ports = was.map_or(pip.ports.clone(), |was| hull(&was, &pip.ports));
            let pip = Pip { ports, host_owned: pip.host_owned };
            self.pips.insert(*key, LeavingPip { pip, stays: None, used: false });
        }
        for ((addr, family), leaving) in &mut self.pips {
            leaving.stays = new.configured_pip(addr, *family).map(|pip| pip.ports.clone());
        }
        self.pips.retain(|_, leaving| !leaving.stays.as_ref().is_some_and(|ports| covers(ports, &leaving.pip.ports)));
        self.services.values_mut().for_each(|used| *used = false);
        self.pips.values_mut().for_each(|leaving| leaving.used = false);
        (self.cursor, self.fresh) = (0, true);
        self.tell(new);
    }

    /// Looks at the next `look` records. True: a pass is over, and something has no connection any more and has gone.
    pub fn look(&mut self, table: &FlowTable, look: u32) -> bool {
        if self.is_empty() || std::mem::take(&mut self.fresh) {
            return false;
        }
        let cursor = self.cursor;
        if let Some(next) = table.scan(cursor, look, usize::MAX, |flow| self.meet(flow)) {
            self.cursor = next;
            return false;
        }
        self.cursor = 0;
        let before = self.services.len() + self.pips.len();
        self.services.retain(|_, used| std::mem::take(used));
        self.pips.retain(|_, leaving| std::mem::take(&mut leaving.used));
        self.services.len() + self.pips.len() < before
    }

    fn meet(&mut self, details: &FlowDetails) {
        let flow = &details.flow;
        if let Some(used) = self.services.get_mut(&(flow.vip, flow.family, flow.protocol)) {
            *used = true;
        }
        if flow.mode == Mode::Remote
            && let Some(leaving) = self.pips.get_mut(&(flow.local.addr, flow.family))
        {
            leaving.used |= !leaving.stays.as_ref().is_some_and(|ports| ports.contains(&flow.local.port));
        }
    }

    /// Puts into a snapshot what it has to know.
    pub fn tell(&self, map: &mut ServiceMap) {
        let pips = self.pips.iter().filter(|(_, leaving)| leaving.stays.is_none());
        map.set_leaving(self.services.keys().copied(), pips.map(|(key, leaving)| (*key, leaving.pip.clone())));
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.pips.is_empty()
    }

    pub fn services(&self) -> impl Iterator<Item = &Place> {
        self.services.keys()
    }

    /// The ports of a configured PIP that are to be captured: with those it lent before, as long as they are out. On
    /// an address that the host owns too the ports between the two may be the host's: there a gap is left alone.
    pub fn ports(&self, addr: &Addr, family: u8, pip: &Pip) -> RangeInclusive<u16> {
        let Some(leaving) = self.pips.get(&(*addr, family)) else { return pip.ports.clone() };
        let was = &leaving.pip.ports;
        let apart = u32::from(*was.end()) + 1 < u32::from(*pip.ports.start())
            || u32::from(*pip.ports.end()) + 1 < u32::from(*was.start());
        if pip.host_owned && apart { pip.ports.clone() } else { hull(was, &pip.ports) }
    }
}

fn hull(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    *a.start().min(b.start())..=*a.end().max(b.end())
}

fn covers(outer: &RangeInclusive<u16>, inner: &RangeInclusive<u16>) -> bool {
    outer.start() <= inner.start() && inner.end() <= outer.end()
}
