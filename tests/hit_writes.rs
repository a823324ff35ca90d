//! A hit writes no cache line that another worker's hits write: else two workers would be slower than one.
//!
//! Nobody is asked what he writes. A player, in a process of its own, lets first the one worker and then the other carry packets of
//! connections that it has opened; before and after, all memory that the player can write is read from outside. A line that
//! changed both times is shared, wherever it is: a counter that somebody adds somewhere is found out.

#[path = "../perf/inside.rs"]
#[allow(dead_code)]
mod inside;

use farside::forward::Now;
use inside::{Bench, LAN, WAN, Way, Wire};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const LINE: usize = 64;
const PLAYER: &str = "FARSIDE_TEST_PLAYER";
/// Of each way and worker.
const FLOWS: u32 = 16;

/// What must not be: written by both.
static SHARED: AtomicU64 = AtomicU64::new(0);

/// One worker with packets of connections that stand.
struct Side {
    bench: Bench,
    frames: [Arc<[Wire]>; 2],
}

impl Side {
    fn new(index: u8, world: Arc<farside::worker::World>) -> Side {
        const ACK: u8 = 0x10;
        let mut bench = Bench::new(index, world);
        bench.now = Some(Now { tick: 1000, micros: 0 });
        let clients = u32::from(index) * FLOWS..(u32::from(index) + 1) * FLOWS;
        let (mut from_clients, mut from_servers) = (Vec::new(), Vec::new());
        for way in Way::ALL {
            bench.open(way, clients.clone());
            from_clients.extend(clients.clone().map(|client| bench.of_client(way, client, ACK, 60)));
            if !way.one_sided() {
                from_servers.extend(bench.of_servers(way, clients.clone(), ACK, 60));
            }
        }
        Side { bench, frames: [from_clients.into(), from_servers.into()] }
    }

    /// Twice each packet, at a time that nobody has seen before: what notes the time is noticed.
    fn play(&mut self, tick: u32) {
        self.bench.now = Some(Now { tick, micros: tick * 1000 });
        for (port, frames) in [WAN, LAN].into_iter().zip(&self.frames) {
            self.bench.worker.device_mut().load(port, frames.clone(), 2 * frames.len() as u64);
        }
        self.bench.drain();
        self.bench.assert_nothing_was_refused();
    }
}

/// Does what it is told, a letter a line, and says when it is done.
fn player() {
    let world = inside::world(1024, 2);
    let mut sides = [0, 1].map(|index| Side::new(index, world.clone()));
    let mut tick = 1000;
    // Its own stack is no part of what is looked at.
    println!("player {:#x}", std::ptr::from_ref(&tick).addr());
    let mut line = String::with_capacity(16);
    while std::io::stdin().read_line(&mut line).expect("a line") > 0 {
        let order = line.as_bytes()[0];
        tick += 1;
        match order.to_ascii_lowercase() {
            b'a' => sides[0].play(tick),
            b'b' => sides[1].play(tick),
            _ => {}
        }
        if order.is_ascii_uppercase() {
            SHARED.fetch_add(1, Relaxed);
        }
        line.clear();
        println!("done");
    }
}

/// The player, seen from outside.
struct Watched {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// An address in its stack.
    stack: usize,
}

impl Watched {
    fn start(test: &str) -> Watched {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", test, "--nocapture"])
            .env(PLAYER, "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a player");
        let orders = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut watched = Watched { child, orders, answers, stack: 0 };
        let address = watched.answer("player 0x");
        watched.stack = usize::from_str_radix(&address, 16).expect("an address");
        watched.settle();
        watched
    }

    /// What follows `start` in the next line that has it.
    fn answer(&mut self, start: &str) -> String {
        let mut line = String::new();
        while self.answers.read_line(&mut line).expect("an answer") > 0 {
            if let Some((_, rest)) = line.split_once(start) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("the player has gone");
    }

    /// Waits until it does nothing but wait for an order: having said that it is done it still has to let go of its output.
    fn settle(&self) {
        let rests = || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
            tasks
                .map(|task| fs::read_to_string(task.expect("a thread").path().join("stat")).expect("a thread's state"))
                .all(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S')))
        };
        let end = Instant::now() + Duration::from_secs(30);
        while !rests() {
            assert!(Instant::now() < end, "the player does not rest");
            std::thread::yield_now();
        }
    }

    /// Lines of its memory that an order changes.
    fn changed_by(&mut self, order: char) -> BTreeSet<usize> {
        let before = self.memory();
        // In one piece: how it comes in is written, too.
        self.orders.write_all(format!("{order}\n").as_bytes()).expect("an order");
        self.answer("done");
        self.settle();
        let after = self.memory();
        let mut changed = BTreeSet::new();
        assert_eq!(before.len(), after.len(), "no memory comes or goes on a hit");
        for ((start, old), (at, new)) in before.iter().zip(&after) {
            assert_eq!((start, old.len()), (at, new.len()), "no memory comes or goes on a hit");
            let lines = old.chunks(LINE).zip(new.chunks(LINE)).enumerate();
            changed.extend(lines.filter(|(_, (old, new))| old != new).map(|(line, _)| start + line * LINE));
        }
        changed
    }

    fn maps(&self) -> String {
        fs::read_to_string(format!("/proc/{}/maps", self.child.id())).expect("its mappings")
    }

    /// All that it can write but its stack, by address.
    fn memory(&self) -> Vec<(usize, Vec<u8>)> {
        let process = format!("/proc/{}", self.child.id());
        let memory = File::open(format!("{process}/mem")).expect("its memory");
        let maps = self.maps();
        let mut all = Vec::new();
        for map in maps.lines() {
            let (range, rest) = map.split_once(' ').expect("a range");
            let (start, end) = range.split_once('-').expect("a range");
            let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).expect("an address"));
            if !rest.starts_with("rw") || rest.contains("[stack]") || (start..end).contains(&self.stack) {
                continue;
            }
            let mut bytes = vec![0; end - start];
            memory.read_exact_at(&mut bytes, start as u64).expect("its memory");
            all.push((start, bytes));
        }
        all
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn hits_of_two_workers_write_no_common_cache_line() {
    if std::env::var_os(PLAYER).is_some() {
        return player();
    }
    let mut watched = Watched::start("hits_of_two_workers_write_no_common_cache_line");
    // Once for what is noted once only: that a next hop is in use.
    "abn".chars().for_each(|order| _ = watched.changed_by(order));
    let [a, b] = ['a', 'b'].map(|order| watched.changed_by(order));
    // What taking orders changes.
    let orders: BTreeSet<usize> = "nn".chars().flat_map(|order| watched.changed_by(order)).collect();
    let records = Way::ALL.len() * FLOWS as usize;
    assert!(a.len() >= records && b.len() >= records, "each connection's record is written: {} {}", a.len(), b.len());
    let common = |a: &BTreeSet<usize>, b| -> Vec<usize> {
        a.intersection(b).filter(|line| !orders.contains(line)).copied().collect()
    };
    let shared = common(&a, &b);
    assert!(shared.is_empty(), "cache lines that hits of both workers write: {shared:x?}\n{}", watched.maps());

    let [a, b] = ['A', 'B'].map(|order| watched.changed_by(order));
    let shared = common(&a, &b);
    assert_eq!(shared.len(), 1, "a counter that both write is found: {shared:x?}\n{}", watched.maps());
}
