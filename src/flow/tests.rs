//! What the flow room promises.

mod closing;
mod key;
mod model;
mod ports;
mod states;
mod table;
mod threads;

use super::*;
use crate::wire::ip::{Endpoint, TCP, V4, V6};

pub const KEY: HashKey = HashKey { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };

pub const TIMEOUTS: Timeouts =
    Timeouts { tcp_syn: 120, tcp_established: 29_760, tcp_closing: 480, tcp_reset: 40, udp: 480 };

pub fn v4(last: u8, port: u16) -> Endpoint {
    Endpoint::new([10, 0, 0, last].into(), port)
}

pub fn v6(last: u16, port: u16) -> Endpoint {
    Endpoint::new([0x2001, 0xdb8, 7, 0, 0, 0x11, 0x22, last].into(), port)
}

/// A connection of `client` to the VIP 10.0.0.100:110, carried to a remote site from `local`.
pub fn remote(client: Endpoint, local: Endpoint) -> NewFlow {
    NewFlow {
        family: V4,
        target_family: V4,
        protocol: TCP,
        mode: Mode::Remote,
        encapsulation: Encapsulation::Ipip,
        client,
        vip: v4(100, 110),
        local,
        target: v4(200, 110),
        target_slot: 7,
        pool: Some(PoolId(3)),
        worker: 0,
        track_acks: false,
        per_packet: false,
        state: State::SynSent,
        hops: [0, 0],
        epoch: 1,
        stamp: 0,
    }
}

/// The same to a local real server.
pub fn nat(client: Endpoint) -> NewFlow {
    NewFlow { mode: Mode::Nat, local: client, target: v4(20, 1110), pool: None, ..remote(client, client) }
}

/// The same, past farside on the way back.
pub fn direct(client: Endpoint) -> NewFlow {
    NewFlow { mode: Mode::Direct, ..nat(client) }
}

pub fn nat6(client: Endpoint) -> NewFlow {
    NewFlow { family: V6, target_family: V6, vip: v6(100, 110), target: v6(20, 1110), ..nat(client) }
}

pub fn table(max_flows: u32, workers: usize) -> FlowTable {
    FlowTable::new(max_flows, workers, KEY)
}

pub fn insert(table: &FlowTable, new: &NewFlow, now: Tick) -> Result<Flow, Refused> {
    table.insert(new, table.hash(&new.client_key()), now)
}

pub fn find(table: &FlowTable, key: &crate::wire::ip::FlowKey) -> Option<Flow> {
    table.lookup(key, table.hash(key))
}
