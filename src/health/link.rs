//! One probe's socket: opens the way, carries bytes between it and the probe, and closes politely.
//!
//! States: Connecting -> Talking -> Parting. A yes leads to Parting, where the good-bye is sent and the rest that the
//! server sends is thrown away, so that it sees an orderly end and not an RST; a no ends the link at once.

use super::probe::{self, Probe, Step, Transport};
use super::schedule::Outcome;
use super::{Closed, Target};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// The most that a server may send in one probe, in bytes.
const MAX_RECEIVED: usize = 256 * 1024;

pub struct Link {
    socket: Socket,
    transport: Transport,
    /// ICMPv4 over a raw socket: packets come with their IP header.
    raw_ipv4: bool,
    probe: Box<dyn Probe>,
    /// What is still to be sent, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    received: usize,
    state: State,
    /// Bound to the probe interface, and asks there.
    door: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Talking,
    Parting,
}

/// What [`Link::progress`] came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for the socket.
    Pending,
    /// The probe has an answer. After a Healthy one the link wants to be kept until it is Gone, or for a moment.
    Decided(Outcome),
    /// A link that was parting has ended.
    Gone,
}

impl Link {
    /// Opens a socket to the target, without waiting. Err: what that says about the target.
    pub fn open(target: &Target, tls_config: &Arc<rustls::ClientConfig>, random: [u8; 16]) -> Result<Link, Outcome> {
        let mut address = target.address;
        if let Some(port) = target.check.port {
            address.set_port(port);
        }
        let (transport, probe) =
            probe::new(&target.check.kind, address, target.protocol, tls_config, random).map_err(Outcome::Unhealthy)?;
        let (socket, raw) = open_socket(transport, address).map_err(|error| failure(&error))?;
        let link = Link {
            socket,
            transport,
            raw_ipv4: raw && address.is_ipv4(),
            probe,
            out: Vec::new(),
            sent: 0,
            received: 0,
            state: State::Connecting,
            door: target.device.is_some().then_some(address).filter(|_| transport != Transport::Icmp),
        };
        link.connect(target, address).map_err(|error| failure(&error))?;
        Ok(link)
    }

    fn connect(&self, target: &Target, mut address: SocketAddr) -> io::Result<()> {
        if let Some(device) = &target.device {
            self.socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(mut source) = target.source {
            if self.transport == Transport::Icmp {
                source.set_port(0);
            }
            self.socket.bind(&SockAddr::from(source))?;
        }
        if self.transport == Transport::Icmp {
            // Ping and raw sockets know no ports, and IPv6 refuses to connect a raw one to a number that is not its
            // protocol's.
            address.set_port(0);
        }
        match self.socket.connect(&SockAddr::from(address)) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            result => result,
        }
    }

