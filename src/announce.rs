//! placeholder until the announcements land
use crate::route::Fib;
use std::net::IpAddr;
use std::time::Instant;
pub struct Announcer {}
impl Announcer {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Announcer {
        Announcer {}
    }
    pub fn announce(&mut self, _addresses: Vec<IpAddr>, _now: Instant) {}
    pub fn tick(&mut self, _now: Instant, _fib: &Fib) {}
}
