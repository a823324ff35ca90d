//! The kernel program of `farside decap` (`src/bpf/decap.c`): takes plain tunneled packets at an interface's ingress and hands
//! what is inside to the tun device. What it leaves alone goes on to the host's stack and so to the sockets.

use super::bpf::{AddressKey, Table};
use super::ingress::{self, Ingress, sentence};
use super::socket::ethernet_mtu;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, Pod};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/decap.o");

/// Its name in the object, and of the filter that it is before 6.6.
const NAME: &str = "farside_decap";

/// `LOCAL` and `VIP` in decap.c.
const LOCAL: u32 = 1;
const VIP: u32 = 2;

/// What the program takes: plain IPv4, IPv6, GRE, both variants of GUE, in the order of WRAP_... in decap.c.
pub type Wraps = [bool; 5];

/// What the program has taken, added up over all CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Packets, by [`Wraps`]; joined segments are one.
    pub packets: [u64; 5],
    /// Of the inner packets.
    pub bytes: u64,
}

// SAFETY: integers without padding between them; any bytes will do.
unsafe impl Pod for Taken {}

/// The loaded program. Dropping it takes it away from nowhere; its [`Ingress`]es do that.
pub struct Program {
    ebpf: Ebpf,
    addresses: Table<AddressKey, u32>,
    taken: PerCpuArray<MapData, Taken>,
    clsact_only: bool,
}

impl Program {
    /// Loads it into the kernel, for the tun device `tun`. Needs CAP_BPF and CAP_NET_ADMIN.
    pub fn load(tun: u32, gue_port: u16, wraps: Wraps) -> io::Result<Program> {
        super::pin::raise_memlock();
        let wraps = (0..5).zip(wraps).fold(0u32, |bits, (i, is)| bits | u32::from(is) << i);
        let mut ebpf = EbpfLoader::new()
            .override_global("TUN", &tun, true)
            .override_global("GUE_PORT", &u32::from(gue_port), true)
            .override_global("WRAPS", &wraps, true)
            .load(OBJECT)
            .map_err(|error| sentence("the kernel does not take its maps", &error))?;
        classifier(&mut ebpf)?.load().map_err(|error| sentence("the kernel does not take it", &error))?;
        let taken = ebpf.take_map("TAKEN").ok_or_else(|| io::Error::other("decap.o lacks TAKEN"))?;
        Ok(Program {
            addresses: Table::take(&mut ebpf, "ADDRESSES")?,
            taken: PerCpuArray::try_from(taken).map_err(|error| sentence("TAKEN", &error))?,
            ebpf,
            clsact_only: false,
        })
    }

    /// From now on it takes packets whose tunnel ends at one of `local`, the host's addresses, with one for one of `vips` inside.
    pub fn set_addresses(&mut self, local: &[IpAddr], vips: &[IpAddr]) -> io::Result<()> {
        let mut addresses = BTreeMap::new();
        for (list, what) in [(local, LOCAL), (vips, VIP)] {
            for address in list {
                *addresses.entry(AddressKey::from(*address)).or_default() |= what;
            }
        }
        self.addresses.set(addresses)
    }

    /// Makes [`Program::attach`] do as on kernels before 6.6, for tests.
    pub fn use_clsact_only(&mut self) {
        self.clsact_only = true;
    }

    /// Puts it at the ingress of an Ethernet interface.
    pub fn attach(&mut self, interface: &str) -> io::Result<Ingress> {
        ethernet_mtu(interface)?;
        Ingress::attach(classifier(&mut self.ebpf)?, NAME, interface, self.clsact_only)
    }

    pub fn taken(&self) -> Taken {
        let cpus = self.taken.get(&0, 0);
        cpus.iter().flat_map(|cpus| cpus.iter()).fold(Taken::default(), |mut sum, cpu| {
            sum.bytes += cpu.bytes;
            for (sum, packets) in sum.packets.iter_mut().zip(cpu.packets) {
                *sum += packets;
            }
            sum
        })
    }
}

fn classifier(ebpf: &mut Ebpf) -> io::Result<&mut SchedClassifier> {
    ebpf.program_mut(NAME)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| io::Error::other(format!("decap.o lacks {NAME}")))
}

/// Takes away what a process that crashed has left at the interface (kernels before 6.6). True: there was something.
pub fn clean_leftovers(interface: &str) -> io::Result<bool> {
    ingress::clean_leftovers(NAME, interface)
}

#[cfg(test)]
impl Program {
    /// What becomes of a frame, asked of the kernel.
    pub(crate) fn ask(&mut self, frame: &[u8]) -> super::testing::Ran {
        let program = classifier(&mut self.ebpf).unwrap();
        super::testing::test_run(std::os::fd::AsFd::as_fd(program.fd().unwrap()), frame, 1)
    }
}
