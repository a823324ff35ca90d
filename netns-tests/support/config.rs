//! farside's configuration files, as a test needs them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use super::world::{BOTH, Family, Site, World, site_name};

/// The file of one site. The defaults are those of a test: checks every 200 ms, two workers where there are two CPUs.
#[derive(Clone)]
pub struct Config {
    site: &'static str,
    socket: String,
    pub pips: Vec<IpAddr>,
    peers: Vec<(&'static str, Vec<IpAddr>)>,
    /// Lines of `[[peer]]` besides name and proxy addresses, by its name.
    pub peer_extra: BTreeMap<&'static str, String>,
    /// `[proxy] ports`.
    pub ports: String,
    /// `[proxy] port_rest`.
    pub port_rest: String,
    /// Lines of `[datapath]` besides interfaces, workers and flows.
    pub datapath: String,
    /// Lines of `[timeouts]`.
    pub timeouts: String,
    /// Lines of `[admin]` besides the socket.
    pub admin: String,
    /// More sections.
    pub more: String,
    pub workers: usize,
    pub max_flows: u32,
    pub services: Vec<Service>,
}

#[derive(Clone)]
pub struct Service {
    pub name: String,
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: &'static str,
    pub scheduler: &'static str,
    /// Lines of `[[service]]` besides those above.
    pub extra: String,
    /// Lines of `[service.check]`.
    pub check: String,
    /// Name, address, port, weight.
    pub reals: Vec<(String, IpAddr, u16, u32)>,
    /// Lines of `[[service.real]]` besides those above, by its name.
    pub real_extra: BTreeMap<String, String>,
    pub remotes: Vec<Remote>,
}

#[derive(Clone)]
pub struct Remote {
    pub site: &'static str,
    pub vip: IpAddr,
    pub port: u16,
    pub priority: u32,
    pub weight: u32,
}

impl Config {
    /// Site `site` with its PIPs, and all other sites as its peers; no service.
    pub fn new(world: &World, site: u8) -> Config {
        let own = world.site(site);
        let pips = |site: &Site| BOTH.map(|family| site.pip(family)).to_vec();
        let others = world.sites().iter().filter(|other| other.number != site);
        Config {
            site: own.name(),
            socket: own.directory().join("farside.sock").display().to_string(),
            pips: pips(own),
            peers: others.map(|other| (other.name(), pips(other))).collect(),
            peer_extra: BTreeMap::new(),
            ports: "1024-65535".into(),
            port_rest: "5s".into(),
            datapath: String::new(),
            timeouts: String::new(),
            admin: String::new(),
            more: String::new(),
            workers: std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(2)),
            max_flows: 20_000,
            services: Vec::new(),
        }
    }

    /// [`Config::new`] with one service for each family (`<name>` and `<name>-6`) on the site's VIPs: both real
    /// servers, and all other sites as remotes in the order of their numbers.
    pub fn standard(world: &World, site: u8, name: &str, protocol: &'static str, port: u16, check: &str) -> Config {
        let mut config = Config::new(world, site);
        for family in BOTH {
            config.services.push(Service::standard(world, site, family, name, protocol, port, check));
        }
        config
    }

    pub fn service(mut self, service: Service) -> Config {
        self.services.push(service);
        self
    }

    /// Changes every service.
    pub fn each(mut self, change: impl Fn(&mut Service)) -> Config {
        self.services.iter_mut().for_each(change);
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Config {
        change(&mut self);
        self
    }

    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let quoted = |addresses: &[IpAddr]| {
            addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ")
        };
        let mut line = |line: String| writeln!(text, "{line}").expect("writing to a string");
        line(format!("[site]\nname = \"{}\"\n", self.site));
        line("[datapath]\ninterfaces = [\"wan0\", \"lan0\"]".into());
        let backend = if self.datapath.contains("backend =") { "" } else { backend_line() };
        line(format!(
            "workers = {}\nmax_flows = {}\nring_slots = 256\n{backend}{}\n",
            self.workers, self.max_flows, self.datapath
        ));
        line(format!("[admin]\nsocket = \"{}\"\n{}\n", self.socket, self.admin));
        if !self.pips.is_empty() {
            line(format!("[proxy]\naddresses = [{}]\nports = \"{}\"", quoted(&self.pips), self.ports));
            line(format!("port_rest = \"{}\"\n", self.port_rest));
        }
        for (name, addresses) in &self.peers {
            let extra = self.peer_extra.get(name).map_or("", String::as_str);
            line(format!("[[peer]]\nname = \"{name}\"\nproxy_addresses = [{}]\n{extra}\n", quoted(addresses)));
        }
        for service in &self.services {
            line(service.text());
        }
        line(format!("[timeouts]\n{}", self.timeouts));
        line(self.more.clone());
        text
    }
}

