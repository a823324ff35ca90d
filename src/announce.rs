//! Tells the neighbours where farside's addresses are now, so that routers and hosts that remember another machine (the
//! failed one of a pair, an earlier server) send here at once: gratuitous ARP, unsolicited neighbour advertisements.
//!
//! An address is announced on one interface: that whose connected network holds it, else that of the route toward it,
//! because that is where the machines are that resolve it; elsewhere the announcement would at best be noise, and on
//! a second interface in the same network it would set two MACs against each other. Addresses that the host owns are
//! left to the host.

use crate::route::{Fib, PortInfo};
use pnet_base::MacAddr;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, MutableArpPacket};
use pnet_packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet_packet::icmpv6::ndp::{MutableNeighborAdvertPacket, NdpOption, NdpOptionTypes, NeighborAdvertFlags};
use pnet_packet::icmpv6::{Icmpv6Code, Icmpv6Packet, Icmpv6Types};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::MutableIpv6Packet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// One announcement may be lost; three at this distance are what RFC 4861 allows at most.
const TIMES: u8 = 3;
const EVERY: Duration = Duration::from_secs(1);

struct Due {
    ip: IpAddr,
    at: Instant,
    left: u8,
}

/// The control side: [`Announcer::announce`] at start, on reload for new addresses, and when an interface came back;
/// [`Announcer::tick`] at [`Announcer::next_deadline`].
pub struct Announcer {
    socket: socket2::Socket,
    due: Vec<Due>,
}

impl Announcer {
    /// # Errors
    /// No packet socket could be had: CAP_NET_RAW is missing.
    pub fn new() -> io::Result<Announcer> {
        // Protocol 0: this socket only sends, nothing is copied to it.
        let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        Ok(Announcer { socket, due: Vec::new() })
    }

    /// Announces `addresses` now (with the next tick) and twice more.
    pub fn announce(&mut self, addresses: &[IpAddr], now: Instant) {
        for &ip in addresses {
            self.due.retain(|due| due.ip != ip);
            self.due.push(Due { ip, at: now, left: TIMES });
        }
    }

    /// These are farside's no more.
    pub fn forget(&mut self, addresses: &[IpAddr]) {
        self.due.retain(|due| !addresses.contains(&due.ip));
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.iter().map(|due| due.at).min()
    }

    /// Sends what is due.
    pub fn tick(&mut self, fib: &Fib, now: Instant) {
        for due in self.due.iter_mut().filter(|due| due.at <= now) {
            if let (Err(error), TIMES) = (send(&self.socket, fib, due.ip), due.left) {
                tracing::warn!("cannot announce {}: {error}", due.ip);
            }
            due.left -= 1;
            due.at = now + EVERY;
        }
        self.due.retain(|due| due.left > 0);
    }
}

fn send(socket: &socket2::Socket, fib: &Fib, ip: IpAddr) -> io::Result<()> {
    if fib.host_owns(&ip.into(), crate::wire::ip::family_of(ip)) {
        return Ok(());
    }
    let Some(port) = fib.port_toward(ip).and_then(|port| fib.port(port)) else {
        return Err(io::Error::other("no interface of farside's leads to it"));
    };
    if !port.up {
        return Err(io::Error::other(format!("interface {} is down", port.name)));
    }
    for frame in frames(port, ip) {
        socket.send_to(&frame, &crate::sys::link::link_address(port.ifindex))?;
    }
    Ok(())
}

fn frames(port: &PortInfo, ip: IpAddr) -> Vec<Vec<u8>> {
    let mac = port.mac.into();
    match ip {
        // Some machines learn from requests only, some from replies only.
        IpAddr::V4(ip) => vec![arp(mac, ip, ArpOperations::Request), arp(mac, ip, ArpOperations::Reply)],
        IpAddr::V6(ip) => vec![advertisement(mac, ip)],
    }
}

const ETHERNET: usize = 14;
const ARP: usize = 28;
const IPV6: usize = 40;
/// Header of 24 bytes and the link-layer address option of 8.
const ADVERTISEMENT: usize = 32;

fn ethernet(len: usize, src: MacAddr, dst: MacAddr, kind: EtherType) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + len];
    if let Some(mut header) = MutableEthernetPacket::new(&mut frame) {
        header.set_source(src);
        header.set_destination(dst);
        header.set_ethertype(kind);
    }
    frame
}

/// RFC 5227, 3 (request form), and its twin as a reply.
fn arp(mac: MacAddr, ip: Ipv4Addr, operation: ArpOperation) -> Vec<u8> {
    let mut frame = ethernet(ARP, mac, MacAddr::broadcast(), EtherTypes::Arp);
    if let Some(mut packet) = MutableArpPacket::new(&mut frame[ETHERNET..]) {
        packet.set_hardware_type(ArpHardwareTypes::Ethernet);
        packet.set_protocol_type(EtherTypes::Ipv4);
        packet.set_hw_addr_len(6);
        packet.set_proto_addr_len(4);
        packet.set_operation(operation);
        packet.set_sender_hw_addr(mac);
        packet.set_sender_proto_addr(ip);
        packet.set_target_hw_addr(if operation == ArpOperations::Reply { mac } else { MacAddr::zero() });
        packet.set_target_proto_addr(ip);
    }
    frame
}

/// RFC 4861, 7.2.6: to all nodes, unsolicited, overriding what they have.
fn advertisement(mac: MacAddr, ip: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut frame = ethernet(IPV6 + ADVERTISEMENT, mac, MacAddr::new(0x33, 0x33, 0, 0, 0, 1), EtherTypes::Ipv6);
    if let Some(mut header) = MutableIpv6Packet::new(&mut frame[ETHERNET..]) {
        header.set_version(6);
        header.set_payload_length(ADVERTISEMENT as u16);
        header.set_next_header(IpNextHeaderProtocols::Icmpv6);
        header.set_hop_limit(255);
        header.set_source(ip);
        header.set_destination(ALL_NODES);
    }
    let body = &mut frame[ETHERNET + IPV6..];
    if let Some(mut packet) = MutableNeighborAdvertPacket::new(body) {
        packet.set_icmpv6_type(Icmpv6Types::NeighborAdvert);
        packet.set_icmpv6_code(Icmpv6Code(0));
        packet.set_flags(NeighborAdvertFlags::Override);
        packet.set_target_addr(ip);
        packet.set_options(&[NdpOption {
            option_type: NdpOptionTypes::TargetLLAddr,
            length: 1,
            data: mac.octets().to_vec(),
        }]);
    }
    let sum = Icmpv6Packet::new(body).map_or(0, |packet| pnet_packet::icmpv6::checksum(&packet, &ip, &ALL_NODES));
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests;
