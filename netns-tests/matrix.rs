//! Every mode x version of IP x protocol, with the programs that people use: curl and nginx, curl and Dovecot, dig and dnsmasq.
//!
//! A test is one mode and the versions of IP; within it all protocols, first with the kernel path and then without. That the mode did it
//! and not some shorter way is asked on all sides: of the flows on record, of the counters, and of the servers, which log the
//! address that a client has and the one at which it was served.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Output;

use crate::setup::setup;
use crate::support::config::{Config, Service, on_af_xdp, quick_check, service_name};
use crate::support::dovecot::{Dovecot, PASSWORD, USER, mails};
use crate::support::download::write_file;
use crate::support::farside::Farside;
use crate::support::names::{self, ADDRESS, NAME};
use crate::support::nginx::Nginx;
use crate::support::process::Process;
use crate::support::tunnel::Decap;
use crate::support::wait::{eventually, until};
use crate::support::world::{Family, World};

use Family::{V4, V6};
use Mode::{Direct, Nat, Remote, Tunnel};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Nat,
    /// No server here: all is carried to the other site, whose servers are in NAT mode.
    Remote,
    Direct,
    /// An encapsulation, and the version of IP that it goes over.
    Tunnel(&'static str, Family),
}

macro_rules! cells {
    ($($name:ident: $mode:expr, $family:expr;)+) => {$(
        #[test]
        fn $name() {
            serves($mode, $family);
        }
    )+};
}

cells! {
    nat_ipv4: Nat, V4;
    nat_ipv6: Nat, V6;
    remote_ipv4: Remote, V4;
    remote_ipv6: Remote, V6;
    direct_ipv4: Direct, V4;
    direct_ipv6: Direct, V6;
    ipip_ipv4_in_ipv4: Tunnel("ipip", V4), V4;
    ipip_ipv6_in_ipv6: Tunnel("ipip", V6), V6;
    ipip_ipv4_in_ipv6: Tunnel("ipip", V6), V4;
    ipip_ipv6_in_ipv4: Tunnel("ipip", V4), V6;
    gre_ipv4_in_ipv4: Tunnel("gre", V4), V4;
    gre_ipv6_in_ipv6: Tunnel("gre", V6), V6;
    gre_ipv4_in_ipv6: Tunnel("gre", V6), V4;
    gre_ipv6_in_ipv4: Tunnel("gre", V4), V6;
    gue_ipv4_in_ipv4: Tunnel("gue", V4), V4;
    gue_ipv6_in_ipv6: Tunnel("gue", V6), V6;
    gue_ipv4_in_ipv6: Tunnel("gue", V6), V4;
    gue_ipv6_in_ipv4: Tunnel("gue", V4), V6;
    gue1_ipv4_in_ipv4: Tunnel("gue1", V4), V4;
    gue1_ipv6_in_ipv6: Tunnel("gue1", V6), V6;
    gue1_ipv4_in_ipv6: Tunnel("gue1", V6), V4;
    gue1_ipv6_in_ipv4: Tunnel("gue1", V4), V6;
}

/// Not a whole number of segments.
const SIZE: u64 = (3 << 20) + 4_711;

/// One of the services, and what its clients do.
struct Traffic {
    service: &'static str,
    protocol: &'static str,
    port: u16,
    check: &'static str,
    ask: fn(&Cell),
}

const TRAFFIC: [Traffic; 4] = [
    Traffic { service: "web", protocol: "tcp", port: 80, check: "http", ask: Cell::files_come_back_from_nginx },
    Traffic { service: "pop3", protocol: "tcp", port: 110, check: "pop3", ask: Cell::mail_is_read_from_dovecot },
    Traffic { service: "dns", protocol: "udp", port: 53, check: "dns", ask: Cell::a_name_is_resolved_over_udp },
    Traffic { service: "dns-tcp", protocol: "tcp", port: 53, check: "tcp", ask: Cell::a_name_is_resolved_over_tcp },
];