    /// Its flow through the data path, if it is one.
    pub fn through_a_door(&self) -> Option<Closed> {
        let source = self.socket.local_addr().ok()?.as_socket()?;
        Some(Closed { source, door: self.door?, stream: self.transport == Transport::Stream })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Has the server taken a TCP connection?
    pub fn has_connected(&self) -> bool {
        self.transport == Transport::Stream && self.state != State::Connecting
    }

    /// When the server's certificate expires, in seconds since 1970, once it has shown one.
    pub fn certificate_expires(&self) -> Option<i64> {
        self.probe.certificate_expires()
    }

    /// What to say when its time is over.
    pub fn overdue(&self, timeout: std::time::Duration) -> String {
        match self.state {
            State::Connecting => format!("no connection within {timeout:?}"),
            State::Talking | State::Parting => format!("no {} within {timeout:?}", self.probe.awaits()),
        }
    }

    /// Goes on as far as the socket permits. To be called after opening and whenever the socket may be ready; calling it
    /// for nothing is harmless.
    pub fn progress(&mut self) -> Progress {
        if self.state == State::Connecting {
            match self.connected() {
                Ok(false) => return Progress::Pending,
                Ok(true) => {}
                Err(error) => return Progress::Decided(failure(&error)),
            }
            self.state = State::Talking;
            let step = self.probe.start(&mut self.out);
            if let Some(outcome) = self.step(step) {
                return Progress::Decided(outcome);
            }
        }
        let outcome = match self.state {
            State::Talking => self.talk(),
            _ => return self.part(),
        };
        outcome.map_or(Progress::Pending, Progress::Decided)
    }

    fn connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        // Only streams take their time; and the kernel does not call a ping socket connected, as it has no port.
        if self.transport != Transport::Stream {
            return Ok(true);
        }
        match self.socket.peer_addr() {
            // A port that is closed on this very host can be the one that the kernel lends us: then we would talk to
            // ourselves.
            Ok(peer) if peer == self.socket.local_addr()? => Err(io::Error::from(ErrorKind::ConnectionRefused)),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn step(&mut self, step: Step) -> Option<Outcome> {
        match step {
            Step::More => None,
            Step::Healthy => {
                self.state = State::Parting;
                self.received = 0;
                Some(Outcome::Healthy)
            }
            Step::Unhealthy(reason) => {
                // It may carry a last word (QUIT, a TLS alert); whether it arrives does not matter.
                let _ = self.flush();
                Some(Outcome::Unhealthy(reason))
            }
        }
    }

    /// Sends and receives until the socket wants to wait.
    fn talk(&mut self) -> Option<Outcome> {
        let mut buffer = [0; 4096];
        loop {
            // When it cannot be sent, the server may still have said why before it closed: read first.
            let unsent = self.flush().err();
            match self.socket.read(&mut buffer) {
                Ok(0) if self.transport == Transport::Stream => {
                    return Some(Outcome::Unhealthy(format!(
                        "closes the connection instead of the {}",
                        self.probe.awaits()
                    )));
                }
                Ok(length) => {
                    // An empty datagram costs something as well.
                    self.received += length.max(64 * (self.transport != Transport::Stream) as usize);
                    let message = if self.raw_ipv4 {
                        probe::icmp::strip_ipv4(&buffer[..length])
                    } else {
                        Some(&buffer[..length])
                    };
                    if let Some(message) = message {
                        let step = self.probe.receive(message, &mut self.out);
                        if let Some(outcome) = self.step(step) {
                            return Some(outcome);
                        }
                    }
                    if self.received > MAX_RECEIVED {
                        return Some(Outcome::Unhealthy(format!(
                            "sent {MAX_RECEIVED} bytes without the {}",
                            self.probe.awaits()
                        )));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return unsent.as_ref().map(failure),
                Err(error) => return Some(failure(&error)),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match self.socket.send_with_flags(&self.out[self.sent..], libc::MSG_NOSIGNAL) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    self.out.clear();
                    self.sent = 0;
                    return Err(error);
                }
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Says good-bye, and reads and forgets until the server has closed too.
    fn part(&mut self) -> Progress {
        if self.transport != Transport::Stream || self.flush().is_err() {
            return Progress::Gone;
        }
        if self.out.is_empty() && !self.probe.server_closes() {
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Progress::Gone,
                Ok(length) => self.received += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Pending,
                Err(_) => return Progress::Gone,
            }
            if self.received > MAX_RECEIVED {
                return Progress::Gone;
            }
        }
    }
}

/// The socket, and whether it is a raw one.
fn open_socket(transport: Transport, address: SocketAddr) -> io::Result<(Socket, bool)> {
    let domain = Domain::for_address(address);
    let open = |kind: Type, protocol| Socket::new(domain, kind.nonblocking(), Some(protocol));
    match transport {
        Transport::Stream => Ok((open(Type::STREAM, Protocol::TCP)?, false)),
        Transport::Datagram => Ok((open(Type::DGRAM, Protocol::UDP)?, false)),
        Transport::Icmp => {
            let icmp = if address.is_ipv6() { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
            // A ping socket needs no privilege where net.ipv4.ping_group_range permits it, and hands over our answers
            // only; a raw one needs CAP_NET_RAW.
            match open(Type::DGRAM, icmp) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok((open(Type::RAW, icmp)?, true)),
                result => Ok((result?, false)),
            }
        }
    }
}

/// What an error of the socket says about the target.
pub(super) fn failure(error: &io::Error) -> Outcome {
    let reason = match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_string(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "connection reset".to_string(),
        ErrorKind::HostUnreachable => "host unreachable".to_string(),
        ErrorKind::NetworkUnreachable => "network unreachable".to_string(),
        ErrorKind::TimedOut => "no answer from the host".to_string(),
        _ => error.to_string(),
    };
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            Outcome::Unasked(format!("can't check: {reason}"))
        }
        _ => Outcome::Unhealthy(reason),
    }
}
