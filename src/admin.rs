//! The administrator's door: the Unix socket of `show`, `reload` and `drain`, both ends, and the metrics listener.
//! It sits on the control thread's event loop and never waits: what a client does not take now waits in a bounded
//! buffer, and a client that takes nothing for long is dropped.

pub mod rows;

use crate::config;
use rows::{FlowRow, HealthRow, ServiceRow, WorkerRow};
use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

/// How many tokens [`Admin`] takes from its base token on.
pub const TOKENS: usize = 256;

/// Who knows the answers: called on the control thread, must not block.
pub trait Answers {
    fn services(&mut self) -> Vec<ServiceRow>;

    /// Flows from `cursor` on (0: the first) and the next cursor, None at the end. At most `max` of them; fewer, even
    /// none, where looking at more would take long: a call shall take about a millisecond. A flow that comes or
    /// goes between two calls may be told or not.
    fn flows(&mut self, cursor: usize, max: usize) -> (Vec<FlowRow>, Option<usize>);

    fn health(&mut self) -> Vec<HealthRow>;

    /// Every count by its name.
    fn counters(&mut self) -> BTreeMap<String, u64>;

    fn workers(&mut self) -> Vec<WorkerRow>;

    /// Reads the file again. What changed, in words, one change a line; or why nothing did.
    fn reload(&mut self) -> Result<String, String>;

    /// Starts (`on`) or ends draining `target`, which is `service/name`. What was done, or why not.
    fn drain(&mut self, target: &str, on: bool) -> Result<String, String>;

    /// All metrics, in Prometheus' text format 0.0.4.
    fn metrics(&mut self) -> String;
}

/// The Unix socket and the metrics listener, open until dropped; then the socket's file is gone too.
pub struct Admin {}

impl Admin {
    /// Opens both. A socket file that a killed farside left is replaced; one that is alive is an error: another farside is
    /// running. Errors are sentences.
    pub fn open(_config: &config::Admin) -> Result<Admin, String> {
        Ok(Admin {})
    }

    /// Joins an event loop; tokens `base_token..base_token + TOKENS` are taken.
    pub fn register(&mut self, _registry: &mio::Registry, _base_token: usize) -> io::Result<()> {
        Ok(())
    }

    /// An event of the loop. False: the token is not one of admin's.
    pub fn ready(&mut self, _token: usize, _now: Instant, _answers: &mut dyn Answers) -> bool {
        false
    }

    /// When [`Admin::tick`] wants to be called at the latest; it is now or past while a long reply is under way.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Goes on with long replies, a bounded piece each, and drops clients that take too long.
    pub fn tick(&mut self, _now: Instant, _answers: &mut dyn Answers) {}
}
