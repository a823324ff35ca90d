//! A worker: a pinned thread that polls its device, runs every frame through `forward`, sends what comes out, and
//! does the small chores of a tick in between. It shares nothing that it writes with other workers but the flow table.

pub mod held;

use crate::config::Idle;
use crate::counters::{Count, Counters, Refusal, WorkerCounters};
use crate::device::{BATCH, Device, Frame, Offload};
use crate::flow::{Hint, TICK_MS, Timeouts};
use crate::forward::ahead::{self, Ahead};
use crate::forward::cut::Cutter;
use crate::forward::fragment::{Fragments, SCRATCH};
use crate::forward::limit::Limits;
use crate::forward::{Context, Now, Shared, Verdict, forward, reset, settle};
use crate::route::Fib;
use crate::service::ServiceMap;
use crate::service::status::MAX_TARGETS;
use crate::sys::rows::{CarriedCell, Rows};
use crate::wire::{Parsed, parse, parse_to};
use arc_swap::{ArcSwap, Cache};
use crossbeam_queue::ArrayQueue;
use held::Held;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long an adaptive worker keeps polling after its last frame before it sleeps: a look or two more, for the rest of a
/// burst. Where workers share their CPUs with those who send and receive, each microsecond more is taken from them: on two cores
/// 50 us cost an eighth of the throughput of one stream and a fifth of the requests per second.
const SPIN: Duration = Duration::from_micros(3);

/// The longest sleep: chores wait no longer than this.
const NAP: Duration = Duration::from_millis(TICK_MS);

/// The sleep while packets are held for a neighbor.
const HELD_NAP: Duration = Duration::from_millis(2);

/// The whole table is swept once in so many ticks.
pub const SWEEP_TICKS: u32 = 16;

/// The most records swept between two bursts, so that a burst never waits long.
const SWEEP_SLICE: u32 = 256;

/// The same while there is nothing else to do.
const IDLE_SLICE: u32 = 16384;

/// Records looked at between two bursts for connections to reset.
const RESET_SLICE: u32 = 1024;

/// So many packets before a new one is forwarded, what it needs is looked for.
const LOOK_AHEAD: usize = 12;

/// What all workers follow.
pub struct World {
    pub shared: Arc<Shared>,
    pub services: Arc<ArcSwap<ServiceMap>>,
    pub fib: Arc<ArcSwap<Fib>>,
    pub timeouts: Arc<ArcSwap<Timeouts>>,
    pub counters: Arc<Counters>,
    /// What the kernel programs have carried, by CPU; None where there are no such programs.
    pub carried: Option<Rows<CarriedCell>>,
    /// When `Now` began.
    pub start: Instant,
    pub stop: Arc<AtomicBool>,
    /// What control wants done, a queue per worker.
    pub commands: Box<[ArrayQueue<Command>]>,
}

/// What control wants of every worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    /// Reset all connections of the target in this slot, at both ends.
    ResetTarget(u16),
}

/// Commands that may wait; more targets than that do not go down between two bursts.
const COMMANDS: usize = MAX_TARGETS;

impl World {
    pub fn commands(workers: usize) -> Box<[ArrayQueue<Command>]> {
        (0..workers).map(|_| ArrayQueue::new(COMMANDS)).collect()
    }

    /// Tells all workers.
    pub fn command(&self, command: Command) {
        for queue in &self.commands {
            queue.force_push(command);
        }
    }

    pub fn now(&self) -> Now {
        now_after(self.start.elapsed())
    }

    /// Every count by name, as `show counters` prints them: all workers' and the kernel programs' together, and the flows on
    /// record.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let totals = self.counters.totals().map(|(name, count)| (name.to_string(), count));
        let mut counts: BTreeMap<String, u64> = totals.collect();
        let carried = |of: fn(&CarriedCell) -> &AtomicU64| -> u64 {
            self.carried.iter().flat_map(|cells| cells.iter()).map(|cell| of(cell).load(Relaxed)).sum()
        };
        let (packets, bytes) = (carried(|cell| &cell.packets), carried(|cell| &cell.bytes));
        let both = [Count::RxPackets, Count::TxPackets].map(|count| (count, packets));
        for (count, more) in both.into_iter().chain([Count::RxBytes, Count::TxBytes].map(|count| (count, bytes))) {
            *counts.entry(count.name().to_string()).or_default() += more;
        }
        counts.insert("kernel_packets".into(), packets);
        counts.insert("kernel_bytes".into(), bytes);
        counts.insert("drop_kernel_missed".into(), carried(|cell| &cell.missed));
        counts.insert("flows_active".into(), self.shared.table.len().into());
        counts
    }
}

