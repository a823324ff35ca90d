//! Health: asks every target at intervals whether it serves, and writes the answer into its status word.
//!
//! Three rooms. `schedule` knows when and counts: which target is due, what its answers add up to. `link` is one
//! probe's socket. `probe` is what is said over it: state machines of bytes in, bytes out, that end in yes or no.
//! [`Health`] joins them on somebody else's event loop: it never sleeps, and the time comes in as an argument.

use crate::config::{Check, Protocol};
use crate::service::status::{MAX_TARGETS, StatusTable};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many tokens [`Health`] takes from its base token on.
pub const TOKENS: usize = MAX_TARGETS;

/// What a target is to its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    Real,
    Remote,
}

impl TargetKind {
    /// "real" or "remote", as `show health` prints it.
    pub fn word(self) -> &'static str {
        match self {
            TargetKind::Real => "real",
            TargetKind::Remote => "remote",
        }
    }
}

/// Somebody to be checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// `service/name`, unique.
    pub name: String,
    pub kind: TargetKind,
    /// Its slot in the [`StatusTable`], unique; below [`MAX_TARGETS`].
    pub slot: u16,
    pub check: Check,
    /// Where it serves; `check.port` replaces the port if given.
    pub address: SocketAddr,
    /// The service's: a DNS check asks over it.
    pub protocol: Protocol,
    /// Address (and port, usually 0) that probes are sent from; None: the host chooses.
    pub source: Option<SocketAddr>,
    /// Interface that probes are bound to (SO_BINDTODEVICE); None: the host routes them.
    pub device: Option<String>,
}

/// One line of `show health`.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetHealth {
    pub target: String,
    /// "real" or "remote".
    pub kind: &'static str,
    /// "checking" before the first answer, then "down", "draining" (passes its checks, and an operator drains it) or "up".
    pub status: &'static str,
    pub drained: bool,
    /// How long it has been up or down (draining counts as up), or been checked without an answer.
    pub since: Duration,
    /// Why it is down, or why the latest check of a target that is up failed.
    pub last_error: Option<String>,
    /// When the certificate it showed expires, in seconds since 1970; None unless the check is https.
    pub certificate_expires: Option<i64>,
}

/// A target came up or went down.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    pub slot: u16,
    pub name: String,
    pub up: bool,
    /// In words for a log line: why it went down, or what it passed.
    pub reason: String,
    /// Its first answer since it was added: it was neither up nor down before.
    pub first: bool,
}

/// All targets and their probes.
pub struct Health {
    _status: Arc<StatusTable>,
}

impl Health {
    pub fn new(status: Arc<StatusTable>) -> Health {
        Health { _status: status }
    }

    /// Joins an event loop; before this no probe can start. Tokens `base_token..base_token + TOKENS` are taken.
    /// Errors are those of duplicating the loop's descriptor.
    pub fn register(&mut self, _registry: &mio::Registry, _base_token: usize) -> io::Result<()> {
        Ok(())
    }

    /// From now on these are checked, each for the first time at the next [`Health::tick`]. A target known by name and
    /// address keeps its status, and its counts too if its check is the same. A new one is down until its first probe
    /// is done; with [`crate::config::CheckKind::None`] it is up at once.
    pub fn set_targets(&mut self, _targets: Vec<Target>, _now: Instant) {}

    /// An event of the loop. False: the token is not one of health's.
    pub fn ready(&mut self, _token: usize, _now: Instant) -> bool {
        false
    }

    /// When [`Health::tick`] wants to be called at the latest; None: nothing to do until targets are set.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Starts the probes that are due and ends those that took too long. Calling it too early is harmless.
    pub fn tick(&mut self, _now: Instant) {}

    /// Has every target had a first answer? True when there are no targets.
    pub fn first_round_done(&self) -> bool {
        false
    }

    /// In the order of [`Health::set_targets`].
    pub fn report(&self, _now: Instant) -> Vec<TargetHealth> {
        Vec::new()
    }

    /// What changed since it was last asked, oldest first.
    pub fn transitions(&mut self) -> Vec<Transition> {
        Vec::new()
    }
}
