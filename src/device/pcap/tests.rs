use super::*;
use std::cell::RefCell;
use std::rc::Rc;

/// A file in memory that can be looked at afterwards.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn capture(link: DataLink, frames: &[(u64, &[u8])]) -> io::Cursor<Vec<u8>> {
    let header = PcapHeader { datalink: link, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (us, frame) in frames {
        let packet = PcapPacket::new(Duration::from_micros(*us), frame.len() as u32 + 1, frame);
        writer.write_packet(&packet).unwrap();
    }
    io::Cursor::new(writer.into_writer())
}

/// A little-endian pcapng block.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut padded = body.to_vec();
    padded.resize(body.len().next_multiple_of(4), 0);
    let len = (padded.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &len, &padded, &len].concat()
}

fn written(output: &Shared) -> Vec<(Duration, Vec<u8>)> {
    let bytes = output.0.borrow().clone();
    let mut reader = PcapReader::new(&bytes[..]).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        frames.push((packet.timestamp, packet.data.into_owned()));
    }
    frames
}

#[test]
fn what_is_sent_bears_the_time_of_the_frame_that_caused_it() {
    let output = Shared::default();
    let input = capture(DataLink::ETHERNET, &[(5, b"first"), (1_000_007, b"second")]);
    let mut device = Pcap::open(input, output.clone(), 2).unwrap();
    assert_eq!(device.time(), Duration::from_micros(5));
    assert_eq!(device.receive(1, 64), 0);
    while !device.is_done() {
        assert_eq!(device.receive(0, 64), 1);
        assert_eq!(device.receive(0, 64), 0, "one frame a batch");
        let frame = device.frame(0);
        assert_eq!(frame.wire_len, frame.len + 1);
        let span = Span { start: frame.start - 2, len: frame.len + 2, offload: frame.offload };
        assert!(device.send(0, span, 1));
        assert!(device.send_copy(b"own", Offload::default(), 0));
        device.flush();
    }
    assert_eq!(device.finish().unwrap(), (2, 4));
    let times = [5, 5, 1_000_007, 1_000_007].map(Duration::from_micros);
    let bytes = [&b"\0\0first"[..], b"own", b"\0\0second", b"own"];
    let expected: Vec<_> = times.into_iter().zip(bytes.map(<[u8]>::to_vec)).collect();
    assert_eq!(written(&output), expected);
}

#[test]
fn the_interfaces_of_a_pcapng_are_ports_and_their_ticks_are_what_they_say() {
    let section = [&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let plain = [1, 0, 0, 0, 0, 0, 0, 0];
    let nanoseconds = [1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let packet = |interface: u32, ticks: u32, data: &[u8]| {
        let len = (data.len() as u32).to_le_bytes();
        let words = [interface, 0, ticks].map(u32::to_le_bytes).concat();
        block(6, &[&words[..], &len, &len, data].concat())
    };
    let file = [
        block(0x0a0d_0d0a, &section),
        block(1, &plain),
        block(1, &nanoseconds),
        packet(1, 3_000_000, b"by the second"),
        packet(0, 4_000, b"by the first"),
    ]
    .concat();
    let mut device = Pcap::open(io::Cursor::new(file), Shared::default(), 2).unwrap();
    assert_eq!((device.receive(0, 64), device.receive(1, 64)), (0, 1));
    assert_eq!((device.time(), device.frame(0).port), (Duration::from_millis(3), 1));
    device.flush();
    assert_eq!((device.receive(0, 64), device.time()), (1, Duration::from_millis(4)));
    assert!(device.is_done());
}

#[test]
fn what_is_no_ethernet_capture_is_refused_with_the_reason() {
    let text = |input: io::Cursor<Vec<u8>>| match Pcap::open(input, Shared::default(), 1) {
        Ok(_) => panic!("taken"),
        Err(error) => error.to_string(),
    };
    assert!(text(capture(DataLink::RAW, &[])).contains("Ethernet"));
    assert!(text(io::Cursor::new(vec![])).contains("empty"));
    assert!(text(io::Cursor::new(vec![7; 100])).contains("not a capture"));
}

#[test]
fn a_capture_that_breaks_off_is_an_error_at_the_end() {
    let mut input = capture(DataLink::ETHERNET, &[(1, b"first"), (2, b"second")]).into_inner();
    input.truncate(input.len() - 3);
    let mut device = Pcap::open(io::Cursor::new(input), Shared::default(), 1).unwrap();
    assert_eq!(device.receive(0, 64), 1);
    device.flush();
    assert!(device.is_done());
    assert!(device.finish().is_err());
}
