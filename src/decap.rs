//! The far end of a tunnel for real servers whose kernel has none: takes packets out of their tunnels and hands them to the
//! host by a tun device that has the VIPs on it. The host answers clients by itself, past farside.
//!
//! Plain packets are taken by a kernel program at the interface ([`program`]), if the kernel lets it be there. The rest comes by
//! raw IP sockets (IPIP, 6in4, GRE) and UDP sockets (GUE), which are open in any case: they also keep the kernel from answering
//! "protocol unreachable". [`strip`] finds what is inside, [`place`] is the device and the host's settings around it. One thread
//! does it all: a server needs no more than its clients send it.

mod place;
pub mod program;
pub mod strip;

use crate::sys::abi::{VNET_DATA_VALID, VNET_NEEDS_CSUM, VnetHdr};
use crate::sys::decap::Taken as ByProgram;
use crate::sys::poll::Poll;
use crate::sys::socket::interface_index;
use crate::sys::tunnel::{Inbox, TunnelSocket};
use crate::wire::ip::{Addr, V4, family_of};
use place::Place;
use program::Fast;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write as _};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use strip::{Checksum, GueVariants, Inner, Refused, Wrap};

/// What is taken out of its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Encapsulation {
    /// IP in IP, each version in each
    Ipip,
    /// GRE
    Gre,
    /// Generic UDP encapsulation, variant 0
    Gue,
    /// Generic UDP encapsulation, variant 1: without a header of its own
    Gue1,
    /// All of them
    All,
}

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where tunneled packets come in.
    pub interfaces: Vec<String>,
    pub vips: Vec<IpAddr>,
    pub encapsulation: Encapsulation,
    pub gue_port: u16,
    /// The tun device's name; "%d" lets the kernel number it.
    pub tun: String,
    pub program: program::Use,
}

/// At most this many batches are taken from one socket before the others have their turn.
const TURNS: usize = 8;

/// Sleeps no longer than this; nothing depends on it.
const NAP: Duration = Duration::from_secs(60);

/// Runs until SIGTERM or SIGINT. SIGUSR1 prints the counters to stderr, and so does the end. The error is a sentence.
pub fn run(options: &Options) -> Result<(), String> {
    let mut options = options.clone();
    options.vips.sort();
    options.vips.dedup();
    options.interfaces.sort();
    options.interfaces.dedup();
    for interface in &options.interfaces {
        interface_index(interface).map_err(|why| why.to_string())?;
    }
    let mut signals = Signals::catch().map_err(|why| format!("signals cannot be caught: {why}"))?;
    let mut doors = doors(&options)?;
    let place = Place::make(&options)?;
    let mut agent = Agent { taken: Taken::from(&options), place, counts: Counts::default() };
    let mut notes = agent.place.notes().to_vec();
    let mut fast = Fast::start(&options, agent.place.index(), &mut notes);
    let own = [signals.stop.as_raw_fd(), signals.tell.as_raw_fd()];
    let mut poll =
        Poll::new(doors.iter().map(|door| door.socket.as_raw_fd()).chain(own).chain(fast.as_ref().map(Fast::events)));
    for note in notes {
        tell(&format!("note: {note}"));
    }
    let vips: Vec<String> = options.vips.iter().map(IpAddr::to_string).collect();
    tell(&format!("ready: takes tunnels on {} for {}", options.interfaces.join(", "), vips.join(", ")));
    let mut inbox = Inbox::default();
    loop {
        poll.wait(NAP);
        for (i, door) in doors.iter_mut().enumerate() {
            if poll.is_ready(i) {
                door.take(&mut agent, &mut inbox);
            }
        }
        if let Some(fast) = &mut fast
            && poll.is_ready(doors.len() + own.len())
            && let Err(why) = fast.look_again()
        {
            tell(&format!("note: the kernel program does not know the host's addresses: {why}"));
        }
        let text = || agent.counts.text(fast.as_ref().map(Fast::taken).unwrap_or_default());
        if asked(&mut signals.stop) {
            tell(&text());
            return Ok(());
        }
        if asked(&mut signals.tell) {
            tell(&text());
        }
    }
}

