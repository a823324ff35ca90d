//! The answer to a query. All branching of the journey is in [`answer`] and [`decide`].

use super::cookie::{self, Checked};
use super::dnssec::seal::{Job, seal};
use super::query::{Bad, Query, Question};
use super::rate::Verdict;
use super::reply::{OptReply, Writer};
use super::resolve::{Found, Kind, Tools, resolve};
use super::steer::{Asker, Client};
use super::wire::{HEADER, LONGEST, class, rcode, rtype};
use super::{Asked, Count, Outcome, Reply, Scratch, Settings, Silence, Snapshot, TransferAsked, Transport, Zone};

const QR: u16 = 0x8000;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;

/// Writes the answer into `out`, which should have 65535 bytes for TCP and [`Settings::udp_size`] for UDP; it is never longer than `out`,
/// and where it does not fit it says so (TC). Never panics, allocates, locks or logs; what it counts goes into the thread's own
/// words.
pub fn answer(asked: &Asked, snapshot: &Snapshot, scratch: &mut Scratch, out: &mut [u8]) -> Outcome {
    let settings = &**snapshot.settings();
    let udp = asked.transport == Transport::Udp;
    scratch.counts.add(if udp { Count::QueriesUdp } else { Count::QueriesTcp });
    let (query, bad) = match Query::parse(asked.message) {
        Ok(query) => (query, None),
        Err(Bad::Code(code, query)) => (query, Some(code)),
        Err(Bad::Silence(silence)) => return nothing(scratch, silence),
    };
    if let (Some(at), None) = (query.signed_at, bad) {
        scratch.counts.add(Count::Signed);
        return Outcome::Signed(at);
    }
    let cookie = check_cookie(asked, settings, &query, scratch);
    let mut opt = opt_reply(settings, &query, cookie);
    let kept = opt.as_ref().map_or(0, OptReply::length);
    let limit = match (&query.edns, udp) {
        (_, false) => LONGEST,
        (None, true) => 512,
        (Some(edns), true) => usize::from(edns.size.min(settings.udp_size).max(512)),
    };
    let limit = limit.min(out.len()).saturating_sub(kept);
    let question = &asked.message[HEADER..HEADER + query.question.as_ref().map_or(0, Question::length)];
    let Some(mut writer) = Writer::new(out, limit, question) else {
        return nothing(scratch, Silence::NoRoom);
    };
    let (found, zone) = match decide(asked, snapshot, scratch, &query, bad, &mut writer) {
        Decision::Found(found, zone) => (found, zone),
        Decision::Transfer(transfer) => {
            scratch.counts.add(Count::TransfersAsked);
            return Outcome::Transfer(transfer);
        }
    };
    if let Some(opt) = &mut opt {
        opt.scope = found.scope;
    }
    let mut flags = QR | u16::from(query.opcode()) << 11 | if found.authoritative { AA } else { 0 };
    flags |= u16::from_be_bytes([asked.message[2], asked.message[3]]) & RD;
    let telling = telling(asked, snapshot, &query, !udp || cookie.is_some_and(|cookie| cookie.good));
    let (mut code, slot) = (found.rcode, zone.map(|zone| snapshot.zones()[zone].slot()));
    let mut truncated = found.truncated || telling;
    if udp && !cookie.is_some_and(|cookie| cookie.good) {
        match limited(asked, scratch, &found, slot, query.question.as_ref()) {
            Verdict::Pass => {}
            Verdict::Drop => return nothing(scratch, Silence::RateLimited),
            Verdict::Slip => {
                scratch.counts.add(Count::Slipped);
                // Who knows cookies shows by the next query that it is no victim (RFC 7873 5.2.3).
                match cookie {
                    Some(_) => (code, flags) = (rcode::BADCOOKIE, flags & !AA),
                    None => truncated = true,
                }
                writer.clear();
            }
        }
    }
    if wants_seal(&query)
        && !truncated
        && code == found.rcode
        && let Some(zone) = zone
    {
        let wanted =
            (query.question.map_or(0, |question| question.qtype), query.edns.is_some_and(|edns| edns.dnssec_ok));
        let fits;
        (writer, fits) = sealed(asked, &snapshot.zones()[zone], scratch, wanted, found, writer);
        truncated = !fits;
    }
    if truncated {
        // What a client does not get whole it has no use for: it comes again by TCP.
        writer.clear();
        flags |= TC;
    }
    count(scratch, &found, code, truncated);
    let length = writer.finish(asked.message, flags, code, opt.as_ref().map(|opt| (opt, settings.udp_size)));
    Outcome::Answer(Reply { length, rcode: code, zone: slot, pool: found.pool })
}

