//! The only room with `unsafe`: memory maps, sockets, rings, kernel programs, pinning.
#![allow(unsafe_code)]

pub mod abi;
pub mod bpf;
pub mod pin;
pub mod ring;
pub mod socket;
pub mod tap;
pub mod wake;
