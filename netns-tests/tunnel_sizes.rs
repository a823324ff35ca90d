//! What is large on its way into a tunnel: segments that the client's kernel has left joined, packets that fit the client's link and
//! not the tunnel, a narrow link inside of it.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::config::{Config, Service, on_af_xdp, quick_check};
use crate::support::namespace::Namespace;
use crate::support::play::{PORT, Play, site_of};
use crate::support::server::{Pop3, listen};
use crate::support::tunnel::Decap;
use crate::support::wait::PATIENCE;
use crate::support::world::{BOTH, Family, World};

const ENCAPSULATIONS: [&str; 4] = ["ipip", "gre", "gue", "gue1"];

/// Takes what clients send until they end, and answers with how much it was and its sum.
struct Sink {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    fn start(namespace: &Namespace, address: SocketAddr) -> Sink {
        let listener = namespace.inside(|| listen(address)).unwrap_or_else(|e| panic!("listen at {address}: {e}"));
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((stream, _)) => drop(take(stream)),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Sink { stop, thread: Some(thread) }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn take(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut buffer, mut taken, mut sum) = (vec![0; 65_536], 0u64, 0u64);
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return write!(stream, "{taken} {sum}");
        }
        (taken, sum) = (taken + n as u64, add(sum, &buffer[..n]));
    }
}

