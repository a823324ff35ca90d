//! ICMP echo (RFC 792, RFC 4443): does the machine answer a ping?

use super::{Probe, Step};

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

pub struct Icmp {
    v6: bool,
    /// Sent along, and comes back unchanged: that is how our answer is known. The identifier is no use, because the
    /// kernel puts its own into what a ping socket sends.
    random: [u8; 16],
}

impl Icmp {
    pub fn new(v6: bool, random: [u8; 16]) -> Icmp {
        Icmp { v6, random }
    }
}

impl Probe for Icmp {
    fn start(&mut self, out: &mut Vec<u8>) -> Step {
        let request = if self.v6 { ECHO_REQUEST_V6 } else { ECHO_REQUEST };
        let at = out.len();
        // Type, code, checksum, identifier, sequence number.
        out.extend_from_slice(&[request, 0, 0, 0, self.random[0], self.random[1], 0, 1]);
        out.extend_from_slice(&self.random);
        if !self.v6 {
            // For ICMPv6 the kernel does it (RFC 3542, 3.1), as the sum includes addresses that we do not know here.
            let sum = checksum(&out[at..]);
            out[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
        Step::More
    }

    /// One ICMP message. What is not the answer to our ping is somebody else's.
    fn receive(&mut self, bytes: &[u8], _out: &mut Vec<u8>) -> Step {
        let reply = if self.v6 { ECHO_REPLY_V6 } else { ECHO_REPLY };
        if bytes.len() >= 8 && bytes[0] == reply && bytes[1] == 0 && bytes[8..] == self.random {
            Step::Healthy
        } else {
            Step::More
        }
    }

    fn awaits(&self) -> &'static str {
        "answer to the ping"
    }
}

/// The message within an IPv4 packet, as a raw socket hands it over; None: the packet is cut off.
pub fn strip_ipv4(packet: &[u8]) -> Option<&[u8]> {
    let header = (*packet.first()? & 0xf) as usize * 4;
    if header < 20 { None } else { packet.get(header..) }
}

fn checksum(message: &[u8]) -> u16 {
    let sum: u32 = message.chunks(2).map(|pair| (pair[0] as u32) << 8 | *pair.get(1).unwrap_or(&0) as u32).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
