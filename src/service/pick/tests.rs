use super::*;
use crate::config::OnDown;
use crate::counters::Counters;
use crate::flow::HashKey;
use crate::service::Terms;
use crate::wire::ip::{Endpoint, TCP, V4};

pub fn target(number: u16, weight: u32, priority: u32) -> Target {
    Target {
        name: format!("s/{number}"),
        slot: number,
        life: 0,
        endpoint: Endpoint { addr: Addr::v4([10, 0, 0, number as u8 + 1]), port: 110 },
        family: V4,
        weight,
        max_connections: 0,
        backup: false,
        priority,
        pools: Vec::new(),
        probe_pools: Vec::new(),
    }
}

/// A service, and all that its choices are made by.
pub struct Shop {
    pub service: Service,
    pub status: StatusTable,
    pub memory: Memory,
    counters: Counters,
    now: Tick,
}

impl Shop {
    /// All targets up.
    pub fn open(scheduler: Scheduler, reals: Vec<Target>, remotes: Vec<Target>, terms: Terms) -> Shop {
        let status = StatusTable::new();
        for target in reals.iter().chain(&remotes) {
            status.slot(target.slot).set_up(true);
            status.set_service(target.slot, 5);
        }
        let vip = Endpoint { addr: Addr::v4([203, 0, 113, 10]), port: 110 };
        let service = Service::new("s".into(), vip, (V4, TCP), scheduler, OnDown::Keep, reals, remotes);
        let memory = Memory::new(1024, HashKey { k0: 1, k1: 2 });
        Shop { service: service.on(5, terms), status, memory, counters: Counters::new(8), now: 1000 }
    }

    /// Real servers with these weights; remote sites (priority, weight) are numbered on behind them.
    fn new(scheduler: Scheduler, weights: &[u32], remotes: &[(u32, u32)]) -> Shop {
        let reals: Vec<Target> = weights.iter().enumerate().map(|(n, weight)| target(n as u16, *weight, 0)).collect();
        let remote =
            |(n, (priority, weight)): (usize, &(u32, u32))| target((weights.len() + n) as u16, *weight, *priority);
        let remotes = remotes.iter().enumerate().map(remote).collect();
        Shop::open(scheduler, reals, remotes, Terms::default())
    }

    /// What `worker` chooses for a client.
    pub fn ask(&self, worker: usize, client: u32, peer: bool, clashes: u32) -> Choice<'_> {
        let Shop { status, memory, counters, now, .. } = self;
        let books = Books { status, memory, counters: counters.worker(worker), now: *now };
        let addr = Addr::v4(client.to_be_bytes());
        self.service.pick(&books, &Asker { addr: &addr, peer, clashes, foreseen: None })
    }

    /// The slot that takes the connection, or why none does.
    pub fn pick(&self, client: u32) -> Result<u16, Refusal> {
        match self.ask(0, client, false, 0) {
            Choice::Real(target) | Choice::Remote(target) => Ok(target.slot),
            Choice::Nobody(refusal) => Err(refusal),
        }
    }

    /// As [`Shop::pick`], and the connection ends at once.
    pub fn visit(&self, client: u32) -> Result<u16, Refusal> {
        self.pick(client).inspect(|slot| self.status.release(*slot))
    }

    fn shares(&self, picks: u32) -> Vec<usize> {
        let mut shares = vec![0; self.service.reals.len()];
        for client in 0..picks {
            shares[usize::from(self.visit(client).unwrap())] += 1;
        }
        shares
    }

    pub fn active(&self, slot: u16) -> u32 {
        self.status.slot(slot).active()
    }

    fn up(&self, slot: u16, up: bool) {
        self.status.slot(slot).set_up(up);
    }

    pub fn count(&self, count: Count) -> u64 {
        self.counters.total(count)
    }
}

#[test]
fn round_robin_takes_turns_and_leaves_weight_zero_out() {
    let shop = Shop::new(Scheduler::RoundRobin, &[5, 1, 0], &[]);
    assert_eq!([0, 1, 2, 3].map(|n| shop.pick(n)), [Ok(0), Ok(1), Ok(0), Ok(1)]);
}

