use super::*;
use crate::sites::SiteNumber;

/// Waits for what must come.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn who_asks_is_measured_and_who_comes_by_tcp_is_measured_already() {
    let ways = Arc::new(Ways::new(100, SiteNumber(2), (1, 2)));
    let survey = Survey::start(ways.clone()).unwrap();
    survey.set(10, Duration::from_secs(600));
    let found = |of: &str| {
        let network = Network::of(of.parse().unwrap());
        ways.seen(network, u64::MAX, unix_s()).and_then(|seen| seen.from(SiteNumber(2)))
    };
    for (host, at) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.3.1", "192.0.2.200")] {
        let (from, at) = (host.parse().unwrap(), at.parse().unwrap());
        // The last one: an address that this host has not; it is asked from another.
        ways.note(from, at, unix_s());
        until(host, || found(host).is_some());
        let way = found(host).unwrap();
        assert!(way.round_trip_us.is_some_and(|us| us < 1_000_000), "{way:?}");
        assert_eq!((way.loss_permille, way.hops), (0, Some(0)), "{host}");
    }
    ways.note_connection("192.0.2.7".parse().unwrap(), 4711, unix_s());
    until("the handshake's", || found("192.0.2.7").is_some_and(|way| way.round_trip_us == Some(4711)));
    assert_eq!((ways.counts().measured, ways.counts().unanswered), (4, 0));
}
