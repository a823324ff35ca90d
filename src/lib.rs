//! farside: a userspace load balancer for a service that lives at two or more sites. Connections to a virtual address
//! go to the site's own servers while any of them is up; when none is, they are carried to another site, whose answers
//! come back the same way. Clients notice neither.
//!
//! It moves packets, not streams: one process with packet or AF_XDP sockets on a few interfaces, a flow table, and small kernel
//! programs that tell its packets from the host's. This page is the map of its source.
//!
//! # Floors
//!
//! What stands on a floor imports from the floors below it, never from above or beside, but for what "on" names: a
//! room on its own floor that it stands on. `tests/house.rs` reads this table and holds the code to it.
//!
//! | floor | room | what it is for |
//! |---|---|---|
//! | 5 | `main` on `cli` | an exit code |
//! | 5 | [`cli`] on `run` | commands and flags |
//! | 5 | [`run`] | wiring: the order of starting, the control thread's loop, reload, the order of stopping |
//! | 4 | [`admin`] | both ends of the Unix socket of `show`, `reload` and `drain`; the metrics listener |
//! | 4 | [`announce`] | tells the link's machines where VIPs and PIPs are now |
//! | 4 | [`decap`] | on a real server: the far end of tunnels, where the kernel has none |
//! | 4 | [`dns`] | the authoritative name server: zones, pools of addresses, answers, and the threads that give them |
//! | 4 | [`health`] | asks every target whether it serves, and writes its status word |
//! | 4 | [`link`] | what sites tell each other, over TLS, and the certificates for it |
//! | 4 | [`netlink`] | keeps the routes and next hops as the kernel has them |
//! | 4 | [`redis`] | resolvers' sites, and how sites are, shared through a Redis or Valkey server |
//! | 4 | [`replay`] on `worker` | a capture file through the data path, and another one out |
//! | 4 | [`setup`] | on a real server: what direct and tunnel mode need of it |
//! | 4 | [`survey`] | measures how far resolvers are from this site |
//! | 4 | [`worker`] | a pinned thread: receive, forward, transmit, and the chores of a tick |
//! | 3 | [`forward`] | THE JOURNEY: (frame, state, now) -> verdict. Knows no device, clock or file |
//! | 2 | [`affinity`] on `sites` | the dynamic store: which site each resolver was sent to |
//! | 2 | [`service`] on `flow` | what is served and by whom: an immutable snapshot, schedulers, status words |
//! | 2 | [`flow`] | connections: their table, their states, lent ports, expiry |
//! | 2 | [`route`] | where a packet leaves: an immutable snapshot of routes, the words of next hops |
//! | 2 | [`sites`] | sites by number, and what is known of each |
//! | 2 | [`device`] | receive a batch, send a batch: packet sockets, AF_XDP, memory, capture files |
//! | 1 | [`config`] | the configuration, as written and as meant |
//! | 1 | [`wire`] | bytes to fields: one pass over a frame gives a packet or a named refusal |
//! | 0 | [`certificate`] | when an X.509 certificate holds |
//! | 0 | [`counters`] | everything that is counted, every reason for a drop among it |
//! | 0 | [`sys`] | the kernel's doors; the only room with `unsafe` |
//!
//! The rooms of floor 4 do not know each other (but for `replay`, which is a worker with another device): `run` introduces them, by
//! what lies below. `src/bpf` has the kernel programs in C and the objects built from them: `farside.o`
//! (`plain.o` for kernels without AF_XDP), which [`sys::bpf`] loads, and `decap.o` for real servers ([`sys::decap`]).
//!
//! # A packet's journey
//!
//! 1. **In.** The kernel programs know what is farside's ([`sys::bpf::Programs`]). One sits in front of every packet
//!    socket and lets farside's packets through; one at every interface's ingress keeps just these from the host's stack;
//!    one chooses the worker, so that both directions of a flow meet on the same. With AF_XDP another takes farside's packets
//!    before all of them, and the card chooses ([`device::af_xdp`]).
//! 2. **Batch.** [`Worker::burst`] takes up to [`device::BATCH`] frames from each interface ([`Device::receive`]), reads
//!    all ([`wire::parse`]), hashes all and asks for the memory ([`FlowTable::prefetch`],
//!    [`FlowTable::prefetch_record`], [`FlowTable::prefetch_late`]): the cache misses of a batch overlap. For those that open
//!    connections it looks ahead, to what their flows will need ([`forward::ahead`]).
//! 3. **Flow.** [`forward::forward`] takes each frame. Most are of flows that stand and need a rewrite and no more: they go
//!    straight to 6 ([`forward::straight`], [`FlowTable::standing`]). Of the others ARP, neighbor solicitations and ICMP turn off
//!    here ([`forward::neighbor`], [`forward::icmp`]), and later fragments go after their first ([`forward::fragment`]). The
//!    rest is looked up ([`FlowTable::follow`]).
//! 4. **Miss.** Which service ([`ServiceMap::find`])? TCP must open a connection. Which target ([`Service::pick`])? It has a
//!    place for the connection from here on. If it is a remote site, a port is lent ([`Ledger::lend`]). Both sides go on record
//!    or neither does ([`FlowTable::insert`]), and from here a miss is a hit. Where the target was foreseen, most go straight through
//!    all of it ([`forward::straight::open`]).
//! 5. **Hit.** The record says everything. The next hop is on it, or the routes are asked ([`Fib::lookup`],
//!    [`HopTable::get`]); TTL and size are looked at, the TCP state moves ([`FlowTable::advance`]), the packet is changed in
//!    place ([`forward::rewrite`]), or goes on as it is to a real server that has the VIP itself ([`forward::one_sided`]).
//! 6. **Out.** The [`Verdict`] says what becomes of it: transmit ([`Device::send`], [`Device::flush`]), cut and
//!    transmit the pieces ([`Cutter::piece`]), hold until the next hop's MAC is known ([`Held::keep`]), keep a fragment until
//!    its first one has passed ([`Fragments`]), refuse under a [`Refusal`] that is counted, or the host's.
//! 7. **Back.** The answer comes in at the same doors and finds the same record from its other [`Side`].
//! 8. **After.** Between bursts the worker runs held packets and kept fragments again, resets what control wants reset
//!    ([`forward::reset::both_ends`]) and sweeps a slice of the table ([`FlowTable::sweep`]); what a flow held goes back
//!    ([`forward::settle`]).
//!
//! Most packets of a long connection take a shorter way. Workers open connections, watch them and close them; of a TCP flow that
//! stands the packets between are carried by the ingress program itself, by the same records, next hops and path MTUs, which
//! lie in memory that both sides map ([`sys::rows`]). What it carries it carries as [`forward`] would, byte for byte
//! (`forward/tests/kernel.rs`), and what is in the least out of the ordinary it leaves to the workers.
//!
//! Beside it one control thread ([`run`]) changes what workers read, never waiting for them: routes and services
//! are published behind one pointer each ([`World`]), followed once per burst; what changes from moment to moment is one
//! atomic word per thing, beside the snapshots ([`StatusTable`], [`HopTable`]).
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | backup | a real server that gets connections only while no other of its service takes any |
//! | batch, burst | the frames taken from one interface in one go; one round over all interfaces and the chores |
//! | client side, server side | the two ends of a flow, one record found from either ([`Side`]) |
//! | control | the thread that does all but packets |
//! | door | an address on the probe interface that stands for one remote site of one service, or for one real server of direct or tunnel mode: health checks go through it into the data path, as a client's connection would ([`ServiceMap::probe`], [`service::doors`]) |
//! | encapsulation | in tunnel mode: the headers put in front of a client's packet, and how the packet travels to a real server by them ([`forward::encap`]) |
//! | epoch | number of the routes' snapshot: a flow's next hops are good while it has not moved ([`Fib::epoch`]) |
//! | evidence | what clients' connections say of a target's health in passing: refused, unanswered; it speeds the fall, never the rise ([`service::evidence`]) |
//! | flow | one TCP or UDP connection through farside ([`flow`]) |
//! | foreseen | of a new connection's target: most likely it goes there, and the memory for it has been asked for ([`forward::ahead`]) |
//! | fragment, piece | of a packet that was cut; only the *first* has ports, *later* ones follow it ([`forward::fragment`]) |
//! | held | of a packet: waits for its next hop's MAC ([`worker::held`]) |
//! | kernel path | the ingress program carries packets of flows that stand, instead of a worker (`src/bpf/path.h`) |
//! | known, remembered | of a client: the real server that it had last is known ([`service::persistence`]) |
//! | link (between sites) | the connection by which two sites tell each other how they are ([`link`]); elsewhere a link is what machines share |
//! | lent port | a port of a PIP that one flow to a remote site has; it goes back when the flow ends, and rests ([`Ledger`]) |
//! | local | what the target sees as the connection's source: the client, or a PIP and a lent port |
//! | next hop, hop | the machine on the link that a packet is handed to: its interface, MAC and MTU ([`Hop`]) |
//! | one-sided | of a flow: the answers pass by farside (direct and tunnel mode; [`forward::one_sided`]) |
//! | peer | another site's farside, known by its PIPs: what comes from there is never carried on |
//! | place | of a connection at its target: counted before it is on record, so that limits hold ([`service::status`]) |
//! | PIP | proxy IP: an address of this site's from which connections to remote sites are made ([`service::Pip`]) |
//! | port | of TCP or UDP; or the number of an interface, as in `[datapath] interfaces` ([`device`]) |
//! | real server | a machine of this site that serves |
//! | piece | what leaves of a packet that is cut: one of its joined segments, or a fragment ([`forward::cut`]) |
//! | refusal | why a packet goes no further: each has a name and a counter ([`Refusal`]) |
//! | remote site | another site's VIP for the same service |
//! | service | a VIP, port and protocol, and the targets behind it ([`Service`]) |
//! | slot | the place of a target's status word and counts; kept over reloads ([`service::status`], [`service::registry`]) |
//! | stands | of a flow: no packet moves its state, unless by its flags ([`flow::Standing`]) |
//! | straight way | what a packet of a flow that stands, or one that opens a foreseen flow, takes through [`forward`], past all that can only be asked of others ([`forward::straight`]) |
//! | target | a real server or a remote site of a service ([`service::Target`]) |
//! | tick | the data path's unit of time ([`flow::TICK_MS`]) |
//! | twin | of a flow: the same one, put on record by another worker at the same moment |
//! | verdict | what shall become of a frame ([`Verdict`]) |
//! | VIP | virtual IP: the address that clients connect to |
//! | way (to a resolver) | how far a resolver's network is from a site, as that measures it ([`sites::ways`]) |
//! | worker | a thread with a CPU, a receive queue per interface and counters of its own ([`worker`]) |
//!
//! [`Cutter::piece`]: forward::cut::Cutter::piece
//! [`Device::flush`]: device::Device::flush
//! [`Device::receive`]: device::Device::receive
//! [`Device::send`]: device::Device::send
//! [`Fib::epoch`]: route::Fib::epoch
//! [`Fib::lookup`]: route::Fib::lookup
//! [`FlowTable::advance`]: flow::FlowTable::advance
//! [`FlowTable::follow`]: flow::FlowTable::follow
//! [`FlowTable::insert`]: flow::FlowTable::insert
//! [`FlowTable::prefetch`]: flow::FlowTable::prefetch
//! [`FlowTable::prefetch_late`]: flow::FlowTable::prefetch_late
//! [`FlowTable::prefetch_record`]: flow::FlowTable::prefetch_record
//! [`FlowTable::standing`]: flow::FlowTable::standing
//! [`FlowTable::sweep`]: flow::FlowTable::sweep
//! [`Fragments`]: forward::fragment::Fragments
//! [`Held::keep`]: worker::held::Held::keep
//! [`Hop`]: route::Hop
//! [`HopTable`]: route::HopTable
//! [`HopTable::get`]: route::HopTable::get
//! [`Ledger`]: flow::Ledger
//! [`Ledger::lend`]: flow::Ledger::lend
//! [`Service::pick`]: service::Service::pick
//! [`Refusal`]: counters::Refusal
//! [`Service`]: service::Service
//! [`ServiceMap::find`]: service::ServiceMap::find
//! [`ServiceMap::probe`]: service::ServiceMap::probe
//! [`Side`]: flow::Side
//! [`StatusTable`]: service::status::StatusTable
//! [`Verdict`]: forward::Verdict
//! [`Worker::burst`]: worker::Worker::burst
//! [`World`]: worker::World
#![deny(unsafe_code)]
#![cfg_attr(feature = "loom", allow(dead_code, unused_imports))]