#[test]
fn weighted_round_robin_is_exact_and_smooth() {
    let shop = Shop::new(Scheduler::WeightedRoundRobin, &[4, 2, 1], &[]);
    let picks: Vec<_> = (0..7).map(|n| shop.pick(n).unwrap()).collect();
    assert_eq!(picks, [0, 1, 0, 2, 0, 1, 0]);
    assert_eq!(shop.shares(700), [400, 200, 100]);
}

#[test]
fn the_turns_of_a_server_that_is_down_are_shared_by_weight() {
    let shop = Shop::new(Scheduler::WeightedRoundRobin, &[1, 1, 1], &[]);
    shop.up(1, false);
    assert_eq!(shop.shares(600), [300, 0, 300]);
    shop.status.slot(0).set_drained(true);
    assert_eq!(shop.shares(10), [0, 0, 10]);
}

#[test]
fn enormous_weights_keep_their_proportion() {
    let shares = Shop::new(Scheduler::WeightedRoundRobin, &[1_000_000, 3_000_001], &[]).shares(4000);
    assert!((990..=1010).contains(&shares[0]), "{shares:?}");
}

#[test]
fn least_connections_looks_at_connections_and_its_weighted_kin_at_weights_too() {
    for (scheduler, chosen) in [(Scheduler::LeastConnections, 1), (Scheduler::WeightedLeastConnections, 0)] {
        let shop = Shop::new(scheduler, &[9, 1], &[]);
        (0..10).for_each(|_| assert!(shop.status.slot(0).take(0, 0)));
        (0..9).for_each(|_| assert!(shop.status.slot(1).take(0, 0)));
        assert_eq!(shop.pick(0), Ok(chosen));
    }
}

#[test]
fn weighted_least_connections_fills_by_weight() {
    let shop = Shop::new(Scheduler::WeightedLeastConnections, &[5, 3, 0, 2], &[]);
    (0..1000).for_each(|client| assert!(shop.pick(client).is_ok()));
    assert_eq!([0, 1, 2, 3].map(|slot| shop.active(slot)), [500, 300, 0, 200]);
}

#[test]
fn fastest_takes_the_quickest_answer() {
    let shop = Shop::new(Scheduler::Fastest, &[1, 1], &[]);
    shop.status.slot(0).note_connect(900);
    shop.status.slot(1).note_connect(300);
    assert_eq!(shop.pick(0), Ok(1));
}

/// A server that passes its checks but answers no SYN is never measured.
#[test]
fn fastest_does_not_send_everything_to_a_server_that_was_never_measured() {
    let shop = Shop::new(Scheduler::Fastest, &[1, 1], &[]);
    shop.status.slot(0).note_connect(200);
    (0..1000).for_each(|client| assert!(shop.pick(client).is_ok()));
    assert!(shop.active(0) > 0, "a thousand connections and no answer");
}

/// Who is served by whom, by client.
fn map_of(shop: &Shop, clients: u32) -> Vec<u16> {
    (0..clients).map(|client| shop.visit(client).unwrap()).collect()
}

#[test]
fn when_a_hashed_server_falls_only_its_own_clients_move_and_all_come_back_with_it() {
    for scheduler in [Scheduler::SourceHash, Scheduler::Maglev] {
        let shop = Shop::new(scheduler, &[1; 8], &[]);
        let before = map_of(&shop, 4000);
        shop.up(3, false);
        let after = map_of(&shop, 4000);
        let mut heirs = [0; 8];
        for (before, after) in before.iter().zip(&after) {
            if *before == 3 {
                heirs[usize::from(*after)] += 1;
            } else {
                assert_eq!(after, before, "{scheduler:?} moved a client of a healthy server");
            }
        }
        let (most, orphans) = (heirs.iter().max().unwrap(), heirs.iter().sum::<usize>());
        println!("{scheduler:?}: of 4000 clients {orphans} moved, to {heirs:?}");
        assert!(heirs[3] == 0 && heirs.iter().filter(|share| **share > 0).count() == 7, "spread over all the others");
        assert!(*most < orphans / 7 * 2, "{scheduler:?}: {heirs:?}, and no heir takes twice its part");
        // A second one falls and comes back: nobody moves but its own, the orphans that it had taken in included.
        shop.up(5, false);
        let second = map_of(&shop, 4000);
        assert!(after.iter().zip(&second).all(|(was, is)| was == is || *was == 5));
        shop.up(5, true);
        assert_eq!(map_of(&shop, 4000), after, "{scheduler:?}");
        shop.up(3, true);
        assert_eq!(map_of(&shop, 4000), before, "{scheduler:?}: everybody is where he was");
    }
}

