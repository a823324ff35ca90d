//! Looking ahead: what the packets of a batch that open connections will need is found out for all of them before the first one is
//! forwarded, so that the memory of the server's side of their flows comes while others are at work. Nothing is decided here
//! that cannot be left: a packet that finds its flow on record after all, or its target without a place, goes on as if
//! nobody had looked ahead, and all that was spent is a turn of a rotation.

use super::next_hop::Ways;
use super::{Context, opens};
use crate::device::BATCH;
use crate::flow::{Hint, Mode};
use crate::service::build::is_probe;
use crate::service::{Service, ServiceMap, Target};
use crate::wire::Packet;
use crate::wire::ip::{Endpoint, FlowKey, TCP, UDP};

/// What a worker has found out.
pub struct Ahead {
    notes: [Note; BATCH],
    count: u16,
    /// The service that was found last in this batch: the next packet is mostly for the same one.
    last: Option<((Endpoint, u8, u8), usize)>,
    /// A bit for each hash that something was looked up for in this batch: of two packets of one flow the second shall not be noted,
    /// for the flow is on record then.
    seen: [u64; SEEN / 64],
    pub ways: Ways,
}

/// Bits of [`Ahead::seen`], a power of two.
const SEEN: usize = 2048;

/// About a packet that will open a connection: no flow of its key was on record, it is a stranger's (none of farside's own addresses,
/// no peer), and this is where it will go if there is a place.
#[derive(Clone, Copy, Default)]
struct Note {
    service: u32,
    real: u16,
    server_hash: u64,
}

/// A note as it is read.
#[derive(Clone, Copy)]
pub struct Foreseen<'a> {
    pub service: &'a Service,
    pub target: &'a Target,
    /// The target's number among the service's real servers.
    pub real: u16,
    /// Of the key of the target's answers; means nothing where they do not pass by.
    pub server_hash: u64,
}

impl Default for Ahead {
    fn default() -> Ahead {
        Ahead { notes: [Note::default(); BATCH], count: 0, last: None, seen: [0; SEEN / 64], ways: Ways::default() }
    }
}

impl Ahead {
    /// A batch begins: notes are of one batch, and of one snapshot of services.
    #[inline]
    pub fn begin(&mut self) {
        (self.count, self.last, self.seen) = (0, None, [0; SEEN / 64]);
    }

    /// Has a packet with this hash, or one that is taken for it, been here in this batch? From now on one has.
    fn is_again(&mut self, hash: u64) -> bool {
        let bit = hash as usize % SEEN;
        let word = &mut self.seen[bit / 64];
        let again = *word >> (bit % 64) & 1 != 0;
        *word |= 1 << (bit % 64);
        again
    }

    /// The number of the service that the key's packets are for.
    fn service(&mut self, key: &FlowKey, services: &ServiceMap) -> Option<usize> {
        let name = (key.dst, key.protocol, key.family);
        if let Some((last, number)) = self.last
            && last == name
        {
            return Some(number);
        }
        let number = services.number(&key.dst, key.protocol, key.family)?;
        self.last = Some((name, number));
        Some(number)
    }
}

/// Looks ahead for a packet that no flow was found for. Gives its hint, with a note if one was made.
pub fn look(packet: &Packet, hint: Hint, ctx: &mut Context) -> Hint {
    if packet.fragment.is_some() || !matches!(packet.protocol, TCP | UDP) || !opens(packet) {
        return hint;
    }
    let key = packet.key();
    let Some(number) = ctx.ahead.service(&key, ctx.services) else { return hint };
    if is_somebody(&key, ctx) || ctx.ahead.is_again(hint.hash) {
        return hint;
    }
    let service = &ctx.services.services()[number];
    let Some(real) = service.foresee(&ctx.shared.status, &key.src.addr) else { return hint };
    let target = &service.reals[usize::from(real)];
    let server_hash = match service.mode {
        Mode::Nat | Mode::Remote => {
            let answers = FlowKey { src: target.endpoint, dst: key.src, ..key };
            ctx.shared.table.prefetch_places(&answers)
        }
        Mode::Direct | Mode::Tunnel => 0,
    };
    let Some(note) = ctx.ahead.notes.get_mut(usize::from(ctx.ahead.count)) else { return hint };
    *note = Note { service: number as u32, real, server_hash };
    ctx.ahead.count += 1;
    hint.noted(ctx.ahead.count - 1)
}

/// Is more to be asked about the sender than about a stranger?
fn is_somebody(key: &FlowKey, ctx: &Context) -> bool {
    let (addr, family) = (&key.src.addr, key.family);
    ctx.services.may_know(addr) || addr.is_link_local(family) || is_probe(addr, family)
}

/// The note that a hint refers to.
pub fn foreseen<'a>(hint: Hint, ctx: &Context<'a>) -> Option<Foreseen<'a>> {
    let Note { service, real, server_hash } = *ctx.ahead.notes.get(hint.note()?)?;
    let service = ctx.services.services().get(service as usize)?;
    Some(Foreseen { service, target: service.reals.get(usize::from(real))?, real, server_hash })
}
