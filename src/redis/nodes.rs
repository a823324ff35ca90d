//! What the nodes of one site say, and what of it is the site's.

use super::resp::Reply;
use crate::sites::fields::{Fields, Malformed};
use crate::sites::state::{Served, State};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of what a node says: the first two bytes of it.
const VERSION: u16 = 1;

/// What is said is good for so long.
pub const GOOD: Duration = Duration::from_secs(5);

/// The most nodes of one site that are heard.
pub const MOST_NODES: usize = 16;

/// The state of a node, as it lies on the server behind its stamp.
pub fn written(state: &State) -> Vec<u8> {
    let mut value = VERSION.to_be_bytes().to_vec();
    state.write(&mut value);
    value
}

/// The inverse. Err: it is none, or of a version that is not known here.
pub fn read(value: &[u8]) -> Result<State, Malformed> {
    let mut fields = Fields(value);
    if fields.u16()? == VERSION { State::read(&mut fields) } else { Err(Malformed) }
}

#[derive(Clone, Debug)]
struct Said {
    until: Instant,
    state: Arc<State>,
}

/// The nodes of a site that are heard.
#[derive(Clone, Debug)]
pub struct Nodes {
    said: Vec<Said>,
    /// Since when somebody is heard, or nobody.
    since: Instant,
}

impl Nodes {
    /// Nobody.
    pub fn new(now: Instant) -> Nodes {
        Nodes { said: Vec::new(), since: now }
    }

    /// Takes what the server says of a site: of each node for how many milliseconds what it says is good still, and that. Gives how
    /// much of it could not be read. `asked`: when, since what is good goes by the server's clock and may have lain on the way.
    pub fn take(&mut self, reply: &Reply, asked: Instant) -> u64 {
        let (was, since) = (self.end(asked).is_some(), self.since(asked));
        let mut unreadable = u64::from(matches!(reply, Reply::Nothing));
        let mut said = Vec::new();
        for pair in reply.parts().chunks(2).take(MOST_NODES) {
            let left = pair[0].text().and_then(|text| text.parse().ok()).map(Duration::from_millis);
            let state = pair.get(1).and_then(Reply::data).and_then(|value| read(value).ok());
            match left.zip(state) {
                Some((left, state)) => said.push(Said { until: asked + left.min(GOOD), state: Arc::new(state) }),
                None => unreadable += 1,
            }
        }
        self.said = said;
        self.since = if self.end(asked).is_some() == was { since } else { asked };
        unreadable
    }

    /// When what is said now ends to be good. None: it has, or nothing is said.
    pub fn end(&self, now: Instant) -> Option<Instant> {
        self.good(now).map(|said| said.until).max()
    }

    /// When something of what is said now ends to be good first.
    pub fn next_end(&self, now: Instant) -> Option<Instant> {
        self.good(now).map(|said| said.until).min()
    }

    /// Since when the site is heard, or not.
    pub fn since(&self, now: Instant) -> Instant {
        let ended = self.said.iter().map(|said| said.until).max();
        if self.end(now).is_some() { self.since } else { ended.unwrap_or(self.since) }
    }

    fn good(&self, now: Instant) -> impl Iterator<Item = &Said> {
        self.said.iter().filter(move |said| said.until > now)
    }

    /// How the site is. None: nobody has said so lately.
    pub fn state(&self, now: Instant) -> Option<Arc<State>> {
        let states: Vec<&Arc<State>> = self.good(now).map(|said| &said.state).collect();
        match states[..] {
            [] => None,
            [one] => Some(one.clone()),
            _ => Some(Arc::new(together(&states))),
        }
    }
}

/// Several nodes' word as one site's: connections and packets are the sum of theirs, CPU the mean; a service or a member is up if one
/// node says so; a service is full if all that have it up are, and the site if all its services that are up are.
fn together(states: &[&Arc<State>]) -> State {
    let sum = |of: fn(&State) -> u32| states.iter().fold(0u32, |sum, state| sum.saturating_add(of(state)));
    let cpu: u32 = states.iter().map(|state| u32::from(state.cpu_permille)).sum();
    let mut services: BTreeMap<(IpAddr, u16, u8), Served> = BTreeMap::new();
    let mut members: BTreeMap<u64, bool> = BTreeMap::new();
    for state in states {
        for served in &state.services {
            let known = services.entry((served.vip, served.port, served.protocol)).or_insert(*served);
            known.full = match (known.up, served.up) {
                (true, true) => known.full && served.full,
                (true, false) => known.full,
                (false, _) => served.full,
            };
            known.up |= served.up;
        }
        for (member, up) in &state.members {
            *members.entry(*member).or_default() |= up;
        }
    }
    let services: Vec<Served> = services.into_values().collect();
    let mut up = services.iter().filter(|served| served.up).peekable();
    State {
        full: up.peek().is_some() && up.all(|served| served.full),
        connections: sum(|state| state.connections),
        packets_per_s: sum(|state| state.packets_per_s),
        cpu_permille: (cpu / states.len().max(1) as u32) as u16,
        services,
        members: members.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
