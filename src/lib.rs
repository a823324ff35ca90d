//! farside: a userspace load balancer for a service that lives at two or more sites.
#![deny(unsafe_code)]

pub mod admin;
pub mod announce;
pub mod cli;
pub mod config;
pub mod counters;
pub mod device;
pub mod flow;
pub mod forward;
pub mod health;
pub mod netlink;
pub mod replay;
pub mod route;
pub mod run;
pub mod service;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod wire;
pub mod worker;
