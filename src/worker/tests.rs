//! The worker and its device, with services in direct and tunnel mode: what leaves in pieces, and what comes so.

use super::*;
use crate::config::{Encapsulation, Mode};
use crate::device::memory::Memory;
use crate::forward::tests::{Bench, CLIENT, LAN, VIP, WAN, one_sided};
use crate::testing::{Build, Seen, cut, join};
use crate::wire::ip::{Endpoint, TCP};
use crate::wire::l4::{ACK, SYN};

/// A device that has room for so many copies at a time.
struct Tight {
    memory: Memory,
    most: usize,
    room: usize,
}

impl Device for Tight {
    fn ports(&self) -> usize {
        self.memory.ports()
    }

    fn receive(&mut self, port: usize, max: usize) -> usize {
        self.memory.receive(port, max)
    }

    fn frame(&mut self, i: usize) -> crate::device::Frame<'_> {
        self.memory.frame(i)
    }

    fn send(&mut self, i: usize, span: crate::device::Span, port: usize) -> bool {
        self.memory.send(i, span, port)
    }

    fn send_copy(&mut self, frame: &[u8], offload: Offload, port: usize) -> bool {
        self.room > 0 && {
            self.room -= 1;
            self.memory.send_copy(frame, offload, port)
        }
    }

    fn make_room(&mut self) {
        self.room = self.most;
        self.memory.make_room();
    }

    fn flush(&mut self) {
        self.room = self.most;
        self.memory.flush();
    }

    fn wait(&mut self, timeout: Duration) {
        self.memory.wait(timeout);
    }
}

fn worker(most: usize) -> Worker<Tight> {
    worker_of(Mode::Tunnel, most)
}

fn worker_of(mode: Mode, most: usize) -> Worker<Tight> {
    let bench = Bench::with(one_sided(mode, Encapsulation::Gue));
    let world = World {
        shared: Arc::new(bench.shared),
        services: Arc::new(ArcSwap::from_pointee(bench.services)),
        fib: Arc::new(ArcSwap::from_pointee(bench.fib)),
        timeouts: Arc::new(ArcSwap::from_pointee(bench.timeouts)),
        counters: Arc::new(Counters::new(1)),
        carried: None,
        commands: World::commands(1),
        start: Instant::now(),
        stop: Arc::default(),
    };
    Worker::new(0, Tight { memory: Memory::new(2), most, room: most }, Arc::new(world))
}

/// A SYN, and behind it in the same batch two joined packets of many segments and a small one.
fn play(worker: &mut Worker<Tight>) -> Vec<Vec<u8>> {
    let memory = &mut worker.device_mut().memory;
    let packet = |seq: u32, length: usize| Build {
        partial: length > 1400,
        seq,
        payload: vec![seq as u8; length],
        ..Build::tcp(CLIENT, VIP, ACK)
    };
    let joined = Offload {
        needs_csum: true,
        csum_start: 34,
        csum_offset: 16,
        gso_type: 1,
        gso_size: 1400,
        hdr_len: 54,
        csum_valid: false,
    };
    memory.inject(WAN.into(), &Build::tcp(CLIENT, VIP, SYN).frame(), Offload::default());
    memory.inject(WAN.into(), &packet(1, 14_000).frame(), joined);
    memory.inject(WAN.into(), &packet(14_001, 10).frame(), Offload::default());
    memory.inject(WAN.into(), &packet(14_011, 2800).frame(), joined);
    assert_eq!(worker.burst(Now { tick: 1, micros: 1 }), 4);
    let sent = worker.device_mut().memory.sent();
    assert!(sent.iter().all(|(port, _, offload)| *port == usize::from(LAN) && *offload == Offload::default()));
    sent.into_iter().map(|(_, frame, _)| frame).collect()
}

#[test]
fn pieces_leave_however_little_room_the_device_has() {
    let mut wide = worker(1000);
    let all = play(&mut wide);
    assert_eq!(all.len(), 1 + 10 + 1 + 2);
    for most in [1, 3, 10] {
        let mut tight = worker(most);
        let sent = play(&mut tight);
        assert!(sent.iter().all(|frame| all.contains(frame)) && sent.len() == all.len());
        let counters = tight.scene.world.counters.worker(0);
        let bytes: usize = sent.iter().map(Vec::len).sum();
        assert_eq!((counters.get(Count::TxPackets), counters.get(Count::TxBytes)), (14, bytes as u64));
        assert_eq!((counters.get(Count::Cut), counters.refused(Refusal::TxFull)), (2, 0));
    }
}

