//! A connection's first packet: which service, which target, a port if it is a remote site, and both sides on record or neither. Nearly
//! all that is asked here has been found out ahead of time where it could be ([`super::ahead`]).

use super::ahead::Foreseen;
use super::{Context, Shared, Verdict, carry, carry_first, end, opens, per_packet, reply, stray};
use crate::counters::{Count, Refusal};
use crate::device::Frame;
use crate::flow::{Flow, Mode, NewFlow, PoolId, Refused, Side, State};
use crate::route::NO_HOP;
use crate::service::build::is_probe;
use crate::service::pick::{Asker, Books, Choice};
use crate::service::{Service, Target};
use crate::wire::Packet;
use crate::wire::ip::{Addr, Endpoint, FlowKey, TCP, UDP};

/// A packet without a flow: opens one if it may.
#[inline(never)]
pub fn open(frame: &mut Frame, packet: &Packet, hash: u64, ctx: &mut Context) -> Verdict {
    let key = packet.key();
    let (service, probed) = match ctx.services.find(&key.dst, key.protocol, key.family) {
        Some(service) => (service, None),
        None => match ctx.services.probe(&key.dst, key.protocol, key.family) {
            Some((service, remote)) => (service, Some(remote)),
            // Its last connections still run; new ones shall not wait for an answer.
            None if ctx.services.is_leaving(&key.dst, key.protocol, key.family) => {
                let refusal = if opens(packet) { Refusal::NoService } else { Refusal::NoFlow };
                return reply::refuse(frame, packet, refusal, ctx);
            }
            None => return stray(frame, packet, ctx),
        },
    };
    if !opens(packet) {
        return reply::refuse(frame, packet, Refusal::NoFlow, ctx);
    }
    if ctx.services.is_vip(&key.src.addr, key.family) || ctx.services.pip(&key.src.addr, key.family).is_some() {
        return Verdict::Refuse(Refusal::Loop);
    }
    // Checks come from an address of farside's own to doors, and nobody else does: who is counted follows from that address. And
    // the answer to a link-local address would look for the client on the wrong link.
    let checks = is_probe(&key.src.addr, key.family);
    if checks != probed.is_some() || !checks && key.src.addr.is_link_local(key.family) {
        return reply::refuse(frame, packet, Refusal::Martian, ctx);
    }
    let to = match probed {
        Some(target) => To::Door(target),
        None if ctx.services.is_peer(&key.src.addr, key.family) => To::Own,
        None => To::Any,
    };
    connect(frame, packet, hash, service, to, ctx)
}

/// What a new connection of a service goes to.
#[derive(Clone, Copy)]
pub enum To<'a> {
    Any,
    /// It is a peer's, and goes to no other site.
    Own,
    /// It is a check of this target.
    Door(&'a Target),
    /// To any, and most likely there.
    Foreseen(&'a Foreseen<'a>),
}

/// A packet that may open a connection of a service.
pub fn connect(frame: &mut Frame, packet: &Packet, hash: u64, service: &Service, to: To, ctx: &mut Context) -> Verdict {
    let key = packet.key();
    let foreseen = if let To::Foreseen(foreseen) = to { Some(foreseen) } else { None };
    // Another try where the chosen real server already has this very client address and port, by another VIP.
    for clashes in 0..4 {
        let asker = Asker {
            addr: &key.src.addr,
            peer: matches!(to, To::Own),
            clashes,
            foreseen: foreseen.filter(|_| clashes == 0).map(|foreseen| foreseen.real),
        };
        let choice = match to {
            To::Door(target) => Choice::Remote(target),
            _ => service.pick(&books(ctx), &asker),
        };
        let chosen = match choice {
            Choice::Real(target) if service.per_packet => match per_packet::flow(target, service, &key, hash, ctx) {
                Ok(mut flow) => return carry(frame, packet, &mut flow, ctx),
                Err(refusal) => Err(refusal),
            },
            Choice::Real(target) => Ok((target, service.mode)),
            Choice::Remote(target) => Ok((target, Mode::Remote)),
            Choice::Nobody(Refusal::NotChecked) => return Verdict::Refuse(Refusal::NotChecked),
            Choice::Nobody(refusal) => Err(refusal),
        };
        let opened = chosen.and_then(|to| open_to(to, service, &key, (hash, foreseen), ctx));
        let flow = match opened {
            Ok(Some(mut flow)) => return carry_first(frame, packet, &mut flow, ctx),
            Ok(None) => ctx.shared.table.lookup(&key, hash),
            Err(Refusal::TupleClash) => continue,
            Err(refusal) => return reply::refuse(frame, packet, refusal, ctx),
        };
        return match flow {
            Some(mut flow) => carry(frame, packet, &mut flow, ctx),
            // Another worker's insert of the same flow was undone meanwhile. The client sends its SYN again.
            None => Verdict::Refuse(Refusal::LostRace),
        };
    }
    reply::refuse(frame, packet, Refusal::TupleClash, ctx)
}

/// What a target is chosen by.
fn books<'a>(ctx: &Context<'a>) -> Books<'a> {
    let Shared { status, memory, .. } = ctx.shared;
    Books { status, memory, counters: ctx.counters, now: ctx.now.tick }
}

