//! What is remembered of resolvers, shared through a Redis or Valkey server: for more nodes than links suit.
//!
//! A thread of its own has the connection. Twice a second it tells the server of what has changed here, each record once however often its
//! resolver has asked, and takes over what others have told since ([`session`]). Who answers queries knows nothing of it: the store is all
//! there is to be asked, and the thread is one more that writes there. While the server is slow or gone changes stay noted in the
//! store ([`Store::changes`]), and are told when it is back.
//!
//! On the server each record is a key that is gone when its time is over, and the changes are a stream of the last so many. Who connects
//! reads all keys first. A server that was started anew may have lost them: then each node tells of all that it has.
//! Stamps there go by the server's clock; each node allows for the difference to its own.

mod resp;
mod session;
mod text;

use crate::affinity::Store;
use crate::config::dns::Redis;
use crate::config::file::io_words;
use crate::sites::Registry;
use session::{Ground, Session};
use std::io::{self, Error};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The time between two rounds of telling and hearing.
const ROUND: Duration = Duration::from_millis(500);

/// After a loss the next try is after this time, then after twice as long each time, up to the longest.
const WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The time between two looks at the server's clock.
const CLOCK: Duration = Duration::from_secs(60);

/// The thread that shares.
pub struct Sharer {
    config: Redis,
    connected: Arc<AtomicBool>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sharer {
    /// Begins; whether the server is there or not. The error is a sentence.
    pub fn start(config: &Redis, store: Arc<Store>, sites: Arc<Registry>) -> Result<Sharer, String> {
        let cannot = |why: String| format!("[dns.redis] what shares resolvers' sites cannot be started: {why}");
        let node = getrandom::u64().map_err(|why| cannot(format!("no random numbers: {why}")))?;
        let connected = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = mpsc::channel();
        let (of, is) = (config.clone(), connected.clone());
        let run = move || {
            let ground = Ground { store: &store, sites: &sites, prefix: &of.prefix, node: &format!("{node:016x}") };
            run(&of, &ground, &stopped, &is);
        };
        let thread = std::thread::Builder::new().name("dns-redis".into()).spawn(run);
        let thread = thread.map_err(|why| cannot(io_words(&why)))?;
        Ok(Sharer { config: config.clone(), connected, stop: Some(stop), thread: Some(thread) })
    }

    pub fn config(&self) -> &Redis {
        &self.config
    }

    /// The server answers.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Tells of the last changes, if the server answers; takes some seconds at most.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(config: &Redis, ground: &Ground, stopped: &Receiver<()>, connected: &AtomicBool) {
    let (mut wait, mut told, mut life) = (WAIT, false, String::new());
    loop {
        let ended = share(config, ground, stopped, &mut life, || {
            wait = WAIT;
            connected.store(true, Relaxed);
            let again = if std::mem::take(&mut told) { " again" } else { "" };
            info!("resolvers' sites are shared through {}{again}", config.address);
        });
        connected.store(false, Relaxed);
        let Err(why) = ended else { return };
        if !std::mem::replace(&mut told, true) {
            let (address, why) = (config.address, io_words(&why));
            warn!(
                "resolvers' sites are not shared through {address}: {why}; each node goes by its own until it is back"
            );
        }
        if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Connects and shares until the server is lost, or the end. `life`: of the server that has been told of everything.
fn share(
    config: &Redis,
    ground: &Ground,
    stopped: &Receiver<()>,
    life: &mut String,
    mut begins: impl FnMut(),
) -> io::Result<()> {
    let password = config.password_file.as_ref().map(std::fs::read_to_string).transpose();
    let password = password.map_err(|why| Error::other(format!("cannot read `password_file`: {}", io_words(&why))))?;
    let stream = TcpStream::connect_timeout(&config.address, resp::PATIENCE)?;
    let (mut session, is) = Session::open(stream, password.as_deref().map(str::trim_end), ground)?;
    session.pull_all()?;
    if *life != is {
        session.tell_all();
        *life = is;
    }
    begins();
    let mut clock = Instant::now();
    loop {
        session.push()?;
        session.pull()?;
        if clock.elapsed() >= CLOCK {
            session.set_clock()?;
            clock = Instant::now();
        }
        if stopped.recv_timeout(ROUND) != Err(RecvTimeoutError::Timeout) {
            return session.push();
        }
    }
}
