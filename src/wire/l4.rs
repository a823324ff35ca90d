//! TCP and UDP headers, as far as a forwarder reads them.

use super::be16;
use super::ip::{ICMP, ICMPV6, TCP, UDP, V4, V6};
use crate::counters::Refusal;

pub const TCP_HEADER: usize = 20;
pub const UDP_HEADER: usize = 8;
pub const ICMP_HEADER: usize = 8;

/// TCP flags as in the header's 14th byte (RFC 9293, 3.1).
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// Where the checksum stands in the header of `protocol`.
#[inline]
pub fn checksum_offset(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

/// Bytes that a header of `protocol` may have at most.
pub(super) fn largest_header(protocol: u8) -> usize {
    if protocol == TCP { 60 } else { 8 }
}

/// What an L4 header says; nothing where the protocol is none of ours, or has no ports.
#[derive(Clone, Copy, Default)]
pub(super) struct Ports {
    pub src: u16,
    pub dst: u16,
    pub tcp_flags: u8,
}

/// Reads the header of `protocol` at the start of `l4`, which is all of the packet's payload, or (`cut`) the first piece of it. The
/// protocol is left to the caller where it is none of ours.
#[inline(always)]
pub(super) fn parse(l4: &[u8], protocol: u8, family: u8, cut: bool, ports: &mut Ports) -> Result<(), Refusal> {
    match (protocol, family) {
        (TCP, _) => {
            let header = l4.first_chunk::<TCP_HEADER>().ok_or(Refusal::TcpHeader)?;
            let length = usize::from(header[12] >> 4) * 4;
            if length < TCP_HEADER || length > l4.len() {
                return Err(Refusal::TcpHeader);
            }
            if impossible(header[13]) {
                return Err(Refusal::TcpFlags);
            }
            *ports = Ports { src: be16(header, 0), dst: be16(header, 2), tcp_flags: header[13] };
        }
        (UDP, _) => {
            let header = l4.first_chunk::<UDP_HEADER>().ok_or(Refusal::UdpLength)?;
            let length = usize::from(be16(header, 4));
            // Bytes behind the datagram are UDP options (RFC 9868) and pass. The first fragment has not all of it.
            if length < UDP_HEADER || (length > l4.len() && !cut) {
                return Err(Refusal::UdpLength);
            }
            *ports = Ports { src: be16(header, 0), dst: be16(header, 2), tcp_flags: 0 };
        }
        (ICMP, V4) | (ICMPV6, V6) if l4.len() < ICMP_HEADER => return Err(Refusal::IcmpShort),
        _ => return Ok(()),
    }
    if ports.src == 0 || ports.dst == 0 { Err(Refusal::PortZero) } else { Ok(()) }
}

/// Flag combinations that no TCP sends and scanners do: none at all, SYN with FIN or RST, FIN without ACK.
#[inline]
fn impossible(flags: u8) -> bool {
    // Almost all packets have ACK, and of the others no more.
    flags & (SYN | FIN | RST | ACK) != ACK && unlikely(flags)
}

fn unlikely(flags: u8) -> bool {
    flags & (SYN | FIN | RST | ACK) == 0
        || flags & (SYN | FIN) == SYN | FIN
        || flags & (SYN | RST) == SYN | RST
        || flags & (FIN | ACK | RST) == FIN
}

/// The offset of the MSS option's value in a SYN's header, if it has one (RFC 9293 3.2). `header` is the TCP header whole.
pub fn mss_option(header: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const MSS: u8 = 2;
    let mut at = TCP_HEADER;
    while at < header.len() {
        match header[at] {
            END => return None,
            NOP => at += 1,
            kind => {
                let length = usize::from(*header.get(at + 1)?);
                if length < 2 || at + length > header.len() {
                    return None;
                }
                if kind == MSS && length == 4 {
                    return Some(at + 2);
                }
                at += length;
            }
        }
    }
    None
}
