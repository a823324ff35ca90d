//! The sockets that queries come to: for each address one of UDP per thread, among which the kernel spreads clients, and one of TCP.

use crate::config::file::io_words;
use crate::sys::datagrams::ignore_path_mtu;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// Room for queries that wait for their thread, in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Connections that wait to be taken.
const BACKLOG: i32 = 4096;

/// All sockets.
pub struct Listeners {
    /// Each thread's, in the order of the addresses.
    pub udp: Vec<Vec<UdpSocket>>,
    pub tcp: Vec<TcpListener>,
}

/// Opens them all; an address that this host does not have yet will do. The error is a sentence.
pub fn open(addresses: &[SocketAddr], threads: usize) -> Result<Listeners, String> {
    let told = |address: &SocketAddr, way: &str, why: io::Error| {
        let hint = match why.kind() {
            io::ErrorKind::AddrInUse => "; another name server has it (`ss -lnptu` shows which)",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
            _ => "",
        };
        format!("[dns] listen: {address} cannot be had for {way}: {}{hint}", io_words(&why))
    };
    let mut udp: Vec<Vec<UdpSocket>> = (0..threads).map(|_| Vec::new()).collect();
    let mut tcp = Vec::new();
    for address in addresses {
        // The port is asked for alone first: sockets that share it would share it with another process of this user's too.
        drop(datagram(*address, false).map_err(|why| told(address, "UDP", why))?);
        for sockets in &mut udp {
            sockets.push(datagram(*address, true).map_err(|why| told(address, "UDP", why))?);
        }
        tcp.push(stream(*address).map_err(|why| told(address, "TCP", why))?);
    }
    Ok(Listeners { udp, tcp })
}

/// Lets a socket be bound to an address that this host does not have yet.
pub(super) fn bind_freely(socket: &Socket, ipv6: bool) -> io::Result<()> {
    if ipv6 { socket.set_freebind_v6(true) } else { socket.set_freebind_v4(true) }
}

fn bound(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    bind_freely(&socket, address.is_ipv6())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn datagram(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = bound(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(shared)?;
    ignore_path_mtu(&socket, address.is_ipv6())?;
    // As much as the host permits.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn stream(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address, Type::STREAM, Protocol::TCP)?;
    // Connections of a farside before this one may take their leave still.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_told() {
        // Below the ports that are given to who asks for any: nobody else takes it when it is free again.
        let address: SocketAddr = "127.99.7.1:10053".parse().unwrap();
        let other = UdpSocket::bind(address).unwrap();
        let error = open(&[address], 2).err().unwrap();
        assert!(error.starts_with(&format!("[dns] listen: {address} cannot be had for UDP: ")), "{error}");
        assert!(error.contains("another name server has it"), "{error}");
        drop(other);
        let listeners = open(&[address], 2).unwrap();
        assert_eq!((listeners.udp.len(), listeners.udp[1].len(), listeners.tcp.len()), (2, 1, 1));
        let shared = open(&[address], 1).err().unwrap();
        assert!(shared.contains("cannot be had for UDP"), "{shared}");
    }

    #[test]
    fn an_address_may_come_later() {
        let address = "192.0.2.77:5353".parse().unwrap();
        assert!(open(&[address], 1).is_ok());
    }
}
