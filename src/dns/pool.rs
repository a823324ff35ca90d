//! Pools: names whose addresses are those of members that are up.

use super::name::Name;
use super::steer::{Plan, Sites};
use super::wire::{class, rtype};
use crate::config::dns::MAX_MEMBERS;
use std::net::IpAddr;
use std::sync::Arc;

/// Their states are one word.
const _: () = assert!(MAX_MEMBERS <= u64::BITS as usize);

/// A pool as the configuration means it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: String,
    /// For the caller's counters; comes back in [`super::Reply::pool`].
    pub slot: u16,
    /// A and AAAA at these names are the pool's. Those that lie in no zone of ours are an error of the configuration's.
    pub names: Vec<Name>,
    pub ttl_s: u32,
    /// The most records of an answer; 0: all.
    pub max_answers: usize,
    /// Fewer members up than this (or than there are of that family), and `when_down` decides.
    pub min_up: usize,
    pub when_down: WhenDown,
    /// At most [`MAX_MEMBERS`].
    pub members: Vec<Member>,
    /// By what one site's addresses are chosen. None: all sites' are answered, in turn.
    pub plan: Option<Plan>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// How often it stands first, in proportion to the others. 0: only as the last resort of [`WhenDown::Member`].
    pub weight: u32,
}

/// What a pool answers when too few members are up. Each family of addresses is looked at by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// All members' addresses.
    All,
    /// The name exists and has no addresses.
    None,
    /// This member's addresses, up or not: an index.
    Member(usize),
}

/// What is up just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolState {
    /// Bit n: member n is up.
    pub up: u64,
    /// The answer's TTL is not above this: the time in which the state could next change.
    pub ttl_most_s: u32,
}

/// The most first places of one rotation.
const MOST_STEPS: u32 = 256;

/// What a pool answers in one state, in wire form.
pub(super) struct Image {
    pool: Arc<Pool>,
    v4: Rotation,
    v6: Rotation,
    sites: Option<Box<Sites>>,
}

