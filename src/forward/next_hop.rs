//! Where a packet of a flow goes next: by the record, or else by the routes.

use super::{Context, Verdict};
use crate::counters::Refusal;
use crate::flow::{Flow, Mode, Side};
use crate::route::{Fib, Hop, HopId, NO_HOP, Step};
use crate::wire::ip::Addr;

/// Next hops toward targets that were asked for lately, for the flows to come: a worker's own. As on a record, they are good as
/// long as the routes' epoch is the same.
pub struct Ways {
    epoch: u8,
    known: [(Addr, u8, HopId); WAYS],
}

/// A power of two.
const WAYS: usize = 256;

impl Default for Ways {
    fn default() -> Ways {
        Ways { epoch: 0, known: [(Addr::default(), 0, NO_HOP); WAYS] }
    }
}

impl Ways {
    /// The routes are these now. To be told in every tick at least: the epoch wraps.
    #[inline]
    pub fn follow(&mut self, fib: &Fib) {
        if self.epoch != fib.epoch() {
            *self = Ways { epoch: fib.epoch(), ..Ways::default() };
        }
    }

    /// The next hop of all flows toward `dst`; [`NO_HOP`]: it has to be looked up for each.
    #[inline]
    pub fn toward(&mut self, dst: &Addr, family: u8, fib: &Fib) -> HopId {
        debug_assert_eq!(self.epoch, fib.epoch());
        let [a, b, c, d] = dst.0;
        let place = (a ^ b ^ c ^ d).wrapping_mul(0x9e37_79b1) >> (32 - WAYS.ilog2());
        let known = &mut self.known[place as usize];
        if (&known.0, known.1) != (dst, family) || known.2 == NO_HOP {
            *known = (*dst, family, fib.lookup_plain(dst, family).unwrap_or(NO_HOP));
        }
        known.2
    }
}

/// The next hop towards the side that the packet does not come from: from the record if the routes are still the same, else
/// looked up and put on record.
#[inline(always)]
pub fn next_hop(flow: &mut Flow, ctx: &Context) -> Result<Hop, Verdict> {
    let side = flow.side.other();
    let known = if flow.epoch == ctx.fib.epoch() { flow.hops[side as usize] } else { NO_HOP };
    let id = if ctx.shared.hops.is_valid(known) { known } else { find_hop(flow, known, ctx)? };
    ctx.shared.hops.get(id).ok_or(Verdict::Hold)
}

#[inline(never)]
fn find_hop(flow: &mut Flow, known: HopId, ctx: &Context) -> Result<HopId, Verdict> {
    let side = flow.side.other();
    // A neighbor that was known and has gone silent may come back, and by this it is known that somebody waits for it; meanwhile
    // perhaps there is another way.
    ctx.shared.hops.get(known);
    let id = look_up(flow, side, ctx)?;
    if known == NO_HOP {
        ctx.shared.table.set_hop(flow, side, id, ctx.fib.epoch());
    }
    Ok(id)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{HopTable, Prefix};
    use crate::wire::ip::V4;
    use std::net::IpAddr;
    use std::sync::Arc;

    #[test]
    fn ways_are_of_one_epoch_and_only_those_that_all_flows_take() {
        let hops = Arc::new(HopTable::new());
        let net = |text: &str| text.parse::<Prefix>().expect("a prefix");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let fib = |epoch: u8, gateway: &str| {
            let fib = Fib::builder().hops(hops.clone()).epoch(epoch).port("lan0", [2; 6], 1500, &[net("10.0.0.1/24")]);
            let fib = fib.route(net("10.1.0.0/16"), 0, Some(ip(gateway)));
            fib.neighbor(0, ip("10.0.0.8"), [8; 6]).neighbor(0, ip("10.0.0.9"), [9; 6]).build()
        };
        let (old, new) = (fib(0, "10.0.0.8"), fib(1, "10.0.0.9"));
        let target = Addr::from(ip("10.1.2.3"));
        let mac = |id: HopId| hops.get(id).map(|hop| hop.mac);
        let mut ways = Ways::default();
        ways.follow(&old);
        assert_eq!(mac(ways.toward(&target, V4, &old)), old.lookup_plain(&target, V4).and_then(mac));
        assert_eq!(ways.toward(&ip("10.0.0.7").into(), V4, &old), NO_HOP, "a neighbor without a MAC");
        assert_eq!(ways.toward(&ip("192.0.2.1").into(), V4, &old), NO_HOP, "no route");
        assert_eq!(ways.toward(&ip("10.0.0.1").into(), V4, &old), NO_HOP, "the host's own");
        ways.follow(&new);
        assert_eq!(mac(ways.toward(&target, V4, &new)), new.lookup_plain(&target, V4).and_then(mac));
        assert_ne!(old.lookup_plain(&target, V4), new.lookup_plain(&target, V4));
    }
}
