//! The kernel path: packets of flows that stand, carried by the ingress program itself instead of by a worker (the
//! programs say how, `src/bpf/farside.c`). Control opens it for the routes as they are and keeps it up with them.

use crate::route::Fib;
use crate::sys::bpf::{PortMac, Programs};
use tracing::{error, info};

/// What the programs were told last.
#[derive(Default)]
pub struct KernelPath {
    wanted: bool,
    told: Option<Told>,
    broken: bool,
}

type Told = (u8, Vec<PortMac>);

impl KernelPath {
    pub fn new(wanted: bool) -> KernelPath {
        KernelPath { wanted, ..KernelPath::default() }
    }

    /// Tells the programs of new routes. `interfaces`: how many of the ports are the configuration's; the device of the checks,
    /// which comes after them, ends in a worker.
    pub fn follow(&mut self, programs: &mut Programs, fib: &Fib, interfaces: usize) {
        if !self.wanted || self.broken {
            return;
        }
        let port = |port: &crate::route::PortInfo| if port.up { (port.ifindex, port.mac) } else { (0, [0; 6]) };
        let mut ports: Vec<_> = fib.ports().iter().take(interfaces).map(port).collect();
        ports.push((0, [0; 6]));
        let routes = (fib.epoch(), ports);
        if self.told.as_ref() == Some(&routes) {
            return;
        }
        if let Err(why) = programs.set_routes(Some((routes.0, &routes.1))) {
            // Closed it is, or was never open: all packets are the workers'.
            self.broken = true;
            return error!("the kernel path stays closed, all packets go through the workers: {why}");
        }
        if self.told.is_none() {
            info!("flows that stand are carried in the kernel ([datapath] kernel_path)");
        }
        self.told = Some(routes);
    }
}
