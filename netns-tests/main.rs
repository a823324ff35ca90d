//! End to end: real clients and servers on both sides of farside, each machine a network namespace.
//!
//! Run as root: `cargo test --test netns`. `FARSIDE_BIN` names another farside than the one just built.
//! Every test builds its own world ([`support::world`]) and takes it down again, also when it fails; nothing is
//! shared, so they run beside each other. Times are never asserted: a test waits for a condition, and only a
//! generous limit ([`support::wait::PATIENCE`]) turns waiting into failure.

mod support;
#[path = "../src/testing.rs"]
#[allow(dead_code)]
mod testing;

use farside::wire;

mod choice;
mod crash;
mod decap;
mod direct;
mod dns;
mod dnssec;
mod download;
mod evidence;
mod fast_path;
mod fragments;
mod host;
mod icmp;
mod linked;
mod links;
mod lives;
mod matrix;
mod modes;
mod mtu;
mod odd_tcp;
mod outage;
mod pop3;
mod ports;
mod reload;
mod remembered;
mod secondaries;
mod sessions;
mod setup;
mod shared;
mod sites;
mod states;
mod story;
mod syslog;
mod topology;
mod tunnel;
mod tunnel_sizes;
mod udp;
mod ways;
mod wrong;
mod zones;
