//! What `show` tells, as objects: the JSON of the contract, and what the text tables are made from.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What there is to show, by its word on the command line and in requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Services,
    Flows,
    Health,
    Counters,
    Workers,
    Dns,
    Sites,
}

/// One connection: `show flows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRow {
    /// Its service's name; empty if a reload took that away.
    pub service: String,
    /// "tcp" or "udp".
    pub protocol: String,
    /// `address:port`, `[address]:port` for IPv6; so are all endpoints here.
    pub client: String,
    pub vip: String,
    /// The real server or the remote site's VIP.
    pub target: String,
    /// "nat", "remote", "direct" or "tunnel".
    pub mode: String,
    /// The PIP and port lent, None if none is.
    pub local: Option<String>,
    pub state: String,
    pub age_s: u64,
    pub idle_s: u64,
    pub client_packets: u64,
    pub client_bytes: u64,
    pub server_packets: u64,
    pub server_bytes: u64,
    /// The worker that made the record.
    pub worker: u32,
}

/// One target's health: `show health`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthRow {
    /// `service/name`; of DNS `line/address` and `pool/member/address`.
    pub target: String,
    /// "real", "remote", "line" or "member".
    pub kind: String,
    /// "up", "down" or "draining"; "checking" before the first answer.
    pub status: String,
    /// Since when it has that status, in seconds.
    pub since_s: u64,
    pub last_error: Option<String>,
}

/// One service and its targets: `show services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceRow {
    pub service: String,
    pub vip: String,
    pub port: u16,
    pub protocol: String,
    pub mode: String,
    pub scheduler: String,
    /// Open connections; those that both sides have closed are on record a while longer and do not count.
    pub active: u64,
    /// The most at a time, 0: no limit.
    #[serde(default)]
    pub max_connections: u32,
    /// For how many seconds a client's real server is remembered, 0: not at all.
    #[serde(default)]
    pub persistence_s: f64,
    /// Connections ever.
    pub total: u64,
    pub targets: Vec<TargetRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetRow {
    /// `service/name`.
    pub target: String,
    /// "real" or "remote".
    pub kind: String,
    /// Where it serves.
    pub address: String,
    /// As in [`HealthRow`].
    pub status: String,
    pub weight: u32,
    /// None for a real server.
    pub priority: Option<u32>,
    pub active: u64,
    /// The most at a time, 0: no limit.
    #[serde(default)]
    pub max_connections: u32,
    /// Gets connections only while no other real server takes any.
    #[serde(default)]
    pub backup: bool,
    pub total: u64,
}

/// All of DNS: `show dns`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DnsRows {
    pub zones: Vec<ZoneRow>,
    pub lines: Vec<StateRow>,
    pub pools: Vec<PoolRow>,
    pub store: StoreRow,
    /// Addresses of resolvers that belong together, as far as that was learned.
    #[serde(default)]
    pub learned: Vec<Vec<String>>,
    /// What it is shared through, if there is a [dns.redis].
    #[serde(default)]
    pub redis: Option<RedisRow>,
    /// How far resolvers are, if a pool chooses by metrics.
    #[serde(default)]
    pub ways: Option<WaysRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZoneRow {
    /// With the last dot.
    pub origin: String,
    /// None before the first round of checks is done: nothing is answered then.
    pub serial: Option<u32>,
    /// None: answers are not signed.
    #[serde(default)]
    pub dnssec: Option<SignedRow>,
}

/// What a zone is signed by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignedRow {
    /// Tags of the keys, as in the parent's DS records.
    pub keys: Vec<u16>,
    /// Seconds since 1970: what is given out now holds until then at least.
    pub until: u64,
}

/// A WAN line, or a pool's member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateRow {
    pub name: String,
    pub up: bool,
    /// Why.
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolRow {
    pub name: String,
    pub members: Vec<StateRow>,
}

/// Resolvers that are remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreRow {
    pub records: u64,
    /// Questions that were answered by a record.
    pub hits: u64,
    /// Questions for which a site was chosen afresh.
    pub misses: u64,
    /// Records that had to make room before their time.
    #[serde(default)]
    pub evicted: u64,
    #[serde(default)]
    pub expired: u64,
    /// Taken over from other nodes.
    #[serde(default)]
    pub merged: u64,
}

