//! Forwarding cases: a sentence, a frame in, a frame out, the counters that moved.

mod bench;
mod choice;
mod conformance;
mod cut;
mod direct;
mod evidence;
mod fragments;
mod icmp;
mod kernel;
mod leg;
mod local;
mod odd_tcp;
mod probe;
mod refusals;
mod reload;
mod remote;
mod rfc4787;
mod rfc5382;
mod rfc5508;
mod rfc7857;
mod rubbish;
mod straight;
mod tunnel;
mod udp;

pub(crate) use bench::{
    Bench, CLIENT, CLIENT_MAC, LAN, PEER, PIP, REAL_A, REAL_B, REMOTE, VIP, WAN, endpoint, one_sided,
};
