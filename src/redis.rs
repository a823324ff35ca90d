//! What nodes share through a Redis or Valkey server, for more of them than links suit: what is remembered of resolvers, and how sites
//! are.
//!
//! Each of the two has a thread with a connection of its own, so that neither waits for the other ([`mod@keep`]).
//!
//! *Resolvers' sites.* Twice a second the thread tells the server of what has changed here, each record once however often its
//! resolver has asked, and takes over what others have told since ([`session`]). Who answers queries knows nothing of it: the store is all
//! there is to be asked, and the thread is one more that writes there. While the server is slow or gone changes stay noted in the
//! store ([`Store::changes`]), and are told when it is back. On the server each record is a key that is gone when its time is over, and the
//! changes are a stream of the last so many. Who connects reads all keys first. A server that was started anew may have lost them:
//! then each node tells of all that it has. Stamps there go by the server's clock; each node allows for the difference to its own.
//!
//! *Sites' states.* Once a second each node says how its site is and hears the others ([`states`]). What was said is good for five
//! seconds, whatever becomes of the server meanwhile, and no longer.

mod keep;
mod nodes;
mod resp;
mod session;
pub mod states;
mod text;

use crate::affinity::Store;
use crate::config::dns::Redis;
use crate::config::file::io_words;
use crate::sites::Registry;
use keep::{Words, connect, keep};
use session::{Ground, Session};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The time between two rounds of telling and hearing.
const ROUND: Duration = Duration::from_millis(500);

/// The longest time between two tries to connect.
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
    let words = Words { what: "resolvers' sites", meanwhile: "each node goes by its own until it is back" };
    let mut life = String::new();
    let share = |begins: &mut dyn FnMut()| share(config, ground, stopped, &mut life, begins);
    keep(config, &words, LONGEST_WAIT, connected, share, |wait| {
        stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout)
    });
}

/// Connects and shares until the server is lost, or the end. `life`: of the server that has been told of everything.
fn share(
    config: &Redis,
    ground: &Ground,
    stopped: &Receiver<()>,
    life: &mut String,
    begins: &mut dyn FnMut(),
) -> io::Result<()> {
    let (mut session, is) = Session::open(connect(config)?, ground)?;
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
