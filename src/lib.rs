//! farside: a userspace load balancer for a service that lives at two or more sites.
#![deny(unsafe_code)]

pub mod config;
pub mod counters;
pub mod device;
pub mod flow;
pub mod forward;
pub mod health;
pub mod route;
pub mod service;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod wire;
pub mod worker;
