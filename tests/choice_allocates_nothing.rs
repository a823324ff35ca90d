//! Choosing a target takes no memory: counted at the allocator.

use farside::config::{OnDown, Overflow, Scheduler};
use farside::counters::{Count, Counters};
use farside::flow::HashKey;
use farside::service::persistence::Memory;
use farside::service::pick::{Asker, Books, Choice};
use farside::service::status::StatusTable;
use farside::service::{Service, Target, Terms};
use farside::wire::ip::{Addr, Endpoint, TCP, V4};

mod counting;
use counting::counted;

fn target(slot: u16, backup: bool) -> Target {
    Target {
        name: format!("s/{slot}"),
        slot,
        life: 0,
        endpoint: Endpoint::new([10, 0, 0, slot as u8].into(), 110),
        family: V4,
        weight: u32::from(slot) + 1,
        max_connections: if slot < 8 { 3 } else { 0 },
        backup,
        priority: 1,
        pools: Vec::new(),
        probe_pools: Vec::new(),
    }
}

#[test]
fn a_connection_finds_its_target_without_the_allocator() {
    for scheduler in [
        Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin,
        Scheduler::LeastConnections,
        Scheduler::WeightedLeastConnections,
        Scheduler::SourceHash,
        Scheduler::Maglev,
        Scheduler::Fastest,
    ] {
        let status = StatusTable::new();
        (0..10).for_each(|slot| status.slot(slot).set_up(true));
        let reals = (0..8).map(|slot| target(slot, slot > 5)).collect();
        let vip = Endpoint::new([203, 0, 113, 10].into(), 110);
        let terms = Terms { max_connections: 30, overflow: Overflow::Remote, persistence: 9, prefix: 32 };
        let remotes = vec![target(8, false), target(9, false)];
        let service = Service::new("s".into(), vip, (V4, TCP), scheduler, OnDown::Keep, reals, remotes).on(0, terms);
        let (memory, counters) = (Memory::new(64, HashKey { k0: 1, k1: 2 }), Counters::new(1));
        let mut chosen = [0; 10];
        let calls = counted(|| {
            for round in 0..20_u32 {
                let (mut held, mut count) = ([0; 30], 0);
                // More clients than are remembered, each with one connection more than there is room for.
                for n in 0..200 {
                    let books =
                        Books { status: &status, memory: &memory, counters: counters.worker(0), now: round * 5 };
                    let addr = Addr::v4((n + round * 10).to_be_bytes());
                    match service
                        .pick(&books, &Asker { addr: &addr, peer: n % 7 == 0, clashes: n % 3 / 2, foreseen: None })
                    {
                        Choice::Real(target) | Choice::Remote(target) => {
                            chosen[usize::from(target.slot)] += 1;
                            (held[count], count) = (target.slot, count + 1);
                        }
                        Choice::Nobody(_) => {}
                    }
                }
                held[..count].iter().for_each(|slot| status.release(*slot));
                memory.sweep(0, 4, round * 5, |_| 9);
            }
        });
        assert_eq!(calls, 0, "{scheduler:?}");
        assert!(chosen.iter().all(|times| *times > 0), "{scheduler:?} was everywhere: {chosen:?}");
        assert!(counters.total(Count::PersistenceHits) > 0 && counters.total(Count::ChosenOverflow) > 0);
    }
}
