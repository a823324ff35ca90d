//! The schedule with a clock made of numbers.

use super::*;
use crate::config::{Check, Protocol};
use crate::health::TargetKind;
use proptest::prelude::*;

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);

fn target(name: &str, slot: u16, rise: u32, fall: u32) -> Target {
    Target {
        name: name.to_string(),
        kind: TargetKind::Real,
        slot,
        check: Check {
            kind: CheckKind::Tcp,
            port: None,
            interval: INTERVAL,
            timeout: TIMEOUT,
            rise,
            fall,
            passive: true,
        },
        address: "10.0.0.11:110".parse().unwrap(),
        protocol: Protocol::Tcp,
        source: None,
        device: None,
    }
}

fn no(reason: &str) -> Outcome {
    Outcome::Unhealthy(reason.to_string())
}

/// A schedule, its status words, and the time.
struct World {
    schedule: Schedule,
    status: Arc<StatusTable>,
    now: Instant,
}

impl World {
    fn new(targets: Vec<Target>) -> World {
        let status = Arc::new(StatusTable::new());
        let mut world = World { schedule: Schedule::new(status.clone(), 7), status, now: Instant::now() };
        world.schedule.set_targets(targets, world.now);
        world
    }

    fn jobs(&mut self) -> Vec<Job> {
        std::iter::from_fn(|| self.schedule.next(self.now)).collect()
    }

    fn advance(&mut self, by: Duration) -> Vec<Job> {
        self.now += by;
        self.jobs()
    }

    /// Sleeps until something starts, and answers it.
    fn answer(&mut self, outcome: Outcome) {
        loop {
            self.now = self.now.max(self.schedule.next_deadline().unwrap());
            for job in self.jobs() {
                if let Job::Start(id) = job {
                    self.schedule.finish(id, outcome, self.now);
                    return;
                }
            }
        }
    }

    fn up(&self, slot: u16) -> bool {
        self.status.slot(slot).is_up()
    }
}

#[test]
fn a_target_is_probed_at_once_and_its_first_answer_decides() {
    let mut world = World::new(vec![target("pop3/a", 3, 2, 4), target("pop3/b", 4, 2, 4)]);
    assert!(!world.schedule.first_round_done());
    assert_eq!(world.jobs(), [Job::Start(0), Job::Start(1)]);
    assert!(!world.up(3) && !world.up(4), "down until the first answer");
    assert_eq!(world.schedule.report(world.now)[0].status, "checking");

    world.schedule.finish(0, Outcome::Healthy, world.now);
    assert!(world.up(3) && !world.schedule.first_round_done());
    world.schedule.finish(1, no("connection refused"), world.now);
    assert!(!world.up(4) && world.schedule.first_round_done());

    let transitions = world.schedule.transitions();
    assert_eq!(transitions.len(), 2);
    assert!(transitions[0].up && transitions[0].first && transitions[0].slot == 3);
    assert_eq!(transitions[0].reason, "passes its TCP check");
    assert!(!transitions[1].up && transitions[1].reason == "connection refused");
    assert!(world.schedule.transitions().is_empty(), "each is told once");
}

#[test]
fn no_targets_is_a_round_that_is_done() {
    let mut world = World::new(Vec::new());
    assert!(world.schedule.first_round_done());
    assert_eq!(world.schedule.next_deadline(), None);
    assert!(world.jobs().is_empty());
}

