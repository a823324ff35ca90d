//! The control side: programs in front of the interfaces, sockets for the workers, and both anew when an interface comes back.

use super::room::Room;
use super::{AfXdp, Mail};
use crate::device::af_packet;
use crate::sys::bpf::{Attached, MOST_QUEUES, Place, Programs};
use crate::sys::ethtool::receive_queues;
use crate::sys::socket::{ethernet_mtu, interface_index};
use crate::sys::tap::Tap;
use crate::sys::umem::{FRONT, Umem};
use crate::sys::wake::Waker;
use crate::sys::xsk::{Area, BusyPoll, Queue, Xsk};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Entries of each ring unless measured otherwise.
pub const DEFAULT_SLOTS: u32 = 2048;

/// The larger of the two chunk sizes, and the smaller, in bytes.
const LARGE: usize = 4096;
const SMALL: usize = 2048;

/// Ethernet header and a VLAN tag, in bytes.
const LINK: usize = 18;

/// The largest MTU whose frames fit into a chunk.
pub const LARGEST_MTU: usize = LARGE - FRONT - LINK;

/// What [`open`] opens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the packet sockets that stand behind, with the interfaces and workers of all.
    pub packet: af_packet::Settings,
    /// Entries of each ring; a power of two.
    pub slots: u32,
    pub busy: Option<BusyPoll>,
}

/// How an interface's packets come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    Xdp {
        place: Place,
        zero_copy: bool,
        queues: u32,
    },
    /// By packet sockets alone, and why.
    Packet(String),
}

/// The control side of all workers' doors.
pub struct Interfaces {
    settings: Settings,
    packet: af_packet::Interfaces,
    ways: Vec<Way>,
    /// Of each worker, all interfaces together.
    queues: Vec<usize>,
    /// By port. The programs go with them.
    attached: Vec<Option<Attached>>,
    workers: Vec<(Arc<Mail>, Waker)>,
    /// Workers that were asked for their old sockets and have not given them yet.
    awaited: Vec<usize>,
}

/// What the interfaces are like when sockets are opened.
struct Link {
    ifindex: u32,
    queues: u32,
}

/// Opens the doors of all workers, in their order; the first one receives by the tap. An interface without AF_XDP is left to packet
/// sockets ([`Interfaces::ways`]); one whose packets are too large is an error.
pub fn open(settings: Settings, programs: &mut Programs, tap: Option<Tap>) -> io::Result<(Vec<AfXdp>, Interfaces)> {
    for name in &settings.packet.interfaces {
        let mtu = ethernet_mtu(name)?;
        if mtu > LARGEST_MTU {
            return Err(io::Error::new(io::ErrorKind::Unsupported, too_large(name, mtu)));
        }
    }
    let (packets, packet) = af_packet::open(settings.packet.clone(), programs, tap)?;
    let attached = settings.packet.interfaces.iter().map(|_| None).collect();
    let mut interfaces = Interfaces {
        settings,
        packet,
        ways: Vec::new(),
        queues: Vec::new(),
        attached,
        workers: Vec::new(),
        awaited: Vec::new(),
    };
    let rooms = interfaces.furnish(programs)?;
    let devices: Vec<AfXdp> = packets.into_iter().zip(rooms).map(|(packet, room)| AfXdp::new(packet, room)).collect();
    interfaces.workers = devices.iter().map(|device| (device.mail.clone(), device.waker())).collect();
    Ok((devices, interfaces))
}

fn too_large(name: &str, mtu: usize) -> String {
    format!(
        "interface {name} has an MTU of {mtu} bytes, and AF_XDP takes packets of up to {LARGEST_MTU}: give it a smaller one \
         (ip link set {name} mtu {LARGEST_MTU}), or write backend = \"af_packet\""
    )
}

impl Interfaces {
    /// How each interface's packets come and go, by port.
    pub fn ways(&self) -> &[Way] {
        &self.ways
    }

    /// How many queues each worker has by AF_XDP, of all interfaces together.
    pub fn queues(&self) -> &[usize] {
        &self.queues
    }

    /// Tells the programs of the interfaces' hardware addresses as they are now.
    pub fn tell_addresses(&self, programs: &mut Programs) -> io::Result<()> {
        for (port, name) in self.settings.packet.interfaces.iter().enumerate() {
            // Gone: it will be told of when it comes back.
            let Ok(ifindex) = interface_index(name) else { continue };
            match &self.ways[port] {
                Way::Xdp { queues, .. } => programs.set_entrance(name, ifindex, port, *queues)?,
                Way::Packet(_) => programs.clear_entrance(ifindex),
            }
        }
        Ok(())
    }

    /// As [`af_packet::Interfaces::renew`]; the workers' AF_XDP sockets follow with [`Interfaces::go_on`], which
    /// should not be long in coming.
    pub fn renew(&mut self, programs: &Programs) -> io::Result<Vec<usize>> {
        let renewed = self.packet.renew(programs)?;
        for port in &renewed {
            // It has gone with the old interface.
            self.attached[*port] = None;
        }
        if !renewed.is_empty() {
            for (mail, waker) in &self.workers {
                mail.asked.store(true, Relaxed);
                waker.wake();
            }
            self.awaited = (0..self.workers.len()).collect();
        }
        Ok(renewed)
    }

