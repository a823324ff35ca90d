//! The device over Linux packet sockets: one receive ring, and two ways out, per worker and interface.
//!
//! Frames stay in the slot that the kernel filled until the batch is flushed. Small ones leave by a transmit ring, large ones
//! straight from their slot (the reasons stand at [`TxRing`]). Per port they leave in the order in which they were queued:
//! a frame that takes the other way first has those sent that wait at the first.

use super::{BATCH, Device, Frame, HEADROOM, Losses, Offload, Span};
use crate::sys::abi::{VNET_DATA_VALID, VNET_NEEDS_CSUM, VnetHdr};
use crate::sys::bpf::Steering;
use crate::sys::poll::Poll;
use crate::sys::ring::{RxRing, Slot, TxRing};
use crate::sys::socket::{MESSAGES, Messages, PacketSocket, ethernet_mtu, interface_index};
use crate::sys::tap::Tap;
use crate::sys::wake::Waker;
use crossbeam_queue::ArrayQueue;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// What [`open`] opens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names; their order numbers the ports.
    pub interfaces: Vec<String>,
    pub workers: usize,
    /// Frames that one ring holds; rounded up to whole blocks of 1 MB.
    pub slots: usize,
    /// How large they may be.
    pub slot: Slot,
}

/// Memory for copies of large frames until the next flush, in bytes.
const COPIES: usize = 1 << 18;

/// Longest frame that is taken from the tap, and its buffer, in bytes.
const TAP_FRAME: usize = 9216;
const TAP_BUFFER: usize = HEADROOM + TAP_FRAME;

/// One worker's door to all interfaces, and to the tap, if there is one, as the last port. All workers send by the tap, as the
/// answers to checks may come to any; the first one receives by it.
pub struct AfPacket {
    sources: Sources,
    doors: Vec<Door>,
    tap: Option<Arc<Tap>>,
    hears_tap: bool,
    batch: Vec<Entry>,
    messages: Messages,
    poll: Poll,
    waker: Waker,
    refused: u64,
    /// Of these, how many [`Device::losses`] has told.
    refused_told: u64,
    mail: Arc<Mail>,
}

/// Where the bytes of frames lie until the next flush.
struct Sources {
    rings: Vec<RxRing>,
    /// A batch's worth of buffers for frames from the tap.
    tap: Box<[u8]>,
    tap_taken: usize,
    /// Copies of frames too large for a transmit ring.
    copies: Box<[u8]>,
    copied: usize,
}

#[derive(Clone, Copy)]
enum Source {
    /// The `slot`-th of those that the ring of `port` has taken, or of the tap's buffers.
    Slot {
        port: u8,
        slot: u16,
    },
    Copies,
}

/// The ways out of a port.
struct Door {
    /// Receives as well.
    socket: PacketSocket,
    tx: TxRing,
    /// What leaves by `socket` at the next flush, in order.
    large: Vec<Outgoing>,
}

struct Outgoing {
    header: VnetHdr,
    source: Source,
    start: u32,
    len: u32,
}

/// A frame of the batch.
struct Entry {
    port: u8,
    slot: u16,
    start: u32,
    len: u32,
    wire_len: u32,
    offload: Offload,
}

/// A port's two directions, on their way to a worker.
struct Port {
    ring: RxRing,
    door: Door,
}

/// The control side of all workers' doors.
pub struct Interfaces {
    settings: Settings,
    /// The index that each interface had when its sockets were opened.
    indexes: Vec<u32>,
    workers: Vec<(Arc<Mail>, Waker)>,
}

/// How new ports reach a worker, and old ones go to be closed where it costs no packet's time.
struct Mail {
    new: ArrayQueue<(usize, Port)>,
    old: ArrayQueue<Port>,
}

/// Opens the doors of all workers, in their order; the first one receives by the tap. From here on the sockets take what the
/// programs call farside's.
pub fn open(settings: Settings, programs: &impl Steering, tap: Option<Tap>) -> io::Result<(Vec<AfPacket>, Interfaces)> {
    let mut indexes = Vec::new();
    let mut doors: Vec<Vec<Port>> = (0..settings.workers).map(|_| Vec::new()).collect();
    for interface in &settings.interfaces {
        let (index, ports) = open_interface(interface, &settings, programs)?;
        indexes.push(index);
        doors.iter_mut().zip(ports).for_each(|(door, port)| door.push(port));
    }
    let tap = tap.map(Arc::new);
    let devices = doors.into_iter().enumerate().map(|(worker, ports)| AfPacket::new(ports, tap.clone(), worker == 0));
    let devices = devices.collect::<io::Result<Vec<_>>>()?;
    let workers = devices.iter().map(|device| (device.mail.clone(), device.waker())).collect();
    Ok((devices, Interfaces { settings, indexes, workers }))
}

