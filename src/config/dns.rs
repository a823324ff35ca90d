//! WAN lines, and the DNS that is served over them: `[[line]]` and `[dns]`.

pub(super) mod diff;
mod hours;
pub(super) mod meaning;
mod prefix;
pub(super) mod redis;
mod steering;
#[cfg(test)]
mod tests;
pub(super) mod written;

use super::{Check, Word};
pub use hours::Hours;
pub use prefix::Prefix;
pub use redis::Redis;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The most members of one pool.
pub const MAX_MEMBERS: usize = 64;

/// The most records of resolvers' sites that can be asked for: 10 GB.
pub const MAX_RECORDS: u32 = 100_000_000;

/// A way to the Internet. It is up while what is checked through it answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub name: String,
    /// The host's own on this line; checks are sent from it.
    pub address: IpAddr,
    /// What is checked, all of the address's family.
    pub targets: Vec<IpAddr>,
    pub need: Need,
    pub check: Check,
}

/// How many of a line's targets must be up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Any,
    All,
}

impl Word for Need {
    const WORDS: &'static [(&'static str, Self)] = &[("any", Need::Any), ("all", Need::All)];
}

#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// UDP and TCP; never a wildcard, so that answers come from the address that was asked.
    pub listen: Vec<SocketAddr>,
    /// Interfaces at which plain questions by UDP are taken before the host's stack has them, and answered past it.
    pub fast_path: Vec<String>,
    /// Serials are kept there, and the keys that zones are signed by.
    pub state_dir: PathBuf,
    /// What is told to a client that asks for the server's identifier (RFC 5001); empty: nothing.
    pub nsid: String,
    /// What is told to a client that asks for version.bind; empty: it is refused.
    pub version: String,
    /// The most answers of one kind to one network in a second; 0: no limit.
    pub rate_limit: u32,
    /// Of the answers above the limit every so many is sent truncated, so that a real client comes by TCP; 0: none.
    pub slip: u32,
    pub tcp: Tcp,
    pub zones: Vec<Zone>,
    pub keys: Vec<Key>,
    pub pools: Vec<Pool>,
    pub topologies: Vec<Topology>,
    /// Which networks lie in which countries: a MaxMind database.
    pub geo_database: Option<PathBuf>,
    pub groups: Vec<Group>,
    /// Resolvers whose addresses have so many bits in common count as one.
    pub group_mask_v4: u8,
    pub group_mask_v6: u8,
    /// Of resolvers' sites, of all pools together.
    pub max_records: u32,
    /// Below it are clients' own names, by which groups of resolvers are learned; as [`Zone::origin`].
    pub learn_groups: Option<String>,
    /// How many resolvers' ways may be measured in a second; 0: none.
    pub measure_resolvers: u32,
    /// A network's way is measured so often at most.
    pub measure_every: Duration,
    pub redis: Option<Redis>,
}

impl Dns {
    /// Where the keys are that zones are signed by.
    pub fn keys_dir(&self) -> PathBuf {
        self.state_dir.join("keys")
    }

    /// Some pool chooses by metrics.
    pub fn is_metric(&self) -> bool {
        self.pools.iter().any(|pool| pool.modes.contains(&Mode::Metrics))
    }

    /// Some pool remembers.
    pub fn is_dynamic(&self) -> bool {
        self.pools.iter().any(|pool| pool.modes.contains(&Mode::Dynamic))
    }
}

/// Bounds of DNS over TCP.
#[derive(Clone, Debug, PartialEq)]
pub struct Tcp {
    pub max_connections: u32,
    /// From one address.
    pub max_per_client: u32,
    /// How long a connection may be silent.
    pub idle: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Absolute, in small letters, with the last dot.
    pub origin: String,
    pub file: PathBuf,
    /// Answers are signed, by the keys in [`Dns::keys_dir`].
    pub dnssec: bool,
    /// NOTIFY goes there (port 53), and they may transfer the zone.
    pub secondaries: Vec<IpAddr>,
    /// The name of a [`Key`]: transfers must be signed with it, and NOTIFY is.
    pub tsig_key: Option<String>,
}

