//! Fragments (RFC 791 3.2, RFC 8200 4.5): they are not put together here, each travels on as it is, after the first one.
//!
//! The first fragment has the ports. It goes through the journey as a whole packet does; its checksum, which is that of the whole
//! packet, is changed by what the rewrite changes and is right again when the target has put all together. What decided its way
//! is remembered under what all fragments of the packet share (source, destination, identification), and the later ones go
//! that way too, only their IP header rewritten. The kernel program sends all of them to one worker, so this is one worker's.
//!
//! *Before the first.* Pieces that overtake it are copied and run again when it has passed.
//!
//! *Overlaps.* What has passed is remembered to the unit of 8 bytes. Nobody who means well sends fragments that overlap, and which
//! of two versions of a byte counts is decided differently from one system to the next; so the second does not pass, and neither
//! does what follows of that packet (RFC 5722). The same piece twice is dropped, too, as it may differ where nobody looks.
//!
//! *Identification.* Towards a remote site all clients' packets come from one PIP, and two clients may have chosen the same
//! identification: there the packets get one of farside's own, those among them that a router may still cut (DF not set; RFC
//! 6864 5.3). It is the client's elsewhere, and the server's in answers: a server counts for each client by itself.
//!
//! *Whose is it?* A later fragment that comes before the first one, and is not addressed to what is farside's alone, may be an
//! answer of a real server in NAT mode, or the host's: nothing tells. Where the host does not forward, both get it: what is for
//! the host itself it takes, the rest it drops, and here the copy that no first one follows expires. Where it forwards, it would send
//! farside's pieces on untranslated, so it alone gets them; the same with a client's piece to a VIP that the host has itself.
//! That packet then stays incomplete, as if the network had lost a piece.

mod copies;
mod datagrams;
mod ids;
mod ranges;

use super::{Context, Now, Verdict, carry, per_packet, reply, stray, whole};
use crate::counters::{Count, Refusal, WorkerCounters};
use crate::device::{Frame, Offload, Span};
use crate::flow::{Flow, HashKey, Hint, Mode, Side, Tick};
use crate::wire::checksum::Delta;
use crate::wire::ip::{Fragment, ICMP, ICMPV6, V4, V6, V6_HEADER};
use crate::wire::{ETHERNET, Packet, icmp, put_be32, put_raw16, raw16};
pub use copies::SCRATCH;
use copies::{Copies, NotKept};
use datagrams::{Datagrams, Name, Way};
use ids::Ids;
use ranges::{Piece, Place};

/// Offsets in an IPv4 header from the start of the frame.
const V4_ID: usize = ETHERNET + 4;
const V4_FLAGS: usize = ETHERNET + 6;
const V4_CHECKSUM: usize = ETHERNET + 10;

/// What a worker knows of packets in pieces. All memory is taken at start, about 3 MB.
pub struct Fragments {
    datagrams: Datagrams,
    copies: Copies,
    ids: Ids,
    expired_at: Tick,
}

impl Fragments {
    /// `key`: the same for all workers.
    pub fn new(worker: usize, workers: usize, key: HashKey) -> Fragments {
        let ids = Ids::new(worker, workers, key);
        Fragments { datagrams: Datagrams::new(), copies: Copies::new(), ids, expired_at: 0 }
    }