/// One port for each worker, and the interface's index.
fn open_interface(name: &str, settings: &Settings, programs: &impl Steering) -> io::Result<(u32, Vec<Port>)> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("interface {name}: {error}"));
    let index = interface_index(name)?;
    let mtu = ethernet_mtu(name)?;
    let mut ports: Vec<Port> = Vec::new();
    let mut fanout = None;
    for worker in 0..settings.workers {
        let port = Port::open(index, mtu, settings).map_err(explain)?;
        // The kernel numbers a group's members as they join: by worker.
        match fanout {
            _ if settings.workers == 1 => {}
            None => fanout = Some(port.door.socket.found_fanout(programs.fanout_fd()).map_err(explain)?),
            Some(id) => port.door.socket.join_fanout(id).map_err(explain)?,
        }
        debug_assert_eq!(ports.len(), worker);
        ports.push(port);
    }
    for port in &ports {
        port.door.socket.set_filter(programs.filter_fd()).map_err(explain)?;
    }
    Ok((index, ports))
}

impl Port {
    /// A port that lets nothing in yet.
    fn open(interface: u32, mtu: usize, settings: &Settings) -> io::Result<Port> {
        let socket = PacketSocket::new()?;
        socket.reject_all()?;
        let ring = RxRing::new(&socket, settings.slots, settings.slot)?;
        socket.bind(interface, true)?;
        let tx = TxRing::new(interface, mtu)?;
        Ok(Port { ring, door: Door { socket, tx, large: Vec::with_capacity(MESSAGES) } })
    }
}

impl Interfaces {
    /// Opens new sockets at every interface that has gone and come back (the same name, another index) and hands them to
    /// the workers, which take them at their next [`Device::wait`] or empty [`Device::receive`]. Gives the ports renewed:
    /// their ingress programs went with the old interface. To be called when netlink tells of a new link. An interface
    /// that is not there is passed over; it will be told of.
    pub fn renew(&mut self, programs: &impl Steering) -> io::Result<Vec<usize>> {
        let mut renewed = Vec::new();
        for (port, name) in self.settings.interfaces.iter().enumerate() {
            let Ok(index) = interface_index(name) else { continue };
            if index == self.indexes[port] {
                continue;
            }
            let (index, ports) = open_interface(name, &self.settings, programs)?;
            for ((mail, waker), new) in self.workers.iter().zip(ports) {
                mail.new.force_push((port, new));
                waker.wake();
            }
            self.indexes[port] = index;
            renewed.push(port);
        }
        for (mail, _) in &self.workers {
            while mail.old.pop().is_some() {}
        }
        Ok(renewed)
    }
}

impl Sources {
    fn bytes(&self, source: Source) -> &[u8] {
        match source {
            Source::Copies => &self.copies,
            Source::Slot { port, slot } => match self.rings.get(usize::from(port)) {
                Some(ring) => ring.bytes(slot.into()),
                None => &self.tap[usize::from(slot) * TAP_BUFFER..][..TAP_BUFFER],
            },
        }
    }

    fn buffer(&mut self, port: u8, slot: u16) -> &mut [u8] {
        match self.rings.get_mut(usize::from(port)) {
            Some(ring) => ring.buffer(slot.into()),
            None => &mut self.tap[usize::from(slot) * TAP_BUFFER..][..TAP_BUFFER],
        }
    }
}

impl Door {
    /// Sends what waits, by whichever of the two ways. Gives the number of frames refused.
    fn send_queued(&mut self, sources: &Sources, messages: &mut Messages) -> u64 {
        let mut refused = self.tx.kick();
        if !self.large.is_empty() {
            let frames = self.large.iter().map(|out| {
                let bytes = sources.bytes(out.source);
                (out.header, &bytes[out.start as usize..][..out.len as usize])
            });
            refused += self.socket.send_messages(messages, frames);
            self.large.clear();
        }
        refused
    }

