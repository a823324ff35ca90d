//! Signed answers, looked at as a validator does (RFC 4035 5), by another crate's reading of records and canonical forms.

use super::*;
use crate::dns::dnssec::{Algorithm, Key, Signer};
use crate::dns::zone::build::in_order;
use domain::base::name::ToName;
use domain::base::record::Record as DomainRecord;
use domain::base::{CanonicalOrd, Rtype as Type, Ttl};
use domain::rdata::{Nsec, Rrsig};
use proptest::prelude::*;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use std::collections::BTreeMap;

type Text = DomainName<Vec<u8>>;
type Data = AllRecordData<bytes::Bytes, domain::base::ParsedName<bytes::Bytes>>;
type Found = DomainRecord<domain::base::ParsedName<bytes::Bytes>, Data>;
type Denial = Nsec<bytes::Bytes, domain::base::ParsedName<bytes::Bytes>>;
type Signature = Rrsig<bytes::Bytes, domain::base::ParsedName<bytes::Bytes>>;

/// The time of all labs.
const NOW_S: u32 = 1_800_000_000;

fn name(text: &str) -> Text {
    Text::from_octets(Name::parse(text).unwrap().wire().to_vec()).unwrap()
}

fn signer(algorithms: &[Algorithm]) -> Arc<Signer> {
    let keys = algorithms.iter().map(|algorithm| Key::generate(*algorithm).unwrap().0).collect();
    Arc::new(Signer::new(keys).unwrap())
}

fn signed(origin: &str, text: &str, pools: &[Arc<Pool>], signer: &Arc<Signer>) -> Contents {
    let mut read = |_: &Path| Ok(text.as_bytes().to_vec());
    master::load_signed(&Name::parse(origin).unwrap(), Path::new("zone"), pools, Some(signer), &mut read)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// What a validator knows: the zone's name and its keys.
struct Validator {
    origin: Text,
    signer: Arc<Signer>,
}

/// What a validator finds.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Records of the type asked for, or an alias that leads elsewhere.
    Answer,
    Nodata,
    Nxdomain,
    /// Delegated, with or without a DS record.
    Secure,
    Insecure,
}

struct Sections {
    rcode: u8,
    all: [Vec<Found>; 3],
}

fn sections(message: &[u8]) -> Sections {
    let message = Message::from_octets(bytes::Bytes::copy_from_slice(message)).unwrap();
    let (_, answer, authority, additional) = message.sections().unwrap();
    let read = |section: domain::base::message::RecordSection<bytes::Bytes>| -> Vec<Found> {
        let records = section.map(|record| record.unwrap().into_record::<Data>().unwrap().unwrap());
        records.filter(|record| record.rtype() != Type::OPT).collect()
    };
    assert!(!message.header().tc());
    Sections { rcode: message.header().rcode().to_int(), all: [read(answer), read(authority), read(additional)] }
}

fn labels(name: &impl ToName) -> usize {
    name.iter_labels().count() - 1
}

/// The name without its first labels.
fn without(name: &Text, skip: usize) -> Text {
    name.iter_suffixes().nth(skip).unwrap().to_vec()
}

fn star(name: &Text) -> Text {
    Text::from_octets([b"\x01*", name.as_slice()].concat()).unwrap()
}

