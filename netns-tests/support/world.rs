//! The world of a test: a client, the internet, and up to three sites with their real servers.
//!
//! ```text
//!              client  192.0.2.10, 2001:db8:c::10
//!                |
//!              router  the internet: knows the sites' public networks only
//!             /      \
//!       wan0 /        \ wan0
//!       site 1        site 2          the boxes that farside runs on
//!       lan0 |         | lan0
//!         switch     switch           one namespace with a bridge per site
//!          /  \       /  \
//!      real a  b  real a  b           default route: their box
//! ```
//! Site n's public networks are 203.0.113.0/24, 198.51.100.0/24 and 198.18.3.0/24 for n = 1, 2, 3, and
//! 2001:db8:n::/64; its LAN is 10.n.0.0/24 and fd00:n::/64. In each: .1 is the router (WAN) or the box (LAN), .2 the
//! box (WAN), .10 the VIP, .250 the PIP, .11 and .12 the real servers (LAN). All of them also as ::1, ::2 ...
//! in hexadecimal digits that read the same.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::config::on_af_xdp;
use super::namespace::Namespace;

/// Which IP a test speaks; most are written once and run for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

pub struct World {
    pub client: Namespace,
    pub router: Namespace,
    /// The LANs' bridges `br1`..; a server's port there is `<its name>`, e.g. `r1a`.
    pub switch: Namespace,
    sites: Vec<Site>,
    directory: TempDir,
}

pub struct Site {
    pub number: u8,
    /// The machine farside runs on.
    pub host: Namespace,
    pub reals: Vec<Real>,
    directory: PathBuf,
}

pub struct Real {
    /// `r<site><letter>`, e.g. `r1a`.
    pub name: String,
    pub host: Namespace,
    site: u8,
    last: u16,
}

impl World {
    /// A world with so many sites (1 to 3) of two real servers each; everything can reach everything that it should.
    pub fn new(sites: u8) -> World {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new()
            .prefix(&format!("farside-test-{}-", std::process::id()))
            .tempdir()
            .expect("a directory for the test");
        open_to_all(directory.path());
        let space = |role: &str| Namespace::new(number, role, directory.path());

        let (client, router, switch) = (space("client"), space("router"), space("switch"));
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            router.sysctl(key, "1");
        }
        router.ip(&format!(
            "link add client type veth peer name eth0 netns {}
             addr add 192.0.2.1/24 dev client
             addr add 2001:db8:c::1/64 dev client nodad
             link set client up",
            client.name()
        ));
        client.ip("addr add 192.0.2.10/24 dev eth0
                   addr add 2001:db8:c::10/64 dev eth0 nodad
                   link set eth0 up
                   route add default via 192.0.2.1
                   route add default via 2001:db8:c::1");
        let sites = (1..=sites).map(|n| Site::new(n, &space, &router, &switch, directory.path())).collect();
        World { client, router, switch, sites, directory }
    }

    /// Site `number`, counted from 1.
    pub fn site(&self, number: u8) -> &Site {
        &self.sites[usize::from(number) - 1]
    }

    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// A directory of the world's own, removed with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn client_address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, 10).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10).into(),
        }
    }
}

impl Site {
    fn new(
        number: u8,
        space: &impl Fn(&str) -> Namespace,
        router: &Namespace,
        switch: &Namespace,
        directory: &Path,
    ) -> Site {
        let host = space(&format!("site{number}"));
        let directory = directory.join(format!("site{number}"));
        fs::create_dir(&directory).expect("a directory for the site");
        open_to_all(&directory);

        // Two, where queues choose the worker: the directions of a flow meet one or the other.
        let queues = if on_af_xdp() { "numtxqueues 2 numrxqueues 2" } else { "" };
        let wan = |last| (public(number, Family::V4, last), public(number, Family::V6, last));
        let lan = |last| (private(number, Family::V4, last), private(number, Family::V6, last));
        router.ip(&format!(
            "link add site{number} {queues} type veth peer name wan0 {queues} netns {}
             addr add {}/24 dev site{number}
             addr add {}/64 dev site{number} nodad
             link set site{number} up",
            host.name(),
            wan(1).0,
            wan(1).1
        ));
        switch.ip(&format!(
            "link add br{number} type bridge mcast_snooping 0
             link set br{number} up
             link add site{number} {queues} type veth peer name lan0 {queues} netns {}
             link set site{number} master br{number} up",
            host.name()
        ));
        host.ip(&format!(
            "addr add {}/24 dev wan0
             addr add {}/64 dev wan0 nodad
             addr add {}/24 dev lan0
             addr add {}/64 dev lan0 nodad
             link set wan0 up
             link set lan0 up
             route add default via {}
             route add default via {}",
            wan(2).0,
            wan(2).1,
            lan(1).0,
            lan(1).1,
            wan(1).0,
            wan(1).1
        ));
        let reals = [("a", 11), ("b", 12)].map(|(letter, last)| {
            let name = format!("r{number}{letter}");
            let host = space(&name);
            switch.ip(&format!(
                "link add {name} type veth peer name eth0 netns {}
                 link set {name} master br{number} up",
                host.name()
            ));
            host.ip(&format!(
                "addr add {}/24 dev eth0
                 addr add {}/64 dev eth0 nodad
                 link set eth0 up
                 route add default via {}
                 route add default via {}",
                lan(last).0,
                lan(last).1,
                lan(1).0,
                lan(1).1
            ));
            Real { name, host, site: number, last }
        });
        Site { number, host, reals: reals.into(), directory }
    }

    pub fn name(&self) -> &'static str {
        site_name(self.number)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The real server `a` or `b`.
    pub fn real(&self, letter: char) -> &Real {
        self.reals.iter().find(|real| real.name.ends_with(letter)).expect("a real server of this letter")
    }

    pub fn vip(&self, family: Family) -> IpAddr {
        public(self.number, family, 10)
    }

    pub fn pip(&self, family: Family) -> IpAddr {
        public(self.number, family, 250)
    }

    /// The box's own address on the WAN.
    pub fn wan_address(&self, family: Family) -> IpAddr {
        public(self.number, family, 2)
    }

    /// The box's own address on the LAN.
    pub fn lan_address(&self, family: Family) -> IpAddr {
        private(self.number, family, 1)
    }
}

impl Real {
    pub fn address(&self, family: Family) -> IpAddr {
        private(self.site, family, self.last)
    }
}

pub fn site_name(number: u8) -> &'static str {
    ["south", "north", "east"][usize::from(number) - 1]
}

/// An address in site `site`'s public network.
pub fn public(site: u8, family: Family, last: u16) -> IpAddr {
    let v4 = |a, b, c| Ipv4Addr::new(a, b, c, last as u8).into();
    match (family, site) {
        (Family::V4, 1) => v4(203, 0, 113),
        (Family::V4, 2) => v4(198, 51, 100),
        (Family::V4, _) => v4(198, 18, site),
        (Family::V6, _) => Ipv6Addr::new(0x2001, 0xdb8, u16::from(site), 0, 0, 0, 0, same_digits(last)).into(),
    }
}

/// An address in site `site`'s LAN.
pub fn private(site: u8, family: Family, last: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, site, 0, last as u8).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, u16::from(site), 0, 0, 0, 0, 0, same_digits(last)).into(),
    }
}

/// 250 as 0x250: the two families' addresses end in the same digits.
fn same_digits(last: u16) -> u16 {
    u16::from_str_radix(&last.to_string(), 16).expect("decimal digits are hexadecimal digits")
}

/// Servers that run as another user must get through to their files.
fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("set permissions");
}
