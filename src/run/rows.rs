//! What the administrator sees: the answers to `show`, and the metrics page.

use super::control::Control;
use super::metrics::Page;
use super::names::{Names, health_row};
use crate::admin::Answers;
use crate::admin::rows::{DnsRows, ExplainRow, FlowRow, HealthRow, ServiceRow, SiteRow, TargetRow, Wish, WorkerRow};
use crate::config::{self, Word};
use crate::counters::{Count, Refusal};
use crate::flow::{FlowDetails, Mode, TICK_MS};
use crate::service::Target;
use crate::service::build::is_probe;
use crate::wire::ip::{Addr, Endpoint, TCP};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

/// Records looked at in one call for flows: about a millisecond's worth.
const LOOK: usize = 20_000;

impl Answers for Control {
    fn services(&mut self) -> Vec<ServiceRow> {
        let services = self.world.services.load_full();
        let health: BTreeMap<String, String> = self.health().into_iter().map(|row| (row.target, row.status)).collect();
        let row = |target: &Target, kind: &str, family: u8| {
            let slot = self.world.shared.status.slot(target.slot);
            TargetRow {
                target: target.name.clone(),
                kind: kind.into(),
                address: text(&target.endpoint, family),
                status: health.get(&target.name).cloned().unwrap_or("down".into()),
                weight: target.weight,
                priority: (kind == "remote").then_some(target.priority),
                active: slot.active().into(),
                max_connections: target.max_connections,
                backup: target.backup,
                total: slot.total(),
            }
        };
        let service = |(service, config): (&crate::service::Service, &config::Service)| {
            let reals = service.reals.iter().map(|target| row(target, "real", target.family));
            let remotes = service.remotes.iter().map(|target| row(target, "remote", service.family));
            let targets: Vec<TargetRow> = reals.chain(remotes).collect();
            ServiceRow {
                service: service.name.clone(),
                vip: config.vip.to_string(),
                port: config.port,
                protocol: protocol_name(service.protocol).into(),
                mode: config.mode.word().into(),
                scheduler: config.scheduler.word().into(),
                active: targets.iter().map(|target| target.active).sum(),
                max_connections: config.max_connections,
                persistence_s: config.persistence.as_secs_f64(),
                total: targets.iter().map(|target| target.total).sum(),
                targets,
            }
        };
        services.services().iter().zip(&self.config.services).map(service).collect()
    }

    fn flows(&mut self, cursor: usize, max: usize) -> (Vec<FlowRow>, Option<usize>) {
        let now = self.world.now().tick;
        let registry = &self.registry;
        let mut rows = Vec::new();
        let next = self.world.shared.table.scan(cursor as u32, LOOK as u32, max, |flow| {
            if is_probe(&flow.flow.client.addr, flow.flow.family) {
                return;
            }
            let service = registry.name(flow.target_slot).and_then(|name| name.split_once('/')).map_or("", |(s, _)| s);
            rows.push(flow_row(flow, service, now));
        });
        (rows, next.map(|next| next as usize))
    }

    fn health(&mut self) -> Vec<HealthRow> {
        let services = self.health.report(Instant::now()).into_iter().map(health_row);
        services.chain(self.names.iter().flat_map(Names::health)).collect()
    }

    fn counters(&mut self) -> BTreeMap<String, u64> {
        let mut counts = self.world.counts();
        counts.extend(self.names.iter().flat_map(Names::counts));
        counts.extend(self.sites.counts());
        counts
    }

    fn workers(&mut self) -> Vec<WorkerRow> {
        let row = |(index, cpu): (usize, &usize)| {
            let counters = self.world.counters.worker(index);
            let counts = Count::ALL.iter().map(|count| (count.name().to_string(), counters.get(*count)));
            let dropped = Refusal::ALL.iter().map(|refusal| counters.refused(*refusal)).sum();
            let counts = counts.chain([("dropped".to_string(), dropped)]).collect();
            let backend = Some(self.backend.name(index).to_string());
            WorkerRow { worker: index as u32, cpu: Some(*cpu as u32), backend, counts }
        };
        self.cpus.iter().enumerate().map(row).collect()
    }

    fn dns(&mut self) -> DnsRows {
        self.names.as_ref().map_or_else(DnsRows::default, |names| names.rows(&self.services_up()))
    }

    fn sites(&mut self) -> Vec<SiteRow> {
        self.sites.rows(&self.config)
    }

    fn explain(&mut self, wish: &Wish) -> Result<ExplainRow, String> {
        let names = self.names.as_ref().ok_or("there is no [dns] in the configuration")?;
        names.explain(wish, &self.services_up())
    }

    fn reload(&mut self) -> Result<String, String> {
        Control::reload(self)
    }

    fn drain(&mut self, target: &str, on: bool) -> Result<String, String> {
        Control::drain(self, target, on)
    }

    fn metrics(&mut self) -> String {
        let mut page = info_page(&self.config.site);
        count_metrics(&mut page, &Answers::counters(self));
        page.metric("farside_flows", "gauge", "Connections on record.");
        page.sample("farside_flows", &[], self.world.shared.table.len());
        page.metric("farside_flows_max", "gauge", "The most connections that can be on record.");
        page.sample("farside_flows_max", &[], self.world.shared.table.capacity());
        self.target_metrics(&mut page);
        self.port_metrics(&mut page);
        if let Some(names) = &self.names {
            names.metrics(&mut page, &self.services_up());
        }
        self.sites.metrics(&mut page, &self.config);
        page.finish()
    }
}

