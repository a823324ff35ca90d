//! Goes over an answer that is written and puts in what a validator needs (RFC 4035 3.1): a signature behind each set, and the proofs
//! that what is not there does not exist.

use super::super::counts::{Count, Counts};
use super::super::name::{LONGEST_NAME, Suffixes};
use super::super::reply::{Draft, POINTER_END, Section, Writer};
use super::super::resolve::{Found, Kind};
use super::super::wire::{HEADER, LONGEST, class, rcode, rtype};
use super::super::zone::{NOWHERE, Set, Zone};
use super::denial::{self, Proof, Proofs};
use super::key::SIGNATURE;
use super::signatures::Signatures;
use super::{Signer, canon};

/// How often the times of a signature move on.
const STEP_S: u32 = 24 * 3600;

/// How long a signature holds from the last step on.
const HOLDS_S: u32 = 14 * 24 * 3600;

/// How much earlier than made it holds: clocks differ.
const EARLIER_S: u32 = 3600;

/// What is given out holds for so long at least.
pub const LEAST_S: u32 = HOLDS_S - STEP_S;

/// Signatures of sets that are kept, and of denials.
const SETS: usize = 1 << 16;
const DENIALS: usize = 1 << 12;

/// The most denials that a thread signs in a second for queries by UDP: a flood of names that do not exist shall not take the time in
/// which others are answered.
const DENIALS_PER_SECOND: u32 = 4000;

/// The longest that is signed as one: larger sets fit into no message.
const LONGEST_SIGNED: usize = 4 * 65536;

/// What a thread keeps for signing. Most of it is memory that is not there before it is used.
pub(in crate::dns) struct Signing {
    /// The new message.
    message: Box<[u8]>,
    /// The data of a set's records one after the other, and where each of them is.
    data: Box<[u8]>,
    order: Vec<(u32, u32)>,
    /// What is signed.
    signed: Box<[u8]>,
    /// Where records were, and where they are now.
    moved: Vec<(u16, u16)>,
    name: Suffixes,
    proofs: Proofs,
    sets: Signatures,
    denials: Signatures,
    /// A second, and how many denials were signed in it.
    spent: (u64, u32),
}

/// The shortest record: an owner of two bytes, no data.
const SHORTEST: usize = 12;

impl Signing {
    pub fn new(seed: u64) -> Signing {
        Signing {
            message: vec![0; LONGEST].into(),
            data: vec![0; LONGEST_SIGNED].into(),
            order: Vec::with_capacity(LONGEST / SHORTEST),
            signed: vec![0; LONGEST_SIGNED].into(),
            moved: Vec::with_capacity(LONGEST / SHORTEST),
            name: Suffixes::new(),
            proofs: Proofs::new(),
            sets: Signatures::new(SETS, seed),
            denials: Signatures::new(DENIALS, seed.rotate_left(32)),
            spent: (0, 0),
        }
    }
}

/// What is to be sealed.
pub(in crate::dns) struct Job<'j> {
    pub zone: &'j Zone,
    pub signer: &'j Signer,
    pub found: &'j Found,
    pub qtype: u16,
    /// The client wants signatures (RFC 3225).
    pub dnssec_ok: bool,
    /// The name last looked for.
    pub last: &'j Suffixes,
    pub counts: &'j Counts,
    pub udp: bool,
    pub now_ms: u64,
    pub unix_s: u32,
}

/// False: it does not fit, or too much was asked for; the client is to come by TCP. Never panics, allocates or locks.
pub(in crate::dns) fn seal(job: &Job, signing: &mut Signing, writer: &mut Writer) -> bool {
    let draft = writer.draft();
    if draft.message.len() > signing.message.len() {
        return false;
    }
    signing.message[..draft.records].copy_from_slice(&draft.message[..draft.records]);
    signing.moved.clear();
    signing.proofs.clear();
    let mut pass = Pass {
        job,
        signing,
        draft,
        at: draft.records,
        counts: [0; 3],
        negative_s: job.zone.contents().soa().negative_ttl_s(),
    };
    if pass.message().is_none() {
        return false;
    }
    let (at, counts) = (pass.at, pass.counts);
    writer.replace(&signing.message[..at], counts);
    true
}

struct Pass<'p> {
    job: &'p Job<'p>,
    signing: &'p mut Signing,
    draft: Draft<'p>,
    /// The new message ends here.
    at: usize,
    counts: [u16; 3],
    /// The TTL of proofs: that of the SOA beside them (RFC 9077).
    negative_s: u32,
}

/// Records of the draft that are a set.
#[derive(Clone, Copy)]
struct Group {
    start: usize,
    end: usize,
    count: u16,
    rtype: u16,
    ttl_s: u32,
}