// The models of what threads share (the feature `loom`) are of these rooms, and are built in a fraction of the time without the others,
// for whom there is more in them.
pub mod affinity;
pub mod config;
pub mod counters;
pub mod flow;
pub mod sites;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod wire;

#[cfg(not(feature = "loom"))]
pub mod admin;
#[cfg(not(feature = "loom"))]
pub mod announce;
#[cfg(not(feature = "loom"))]
pub mod certificate;
#[cfg(not(feature = "loom"))]
pub mod cli;
#[cfg(not(feature = "loom"))]
pub mod decap;
#[cfg(not(feature = "loom"))]
pub mod device;
#[cfg(not(feature = "loom"))]
pub mod dns;
#[cfg(not(feature = "loom"))]
pub mod forward;
#[cfg(not(feature = "loom"))]
pub mod health;
#[cfg(not(feature = "loom"))]
pub mod link;
#[cfg(not(feature = "loom"))]
pub mod netlink;
#[cfg(not(feature = "loom"))]
pub mod redis;
#[cfg(not(feature = "loom"))]
pub mod replay;
#[cfg(not(feature = "loom"))]
pub mod route;
#[cfg(not(feature = "loom"))]
pub mod run;
#[cfg(not(feature = "loom"))]
pub mod service;
#[cfg(not(feature = "loom"))]
pub mod setup;
#[cfg(not(feature = "loom"))]
pub mod survey;
#[cfg(not(feature = "loom"))]
pub mod worker;
