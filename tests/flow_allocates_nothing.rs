//! The flow room takes its memory at start and never again: counted at the allocator.

use farside::flow::{
    Claims, Encapsulation, FlowTable, HashKey, Ledger, Mode, NewFlow, PoolKey, Refused, Side, State, Timeouts,
};
use farside::wire::ip::{Endpoint, TCP, V4};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting the calls of each thread.
struct Counting;

// SAFETY: every call is handed to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's promises are those that System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted(work: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

fn v4(last: u8, port: u16) -> Endpoint {
    Endpoint::new([10, 0, 0, last].into(), port)
}

#[test]
fn a_flow_comes_and_goes_without_the_allocator() {
    const FLOWS: u32 = 1000;
    let key = HashKey::random().expect("random numbers");
    let table = FlowTable::new(FLOWS, 2, key, Claims::own(FLOWS));
    let ledger = Ledger::new(2);
    let pool_key = PoolKey { pip: v4(250, 0).addr, remote: v4(200, 110), protocol: TCP, family: V4 };
    let pool = ledger.open(pool_key, 1024..=u16::MAX, |_| false).expect("a pool");
    let timeouts = Timeouts { tcp_syn: 10, tcp_established: 10, tcp_closing: 10, tcp_reset: 10, udp: 10 };
    assert_ne!(counted(|| drop(Box::new(1))), 0, "the counter counts");

    let (mut removed, mut full) = (0, false);
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
                    state: State::SynSent,
                    hops: [0; 2],
                    epoch: 0,
                };
                let hash = table.hash(&flow.client_key());
                table.prefetch(hash);
                table.prefetch_record(hash, V4);
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
    assert!(full && removed >= 3 * FLOWS && table.is_empty());
    assert_eq!(ledger.headroom(pool).free, ledger.headroom(pool).total);
}
