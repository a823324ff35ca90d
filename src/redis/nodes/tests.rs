use super::*;
use proptest::prelude::*;

fn served(last: u8, up: bool, full: bool) -> Served {
    Served { vip: IpAddr::from([203, 0, 113, last]), port: 110, protocol: 6, up, full }
}

fn states() -> impl Strategy<Value = State> {
    (
        (any::<bool>(), any::<u32>(), any::<u32>(), 0u16..=1000),
        prop::collection::vec((any::<u8>(), any::<bool>(), any::<bool>()), 0..8),
        prop::collection::vec(any::<(u64, bool)>(), 0..8),
    )
        .prop_map(|((full, connections, packets_per_s, cpu_permille), services, members)| {
            let services = services.into_iter().map(|(last, up, full)| served(last, up, full)).collect();
            State { full, connections, packets_per_s, cpu_permille, services, members }
        })
}

fn reply(said: &[(u64, Vec<u8>)]) -> Reply {
    let pair = |(left, value): &(u64, Vec<u8>)| [Reply::Data(left.to_string().into()), Reply::Data(value.clone())];
    Reply::Array(said.iter().flat_map(pair).collect())
}

fn taken(said: &[(u64, Vec<u8>)], now: Instant) -> (Nodes, u64) {
    let mut nodes = Nodes::new(now);
    let unreadable = nodes.take(&reply(said), now);
    (nodes, unreadable)
}

/// Replies of all shapes, a state here and there.
fn replies() -> impl Strategy<Value = Reply> {
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        states().prop_map(|state| written(&state)),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        Just(b"5000".to_vec()),
    ];
    let leaf = prop_oneof![Just(Reply::Nothing), data.prop_map(Reply::Data)];
    leaf.prop_recursive(3, 40, 40, |inner| prop::collection::vec(inner, 0..40).prop_map(Reply::Array))
}

proptest! {
    #[test]
    fn a_state_reads_back_whatever_a_later_version_says_behind_it(state in states(), behind in prop::collection::vec(any::<u8>(), 0..9)) {
        let mut value = written(&state);
        prop_assert_eq!(read(&value), Ok(state.clone()));
        value.extend(behind);
        prop_assert_eq!(read(&value), Ok(state));
    }

    #[test]
    fn damage_is_read_or_refused(
        state in states(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut value = written(&state);
        prop_assert_eq!(read(&value[..cut.index(value.len())]), Err(Malformed));
        for (at, byte) in damage {
            let at = at.index(value.len());
            value[at] = byte;
        }
        let _ = read(&value);
        let (nodes, unreadable) = taken(&[(1000, value), (1000, written(&state))], Instant::now());
        prop_assert!(unreadable <= 1 && nodes.state(Instant::now()).is_some());
    }

    #[test]
    fn no_reply_hurts(replies in prop::collection::vec(replies(), 1..4)) {
        let now = Instant::now();
        let mut nodes = Nodes::new(now);
        for reply in &replies {
            nodes.take(reply, now);
            prop_assert!(nodes.said.len() <= MOST_NODES);
            prop_assert!(nodes.state(now + GOOD).is_none(), "nothing is good for longer");
            let _ = (nodes.state(now), nodes.since(now));
        }
    }
}

#[test]
fn what_is_said_is_good_for_as_long_as_the_server_says_and_five_seconds_at_most() {
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let state = State { connections: 7, ..State::default() };
    let (mut nodes, unreadable) = taken(&[(2000, written(&state))], now);
    assert_eq!((unreadable, nodes.end(now), nodes.since(now + second)), (0, Some(now + 2 * second), now));
    assert_eq!(nodes.state(now + second).as_deref(), Some(&state));
    assert_eq!((nodes.state(now + 2 * second), nodes.end(now + 2 * second)), (None, None));
    assert_eq!(nodes.since(now + 9 * second), now + 2 * second, "since it ended");
    nodes.take(&reply(&[]), now + 10 * second);
    assert_eq!(nodes.since(now + 11 * second), now + 2 * second, "and still");
    nodes.take(&reply(&[(u64::MAX, written(&state))]), now + 20 * second);
    assert_eq!(
        (nodes.end(now + 20 * second), nodes.since(now + 21 * second)),
        (Some(now + 25 * second), now + 20 * second)
    );
    nodes.take(&reply(&[]), now + 22 * second);
    assert_eq!(
        (nodes.state(now + 22 * second), nodes.since(now + 23 * second)),
        (None, now + 22 * second),
        "taken away"
    );
}

#[test]
fn what_cannot_be_read_is_passed_over_and_counted() {
    let (now, state) = (Instant::now(), State { cpu_permille: 5, ..State::default() });
    let later = [&2u16.to_be_bytes()[..], &written(&state)[2..]].concat();
    let said = [(1000, b"rubbish".to_vec()), (1000, later), (0, Vec::new()), (1000, written(&state))];
    let (nodes, unreadable) = taken(&said, now);
    assert_eq!((unreadable, nodes.state(now).as_deref()), (3, Some(&state)));
    let mut nodes = nodes;
    assert_eq!(nodes.take(&Reply::Nothing, now), 1, "no hash");
    assert_eq!(nodes.state(now), None);
    let odd = Reply::Array(vec![Reply::Data(b"1000".into())]);
    assert_eq!((nodes.take(&odd, now), nodes.take(&reply(&[]), now)), (1, 0));
}

#[test]
fn nodes_of_one_site_are_taken_together() {
    let now = Instant::now();
    let one = State {
        full: true,
        connections: 10,
        packets_per_s: u32::MAX,
        cpu_permille: 200,
        services: vec![served(1, true, true), served(2, false, false), served(3, true, true)],
        members: vec![(1, true), (2, false), (3, false)],
    };
    let other = State {
        full: false,
        connections: 5,
        packets_per_s: 9,
        cpu_permille: 600,
        services: vec![served(1, true, false), served(2, true, true), served(3, false, false)],
        members: vec![(1, false), (2, false), (4, true)],
    };
    let both = |(first, second): (&State, &State)| taken(&[(3000, written(first)), (1000, written(second))], now).0;
    let together = State {
        full: false,
        connections: 15,
        packets_per_s: u32::MAX,
        cpu_permille: 400,
        services: vec![served(1, true, false), served(2, true, true), served(3, true, true)],
        members: vec![(1, true), (2, false), (3, false), (4, true)],
    };
    for order in [(&one, &other), (&other, &one)] {
        assert_eq!(both(order).state(now).as_deref(), Some(&together));
    }
    let nodes = both((&one, &other));
    assert_eq!(nodes.next_end(now), Some(now + Duration::from_secs(1)));
    assert_eq!(nodes.state(now + Duration::from_secs(2)).as_deref(), Some(&one), "the one that is good still");
    // A full site is one whose services all are, wherever they are up.
    let full = State { services: vec![served(1, true, true)], ..State::default() };
    let other = State { services: vec![served(2, true, true), served(1, false, false)], ..State::default() };
    assert!(both((&full, &other)).state(now).is_some_and(|state| state.full));
    let idle = State { services: vec![served(1, true, false)], ..State::default() };
    assert!(both((&full, &idle)).state(now).is_some_and(|state| !state.full));
    // More nodes than are heard.
    let many: Vec<_> = (0..MOST_NODES + 3).map(|_| (1000, written(&idle))).collect();
    assert_eq!(taken(&many, now).0.said.len(), MOST_NODES);
}
