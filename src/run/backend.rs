//! Which device moves the packets: AF_PACKET, or AF_XDP with AF_PACKET behind it.

use crate::config::{self, Config};
use crate::device::Device;
use crate::device::af_packet::{self, AfPacket};
use crate::device::af_xdp::{self, AfXdp, LARGEST_MTU, Way};
use crate::route::{Fib, PortInfo};
use crate::sys::bpf::{Place, Programs};
use crate::sys::netdev::offers_zero_copy;
use crate::sys::pin;
use crate::sys::ring::Slot;
use crate::sys::socket::ethernet_mtu;
use crate::sys::tap::Tap;
use crate::sys::wake::Waker;
use crate::sys::xsk::BusyPoll;
use crate::worker::{Worker, World};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// How often it is looked whether the workers have given up their old sockets.
const GIVEN_UP: Duration = Duration::from_millis(1);

/// The control side of the workers' devices.
pub struct Backend {
    interfaces: Interfaces,
    /// The interfaces' hardware addresses as the XDP program was told last.
    told: Vec<[u8; 6]>,
}

enum Interfaces {
    Packet(af_packet::Interfaces),
    Xdp(af_xdp::Interfaces),
}

/// One for each worker.
pub enum Devices {
    Packet(Vec<AfPacket>),
    Xdp(Vec<AfXdp>),
}

impl Backend {
    /// Opens the devices of so many workers; the first one receives by the tap.
    pub fn open(
        config: &Config,
        workers: usize,
        programs: &mut Programs,
        tap: Option<Tap>,
    ) -> Result<(Backend, Devices), String> {
        let told = |why: io::Error| format!("the interfaces cannot be opened: {why}");
        let datapath = &config.datapath;
        let slots = datapath.ring_slots as usize;
        let packet = af_packet::Settings { interfaces: datapath.interfaces.clone(), workers, slots, slot: Slot::Large };
        let xdp = match datapath.backend {
            config::Backend::AfXdp => true,
            config::Backend::AfPacket => false,
            config::Backend::Auto => all_offer_zero_copy(&datapath.interfaces),
        };
        if !xdp {
            let (devices, interfaces) = af_packet::open(packet, programs, tap).map_err(told)?;
            let backend = Backend { interfaces: Interfaces::Packet(interfaces), told: Vec::new() };
            return Ok((backend, Devices::Packet(devices)));
        }
        let busy = (datapath.busy_poll_us > 0)
            .then_some(BusyPoll { time_us: datapath.busy_poll_us, budget: datapath.busy_poll_budget });
        let settings = af_xdp::Settings { packet, slots: af_xdp::DEFAULT_SLOTS, busy };
        let (devices, interfaces) = af_xdp::open(settings, programs, tap).map_err(told)?;
        let backend = Backend { interfaces: Interfaces::Xdp(interfaces), told: Vec::new() };
        backend.say(&datapath.interfaces);
        Ok((backend, Devices::Xdp(devices)))
    }

    fn ways(&self) -> &[Way] {
        match &self.interfaces {
            Interfaces::Packet(_) => &[],
            Interfaces::Xdp(interfaces) => interfaces.ways(),
        }
    }

    /// By AF_XDP, of each worker; empty where that is not there at all.
    fn queues(&self) -> &[usize] {
        match &self.interfaces {
            Interfaces::Packet(_) => &[],
            Interfaces::Xdp(interfaces) => interfaces.queues(),
        }
    }

    fn say(&self, names: &[String]) {
        for (name, way) in names.iter().zip(self.ways()) {
            match way {
                Way::Xdp { place, zero_copy, queues } => {
                    let place = match place {
                        Place::Driver => "in the driver",
                        Place::Generic => "behind the driver, which has no XDP of its own (generic)",
                    };
                    let copy = if *zero_copy { "without copies" } else { "packets are copied" };
                    info!("interface {name}: AF_XDP {place}, {copy}, {queues} queue(s)");
                }
                Way::Packet(why) => warn!("interface {name}: AF_PACKET, as AF_XDP is not to be had: {why}"),
            }
        }
        let idle: Vec<String> =
            self.queues().iter().enumerate().filter(|(_, count)| **count == 0).map(|(i, _)| i.to_string()).collect();
        if self.is_xdp() && !idle.is_empty() {
            warn!(
                "there are fewer receive queues than workers: worker {} gets no packets by AF_XDP; give the interfaces more queues \
                 (ethtool -L), or have fewer workers",
                idle.join(", ")
            );
        }
    }

