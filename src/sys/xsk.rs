//! AF_XDP sockets and their four rings (Documentation/networking/af_xdp.rst; net/xdp/xsk.c): *fill* hands the kernel chunks to
//! receive into, *rx* gives them back with frames, *tx* hands it frames to send, *done* gives their chunks back.
//!
//! Each ring has one writer and one reader, us or the kernel, and two counters that run on and wrap: the writer's, how many
//! entries there have been, and the reader's, how many of them it has taken. Each stores its own with Release when the entries are
//! written or read, and loads the other's with Acquire before it touches them; the kernel does the same (net/xdp/xsk_queue.h).

use super::map::Mapping;
use super::socket::set_option;
use super::umem::{Chunk, Umem};
use std::io;
use std::marker::PhantomData;
use std::mem::{size_of, size_of_val};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

type Desc = libc::xdp_desc;

/// Frames that one call sends in copy mode, from Linux 6.17 on; 32 before (linux/if_xdp.h).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
const BUDGET: u32 = 256;

/// Room for what is on its way in copy mode, in bytes of kernel memory.
const SEND_BUFFER: libc::c_int = 32 << 20;

/// Calls of [`Xsk::kick`] at most before the rest is left for the next.
const KICKS: usize = 64;

/// How long a queue may still be somebody's whose socket is closed already: the kernel clears up behind it at its leisure
/// (xp_put_pool in net/xdp/xsk_buff_pool.c).
const CLEARING: Duration = Duration::from_millis(500);

/// Why there is no socket.
pub(super) const NONE: &str = "the kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)";

/// A queue of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub ifindex: u32,
    pub number: u32,
}

/// Whose area of memory a socket uses.
pub enum Area<'a> {
    /// Brings it: the first socket, which decides how all of them are bound.
    Brings { zero_copy: bool },
    /// The same as another socket, which is bound.
    Shares(&'a Xsk),
}

/// How the kernel is kept from interrupting a worker that polls all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long a call looks for frames, in microseconds.
    pub time_us: u32,
    /// The most frames of one call.
    pub budget: u32,
}

/// A frame that was received: `start` and `len` in bytes, within its chunk.
#[derive(Debug)]
pub struct Received {
    pub chunk: Chunk,
    pub start: usize,
    pub len: usize,
}

/// A socket at one queue of one interface.
pub struct Xsk {
    fd: OwnedFd,
    umem: Umem,
    rx: Taker<Desc>,
    tx: Giver<Desc>,
    fill: Giver<u64>,
    done: Taker<u64>,
    /// The interface was down when last asked to send.
    down: bool,
    busy: bool,
}

impl Xsk {
    /// A socket with rings of `slots` entries each, a power of two. The error's kind is `Unsupported` where the kernel has no such
    /// sockets, or the driver no zero copy.
    pub fn open(umem: &Umem, queue: Queue, slots: u32, area: &Area<'_>, busy: Option<BusyPoll>) -> io::Result<Xsk> {
        let mut xsk = Xsk::unbound(umem, slots, area)?;
        if let Some(BusyPoll { time_us, budget }) = busy {
            set_option(&xsk.fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1u32)?;
            set_option(&xsk.fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &time_us)?;
            set_option(&xsk.fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &budget)?;
            xsk.busy = true;
        }
        xsk.bind(queue, area)?;
        Ok(xsk)
    }

