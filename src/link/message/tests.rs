use super::*;
use crate::sites::state::{MOST_MEMBERS, MOST_SERVICES, Served};
use proptest::prelude::*;
use std::net::IpAddr;

fn names() -> impl Strategy<Value = String> {
    "[a-zé.-]{1,20}"
}

fn served() -> impl Strategy<Value = Served> {
    (any::<IpAddr>(), any::<u16>(), any::<u8>(), any::<bool>(), any::<bool>())
        .prop_map(|(vip, port, protocol, up, full)| Served { vip: vip.to_canonical(), port, protocol, up, full })
}

fn told(sites: usize) -> impl Strategy<Value = Told> {
    (any::<[u8; 16]>(), any::<u64>(), 0..sites as u8, any::<u32>(), any::<u64>(), any::<u32>())
        .prop_map(|(who, share, site, ttl_s, stamp_ms, hits)| Told { who, share, site, ttl_s, stamp_ms, hits })
}

fn way() -> impl Strategy<Value = OwnWay> {
    let us = any::<u32>().prop_map(|us| (us > 0).then_some(us));
    let way = (any::<IpAddr>(), us, 0u16..=1000, prop::option::of(0..=254u8), any::<u32>());
    way.prop_map(|(address, round_trip_us, loss_permille, hops, age_s)| OwnWay {
        address: address.to_canonical(),
        way: Way { round_trip_us, loss_permille, hops, age_s },
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let state = (
        (any::<bool>(), any::<u32>(), any::<u32>(), 0u16..=1000),
        prop::collection::vec(served(), 0..20),
        prop::collection::vec(any::<(u64, bool)>(), 0..20),
    )
        .prop_map(|((full, connections, packets_per_s, cpu_permille), services, members)| {
            Message::State(State { full, connections, packets_per_s, cpu_permille, services, members })
        });
    let records = prop::collection::vec(names(), 1..6).prop_flat_map(|sites| {
        let records = prop::collection::vec(told(sites.len()), 0..30);
        records.prop_map(move |records| Message::Records(Records { sites: sites.clone(), records }))
    });
    prop_oneof![
        (any::<u16>(), names()).prop_map(|(version, site)| Message::Hello { version, site }),
        any::<(u64, i64)>().prop_map(|(sent_us, correction_ms)| Message::Ping { sent_us, correction_ms }),
        any::<(u64, u64, u64, u8)>().prop_map(|(sent_us, received_us, replied_us, hops)| {
            Message::Pong { sent_us, received_us, replied_us, hops }
        }),
        state,
        records,
        any::<u64>().prop_map(|word| Message::Digest {
            before_ms: word / 2,
            sums: Box::new(std::array::from_fn(|n| word.wrapping_mul(n as u64))),
        }),
        prop::collection::vec(way(), 0..30).prop_map(Message::Ways),
        any::<u64>().prop_map(|word| Message::Want(std::array::from_fn(|n| word.rotate_left(n as u32)))),
    ]
}

fn written(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.write(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_is_read(message in messages(), behind in prop::collection::vec(any::<u8>(), 0..9)) {
        let mut bytes = written(&message);
        let body = frame(&bytes).unwrap().unwrap().to_vec();
        prop_assert_eq!(body.len() + 4, bytes.len());
        let read = Message::read(&body).unwrap();
        prop_assert_eq!(read.as_ref(), Some(&message));
        // A later version may say more, and the next message may have come with it.
        let longer = [&body[..], &behind].concat();
        prop_assert_eq!(Message::read(&longer).unwrap(), Some(message));
        bytes.extend(behind);
        prop_assert_eq!(frame(&bytes).unwrap().unwrap(), &body[..]);
    }

    #[test]
    fn a_message_that_is_cut_is_none(message in messages(), cut in any::<prop::sample::Index>()) {
        let bytes = written(&message);
        let cut = cut.index(bytes.len());
        prop_assert_eq!(frame(&bytes[..cut]).unwrap(), None);
        prop_assert_eq!(Message::read(&bytes[4..4.max(cut)]), Err(Malformed));
    }

    #[test]
    fn damage_does_no_harm(
        message in messages(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = written(&message);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Some(body)) = frame(&bytes)
            && let Ok(Some(message)) = Message::read(body)
        {
            // Nothing is there that did not come in.
            prop_assert!(written(&message).len() <= bytes.len() + 4);
        }
    }

    #[test]
    fn rubbish_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = frame(&bytes);
        let _ = Message::read(&bytes);
    }
}

#[test]
fn lengths_that_lie_take_no_memory() {
    assert_eq!(frame(&[0xff; 64]), Err(Malformed));
    assert_eq!(frame(&[0; 64]), Err(Malformed));
    // 65535 services in no bytes.
    let mut state = vec![STATE, 0];
    state.extend([0; 10]);
    state.extend([0xff, 0xff]);
    assert_eq!(Message::read(&state), Err(Malformed));
    assert_eq!(Message::read(&[RECORDS, 0, 0, 0, 1, 0, 0]), Err(Malformed));
    assert_eq!(Message::read(&[WAYS, 0x10, 0, 1]), Err(Malformed));
    assert_eq!(Message::read(&[200, 1, 2]), Ok(None), "a later version's");
    assert_eq!(Message::read(&[]), Err(Malformed));
}

#[test]
fn the_longest_lists_fit_one_message() {
    let served = Served { vip: "2001:db8::1".parse().unwrap(), port: 1, protocol: 6, up: true, full: false };
    let (services, members) = (vec![served; MOST_SERVICES + 5], vec![(7, true); MOST_MEMBERS + 5]);
    let bytes = written(&Message::State(State { services, members, ..State::default() }));
    assert!(bytes.len() <= MOST + 4, "{}", bytes.len());
    let told = Told { who: [1; 16], share: 2, site: 0, ttl_s: 3, stamp_ms: 4, hits: 5 };
    let records = Records { sites: vec!["x".repeat(255); MOST_SITES], records: vec![told; MOST_RECORDS + 5] };
    let bytes = written(&Message::Records(records));
    assert!(bytes.len() <= MOST + 4, "{}", bytes.len());
    let Some(Message::Records(read)) = Message::read(&bytes[4..]).unwrap() else { panic!() };
    assert_eq!((read.sites.len(), read.records.len()), (MOST_SITES, MOST_RECORDS));
    let way = Way { round_trip_us: Some(1), loss_permille: 0, hops: None, age_s: 0 };
    let bytes = written(&Message::Ways(vec![OwnWay { address: [192, 0, 2, 1].into(), way }; MOST_WAYS + 5]));
    assert!(bytes.len() <= MOST + 4, "{}", bytes.len());
    let Some(Message::Ways(read)) = Message::read(&bytes[4..]).unwrap() else { panic!() };
    assert_eq!(read.len(), MOST_WAYS);
}
