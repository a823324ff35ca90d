//! The kernel path: packets of flows that stand, carried by the ingress program itself instead of by a worker (the
//! programs say how, `src/bpf/path.h`). Control opens it for the routes as they are and keeps it up with them.

use crate::route::{Fib, PortInfo};
use crate::service::{ServiceMap, Tunnels};
use crate::sys::bpf::{Programs, WayPort, Ways};
use crate::wire::ip::{V4, V6};
use std::sync::Arc;
use tracing::{error, info};

/// What the programs were told last.
#[derive(Default)]
pub struct KernelPath {
    wanted: bool,
    told: Option<Ways>,
    /// What that was made of: these snapshots need not be looked at again.
    seen: Option<(Arc<Fib>, Arc<ServiceMap>)>,
    broken: bool,
}

impl KernelPath {
    /// `xdp`: some packets come by AF_XDP, which takes them before the ingress program could.
    pub fn new(wanted: bool, xdp: bool) -> KernelPath {
        if wanted && xdp {
            info!("all packets go through the workers: AF_XDP takes them before they reach the kernel path");
        }
        KernelPath { wanted: wanted && !xdp, ..KernelPath::default() }
    }

    /// Tells the programs of new routes. `interfaces`: how many of the ports are the configuration's; the device of the checks,
    /// which comes after them, ends in a worker.
    pub fn follow(&mut self, programs: &mut Programs, fib: &Arc<Fib>, services: &Arc<ServiceMap>, interfaces: usize) {
        let known = |(f, s): &(Arc<Fib>, Arc<ServiceMap>)| Arc::ptr_eq(f, fib) && Arc::ptr_eq(s, services);
        if !self.wanted || self.broken || self.seen.as_ref().is_some_and(known) {
            return;
        }
        self.seen = Some((fib.clone(), services.clone()));
        let ways = ways(fib, &services.tunnels, interfaces);
        if self.told.as_ref() == Some(&ways) {
            return;
        }
        if let Err(why) = programs.set_ways(Some(&ways)) {
            // Closed it is, or was never open: all packets are the workers'.
            self.broken = true;
            return error!("the kernel path stays closed, all packets go through the workers: {why}");
        }
        if self.told.is_none() {
            info!("flows that stand are carried in the kernel ([datapath] kernel_path)");
        }
        self.told = Some(ways);
    }
}

fn ways(fib: &Fib, tunnels: &Tunnels, interfaces: usize) -> Ways {
    let port = |(number, port): (u8, &PortInfo)| WayPort {
        ifindex: if port.up { port.ifindex } else { 0 },
        mac: port.mac,
        sources: [V4, V6].map(|family| fib.source(number, family).unwrap_or_default().octets()),
    };
    let mut ports: Vec<WayPort> = (0..).zip(fib.ports()).take(interfaces).map(port).collect();
    ports.push(WayPort::default());
    let sources = tunnels.sources.each_ref().map(|listed| listed.iter().map(|addr| addr.octets()).collect());
    Ways { epoch: fib.epoch(), ports, gue_port: tunnels.gue_port, sources }
}