impl Validator {
    /// The set's signature is right by every key that is to sign it; whether it was made by a wildcard.
    fn signed(&self, set: &[&Found], signatures: &[&Signature]) -> Result<bool, String> {
        let first = set[0];
        let what = format!("{} {}", first.owner(), first.rtype());
        let mut wild = false;
        for key in self.signer.keys() {
            let signature = signatures.iter().find(|signature| {
                signature.key_tag() == key.tag() && signature.algorithm().to_int() == key.algorithm() as u8
            });
            let signature = signature.ok_or(format!("{what} has no signature by {}", key.tag()))?;
            let now = i64::from(NOW_S);
            let (from, to) =
                (i64::from(signature.inception().into_int()), i64::from(signature.expiration().into_int()));
            assert!(
                from <= now - 3600 && to >= now + 13 * 86400 && to <= now + 14 * 86400,
                "{what}: {from} {now} {to}"
            );
            assert!(signature.signer_name().name_eq(&self.origin));
            assert!(signature.original_ttl() >= first.ttl(), "{what}");
            let count = usize::from(signature.labels());
            let owner: Text = first.owner().to_vec();
            let own = labels(&owner) - usize::from(owner.as_slice().starts_with(b"\x01*"));
            if count > own {
                return Err(format!("{what}: more labels signed than there are"));
            }
            wild = count < own;
            let owner = if wild { star(&without(&owner, labels(&owner) - count)) } else { owner };
            let mut message = Vec::new();
            let mut fixed = signature.type_covered().to_int().to_be_bytes().to_vec();
            fixed.extend_from_slice(&[signature.algorithm().to_int(), signature.labels()]);
            fixed.extend_from_slice(&signature.original_ttl().as_secs().to_be_bytes());
            fixed.extend_from_slice(&signature.expiration().into_int().to_be_bytes());
            fixed.extend_from_slice(&signature.inception().into_int().to_be_bytes());
            fixed.extend_from_slice(&signature.key_tag().to_be_bytes());
            message.extend_from_slice(&fixed);
            signature.signer_name().compose_canonical(&mut message).unwrap();
            let mut sorted: Vec<&&Found> = set.iter().collect();
            sorted.sort_by(|a, b| a.data().canonical_cmp(b.data()));
            for record in sorted {
                let record = DomainRecord::new(&owner, record.class(), signature.original_ttl(), record.data());
                record.compose_canonical(&mut message).unwrap();
            }
            let (right, public) = match key.algorithm() {
                Algorithm::Ecdsap256 => {
                    let public = [&[4], key.public()].concat();
                    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &public);
                    (key.verify(&message, signature.signature()).is_ok(), public)
                }
                Algorithm::Ed25519 => {
                    let key = UnparsedPublicKey::new(&ED25519, key.public());
                    (key.verify(&message, signature.signature()).is_ok(), Vec::new())
                }
            };
            if !right {
                return Err(format!("{what}: the signature is wrong ({} bytes of key)", public.len()));
            }
        }
        Ok(wild)
    }

    /// RFC 4035 5.4, and what follows from the whole message for the question.
    fn verdict(&self, question: &str, qtype: &str, message: &[u8]) -> Result<Verdict, String> {
        let seen = sections(message);
        let asked_type: Type = qtype.parse().unwrap();
        let mut denials: Vec<(Text, Denial)> = Vec::new();
        let mut wild: Vec<(Text, usize)> = Vec::new();
        let mut delegated: Option<(Text, bool)> = None;
        for (number, section) in seen.all.iter().enumerate() {
            let mut sets: BTreeMap<(Vec<u8>, u16), Vec<&Found>> = BTreeMap::new();
            let mut signatures: BTreeMap<(Vec<u8>, u16), Vec<&Signature>> = BTreeMap::new();
            for record in section {
                let mut owner: Text = record.owner().to_vec();
                owner.make_canonical();
                match record.data() {
                    AllRecordData::Rrsig(signature) => {
                        let key = (owner.into_octets(), signature.type_covered().to_int());
                        signatures.entry(key).or_default().push(signature);
                    }
                    _ => sets.entry((owner.into_octets(), record.rtype().to_int())).or_default().push(record),
                }
            }
            let redirects: Vec<Text> = sets
                .iter()
                .filter(|((_, rtype), _)| *rtype == Type::DNAME.to_int())
                .map(|((owner, _), _)| Text::from_octets(owner.clone()).unwrap())
                .collect();
            for ((owner, rtype), set) in &sets {
                let (owner, rtype) = (Text::from_octets(owner.clone()).unwrap(), Type::from_int(*rtype));
                let own = signatures.remove(&(owner.as_slice().to_vec(), rtype.to_int())).unwrap_or_default();
                let made = rtype == Type::CNAME
                    && redirects.iter().any(|above| owner.ends_with(above) && !owner.name_eq(above));
                let delegation = number == 1 && rtype == Type::NS && !owner.name_eq(&self.origin);
                if delegation {
                    delegated = Some((owner.clone(), sets.contains_key(&(owner.as_slice().to_vec(), 43))));
                }
                if delegation || made || number == 2 && own.is_empty() {
                    assert!(own.is_empty(), "{owner} {rtype} is signed and must not be");
                    continue;
                }
                if self.signed(set, &own)? {
                    assert_eq!(number, 0, "{owner} {rtype}");
                    wild.push((owner.clone(), usize::from(own[0].labels())));
                }
                if let (AllRecordData::Nsec(denial), 1) = (set[0].data(), number) {
                    assert_eq!(set.len(), 1, "{owner} has two NSEC records");
                    denials.push((owner, denial.clone()));
                }
            }
            assert!(signatures.is_empty(), "signatures without what they sign: {signatures:?}");
        }
        let covers = |name: &Text| {
            denials.iter().any(|(owner, denial)| {
                let (after, next): (_, Text) = (owner.canonical_cmp(name).is_lt(), denial.next_name().to_vec());
                let below =
                    denial.types().contains(Type::NS) && !denial.types().contains(Type::SOA) && name.ends_with(owner);
                after && !below && (name.canonical_cmp(&next).is_lt() || next.name_eq(&self.origin))
            })
        };
        for (owner, count) in &wild {
            let closer = without(owner, labels(owner) - count - 1);
            if !covers(&closer) {
                return Err(format!("{owner} comes from a wildcard, and nothing says that {closer} does not exist"));
            }
        }
        // Where the aliases lead to.
        let mut last = name(question);
        let mut had = false;
        loop {
            let of = |rtype: Type| {
                seen.all[0].iter().find(|record| record.owner().name_eq(&last) && record.rtype() == rtype)
            };
            if of(asked_type).is_some()
                || asked_type == Type::ANY && seen.all[0].iter().any(|r| r.owner().name_eq(&last))
            {
                return Ok(Verdict::Answer);
            }
            let Some(AllRecordData::Cname(alias)) = of(Type::CNAME).map(|record| record.data()) else { break };
            (last, had) = (alias.cname().to_vec(), true);
            if !last.ends_with(&self.origin) {
                return Ok(Verdict::Answer);
            }
        }
        if let Some((cut, secure)) = delegated {
            assert!(last.ends_with(&cut));
            let denied = denials.iter().any(|(owner, denial)| {
                let has = |rtype| denial.types().contains(rtype);
                owner.name_eq(&cut) && has(Type::NS) && !has(Type::DS) && !has(Type::SOA)
            });
            return match (secure, denied) {
                (true, false) => Ok(Verdict::Secure),
                (false, true) => Ok(Verdict::Insecure),
                _ => Err(format!("the delegation of {cut} is not proven")),
            };
        }
        let exact = |name: &Text| denials.iter().find(|(owner, _)| owner.name_eq(name)).map(|(_, denial)| denial);
        let lacks = |denial: &Denial| !denial.types().contains(asked_type) && !denial.types().contains(Type::CNAME);
        // The closest name that there is, as the denials say.
        let common = |other: &Text| last.iter_suffixes().find(|end| other.ends_with(end)).map_or(0, |end| labels(&end));
        let encloser = |last: &Text| {
            let near = denials.iter().filter(|(owner, denial)| {
                let next: Text = denial.next_name().to_vec();
                owner.canonical_cmp(last).is_lt() && (last.canonical_cmp(&next).is_lt() || next.name_eq(&self.origin))
            });
            let count = near.map(|(owner, denial)| common(owner).max(common(&denial.next_name().to_vec()))).max();
            count.map(|count| without(last, labels(last) - count))
        };
        match seen.rcode {
            0 => {
                if let Some(denial) = exact(&last) {
                    return if lacks(denial) {
                        Ok(Verdict::Nodata)
                    } else {
                        Err(format!("{last} has {asked_type} or an alias"))
                    };
                }
                let above = encloser(&last).ok_or(format!("nothing says that {last} does not exist"))?;
                match exact(&star(&above)) {
                    Some(denial) if lacks(denial) => Ok(Verdict::Nodata),
                    _ => Err(format!("nothing says what the wildcard below {above} has not ({had})")),
                }
            }
            3 => {
                let above = encloser(&last).ok_or(format!("nothing says that {last} does not exist"))?;
                match covers(&last) && covers(&star(&above)) {
                    true => Ok(Verdict::Nxdomain),
                    false => Err(format!("nothing says that there is no wildcard below {above}")),
                }
            }
            other => Err(format!("code {other}")),
        }
    }
}

