//! The interface through which health checks enter the data path, so that they go out as clients' connections do: to remote sites
//! from a PIP, which the site at the other end knows for a peer's and never carries on to a third; to real servers that have
//! the VIP by the same MAC address or tunnel.
//!
//! It is a tap device of the process's own. The host's stack has an address on it and connects to *doors* there; each
//! door stands for one target of one service. The device goes with the process, also when that is killed.

use crate::service::build::{probe_address, probe_prefix_len};
use crate::sys::tap::Tap;
use crate::wire::ip::{V4, V6};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::IpAddr;

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
        let added = add_address(tap.index(), probe_address(family), probe_prefix_len(family));
        // A host without IPv6 has no IPv6 services either.
        if let (Err(why), V4) = (added, family) {
            return Err(told("the probe interface gets no address", why));
        }
    }
    Ok(tap)
}

/// Gives an interface an address, usable at once: nobody else can have it on a link that ends in this process.
fn add_address(ifindex: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix_len;
    message.header.index = ifindex;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::NewAddress(message)));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}