/// Whether farside runs on AF_XDP in this run of the tests, wherever a test does not say by what (`FARSIDE_BACKEND`).
pub fn on_af_xdp() -> bool {
    match std::env::var("FARSIDE_BACKEND").as_deref() {
        Ok("af_xdp") => true,
        Ok("af_packet") | Err(_) => false,
        Ok(other) => panic!("FARSIDE_BACKEND is {other:?}: it must be af_packet or af_xdp"),
    }
}

fn backend_line() -> &'static str {
    if on_af_xdp() { "backend = \"af_xdp\"\n" } else { "" }
}

impl Service {
    /// A service without targets.
    pub fn new(name: &str, vip: IpAddr, protocol: &'static str, port: u16, check: &str) -> Service {
        Service {
            name: name.into(),
            vip,
            port,
            protocol,
            scheduler: "round_robin",
            extra: String::new(),
            check: check.into(),
            reals: Vec::new(),
            real_extra: BTreeMap::new(),
            remotes: Vec::new(),
        }
    }

    /// A service on the site's VIP with both real servers and all other sites.
    pub fn standard(
        world: &World,
        site: u8,
        family: Family,
        name: &str,
        protocol: &'static str,
        port: u16,
        check: &str,
    ) -> Service {
        let own = world.site(site);
        let mut service = Service::new(&service_name(name, family), own.vip(family), protocol, port, check);
        service.reals = own.reals.iter().map(|real| (real.name.clone(), real.address(family), port, 1)).collect();
        let others = world.sites().iter().filter(|other| other.number != site);
        service.remotes = others
            .zip(1..)
            .map(|(other, priority)| Remote { site: other.name(), vip: other.vip(family), port, priority, weight: 1 })
            .collect();
        service
    }

    fn text(&self) -> String {
        let mut text = format!(
            "[[service]]\nname = \"{}\"\nvip = \"{}\"\nport = {}\nprotocol = \"{}\"\nscheduler = \"{}\"\n{}\n\n",
            self.name, self.vip, self.port, self.protocol, self.scheduler, self.extra
        );
        let mut line = |line: String| writeln!(text, "{line}").expect("writing to a string");
        line(format!("[service.check]\n{}\n", self.check));
        for (name, address, port, weight) in &self.reals {
            line(format!(
                "[[service.real]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\nweight = {weight}\n{}\n",
                self.real_extra.get(name).map_or("", String::as_str)
            ));
        }
        for Remote { site, vip, port, priority, weight } in &self.remotes {
            line(format!("[[service.remote]]\nsite = \"{site}\"\nvip = \"{vip}\"\nport = {port}"));
            line(format!("priority = {priority}\nweight = {weight}\n"));
        }
        text
    }
}

/// The service for `family` of a pair made by [`Config::standard`].
pub fn service_name(name: &str, family: Family) -> String {
    match family {
        Family::V4 => name.into(),
        Family::V6 => format!("{name}-6"),
    }
}

/// `service/real`, the TARGET of a real server.
pub fn real_target(service: &str, family: Family, real: &str) -> String {
    format!("{}/{real}", service_name(service, family))
}

/// `service/site`, the TARGET of a remote site.
pub fn remote_target(service: &str, family: Family, site: u8) -> String {
    format!("{}/{}", service_name(service, family), site_name(site))
}

/// A check that sees a fall or a rise soon; its timeout leaves room for a machine under load.
pub fn quick_check(kind: &str) -> String {
    format!("kind = \"{kind}\"\ninterval = \"200ms\"\ntimeout = \"2s\"\nrise = 1\nfall = 2")
}