#[test]
fn it_falls_after_fall_answers_in_a_row_and_rises_after_rise() {
    let mut world = World::new(vec![target("pop3/a", 0, 2, 3)]);
    world.answer(Outcome::Healthy);
    for outcome in [no("x"), no("x"), Outcome::Healthy, no("x"), no("y")] {
        world.answer(outcome);
        assert!(world.up(0));
    }
    assert_eq!(world.schedule.report(world.now)[0].last_error.as_deref(), Some("y"), "up, and a check has failed");
    world.answer(no("z"));
    assert!(!world.up(0), "three in a row");
    world.answer(Outcome::Healthy);
    assert!(!world.up(0));
    world.answer(no("w"));
    world.answer(Outcome::Healthy);
    assert!(!world.up(0), "the count began anew");
    assert_eq!(world.schedule.report(world.now)[0].last_error.as_deref(), Some("w"));
    let before = world.now;
    world.answer(Outcome::Healthy);
    assert!(world.up(0));
    let report = world.schedule.report(before + Duration::from_secs(60)).remove(0);
    assert_eq!((report.status, report.last_error), ("up", None));
    assert_eq!(report.since, before + Duration::from_secs(60) - world.now);
    let told: Vec<_> = world.schedule.transitions().iter().map(|t| (t.up, t.first)).collect();
    assert_eq!(told, [(true, true), (false, false), (true, false)]);
}

#[test]
fn a_probe_that_is_silent_is_ended_after_its_timeout_and_a_late_answer_changes_nothing() {
    let mut world = World::new(vec![target("pop3/a", 0, 1, 1)]);
    assert_eq!(world.jobs(), [Job::Start(0)]);
    assert!(world.advance(TIMEOUT - Duration::from_nanos(1)).is_empty());
    assert_eq!(world.schedule.next_deadline(), Some(world.now + Duration::from_nanos(1)));
    assert_eq!(world.advance(Duration::from_nanos(1)), [Job::TimedOut(0)]);
    world.schedule.finish(0, no("no greeting within 1s"), world.now);
    world.schedule.finish(0, Outcome::Healthy, world.now);
    assert!(!world.up(0));
}

#[test]
fn probes_of_a_target_never_overlap_even_when_the_timeout_is_longer_than_the_interval() {
    let mut slow = target("pop3/a", 0, 1, 1);
    slow.check.timeout = Duration::from_secs(10);
    let mut world = World::new(vec![slow]);
    assert_eq!(world.jobs(), [Job::Start(0)]);
    for _ in 0..9 {
        assert!(world.advance(Duration::from_secs(1)).is_empty());
    }
    world.schedule.finish(0, Outcome::Healthy, world.now);
    assert_eq!(world.jobs(), [Job::Start(0)], "the next one was due long ago");
}

#[test]
fn probes_come_an_interval_apart_on_average_and_spread_out() {
    let targets: Vec<_> = (0..100).map(|i| target(&format!("pop3/{i}"), i, 1, 1)).collect();
    let mut world = World::new(targets);
    let begin = world.now;
    let mut starts: Vec<Vec<Duration>> = vec![Vec::new(); 100];
    while world.now < begin + 50 * INTERVAL {
        for job in world.jobs() {
            let Job::Start(id) = job else { panic!("all answer at once") };
            starts[id].push(world.now - begin);
            world.schedule.finish(id, Outcome::Healthy, world.now);
        }
        world.now = world.schedule.next_deadline().unwrap();
    }
    for times in &starts {
        assert!(times.len() >= 50 && times.len() <= 53, "{}", times.len());
        assert!(times[1] >= INTERVAL / 2 && times[1] <= INTERVAL);
        for pair in times[1..].windows(2) {
            let gap = pair[1] - pair[0];
            assert!(gap >= INTERVAL * 19 / 20 && gap <= INTERVAL * 21 / 20, "{gap:?}");
        }
    }
    // The second probes fill the second half of the first interval: no tenth of it has more than a third of them.
    let mut tenths = [0; 10];
    for times in &starts {
        let at = (times[1] - INTERVAL / 2).as_secs_f64() / (INTERVAL / 2).as_secs_f64();
        tenths[((at * 10.0) as usize).min(9)] += 1;
    }
    assert!(tenths.iter().all(|&count| count < 34), "{tenths:?}");
}