    /// Takes out the oldest copy whose first fragment has passed meanwhile, to be run again. `scratch` has
    /// [`SCRATCH`] bytes.
    pub fn take_ready<'a>(&mut self, scratch: &'a mut [u8]) -> Option<Frame<'a>> {
        self.copies.take_ready(scratch)
    }

    /// Forgets the packets of which nothing more is to be expected. Once a tick is enough.
    pub fn expire(&mut self, now: Now, counters: &WorkerCounters) {
        if self.expired_at == now.tick || self.datagrams.is_empty() {
            return;
        }
        self.expired_at = now.tick;
        let Fragments { datagrams, copies, .. } = self;
        datagrams.expire(now, |at| counters.refuse_many(Refusal::FragmentTimeout, copies.drop_of(at)));
    }

    /// The packet's place, a new one if need be.
    fn place(&mut self, name: &Name, now: Now, counters: &WorkerCounters) -> usize {
        if let Some(at) = self.datagrams.find(name) {
            return at;
        }
        let (at, taken) = self.datagrams.add(name, now);
        if taken {
            counters.add(Count::FragmentsForgotten, 1);
            counters.refuse_many(Refusal::FragmentHoldFull, self.copies.drop_of(at));
        }
        at
    }

    fn forget(&mut self, at: usize, why: Refusal, counters: &WorkerCounters) {
        self.datagrams.remove(at);
        counters.refuse_many(why, self.copies.drop_of(at));
    }

    /// The way of a packet of which this piece has come; None: unknown.
    fn way(
        &mut self,
        name: &Name,
        piece: Piece,
        first: bool,
        now: Now,
        counters: &WorkerCounters,
    ) -> Result<Option<Way>, Refusal> {
        let Some(at) = self.datagrams.find(name) else { return Ok(None) };
        if first && self.datagrams.is_reused(at, now) {
            self.forget(at, Refusal::Fragment, counters);
            return Ok(None);
        }
        match self.datagrams.way(at) {
            way @ (Way::Flow(..) | Way::Unrecorded { .. } | Way::Echo) => {
                match self.datagrams.ranges(at).place(piece) {
                    Place::Fresh => Ok(Some(way)),
                    Place::Duplicate => Err(Refusal::FragmentDuplicate),
                    Place::Overlap => {
                        self.datagrams.decide(at, Way::Overlapped, None, now);
                        Err(Refusal::FragmentOverlap)
                    }
                }
            }
            Way::Overlapped => Err(Refusal::FragmentOverlap),
            // It may fare better the second time.
            Way::Refused if first => Ok(None),
            Way::Refused => Err(Refusal::Fragment),
            Way::Awaited => Ok(Some(Way::Awaited)),
        }
    }

    /// A piece passes. The first decides the way, and whether the packet gets another identification: `fresh_id`. Gives that.
    fn pass(
        &mut self,
        name: &Name,
        piece: Piece,
        (way, fresh_id): (Way, Option<u8>),
        now: Now,
        counters: &WorkerCounters,
    ) -> Option<u32> {
        let at = self.place(name, now, counters);
        if matches!(self.datagrams.way(at), Way::Awaited | Way::Refused) {
            let id = fresh_id.map(|family| self.ids.fresh(family));
            self.datagrams.decide(at, way, id, now);
            self.copies.make_ready(at);
        }
        let id = self.datagrams.id(at);
        if self.datagrams.ranges(at).pass(piece) {
            // A copy of a piece that came again.
            self.forget(at, Refusal::FragmentDuplicate, counters);
        }
        id
    }

    /// The first fragment did not pass: its followers shall not either.
    fn refuse(&mut self, name: &Name, now: Now, counters: &WorkerCounters) {
        let at = self.place(name, now, counters);
        if let Way::Awaited | Way::Refused = self.datagrams.way(at) {
            self.datagrams.decide(at, Way::Refused, None, now);
            counters.refuse_many(Refusal::Fragment, self.copies.drop_of(at));
        }
    }

    fn keep(
        &mut self,
        frame: &Frame,
        name: &Name,
        fragment: &Fragment,
        now: Now,
        counters: &WorkerCounters,
    ) -> Verdict {
        let at = self.place(name, now, counters);
        match self.copies.keep(frame, fragment, at) {
            Ok(oldest_went) => {
                counters.refuse_many(Refusal::FragmentHoldFull, u64::from(oldest_went));
                counters.add(Count::FragmentsHeld, 1);
                Verdict::Kept
            }
            Err(NotKept::Duplicate) => Verdict::Refuse(Refusal::FragmentDuplicate),
            Err(NotKept::NoRoom) => Verdict::Refuse(Refusal::FragmentHoldFull),
        }
    }
}

