//! Bytes to fields: one pass over a frame gives a [`Packet`] or a named refusal. Lengths are checked here, once;
//! after that the offsets of a `Packet` may be read freely.

pub mod arp;
pub mod checksum;
pub mod icmp;
pub mod ip;
pub mod l4;

use crate::counters::Refusal;
use ip::{Addr, Endpoint, FlowKey};

/// Bytes of an Ethernet header. Tags never come here: a tagged frame belongs to the host's VLAN interface.
pub const ETHERNET: usize = 14;
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// An IP packet inside a frame. Offsets count from the start of the frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet {
    /// [`ip::V4`] or [`ip::V6`].
    pub family: u8,
    /// Of the payload, behind all extension headers.
    pub protocol: u8,
    pub ttl: u8,
    /// TCP flags, 0 for all else.
    pub tcp_flags: u8,
    /// Where the L4 header starts, or what a later fragment has of the payload; the IP header is at [`ETHERNET`].
    pub l4: u16,
    /// Where the IP packet ends: Ethernet may have padded behind it.
    pub end: u32,
    pub src: Addr,
    pub dst: Addr,
    /// 0 where the protocol has none, and in all fragments but the first.
    pub src_port: u16,
    pub dst_port: u16,
    /// None: a whole packet.
    pub fragment: Option<ip::Fragment>,
}

impl Packet {
    /// A fragment without the L4 header: nothing of that may be read.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset > 0)
    }

    /// The 5-tuple; ports are 0 where the protocol has none.
    #[inline]
    pub fn key(&self) -> FlowKey {
        FlowKey {
            src: Endpoint { addr: self.src, port: self.src_port },
            dst: Endpoint { addr: self.dst, port: self.dst_port },
            protocol: self.protocol,
            family: self.family,
        }
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug)]
pub enum Parsed {
    Ip(Packet),
    Arp(arp::Request),
    /// Nothing that farside ever handles.
    Other,
}

/// Reads a frame. `bytes` starts with the Ethernet header.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Refusal> {
    let mut parsed = Ok(Parsed::Other);
    parse_to(bytes, &mut parsed);
    parsed
}

/// [`parse`] to where the answer shall stand: to write it elsewhere first and copy it costs as much as half the reading.
#[inline(always)]
pub fn parse_to(bytes: &[u8], parsed: &mut Result<Parsed, Refusal>) {
    match bytes.first_chunk::<ETHERNET>() {
        Some([.., 0x08, 0x00]) => {
            let mut packet = Packet::default();
            match ip::parse_v4(bytes, &mut packet) {
                Ok(()) => *parsed = Ok(Parsed::Ip(packet)),
                Err(refusal) => *parsed = Err(refusal),
            }
        }
        Some([.., a, b]) => *parsed = parse_other(bytes, u16::from_be_bytes([*a, *b])),
        None => *parsed = Err(Refusal::ShortFrame),
    }
}

#[inline(never)]
fn parse_other(bytes: &[u8], ethertype: u16) -> Result<Parsed, Refusal> {
    match ethertype {
        ETHERTYPE_IPV6 => ip::parse_v6(bytes),
        ETHERTYPE_ARP => arp::parse(&bytes[ETHERNET..]),
        _ => Ok(Parsed::Other),
    }
}

/// Two bytes, network order. The caller has checked the length.
#[inline]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Four bytes, network order. The caller has checked the length.
#[inline]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A 16-bit word as it lies on the wire, for sums.
#[inline]
pub fn raw16(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
pub fn put_raw16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}

#[inline]
pub fn put_be16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline]
pub fn put_be32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;
