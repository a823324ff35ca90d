//! The flow hash against another implementation of SipHash, and pinned.

use super::super::HashKey;
use super::{KEY, v4, v6};
use crate::wire::ip::{Addr, Endpoint, FlowKey, TCP, UDP, V4, V6};
use proptest::prelude::*;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// As the definition reads: bytes in a row.
fn oracle(key: &HashKey, flow: &FlowKey) -> u64 {
    let mut message = Vec::new();
    let count = if flow.family == V4 { 4 } else { 16 };
    message.extend_from_slice(&flow.src.addr.octets()[..count]);
    message.extend_from_slice(&flow.dst.addr.octets()[..count]);
    message.extend_from_slice(&flow.src.port.to_le_bytes());
    message.extend_from_slice(&flow.dst.port.to_le_bytes());
    message.extend_from_slice(&[flow.protocol, flow.family]);
    let mut hasher = SipHasher13::new_with_keys(key.k0, key.k1);
    hasher.write(&message);
    hasher.finish().max(1)
}

prop_compose! {
    pub fn any_key()(
        v6 in any::<bool>(), udp in any::<bool>(),
        src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(), ports in any::<[u16; 2]>(),
    ) -> FlowKey {
        let addr = |octets: [u8; 16]| {
            if v6 { Addr::v6(octets) } else { Addr::v4([octets[0], octets[1], octets[2], octets[3]]) }
        };
        FlowKey {
            src: Endpoint { addr: addr(src), port: ports[0] },
            dst: Endpoint { addr: addr(dst), port: ports[1] },
            protocol: if udp { UDP } else { TCP },
            family: if v6 { V6 } else { V4 },
        }
    }
}

proptest! {
    #[test]
    fn the_hash_is_siphash_1_3(key in any_key(), k0 in any::<u64>(), k1 in any::<u64>()) {
        let hash_key = HashKey { k0, k1 };
        prop_assert_eq!(hash_key.hash(&key), oracle(&hash_key, &key));
    }

    #[test]
    fn an_address_is_hashed_as_whole_words(key in any_key(), last in any::<u64>()) {
        let mut message = key.src.addr.octets()[..if key.family == V4 { 8 } else { 16 }].to_vec();
        message.resize(if key.family == V4 { 8 } else { 32 }, 0);
        message.extend(last.to_le_bytes());
        let mut hasher = SipHasher13::new_with_keys(KEY.k0, KEY.k1);
        hasher.write(&message);
        prop_assert_eq!(KEY.hash_addr(&key.src.addr, key.family, last), hasher.finish().max(1));
    }
}

/// The kernel program is held to the same values.
#[test]
fn the_hash_is_pinned() {
    let four = FlowKey { src: v4(1, 40_000), dst: v4(100, 110), protocol: TCP, family: V4 };
    let six = FlowKey { src: v6(1, 40_000), dst: v6(100, 53), protocol: UDP, family: V6 };
    assert_eq!([KEY.hash(&four), KEY.hash(&six)], [17_707_886_802_071_876_662, 5_573_815_783_894_845_174]);
    assert_ne!(KEY.hash(&four), KEY.hash(&four.reversed()));
}

#[test]
fn random_keys_differ_and_stay_secret() {
    let (a, b) = (HashKey::random().expect("random numbers"), HashKey::random().expect("random numbers"));
    assert_ne!(a, b);
    assert_eq!(format!("{a:?}"), "HashKey");
}
