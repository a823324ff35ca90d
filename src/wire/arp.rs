//! ARP over Ethernet for IPv4 (RFC 826).

use super::ip::Addr;
use super::{Parsed, be16};
use crate::counters::Refusal;

/// Bytes of the packet behind the Ethernet header.
pub const LENGTH: usize = 28;
const REQUEST: u16 = 1;
pub const REPLY: u16 = 2;

/// "Who has `target`? Tell `sender`."
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub sender: Addr,
    pub target: Addr,
}

/// Reads what stands behind the Ethernet header. Whatever is no request for an IPv4 address is the host's.
pub(super) fn parse(arp: &[u8]) -> Result<Parsed, Refusal> {
    let arp = arp.first_chunk::<LENGTH>().ok_or(Refusal::ArpShort)?;
    let ethernet_ipv4 = arp[..6] == [0, 1, 8, 0, 6, 4];
    if !ethernet_ipv4 || be16(arp, 6) != REQUEST {
        return Ok(Parsed::Other);
    }
    Ok(Parsed::Arp(Request {
        sender: Addr::v4([arp[14], arp[15], arp[16], arp[17]]),
        target: Addr::v4([arp[24], arp[25], arp[26], arp[27]]),
    }))
}