#[test]
fn a_full_hashed_server_sends_clients_on_and_has_them_back_with_room() {
    for scheduler in [Scheduler::SourceHash, Scheduler::Maglev] {
        let mut reals = vec![target(0, 1, 0), target(1, 1, 0), target(2, 1, 0)];
        reals[1].max_connections = 1;
        let shop = Shop::open(scheduler, reals, Vec::new(), Terms::default());
        let client = (0..).find(|client| shop.visit(*client) == Ok(1)).unwrap();
        assert_eq!(shop.pick(client), Ok(1));
        let elsewhere = shop.visit(client).unwrap();
        assert_ne!(elsewhere, 1);
        shop.status.release(1);
        assert_eq!(shop.visit(client), Ok(1));
    }
}

/// A client whose address and port the chosen server has already, by another VIP, cannot be served by it this time.
#[test]
fn after_a_clash_hashing_goes_on_to_another_server() {
    for scheduler in [Scheduler::SourceHash, Scheduler::Maglev] {
        let shop = Shop::new(scheduler, &[1; 8], &[]);
        let slots = |clashes| match shop.ask(0, 77, false, clashes) {
            Choice::Real(target) => target.slot,
            _ => panic!("nobody"),
        };
        assert_eq!(slots(0), slots(0));
        assert!((1..4).any(|clashes| slots(clashes) != slots(0)), "{scheduler:?}");
    }
}

#[test]
fn maglev_follows_weights() {
    let shares = Shop::new(Scheduler::Maglev, &[3, 1, 0], &[]).shares(8000);
    assert!((5700..=6300).contains(&shares[0]) && shares[2] == 0, "{shares:?}");
}

#[test]
fn remote_sites_are_the_last_resort_by_priority_then_weight() {
    let shop = Shop::new(Scheduler::RoundRobin, &[1], &[(2, 1), (1, 3), (1, 1)]);
    assert_eq!(shop.pick(7), Ok(0), "the local server comes first");
    shop.up(0, false);
    let mut shares = [0; 4];
    (0..400).for_each(|_| shares[usize::from(shop.pick(7).unwrap())] += 1);
    assert!(shares[..2] == [0, 0] && (298..=302).contains(&shares[2]) && shares[2] + shares[3] == 400, "{shares:?}");
    let peers = shop.ask(0, 7, true, 0);
    assert!(matches!(peers, Choice::Nobody(Refusal::NoServerForPeer)), "a peer's connection is never carried on");
    shop.up(2, false);
    shop.up(3, false);
    assert_eq!(shop.pick(7), Ok(1), "the next priority");
    shop.up(1, false);
    assert_eq!(shop.pick(7), Err(Refusal::NoServer));
}