impl Image {
    pub fn new(pool: &Arc<Pool>, state: PoolState) -> Image {
        let ttl_s = pool.ttl_s.min(state.ttl_most_s.max(1));
        let family = |v4: bool| Rotation::new(pool, &in_answers(pool, state.up, v4), v4, ttl_s);
        let sites = pool.plan.as_ref().map(|plan| Box::new(Sites::new(pool, plan, state, ttl_s)));
        Image { v4: family(true), v6: family(false), sites, pool: pool.clone() }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Where one site's addresses are chosen: what each answers. None: all are answered.
    #[inline]
    pub fn sites(&self) -> Option<(&Plan, &Sites)> {
        self.sites.as_ref().and_then(|sites| Some((self.pool.plan.as_ref()?, &**sites)))
    }

    /// Of A or AAAA: all of the pool's.
    #[inline]
    pub fn rotation(&self, qtype: u16) -> Option<&Rotation> {
        match qtype {
            rtype::A => Some(&self.v4),
            rtype::AAAA => Some(&self.v6),
            _ => None,
        }
    }
}

/// The address records of one family, and the orders in which they are answered one after the other.
///
/// # Theory of operation
///
/// Members come first in proportion to their weights, spread evenly: at each step of a round every member's credit grows by its
/// weight, the one with the most comes first and pays the sum of all weights (smooth weighted round robin). An answer is the step's first
/// member and behind it the others, in the order in which they will come first next. So the orders of one round are all
/// that there are, and are made ahead. Equal weights give plain rotation.
pub(super) struct Rotation {
    /// All records that may be answered, each of `size` bytes, the owner a pointer to the question's name; sorted by address.
    records: Box<[u8]>,
    size: usize,
    /// Orders of the records, of `each` numbers each.
    orders: Box<[u16]>,
    each: usize,
}

impl Rotation {
    /// Of members by their numbers.
    pub fn new(pool: &Pool, members: &[usize], v4: bool, ttl_s: u32) -> Rotation {
        let mut addresses: Vec<IpAddr> =
            members.iter().flat_map(|member| of_family(&pool.members[*member], v4)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let weights: Vec<u32> = members.iter().map(|member| pool.members[*member].weight).collect();
        let round = round(&weights);
        let each = if pool.max_answers == 0 { addresses.len() } else { pool.max_answers.min(addresses.len()) };
        let mut orders = Vec::with_capacity(round.len() * each);
        for step in 0..round.len() {
            let mut order: Vec<u16> = Vec::with_capacity(addresses.len());
            for next in round[step..].iter().chain(&round[..step]) {
                for address in of_family(&pool.members[members[*next]], v4) {
                    let at = addresses.binary_search(&address).unwrap_or(0) as u16;
                    if !order.contains(&at) {
                        order.push(at);
                    }
                }
                if order.len() >= each {
                    break;
                }
            }
            orders.extend_from_slice(&order[..each]);
        }
        let size = if v4 { 16 } else { 28 };
        let mut records = Vec::with_capacity(addresses.len() * size);
        for address in &addresses {
            let data = octets(address);
            records.extend_from_slice(&[0xc0, 12]);
            records.extend_from_slice(&(if v4 { rtype::A } else { rtype::AAAA }).to_be_bytes());
            records.extend_from_slice(&class::IN.to_be_bytes());
            records.extend_from_slice(&ttl_s.to_be_bytes());
            records.extend_from_slice(&(data.len() as u16).to_be_bytes());
            records.extend_from_slice(&data);
        }
        Rotation { records: records.into(), size, orders: orders.into(), each }
    }

    /// Records of an answer.
    pub fn len(&self) -> usize {
        self.each
    }

    /// Bytes of an answer.
    pub fn bytes(&self) -> usize {
        self.each * self.size
    }

    /// The records of one answer, in turn.
    #[inline]
    pub fn answer(&self, turn: u32) -> impl Iterator<Item = &[u8]> {
        let steps = self.orders.len().checked_div(self.each).unwrap_or(0);
        let start = (turn as usize).checked_rem(steps).unwrap_or(0) * self.each;
        let order = &self.orders[start..start + self.each];
        order.iter().map(|at| &self.records[usize::from(*at) * self.size..][..self.size])
    }

    /// The data of all records, in order.
    pub fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.records.chunks_exact(self.size).map(|record| &record[12..])
    }
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn of_family(member: &Member, v4: bool) -> impl Iterator<Item = IpAddr> {
    member.addresses.iter().copied().filter(move |address| address.is_ipv4() == v4)
}

/// Those that have addresses of a family.
fn having(pool: &Pool, v4: bool) -> Vec<usize> {
    let has = |member: &usize| of_family(&pool.members[*member], v4).next().is_some();
    (0..pool.members.len().min(MAX_MEMBERS)).filter(has).collect()
}

/// The members that are up and have addresses of a family. None: they are too few, and `when_down` decides.
pub(super) fn alive(pool: &Pool, up: u64, v4: bool) -> Option<Vec<usize>> {
    let normal: Vec<usize> = having(pool, v4).into_iter().filter(|member| pool.members[*member].weight > 0).collect();
    let alive: Vec<usize> = normal.iter().copied().filter(|member| up >> member & 1 == 1).collect();
    (!alive.is_empty() && alive.len() >= pool.min_up.min(normal.len())).then_some(alive)
}

/// The members whose addresses of a family are answered.
fn in_answers(pool: &Pool, up: u64, v4: bool) -> Vec<usize> {
    if let Some(alive) = alive(pool, up, v4) {
        return alive;
    }
    let all = having(pool, v4);
    let normal: Vec<usize> = all.iter().copied().filter(|member| pool.members[*member].weight > 0).collect();
    match pool.when_down {
        WhenDown::All if normal.is_empty() => all,
        WhenDown::All => normal,
        WhenDown::None => Vec::new(),
        WhenDown::Member(last) => all.into_iter().filter(|member| *member == last).collect(),
    }
}

/// Who comes first, step by step, of a whole round.
pub(super) fn round(weights: &[u32]) -> Vec<usize> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
    let scaled = |weight: &u32| {
        let weight = u64::from(weight / divisor);
        let fits = if sum <= u64::from(MOST_STEPS) { weight } else { weight * u64::from(MOST_STEPS) / sum };
        fits.max(1) as i64
    };
    let weights: Vec<i64> = weights.iter().map(scaled).collect();
    let sum: i64 = weights.iter().sum();
    let mut credit = vec![0; weights.len()];
    (0..sum)
        .map(|_| {
            credit.iter_mut().zip(&weights).for_each(|(credit, weight)| *credit += weight);
            let mut first = 0;
            for at in 1..credit.len() {
                if credit[at] > credit[first] {
                    first = at;
                }
            }
            credit[first] -= sum;
            first
        })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(members: &[(&[&str], u32)]) -> Pool {
        let member = |(at, (addresses, weight)): (usize, &(&[&str], u32))| Member {
            name: format!("m{at}"),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            weight: *weight,
        };
        let members = members.iter().enumerate().map(member).collect();
        let names = vec![Name::parse("www.example.").unwrap()];
        let (ttl_s, max_answers, min_up, when_down) = (30, 0, 1, WhenDown::All);
        Pool { name: "p".into(), slot: 0, names, ttl_s, max_answers, min_up, when_down, members, plan: None }
    }

    fn state(up: u64) -> PoolState {
        PoolState { up, ttl_most_s: u32::MAX }
    }

    /// The last bytes of the addresses, answer by answer.
    fn answers(pool: &Pool, up: u64, qtype: u16, times: u32) -> Vec<Vec<u8>> {
        let image = Image::new(&Arc::new(pool.clone()), state(up));
        let rotation = image.rotation(qtype).unwrap();
        (0..times).map(|turn| rotation.answer(turn).map(|record| *record.last().unwrap()).collect()).collect()
    }

