//! TPACKET_V2 rings (Documentation/networking/packet_mmap.rst): slots of fixed size in memory shared with the kernel, each
//! with a status word that says whose it is.

use super::abi::{VNET_HDR_LEN, VNET_NEEDS_CSUM, VnetHdr};
use super::map::Mapping;
use super::socket::PacketSocket;
use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Bytes in front of the frame's room to grow: the slot's header and a `sockaddr_ll`, on a cache line's border.
const SLOT_HEAD: usize = 64;

/// tp_reserve: with it the Ethernet header stands at byte 210 of a slot and the IP header at 224, aligned.
/// In tpacket_rcv (net/packet/af_packet.c): netoff = align16(52 + 16) + reserve + virtio header.
const RESERVE: u32 = 134;

/// Bytes of a receive ring's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Room for the reserve, 64 KB of IP packet, and a little; no multiple of a page, so that the slots' first lines spread
    /// over all sets of the caches. Fifteen of them fill a block but for 256 bytes.
    Large = 69_888,
    /// The same for 1800 bytes of IP packet.
    Small = 2112,
}

const RX_BLOCK: usize = 1 << 20;

impl Slot {
    fn size(self) -> usize {
        self as usize
    }

    /// Where the slot of this number lies. Both divisions are by constants.
    #[inline]
    fn offset(self, index: usize) -> usize {
        const fn within<const SIZE: usize>(index: usize) -> usize {
            let per_block = RX_BLOCK / SIZE;
            index / per_block * RX_BLOCK + index % per_block * SIZE
        }
        match self {
            Slot::Large => within::<{ Slot::Large as usize }>(index),
            Slot::Small => within::<{ Slot::Small as usize }>(index),
        }
    }
}

/// Of the transmit ring, for small frames: see [`TxRing`].
const TX_SLOT: usize = 2048;
const TX_BLOCK: usize = 1 << 18;
const TX_BLOCKS: usize = 4;
const TX_SLOTS: usize = TX_BLOCKS * (TX_BLOCK / TX_SLOT);

/// Where the kernel looks for a frame to send: TPACKET2_HDRLEN - sizeof(struct sockaddr_ll).
const TX_DATA: usize = 32;

/// The longest frame that fits into a transmit slot, in bytes.
pub const TX_MAX: usize = TX_SLOT - TX_DATA - VNET_HDR_LEN;

type Header = libc::tpacket2_hdr;

/// A ring of slots for received frames. User space takes them in order and gives them back in order:
/// `head` is the next to take, the `taken` before it are ours.
pub struct RxRing {
    map: Mapping,
    slots: usize,
    slot: Slot,
    head: usize,
    taken: usize,
}

/// What the kernel wrote beside a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct RxMeta {
    /// Where in the buffer that [`RxRing::buffer`] gives.
    pub start: u32,
    pub len: u32,
    /// Bytes of the packet before it was cut to the slot.
    pub wire_len: u32,
    pub header: VnetHdr,
}

