//! The control side of the name server's packet rings: which interfaces have them, and for which addresses questions are taken.

use crate::config::dns::Dns;
use crate::device::af_packet::{self, AfPacket};
use crate::netlink::host_addresses;
use crate::sys::bpf::Ingress;
use crate::sys::questions::{MOST, Questions};
use crate::sys::ring::Slot;
use crate::sys::socket::{ethernet_mtu, interface_index};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// Questions that a ring holds, for each thread and interface: 9 MB.
const SLOTS: usize = 4096;

/// The smallest MTU at which every answer is one packet (RFC 8200 5; answers have at most 1232 bytes).
const LEAST_MTU: usize = 1280;

/// How often it is looked which interfaces and addresses there are.
const LOOK: Duration = Duration::from_secs(1);

pub struct Fast {
    listen: Vec<SocketAddr>,
    questions: Questions,
    interfaces: af_packet::Interfaces,
    names: Vec<String>,
    /// By interface. None: there is no program there, and the host's stack has its questions.
    ingress: Vec<Option<Ingress>>,
    /// For these questions are taken now.
    taken: Vec<SocketAddr>,
    /// None: nothing is taken yet.
    next: Option<Instant>,
}

impl Fast {
    /// Opens the rings, one door for each thread. What cannot be had is told, and done without: the sockets have all questions then.
    pub fn open(dns: &Dns, threads: usize) -> Option<(Fast, Vec<AfPacket>)> {
        let fits = |name: &&String| match usable(name) {
            Ok(()) => true,
            Err(why) => {
                warn!(
                    "[dns] fast_path: {why}; questions that come by {name} go by the host's stack until farside is started anew"
                );
                false
            }
        };
        let names: Vec<String> = dns.fast_path.iter().filter(fits).cloned().collect();
        if names.is_empty() {
            return None;
        }
        match Fast::try_open(dns, names, threads) {
            Ok(opened) => Some(opened),
            Err(why) => {
                warn!("[dns] fast_path is not to be had, questions go by the host's stack: {why}");
                None
            }
        }
    }

    fn try_open(dns: &Dns, names: Vec<String>, threads: usize) -> io::Result<(Fast, Vec<AfPacket>)> {
        let mut key = [0; 8];
        // Without random numbers somebody could have one thread do all the work.
        let _ = getrandom::fill(&mut key);
        let mut questions = Questions::load(threads as u32, u64::from_ne_bytes(key))?;
        let settings =
            af_packet::Settings { interfaces: names.clone(), workers: threads, slots: SLOTS, slot: Slot::Small };
        let (devices, interfaces) = af_packet::open(settings, &questions, None)?;
        let ingress =
            names.iter().map(|name| questions.attach_ingress(name).map(Some)).collect::<io::Result<Vec<_>>>()?;
        let listen = dns.listen.iter().take(MOST).copied().collect();
        let fast = Fast { listen, questions, interfaces, names, ingress, taken: Vec::new(), next: None };
        Ok((fast, devices))
    }

    /// The threads run: from now on questions are taken.
    pub fn begin(&mut self, now: Instant) {
        info!("[dns] fast_path: plain questions that come by {} go past the host's stack", self.names.join(", "));
        self.look(now);
    }

    /// From now on the host's stack has all questions.
    pub fn end(mut self) {
        // First, so that no question is answered by both.
        if let Err(why) = self.questions.set_listeners(&[]) {
            warn!("[dns] fast_path: {why}");
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    pub fn tick(&mut self, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            self.look(now);
        }
    }

    /// Follows interfaces that have gone and come back, and the addresses that the host has.
    fn look(&mut self, now: Instant) {
        self.next = Some(now + LOOK);
        match self.interfaces.renew(&self.questions) {
            Ok(renewed) => renewed.into_iter().for_each(|port| self.attach(port)),
            Err(why) => error!("[dns] fast_path: an interface that has come back is not taken up again: {why}"),
        }
        let host = host_addresses();
        let taken: Vec<SocketAddr> = self.listen.iter().filter(|at| host.contains(&at.ip())).copied().collect();
        if taken != self.taken {
            match self.questions.set_listeners(&taken) {
                Ok(()) => self.taken = taken,
                Err(why) => error!("[dns] fast_path: {why}"),
            }
        }
    }

    /// The program has gone with the interface.
    fn attach(&mut self, port: usize) {
        self.ingress[port] = None;
        match self.questions.attach_ingress(&self.names[port]) {
            Ok(ingress) => self.ingress[port] = Some(ingress),
            Err(why) => error!("[dns] fast_path: interface {} is not taken up again: {why}", self.names[port]),
        }
    }
}

/// The error names the interface.
fn usable(name: &str) -> io::Result<()> {
    interface_index(name)?;
    match ethernet_mtu(name)? {
        mtu if mtu < LEAST_MTU => Err(io::Error::other(format!(
            "interface {name} has an MTU of {mtu} bytes, and answers may need {LEAST_MTU}"
        ))),
        _ => Ok(()),
    }
}
