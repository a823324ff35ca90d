//! Packet sockets and interfaces.

use super::abi::{VNET_HDR_LEN, VnetHdr};
use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most messages of one [`PacketSocket::send_messages`].
pub const MESSAGES: usize = 128;

/// Room for what a worker may have on its way, in bytes of kernel memory: 128 frames of 64 KB, each counted with its overhead.
const SEND_BUFFER: libc::c_int = 32 << 20;

/// A group has its own word on outgoing frames; that of its sockets does not count.
const FANOUT: u32 = libc::PACKET_FANOUT_EBPF | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;

/// The index of an interface by its name.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let c_name = c_string(name)?;
    // SAFETY: `c_name` is a C string.
    match unsafe { libc::if_nametoindex(c_name.as_ptr()) } {
        0 => {
            let error = io::Error::last_os_error();
            Err(io::Error::new(error.kind(), format!("interface {name} does not exist: {error}")))
        }
        index => Ok(index),
    }
}

fn c_string(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a name")))
}

/// The interface's MTU; an error if it is none that carries Ethernet frames.
pub fn ethernet_mtu(name: &str) -> io::Result<usize> {
    let mut request = ifreq(name)?;
    let socket = ioctl_socket()?;
    ioctl(socket.as_fd(), libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: SIOCGIFHWADDR has filled in the address.
    let kind = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
    if kind != libc::ARPHRD_ETHER {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("interface {name} is not an Ethernet interface (its type is {kind})"),
        ));
    }
    ioctl(socket.as_fd(), libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: SIOCGIFMTU has filled in the MTU.
    Ok(unsafe { request.ifr_ifru.ifru_mtu } as usize)
}

/// The interface's own hardware address.
pub fn hardware_address(name: &str) -> io::Result<[u8; 6]> {
    let mut request = ifreq(name)?;
    ioctl(ioctl_socket()?.as_fd(), libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: SIOCGIFHWADDR has filled in the address.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|i| data[i] as u8))
}

/// A socket of no meaning but to ask about interfaces.
pub(super) fn ioctl_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
}

pub(super) fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: integers and unions of integers; zeroes are fine.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not an interface's name")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