/// A world with one real server at the site that serves.
struct Cell {
    mode: Mode,
    family: Family,
    web: Nginx,
    mail: Dovecot,
    names: Process,
    decap: Option<Decap>,
    world: World,
}

fn serves(mode: Mode, family: Family) {
    let cell = Cell::new(mode, family);
    // On AF_XDP there is none, whatever the configuration says.
    let kernel_paths: &[bool] = if on_af_xdp() { &[true] } else { &[true, false] };
    for kernel_path in kernel_paths {
        cell.run(*kernel_path);
    }
}

impl Cell {
    fn new(mode: Mode, family: Family) -> Cell {
        let world = World::new(if mode == Remote { 2 } else { 1 });
        let site = world.site(if mode == Remote { 2 } else { 1 });
        let real = site.real('a');
        let vip = site.vip(family);
        if matches!(mode, Direct | Tunnel(..)) {
            // The servers' answers pass by farside: its box is their router besides.
            site.host.sysctl("net/ipv4/ip_forward", "1");
            site.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        }
        let mut decap = None;
        match mode {
            Nat | Remote => {}
            Direct => {
                let (ok, text) = setup(&real.host, "direct", &[vip], &["--apply"]);
                assert!(ok, "{text}");
            }
            Tunnel(encapsulation, _) => {
                decap = Some(Decap::start(&real.host, "eth0", &[vip], &["--encapsulation", encapsulation]));
            }
        }
        let served_at = if matches!(mode, Nat | Remote) { real.address(family) } else { vip };
        let (web, mail) = (Nginx::start(site, real), Dovecot::start(site, real));
        let names = names::start(real, &[served_at]);
        Cell { mode, family, web, mail, names, decap, world }
    }

    /// The site's own services, or those of the other site.
    fn config(&self, site: u8, kernel_path: bool) -> Config {
        let mut config = Config::new(&self.world, site);
        config.datapath = format!("kernel_path = {kernel_path}");
        for Traffic { service, protocol, port, check, .. } in TRAFFIC {
            let mut check = quick_check(check);
            if service == "dns" {
                check += &format!("\nname = \"{NAME}\"");
            }
            let mut service = Service::standard(&self.world, site, self.family, service, protocol, port, &check);
            service.reals.truncate(1);
            match self.mode {
                Nat => {}
                Remote if site == 1 => service.reals.clear(),
                Remote => service.remotes.clear(),
                Direct => service.extra = "mode = \"direct\"".into(),
                Tunnel(encapsulation, over) => {
                    service.extra = format!("mode = \"tunnel\"\nencapsulation = \"{encapsulation}\"");
                    service.reals[0].1 = self.world.site(site).real('a').address(over);
                }
            }
            config = config.service(service);
        }
        config
    }