    /// As [`Xsk::open`], and at no queue yet.
    pub(super) fn unbound(umem: &Umem, slots: u32, area: &Area<'_>) -> io::Result<Xsk> {
        let fd = socket()?;
        if let Area::Brings { .. } = area {
            let (addr, len) = umem.extent();
            let chunk_size = umem.chunk_size() as u32;
            let register = libc::xdp_umem_reg { addr, len, chunk_size, headroom: 0, flags: 0, tx_metadata_len: 0 };
            set_option(&fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &register)
                .map_err(|error| not_locked(error, len >> 20))?;
        }
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING] {
            set_option(&fd, libc::SOL_XDP, ring, &slots)?;
        }
        let offsets = offsets(&fd)?;
        let ring = |offset, of| Ring::map(&fd, of, slots, offset);
        let xsk = Xsk {
            umem: umem.clone(),
            rx: Taker::new(ring(libc::XDP_PGOFF_RX_RING as u64, &offsets.rx)?),
            tx: Giver::new(ring(libc::XDP_PGOFF_TX_RING as u64, &offsets.tx)?),
            fill: Giver::new(Ring::map(&fd, &offsets.fr, slots, libc::XDP_UMEM_PGOFF_FILL_RING)?),
            done: Taker::new(Ring::map(&fd, &offsets.cr, slots, libc::XDP_UMEM_PGOFF_COMPLETION_RING)?),
            fd,
            down: false,
            busy: false,
        };
        set_option(&xsk.fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER)?;
        // Where the kernel is too old for it, it takes more calls.
        let _ = set_option(&xsk.fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &BUDGET.min(slots));
        Ok(xsk)
    }

    fn bind(&self, queue: Queue, area: &Area<'_>) -> io::Result<()> {
        let (flags, with) = match area {
            Area::Brings { zero_copy } => {
                let mode = if *zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
                (mode | libc::XDP_USE_NEED_WAKEUP, 0)
            }
            Area::Shares(other) => (libc::XDP_SHARED_UMEM, other.fd.as_raw_fd() as u32),
        };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: queue.ifindex,
            sxdp_queue_id: queue.number,
            sxdp_shared_umem_fd: with,
        };
        let len = size_of_val(&address) as libc::socklen_t;
        let give_up = Instant::now() + CLEARING;
        loop {
            // SAFETY: `address` is readable and as large as we say.
            if unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= give_up {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next frame that has come. Its place in the ring is the kernel's again after [`Xsk::settle`].
    pub fn receive(&mut self) -> Option<Received> {
        let desc = self.rx.take()?;
        let (chunk, start) = self.umem.at(desc.addr)?;
        let len = (desc.len as usize).min(self.umem.chunk_size() - start);
        Some(Received { chunk, start, len })
    }

    /// Gives the kernel a chunk to receive into, at the next [`Xsk::settle`]. It comes back if there is no room.
    pub fn give(&mut self, chunk: Chunk) -> Result<(), Chunk> {
        let address = self.umem.address(&chunk, 0);
        if self.fill.give(address) { Ok(()) } else { Err(chunk) }
    }

    /// Tells the kernel what has been taken and given.
    pub fn settle(&mut self) {
        self.rx.publish();
        self.fill.publish();
    }

    /// Has the driver look for new frames, if it waits to be told, or if it is to be polled.
    pub fn poke(&mut self) {
        if self.busy || self.fill.wants_wakeup() {
            // SAFETY: no data is passed.
            unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    std::ptr::null_mut(),
                    0,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                )
            };
        }
    }

    /// Queues a frame, `span` of its chunk, to leave with the next [`Xsk::kick`]. The chunk comes back if there is no room.
    pub fn send(&mut self, chunk: Chunk, span: Range<usize>) -> Result<(), Chunk> {
        assert!(self.umem.has_room(&span), "a frame beyond its chunk");
        let addr = self.umem.address(&chunk, span.start);
        if self.tx.give(Desc { addr, len: span.len() as u32, options: 0 }) { Ok(()) } else { Err(chunk) }
    }

    /// A chunk whose frame has left.
    pub fn sent(&mut self) -> Option<Chunk> {
        loop {
            match self.done.take() {
                Some(address) => {
                    if let Some((chunk, _)) = self.umem.at(address) {
                        return Some(chunk);
                    }
                }
                None => {
                    self.done.publish();
                    return None;
                }
            }
        }
    }

    /// Sends what is queued. Gives the number of frames that the kernel has dropped; it never blocks. What the interface has no
    /// room for just now stays queued.
    pub fn kick(&mut self) -> u64 {
        self.tx.publish();
        let mut refused = 0;
        for _ in 0..KICKS {
            let before = self.tx.waiting();
            if before == 0 {
                self.down = false;
                break;
            }
            if !self.tx.wants_wakeup() {
                break;
            }
            // SAFETY: no data is passed; the kernel looks into the ring.
            let sent = unsafe {
                libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
            };
            self.down = false;
            if sent >= 0 {
                break;
            }
            match io::Error::last_os_error().raw_os_error() {
                // It was dropped behind the ring.
                Some(libc::EBUSY) => refused += 1,
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                    self.down = true;
                    break;
                }
                Some(libc::EINTR) => {}
                // As many as one call sends; or none, and to ask again at once would not help.
                _ if self.tx.waiting() == before => break,
                _ => {}
            }
        }
        refused
    }

    /// The interface was down, or gone, when it was last asked to send.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Frames that found no room, and descriptors of frames to send that the kernel did not take, both ever.
    pub fn losses(&self) -> (u64, u64) {
        let Ok(statistics) = get::<libc::xdp_statistics>(&self.fd, libc::XDP_STATISTICS) else { return (0, 0) };
        (statistics.rx_dropped + statistics.rx_ring_full, statistics.tx_invalid_descs)
    }
}

impl AsRawFd for Xsk {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Whether the kernel has such sockets.
pub fn is_known() -> bool {
    socket().map_or_else(|error| error.kind() != io::ErrorKind::Unsupported, |_| true)
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd >= 0 {
        // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => io::Error::new(io::ErrorKind::Unsupported, NONE),
        _ => error,
    })
}

