use super::*;
use crate::sys::tcp_info::hops_of as routers;

fn address(n: u32) -> IpAddr {
    IpAddr::from((0x0a00_0001 + (n << 8)).to_be_bytes())
}

/// The answer to an echo.
fn reply(echo: &Echo) -> Vec<u8> {
    let mut message = echo.message.to_vec();
    message[0] = if echo.to.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY_V6 };
    message
}

struct Lab {
    schedule: Schedule,
    now: Instant,
    sent: Vec<Echo>,
    done: Vec<(IpAddr, Way)>,
}

impl Lab {
    fn new() -> Lab {
        Lab { schedule: Schedule::new([7; 16]), now: Instant::now(), sent: Vec::new(), done: Vec::new() }
    }

    /// What is sent in this moment.
    fn step(&mut self, per_second: u32) -> usize {
        let (before, sent) = (self.sent.len(), &mut self.sent);
        let send = |echo: &Echo| {
            sent.push(Echo { ..*echo });
            true
        };
        self.done.extend(self.schedule.step(self.now, per_second, send));
        self.sent.len() - before
    }

    fn pass(&mut self, duration: Duration) {
        self.now += duration;
    }

    /// The last echo is answered after `ms`.
    fn answer(&mut self, ms: u64, left: u8) {
        let echo = self.sent.last().unwrap();
        let (from, message) = (echo.to, reply(echo));
        self.schedule.answer(from, &message, Some(left), self.now + Duration::from_millis(ms));
    }
}

#[test]
fn the_quickest_answer_counts_and_what_got_lost_is_told() {
    for to in [address(1), "2001:db8::1".parse().unwrap()] {
        let mut lab = Lab::new();
        let at = Some("203.0.113.1".parse().unwrap());
        assert!(lab.schedule.ask(to, at));
        for (ms, left) in [(30, 60), (20, 57), (400, 60)] {
            assert_eq!((lab.step(1), lab.step(1)), (1, 0), "one at a time");
            assert_eq!(lab.sent.last().map(|echo| (echo.to, echo.at)), Some((to, at)));
            lab.answer(ms, left);
            // Twice: that is one answer all the same.
            lab.answer(1, 64);
            lab.pass(GAP);
        }
        assert_eq!(lab.step(1), 1);
        lab.pass(PATIENCE - Duration::from_millis(1));
        lab.step(1);
        assert_eq!(lab.done, []);
        lab.pass(Duration::from_millis(1));
        lab.step(1);
        let (of, way) = lab.done[0];
        assert_eq!((of, way.loss_permille, way.hops), (to, 250, routers(57)));
        assert!((19_000..=20_001).contains(&way.round_trip_us.unwrap()), "{way:?}");
        assert_eq!(lab.schedule.next_deadline(), None);
    }
}

#[test]
fn silence_says_nothing() {
    let mut lab = Lab::new();
    lab.schedule.ask(address(1), None);
    for _ in 0..ECHOES {
        lab.step(1);
        lab.pass(PATIENCE);
    }
    lab.step(1);
    assert_eq!(lab.done, [(address(1), Way { round_trip_us: None, loss_permille: 0, hops: None, age_s: 0 })]);
}

#[test]
fn what_could_not_be_sent_is_not_lost() {
    let mut lab = Lab::new();
    lab.schedule.ask(address(1), None);
    lab.schedule.step(lab.now, 1, |_| false);
    for _ in 1..ECHOES {
        lab.pass(GAP);
        lab.step(1);
        lab.answer(5, 64);
    }
    lab.pass(PATIENCE);
    lab.step(1);
    assert_eq!((lab.done[0].1.loss_permille, lab.done[0].1.hops), (0, Some(0)));
}

#[test]
fn so_many_begin_in_a_second_and_a_network_only_once() {
    let mut lab = Lab::new();
    for n in (0..25).chain(0..25) {
        assert!(lab.schedule.ask(address(n), None));
        assert!(lab.schedule.ask(IpAddr::from((0x0a00_00c8 + (n << 8)).to_be_bytes()), None));
    }
    assert_eq!((lab.step(0), lab.step(10), lab.step(10)), (0, 10, 0));
    lab.pass(Duration::from_millis(499));
    assert_eq!(lab.step(10), 0);
    lab.pass(Duration::from_millis(501));
    assert_eq!(lab.step(10), 20, "ten begin, and ten go on");
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.step(10), 25);
    let to: HashSet<IpAddr> = lab.sent.iter().map(|echo| echo.to).collect();
    assert_eq!(to, (0..25).map(address).collect());
}

#[test]
fn those_who_wait_are_bounded() {
    let mut lab = Lab::new();
    let taken = (0..WAITING as u32 + 9).filter(|n| lab.schedule.ask(address(*n), None)).count();
    assert_eq!(taken, WAITING);
    assert!(lab.schedule.ask(address(5), None), "this one waits already");
}

#[test]
fn only_who_was_asked_can_answer() {
    let mut lab = Lab::new();
    lab.schedule.ask(address(1), None);
    lab.step(1);
    let echo = lab.sent.last().unwrap();
    let good = reply(echo);
    let later = lab.now + Duration::from_millis(1);
    let mut wrong: Vec<Vec<u8>> = (0..good.len())
        .filter(|at| ![2, 3, 4, 5].contains(at))
        .map(|at| {
            let mut message = good.clone();
            message[at] ^= 1;
            message
        })
        .collect();
    wrong.extend((0..good.len()).map(|cut| good[..cut].to_vec()));
    wrong.push([&good[..], &[0]].concat());
    wrong.push(echo.message.to_vec());
    for message in wrong {
        lab.schedule.answer(address(1), &message, Some(64), later);
    }
    lab.schedule.answer(IpAddr::from([10, 0, 1, 200]), &good, Some(64), later);
    lab.schedule.answer(address(2), &good, Some(64), later);
    // Of the next one, which has not been sent yet.
    let mut number = good.clone();
    number[7] = 1;
    lab.schedule.answer(address(1), &number, Some(64), later);
    assert!(lab.schedule.jobs.values().all(|job| job.least.is_none()));
    lab.schedule.answer(address(1), &good, Some(64), later);
    assert!(lab.schedule.jobs.values().all(|job| job.least.is_some()));
}
