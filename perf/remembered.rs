//! Writes what a name server remembers of resolvers into a file, as it does by itself when it ends: as if all of them had just asked.
//!
//! `remembered FILE RECORDS RESOLVERS FIRST SHARE SITE...`: so many records, the first `RESOLVERS` of them of IPv4 addresses from `FIRST`
//! on, the others of IPv6 addresses, for the pools that share by the word `SHARE`; sites in turn.

use farside::affinity::{Share, Store, Who};
use farside::sites::{Registry, same_hash};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{SystemTime, UNIX_EPOCH};

/// As by default.
const TTL_S: u32 = 3600;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, records, resolvers, first, share, sites @ ..] = &*arguments else {
        panic!("remembered FILE RECORDS RESOLVERS FIRST SHARE SITE...")
    };
    let (records, resolvers): (u32, u32) = (records.parse().unwrap(), resolvers.parse().unwrap());
    let first = u32::from(first.parse::<Ipv4Addr>().unwrap());
    let registry = Registry::default();
    let sites: Vec<_> = sites.iter().map(|site| registry.number(site).unwrap()).collect();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    // So much room that none is pushed out by another one.
    let store = Store::new(records.saturating_mul(2), (1, 2));
    for n in 0..records {
        let address = if n < resolvers {
            IpAddr::from(Ipv4Addr::from(first + n))
        } else {
            IpAddr::from(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n)))
        };
        let site = sites[n as usize % sites.len()];
        store.put(Who::from(address), Share(same_hash(share.as_bytes())), site, TTL_S, now_ms, u64::MAX);
    }
    assert_eq!(store.save(File::create(file).unwrap(), now_ms, &registry).unwrap(), u64::from(records));
}
