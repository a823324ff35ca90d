//! Kernel structures that `libc` does not define, and the few numbers beside them.

/// `struct virtio_net_hdr` (virtio 1.2, 5.1.6; linux/virtio_net.h), native byte order as the packet socket has it. 10 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHdr {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

pub const VNET_HDR_LEN: usize = size_of::<VnetHdr>();
pub const VNET_NEEDS_CSUM: u8 = 1;
pub const VNET_DATA_VALID: u8 = 2;
