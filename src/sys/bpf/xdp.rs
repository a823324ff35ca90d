//! The XDP program: takes farside's packets to AF_XDP sockets before the host's stack makes anything of them.

use super::{Programs, sentence};
use crate::sys::socket::hardware_address;
use crate::sys::xsk::Xsk;
use aya::Pod;
use aya::maps::{HashMap, MapData, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use std::io;
use std::os::fd::AsRawFd;

const PROGRAM: &str = "farside_xdp";

/// The most queues of one interface, and of all (max_entries of SOCKETS).
pub const MOST_QUEUES: u32 = 256;

/// `struct entrance` in farside.c.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entrance {
    mac: [u8; 6],
    queues: u16,
    first: u32,
}

// SAFETY: integers without padding between them; any bytes will do.
unsafe impl Pod for Entrance {}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the driver, before there is a packet of the kernel's.
    Driver,
    /// Behind the driver ("generic"), where that has no place for it.
    Generic,
}

/// Keeps the program at one interface until it is dropped, or the process ends however it may.
pub struct Attached {
    _link: FdLink,
    pub place: Place,
}

/// What of the program stands in [`Programs`].
pub(super) struct Entrances {
    entrances: HashMap<MapData, u32, Entrance>,
    sockets: XskMap<MapData>,
}

impl Programs {
    /// Puts the program in front of an interface. It takes nothing until it is shown sockets ([`Programs::show_socket`]).
    pub fn attach_xdp(&mut self, interface: &str, ifindex: u32) -> io::Result<Attached> {
        self.load_xdp()?;
        let program = xdp(&mut self.ebpf)?;
        let mut refused = String::new();
        for (mode, place) in [(XdpMode::Driver, Place::Driver), (XdpMode::Skb, Place::Generic)] {
            match program.attach_to_if_index(ifindex, mode) {
                Ok(id) => {
                    let link = program.take_link(id).map_err(|error| sentence("the XDP link was lost", &error))?;
                    // A program without a link of its own would outlive us.
                    let link = FdLink::try_from(link).map_err(|error| sentence("no XDP link", &error))?;
                    return Ok(Attached { _link: link, place });
                }
                Err(error) => refused = sentence("", &error).to_string(),
            }
        }
        Err(io::Error::other(format!("interface {interface} takes no XDP program{refused}")))
    }

    fn load_xdp(&mut self) -> io::Result<()> {
        if self.entrances.is_some() {
            return Ok(());
        }
        xdp(&mut self.ebpf)?.load().map_err(|error| sentence("the kernel does not take the XDP program", &error))?;
        let mut take =
            |name: &str| self.ebpf.take_map(name).ok_or_else(|| io::Error::other(format!("farside.o lacks {name}")));
        let entrances = HashMap::try_from(take("ENTRANCES")?).map_err(|error| sentence("ENTRANCES", &error))?;
        let sockets = XskMap::try_from(take("SOCKETS")?).map_err(|error| sentence("SOCKETS", &error))?;
        self.entrances = Some(Entrances { entrances, sockets });
        Ok(())
    }

    /// Tells the program the interface's hardware address, and how many queues it has. `port`: the interface's number, below 64.
    pub fn set_entrance(&mut self, interface: &str, ifindex: u32, port: usize, queues: u32) -> io::Result<()> {
        let Some(Entrances { entrances, .. }) = &mut self.entrances else { return Ok(()) };
        let mac = hardware_address(interface)?;
        let entrance = Entrance { mac, queues: queues.min(MOST_QUEUES) as u16, first: port as u32 * MOST_QUEUES };
        entrances
            .insert(ifindex, entrance, 0)
            .map_err(|error| sentence("the kernel does not take an interface", &error))
    }

    /// The interface's packets come by packet sockets alone.
    pub fn clear_entrance(&mut self, ifindex: u32) {
        if let Some(Entrances { entrances, .. }) = &mut self.entrances {
            // It need not be there.
            let _ = entrances.remove(&ifindex);
        }
    }

    /// From now on a queue's packets go to this socket. They go elsewhere again when it is closed.
    pub fn show_socket(&mut self, port: usize, queue: u32, xsk: &Xsk) -> io::Result<()> {
        let Some(Entrances { sockets, .. }) = &mut self.entrances else { return Ok(()) };
        sockets
            .set(port as u32 * MOST_QUEUES + queue, xsk.as_raw_fd(), 0)
            .map_err(|error| sentence("the kernel does not take a socket", &error))
    }
}

/// The program itself.
pub(super) fn xdp(ebpf: &mut aya::Ebpf) -> io::Result<&mut Xdp> {
    ebpf.program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, crate::sys::xsk::NONE))
}

#[cfg(test)]
impl Programs {
    /// Readies the XDP program for test runs, which come by the loopback.
    pub(super) fn enter_by_loopback(&mut self) {
        use crate::sys::umem::Umem;
        use crate::sys::xsk::Area;
        self.load_xdp().unwrap();
        self.set_entrance("lo", 1, 0, 1).unwrap();
        let (umem, _) = Umem::new(1, 2048).unwrap();
        let xsk = Xsk::unbound(&umem, 1, &Area::Brings { zero_copy: false }).unwrap();
        self.show_socket(0, 0, &xsk).unwrap();
        // Closed it would leave the map.
        std::mem::forget(xsk);
    }
}
