//! Names whose addresses are a pool's.

use super::*;

fn member(name: &str, addresses: &[&str], weight: u32) -> Member {
    Member { name: name.into(), addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(), weight }
}

fn pool() -> Pool {
    let members = vec![member("isp1", &["203.0.113.10", "2001:db8:1::10"], 1), member("isp2", &["198.51.100.10"], 1)];
    let names = ["mail.company.example.", "*.pool.company.example."].map(|name| Name::parse(name).unwrap()).into();
    let (max_answers, min_up, when_down) = (0, 1, WhenDown::All);
    Pool { name: "mail".into(), slot: 9, names, ttl_s: 30, max_answers, min_up, when_down, members, plan: None }
}

const POOLED: &str = "
$TTL 1h
@ SOA ns1 admin 1 1h 15m 2w 5m
  NS mail
  MX 10 mail
  MX 20 x.pool
mail TXT hello
_imap._tcp SRV 0 1 143 mail
www CNAME mail
sub NS mail
";

fn lab(pool: Pool) -> Lab {
    Lab::with(&[("company.example.", POOLED)], &[Arc::new(pool)], Settings::default())
}

fn addresses(shown: &str, from: &str) -> Vec<String> {
    section(shown, from).iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn answers_rotate_for_each_type_by_itself() {
    let mut lab = lab(pool());
    let mut firsts = Vec::new();
    for _ in 0..4 {
        let shown = lab.ask("mail.company.example.", "A");
        assert!(shown.starts_with("NOERROR aa rd\nan mail.company.example. 30 A "), "{shown}");
        assert_eq!(addresses(&shown, "an").len(), 2);
        firsts.push(addresses(&shown, "an")[0].clone());
        assert_eq!(addresses(&lab.ask("mail.company.example.", "AAAA"), "an"), ["2001:db8:1::10"]);
    }
    assert_eq!(firsts, ["203.0.113.10", "198.51.100.10", "203.0.113.10", "198.51.100.10"]);
    let (outcome, _) = lab.send(&query("mail.company.example.", "A"), Transport::Udp);
    assert!(matches!(outcome, Outcome::Answer(Reply { pool: Some(9), zone: Some(0), rcode: 0, .. })), "{outcome:?}");
}

#[test]
fn a_member_that_is_down_leaves_and_the_serial_shows_it() {
    let mut lab = lab(pool());
    let before = lab.snapshot.zones()[0].fingerprint();
    lab.states(&[0b10]);
    assert_eq!(addresses(&lab.ask("mail.company.example.", "A"), "an"), ["198.51.100.10"]);
    let shown = lab.ask("mail.company.example.", "AAAA");
    // The one that has the family is down: fewer than one is up, so all of that family.
    assert_eq!(addresses(&shown, "an"), ["2001:db8:1::10"]);
    assert!(lab.ask("company.example.", "SOA").contains(" 2 3600"), "{}", lab.ask("company.example.", "SOA"));
    assert_ne!(lab.snapshot.zones()[0].fingerprint(), before);
    lab.states(&[0b11]);
    assert_eq!(lab.snapshot.zones()[0].fingerprint(), before);
    assert_eq!(addresses(&lab.ask("mail.company.example.", "A"), "an").len(), 2);
}

#[test]
fn none_is_no_data_for_as_short_as_an_answer_would_hold() {
    let mut lab = lab(Pool { when_down: WhenDown::None, ..pool() });
    lab.states(&[0]);
    let shown = lab.ask("mail.company.example.", "A");
    assert!(shown.starts_with("NOERROR aa rd\nns company.example. 30 SOA"), "{shown}");
    let shown = lab.ask("company.example.", "MX");
    assert_eq!((section(&shown, "an").len(), section(&shown, "ar").len()), (2, 0));
    // Other types at the name are the file's, and so is how long it is known that they are not there.
    assert!(lab.ask("mail.company.example.", "TXT").starts_with("NOERROR aa rd\nan mail.company.example. 3600 TXT"));
    assert!(lab.ask("mail.company.example.", "CAA").starts_with("NOERROR aa rd\nns company.example. 300 SOA"));
}

#[test]
fn mx_srv_ns_and_aliases_that_lead_to_a_pool_carry_what_is_up() {
    let mut lab = lab(pool());
    lab.states(&[0b10]);
    for (name, rtype) in [("_imap._tcp.company.example.", "SRV"), ("company.example.", "NS")] {
        let shown = lab.ask(name, rtype);
        assert_eq!(addresses(&shown, "ar"), ["198.51.100.10", "2001:db8:1::10"], "{shown}");
    }
    let shown = lab.ask("company.example.", "MX");
    let owners: Vec<&str> = section(&shown, "ar").iter().map(|line| line.split(' ').next().unwrap()).collect();
    let [mail, wild] = ["mail.company.example.", "x.pool.company.example."];
    assert_eq!(owners, [mail, mail, wild, wild], "{shown}");
    let shown = lab.ask("www.company.example.", "A");
    assert_eq!(
        section(&shown, "an"),
        ["www.company.example. 3600 CNAME mail.company.example.", "mail.company.example. 30 A 198.51.100.10"]
    );
    let shown = lab.ask("x.sub.company.example.", "A");
    assert_eq!(addresses(&shown, "ar"), ["198.51.100.10", "2001:db8:1::10"], "{shown}");
}

#[test]
fn a_wildcard_may_be_a_pools_name() {
    let mut lab = lab(pool());
    let shown = lab.ask("any.pool.company.example.", "A");
    assert!(section(&shown, "an")[0].starts_with("any.pool.company.example. 30 A "), "{shown}");
    let shown = lab.ask("any.pool.company.example.", "ANY");
    assert_eq!(section(&shown, "an").len(), 2, "{shown}");
}

#[test]
fn the_records_of_a_zone_have_what_is_up_and_the_pools_ttl() {
    let mut lab = lab(pool());
    lab.states(&[0b10]);
    let zone = lab.snapshot.zones()[0].with(&[PoolState { up: 0b10, ttl_most_s: 3 }], 77);
    assert_eq!(zone.fingerprint(), lab.snapshot.zones()[0].fingerprint());
    let records: Vec<Record> = zone.records().collect();
    assert_eq!((records[0].rtype, records.iter().filter(|record| record.rtype == 6).count()), (6, 1));
    let of = |rtype| records.iter().filter(move |record| record.rtype == rtype);
    let a: Vec<_> = of(1).map(|record| (record.ttl_s, &*record.data)).collect();
    assert_eq!(a, [(30, &[198, 51, 100, 10][..]), (30, &[198, 51, 100, 10][..])]);
    assert_eq!(of(28).count(), 2);
    assert!(records[1..].windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn a_pool_at_a_name_that_has_addresses_is_refused() {
    let text = format!("{POOLED}mail A 192.0.2.1\n");
    let mut read = |_: &Path| Ok(text.as_bytes().to_vec());
    let origin = Name::parse("company.example.").unwrap();
    let errors = master::load(&origin, Path::new("zone"), &[Arc::new(pool())], &mut read).err().unwrap();
    let text = errors.to_string();
    assert!(errors.count() == 1 && text.contains("zone:11:") && text.contains("those of the pool `mail`"), "{text}");
}
