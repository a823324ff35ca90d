//! Frames for tests: built field by field, and read back with every checksum verified by an independent implementation.

use crate::wire::ip::{ICMP, ICMPV6, TCP, UDP};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::{icmp, icmpv6, ipv4, ipv6, tcp, udp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A TCP, UDP or ICMP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Build {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: u8,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// TCP and UDP: leave the checksum to the device, with only the pseudo-header summed.
    pub partial: bool,
    /// ICMP: type and code.
    pub icmp: (u8, u8),
    /// ICMP: the second word of the header.
    pub rest: u32,
}

impl Build {
    fn new(src: &str, dst: &str, protocol: u8) -> Build {
        let endpoint = |text: &str| match text.parse() {
            Ok(endpoint) => endpoint,
            Err(_) => SocketAddr::new(text.parse().unwrap(), 0),
        };
        Build {
            src: endpoint(src),
            dst: endpoint(dst),
            protocol,
            flags: 0,
            seq: 1000,
            ack: 0,
            ttl: 64,
            tos: 0,
            options: Vec::new(),
            payload: Vec::new(),
            partial: false,
            icmp: (0, 0),
            rest: 0,
        }
    }

    pub fn tcp(src: &str, dst: &str, flags: u8) -> Build {
        Build { flags, ..Build::new(src, dst, TCP) }
    }

    pub fn udp(src: &str, dst: &str, payload: &[u8]) -> Build {
        Build { payload: payload.to_vec(), ..Build::new(src, dst, UDP) }
    }

    pub fn icmp(src: &str, dst: &str, kind: u8, code: u8, payload: &[u8]) -> Build {
        let build = Build::new(src, dst, ICMP);
        let protocol = if build.src.is_ipv4() { ICMP } else { ICMPV6 };
        Build { protocol, icmp: (kind, code), payload: payload.to_vec(), ..build }
    }

    /// The whole frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = [OUR_MAC, THEIR_MAC].concat();
        frame.extend(if self.src.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        frame.extend(self.packet());
        frame
    }

    /// From the IP header on.
    pub fn packet(&self) -> Vec<u8> {
        let l4 = self.l4();
        let mut packet = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = vec![0x45, self.tos, 0, 0, 0x12, 0x34, 0x40, 0, self.ttl, self.protocol, 0, 0];
                header[2..4].copy_from_slice(&(20 + l4.len() as u16).to_be_bytes());
                header.extend(src.octets());
                header.extend(dst.octets());
                let check = ipv4::checksum(&ipv4::Ipv4Packet::new(&header).unwrap());
                header[10..12].copy_from_slice(&check.to_be_bytes());
                header
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
                header.extend((l4.len() as u16).to_be_bytes());
                header.extend([self.protocol, self.ttl]);
                header.extend(src.octets());
                header.extend(dst.octets());
                header
            }
            _ => panic!("two families"),
        };
        packet.extend(l4);
        packet
    }

    fn l4(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        let check_at = match self.protocol {
            TCP => {
                l4.extend(self.src.port().to_be_bytes());
                l4.extend(self.dst.port().to_be_bytes());
                l4.extend(self.seq.to_be_bytes());
                l4.extend(self.ack.to_be_bytes());
                assert_eq!(self.options.len() % 4, 0);
                l4.extend([((20 + self.options.len()) as u8 / 4) << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
                l4.extend(&self.options);
                16
            }
            UDP => {
                l4.extend(self.src.port().to_be_bytes());
                l4.extend(self.dst.port().to_be_bytes());
                l4.extend((8 + self.payload.len() as u16).to_be_bytes());
                l4.extend([0, 0]);
                6
            }
            ICMP | ICMPV6 => {
                l4.extend([self.icmp.0, self.icmp.1, 0, 0]);
                l4.extend(self.rest.to_be_bytes());
                2
            }
            _ => {
                l4.extend(&self.payload);
                return l4;
            }
        };
        l4.extend(&self.payload);
        let check = if self.partial {
            self.pseudo_sum(l4.len())
        } else {
            l4_checksum(self.src.ip(), self.dst.ip(), self.protocol, &l4)
        };
        l4[check_at..check_at + 2].copy_from_slice(&check.to_be_bytes());
        l4
    }

    fn pseudo_sum(&self, length: usize) -> u16 {
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let mut bytes = [octets(self.src.ip()), octets(self.dst.ip())].concat();
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol]);
        !pnet_packet::util::checksum(&bytes, usize::MAX)
    }
}