/// A lab whose zone is signed, and who checks it.
struct Signed {
    lab: Lab,
    validator: Validator,
}

impl Signed {
    fn new(text: &str, pools: &[Arc<Pool>], algorithms: &[Algorithm]) -> Signed {
        let signer = signer(algorithms);
        let origin = "company.example.";
        let lab = Lab::of(vec![signed(origin, text, pools, &signer)], pools, Settings::default());
        Signed { lab, validator: Validator { origin: name(origin), signer } }
    }

    fn ask(&mut self, question: &str, qtype: &str) -> Vec<u8> {
        let message = edns(query(question, qtype), 1232, 0x8000, &[]);
        self.lab.send(&message, Transport::Tcp).1
    }

    #[track_caller]
    fn verdict(&mut self, question: &str, qtype: &str) -> Verdict {
        let answer = self.ask(question, qtype);
        let verdict = self.validator.verdict(question, qtype, &answer);
        verdict.unwrap_or_else(|why| panic!("{question} {qtype}: {why}\n{}", show(&answer)))
    }
}

fn pool(names: &[&str]) -> Arc<Pool> {
    let member = |n: u8| Member { name: n.to_string(), addresses: vec![[203, 0, 113, n].into()], weight: 1 };
    let mut members: Vec<Member> = (10..13).map(member).collect();
    members[2].addresses = vec!["2001:db8::12".parse().unwrap()];
    let names = names.iter().map(|name| Name::parse(name).unwrap()).collect();
    let when_down = WhenDown::None;
    Arc::new(Pool {
        name: "p".into(),
        slot: 0,
        names,
        ttl_s: 30,
        max_answers: 1,
        min_up: 1,
        when_down,
        members,
        plan: None,
    })
}

