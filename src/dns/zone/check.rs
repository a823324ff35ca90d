//! What must hold for a zone as a whole.

use super::super::name;
use super::super::wire::rtype;
use super::build::{Fault, MOST_FAULTS, Place, Places};
use super::{Contents, NOWHERE, Set};
use domain::base::iana::Rtype;

/// The most bytes of a set: more do not fit into a message.
const LARGEST_SET: u32 = 65_000;

pub(super) fn check(contents: &Contents, places: &Places, faults: &mut Vec<Fault>) {
    let mut check = Check { contents, places, faults };
    if contents.set(0, rtype::NS).is_none() {
        let message = format!("the zone {} has no NS record", contents.origin);
        check.wrong(None, message, "it needs the names of its servers at `@`, as they are registered at the parent");
    }
    for node in 0..contents.nodes.len() as u32 {
        check.node(node);
        if check.faults.len() >= MOST_FAULTS {
            break;
        }
    }
}

/// As people know it.
pub(in crate::dns) fn type_name(rtype: u16) -> String {
    Rtype::from_int(rtype).to_string()
}

struct Check<'c> {
    contents: &'c Contents,
    places: &'c Places<'c>,
    faults: &'c mut Vec<Fault>,
}

impl Check<'_> {
    fn wrong(&mut self, place: Option<Place>, message: String, help: impl Into<String>) {
        self.collides(place, message, help, None);
    }

    fn collides(
        &mut self,
        place: Option<Place>,
        message: String,
        help: impl Into<String>,
        other: Option<(Option<Place>, &'static str)>,
    ) {
        let other = other.and_then(|(place, label)| Some((place?, label)));
        self.faults.push(Fault { place, message, help: help.into(), other });
    }

    /// The place of a set's first record.
    fn place(&self, set: usize) -> Option<Place> {
        self.places.of(set, 0)
    }

    fn node(&mut self, node: u32) {
        let contents = self.contents;
        let first = contents.node(node).sets as usize;
        let owner = || name::text(contents.name(node));
        let by_type = |rtype: u16| contents.sets(node).iter().position(|set| set.rtype == rtype).map(|at| first + at);
        let wildcard = contents.name(node).starts_with(b"\x01*");
        for (at, set) in contents.sets(node).iter().enumerate() {
            self.set(node, first + at, set);
        }
        for (rtype, why) in
            [(rtype::CNAME, "the name is an alias for another one"), (rtype::DNAME, "two cannot both hold")]
        {
            if let Some(at) = by_type(rtype).filter(|at| contents.sets[*at].count > 1) {
                let message = format!("{} has more than one {}", owner(), type_name(rtype));
                self.collides(self.places.of(at, 1), message, why, Some((self.place(at), "the first one")));
            }
        }
        if let Some(alias) = by_type(rtype::CNAME) {
            if let Some(other) = (first..first + contents.sets(node).len()).find(|at| *at != alias) {
                let other = self.place(other);
                let message = format!("{} is a CNAME and has other records too", owner());
                let help = "an alias has nothing beside it (RFC 2181 10.1): take one of them away";
                self.collides(self.place(alias), message, help, Some((other, "the other record")));
            } else if node == 0 {
                self.wrong(
                    self.place(alias),
                    "the zone's own name cannot be a CNAME".into(),
                    "it has SOA and NS already",
                );
            }
            self.circle(node, alias);
        }
        self.pool(node, first);
        self.delegation(node, first, wildcard);
        if let Some(redirect) = by_type(rtype::DNAME) {
            let below = contents.nodes.get(node as usize + 1).is_some()
                && name::is_in(contents.name(node + 1), contents.name(node));
            if below {
                let sets = contents.node(node + 1).sets as usize;
                let other = (!contents.sets(node + 1).is_empty()).then(|| (self.place(sets), "a name below it"));
                let message = format!("there are names below {}, which is a DNAME", owner());
                self.collides(self.place(redirect), message, "all below it is elsewhere (RFC 6672 2.4)", other);
            }
            if wildcard {
                self.wrong(
                    self.place(redirect),
                    "a wildcard cannot be a DNAME".into(),
                    "write it at a name (RFC 4592 4.4)",
                );
            }
        }
    }

    /// One set by itself.
    fn set(&mut self, node: u32, at: usize, set: &Set) {
        let contents = self.contents;
        let what = || format!("{} {}", name::text(contents.name(node)), type_name(set.rtype));
        if set.length > LARGEST_SET {
            let message = format!("{} has {} bytes of records, more than fit into an answer", what(), set.length);
            self.wrong(self.place(at), message, "");
        }
        let mut had: Option<&[u8]> = None;
        for (record, (_, data)) in contents.records(set).enumerate() {
            let place = self.places.of(at, record);
            if had == Some(data) {
                let first = self.places.of(at, record - 1);
                self.collides(place, format!("{} says the same twice", what()), "", Some((first, "the first time")));
            }
            had = Some(data);
            if self.places.ttl_s(at, record) != self.places.ttl_s(at, 0) {
                let (one, other) = (self.places.ttl_s(at, 0), self.places.ttl_s(at, record));
                let message = format!("the records of {} have different TTLs, {one} and {other}", what());
                let help = "all records of a name and type have the same (RFC 2181 5.2)";
                self.collides(place, message, help, Some((self.place(at), "the first one")));
                break;
            }
        }
        if set.rtype == rtype::SOA {
            let message =
                format!("a SOA record stands at the zone's own name, not at {}", name::text(contents.name(node)));
            self.wrong(self.place(at), message, "");
        }
        if matches!(set.rtype, rtype::NS | rtype::MX | rtype::SRV) {
            for (record, (_, data)) in contents.records(set).enumerate() {
                let tail = usize::from(contents.marks(set)[record].tail);
                self.target(node, set.rtype, &data[tail..], self.places.of(at, record));
            }
        }
    }

    /// What NS, MX and SRV point to has addresses, as far as this zone says.
    fn target(&mut self, node: u32, rtype: u16, target: &[u8], place: Option<Place>) {
        let contents = self.contents;
        let (kind, text) = (type_name(rtype), name::text(target));
        let numbers = text.split('.').take(4).filter(|label| label.parse::<u8>().is_ok()).count() == 4;
        if numbers {
            let message = format!("{kind} needs a name, not an address");
            return self.wrong(place, message, "give the address a name of its own, by an A record");
        }
        if !name::is_in(target, contents.origin.wire()) || contents.node(node).cut != NOWHERE && rtype != rtype::NS {
            return;
        }
        let mut suffixes = name::Suffixes::new();
        suffixes.fill(target);
        let (found, skip) = contents.find(&suffixes);
        let cut = contents.node(found).cut;
        if cut != NOWHERE {
            // Another server's names; what is needed of them here is glue.
            let own = cut == node && rtype == rtype::NS;
            if own && (skip > 0 || !self.has_addresses(found)) {
                let message = format!("{text} has no address here, and can only be asked for its own");
                let help = format!("the delegation needs glue: an A or AAAA record of {text} in this zone");
                self.wrong(place, message, help);
            }
            return;
        }
        let found = if skip == 0 { found } else { contents.node(found).wildcard };
        if found != NOWHERE && self.has_addresses(found) || skip > 0 && self.redirected(&suffixes) {
            return;
        }
        if found != NOWHERE && contents.set(found, rtype::CNAME).is_some() {
            let message = format!("{kind} points to {text}, which is a CNAME");
            return self.wrong(place, message, "it must point to a name that has addresses itself (RFC 2181 10.3)");
        }
        let message = format!("{kind} points to {text}, which has no address");
        let origin = contents.origin.to_string();
        let twice = format!("{}{origin}", if origin == "." { "" } else { &origin });
        let help = if text.to_ascii_lowercase().ends_with(&twice.to_ascii_lowercase()) && origin != "." {
            "a name that does not end in a dot goes on with the origin: is the last dot missing?".to_owned()
        } else {
            format!("add an A or AAAA record of {text}")
        };
        self.wrong(place, message, help);
    }

    fn redirected(&self, name: &name::Suffixes) -> bool {
        self.contents.set(self.contents.find(name).0, rtype::DNAME).is_some()
    }

    fn has_addresses(&self, node: u32) -> bool {
        let contents = self.contents;
        contents.node(node).pool != NOWHERE
            || [rtype::A, rtype::AAAA].iter().any(|rtype| contents.set(node, *rtype).is_some())
    }

    /// An alias that leads back to itself.
    fn circle(&mut self, node: u32, alias: usize) {
        let contents = self.contents;
        let mut suffixes = name::Suffixes::new();
        let mut at = node;
        // Told once, at the circle's first name.
        for _ in 0..64 {
            let Some(set) = contents.set(at, rtype::CNAME) else { return };
            let target = contents.first(set).1;
            if !name::is_in(target, contents.origin.wire()) {
                return;
            }
            suffixes.fill(target);
            let (next, 0) = contents.find(&suffixes) else { return };
            if next == node {
                let message = format!("the CNAME at {} leads back to itself", name::text(contents.name(node)));
                return self.wrong(self.place(alias), message, "");
            }
            if next < node {
                return;
            }
            at = next;
        }
    }

    /// A pool's name has no addresses of its own.
    fn pool(&mut self, node: u32, first: usize) {
        let contents = self.contents;
        let Some(pool) = contents.pools.get(contents.node(node).pool as usize) else { return };
        let owner = name::text(contents.name(node));
        for (at, set) in contents.sets(node).iter().enumerate() {
            if matches!(set.rtype, rtype::A | rtype::AAAA | rtype::CNAME) {
                let message = format!("the addresses of {owner} are those of the pool `{}`", pool.name);
                let help = format!("take this {} away, or the name out of the pool's `names`", type_name(set.rtype));
                self.wrong(self.place(first + at), message, help);
            }
        }
        let cut = contents.node(node).cut;
        if cut != NOWHERE {
            let place = self.place(contents.node(cut).sets as usize);
            let message = format!("the pool `{}` has the name {owner}, which is delegated to other servers", pool.name);
            self.wrong(place, message, "take the delegation away, or the name out of the pool's `names`");
        }
    }

    /// What may stand at a delegation and below it.
    fn delegation(&mut self, node: u32, first: usize, wildcard: bool) {
        let contents = self.contents;
        let cut = contents.node(node).cut;
        for (at, set) in contents.sets(node).iter().enumerate() {
            let place = self.place(first + at);
            let (owner, kind) = (name::text(contents.name(node)), type_name(set.rtype));
            if set.rtype == rtype::DS && (cut != node || node == 0) {
                let help = "DS records stand beside the NS records of a delegation, and a zone's own at its parent";
                self.wrong(place, format!("{owner} has a DS record and is no delegation"), help);
                continue;
            }
            if set.rtype == rtype::NS && wildcard {
                self.wrong(place, "a wildcard cannot be delegated".into(), "write the names out (RFC 4592 4.2)");
                continue;
            }
            let glue = matches!(set.rtype, rtype::A | rtype::AAAA);
            let fits = glue || cut == node && matches!(set.rtype, rtype::NS | rtype::DS);
            if cut != NOWHERE && !fits && !(cut == node && set.rtype == rtype::CNAME) {
                let top = name::text(contents.name(cut));
                let message = format!("{owner} {kind} is never answered: {top} is delegated to other servers");
                let other = contents.sets(cut).iter().position(|set| set.rtype == rtype::NS);
                let other = other.map(|at| (self.place(contents.node(cut).sets as usize + at), "the delegation"));
                self.collides(
                    place,
                    message,
                    "it belongs into their zone; only addresses of name servers stand here",
                    other,
                );
            }
        }
    }
}
