//! What this host must be like for a configuration to run: told in sentences before anything is touched.

use crate::config::Config;
use crate::flow::Mode;
use crate::netlink::{host_addresses, local_port_range};
use crate::route::Fib;
use crate::service::ServiceMap;
use crate::wire::ip::Addr;
use std::fs;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Bits of the capability set (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
const BPF: u64 = 1 << 39;

/// May this process open packet sockets and load kernel programs?
pub fn privileges() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let enough = held & NET_ADMIN != 0 && held & NET_RAW != 0 && held & (BPF | SYS_ADMIN) != 0;
    if enough {
        return Ok(());
    }
    Err("farside needs root (or the capabilities NET_ADMIN, NET_RAW and BPF) to open packet sockets and to load its \
         kernel programs; start it as root or by its systemd unit"
        .into())
}

/// What direct mode cannot do as the routes are now, in sentences: a gateway would send packets for the VIP back.
pub fn off_link(services: &ServiceMap, fib: &Fib) -> Vec<String> {
    let direct = services.services().iter().filter(|service| service.mode == Mode::Direct);
    let off_link = direct
        .flat_map(|service| &service.reals)
        .filter(|real| !fib.is_on_link(&Addr::default(), &real.endpoint.addr, real.family, 0))
        .map(|real| {
            format!(
                "{}: direct mode reaches servers on a link of this host only, and {} is on none: its connections are dropped \
                 (drop_not_on_link); take mode = \"tunnel\" or \"nat\", or an address of the server's on such a link",
                real.name,
                real.endpoint.addr.to_ip(real.family)
            )
        });
    off_link.collect()
}

/// Do the configuration's addresses and ports fit with those that the host has?
pub fn host(config: &Config) -> Result<(), String> {
    let ephemeral = local_port_range().map_err(|why| format!("the host's own port range cannot be read: {why}"))?;
    addresses(config, &host_addresses(), ephemeral)
}

fn addresses(config: &Config, host: &[IpAddr], ephemeral: RangeInclusive<u16>) -> Result<(), String> {
    let mut wrong = Vec::new();
    for service in &config.services {
        if host.contains(&service.vip) {
            wrong.push(format!(
                "service {}: the VIP {} is an address of this host, whose own stack would answer for it; take it off the \
                 interface (ip address del) or choose another VIP",
                service.name, service.vip
            ));
        }
    }
    if let Some(proxy) = &config.proxy {
        let clash = *proxy.ports.start() <= *ephemeral.end() && *ephemeral.start() <= *proxy.ports.end();
        for address in proxy.addresses.iter().filter(|address| clash && host.contains(address)) {
            wrong.push(format!(
                "[proxy]: {address} is an address of this host, which takes ports {}-{} for its own connections; lend others \
                 (ports = \"{}\"), narrow net.ipv4.ip_local_port_range, or use an address of its own",
                ephemeral.start(),
                ephemeral.end(),
                free_range(&ephemeral)
            ));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// The larger part of 1024-65535 that the host leaves free.
fn free_range(ephemeral: &RangeInclusive<u16>) -> String {
    let below = ephemeral.start().saturating_sub(1024);
    let above = u16::MAX - ephemeral.end();
    if below >= above {
        format!("1024-{}", ephemeral.start().saturating_sub(1).max(1024))
    } else {
        format!("{}-65535", ephemeral.end() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Ledger;
    use crate::service::build::build;
    use crate::service::registry::Registry;
    use crate::service::status::StatusTable;

    #[test]
    fn direct_mode_is_for_servers_on_a_link() {
        let text = "[datapath]\ninterfaces = [\"lan0\"]\n[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\n\
                    mode = \"direct\"\n[[service.real]]\nname = \"near\"\naddress = \"10.0.0.2\"\n\
                    [[service.real]]\nname = \"far\"\naddress = \"10.9.0.2\"\n";
        let config = crate::config::file::parse(text, "f").unwrap();
        let (status, ledger) = (StatusTable::new(), Ledger::new(1));
        let (services, _) = build(&config, &mut Registry::default(), &status, &ledger, |_| false).unwrap();
        let fib = Fib::builder()
            .port("lan0", [2; 6], 1500, &["10.0.0.1/24".parse().unwrap()])
            .route("0.0.0.0/0".parse().unwrap(), 0, Some([10, 0, 0, 254].into()))
            .build();
        let said = off_link(&services, &fib);
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("web/far: direct mode reaches servers on a link of this host only, and 10.9.0.2"));
    }

    #[test]
    fn the_free_range_is_the_larger_side() {
        assert_eq!(free_range(&(32768..=60999)), "1024-32767");
        assert_eq!(free_range(&(1024..=30000)), "30001-65535");
    }
}
