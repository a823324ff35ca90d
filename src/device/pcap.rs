//! The device over capture files, for `farside replay`: frames come from one, what is sent goes to another.

use super::{Device, Frame, Offload, Span};
use std::io::{self, Read, Write};
use std::time::Duration;

/// One frame a batch, so that what is sent can bear the time stamp of the frame that caused it.
pub struct Pcap {
    ports: usize,
    time: Duration,
}

impl Pcap {
    /// `input`: pcap or pcapng, Ethernet. A pcapng capture's interfaces are the ports, in its order; a pcap's frames all
    /// come by port 0. `output` becomes a pcap with time stamps in nanoseconds.
    pub fn open(input: impl Read + 'static, output: impl Write + 'static, ports: usize) -> io::Result<Pcap> {
        let _ = (input, output, ports);
        todo!()
    }

    /// The time stamp of the frame at hand.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// All frames have been received.
    pub fn is_done(&self) -> bool {
        todo!()
    }

    /// Frames read, frames written; an error if the input broke off or the output could not be written.
    pub fn finish(self) -> io::Result<(u64, u64)> {
        todo!()
    }
}

impl Device for Pcap {
    fn ports(&self) -> usize {
        self.ports
    }

    fn receive(&mut self, port: usize, max: usize) -> usize {
        todo!("{port} {max}")
    }

    fn frame(&mut self, i: usize) -> Frame<'_> {
        todo!("{i}")
    }

    fn send(&mut self, i: usize, span: Span, port: usize) -> bool {
        todo!("{i} {span:?} {port}")
    }

    fn send_copy(&mut self, frame: &[u8], offload: Offload, port: usize) -> bool {
        todo!("{frame:?} {offload:?} {port}")
    }

    fn flush(&mut self) {
        todo!()
    }

    fn wait(&mut self, _timeout: Duration) {}
}
