//! The first pass over a capture: what a network would tell farside about itself.

use super::{open, unreadable};
use crate::config::Config;
use crate::device::Device;
use crate::device::pcap::Pcap;
use crate::route::MAX_HOPS;
use crate::wire::{ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, be16};
use hashbrown::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// farside's MAC if the capture does not tell.
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The most neighbors: next hops, less those that are there anyway.
const MOST: usize = MAX_HOPS - 100;

type Mac = [u8; 6];

pub struct Survey {
    pub frames: u64,
    pub own_mac: Mac,
    /// Where the capture's senders are: address, port, MAC.
    pub neighbors: Vec<(IpAddr, u8, Mac)>,
}

/// What is being found out.
struct Finder {
    /// VIPs and PIPs.
    own: HashSet<IpAddr>,
    /// Real servers and remote sites: these must not be missed.
    targets: HashSet<IpAddr>,
    own_mac: Option<Mac>,
    /// Places of `senders`.
    known: HashMap<IpAddr, usize>,
    senders: Vec<Sender>,
}

/// A source address and where it came from: first, and first from another MAC. One of the two may be farside itself, sending a
/// client's packet on.
struct Sender {
    ip: IpAddr,
    first: (u8, Mac),
    other: Option<(u8, Mac)>,
}

impl Survey {
    /// Reads all of the capture. The error is a sentence.
    pub fn of(input: &Path, config: &Config) -> Result<Survey, String> {
        let ports = config.datapath.interfaces.len();
        let mut pcap = Pcap::open(open(input)?, io::sink(), ports).map_err(|why| unreadable(input, &why))?;
        let mut finder = Finder::new(config);
        let mut frames = 0u64;
        while !pcap.is_done() {
            for port in 0..ports {
                if pcap.receive(port, 1) == 1 {
                    frames += 1;
                    if pcap.time().as_secs() > u32::MAX.into() {
                        return Err(format!("{}: the time stamp of frame {frames} is after 2106", input.display()));
                    }
                    let frame = pcap.frame(0);
                    finder.look(&frame.buf[frame.start..frame.start + frame.len], port as u8);
                    pcap.flush();
                }
            }
        }
        pcap.finish().map_err(|why| format!("{}, after frame {frames}", unreadable(input, &why)))?;
        let own_mac = finder.own_mac.unwrap_or(OWN_MAC);
        Ok(Survey { frames, own_mac, neighbors: finder.neighbors(own_mac) })
    }
}

impl Finder {
    fn new(config: &Config) -> Finder {
        let vips = config.services.iter().map(|service| service.vip);
        let pips = config.proxy.iter().flat_map(|proxy| proxy.addresses.iter().copied());
        let targets = config.services.iter().flat_map(|service| {
            let reals = service.reals.iter().map(|real| real.address);
            reals.chain(service.remotes.iter().map(|remote| remote.vip))
        });
        Finder {
            own: vips.chain(pips).collect(),
            targets: targets.collect(),
            own_mac: None,
            known: HashMap::new(),
            senders: Vec::new(),
        }
    }

    fn look(&mut self, frame: &[u8], port: u8) {
        let Some((to, from)) = macs(frame) else { return };
        let Some((src, dst)) = addresses(frame) else { return };
        if self.own_mac.is_none() && self.own.contains(&dst) && is_station(&to) {
            self.own_mac = Some(to);
        }
        if !is_host(src) || self.own.contains(&src) || !is_station(&from) {
            return;
        }
        match self.known.get(&src) {
            Some(&at) => {
                let sender = &mut self.senders[at];
                if sender.other.is_none() && sender.first.1 != from {
                    sender.other = Some((port, from));
                }
            }
            None if self.senders.len() < MOST || self.targets.contains(&src) => {
                self.known.insert(src, self.senders.len());
                self.senders.push(Sender { ip: src, first: (port, from), other: None });
            }
            // So many come from behind the gateway.
            None => {}
        }
    }

    fn neighbors(mut self, own_mac: Mac) -> Vec<(IpAddr, u8, Mac)> {
        let targets = &self.targets;
        self.senders.sort_by_key(|sender| !targets.contains(&sender.ip));
        let place = |sender: &Sender| {
            let places = [Some(sender.first), sender.other];
            let (port, mac) = places.into_iter().flatten().find(|(_, mac)| *mac != own_mac)?;
            Some((sender.ip, port, mac))
        };
        self.senders.iter().filter_map(place).take(MOST).collect()
    }
}

/// Destination and source.
fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    Some((*frame.first_chunk()?, *frame.get(6..)?.first_chunk()?))
}

/// Source and destination of an IP packet or ARP message. Nothing else about it need be right: a frame that was captured in part
/// tells where its sender is, too.
fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let rest = frame.get(ETHERNET..)?;
    let v4 = |at: usize| Some(IpAddr::from(*rest.get(at..)?.first_chunk::<4>()?));
    let v6 = |at: usize| Some(IpAddr::from(*rest.get(at..)?.first_chunk::<16>()?));
    match be16(frame, ETHERNET - 2) {
        ETHERTYPE_IPV4 => v4(12).zip(v4(16)),
        ETHERTYPE_ARP => v4(14).zip(v4(24)),
        ETHERTYPE_IPV6 => v6(8).zip(v6(24)),
        _ => None,
    }
}

/// One machine's, not a group's.
fn is_station(mac: &Mac) -> bool {
    mac[0] & 1 == 0 && *mac != [0; 6]
}

fn is_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast)
}
