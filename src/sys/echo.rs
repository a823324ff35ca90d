//! Sockets for ICMP echoes to many, which tell of each message who sent it and what it had left to live.

use super::socket::set_option;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, ErrorKind};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

const ECHO_REPLY: u32 = 0;
const ECHO_REPLY_V6: usize = 129;

/// The name of ICMP_FILTER and that of ICMP6_FILTER (RFC 3542 3.2), which libc has not.
const FILTER: libc::c_int = 1;

pub struct EchoSocket {
    socket: Socket,
    /// It gets IPv4 packets with their header.
    has_headers: bool,
}

/// An ICMP message that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    pub from: IpAddr,
    /// Of its TTL or hop limit.
    pub left: Option<u8>,
    /// Where in the buffer it begins, and its bytes.
    pub at: usize,
    pub length: usize,
}

impl EchoSocket {
    /// `source`: the address that echoes are sent from; an unspecified one leaves it to the host, and says of which family. It never
    /// blocks. A ping socket where net.ipv4.ping_group_range permits it, or else a raw one, which needs CAP_NET_RAW.
    pub fn open(source: IpAddr) -> io::Result<EchoSocket> {
        let v4 = source.is_ipv4();
        let (domain, protocol) = if v4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
        let open = |kind: Type| Socket::new(domain, kind.nonblocking(), Some(protocol));
        let (socket, raw) = match open(Type::DGRAM) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => (open(Type::RAW)?, true),
            result => (result?, false),
        };
        let (level, name) =
            if v4 { (libc::IPPROTO_IP, libc::IP_RECVTTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) };
        set_option(&socket, level, name, &1i32)?;
        // A raw socket gets all ICMP messages that come to the host; a bit that is set keeps one out.
        if raw && v4 {
            set_option(&socket, libc::SOL_RAW, FILTER, &!(1u32 << ECHO_REPLY))?;
        } else if raw {
            let mut filter = [u32::MAX; 8];
            filter[ECHO_REPLY_V6 / 32] = !(1 << (ECHO_REPLY_V6 % 32));
            set_option(&socket, libc::IPPROTO_ICMPV6, FILTER, &filter)?;
        }
        if !source.is_unspecified() {
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        Ok(EchoSocket { socket, has_headers: raw && v4 })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Sends an ICMP message. Errors are those of the way there: no route, a full queue.
    pub fn send(&self, message: &[u8], to: IpAddr) -> io::Result<()> {
        self.socket.send_to(message, &SockAddr::from(SocketAddr::new(to, 0))).map(|_| ())
    }

    /// The next message. [`ErrorKind::WouldBlock`]: there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Came> {
        // SAFETY: an address of no family, as an integer array and plain numbers may be zero.
        let mut sender: libc::sockaddr_storage = unsafe { zeroed() };
        // In words, for the alignment that the kernel's headers in it have.
        let mut control = [0u64; 16];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: null pointers and lengths of 0: a message of nothing.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = (&raw mut sender).cast();
        message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: all that the message leads to is this function's, or borrowed mutably by it, and as long as is said beside it.
        let length = unsafe { libc::recvmsg(self.fd(), &mut message, libc::MSG_DONTWAIT) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let from = address(&sender).ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?;
        let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let left = time_to_live(bytes.get(..message.msg_controllen).unwrap_or_default());
        let at = match buffer.first() {
            Some(first) if self.has_headers => usize::from(first & 0xf) * 4,
            _ => 0,
        };
        Ok(Came { from, left, at: at.min(length), length: length.saturating_sub(at) })
    }
}

fn address(storage: &libc::sockaddr_storage) -> Option<IpAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel has written an address of this family, which fits into the storage.
            let address: &libc::sockaddr_in = unsafe { &*(&raw const *storage).cast() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address: &libc::sockaddr_in6 = unsafe { &*(&raw const *storage).cast() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// Of what the kernel says beside a message (cmsg(3)): a length of all, a level and a kind, then the data, each at a multiple of 8.
fn time_to_live(mut control: &[u8]) -> Option<u8> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    while let Some((head, _)) = control.split_at_checked(HEAD) {
        let length = usize::from_ne_bytes(head[..size_of::<usize>()].try_into().ok()?);
        let number = |at: usize| head[at..at + 4].try_into().map_or(0, i32::from_ne_bytes);
        let kind = (number(HEAD - 8), number(HEAD - 4));
        let data = control.get(HEAD..length)?;
        if [(libc::IPPROTO_IP, libc::IP_TTL), (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT)].contains(&kind) {
            let value = data.get(..4)?.try_into().map_or(0, i32::from_ne_bytes);
            return u8::try_from(value).ok();
        }
        control = control.get(length.next_multiple_of(8)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_comes_back_with_what_it_has_left_to_live() {
        for (host, kind) in [("127.0.0.1", 8), ("::1", 128)] {
            let host: IpAddr = host.parse().unwrap();
            let socket = EchoSocket::open(host).unwrap();
            // Type, code, checksum (right for IPv4, the kernel's matter for IPv6), identifier, number, data.
            let sum = (!(0x0800u16 + 0x1234 + 1 + 0x6162)).to_be_bytes();
            socket.send(&[kind, 0, sum[0], sum[1], 0x12, 0x34, 0, 1, b'a', b'b'], host).unwrap();
            let mut buffer = [0; 256];
            let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
            let came = loop {
                match socket.receive(&mut buffer) {
                    Ok(came) if buffer[came.at..].get(8..10) == Some(b"ab") => break came,
                    other => assert!(std::time::Instant::now() < end, "{other:?}"),
                }
            };
            assert_eq!((came.from, came.left, came.length), (host, Some(64), 10));
        }
    }
}
