//! Doors to real servers of direct and tunnel services: a check goes through the data path, by the same MAC address or
//! encapsulation as clients' packets, and meets the server at the VIP.
//!
//! The server answers whom it was asked by, and that has to be this box: a PIP if there is one of the VIP's family, or else the
//! address of the host's own from which it reaches the server, with a few ports that the host's stack is kept from.

use super::build::{Host, Lent, MAX_DOORS, Probe, check_pools, door, protocol_number};
use super::{Pip, ServiceMap, Target};
use crate::config::{self, CheckKind, Config};
use crate::flow::{Ledger, PoolKey};
use crate::wire::ip::{Addr, Endpoint, TCP, family_of};

/// Are the real servers of a service checked through the data path? Echo requests go to the server's own address: that says whether the
/// machine lives, not whether it serves.
pub fn has_doors(service: &config::Service) -> bool {
    service.mode != config::Mode::Nat && !matches!(service.check.kind, CheckKind::None | CheckKind::Icmp)
}

/// What checks are said over. UDP is for DNS alone.
fn check_protocol(service: &config::Service) -> u8 {
    if matches!(service.check.kind, CheckKind::Dns { .. }) { protocol_number(service.protocol) } else { TCP }
}

/// Opens a door to each real server that wants one, and adds it to `probes`.
pub(super) fn open_reals(
    map: &mut ServiceMap,
    config: &Config,
    ledger: &Ledger,
    host: &mut impl Host,
    probes: &mut Vec<Probe>,
) -> Result<(), String> {
    for (at, service) in config.services.iter().enumerate().filter(|(_, service)| has_doors(service)) {
        let family = family_of(service.vip);
        let protocol = check_protocol(service);
        let port = service.check.port.unwrap_or(service.port);
        let reals: Vec<Target> = map.services()[at].reals.clone();
        for (number, (real, written)) in reals.into_iter().zip(&service.reals).enumerate() {
            let slot = real.slot;
            if slot >= MAX_DOORS {
                return Err(format!("more than {MAX_DOORS} targets are in use: {} cannot be checked", real.name));
            }
            let mut met = Target { endpoint: Endpoint::new(service.vip, port), family, ..real };
            met.probe_pools = check_pools(config, protocol, &met, ledger, host)?;
            if met.probe_pools.is_empty() {
                let told = |why| format!("{}: {why}", met.name);
                let Some(Lent { address, ports }) = host.lend(written.address, service.vip).map_err(told)? else {
                    continue;
                };
                let pip = Addr::from(address);
                let key = PoolKey { pip, remote: Endpoint { port: 0, ..met.endpoint }, protocol, family };
                let pool = ledger.open(key, ports.clone(), |_| false).map_err(|why| format!("{}: {why}", met.name))?;
                met.probe_pools = vec![(pip, pool)];
                map.add_pip((pip, family), Pip { ports, host_owned: true });
            }
            let door = door(slot + 1, family);
            map.add_real_probe(Endpoint::new(door, port), protocol, at, number, met);
            probes.push(Probe { slot, door, port });
        }
    }
    Ok(())
}
