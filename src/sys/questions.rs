//! The kernel programs that take questions to the name server (`src/bpf/questions.c`): loaded, told what is asked for, attached.

use super::bpf::{Steering, Table, load_filter};
use super::ingress::{Ingress, sentence};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, Pod};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/questions.o");

const INGRESS: &str = "questions_ingress";

/// The most addresses that are listened on (max_entries of LISTENERS).
pub const MOST: usize = 1024;

/// `struct listener` in questions.c.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Listener {
    addr: [u8; 16],
    port: u16,
    family: u16,
}

// SAFETY: integers without padding between them; any bytes will do.
unsafe impl Pod for Listener {}

/// The loaded programs. They take nothing before [`Questions::set_listeners`].
pub struct Questions {
    ebpf: Ebpf,
    filter: OwnedFd,
    fanout: OwnedFd,
    listeners: Table<Listener, u32>,
}

impl Questions {
    /// Loads them into the kernel, for so many threads. `key`: random, so that nobody can choose his thread. Needs CAP_BPF and
    /// CAP_NET_ADMIN.
    pub fn load(threads: u32, key: u64) -> io::Result<Questions> {
        super::pin::raise_memlock();
        let mut ebpf = EbpfLoader::new()
            .override_global("THREADS", &threads.max(1), true)
            .override_global("KEY", &key, true)
            .load(OBJECT)
            .map_err(|error| sentence("the kernel does not take their maps", &error))?;
        let filter = load_filter(&mut ebpf, "questions_filter")?;
        let fanout = load_filter(&mut ebpf, "questions_fanout")?;
        ingress(&mut ebpf)?.load().map_err(|error| sentence("the kernel does not take the ingress program", &error))?;
        Ok(Questions { listeners: Table::take(&mut ebpf, "LISTENERS")?, ebpf, filter, fanout })
    }

    /// From now on plain questions to these go to the packet sockets, and no others do. What stays is never missing.
    pub fn set_listeners(&mut self, listeners: &[SocketAddr]) -> io::Result<()> {
        self.listeners.set(listeners.iter().map(|listener| (Listener::from(*listener), 1)).collect())
    }

    /// Keeps them from the host at an interface's ingress, until the link is dropped or the process ends. From Linux 6.6 on.
    pub fn attach_ingress(&mut self, interface: &str) -> io::Result<Ingress> {
        Ingress::link(ingress(&mut self.ebpf)?, interface)
    }
}

impl Steering for Questions {
    fn filter_fd(&self) -> BorrowedFd<'_> {
        self.filter.as_fd()
    }

    fn fanout_fd(&self) -> BorrowedFd<'_> {
        self.fanout.as_fd()
    }
}

impl From<SocketAddr> for Listener {
    fn from(address: SocketAddr) -> Listener {
        let mut addr = [0; 16];
        match address.ip() {
            IpAddr::V4(ip) => addr[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => addr = ip.octets(),
        }
        Listener { addr, port: address.port(), family: if address.is_ipv4() { 4 } else { 6 } }
    }
}

fn ingress(ebpf: &mut Ebpf) -> io::Result<&mut SchedClassifier> {
    ebpf.program_mut(INGRESS)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| io::Error::other(format!("questions.o lacks {INGRESS}")))
}

#[cfg(test)]
mod tests;
