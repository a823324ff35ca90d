//! The PIP ledger: which local ports are lent to connections towards which remote endpoint.
//!
//! # Theory of operation
//!
//! A *pool* is all ports of one PIP towards one remote address and port: the same port may be lent once per remote endpoint, as
//! the 5-tuple still differs. Pools are opened by the control thread and stay for the life of the process; a reload
//! changes which ports a pool may lend, in place, so that a port that is still out can never be lent again beside itself.
//!
//! Within a pool each worker lends its own residue, `port % workers == worker`, so that answers can be steered by the port
//! alone. A worker's free ports stand in a queue, in random order at first, then in the order in which they came back, each
//! with the tick of its return: the first of the queue has rested longest, and if it has not rested enough none has. (Ports
//! that a reload adds stand behind those that rest just then, and wait with them.)
//!
//! Each port has a byte of its own that says where it is, and every change of it is one atomic step:
//!
//! ```text
//!   WANTED   may be lent (set and cleared by control)
//!   QUEUED   stands in the queue (whoever sets it pushes the port, whoever clears it has popped it)
//!   LENT     is out (never together with QUEUED)
//! ```
//!
//! A port that is not WANTED leaves the queue when a worker meets it there, and does not enter it when it comes back.

use super::Tick;
use crate::wire::ip::{Addr, Endpoint};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The most pools of a process.
pub const MAX_POOLS: usize = 1024;

/// The most ports that a call of [`Ledger::lend`] passes over because they are not wanted any more.
const PASS_OVER: usize = 64;

const WANTED: u8 = 1;
const QUEUED: u8 = 2;
const LENT: u8 = 4;

/// Number of a pool; the same for as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u16);

/// What a pool is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub pip: Addr,
    /// The remote VIP and port.
    pub remote: Endpoint,
    pub protocol: u8,
    /// Of both addresses.
    pub family: u8,
}

/// [`MAX_POOLS`] are open, or the system has no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    TooMany,
    NoRandom,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::TooMany => {
                write!(f, "more than {MAX_POOLS} pairs of a proxy address and a remote service since the start")
            }
            OpenError::NoRandom => write!(f, "the system gives no random numbers"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Ports of a pool: free to be lent (those that still rest included), and in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    pub free: u32,
    pub total: u32,
}

impl Headroom {
    /// At least 90 % are out: time to warn.
    pub fn is_low(&self) -> bool {
        u64::from(self.free) * 10 <= u64::from(self.total)
    }
}

pub struct Ledger {
    pools: Box<[OnceLock<Pool>]>,
    /// Of the control thread; workers know pools by number.
    numbers: Mutex<HashMap<PoolKey, PoolId>>,
    workers: usize,
    /// Ticks that a returned port rests.
    rest: AtomicU32,
    /// What the order of new pools' ports comes from; None: the system's random numbers.
    seed: Option<u64>,
}

struct Pool {
    /// By port.
    ports: Box<[AtomicU8]>,
    shares: Box<[CachePadded<Share>]>,
    wanted: AtomicU32,
}

/// The ports of one worker.
struct Share {
    /// `{fresh 1 | port 16 | tick of return 32}`; room for all ports of the residue.
    queue: ArrayQueue<u64>,
    /// What was popped but had not rested yet; 0: nothing. It stands before the queue.
    first: AtomicU64,
    lent: AtomicU32,
}

const FRESH: u64 = 1 << 48;
/// So that no waiting port looks like nothing.
const PRESENT: u64 = 1 << 49;

fn entry(port: u16, returned: Option<Tick>) -> u64 {
    PRESENT | u64::from(port) << 32 | returned.map_or(FRESH, u64::from)
}

impl Ledger {
    /// `workers`: 1 to 256.
    pub fn new(workers: usize) -> Ledger {
        Ledger::with_room(workers, MAX_POOLS)
    }

