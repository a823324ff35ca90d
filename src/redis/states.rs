//! How sites are, shared through the server.
//!
//! A site is a hash of the name `PREFIX:state:SITE` that is gone when nobody has written there for five seconds. Each of the site's nodes
//! has a field in it, by a number that it drew when it started: the server's time in milliseconds, a space, and what it says
//! ([`nodes::written`]). One script writes this node's field, takes away those of nodes that are silent, and gives what is good of
//! the other sites' hashes: one round trip for all. So ages are told by one clock, the server's.

use super::keep::{Words, connect, keep};
use super::nodes::{self, GOOD, MOST_NODES, Nodes};
use super::resp::{Client, Reply};
use crate::config::dns::Redis;
use crate::config::file::io_words;
use crate::sites::state::State;
use std::io::{self, Error, ErrorKind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The time between two rounds, unless there is something that others should know at once.
const ROUND: Duration = Duration::from_secs(1);

/// The longest time between two tries to connect: states are wanted again soon.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

const WORDS: Words = Words {
    what: "sites' states",
    meanwhile: "what sites have said of themselves is forgotten when it is 5 s old, and own checks alone count until it is back",
};

/// KEYS are this site's hash and the other sites', ARGV the node, what it says (nothing: it says nothing yet), for how many milliseconds
/// that is good, and the most nodes of a site. Gives a list for each other site: of each node for how many milliseconds what it says
/// is good still, and that; nothing for what is no hash. What is no stamped value is given as one that is good for no time.
const SCRIPT: &str = "
local time, good = redis.call('TIME'), tonumber(ARGV[3])
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function left(value)
  local stamp = tonumber(string.match(value, '^(%d+) '))
  return stamp and stamp <= now + good and stamp + good - now
end
if ARGV[2] ~= '' then
  local value = string.format('%.0f ', now) .. ARGV[2]
  local put = redis.pcall('HSET', KEYS[1], ARGV[1], value)
  if type(put) == 'table' and put.err then
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], ARGV[1], value)
  end
  redis.call('PEXPIRE', KEYS[1], good)
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local ms = left(all[i + 1])
    if not ms or ms <= 0 then redis.call('HDEL', KEYS[1], all[i]) end
  end
