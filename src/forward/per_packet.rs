//! Scheduling per packet (`per_packet = true`): each of a client's datagrams chooses its target afresh. What is remembered of
//! it stands in [`crate::flow`], "One packet, one choice".

use super::Context;
use super::open::{flow_to, open_to};
use crate::counters::Refusal;
use crate::flow::{Flow, Side};
use crate::service::{Service, Target};
use crate::wire::Packet;
use crate::wire::ip::{Endpoint, FlowKey, UDP};

/// The flow of a client's datagram to `target`, as the client's side sees it: of an old record or a new one, and of none where the
/// answers pass farside by. `key` and `hash` are the datagram's. A record keeps the place at the target that the choice has taken;
/// without one, or with an old one, it is given back.
pub fn flow(target: &Target, service: &Service, key: &FlowKey, hash: u64, ctx: &mut Context) -> Result<Flow, Refusal> {
    if service.mode.one_sided() {
        ctx.shared.status.give_up(target.slot);
        return Ok(flow_to(target, service.mode, service, key, key.src, None, ctx).unrecorded());
    }
    if let Some(found) = find(target, key, ctx) {
        ctx.shared.status.give_up(target.slot);
        return found;
    }
    match open_to((target, service.mode), service, key, (hash, None), ctx) {
        Ok(Some(flow)) => Ok(flow),
        // It clashes with what another worker put there between the look and the insert: this very record, perhaps.
        Ok(None) | Err(Refusal::TupleClash) => find(target, key, ctx).unwrap_or(Err(Refusal::LostRace)),
        Err(refusal) => Err(refusal),
    }
}

/// By the key of the target's answers.
fn find(target: &Target, key: &FlowKey, ctx: &Context) -> Option<Result<Flow, Refusal>> {
    let back = FlowKey { src: target.endpoint, dst: key.src, ..*key };
    let table = &ctx.shared.table;
    let flow = table.lookup(&back, table.hash(&back))?;
    // The same client address and port may ask the same server by another VIP, whose answers could not be told from these.
    let same = flow.vip == key.dst;
    Some(if same { Ok(Flow { side: Side::Client, ..flow }) } else { Err(Refusal::TupleClash) })
}

/// Of a later fragment of a datagram that is on no record: the flow that its first one had, to `target`, with `ports` from the client
/// and to the VIP. None: the service has no such target any more.
pub fn again(packet: &Packet, target: Endpoint, ports: [u16; 2], ctx: &Context) -> Option<Flow> {
    let [src, dst] = [(packet.src, ports[0]), (packet.dst, ports[1])].map(|(addr, port)| Endpoint { addr, port });
    let key = FlowKey { src, dst, protocol: UDP, family: packet.family };
    let service = ctx.services.find(&dst, key.protocol, key.family).filter(|service| service.mode.one_sided())?;
    let real = service.reals.iter().find(|real| real.endpoint == target)?;
    Some(flow_to(real, service.mode, service, &key, src, None, ctx).unrecorded())
}
