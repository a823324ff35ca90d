//! What checks that ride the data path need of the host: an address that real servers can answer to, ports of it that the host's stack
//! is kept from, and somebody who takes a check's flow off the record when the check is over.

use crate::flow::Side;
use crate::forward::settle;
use crate::health::Closed;
use crate::netlink::local_port_range;
use crate::route::Fib;
use crate::service::build::{Host, Lent, is_probe};
use crate::wire::ip::{Endpoint, FlowKey, TCP, UDP, family_of};
use crate::worker::World;
use socket2::{Domain, Socket, Type};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ports of an address of the host's own that checks are sent from. Each is held by two sockets, and one that a check has used is free
/// again a moment after: enough for some hundred servers at the usual interval.
const PORTS: u16 = 128;

/// How long after its socket a check's flow goes: its last acknowledgements are under way.
const LINGER: Duration = Duration::from_secs(1);

/// Ports that are kept from the host's stack, by address. They stay until the process ends.
#[derive(Default)]
pub struct Reserve {
    kept: HashMap<IpAddr, Kept>,
}

struct Kept {
    ports: RangeInclusive<u16>,
    /// Bound, and nothing else: nobody else can bind there, and the host chooses none of these ports by itself.
    _sockets: Vec<Socket>,
}

/// The host, as a snapshot of services is built.
pub struct OwnHost<'a> {
    pub fib: Arc<Fib>,
    pub reserve: &'a mut Reserve,
}

impl Host for OwnHost<'_> {
    fn owns(&self, ip: IpAddr) -> bool {
        self.fib.host_owns(&ip.into(), family_of(ip))
    }

    fn lend(&mut self, real: IpAddr, vip: IpAddr) -> Result<Option<Lent>, String> {
        // In a tunnel the inner packet may be of another version: then what the world sees of this host must do.
        let toward = if real.is_ipv4() == vip.is_ipv4() { real } else { vip };
        let address = source_toward(toward).map_err(|why| {
            format!(
                "its checks ask at {vip} by way of {real}, and this host has no address that it could answer to ({why}); give \
                 [proxy] an address of the VIP's version"
            )
        })?;
        Ok(Some(Lent { address, ports: self.reserve.keep(address)? }))
    }
}

/// The address that this host would send from: of a socket that is aimed there and sends nothing.
fn source_toward(ip: IpAddr) -> io::Result<IpAddr> {
    let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect((ip, 9))?;
    Ok(socket.local_addr()?.ip())
}

impl Reserve {
    /// The ports of `address` that are kept, from now on if not before.
    fn keep(&mut self, address: IpAddr) -> Result<RangeInclusive<u16>, String> {
        if let Some(kept) = self.kept.get(&address) {
            return Ok(kept.ports.clone());
        }
        let ephemeral = local_port_range().map_err(|why| format!("the host's own port range cannot be read: {why}"))?;
        for first in places(&ephemeral) {
            let ports = first..=first + (PORTS - 1);
            if let Ok(sockets) = ports.clone().map(|port| bind_both(address, port)).collect::<io::Result<Vec<_>>>() {
                let sockets = sockets.into_iter().flatten().collect();
                self.kept.insert(address, Kept { ports: ports.clone(), _sockets: sockets });
                return Ok(ports);
            }
        }
        Err(format!(
            "{PORTS} free ports in a row at {address}, for checks, are not to be found outside of \
             net.ipv4.ip_local_port_range ({}-{}): narrow that, or give [proxy] an address",
            ephemeral.start(),
            ephemeral.end()
        ))
    }
}

/// Where a row of ports may start: above those that the host chooses from, else below.
fn places(ephemeral: &RangeInclusive<u16>) -> Vec<u16> {
    let above = u32::from(*ephemeral.end()) + 1;
    let up = (above..=u32::from(u16::MAX - (PORTS - 1))).step_by(PORTS.into()).map(|first| first as u16);
    let down = (1024..(*ephemeral.start()).saturating_sub(PORTS - 1)).rev().step_by(PORTS.into());
    up.chain(down).collect()
}

fn bind_both(address: IpAddr, port: u16) -> io::Result<[Socket; 2]> {
    let bound = |kind: Type| {
        let to = SocketAddr::new(address, port);
        let socket = Socket::new(Domain::for_address(to), kind, None)?;
        socket.bind(&to.into())?;
        io::Result::Ok(socket)
    };
    Ok([bound(Type::STREAM)?, bound(Type::DGRAM)?])
}

/// Checks whose sockets are closed and whose flows are on record still.
#[derive(Default)]
pub struct Closing {
    waiting: VecDeque<(Instant, Closed)>,
}

impl Closing {
    pub fn add(&mut self, closed: Vec<Closed>, now: Instant) {
        self.waiting.extend(closed.into_iter().map(|closed| (now + LINGER, closed)));
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|(at, _)| *at)
    }

    /// Takes those off the record whose time has come. A server that has not answered, and UDP, would keep a lent port for minutes.
    pub fn tick(&mut self, world: &World, now: Instant) {
        while self.waiting.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, closed)) = self.waiting.pop_front() else { return };
            let key = FlowKey {
                src: Endpoint::new(closed.source.ip(), closed.source.port()),
                dst: Endpoint::new(closed.door.ip(), closed.door.port()),
                protocol: if closed.stream { TCP } else { UDP },
                family: family_of(closed.door.ip()),
            };
            let table = &world.shared.table;
            let found = table.lookup(&key, table.hash(&key));
            let ours = found.filter(|flow| flow.side == Side::Client && is_probe(&flow.client.addr, flow.family));
            if let Some(gone) = ours.and_then(|flow| table.remove(flow.at)) {
                // The counters are a worker's, but checks count nothing here.
                settle(&gone, &world.shared, world.counters.worker(0), world.now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_ports_lie_outside_of_what_the_host_chooses_from() {
        for ephemeral in [32768..=60999, 1024..=65000, 20000..=65535, 1024..=65535] {
            for first in places(&ephemeral) {
                let last = first.checked_add(PORTS - 1).expect("no port above 65535");
                assert!(
                    first >= 1024 && (last < *ephemeral.start() || first > *ephemeral.end()),
                    "{first} {ephemeral:?}"
                );
            }
        }
        assert_eq!(places(&(32768..=60999))[0], 61000);
        assert!(places(&(1024..=65535)).is_empty());
    }

    #[test]
    fn kept_ports_are_kept_from_others() {
        let mut reserve = Reserve::default();
        let address = IpAddr::from([127, 0, 0, 1]);
        let ports = reserve.keep(address).unwrap();
        assert_eq!(ports.clone().count(), usize::from(PORTS));
        assert_eq!(UdpSocket::bind((address, *ports.start())).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::net::TcpListener::bind((address, *ports.end())).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(reserve.keep(address).unwrap(), ports, "once");
        let others = Reserve::default().keep(address).unwrap();
        assert!(!others.contains(ports.start()) && !others.contains(ports.end()), "another process finds others");
    }
}
