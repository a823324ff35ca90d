//! What the kernel knows of a TCP connection.

use super::socket::get_option;
use std::io;
use std::os::fd::AsFd;

/// Of one connection, since it began.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpInfo {
    /// Segments with data that were sent, those that were sent again among them.
    pub sent: u32,
    /// That had to be sent again.
    pub sent_again: u32,
}

/// `TCP_INFO` of a TCP socket.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    // SAFETY: integers all, for which zeros are values.
    let empty: libc::tcp_info = unsafe { std::mem::zeroed() };
    let info = get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, empty)?;
    Ok(TcpInfo { sent: info.tcpi_data_segs_out, sent_again: info.tcpi_total_retrans })
}
