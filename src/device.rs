//! Where frames come from and go to. A device is one worker's door to all interfaces: each of them is a *port*,
//! numbered as in `[datapath] interfaces`. Batches cross this boundary, single frames cross `forward`.

pub mod af_packet;
pub mod af_xdp;
#[cfg(test)]
mod lab;
pub mod memory;
pub mod pcap;

use std::time::Duration;

/// The most frames of one batch.
pub const BATCH: usize = 64;

/// Room in front of every received frame, for an encapsulation to grow into, in bytes.
pub const HEADROOM: usize = 128;

/// What the sender left undone, as in `struct virtio_net_hdr` (virtio 1.2, 5.1.6): checksums that are still partial
/// and segments that are still joined. It travels with the frame and is handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum at `csum_start + csum_offset` holds the pseudo-header sum, not complemented.
    pub needs_csum: bool,
    /// The device has verified the checksum.
    pub csum_valid: bool,
    /// From the start of the frame, in bytes.
    pub csum_start: u16,
    pub csum_offset: u16,
    /// VIRTIO_NET_HDR_GSO_*; 0: a single packet.
    pub gso_type: u8,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Bytes of all headers.
    pub hdr_len: u16,
}

/// A received frame, owned until the batch is flushed. `buf[start..start + len]` is the Ethernet frame; what lies around
/// it is room to grow (in front at least [`HEADROOM`] from the ring backends).
pub struct Frame<'a> {
    pub buf: &'a mut [u8],
    pub start: usize,
    pub len: usize,
    pub offload: Offload,
    /// The interface it came in by.
    pub port: u8,
    /// Bytes of the packet on the wire if the ring could not hold all of it, else equal to `len`.
    pub wire_len: usize,
}

/// The part of a frame's buffer that shall be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub len: usize,
    pub offload: Offload,
}

/// Frames that were lost outside of farside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The worker was too slow, and its receive ring was full.
    pub ring_full: u64,
    /// The kernel refused to send: interface down, its queue full, longer than its MTU.
    pub send_refused: u64,
}

pub trait Device {
    /// The number of interfaces.
    fn ports(&self) -> usize;

    /// Takes up to `max` (at most [`BATCH`]) frames that wait at `port`; they are this batch until [`Device::flush`].
    fn receive(&mut self, port: usize, max: usize) -> usize;

    /// The i-th frame of the batch.
    fn frame(&mut self, i: usize) -> Frame<'_>;

    /// Queues a part of the i-th frame of the batch to leave by `port`. Each frame at most once. False: no room; the frame
    /// is not sent.
    fn send(&mut self, i: usize, span: Span, port: usize) -> bool;

    /// Queues a copy of `frame` (one of farside's own, or one that was held) to leave by `port`. False: no room.
    fn send_copy(&mut self, frame: &[u8], offload: Offload, port: usize) -> bool;

    /// Sends all that is queued, in order, so that there is room for more; the batch's frames stay.
    fn make_room(&mut self);

    /// Sends all that is queued, in order, and gives the batch's frames back.
    fn flush(&mut self);

    /// What the kernel has lost since the last call.
    fn losses(&mut self) -> Losses {
        Losses::default()
    }

    /// Sleeps until a frame waits at any port, the device's waker fires, or `timeout` is over.
    fn wait(&mut self, timeout: Duration);
}