    fn run(&self, kernel_path: bool) {
        let sites = self.world.sites();
        let mut farsides: Vec<Farside> =
            sites.iter().map(|site| Farside::launch(site, &self.config(site.number, kernel_path))).collect();
        farsides.iter_mut().for_each(Farside::wait_ready);
        for farside in &farsides {
            eventually("all targets up", || {
                let health = farside.show("health");
                let up = health.as_array().expect("a list").iter().all(|row| row["status"] == "up");
                if up { Ok(()) } else { Err(format!("{health:#}\n{}", farside.log())) }
            });
        }
        let south = &farsides[0];
        self.workers_live_on_the_backend(south);
        let before = south.counters();
        for Traffic { service, protocol, port, ask, .. } in TRAFFIC {
            // Named where a panic's message is read, whichever of the assertions below made it.
            println!("{:?} {:?}, kernel_path = {kernel_path}: {service}", self.mode, self.family);
            let carried = south.counter("kernel_packets");
            ask(self);
            self.flows_are_of_the_mode(south, service, protocol, port);
            let carried = || south.counter("kernel_packets") - carried;
            if on_af_xdp() || !kernel_path || !self.fits_the_kernel_path() {
                assert_eq!(carried(), 0, "packets by the kernel path");
            } else if ["web", "dns"].contains(&service) {
                // A packet that comes while a worker still has one of its flow is that worker's too: no single transfer needs to have any.
                until("packets by the kernel path", || {
                    let some = carried() > 0;
                    if !some {
                        ask(self);
                    }
                    some
                });
            }
        }
        let after = south.counters();
        let more = |name: &str| after[name] - before[name];
        let (local, remote) =
            if self.mode == Remote { ("flows_remote", "flows_local") } else { ("flows_local", "flows_remote") };
        assert!(more(local) >= 5, "{after:#?}");
        assert_eq!(after[remote], 0, "{after:#?}");
        assert_eq!(more("encapsulated") > 0, matches!(self.mode, Tunnel(..)), "{after:#?}");
        if let Some(decap) = &self.decap {
            decap.wait_count("drop_not_for_vip", 0);
        }
        farsides.into_iter().for_each(Farside::stop);
    }

    /// As many as there are.
    #[track_caller]
    fn workers_live_on_the_backend(&self, farside: &Farside) {
        let backend = if on_af_xdp() { "af_xdp" } else { "af_packet" };
        let workers = farside.show("workers");
        let workers = workers.as_array().expect("a list");
        assert!(!workers.is_empty() && workers.iter().all(|worker| worker["backend"] == backend), "{workers:#?}");
    }

    /// GUE over IPv6 needs a checksum over the whole packet, which the kernel program cannot give it.
    fn fits_the_kernel_path(&self) -> bool {
        !matches!(self.mode, Tunnel("gue" | "gue1", V6))
    }

    /// Every flow of the client's to this service.
    #[track_caller]
    fn flows_are_of_the_mode(&self, farside: &Farside, service: &str, protocol: &str, port: u16) {
        let (site, client) = (self.world.site(1), self.world.client_address(self.family));
        let target = match self.mode {
            Nat => SocketAddr::new(site.real('a').address(self.family), port),
            Remote => SocketAddr::new(self.world.site(2).vip(self.family), port),
            Direct => SocketAddr::new(site.real('a').address(self.family), port),
            Tunnel(_, over) => SocketAddr::new(site.real('a').address(over), port),
        };
        let mode = match self.mode {
            Nat => "nat",
            Remote => "remote",
            Direct => "direct",
            Tunnel(..) => "tunnel",
        };
        let flows = farside.flows();
        let is_of = |flow: &serde_json::Value| {
            let from = flow["client"].as_str().and_then(|client| client.parse::<SocketAddr>().ok());
            flow["service"] == service_name(service, self.family) && from.is_some_and(|from| from.ip() == client)
        };
        let ours: Vec<_> = flows.iter().filter(|flow| is_of(flow)).collect();
        assert!(!ours.is_empty(), "no flow of {service}: {flows:#?}");
        for flow in ours {
            let is = (&flow["mode"], &flow["protocol"], &flow["target"]);
            assert_eq!(is, (&mode.into(), &protocol.into(), &target.to_string().into()), "{flow:#}");
            let of_the_server = flow["server_packets"].as_u64().expect("a number");
            assert_eq!(of_the_server == 0, matches!(self.mode, Direct | Tunnel(..)), "{flow:#}");
        }
    }

    fn vip(&self) -> IpAddr {
        self.world.site(1).vip(self.family)
    }

    /// As it stands in a URL.
    fn host(&self) -> String {
        match self.vip() {
            IpAddr::V4(vip) => vip.to_string(),
            IpAddr::V6(vip) => format!("[{vip}]"),
        }
    }