    /// Whether [`Interfaces::go_on`] is waited for.
    pub fn is_renewing(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Goes on with what [`Interfaces::renew`] has begun. True: it is done just now.
    pub fn go_on(&mut self, programs: &mut Programs) -> io::Result<bool> {
        if self.awaited.is_empty() {
            return Ok(false);
        }
        let workers = &self.workers;
        // Dropped here, old sockets are closed where it costs no packet's time.
        self.awaited.retain(|worker| workers[*worker].0.old.pop().is_none());
        if !self.awaited.is_empty() {
            return Ok(false);
        }
        let rooms = self.furnish(programs)?;
        for ((mail, waker), room) in self.workers.iter().zip(rooms) {
            if let Some(room) = room {
                mail.new.force_push(room);
                waker.wake();
            }
        }
        Ok(true)
    }

    /// Puts the program in front of all interfaces, opens sockets at all their queues and says so to the program. Gives a room for
    /// each worker that gets any.
    fn furnish(&mut self, programs: &mut Programs) -> io::Result<Vec<Option<Room>>> {
        let names = self.settings.packet.interfaces.clone();
        self.ways.clear();
        let mut links = Vec::new();
        let mut chunk = SMALL;
        for (port, name) in names.iter().enumerate() {
            match self.approach(port, name, programs) {
                Ok((link, mtu)) => {
                    if FRONT + mtu + LINK > SMALL {
                        chunk = LARGE;
                    }
                    links.push(Some(link));
                }
                Err(why) => {
                    self.ways.push(Way::Packet(why.to_string()));
                    links.push(None);
                }
            }
        }
        // Sockets that share their memory are all of one kind.
        let mut zero_copy = self.attached.iter().flatten().all(|attached| attached.place == Place::Driver);
        let rooms = loop {
            let workers = self.settings.packet.workers;
            let rooms: Result<Vec<_>, _> =
                (0..workers).map(|worker| self.open_room(worker, &links, chunk, zero_copy)).collect();
            match rooms {
                Ok(rooms) => break rooms,
                Err(_) if zero_copy => zero_copy = false,
                Err((port, why)) => {
                    self.ways[port] = Way::Packet(format!("no AF_XDP socket: {why}"));
                    self.attached[port] = None;
                    links[port] = None;
                }
            }
        };
        for way in &mut self.ways {
            if let Way::Xdp { zero_copy: zero, .. } = way {
                *zero = zero_copy;
            }
        }
        self.queues = rooms.iter().map(|room| room.as_ref().map_or(0, Room::sockets)).collect();
        self.tell_addresses(programs)?;
        for room in rooms.iter().flatten() {
            room.show(programs)?;
        }
        Ok(rooms)
    }

    /// Puts the program in front of one interface.
    fn approach(&mut self, port: usize, name: &str, programs: &mut Programs) -> io::Result<(Link, usize)> {
        let (ifindex, mtu) = (interface_index(name)?, ethernet_mtu(name)?);
        if mtu > LARGEST_MTU {
            return Err(io::Error::new(io::ErrorKind::Unsupported, too_large(name, mtu)));
        }
        let queues = receive_queues(name)?.min(MOST_QUEUES);
        let attached = match &mut self.attached[port] {
            Some(attached) => attached,
            none => none.insert(programs.attach_xdp(name, ifindex)?),
        };
        self.ways.push(Way::Xdp { place: attached.place, zero_copy: false, queues });
        Ok((Link { ifindex, queues }, mtu))
    }

    /// The sockets of one worker; None: no queue is left for it. The error names the port.
    fn open_room(
        &self,
        worker: usize,
        links: &[Option<Link>],
        chunk: usize,
        zero_copy: bool,
    ) -> Result<Option<Room>, (usize, io::Error)> {
        let Settings { slots, busy, packet } = &self.settings;
        let mut queues = Vec::new();
        for (port, link) in links.iter().enumerate() {
            let Some(Link { ifindex, queues: count }) = link else { continue };
            let own = (0..*count).filter(|number| *number as usize % packet.workers == worker);
            queues.extend(own.map(|number| (port, Queue { ifindex: *ifindex, number })));
        }
        let Some((first, _)) = queues.first() else { return Ok(None) };
        // What every socket may hold to receive and to send, and a batch on its way between.
        let count = queues.len() as u32 * slots * 2 + 2 * crate::device::BATCH as u32;
        let (umem, spare) = Umem::new(count, chunk).map_err(|why| (*first, why))?;
        let mut room = Room::new(umem, spare, links.len(), zero_copy);
        for (port, queue) in queues {
            let area = match room.any() {
                None => Area::Brings { zero_copy },
                Some(other) => Area::Shares(other),
            };
            let xsk = Xsk::open(room.umem(), queue, *slots, &area, *busy).map_err(|why| (port, why))?;
            room.add(port, queue.number, xsk, *slots);
        }
        room.refill();
        Ok(Some(room))
    }
}
