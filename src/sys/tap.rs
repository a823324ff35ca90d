//! A TAP or TUN device: an interface of the host whose cable ends in this process.

use super::abi::{VNET_HDR_LEN, VnetHdr};
use super::socket::{hardware_address, ifreq, interface_index, ioctl, ioctl_socket};
use std::ffi::CStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

/// One end of the cable; the interface goes when it is dropped, or when the process ends.
pub struct Tap {
    fd: OwnedFd,
    name: String,
    index: u32,
}

impl Tap {
    /// Creates the interface `name` (at most 15 bytes; "farside%d" lets the kernel number it). It is down and has no address.
    /// What the host sends by it is complete (no partial checksums, no joined segments); what it is handed need not be.
    pub fn create(name: &str) -> io::Result<Tap> {
        Tap::open(name, libc::IFF_TAP, "TAP")
    }

    /// As [`Tap::create`], but what goes through it are IP packets without an Ethernet header.
    pub fn create_tun(name: &str) -> io::Result<Tap> {
        Tap::open(name, libc::IFF_TUN, "TUN")
    }

    fn open(name: &str, kind: libc::c_int, word: &str) -> io::Result<Tap> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|error| io::Error::new(error.kind(), format!("cannot open /dev/net/tun: {error}")))?;
        let fd = OwnedFd::from(file);
        let mut request = ifreq(name)?;
        request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        ioctl(fd.as_fd(), libc::TUNSETIFF, &mut request).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot create the {word} device {name}: {error}"))
        })?;
        // SAFETY: the kernel has written the name it chose, and a zero behind it.
        let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) }.to_string_lossy().into_owned();
        let index = interface_index(&name)?;
        Ok(Tap { fd, name, index })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Sets the interface's own hardware address, the one that frames handed to the host must be sent to.
    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        let mut request = ifreq(&self.name)?;
        // SAFETY: integers; zeroes are fine.
        let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        ioctl(ioctl_socket()?.as_fd(), libc::SIOCSIFHWADDR, &mut request)
    }

    /// The interface's own hardware address.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        hardware_address(&self.name)
    }

    pub fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        let mut request = ifreq(&self.name)?;
        request.ifr_ifru.ifru_mtu = mtu as i32;
        ioctl(ioctl_socket()?.as_fd(), libc::SIOCSIFMTU, &mut request)
    }

    pub fn set_up(&self) -> io::Result<()> {
        let socket = ioctl_socket()?;
        let mut request = ifreq(&self.name)?;
        ioctl(socket.as_fd(), libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has filled in the flags.
        unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16 };
        ioctl(socket.as_fd(), libc::SIOCSIFFLAGS, &mut request)
    }

    /// Gives a TUN device an address of its own, alone in its network (/32, /128). `number`: tells the device's IPv4 addresses
    /// apart, 0 for the first.
    pub fn add_address(&self, address: IpAddr, number: usize) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => {
                let label = if number == 0 { self.name.clone() } else { format!("{}:{number}", self.name) };
                let mut request = ifreq(&label)?;
                // SAFETY: integers; zeroes are fine.
                let mut place: libc::sockaddr_in = unsafe { std::mem::zeroed() };
                place.sin_family = libc::AF_INET as u16;
                place.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
                // SAFETY: both are 16 bytes of integers.
                request.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(place) };
                ioctl(ioctl_socket()?.as_fd(), libc::SIOCSIFADDR, &mut request)
            }
            IpAddr::V6(_) => super::address::add(self.index, address, 128),
        }
    }

    /// Takes one frame that the host has sent into `buf`; what does not fit is lost. None: nothing waits, or the interface is
    /// down.
    pub fn read(&self, buf: &mut [u8]) -> Option<(usize, VnetHdr)> {
        let mut header = VnetHdr::default();
        let parts = [
            libc::iovec { iov_base: (&raw mut header).cast(), iov_len: VNET_HDR_LEN },
            libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() },
        ];
        // SAFETY: both parts are writable and as large as we say.
        let read = unsafe { libc::readv(self.fd.as_raw_fd(), parts.as_ptr(), 2) };
        let len = usize::try_from(read).ok()?.checked_sub(VNET_HDR_LEN)?;
        Some((len.min(buf.len()), header))
    }

    /// Hands one frame to the host. False: the interface is down, or the frame is malformed.
    pub fn write(&self, frame: &[u8], header: VnetHdr) -> bool {
        let parts = [
            libc::iovec { iov_base: (&raw const header).cast_mut().cast(), iov_len: VNET_HDR_LEN },
            libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() },
        ];
        // SAFETY: both parts are readable and as large as we say; writev does not write to them.
        unsafe { libc::writev(self.fd.as_raw_fd(), parts.as_ptr(), 2) >= 0 }
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
