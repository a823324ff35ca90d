//! A connection or flow on each leg that it can take: to a local real server by NAT, and carried to a remote site, in IPv4 and
//! IPv6. What must hold on every leg is written once.

use super::bench::{CLIENT6, REAL6, REMOTE6, VIP6, config, ip};
use super::{Bench, CLIENT, LAN, REAL_A, REMOTE, VIP, WAN};
use crate::config::Config;
use crate::testing::{Build, Seen};
use crate::wire::ip::{TCP, UDP};
use std::net::IpAddr;

pub struct Leg {
    pub bench: Bench,
    pub carried: bool,
    pub protocol: u8,
    pub client: &'static str,
    pub vip: &'static str,
    /// Where the server's packets come in.
    pub port: u8,
    /// What the server sees as the client.
    pub near: String,
    pub server: String,
}

/// TCP connections that stand.
pub fn tcp() -> Vec<Leg> {
    all(TCP, config())
}

/// UDP flows of one datagram.
pub fn udp() -> Vec<Leg> {
    all(UDP, config())
}

/// The same with another configuration. UDP services are made of its first, on the same targets.
pub fn all(protocol: u8, mut config: Config) -> Vec<Leg> {
    if protocol == UDP {
        for service in &mut config.services {
            service.protocol = crate::config::Protocol::Udp;
        }
        config.services.retain(|service| service.name != "syslog");
    }
    let mut legs = Vec::new();
    for (client, vip, local, remote) in [(CLIENT, VIP, REAL_A, REMOTE), (CLIENT6, VIP6, REAL6, REMOTE6)] {
        for carried in [false, true] {
            let mut bench = Bench::with(config.clone());
            for prefix in ["pop3/10.0", "pop6/[fd00"] {
                bench.set_up(prefix, !carried);
            }
            let (port, seen) = if protocol == TCP {
                bench.connect(client, vip)
            } else {
                bench.pass(WAN, &Build::udp(client, vip, b"first"))
            };
            let (near, server) = (seen.src.to_string(), seen.dst.to_string());
            assert_eq!((server.as_str(), port == LAN), (if carried { remote } else { local }, !carried));
            bench.moved();
            legs.push(Leg { bench, carried, protocol, client, vip, port, near, server });
        }
    }
    legs
}

impl Leg {
    fn build(&self, src: &str, dst: &str, flags: u8) -> Build {
        if self.protocol == TCP { Build::tcp(src, dst, flags) } else { Build::udp(src, dst, b"datagram") }
    }

    pub fn client_packet(&self, flags: u8) -> Build {
        self.build(self.client, self.vip, flags)
    }

    pub fn server_packet(&self, flags: u8) -> Build {
        self.build(&self.server, &self.near, flags)
    }

    /// Runs a packet of the client's; it has to reach the server.
    pub fn client_sends(&mut self, packet: &Build) -> Seen {
        let (port, seen) = self.bench.pass(WAN, packet);
        assert_eq!(
            (port, seen.src.to_string(), seen.dst.to_string()),
            (self.port, self.near.clone(), self.server.clone())
        );
        seen
    }

    /// Runs a packet of the server's; it has to reach the client.
    pub fn server_sends(&mut self, packet: &Build) -> Seen {
        let (port, seen) = self.bench.pass(self.port, packet);
        assert_eq!((port, seen.src.to_string(), seen.dst.to_string()), (WAN, self.vip.into(), self.client.into()));
        seen
    }

    /// Is it on record still?
    pub fn lives(&self) -> bool {
        self.bench.shared.table.len() == 1
    }

    /// A router of this leg's family.
    pub fn router(&self) -> &'static str {
        if self.is_v4() { "192.0.2.77" } else { "2001:db8:77::1" }
    }

    pub fn is_v4(&self) -> bool {
        self.client == CLIENT
    }

    pub fn address(endpoint: &str) -> IpAddr {
        endpoint.parse::<std::net::SocketAddr>().map_or_else(|_| ip(endpoint), |endpoint| endpoint.ip())
    }

    /// An ICMP error from `src` about a packet of the server's, which had become the VIP's: how it comes in, and what it has to
    /// quote when it reaches the server.
    pub fn error_about_answer(&self, src: &str, kind: (u8, u8), rest: u32) -> (Build, Vec<u8>) {
        let quoted = self.build(self.vip, self.client, 0x10).packet();
        let mut error = Build::icmp(src, &Leg::address(self.vip).to_string(), kind.0, kind.1, &quoted);
        error.rest = rest;
        (error, self.server_packet(0x10).packet())
    }

    /// The same about a packet of the client's, on its way to the server.
    pub fn error_about_request(&self, src: &str, kind: (u8, u8), rest: u32) -> (Build, Vec<u8>) {
        let quoted = self.build(&self.near, &self.server, 0x10).packet();
        let mut error = Build::icmp(src, &Leg::address(&self.near).to_string(), kind.0, kind.1, &quoted);
        error.rest = rest;
        (error, self.client_packet(0x10).packet())
    }

    /// Both errors, run; each has to come out with type, code and second word as they were, at the right end, quoting what that
    /// end sent.
    pub fn errors_pass(&mut self, kind: (u8, u8), rest: u32) {
        let (error, quoted) = self.error_about_answer(self.router(), kind, rest);
        let (port, seen) = self.bench.pass(WAN, &error);
        assert_eq!((port, seen.dst.ip(), seen.icmp, seen.rest), (self.port, Leg::address(&self.server), kind, rest));
        assert_eq!(seen.payload, quoted);
        let (error, quoted) = self.error_about_request(self.router(), kind, rest);
        let (port, seen) = self.bench.pass(self.port, &error);
        assert_eq!((port, seen.dst.ip(), seen.icmp, seen.rest), (WAN, Leg::address(self.client), kind, rest));
        assert_eq!(seen.payload, quoted);
    }
}