/// The right checksum of an L4 message, whatever its own field says.
fn l4_checksum(src: IpAddr, dst: IpAddr, protocol: u8, l4: &[u8]) -> u16 {
    match (protocol, src, dst) {
        (TCP, IpAddr::V4(src), IpAddr::V4(dst)) => tcp::ipv4_checksum(&tcp::TcpPacket::new(l4).unwrap(), &src, &dst),
        (TCP, IpAddr::V6(src), IpAddr::V6(dst)) => tcp::ipv6_checksum(&tcp::TcpPacket::new(l4).unwrap(), &src, &dst),
        (UDP, IpAddr::V4(src), IpAddr::V4(dst)) => udp::ipv4_checksum(&udp::UdpPacket::new(l4).unwrap(), &src, &dst),
        (UDP, IpAddr::V6(src), IpAddr::V6(dst)) => udp::ipv6_checksum(&udp::UdpPacket::new(l4).unwrap(), &src, &dst),
        (ICMP, ..) => icmp::checksum(&icmp::IcmpPacket::new(l4).unwrap()),
        (ICMPV6, IpAddr::V6(src), IpAddr::V6(dst)) => {
            icmpv6::checksum(&icmpv6::Icmpv6Packet::new(l4).unwrap(), &src, &dst)
        }
        _ => panic!("no checksum for protocol {protocol}"),
    }
}

/// A packet read back. Reading panics unless every checksum is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    /// ICMP: type and code.
    pub icmp: (u8, u8),
    pub rest: u32,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Seen {
    pub fn of(frame: &[u8]) -> Seen {
        Seen::read(frame, true)
    }

    /// As [`Seen::of`], but the L4 checksum is not looked at: the device completes it.
    pub fn partial(frame: &[u8]) -> Seen {
        Seen::read(frame, false)
    }

    fn read(frame: &[u8], verify: bool) -> Seen {
        let (dst_mac, src_mac) = (frame[..6].try_into().unwrap(), frame[6..12].try_into().unwrap());
        let (src, dst, protocol, ttl, tos, l4): (IpAddr, IpAddr, u8, u8, u8, &[u8]) = match frame[12..14] {
            [8, 0] => {
                let ip = ipv4::Ipv4Packet::new(&frame[14..]).unwrap();
                assert_eq!(ip.get_checksum(), ipv4::checksum(&ip), "IPv4 header checksum");
                let end = 14 + usize::from(ip.get_total_length());
                assert_eq!(end, frame.len(), "IPv4 total length");
                let tos = ip.get_dscp() << 2 | ip.get_ecn();
                let (src, dst): (Ipv4Addr, Ipv4Addr) = (ip.get_source(), ip.get_destination());
                (src.into(), dst.into(), ip.get_next_level_protocol().0, ip.get_ttl(), tos, &frame[34..end])
            }
            [0x86, 0xdd] => {
                let ip = ipv6::Ipv6Packet::new(&frame[14..]).unwrap();
                let end = 54 + usize::from(ip.get_payload_length());
                assert_eq!(end, frame.len(), "IPv6 payload length");
                let (src, dst): (Ipv6Addr, Ipv6Addr) = (ip.get_source(), ip.get_destination());
                let tos = ip.get_traffic_class();
                (src.into(), dst.into(), ip.get_next_header().0, ip.get_hop_limit(), tos, &frame[54..end])
            }
            _ => panic!("no IP"),
        };
        assert_ne!(protocol, IpNextHeaderProtocols::Reserved.0);
        if verify {
            let at = match protocol {
                TCP => 16,
                UDP => 6,
                _ => 2,
            };
            let check = u16::from_be_bytes([l4[at], l4[at + 1]]);
            let right = l4_checksum(src, dst, protocol, l4);
            // UDP sends a sum of 0 as 0xffff.
            let right = if protocol == UDP && right == 0 { 0xffff } else { right };
            assert!(check == right || (protocol == UDP && check == 0), "L4 checksum {check:04x}, right is {right:04x}");
        }
        let ports = |l4: &[u8]| (u16::from_be_bytes([l4[0], l4[1]]), u16::from_be_bytes([l4[2], l4[3]]));
        let word = |at: usize| u32::from_be_bytes(l4[at..at + 4].try_into().unwrap());
        let mut seen = Seen {
            dst_mac,
            src_mac,
            src: SocketAddr::new(src, 0),
            dst: SocketAddr::new(dst, 0),
            protocol,
            ttl,
            tos,
            flags: 0,
            seq: 0,
            ack: 0,
            icmp: (0, 0),
            rest: 0,
            options: Vec::new(),
            payload: Vec::new(),
        };
        if protocol == TCP || protocol == UDP {
            let (src_port, dst_port) = ports(l4);
            seen.src.set_port(src_port);
            seen.dst.set_port(dst_port);
        }
        match protocol {
            TCP => {
                let header_len = usize::from(l4[12] >> 4) * 4;
                (seen.seq, seen.ack, seen.flags) = (word(4), word(8), l4[13]);
                (seen.options, seen.payload) = (l4[20..header_len].to_vec(), l4[header_len..].to_vec());
            }
            UDP => seen.payload = l4[8..].to_vec(),
            _ => (seen.icmp, seen.rest, seen.payload) = ((l4[0], l4[1]), word(4), l4[8..].to_vec()),
        }
        seen
    }
}

