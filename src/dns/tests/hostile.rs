//! Messages that nobody sends who means well.

use super::*;
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::OnceLock;

/// Made once: there are many messages.
fn lab() -> Lab {
    static ZONES: OnceLock<Vec<Arc<Zone>>> = OnceLock::new();
    let cookies = Some(Cookies { secret: [7; 16], previous: None });
    let settings = Settings { cookies, nsid: b"ns1".into(), version: "v".into(), ..Settings::default() };
    let zones = ZONES.get_or_init(|| Lab::new(&[("company.example.", ZONE)]).snapshot.zones().to_vec());
    let scratch = Scratch::new(Arc::default(), &settings, 0);
    Lab::over(Snapshot::new(zones.clone(), Arc::new(settings)), scratch)
}

/// Queries as they are really sent.
fn real() -> &'static [Vec<u8>] {
    static REAL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    REAL.get_or_init(make_real)
}

fn make_real() -> Vec<Vec<u8>> {
    let names = [
        "company.example.",
        "x.old.company.example.",
        "www.company.example.",
        "y.wild.company.example.",
        "z.child.company.example.",
    ];
    let types = ["A", "MX", "SOA", "ANY", "DS", "IXFR"];
    let options: [&[(u16, &[u8])]; 3] =
        [&[], &[(10, b"12345678"), (3, b"")], &[(8, &[0, 2, 32, 0, 0x20, 1, 0xd, 0xb8])]];
    let mut messages = vec![query_of("version.bind.", "TXT", Class::CH)];
    for name in names {
        for rtype in types {
            let plain = query(name, rtype);
            messages.extend(options.iter().map(|options| edns(plain.clone(), 1232, 0x8000, options)));
            messages.push(plain);
        }
    }
    messages
}

/// What holds for any message.
fn check(lab: &mut Lab, message: &[u8], transport: Transport, size: usize) -> Result<(), TestCaseError> {
    let (outcome, out) = lab.send_into(message, transport, size);
    match outcome {
        Outcome::Answer(reply) => {
            prop_assert!(reply.length <= size && (transport == Transport::Tcp || reply.length <= 1232));
            prop_assert_eq!(&out[..2], &message[..2]);
            prop_assert_eq!(out[2] & 0xf9, 0x80 | (message[2] & 0x79));
            let shown = show(&out);
            // Nothing that was not asked for is amplified: what is refused is about as long as the question.
            let refused = shown.starts_with("REFUSED") || shown.starts_with("FORMERR") || shown.starts_with("NOTIMP");
            prop_assert!(!refused || out.len() <= message.len() + 60, "{} {}", out.len(), message.len());
        }
        Outcome::Nothing(Silence::Short) => prop_assert!(message.len() < 12),
        Outcome::Nothing(Silence::Response) => prop_assert!(message[2] & 0x80 != 0),
        Outcome::Nothing(Silence::NoRoom) => prop_assert!(size < 12 + message.len() + 60),
        Outcome::Nothing(Silence::RateLimited) => prop_assert!(false, "there is no limit here"),
        Outcome::Transfer(_) => prop_assert_eq!(transport, Transport::Tcp),
        Outcome::Signed(at) => prop_assert!(at < message.len()),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn real_queries_that_were_changed_are_answered_in_order(
        which in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>(), 0..4_u8), 0..6),
        cut in prop::option::weighted(0.2, any::<Index>()),
        tcp in any::<bool>(),
        size in prop_oneof![3 => Just(4096_usize), 1 => 0..700_usize],
    ) {
        let mut lab = lab();
        let mut message = which.get(real()).clone();
        for (at, value, kind) in changes {
            let at = at.index(message.len());
            match kind {
                0 => message[at] = value,
                1 => message[at] = [0, 1, 0xc0, 0xff, 12, 63, 64, 41][usize::from(value % 8)],
                2 => message.insert(at, value),
                _ => drop(message.remove(at)),
            }
        }
        if let Some(cut) = cut {
            message.truncate(cut.index(message.len() + 1));
        }
        check(&mut lab, &message, if tcp { Transport::Tcp } else { Transport::Udp }, size)?;
    }

    #[test]
    fn any_bytes_are_answered_in_order_or_not_at_all(
        mut message in prop::collection::vec(prop_oneof![any::<u8>(), 0..4_u8, Just(0xc0)], 0..200),
        query in any::<bool>(),
    ) {
        if let (true, Some(flags)) = (query, message.get_mut(2)) {
            *flags &= 1;
        }
        check(&mut lab(), &message, Transport::Udp, 1232)?;
    }
}

#[test]
fn pointers_in_a_circle_are_not_followed() {
    let mut lab = lab();
    // The record's name points to itself, to the next one, and into the question.
    for pointer in [[0xc0, 33], [0xc0, 35], [0xff, 0xff], [0xc0, 12]] {
        let mut message = query("company.example.", "A");
        let at = message.len() as u8;
        message[11] = 2;
        for owner in [[0xc0, at], pointer] {
            message.extend_from_slice(&owner);
            message.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 1]);
        }
        assert!(lab.reply(&message).len() > 12);
    }
}

#[test]
fn counts_that_promise_more_than_there_is_cost_nothing() {
    let mut lab = lab();
    let mut message = query("company.example.", "A");
    message[6..12].fill(0xff);
    assert!(show(&lab.reply(&message)).starts_with("FORMERR"));
}
