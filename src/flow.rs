//! What a flow is: one TCP or UDP connection through farside, known from two sides.
//!
//! ```text
//!   Side::Client                     farside                      Side::Server
//!   client ------------------> vip | local ------------------> target
//!   client <------------------ vip | local <------------------ target
//! ```
//!
//! `client` and `vip` are what the client's packets carry; `local` and `target` are what the target's packets carry.
//! With a local real server in NAT mode `local` is the client itself; with a remote site it is a PIP and a lent port. In
//! direct and tunnel mode the target answers the client past farside: such a flow is *one-sided*, it has no server key and
//! only the client's half is ever seen.
//!
//! # One packet, one choice
//!
//! Where a service is scheduled per packet (DNS: a question, an answer), a client's datagrams go to one target now and
//! another then, and there is no one flow to be found by the client's key. But in NAT mode the answer of each target must
//! find the client's VIP. So there is a record per client endpoint, VIP and target ([`NewFlow::per_packet`]), of which only the
//! server's key stands in the index: the answer's. The client's datagram chooses its target first and then looks for the
//! record by the key that the answer would have. A remote site is given an ordinary flow, for its port is lent; in
//! one-sided modes there is nothing to remember. (What a client's ICMP error is about, VIP -> client, may have come from any
//! of the targets: nobody can say, and the error goes nowhere.)
//!
//! Everything in this room is shared by all workers behind `&self`, takes its memory at start, and neither locks nor
//! allocates per packet. The clock comes in as an argument, in ticks.

mod burst;
mod displaced;
mod expiry;
mod free;
pub mod key;
pub mod ports;
mod record;
mod scan;
mod standing;
pub mod table;
pub mod view;

pub use burst::Hint;
pub use key::HashKey;
pub use ports::{Ledger, PoolId, PoolKey};
pub use standing::Standing;
pub use table::FlowTable;
pub use view::{Flow, FlowDetails, FlowRef, NewFlow, Refused};

use crate::config;
pub use crate::config::Encapsulation;
use crate::sys::atomic;
use crate::wire::l4 as tcp;
use std::time::Duration;

/// Time in units of [`TICK_MS`] since some start of the process's choosing. It wraps (after 34 years); only
/// differences count.
pub type Tick = u32;

/// Milliseconds of a [`Tick`].
pub const TICK_MS: u64 = 250;

/// Ticks of a duration, rounded up; at least one, so that no timeout is nothing.
pub fn ticks(duration: Duration) -> Tick {
    u32::try_from(duration.as_millis().div_ceil(TICK_MS as u128)).unwrap_or(u32::MAX / 2).clamp(1, u32::MAX / 2)
}

/// Which of a flow's two ends: the one that a packet comes from, or that a hop leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Client = 0,
    Server = 1,
}

impl Side {
    #[inline]
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// How packets reach the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// A local real server: the destination is rewritten, the source stays the client's.
    Nat = 0,
    /// A remote site: destination and source are rewritten, the source to a PIP and a lent port.
    Remote = 1,
    /// A local real server that owns the VIP too: only the MAC address is rewritten.
    Direct = 2,
    /// A real server that owns the VIP too, behind an encapsulation.
    Tunnel = 3,
}

impl Mode {
    /// Only the client's half passes through farside.
    #[inline]
    pub fn one_sided(self) -> bool {
        matches!(self, Mode::Direct | Mode::Tunnel)
    }

    #[inline]
    fn from_bits(bits: u32) -> Mode {
        match bits & 3 {
            0 => Mode::Nat,
            1 => Mode::Remote,
            2 => Mode::Direct,
            _ => Mode::Tunnel,
        }
    }
}

