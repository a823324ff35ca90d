//! Services' targets as they are checked, and as DNS asks after them.

use super::names::Services;
use super::sites::Heard;
use crate::config::{self, CheckKind};
use crate::health::{self, TargetKind};
use crate::service::build::{Probe, probe_address};
use crate::service::status::StatusTable;
use crate::service::{ServiceMap, Target};
use crate::wire::ip::family_of;
use crate::worker::World;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The services as DNS asks after them.
pub struct ServicesUp {
    services: Arc<ServiceMap>,
    status: Arc<StatusTable>,
    heard: Arc<Heard>,
}

impl ServicesUp {
    pub fn of(world: &World, heard: Arc<Heard>) -> ServicesUp {
        ServicesUp { services: world.services.load_full(), status: world.shared.status.clone(), heard }
    }
}

impl Services for ServicesUp {
    fn is_up(&self, service: &str) -> bool {
        let named = self.services.services().iter().filter(|own| own.name == service);
        named.flat_map(|own| &own.reals).any(|real| self.status.slot(real.slot).takes_new())
    }

    fn heard(&self) -> &Heard {
        &self.heard
    }
}

/// By a door, what is asked for by name is still what clients ask for.
fn named(mut check: config::Check, vip: IpAddr, port: u16) -> config::Check {
    if let CheckKind::Http { tls, host: host @ None, .. } = &mut check.kind {
        let usual = port == if *tls { 443 } else { 80 };
        *host = Some(match vip {
            vip if !usual => SocketAddr::new(vip, port).to_string(),
            IpAddr::V6(vip) => format!("[{vip}]"),
            IpAddr::V4(vip) => vip.to_string(),
        });
    }
    check
}

/// A real server is asked by itself in NAT mode; where it has the VIP, by its door.
pub fn real_check(
    real: &Target,
    family: u8,
    service: &config::Service,
    probe: Option<&Probe>,
    device: Option<&str>,
) -> health::Target {
    if let (Some(probe), Some(device)) = (probe, device) {
        return health::Target {
            name: real.name.clone(),
            kind: TargetKind::Real,
            slot: real.slot,
            check: config::Check { port: None, ..named(service.check.clone(), service.vip, probe.port) },
            address: SocketAddr::new(probe.door, probe.port),
            protocol: service.protocol,
            source: Some(SocketAddr::new(probe_address(family_of(probe.door)), 0)),
            device: Some(device.to_string()),
        };
    }
    health::Target {
        name: real.name.clone(),
        kind: TargetKind::Real,
        slot: real.slot,
        check: service.check.clone(),
        address: SocketAddr::new(real.endpoint.addr.to_ip(family), real.endpoint.port),
        protocol: service.protocol,
        source: None,
        device: None,
    }
}

/// A remote site is checked by its door, where only the service's own port and protocol lead anywhere; ping goes past it, since a
/// farside answers that for its VIP by itself.
pub fn remote_check(
    remote: &Target,
    family: u8,
    service: &config::Service,
    probe: Option<&Probe>,
    device: Option<&str>,
) -> health::Target {
    let mut check = service.check.clone();
    if check.port.take().is_some() && !matches!(check.kind, CheckKind::None | CheckKind::Icmp) {
        // What answers on the real servers' check port stays there; of a remote site only its VIP's port is known.
        check.kind = CheckKind::Tcp;
    }
    let over_udp = service.protocol == config::Protocol::Udp;
    if over_udp && !matches!(check.kind, CheckKind::None | CheckKind::Dns { .. }) {
        // A real server can be asked over TCP whether it is well; the remote VIP serves this port over UDP alone.
        check.kind = CheckKind::Icmp;
    }
    let by_door = !matches!(check.kind, CheckKind::None | CheckKind::Icmp);
    let (address, source, device) = match (by_door, probe, device) {
        (true, Some(probe), Some(device)) => {
            let source = probe_address(family_of(probe.door));
            let address = SocketAddr::new(probe.door, probe.port);
            check = named(check, remote.endpoint.addr.to_ip(family), remote.endpoint.port);
            (address, Some(SocketAddr::new(source, 0)), Some(device.to_string()))
        }
        _ => (SocketAddr::new(remote.endpoint.addr.to_ip(family), remote.endpoint.port), None, None),
    };
    health::Target {
        name: remote.name.clone(),
        kind: TargetKind::Remote,
        slot: remote.slot,
        check,
        address,
        protocol: service.protocol,
        source,
        device,
    }
}
