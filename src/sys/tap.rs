//! A TAP device: an interface of the host whose cable ends in this process.

use crate::sys::abi::VnetHdr;
use std::io;
use std::os::fd::OwnedFd;

/// One end of the cable; the interface goes when it is dropped.
pub struct Tap {
    fd: OwnedFd,
    name: String,
    index: u32,
}

impl Tap {
    /// Creates the interface `name` (at most 15 bytes; "farside%d" lets the kernel number it). It is down and has no address.
    pub fn create(name: &str) -> io::Result<Tap> {
        todo!("{name}")
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Sets the interface's own hardware address.
    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        todo!("{mac:?}")
    }

    pub fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        todo!("{mtu}")
    }

    pub fn set_up(&self) -> io::Result<()> {
        todo!()
    }

    /// Takes one frame the host has sent into `buf`. None: nothing waits.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<Option<(usize, VnetHdr)>> {
        todo!("{buf:?}")
    }

    /// Hands one frame to the host.
    pub fn write(&self, frame: &[u8], header: VnetHdr) -> io::Result<()> {
        todo!("{frame:?} {header:?} {:?}", self.fd)
    }
}
