//! What a zone says of a name: the algorithm of RFC 1034 4.3.2, with wildcards (RFC 4592), DNAME (RFC 6672), and pools.

use super::counts::{Count, Counts};
use super::name::{self, LONGEST_NAME, Suffixes};
use super::pool::{Image, Rotation};
use super::reply::{Section, Targets, Writer, Written};
use super::scratch::Turns;
use super::steer::{self, Client, Witness, choose};
use super::wire::{class, rcode, rtype};
use super::zone::{Contents, NOWHERE, Zone};

/// Aliases followed in one answer. Circles of CNAMEs are found when the zone is read; those through wildcards and DNAMEs end here.
const MOST_ALIASES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Answer,
    Nodata,
    Nxdomain,
    Referral,
    Error,
}

/// What has been found and written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub rcode: u16,
    pub kind: Kind,
    pub authoritative: bool,
    /// Something that must go along did not fit.
    pub truncated: bool,
    /// The node that it comes from: answers from one node are like each other.
    pub node: u32,
    /// The slot of the pool whose addresses are in the answer section.
    pub pool: Option<u16>,
    /// The SOA has been written: there is nothing at the name last looked for.
    pub negative: bool,
    /// That name is what an alias has led to, not the question's.
    pub chased: bool,
    /// For how many bits of the client's address the answer holds; 0: it does not depend on that.
    pub scope: u8,
}

impl Found {
    /// Nothing of a zone's.
    pub fn other(rcode: u16, kind: Kind) -> Found {
        let (authoritative, truncated, negative, chased) = (false, false, false, false);
        Found { rcode, kind, authoritative, truncated, node: 0, pool: None, negative, chased, scope: 0 }
    }
}

/// What a thread lends for one query.
pub(super) struct Tools<'s> {
    pub asked: &'s Suffixes,
    pub chased: &'s mut Suffixes,
    pub targets: &'s mut Targets,
    pub turns: &'s mut Turns,
    pub client: &'s Client<'s>,
    pub counts: &'s Counts,
}

/// Looks the question's name up in the zone that it lies in, and writes all sections.
pub(super) fn resolve(zone: &Zone, qtype: u16, tools: Tools, writer: &mut Writer) -> Found {
    let Tools { asked, chased, targets, turns, client, counts } = tools;
    let contents = &**zone.contents();
    let mut search = Search { zone, contents, qtype, targets, turns, client, counts, scope: 0, writer };
    search.targets.clear();
    let mut name = search.writer.question_name();
    let mut found = Found { authoritative: true, ..Found::other(rcode::NOERROR, Kind::Answer) };
    for hop in 0..=MOST_ALIASES {
        let current = if hop == 0 { asked } else { &*chased };
        let (node, skip) = contents.find(current);
        found.chased = hop > 0;
        if hop == 0 {
            found.node = node;
        }
        let there = contents.node(node);
        // The delegation's own DS records are on this side of it (RFC 4035 3.1.4.1).
        if there.cut != NOWHERE && !(qtype == rtype::DS && skip == 0 && there.cut == node) {
            (found.authoritative, found.kind) = (hop > 0, if hop > 0 { Kind::Answer } else { Kind::Referral });
            found.node = if hop == 0 { there.cut } else { found.node };
            let owner = search.writer.end_of(name, current.length() - contents.name(there.cut).len());
            found.truncated = !search.refer(there.cut, owner);
            return found;
        }
        let mut source = node;
        if skip > 0 {
            if contents.set(node, rtype::DNAME).is_some() {
                let mut target = [0; LONGEST_NAME];
                match search.redirect(node, name, current, &mut target) {
                    Redirect::Full => found.truncated = true,
                    Redirect::TooLong => found.rcode = rcode::YXDOMAIN,
                    Redirect::To(next, long) => {
                        if qtype != rtype::CNAME && name::is_in(&target[..long], contents.origin().wire()) {
                            (name, found.rcode) = (next, rcode::NOERROR);
                            chased.fill(&target[..long]);
                            continue;
                        }
                    }
                }
                return found;
            }
            if there.wildcard == NOWHERE {
                (found.rcode, found.kind) = (rcode::NXDOMAIN, if hop > 0 { Kind::Answer } else { Kind::Nxdomain });
                (found.truncated, found.negative) = (!search.negative(u32::MAX), true);
                return found;
            }
            source = there.wildcard;
        }
        if hop == 0 {
            found.node = source;
        }
        match search.node(source, search.writer.end_of(name, 0)) {
            Step::Done(pool) => (found.pool, found.scope) = (pool, search.scope),
            Step::Nothing(ttl_s) => {
                found.kind = if hop > 0 { Kind::Answer } else { Kind::Nodata };
                (found.truncated, found.negative) = (!search.negative(ttl_s), true);
            }
            Step::Full => found.truncated = true,
            Step::Alias(next, target) => {
                if name::is_in(target, contents.origin().wire()) {
                    name = next;
                    chased.fill(target);
                    continue;
                }
            }
        }
        return found;
    }
    found
}