#[test]
fn so_many_run_at_a_time_and_the_others_wait_for_room() {
    let targets: Vec<_> = (0..MAX_RUNNING as u16 + 2).map(|i| target(&format!("pop3/{i}"), i, 1, 1)).collect();
    let mut world = World::new(targets);
    assert_eq!(world.jobs().len(), MAX_RUNNING);
    assert!(world.jobs().is_empty());
    assert_eq!(world.schedule.next_deadline(), Some(world.now + TIMEOUT));
    world.now += Duration::from_millis(1);
    world.schedule.finish(5, Outcome::Healthy, world.now);
    assert!(world.schedule.next_deadline().unwrap() <= world.now, "there is room now");
    assert_eq!(world.jobs(), [Job::Start(MAX_RUNNING)]);
    assert!(!world.schedule.first_round_done());
}

#[test]
fn want_of_descriptors_here_takes_no_server_down_but_proves_none_up_either() {
    let short = || Outcome::Unasked("can't check: too many open files".to_string());
    let mut world = World::new(vec![target("pop3/a", 0, 1, 1), target("pop3/b", 1, 1, 1)]);
    assert_eq!(world.jobs().len(), 2);
    world.schedule.finish(0, Outcome::Healthy, world.now);
    world.schedule.finish(1, short(), world.now);
    assert!(world.up(0) && !world.up(1) && world.schedule.first_round_done());
    for _ in 0..20 {
        world.answer(short());
    }
    assert!(world.up(0) && !world.up(1));
    assert!(world.schedule.report(world.now)[0].last_error.as_deref().unwrap().contains("too many open files"));
}

#[test]
fn without_a_check_it_is_up_at_once_and_never_probed() {
    let mut unchecked = target("dns/a", 2, 1, 1);
    unchecked.check.kind = CheckKind::None;
    let mut world = World::new(vec![unchecked]);
    assert!(world.up(2) && world.schedule.first_round_done());
    assert!(world.advance(Duration::from_secs(3600)).is_empty());
    assert!(world.schedule.transitions()[0].up);
}

#[test]
fn a_drained_target_says_so_while_it_is_up() {
    let mut world = World::new(vec![target("pop3/a", 0, 1, 1)]);
    world.status.slot(0).set_drained(true);
    world.answer(Outcome::Healthy);
    let report = world.schedule.report(world.now).remove(0);
    assert_eq!((report.status, report.drained), ("draining", true));
    assert!(!world.status.slot(0).takes_new());
    world.answer(no("connection refused"));
    let report = world.schedule.report(world.now).remove(0);
    assert_eq!((report.status, report.drained), ("down", true));
}

#[test]
fn a_reload_keeps_what_is_known_and_new_targets_start_down() {
    let mut world = World::new(vec![target("pop3/a", 0, 2, 2), target("pop3/b", 1, 2, 2), target("pop3/c", 2, 2, 2)]);
    for id in 0..3 {
        assert_eq!(world.schedule.next(world.now), Some(Job::Start(id)));
        world.schedule.finish(id, Outcome::Healthy, world.now);
    }
    world.schedule.transitions();
    world.answer(no("x"));
    let failing = world.schedule.report(world.now).iter().position(|t| t.last_error.is_some()).unwrap();
    let (failing, other) = (failing as u16, (failing as u16 + 1) % 3);
    let name = |i: u16| format!("pop3/{}", ["a", "b", "c"][i as usize]);

    // One target goes, one comes on its old slot, the others are the same in another order and on other slots.
    let moved = Target { slot: 9, ..target(&name(failing), failing, 2, 2) };
    let gone = 3 - failing - other;
    let new = target("pop3/new", gone, 2, 2);
    let given = vec![new, target(&name(other), other, 2, 2), moved];
    let abandoned = world.schedule.set_targets(given, world.now);
    assert_eq!(abandoned, [gone as usize]);
    assert!(world.up(9) && world.up(other), "known ones keep their status");
    assert!(!world.up(gone), "a new one has none, on whatever slot");
    assert!(!world.schedule.first_round_done());
    let report = world.schedule.report(world.now);
    assert_eq!(report.iter().map(|t| t.status).collect::<Vec<_>>(), ["checking", "up", "up"]);
    assert_eq!(report[2].target, name(failing));

    // Its count of failures has survived: one more and it is down.
    let Some(id) = (0..3).find(|&id| world.schedule.target(id).unwrap().slot == 9) else { panic!() };
    while !world.jobs().contains(&Job::Start(id)) {
        world.now = world.schedule.next_deadline().unwrap();
    }
    world.schedule.finish(id, no("y"), world.now);
    assert!(!world.up(9));
}

