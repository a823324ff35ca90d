//! Does it accept a connection?

use super::{Probe, Step};

pub struct Tcp;

impl Probe for Tcp {
    fn start(&mut self, _out: &mut Vec<u8>) -> Step {
        Step::Healthy
    }

    fn receive(&mut self, _bytes: &[u8], _out: &mut Vec<u8>) -> Step {
        Step::Healthy
    }

    fn awaits(&self) -> &'static str {
        "connection"
    }
}