struct Search<'s, 'o> {
    zone: &'s Zone,
    contents: &'s Contents,
    qtype: u16,
    targets: &'s mut Targets,
    turns: &'s mut Turns,
    client: &'s Client<'s>,
    counts: &'s Counts,
    /// As [`Found::scope`].
    scope: u8,
    writer: &'s mut Writer<'o>,
}

/// Counts what the store knew.
struct Tallied<'c>(&'c Counts);

impl Witness for Tallied<'_> {
    #[inline]
    fn see(&mut self, step: steer::Step) {
        match step {
            steer::Step::Remembered(_) | steer::Step::OtherFamily(_) => self.0.add(Count::StoreHits),
            steer::Step::NotRemembered => self.0.add(Count::StoreMisses),
            _ => {}
        }
    }
}

/// What a node says.
enum Step<'s> {
    /// It is written; with a pool's slot, if the addresses are a pool's.
    Done(Option<u16>),
    /// There is nothing of the type, which may be remembered for so long at most.
    Nothing(u32),
    Full,
    /// The alias is written; it leads to this name.
    Alias(Written, &'s [u8]),
}

enum Redirect {
    Full,
    /// The name would be longer than names are.
    TooLong,
    /// The CNAME made for it is written; its target has so many bytes.
    To(Written, usize),
}