fn name_of(packet: &Packet, fragment: &Fragment, ctx: &Context) -> Name {
    Name::new(packet, fragment, |key| ctx.shared.table.hash(key))
}

/// Bytes of the whole packet that it has.
fn piece_of(packet: &Packet, fragment: &Fragment) -> Piece {
    // What the offset counts from is behind the fragment header, in front of which l4 may not be: RFC 8200 4.5.
    let start = if packet.family == V4 { usize::from(packet.l4) } else { usize::from(fragment.at) + 8 };
    Piece::new(fragment.offset, packet.end as usize - start, !fragment.more)
}

/// A fragment's journey. `hint` is of its 5-tuple.
pub fn handle(frame: &mut Frame, packet: &Packet, fragment: &Fragment, hint: Hint, ctx: &mut Context) -> Verdict {
    ctx.fragments.expire(ctx.now, ctx.counters);
    // A fragment is no joined segments, whatever is said about it.
    (frame.offload.gso_type, frame.offload.gso_size) = (0, 0);
    let name = name_of(packet, fragment, ctx);
    let first = fragment.offset == 0;
    let way = match ctx.fragments.way(&name, piece_of(packet, fragment), first, ctx.now, ctx.counters) {
        Ok(way) => way,
        Err(refusal) => return Verdict::Refuse(refusal),
    };
    if first {
        return lead(frame, packet, &name, hint, ctx);
    }
    match way {
        Some(Way::Flow(at, side)) => match ctx.shared.table.details(at) {
            Some(details) => carry(frame, packet, &mut Flow { side, ..details.flow }, ctx),
            None => Verdict::Refuse(Refusal::Fragment),
        },
        Some(Way::Unrecorded { target, ports }) => match per_packet::again(packet, target, ports, ctx) {
            Some(mut flow) => carry(frame, packet, &mut flow, ctx),
            None => Verdict::Refuse(Refusal::Fragment),
        },
        Some(Way::Echo) => echo(frame, packet, fragment, ctx),
        Some(_) => ctx.fragments.keep(frame, &name, fragment, ctx.now, ctx.counters),
        None if may_be_own(packet, ctx) => ctx.fragments.keep(frame, &name, fragment, ctx.now, ctx.counters),
        None => Verdict::NotOurs,
    }
}

/// Without its first fragment nobody knows. One of a real server's may be an answer, and if it is not the host has it as well.
fn may_be_own(packet: &Packet, ctx: &Context) -> bool {
    ctx.services.is_vip(&packet.dst, packet.family)
        || ctx.services.pip(&packet.dst, packet.family).is_some()
        || ctx.services.answers(&packet.src, packet.family)
}

/// A first fragment.
fn lead(frame: &mut Frame, packet: &Packet, name: &Name, hint: Hint, ctx: &mut Context) -> Verdict {
    let verdict = match (packet.protocol, packet.family, &packet.fragment) {
        (ICMP, V4, Some(fragment)) | (ICMPV6, V6, Some(fragment)) => echo(frame, packet, fragment, ctx),
        _ => whole(frame, packet, hint, ctx),
    };
    let decided = ctx.fragments.datagrams.find(name).map(|at| ctx.fragments.datagrams.way(at));
    match verdict {
        Verdict::NotOurs => {}
        // Those that follow wait for it.
        Verdict::Hold => _ = ctx.fragments.place(name, ctx.now, ctx.counters),
        _ if matches!(decided, Some(Way::Flow(..) | Way::Unrecorded { .. } | Way::Echo)) => {}
        _ => ctx.fragments.refuse(name, ctx.now, ctx.counters),
    }
    verdict
}

/// To be told of every packet that goes out by `flow`, before anything is changed in it: remembers which fragment has passed and gives
/// the packet its new identification where it needs one.
#[inline]
pub fn passes(bytes: &mut [u8], packet: &Packet, flow: &Flow, ctx: &mut Context) {
    let shared_source = flow.mode == Mode::Remote && flow.side == Side::Client;
    if packet.fragment.is_some() || shared_source {
        passes_by_name(bytes, packet, flow, shared_source, ctx);
    }
}