const BOTH: [Algorithm; 2] = [Algorithm::Ecdsap256, Algorithm::Ed25519];

#[test]
fn every_kind_of_answer_holds_before_a_validator() {
    let pools = [pool(&["pool.company.example.", "*.pools.company.example."])];
    for algorithms in [&BOTH[..1], &BOTH[1..], &BOTH[..]] {
        let mut signed = Signed::new(ZONE, &pools, algorithms);
        for (question, qtype, wanted) in [
            ("company.example", "SOA", Verdict::Answer),
            ("company.example", "DNSKEY", Verdict::Answer),
            ("company.example", "MX", Verdict::Answer),
            ("company.example", "ANY", Verdict::Answer),
            ("company.example", "AAAA", Verdict::Nodata),
            ("company.example", "DS", Verdict::Nodata),
            ("WWW.company.example", "A", Verdict::Answer),
            ("www.company.example", "NSEC", Verdict::Answer),
            ("far.company.example", "A", Verdict::Answer),
            ("lost.company.example", "A", Verdict::Nxdomain),
            ("there.company.example", "A", Verdict::Secure),
            ("b.c.company.example", "A", Verdict::Nodata),
            ("c.company.example", "NSEC", Verdict::Answer),
            ("x.y.wild.company.example", "A", Verdict::Answer),
            ("y.wild.company.example", "AAAA", Verdict::Nodata),
            ("y.wild.company.example", "NSEC", Verdict::Answer),
            ("*.wild.company.example", "A", Verdict::Answer),
            ("y.x.wild.company.example", "A", Verdict::Nxdomain),
            ("y.alias.company.example", "A", Verdict::Answer),
            ("y.alias.company.example", "TXT", Verdict::Nodata),
            ("child.company.example", "A", Verdict::Secure),
            ("child.company.example", "DS", Verdict::Answer),
            ("www.child.company.example", "A", Verdict::Secure),
            ("www.other.company.example", "A", Verdict::Insecure),
            ("other.company.example", "DS", Verdict::Nodata),
            ("a.old.company.example", "A", Verdict::Answer),
            ("b.old.company.example", "A", Verdict::Nxdomain),
            ("nobody.company.example", "A", Verdict::Nxdomain),
            ("very.much.nobody.company.example", "A", Verdict::Nxdomain),
            ("*.company.example", "A", Verdict::Nxdomain),
            ("\\000.company.example", "A", Verdict::Nxdomain),
            ("zzz.company.example", "NSEC", Verdict::Nxdomain),
            ("pool.company.example", "A", Verdict::Answer),
            ("pool.company.example", "AAAA", Verdict::Answer),
            ("pool.company.example", "TXT", Verdict::Nodata),
            ("a.pools.company.example", "A", Verdict::Answer),
            ("a.pools.company.example", "TXT", Verdict::Nodata),
        ] {
            assert_eq!(signed.verdict(question, qtype), wanted, "{question} {qtype}");
        }
    }
}

