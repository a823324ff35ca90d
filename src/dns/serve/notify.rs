//! Tells secondaries that a zone has changed (NOTIFY, RFC 1996), again and again until they say that they have heard it, each time from
//! another of the addresses that are listened on: a secondary takes it from its primaries only, and one of the lines may be the reason
//! for the change.

use super::super::transfer;
use super::super::zone::Zone;
use super::super::{Name, wire};
use super::listen::bind_freely;
use super::serial::unix_s;
use super::sign::Keys;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use tracing::warn;

/// Where name servers listen.
const PORT: u16 = 53;

/// From one try to the next.
const PATIENCE: [u64; 8] = [500, 1000, 2000, 4000, 8000, 15_000, 30_000, 60_000];

/// NOTIFY as an operation code, within the second byte of flags.
const OPCODE_NOTIFY: u8 = 4;

pub struct Notifier {
    sockets: Vec<(IpAddr, UdpSocket)>,
    told: Vec<Told>,
}

/// A secondary that has not answered yet.
struct Told {
    origin: Name,
    secondary: IpAddr,
    message: Vec<u8>,
    id: u16,
    tries: usize,
    next: Instant,
}

impl Notifier {
    /// `addresses`: those that are listened on. Errors are those of making sockets.
    pub fn new(addresses: impl Iterator<Item = IpAddr>) -> io::Result<Notifier> {
        let mut sockets: Vec<(IpAddr, UdpSocket)> = Vec::new();
        for address in addresses {
            if sockets.iter().all(|(other, _)| *other != address) {
                sockets.push((address, open(address)?));
            }
        }
        Ok(Notifier { sockets, told: Vec::new() })
    }

    /// Joins an event loop: all sockets have the same token. Errors are the loop's.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let mut sockets = self.sockets.iter();
        sockets.try_for_each(|(_, socket)| {
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)
        })
    }

    /// These addresses are of lines that are down: the others come first.
    pub fn avoid(&mut self, down: &[IpAddr]) {
        self.sockets.sort_by_key(|(address, _)| down.contains(address));
    }

    /// Tells these secondaries of `zone`, from now on until each has answered or patience is over; what they were told of it before is
    /// not repeated.
    pub fn tell(&mut self, zone: &Zone, secondaries: &[IpAddr], key: Option<&Name>, keys: &Keys, now: Instant) {
        self.told.retain(|told| told.origin != *zone.origin());
        for secondary in secondaries {
            let mut random = [0; 2];
            // Without random numbers an answer can be forged, and a NOTIFY be told less often.
            let _ = getrandom::fill(&mut random);
            let id = u16::from_ne_bytes(random);
            let mut message = transfer::notify(zone, id);
            if let Some(key) = key {
                keys.sign(key, &mut message, unix_s());
            }
            let (origin, secondary) = (zone.origin().clone(), *secondary);
            self.told.push(Told { origin, secondary, message, id, tries: 0, next: now });
        }
        self.tick(now);
    }

    /// Forgets all that is still to be told.
    pub fn forget(&mut self) {
        self.told.clear();
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.told.iter().map(|told| told.next).min()
    }

    /// Sends what is due.
    pub fn tick(&mut self, now: Instant) {
        let sockets = &self.sockets;
        self.told.retain_mut(|told| {
            if told.next > now {
                return true;
            }
            let Some(wait) = PATIENCE.get(told.tries) else {
                warn!("zone {}: secondary {} does not answer NOTIFY", told.origin, told.secondary);
                return false;
            };
            let own = sockets.iter().filter(|(own, _)| own.is_ipv4() == told.secondary.is_ipv4());
            let ways: Vec<&UdpSocket> = own.map(|(_, socket)| socket).collect();
            if !ways.is_empty() {
                // What does not go out by one line goes out by another at the next try.
                let _ = ways[told.tries % ways.len()].send_to(&told.message, SocketAddr::new(told.secondary, PORT));
            }
            told.tries += 1;
            told.next = now + Duration::from_millis(*wait);
            true
        });
    }

    /// Takes the answers that have come.
    pub fn ready(&mut self) {
        let mut answer = [0; 512];
        for (_, socket) in &self.sockets {
            loop {
                match socket.recv_from(&mut answer) {
                    Ok((length, from)) if from.port() == PORT => hear(&mut self.told, from.ip(), &answer[..length]),
                    Ok(_) => {}
                    Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
                    // What an earlier message met with.
                    Err(_) => {}
                }
            }
        }
    }
}

/// A secondary that answers has heard, whatever it makes of it; one that is not told to by its own configuration says REFUSED or NOTAUTH.
fn hear(told: &mut Vec<Told>, from: IpAddr, answer: &[u8]) {
    if answer.len() < wire::HEADER || answer[2] >> 3 != 0x10 | OPCODE_NOTIFY {
        return;
    }
    let id = u16::from_be_bytes([answer[0], answer[1]]);
    told.retain(|told| {
        let heard = told.secondary == from && told.id == id;
        let rcode = answer[3] & 0xf;
        if heard && rcode != 0 {
            warn!("zone {}: secondary {from} does not take NOTIFY (answer code {rcode})", told.origin);
        }
        !heard
    });
}

fn open(address: IpAddr) -> io::Result<UdpSocket> {
    let to = SocketAddr::new(address, 0);
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    bind_freely(&socket, address.is_ipv6())?;
    socket.set_nonblocking(true)?;
    socket.bind(&to.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(secondary: &str, id: u16) -> Told {
        Told {
            origin: Name::parse("company.example.").unwrap(),
            secondary: secondary.parse().unwrap(),
            message: vec![0; 12],
            id,
            tries: 0,
            next: Instant::now(),
        }
    }

    #[test]
    fn only_its_own_answer_ends_what_a_secondary_is_told() {
        let mut all = vec![told("127.0.0.2", 7), told("127.0.0.3", 8)];
        let answer = |id: u16, flags: u8| [vec![0, id as u8, flags, 0], vec![0; 8]].concat();
        let from: IpAddr = "127.0.0.2".parse().unwrap();
        hear(&mut all, from, &answer(8, 0xa4));
        hear(&mut all, from, &answer(7, 0x24));
        hear(&mut all, from, &answer(7, 0x84));
        hear(&mut all, from, &answer(7, 0xa4)[..11]);
        assert_eq!(all.len(), 2, "another's number, a question, another operation, cut off");
        hear(&mut all, from, &answer(7, 0xa4));
        assert_eq!(all.len(), 1);
        hear(&mut all, "127.0.0.3".parse().unwrap(), &[0, 8, 0xa4, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(all.is_empty(), "one that refuses has heard too");
    }

    #[test]
    fn patience_ends() {
        let mut notifier = Notifier::new([IpAddr::from([127, 0, 0, 1])].into_iter()).unwrap();
        let mut now = Instant::now();
        notifier.told.push(told("127.0.0.2", 7));
        let mut tries = 0;
        while let Some(next) = notifier.next_deadline() {
            now = now.max(next);
            notifier.tick(now);
            tries += 1;
        }
        assert_eq!(tries, PATIENCE.len() + 1);
    }
}