pub(super) fn ioctl(fd: BorrowedFd<'_>, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: `request` is an ifreq, and all codes used here read and write no more than one.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), code, request) }).map(|_| ())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Sets an option of any socket. `T`: as the option has it in the kernel's headers.
pub(super) fn set_option<T>(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let (fd, len) = (socket.as_fd().as_raw_fd(), size_of::<T>() as libc::socklen_t);
    // SAFETY: `value` is readable and as large as we say.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const *value).cast(), len) }).map(|_| ())
}

/// Reads an option of any socket over `value`, which stays as it is where the kernel has less to say. `T`: as the option has it in the
/// kernel's headers, plain integers, any bytes of which are a value.
pub(super) fn get_option<T: Copy>(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    mut value: T,
) -> io::Result<T> {
    let (fd, mut len) = (socket.as_fd().as_raw_fd(), size_of::<T>() as libc::socklen_t);
    // SAFETY: `value` is writable and as large as we say.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &mut len) })?;
    Ok(value)
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A raw packet socket with PACKET_VNET_HDR. It receives nothing before [`PacketSocket::bind`].
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    pub fn new() -> io::Result<PacketSocket> {
        // Protocol 0: nothing is received until it is bound to one.
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
        let socket = owned(fd).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                io::Error::new(error.kind(), format!("packet sockets need CAP_NET_RAW (run as root): {error}"))
            }
            _ => error,
        })?;
        let socket = PacketSocket { fd: socket };
        // Before the rings: it decides what lies in a slot.
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V2)?;
        // Otherwise workers see what other workers send.
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32)?;
        socket.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER)?;
        Ok(socket)
    }

    pub(super) fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        set_option(&self.fd, level, name, value)
    }

    /// `T`: plain integers, any bytes of which are a value.
    fn get<T: Copy + Default>(&self, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
        get_option(&self.fd, level, name, T::default())
    }

    /// Lets nothing pass until [`PacketSocket::set_filter`].
    pub fn reject_all(&self) -> io::Result<()> {
        let mut instruction = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
        let program = libc::sock_fprog { len: 1, filter: &mut instruction };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    /// Puts a BPF socket filter in the place of the present one.
    pub fn set_filter(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &program.as_raw_fd())
    }

    /// Ties the socket to an interface. With `receive` all frames that come in pass its filter; without, it sends only.
    pub fn bind(&self, interface: u32, receive: bool) -> io::Result<()> {
        // SAFETY: integers; zeroes are fine.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = if receive { (libc::ETH_P_ALL as u16).to_be() } else { 0 };
        address.sll_ifindex = interface as i32;
        // SAFETY: `address` is readable and as large as we say.
        check(unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })
        .map(|_| ())
    }

    /// Founds a fanout group among which `program` chooses, and gives its id. The founder is member 0, those
    /// who join are numbered as they come.
    pub fn found_fanout(&self, program: BorrowedFd<'_>) -> io::Result<u16> {
        let unique = libc::PACKET_FANOUT_FLAG_UNIQUEID;
        self.set(libc::SOL_PACKET, libc::PACKET_FANOUT, &((FANOUT | unique) << 16)).map_err(|error| {
            match error.kind() {
                // Older kernels want the interface up for this.
                io::ErrorKind::InvalidInput => {
                    io::Error::new(error.kind(), format!("no fanout group (is it up?): {error}"))
                }
                _ => error,
            }
        })?;
        self.set(libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, &program.as_raw_fd())?;
        let id: u32 = self.get(libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        Ok(id as u16)
    }

    pub fn join_fanout(&self, id: u16) -> io::Result<()> {
        self.set(libc::SOL_PACKET, libc::PACKET_FANOUT, &(FANOUT << 16 | u32::from(id)))
    }

    /// Frames that passed the filter and frames of those that found no room, both since the last call.
    pub fn statistics(&self) -> io::Result<(u32, u32)> {
        let [packets, drops]: [u32; 2] = self.get(libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
        Ok((packets, drops))
    }

    /// The error that the kernel has noted (ENETDOWN, when the interface goes down), which `poll` reports until it is taken.
    pub fn take_error(&self) {
        let _: io::Result<i32> = self.get(libc::SOL_SOCKET, libc::SO_ERROR);
    }

    /// Sends frames in order, each copied by the kernel before this returns; at most [`MESSAGES`] of them. Gives the number
    /// of those that the kernel refused; it never blocks.
    pub fn send_messages<'a>(&self, scratch: &mut Messages, frames: impl Iterator<Item = (VnetHdr, &'a [u8])>) -> u64 {
        let mut count = 0;
        for ((header, bytes), i) in frames.zip(0..MESSAGES) {
            scratch.headers[i] = header;
            scratch.parts[i] = [
                libc::iovec { iov_base: (&raw mut scratch.headers[i]).cast(), iov_len: VNET_HDR_LEN },
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() },
            ];
            let message = &mut scratch.messages[i].msg_hdr;
            message.msg_iov = scratch.parts[i].as_mut_ptr();
            message.msg_iovlen = 2;
            count = i + 1;
        }
        let mut refused = 0;
        let mut told = false;
        let mut next = 0;
        while next < count {
            let rest = &mut scratch.messages[next..count];
            // SAFETY: the messages lead to `headers` and `parts` in `scratch`, which is borrowed throughout, and to
            // frames that live for 'a; the kernel only reads what iovecs of a send point to.
            let sent = unsafe {
                libc::sendmmsg(self.fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT)
            };
            if sent > 0 {
                next += sent as usize;
                continue;
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                // It was down once and the socket still says so: said, it is forgotten.
                Some(libc::ENETDOWN) if !told => told = true,
                // The interface is down or gone: the others will not fare better.
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                    refused += (count - next) as u64;
                    break;
                }
                // This frame is one too many or too long; the next may be smaller.
                _ => {
                    refused += 1;
                    next += 1;
                }
            }
        }
        refused
    }

    /// Has the kernel send what is in the transmit ring. False: it stopped early.
    pub(super) fn kick(&self) -> bool {
        // SAFETY: no data is passed; the kernel looks into the ring.
        unsafe { libc::send(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT) >= 0 }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Scratch memory of [`PacketSocket::send_messages`], so that it takes none. Its pointers mean something only inside.
pub struct Messages {
    headers: Box<[VnetHdr; MESSAGES]>,
    parts: Box<[[libc::iovec; 2]; MESSAGES]>,
    messages: Box<[libc::mmsghdr; MESSAGES]>,
}

// SAFETY: the raw pointers inside are written anew by each call before the kernel sees them.
unsafe impl Send for Messages {}

impl Default for Messages {
    fn default() -> Messages {
        // SAFETY: null pointers and zero lengths: messages of nothing.
        let (parts, messages) = unsafe { (zeroed(), zeroed()) };
        Messages {
            headers: Box::new([VnetHdr::default(); MESSAGES]),
            parts: Box::new(parts),
            messages: Box::new(messages),
        }
    }
}

/// Keeps an interface listening to the solicited-node multicast groups of some addresses (RFC 4291, 2.7.1), until it is
/// dropped. Also tells switches that snoop on MLD.
pub struct SolicitedNodes {
    _socket: OwnedFd,
}

impl SolicitedNodes {
    pub fn join(interface: &str, addresses: &[Ipv6Addr]) -> io::Result<SolicitedNodes> {
        let index = interface_index(interface)?;
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None)?;
        let mut groups: Vec<Ipv6Addr> = addresses.iter().map(solicited_node).collect();
        groups.sort();
        groups.dedup();
        for group in groups {
            socket.join_multicast_v6(&group, index).map_err(|error| {
                io::Error::new(error.kind(), format!("interface {interface} does not join group {group}: {error}"))
            })?;
        }
        Ok(SolicitedNodes { _socket: socket.into() })
    }
}

fn solicited_node(address: &Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solicited_node_groups_are_those_of_rfc_4291() {
        let address: Ipv6Addr = "4037::01:800:200e:8c6c".parse().unwrap();
        assert_eq!(solicited_node(&address), "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn unknown_interfaces_are_named() {
        let error = interface_index("fsdev-none").unwrap_err().to_string();
        assert!(error.starts_with("interface fsdev-none does not exist"), "{error}");
    }
}