#[test]
fn every_subset_of_a_pool_is_signed_once_and_follows_what_is_up() {
    let mut signed = Signed::new(ZONE, &[pool(&["pool.company.example."])], &BOTH[..1]);
    let made = |signed: &Signed| signed.lab.scratch.counts.get(Count::Signatures);
    let answers = |signed: &mut Signed| -> Vec<String> {
        let mut answers: Vec<String> = (0..4)
            .map(|_| {
                let answer = signed.ask("pool.company.example", "A");
                assert_eq!(signed.validator.verdict("pool.company.example", "A", &answer), Ok(Verdict::Answer));
                let shown = show(&answer);
                section(&shown, "an").into_iter().find(|line| line.contains(" A ")).unwrap().to_owned()
            })
            .collect();
        answers.sort();
        answers.dedup();
        answers
    };
    let line = |n: u8| format!("pool.company.example. 30 A 203.0.113.{n}");
    // Four answers, each with one of two addresses.
    assert_eq!((answers(&mut signed), made(&signed)), (vec![line(10), line(11)], 2));
    signed.lab.states(&[0b101]);
    assert_eq!((answers(&mut signed), made(&signed)), (vec![line(10)], 2));
    signed.lab.states(&[0b100]);
    assert_eq!(signed.verdict("pool.company.example", "A"), Verdict::Nodata);
    // What it could answer is in the list of types all the same, but for what was asked.
    let shown = show(&signed.ask("pool.company.example", "TXT"));
    assert!(shown.contains("NSEC \\000.pool.company.example. A AAAA RRSIG NSEC"), "{shown}");
    let shown = show(&signed.ask("pool.company.example", "A"));
    assert!(shown.contains(" 30 NSEC \\000.pool.company.example. AAAA RRSIG NSEC"), "{shown}");
}

/// The TTL of an answer may be cut to when the pool could next change; the signature says what it could have been.
#[test]
fn a_cut_ttl_is_under_the_same_signature() {
    let mut signed = Signed::new(ZONE, &[pool(&["pool.company.example.", "*.wild2.company.example."])], &BOTH[..1]);
    let zone = signed.lab.snapshot.zones()[0].with(&[PoolState { up: 1, ttl_most_s: 7 }], 2);
    signed.lab.snapshot = Snapshot::new(vec![Arc::new(zone)], signed.lab.snapshot.settings().clone());
    for question in ["pool.company.example", "a.wild2.company.example"] {
        assert_eq!(signed.verdict(question, "A"), Verdict::Answer);
        let seen = sections(&signed.ask(question, "A"));
        let AllRecordData::Rrsig(signature) = seen.all[0][1].data() else { panic!("no signature") };
        let second = Ttl::from_secs;
        assert_eq!(
            (seen.all[0][0].ttl(), seen.all[0][1].ttl(), signature.original_ttl()),
            (second(7), second(7), second(30))
        );
    }
}

