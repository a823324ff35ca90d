//! What the kernel knows of a TCP connection.

use super::socket::{get_option, set_option};
use std::io;
use std::os::fd::AsFd;

/// Of one connection, since it began.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpInfo {
    /// Segments with data that were sent, those that were sent again among them.
    pub sent: u32,
    /// That had to be sent again.
    pub sent_again: u32,
    /// There and back, the least of the last minutes, in microseconds. 0: not known.
    pub least_us: u32,
}

/// `TCP_INFO` of a TCP socket.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    // SAFETY: integers all, for which zeros are values.
    let empty: libc::tcp_info = unsafe { std::mem::zeroed() };
    let info = get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, empty)?;
    // The kernel has all ones where it has measured nothing.
    let least_us = if info.tcpi_min_rtt == u32::MAX { 0 } else { info.tcpi_min_rtt };
    Ok(TcpInfo { sent: info.tcpi_data_segs_out, sent_again: info.tcpi_total_retrans, least_us })
}

/// Has the kernel keep the first packet of each connection that comes to this listener, for [`hops`].
pub fn keep_first_packets(listener: impl AsFd) -> io::Result<()> {
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, &1i32)
}

/// How many routers the first packet of an accepted connection has passed. It can be asked once. None: it was not kept.
pub fn hops(socket: impl AsFd) -> Option<u8> {
    const IPV6: u8 = 6;
    let packet = get_option(socket, libc::IPPROTO_TCP, libc::TCP_SAVED_SYN, [0u8; 128]).ok()?;
    let left = if packet[0] >> 4 == IPV6 { packet[7] } else { packet[8] };
    hops_of(left)
}

/// How many routers a packet has passed that has so much left to live. Hosts send with 64, 128 or 255, and no way is so long that these
/// could be taken for each other.
pub fn hops_of(left: u8) -> Option<u8> {
    let sent = [64, 128, 255].into_iter().find(|sent| left <= *sent)?;
    (left > 0).then(|| sent - left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_first_packet_tells_how_many_routers_it_passed() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let plain = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(hops(listener.accept().unwrap().0), None, "it was not asked for");
            keep_first_packets(&listener).unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!((hops(&accepted), hops(&accepted)), (Some(0), None));
            stream.write_all(b"x").unwrap();
            assert!(tcp_info(&stream).unwrap().sent >= 1 && tcp_info(&plain).unwrap().sent == 0);
            assert!((1..10_000_000).contains(&tcp_info(&accepted).unwrap().least_us), "the handshake says so");
        }
    }
}