    /// What the server has to take for its client, and for its own address.
    fn ends(&self) -> (IpAddr, IpAddr) {
        let client = self.world.client_address(self.family);
        match self.mode {
            Nat => (client, self.world.site(1).real('a').address(self.family)),
            Remote => (self.world.site(1).pip(self.family), self.world.site(2).real('a').address(self.family)),
            Direct | Tunnel(..) => (client, self.vip()),
        }
    }

    #[track_caller]
    fn client_runs(&self, program: &str, arguments: &[&str]) -> Output {
        let output = self.world.client.output(program, arguments);
        let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{}", output.status, said.concat());
        output
    }

    /// Both ways, as in direct and tunnel mode only what the client sends passes through farside.
    fn files_come_back_from_nginx(&self) {
        let seen = self.web.log().len();
        let (given, got) = (self.world.directory().join("given"), self.world.directory().join("got"));
        write_file(fs::File::create(&given).expect("a file"), SIZE).expect("write a file");
        let _ = fs::remove_file(&got);
        let path = |path: &std::path::Path| path.to_str().expect("a readable path").to_owned();
        let url = format!("http://{}/file", self.host());
        self.client_runs("curl", &["-gfsS", "-m", "60", "-T", &path(&given), &url]);
        self.client_runs("curl", &["-gfsS", "-m", "60", "-o", &path(&got), &url]);
        assert!(fs::read(&given).expect("the file") == fs::read(&got).expect("the file"), "another file came back");
        let (client, server) = self.ends();
        let ends = format!(" from {client} at {server}");
        eventually("both in nginx's log", || {
            let log = self.web.log();
            let served = |what: &str| log[seen..].lines().any(|line| line.starts_with(what) && line.ends_with(&ends));
            if served("PUT /file 20") && served("GET /file 200") { Ok(()) } else { Err(format!("{ends}\n{log}")) }
        });
    }

    fn mail_is_read_from_dovecot(&self) {
        let seen = self.mail.log().len();
        let login = format!("{USER}:{PASSWORD}");
        for (mail, n) in mails().iter().zip(1..) {
            let url = format!("pop3://{}/{n}", self.host());
            let output = self.client_runs("curl", &["-gsS", "-m", "60", "-u", &login, &url]);
            assert_eq!(String::from_utf8_lossy(&output.stdout), *mail, "mail {n}");
        }
        let (client, server) = self.ends();
        let ends = format!("rip={client}, lip={server},");
        eventually("a login in Dovecot's log", || {
            let log = self.mail.log();
            if log[seen..].contains(&ends) { Ok(()) } else { Err(format!("{ends}\n{log}")) }
        });
    }

    /// Often enough for the kernel path, which takes no young flows: all by one port.
    fn a_name_is_resolved_over_udp(&self) {
        let any = if self.family == V4 { "0.0.0.0" } else { "::" };
        let names = self.resolve("TXT", &["+notcp", "-b", &format!("{any}#40053")], 24);
        let name = format!("\"r{}a\"", if self.mode == Remote { 2 } else { 1 });
        assert_eq!(names, [name.as_str(); 24].join("\n"));
    }

    fn a_name_is_resolved_over_tcp(&self) {
        assert_eq!(self.resolve("A", &["+tcp"], 1), ADDRESS);
    }

    /// The answers to a question of this kind, asked so many times; no check asks from the client's address.
    fn resolve(&self, kind: &str, more: &[&str], times: usize) -> String {
        let seen = self.names.stderr().len();
        let at = format!("@{}", self.vip());
        let mut words = [&[&at, "+short", "+time=5", "+tries=5"], more].concat();
        words.extend([NAME, kind].repeat(times));
        let output = self.client_runs("dig", &words);
        let asked = format!("query[{kind}] {NAME} from {}", self.ends().0);
        eventually("the question in dnsmasq's log", || {
            let log = self.names.stderr();
            if log[seen..].contains(&asked) { Ok(()) } else { Err(format!("{asked}\n{log}")) }
        });
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
