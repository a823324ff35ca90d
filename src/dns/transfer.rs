//! A zone as messages for its secondaries: whole (AXFR, RFC 5936) or as what has changed (IXFR, RFC 1995). Who sends them
//! asks for one after the other and signs them if need be.

use super::name;
use super::query::{Bad, Query, Question};
use super::reply::{OptReply, Writer};
use super::wire::{HEADER, class, rtype};
use super::zone::{Record, Zone};
use std::cmp::Ordering;
use std::sync::Arc;

/// A transfer under way.
pub struct Transfer {
    /// Header and question, which all messages have.
    head: Vec<u8>,
    zone: Option<Arc<Zone>>,
    plan: Plan,
}

enum Plan {
    /// All records, the SOA first and last. The next is this one of this node's; none: the first SOA.
    Whole(Option<(u32, usize)>),
    /// These records, of which so many are sent.
    Listed(Vec<Owned>, usize),
    Done,
}

/// A record that outlives its zone.
#[derive(Clone, Debug, PartialEq)]
struct Owned {
    owner: Vec<u8>,
    rtype: u16,
    ttl_s: u32,
    data: Vec<u8>,
}

impl From<&Record<'_>> for Owned {
    fn from(record: &Record) -> Owned {
        let (owner, data) = (record.owner.to_vec(), record.data.to_vec());
        Owned { owner, rtype: record.rtype, ttl_s: record.ttl_s, data }
    }
}

impl Owned {
    fn record(&self) -> Record<'_> {
        Record { owner: &self.owner, rtype: self.rtype, ttl_s: self.ttl_s, data: (&*self.data).into() }
    }
}

impl Transfer {
    /// The answer to `query`, which was [`super::Outcome::Transfer`], without its signature if it had one. `versions`: of the zone asked
    /// for, the newest first, and behind it, for IXFR, as many older ones as are kept. Where one of them has the client's serial, what
    /// has changed since goes, and else the whole zone; a client that has the newest serial, or a newer one, gets just the SOA.
    pub fn new(query: &[u8], since: Option<u32>, versions: Vec<Arc<Zone>>) -> Transfer {
        let question = match Query::parse(query) {
            Ok(query) | Err(Bad::Code(_, query)) => query.question.as_ref().map_or(0, Question::length),
            Err(Bad::Silence(_)) => 0,
        };
        let mut head = query.get(..HEADER + question).unwrap_or_default().to_vec();
        head.resize(head.len().max(HEADER), 0);
        // QR and AA; of the client's flags RD.
        let flags = 0x84 | head[2] & 1;
        head[2..HEADER].copy_from_slice(&[flags, 0, 0, u8::from(question > 0), 0, 0, 0, 0, 0, 0]);
        let mut versions = versions.into_iter();
        let zone = versions.next();
        let had = since.and_then(|since| versions.find(|zone| zone.serial() == since));
        let plan = match (&zone, since, had) {
            (None, ..) => Plan::Done,
            // RFC 1982 3.2: not before ours.
            (Some(zone), Some(since), _) if zone.serial().wrapping_sub(since) as i32 <= 0 => {
                Plan::Listed(vec![Owned::from(&zone.soa_record())], 0)
            }
            (Some(zone), _, Some(had)) => Plan::Listed(changes(&had, zone), 0),
            (Some(_), _, None) => Plan::Whole(None),
        };
        Transfer { head, zone, plan }
    }

    /// Replaces `out` by the next message (without the two bytes of its length), of at most `most` bytes: what a signature needs
    /// of the 65535 is to be left out of that; at least 65400 must be left. False: there is no more.
    pub fn next(&mut self, most: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        out.extend_from_slice(&self.head);
        let Some(zone) = self.zone.clone() else { return false };
        let mut message =
            Message { out, most, origin: zone.origin().wire(), question: self.head.len() > HEADER, count: 0 };
        let mut plan = std::mem::replace(&mut self.plan, Plan::Done);
        let done = match &mut plan {
            Plan::Whole(at) => whole(&zone, at, &mut message),
            Plan::Listed(records, sent) => {
                let fit = records[*sent..].iter().take_while(|record| message.push(&record.record())).count();
                *sent += fit;
                *sent == records.len()
            }
            Plan::Done => true,
        };
        let count = message.count;
        out[6..8].copy_from_slice(&count.to_be_bytes());
        // A record that fits into no message would be asked for again and again.
        if !done && count > 0 {
            self.plan = plan;
        }
        count > 0
    }
}

/// Goes on with all records of a zone. True: that was the last one.
fn whole(zone: &Zone, at: &mut Option<(u32, usize)>, message: &mut Message) -> bool {
    let (mut node, mut sent) = match *at {
        Some(at) => at,
        None if !message.push(&zone.soa_record()) => return false,
        None => (0, 0),
    };
    let mut records = Vec::new();
    while (node as usize) < zone.contents().names() {
        records.clear();
        zone.node_records(node, &mut records);
        for record in &records[sent..] {
            if !message.push(record) {
                *at = Some((node, sent));
                return false;
            }
            sent += 1;
        }
        (node, sent) = (node + 1, 0);
    }
    *at = Some((node, 0));
    message.push(&zone.soa_record())
}