/// What messages are signed with (RFC 8945).
#[derive(Clone, PartialEq)]
pub struct Key {
    /// As [`Zone::origin`].
    pub name: String,
    pub algorithm: Algorithm,
    pub secret: Vec<u8>,
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key {{ {} {} }}", self.name, self.algorithm.word())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Word for Algorithm {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("hmac-sha256", Algorithm::Sha256),
        ("hmac-sha384", Algorithm::Sha384),
        ("hmac-sha512", Algorithm::Sha512),
        ("hmac-sha1", Algorithm::Sha1),
    ];
}

/// Names whose addresses come from members that are up.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: String,
    /// As [`Zone::origin`]; each lies within a zone.
    pub names: Vec<String>,
    /// Each at most once, in the order in which they decide; the last of them is [`Mode::RoundRobin`] or [`Mode::Metrics`].
    pub modes: Vec<Mode>,
    pub stripe: Stripe,
    /// A client's network, where the resolver tells it, counts instead of the resolver.
    pub client_subnet: bool,
    /// How long a resolver's site is remembered after it has last asked.
    pub persistence_ttl: Duration,
    /// Another time, for those who are sent to a site in certain hours.
    pub persistence_hours: Vec<Hours>,
    /// Pools with the same word share what is remembered; empty: those with equal member sets do.
    pub share: String,
    /// Of answers; whole seconds.
    pub ttl: Duration,
    /// Where that is longer than the time in which a member could come or go at the soonest, that time is answered.
    pub ttl_cut: bool,
    /// 0: all that are up.
    pub max_answers: u32,
    /// While fewer members are up, `when_down` decides.
    pub min_up: u32,
    pub when_down: WhenDown,
    pub members: Vec<Member>,
}

impl Pool {
    /// How long a resolver's site is remembered, in seconds, by the hour of the day (UTC) in which it is chosen.
    pub fn persistence_by_hour_s(&self) -> [u32; 24] {
        hours::by_hour(self.persistence_ttl, &self.persistence_hours)
    }
}

/// By what a site is chosen for who asks. Each decides, or leaves it to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// By what is remembered of the resolver.
    Dynamic,
    /// By where its address lies.
    Topology,
    /// By the number that its address is.
    Stripe,
    /// In turn.
    RoundRobin,
    /// By the sites' load.
    Metrics,
}

impl Word for Mode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("dynamic", Mode::Dynamic),
        ("topology", Mode::Topology),
        ("stripe", Mode::Stripe),
        ("round_robin", Mode::RoundRobin),
        ("metrics", Mode::Metrics),
    ];
}

/// How [`Mode::Stripe`] finds a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stripe {
    /// By the highest of the hashes of the resolver with each member.
    Rendezvous,
    /// By the remainder of the address.
    Modulus,
}

impl Word for Stripe {
    const WORDS: &'static [(&'static str, Self)] = &[("rendezvous", Stripe::Rendezvous), ("modulus", Stripe::Modulus)];
}

/// Resolvers that belong to a site.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    pub prefixes: Vec<Prefix>,
    /// More of them, one on a line.
    pub file: Option<PathBuf>,
    /// Of the database: two letters each (ISO 3166-1).
    pub countries: Vec<String>,
    /// Two letters each, as databases have them: "EU".
    pub continents: Vec<String>,
    /// This site, or a peer.
    pub site: String,
}

/// Resolvers that count as one.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub resolvers: Vec<Prefix>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum WhenDown {
    /// All members' addresses.
    All,
    /// No address.
    None,
    /// The addresses of the member of this name.
    Member(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// This site, or a peer.
    pub site: String,
    /// The name of a [`Line`] that must be up.
    pub line: Option<String>,
    /// The name of a service that must have a real server up.
    pub service: Option<String>,
    pub weight: u32,
    /// Of each of its addresses, all of which must pass.
    pub check: Option<Check>,
}
