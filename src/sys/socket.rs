//! Packet sockets and interfaces.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

/// Keeps an interface listening to the solicited-node multicast groups of some addresses, until it is dropped.
pub struct SolicitedNodes {
    _socket: OwnedFd,
}

impl SolicitedNodes {
    pub fn join(interface: &str, addresses: &[Ipv6Addr]) -> io::Result<SolicitedNodes> {
        todo!("{interface} {addresses:?}")
    }
}