#[test]
fn what_finds_no_room_at_all_is_counted() {
    let mut none = worker(0);
    assert_eq!(play(&mut none).len(), 2, "the two that left whole, from their own slots");
    assert_eq!(none.scene.world.counters.worker(0).refused(Refusal::TxFull), 12);
}

/// Those that follow wait for the first one, and that for its next hop.
#[test]
fn a_datagram_in_pieces_waits_for_a_silent_neighbor_as_a_whole() {
    let mut worker = worker_of(Mode::Direct, 1000);
    let datagram = |length| Build::udp("198.18.0.7:5000", "203.0.113.10:514", &vec![7; length]).frame();
    worker.device_mut().memory.inject(WAN.into(), &datagram(1), Offload::default());
    worker.burst(Now { tick: 1, micros: 1 });
    let mut hop = None;
    worker.scene.world.shared.table.for_each(|on| hop = Some(on.flow.hops[1]));
    let hops = worker.scene.world.shared.hops.clone();
    let (id, neighbor) = (hop.unwrap(), hops.get(hop.unwrap()).unwrap());
    hops.clear(id);
    for piece in cut(&datagram(4000), 7, &[1440, 2880]).iter().rev() {
        worker.device_mut().memory.inject(WAN.into(), piece, Offload::default());
    }
    worker.burst(Now { tick: 2, micros: 2 });
    worker.burst(Now { tick: 5, micros: 3 });
    assert_eq!(worker.device_mut().memory.sent().len(), 1, "the first datagram only");
    hops.set(id, neighbor);
    worker.burst(Now { tick: 6, micros: 4 });
    let sent: Vec<_> = worker.device_mut().memory.sent().into_iter().map(|(_, frame, _)| frame).collect();
    assert_eq!(Seen::of(&join(&sent)).payload, [7; 4000]);
    let counters = worker.scene.world.counters.worker(0);
    assert_eq!((counters.get(Count::Held), counters.get(Count::FragmentsHeld)), (1, 2));
    assert!(Refusal::ALL.iter().all(|refusal| counters.refused(*refusal) == 0));
}

/// New connections are looked at ahead, and those of them that come twice are not taken for two.
#[test]
fn connections_that_begin_in_one_batch_take_turns_and_places_as_if_they_came_one_by_one() {
    const CLIENTS: u16 = 90;
    let syn = |port: u16| Build::tcp(&format!("198.18.0.7:{port}"), VIP, SYN).frame();
    let run = |burst: usize| {
        let mut worker = worker_of(Mode::Nat, 1000);
        let mut sent = Vec::new();
        // Each SYN again behind its neighbor's, and once more at the end.
        let ports: Vec<u16> = (0..CLIENTS).flat_map(|n| [1000 + n, 1000 + (n + 1) % CLIENTS]).chain([1000]).collect();
        for (at, ports) in ports.chunks(burst).enumerate() {
            for port in ports {
                worker.device_mut().memory.inject(WAN.into(), &syn(*port), Offload::default());
            }
            while worker.burst(Now { tick: 1, micros: at as u32 }) > 0 {}
            sent.extend(worker.device_mut().memory.sent().into_iter().map(|(_, frame, _)| Seen::of(&frame)));
        }
        let shared = &worker.scene.world.shared;
        let services = worker.scene.world.services.load();
        let service = services.find(&Endpoint::new([203, 0, 113, 10].into(), 110), TCP, 4).unwrap();
        let active: Vec<u32> = service.reals.iter().map(|real| shared.status.slot(real.slot).active()).collect();
        let on_record: u32 = service.reals.iter().map(|real| shared.status.slot(real.slot).on_record()).sum();
        let total: u64 = service.reals.iter().map(|real| shared.status.slot(real.slot).total()).sum();
        let all = u64::from(CLIENTS);
        assert_eq!((u64::from(shared.table.len()), u64::from(on_record), total), (all, all, all));
        assert_eq!(shared.status.service_active(service.slot), u32::from(CLIENTS));
        assert_eq!(sent.len(), ports.len());
        let mut went: Vec<_> = sent.iter().map(|seen| (seen.src.port(), seen.dst)).collect();
        went.sort_unstable();
        went.dedup();
        assert_eq!(went.len(), usize::from(CLIENTS), "each client to one server, again and again");
        (active, went)
    };
    let alone = run(1);
    for burst in [2, 12, 13, 64, 1000] {
        let (active, _) = run(burst);
        assert_eq!(active, alone.0, "in batches of {burst}");
    }
}