/// Cuts a frame of [`Build`] behind these bytes of its IP payload (multiples of 8, rising).
pub fn cut(frame: &[u8], id: u32, cuts: &[usize]) -> Vec<Vec<u8>> {
    let header = if frame[12..14] == [8, 0] { 34 } else { 54 };
    let ends = cuts.iter().copied().chain([frame.len() - header]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    starts.zip(ends).map(|(from, to)| piece(frame, id, from, &frame[header + from..header + to])).collect()
}

/// The fragment of `frame` that has `payload` at `from`; others follow unless it reaches to the end.
pub fn piece(frame: &[u8], id: u32, from: usize, payload: &[u8]) -> Vec<u8> {
    let v4 = frame[12..14] == [8, 0];
    let more = from + payload.len() < frame.len() - if v4 { 34 } else { 54 };
    let mut out = frame[..if v4 { 34 } else { 54 }].to_vec();
    if v4 {
        out[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        out[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        out[20..22].copy_from_slice(&((from / 8) as u16 | u16::from(more) << 13).to_be_bytes());
        let check = ipv4::checksum(&ipv4::Ipv4Packet::new(&out[14..]).unwrap());
        out[24..26].copy_from_slice(&check.to_be_bytes());
    } else {
        out[18..20].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
        out.extend([out[20], 0]);
        out.extend((from as u16 | u16::from(more)).to_be_bytes());
        out.extend(id.to_be_bytes());
        out[20] = 44;
    }
    out.extend(payload);
    out
}

/// What a fragment says of itself: identification, offset, whether others follow, where its payload starts.
pub fn read_piece(frame: &[u8]) -> (u32, usize, bool, usize) {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[12..14] == [8, 0] {
        (u32::from(word(18)), usize::from(word(20) & 0x1fff) * 8, word(20) & 0x2000 != 0, 34)
    } else {
        assert_eq!(frame[20], 44, "a fragment header");
        (u32::from(word(58)) << 16 | u32::from(word(60)), usize::from(word(56) & 0xfff8), word(56) & 1 != 0, 62)
    }
}

/// Puts fragments together, in whatever order: all of one packet, nothing twice, nothing missing. Gives the whole frame; the
/// MAC addresses and the IP header are the first fragment's.
pub fn join(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces: Vec<_> = frames.iter().map(|frame| (read_piece(frame), frame)).collect();
    pieces.sort_by_key(|((_, offset, ..), _)| *offset);
    let first = pieces[0].1;
    let v4 = first[12..14] == [8, 0];
    let mut whole = first[..if v4 { 34 } else { 54 }].to_vec();
    let header = whole.len();
    for (at, ((id, offset, more, start), frame)) in pieces.iter().enumerate() {
        assert_eq!(*id, pieces[0].0.0, "one identification");
        assert_eq!(*offset, whole.len() - header, "neither a gap nor an overlap");
        assert_eq!(*more, at + 1 < pieces.len());
        let ends = if v4 { (26, 34) } else { (22, 54) };
        assert_eq!(frame[ends.0..ends.1], first[ends.0..ends.1], "one source and destination");
        assert_eq!((&frame[..14], frame[15]), (&first[..14], first[15]), "one way");
        if v4 {
            let ip = ipv4::Ipv4Packet::new(&frame[14..]).unwrap();
            assert_eq!(ip.get_checksum(), ipv4::checksum(&ip), "IPv4 header checksum");
            assert_eq!(usize::from(ip.get_total_length()), frame.len() - 14);
        } else {
            assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), frame.len() - 54);
        }
        whole.extend(&frame[*start..]);
    }
    let length = (whole.len() - if v4 { 14 } else { 54 }) as u16;
    if v4 {
        whole[16..18].copy_from_slice(&length.to_be_bytes());
        whole[20..22].fill(0);
        let check = ipv4::checksum(&ipv4::Ipv4Packet::new(&whole[14..]).unwrap());
        whole[24..26].copy_from_slice(&check.to_be_bytes());
    } else {
        whole[18..20].copy_from_slice(&length.to_be_bytes());
        whole[20] = first[54];
    }
    whole
}