fn add(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Sends so many bytes; they have to arrive as they are.
fn upload(client: &Namespace, to: SocketAddr, size: usize) {
    let sent: Vec<u8> = (0..size as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stream = client.inside(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("a connection");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(&sent).expect("all is taken");
    stream.shutdown(Shutdown::Write).expect("an end");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("the server's word");
    assert_eq!(said, format!("{size} {}", add(0, &sent)));
}

#[derive(Default)]
struct Servers {
    pop3: Vec<Pop3>,
    sinks: Vec<Sink>,
    decaps: Vec<Decap>,
}

impl Servers {
    /// Bytes that the kernel programs have taken out of tunnels.
    fn by_program(&self) -> u64 {
        self.decaps.iter().map(|decap| decap.count("delivered_by_program_bytes")).sum()
    }
}

/// The real servers of a site become far ends of tunnels; `outside`: the family of the tunnels, if not that of the VIP.
fn dig(
    world: &World,
    site: u8,
    mut config: Config,
    encapsulation: &str,
    outside: Option<Family>,
    program: &str,
    servers: &mut Servers,
) -> Config {
    let own = world.site(site);
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        own.host.sysctl(key, "1");
    }
    let vips: Vec<IpAddr> = BOTH.map(|family| own.vip(family)).to_vec();
    for real in &own.reals {
        servers.decaps.push(Decap::start(&real.host, "eth0", &vips, &["--program", program]));
        for family in BOTH {
            let at = |port| SocketAddr::new(own.vip(family), port);
            servers.pop3.push(Pop3::start(&real.host, at(PORT), &real.name));
            servers.sinks.push(Sink::start(&real.host, at(9)));
        }
    }
    let check = format!("{}\nport = {PORT}", quick_check("tcp"));
    for family in BOTH {
        config.services.push(Service::standard(world, site, family, "sink", "tcp", 9, &check));
    }
    config.each(|service| {
        service.extra = format!("mode = \"tunnel\"\nencapsulation = \"{encapsulation}\"");
        if let Some(outside) = outside {
            for ((_, address, ..), real) in service.reals.iter_mut().zip(&own.reals) {
                *address = real.address(outside);
            }
        }
    })
}

fn stage(sites: u8, encapsulation: &str, outside: Option<Family>, program: &str) -> (Servers, Play) {
    let mut servers = Servers::default();
    let play = Play::with(sites, |world, site, config| {
        dig(world, site, config, encapsulation, outside, program, &mut servers)
    });
    (servers, play)
}

#[test]
fn uploads_reach_servers_by_every_encapsulation() {
    for encapsulation in ENCAPSULATIONS {
        for outside in [None, Some(Family::V4), Some(Family::V6)] {
            let (servers, play) = stage(1, encapsulation, outside, "auto");
            for family in BOTH {
                upload(&play.world.client, SocketAddr::new(play.world.site(1).vip(family), 9), 4 << 20);
            }
            let counters = play.farside(1).counters();
            // The client begins with what its own link takes, and is told.
            let told = counters["drop_too_big"] > 0 && counters["icmp_errors_sent"] > 0;
            // By AF_XDP nothing comes joined.
            let cut = counters["cut"] > 0 || on_af_xdp();
            assert!(told && cut, "{encapsulation}, {outside:?}: {counters:#?}");
            assert_eq!(counters["drop_send_refused"], 0, "{encapsulation}, {outside:?}: {counters:#?}");
            // Both VIPs' upload went by the program, but for what is said in the first moments.
            let by_program = servers.by_program();
            assert!(by_program > 8 << 20, "{encapsulation}, {outside:?}: {by_program}");
        }
    }
}

#[test]
fn uploads_reach_servers_without_the_program() {
    for (encapsulation, outside) in ENCAPSULATIONS.into_iter().zip([None, Some(Family::V4), Some(Family::V6), None]) {
        let (servers, play) = stage(1, encapsulation, outside, "off");
        for family in BOTH {
            upload(&play.world.client, SocketAddr::new(play.world.site(1).vip(family), 9), 4 << 20);
        }
        assert_eq!(servers.by_program(), 0, "{encapsulation}, {outside:?}");
    }
}

#[test]
fn what_is_carried_ends_in_the_other_sites_tunnel() {
    let (_servers, play) = stage(2, "gue", None, "auto");
    play.sicken(1);
    for family in BOTH {
        assert_eq!(site_of(&play.who(1, family).expect("a session")), 2);
        upload(&play.world.client, SocketAddr::new(play.world.site(1).vip(family), 9), 1 << 20);
    }
}

/// client - router - box of farside - r1a, a router here - a narrow link - r1b, the tunnel's end.
#[test]
fn a_narrow_link_in_the_tunnel_is_told_to_the_client() {
    for (encapsulation, outside) in
        [("ipip", Family::V4), ("gre", Family::V6), ("gue", Family::V4), ("gue1", Family::V6)]
    {
        let mut servers = Servers::default();
        let play = Play::with(1, |world, site, config| {
            let own = world.site(site);
            let (a, b) = (&own.real('a').host, &own.real('b').host);
            for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                a.sysctl(key, "1");
            }
            a.ip(&format!(
                "link add narrow type veth peer name narrow netns {}
                 addr add 10.9.0.1/24 dev narrow
                 addr add fd00:9::1/64 dev narrow nodad
                 link set narrow up mtu 1400",
                b.name()
            ));
            b.ip("addr add 10.9.0.2/24 dev narrow
                  addr add fd00:9::2/64 dev narrow nodad
                  link set narrow up mtu 1400");
            own.host.ip(&format!(
                "route add 10.9.0.0/24 via {}
                 route add fd00:9::/64 via {}",
                own.real('a').address(Family::V4),
                own.real('a').address(Family::V6)
            ));
            let config = dig(world, site, config, encapsulation, None, "auto", &mut servers);
            let vips: Vec<IpAddr> = BOTH.map(|family| own.vip(family)).to_vec();
            servers.decaps.clear();
            servers.decaps.push(Decap::start(b, "narrow", &vips, &[]));
            config.each(|service| {
                service.check = "kind = \"none\"".into();
                service.reals.remove(0);
                service.reals[0].1 = if outside == Family::V4 { "10.9.0.2" } else { "fd00:9::2" }.parse().unwrap();
            })
        });
        for family in BOTH {
            let before = play.farside(1).counters();
            upload(&play.world.client, SocketAddr::new(play.world.site(1).vip(family), 9), 1 << 20);
            let after = play.farside(1).counters();
            let more = |name: &str| after[name] - before[name];
            let told = more("tunnel_mtu_learned") > 0 || (family == Family::V6 && more("drop_too_big") > 0);
            assert!(told, "{encapsulation}, {family:?} in {outside:?}: {after:#?}");
        }
    }
}