#[test]
fn who_does_not_ask_for_signatures_gets_none() {
    let mut plain = Lab::new(&[("company.example.", ZONE)]);
    let mut signed = Signed::new(ZONE, &[], &BOTH);
    for (question, qtype) in
        [("www.company.example", "A"), ("nobody.company.example", "A"), ("a.child.company.example", "A")]
    {
        assert_eq!(signed.lab.ask(question, qtype), plain.ask(question, qtype));
    }
    assert_eq!(signed.lab.scratch.counts.get(Count::Signatures), 0);
    // But for those records themselves.
    let shown = signed.lab.ask("web.company.example", "RRSIG");
    assert!(section(&shown, "an").len() == 2 && shown.matches(" RRSIG A ").count() == 2, "{shown}");
    let shown = signed.lab.ask("web.company.example", "NSEC");
    assert_eq!(section(&shown, "an"), ["web.company.example. 300 NSEC \\000.web.company.example. A RRSIG NSEC"]);
    let shown = signed.lab.ask("company.example", "DNSKEY");
    assert_eq!(section(&shown, "an").len(), 2);
    // Nor does DO change anything in a zone without keys.
    let ask = |lab: &mut Lab| show(&lab.reply(&edns(query("nobody.company.example", "A"), 1232, 0x8000, &[])));
    assert!(!ask(&mut plain).contains("RRSIG") && ask(&mut signed.lab).matches(" 300 RRSIG ").count() == 6);
}

#[test]
fn key_signing_keys_sign_keys_and_others_the_rest() {
    let (entry, _) = Key::generate(Algorithm::Ed25519).unwrap();
    let (other, secret) = Key::generate(Algorithm::Ed25519).unwrap();
    let zone_key = Key::new(Algorithm::Ed25519, 256, &secret, other.public()).unwrap();
    let tags = [entry.tag(), zone_key.tag()];
    let signer = Arc::new(Signer::new(vec![entry, zone_key]).unwrap());
    let mut lab = Lab::of(vec![signed("company.example.", ZONE, &[], &signer)], &[], Settings::default());
    let mut by = |qtype: &str| -> Vec<u16> {
        let message = edns(query("company.example", qtype), 1232, 0x8000, &[]);
        let seen = sections(&lab.send(&message, Transport::Tcp).1);
        let tag = |record: &Found| match record.data() {
            AllRecordData::Rrsig(signature) => Some(signature.key_tag()),
            _ => None,
        };
        seen.all[0].iter().filter_map(tag).collect()
    };
    assert_eq!((by("DNSKEY"), by("SOA")), (vec![tags[0]], vec![tags[1]]));
}

#[test]
fn keys_of_the_file_stay_and_those_of_the_zone_come_once() {
    let signer = signer(&BOTH[..1]);
    let own = domain::utils::base64::encode_string(signer.keys()[0].public());
    let text = format!("{ZONE}@ 600 DNSKEY 257 3 13 {own}\n@ 600 DNSKEY 256 3 13 AAAA\n");
    let mut lab = Lab::of(vec![signed("company.example.", &text, &[], &signer)], &[], Settings::default());
    let shown = lab.ask("company.example", "DNSKEY");
    assert!(section(&shown, "an").len() == 2 && shown.matches(" 600 DNSKEY 25").count() == 2, "{shown}");
    let bare = contents("company.example.", ZONE, &[]);
    let contents = signed("company.example.", ZONE, &[], &signer);
    let print = |contents: Contents| Zone::new(Arc::new(contents), &[], 1, 0).fingerprint();
    assert!(print(bare) != print(contents), "a new key is a change, which raises the serial");
}

