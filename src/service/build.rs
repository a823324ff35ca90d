//! From the configuration to the snapshot: slots for targets, pools for PIP ports, doors for probes.

use super::registry::Registry;
use super::status::StatusTable;
use super::{Pip, Service, ServiceMap, Target, Terms, Tunnels, doors};
use crate::config::{self, Config, Protocol};
use crate::flow::{Ledger, Mode, PoolId, PoolKey, Tick, ticks};
use crate::wire::ip::{Addr, Endpoint, TCP, UDP, V4, V6, family_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// A target of a service, as its health is checked: through the data path. A remote site from a PIP, so that it takes the check for
/// what it is and never carries it on to a third one; a real server that has the VIP by the way of clients' packets.
pub struct Probe {
    pub slot: u16,
    /// Where on the probe interface to connect to.
    pub door: IpAddr,
    pub port: u16,
}

/// Doors of the probe interface: slots from here on have none, so that all lie in its IPv4 network.
pub(super) const MAX_DOORS: u16 = 16_000;

/// The probe interface's own address; the doors follow it.
pub fn probe_address(family: u8) -> IpAddr {
    door(0, family)
}

/// Is it the host's own, on the probe interface? Its connections are checks.
pub fn is_probe(client: &Addr, family: u8) -> bool {
    *client == probe_address(family).into()
}

/// Door number `n`. IPv4: 169.254.64.0/18, link-local addresses (RFC 3927) clear of those that clouds use for their metadata.
/// IPv6: a unique local prefix (RFC 4193) of farside's own.
pub(super) fn door(n: u16, family: u8) -> IpAddr {
    let n = n + 1;
    if family == crate::wire::ip::V4 {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(169, 254, 64 | high, low).into()
    } else {
        Ipv6Addr::new(0xfd66, 0x6172, 0x7369, 0x6465, 0, 0, 0, n).into()
    }
}

/// Bits of the probe interface's network.
pub fn probe_prefix_len(family: u8) -> u8 {
    if family == crate::wire::ip::V4 { 18 } else { 64 }
}

/// What the snapshot has to know of the host. A function that says which addresses are the host's own will do where nothing is
/// checked.
pub trait Host {
    fn owns(&self, ip: IpAddr) -> bool;

    /// Ports of an address of the host's own that a service's real server `real` can answer to at the VIP, for checks. None: there is
    /// nothing to be checked.
    fn lend(&mut self, _real: IpAddr, _vip: IpAddr) -> Result<Option<Lent>, String> {
        Ok(None)
    }
}

/// Ports that the host's stack keeps clear of, and their address.
#[derive(Clone, Debug, PartialEq)]
pub struct Lent {
    pub address: IpAddr,
    pub ports: RangeInclusive<u16>,
}

impl<F: Fn(IpAddr) -> bool> Host for F {
    fn owns(&self, ip: IpAddr) -> bool {
        self(ip)
    }
}

/// Builds the snapshot. After an error the targets that are served by the one before are as they were.
pub fn build(
    config: &Config,
    registry: &mut Registry,
    status: &StatusTable,
    ledger: &Ledger,
    mut host: impl Host,
) -> Result<(ServiceMap, Vec<Probe>), String> {
    let mut slots = Vec::new();
    let mut services = Vec::new();
    for service in &config.services {
        let too_many = || format!("{}: more than {} services are in use", service.name, super::status::MAX_SERVICES);
        let service_slot = registry.service(&service.name).ok_or_else(too_many)?;
        let mut target = |name: &str, address: IpAddr, port: u16, weight: u32, priority: u32| {
            let name = format!("{}/{name}", service.name);
            let endpoint = Endpoint::new(address, port);
            let slot = registry
                .slot(&name, endpoint, status)
                .ok_or(format!("{name}: more than {} targets are in use", super::status::MAX_TARGETS))?;
            slots.push(slot);
            status.set_service(slot, service_slot);
            Ok::<_, String>(Target {
                name,
                slot,
                life: status.slot(slot).life(),
                endpoint,
                family: family_of(address),
                weight,
                max_connections: 0,
                backup: false,
                priority,
                pools: Vec::new(),
                probe_pools: Vec::new(),
            })
        };
        let reals = service.reals.iter().map(|real| {
            let target = target(&real.name, real.address, real.port, real.weight, 0)?;
            Ok(Target { max_connections: real.max_connections, backup: real.backup, ..target })
        });
        let reals = reals.collect::<Result<Vec<_>, String>>()?;
        let mut remotes = Vec::new();
        for remote in &service.remotes {
            let mut target = target(&remote.site, remote.vip, remote.port, remote.weight, remote.priority)?;
            target.pools = pools(config, protocol_number(service.protocol), &target, ledger, |ports, _| ports)?;
            target.probe_pools = check_pools(config, protocol_number(service.protocol), &target, ledger, &host)?;
            remotes.push(target);
        }
        let vip = Endpoint::new(service.vip, service.port);
        let kind = (family_of(service.vip), protocol_number(service.protocol));
        let mut served =
            Service::new(service.name.clone(), vip, kind, service.scheduler, service.on_down, reals, remotes);
        served.mode = match service.mode {
            config::Mode::Nat => Mode::Nat,
            config::Mode::Direct => Mode::Direct,
            config::Mode::Tunnel => Mode::Tunnel,
        };
        served.encapsulation = service.encapsulation;
        served.per_packet = service.per_packet;
        services.push(served.on(service_slot, terms(service)));
    }
    let pips = config.proxy.iter().flat_map(|proxy| {
        let pip = |ip: &IpAddr| {
            let host_owned = host.owns(*ip);
            let probes = probe_ports(&proxy.ports, host_owned);
            let ports = *proxy.ports.start().min(probes.start())..=*proxy.ports.end().max(probes.end());
            Pip { ports, host_owned }
        };
        proxy.addresses.iter().map(move |ip| (((*ip).into(), family_of(*ip)), pip(ip))).collect::<Vec<_>>()
    });
    let peers = config.peers.iter().flat_map(|peer| &peer.proxy_addresses).map(|ip| ((*ip).into(), family_of(*ip)));
    let mut map = ServiceMap::new(services, pips, peers);
    map.tunnels = tunnels(config);
    let mut probes = add_probes(&mut map)?;
    doors::open_reals(&mut map, config, ledger, &mut host, &mut probes)?;
    // From here on nothing fails: a configuration that is refused leaves the targets of the one before alone.
    for service in map.services() {
        service.reals.iter().for_each(|real| status.slot(real.slot).set_one_sided(service.mode.one_sided()));
    }
    registry.retire_others(&slots, status);
    registry.retire_other_services(&map.services().iter().map(|service| service.slot).collect(), status);
    Ok((map, probes))
}

fn tunnels(config: &Config) -> Tunnels {
    let of = |family| {
        let sources = config.datapath.tunnel_sources.iter().filter(|ip| family_of(**ip) == family);
        sources.map(|ip| Addr::from(*ip)).collect()
    };
    let tunnels = config.services.iter().filter(|service| service.mode == config::Mode::Tunnel);
    let reals = tunnels.flat_map(|service| &service.reals).map(|real| (real.address.into(), family_of(real.address)));
    Tunnels { sources: [of(V4), of(V6)], gue_port: config.datapath.gue_port, ends: reals.collect() }
}

fn terms(service: &config::Service) -> Terms {
    let persistence: Tick = if service.persistence.is_zero() { 0 } else { ticks(service.persistence) };
    let prefix = if service.vip.is_ipv4() { service.persistence_mask_v4 } else { service.persistence_mask_v6 };
    Terms { max_connections: service.max_connections, overflow: service.overflow, persistence, prefix }
}

/// How many ports of a PIP are set apart for checks, beside those that are lent to connections.
const PROBE_PORTS: u16 = 512;

/// The ports that checks are sent from: beside the range that connections are lent, so that they take nothing from it. On an
/// address that the host owns too, or where there is no room beside it, they share it.
fn probe_ports(lent: &RangeInclusive<u16>, host_owned: bool) -> RangeInclusive<u16> {
    let (first, last) = (*lent.start(), *lent.end());
    if host_owned {
        lent.clone()
    } else if first > PROBE_PORTS {
        first - PROBE_PORTS..=first - 1
    } else if last < u16::MAX - PROBE_PORTS {
        last + 1..=last + PROBE_PORTS
    } else {
        lent.clone()
    }
}

/// The pools that checks of `target` are lent ports of, if there are PIPs.
pub(super) fn check_pools(
    config: &Config,
    protocol: u8,
    target: &Target,
    ledger: &Ledger,
    host: &impl Host,
) -> Result<Vec<(Addr, PoolId)>, String> {
    pools(config, protocol, target, ledger, |ports, ip| probe_ports(&ports, host.owns(ip)))
}

/// The pools of ports that each PIP lends towards a remote site, of the range that `choose` makes of the configured one.
fn pools(
    config: &Config,
    protocol: u8,
    remote: &Target,
    ledger: &Ledger,
    choose: impl Fn(RangeInclusive<u16>, IpAddr) -> RangeInclusive<u16>,
) -> Result<Vec<(Addr, PoolId)>, String> {
    let Some(proxy) = &config.proxy else { return Ok(Vec::new()) };
    let family = remote.family;
    let lending = proxy.addresses.iter().filter(|ip| family_of(**ip) == family);
    lending
        .map(|ip| {
            let pip = Addr::from(*ip);
            let ports = choose(proxy.ports.clone(), *ip);
            // Checks' ports are unique towards the remote address whatever its port; where they are the connections' own they
            // come from the same pool.
            let port = if ports == proxy.ports { remote.endpoint.port } else { 0 };
            let key = PoolKey { pip, remote: Endpoint { port, ..remote.endpoint }, protocol, family };
            let pool = ledger.open(key, ports, |_| false).map_err(|why| format!("{}: {why}", remote.name))?;
            Ok((pip, pool))
        })
        .collect()
}

fn add_probes(map: &mut ServiceMap) -> Result<Vec<Probe>, String> {
    let mut probes = Vec::new();
    // A remote site's door goes by its slot, which stays the same over a reload.
    let doors: Vec<(usize, usize, u8, u16, u16)> = map
        .services()
        .iter()
        .enumerate()
        .flat_map(|(at, service)| {
            let remotes = service.remotes.iter().enumerate();
            remotes.map(move |(number, remote)| (at, number, service.family, service.vip.port, remote.slot))
        })
        .collect();
    for (service, remote, family, port, slot) in doors {
        if slot >= MAX_DOORS {
            return Err(format!(
                "more than {MAX_DOORS} targets are in use: a remote site among the last cannot be checked"
            ));
        }
        let door = door(slot + 1, family);
        map.add_probe(Endpoint::new(door, port), service, remote);
        probes.push(Probe { slot, door, port });
    }
    Ok(probes)
}

pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}