/// How a set is signed.
struct Covered<'c> {
    rtype: u16,
    ttl_s: u32,
    /// The TTL that the zone has for it; the set's own may be cut.
    whole_ttl_s: u32,
    labels: usize,
    /// The name that is signed: of what a wildcard has made that of the wildcard.
    owner: &'c [u8],
    /// Where the set's owner stands in the message.
    pointer: u16,
    /// The hash by which the times of its signature differ from others'.
    phase: u64,
    /// It is made for the question and not for the zone.
    fleeting: bool,
}

/// Of a record in the draft: type, TTL, where its data begin and end.
fn record(message: &[u8], at: usize) -> Option<(u16, u32, usize, usize)> {
    let head = message.get(at..)?.first_chunk::<SHORTEST>()?;
    let end = at + SHORTEST + usize::from(u16::from_be_bytes([head[10], head[11]]));
    let ttl_s = u32::from_be_bytes([head[6], head[7], head[8], head[9]]);
    (end <= message.len()).then_some((u16::from_be_bytes([head[2], head[3]]), ttl_s, at + SHORTEST, end))
}

// None below: there is no room.
impl Pass<'_> {
    fn message(&mut self) -> Option<()> {
        let mut at = self.draft.records;
        for section in [Section::Answer, Section::Authority, Section::Additional] {
            if section == Section::Additional {
                self.deny()?;
                // What an answer of nothing but signatures named is not in it.
                if self.job.qtype == rtype::RRSIG && self.job.found.kind == Kind::Answer {
                    break;
                }
            }
            let mut left = self.draft.counts[section as usize];
            while left > 0 {
                let group = self.group(at, left)?;
                (at, left) = (group.end, left - group.count);
                let (had, counts) = (self.at, self.counts);
                let done = self.set(section, &group);
                if done.is_none() {
                    // Addresses may be left out, but not those of a delegation's servers.
                    if section != Section::Additional || self.job.found.kind == Kind::Referral {
                        return None;
                    }
                    (self.at, self.counts) = (had, counts);
                }
            }
            if section == Section::Answer {
                self.asked_for_nsec()?;
            }
        }
        Some(())
    }

    /// The set that begins at a byte of the draft.
    fn group(&self, start: usize, most: u16) -> Option<Group> {
        let message = self.draft.message;
        let (rtype, ttl_s, _, mut end) = record(message, start)?;
        let mut count = 1;
        while count < most && message.get(end..end + 4) == message.get(start..start + 4) {
            end = record(message, end)?.3;
            count += 1;
        }
        Some(Group { start, end, count, rtype, ttl_s })
    }

    /// Whose denial is in the answer: the question was for NSEC.
    fn is_for_nsec(&self) -> bool {
        let found = self.job.found;
        self.job.qtype == rtype::NSEC && found.negative && found.rcode == rcode::NOERROR
    }

    /// Takes a set over, and puts behind it what belongs to it.
    fn set(&mut self, section: Section, group: &Group) -> Option<()> {
        let Job { zone, .. } = *self.job;
        let contents = &**zone.contents();
        let message = self.draft.message;
        if section == Section::Authority && group.rtype == rtype::SOA && self.is_for_nsec() {
            return Some(());
        }
        let mut whole = [0; LONGEST_NAME];
        let (long, _) = canon::name(message, group.start, &mut whole)?;
        self.signing.name.fill(&whole[..long]);
        let (node, skip) = contents.find(&self.signing.name);
        let there = contents.node(node);
        let pointer = self.moved(u16::from_be_bytes([message[group.start], message[group.start + 1]]) & 0x3fff)?;
        if section != Section::Answer || self.job.qtype != rtype::RRSIG {
            self.copy(section, group, pointer)?;
        }
        if section == Section::Authority && group.rtype == rtype::SOA {
            self.negative_s = group.ttl_s;
        }
        if there.cut != NOWHERE {
            let delegation = there.cut == node && skip == 0;
            if delegation && group.rtype == rtype::DS {
                return self.sign_group(section, group, (pointer, node, 0));
            }
            if delegation && group.rtype == rtype::NS && section == Section::Authority {
                return match contents.set(node, rtype::DS) {
                    Some(set) => self.delegation(set, (pointer, node)),
                    None => self.add(denial::has_not(contents, node, rtype::DS)),
                };
            }
            return Some(());
        }
        if skip > 0 {
            // What a DNAME makes follows from its own signature (RFC 6672 5.3.1).
            if contents.set(node, rtype::DNAME).is_some() || there.wildcard == NOWHERE {
                return Some(());
            }
            // What a wildcard makes is proven by there being nothing closer, for which there is no place beside addresses.
            if section == Section::Additional {
                return Some(());
            }
            let closer = denial::missing(contents, denial::next_closer(&self.signing.name, skip));
            self.add(closer)?;
        }
        self.sign_group(section, group, (pointer, node, skip))
    }

    fn add(&mut self, proof: Proof) -> Option<()> {
        let origin = self.job.zone.origin().wire();
        self.signing.proofs.add(proof, origin).then_some(())
    }

    /// Where something of the draft is now.
    fn moved(&self, at: u16) -> Option<u16> {
        if usize::from(at) < self.draft.records {
            return Some(at);
        }
        let moved = &self.signing.moved;
        let (was, is) = *moved.get(moved.partition_point(|(was, _)| *was <= at).checked_sub(1)?)?;
        Some(is + (at - was)).filter(|at| usize::from(*at) < POINTER_END)
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        append(&mut self.signing.message, &mut self.at, self.draft.limit, bytes)
    }

    /// The head of a record but its owner.
    fn head(&mut self, rtype: u16, ttl_s: u32, long: usize) -> Option<()> {
        self.put(&rtype.to_be_bytes())?;
        self.put(&class::IN.to_be_bytes())?;
        self.put(&ttl_s.to_be_bytes())?;
        self.put(&u16::try_from(long).ok()?.to_be_bytes())
    }

    fn copy(&mut self, section: Section, group: &Group, pointer: u16) -> Option<()> {
        let mut at = group.start;
        for _ in 0..group.count {
            let (.., end) = record(self.draft.message, at)?;
            // Pointers lead no further; the rest of a long message needs none.
            if self.at < POINTER_END && self.signing.moved.len() < self.signing.moved.capacity() {
                self.signing.moved.push((at as u16, self.at as u16));
            }
            self.put(&(0xc000 | pointer).to_be_bytes())?;
            self.put(&self.draft.message[at + 2..end])?;
            at = end;
        }
        self.counts[section as usize] += group.count;
        Some(())
    }

    /// Signs a group of the draft, whose name lies at or below a node.
    fn sign_group(&mut self, section: Section, group: &Group, (pointer, node, skip): (u16, u32, usize)) -> Option<()> {
        let message = self.draft.message;
        self.signing.order.clear();
        let (mut at, mut long) = (group.start, 0);
        for _ in 0..group.count {
            let (_, _, start, end) = record(message, at)?;
            let wrote = canon::data(group.rtype, message, start, end, self.signing.data.get_mut(long..)?)?;
            self.place(long, wrote)?;
            (at, long) = (end, long + wrote);
        }
        let zone = self.job.zone;
        let whole_ttl_s = match (group.rtype, zone.image(node)) {
            (rtype::SOA, _) => zone.contents().soa().ttl_s,
            (rtype::A | rtype::AAAA, Some(_)) if skip == 0 => zone.contents().pool(node)?.ttl_s,
            (rtype::A | rtype::AAAA, _) if skip > 0 => {
                let pool = zone.contents().pool(zone.contents().node(node).wildcard);
                pool.map_or(group.ttl_s, |pool| pool.ttl_s)
            }
            _ => group.ttl_s,
        };
        self.sign(section, (group.rtype, group.ttl_s, whole_ttl_s), pointer, skip, false)
    }

    /// The next record's data lie there. Bytes are in order already.
    fn place(&mut self, start: usize, long: usize) -> Option<()> {
        let order = &mut self.signing.order;
        (order.len() < order.capacity()).then(|| order.push((start as u32, long as u32)))
    }

    /// The DS records of a delegation, and their signature.
    fn delegation(&mut self, set: &Set, (pointer, node): (u16, u32)) -> Option<()> {
        let contents = &**self.job.zone.contents();
        self.signing.order.clear();
        let mut long = 0;
        let (ttl_s, _) = contents.first(set);
        for (_, data) in contents.records(set) {
            self.put(&(0xc000 | pointer).to_be_bytes())?;
            self.head(rtype::DS, ttl_s, data.len())?;
            self.put(data)?;
            self.signing.data.get_mut(long..long + data.len())?.copy_from_slice(data);
            self.place(long, data.len())?;
            long += data.len();
        }
        self.counts[Section::Authority as usize] += set.count;
        debug_assert_eq!(contents.node(node).cut, node);
        self.sign(Section::Authority, (rtype::DS, ttl_s, ttl_s), pointer, 0, false)
    }

    /// Puts the signature of the set whose data lie ready; its name is in `signing.name`, and `skip` labels of that come from a wildcard.
    fn sign(
        &mut self,
        section: Section,
        (rtype, ttl_s, whole_ttl_s): (u16, u32, u32),
        pointer: u16,
        skip: usize,
        fleeting: bool,
    ) -> Option<()> {
        let name = &self.signing.name;
        let mut owner = [0; LONGEST_NAME + 2];
        let front: &[u8] = if skip > 0 { b"\x01*" } else { &[] };
        let end = name.end(skip);
        let long = front.len() + end.len();
        owner[..front.len()].copy_from_slice(front);
        owner[front.len()..long].copy_from_slice(end);
        let stars = usize::from(skip == 0 && end.starts_with(b"\x01*"));
        let (labels, phase) = (name.labels() - skip - stars, name.hash(0) ^ u64::from(rtype));
        let owner = &owner[..long];
        self.signature(section, &Covered { rtype, ttl_s, whole_ttl_s, labels, owner, pointer, phase, fleeting })
    }

    /// Puts the signatures of what lies in `signing.data`, by all keys that sign such sets.
    fn signature(&mut self, section: Section, set: &Covered) -> Option<()> {
        let wanted = self.job.dnssec_ok || self.job.qtype == rtype::RRSIG && section == Section::Answer;
        if !wanted {
            return Some(());
        }
        let signing = &mut *self.signing;
        let data = &signing.data;
        let of = |(start, long): &(u32, u32)| data.get(*start as usize..(*start + *long) as usize).unwrap_or_default();
        signing.order.sort_unstable_by(|a, b| of(a).cmp(of(b)));
        signing.order.dedup_by(|a, b| of(a) == of(b));
        let signer = self.job.signer;
        let origin = self.job.zone.origin().wire();
        let made_s =
            self.job.unix_s.wrapping_sub(self.job.unix_s.wrapping_add((set.phase >> 24) as u32 % STEP_S) % STEP_S);
        for key in signer.signing(set.rtype) {
            let mut fixed = [0; 18];
            fixed[..2].copy_from_slice(&set.rtype.to_be_bytes());
            (fixed[2], fixed[3]) = (key.algorithm() as u8, set.labels as u8);
            fixed[4..8].copy_from_slice(&set.whole_ttl_s.to_be_bytes());
            fixed[8..12].copy_from_slice(&made_s.wrapping_add(HOLDS_S).to_be_bytes());
            fixed[12..16].copy_from_slice(&made_s.wrapping_sub(EARLIER_S).to_be_bytes());
            fixed[16..].copy_from_slice(&key.tag().to_be_bytes());
            let mut to_sign = Filled { bytes: &mut self.signing.signed, long: 0 };
            to_sign.put(&fixed)?;
            to_sign.put_lower(origin)?;
            for (start, long) in &self.signing.order {
                to_sign.put(set.owner)?;
                to_sign.put(&set.rtype.to_be_bytes())?;
                to_sign.put(&class::IN.to_be_bytes())?;
                to_sign.put(&set.whole_ttl_s.to_be_bytes())?;
                to_sign.put(&(*long as u16).to_be_bytes())?;
                to_sign.put(self.signing.data.get(*start as usize..(*start + *long) as usize)?)?;
            }
            let long = to_sign.long;
            let head = fixed.len() + origin.len();
            let mut signature = [0; SIGNATURE];
            let kept = if set.fleeting { &mut self.signing.denials } else { &mut self.signing.sets };
            let message = &self.signing.signed[..long];
            let hash = kept.hash(key, message);
            if !kept.find(hash, &mut signature) {
                if set.fleeting && self.job.udp {
                    let second = self.job.now_ms / 1000;
                    let spent = &mut self.signing.spent;
                    *spent = if spent.0 == second { (second, spent.1 + 1) } else { (second, 1) };
                    if spent.1 > DENIALS_PER_SECOND {
                        self.job.counts.add(Count::DenialsDeferred);
                        return None;
                    }
                }
                if !key.sign(message, &mut signature) {
                    return None;
                }
                self.job.counts.add(Count::Signatures);
                kept.keep(hash, &signature);
            }
            self.put(&(0xc000 | set.pointer).to_be_bytes())?;
            self.head(rtype::RRSIG, set.ttl_s, head + SIGNATURE)?;
            let Signing { message, signed, .. } = &mut *self.signing;
            append(message, &mut self.at, self.draft.limit, &signed[..head])?;
            self.put(&signature)?;
            self.counts[section as usize] += 1;
        }
        Some(())
    }

    /// The proofs of what does not exist.
    fn deny(&mut self) -> Option<()> {
        let Job { zone, found, last, qtype, .. } = *self.job;
        let contents = &**zone.contents();
        if found.negative {
            let (node, skip) = contents.find(last);
            if skip > 0 {
                self.add(denial::missing(contents, denial::next_closer(last, skip)))?;
            }
            let wildcard = contents.node(node).wildcard;
            match (found.rcode, skip) {
                (rcode::NXDOMAIN, _) => self.add(denial::no_wildcard(contents, node)?)?,
                _ if self.is_for_nsec() => {}
                (_, 0) => self.add(denial::has_not(contents, node, qtype))?,
                _ => self.add(denial::has_not(contents, wildcard, qtype))?,
            }
        }
        if !self.job.dnssec_ok {
            return Some(());
        }
        let mut at = 0;
        while let Some(proof) = self.signing.proofs.get(at).copied() {
            at += 1;
            let pointer = self.owner(proof.owner.wire())?;
            self.signing.name.fill(proof.owner.wire());
            self.nsec(Section::Authority, &proof, pointer, 0)?;
        }
        Some(())
    }

    /// Who asks for NSEC gets that of the name.
    fn asked_for_nsec(&mut self) -> Option<()> {
        if !self.is_for_nsec() {
            return Some(());
        }
        let contents = &**self.job.zone.contents();
        let (node, skip) = contents.find(self.job.last);
        let source = if skip > 0 { contents.node(node).wildcard } else { node };
        let proof = denial::has_not(contents, source, 0);
        let mut name = [0; LONGEST_NAME];
        let long = self.job.last.length();
        name[..long].copy_from_slice(self.job.last.end(0));
        let pointer = self.owner(&name[..long])?;
        self.signing.name.fill(&name[..long]);
        self.nsec(Section::Answer, &proof, pointer, skip)
    }

    /// Begins a record with a name of the zone, the origin as a pointer, and gives where it stands.
    fn owner(&mut self, name: &[u8]) -> Option<u16> {
        let at = self.at;
        let origin = self.job.zone.origin().wire();
        match name.len().checked_sub(origin.len()) {
            Some(0) if origin.len() > 1 => {
                self.put(&(0xc000 | self.draft.origin as u16).to_be_bytes())?;
                return Some(self.draft.origin as u16);
            }
            Some(own) if origin.len() > 1 => {
                self.put(&name[..own])?;
                self.put(&(0xc000 | self.draft.origin as u16).to_be_bytes())?;
            }
            _ => self.put(name)?,
        }
        Some(at as u16).filter(|_| at < POINTER_END)
    }

    /// Puts the rest of an NSEC record behind its owner, and its signature.
    fn nsec(&mut self, section: Section, proof: &Proof, pointer: u16, skip: usize) -> Option<()> {
        let next = proof.next.wire();
        self.signing.data.get_mut(..next.len())?.copy_from_slice(next);
        let types = denial::types(self.job.zone.contents(), proof, &mut self.signing.data[next.len()..])?;
        let (long, ttl_s) = (next.len() + types, self.negative_s);
        self.head(rtype::NSEC, ttl_s, long)?;
        let Signing { message, data, .. } = &mut *self.signing;
        append(message, &mut self.at, self.draft.limit, &data[..long])?;
        self.counts[section as usize] += 1;
        self.signing.order.clear();
        self.place(0, long)?;
        // Made-up owners are without number, but for those before a wildcard.
        let fleeting = proof.node == NOWHERE && !is_wildcards(proof);
        self.sign(section, (rtype::NSEC, ttl_s, ttl_s), pointer, skip, fleeting)
    }
}

/// Writes at the end of a message, which may be as long as `limit`.
fn append(message: &mut [u8], at: &mut usize, limit: usize, bytes: &[u8]) -> Option<()> {
    let end = *at + bytes.len();
    if end > limit {
        return None;
    }
    message.get_mut(*at..end)?.copy_from_slice(bytes);
    *at = end;
    Some(())
}

/// It says that there is no wildcard.
fn is_wildcards(proof: &Proof) -> bool {
    proof.next.wire().starts_with(b"\x02*\0")
}

/// Bytes of fixed room.
struct Filled<'f> {
    bytes: &'f mut [u8],
    long: usize,
}

impl Filled<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let room = self.bytes.len();
        append(self.bytes, &mut self.long, room, bytes)
    }

    fn put_lower(&mut self, bytes: &[u8]) -> Option<()> {
        let start = self.long;
        self.put(bytes)?;
        self.bytes[start..self.long].make_ascii_lowercase();
        Some(())
    }
}

const _: () = assert!(HEADER < POINTER_END && LONGEST_SIGNED > LONGEST);