    /// As [`Ledger::new`], but every pool's order of ports follows from `seed`: anybody can tell the next port. For `replay`, which
    /// must give the same twice.
    pub fn predictable(workers: usize, seed: u64) -> Ledger {
        Ledger { seed: Some(seed), ..Ledger::new(workers) }
    }

    pub(super) fn with_room(workers: usize, pools: usize) -> Ledger {
        Ledger {
            pools: (0..pools).map(|_| OnceLock::new()).collect(),
            numbers: Mutex::new(HashMap::new()),
            workers: workers.clamp(1, 256),
            rest: AtomicU32::new(0),
            seed: None,
        }
    }

    /// How many ticks a returned port rests before it is lent again.
    pub fn set_rest(&self, rest: Tick) {
        self.rest.store(rest, Relaxed);
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The worker that lends a port, and that its answers are to be steered to.
    pub fn worker_of(&self, port: u16) -> usize {
        usize::from(port) % self.workers
    }

    /// Opens the pool of `key`, or finds it open, and lets it lend exactly those of `ports` that are not `reserved`. Ports that
    /// are out stay valid until they come back. For the control thread; takes memory (about 1.1 MiB a pool).
    pub fn open(
        &self,
        key: PoolKey,
        ports: RangeInclusive<u16>,
        reserved: impl Fn(u16) -> bool,
    ) -> Result<PoolId, OpenError> {
        let wanted = |port: u16| port != 0 && ports.contains(&port) && !reserved(port);
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&id) = numbers.get(&key) {
            self.pool(id).into_iter().for_each(|pool| pool.want(self.workers, wanted, 0..=u16::MAX));
            return Ok(id);
        }
        let id = PoolId(numbers.len() as u16);
        let place = self.pools.get(usize::from(id.0)).ok_or(OpenError::TooMany)?;
        let order = match self.seed {
            Some(seed) => shuffled_ports(stirred(seed ^ u64::from(id.0) << 32)),
            None => shuffled_ports(random()?),
        };
        let pool = Pool::new(self.workers);
        pool.want(self.workers, wanted, order);
        // Only this function sets a place, under the lock, and each number is given once.
        let _ = place.set(pool);
        numbers.insert(key, id);
        Ok(id)
    }

    /// Lends no more from any pool that is not in `keep`. What is out stays valid.
    pub fn close_others(&self, keep: &[PoolId]) {
        let others = (0..).zip(&self.pools).filter(|(id, _)| !keep.contains(&PoolId(*id)));
        for pool in others.filter_map(|(_, place)| place.get()) {
            pool.want(self.workers, |_| false, 0..=u16::MAX);
        }
    }

    /// The pool of a key. For the control thread.
    pub fn find(&self, key: &PoolKey) -> Option<PoolId> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(usize::from(id.0))?.get()
    }

    /// Lends a port with `port % workers == worker`. `None`: all of the worker's ports are out or resting.
    pub fn lend(&self, pool: PoolId, worker: usize, now: Tick) -> Option<u16> {
        let pool = self.pool(pool)?;
        let share = pool.shares.get(worker)?;
        let rest = self.rest.load(Relaxed);
        for _ in 0..PASS_OVER {
            let waiting = match share.first.swap(0, Acquire) {
                0 => share.queue.pop()?,
                waiting => waiting,
            };
            let (port, returned) = ((waiting >> 32) as u16, waiting as Tick);
            // A clock that is a tick behind that of the worker who gave it back has seen no rest at all.
            let rested = (now.wrapping_sub(returned) as i32).max(0) as u32;
            if waiting & FRESH == 0 && rested < rest {
                share.put_first(waiting);
                return None;
            }
            if pool.change(port, |is| if is & WANTED != 0 { WANTED | LENT } else { 0 }) & WANTED != 0 {
                share.lent.fetch_add(1, Relaxed);
                return Some(port);
            }
        }
        None
    }

    /// Takes a port back, from any thread. False: it was not out.
    pub fn give_back(&self, pool: PoolId, port: u16, now: Tick) -> bool {
        let Some(pool) = self.pool(pool) else { return false };
        let back = |is: u8| match is {
            is if is & LENT == 0 => is,
            is if is & WANTED != 0 => WANTED | QUEUED,
            _ => 0,
        };
        let was = pool.change(port, back);
        if was & LENT == 0 {
            return false;
        }
        let share = &pool.shares[self.worker_of(port)];
        share.lent.fetch_sub(1, Relaxed);
        if was & WANTED != 0 {
            share.push(entry(port, Some(now)));
        }
        true
    }

    pub fn headroom(&self, pool: PoolId) -> Headroom {
        let Some(pool) = self.pool(pool) else { return Headroom { free: 0, total: 0 } };
        let lent: u32 = pool.shares.iter().map(|share| share.lent.load(Relaxed)).sum();
        let total = pool.wanted.load(Relaxed);
        Headroom { free: total.saturating_sub(lent), total }
    }
}

