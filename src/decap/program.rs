//! The kernel program beside the sockets ([`crate::sys::decap`]): it takes the plain packets, in place, before they get as far.
//! Whatever keeps it from being there or from taking a packet leaves that to the sockets.

use super::{Encapsulation, Options};
use crate::sys::bpf::Ingress;
use crate::sys::decap::{self, Program, Taken};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

/// Whether the kernel program is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Use {
    /// Where the kernel takes it
    Auto,
    /// Never: all packets go by sockets
    Off,
}

/// The program at its interfaces, and what keeps it up with the host's addresses.
pub struct Fast {
    // Dropped in this order.
    _ingress: Vec<Ingress>,
    program: Program,
    /// Hears of addresses that come and go.
    events: Socket,
    vips: Vec<IpAddr>,
}

impl Fast {
    /// Starts it, if it is wanted and can be; what stands against it goes to `notes`.
    pub fn start(options: &Options, tun: u32, notes: &mut Vec<String>) -> Option<Fast> {
        for interface in &options.interfaces {
            // What an earlier one has left would take packets to a device that has gone.
            if let Err(why) = decap::clean_leftovers(interface) {
                notes.push(why.to_string());
            }
        }
        if options.program == Use::Off {
            return None;
        }
        match Fast::try_start(options, tun) {
            Ok((fast, without)) => {
                notes.extend(without);
                Some(fast)
            }
            Err(why) => {
                notes.push(format!("packets go by sockets, as the kernel program cannot be used: {why}"));
                None
            }
        }
    }

    fn try_start(options: &Options, tun: u32) -> io::Result<(Fast, Vec<String>)> {
        let wants = |what| [what, Encapsulation::All].contains(&options.encapsulation);
        let [ipip, gre, gue, gue1] =
            [Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue, Encapsulation::Gue1].map(wants);
        let mut program = Program::load(tun, options.gue_port, [ipip, ipip, gre, gue, gue1])?;
        // Before the addresses are looked at, so that none is missed.
        let mut events = Socket::new(NETLINK_ROUTE)?;
        events.bind_auto()?;
        events.set_non_blocking(true)?;
        events.add_membership(libc::RTNLGRP_IPV4_IFADDR)?;
        events.add_membership(libc::RTNLGRP_IPV6_IFADDR)?;
        program.set_addresses(&host_addresses(), &options.vips)?;
        let (mut ingress, mut without) = (Vec::new(), Vec::new());
        for interface in &options.interfaces {
            match program.attach(interface) {
                Ok(one) => ingress.push(one),
                Err(why) => without.push(format!("packets from {interface} go by sockets: {why}")),
            }
        }
        Ok((Fast { _ingress: ingress, program, events, vips: options.vips.clone() }, without))
    }

    pub fn events(&self) -> RawFd {
        self.events.as_raw_fd()
    }

    /// Addresses have come or gone. An error: the program goes on with those that it knows.
    pub fn look_again(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        // An error other than "nothing waits" says that events were lost; all addresses are read anew in any case.
        while self.events.recv(&mut &mut buffer[..], 0).is_ok() {}
        self.program.set_addresses(&host_addresses(), &self.vips)
    }

    pub fn taken(&self) -> Taken {
        self.program.taken()
    }
}

fn host_addresses() -> Vec<IpAddr> {
    pnet_datalink::interfaces().into_iter().flat_map(|interface| interface.ips).map(|network| network.ip()).collect()
}

#[cfg(test)]
mod tests;
