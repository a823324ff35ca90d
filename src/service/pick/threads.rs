//! Many workers choose at once: counts stay exact.

use super::tests::{Shop, target};
use super::*;
use crate::service::Terms;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const THREADS: u32 = 6;

/// Each thread makes `each` choices, all beginning at once; what they come to.
fn choices(shop: &Shop, each: u32) -> Vec<Result<u16, Refusal>> {
    let barrier = Barrier::new(THREADS as usize);
    let choose = |thread: u32| {
        barrier.wait();
        let ask = |n| match shop.ask(thread as usize, thread * each + n, false, 0) {
            Choice::Real(target) | Choice::Remote(target) => Ok(target.slot),
            Choice::Nobody(refusal) => Err(refusal),
        };
        (0..each).map(ask).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || choose(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn shop(scheduler: Scheduler, reals: u16, limit: u32, terms: Terms) -> Shop {
    let real = |number| Target { max_connections: limit, ..target(number, 1, 0) };
    Shop::open(scheduler, (0..reals).map(real).collect(), vec![target(reals, 1, 1)], terms)
}

/// All counts at one moment: what two looks in a row agree on.
fn at_one_moment(shop: &Shop, servers: u16) -> Vec<u32> {
    let look = || (0..servers).map(|slot| shop.active(slot)).collect::<Vec<_>>();
    let mut counts = look();
    loop {
        let again = look();
        if counts == again {
            return counts;
        }
        counts = again;
    }
}

/// Not only in the end, when what went wrong on the way has evened out: at every moment.
#[test]
fn least_connections_is_exact_whatever_the_number_of_workers() {
    for (servers, scheduler) in [(2, Scheduler::LeastConnections), (7, Scheduler::WeightedLeastConnections)] {
        let shop = shop(scheduler, servers, 0, Terms::default());
        let most_apart = AtomicU32::new(0);
        let work = &|thread: u32| {
            for n in 0..5_000 {
                assert!(matches!(shop.ask(thread as usize, n, false, 0), Choice::Real(_)));
                let counts = at_one_moment(&shop, servers);
                most_apart.fetch_max(counts.iter().max().unwrap() - counts.iter().min().unwrap(), SeqCst);
            }
        };
        std::thread::scope(|scope| (0..THREADS).for_each(|thread| _ = scope.spawn(move || work(thread))));
        assert_eq!(at_one_moment(&shop, servers).iter().sum::<u32>(), THREADS * 5_000);
        assert_eq!(most_apart.load(SeqCst), 1, "the most that any two counts were ever apart");
    }
}

#[test]
fn no_server_ever_has_more_than_its_limit_and_all_are_full_before_one_overflows() {
    for scheduler in [Scheduler::RoundRobin, Scheduler::LeastConnections, Scheduler::SourceHash, Scheduler::Maglev] {
        let shop = shop(scheduler, 5, 100, Terms::default());
        let chosen = choices(&shop, 200);
        let count = |slot| chosen.iter().filter(|choice| **choice == Ok(slot)).count();
        assert_eq!([0, 1, 2, 3, 4, 5].map(count), [100, 100, 100, 100, 100, 700], "{scheduler:?}");
    }
}

#[test]
fn a_services_limit_is_exact_and_those_refused_leave_nothing_behind() {
    let terms = Terms { max_connections: 321, ..Terms::default() };
    let shop = shop(Scheduler::RoundRobin, 3, 50, terms);
    let chosen = choices(&shop, 200);
    assert_eq!(chosen.iter().filter(|choice| choice.is_ok()).count(), 321);
    assert!(chosen.iter().flatten().filter(|slot| **slot < 3).count() == 150);
    assert_eq!(shop.status.service_active(5), 321);
    for slot in chosen.into_iter().flatten() {
        shop.status.release(slot);
    }
    assert_eq!((shop.status.service_active(5), shop.active(0), shop.active(3)), (0, 0, 0));
}

/// Connections end while others come: what stands in the way of nobody is what was given back.
#[test]
fn places_that_are_given_back_are_all_there_in_the_end() {
    let terms = Terms { max_connections: 40, persistence: 100, ..Terms::default() };
    let shop = shop(Scheduler::LeastConnections, 4, 8, terms);
    let churn = &|thread: u32| {
        let mut open = Vec::new();
        for n in 0..5_000 {
            match shop.ask(thread as usize, n % 50, false, 0) {
                Choice::Real(target) | Choice::Remote(target) => open.push(target.slot),
                Choice::Nobody(_) => open.drain(..).for_each(|slot| shop.status.release(slot)),
            }
            assert!((0..4).all(|slot| shop.active(slot) <= 8) && shop.status.service_active(5) <= 40);
        }
        open.into_iter().for_each(|slot| shop.status.release(slot));
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|thread| _ = scope.spawn(move || churn(thread))));
    assert!((0..5).all(|slot| shop.active(slot) == 0) && shop.status.service_active(5) == 0);
}

/// Control marks a target down and finds it without connections: then nobody has a place, and nobody gets one.
#[test]
fn a_slot_that_was_found_empty_after_it_went_down_stays_empty() {
    let shop = shop(Scheduler::RoundRobin, 1, 0, Terms::default());
    let (slot, stop, held) = (shop.status.slot(0), AtomicBool::new(false), AtomicU32::new(0));
    let work = || {
        while !stop.load(SeqCst) {
            if slot.take(0, 0) {
                held.store(1, SeqCst);
                (0..20).for_each(|_| std::hint::spin_loop());
                held.store(0, SeqCst);
                slot.give_up();
            }
            (0..20).for_each(|_| std::hint::spin_loop());
        }
    };
    let found = std::thread::scope(|scope| {
        scope.spawn(work);
        let mut found = 0;
        for _ in 0..30_000 {
            slot.set_up(false);
            if slot.is_idle() {
                found += (0..10).map(|_| held.load(SeqCst)).max().unwrap_or(0);
            }
            slot.set_up(true);
        }
        stop.store(true, SeqCst);
        found
    });
    assert_eq!(found, 0, "places that were held after all");
}

/// Two first connections of one client at the same moment.
#[test]
fn a_clients_connections_go_to_one_server_from_the_first_on() {
    let terms = Terms { persistence: 100, prefix: 32, ..Terms::default() };
    let shop = shop(Scheduler::RoundRobin, 5, 0, terms);
    let barrier = Barrier::new(THREADS as usize);
    let visit = |thread: u32| {
        let mut seen = Vec::new();
        for client in 0..300 {
            barrier.wait();
            match shop.ask(thread as usize, client, false, 0) {
                Choice::Real(target) => seen.push(target.slot),
                _ => panic!("nobody"),
            }
        }
        seen
    };
    let seen: Vec<Vec<u16>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || visit(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(seen.iter().all(|mine| *mine == seen[0]), "one client, one server");
    let active: u32 = (0..5).map(|slot| shop.active(slot)).sum();
    assert_eq!(
        (active, shop.status.service_active(5)),
        (300 * THREADS, 300 * THREADS),
        "what was chosen in vain went back"
    );
}

/// Two workers that take turns at the cursor may each meet the same server every time.
#[test]
fn workers_that_rotate_at_once_still_find_the_only_server_that_is_up() {
    let shop = Shop::open(Scheduler::RoundRobin, vec![target(0, 1, 0), target(1, 1, 0)], Vec::new(), Terms::default());
    shop.status.slot(0).set_up(false);
    assert!(choices(&shop, 20_000).into_iter().all(|choice| choice == Ok(1)));
}