#[test]
fn another_check_is_asked_at_once_and_the_status_stays_until_it_has_spoken() {
    let mut world = World::new(vec![target("pop3/a", 0, 2, 2)]);
    world.answer(Outcome::Healthy);
    world.answer(no("x"));
    let mut changed = target("pop3/a", 0, 2, 2);
    changed.check.kind = CheckKind::Pop3 { login: None };
    assert_eq!(world.schedule.set_targets(vec![changed], world.now), [0]);
    assert!(world.up(0) && world.schedule.first_round_done());
    assert_eq!(world.jobs(), [Job::Start(0)]);
    world.schedule.finish(0, no("y"), world.now);
    assert!(world.up(0), "the old check's failure does not count");
    world.answer(no("y"));
    assert!(!world.up(0));
}

#[test]
fn another_address_is_another_target() {
    let mut world = World::new(vec![target("pop3/a", 0, 2, 2)]);
    world.answer(Outcome::Healthy);
    let mut moved = target("pop3/a", 0, 2, 2);
    moved.address = "10.0.0.99:110".parse().unwrap();
    world.schedule.set_targets(vec![moved], world.now);
    assert!(!world.up(0) && !world.schedule.first_round_done());
}

#[test]
fn targets_that_go_while_they_run_or_wait_leave_nothing_behind() {
    let targets: Vec<_> = (0..MAX_RUNNING as u16 + 10).map(|i| target(&format!("pop3/{i}"), i, 1, 1)).collect();
    let mut world = World::new(targets);
    assert_eq!(world.jobs().len(), MAX_RUNNING);
    world.schedule.set_targets(Vec::new(), world.now);
    assert!(world.schedule.first_round_done());
    world.schedule.finish(3, Outcome::Healthy, world.now);
    assert!(world.advance(Duration::from_secs(10)).is_empty());
    assert!(world.schedule.transitions().is_empty());
    // All the room is free again.
    let targets: Vec<_> = (0..MAX_RUNNING as u16).map(|i| target(&format!("imap/{i}"), i, 1, 1)).collect();
    world.schedule.set_targets(targets, world.now);
    assert_eq!(world.jobs().len(), MAX_RUNNING);
}

