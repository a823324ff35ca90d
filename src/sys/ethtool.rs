//! What a driver says of itself (linux/ethtool.h).

use super::socket::{ifreq, ioctl, ioctl_socket};
use std::io;
use std::os::fd::AsFd;

const ETHTOOL_GCHANNELS: u32 = 0x3c;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    most: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// The number of an interface's receive queues; 1 where the driver has no word for it.
pub fn receive_queues(name: &str) -> io::Result<u32> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let mut request = ifreq(name)?;
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    match ioctl(ioctl_socket()?.as_fd(), SIOCETHTOOL, &mut request) {
        Ok(()) => Ok((channels.rx + channels.combined).max(1)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
        Err(error) => Err(error),
    }
}
