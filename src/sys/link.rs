//! The address of an interface for packet sockets.

use socket2::{SockAddr, SockAddrStorage};

/// Where a packet socket sends a whole Ethernet frame: the interface of this index.
pub fn link_address(ifindex: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a sockaddr (it starts with the address family), is not longer than the storage, and is
    // valid with any bytes.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = ifindex as i32;
    address.sll_halen = 6;
    // SAFETY: the family has been set, and the length is that of the structure that was filled in.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