#[test]
fn nobody_is_refused_while_the_first_check_of_a_target_is_under_way() {
    let shop = Shop::new(Scheduler::RoundRobin, &[1, 1, 0], &[(1, 1)]);
    (0..3).for_each(|slot| shop.up(slot, false));
    shop.status.slot(1).set_awaited();
    assert_eq!(shop.visit(7), Ok(3), "the remote site is known to be up");
    shop.up(3, false);
    assert_eq!(shop.pick(7), Err(Refusal::NotChecked));
    assert_eq!(shop.status.service_active(5), 0);
    shop.status.slot(1).set_drained(true);
    assert_eq!(shop.pick(7), Err(Refusal::NoServer), "the check would change nothing");
    shop.status.slot(1).set_drained(false);
    shop.up(1, false);
    assert_eq!(shop.pick(7), Err(Refusal::NoServer), "the check has spoken");
    shop.status.slot(2).set_awaited();
    assert_eq!(shop.pick(7), Err(Refusal::NoServer), "weight 0 takes no connection either way");
    shop.status.slot(3).set_awaited();
    assert_eq!(shop.pick(7), Err(Refusal::NotChecked));
    assert!(matches!(shop.ask(0, 7, true, 0), Choice::Nobody(Refusal::NoServerForPeer)), "not that of a remote site");
    shop.up(3, true);
    assert_eq!(shop.pick(7), Ok(3));
}

/// By the snapshot of before a reload, or because its check has spoken a moment ago: nobody took the connection, and somebody would now.
#[test]
fn nobody_is_refused_while_a_target_that_was_passed_over_has_room() {
    for scheduler in ALL {
        let shop = Shop::new(scheduler, &[1], &[(1, 1)]);
        (0..2).for_each(|slot| shop.up(slot, false));
        assert_eq!(shop.pick(7), Err(Refusal::NoServer));
        shop.status.slot(0).reset();
        shop.up(0, true);
        assert_eq!(shop.pick(7), Err(Refusal::NotChecked), "{scheduler:?}: the slot is another target's by now");
        assert_eq!((shop.active(0), shop.status.service_active(5)), (0, 0), "and nobody has a place");
    }
}

const ALL: [Scheduler; 7] = [
    Scheduler::RoundRobin,
    Scheduler::WeightedRoundRobin,
    Scheduler::LeastConnections,
    Scheduler::WeightedLeastConnections,
    Scheduler::SourceHash,
    Scheduler::Maglev,
    Scheduler::Fastest,
];

#[test]
fn nobody_at_all_is_nobody() {
    for scheduler in ALL {
        for weights in [&[0, 0][..], &[]] {
            let shop = Shop::new(scheduler, weights, &[]);
            assert_eq!(shop.pick(1), Err(Refusal::NoServer), "{scheduler:?}");
            assert_eq!(shop.status.service_active(5), 0, "and nobody has a place");
        }
    }
}

#[test]
fn every_scheduler_goes_from_primaries_to_backups_to_the_remote_site_as_they_fill_up() {
    for scheduler in ALL {
        let mut reals: Vec<Target> = (0..4).map(|n| target(n, 1, 0)).collect();
        reals.iter_mut().for_each(|real| real.max_connections = 3);
        (reals[1].backup, reals[3].backup) = (true, true);
        let shop = Shop::open(scheduler, reals, vec![target(9, 1, 1)], Terms::default());
        let mut order: Vec<u16> = (0..14).map(|client| shop.pick(client).unwrap()).collect();
        order[..6].sort_unstable();
        order[6..12].sort_unstable();
        assert_eq!(order, [0, 0, 0, 2, 2, 2, 1, 1, 1, 3, 3, 3, 9, 9], "{scheduler:?}");
        assert_eq!((shop.count(Count::ChosenBackup), shop.count(Count::ChosenOverflow)), (6, 2));
        assert!(matches!(shop.ask(0, 1, true, 0), Choice::Nobody(Refusal::ServersFull)), "peers do not overflow");
        shop.up(9, false);
        assert_eq!(shop.pick(1), Err(Refusal::ServersFull));
        shop.status.release(2);
        assert_eq!(shop.pick(1), Ok(2), "{scheduler:?}: there is room again");
        assert_eq!(shop.status.service_active(5), 14, "refused ones have no place");
    }
}

#[test]
fn backups_step_in_when_all_others_are_down_and_out_when_one_is_back() {
    let mut reals = vec![target(0, 1, 0), target(1, 1, 0)];
    reals[1].backup = true;
    let shop = Shop::open(Scheduler::RoundRobin, reals, vec![target(2, 1, 1)], Terms::default());
    assert_eq!([1, 2, 3].map(|client| shop.pick(client)), [Ok(0); 3]);
    shop.up(0, false);
    assert_eq!(shop.pick(4), Ok(1), "before the remote site");
    shop.up(0, true);
    assert_eq!(shop.pick(5), Ok(0));
}

