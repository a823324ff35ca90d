//! farside: a userspace load balancer for a service that lives at two or more sites.
#![deny(unsafe_code)]

pub mod announce;
pub mod config;
pub mod counters;
pub mod device;
pub mod flow;
pub mod forward;
pub mod netlink;
pub mod route;
pub mod service;
pub mod sys;
pub mod wire;