proptest! {
    /// Rise and fall against the plainest way to say it: look at the last answers.
    #[test]
    fn rise_and_fall_are_what_they_say(answers in prop::collection::vec(any::<bool>(), 1..60), rise in 1u32..5, fall in 1u32..5) {
        let mut world = World::new(vec![target("pop3/a", 0, rise, fall)]);
        let mut up = answers[0];
        let mut changed = 0;
        for (i, &answer) in answers.iter().enumerate() {
            world.answer(if answer { Outcome::Healthy } else { no("x") });
            let limit = if up { fall } else { rise } as usize;
            let since = &answers[changed..=i];
            if i > 0 && since.len() >= limit && since[since.len() - limit..].iter().all(|&a| a != up) {
                up = !up;
                changed = i + 1;
            } else if i == 0 {
                changed = 1;
            }
            prop_assert_eq!(world.up(0), up, "after {} answers", i + 1);
        }
    }

    /// Whatever happens in whatever order: no overlap, never too many at once, nobody is forgotten.
    #[test]
    fn nobody_is_probed_twice_at_a_time_or_forgotten(steps in prop::collection::vec((0u8..6, 0usize..8, 1u64..3000), 1..200)) {
        let mut world = World::new(Vec::new());
        let mut running = std::collections::BTreeSet::new();
        for (step, which, millis) in steps {
            match step {
                0 => {
                    // Any subset, some with another check.
                    let targets = (0..8u16).filter(|i| millis >> i & 1 == 0).map(|i| target(&format!("s/{i}"), i, 1, 1 + (millis >> 8 & 1) as u32));
                    for id in world.schedule.set_targets(targets.collect(), world.now) {
                        running.remove(&id);
                    }
                }
                1 | 2 => {
                    if let Some(&id) = running.iter().nth(which) {
                        world.schedule.finish(id, if step == 1 { Outcome::Healthy } else { no("x") }, world.now);
                        running.remove(&id);
                    }
                }
                _ => world.now += Duration::from_millis(millis),
            }
            for job in world.jobs() {
                match job {
                    Job::Start(id) => prop_assert!(running.insert(id), "{} overlaps", id),
                    Job::TimedOut(id) => {
                        prop_assert!(running.remove(&id), "{} does not run", id);
                        world.schedule.finish(id, no("late"), world.now);
                    }
                }
            }
            // After a whole timeout and interval everybody has been asked.
            if step == 5 {
                world.now += TIMEOUT;
                running.clear();
                for job in world.jobs() {
                    match job {
                        Job::TimedOut(id) => world.schedule.finish(id, no("late"), world.now),
                        Job::Start(id) => world.schedule.finish(id, Outcome::Healthy, world.now),
                    }
                }
                for job in world.jobs() {
                    if let Job::Start(id) = job { running.insert(id); }
                }
                prop_assert!(world.schedule.first_round_done());
            }
        }
    }
}

/// Connections that clients tried, each refused.
fn refuse(world: &World, slot: u16, connections: u32) {
    for _ in 0..connections {
        world.status.slot(slot).evidence.note_refused();
    }
}

/// Times at which probes start within `span`, counted from now, when each is answered at once.
fn starts(world: &mut World, span: Duration, outcome: impl Fn() -> Outcome) -> Vec<Duration> {
    let (start, mut times) = (world.now, Vec::new());
    while world.now < start + span {
        world.schedule.look_at_evidence(world.now);
        for job in world.jobs() {
            if let Job::Start(id) = job {
                times.push(world.now - start);
                world.schedule.finish(id, outcome(), world.now);
            }
        }
        world.now += Duration::from_millis(10);
    }
    times
}

#[test]
fn evidence_speeds_the_fall_and_a_probe_confirms_it() {
    let mut slow = target("pop3/a", 0, 2, 4);
    slow.check.interval = 10 * Duration::from_secs(1);
    let mut world = World::new(vec![slow]);
    world.answer(Outcome::Healthy);
    world.answer(Outcome::Healthy);
    world.advance(Duration::from_secs(3));
    refuse(&world, 0, 2);
    world.schedule.look_at_evidence(world.now);
    assert!(world.jobs().is_empty(), "too little to go by");
    world.status.slot(0).evidence.note_unanswered();
    world.schedule.look_at_evidence(world.now);
    assert_eq!(world.jobs(), [Job::Start(0)], "now, not in seven seconds");
    assert!(world.up(0), "evidence alone takes nobody out");
    world.schedule.finish(0, no("connection refused"), world.now);
    let times = starts(&mut world, Duration::from_secs(9), || no("connection refused"));
    assert!(!world.up(0), "{times:?}: three more, a quarter of the interval apart, in nine seconds instead of forty");
    let reason = &world.schedule.transitions()[1].reason;
    assert_eq!(reason, "connection refused; of clients' connections 2 were refused, 1 unanswered");
}

#[test]
fn evidence_never_speeds_the_rise() {
    let mut world = World::new(vec![target("pop3/a", 0, 2, 1)]);
    world.answer(Outcome::Healthy);
    world.answer(no("x"));
    assert!(!world.up(0));
    refuse(&world, 0, 100);
    let times = starts(&mut world, 2 * INTERVAL, || no("x"));
    assert!(times.len() <= 3, "at its usual pace: {times:?}");
}