#[test]
fn a_service_that_does_not_overflow_refuses_while_a_server_is_up_and_is_carried_when_none_is() {
    let mut reals = vec![target(0, 1, 0)];
    reals[0].max_connections = 1;
    let terms = Terms { overflow: Overflow::Refuse, ..Terms::default() };
    let shop = Shop::open(Scheduler::RoundRobin, reals, vec![target(1, 1, 1)], terms);
    assert_eq!([1, 2].map(|client| shop.pick(client)), [Ok(0), Err(Refusal::ServersFull)]);
    shop.up(0, false);
    assert_eq!(shop.pick(3), Ok(1));
}

#[test]
fn a_services_limit_counts_connections_at_remote_sites_too() {
    let mut reals = vec![target(0, 1, 0)];
    reals[0].max_connections = 2;
    let terms = Terms { max_connections: 3, ..Terms::default() };
    let shop = Shop::open(Scheduler::LeastConnections, reals, vec![target(1, 1, 1)], terms);
    assert_eq!([1, 2, 3, 4].map(|client| shop.pick(client)), [Ok(0), Ok(0), Ok(1), Err(Refusal::ServiceFull)]);
    shop.status.release(0);
    assert_eq!([5, 6].map(|client| shop.pick(client)), [Ok(0), Err(Refusal::ServiceFull)]);
}

fn remembering(reals: Vec<Target>, remotes: Vec<Target>) -> Shop {
    let terms = Terms { persistence: 40, prefix: 32, ..Terms::default() };
    Shop::open(Scheduler::RoundRobin, reals, remotes, terms)
}

#[test]
fn a_client_comes_back_to_its_server_as_long_as_it_comes_in_time() {
    let mut shop = remembering((0..4).map(|n| target(n, 1, 0)).collect(), Vec::new());
    let first = shop.pick(7).unwrap();
    for _ in 0..10 {
        shop.now += 40;
        assert_eq!(shop.pick(7), Ok(first), "each visit counts anew");
        shop.pick(8).unwrap();
    }
    assert_eq!(shop.count(Count::PersistenceHits), 19);
    shop.now += 41;
    assert_ne!(shop.pick(7), Ok(first), "its time is over, and the rotation had gone on");
    assert_eq!(shop.count(Count::PersistenceMoved), 0);
}

#[test]
fn a_client_whose_server_takes_none_moves_and_stays_where_it_moved() {
    for away in ["down", "drained", "full"] {
        let mut reals: Vec<Target> = (0..2).map(|n| target(n, 1, 0)).collect();
        reals[0].max_connections = 1;
        let shop = remembering(reals, Vec::new());
        assert_eq!(shop.visit(7), Ok(0));
        match away {
            "down" => shop.up(0, false),
            "drained" => shop.status.slot(0).set_drained(true),
            _ => assert!(shop.status.slot(0).take(1, 0)),
        }
        assert_eq!(shop.visit(7), Ok(1), "{away}");
        shop.up(0, true);
        shop.status.slot(0).set_drained(false);
        (0..shop.active(0)).for_each(|_| shop.status.slot(0).give_up());
        assert_eq!([7; 4].map(|client| shop.visit(client)), [Ok(1); 4], "{away}");
        assert_eq!((shop.count(Count::PersistenceMoved), shop.count(Count::PersistenceHits)), (1, 4));
    }
}

#[test]
fn a_backup_keeps_its_clients_only_as_long_as_no_other_server_takes_them() {
    let mut reals: Vec<Target> = (0..4).map(|n| target(n, 1, 0)).collect();
    reals[1..].iter_mut().for_each(|real| real.backup = true);
    let shop = remembering(reals, Vec::new());
    shop.up(0, false);
    let first = shop.visit(7).unwrap();
    assert_eq!([7; 5].map(|client| shop.visit(client)), [Ok(first); 5]);
    shop.up(0, true);
    assert_eq!([7; 2].map(|client| shop.visit(client)), [Ok(0); 2]);
}

