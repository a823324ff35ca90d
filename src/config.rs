//! The configuration as meant: validated, resolved, defaults filled in. [`mod@file`] reads it as written.

pub mod diff;
pub mod dns;
mod errors;
pub mod file;
pub mod link;
mod meaning;
mod value;
mod walk;
mod words;
mod written;

pub use dns::{Dns, Line};
pub use errors::ConfigErrors;
pub use link::{Link, PeerLink};
pub use words::Word;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// The most real servers and remote sites of one file: half of the slots that the process has for them, so that a reload
/// can bring others while the old ones' connections still run.
pub const MAX_TARGETS: usize = 8192;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[site] name`.
    pub site: String,
    pub datapath: Datapath,
    pub admin: Admin,
    /// What this site lends to connections carried to a remote site; needed as soon as a service has a remote.
    pub proxy: Option<Proxy>,
    pub peers: Vec<Peer>,
    /// None: nothing is told to other sites.
    pub link: Option<Link>,
    pub services: Vec<Service>,
    pub timeouts: Timeouts,
    pub lines: Vec<Line>,
    /// None: this site serves no zones.
    pub dns: Option<Dns>,
}

impl Config {
    /// DNS is all that there is: no interface is taken, no packet forwarded.
    pub fn is_dns_alone(&self) -> bool {
        self.datapath.interfaces.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Datapath {
    /// Empty: there is no data path, DNS is all.
    pub interfaces: Vec<String>,
    pub backend: Backend,
    pub workers: Workers,
    pub max_flows: u32,
    /// Clients remembered at the same time, of all services.
    pub max_persistent: u32,
    /// Frames that wait for a worker at an interface at the same time, each of up to 64 KB.
    pub ring_slots: u32,
    pub idle: Idle,
    /// How long a call to an AF_XDP socket looks for packets in the driver itself; 0: interrupts bring them.
    pub busy_poll_us: u32,
    /// The most packets of one such call.
    pub busy_poll_budget: u32,
    /// Packets of flows that stand are carried in the kernel.
    pub kernel_path: bool,
    /// Sources of encapsulated packets. For a family that has none here: the address of the interface that they leave by.
    pub tunnel_sources: Vec<IpAddr>,
    /// Destination port of encapsulations over UDP.
    pub gue_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Auto,
    AfPacket,
    AfXdp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Workers {
    /// One per CPU that the process may run on.
    Auto,
    /// So many, on the first CPUs that the process may run on.
    Count(usize),
    /// One on each of these CPUs.
    Cpus(Vec<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    Adaptive,
    Spin,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    pub socket: PathBuf,
    /// None: no metrics listener.
    pub metrics: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    pub addresses: Vec<IpAddr>,
    pub ports: RangeInclusive<u16>,
    /// How long a returned port rests before it is lent again.
    pub port_rest: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    pub name: String,
    pub proxy_addresses: Vec<IpAddr>,
    /// None: nothing is told to it.
    pub link: Option<PeerLink>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: String,
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub mode: Mode,
    pub encapsulation: Encapsulation,
    pub scheduler: Scheduler,
    pub on_down: OnDown,
    /// How long a client's real server is remembered after its last connection; zero: not at all.
    pub persistence: Duration,
    /// Clients whose addresses have so many bits in common count as one.
    pub persistence_mask_v4: u8,
    pub persistence_mask_v6: u8,
    /// At all its targets together; 0: no limit.
    pub max_connections: u32,
    pub overflow: Overflow,
    /// UDP only: every datagram is scheduled afresh.
    pub per_packet: bool,
    pub check: Check,
    pub reals: Vec<Real>,
    pub remotes: Vec<Remote>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Nat,
    Direct,
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// IP in IP (RFC 2003, RFC 2473, RFC 4213).
    Ipip,
    /// RFC 2784, without checksum or key.
    Gre,
    /// Generic UDP Encapsulation, variant 0: UDP, four bytes, IP (draft-ietf-intarea-gue-09 3).
    Gue,
    /// Variant 1: UDP, IP (draft-ietf-intarea-gue-09 4).
    Gue1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    RoundRobin,
    WeightedRoundRobin,
    LeastConnections,
    WeightedLeastConnections,
    SourceHash,
    Maglev,
    Fastest,
}

/// What becomes of a new connection when the real servers that are up have as many as they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// It goes to a remote site.
    Remote,
    Refuse,
}

/// What becomes of the old connections of a target that goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    Keep,
    Reset,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub kind: CheckKind,
    /// The port that is checked; None: the target's own.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    pub rise: u32,
    pub fall: u32,
    /// What clients' connections meet with may bring the next checks forward.
    pub passive: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// Always up.
    None,
    Tcp,
    Icmp,
    /// `tls`: https. `status`: which answers are healthy, by default 200-399.
    Http {
        tls: bool,
        path: String,
        host: Option<String>,
        status: RangeInclusive<u16>,
    },
    /// Greeting `+OK`, then the login if one is given, then QUIT.
    Pop3 {
        login: Option<Login>,
    },
    /// Greeting `* OK`, the login if one is given, then LOGOUT.
    Imap {
        login: Option<Login>,
    },
    /// Greeting 220, EHLO, then QUIT.
    Smtp {
        helo: String,
    },
    /// A query for `name` (type A); any well-formed answer to it with NOERROR or NXDOMAIN is healthy.
    Dns {
        name: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Real {
    pub name: String,
    pub address: IpAddr,
    pub port: u16,
    pub weight: u32,
    /// 0: no limit.
    pub max_connections: u32,
    /// Takes connections only when no other real server does.
    pub backup: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Remote {
    /// The peer's name; with the service it is the TARGET `service/site`.
    pub site: String,
    pub vip: IpAddr,
    pub port: u16,
    pub priority: u32,
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    pub tcp_syn: Duration,
    pub tcp_established: Duration,
    pub tcp_closing: Duration,
    /// After an RST.
    pub tcp_reset: Duration,
    pub udp: Duration,
}