#[test]
fn a_probe_that_passes_ends_the_hurry() {
    let mut world = World::new(vec![target("pop3/a", 0, 2, 4)]);
    world.answer(Outcome::Healthy);
    world.answer(Outcome::Healthy);
    refuse(&world, 0, 3);
    world.schedule.look_at_evidence(world.now);
    world.answer(no("x"));
    world.answer(Outcome::Healthy);
    let times = starts(&mut world, 10 * INTERVAL, || Outcome::Healthy);
    assert!(world.up(0) && (8..=12).contains(&times.len()), "as before: {times:?}");
}

/// Clients are refused for ever where checks pass, for instance at another port: that must not make a storm of probes.
#[test]
fn evidence_that_no_probe_confirms_costs_four_times_the_probes_at_most() {
    let mut world = World::new(vec![target("pop3/a", 0, 2, 4)]);
    world.answer(Outcome::Healthy);
    world.answer(Outcome::Healthy);
    let status = world.status.clone();
    let times = starts(&mut world, 10 * INTERVAL, || {
        (0..5).for_each(|_| status.slot(0).evidence.note_refused());
        Outcome::Healthy
    });
    assert!(times.len() <= 44, "{times:?}");
    // The probe that ended forgot what came while it ran.
    assert!(!world.status.slot(0).evidence.is_enough());
}

#[test]
fn evidence_is_not_heeded_where_that_was_not_wanted_or_nothing_could_confirm_it() {
    for (kind, passive) in [(CheckKind::Tcp, false), (CheckKind::None, true)] {
        let mut world = World::new(vec![Target {
            check: Check { kind, passive, ..target("", 0, 2, 4).check },
            ..target("pop3/a", 0, 2, 4)
        }]);
        assert!(!world.schedule.heeds_evidence());
        if world.schedule.next_deadline().is_some() {
            world.answer(Outcome::Healthy);
        }
        refuse(&world, 0, 100);
        world.schedule.look_at_evidence(world.now);
        assert!(world.jobs().is_empty() && world.up(0));
    }
    assert!(World::new(vec![target("pop3/a", 0, 2, 4)]).schedule.heeds_evidence());
}

#[test]
fn a_target_is_awaited_until_its_first_check_has_spoken() {
    for (outcome, up) in [(Outcome::Healthy, true), (no("refused"), false)] {
        let mut world = World::new(vec![target("pop3/a", 3, 2, 2)]);
        let slot = |world: &World| (world.status.slot(3).is_awaited(), world.status.slot(3).is_up());
        assert_eq!(slot(&world), (true, false));
        assert_eq!(world.jobs(), [Job::Start(0)]);
        world.schedule.set_targets(vec![target("pop3/a", 3, 5, 2)], world.now);
        assert_eq!(slot(&world), (true, false), "another check, and still none has spoken");
        assert_eq!(world.jobs(), [Job::Start(0)]);
        world.schedule.finish(0, outcome, world.now);
        assert_eq!(slot(&world), (false, up));
    }
}

#[test]
fn a_status_lasts_an_interval_for_each_answer_that_is_still_missing() {
    let mut world = World::new(vec![target("pop3/a", 3, 2, 4)]);
    let lasting = |world: &World| world.schedule.lasting()[0].as_secs() / INTERVAL.as_secs();
    assert_eq!(lasting(&world), 1);
    let mut seen = Vec::new();
    for passes in [true, false, false, true, false, false, false, false, true] {
        world.answer(if passes { Outcome::Healthy } else { no("refused") });
        seen.push(lasting(&world));
    }
    assert_eq!(seen, [4, 3, 2, 4, 3, 2, 1, 2, 1]);
    let unchecked =
        Target { check: Check { kind: CheckKind::None, ..target("x", 1, 2, 4).check }, ..target("x", 1, 2, 4) };
    assert_eq!(World::new(vec![unchecked]).schedule.lasting(), [Duration::MAX]);
}
