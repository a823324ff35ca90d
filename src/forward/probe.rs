//! Checks of real servers in direct and tunnel mode: through the same door as clients' packets, so that a server whose tunnel is
//! broken, or that lacks the VIP, is found out.
//!
//! ```text
//!   probe address -> door       becomes   PIP:port -> VIP, and goes on by MAC address or tunnel to the real server
//!   VIP -> PIP:port             becomes   door -> probe address
//! ```
//!
//! Such a flow is two-sided, unlike a client's on the same service: the server answers an address of this box. (The PIP may be
//! one of the host's own here, with ports that the host's stack keeps clear of: [`crate::service::doors`].) On record it
//! stands as one to a remote site at the VIP; where that is for this door, the door says.

use super::{Context, Verdict, one_sided};
use crate::counters::Refusal;
use crate::device::Frame;
use crate::flow::{Flow, Mode, Side};
use crate::service::build::is_probe;
use crate::wire::Packet;

/// Is it what a check sends to a real server that has the VIP?
#[inline]
pub fn is_to_real(flow: &Flow, ctx: &Context) -> bool {
    flow.mode == Mode::Remote
        && flow.side == Side::Client
        && is_probe(&flow.client.addr, flow.family)
        && ctx.services.is_vip(&flow.target.addr, flow.family)
}

/// A check's packet goes on to its real server.
pub fn carry(frame: &mut Frame, packet: &Packet, flow: Flow, ctx: &mut Context) -> Verdict {
    let Some((service, real)) = ctx.services.behind(&flow.vip, flow.protocol, flow.family) else {
        // A reload has taken the server away; its check is abandoned.
        return Verdict::Refuse(Refusal::NoService);
    };
    let onward = Flow {
        mode: service.mode,
        encapsulation: service.encapsulation,
        target: real.endpoint,
        target_family: real.family,
        ..flow
    };
    one_sided::carry_check(frame, packet, flow, onward, ctx)
}
