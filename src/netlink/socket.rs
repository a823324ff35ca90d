//! The two netlink sockets: one that hears what changes, one that asks.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::IpAddr;

/// The kernel fills datagrams of at most 32 KB.
const BUFFER: usize = 64 * 1024;

/// Multicast groups of what a snapshot is made of.
const GROUPS: [u32; 9] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NEXTHOP,
];

/// A message as it came: the payload is not parsed.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// The messages of one datagram; what does not add up ends it.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<16>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let payload = bytes.get(16..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Raw {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        })
    })
}

/// The error that an NLMSG_ERROR or NLMSG_DONE message carries; None: it is a plain acknowledgement.
pub(super) fn error_in(payload: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(*payload.first_chunk()?);
    (code < 0).then(|| io::Error::from_raw_os_error(-code))
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

fn receive<'b>(socket: &Socket, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let len = socket.recv(&mut &mut buffer[..], 0)?;
    Ok(&buffer[..len.min(buffer.len())])
}

/// Hears of changes.
pub(super) struct Events {
    pub socket: Socket,
    buffer: Vec<u8>,
}

impl Events {
    /// `receive_bytes`: how much may wait unread; more than the system's limit is cut to that.
    pub fn open(receive_bytes: usize) -> io::Result<Events> {
        let socket = open()?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(receive_bytes)?;
        for group in GROUPS {
            // A kernel without IPv6 has some of these groups all the same.
            socket.add_membership(group)?;
        }
        Ok(Events { socket, buffer: vec![0; BUFFER] })
    }

    /// The next datagram. `WouldBlock`: nothing waits. ENOBUFS: some were lost.
    pub fn receive(&mut self) -> io::Result<&[u8]> {
        receive(&self.socket, &mut self.buffer)
    }
}

/// Asks. The kernel answers a dump while it is being read, so reading never has to wait.
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    pub fn open() -> io::Result<Requests> {
        Ok(Requests { socket: open()?, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Asks for all objects of the kind of `message`; the answers bear the returned sequence number.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<u32> {
        // An earlier dump that was given up halfway would make the kernel refuse this one; reading on ends it. What else may
        // wait here are refusals of `resolve`, which the next try repeats.
        self.drain(|_| {});
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP);
        self.send(&bytes)?;
        Ok(sequence)
    }

    /// Has the kernel confirm these neighbours, or find them, by ARP or neighbour discovery, as if it had a packet
    /// for them itself. The outcome comes as an event. `(interface index, address)`.
    pub fn resolve(&mut self, neighbors: &[(u32, IpAddr)]) -> io::Result<()> {
        for some in neighbors.chunks(256) {
            let mut bytes = Vec::with_capacity(some.len() * 64);
            for &(ifindex, ip) in some {
                let mut message = NeighbourMessage::default();
                message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                message.header.ifindex = ifindex;
                message.header.flags = NeighbourFlags::Use;
                message.attributes.push(NeighbourAttribute::Destination(match ip {
                    IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
                    IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
                }));
                self.append(&mut bytes, RouteNetlinkMessage::NewNeighbour(message), NLM_F_REQUEST | NLM_F_CREATE);
            }
            self.send(&bytes)?;
        }
        Ok(())
    }

    /// What the kernel said to the last [`Requests::resolve`]; not while a dump is being read.
    pub fn refusal(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        self.drain(|raw| {
            if raw.kind as i32 == libc::NLMSG_ERROR
                && let Some(error) = error_in(raw.payload)
            {
                result = Err(error);
            }
        });
        result
    }

    /// Reads all that waits.
    fn drain(&mut self, mut take: impl FnMut(Raw)) {
        loop {
            match self.receive() {
                Ok(bytes) => messages(bytes).for_each(&mut take),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    pub fn receive(&mut self) -> io::Result<&[u8]> {
        receive(&self.socket, &mut self.buffer)
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }
}