/// Says so if it is the limit on locked memory (xdp_umem_account_pages in net/xdp/xdp_umem.c) that is in the way.
fn not_locked(error: io::Error, len_mb: u64) -> io::Error {
    let help = "raise the limit (ulimit -l unlimited, or LimitMEMLOCK=infinity in its systemd unit)";
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => {
            io::Error::new(error.kind(), format!("{len_mb} MB of memory for frames cannot be locked: {help}"))
        }
        _ => error,
    }
}

/// `T`: integers, any bytes of which are a value.
fn get<T>(fd: &OwnedFd, name: libc::c_int) -> io::Result<T> {
    // SAFETY: integers; zeroes are fine.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable and as large as we say.
    match unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, name, (&raw mut value).cast(), &mut len) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

fn offsets(fd: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    get(fd, libc::XDP_MMAP_OFFSETS)
}

/// A ring in memory shared with the kernel.
struct Ring<T> {
    _map: Mapping,
    writer: *const AtomicU32,
    reader: *const AtomicU32,
    flags: *const AtomicU32,
    entries: *mut T,
    slots: u32,
    kind: PhantomData<T>,
}

// SAFETY: the pointers lead into the mapping, which belongs to the process; one thread at a time has the ring.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn map(fd: &OwnedFd, of: &libc::xdp_ring_offset, slots: u32, offset: u64) -> io::Result<Ring<T>> {
        let len = of.desc as usize + slots as usize * size_of::<T>();
        let map = Mapping::at(fd.as_fd(), len, offset as libc::off_t)?;
        // SAFETY: the kernel names places inside of what it has let us map, aligned for what stands there.
        let place = |at: u64| unsafe { map.start().add(at as usize) };
        let (writer, reader, flags) = (place(of.producer).cast(), place(of.consumer).cast(), place(of.flags).cast());
        let entries = place(of.desc).cast();
        Ok(Ring { writer, reader, flags, entries, slots, _map: map, kind: PhantomData })
    }

    fn writer(&self) -> &AtomicU32 {
        // SAFETY: in the mapping, aligned, and only ever accessed as an atomic word by both sides.
        unsafe { &*self.writer }
    }

    fn reader(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &*self.reader }
    }

    fn wants_wakeup(&self) -> bool {
        // SAFETY: as above.
        unsafe { &*self.flags }.load(Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, number: u32) -> *mut T {
        // SAFETY: `slots` is a power of two, so the entry is one of those mapped.
        unsafe { self.entries.add((number & (self.slots - 1)) as usize) }
    }
}

/// Our end of a ring that the kernel reads.
struct Giver<T> {
    ring: Ring<T>,
    next: u32,
    /// The kernel's counter, as last seen.
    taken: u32,
}

impl<T: Copy> Giver<T> {
    fn new(ring: Ring<T>) -> Giver<T> {
        Giver { ring, next: 0, taken: 0 }
    }

    fn give(&mut self, entry: T) -> bool {
        if self.next.wrapping_sub(self.taken) == self.ring.slots {
            // Acquire pairs with the kernel's release of the entries that it has read.
            self.taken = self.ring.reader().load(Acquire);
            if self.next.wrapping_sub(self.taken) == self.ring.slots {
                return false;
            }
        }
        // SAFETY: the kernel has read what stood here, and looks again only after `publish`.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    fn publish(&self) {
        // Release: the entries are there before the kernel, which loads with Acquire, sees their number.
        self.ring.writer().store(self.next, Release);
    }

    /// Entries that the kernel has not taken yet.
    fn waiting(&self) -> u32 {
        self.next.wrapping_sub(self.ring.reader().load(Acquire))
    }

    fn wants_wakeup(&self) -> bool {
        self.ring.wants_wakeup()
    }
}

/// Our end of a ring that the kernel writes.
struct Taker<T> {
    ring: Ring<T>,
    next: u32,
    /// The kernel's counter, as last seen.
    written: u32,
}

impl<T: Copy> Taker<T> {
    fn new(ring: Ring<T>) -> Taker<T> {
        Taker { ring, next: 0, written: 0 }
    }

    fn take(&mut self) -> Option<T> {
        if self.next == self.written {
            // Acquire pairs with the kernel's release of what it has written.
            self.written = self.ring.writer().load(Acquire);
            if self.next == self.written {
                return None;
            }
        }
        // SAFETY: the kernel has written this entry, and writes it again only after `publish`.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    fn publish(&self) {
        // Release: we have read the entries before the kernel, which loads with Acquire, writes others there.
        self.ring.reader().store(self.next, Release);
    }
}
