//! The device over capture files, for `farside replay`: frames come from one, what is sent goes to another.

use super::{Device, Frame, HEADROOM, Offload, Span};
use crate::wire::ip::{TCP, V4};
use crate::wire::{ETHERNET, Parsed, parse};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError, TsResolution};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::time::Duration;

/// Room behind a frame, in bytes: for what grows at its end.
const TAILROOM: usize = 64;

/// The longest frame, in bytes: a joined 64 KB segment and its Ethernet header.
const SNAPLEN: u32 = 1 << 18;

/// The longest IP packet that was a single one on the wire, in bytes. What a host captures of its own TCP may be longer: segments
/// that its device still had to part, or had joined.
pub const MTU: u16 = 1500;

/// VIRTIO_NET_HDR_GSO_TCPV4 and _TCPV6.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// One frame a batch, so that what is sent can bear the time stamp of the frame that caused it.
pub struct Pcap {
    ports: usize,
    input: Input,
    output: PcapWriter<Box<dyn Write>>,
    /// What is read next; None: all is read.
    next: Option<Captured>,
    now: Captured,
    /// The frame at hand is `now`, else there is none.
    held: bool,
    received: u64,
    sent: u64,
    /// Frames captured later do not come yet.
    until: Duration,
    /// The first error; `finish` tells it.
    error: Option<io::Error>,
}

/// A frame as captured. `buf` has the head room of a ring's slot.
#[derive(Default)]
struct Captured {
    port: usize,
    time: Duration,
    buf: Vec<u8>,
    len: usize,
    wire_len: usize,
    offload: Offload,
}

enum Input {
    Pcap(PcapReader<Box<dyn Read>>),
    PcapNg(PcapNgReader<Box<dyn Read>>),
}

impl Pcap {
    /// `input`: pcap or pcapng, Ethernet. A pcapng capture's interfaces are the ports, in its order (those beyond `ports` are
    /// the last one); a pcap's frames all come by port 0. `output` becomes a pcap with time stamps in nanoseconds.
    pub fn open(input: impl Read + 'static, output: impl Write + 'static, ports: usize) -> io::Result<Pcap> {
        let mut magic = [0; 4];
        let mut input = BufReader::new(input);
        input.read_exact(&mut magic).map_err(|_| invalid("the capture is empty".to_owned()))?;
        let input: Box<dyn Read> = Box::new(io::Cursor::new(magic).chain(input));
        let input = if magic == [0x0a, 0x0d, 0x0d, 0x0a] {
            Input::PcapNg(PcapNgReader::new(input).map_err(explain)?)
        } else {
            let reader = PcapReader::new(input).map_err(explain)?;
            require_ethernet(reader.header().datalink)?;
            Input::Pcap(reader)
        };
        let header = PcapHeader {
            snaplen: SNAPLEN,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            ..PcapHeader::default()
        };
        let output: Box<dyn Write> = Box::new(BufWriter::new(output));
        let output = PcapWriter::with_header(output, header).map_err(explain)?;
        let mut pcap = Pcap {
            ports,
            input,
            output,
            next: None,
            now: Captured::default(),
            held: false,
            received: 0,
            sent: 0,
            until: Duration::MAX,
            error: None,
        };
        pcap.next = pcap.input.read(ports)?;
        Ok(pcap)
    }

    /// The time stamp of the frame at hand, or of the last one; before the first, of the first.
    pub fn time(&self) -> Duration {
        match &self.next {
            Some(first) if self.received == 0 => first.time,
            _ => self.now.time,
        }
    }

    /// The time stamp of the frame that comes next; None: all have been received.
    pub fn next_time(&self) -> Option<Duration> {
        self.next.as_ref().map(|next| next.time)
    }

    /// Lets the frames come that were captured until then, by their time stamps; later ones wait. At first all come.
    pub fn let_in(&mut self, until: Duration) {
        self.until = until;
    }

    /// All frames have been received.
    pub fn is_done(&self) -> bool {
        self.next.is_none()
    }

    /// Frames read, frames written; an error if the input broke off or the output could not be written.
    pub fn finish(self) -> io::Result<(u64, u64)> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.output.into_writer().flush()?;
        Ok((self.received, self.sent))
    }

    fn write(&mut self, frame: &[u8]) -> bool {
        let packet = PcapPacket::new(self.now.time, frame.len() as u32, frame);
        match self.output.write_packet(&packet) {
            Ok(_) => self.sent += 1,
            Err(error) => self.error = self.error.take().or(Some(explain(error))),
        }
        self.error.is_none()
    }
}

impl Input {
    fn read(&mut self, ports: usize) -> io::Result<Option<Captured>> {
        match self {
            // Raw: else the crate takes a frame of which only the beginning was captured for an error.
            Input::Pcap(reader) => {
                let resolution = reader.header().ts_resolution;
                let Some(packet) = reader.next_raw_packet() else { return Ok(None) };
                let RawPcapPacket { ts_sec, ts_frac, orig_len, data, .. } = packet.map_err(explain)?;
                let fraction = match resolution {
                    TsResolution::MicroSecond => Duration::from_micros(ts_frac.into()),
                    TsResolution::NanoSecond => Duration::from_nanos(ts_frac.into()),
                };
                Ok(Some(Captured::new(0, Duration::from_secs(ts_sec.into()) + fraction, &data, orig_len)))
            }
            Input::PcapNg(reader) => read_ng(reader, ports),
        }
    }
}

