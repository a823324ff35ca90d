//! Wiring: what starts in which order, the control thread's event loop, and what stops in which order.
//!
//! Start: look (configuration, privileges, addresses) before touching anything; then kernel programs, netlink, sockets and
//! workers, which take nothing but answers to the checks of remote sites; the first round of checks; only then are the VIPs
//! taken, announced, zones answered for, and `ready` is said. Stop: the reverse. All that was installed belongs to open descriptors,
//! so that the kernel takes it away however the process ends.

mod alone;
mod backend;
mod checks;
mod control;
mod forwarding;
mod kernel;
mod load;
mod metrics;
mod names;
mod preflight;
mod probe;
mod rows;
mod sites;
mod targets;

use crate::admin::{self, Admin, Answers};
use crate::config::{self, Config};
use crate::health;
use alone::Alone;
use control::Control;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Tokens of the event loop: each room has a range.
const SIGNALS: usize = 0;
/// A worker wants a neighbor resolved.
const ASKED: usize = 1;
const NETLINK: usize = 0x1_0000;
const HEALTH: usize = 0x10_0000;
const NAMES: usize = 0x40_0000;
const ADMIN: usize = 0x100_0000;

/// The longest the loop sleeps: gauges and warnings are looked at as often.
const NAP: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT. The error is a sentence.
pub fn run(path: &Path) -> Result<(), String> {
    let config = config::file::load(path).map_err(|errors| errors.to_string())?;
    if !config.is_dns_alone() {
        preflight::privileges()?;
    }
    preflight::host(&config)?;
    start_log();
    let signals = Signals::catch().map_err(|why| format!("signals cannot be caught: {why}"))?;
    let admin = Admin::open(&config.admin)?;
    if config.is_dns_alone() {
        serve(Alone::start(path.to_path_buf(), config)?, admin, signals)
    } else {
        serve(Control::start(path.to_path_buf(), config)?, admin, signals)
    }
}

/// What the event loop turns: with a data path ([`Control`]) or without one ([`Alone`]).
trait Daemon: Answers {
    /// Joins the event loop, each room with the tokens of its range. The error is a sentence.
    fn register(&mut self, registry: &mio::Registry) -> Result<(), String>;

    /// An event of one of those tokens.
    fn ready(&mut self, token: usize, now: Instant);

    /// When [`Daemon::tick`] has something to do at the latest.
    fn next_deadline(&self) -> Instant;

    /// One turn of the loop.
    fn tick(&mut self, now: Instant);

    /// Ends what runs; the rest goes with what is dropped.
    fn stop(self);
}

/// What a reload says.
fn in_words(changes: &[String]) -> String {
    if changes.is_empty() { "nothing has changed".into() } else { changes.join("\n") }
}

fn broken(what: &str, why: std::io::Error) -> String {
    format!("{what} cannot join the event loop: {why}")
}

/// What is wrong with the zones' files, if anything: how many errors, and they themselves, with terminal colours if `styled`.
pub fn check_zones(config: &Config, styled: bool) -> Result<(), (usize, String)> {
    names::check_zones(config, styled).map_err(|wrong| (wrong.count, wrong.rendered))
}

fn start_log() {
    use std::io::IsTerminal;
    // Several in one process (tests) may try.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .try_init();
}

fn serve(mut control: impl Daemon, admin: Admin, signals: Signals) -> Result<(), String> {
    let outcome = turn(&mut control, admin, signals);
    control.stop();
    outcome
}

/// The control thread's loop.
fn turn(control: &mut impl Daemon, mut admin: Admin, mut signals: Signals) -> Result<(), String> {
    let mut poll = Poll::new().map_err(|why| broken("the control thread", why))?;
    let registry = poll.registry();
    signals.register(registry).map_err(|why| broken("signals", why))?;
    control.register(registry)?;
    admin.register(registry, ADMIN).map_err(|why| broken("the admin socket", why))?;
    let mut events = Events::with_capacity(1024);
    loop {
        let now = Instant::now();
        let deadlines = [Some(control.next_deadline()), admin.next_deadline()];
        let nap = deadlines.iter().flatten().map(|at| at.saturating_duration_since(now)).fold(NAP, Duration::min);
        match poll.poll(&mut events, Some(nap)) {
            Err(why) if why.kind() != ErrorKind::Interrupted => return Err(format!("the event loop broke: {why}")),
            _ => {}
        }
        let now = Instant::now();
        for event in &events {
            match event.token().0 {
                SIGNALS | ASKED => {}
                token if token >= ADMIN => _ = admin.ready(token, now, control),
                token => control.ready(token, now),
            }
        }
        match signals.take() {
            Some(Signal::Stop) => return Ok(()),
            Some(Signal::Reload) => match control.reload() {
                Ok(changes) => info!("reloaded: {}", changes.trim_end().replace('\n', "; ")),
                Err(why) => warn!("not reloaded, nothing has changed: {why}"),
            },
            None => {}
        }
        control.tick(now);
        admin.tick(now, control);
    }
}

enum Signal {
    Stop,
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP as bytes in a pipe that the event loop can wait for.
struct Signals {
    stop: mio::net::UnixStream,
    reload: mio::net::UnixStream,
}

impl Signals {
    fn catch() -> std::io::Result<Signals> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let pipe = |signals: &[i32]| {
            let (read, write) = std::os::unix::net::UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
            }
            std::io::Result::Ok(mio::net::UnixStream::from_std(read))
        };
        Ok(Signals { stop: pipe(&[SIGTERM, SIGINT])?, reload: pipe(&[SIGHUP])? })
    }

    fn register(&mut self, registry: &mio::Registry) -> std::io::Result<()> {
        registry.register(&mut self.stop, Token(SIGNALS), Interest::READABLE)?;
        registry.register(&mut self.reload, Token(SIGNALS), Interest::READABLE)
    }

    /// What has been asked for since the last call; stopping comes before reloading.
    fn take(&mut self) -> Option<Signal> {
        let asked = |pipe: &mut mio::net::UnixStream| {
            let mut bytes = [0; 64];
            let mut any = false;
            while pipe.read(&mut bytes).is_ok_and(|count| count > 0) {
                any = true;
            }
            any
        };
        if asked(&mut self.stop) {
            return Some(Signal::Stop);
        }
        asked(&mut self.reload).then_some(Signal::Reload)
    }
}

/// What a reload cannot change is refused by [`config::diff`]; this is what the rest of the run goes by.
fn worker_cpus(config: &Config, allowed: &[usize]) -> Result<Vec<usize>, String> {
    match &config.datapath.workers {
        config::Workers::Auto => Ok(allowed.to_vec()),
        config::Workers::Count(count) if *count <= allowed.len() => Ok(allowed[..*count].to_vec()),
        config::Workers::Count(count) => Err(format!(
            "[datapath] workers = {count}, but this process may run on {} CPUs only; each worker polls one of its own",
            allowed.len()
        )),
        config::Workers::Cpus(cpus) => match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            None => Ok(cpus.clone()),
            Some(cpu) => {
                Err(format!("[datapath] workers: this process may not run on CPU {cpu}; it may on {allowed:?}"))
            }
        },
    }
}

/// Token ranges must not overlap.
const _: () = assert!(HEALTH + health::TOKENS <= NAMES && NAMES + names::TOKENS <= ADMIN);
const _: () = assert!(admin::TOKENS < usize::MAX - ADMIN);