/// `elapsed` after the start.
pub fn now_after(elapsed: Duration) -> Now {
    Now { tick: (elapsed.as_millis() / u128::from(TICK_MS)) as u32, micros: elapsed.as_micros() as u32 }
}

/// What a [`Context`] is made of: apart from the device and from where frames wait, which are lent out beside it.
struct Scene {
    index: u8,
    world: Arc<World>,
    services: Cache<Arc<ArcSwap<ServiceMap>>, Arc<ServiceMap>>,
    fib: Cache<Arc<ArcSwap<Fib>>, Arc<Fib>>,
    limits: Limits,
    fragments: Fragments,
    ahead: Ahead,
}

impl Scene {
    fn counters(&self) -> &WorkerCounters {
        self.world.counters.worker(usize::from(self.index))
    }

    fn context(&mut self, now: Now) -> Context<'_> {
        let fib = self.fib.load();
        self.ahead.ways.follow(fib);
        Context {
            shared: &self.world.shared,
            services: self.services.load(),
            fib,
            counters: self.world.counters.worker(usize::from(self.index)),
            limits: &mut self.limits,
            fragments: &mut self.fragments,
            ahead: &mut self.ahead,
            worker: self.index,
            now,
        }
    }
}

pub struct Worker<D: Device> {
    scene: Scene,
    device: D,
    timeouts: Cache<Arc<ArcSwap<Timeouts>>, Arc<Timeouts>>,
    held: Held,
    cutter: Cutter,
    /// Where a fragment that waited is run again.
    scratch: Box<[u8]>,
    parsed: [Result<Parsed, Refusal>; BATCH],
    hints: [Hint; BATCH],
    /// Records that the sweep owes, by the clock.
    swept_at: u32,
    sweep_due: u32,
    /// The target whose connections are being reset, and the next record to look at.
    resetting: Option<(u16, u32)>,
}

impl<D: Device> Worker<D> {
    pub fn new(index: u8, device: D, world: Arc<World>) -> Worker<D> {
        Worker {
            device,
            timeouts: Cache::new(world.timeouts.clone()),
            held: Held::new(),
            cutter: Cutter::new(),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            parsed: [Err(Refusal::ShortFrame); BATCH],
            hints: [Hint::of(0); BATCH],
            swept_at: 0,
            sweep_due: 0,
            resetting: None,
            scene: Scene {
                index,
                services: Cache::new(world.services.clone()),
                fib: Cache::new(world.fib.clone()),
                limits: Limits::default(),
                fragments: Fragments::new(usize::from(index), world.counters.workers(), world.shared.table.hash_key()),
                ahead: Ahead::default(),
                world,
            },
        }
    }

    /// Polls until the world stops.
    pub fn run(&mut self, idle: Idle) {
        let mut busy_at = Instant::now();
        while !self.scene.world.stop.load(Relaxed) {
            let at = Instant::now();
            if self.burst(now_after(at.saturating_duration_since(self.scene.world.start))) > 0 {
                busy_at = at;
            } else if idle == Idle::Adaptive && !self.has_chores() && at.duration_since(busy_at) > SPIN {
                self.device.wait(if self.held.is_empty() { NAP } else { HELD_NAP });
            } else {
                std::hint::spin_loop();
            }
        }
    }

    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    pub fn into_device(self) -> D {
        self.device
    }

    /// Is anything due that a burst without frames would go on with?
    pub fn has_chores(&self) -> bool {
        self.sweep_due > 0 || self.resetting.is_some()
    }

    /// One round over all ports, and the chores. Gives the number of frames.
    pub fn burst(&mut self, now: Now) -> usize {
        let mut frames = 0;
        for port in 0..self.device.ports() {
            let count = self.device.receive(port, BATCH);
            if count > 0 {
                frames += count;
                self.batch(count, now);
                self.device.flush();
            }
        }
        if !self.held.is_empty() {
            self.run_held(now);
        }
        self.run_fragments(now);
        self.obey(now);
        self.sweep(now, if frames > 0 { SWEEP_SLICE } else { IDLE_SLICE });
        frames
    }

