//! What the administrator sees of DNS.

use super::truth::{State, Truth};
use super::{Names, Services};
use crate::admin::rows::{DnsRows, HealthRow, PoolRow, RedisRow, SignedRow, StateRow, StoreRow, WaysRow, ZoneRow};
use crate::affinity::Who;
use crate::dns::Count;
use crate::dns::dnssec::LEAST_S;
use crate::dns::serve::serial::unix_s;
use crate::health::TargetHealth;
use crate::run::metrics::Page;
use crate::sites::ways::Counts;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A longer list helps nobody.
const LEARNED_SHOWN: usize = 1000;

impl Names {
    /// `show dns`.
    pub fn rows(&self, services: &dyn Services) -> DnsRows {
        let Names { config, checked, status, drained, .. } = self;
        let truth = Truth { config, checked, status, services, drained };
        let health = self.health.report(Instant::now());
        let row = |name: &str, State { up, reason }| StateRow { name: name.into(), up, reason };
        let zone = |entry: &super::zones::Entry| ZoneRow {
            origin: entry.origin.clone(),
            serial: entry.versions.first().map(|zone| zone.serial()),
            dnssec: entry.keys().map(|keys| SignedRow { keys, until: u64::from(unix_s()) + u64::from(LEAST_S) }),
        };
        let lines = config.lines.iter().enumerate();
        let pools = config.dns.iter().flat_map(|dns| &dns.pools).enumerate();
        DnsRows {
            zones: self.zones.entries.iter().map(zone).collect(),
            lines: lines.map(|(l, line)| row(&line.name, truth.line_state(l, &health))).collect(),
            pools: pools
                .map(|(p, pool)| PoolRow {
                    name: pool.name.clone(),
                    members: (0..pool.members.len())
                        .map(|m| row(&pool.members[m].name, truth.member_state(p, pool, m, &health)))
                        .collect(),
                })
                .collect(),
            store: self.store(),
            learned: self.learned(),
            redis: self.sharer.as_ref().map(|sharer| RedisRow {
                address: sharer.config().address.to_string(),
                connected: sharer.is_connected(),
            }),
            ways: self.ways(),
        }
    }

    /// None: no pool chooses by metrics.
    fn ways(&self) -> Option<WaysRow> {
        let Counts { networks, measured, unanswered, rate_limited, evicted, told, taken } =
            self.survey.as_ref()?.ways().counts();
        Some(WaysRow { networks, measured, unanswered, rate_limited, evicted, told, taken_over: taken })
    }

    /// Learned groups, the first ones of many.
    fn learned(&self) -> Vec<Vec<String>> {
        let groups = self.zones.learner().map(|learner| learner.groups()).unwrap_or_default();
        let addresses =
            |whos: &Vec<Who>| whos.iter().filter_map(Who::address).map(|address| address.to_string()).collect();
        groups.iter().take(LEARNED_SHOWN).map(addresses).collect()
    }

    fn store(&self) -> StoreRow {
        let counts = self.keeper.as_ref().map(|keeper| keeper.store().counts()).unwrap_or_default();
        let sum = |count| self.shared.counts.iter().map(|counts| counts.get(count)).sum();
        StoreRow {
            records: counts.records,
            hits: sum(Count::StoreHits),
            misses: sum(Count::StoreMisses),
            evicted: counts.evicted,
            expired: counts.expired,
            merged: counts.merged,
        }
    }

    /// `show health`.
    pub fn health(&self) -> Vec<HealthRow> {
        self.health.report(Instant::now()).into_iter().map(health_row).collect()
    }

