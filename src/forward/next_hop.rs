//! Where a packet of a flow goes next: by the record, or else by the routes.

use super::{Context, Verdict};
use crate::counters::Refusal;
use crate::flow::{Flow, Mode, Side};
use crate::route::{Hop, HopId, NO_HOP, Step};
use crate::wire::ip::Addr;

/// The next hop towards the side that the packet does not come from: from the record if the routes are still the same, else
/// looked up and put on record.
#[inline]
pub fn next_hop(flow: &mut Flow, ctx: &Context) -> Result<Hop, Verdict> {
    let side = flow.side.other();
    let known = if flow.epoch == ctx.fib.epoch() { flow.hops[side as usize] } else { NO_HOP };
    match ctx.shared.hops.get(known) {
        Some(hop) => Ok(hop),
        None => find_hop(flow, known, ctx),
    }
}

#[inline(never)]
fn find_hop(flow: &mut Flow, known: HopId, ctx: &Context) -> Result<Hop, Verdict> {
    let side = flow.side.other();
    // A neighbor that was known and has gone silent may come back; meanwhile perhaps there is another way.
    let id = look_up(flow, side, ctx)?;
    if known == NO_HOP {
        ctx.shared.table.set_hop(flow, side, id, ctx.fib.epoch());
    }
    ctx.shared.hops.get(id).ok_or(Verdict::Hold)
}

/// The same for all packets of a flow, so that it stays on one way of a multipath route, and uniform over flows.
pub fn multipath_hash(flow: &Flow) -> u64 {
    let words = flow.client.addr.0;
    let ends = words[0] ^ words[1] ^ words[2] ^ words[3] ^ u32::from(flow.client.port) << 16;
    // The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    let mut hash = u64::from(ends).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn look_up(flow: &Flow, side: Side, ctx: &Context) -> Result<HopId, Verdict> {
    // A tunnel's outer source is the host's, and depends on the way.
    let wrapped = Addr::default();
    let (src, dst, family) = match side {
        Side::Server if flow.mode == Mode::Tunnel => (&wrapped, &flow.target.addr, flow.target_family),
        Side::Server => (&flow.local.addr, &flow.target.addr, flow.target_family),
        Side::Client => (&flow.vip.addr, &flow.client.addr, flow.family),
    };
    let hash = multipath_hash(flow);
    let id = route_to(src, dst, family, hash, ctx)?;
    // A gateway would send a packet for the VIP back here.
    let direct = flow.mode == Mode::Direct && side == Side::Server;
    if direct && !ctx.fib.is_on_link(src, dst, family, hash) {
        Err(Verdict::Refuse(Refusal::NotOnLink))
    } else {
        Ok(id)
    }
}

fn route_to(src: &Addr, dst: &Addr, family: u8, hash: u64, ctx: &Context) -> Result<HopId, Verdict> {
    match ctx.fib.lookup(src, dst, family, hash) {
        Step::Hop(id) => Ok(id),
        Step::Resolve(neighbor) => {
            ctx.shared.resolve.ask(neighbor);
            Err(Verdict::Hold)
        }
        Step::NoRoute | Step::Local => Err(Verdict::Refuse(Refusal::NoRoute)),
    }
}