/// `shared_source`: packets of other flows have the same source from here on, whatever identification their senders chose.
#[inline(never)]
fn passes_by_name(bytes: &mut [u8], packet: &Packet, flow: &Flow, shared_source: bool, ctx: &mut Context) {
    let id = match &packet.fragment {
        Some(fragment) => {
            let name = name_of(packet, fragment, ctx);
            let way = match flow.is_recorded() {
                true => Way::Flow(flow.at, flow.side),
                false => Way::Unrecorded { target: flow.target, ports: [flow.client.port, flow.vip.port] },
            };
            let fresh_id = shared_source.then_some(packet.family);
            let piece = piece_of(packet, fragment);
            ctx.fragments.pass(&name, piece, (way, fresh_id), ctx.now, ctx.counters)
        }
        None if shared_source && packet.family == V4 && bytes[V4_FLAGS] & 0x40 == 0 => {
            Some(ctx.fragments.ids.fresh(V4))
        }
        None => None,
    };
    match (id, &packet.fragment) {
        (Some(id), Some(fragment)) if packet.family == V6 => put_be32(bytes, usize::from(fragment.at) + 4, id),
        (Some(id), _) => {
            let mut header = Delta::default();
            let id = (id as u16).to_be();
            header.word16(raw16(bytes, V4_ID), id);
            put_raw16(bytes, V4_ID, id);
            let check = header.apply(raw16(bytes, V4_CHECKSUM));
            put_raw16(bytes, V4_CHECKSUM, check);
        }
        (None, _) => {}
    }
}

/// Sends a piece of an echo request back as the same piece of the answer: it has the same bytes, but for type and checksum in the
/// first one, and the same identification, which the client chose.
fn echo(frame: &mut Frame, packet: &Packet, fragment: &Fragment, ctx: &mut Context) -> Verdict {
    let v4 = packet.family == V4;
    let first = fragment.offset == 0;
    let (request, answer) = if v4 { (icmp::ECHO, icmp::ECHO_REPLY) } else { (icmp::V6_ECHO, icmp::V6_ECHO_REPLY) };
    let l4 = usize::from(packet.l4);
    let kind = frame.buf[frame.start + l4];
    if first {
        let own_pip = ctx.services.pip(&packet.dst, packet.family).is_some_and(|pip| !pip.host_owned);
        if !own_pip && !ctx.services.is_vip(&packet.dst, packet.family) {
            return stray(frame, packet, ctx);
        }
        if kind != request {
            return Verdict::Refuse(Refusal::FragmentIcmp);
        }
    }
    // Other extension headers are not carried back.
    if !v4 && (usize::from(fragment.at), l4) != (ETHERNET + V6_HEADER, ETHERNET + V6_HEADER + 8) {
        return Verdict::Refuse(Refusal::FragmentIcmp);
    }
    if !ctx.limits.icmp.take(ctx.now) {
        ctx.counters.add(Count::AnswersSuppressed, 1);
        return Verdict::Refuse(Refusal::IcmpType);
    }
    let name = name_of(packet, fragment, ctx);
    ctx.fragments.pass(&name, piece_of(packet, fragment), (Way::Echo, None), ctx.now, ctx.counters);
    reply::turn_macs(frame);
    let bytes = &mut frame.buf[frame.start..frame.start + packet.end as usize];
    reply::turn_addresses(bytes, packet.family);
    if first {
        let mut message = Delta::default();
        let old = raw16(bytes, l4);
        bytes[l4] = answer;
        message.word16(old, raw16(bytes, l4));
        let check = message.apply(raw16(bytes, l4 + 2));
        put_raw16(bytes, l4 + 2, check);
        ctx.counters.add(Count::EchoReplies, 1);
    }
    let span = Span { start: frame.start, len: packet.end as usize, offload: Offload::default() };
    Verdict::Transmit { span, port: frame.port }
}