    /// Queues a frame, behind all that waits. Gives the number of frames that were refused on the way.
    fn queue(&mut self, sources: &Sources, messages: &mut Messages, out: Outgoing) -> u64 {
        let mut refused = 0;
        let small = self.tx.may_take(out.header, out.len as usize);
        if small {
            if !self.large.is_empty() {
                refused += self.send_queued(sources, messages);
            }
            if self.tx.push(out.header, &sources.bytes(out.source)[out.start as usize..][..out.len as usize]) {
                return refused;
            }
        }
        if self.tx.queued() > 0 || self.large.len() == MESSAGES {
            refused += self.send_queued(sources, messages);
        }
        self.large.push(out);
        refused
    }
}

impl AfPacket {
    fn new(ports: Vec<Port>, tap: Option<Arc<Tap>>, hears_tap: bool) -> io::Result<AfPacket> {
        let heard = tap.as_ref().filter(|_| hears_tap);
        let waker = Waker::new()?;
        let count = ports.len();
        let (rings, doors): (Vec<RxRing>, Vec<Door>) = ports.into_iter().map(|port| (port.ring, port.door)).unzip();
        let fds = doors.iter().map(|door| door.socket.as_raw_fd());
        let poll = Poll::new([waker.as_raw_fd()].into_iter().chain(fds).chain(heard.map(|tap| tap.as_raw_fd())));
        let sources = Sources {
            rings,
            tap: vec![0; if heard.is_some() { BATCH * TAP_BUFFER } else { 0 }].into(),
            tap_taken: 0,
            copies: vec![0; COPIES].into(),
            copied: 0,
        };
        Ok(AfPacket {
            sources,
            doors,
            tap,
            hears_tap,
            batch: Vec::with_capacity(BATCH),
            messages: Messages::default(),
            poll,
            waker,
            refused: 0,
            refused_told: 0,
            mail: Arc::new(Mail { new: ArrayQueue::new(count.max(1)), old: ArrayQueue::new(2 * count.max(1)) }),
        })
    }

    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Other descriptors that shall end [`Device::wait`] as well, in the place of those of the last call.
    pub fn watch(&mut self, others: impl Iterator<Item = RawFd>) {
        self.poll.replace_behind(self.own(), others);
    }

    /// After [`Device::wait`]: the i-th of these can be read, or has an error waiting.
    pub fn is_ready(&self, i: usize) -> bool {
        self.poll.is_ready(self.own() + i)
    }

    /// Descriptors of our own that are waited for.
    fn own(&self) -> usize {
        1 + self.doors.len() + usize::from(self.tap.is_some() && self.hears_tap)
    }

    /// The i-th frame of the batch, to read: where [`Device::frame`] would give one at a time.
    pub fn bytes(&self, i: usize) -> &[u8] {
        let Entry { port, slot, start, len, .. } = self.batch[i];
        &self.sources.bytes(Source::Slot { port, slot })[start as usize..][..len as usize]
    }

    /// Whether [`Device::send_copy`] has room for so many bytes.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.sources.copied + len <= self.sources.copies.len()
    }

    /// Frames that the kernel has dropped because a ring was full, since the last call. A system call per port.
    pub fn kernel_drops(&mut self) -> u64 {
        self.doors.iter().map(|door| door.socket.statistics().map_or(0, |(_, drops)| drops.into())).sum()
    }

    /// Frames that the kernel has refused to send, ever: interface down, its queue full, longer than its MTU.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Puts the ports that control has opened anew in the place of the old ones.
    fn take_mail(&mut self) {
        if !self.batch.is_empty() {
            return;
        }
        while let Some((i, port)) = self.mail.new.pop() {
            self.poll.replace(1 + i, port.door.socket.as_raw_fd());
            let ring = std::mem::replace(&mut self.sources.rings[i], port.ring);
            let door = std::mem::replace(&mut self.doors[i], port.door);
            self.mail.old.force_push(Port { ring, door });
        }
    }

    fn receive_tap(&mut self, max: usize) -> usize {
        let Some(tap) = self.tap.as_ref().filter(|_| self.hears_tap) else { return 0 };
        let Sources { tap: buffers, tap_taken, .. } = &mut self.sources;
        let mut count = 0;
        while count < max {
            let buffer = &mut buffers[*tap_taken * TAP_BUFFER..][..TAP_BUFFER];
            let Some((len, header)) = tap.read(&mut buffer[HEADROOM..]) else { break };
            self.batch.push(Entry {
                port: self.doors.len() as u8,
                slot: *tap_taken as u16,
                start: HEADROOM as u32,
                len: len as u32,
                wire_len: len as u32,
                offload: offload(header),
            });
            *tap_taken += 1;
            count += 1;
        }
        count
    }

    fn send_from(&mut self, source: Source, span: Span, port: usize) -> bool {
        let header = vnet_header(span.offload, span.len);
        if let Some(door) = self.doors.get_mut(port) {
            let out = Outgoing { header, source, start: span.start as u32, len: span.len as u32 };
            self.refused += door.queue(&self.sources, &mut self.messages, out);
            return true;
        }
        let frame = &self.sources.bytes(source)[span.start..][..span.len];
        let sent = self.tap.as_ref().is_some_and(|tap| tap.write(frame, header));
        self.refused += u64::from(!sent);
        sent
    }
}