    /// Some interface's packets come by AF_XDP: past the packet sockets and the ingress program.
    pub fn is_xdp(&self) -> bool {
        self.ways().iter().any(|way| matches!(way, Way::Xdp { .. }))
    }

    /// What moves a worker's packets, as `show workers` has it.
    pub fn name(&self, worker: usize) -> &'static str {
        if self.queues().get(worker).is_some_and(|count| *count > 0) { "af_xdp" } else { "af_packet" }
    }

    /// Opens anew what has gone and come back; gives these ports. To be called when netlink tells of a new link.
    pub fn renew(&mut self, programs: &Programs) -> io::Result<Vec<usize>> {
        match &mut self.interfaces {
            Interfaces::Packet(interfaces) => interfaces.renew(programs),
            Interfaces::Xdp(interfaces) => interfaces.renew(programs),
        }
    }

    /// When [`Backend::tick`] has something to do at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let renewing = matches!(&self.interfaces, Interfaces::Xdp(interfaces) if interfaces.is_renewing());
        renewing.then(|| Instant::now() + GIVEN_UP)
    }

    /// Goes on with what [`Backend::renew`] has begun, and keeps the program's addresses up with the interfaces'.
    pub fn tick(&mut self, programs: &mut Programs, fib: &Fib, names: &[String]) {
        let Interfaces::Xdp(interfaces) = &mut self.interfaces else { return };
        let told = match interfaces.go_on(programs) {
            Ok(renewed) => renewed,
            Err(why) => return error!("AF_XDP is not taken up again, packet sockets go on: {why}"),
        };
        let macs = || fib.ports().iter().map(|port: &PortInfo| port.mac);
        if !told && self.told.iter().copied().eq(macs()) {
            return;
        }
        self.told = macs().collect();
        if let Err(why) = interfaces.tell_addresses(programs) {
            error!("the XDP program does not learn a hardware address: {why}");
        }
        if told {
            self.say(names);
        }
    }
}

/// Of the interfaces that fit AF_XDP; what others there are decides `backend = "auto"` for AF_PACKET.
fn all_offer_zero_copy(interfaces: &[String]) -> bool {
    interfaces.iter().all(|name| {
        let fits = ethernet_mtu(name).is_ok_and(|mtu| mtu <= LARGEST_MTU);
        fits && offers_zero_copy(name).unwrap_or(false)
    })
}

impl Devices {
    /// Starts a worker on each of these CPUs.
    pub fn start(self, cpus: &[usize], idle: config::Idle, world: &Arc<World>) -> Result<Vec<Started>, String> {
        match self {
            Devices::Packet(devices) => start(devices, AfPacket::waker, cpus, idle, world),
            Devices::Xdp(devices) => start(devices, AfXdp::waker, cpus, idle, world),
        }
    }
}

/// A worker's thread, and what wakes it.
pub type Started = (JoinHandle<()>, Waker);

fn start<D: Device + Send + 'static>(
    devices: Vec<D>,
    waker: impl Fn(&D) -> Waker,
    cpus: &[usize],
    idle: config::Idle,
    world: &Arc<World>,
) -> Result<Vec<Started>, String> {
    let start = |(index, (device, cpu)): (usize, (D, usize))| {
        let waker = waker(&device);
        let mut worker = Worker::new(index as u8, device, world.clone());
        let run = move || {
            if let Err(why) = pin::pin_to(cpu) {
                warn!("worker {index} runs on any CPU: it cannot be pinned to CPU {cpu}: {why}");
            }
            worker.run(idle);
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run);
        Ok((thread.map_err(|why| format!("worker {index} cannot be started: {why}"))?, waker))
    };
    devices.into_iter().zip(cpus.iter().copied()).enumerate().map(start).collect()
}
