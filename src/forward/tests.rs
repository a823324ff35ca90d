//! Forwarding cases: a sentence, a frame in, a frame out, the counters that moved.

mod bench;
mod cut;
mod direct;
mod fragments;
mod icmp;
mod kernel;
mod local;
mod refusals;
mod reload;
mod remote;
mod rubbish;
mod tunnel;

pub(crate) use bench::{
    Bench, CLIENT, CLIENT_MAC, LAN, PEER, PIP, REAL_A, REAL_B, REMOTE, VIP, WAN, endpoint, one_sided,
};