impl Device for AfPacket {
    fn ports(&self) -> usize {
        self.doors.len() + usize::from(self.tap.is_some())
    }

    fn receive(&mut self, port: usize, max: usize) -> usize {
        let max = max.min(BATCH - self.batch.len());
        let Some(ring) = self.sources.rings.get_mut(port) else { return self.receive_tap(max) };
        let mut count = 0;
        while count < max {
            let slot = ring.taken() as u16;
            let Some(meta) = ring.take() else { break };
            self.batch.push(Entry {
                port: port as u8,
                slot,
                start: meta.start,
                len: meta.len,
                wire_len: meta.wire_len,
                offload: offload(meta.header),
            });
            count += 1;
        }
        if count == 0 && !self.mail.new.is_empty() {
            self.take_mail();
        }
        count
    }

    fn frame(&mut self, i: usize) -> Frame<'_> {
        let Entry { port, slot, start, len, wire_len, offload } = self.batch[i];
        Frame {
            buf: self.sources.buffer(port, slot),
            start: start as usize,
            len: len as usize,
            offload,
            port,
            wire_len: wire_len as usize,
        }
    }

    fn send(&mut self, i: usize, span: Span, port: usize) -> bool {
        let Entry { port: from, slot, .. } = self.batch[i];
        self.send_from(Source::Slot { port: from, slot }, span, port)
    }

    fn send_copy(&mut self, frame: &[u8], offload: Offload, port: usize) -> bool {
        let Sources { copies, copied, .. } = &mut self.sources;
        let start = *copied;
        let Some(copy) = copies.get_mut(start..start + frame.len()) else { return false };
        copy.copy_from_slice(frame);
        *copied += frame.len();
        self.send_from(Source::Copies, Span { start, len: frame.len(), offload }, port)
    }

    fn make_room(&mut self) {
        for door in &mut self.doors {
            self.refused += door.send_queued(&self.sources, &mut self.messages);
        }
        self.sources.copied = 0;
    }

    fn flush(&mut self) {
        self.make_room();
        // Only now: until it is sent, a frame may be read from any port's slot.
        self.sources.rings.iter_mut().for_each(RxRing::give_back);
        self.sources.tap_taken = 0;
        self.batch.clear();
    }

    fn losses(&mut self) -> Losses {
        let refused = self.refused - std::mem::replace(&mut self.refused_told, self.refused);
        Losses { ring_full: self.kernel_drops(), send_refused: refused }
    }

    fn wait(&mut self, timeout: Duration) {
        self.take_mail();
        self.poll.wait(timeout);
        self.waker.clear();
        for (i, door) in self.doors.iter().enumerate() {
            if self.poll.has_error(1 + i) {
                door.socket.take_error();
            }
        }
    }
}

fn offload(header: VnetHdr) -> Offload {
    Offload {
        needs_csum: header.flags & VNET_NEEDS_CSUM != 0,
        csum_valid: header.flags & VNET_DATA_VALID != 0,
        csum_start: header.csum_start,
        csum_offset: header.csum_offset,
        gso_type: header.gso_type,
        gso_size: header.gso_size,
        hdr_len: header.hdr_len,
    }
}

/// `len`: bytes of the frame; the kernel refuses a header longer than that.
fn vnet_header(offload: Offload, len: usize) -> VnetHdr {
    let needs = if offload.needs_csum { VNET_NEEDS_CSUM } else { 0 };
    let valid = if offload.csum_valid { VNET_DATA_VALID } else { 0 };
    VnetHdr {
        flags: needs | valid,
        gso_type: offload.gso_type,
        hdr_len: offload.hdr_len.min(len.min(u16::MAX.into()) as u16),
        gso_size: offload.gso_size,
        csum_start: offload.csum_start,
        csum_offset: offload.csum_offset,
    }
}

#[cfg(test)]
mod tests;
