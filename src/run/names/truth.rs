//! What is up of lines and members, and why: put together from the status words of what is checked, which are the only truth.

use super::zones::Slots;
use crate::config::dns::{Line, Member, Need, Pool};
use crate::config::{Check, Config, Protocol};
use crate::dns::pool::PoolState;
use crate::health::{Target, TargetHealth, TargetKind};
use crate::run::sites::Heard;
use crate::service::status::StatusTable;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

/// Everything that is checked for DNS, in the order of the configuration; its slots are its places.
pub struct Checked {
    pub targets: Vec<Target>,
    lines: Vec<Range<u16>>,
    /// By pool and member.
    members: Vec<Vec<Range<u16>>>,
}

/// What a pool's members that are tied to a service need to know.
pub trait Services {
    /// Does the service have a real server that takes connections?
    fn is_up(&self, service: &str) -> bool;

    /// What other sites say of members that are theirs.
    fn heard(&self) -> &Heard;
}

/// A line or a member.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub up: bool,
    /// In words, of one that is up too.
    pub reason: String,
}

impl Checked {
    pub fn of(config: &Config) -> Checked {
        let mut targets = Vec::new();
        let mut add = |kind, name: &str, addresses: &[IpAddr], check: &Check, source: Option<IpAddr>| {
            let first = targets.len() as u16;
            for address in addresses {
                targets.push(Target {
                    name: format!("{name}/{address}"),
                    kind,
                    slot: targets.len() as u16,
                    check: check.clone(),
                    address: SocketAddr::new(*address, check.port.unwrap_or(0)),
                    protocol: Protocol::Udp,
                    source: source.map(|source| SocketAddr::new(source, 0)),
                    device: None,
                });
            }
            first..targets.len() as u16
        };
        let mut lines = Vec::new();
        for line in &config.lines {
            lines.push(add(TargetKind::Line, &line.name, &line.targets, &line.check, Some(line.address)));
        }
        let mut members = Vec::new();
        for pool in config.dns.iter().flat_map(|dns| &dns.pools) {
            let member = |member: &Member| {
                let Some(check) = &member.check else { return 0..0 };
                let line = member.line.as_ref().and_then(|name| config.lines.iter().find(|line| line.name == *name));
                let name = format!("{}/{}", pool.name, member.name);
                add(TargetKind::Member, &name, &member.addresses, check, line.map(|line| line.address))
            };
            members.push(pool.members.iter().map(member).collect());
        }
        Checked { targets, lines, members }
    }
}

/// Everything that the answer depends on.
pub struct Truth<'t> {
    pub config: &'t Config,
    pub checked: &'t Checked,
    pub status: &'t StatusTable,
    pub services: &'t dyn Services,
    /// `pool/member`, by an operator.
    pub drained: &'t HashSet<String>,
}

