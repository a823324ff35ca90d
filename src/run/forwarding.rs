//! Does the host forward packets by itself? Then more is left to it: see "Whose is it?" in [`crate::forward::fragment`].

use crate::service::ServiceMap;
use std::net::IpAddr;

/// Real servers whose answers pass by farside, of the versions of IP that the host does not forward.
pub fn answering(services: &ServiceMap, forwards: [bool; 2]) -> Vec<IpAddr> {
    let reals = services.answering().map(|(addr, family)| addr.to_ip(*family));
    reals.filter(|real| !forwards[usize::from(real.is_ipv6())]).collect()
}

/// Is forwarding on at any of the interfaces? (Documentation/networking/ip-sysctl.rst: conf/interface/forwarding)
pub fn of(interfaces: &[String]) -> [bool; 2] {
    ["ipv4", "ipv6"].map(|version| {
        interfaces.iter().any(|name| {
            let path = format!("/proc/sys/net/{version}/conf/{name}/forwarding");
            std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
        })
    })
}