fn read_ng(reader: &mut PcapNgReader<Box<dyn Read>>, ports: usize) -> io::Result<Option<Captured>> {
    loop {
        let Some(block) = reader.next_block() else { return Ok(None) };
        let (interface, ticks, data, wire_len) = match block.map_err(explain)? {
            // The crate takes every tick for a nanosecond; the interface says what it is.
            Block::EnhancedPacket(block) => {
                (block.interface_id, block.timestamp.as_nanos(), block.data.into_owned(), block.original_len)
            }
            Block::Packet(block) => {
                (block.interface_id.into(), block.timestamp.into(), block.data.into_owned(), block.original_len)
            }
            Block::SimplePacket(block) => (0, 0, block.data.into_owned(), block.original_len),
            _ => continue,
        };
        let Some(description) = reader.interfaces().get(interface as usize) else {
            return Err(invalid(format!("the capture does not describe its interface {interface}")));
        };
        require_ethernet(description.linktype)?;
        let resolution = description.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
            _ => None,
        });
        let port = (interface as usize).min(ports.saturating_sub(1));
        return Ok(Some(Captured::new(port, ticks_to_time(ticks, resolution.unwrap_or(6)), &data, wire_len)));
    }
}

/// `resolution` as in if_tsresol (pcapng, 4.2): a negative power of ten, or of two with the high bit set.
fn ticks_to_time(ticks: u128, resolution: u8) -> Duration {
    let per_second = match resolution {
        128.. => 1u128 << (resolution & 0x7f).min(64),
        _ => 10u128.pow(resolution.min(19).into()),
    };
    let seconds = (ticks / per_second).min(u64::MAX.into()) as u64;
    Duration::new(seconds, (ticks % per_second * 1_000_000_000 / per_second) as u32)
}

impl Captured {
    fn new(port: usize, time: Duration, data: &[u8], wire_len: u32) -> Captured {
        let mut buf = vec![0; HEADROOM + data.len() + TAILROOM];
        buf[HEADROOM..HEADROOM + data.len()].copy_from_slice(data);
        let wire_len = data.len().max(wire_len as usize);
        Captured { port, time, buf, len: data.len(), wire_len, offload: offload(data) }
    }
}

/// A TCP packet longer than [`MTU`] is taken for a joined segment. Its checksum is left for what it seems to be: the capture
/// does not tell whether it was complete.
fn offload(frame: &[u8]) -> Offload {
    if frame.len() <= ETHERNET + usize::from(MTU) {
        return Offload::default();
    }
    match parse(frame) {
        Ok(Parsed::Ip(packet)) if packet.protocol == TCP && packet.end > (ETHERNET as u32) + u32::from(MTU) => {
            let header_len = u16::from(frame[usize::from(packet.l4) + 12] >> 4) * 4;
            let hdr_len = packet.l4 + header_len;
            Offload {
                gso_type: if packet.family == V4 { GSO_TCPV4 } else { GSO_TCPV6 },
                gso_size: (MTU + ETHERNET as u16).saturating_sub(hdr_len),
                hdr_len,
                ..Offload::default()
            }
        }
        _ => Offload::default(),
    }
}

impl Device for Pcap {
    fn ports(&self) -> usize {
        self.ports
    }

    fn receive(&mut self, port: usize, max: usize) -> usize {
        if self.held || max == 0 || self.next.as_ref().is_none_or(|next| next.port != port || next.time > self.until) {
            return 0;
        }
        let next = match self.input.read(self.ports) {
            Ok(next) => next,
            Err(error) => {
                self.error = self.error.take().or(Some(error));
                None
            }
        };
        if let Some(now) = std::mem::replace(&mut self.next, next) {
            self.now = now;
        }
        self.held = true;
        self.received += 1;
        1
    }

    fn frame(&mut self, _i: usize) -> Frame<'_> {
        let Captured { buf, len, wire_len, port, offload, .. } = &mut self.now;
        let (len, wire_len, port, offload) = (*len, *wire_len, *port as u8, *offload);
        Frame { buf, start: HEADROOM, len, offload, port, wire_len }
    }

    fn send(&mut self, _i: usize, span: Span, _port: usize) -> bool {
        let buf = std::mem::take(&mut self.now.buf);
        let sent = self.write(&buf[span.start..][..span.len]);
        self.now.buf = buf;
        sent
    }

    fn send_copy(&mut self, frame: &[u8], _offload: Offload, _port: usize) -> bool {
        self.write(frame)
    }

    /// Nothing waits.
    fn make_room(&mut self) {}

    fn flush(&mut self) {
        self.held = false;
    }

    /// Returns at once: nothing can come while the caller sleeps.
    fn wait(&mut self, _timeout: Duration) {}
}

fn require_ethernet(link: DataLink) -> io::Result<()> {
    match link {
        DataLink::ETHERNET => Ok(()),
        other => Err(invalid(format!("the capture holds {other:?} frames; farside reads Ethernet"))),
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn explain(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        error => invalid(format!("not a capture that farside can read: {error}")),
    }
}

#[cfg(test)]
mod tests;