impl Pool {
    fn new(workers: usize) -> Pool {
        let share = |_| {
            CachePadded::new(Share {
                queue: ArrayQueue::new((1 << 16) / workers + 1),
                first: AtomicU64::new(0),
                lent: AtomicU32::new(0),
            })
        };
        Pool {
            ports: (0..1 << 16).map(|_| AtomicU8::new(0)).collect(),
            shares: (0..workers).map(share).collect(),
            wanted: AtomicU32::new(0),
        }
    }

    /// One step of a port. Returns what it was before. The queue orders what goes through it; a byte orders only itself.
    fn change(&self, port: u16, step: impl Fn(u8) -> u8) -> u8 {
        let is = &self.ports[usize::from(port)];
        is.fetch_update(Relaxed, Relaxed, |is| Some(step(is))).unwrap_or_else(|is| is)
    }

    /// Makes exactly the ports WANTED for which `wanted` holds, in the order given.
    fn want(&self, workers: usize, wanted: impl Fn(u16) -> bool, ports: impl IntoIterator<Item = u16>) {
        let mut count = 0;
        for port in ports {
            if !wanted(port) {
                self.change(port, |is| is & !WANTED);
                continue;
            }
            count += 1;
            let was = self.change(port, |is| if is & (QUEUED | LENT) == 0 { WANTED | QUEUED } else { is | WANTED });
            if was & (QUEUED | LENT) == 0 {
                self.shares[usize::from(port) % workers].push(entry(port, None));
            }
        }
        self.wanted.store(count, Relaxed);
    }
}

impl Share {
    fn push(&self, waiting: u64) {
        // A port stands in it once at most, and there is room for all: it cannot be full.
        let _ = self.queue.push(waiting);
    }

    /// Puts back what was taken first.
    fn put_first(&self, waiting: u64) {
        // Only if another thread lends for the same worker at this moment is the place taken.
        if self.first.compare_exchange(0, waiting, Release, Relaxed).is_err() {
            self.push(waiting);
        }
    }
}

/// A random number for each port.
fn random() -> Result<impl Iterator<Item = u32>, OpenError> {
    let mut random = vec![0u8; 4 << 16];
    getrandom::fill(&mut random).map_err(|_| OpenError::NoRandom)?;
    Ok((0..1 << 16).map(move |i| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| random[4 * i + byte]))))
}

/// Numbers that follow from `seed` and look random (SplitMix64; Steele, Lea and Flood, OOPSLA 2014).
fn stirred(seed: u64) -> impl Iterator<Item = u32> {
    (1..).map(move |i: u64| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    })
}

/// All ports, shuffled (Fisher and Yates): in random order a stranger cannot tell the next one.
fn shuffled_ports(random: impl Iterator<Item = u32>) -> Vec<u16> {
    let mut ports: Vec<u16> = (0..=u16::MAX).collect();
    for (i, random) in (1..ports.len()).zip(random) {
        ports.swap(i, random as usize % (i + 1));
    }
    ports
}
