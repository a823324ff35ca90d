//! Longest-prefix match over many networks. Made once, never changed.
//!
//! # Theory of operation
//!
//! Networks hold each other or have nothing in common, so the ends of all of them cut the addresses into ranges, and all of a range have
//! the same longest match. The ranges' first addresses lie in one sorted array; of every 16th of them there is a smaller array, of
//! every 16th of those the next one, until 16 or fewer are left. A search goes down from there, 16 neighbors at a time: the small arrays
//! stay in the cache, and of a million networks two or three lines come from memory.
//!
//! A network knows the next shorter one around it, so that a search can be for networks of a certain length at most: for a client's network
//! only those count that hold all of it.

use crate::config::dns::Prefix;
use std::net::IpAddr;

/// No network.
const NOWHERE: u32 = u32::MAX;

/// Neighbours that are looked at together.
const FAN: usize = 16;

/// The most networks of one table.
pub const MAX_PREFIXES: usize = 8_000_000;

/// Two networks are the same and have different values: their places in what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twice {
    pub first: usize,
    pub second: usize,
}

struct Network {
    value: u32,
    /// The longest of those that hold it; or [`NOWHERE`].
    around: u32,
    length: u8,
}

/// From networks to values.
#[derive(Default)]
pub struct Prefixes {
    networks: Box<[Network]>,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

struct Ranges<K> {
    /// First addresses of ranges, the first of them 0; then every 16th of the array before, and so on.
    levels: Vec<Box<[K]>>,
    /// The network of each range, or [`NOWHERE`].
    networks: Box<[u32]>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Ranges<K> {
        Ranges { levels: Vec::new(), networks: Box::default() }
    }
}

impl Prefixes {
    /// Of at most [`MAX_PREFIXES`] networks and their values. The same network may be there twice with the same value.
    pub fn new(given: &[(Prefix, u32)]) -> Result<Prefixes, Twice> {
        let mut order: Vec<u32> = (0..given.len().min(MAX_PREFIXES) as u32).collect();
        // By family, first address, length: each one comes behind those that hold it.
        order.sort_by_key(|at| given[*at as usize].0);
        for pair in order.windows(2) {
            let [first, second] = [pair[0] as usize, pair[1] as usize];
            if given[first].0 == given[second].0 && given[first].1 != given[second].1 {
                return Err(Twice { first, second });
            }
        }
        order.dedup_by_key(|at| given[*at as usize].0);
        let network = |at: &u32| {
            let (prefix, value) = given[*at as usize];
            Network { value, around: NOWHERE, length: prefix.length() }
        };
        let mut networks: Box<[Network]> = order.iter().map(network).collect();
        let fours = order.partition_point(|at| given[*at as usize].0.address().is_ipv4());
        let first_v4 = |at: usize| match given[order[at] as usize].0.address() {
            IpAddr::V4(address) => u32::from(address),
            IpAddr::V6(_) => 0,
        };
        let first_v6 = |at: usize| match given[order[at] as usize].0.address() {
            IpAddr::V4(_) => 0,
            IpAddr::V6(address) => u128::from(address),
        };
        let v4 = Ranges::new(&mut networks, 0..fours, first_v4);
        let v6 = Ranges::new(&mut networks, fours..order.len(), first_v6);
        Ok(Prefixes { networks, v4, v6 })
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// The longest network that holds all of `network`, and its value.
    #[inline]
    pub fn find(&self, network: Prefix) -> Option<(Prefix, u32)> {
        let mut at = match network.address() {
            IpAddr::V4(address) => self.v4.find(u32::from(address)),
            IpAddr::V6(address) => self.v6.find(u128::from(address)),
        };
        while let Some(found) = self.networks.get(at as usize) {
            if found.length <= network.length() {
                return Some((Prefix::of(network.address(), found.length), found.value));
            }
            at = found.around;
        }
        None
    }
}

/// An address as a number.
trait Bits: Copy + Ord {
    const ZERO: Self;

    /// The last address of the network of `length` bits that begins here.
    fn last(self, length: u8) -> Self;

    /// None: there is no higher one.
    fn next(self) -> Option<Self>;
}

impl Bits for u32 {
    const ZERO: u32 = 0;

    fn last(self, length: u8) -> u32 {
        self | u32::MAX.checked_shr(length.into()).unwrap_or(0)
    }

    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
}

impl Bits for u128 {
    const ZERO: u128 = 0;