#[test]
fn a_remote_site_is_not_remembered() {
    let shop = remembering(vec![target(0, 1, 0)], vec![target(1, 1, 1)]);
    shop.up(0, false);
    assert_eq!(shop.visit(7), Ok(1));
    assert_eq!(shop.memory.clients(), 0);
    shop.up(0, true);
    assert_eq!(shop.visit(7), Ok(0));
}

#[test]
fn clients_of_one_network_count_as_one_if_the_mask_says_so() {
    let mut shop = remembering((0..4).map(|n| target(n, 1, 0)).collect(), Vec::new());
    shop.service.terms.prefix = 24;
    let first = shop.visit(0xc612_0001).unwrap();
    assert_eq!([2, 77, 255].map(|host| shop.visit(0xc612_0000 + host)), [Ok(first); 3]);
    assert_ne!(shop.visit(0xc612_0100), Ok(first));
}

#[test]
fn clients_do_not_follow_a_slot_to_its_next_target() {
    let shop = remembering((0..3).map(|n| target(n, 1, 0)).collect(), Vec::new());
    assert_eq!(shop.visit(7), Ok(0));
    shop.up(0, false);
    shop.status.slot(0).reset();
    shop.up(0, true);
    let mut reals: Vec<Target> = (0..3).map(|n| target(n, 1, 0)).collect();
    reals[0].life = shop.status.slot(0).life();
    let after = remembering(reals, Vec::new());
    let shop = Shop { service: after.service, ..shop };
    assert_eq!(shop.visit(8), Ok(0));
    assert_eq!(shop.visit(7), Ok(1), "it goes on with the rotation");
}

#[test]
fn equal_remote_sites_share_by_weight_and_by_what_is_left_of_their_cpus() {
    let shares = |said: &[(bool, u8)]| {
        let remotes: Vec<(u32, u32)> = vec![(1, 1000), (1, 1000), (1, 3000), (2, 1)];
        let shop = Shop::new(Scheduler::RoundRobin, &[], &remotes);
        (0..).zip(said).for_each(|(slot, (refuses, headroom))| shop.status.slot(slot).set_said(*refuses, *headroom));
        let mut shares = [0; 4];
        (0..1000).for_each(|_| shares[usize::from(shop.pick(7).unwrap())] += 1);
        shares
    };
    let near = |shares: [i32; 4], wanted: [i32; 4]| {
        assert!(shares.iter().zip(wanted).all(|(is, wanted)| (is - wanted).abs() <= 5), "{shares:?}, not {wanted:?}");
    };
    near(shares(&[]), [200, 200, 600, 0]);
    near(shares(&[(false, 200), (false, 200), (false, 200)]), [200, 200, 600, 0]);
    near(shares(&[(false, 240), (false, 60), (false, 60)]), [500, 125, 375, 0]);
    // Who says nothing counts as half busy.
    near(shares(&[(false, 255), (false, 0), (true, 255)]), [666, 334, 0, 0]);
    near(shares(&[(true, 1), (true, 1), (true, 255)]), [0, 0, 0, 1000]);
}

#[test]
fn a_remote_site_that_says_that_it_is_full_gets_nothing_until_it_says_otherwise_or_is_not_heard() {
    let shop = Shop::new(Scheduler::RoundRobin, &[], &[(1, 1)]);
    let slot = shop.status.slot(0);
    slot.set_said(true, 77);
    assert_eq!(shop.pick(7), Err(Refusal::NoServer));
    assert!(slot.is_up() && slot.headroom() == 77, "its checks pass all the same");
    shop.up(0, false);
    shop.up(0, true);
    assert_eq!(shop.pick(7), Err(Refusal::NoServer), "a check does not know better");
    slot.set_said(false, 77);
    assert_eq!(shop.pick(7), Ok(0));
    slot.set_said(true, 1);
    slot.set_said(false, 0);
    assert_eq!((shop.pick(7), slot.headroom()), (Ok(0), 128));
}