    const THREE: [(&[&str], u32); 3] = [(&["192.0.2.1"], 1), (&["192.0.2.2"], 1), (&["192.0.2.3"], 1)];

    #[test]
    fn equal_members_rotate_and_those_that_are_down_leave() {
        let pool = pool(&THREE);
        let round = [vec![1, 2, 3], vec![2, 3, 1], vec![3, 1, 2], vec![1, 2, 3]];
        assert_eq!(answers(&pool, 0b111, rtype::A, 4), round);
        assert_eq!(answers(&pool, 0b101, rtype::A, 3), [vec![1, 3], vec![3, 1], vec![1, 3]]);
        assert_eq!(answers(&pool, 0b111, rtype::AAAA, 1), [Vec::<u8>::new()]);
    }

    #[test]
    fn weights_say_how_often_a_member_stands_first() {
        let mut pool = pool(&[(&["192.0.2.1"], 50), (&["192.0.2.2"], 30), (&["192.0.2.3"], 20)]);
        let firsts = |pool: &Pool, times| {
            let mut firsts = [0; 4];
            answers(pool, 7, rtype::A, times).iter().for_each(|answer| firsts[usize::from(answer[0])] += 1);
            firsts
        };
        assert_eq!(firsts(&pool, 100), [0, 50, 30, 20]);
        assert!(answers(&pool, 7, rtype::A, 20).iter().all(|answer| answer.len() == 3));
        pool.max_answers = 2;
        assert_eq!(firsts(&pool, 100), [0, 50, 30, 20]);
        assert!(answers(&pool, 7, rtype::A, 20).iter().all(|answer| answer.len() == 2 && answer[0] != answer[1]));
        // Far apart, and still everybody has a turn.
        pool.members[0].weight = 1_000_000_007;
        let firsts = firsts(&pool, 10_000);
        assert!(firsts[2] > 0 && firsts[3] > 0 && firsts[1] > 9800, "{firsts:?}");
    }

    #[test]
    fn fewer_than_min_up_is_decided_by_when_down() {
        let mut pool = pool(&[(&["192.0.2.1"], 1), (&["192.0.2.2"], 1), (&["192.0.2.9"], 0)]);
        pool.min_up = 2;
        assert_eq!(answers(&pool, 0b011, rtype::A, 1), [[1, 2]]);
        assert_eq!(answers(&pool, 0b101, rtype::A, 1), [[1, 2]]);
        pool.when_down = WhenDown::None;
        assert_eq!(answers(&pool, 0b101, rtype::A, 1), [Vec::<u8>::new()]);
        pool.when_down = WhenDown::Member(2);
        assert_eq!(answers(&pool, 0b001, rtype::A, 1), [[9]]);
        pool.min_up = 1;
        assert_eq!(answers(&pool, 0b001, rtype::A, 1), [[1]]);
        assert_eq!(answers(&pool, 0b000, rtype::A, 1), [[9]]);
        // Nobody up is too few, also where none is asked for.
        pool.min_up = 0;
        assert_eq!(answers(&pool, 0b000, rtype::A, 1), [[9]]);
    }

    #[test]
    fn each_family_is_looked_at_by_itself() {
        let mut pool = pool(&[(&["192.0.2.1"], 1), (&["192.0.2.2", "2001:db8::2"], 1), (&["192.0.2.3"], 1)]);
        pool.min_up = 2;
        assert_eq!(answers(&pool, 0b111, rtype::AAAA, 1), [[2]]);
        pool.when_down = WhenDown::None;
        assert_eq!(answers(&pool, 0b101, rtype::AAAA, 1), [Vec::<u8>::new()]);
        assert_eq!(answers(&pool, 0b101, rtype::A, 1), [[1, 3]]);
    }

    #[test]
    fn an_address_of_two_members_is_one_record() {
        let pool = pool(&[(&["192.0.2.1", "192.0.2.2"], 1), (&["192.0.2.2"], 1)]);
        assert_eq!(answers(&pool, 0b11, rtype::A, 2), [vec![1, 2], vec![2, 1]]);
        assert_eq!(answers(&pool, 0b10, rtype::A, 1), [[2]]);
    }

    #[test]
    fn the_ttl_is_cut_to_when_the_state_could_change_and_never_to_nothing() {
        let pool = Arc::new(pool(&THREE));
        let ttl = |ttl_most_s| {
            let image = Image::new(&pool, PoolState { up: 7, ttl_most_s });
            let record = image.v4.answer(0).next().unwrap();
            u32::from_be_bytes([record[6], record[7], record[8], record[9]])
        };
        assert_eq!([ttl(u32::MAX), ttl(12), ttl(0)], [30, 12, 1]);
    }
}
