//! Sockets on which packets in tunnels come to this host: raw ones for a protocol of IP, UDP ones for GUE.
//!
//! That somebody listens to the protocol also keeps the kernel from answering such packets with "protocol unreachable".

use super::socket::set_option;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

/// The longest datagram.
const LONGEST: usize = 65_536;
/// Datagrams taken in one go.
const BATCH: usize = 32;
/// For what comes while the process does something else, in bytes of kernel memory.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;
/// Room for a traffic class and a count of drops, each with its header.
const CONTROL: usize = 64;
/// Not in `libc`: takes UDP over IPv6 without a checksum, as tunnels may send it (RFC 6935; linux/udp.h).
const UDP_NO_CHECK6_RX: libc::c_int = 102;

/// One socket, bound to one interface.
pub struct TunnelSocket {
    socket: Socket,
    /// What the kernel has told of datagrams that found no room, counted from the socket's beginning; wraps.
    drops: u32,
}

/// Memory for a batch, shared by all sockets of a thread.
pub struct Inbox {
    bytes: Box<[u8]>,
    control: Box<[[u64; CONTROL / 8]; BATCH]>,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox { bytes: vec![0; LONGEST * BATCH].into(), control: Box::new([[0; CONTROL / 8]; BATCH]) }
    }
}

impl TunnelSocket {
    /// Receives the packets of an IP protocol that are addressed to this host and come by `interface`. Over IPv4 they come with
    /// their IP header, over IPv6 without.
    pub fn raw(v4: bool, protocol: u8, interface: &str) -> io::Result<TunnelSocket> {
        let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
        TunnelSocket::prepare(socket, v4, interface)
    }

    /// Receives UDP datagrams at a port of any address of this host.
    pub fn udp(v4: bool, port: u16, interface: &str) -> io::Result<TunnelSocket> {
        let (domain, any) = if v4 {
            (Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        } else {
            (Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        };
        let socket = Socket::new(domain, Type::DGRAM, None)?;
        if !v4 {
            socket.set_only_v6(true)?;
            set_option(&socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_RX, &1i32)?;
        }
        let socket = TunnelSocket::prepare(socket, v4, interface)?;
        socket.socket.bind(&any.into())?;
        Ok(socket)
    }

    fn prepare(socket: Socket, v4: bool, interface: &str) -> io::Result<TunnelSocket> {
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &1i32)?;
        if v4 {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, &1i32)?;
        } else {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, &1i32)?;
        }
        Ok(TunnelSocket { socket, drops: 0 })
    }

    /// Takes what waits, up to a batch: hands each datagram on with its traffic class. Gives whether there may be more, and
    /// how many found no room since the last call.
    pub fn receive(&mut self, inbox: &mut Inbox, mut take: impl FnMut(&mut [u8], u8)) -> (bool, u32) {
        // SAFETY: null pointers and zero lengths: messages of nothing.
        let (mut parts, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { (zeroed(), zeroed()) };
        let buffers = inbox.bytes.chunks_exact_mut(LONGEST).zip(inbox.control.iter_mut());
        for ((part, message), (bytes, control)) in parts.iter_mut().zip(&mut messages).zip(buffers) {
            *part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: LONGEST };
            let message = &mut message.msg_hdr;
            message.msg_iov = part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = CONTROL;
        }
        // SAFETY: the messages lead to `parts` and to the inbox, both alive, writable and as large as they say; no message
        // shares memory with another.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        let before = self.drops;
        for (message, bytes) in messages[..count].iter().zip(inbox.bytes.chunks_exact_mut(LONGEST)) {
            let (class, drops) = read_control(&message.msg_hdr);
            self.drops = drops.unwrap_or(self.drops);
            take(&mut bytes[..(message.msg_len as usize).min(LONGEST)], class);
        }
        (count == BATCH, self.drops.wrapping_sub(before))
    }
}

/// The traffic class, 0 if there is none, and the count of drops if there is one.
fn read_control(message: &libc::msghdr) -> (u8, Option<u32>) {
    let (mut class, mut drops) = (0, None);
    // SAFETY: the kernel has filled in the control buffer that `message` leads to and has set its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers that lie whole inside the buffer, aligned.
        let header = unsafe { &*next };
        // SAFETY: the data follows its header.
        let data = unsafe { libc::CMSG_DATA(next) };
        let whole = header.cmsg_len as usize >= size_of::<libc::cmsghdr>() + 4;
        // SAFETY: four bytes are there, by the header's length; they are an integer in native order.
        let word = || if whole { unsafe { data.cast::<u32>().read_unaligned() } } else { 0 };
        match (header.cmsg_level, header.cmsg_type) {
            // One byte over IPv4.
            // SAFETY: the kernel puts at least one byte there.
            (libc::IPPROTO_IP, libc::IP_TOS) => class = unsafe { *data },
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => class = word() as u8,
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => drops = Some(word()),
            _ => {}
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    (class, drops)
}

impl AsRawFd for TunnelSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