end
local heard = {}
for k = 2, #KEYS do
  local all, said = redis.pcall('HGETALL', KEYS[k]), {}
  if all.err then
    heard[k - 1] = false
  else
    for i = 1, #all, 2 do
      local ms = left(all[i + 1])
      if #said >= 2 * ARGV[4] then break end
      if not ms then
        said[#said + 1] = 0
        said[#said + 1] = ''
      elseif ms > 0 then
        said[#said + 1] = ms
        said[#said + 1] = string.match(all[i + 1], '^%d+ (.*)$')
      end
    end
    heard[k - 1] = said
  end
end
return heard";

/// Another site, for people and for who decides by it.
#[derive(Clone, Debug)]
pub struct Report {
    pub name: String,
    /// Since when it is heard, or is not.
    pub since: Instant,
    /// When some of what it says ends to be good, unless it is said again.
    pub ends: Option<Instant>,
    /// What it says of itself; None: nothing, or not lately.
    pub state: Option<Arc<State>>,
}

/// What has happened, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Rounds in which this site's state was told, and the others' heard.
    pub rounds: u64,
    /// What stood on the server for a state and could not be read, or was of a version that is not known here. As often as it was met.
    pub unreadable: u64,
    /// Times that the server was lost.
    pub lost: u64,
}

struct Board {
    own: Option<Arc<State>>,
    /// In the order of the peers.
    peers: Vec<Nodes>,
    /// Since when the server answers.
    begun: Option<Instant>,
    counts: Counts,
}

struct Shared {
    connected: AtomicBool,
    board: Mutex<Board>,
    /// How often something has been heard that control should look at.
    news: AtomicU64,
    /// Of control.
    waker: OnceLock<Arc<mio::Waker>>,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        self.news.fetch_add(1, Relaxed);
        if let Some(waker) = self.waker.get() {
            let _ = waker.wake();
        }
    }
}

/// What sites say through the server, until dropped: then this site's word is taken away there, if the server answers; that takes some
/// seconds at most.
pub struct States {
    config: Redis,
    own: String,
    peers: Vec<String>,
    shared: Arc<Shared>,
    /// None: the end.
    now: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl States {
    /// Begins; whether the server is there or not. The error is a sentence.
    pub fn start(config: &Redis, own: &str, peers: Vec<String>) -> Result<States, String> {
        let cannot = |why: String| format!("[dns.redis] what shares sites' states cannot be started: {why}");
        let node = getrandom::u64().map_err(|why| cannot(format!("no random numbers: {why}")))?;
        let begun = Instant::now();
        let board =
            Board { own: None, peers: vec![Nodes::new(begun); peers.len()], begun: None, counts: Counts::default() };
        let shared = Arc::new(Shared {
            connected: AtomicBool::new(false),
            board: Mutex::new(board),
            news: AtomicU64::new(0),
            waker: OnceLock::new(),
        });
        let (now, asked) = mpsc::sync_channel(1);
        let keys = [own].into_iter().chain(peers.iter().map(String::as_str));
        let speaker = Speaker {
            keys: keys.map(|site| format!("{}:state:{site}", config.prefix)).collect(),
            node: format!("{node:016x}"),
            shared: shared.clone(),
        };
        let of = config.clone();
        let thread = std::thread::Builder::new().name("dns-states".into()).spawn(move || speaker.run(&of, &asked));
        let thread = thread.map_err(|why| cannot(io_words(&why)))?;
        Ok(States { config: config.clone(), own: own.into(), peers, shared, now: Some(now), thread: Some(thread) })
    }

    /// Is it what these would make?
    pub fn is_of(&self, config: &Redis, own: &str, peers: &[String]) -> bool {
        (&self.config, &*self.own, &*self.peers) == (config, own, peers)
    }

    pub fn config(&self) -> &Redis {
        &self.config
    }

    /// The server answers.
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Relaxed)
    }

    /// It has for so long that every site that is there has been heard.
    pub fn is_settled(&self, now: Instant) -> bool {
        self.is_connected() && self.shared.board().begun.is_some_and(|begun| now.duration_since(begun) >= GOOD)
    }

    /// Who is woken when something has been heard; the first one stays.
    pub fn set_waker(&self, waker: Arc<mio::Waker>) {
        let _ = self.shared.waker.set(waker);
    }

    /// It rises when something has been heard.
    pub fn news(&self) -> u64 {
        self.shared.news.load(Relaxed)
    }

    /// How this site is from now on. What is up there, and what has room, is told at once if it is other than before; the rest within
    /// a second.
    pub fn tell(&self, state: &State) {
        let was = self.shared.board().own.replace(Arc::new(state.clone()));
        let parts = |state: &State| (state.full, state.services.clone(), state.members.clone());
        if was.is_none_or(|was| parts(&was) != parts(state))
            && let Some(now) = &self.now
        {
            // One that waits already will do.
            let _ = now.try_send(());
        }
    }

    /// One for each peer.
    pub fn reports(&self, now: Instant) -> Vec<Report> {
        let board = self.shared.board();
        let report = |(name, nodes): (&String, &Nodes)| Report {
            name: name.clone(),
            since: nodes.since(now),
            ends: nodes.next_end(now),
            state: nodes.state(now),
        };
        self.peers.iter().zip(&board.peers).map(report).collect()
    }

    pub fn counts(&self) -> Counts {
        self.shared.board().counts
    }
}

impl States {
    /// Ends it without waiting: what is left to be done with the server is done beside.
    pub fn leave(mut self) {
        self.thread = None;
    }
}

impl Drop for States {
    fn drop(&mut self) {
        self.now = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread that has the connection.
struct Speaker {
    /// Of this site, and of the others.
    keys: Vec<String>,
    node: String,
    shared: Arc<Shared>,
}

impl Speaker {
    fn run(&self, config: &Redis, asked: &Receiver<()>) {
        let share = |begins: &mut dyn FnMut()| {
            let ended = self.share(config, asked, begins);
            let mut board = self.shared.board();
            board.counts.lost += u64::from(ended.is_err() && board.begun.take().is_some());
            ended
        };
        let ends = |wait: Duration| {
            let until = Instant::now() + wait;
            loop {
                match asked.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    // There is nobody to be told just now.
                    Ok(()) => {}
                    Err(why) => return why == RecvTimeoutError::Disconnected,
                }
            }
        };
        keep(config, &WORDS, LONGEST_WAIT, &self.shared.connected, share, ends);
    }

    /// Connects and shares until the server is lost, or the end.
    fn share(&self, config: &Redis, asked: &Receiver<()>, begins: &mut dyn FnMut()) -> io::Result<()> {
        let mut client = connect(config)?;
        self.round(&mut client)?;
        self.shared.board().begun = Some(Instant::now());
        begins();
        loop {
            if asked.recv_timeout(ROUND) == Err(RecvTimeoutError::Disconnected) {
                return client.one(&[b"HDEL", self.keys[0].as_bytes(), self.node.as_bytes()]).map(|_| ());
            }
            self.round(&mut client)?;
        }
    }

    /// Tells and hears once.
    fn round(&self, client: &mut Client) -> io::Result<()> {
        let own = self.shared.board().own.clone();
        let said = own.map_or(Vec::new(), |own| nodes::written(&own));
        let (good_ms, most) = (GOOD.as_millis().to_string(), MOST_NODES.to_string());
        let number = self.keys.len().to_string();
        let words = ["EVAL", SCRIPT, &number].into_iter().chain(self.keys.iter().map(String::as_str));
        let mut words: Vec<&[u8]> = words.map(str::as_bytes).collect();
        words.extend([self.node.as_bytes(), &said, good_ms.as_bytes(), most.as_bytes()]);
        let asked = Instant::now();
        let heard = client.one(&words)?;
        self.hear(&heard, asked)?;
        self.shared.heard();
        Ok(())
    }

    fn hear(&self, heard: &Reply, asked: Instant) -> io::Result<()> {
        let mut board = self.shared.board();
        let Board { peers, counts, .. } = &mut *board;
        if heard.parts().len() != peers.len() {
            return Err(Error::new(ErrorKind::InvalidData, "its answer to EVAL is none that farside knows"));
        }
        counts.rounds += 1;
        for (nodes, reply) in peers.iter_mut().zip(heard.parts()) {
            counts.unreadable += nodes.take(reply, asked);
        }
        Ok(())
    }
}