    /// `show counters`: all threads together.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for counts in &self.shared.counts {
            for (name, count) in counts.all() {
                *sums.entry(name.to_string()).or_insert(0) += count;
            }
        }
        let tcp = &self.shared.tcp;
        let connections = [
            ("dns_tcp_connections", &tcp.accepted),
            ("dns_tcp_refused", &tcp.refused),
            ("dns_tcp_evicted", &tcp.evicted),
        ];
        sums.extend(connections.map(|(name, count)| (name.to_string(), count.load(Relaxed))));
        if let Some(ways) = self.ways() {
            let ways = [
                ("dns_ways_measured", ways.measured),
                ("dns_ways_unanswered", ways.unanswered),
                ("dns_ways_rate_limited", ways.rate_limited),
                ("dns_ways_evicted", ways.evicted),
                ("dns_ways_told", ways.told),
                ("dns_ways_taken_over", ways.taken_over),
            ];
            sums.extend(ways.map(|(name, count)| (name.to_string(), count)));
        }
        sums
    }

    /// Of `/metrics`, beside what [`Names::counts`] counts.
    pub fn metrics(&self, page: &mut Page, services: &dyn Services) {
        let rows = self.rows(services);
        let (entries, tallies) = (&self.zones.entries, &self.shared.tallies);
        page.metric("farside_dns_zone_serial", "gauge", "The serial that the zone is served under.");
        for (origin, serial) in rows.zones.iter().filter_map(|zone| Some((&zone.origin, zone.serial?))) {
            page.sample("farside_dns_zone_serial", &[("zone", origin)], serial);
        }
        let help = "Signatures that are given out now hold until then at least, in seconds since 1970.";
        page.metric("farside_dns_zone_signed_until_seconds", "gauge", help);
        for (origin, signed) in rows.zones.iter().filter_map(|zone| Some((&zone.origin, zone.dnssec.as_ref()?))) {
            page.sample("farside_dns_zone_signed_until_seconds", &[("zone", origin)], signed.until);
        }
        page.metric("farside_dns_zone_answers_total", "counter", "Answers from the zone.");
        for entry in entries {
            let sum: u64 = tallies.iter().map(|tally| tally.zone(entry.slot)).sum();
            page.sample("farside_dns_zone_answers_total", &[("zone", &entry.origin)], sum);
        }
        page.metric("farside_dns_pool_answers_total", "counter", "Answers with addresses from the pool.");
        for pool in &rows.pools {
            let slot = self.slots.known_pool(&pool.name);
            let sum: u64 = slot.map_or(0, |slot| tallies.iter().map(|tally| tally.pool(slot)).sum());
            page.sample("farside_dns_pool_answers_total", &[("pool", &pool.name)], sum);
        }
        page.metric("farside_dns_member_up", "gauge", "1: the pool answers the member's addresses.");
        for pool in &rows.pools {
            for member in &pool.members {
                let labels = [("pool", pool.name.as_str()), ("member", member.name.as_str())];
                page.sample("farside_dns_member_up", &labels, u8::from(member.up));
            }
        }
        let store = [
            ("farside_dns_store_records", "gauge", "Resolvers and pools whose site is remembered.", rows.store.records),
            (
                "farside_dns_store_evicted_total",
                "counter",
                "Records that made room before their time.",
                rows.store.evicted,
            ),
            ("farside_dns_store_expired_total", "counter", "Records whose time was over.", rows.store.expired),
            ("farside_dns_store_merged_total", "counter", "Records taken over from other nodes.", rows.store.merged),
        ];
        for (name, kind, help, value) in store {
            page.metric(name, kind, help);
            page.sample(name, &[], value);
        }
        if let Some(redis) = &rows.redis {
            page.metric("farside_dns_redis_up", "gauge", "1: the server through which records are shared answers.");
            page.sample("farside_dns_redis_up", &[], u8::from(redis.connected));
        }
        if let Some(ways) = &rows.ways {
            let help = "Networks of resolvers of which it is known how far they are from this site or another.";
            page.metric("farside_dns_ways_networks", "gauge", help);
            page.sample("farside_dns_ways_networks", &[], ways.networks);
        }
        page.metric("farside_line_up", "gauge", "1: what is checked through the line answers.");
        for line in &rows.lines {
            page.sample("farside_line_up", &[("line", &line.name)], u8::from(line.up));
        }
        page.metric("farside_dns_tcp_open", "gauge", "TCP connections of DNS.");
        page.sample("farside_dns_tcp_open", &[], self.shared.tcp.open.load(Relaxed));
    }
}

/// As the contract writes it.
pub fn health_row(target: TargetHealth) -> HealthRow {
    HealthRow {
        target: target.target,
        kind: target.kind.into(),
        // Before its first answer a target takes nothing: it is down.
        status: if target.status == "checking" { "down".into() } else { target.status.into() },
        since_s: target.since.as_secs(),
        last_error: match target.status {
            "checking" => Some("not checked yet".into()),
            _ => target.last_error,
        },
    }
}