impl Control {
    fn target_metrics(&mut self, page: &mut Page) {
        let rows: Vec<(String, TargetRow)> = Answers::services(self)
            .into_iter()
            .flat_map(|service| service.targets.into_iter().map(move |target| (service.service.clone(), target)))
            .collect();
        let mut gauge = |name: &str, kind: &str, help: &str, value: fn(&TargetRow) -> u64| {
            page.metric(name, kind, help);
            for (service, row) in &rows {
                let labels =
                    [("service", service.as_str()), ("target", row.target.as_str()), ("kind", row.kind.as_str())];
                page.sample(name, &labels, value(row));
            }
        };
        gauge("farside_target_up", "gauge", "1: passes its checks.", |row| u64::from(row.status != "down"));
        gauge("farside_target_draining", "gauge", "1: takes no new connections.", |row| {
            u64::from(row.status == "draining")
        });
        gauge("farside_target_connections", "gauge", "Open connections.", |row| row.active);
        gauge("farside_target_connections_max", "gauge", "The most connections at a time, 0: no limit.", |row| {
            row.max_connections.into()
        });
        gauge("farside_target_connections_total", "counter", "Connections ever.", |row| row.total);
    }

    fn port_metrics(&self, page: &mut Page) {
        let services = self.world.services.load();
        let mut gauge = |name: &str, help: &str, value: fn(crate::flow::ports::Headroom) -> u32| {
            page.metric(name, "gauge", help);
            for service in services.services() {
                for remote in &service.remotes {
                    for (pip, pool) in &remote.pools {
                        let pip = pip.to_ip(service.family).to_string();
                        let headroom = self.world.shared.ledger.headroom(*pool);
                        page.sample(name, &[("target", &remote.name), ("pip", &pip)], value(headroom));
                    }
                }
            }
        };
        gauge("farside_pip_ports_free", "PIP ports left towards a remote site.", |headroom| headroom.free);
        gauge("farside_pip_ports", "PIP ports towards a remote site.", |headroom| headroom.total);
    }
}

/// A page that begins with what it is about.
pub fn info_page(site: &str) -> Page {
    let mut page = Page::default();
    page.metric("farside_info", "gauge", "Version and site.");
    page.sample("farside_info", &[("version", env!("CARGO_PKG_VERSION")), ("site", site)], 1);
    page
}

/// What `show counters` prints.
pub fn count_metrics(page: &mut Page, counts: &BTreeMap<String, u64>) {
    let (dropped, others): (Vec<_>, Vec<_>) =
        counts.iter().map(|(name, count)| (name.as_str(), *count)).partition(|(name, _)| name.starts_with("drop_"));
    // Of flows on record there is a gauge.
    for (name, count) in others.into_iter().filter(|(name, _)| *name != "flows_active") {
        let name = format!("farside_{name}_total");
        page.metric(&name, "counter", "See `farside show counters`.");
        page.sample(&name, &[], count);
    }
    page.metric("farside_dropped_total", "counter", "Packets that went no further, by reason.");
    for (name, count) in dropped {
        page.sample("farside_dropped_total", &[("reason", name.trim_start_matches("drop_"))], count);
    }
}

fn flow_row(details: &FlowDetails, service: &str, now: u32) -> FlowRow {
    let flow = &details.flow;
    let [client_packets, server_packets] = details.packets.map(u64::from);
    let [client_bytes, server_bytes] = details.bytes;
    FlowRow {
        service: service.into(),
        protocol: protocol_name(flow.protocol).into(),
        client: text(&flow.client, flow.family),
        vip: text(&flow.vip, flow.family),
        target: text(&flow.target, flow.target_family),
        mode: match flow.mode {
            Mode::Nat => "nat",
            Mode::Remote => "remote",
            Mode::Direct => "direct",
            Mode::Tunnel => "tunnel",
        }
        .into(),
        local: (flow.mode == Mode::Remote).then(|| text(&flow.local, flow.family)),
        state: flow.state.name().into(),
        age_s: details.age_s(now).into(),
        idle_s: u64::from(details.idle(now)) * TICK_MS / 1000,
        client_packets,
        client_bytes,
        server_packets,
        server_bytes,
        worker: details.worker.into(),
    }
}

/// As people write it: `address:port`, `[address]:port`.
fn text(endpoint: &Endpoint, family: u8) -> String {
    let Endpoint { addr, port } = endpoint;
    SocketAddr::new(Addr::to_ip(addr, family), *port).to_string()
}

fn protocol_name(protocol: u8) -> &'static str {
    if protocol == TCP { "tcp" } else { "udp" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel programs carry and lose is among it.
    #[test]
    fn metrics_have_all_counts() {
        let counts = [("rx_packets", 7), ("kernel_packets", 5), ("drop_kernel_missed", 2), ("flows_active", 1)];
        let mut page = Page::default();
        count_metrics(&mut page, &counts.map(|(name, count)| (name.to_string(), count)).into());
        let samples: Vec<String> =
            page.finish().lines().filter(|line| !line.starts_with('#')).map(str::to_string).collect();
        let expected = [
            "farside_kernel_packets_total 5",
            "farside_rx_packets_total 7",
            "farside_dropped_total{reason=\"kernel_missed\"} 2",
        ];
        assert_eq!(samples, expected);
    }
}
