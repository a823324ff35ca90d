//! The only room with `unsafe`: memory maps, sockets, rings, kernel programs, pinning.
#![allow(unsafe_code)]

pub mod abi;
pub mod address;
pub mod atomic;
pub mod bpf;
mod clsact;
pub mod datagrams;
pub mod decap;
pub mod echo;
pub mod ethtool;
pub mod huge;
mod ingress;
pub mod link;
mod map;
pub mod netdev;
pub mod pin;
pub mod poll;
pub mod prefetch;
pub mod questions;
pub mod ring;
pub mod rows;
pub mod sip;
pub mod socket;
pub mod tags;
pub mod tap;
pub mod tcp_info;
#[cfg(test)]
pub(crate) mod testing;
pub mod tunnel;
pub mod umem;
pub mod wake;
pub mod xsk;
