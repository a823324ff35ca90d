//! UDP in batches: up to [`BATCH`] datagrams with one system call in, their answers with one out.

use super::socket::set_option;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

/// Datagrams of one batch.
pub const BATCH: usize = 64;

/// The longest datagram that is taken, and the longest that is sent, in bytes.
pub const ROOM: usize = 4096;

/// Room for one datagram, and a cache line more: at a distance of a power of two all datagrams of a batch would begin in the same few
/// places of a processor's cache, and push each other out.
#[derive(Clone, Copy)]
struct Row {
    bytes: [u8; ROOM],
    _apart: [u8; 64],
}

const EMPTY: Row = Row { bytes: [0; ROOM], _apart: [0; 64] };

/// Memory for one batch, taken once.
pub struct Datagrams {
    received: Box<[Row; BATCH]>,
    answers: Box<[Row; BATCH]>,
    senders: Box<[libc::sockaddr_storage; BATCH]>,
    parts: Box<[libc::iovec; BATCH]>,
    messages: Box<[libc::mmsghdr; BATCH]>,
    /// Of each datagram of the batch.
    lengths: [usize; BATCH],
    /// Bytes of each answer; 0: none.
    answered: [usize; BATCH],
    count: usize,
}

// SAFETY: the raw pointers inside are written anew by each call before the kernel sees them.
unsafe impl Send for Datagrams {}

impl Default for Datagrams {
    fn default() -> Datagrams {
        // SAFETY: null pointers, zero lengths and addresses of no family: messages of nothing.
        let (senders, parts, messages) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Datagrams {
            received: boxed(),
            answers: boxed(),
            senders: Box::new(senders),
            parts: Box::new(parts),
            messages: Box::new(messages),
            lengths: [0; BATCH],
            answered: [0; BATCH],
            count: 0,
        }
    }
}

/// Straight onto the heap: a stack need not have room for it.
fn boxed() -> Box<[Row; BATCH]> {
    let rows: Box<[Row]> = vec![EMPTY; BATCH].into();
    rows.try_into().unwrap_or_else(|_| Box::new([EMPTY; BATCH]))
}

impl Datagrams {
    /// Takes what waits at the socket, without waiting. How many datagrams there are now; none too if the socket has an error
    /// to tell, which is thereby told.
    pub fn receive(&mut self, socket: impl AsFd) -> usize {
        for i in 0..BATCH {
            self.parts[i] = libc::iovec { iov_base: self.received[i].bytes.as_mut_ptr().cast(), iov_len: ROOM };
            let message = &mut self.messages[i].msg_hdr;
            message.msg_name = (&raw mut self.senders[i]).cast();
            message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            message.msg_iov = &raw mut self.parts[i];
            message.msg_iovlen = 1;
            message.msg_control = std::ptr::null_mut();
            message.msg_controllen = 0;
            message.msg_flags = 0;
        }
        // SAFETY: the messages lead to `senders`, `parts` and `received`, which are ours and borrowed mutably throughout; the
        // kernel writes no further than the lengths that stand beside the pointers.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.count = usize::try_from(count).unwrap_or(0);
        for i in 0..self.count {
            self.lengths[i] = self.messages[i].msg_len as usize;
            self.answered[i] = 0;
        }
        self.count
    }

    /// The i-th datagram of the batch and its sender. None: it is cut off, or its sender cannot be answered.
    pub fn datagram(&self, i: usize) -> Option<(&[u8], SocketAddr)> {
        let cut = self.messages[i].msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let sender = self.sender(i).filter(|sender| sender.port() != 0 && !cut)?;
        Some((self.message(i), sender))
    }

    /// The i-th datagram's bytes, as far as they came.
    pub fn message(&self, i: usize) -> &[u8] {
        &self.received[i].bytes[..self.lengths[i]]
    }

    /// The i-th datagram, and room for its answer beside it.
    pub fn exchange(&mut self, i: usize) -> (&mut [u8], &mut [u8; ROOM]) {
        (&mut self.received[i].bytes[..self.lengths[i]], &mut self.answers[i].bytes)
    }

    /// The answer to the i-th has so many bytes.
    pub fn answer(&mut self, i: usize, length: usize) {
        self.answered[i] = length.min(ROOM);
    }