    /// Parse all, hash all, prefetch, look ahead for those that are new; then forward each: the cache misses of a batch overlap.
    fn batch(&mut self, count: usize, now: Now) {
        let shared = &*self.scene.world.shared;
        let count = count.min(BATCH);
        let mut bytes = 0;
        for i in 0..count {
            let frame = self.device.frame(i);
            bytes += frame.wire_len as u64;
            let parsed = &mut self.parsed[i];
            if frame.wire_len > frame.len {
                *parsed = Err(Refusal::Truncated);
                continue;
            }
            parse_to(&frame.buf[frame.start..frame.start + frame.len], parsed);
        }
        // Not in the same pass: the hash reads both ports as one word, and has to wait for them where they were written one by one just
        // before.
        for (parsed, hint) in self.parsed[..count].iter().zip(&mut self.hints) {
            if let Ok(Parsed::Ip(packet)) = parsed {
                *hint = shared.table.prefetch(&packet.key());
            }
        }
        // A bit for each frame.
        let mut late = 0u64;
        for (i, (parsed, hint)) in self.parsed[..count].iter().zip(&mut self.hints).enumerate() {
            if let Ok(Parsed::Ip(packet)) = parsed {
                *hint = shared.table.prefetch_record(hint.hash, packet.family);
                late |= u64::from(!hint.leads_on()) << i;
            }
        }
        let mut unknown = 0u64;
        while late != 0 {
            let i = late.trailing_zeros() as usize;
            late &= late - 1;
            if let Ok(Parsed::Ip(packet)) = &self.parsed[i] {
                self.hints[i] = shared.table.prefetch_late(self.hints[i].hash, packet.family);
                unknown |= u64::from(!self.hints[i].leads_on()) << i;
            }
        }
        let mut ctx = self.scene.context(now);
        ctx.ahead.begin();
        let counters = ctx.counters;
        counters.add(Count::RxPackets, count as u64);
        counters.add(Count::RxBytes, bytes);
        let (mut sent, mut sent_bytes) = (0, 0);
        for i in 0..count {
            // A few at a time: the memory asked for comes while others are forwarded, and a pass of its own would wait for it.
            while (unknown.trailing_zeros() as usize) < (i + LOOK_AHEAD).min(BATCH) {
                let next = unknown.trailing_zeros() as usize;
                unknown &= unknown - 1;
                if let Ok(Parsed::Ip(packet)) = &self.parsed[next] {
                    self.hints[next] = ahead::look(packet, self.hints[next], &mut ctx);
                }
            }
            let mut frame = self.device.frame(i);
            match forward(&mut frame, &self.parsed[i], self.hints[i], &mut ctx) {
                Verdict::Transmit { span, port } => {
                    if self.device.send(i, span, usize::from(port)) {
                        sent += 1;
                        sent_bytes += span.len as u64;
                    } else {
                        counters.refuse(Refusal::TxFull);
                    }
                }
                Verdict::Cut { cut, port } => {
                    self.cutter.begin();
                    while let Some(piece) = self.cutter.piece(&cut, self.device.frame(i).buf) {
                        send_copy(&mut self.device, counters, piece, Offload::default(), port);
                    }
                }
                Verdict::Hold => hold(&mut self.held, &frame, counters, now),
                Verdict::Kept => {}
                Verdict::Refuse(refusal) => counters.refuse(refusal),
                Verdict::NotOurs => counters.add(Count::NotOurs, 1),
            }
        }
        counters.add(Count::TxPackets, sent);
        counters.add(Count::TxBytes, sent_bytes);
    }

    /// Runs the held packets again: by now their neighbors may have answered.
    fn run_held(&mut self, now: Now) {
        let mut ctx = self.scene.context(now);
        let (device, cutter) = (&mut self.device, &mut self.cutter);
        self.held.retry(|frame| run_copy(frame, device, cutter, &mut ctx));
        ctx.counters.refuse_many(Refusal::NeighborUnresolved, self.held.expire(now) as u64);
        self.device.flush();
    }

    /// Runs the fragments whose first one has come by now.
    fn run_fragments(&mut self, now: Now) {
        let mut any = false;
        while let Some(mut frame) = self.scene.fragments.take_ready(&mut self.scratch) {
            let mut ctx = self.scene.context(now);
            any = true;
            if !run_copy(&mut frame, &mut self.device, &mut self.cutter, &mut ctx) {
                hold(&mut self.held, &frame, ctx.counters, now);
            }
        }
        if any {
            self.device.flush();
        }
    }

    fn count_losses(&mut self) {
        let lost = self.device.losses();
        let counters = self.scene.counters();
        counters.refuse_many(Refusal::RingFull, lost.ring_full);
        counters.refuse_many(Refusal::SendRefused, lost.send_refused);
    }