/// Ways to resolvers: what is known and what has happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaysRow {
    /// Of which something is known, from this site or another.
    pub networks: u64,
    pub measured: u64,
    pub unanswered: u64,
    pub rate_limited: u64,
    pub evicted: u64,
    pub told: u64,
    pub taken_over: u64,
}

/// A server through which resolvers' sites are shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RedisRow {
    pub address: String,
    pub connected: bool,
}

/// One site: `show sites`. What is not known is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteRow {
    pub site: String,
    /// "own", "up", "down", or "none" where the configuration has no link to it.
    pub link: String,
    /// By which way what it says of itself is known: "link" or "redis".
    #[serde(default)]
    pub heard: Option<String>,
    /// Since when the link is up or down, in seconds; where there is none, since when the site is heard through Redis, or is not.
    pub since_s: Option<u64>,
    /// Why the link is down, or the site is not heard.
    pub why: Option<String>,
    /// The other end.
    pub address: Option<String>,
    /// When the site's certificate ends, in seconds since 1970.
    pub certificate_ends: Option<i64>,
    /// By how much its clock is ahead.
    pub skew_ms: Option<f64>,
    /// There and back.
    pub round_trip_ms: Option<f64>,
    /// Of what is sent there, how much has to be sent again.
    pub loss_permille: Option<u16>,
    /// Routers between.
    #[serde(default)]
    pub hops: Option<u8>,
    /// It takes no new connection.
    pub full: Option<bool>,
    /// Open ones.
    pub connections: Option<u32>,
    /// That come in.
    pub packets_per_s: Option<u32>,
    pub cpu_permille: Option<u16>,
}

impl SiteRow {
    /// Of which nothing is known.
    pub fn new(site: &str, link: &str) -> SiteRow {
        SiteRow { site: site.into(), link: link.into(), ..SiteRow::default() }
    }
}

/// What `explain` is to explain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    pub name: String,
    /// AAAA, or else A.
    pub v6: bool,
    pub resolver: String,
    /// An address or prefix that the resolver tells (RFC 7871).
    pub client_subnet: Option<String>,
    /// What to take for down: members, `pool/member`, or sites.
    pub down: Vec<String>,
}

/// What would be answered to whom, and why: `explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainRow {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub resolver: String,
    pub client_subnet: Option<String>,
    /// None: the name lies in no zone.
    pub zone: Option<String>,
    /// None: the name's addresses do not come from a pool.
    pub pool: Option<String>,
    /// Who counts as asking, in words.
    pub asker: String,
    pub members: Vec<MemberRow>,
    /// In the order in which they decide.
    pub modes: Vec<ModeRow>,
    pub answer: AnswerRow,
    /// From each site, where the pool chooses by metrics.
    #[serde(default)]
    pub ways: Vec<WayRow>,
    /// What is remembered of who asks.
    pub record: Option<RecordRow>,
    /// For so long no member comes or goes by its checks; None: nothing is checked.
    pub lasts_s: Option<u64>,
}

/// What is known of the way from a site to the resolver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WayRow {
    pub site: String,
    /// None: it was never measured, or too long ago. So below.
    pub age_s: Option<u32>,
    /// None as well: nobody answered.
    pub round_trip_ms: Option<f64>,
    pub loss_permille: Option<u16>,
    pub hops: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberRow {
    pub name: String,
    pub site: String,
    pub addresses: Vec<String>,
    pub up: bool,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeRow {
    pub mode: String,
    pub decides: bool,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    pub rcode: String,
    /// In the order of the first answer; they rotate.
    pub addresses: Vec<String>,
    pub ttl_s: Option<u32>,
    /// For how many bits of the client's address the answer holds; 0: for all.
    pub scope: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordRow {
    pub site: String,
    /// Since the last question.
    pub age_s: u64,
    pub ttl_s: u32,
    /// None: it holds no more.
    pub left_s: Option<u64>,
    /// Questions that it has answered.
    pub hits: u32,
}

/// One worker: `show workers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerRow {
    pub worker: u32,
    /// The CPU that it is pinned to.
    pub cpu: Option<u32>,
    /// "af_packet" or "af_xdp": by which its packets come.
    #[serde(default)]
    pub backend: Option<String>,
    /// Its counts by name, beside the fields above in the same JSON object.
    #[serde(flatten)]
    pub counts: BTreeMap<String, u64>,
}

/// `address:port`, or `[address]:port` for IPv6.
pub fn endpoint(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
