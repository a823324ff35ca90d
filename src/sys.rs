//! The only room with `unsafe`: memory maps, sockets, rings, kernel programs, pinning.
#![allow(unsafe_code)]

pub mod link;