    /// Goes on with what control wants, a slice of the records at a time.
    fn obey(&mut self, now: Now) {
        let worker = usize::from(self.scene.index);
        if self.resetting.is_none() {
            let Some(Command::ResetTarget(slot)) = self.scene.world.commands[worker].pop() else { return };
            self.resetting = Some((slot, 0));
        }
        let Some((slot, cursor)) = self.resetting else { return };
        let ctx = self.scene.context(now);
        let device = &mut self.device;
        let next = ctx.shared.table.scan_range(worker, cursor, RESET_SLICE, |details| {
            if details.target_slot == slot {
                reset::both_ends(details, &ctx, |frame, port| {
                    let sent = device.send_copy(frame, Offload::default(), usize::from(port));
                    count_sent(ctx.counters, sent, frame.len());
                });
            }
        });
        self.resetting = next.map(|cursor| (slot, cursor));
        self.device.flush();
    }

    /// Moves the clock hand over as many records as the time that has passed is worth, `most` at a time.
    fn sweep(&mut self, now: Now, most: u32) {
        let ticks = now.tick.wrapping_sub(self.swept_at);
        if ticks > 0 {
            self.count_losses();
        }
        let worker = usize::from(self.scene.index);
        if ticks > 0 {
            let ctx = self.scene.context(now);
            ctx.fragments.expire(now, ctx.counters);
            self.swept_at = now.tick;
            let range = ctx.shared.table.sweep_range(worker);
            let due = (range / SWEEP_TICKS + 1).saturating_mul(ticks);
            self.sweep_due = self.sweep_due.saturating_add(due).min(range);
        }
        if self.sweep_due == 0 {
            return;
        }
        let slice = self.sweep_due.min(most);
        self.sweep_due -= slice;
        let mut ctx = self.scene.context(now);
        let (shared, counters) = (ctx.shared, ctx.counters);
        let (device, timeouts, mut sent_any) = (&mut self.device, self.timeouts.load(), false);
        shared.table.sweep(worker, slice, now.tick, ctx.fib.epoch(), timeouts, |gone| {
            settle(gone, shared, counters, now);
            reset::half_open(gone, &mut ctx, |frame, port| {
                sent_any = true;
                let sent = device.send_copy(frame, Offload::default(), usize::from(port));
                count_sent(counters, sent, frame.len());
            });
        });
        if sent_any {
            device.flush();
        }
    }
}

/// Runs a frame that was kept. False: it must wait for its next hop's MAC.
fn run_copy<D: Device>(frame: &mut Frame, device: &mut D, cutter: &mut Cutter, ctx: &mut Context) -> bool {
    let parsed = parse(&frame.buf[frame.start..frame.start + frame.len]);
    let hash = match &parsed {
        Ok(Parsed::Ip(packet)) => ctx.shared.table.hash(&packet.key()),
        _ => 0,
    };
    match forward(frame, &parsed, Hint::of(hash), ctx) {
        Verdict::Transmit { span, port } => {
            let bytes = &frame.buf[span.start..span.start + span.len];
            send_copy(device, ctx.counters, bytes, span.offload, port);
        }
        Verdict::Cut { cut, port } => {
            cutter.begin();
            while let Some(piece) = cutter.piece(&cut, frame.buf) {
                send_copy(device, ctx.counters, piece, Offload::default(), port);
            }
        }
        Verdict::Hold => return false,
        Verdict::Refuse(refusal) => ctx.counters.refuse(refusal),
        Verdict::Kept | Verdict::NotOurs => {}
    }
    true
}

/// Keeps a copy of a frame until its next hop's MAC is known.
fn hold(held: &mut Held, frame: &Frame, counters: &WorkerCounters, now: Now) {
    match held.keep(frame, now) {
        Ok(()) => counters.add(Count::Held, 1),
        Err(refusal) => counters.refuse(refusal),
    }
}

/// All that waited for one neighbor may leave at once, or all pieces of large packets, and the device has room for part of it.
fn send_copy(device: &mut impl Device, counters: &WorkerCounters, frame: &[u8], offload: Offload, port: u8) {
    let port = usize::from(port);
    let mut sent = device.send_copy(frame, offload, port);
    if !sent {
        device.make_room();
        sent = device.send_copy(frame, offload, port);
    }
    count_sent(counters, sent, frame.len());
}

fn count_sent(counters: &WorkerCounters, sent: bool, len: usize) {
    if sent {
        counters.add(Count::TxPackets, 1);
        counters.add(Count::TxBytes, len as u64);
    } else {
        counters.refuse(Refusal::TxFull);
    }
}

#[cfg(test)]
mod tests;
