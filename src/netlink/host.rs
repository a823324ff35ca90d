//! What `check` and start-up want to know of the host before there is a data path.

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// All addresses of all interfaces of the host.
pub fn host_addresses() -> Vec<IpAddr> {
    pnet_datalink::interfaces().into_iter().flat_map(|interface| interface.ips).map(|network| network.ip()).collect()
}

/// All interfaces of the host by name.
pub fn host_interfaces() -> Vec<String> {
    pnet_datalink::interfaces().into_iter().map(|interface| interface.name).collect()
}

/// The ports from which the host's own outgoing connections start. Lent ports of an address that the host owns as well
/// must lie outside.
///
/// # Errors
/// The kernel's setting could not be read or made no sense.
pub fn local_port_range() -> io::Result<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    parse_port_range(&text).ok_or_else(|| io::Error::other(format!("ip_local_port_range is {text:?}")))
}

fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    let (low, high) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(low..=high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_range_is_two_numbers() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_port_range("32768"), None);
        assert_eq!(parse_port_range("a b"), None);
        assert_eq!(parse_port_range("1 70000"), None);
    }

    #[test]
    fn every_host_has_the_loopback_address() {
        assert!(host_interfaces().iter().any(|name| name == "lo"));
        local_port_range().unwrap();
    }
}