/// What does not fit with its signatures goes by TCP; addresses beside it are left out before.
#[test]
fn an_answer_that_grows_too_large_is_truncated() {
    let hosts: String = (0..20).map(|n| format!("m{n} A 192.0.2.{n}\n@ MX {n} m{n}\n")).collect();
    let mut signed = Signed::new(&format!("{ZONE}{hosts}"), &[], &BOTH[..1]);
    let mut udp =
        |qtype: &str, size: u16| show(&signed.lab.reply(&edns(query("company.example", qtype), size, 0x8000, &[])));
    let all = udp("MX", 1232);
    let kept = section(&all, "ar").len();
    assert!(
        !all.starts_with("NOERROR aa tc") && kept > 1 && kept < 40 && all.matches("RRSIG MX").count() == 1,
        "{all}"
    );
    assert!(udp("MX", 512).starts_with("NOERROR aa tc"));
    assert_eq!(section(&all, "ar").iter().filter(|line| line.contains(" RRSIG A ")).count() * 2, kept);
}

/// Names that do not exist are without number: a flood of them is told to come by TCP, and others are answered.
#[test]
fn a_flood_of_names_that_do_not_exist_does_not_take_all_time() {
    let mut signed = Signed::new(ZONE, &[], &BOTH[1..]);
    let mut ask = |n: u32, now_ms: u64| {
        signed.lab.now_ms = now_ms;
        let message = edns(query(&format!("n{n}.company.example"), "A"), 1232, 0x8000, &[]);
        show(&signed.lab.reply(&message)).starts_with("NXDOMAIN aa tc")
    };
    assert_eq!((0..4100).filter(|n| ask(*n, 5000)).count(), 100);
    assert!(!ask(5000, 6000));
    // A name that was denied a moment ago is under a signature that is there already.
    for _ in 0..5000 {
        assert!(!ask(5000, 6000));
    }
    let counts = signed.lab.scratch.counts.clone();
    assert_eq!(counts.get(Count::DenialsDeferred), 100);
    assert_eq!(signed.verdict("www.company.example", "A"), Verdict::Answer);
}

#[test]
fn signatures_are_renewed_long_before_they_end() {
    let mut signed = Signed::new(ZONE, &[], &BOTH[..1]);
    let mut ends = |unix_s: u32, name: &str| {
        let message = edns(query(name, "A"), 1232, 0x8000, &[]);
        let mut out = vec![0; 65535];
        let (from, to) = (CLIENT.parse().unwrap(), "203.0.113.1".parse().unwrap());
        let asked = Asked {
            message: &message,
            from,
            to,
            transport: Transport::Tcp,
            now_ms: 0,
            unix_ms: u64::from(unix_s) * 1000,
            foreseen: None,
        };
        let lab = &mut signed.lab;
        let Outcome::Answer(reply) = answer(&asked, &lab.snapshot, &mut lab.scratch, &mut out) else { panic!() };
        let seen = sections(&out[..reply.length]);
        let AllRecordData::Rrsig(signature) = seen.all[0].last().unwrap().data() else { panic!("no signature") };
        let (from, to) = (signature.inception().into_int(), signature.expiration().into_int());
        assert!(from <= unix_s - 3600 && to >= unix_s + 13 * 86400, "{from} {unix_s} {to}");
        to
    };
    let mut steps = |name: &str| -> Vec<u32> {
        let mut all: Vec<u32> = (0..48).map(|hour| ends(NOW_S + hour * 3600, name)).collect();
        all.dedup();
        all
    };
    // Each day once, and not all at the same hour.
    let (web, mail) = (steps("web.company.example"), steps("mail.company.example"));
    assert!(web.len() == 3 && web[1] - web[0] == 86400 && mail.len() == 3, "{web:?} {mail:?}");
    assert!(web[0] % 86400 != mail[0] % 86400);
}

/// Labels that lie as close to each other as labels can.
fn near() -> impl Strategy<Value = Vec<&'static str>> {
    let label = prop_oneof![
        4 => Just("a"), 4 => Just("b"), 2 => Just("*"), 1 => Just("B\\255"), 1 => Just("a\\255"), 1 => Just("a\\000"), 1 => Just("\\000"),
        1 => Just("\\["), 1 => Just("\\@\\255"), 1 => Just("*\\000"), 1 => Just(")\\255")
    ];
    prop::collection::vec(label, 0..4)
}