/// Notes who asks for a name that tells of a client, if it is known to be who it says. True: it is not, and has to show by TCP.
#[inline]
fn telling(asked: &Asked, snapshot: &Snapshot, query: &Query, shown: bool) -> bool {
    let (Some(learner), Some(question)) = (&snapshot.steering().learner, &query.question) else { return false };
    if !learner.is_telling(question.name) {
        return false;
    }
    if shown {
        learner.sight(question.name, Asker::of(asked.from, &snapshot.steering().groups).who);
    }
    !shown
}

/// The client wants signatures (RFC 3225), or asks for the records of DNSSEC themselves, which go to everybody (RFC 4035 3.2.1).
#[inline]
fn wants_seal(query: &Query) -> bool {
    query.edns.is_some_and(|edns| edns.dnssec_ok)
        || query.question.is_some_and(|question| matches!(question.qtype, rtype::RRSIG | rtype::NSEC))
}

/// Puts signatures and proofs into an answer, if the zone is signed. False: it has to go out truncated. The writer goes in and comes out
/// as a value: a pointer to it would keep it out of registers for those who want no signatures.
#[inline(never)]
fn sealed<'o>(
    asked: &Asked,
    zone: &Zone,
    scratch: &mut Scratch,
    (qtype, dnssec_ok): (u16, bool),
    found: Found,
    mut writer: Writer<'o>,
) -> (Writer<'o>, bool) {
    let Some(signer) = zone.contents().signer() else { return (writer, true) };
    let Scratch { asked: name, chased, signing, counts, .. } = scratch;
    let job = Job {
        zone,
        signer,
        found: &found,
        qtype,
        dnssec_ok,
        last: if found.chased { chased } else { name },
        counts,
        udp: asked.transport == Transport::Udp,
        now_ms: asked.now_ms,
        unix_s: asked.unix_s(),
    };
    let fits = seal(&job, signing, &mut writer);
    (writer, fits)
}

fn nothing(scratch: &Scratch, silence: Silence) -> Outcome {
    scratch.counts.silence(silence);
    Outcome::Nothing(silence)
}

enum Decision {
    /// With the zone's index, if it came from one.
    Found(Found, Option<usize>),
    Transfer(TransferAsked),
}

fn error(rcode: u16) -> Decision {
    Decision::Found(Found::other(rcode, Kind::Error), None)
}

/// What is said to a query, and by which zone.
fn decide(
    asked: &Asked,
    snapshot: &Snapshot,
    scratch: &mut Scratch,
    query: &Query,
    bad: Option<u16>,
    writer: &mut Writer,
) -> Decision {
    if let Some(code) = bad {
        return error(code);
    }
    if query.edns.is_some_and(|edns| edns.version > 0) {
        return error(rcode::BADVERS);
    }
    let Some(question) = query.question else {
        // Without a question one may ask for a cookie (RFC 7873 5.4).
        let asks = query.edns.is_some_and(|edns| edns.cookie.is_some()) && snapshot.settings().cookies.is_some();
        return error(if asks { rcode::NOERROR } else { rcode::FORMERR });
    };
    match question.qclass {
        class::IN | class::ANY => {}
        class::CH => return chaos(snapshot.settings(), &question, writer),
        _ => return error(rcode::REFUSED),
    }
    // OPT is no question's type (RFC 6891 6.1.1).
    if question.qtype == rtype::OPT {
        return error(rcode::FORMERR);
    }
    scratch.asked.fill(question.name);
    let mut at = snapshot.find(&scratch.asked, 0);
    // DS of a zone of ours stands in the one above, if that is ours too (RFC 4035 3.1.4.1).
    if let (rtype::DS, Some((_, 0))) = (question.qtype, at) {
        at = snapshot.find(&scratch.asked, 1).or(at);
    }
    let Some((zone, skip)) = at else {
        return error(if matches!(question.qtype, rtype::AXFR | rtype::IXFR) {
            rcode::NOTAUTH
        } else {
            rcode::REFUSED
        });
    };
    let mut qtype = question.qtype;
    match (qtype, asked.transport, skip) {
        (rtype::AXFR | rtype::IXFR, _, 1..) => return error(rcode::NOTAUTH),
        // RFC 5936 4.2: by TCP only.
        (rtype::AXFR, Transport::Udp, 0) => return error(rcode::FORMERR),
        // The newest SOA says: come by TCP, if you have not got it (RFC 1995 2).
        (rtype::IXFR, Transport::Udp, 0) => qtype = rtype::SOA,
        (rtype::AXFR, Transport::Tcp, 0) => return Decision::Transfer(TransferAsked { zone, since: None }),
        (rtype::IXFR, Transport::Tcp, 0) => {
            return match query.serial {
                Some(serial) => Decision::Transfer(TransferAsked { zone, since: Some(serial) }),
                None => error(rcode::FORMERR),
            };
        }
        _ => {}
    }
    writer.origin_after(scratch.asked.start(skip));
    let Scratch { asked: name, chased, targets, turns, counts, .. } = scratch;
    let subnet = query.edns.and_then(|edns| edns.subnet);
    let (now_ms, foreseen, steering) = (asked.unix_ms, asked.foreseen, snapshot.steering());
    let client = &Client { from: asked.from, to: asked.to, subnet, now_ms, foreseen, steering };
    let tools = Tools { asked: name, chased, targets, turns, client, counts };
    let found = resolve(&snapshot.zones()[zone], qtype, tools, writer);
    Decision::Found(found, Some(zone))
}

