//! Zones and questions at random: what is answered is what a plain reading of the RFCs answers.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A record: its owner's labels in front of the origin, from the left; type; data as in a zone file, or a name's labels.
#[derive(Clone, Debug, PartialEq)]
enum Data {
    Text(&'static str, &'static str),
    Name(&'static str, Vec<&'static str>),
}

type Line = (Vec<&'static str>, Data);

const HEAD: &str = "$TTL 60\n@ SOA ns.example. admin 1 1h 15m 2w 5m\n@ NS ns.example.\n";

fn owner(labels: &[&str]) -> String {
    labels.iter().map(|label| format!("{label}.")).collect::<String>() + "company.example."
}

fn written((name, data): &Line) -> String {
    match data {
        Data::Text(rtype, text) => format!("{} {rtype} {text}\n", owner(name)),
        Data::Name(rtype, target) => format!("{} {rtype} {}\n", owner(name), owner(target)),
    }
}

fn labels(stars: bool) -> impl Strategy<Value = Vec<&'static str>> {
    let label = if stars {
        prop_oneof![4 => Just("a"), 4 => Just("b"), 2 => Just("*")].boxed()
    } else {
        prop_oneof![Just("a"), Just("b"), Just("c")].boxed()
    };
    prop::collection::vec(label, 0..4)
}

fn line() -> impl Strategy<Value = Line> {
    let data = prop_oneof![
        4 => prop_oneof![Just("192.0.2.1"), Just("192.0.2.2")].prop_map(|address| Data::Text("A", address)),
        2 => Just(Data::Text("TXT", "x")),
        3 => labels(false).prop_map(|target| Data::Name("CNAME", target)),
        1 => Just(Data::Text("NS", "ns.example.")),
        1 => labels(false).prop_map(|target| Data::Name("DNAME", target)),
    ];
    (labels(true), data)
}

/// As many of the lines as are a zone together.
fn zone(lines: Vec<Line>) -> (Vec<Line>, Contents) {
    let origin = Name::parse("company.example.").unwrap();
    let load = |text: &str| master::load(&origin, Path::new("zone"), &[], &mut |_: &Path| Ok(text.as_bytes().to_vec()));
    let (mut text, mut kept) = (HEAD.to_owned(), Vec::new());
    for line in lines {
        let more = format!("{text}{}", written(&line));
        if load(&more).is_ok() {
            text = more;
            kept.push(line);
        }
    }
    let contents = load(&text).unwrap();
    (kept, contents)
}

struct Model<'m> {
    lines: &'m [Line],
}

impl Model<'_> {
    fn of(&self, name: &[&str], rtype: &str) -> Vec<&Data> {
        let is = |(owner, data): &&Line| {
            let (Data::Text(kind, _) | Data::Name(kind, _)) = data;
            owner == name && *kind == rtype
        };
        self.lines.iter().filter(is).map(|(_, data)| data).collect()
    }

    /// It has records, or a name below it has.
    fn exists(&self, name: &[&str]) -> bool {
        name.is_empty() || self.lines.iter().any(|(owner, _)| owner.ends_with(name))
    }

    /// RFC 1034 4.3.2, step by step.
    fn answer(&self, asked: &[&'static str], qtype: &str) -> String {
        let mut name = asked.to_vec();
        let mut lines = BTreeSet::new();
        let mut code = "NOERROR";
        let mut below = "";
        for _ in 0..=12 {
            let cut = (0..name.len()).rev().find(|skip| !self.of(&name[*skip..], "NS").is_empty());
            if cut.is_some_and(|skip| skip > 0 || qtype != "DS") {
                below = "NS";
                break;
            }
            let mut source = name.clone();
            if !self.exists(&name) {
                let skip = (0..=name.len()).find(|skip| self.exists(&name[*skip..])).unwrap();
                let above = &name[skip..];
                if let Some(Data::Name(_, target)) = self.of(above, "DNAME").first() {
                    lines.insert(format!("{} DNAME {}", owner(above), owner(target)));
                    let next = [&name[..skip], target].concat();
                    lines.insert(format!("{} CNAME {}", owner(&name), owner(&next)));
                    if qtype == "CNAME" {
                        break;
                    }
                    name = next;
                    continue;
                }
                source = [&["*"], above].concat();
                if self.of_any(&source) == 0 && !self.exists(&source) {
                    (code, below) = ("NXDOMAIN", "SOA");
                    break;
                }
            }
            let found = self.of(&source, qtype);
            for data in &found {
                let data = match data {
                    Data::Text("TXT", text) => format!("\"{text}\""),
                    Data::Text(_, text) => (*text).to_owned(),
                    Data::Name(_, target) => owner(target),
                };
                lines.insert(format!("{} {qtype} {data}", owner(&name)));
            }
            if !found.is_empty() {
                break;
            }
            let Some(Data::Name(_, target)) = self.of(&source, "CNAME").first().copied() else {
                below = "SOA";
                break;
            };
            lines.insert(format!("{} CNAME {}", owner(&name), owner(target)));
            name.clone_from(target);
        }
        let flag = if below == "NS" && lines.is_empty() { "" } else { " aa" };
        format!("{code}{flag} {lines:?} {below}")
    }

    fn of_any(&self, name: &[&str]) -> usize {
        self.lines.iter().filter(|(owner, _)| owner == name).count()
    }
}

/// The same of a real answer.
fn seen(shown: &str) -> String {
    let first = shown.lines().next().unwrap().replace(" rd", "");
    let without_ttl = |line: &str| {
        let mut words: Vec<&str> = line.split(' ').collect();
        words.remove(1);
        words.join(" ")
    };
    let lines: BTreeSet<String> = section(shown, "an").into_iter().map(without_ttl).collect();
    let below = section(shown, "ns").first().map_or("", |line| line.split(' ').nth(2).unwrap());
    format!("{first} {lines:?} {below}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn answers_are_those_of_the_model(
        lines in prop::collection::vec(line(), 1..14),
        questions in prop::collection::vec((labels(true), prop_oneof![3 => Just("A"), 1 => Just("TXT"), 1 => Just("CNAME"), 1 => Just("DS")]), 30),
    ) {
        let (lines, contents) = zone(lines);
        let model = Model { lines: &lines };
        let zone = Arc::new(Zone::new(Arc::new(contents), &[], 1, 0));
        let settings = Settings::default();
        let scratch = Scratch::new(Arc::default(), &settings, 0);
        let mut lab = Lab::over(Snapshot::new(vec![zone], Arc::new(settings)), scratch);
        for (name, qtype) in questions {
            // The origin has SOA and NS, which the model does not know.
            let shown = lab.ask_tcp(&owner(&name), qtype);
            prop_assert_eq!(seen(&shown), model.answer(&name, qtype), "{} {}\n{:#?}", owner(&name), qtype, lines);
        }
    }

    #[test]
    fn changes_make_the_new_version_of_the_old_one(
        old in prop::collection::vec(line(), 0..14),
        new in prop::collection::vec(line(), 0..14),
    ) {
        let version = |lines: Vec<Line>, serial| Arc::new(Zone::new(Arc::new(zone(lines).1), &[], serial, 0));
        let (old, new) = (version(old, 1), version(new, 2));
        transfers::check_changes(&old, &new)?;
        let same = old.fingerprint() == new.fingerprint();
        prop_assert_eq!(same, old.records().skip(1).eq(new.records().skip(1)));
    }
}