impl Truth<'_> {
    /// Of all pools, by their slots. `lasting`: of all that is checked, in its order ([`crate::health::Health::lasting`]).
    pub fn pools(&self, slots: &mut Slots, lasting: &[Duration]) -> HashMap<u16, PoolState> {
        let pools = self.config.dns.iter().flat_map(|dns| &dns.pools).enumerate();
        pools
            .map(|(p, pool)| {
                let up = |m: usize| u64::from(self.is_member_up(p, pool, m)) << m;
                let up = (0..pool.members.len()).map(up).fold(0, |all, bit| all | bit);
                (slots.pool(&pool.name), PoolState { up, ttl_most_s: self.ttl_most_s(p, pool, lasting) })
            })
            .collect()
    }

    /// The time in which some member of the pool could come or go at the soonest, in whole seconds. That a member's service comes or
    /// goes, or an operator drains it, is not foreseen.
    fn ttl_most_s(&self, p: usize, pool: &Pool, lasting: &[Duration]) -> u32 {
        if !pool.ttl_cut {
            return u32::MAX;
        }
        let members = (0..pool.members.len()).map(|m| self.member_lasts(p, pool, m, lasting));
        let soonest = members.min().unwrap_or(Duration::MAX);
        u32::try_from(soonest.as_secs()).unwrap_or(u32::MAX)
    }

    /// How long a member stays what it is at least. It is up while all is up that it depends on.
    pub fn member_lasts(&self, p: usize, pool: &Pool, m: usize, lasting: &[Duration]) -> Duration {
        if self.is_drained(pool, &pool.members[m]) {
            return Duration::MAX;
        }
        let line = pool.members[m].line.as_ref().and_then(|name| self.line(name));
        let line = line.map(|l| (self.is_line_up(l), self.line_lasts(l, lasting)));
        let own = self.checked.members[p][m].clone().map(|slot| (self.is_up(slot), lasts(slot, lasting)));
        until_change(true, own.chain(line))
    }

    fn line_lasts(&self, l: usize, lasting: &[Duration]) -> Duration {
        let targets = self.checked.lines[l].clone().map(|slot| (self.is_up(slot), lasts(slot, lasting)));
        until_change(self.config.lines[l].need == Need::All, targets)
    }

    fn is_up(&self, slot: u16) -> bool {
        self.status.slot(slot).is_up()
    }

    pub fn is_line_up(&self, l: usize) -> bool {
        let mut slots = self.checked.lines[l].clone();
        match self.config.lines[l].need {
            Need::Any => slots.any(|slot| self.is_up(slot)),
            Need::All => slots.all(|slot| self.is_up(slot)),
        }
    }

    fn line(&self, name: &str) -> Option<usize> {
        self.config.lines.iter().position(|line| line.name == name)
    }

    fn is_member_up(&self, p: usize, pool: &Pool, m: usize) -> bool {
        let member = &pool.members[m];
        member.line.as_ref().is_none_or(|line| self.line(line).is_some_and(|l| self.is_line_up(l)))
            && member.service.as_ref().is_none_or(|service| self.services.is_up(service))
            && self.checked.members[p][m].clone().all(|slot| self.is_up(slot))
            && !self.is_drained(pool, member)
            && self.is_said_up(pool, member) != Some(false)
    }

    /// What the member's site says, of another's. It can take a member out, and not bring one in that fails its checks here: clients may be
    /// as far from it as this site is.
    fn is_said_up(&self, pool: &Pool, member: &Member) -> Option<bool> {
        let other = member.site != self.config.site;
        other.then(|| self.services.heard().is_up(&member.site, &pool.name, &member.name)).flatten()
    }

    fn is_drained(&self, pool: &Pool, member: &Member) -> bool {
        !self.drained.is_empty() && self.drained.contains(&format!("{}/{}", pool.name, member.name))
    }

    /// `health`: of all that is checked, in its order.
    pub fn line_state(&self, l: usize, health: &[TargetHealth]) -> State {
        let line: &Line = &self.config.lines[l];
        let (up, down): (Vec<usize>, Vec<usize>) =
            self.checked.lines[l].clone().map(usize::from).partition(|slot| self.is_up(*slot as u16));
        let is_up = self.is_line_up(l);
        let reason = if is_up {
            format!("{} of {} targets answer", up.len(), line.targets.len())
        } else {
            down.iter()
                .map(|slot| why_down(&health[*slot], &self.checked.targets[*slot]))
                .collect::<Vec<_>>()
                .join("; ")
        };
        State { up: is_up, reason }
    }

    /// As [`Truth::line_state`].
    pub fn member_state(&self, p: usize, pool: &Pool, m: usize, health: &[TargetHealth]) -> State {
        let member = &pool.members[m];
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        if let Some(name) = &member.line {
            let state = self.line(name).map(|l| self.line_state(l, health));
            match state {
                Some(State { up: true, .. }) => good.push(format!("line {name} is up")),
                Some(State { reason, .. }) => bad.push(format!("line {name} is down: {reason}")),
                None => bad.push(format!("there is no line {name}")),
            }
        }
        if let Some(name) = &member.service {
            match self.services.is_up(name) {
                true => good.push(format!("service {name} has a real server up")),
                false => bad.push(format!("service {name} has no real server up")),
            }
        }
        for slot in self.checked.members[p][m].clone() {
            let target = &self.checked.targets[usize::from(slot)];
            match self.is_up(slot) {
                true => good.push(format!("{} passes its check", target.address.ip())),
                false => bad.push(why_down(&health[usize::from(slot)], target)),
            }
        }
        if self.is_drained(pool, member) {
            bad.push("drained".into());
        }
        match self.is_said_up(pool, member) {
            Some(true) => good.push(format!("site {} says that it is up", member.site)),
            Some(false) => bad.push(format!("site {} says that it is out", member.site)),
            None => {}
        }
        let up = bad.is_empty();
        if up && good.is_empty() {
            good.push("nothing is checked".into());
        }
        State { up, reason: if up { good } else { bad }.join("; ") }
    }
}

fn lasts(slot: u16, lasting: &[Duration]) -> Duration {
    lasting.get(usize::from(slot)).copied().unwrap_or(Duration::MAX)
}

/// How long something stays what it is at least that is up while all its parts are, or else while any is. Of each part: whether it is up,
/// and how long it stays that.
fn until_change(needs_all: bool, parts: impl Iterator<Item = (bool, Duration)>) -> Duration {
    // Of what needs all one part less is enough to change it, and all that are down have to come; of what needs any, the other way round.
    let (same, other): (Vec<_>, Vec<_>) = parts.partition(|(up, _)| *up == needs_all);
    let times = |parts: Vec<(bool, Duration)>| parts.into_iter().map(|(_, time)| time);
    if other.is_empty() {
        times(same).min().unwrap_or(Duration::MAX)
    } else {
        times(other).max().unwrap_or(Duration::MAX)
    }
}

fn why_down(health: &TargetHealth, target: &Target) -> String {
    let why = health.last_error.as_deref().unwrap_or("not checked yet");
    format!("{}: {why}", target.address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_all_goes_with_its_first_part_and_comes_with_its_last() {
        let lasts = |needs_all, parts: &[(bool, u64)]| {
            let seconds = |time: Duration| if time == Duration::MAX { 0 } else { time.as_secs() };
            seconds(until_change(needs_all, parts.iter().map(|(up, time)| (*up, Duration::from_secs(*time)))))
        };
        assert_eq!(lasts(true, &[(true, 5), (true, 3), (true, 9)]), 3);
        assert_eq!(lasts(true, &[(true, 1), (false, 3), (false, 9)]), 9);
        assert_eq!(lasts(false, &[(false, 5), (false, 3)]), 3);
        assert_eq!(lasts(false, &[(false, 1), (true, 3), (true, 9)]), 9);
        assert_eq!([lasts(true, &[]), lasts(false, &[])], [0, 0], "without parts it lasts for ever");
    }
}
