//! Flows and fragments take their memory at start and never again: counted at the allocator.

use farside::config::file;
use farside::counters::Counters;
use farside::device::{Frame, HEADROOM, Offload};
use farside::flow::{
    Encapsulation, FlowTable, HashKey, Hint, Ledger, Mode, NewFlow, PoolKey, Refused, Side, State, Timeouts,
};
use farside::forward::ahead::Ahead;
use farside::forward::fragment::{Fragments, SCRATCH};
use farside::forward::limit::Limits;
use farside::forward::paths::Paths;
use farside::forward::{Context, Now, Shared, Verdict, forward};
use farside::route::{Fib, HopTable, Prefix, ResolveQueue};
use farside::service::build::build;
use farside::service::persistence::Memory;
use farside::service::registry::Registry;
use farside::service::status::StatusTable;
use farside::wire;
use farside::wire::ip::{Endpoint, TCP, V4};
use farside::wire::{Parsed, parse};
use std::sync::Arc;

mod counting;
use counting::counted;

#[path = "../src/testing.rs"]
#[allow(dead_code)]
mod testing;

fn v4(last: u8, port: u16) -> Endpoint {
    Endpoint::new([10, 0, 0, last].into(), port)
}

#[test]
fn a_flow_comes_and_goes_without_the_allocator() {
    const FLOWS: u32 = 1000;
    let key = HashKey::random().expect("random numbers");
    let table = FlowTable::new(FLOWS, 2, key);
    let ledger = Ledger::new(2);
    let pool_key = PoolKey { pip: v4(250, 0).addr, remote: v4(200, 110), protocol: TCP, family: V4 };
    let pool = ledger.open(pool_key, 1024..=u16::MAX, |_| false).expect("a pool");
    let timeouts = Timeouts { tcp_syn: 10, tcp_established: 10, tcp_closing: 10, tcp_reset: 10, udp: 10 };
    assert_ne!(counted(|| drop(Box::new(1))), 0, "the counter counts");

    let (mut removed, mut stood, mut full) = (0, 0, false);
    let calls = counted(|| {
        for round in 0..3 {
            let now = round * 100;
            // One more than there is room for.
            for i in 0..=FLOWS as u16 {
                let worker = usize::from(i % 2);
                let client = v4(1, i);
                // In turn to a local real server and to a remote site.
                let port = if i % 4 < 2 { None } else { ledger.lend(pool, worker, now) };
                let flow = NewFlow {
                    family: V4,
                    target_family: V4,
                    protocol: TCP,
                    mode: if port.is_none() { Mode::Nat } else { Mode::Remote },
                    encapsulation: Encapsulation::Ipip,
                    client,
                    vip: v4(100, 110),
                    local: port.map_or(client, |port| v4(250, port)),
                    target: v4(200, 110),
                    target_slot: 1,
                    pool: port.map(|_| pool),
                    worker: worker as u8,
                    track_acks: true,
                    per_packet: false,
                    state: State::SynSent,
                    hops: [0; 2],
                    epoch: 0,
                    stamp: 0,
                };
                let key = flow.client_key();
                let hash = table.prefetch(&key).hash;
                table.prefetch_record(hash, V4);
                table.prefetch_late(hash, V4);
                let inserted = table.insert(&flow, hash, now);
                if inserted == Err(Refused::Full) {
                    full = true;
                    port.map(|port| ledger.give_back(pool, port, now));
                    continue;
                }
                let Some(mut found) = table.lookup(&flow.client_key(), hash) else { continue };
                table.touch(&found, now, 1, 60);
                table.note_ack(&found, 1);
                table.advance(&mut found, 0x10);
                table.set_hop(&mut found, Side::Client, 1, 1);
                table.set_state(&mut found, State::Established);
                let first = table.prefetch_record(hash, V4);
                let hint = if first.leads_on() { first } else { table.prefetch_late(hash, V4) };
                if let Some(standing) = table.standing(&key, hint, 1) {
                    standing.note(now, 60, || Some(1));
                    stood += 1;
                }
                if round > 0
                    && i % 3 == 0
                    && let Some(gone) = table.remove(found.at)
                {
                    removed += 1;
                    gone.pool.map(|pool| ledger.give_back(pool, gone.flow.local.port, now));
                }
            }
            for worker in 0..2 {
                table.sweep(worker, FLOWS, now + 50, 1, &timeouts, |gone| {
                    removed += 1;
                    gone.pool.map(|pool| ledger.give_back(pool, gone.flow.local.port, now));
                });
            }
        }
    });
    assert_eq!(calls, 0);
    assert!(full && removed >= 3 * FLOWS && stood >= 3 * FLOWS && table.is_empty());
    assert_eq!(ledger.headroom(pool).free, ledger.headroom(pool).total);
}