impl<'s> Search<'s, '_> {
    /// What a node has, for an owner that stands at `owner`.
    fn node(&mut self, node: u32, owner: usize) -> Step<'s> {
        let contents = self.contents;
        let mut qtype = self.qtype;
        if qtype == rtype::ANY || qtype == rtype::RRSIG && contents.signer().is_some() {
            // One set of those that there are (RFC 8482 4.1).
            let set = contents.sets(node).first().map(|set| set.rtype);
            qtype = match (node, self.zone.image(node), set) {
                (0, ..) => rtype::SOA,
                (_, Some(image), set) => {
                    let has = |qtype: &u16| image.rotation(*qtype).is_some_and(|rotation| rotation.len() > 0);
                    [rtype::A, rtype::AAAA].into_iter().find(has).or(set).unwrap_or(rtype::A)
                }
                (.., set) => set.unwrap_or(rtype::A),
            };
        }
        if let Some(image) = self.zone.image(node)
            && let Some(rotation) = image.rotation(qtype)
        {
            let pool = image.pool();
            if rotation.len() == 0 {
                return Step::Nothing(pool.ttl_s);
            }
            let turn = self.turns.take(pool.slot, qtype);
            let fits = if pool.plan.is_none() {
                self.writer.addresses(Section::Answer, owner, rotation, turn)
            } else {
                self.steered(Section::Answer, owner, (image, qtype), turn)
            };
            return if fits { Step::Done(Some(pool.slot)) } else { Step::Full };
        }
        if qtype == rtype::SOA && node == 0 {
            let soa = contents.soa();
            let fits = self.writer.soa(Section::Answer, soa, self.zone.serial(), soa.ttl_s);
            return if fits { Step::Done(None) } else { Step::Full };
        }
        if let Some(set) = contents.set(node, qtype) {
            if self.writer.set(Section::Answer, owner, contents, set, self.targets).is_none() {
                return Step::Full;
            }
            self.additional(NOWHERE);
            return Step::Done(None);
        }
        // NSEC records stand beside an alias, and are made later.
        let made = || qtype == rtype::NSEC && contents.signer().is_some();
        let Some(alias) = contents.set(node, rtype::CNAME).filter(|_| !made()) else {
            return Step::Nothing(u32::MAX);
        };
        match self.writer.set(Section::Answer, owner, contents, alias, self.targets) {
            Some(next) => Step::Alias(next, contents.first(alias).1),
            None => Step::Full,
        }
    }

    /// The addresses of the site that is chosen for who asks. False: there is no room.
    #[inline(never)]
    fn steered(&mut self, section: Section, owner: usize, (image, qtype): (&Image, u16), turn: u32) -> bool {
        let (rotation, turn) = self.chosen(section, image, qtype, turn);
        rotation.is_none_or(|rotation| self.writer.addresses(section, owner, rotation, turn))
    }

    fn chosen<'i>(&mut self, section: Section, image: &'i Image, qtype: u16, turn: u32) -> (Option<&'i Rotation>, u32) {
        let whole = (image.rotation(qtype), turn);
        let Some((plan, sites)) = image.sites() else { return whole };
        let Some(family) = sites.family(qtype) else { return whole };
        // Only what is in the answer section may depend on the client's network (RFC 7871 7.3.1).
        let asker = self.client.asker(plan.client_subnet && section == Section::Answer);
        if section == Section::Answer {
            self.scope = asker.scope;
        }
        let (site, turn) = choose(plan, family, sites.up(), &asker, (self.client, turn), &mut Tallied(self.counts));
        (family.rotation(site), turn)
    }

    /// Names another zone's servers. False: they, or the addresses without which they cannot be found (RFC 9471), do not fit.
    fn refer(&mut self, cut: u32, owner: usize) -> bool {
        let Some(servers) = self.contents.set(cut, rtype::NS) else { return true };
        self.writer.set(Section::Authority, owner, self.contents, servers, self.targets).is_some()
            && self.additional(cut)
    }

    /// The addresses of names that have been written: in a referral first those at or below the delegation `cut`, and false
    /// if these do not fit. Others are left out where there is no room (RFC 2181 9).
    fn additional(&mut self, cut: u32) -> bool {
        let contents = self.contents;
        for glue in [true, false] {
            let mut at = 0;
            while let Some((node, name)) = self.targets.get(at) {
                at += 1;
                let under = contents.node(node).cut;
                // Below other delegations there is glue too (RFC 9471 2.2), but outside of a referral that is not this zone's to tell.
                if glue != (under != NOWHERE && under == cut) || under != NOWHERE && cut == NOWHERE {
                    continue;
                }
                let owner = self.writer.end_of(name, 0);
                if let Some(image) = self.zone.image(node) {
                    for qtype in [rtype::A, rtype::AAAA] {
                        let Some(rotation) = image.rotation(qtype) else { continue };
                        let turn = self.turns.take(image.pool().slot, qtype);
                        if image.pool().plan.is_none() {
                            self.writer.addresses(Section::Additional, owner, rotation, turn);
                        } else {
                            self.steered(Section::Additional, owner, (image, qtype), turn);
                        }
                    }
                }
                for qtype in [rtype::A, rtype::AAAA] {
                    let Some(set) = contents.set(node, qtype) else { continue };
                    let fits = self.writer.set(Section::Additional, owner, contents, set, self.targets).is_some();
                    if !fits && glue {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// The SOA, by which it is known how long there is nothing (RFC 2308 3). False: it does not fit.
    fn negative(&mut self, most_s: u32) -> bool {
        let soa = self.contents.soa();
        self.writer.soa(Section::Authority, soa, self.zone.serial(), soa.negative_ttl_s().min(most_s))
    }

    /// Writes the DNAME at a node above the name, and the CNAME that follows from it; `target` gets the name that leads to.
    fn redirect(&mut self, node: u32, name: Written, current: &Suffixes, target: &mut [u8; LONGEST_NAME]) -> Redirect {
        let contents = self.contents;
        let Some(set) = contents.set(node, rtype::DNAME) else { return Redirect::Full };
        let front = current.length() - contents.name(node).len();
        let owner = self.writer.end_of(name, front);
        // A name may lead below it once more: no set stands in an answer twice.
        if self.targets.redirects(node)
            && self.writer.set(Section::Answer, owner, contents, set, self.targets).is_none()
        {
            return Redirect::Full;
        }
        let (ttl_s, other) = contents.first(set);
        let long = front + other.len();
        if long > LONGEST_NAME {
            return Redirect::TooLong;
        }
        target[..front].copy_from_slice(&current.end(0)[..front]);
        target[front..long].copy_from_slice(other);
        let fixed = (rtype::CNAME, class::IN, ttl_s);
        match self.writer.record(self.writer.end_of(name, 0), fixed, (&target[..front], other)) {
            Some(at) => Redirect::To(Written { at, own: usize::MAX }, long),
            None => Redirect::Full,
        }
    }
}