fn line() -> impl Strategy<Value = String> {
    let owner =
        |labels: &[&str]| labels.iter().map(|label| format!("{label}.")).collect::<String>() + "company.example.";
    let data = prop_oneof![
        4 => prop_oneof![Just("192.0.2.1"), Just("192.0.2.2")].prop_map(|address| format!("A {address}")),
        2 => Just("TXT x".to_owned()),
        1 => Just("TYPE65280 \\# 1 00".to_owned()),
        3 => near().prop_map(move |target| format!("CNAME {}", owner(&target))),
        1 => Just("NS ns.example.".to_owned()),
        1 => Just("DS 1 13 2 00".to_owned()),
        1 => near().prop_map(move |target| format!("DNAME {}", owner(&target))),
    ];
    (near(), data).prop_map(move |(labels, data)| format!("{} {data}\n", owner(&labels)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_the_zone_and_the_question_a_validator_believes_the_answer(
        lines in prop::collection::vec(line(), 1..16),
        questions in prop::collection::vec(
            (near(), prop_oneof![4 => Just("A"), 1 => Just("TXT"), 1 => Just("CNAME"), 1 => Just("DS"), 1 => Just("NSEC"), 1 => Just("TYPE65280")]), 30),
    ) {
        let origin = Name::parse("company.example.").unwrap();
        let load = |text: &str| master::load(&origin, Path::new("zone"), &[], &mut |_: &Path| Ok(text.as_bytes().to_vec()));
        let mut text = "$TTL 60\n@ SOA ns.example. admin 1 1h 15m 2w 5m\n@ NS ns.example.\n".to_owned();
        for line in lines {
            let more = format!("{text}{line}");
            if load(&more).is_ok() {
                text = more;
            }
        }
        let mut signed = Signed::new(&text, &[], &BOTH[1..]);
        let mut plain = Lab::new(&[("company.example.", &text)]);
        for (labels, qtype) in questions {
            let question = labels.iter().map(|label| format!("{label}.")).collect::<String>() + "company.example";
            let answer = signed.ask(&question, qtype);
            // Circles through wildcards and DNAMEs end somewhere, and names too long are no names: neither is an answer.
            let shown = plain.ask_tcp(&question, qtype);
            if shown.starts_with("YXDOMAIN") || section(&shown, "an").len() > 12 {
                continue;
            }
            let verdict = signed.validator.verdict(&question, qtype, &answer);
            prop_assert!(verdict.is_ok(), "{} {}: {}\n{}\n{}", question, qtype, verdict.unwrap_err(), show(&answer), text);
            let negative = matches!(verdict, Ok(Verdict::Nxdomain));
            // An alias has NSEC beside it, which a zone that is not signed does not know.
            prop_assert!(qtype == "NSEC" || negative == shown.starts_with("NXDOMAIN"), "{} {}", question, qtype);
        }
    }

    /// Neither panics nor grows, whatever is in the message.
    #[test]
    fn data_of_any_bytes_have_a_canonical_form_or_none(rtype in 1..40_u16, data in prop::collection::vec(any::<u8>(), 0..40)) {
        let text = format!("{ZONE}x TYPE{rtype} \\# {} {}\n", data.len(), data.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let origin = Name::parse("company.example.").unwrap();
        let signer = signer(&BOTH[1..]);
        let load = master::load_signed(&origin, Path::new("zone"), &[], Some(&signer), &mut |_: &Path| Ok(text.as_bytes().to_vec()));
        if let Ok(contents) = load {
            prop_assert!(in_order(rtype, &data));
            let mut lab = Lab::of(vec![contents], &[], Settings::default());
            let message = edns(query("x.company.example", &format!("TYPE{rtype}")), 1232, 0x8000, &[]);
            prop_assert!(lab.send(&message, Transport::Tcp).1.len() > 12);
        }
    }
}