/// A socket, and what comes by it.
struct Door {
    socket: TunnelSocket,
    wrap: Wrap,
    /// A raw socket over IPv4: datagrams come with their IP header.
    with_header: bool,
}

/// All sockets: for each interface and each version of the outer IP header.
fn doors(options: &Options) -> Result<Vec<Door>, String> {
    const IPIP: u8 = 4;
    const IPV6: u8 = 41;
    const GRE: u8 = 47;
    let wants = |what: Encapsulation| [what, Encapsulation::All].contains(&options.encapsulation);
    let mut doors = Vec::new();
    for interface in &options.interfaces {
        for v4 in [true, false] {
            let mut add = |wrap: Wrap, opened: io::Result<TunnelSocket>| match opened {
                Ok(socket) => {
                    doors.push(Door { socket, wrap, with_header: v4 && wrap != Wrap::Gue });
                    Ok(())
                }
                // A host without IPv6 gets no tunnels over it either.
                Err(why) if !v4 && why.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
                Err(why) => Err(refused(&why, wrap, interface, options.gue_port)),
            };
            if wants(Encapsulation::Ipip) {
                add(Wrap::Ipv4, TunnelSocket::raw(v4, IPIP, interface))?;
                add(Wrap::Ipv6, TunnelSocket::raw(v4, IPV6, interface))?;
            }
            if wants(Encapsulation::Gre) {
                add(Wrap::Gre, TunnelSocket::raw(v4, GRE, interface))?;
            }
            if wants(Encapsulation::Gue) || wants(Encapsulation::Gue1) {
                add(Wrap::Gue, TunnelSocket::udp(v4, options.gue_port, interface))?;
            }
        }
    }
    Ok(doors)
}

fn refused(why: &io::Error, wrap: Wrap, interface: &str, gue_port: u16) -> String {
    match why.kind() {
        ErrorKind::PermissionDenied => {
            "farside decap needs root (or the capabilities NET_ADMIN and NET_RAW) to receive tunneled packets and to make \
             its tun device"
                .into()
        }
        ErrorKind::AddrInUse => format!(
            "UDP port {gue_port} is taken on this host (by another farside decap, or by the kernel's fou: \
             `ip fou show`); free it, or give another --gue-port here and to farside"
        ),
        _ => format!("no socket for {wrap:?} tunnels on {interface}: {why}"),
    }
}

impl Door {
    fn take(&mut self, agent: &mut Agent, inbox: &mut Inbox) {
        for _ in 0..TURNS {
            let (wrap, with_header) = (self.wrap, self.with_header);
            let (more, lost) =
                self.socket.receive(inbox, |bytes, class| agent.datagram(bytes, class, wrap, with_header));
            agent.counts.lost += u64::from(lost);
            if !more {
                return;
            }
        }
    }
}

/// What becomes of datagrams.
struct Agent {
    taken: Taken,
    place: Place,
    counts: Counts,
}

impl Agent {
    fn datagram(&mut self, bytes: &mut [u8], class: u8, wrap: Wrap, with_header: bool) {
        self.counts.received[wrap as usize] += 1;
        match self.taken.unwrap(bytes, class, wrap, with_header) {
            Ok((ip, header)) if self.place.deliver(ip, header) => {
                self.counts.delivered += 1;
                self.counts.delivered_bytes += ip.len() as u64;
            }
            Ok(_) => self.counts.undelivered += 1,
            Err(why) => self.counts.refused[why as usize] += 1,
        }
    }
}

/// What is taken out of tunnels.
struct Taken {
    vips: Vec<(u8, Addr)>,
    variants: GueVariants,
}

