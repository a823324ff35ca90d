//! The interface through which health checks enter the data path, so that they go out as clients' connections do: to remote sites
//! from a PIP, which the site at the other end knows for a peer's and never carries on to a third; to real servers that have
//! the VIP by the same MAC address or tunnel.
//!
//! It is a tap device of the process's own. The host's stack has an address on it and connects to *doors* there; each
//! door stands for one target of one service. The device goes with the process, also when that is killed.

use crate::service::build::{probe_address, probe_prefix_len};
use crate::sys::address;
use crate::sys::tap::Tap;
use crate::wire::ip::{V4, V6};
use std::io;

/// Its name; the kernel puts a number in, so that several may run beside each other.
const NAME: &str = "farside%d";

/// Opens the device with its addresses.
pub fn open() -> Result<Tap, String> {
    let told = |what: &str, why: io::Error| {
        format!(
            "{what}: {why}; checks of remote sites, and of real servers in direct and tunnel mode, need a tap device (/dev/net/tun)"
        )
    };
    let tap = Tap::create(NAME).map_err(|why| told("the probe interface cannot be made", why))?;
    tap.set_up().map_err(|why| told("the probe interface cannot be switched on", why))?;
    for family in [V4, V6] {
        let added = address::add(tap.index(), probe_address(family), probe_prefix_len(family));
        // A host without IPv6 has no IPv6 services either.
        if let (Err(why), V4) = (added, family) {
            return Err(told("the probe interface gets no address", why));
        }
    }
    Ok(tap)
}