/// Where a flow is in its life. farside only watches: it forwards in every state, and a state says no more than how long
/// the flow is kept without a packet ([`Timeouts::of`]) and whether a SYN on it is a new connection
/// ([`is_fresh_start`]). What leads from one to the next is [`next`].
///
/// ```text
///             SYN                   SYN (server)               ACK (client)
///   (nothing) ----> SynSent ----------------> SynReceived ----------------> Established
///                      '------ ACK (client), one-sided only --------------------^
///   Established -- FIN (client) --> ClientFin -- FIN (server) --> Closing
///   Established -- FIN (server) --> ServerFin -- FIN (client) --> Closing
///   Established, ClientFin, ServerFin -- RST --> ResetByClient / ResetByServer -- see there --> Established
///   SynSent, SynReceived -- RST --> Aborted
///   Closing, and ClientFin of a one-sided flow -- RST --> Over
/// ```
/// With simultaneous open (RFC 9293 3.5) the server's SYN has no ACK, and what acknowledges it is the client's SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// The client's SYN was carried to the target. Kept for `tcp_syn`.
    SynSent = 0,
    /// The target answered with its SYN. Kept for `tcp_syn`: a forged client address never gets further.
    SynReceived = 1,
    /// The client has acknowledged. Kept for `tcp_established`.
    Established = 2,
    /// The client is done sending; the target may send for as long as it likes, and be silent in between, so
    /// `tcp_established` (as in RFC 7857 2, figure 1) - but `tcp_closing` in a one-sided flow, whose other FIN nobody will see.
    ClientFin = 3,
    /// The target is done sending, the client may go on. Kept for `tcp_established`.
    ServerFin = 4,
    /// Both are done; last acknowledgements and retransmissions still pass. Kept for `tcp_closing`.
    Closing = 5,
    /// The client sent an RST. Kept for `tcp_reset`. It may have been forged or out of window, which only the ends can tell; if
    /// they go on as if nothing had been, the flow is what it was before (RFC 7857 2, figure 1; 2.2). The client does so with any
    /// packet, the server with an acknowledgement that carries nothing: that is how it challenges an RST (RFC 5961 3.2),
    /// and were it not heard, one forged RST would end every idle connection. Data of the server's prove nothing, they
    /// may have been under way: a download that was broken off shall not have its record, and a lent port, for hours.
    ResetByClient = 6,
    /// As [`State::ResetByClient`], the other way round.
    ResetByServer = 7,
    /// An RST before the connection stood. Kept for `tcp_reset`; only the server's SYN leads on (the RST had been forged), or else
    /// a stranger could make a flow look established with three packets.
    Aborted = 8,
    /// Not TCP; there is nothing to watch. Kept for `udp`.
    Udp = 9,
    /// An RST after both had closed it. Kept for `tcp_reset`; nothing leads on.
    Over = 10,
}

impl State {
    pub const ALL: [State; 11] = [
        State::SynSent,
        State::SynReceived,
        State::Established,
        State::ClientFin,
        State::ServerFin,
        State::Closing,
        State::ResetByClient,
        State::ResetByServer,
        State::Aborted,
        State::Udp,
        State::Over,
    ];

    /// As `show flows` prints it.
    pub fn name(self) -> &'static str {
        match self {
            State::SynSent => "syn_sent",
            State::SynReceived => "syn_received",
            State::Established => "established",
            State::ClientFin => "client_fin",
            State::ServerFin => "server_fin",
            State::Closing => "closing",
            State::ResetByClient => "reset_by_client",
            State::ResetByServer => "reset_by_server",
            State::Aborted => "aborted",
            State::Udp => "udp",
            State::Over => "over",
        }
    }

    #[inline]
    fn from_bits(bits: u8) -> State {
        // Only ever written from a State, so the last arm stands for one alone.
        State::ALL[usize::from(bits).min(State::ALL.len() - 1)]
    }
}

/// Stands among the flags of a packet for: it carries data. The place is PSH's, which says nothing that a state depends on.
pub const DATA: u8 = 0x08;

