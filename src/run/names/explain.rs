//! `farside explain`: what a resolver would be answered, and why, in words.

use super::truth::Truth;
use super::{Names, Services};
use crate::admin::rows::{AnswerRow, ExplainRow, MemberRow, ModeRow, RecordRow, WayRow, Wish};
use crate::config::Word;
use crate::config::dns::{Mode, Pool, Prefix, WhenDown};
use crate::dns::Name;
use crate::dns::explain::{Choice, Explained, Wanted, explain};
use crate::dns::pool::PoolState;
use crate::dns::serve::serial::unix_ms;
use crate::dns::snapshot::{Settings, Snapshot};
use crate::dns::steer::{Memory, Near, Step, Survey};
use crate::sites::SiteNumber;
use crate::sites::ways::Way;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Names {
    /// The error is a sentence.
    pub fn explain(&self, wish: &Wish, services: &dyn Services) -> Result<ExplainRow, String> {
        let name = Name::parse(&wish.name).map_err(|why| format!("the name {} cannot be: {why}", wish.name))?;
        let resolver = wish.resolver.parse().map_err(|_| format!("{} is no address of a resolver", wish.resolver))?;
        let subnet = wish
            .client_subnet
            .as_ref()
            .map(|text| text.parse::<Prefix>().map_err(|why| format!("the client's network {text} {why}")));
        let subnet = subnet.transpose()?;
        let served = self.shared.served.load_full();
        if served.snapshot.zones().is_empty() {
            return Err("nothing is answered yet: the first round of checks is not done".into());
        }
        let mut states = self.states.clone();
        let downs = self.take_down(&wish.down, &mut states)?;
        let zone = |zone: &Arc<crate::dns::Zone>| {
            let state = |pool: &Arc<crate::dns::Pool>| {
                states.get(&pool.slot).copied().unwrap_or(PoolState { up: 0, ttl_most_s: u32::MAX })
            };
            let states: Vec<PoolState> = zone.contents().pools().iter().map(state).collect();
            Arc::new(zone.with(&states, zone.serial()))
        };
        let mut steering = served.snapshot.steering().clone();
        if let Memory::Kept(store) = steering.memory {
            steering.memory = Memory::Looked(store);
        }
        if let Survey::Kept(ways) = steering.ways {
            steering.ways = Survey::Looked(ways);
        }
        // A name that tells of a client would be noted.
        steering.learner = steering.learner.filter(|learner| !learner.is_telling(name.wire()));
        let zones = served.snapshot.zones().iter().map(zone).collect();
        let snapshot = Snapshot::new(zones, Arc::new(Settings::default())).with(steering);
        let v6 = wish.v6;
        let now_ms = unix_ms();
        let explained = explain(&snapshot, &Wanted { name: &name, v6, resolver, subnet, unix_ms: now_ms });
        Ok(self.row(wish, &explained, (&states, &downs), now_ms, services))
    }

    /// Takes what is to be thought down out of the states. Which members those are, as `pool/member`.
    fn take_down(&self, down: &[String], states: &mut HashMap<u16, PoolState>) -> Result<Vec<String>, String> {
        let mut downs = Vec::new();
        for wanted in down {
            let had = downs.len();
            for pool in self.config.dns.iter().flat_map(|dns| &dns.pools) {
                for (m, member) in pool.members.iter().enumerate() {
                    let whole = format!("{}/{}", pool.name, member.name);
                    if whole != *wanted && member.name != *wanted && member.site != *wanted {
                        continue;
                    }
                    if let Some(state) = self.slots.known_pool(&pool.name).and_then(|slot| states.get_mut(&slot)) {
                        state.up &= !(1 << m);
                    }
                    downs.push(whole);
                }
            }
            if downs.len() == had {
                return Err(format!("--down {wanted}: there is no such member, pool/member or site"));
            }
        }
        Ok(downs)
    }

    fn row(
        &self,
        wish: &Wish,
        explained: &Explained,
        (states, downs): (&HashMap<u16, PoolState>, &[String]),
        now_ms: u64,
        services: &dyn Services,
    ) -> ExplainRow {
        let Names { config, checked, status, drained, .. } = self;
        let truth = Truth { config, checked, status, services, drained };
        let health = self.health.report(Instant::now());
        let lasting = self.health.lasting();
        let mut pools = config.dns.iter().flat_map(|dns| &dns.pools).enumerate();
        let pool = explained.pool.as_ref().and_then(|pool| pools.find(|(_, own)| own.name == pool.name));
        let zone =
            explained.zone.and_then(|zone| self.zones.entries.iter().filter(|e| !e.versions.is_empty()).nth(zone));
        let site = |site: SiteNumber| self.slots.sites.name(site).to_string();
        let mut row = ExplainRow {
            name: wish.name.clone(),
            kind: if wish.v6 { "AAAA" } else { "A" }.into(),
            resolver: wish.resolver.clone(),
            client_subnet: wish.client_subnet.clone(),
            zone: zone.map(|entry| entry.origin.clone()),
            pool: pool.map(|(_, pool)| pool.name.clone()),
            asker: asker(explained, pool.map(|(_, pool)| pool), wish),
            members: Vec::new(),
            modes: Vec::new(),
            answer: AnswerRow {
                rcode: code(explained.rcode),
                addresses: explained.addresses.iter().map(ToString::to_string).collect(),
                ttl_s: explained.ttl_s,
                scope: explained.scope,
            },
            ways: Vec::new(),
            record: None,
            lasts_s: None,
        };
        let Some((p, pool)) = pool else { return row };
        let up = self.slots.known_pool(&pool.name).and_then(|slot| states.get(&slot)).map_or(0, |state| state.up);
        for (m, member) in pool.members.iter().enumerate() {
            let state = truth.member_state(p, pool, m, &health);
            let thought = downs.contains(&format!("{}/{}", pool.name, member.name));
            row.members.push(MemberRow {
                name: member.name.clone(),
                site: member.site.clone(),
                addresses: member.addresses.iter().map(ToString::to_string).collect(),
                up: up >> m & 1 == 1,
                reason: if thought { format!("taken for down (is: {})", state.reason) } else { state.reason },
            });
        }
        let lasts = (0..pool.members.len()).map(|m| truth.member_lasts(p, pool, m, &lasting)).min();
        row.lasts_s = lasts.filter(|lasts| *lasts < Duration::MAX).map(|lasts| lasts.as_secs());
        row.modes = modes(pool, explained, &site);
        let ways = explained.choice.iter().flat_map(|choice| &choice.ways);
        row.ways = ways.map(|(of, way)| way_row(site(*of), way.as_ref())).collect();
        row.record = explained.choice.as_ref().and_then(|choice| choice.record).map(|record| RecordRow {
            site: site(record.site),
            age_s: now_ms.saturating_sub(record.stamp_ms) / 1000,
            ttl_s: record.ttl_s,
            // It holds at its last millisecond.
            left_s: (now_ms <= record.until_ms()).then(|| (record.until_ms() - now_ms) / 1000),
            hits: record.hits,
        });
        row
    }
}