/// The server itself (RFC 4892), as far as one wants to tell of it.
fn chaos(settings: &Settings, question: &Question, writer: &mut Writer) -> Decision {
    let is = |name: &[u8]| question.name.eq_ignore_ascii_case(name);
    let text = if is(b"\x07version\x04bind\0") || is(b"\x07version\x06server\0") {
        settings.version.as_bytes()
    } else if is(b"\x02id\x06server\0") || is(b"\x08hostname\x04bind\0") {
        &*settings.nsid
    } else {
        &[]
    };
    if text.is_empty() {
        return error(rcode::REFUSED);
    }
    let (mut kind, mut truncated) = (Kind::Nodata, false);
    if matches!(question.qtype, rtype::TXT | rtype::ANY) {
        let text = &text[..text.len().min(255)];
        let done = writer.record(HEADER, (rtype::TXT, class::CH, 0), (&[text.len() as u8], text));
        (kind, truncated) = (Kind::Answer, done.is_none());
    }
    Decision::Found(Found { authoritative: true, truncated, ..Found::other(rcode::NOERROR, kind) }, None)
}

fn check_cookie(asked: &Asked, settings: &Settings, query: &Query, scratch: &Scratch) -> Option<Checked> {
    let option = query.edns?.cookie?;
    scratch.counts.add(Count::QueriesCookie);
    cookie::check(option, asked.from, asked.unix_s(), settings.cookies.as_ref()?)
}

/// Who asks with EDNS is answered with EDNS, errors included (RFC 6891 7).
fn opt_reply<'a>(settings: &'a Settings, query: &Query<'a>, cookie: Option<Checked>) -> Option<OptReply<'a>> {
    let edns = query.edns?;
    Some(OptReply {
        dnssec_ok: edns.dnssec_ok,
        nsid: (edns.nsid && !settings.nsid.is_empty()).then_some(&*settings.nsid),
        cookie: cookie.map(|cookie| cookie.reply),
        subnet: edns.subnet,
        scope: 0,
    })
}

fn limited(
    asked: &Asked,
    scratch: &mut Scratch,
    found: &Found,
    zone: Option<u16>,
    question: Option<&Question>,
) -> Verdict {
    let Some(limiter) = &mut scratch.limiter else { return Verdict::Pass };
    let zone = zone.map_or(0, |zone| u64::from(zone) + 1);
    let (node, qtype) = match found.kind {
        Kind::Answer => (u64::from(found.node), question.map_or(0, |question| u64::from(question.qtype & 0xfff))),
        Kind::Referral => (u64::from(found.node), 0),
        // Names that do not exist are without number.
        Kind::Nodata | Kind::Nxdomain | Kind::Error => (0, 0),
    };
    limiter.ask(asked.from, zone << 47 | qtype << 35 | (found.kind as u64) << 32 | node, asked.now_ms)
}

fn count(scratch: &Scratch, found: &Found, code: u16, truncated: bool) {
    let counts = &scratch.counts;
    counts.add(match code {
        rcode::NOERROR | rcode::YXDOMAIN => Count::Noerror,
        rcode::FORMERR => Count::Formerr,
        rcode::NXDOMAIN => Count::Nxdomain,
        rcode::NOTIMP => Count::Notimp,
        rcode::NOTAUTH => Count::Notauth,
        rcode::BADVERS => Count::Badvers,
        rcode::BADCOOKIE => Count::Badcookie,
        _ => Count::Refused,
    });
    match found.kind {
        Kind::Nodata => counts.add(Count::Nodata),
        Kind::Referral => counts.add(Count::Referrals),
        Kind::Answer | Kind::Nxdomain | Kind::Error => {}
    }
    if truncated {
        counts.add(Count::Truncated);
    }
    if found.pool.is_some() {
        counts.add(Count::PoolAnswers);
    }
}
