//! The kernel programs (`src/bpf/farside.c`) and their maps.

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Words of one bucket of the claims set: one cache line.
pub const BUCKET_WORDS: usize = 8;

/// The loaded programs. Dropping it takes away nothing that is still attached or bound to a socket.
pub struct Programs {
    claims: Claims,
}

/// The claims set: `claims_buckets` buckets of [`BUCKET_WORDS`] words, each the hash of a flow whose packets are farside's,
/// or 0. User space writes, the kernel programs read, both Relaxed: a word stands for itself.
#[derive(Clone)]
pub struct Claims {
    map: Arc<[AtomicU64]>,
}

impl AsRef<[AtomicU64]> for Claims {
    fn as_ref(&self) -> &[AtomicU64] {
        &self.map
    }
}

/// Keeps farside's packets that come in by one interface from the host's stack, until it is dropped.
pub struct Ingress {
    _interface: String,
}

impl Programs {
    /// Loads the programs into the kernel. `key`: of the flow hash (SipHash-1-3); `claims_buckets`: a power of two;
    /// `workers`: 1 to 256. Needs CAP_BPF and CAP_NET_ADMIN.
    pub fn load(key: (u64, u64), claims_buckets: u32, workers: u32) -> io::Result<Programs> {
        todo!("{key:?} {claims_buckets} {workers}")
    }

    /// From now on packets to these (VIP, port, protocol) are farside's.
    pub fn set_services(&mut self, services: &[(IpAddr, u16, u8)]) -> io::Result<()> {
        todo!("{services:?}")
    }

    /// From now on TCP and UDP packets to these addresses, and a port in the range, are farside's. The flag: the host
    /// has the address itself.
    pub fn set_pips(&mut self, pips: &[(IpAddr, RangeInclusive<u16>, bool)]) -> io::Result<()> {
        todo!("{pips:?}")
    }

    /// Which VIPs the host holds itself. For those the host goes on answering ARP, neighbour solicitation and ping, and is
    /// left the ICMP errors that do not quote a service's packet. An address not named here is farside's altogether.
    pub fn set_host_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        todo!("{addresses:?}")
    }

    pub fn claims(&self) -> Claims {
        self.claims.clone()
    }

    /// Drops farside's packets at the interface's ingress, after packet sockets have seen them.
    pub fn attach_ingress(&mut self, interface: &str) -> io::Result<Ingress> {
        todo!("{interface}")
    }

    /// For every packet socket: takes farside's packets only.
    pub fn filter_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }

    /// For every fanout group: which worker.
    pub fn fanout_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }
}

/// Takes away what a farside that crashed has left at the interface (kernels before 6.6). True: there was something.
pub fn clean_leftovers(interface: &str) -> io::Result<bool> {
    todo!("{interface}")
}