fn way_row(site: String, way: Option<&Way>) -> WayRow {
    let answered = way.filter(|way| way.round_trip_us.is_some());
    WayRow {
        site,
        age_s: way.map(|way| way.age_s),
        round_trip_ms: way.and_then(|way| Some(f64::from(way.round_trip_us?) / 1000.0)),
        loss_permille: answered.map(|way| way.loss_permille),
        hops: answered.and_then(|way| way.hops),
    }
}

/// As messages have it (RFC 1035 4.1.1).
fn code(rcode: u16) -> String {
    match rcode {
        0 => "NOERROR".into(),
        1 => "FORMERR".into(),
        3 => "NXDOMAIN".into(),
        5 => "REFUSED".into(),
        other => format!("RCODE {other}"),
    }
}

/// Who counts as asking.
fn asker(explained: &Explained, pool: Option<&Pool>, wish: &Wish) -> String {
    let ignored = wish.client_subnet.is_some() && pool.is_some_and(|pool| !pool.client_subnet);
    let resolver = &wish.resolver;
    let base = match &explained.choice {
        None => format!("{resolver}: nothing depends on it"),
        Some(Choice { network, group: Some(group), .. }) => format!("{network}, which counts as the group {group}"),
        Some(Choice { network, counts_as: Some(address), .. }) if *address == network.address() => network.to_string(),
        Some(Choice { network, counts_as: Some(address), .. }) => {
            format!("{network}, which counts as {address} by the mask")
        }
        Some(Choice { network, .. }) => network.to_string(),
    };
    if ignored { format!("{base} (the pool does not go by clients' networks)") } else { base }
}