/// Puts a flow to `target` on record and gives it, or finds that another worker just has: None. The connection has a place at the
/// target, which is given back if nothing comes of it. Checks are no connections: they have none. `hash` is of the client's key;
/// beside it stands what was foreseen, perhaps another target.
#[inline(always)]
pub fn open_to(
    (target, mode): (&Target, Mode),
    service: &Service,
    key: &FlowKey,
    (hash, foreseen): (u64, Option<&Foreseen>),
    ctx: &mut Context,
) -> Result<Option<Flow>, Refusal> {
    let shared = ctx.shared;
    let probe = is_probe(&key.src.addr, key.family);
    let (local, pool) = match mode {
        Mode::Remote => {
            let pools = if probe { &target.probe_pools } else { &target.pools };
            let Some((local, pool)) = lend(pools, hash, ctx) else {
                if !probe {
                    shared.status.give_up(target.slot);
                }
                return Err(Refusal::PortsExhausted);
            };
            (local, Some(pool))
        }
        _ => (key.src, None),
    };
    let mut flow = flow_to(target, mode, service, key, local, pool, ctx);
    if !mode.one_sided() && !probe {
        flow.hops[Side::Server as usize] = ctx.ahead.ways.toward(&target.endpoint.addr, target.family, ctx.fib);
    }
    if probe {
        shared.status.slot(target.slot).begin_check();
    }
    let insert = |flow: &NewFlow| match foreseen {
        Some(known) if std::ptr::eq(known.target, target) => {
            shared.table.insert_by(flow, [hash, known.server_hash], ctx.now.tick)
        }
        _ => shared.table.insert(flow, hash, ctx.now.tick).map(|flow| flow.at),
    };
    let mut inserted = insert(&flow);
    if inserted == Err(Refused::ServerTwin) && makes_way(&flow, ctx) {
        inserted = insert(&flow);
    }
    let refusal = match inserted {
        Ok(at) => {
            let count = match mode {
                _ if probe => Count::FlowsProbe,
                Mode::Remote => Count::FlowsRemote,
                _ => Count::FlowsLocal,
            };
            ctx.counters.add(count, 1);
            return Ok(Some(flow.on_record(at)));
        }
        Err(refused) => refused,
    };
    if probe {
        shared.status.slot(target.slot).end();
    } else {
        shared.status.give_up(target.slot);
    }
    if let Some(pool) = pool {
        shared.ledger.give_back(pool, local.port, ctx.now.tick);
    }
    match refusal {
        Refused::Twin => {
            ctx.counters.add(Count::FlowTwins, 1);
            Ok(None)
        }
        Refused::ServerTwin => Err(Refusal::TupleClash),
        Refused::Full | Refused::NoRoom => Err(Refusal::TableFull),
    }
}

/// A flow of `key` to `target`, as it would go on record.
#[inline(always)]
pub fn flow_to(
    target: &Target,
    mode: Mode,
    service: &Service,
    key: &FlowKey,
    local: Endpoint,
    pool: Option<PoolId>,
    ctx: &Context,
) -> NewFlow {
    NewFlow {
        family: key.family,
        target_family: target.family,
        protocol: key.protocol,
        mode,
        encapsulation: service.encapsulation,
        client: key.src,
        vip: key.dst,
        local,
        target: target.endpoint,
        target_slot: target.slot,
        pool,
        worker: ctx.worker,
        per_packet: service.per_packet && mode != Mode::Remote,
        track_acks: key.protocol == TCP && service.on_down == crate::config::OnDown::Reset,
        state: if key.protocol == TCP { State::SynSent } else { State::Udp },
        hops: [NO_HOP; 2],
        epoch: ctx.fib.epoch(),
        // See `super::measure_connect`.
        stamp: if key.protocol == TCP { ctx.now.micros } else { 0 },
    }
}

/// Does the flow that stands in the way of `new` (the same client address and port at the same real server, by another VIP) end
/// for it? If it is over and only waits for stragglers: the real server takes a new SYN then, as if from the same client.
fn makes_way(new: &NewFlow, ctx: &Context) -> bool {
    let Some(key) = new.server_key() else { return false };
    let table = &ctx.shared.table;
    let Some(other) = table.lookup(&key, table.hash(&key)) else { return true };
    let reset = matches!(other.state, State::ResetByClient | State::ResetByServer | State::Aborted);
    let over = reset || matches!(other.state, State::Closing | State::Over);
    // What is left of a service that was scheduled per packet before a reload.
    let left = !new.per_packet && new.protocol == UDP && other.vip == new.vip;
    if over || left {
        end(&other, ctx);
    }
    over || left
}

/// A PIP and a port of the pools towards a remote site. Several PIPs take turns, by the flow's hash; a worker whose own ports
/// are all out takes another's, and then the two directions of the flow meet in the table only.
fn lend(pools: &[(Addr, PoolId)], hash: u64, ctx: &Context) -> Option<(Endpoint, PoolId)> {
    let workers = ctx.shared.ledger.workers();
    (0..workers).find_map(|beside| {
        let worker = (usize::from(ctx.worker) + beside) % workers;
        (0..pools.len()).find_map(|turn| {
            let (pip, pool) = pools[(hash as usize).wrapping_add(turn) % pools.len()];
            let port = ctx.shared.ledger.lend(pool, worker, ctx.now.tick)?;
            Some((Endpoint { addr: pip, port }, pool))
        })
    })
}