impl From<&Options> for Taken {
    fn from(options: &Options) -> Taken {
        Taken {
            vips: options.vips.iter().map(|vip| (family_of(*vip), Addr::from(*vip))).collect(),
            variants: match options.encapsulation {
                Encapsulation::Gue => GueVariants([true, false]),
                Encapsulation::Gue1 => GueVariants([false, true]),
                _ => GueVariants([true, true]),
            },
        }
    }
}

impl Taken {
    /// The inner packet, and what the tun device shall be told of it. `with_header`: the datagram starts with its outer IPv4
    /// header; else `class` is what the outer header's traffic class was.
    fn unwrap<'a>(
        &self,
        bytes: &'a mut [u8],
        mut class: u8,
        wrap: Wrap,
        with_header: bool,
    ) -> Result<(&'a [u8], VnetHdr), Refused> {
        let mut start = 0;
        if with_header {
            (class, start) = strip::behind_ipv4(bytes)?;
        }
        let payload = &mut bytes[start..];
        let Inner { range, family, dst } = strip::strip(payload, wrap, self.variants)?;
        if !self.vips.contains(&(family, dst)) {
            return Err(Refused::NotForVip);
        }
        let ip = &mut payload[range];
        strip::carry_mark(ip, class)?;
        let header = match strip::checksum(ip) {
            Checksum::Right => VnetHdr { flags: VNET_DATA_VALID, ..VnetHdr::default() },
            Checksum::Partial { start, offset } => {
                VnetHdr { flags: VNET_NEEDS_CSUM, csum_start: start, csum_offset: offset, ..VnetHdr::default() }
            }
            Checksum::Unknown => VnetHdr::default(),
        };
        Ok((ip, header))
    }
}

#[derive(Default)]
struct Counts {
    /// By [`Wrap`].
    received: [u64; 4],
    delivered: u64,
    delivered_bytes: u64,
    /// The tun device did not take it.
    undelivered: u64,
    /// Found no room in a socket.
    lost: u64,
    refused: [u64; Refused::ALL.len()],
}

impl Counts {
    /// `taken`: by the kernel program. It is part of what was received and delivered.
    fn text(&self, taken: ByProgram) -> String {
        let mut text = String::from("counters");
        let mut received = self.received;
        for (packets, wrap) in taken.packets.into_iter().zip([Wrap::Ipv4, Wrap::Ipv6, Wrap::Gre, Wrap::Gue, Wrap::Gue])
        {
            received[wrap as usize] += packets;
        }
        let by_program: u64 = taken.packets.iter().sum();
        let received = ["received_ipv4", "received_ipv6", "received_gre", "received_gue"].into_iter().zip(received);
        let own = [
            ("delivered", self.delivered + by_program),
            ("delivered_bytes", self.delivered_bytes + taken.bytes),
            ("delivered_by_program", by_program),
            ("delivered_by_program_bytes", taken.bytes),
            ("drop_undelivered", self.undelivered),
            ("drop_socket_full", self.lost),
        ];
        for (name, count) in received.chain(own) {
            let _ = write!(text, "\n{name} {count}");
        }
        for (why, count) in Refused::ALL.iter().zip(self.refused) {
            let _ = write!(text, "\ndrop_{} {count}", why.word());
        }
        text
    }
}

/// To stderr, which may be closed.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "farside decap: {text}");
}

/// SIGTERM and SIGINT, and SIGUSR1, as bytes in pipes.
struct Signals {
    stop: UnixStream,
    tell: UnixStream,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
        let pipe = |signals: &[i32]| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
            }
            io::Result::Ok(read)
        };
        Ok(Signals { stop: pipe(&[SIGTERM, SIGINT])?, tell: pipe(&[SIGUSR1])? })
    }
}

fn asked(pipe: &mut UnixStream) -> bool {
    let mut bytes = [0; 64];
    let mut any = false;
    while pipe.read(&mut bytes).is_ok_and(|count| count > 0) {
        any = true;
    }
    any
}

/// In words, for the settings of either version.
fn version_word(family: u8) -> &'static str {
    if family == V4 { "ipv4" } else { "ipv6" }
}

#[cfg(test)]
mod conformance;