    fn sender(&self, i: usize) -> Option<SocketAddr> {
        let storage = &self.senders[i];
        match i32::from(storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the kernel has written an address of this family, which fits into the storage.
                let address: &libc::sockaddr_in = unsafe { &*(&raw const *storage).cast() };
                let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let address: &libc::sockaddr_in6 = unsafe { &*(&raw const *storage).cast() };
                let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), 0, address.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// Sends the batch's answers by the socket that it came by, without waiting. How many the kernel refused.
    pub fn send(&mut self, socket: impl AsFd) -> u64 {
        let mut count = 0;
        for i in 0..self.count {
            if self.answered[i] == 0 {
                continue;
            }
            self.parts[count] =
                libc::iovec { iov_base: self.answers[i].bytes.as_mut_ptr().cast(), iov_len: self.answered[i] };
            let long = match i32::from(self.senders[i].ss_family) {
                libc::AF_INET => size_of::<libc::sockaddr_in>(),
                _ => size_of::<libc::sockaddr_in6>(),
            };
            let message = &mut self.messages[count].msg_hdr;
            message.msg_name = (&raw mut self.senders[i]).cast();
            message.msg_namelen = long as libc::socklen_t;
            message.msg_iov = &raw mut self.parts[count];
            message.msg_iovlen = 1;
            message.msg_control = std::ptr::null_mut();
            message.msg_controllen = 0;
            message.msg_flags = 0;
            count += 1;
        }
        self.count = 0;
        let (mut next, mut refused) = (0, 0);
        while next < count {
            let rest = &mut self.messages[next..count];
            // SAFETY: the messages lead to `senders`, `parts` and `answers`, which are ours and borrowed throughout; the kernel
            // only reads what messages of a send point to.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_fd().as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as u32,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            if sent > 0 {
                next += sent as usize;
            } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                // This one does not go, or it was told here that an earlier one did not arrive: the next may.
                refused += 1;
                next += 1;
            }
        }
        refused
    }
}

/// Has a UDP socket send answers whatever it believes of the path's MTU: they are small, and may be cut on their way, but a forged ICMP
/// message must not make the kernel refuse them.
pub fn ignore_path_mtu(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, option, value) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
    };
    set_option(socket, level, option, &value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    /// Both families: each client gets the answer to its own datagram, from the address that it asked.
    #[test]
    fn answers_go_to_who_asked() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(address).unwrap();
            ignore_path_mtu(&server, address.starts_with('[')).unwrap();
            let clients: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind(address).unwrap()).collect();
            for (n, client) in clients.iter().enumerate() {
                client.connect(server.local_addr().unwrap()).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                client.send(&[n as u8; 3]).unwrap();
            }
            let mut batch = Datagrams::default();
            assert_eq!(batch.receive(&server), 5);
            for i in 0..5 {
                let (datagram, sender) = batch.datagram(i).unwrap();
                let asked = clients.iter().position(|client| client.local_addr().unwrap() == sender).unwrap();
                assert_eq!(datagram, [asked as u8; 3]);
                // The third gets no answer.
                if asked != 2 {
                    let (query, answer) = batch.exchange(i);
                    answer[..3].copy_from_slice(query);
                    answer[3] = 0xff;
                    batch.answer(i, 4);
                }
            }
            assert_eq!(batch.send(&server), 0);
            let mut buf = [0; 10];
            for (n, client) in clients.iter().enumerate().filter(|(n, _)| *n != 2) {
                assert_eq!(client.recv(&mut buf).unwrap(), 4);
                assert_eq!(buf[..4], [n as u8, n as u8, n as u8, 0xff]);
            }
            clients[2].set_nonblocking(true).unwrap();
            assert!(clients[2].recv(&mut buf).is_err());
            assert_eq!(batch.receive(&server), 0);
        }
    }

    #[test]
    fn what_is_too_long_is_no_datagram() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[0; ROOM + 1], server.local_addr().unwrap()).unwrap();
        client.send_to(&[0; ROOM], server.local_addr().unwrap()).unwrap();
        let mut batch = Datagrams::default();
        assert_eq!(batch.receive(&server), 2);
        assert!(batch.datagram(0).is_none());
        assert_eq!(batch.datagram(1).unwrap().0.len(), ROOM);
    }
}