    fn last(self, length: u8) -> u128 {
        self | u128::MAX.checked_shr(length.into()).unwrap_or(0)
    }

    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
}

impl<K: Bits> Ranges<K> {
    /// Of the networks at `places`, in order; `first` gives the first address of the one at a place.
    fn new(networks: &mut [Network], places: std::ops::Range<usize>, first: impl Fn(usize) -> K) -> Ranges<K> {
        let mut ranges: Vec<(K, u32)> = Vec::with_capacity(places.len() * 2 + 1);
        ranges.push((K::ZERO, NOWHERE));
        // From here on it is this network's.
        let mut cut = |at: K, network: u32| match ranges.last_mut() {
            Some(last) if last.0 == at => last.1 = network,
            _ => ranges.push((at, network)),
        };
        // The networks that the current one lies in, and their last addresses.
        let mut open: Vec<(K, u32)> = Vec::new();
        for place in places {
            let start = first(place);
            while let Some((last, _)) = open.pop_if(|(last, _)| *last < start) {
                last.next().into_iter().for_each(|next| cut(next, innermost(&open)));
            }
            networks[place].around = innermost(&open);
            cut(start, place as u32);
            open.push((start.last(networks[place].length), place as u32));
        }
        while let Some((last, _)) = open.pop() {
            last.next().into_iter().for_each(|next| cut(next, innermost(&open)));
        }
        let (starts, networks): (Vec<K>, Vec<u32>) = ranges.into_iter().unzip();
        let mut levels = vec![starts.into_boxed_slice()];
        while let Some(last) = levels.last().filter(|last| last.len() > FAN) {
            let next = last.iter().step_by(FAN).copied().collect();
            levels.push(next);
        }
        Ranges { levels, networks: networks.into() }
    }

    /// The network of the range that an address lies in.
    #[inline]
    fn find(&self, address: K) -> u32 {
        let mut at = 0;
        for level in self.levels.iter().rev() {
            let neighbors = &level[at * FAN..level.len().min(at * FAN + FAN)];
            // The first of them is never above the address.
            at = at * FAN + neighbors.iter().filter(|first| **first <= address).count() - 1;
        }
        self.networks.get(at).copied().unwrap_or(NOWHERE)
    }
}

fn innermost<K>(open: &[(K, u32)]) -> u32 {
    open.last().map_or(NOWHERE, |(_, network)| *network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn table(given: &[(&str, u32)]) -> Result<Prefixes, Twice> {
        let given: Vec<_> = given.iter().map(|(text, value)| (prefix(text), *value)).collect();
        Prefixes::new(&given)
    }

    #[test]
    fn the_longest_network_wins_and_behind_it_the_one_around() {
        let table = table(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.3", 3), ("::/0", 4), ("2001:db8::/32", 5)]);
        let table = table.unwrap();
        let find = |text: &str| table.find(prefix(text)).map(|(prefix, value)| (prefix.to_string(), value));
        let found = |prefix: &str, value| Some((prefix.to_string(), value));
        assert_eq!(find("10.1.2.3"), found("10.1.2.3", 3));
        assert_eq!(find("10.1.2.4"), found("10.1.0.0/16", 2));
        assert_eq!(find("10.2.0.0"), found("10.0.0.0/8", 1));
        assert_eq!([find("9.255.255.255"), find("11.0.0.0")], [None, None]);
        assert_eq!(find("2001:db8:ffff::"), found("2001:db8::/32", 5));
        assert_eq!(find("ffff::"), found("::/0", 4));
    }

    #[test]
    fn of_a_network_all_must_be_held() {
        let table = table(&[("10.0.0.0/8", 1), ("10.1.0.0/24", 2)]).unwrap();
        let find = |text: &str| table.find(prefix(text)).map(|(_, value)| value);
        assert_eq!([find("10.1.0.0/24"), find("10.1.0.0/16"), find("0.0.0.0/0")], [Some(2), Some(1), None]);
    }

    #[test]
    fn a_network_has_one_value() {
        let twice = table(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.0.0.0/8", 3)]).err();
        assert_eq!(twice, Some(Twice { first: 0, second: 2 }));
        assert!(table(&[("10.0.0.0/8", 1), ("10.0.0.0/8", 1)]).is_ok());
        assert!(Prefixes::default().find(prefix("10.0.0.1")).is_none());
        assert!(table(&[]).unwrap().find(prefix("::1")).is_none());
    }

    fn networks() -> impl Strategy<Value = Vec<(Prefix, u32)>> {
        // Close together, so that they hold each other.
        let v4 = (0..64u32, 24..=32u8)
            .prop_map(|(address, length)| Prefix::of(IpAddr::from((address << 2).to_be_bytes()), length));
        let top =
            (any::<u8>(), 0..=9u8).prop_map(|(byte, length)| Prefix::of(IpAddr::from([byte, 255, 255, 255]), length));
        let v6 = (any::<u8>(), 0..=128u8)
            .prop_map(|(byte, length)| Prefix::of(IpAddr::from(u128::from_be_bytes([byte; 16]).to_be_bytes()), length));
        proptest::collection::vec((prop_oneof![v4, top, v6], 0..9u32), 0..80)
    }

    proptest! {
        #[test]
        fn a_table_finds_what_looking_at_all_finds(given in networks(), asked in networks()) {
            let mut given = given;
            let mut seen = std::collections::HashSet::new();
            given.retain(|(prefix, _)| seen.insert(*prefix));
            let table = Prefixes::new(&given).unwrap();
            for (asked, _) in &asked {
                let holds = |(prefix, _): &&(Prefix, u32)| prefix.length() <= asked.length() && prefix.contains(asked.address());
                let longest = given.iter().filter(holds).max_by_key(|(prefix, _)| prefix.length()).copied();
                prop_assert_eq!(table.find(*asked), longest);
            }
        }
    }
}
