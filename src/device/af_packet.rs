//! The device over Linux packet sockets: one socket and ring per worker and interface.

use super::{Device, Frame, Offload, Span};
use crate::sys::bpf::Programs;
use crate::sys::tap::Tap;
use crate::sys::wake::Waker;
use std::io;
use std::time::Duration;

/// What [`open`] opens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names; their order numbers the ports.
    pub interfaces: Vec<String>,
    pub workers: usize,
    /// Frames that one ring holds, each of up to 64 KB; rounded up to whole blocks.
    pub slots: usize,
}

/// Frames per ring unless measured otherwise.
pub const DEFAULT_SLOTS: usize = 256;

/// One worker's door to all interfaces, and to the tap, if it has one, as the last port.
pub struct AfPacket {
    waker: Waker,
}

/// The control side of all workers' doors.
pub struct Interfaces {
    settings: Settings,
}

/// Opens the doors of all workers, in their order; the first one has the tap. From here on the sockets take what the
/// programs call farside's.
pub fn open(settings: Settings, programs: &Programs, tap: Option<Tap>) -> io::Result<(Vec<AfPacket>, Interfaces)> {
    let _ = programs.claims();
    let _ = tap.map(|tap| tap.index());
    let _ = Interfaces { settings };
    todo!()
}

impl Interfaces {
    /// Opens new sockets at every interface that has gone and come back (the same name, another index) and hands them to
    /// the workers, which take them at their next [`Device::wait`] or empty [`Device::receive`]. Gives the ports renewed:
    /// their ingress programs went with the old interface. To be called when netlink tells of a new link.
    pub fn renew(&mut self, programs: &Programs) -> io::Result<Vec<usize>> {
        let _ = programs.claims();
        todo!("{:?}", self.settings)
    }
}

impl AfPacket {
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Frames that the kernel has dropped because a ring was full, since the last call. A system call per port.
    pub fn kernel_drops(&mut self) -> u64 {
        todo!()
    }

    /// Frames that the kernel has refused to send, ever: interface down, its queue full, longer than its MTU.
    pub fn refused(&self) -> u64 {
        todo!()
    }
}

impl Device for AfPacket {
    fn ports(&self) -> usize {
        todo!()
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

    fn wait(&mut self, timeout: Duration) {
        todo!("{timeout:?}")
    }
}
