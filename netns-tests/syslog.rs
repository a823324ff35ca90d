//! Syslog as a service: a sender that only ever sends, by one port, and hears nothing.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::config::{Service, quick_check, real_target};
use crate::support::play::Play;
use crate::support::wait::eventually;
use crate::support::world::{BOTH, Family, Real, World};

const PORT: u16 = 514;

/// Lines that arrived, as `<real server>: <line>`.
type Lines = Arc<Mutex<Vec<String>>>;

/// A collector on a real server.
struct Collector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    fn start(real: &Real, family: Family, lines: &Lines) -> Collector {
        let address = SocketAddr::new(real.address(family), PORT);
        let socket = real.host.inside(|| UdpSocket::bind(address)).unwrap_or_else(|e| panic!("bind {address}: {e}"));
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, name, lines) = (stop.clone(), real.name.clone(), lines.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !flag.load(Ordering::Acquire) {
                let Ok(n) = socket.recv(&mut buffer) else { continue };
                let line = String::from_utf8_lossy(&buffer[..n]).into_owned();
                lines.lock().expect("the lines").push(format!("{name}: {line}"));
            }
        });
        Collector { stop, thread: Some(thread) }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// util-linux's logger: each line of its input is a datagram, all by one socket.
struct Logger(Child);

impl Logger {
    fn start(play: &Play, family: Family) -> Logger {
        let vip = play.world.site(1).vip(family).to_string();
        let mut logger = play.world.client.command("logger");
        logger.args(["--udp", "--server", &vip, "--port", &PORT.to_string(), "--rfc3164", "--tag", "test"]);
        Logger(logger.stdin(Stdio::piped()).spawn().expect("start logger"))
    }

    fn log(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().expect("a pipe"), "{line}").expect("write to logger");
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_sender_logs_goes_to_the_next_server_as_soon_as_its_own_is_known_to_be_dead() {
    let (lines, mut collectors) = (Lines::default(), Vec::new());
    let play = Play::with(2, |world: &World, site, mut config| {
        for real in &world.site(site).reals {
            collectors.extend(BOTH.map(|family| Collector::start(real, family, &lines)));
        }
        for family in BOTH {
            let check = quick_check("icmp");
            config.services.push(Service::standard(world, site, family, "syslog", "udp", PORT, &check));
        }
        config
    });
    let mut loggers = BOTH.map(|family| (family, Logger::start(&play, family)));
    // Logs a line with each logger; gives where the two arrived.
    let mut log = |text: &str| {
        loggers.each_mut().map(|(family, logger)| {
            let line = format!("{text} by {family:?}");
            logger.log(&line);
            eventually(&line, || {
                let lines = lines.lock().expect("the lines");
                let arrived = lines.iter().find(|arrived| arrived.ends_with(&line));
                arrived.map(|arrived| arrived[..3].to_string()).ok_or(format!("{lines:?}"))
            })
        })
    };
    let first = log("first");
    assert!(first.iter().all(|name| name.starts_with("r1")), "{first:?}");
    for n in 0..5 {
        assert_eq!(log(&format!("line {n}")), first, "one flow, one server");
    }
    // The servers die as machines do: they say nothing more.
    let mut moved = 0;
    for letter in ['a', 'b'] {
        let real = play.world.site(1).real(letter);
        moved += log(&format!("before {letter}")).iter().filter(|name| **name == real.name).count() as u64;
        real.host.ip("link set eth0 down");
        play.farside(1).wait_status("down", &BOTH.map(|family| real_target("syslog", family, &real.name)));
        let now = log(&format!("after {letter}"));
        assert!(!now.contains(&real.name), "{now:?}");
        assert_eq!(play.farside(1).counter("udp_flows_moved"), moved);
    }
    let carried = log("at last");
    assert!(carried.iter().all(|name| name.starts_with("r2")), "{carried:?}");
}
