//! Where unwrapped packets enter the host: a tun device with the VIPs on it, and the settings without which the host would not
//! take them. All of it goes with the device, and that with the process.

use super::{Options, version_word};
use crate::sys::abi::VnetHdr;
use crate::sys::tap::Tap;
use crate::wire::ip::{V4, V6, family_of};
use std::fs;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

/// The most that a tun device takes. It is handed whole packets, as long as they come; what the host sends never goes out here.
const MTU: u32 = 65_535;

/// Until addresses are in use; what takes longer is told and not waited for.
const SETTLED: Duration = Duration::from_secs(2);

pub struct Place {
    tun: Tap,
    notes: Vec<String>,
}

impl Place {
    pub fn make(options: &Options) -> Result<Place, String> {
        let tun = Tap::create_tun(&options.tun).map_err(|why| refused("no tun device", &why))?;
        let mut place = Place { tun, notes: Vec::new() };
        place.tun.set_mtu(MTU).map_err(|why| refused("the tun device's MTU", &why))?;
        let families = [V4, V6].map(|family| options.vips.iter().any(|vip| family_of(*vip) == family));
        if families[1] {
            // No address of its own beside the VIPs; it may have one where the setting cannot be changed.
            let _ = write(&setting(V6, place.tun.name(), "addr_gen_mode"), "1");
            place.enable_v6()?;
        }
        place.tun.set_up().map_err(|why| refused("the tun device cannot be switched on", &why))?;
        if families[0] {
            place.let_in()?;
            place.look_at_arp(&options.interfaces);
        }
        let mut numbers = [0; 2];
        for vip in &options.vips {
            let number = &mut numbers[usize::from(vip.is_ipv6())];
            place.add(*vip, *number)?;
            *number += 1;
        }
        place.settle(&options.vips);
        Ok(place)
    }

    /// The kernel puts an IPv6 address into use a moment after it has taken it; servers that start on our word shall be able to
    /// listen on it.
    fn settle(&mut self, vips: &[IpAddr]) {
        let start = Instant::now();
        for vip in vips.iter().filter(|vip| vip.is_ipv6()) {
            while let Err(why) = UdpSocket::bind((*vip, 0)) {
                if start.elapsed() > SETTLED {
                    self.notes.push(format!("servers cannot listen on the VIP {vip}: {why}"));
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Hands a packet to the host. False: it does not take it.
    pub fn deliver(&self, ip: &[u8], header: VnetHdr) -> bool {
        self.tun.write(ip, header)
    }

    /// The tun device's.
    pub fn index(&self) -> u32 {
        self.tun.index()
    }

    /// What the one who started this should know of the host.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn add(&self, vip: IpAddr, number: usize) -> Result<(), String> {
        self.tun.add_address(vip, number).map_err(|why| {
            let family = version_word(family_of(vip));
            match why.raw_os_error() {
                Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {
                    format!("the VIP {vip} is {family}, which this host does not speak")
                }
                Some(libc::EADDRNOTAVAIL) => format!("{vip} cannot be an address of a host, and so no VIP"),
                _ => refused(&format!("the VIP {vip} cannot be put on the tun device"), &why),
            }
        })
    }

    /// Containers often have IPv6 switched off for new devices.
    fn enable_v6(&self) -> Result<(), String> {
        let path = setting(V6, self.tun.name(), "disable_ipv6");
        match read(&path) {
            Some(0) => Ok(()),
            Some(_) => write(&path, "0").map_err(|why| format!("IPv6 is off for the tun device: {path}: {why}")),
            None => Err("a VIP is IPv6, which this host does not speak (/proc/sys/net/ipv6 is missing)".into()),
        }
    }

    /// Clients' packets come by the tun device, while the way back to the clients is another: what "reverse path filtering" drops
    /// when it is strict. The stricter of the device's setting and of "all" would count if 2 (loose) did not stand above 1
    /// (strict): the kernel takes the larger number.
    fn let_in(&self) -> Result<(), String> {
        let path = setting(V4, self.tun.name(), "rp_filter");
        let all = read(&setting(V4, "all", "rp_filter")).unwrap_or(0);
        let wanted = if all == 0 { 0 } else { 2 };
        if read(&path) == Some(wanted) {
            return Ok(());
        }
        write(&path, &wanted.to_string()).or_else(|why| {
            let effective = read(&path).unwrap_or(0).max(all);
            if effective != 1 {
                return Ok(());
            }
            Err(format!(
                "the host would drop what comes out of the tunnels: its reverse path filter is strict, and {path} cannot be \
                 changed ({why}); set net.ipv4.conf.all.rp_filter and net.ipv4.conf.default.rp_filter to 0 or 2 from outside"
            ))
        })
    }

    fn look_at_arp(&mut self, interfaces: &[String]) {
        let strictest = |interface: &str| read(&setting(V4, interface, "arp_ignore")).unwrap_or(0);
        for interface in interfaces {
            if strictest("all").max(strictest(interface)) == 0 {
                self.notes.push(format!(
                    "the host answers ARP for the VIPs on {interface}; if that is the VIPs' own link, set \
                     net.ipv4.conf.{interface}.arp_ignore=1 and arp_announce=2 (farside setup-server tunnel tells)"
                ));
            }
        }
    }
}

fn setting(family: u8, interface: &str, key: &str) -> String {
    format!("/proc/sys/net/{}/conf/{interface}/{key}", version_word(family))
}

fn read(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(path, value)
}

fn refused(what: &str, why: &io::Error) -> String {
    if why.kind() == io::ErrorKind::PermissionDenied {
        return format!("{what}: {why}; farside decap needs root (or the capability NET_ADMIN), and /dev/net/tun");
    }
    format!("{what}: {why}")
}
