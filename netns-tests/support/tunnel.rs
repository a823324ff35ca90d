//! Packets in tunnels, made by hand, and `farside decap` at their end.

use std::net::{IpAddr, SocketAddr};

use rustix::process::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use super::farside::binary;
use super::namespace::Namespace;
use super::process::Process;
use super::wait::eventually;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    Ipip,
    Gre,
    Gue,
    Gue1,
}

pub const WRAPS: [Wrap; 4] = [Wrap::Ipip, Wrap::Gre, Wrap::Gue, Wrap::Gue1];

pub const GUE_PORT: u16 = 6080;

/// A UDP packet with its IP header, both whole; traffic class `class`.
pub fn udp_packet(from: SocketAddr, to: SocketAddr, class: u8, payload: &[u8]) -> Vec<u8> {
    let udp_len = 8 + payload.len();
    let mut pseudo = 17 + udp_len as u64;
    let mut ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = vec![0x45, class, 0, 0, 0, 1, 0x40, 0, 61, 17, 0, 0];
            ip[2..4].copy_from_slice(&(20 + udp_len as u16).to_be_bytes());
            ip.extend(src.octets());
            ip.extend(dst.octets());
            pseudo += sum(&ip[12..]);
            let check = !fold(sum(&ip));
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            ip
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut ip = vec![0x60 | class >> 4, class << 4, 0, 0, 0, 0, 17, 61];
            ip[4..6].copy_from_slice(&(udp_len as u16).to_be_bytes());
            ip.extend(src.octets());
            ip.extend(dst.octets());
            pseudo += sum(&ip[8..]);
            ip
        }
        _ => panic!("two families in one packet"),
    };
    let start = ip.len();
    for word in [from.port(), to.port(), udp_len as u16, 0] {
        ip.extend(word.to_be_bytes());
    }
    ip.extend(payload);
    let check = !fold(pseudo + sum(&ip[start..]));
    ip[start + 6..start + 8].copy_from_slice(&check.to_be_bytes());
    ip
}

/// Leaves the checksum of a [`udp_packet`] as a kernel hands it to hardware that is to finish it: the pseudo-header's sum.
pub fn unfinish(ip: &mut [u8]) {
    let (addresses, l4) = if ip[0] >> 4 == 4 { (12..20, 20) } else { (8..40, 40) };
    let partial = fold(17 + (ip.len() - l4) as u64 + sum(&ip[addresses]));
    ip[l4 + 6..l4 + 8].copy_from_slice(&partial.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|two| u64::from(two[0]) << 8 | u64::from(*two.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Sends `ip` from `namespace` to `to` in a tunnel; the kernel makes the outer header, with this traffic class.
#[track_caller]
pub fn send(namespace: &Namespace, to: IpAddr, wrap: Wrap, class: u8, ip: &[u8]) {
    let v4_inside = ip[0] >> 4 == 4;
    let (protocol, header): (i32, &[u8]) = match (wrap, v4_inside) {
        (Wrap::Ipip, true) => (4, &[]),
        (Wrap::Ipip, false) => (41, &[]),
        (Wrap::Gre, true) => (47, &[0, 0, 0x08, 0x00]),
        (Wrap::Gre, false) => (47, &[0, 0, 0x86, 0xdd]),
        (Wrap::Gue, true) => (17, &[0, 4, 0, 0]),
        (Wrap::Gue, false) => (17, &[0, 41, 0, 0]),
        (Wrap::Gue1, _) => (17, &[]),
    };
    let (kind, port) = if protocol == 17 { (Type::DGRAM, GUE_PORT) } else { (Type::RAW, 0) };
    let bytes = [header, ip].concat();
    let sent = namespace.inside(|| {
        let socket = Socket::new(Domain::for_address((to, port).into()), kind, Some(Protocol::from(protocol)))?;
        if to.is_ipv4() {
            socket.set_tos_v4(class.into())?
        } else {
            socket.set_tclass_v6(class.into())?
        }
        socket.send_to(&bytes, &SocketAddr::new(to, port).into())
    });
    assert_eq!(sent.unwrap_or_else(|e| panic!("send {wrap:?} to {to}: {e}")), bytes.len());
}

/// A running `farside decap`.
pub struct Decap {
    pub process: Process,
}

impl Decap {
    /// Starts it; returns once it is ready.
    #[track_caller]
    pub fn start(namespace: &Namespace, interface: &str, vips: &[IpAddr], more: &[&str]) -> Decap {
        let vips: Vec<String> = vips.iter().map(IpAddr::to_string).collect();
        let mut arguments = vec!["decap", "--interface", interface, "--vip"];
        arguments.extend(vips.iter().map(String::as_str));
        arguments.extend(more);
        let mut process = namespace.spawn("decap", &binary(), &arguments);
        process.wait_for_line("decap's `ready`", |line| line.starts_with("farside decap: ready"));
        Decap { process }
    }

    /// What it has counted under `name` by now, asking it by SIGUSR1.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        let before = self.process.stderr().len();
        self.process.signal(Signal::USR1);
        // The last of the counters.
        eventually("the counters", || {
            let said = self.process.stderr()[before..].to_owned();
            if said.contains("\ndrop_congested ") && said.ends_with('\n') { Ok(()) } else { Err(said) }
        });
        count(&self.process.stderr()[before..], name).unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// Waits until it has counted so many under `name`, asking it by SIGUSR1.
    #[track_caller]
    pub fn wait_count(&self, name: &str, wanted: u64) {
        eventually(&format!("{name} {wanted}"), || {
            self.process.signal(Signal::USR1);
            let said = self.process.stderr();
            if count(&said, name) == Some(wanted) { Ok(()) } else { Err(said) }
        });
    }
}

/// What was said last of `name`.
fn count(said: &str, name: &str) -> Option<u64> {
    said.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