/// Each mode of the pool in its order: what it said.
fn modes(pool: &Pool, explained: &Explained, site: &dyn Fn(SiteNumber) -> String) -> Vec<ModeRow> {
    let all = pool.modes == [Mode::RoundRobin];
    let Some(choice) = explained.choice.as_ref().filter(|_| !all) else {
        let why = match (all, &pool.when_down) {
            (true, _) => "all that are up are answered, in turn".to_string(),
            (false, WhenDown::All) => "too few members are up: when_down answers all, in turn".into(),
            (false, WhenDown::None) => "too few members are up: when_down answers none".into(),
            (false, WhenDown::Member(name)) => format!("too few members are up: when_down answers {name}"),
        };
        let mode = if all { "round_robin" } else { "when_down" };
        return vec![ModeRow { mode: mode.into(), decides: true, why }];
    };
    let of = |step: &Step| match *step {
        Step::Remembered(at) => (Mode::Dynamic, true, format!("site {} is remembered", site(at))),
        Step::OtherFamily(at) => {
            let why = format!("site {} is remembered, and has no member up with such an address", site(at));
            (Mode::Dynamic, false, format!("{why}; the record stays"))
        }
        Step::NotRemembered => {
            let why = match choice.record {
                None => "nothing is remembered".to_string(),
                Some(record) => format!("the record of site {} does not hold", site(record.site)),
            };
            (Mode::Dynamic, false, format!("{why}; what is chosen is remembered"))
        }
        Step::Together(at) => {
            (Mode::Dynamic, true, format!("another resolver of its learned group was sent to site {}", site(at)))
        }
        Step::Belongs(network, at) => (Mode::Topology, true, format!("{network} belongs to site {}", site(at))),
        Step::BelongsToNoneUp(network, at) => {
            (Mode::Topology, false, format!("{network} belongs to site {}, which has no member up", site(at)))
        }
        Step::BelongsNowhere => (Mode::Topology, false, "no network holds it".into()),
        Step::Falls { members, member, site: at } => {
            let why = format!("member {} of the {members} that are up, at site {}", member + 1, site(at));
            (Mode::Stripe, true, why)
        }
        Step::Least { load, by, site: at } => {
            let near = match by {
                Near::Resolver => ", and of these the nearest to the resolver",
                Near::Site => ", and of these the nearest to this site",
                Near::Unknown => "",
            };
            (Mode::Metrics, true, format!("site {} is of those with the least load, {load}{near}", site(at)))
        }
        Step::LoadsUnknown => (Mode::Metrics, false, "not of all sites the load is known".into()),
        Step::Turn { turns, turn, site: at } => {
            let why = format!("in turn, by the thread that answers: site {} in turn {} of {turns}", site(at), turn + 1);
            (Mode::RoundRobin, true, why)
        }
    };
    let seen: Vec<(Mode, bool, String)> = choice.steps.iter().map(of).collect();
    let row = |mode: &Mode| {
        let said = |of: Mode| seen.iter().rfind(|(mode, ..)| *mode == of).cloned();
        let (decides, why) = match (mode, said(*mode), said(Mode::RoundRobin)) {
            (Mode::Metrics, Some((.., unknown)), Some((.., turn))) => (true, format!("{unknown}: {turn}")),
            (_, Some((_, decides, why)), _) => (decides, why),
            (_, None, _) => (false, "not asked: another decides before it".into()),
        };
        ModeRow { mode: mode.word().into(), decides, why }
    };
    pool.modes.iter().map(row).collect()
}