/// A message as it grows.
struct Message<'m> {
    out: &'m mut Vec<u8>,
    most: usize,
    origin: &'m [u8],
    /// The question has the origin's name, to which a pointer leads.
    question: bool,
    count: u16,
}

impl Message<'_> {
    /// False: it is full.
    fn push(&mut self, record: &Record) -> bool {
        let short = self.question && self.origin.len() > 2 && name::is_in(record.owner, self.origin);
        let own = if short { record.owner.len() - self.origin.len() } else { record.owner.len() };
        let long = own + if short { 2 } else { 0 } + 10 + record.data.len();
        if self.out.len() + long > self.most || self.count == u16::MAX {
            return false;
        }
        self.out.extend_from_slice(&record.owner[..own]);
        if short {
            self.out.extend_from_slice(&[0xc0, HEADER as u8]);
        }
        push_fixed(self.out, record.rtype, Some((record.ttl_s, &record.data)));
        self.count += 1;
        true
    }
}

/// What follows an owner: of a question type and class, of a record its TTL and data too.
fn push_fixed(out: &mut Vec<u8>, rtype: u16, record: Option<(u32, &[u8])>) {
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&class::IN.to_be_bytes());
    if let Some((ttl_s, data)) = record {
        out.extend_from_slice(&ttl_s.to_be_bytes());
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(data);
    }
}

/// From one version to another in one step (RFC 1995 4, condensed as in 5): the new SOA, the old one with what goes, the new one
/// with what comes, the new one.
fn changes(old: &Zone, new: &Zone) -> Vec<Owned> {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut was, mut is) = (Vec::new(), Vec::new());
    if Arc::ptr_eq(old.contents(), new.contents()) {
        for node in new.contents().pool_nodes() {
            old.pool_records(*node, &mut was);
            new.pool_records(*node, &mut is);
            part(&mut was, &mut is, &mut gone, &mut come);
        }
    } else {
        let (mut left, mut right) = (0, 0);
        let names = |zone: &Zone| zone.contents().names() as u32;
        while left < names(old) || right < names(new) {
            let order = match (left < names(old), right < names(new)) {
                (true, false) => Ordering::Less,
                (false, _) => Ordering::Greater,
                (true, true) => name::canonical(old.contents().name(left), new.contents().name(right)),
            };
            if order.is_le() {
                old.node_records(left, &mut was);
                left += 1;
            }
            if order.is_ge() {
                new.node_records(right, &mut is);
                right += 1;
            }
            part(&mut was, &mut is, &mut gone, &mut come);
        }
    }
    let soa = |zone: &Zone| vec![Owned::from(&zone.soa_record())];
    [soa(new), soa(old), gone, soa(new), come, soa(new)].concat()
}

/// What one of two lists of a name's records has and the other has not. Empties both.
fn part(was: &mut Vec<Record>, is: &mut Vec<Record>, gone: &mut Vec<Owned>, come: &mut Vec<Owned>) {
    let same = |a: &Record, b: &Record| (a.rtype, a.ttl_s, &a.data) == (b.rtype, b.ttl_s, &b.data);
    let only = |these: &[Record], those: &[Record], out: &mut Vec<Owned>| {
        out.extend(these.iter().filter(|this| !those.iter().any(|that| same(this, that))).map(Owned::from));
    };
    only(was, is, gone);
    only(is, was, come);
    was.clear();
    is.clear();
}

/// The answer that says no: `rcode` is REFUSED or NOTAUTH. Bytes of `out`; 0: there is no room.
pub fn refuse(query: &[u8], rcode: u16, out: &mut [u8]) -> usize {
    let (Ok(query) | Err(Bad::Code(_, query))) = Query::parse(query) else { return 0 };
    let opt = query.edns.map(|edns| OptReply { dnssec_ok: edns.dnssec_ok, ..OptReply::default() });
    let question = &query.message[HEADER..HEADER + query.question.as_ref().map_or(0, Question::length)];
    let limit = out.len().saturating_sub(opt.as_ref().map_or(0, OptReply::length));
    let Some(writer) = Writer::new(out, limit, question) else { return 0 };
    let flags = 0x8000 | u16::from(query.message[2] & 1) << 8;
    writer.finish(query.message, flags, rcode, opt.as_ref().map(|opt| (opt, 1232)))
}

/// Tells a secondary that the zone has changed (RFC 1996 3.7): a NOTIFY with the SOA in the answer section.
pub fn notify(zone: &Zone, id: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    // Opcode 4, AA; one question, one answer.
    out.extend_from_slice(&[0x24, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    out.extend_from_slice(zone.origin().wire());
    push_fixed(&mut out, rtype::SOA, None);
    let soa = zone.soa_record();
    out.extend_from_slice(&[0xc0, HEADER as u8]);
    push_fixed(&mut out, rtype::SOA, Some((soa.ttl_s, &soa.data)));
    out
}