impl RxRing {
    /// A ring of at least `slots` frames for the socket.
    pub fn new(socket: &PacketSocket, slots: usize, slot: Slot) -> io::Result<RxRing> {
        let size = slot.size();
        let per_block = RX_BLOCK / size;
        let blocks = slots.div_ceil(per_block).max(1);
        socket.set(libc::SOL_PACKET, libc::PACKET_RESERVE, &RESERVE)?;
        let request = libc::tpacket_req {
            tp_block_size: RX_BLOCK as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: size as u32,
            tp_frame_nr: (blocks * per_block) as u32,
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let map = Mapping::new(socket.as_fd(), blocks * RX_BLOCK)?;
        Ok(RxRing { map, slots: blocks * per_block, slot, head: 0, taken: 0 })
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    fn slot(&self, index: usize) -> *mut u8 {
        debug_assert!(index < self.slots);
        let offset = self.slot.offset(index);
        // SAFETY: `index` is below `slots`, so that the slot lies in the mapping (`new` sized both).
        unsafe { self.map.start().add(offset) }
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the status word is the slot's first field and aligned; both sides access it as a whole.
        unsafe { &*self.slot(index).add(offset_of!(Header, tp_status)).cast::<AtomicU32>() }
    }

    /// Takes the next slot that the kernel has filled; it is the last of the taken ones. None: no frame waits.
    pub fn take(&mut self) -> Option<RxMeta> {
        let index = self.head;
        // Acquire pairs with the kernel's barrier between the frame and the status (tpacket_rcv).
        // Taken slots bear the same mark, so the ring must not be lapped.
        if self.taken == self.slots || self.status(index).load(Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        self.head = if index + 1 == self.slots { 0 } else { index + 1 };
        self.taken += 1;
        let slot = self.slot(index);
        // SAFETY: the slot is ours, the header is the kernel's and aligned; the virtio header lies right before the frame,
        // wherever that is: unaligned.
        unsafe {
            let header = slot.cast::<Header>().read();
            let mac = usize::from(header.tp_mac).clamp(SLOT_HEAD, self.slot.size());
            Some(RxMeta {
                start: (mac - SLOT_HEAD) as u32,
                len: header.tp_snaplen.min((self.slot.size() - mac) as u32),
                wire_len: header.tp_len,
                header: slot.add(mac - VNET_HDR_LEN).cast::<VnetHdr>().read_unaligned(),
            })
        }
    }

    /// How many slots are taken.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The buffer of the i-th of the taken slots; what of it is the frame, [`RxRing::take`] has said.
    pub fn buffer(&mut self, i: usize) -> &mut [u8] {
        let index = self.index_of(i);
        // SAFETY: the slot is ours until it is given back, and the slice borrows `self` mutably: there is no other.
        unsafe { std::slice::from_raw_parts_mut(self.slot(index).add(SLOT_HEAD), self.slot.size() - SLOT_HEAD) }
    }

    /// As [`RxRing::buffer`], to read.
    pub fn bytes(&self, i: usize) -> &[u8] {
        let index = self.index_of(i);
        // SAFETY: the slot is ours until it is given back, and no mutable slice outlives a shared borrow of `self`.
        unsafe { std::slice::from_raw_parts(self.slot(index).add(SLOT_HEAD), self.slot.size() - SLOT_HEAD) }
    }

    fn index_of(&self, i: usize) -> usize {
        assert!(i < self.taken, "slot not taken");
        let index = self.head + self.slots - self.taken + i;
        if index >= self.slots { index - self.slots } else { index }
    }

    /// Gives all taken slots back to the kernel.
    pub fn give_back(&mut self) {
        for i in 0..self.taken {
            // Release: our last access to the frame comes before the kernel's next (packet_lookup_frame's status read).
            self.status(self.index_of(i)).store(libc::TP_STATUS_KERNEL, Release);
        }
        self.taken = 0;
    }
}

/// A ring of slots for frames to send, for small ones only.
///
/// Theory. The kernel can send from the ring without a copy: it hangs the ring's pages into the packet, and a receiver
/// on the same machine copies them when it queues the packet (skb_orphan_frags_rx; since Linux 4.20 nothing is torn: 6 GB
/// of large segments to readers fast and slow came out unharmed). That is slow for both sizes. What was measured over
/// veth, in CPU time with the receiver's share of the work: frames of 60 bytes, each: pages hung in 1.3 us, copied
/// from the ring into the packet's linear part (hdr_len = length) 1.0-1.3 us, sendmmsg 1.55-1.65 us; GSO packets of 35 KB, per
/// byte: 0.50 ns, 0.45 ns, 0.37-0.42 ns (sendmmsg needs no copy from ring to ring). So small frames go by
/// this ring, with hdr_len = length, large ones by [`PacketSocket::send_messages`] straight from the receive slot.
///
/// A socket with a transmit ring sends by the ring only, so that each interface has two sockets.
pub struct TxRing {
    socket: PacketSocket,
    map: Mapping,
    /// The next slot to fill.
    head: usize,
    /// Filled since the last kick, right before `head`.
    queued: usize,
    /// The longest frame that the kernel takes; longer ones it would drop without a word.
    limit: usize,
}

impl TxRing {
    /// `mtu` of the interface, in bytes.
    pub fn new(interface: u32, mtu: usize) -> io::Result<TxRing> {
        let socket = PacketSocket::new()?;
        // A frame that the kernel finds malformed is skipped; by default it would block the ring.
        socket.set(libc::SOL_PACKET, libc::PACKET_LOSS, &1i32)?;
        let request = libc::tpacket_req {
            tp_block_size: TX_BLOCK as u32,
            tp_block_nr: TX_BLOCKS as u32,
            tp_frame_size: TX_SLOT as u32,
            tp_frame_nr: TX_SLOTS as u32,
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_TX_RING, &request)?;
        let map = Mapping::new(socket.as_fd(), TX_BLOCKS * TX_BLOCK)?;
        socket.bind(interface, false)?;
        Ok(TxRing { socket, map, head: 0, queued: 0, limit: TX_MAX.min(mtu + libc::ETH_HLEN as usize) })
    }

    fn slot(&self, index: usize) -> *mut u8 {
        debug_assert!(index < TX_SLOTS);
        // The slots lie without gaps, since a block holds a whole number of them.
        // SAFETY: `index` is below TX_SLOTS, so that the slot lies in the mapping.
        unsafe { self.map.start().add(index * TX_SLOT) }
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the status word is the slot's first field and aligned; both sides access it as a whole.
        unsafe { &*self.slot(index).add(offset_of!(Header, tp_status)).cast::<AtomicU32>() }
    }

    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Is this a frame for the ring?
    pub fn may_take(&self, header: VnetHdr, len: usize) -> bool {
        let csum_end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        len <= self.limit
            && len >= libc::ETH_HLEN as usize
            && header.gso_type == 0
            && (header.flags & VNET_NEEDS_CSUM == 0 || csum_end <= len)
    }

    /// Queues a copy of a frame. False: the ring [may not take](TxRing::may_take) it, or the kernel still holds the next slot.
    pub fn push(&mut self, mut header: VnetHdr, frame: &[u8]) -> bool {
        // Acquire pairs with the kernel's barrier before it marks a slot free (tpacket_destruct_skb).
        if !self.may_take(header, frame.len())
            || self.queued == TX_SLOTS
            || self.status(self.head).load(Acquire) != libc::TP_STATUS_AVAILABLE
        {
            return false;
        }
        header.hdr_len = frame.len() as u16;
        let slot = self.slot(self.head);
        // SAFETY: the slot is free, hence ours; the frame is at most TX_MAX bytes, so that header and frame fit behind TX_DATA.
        unsafe {
            (*slot.cast::<Header>()).tp_len = (VNET_HDR_LEN + frame.len()) as u32;
            slot.add(TX_DATA).cast::<VnetHdr>().write_unaligned(header);
            std::ptr::copy_nonoverlapping(frame.as_ptr(), slot.add(TX_DATA + VNET_HDR_LEN), frame.len());
        }
        // Release: the frame is there before the kernel, in `kick`, sees the mark.
        self.status(self.head).store(libc::TP_STATUS_SEND_REQUEST, Release);
        self.head = (self.head + 1) % TX_SLOTS;
        self.queued += 1;
        true
    }

    /// Sends all that is queued. Gives the number of frames that the kernel refused; it never blocks, and nothing stays
    /// behind to leave later.
    pub fn kick(&mut self) -> u64 {
        if self.queued == 0 {
            return 0;
        }
        let last = (self.head + TX_SLOTS - 1) % TX_SLOTS;
        // The kernel stops early when the interface is busy or down, or memory short. Once more, for the former.
        for _ in 0..2 {
            self.socket.kick();
            if self.status(last).load(Relaxed) != libc::TP_STATUS_SEND_REQUEST {
                self.queued = 0;
                return 0;
            }
        }
        // The kernel goes on where it stopped: at the first slot that still asks to be sent, and there we go on as well.
        let mut refused = 0;
        for i in 1..=self.queued {
            let index = (self.head + TX_SLOTS - i) % TX_SLOTS;
            if self.status(index).load(Relaxed) != libc::TP_STATUS_SEND_REQUEST {
                break;
            }
            self.status(index).store(libc::TP_STATUS_AVAILABLE, Relaxed);
            refused += 1;
        }
        self.head = (self.head + TX_SLOTS - refused) % TX_SLOTS;
        self.queued = 0;
        refused as u64
    }
}