/// The state after a packet with `flags` (see [`tcp`], and [`DATA`]) from `side`. Sequence numbers are not looked at: what a
/// stranger can forge with it is bounded by the states' own words.
#[inline]
pub fn next(state: State, side: Side, flags: u8, one_sided: bool) -> State {
    let has = |flag| flags & flag != 0;
    if has(tcp::RST) {
        return match (state, side) {
            (State::Udp, _) => State::Udp,
            (State::SynSent | State::SynReceived | State::Aborted, _) => State::Aborted,
            (State::Closing | State::Over, _) => State::Over,
            (State::ClientFin, _) if one_sided => State::Over,
            (_, Side::Client) => State::ResetByClient,
            (_, Side::Server) => State::ResetByServer,
        };
    }
    match (state, side) {
        (State::SynSent | State::Aborted, Side::Server) if has(tcp::SYN) => State::SynReceived,
        (State::SynSent, Side::Client) if one_sided && !has(tcp::SYN) => opened(side, flags),
        (State::SynReceived, Side::Client) if !has(tcp::SYN) || has(tcp::ACK) => opened(side, flags),
        (State::SynReceived, Side::Server) if has(tcp::FIN) => State::ServerFin,
        (State::Established, _) => opened(side, flags),
        (State::ClientFin, Side::Server) | (State::ServerFin, Side::Client) if has(tcp::FIN) => State::Closing,
        (State::ResetByClient, Side::Client) | (State::ResetByServer, Side::Server) if !has(tcp::SYN) => {
            opened(side, flags)
        }
        (State::ResetByClient, Side::Server) | (State::ResetByServer, Side::Client)
            if flags & (tcp::ACK | tcp::SYN | tcp::FIN | DATA) == tcp::ACK =>
        {
            State::Established
        }
        _ => state,
    }
}

/// A packet without SYN or RST from `side`, neither side having closed before.
#[inline]
fn opened(side: Side, flags: u8) -> State {
    match side {
        _ if flags & tcp::FIN == 0 => State::Established,
        Side::Client => State::ClientFin,
        Side::Server => State::ServerFin,
    }
}

/// Is the connection open, or on its way to be? It is not from the moment on when both sides have closed it - of a one-sided
/// flow, when the client has, since nothing else is seen of its end. No packet leads back ([`next`]): then only stragglers are
/// waited for, and the target has a connection less.
pub fn is_open(state: State, one_sided: bool) -> bool {
    match state {
        State::Closing | State::Over => false,
        State::ClientFin => !one_sided,
        _ => true,
    }
}

/// Is this packet of the client's, on a flow in this state, the first of a new connection between the same
/// endpoints? Then the old flow is to be removed and a target picked anew.
#[inline]
pub fn is_fresh_start(state: State, flags: u8, one_sided: bool) -> bool {
    let over = match state {
        State::Closing | State::ResetByClient | State::ResetByServer | State::Aborted | State::Over => true,
        State::ClientFin => one_sided,
        _ => false,
    };
    over && flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// How long a flow is kept without a packet, by state. Passed with each call, so that a reload changes it for old
/// flows too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_syn: Tick,
    pub tcp_established: Tick,
    pub tcp_closing: Tick,
    pub tcp_reset: Tick,
    pub udp: Tick,
}

impl Timeouts {
    pub fn of(&self, state: State, one_sided: bool) -> Tick {
        match state {
            State::SynSent | State::SynReceived => self.tcp_syn,
            State::ClientFin if one_sided => self.tcp_closing,
            State::Established | State::ClientFin | State::ServerFin => self.tcp_established,
            State::Closing => self.tcp_closing,
            State::ResetByClient | State::ResetByServer | State::Aborted | State::Over => self.tcp_reset,
            State::Udp => self.udp,
        }
    }
}

impl From<&config::Timeouts> for Timeouts {
    fn from(timeouts: &config::Timeouts) -> Timeouts {
        Timeouts {
            tcp_syn: ticks(timeouts.tcp_syn),
            tcp_established: ticks(timeouts.tcp_established),
            tcp_closing: ticks(timeouts.tcp_closing),
            tcp_reset: ticks(timeouts.tcp_reset),
            udp: ticks(timeouts.udp),
        }
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests;
#[cfg(all(test, not(feature = "loom")))]
mod tests;