const CONFIG: &str = r#"
[datapath]
interfaces = ["wan0"]
[proxy]
addresses = ["203.0.113.250"]
ports = "1024-1123"
[[peer]]
name = "north"
proxy_addresses = ["198.51.100.250"]
[[service]]
name = "syslog"
vip = "203.0.113.10"
port = 514
protocol = "udp"
[service.check]
kind = "none"
[[service.remote]]
site = "north"
vip = "198.51.100.10"
"#;

/// Datagrams in pieces, in order and not, more of them than there is room for, and time that passes.
#[test]
fn fragments_come_and_go_without_the_allocator() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let path = directory.path().join("config");
    std::fs::write(&path, CONFIG).expect("a configuration");
    let config = file::load(&path).expect("a good configuration");
    let key = HashKey::random().expect("random numbers");
    let hops = Arc::new(HopTable::new());
    let shared = Shared {
        table: FlowTable::new(100, 1, key),
        ledger: Ledger::new(1),
        status: Arc::new(StatusTable::new()),
        hops: hops.clone(),
        resolve: Arc::new(ResolveQueue::new()),
        memory: Memory::new(100, key),
        paths: Paths::default(),
    };
    let (services, _) =
        build(&config, &mut Registry::default(), &shared.status, &shared.ledger, |_| false).expect("services");
    for remote in &services.services()[0].remotes {
        shared.status.slot(remote.slot).set_up(true);
    }
    let gateway = [203, 0, 113, 254].into();
    let any = Prefix { addr: [0, 0, 0, 0].into(), len: 0 };
    let fib = Fib::builder().hops(hops).port("wan0", [2, 0, 0, 0, 0, 1], 1500, &[]);
    let fib = fib.route(any, 0, Some(gateway)).neighbor(0, gateway, [2, 0, 0, 0, 0, 9]).build();
    let counters = Counters::new(1);
    let (mut limits, mut fragments) = (Limits::default(), Fragments::new(0, 1, key));
    let mut ahead = Ahead::default();
    ahead.ways.follow(&fib);

    let datagram = testing::Build::udp("198.18.0.7:5000", "203.0.113.10:514", &[7; 4000]).frame();
    let orders = [[0, 1, 2], [2, 1, 0], [1, 2, 2]];
    let frames: Vec<Vec<u8>> = (0..3000)
        .flat_map(|id: u32| {
            let pieces = testing::cut(&datagram, id, &[1440, 2880]);
            orders[id as usize % 3].map(|at| pieces[at].clone())
        })
        .collect();
    let (mut buffer, mut scratch) = (vec![0; SCRATCH], vec![0; SCRATCH]);
    let (mut passed, mut kept) = (0, 0);
    let calls = counted(|| {
        for (n, bytes) in frames.iter().enumerate() {
            let mut ctx = Context {
                shared: &shared,
                services: &services,
                fib: &fib,
                counters: counters.worker(0),
                limits: &mut limits,
                fragments: &mut fragments,
                ahead: &mut ahead,
                worker: 0,
                now: Now { tick: n as u32 / 1000, micros: 0 },
            };
            let mut run = |frame: &mut Frame, ctx: &mut Context| {
                let parsed = parse(&frame.buf[frame.start..frame.start + frame.len]);
                let hash = match &parsed {
                    Ok(Parsed::Ip(packet)) => shared.table.hash(&packet.key()),
                    _ => 0,
                };
                match forward(frame, &parsed, Hint::of(hash), ctx) {
                    Verdict::Transmit { .. } => passed += 1,
                    Verdict::Kept => kept += 1,
                    _ => {}
                }
            };
            buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
            let len = bytes.len();
            let offload = Offload::default();
            run(&mut Frame { buf: &mut buffer, start: HEADROOM, len, offload, port: 0, wire_len: len }, &mut ctx);
            while let Some(mut frame) = ctx.fragments.take_ready(&mut scratch) {
                run(&mut frame, &mut ctx);
            }
        }
    });
    assert_eq!(calls, 0);
    assert_eq!((passed, kept), (6000, 4000));
}
