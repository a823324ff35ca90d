//! For tests: a network namespace of one's own with two interfaces, a router behind `wan0` and a server behind `lan0`,
//! each in a namespace of its own. Everything dies with the test's process.
//!
//! ```text
//!   router: eth0 203.0.113.254/24, 2001:db8:1::fe/64 --- wan0 203.0.113.1/24, 2001:db8:1::1/64 :here
//!   server: eth0 10.0.0.11/24, 2001:db8:2::11/64     --- lan0 10.0.0.1/24, 2001:db8:2::1/64    :here
//! ```

use super::Netlink;
use crate::route::{Fib, Hop, HopId, HopTable, Neighbor, ResolveQueue, Step};
use crate::wire::ip::family_of;
use arc_swap::ArcSwap;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const INSIDE: &str = "FARSIDE_TEST_NAMESPACE";

/// Runs `body` in a process of its own with its own network and process namespaces, which needs root: this test binary
/// is started again for the one test called `name` (without the crate).
pub(crate) fn in_own_namespace(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new("timeout")
        .args(["-k", "1", "60", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("timeout and unshare (coreutils, util-linux) start");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "in its own namespace (this test needs root): {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) struct Lab {
    router: Child,
    server: Child,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in [&mut self.router, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Lab {
    pub fn new() -> Lab {
        let namespace = || {
            let child = Command::new("unshare").args(["--net", "sleep", "100"]).stdin(Stdio::null()).spawn().unwrap();
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            let theirs = format!("/proc/{}/ns/net", child.id());
            let end = Instant::now() + Duration::from_secs(5);
            while std::fs::read_link(&theirs).is_ok_and(|ns| ns == own) {
                assert!(Instant::now() < end);
                std::thread::sleep(Duration::from_millis(2));
            }
            child
        };
        let lab = Lab { router: namespace(), server: namespace() };
        // No duplicate address detection: it would only make tests wait.
        lab.here("ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
        for side in [&lab.router, &lab.server] {
            lab.inside(side, "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
        }
        lab.plug_wan();
        lab.here(&format!("ip link add lan0 type veth peer name eth0 netns {}", lab.server.id()));
        lab.here("ip addr add 10.0.0.1/24 dev lan0; ip addr add 2001:db8:2::1/64 dev lan0 nodad; ip link set lan0 up");
        lab.server(
            "ip addr add 10.0.0.11/24 dev eth0; ip addr add 2001:db8:2::11/64 dev eth0 nodad; ip link set eth0 up",
        );
        lab
    }

    /// `wan0` and the router behind it, with the default routes.
    pub fn plug_wan(&self) {
        self.here(&format!("ip link add wan0 type veth peer name eth0 netns {}", self.router.id()));
        self.router(
            "ip addr add 203.0.113.254/24 dev eth0; ip addr add 2001:db8:1::fe/64 dev eth0 nodad; ip link set eth0 up",
        );
        self.here(
            "ip addr add 203.0.113.1/24 dev wan0; ip addr add 2001:db8:1::1/64 dev wan0 nodad; ip link set wan0 up",
        );
        self.here("ip route add default via 203.0.113.254; ip route add default via 2001:db8:1::fe");
    }

    pub fn here(&self, command: &str) -> String {
        shell(&format!("set -e; {command}"))
    }

    fn inside(&self, side: &Child, command: &str) -> String {
        shell(&format!("nsenter --target {} --net sh -ec '{command}'", side.id()))
    }

    pub fn router(&self, command: &str) {
        self.inside(&self.router, command);
    }

    pub fn router_says(&self, command: &str) -> String {
        self.inside(&self.router, command)
    }

    pub fn server(&self, command: &str) {
        self.inside(&self.server, command);
    }

    pub fn mac_of(&self, interface: &str) -> String {
        self.here(&format!("ip -o link show {interface} | sed 's/.*ether //;s/ .*//'")).trim().into()
    }

    pub fn router_mac(&self) -> [u8; 6] {
        mac(&self.inside(&self.router, "ip -o link show eth0"))
    }

    pub fn server_mac(&self) -> [u8; 6] {
        mac(&self.inside(&self.server, "ip -o link show eth0"))
    }

    pub fn eventually(&self, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !is() {
            assert!(Instant::now() < end, "not within ten seconds");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn live(&self, interfaces: &[&str]) -> Live {
        let mut live = Live::open(interfaces, None, 1 << 20).unwrap();
        live.settle();
        live
    }
}

/// The MAC in the output of `ip -o link show`.
fn mac(text: &str) -> [u8; 6] {
    let word = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let mut bytes = word.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    std::array::from_fn(|_| bytes.next().unwrap())
}

/// [`Netlink`] in a loop like the daemon's.
pub(crate) struct Live {
    pub netlink: Netlink,
    pub fib: Arc<ArcSwap<Fib>>,
    pub asks: Arc<ResolveQueue>,
    pub hops: Arc<HopTable>,
    poll: mio::Poll,
    /// Added to the clock.
    pub ahead: Duration,
}

impl Live {
    pub fn open(interfaces: &[&str], tap: Option<&str>, event_bytes: usize) -> Result<Live, super::Error> {
        let hops = Arc::new(HopTable::new());
        let fib = Arc::new(ArcSwap::from_pointee(Fib::empty(hops.clone())));
        let asks = Arc::new(ResolveQueue::new());
        let names: Vec<String> = interfaces.iter().map(|name| name.to_string()).collect();
        let poll = mio::Poll::new().unwrap();
        asks.set_waker(Arc::new(mio::Waker::new(poll.registry(), mio::Token(9)).unwrap()));
        let mut netlink = Netlink::with_event_bytes(
            &names,
            tap,
            hops.clone(),
            fib.clone(),
            asks.clone(),
            Instant::now(),
            event_bytes,
        )?;
        netlink.register(poll.registry(), mio::Token(7)).unwrap();
        Ok(Live { netlink, fib, asks, hops, poll, ahead: Duration::ZERO })
    }

    pub fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    /// One turn of the loop, at most `longest`.
    pub fn turn(&mut self, longest: Duration) {
        let mut events = mio::Events::with_capacity(8);
        let timeout = self.netlink.next_deadline().saturating_duration_since(self.now()).min(longest);
        self.poll.poll(&mut events, Some(timeout)).unwrap();
        let now = self.now();
        if events.iter().any(|event| event.token() == mio::Token(7)) {
            self.netlink.ready(now);
        }
        self.netlink.tick(now);
    }

    /// Turns until it is so.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut is: impl FnMut(&Live) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !is(self) {
            assert!(Instant::now() < end, "not within ten seconds: {what}; {:?}", self.fib.load());
            self.turn(Duration::from_millis(100));
        }
    }

    /// The carriers are there, and what a new link brings with it is over.
    pub fn settle(&mut self) {
        let link_local = |ip: &IpAddr| ip.to_string().starts_with("fe80:");
        self.until("carriers and link-local addresses", |live| {
            live.fib.load().ports().iter().all(|port| port.up && port.addresses.iter().any(link_local))
        });
        let (mut epoch, mut since) = (self.epoch(), Instant::now());
        self.until("peace", |live| {
            if live.epoch() != epoch {
                (epoch, since) = (live.epoch(), Instant::now());
            }
            since.elapsed() > Duration::from_millis(300)
        });
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(Duration::from_millis(20));
        }
    }

    pub fn step(&self, to: &str) -> Step {
        let to: IpAddr = to.parse().unwrap();
        self.step_from(if to.is_ipv4() { "0.0.0.0" } else { "::" }, to)
    }

    pub fn step_from(&self, from: &str, to: IpAddr) -> Step {
        let from: IpAddr = from.parse().unwrap();
        self.fib.load().lookup(&from.into(), &to.into(), family_of(to), 0)
    }

    /// The id and the hop toward `to`, if it is resolved.
    pub fn hop(&self, to: &str) -> Option<(HopId, Hop)> {
        match self.step(to) {
            Step::Hop(id) => self.hops.get(id).map(|hop| (id, hop)),
            _ => None,
        }
    }

    /// As a worker does: asks if it must be.
    pub fn demand(&self, to: &str) -> Option<(HopId, Hop)> {
        if let Step::Resolve(neighbor) = self.step(to) {
            self.asks.ask(neighbor);
        }
        self.hop(to)
    }

    pub fn epoch(&self) -> u8 {
        self.fib.load().epoch()
    }
}

pub(crate) fn neighbor(port: u8, ip: &str) -> Neighbor {
    Neighbor::new(port, ip.parse().unwrap())
}
