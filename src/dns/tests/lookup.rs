//! What is in a zone, and what is not (RFC 1034 4.3.2, 2308, 4592, 6672, 8482).

use super::*;

fn lab() -> Lab {
    Lab::new(&[("company.example.", ZONE)])
}

const SOA: &str =
    "company.example. 300 SOA ns1.company.example. admin.company.example. 2026112101 3600 900 1209600 300";

#[test]
fn a_name_that_is_there_is_answered_with_all_records_of_the_type() {
    let mut lab = lab();
    assert_eq!(lab.ask("web.company.example.", "A"), "NOERROR aa rd\nan web.company.example. 60 A 203.0.113.80");
    let mail = lab.ask("mail.company.example.", "A");
    assert_eq!(section(&mail, "an").len(), 2, "{mail}");
    assert_eq!(lab.ask("company.example.", "TXT"), "NOERROR aa rd\nan company.example. 3600 TXT \"v=spf1 mx -all\"");
    assert_eq!(
        lab.ask("odd.company.example.", "TYPE65280"),
        "NOERROR aa rd\nan odd.company.example. 3600 TYPE65280 \\# 3 ab cd ef"
    );
}

#[test]
fn the_case_of_the_question_is_kept_and_does_not_matter() {
    let mut lab = lab();
    let asked = query("wEb.CoMpaNy.EXAMPLE.", "A");
    let reply = lab.reply(&asked);
    assert_eq!(reply[12..asked.len()], asked[12..]);
    assert_eq!(show(&reply), "NOERROR aa rd\nan wEb.CoMpaNy.EXAMPLE. 60 A 203.0.113.80");
}

#[test]
fn a_type_that_is_not_there_gets_the_soa_with_the_time_that_it_may_be_remembered() {
    let mut lab = lab();
    assert_eq!(lab.ask("web.company.example.", "AAAA"), format!("NOERROR aa rd\nns {SOA}"));
    // Names between are there, without records (RFC 8020).
    assert_eq!(lab.ask("b.c.company.example.", "TXT"), format!("NOERROR aa rd\nns {SOA}"));
    assert_eq!(lab.ask("c.company.example.", "A"), format!("NOERROR aa rd\nns {SOA}"));
}

#[test]
fn a_name_that_is_not_there_gets_nxdomain_and_the_soa() {
    let mut lab = lab();
    for name in ["nothing", "x.web", "x.a.b.c", "zzz.b.c", "a.b.c.d.e.f.g.h"] {
        assert_eq!(lab.ask(&format!("{name}.company.example."), "A"), format!("NXDOMAIN aa rd\nns {SOA}"), "{name}");
    }
    assert_eq!(lab.scratch.counts.get(Count::Nxdomain), 5);
}

#[test]
fn a_zone_of_others_is_refused() {
    let mut lab = lab();
    for name in ["example.", ".", "elsewhere.example.", "xcompany.example.", "company.example.com."] {
        assert_eq!(lab.ask(name, "A"), "REFUSED rd", "{name}");
    }
}

#[test]
fn mx_srv_and_ns_carry_addresses_along() {
    let mut lab = lab();
    let shown = lab.ask("company.example.", "MX");
    assert_eq!(
        section(&shown, "an"),
        ["company.example. 3600 MX 10 mail.company.example.", "company.example. 3600 MX 20 mail.elsewhere.example."]
    );
    assert_eq!(
        section(&shown, "ar"),
        ["mail.company.example. 3600 A 198.51.100.10", "mail.company.example. 3600 A 203.0.113.10"]
    );
    let shown = lab.ask("company.example.", "NS");
    assert_eq!(section(&shown, "ar").len(), 3, "{shown}");
    let shown = lab.ask("_imap._tcp.company.example.", "SRV");
    assert_eq!(section(&shown, "an"), ["_imap._tcp.company.example. 3600 SRV 0 1 143 mail.company.example"]);
    assert_eq!(section(&shown, "ar").len(), 2, "{shown}");
}

#[test]
fn an_alias_is_followed_inside_the_zone() {
    let mut lab = lab();
    assert_eq!(
        lab.ask("www.company.example.", "A"),
        "NOERROR aa rd\nan www.company.example. 3600 CNAME web.company.example.\nan web.company.example. 60 A 203.0.113.80"
    );
    assert_eq!(
        lab.ask("www.company.example.", "CNAME"),
        "NOERROR aa rd\nan www.company.example. 3600 CNAME web.company.example."
    );
    assert_eq!(
        lab.ask("far.company.example.", "A"),
        "NOERROR aa rd\nan far.company.example. 3600 CNAME far.elsewhere.example."
    );
    // The code is the last name's (RFC 6604 3).
    let shown = lab.ask("lost.company.example.", "A");
    assert_eq!(
        shown,
        format!("NXDOMAIN aa rd\nan lost.company.example. 3600 CNAME nothing.company.example.\nns {SOA}")
    );
    let shown = lab.ask("www.company.example.", "MX");
    assert_eq!(shown, format!("NOERROR aa rd\nan www.company.example. 3600 CNAME web.company.example.\nns {SOA}"));
    let shown = lab.ask("there.company.example.", "A");
    assert!(shown.starts_with("NOERROR aa rd\nan there"), "{shown}");
    assert_eq!(section(&shown, "ns").len(), 3, "{shown}");
}

#[test]
fn a_wildcard_stands_for_names_that_are_not_there_and_only_those() {
    let mut lab = lab();
    assert_eq!(
        lab.ask("any.wild.company.example.", "A"),
        "NOERROR aa rd\nan any.wild.company.example. 3600 A 203.0.113.90"
    );
    assert_eq!(
        lab.ask("a.b.wild.company.example.", "A"),
        "NOERROR aa rd\nan a.b.wild.company.example. 3600 A 203.0.113.90"
    );
    // RFC 4592 2.2.1: the name itself, what is there, and what is below what is there are not its.
    assert_eq!(lab.ask("wild.company.example.", "A"), format!("NOERROR aa rd\nns {SOA}"));
    assert_eq!(lab.ask("x.wild.company.example.", "A"), format!("NOERROR aa rd\nns {SOA}"));
    assert_eq!(lab.ask("y.x.wild.company.example.", "A"), format!("NXDOMAIN aa rd\nns {SOA}"));
    assert_eq!(lab.ask("any.wild.company.example.", "TXT"), format!("NOERROR aa rd\nns {SOA}"));
    // Asked for by its own name it is a name like others.
    assert_eq!(
        lab.ask("*.wild.company.example.", "A"),
        "NOERROR aa rd\nan *.wild.company.example. 3600 A 203.0.113.90"
    );
    assert_eq!(
        lab.ask("q.alias.company.example.", "A"),
        "NOERROR aa rd\nan q.alias.company.example. 3600 CNAME web.company.example.\nan web.company.example. 60 A 203.0.113.80"
    );
    let shown = lab.ask("any.wild.company.example.", "MX");
    assert_eq!(section(&shown, "an"), ["any.wild.company.example. 3600 MX 5 mail.company.example."]);
}

#[test]
fn a_delegation_names_the_other_servers_with_the_addresses_that_are_needed() {
    let mut lab = lab();
    for name in ["child", "x.child", "ns.child"] {
        let shown = lab.ask(&format!("{name}.company.example."), "A");
        assert!(shown.starts_with("NOERROR rd\n"), "{shown}");
        assert_eq!(section(&shown, "an"), Vec::<&str>::new());
        assert_eq!(
            section(&shown, "ns"),
            [
                "child.company.example. 3600 NS ns.child.company.example.",
                "child.company.example. 3600 NS ns.other.company.example.",
                "child.company.example. 3600 NS ns.elsewhere.example.",
            ]
            .into_iter()
            .collect::<Vec<_>>(),
            "{shown}"
        );
        assert_eq!(
            section(&shown, "ar"),
            ["ns.child.company.example. 3600 A 192.0.2.53", "ns.other.company.example. 3600 A 192.0.2.54"]
        );
    }
    // Its DS is on this side of it.
    let shown = lab.ask("child.company.example.", "DS");
    assert!(shown.starts_with("NOERROR aa rd\nan child.company.example. 3600 DS 12345 13 2"), "{shown}");
    assert_eq!(lab.ask("other.company.example.", "DS"), format!("NOERROR aa rd\nns {SOA}"));
    assert!(lab.ask("x.child.company.example.", "DS").starts_with("NOERROR rd\nns child"));
}

#[test]
fn a_dname_redirects_what_is_below_it() {
    let mut lab = lab();
    assert_eq!(
        lab.ask("a.old.company.example.", "A"),
        "NOERROR aa rd\nan old.company.example. 3600 DNAME new.company.example.\n\
         an a.old.company.example. 3600 CNAME a.new.company.example.\nan a.new.company.example. 3600 A 203.0.113.70"
    );
    let shown = lab.ask("b.old.company.example.", "A");
    assert!(shown.starts_with("NXDOMAIN aa rd\nan old"), "{shown}");
    assert_eq!(
        lab.ask("x.y.away.company.example.", "A"),
        "NOERROR aa rd\nan away.company.example. 3600 DNAME elsewhere.example.\nan x.y.away.company.example. 3600 CNAME x.y.elsewhere.example."
    );
    // What leads back below it is redirected again, and the set stands there once (RFC 2181 5).
    let zone = "$TTL 60\n@ SOA ns1 admin 1 1h 15m 2w 5m\n NS ns.example.\nd DNAME company.example.\n";
    assert_eq!(
        section(&Lab::new(&[("company.example.", zone)]).ask("x.d.d.company.example.", "A"), "an"),
        [
            "d.company.example. 60 DNAME company.example.",
            "x.d.d.company.example. 60 CNAME x.d.company.example.",
            "x.d.company.example. 60 CNAME x.company.example."
        ]
    );
    // Not its own name (RFC 6672 2.3).
    assert_eq!(lab.ask("old.company.example.", "A"), format!("NOERROR aa rd\nns {SOA}"));
    assert_eq!(
        lab.ask("old.company.example.", "DNAME"),
        "NOERROR aa rd\nan old.company.example. 3600 DNAME new.company.example."
    );
}

#[test]
fn a_dname_that_leads_to_a_name_too_long_says_so() {
    let label = "x".repeat(60);
    let zone = format!("$TTL 60\n@ SOA ns1 admin 1 1h 15m 2w 5m\n NS ns.example.\nd DNAME {label}.{label}.{label}\n");
    let mut lab = Lab::new(&[("company.example.", &zone)]);
    let shown = lab.ask(&format!("{label}.d.company.example."), "A");
    assert!(shown.starts_with("YXDOMAIN aa rd\nan d.company.example. 60 DNAME"), "{shown}");
}

#[test]
fn circles_through_wildcards_and_dnames_end() {
    let zone = "$TTL 60\n@ SOA ns1 admin 1 1h 15m 2w 5m\n NS ns.example.\n*.w CNAME a.b.w\nd DNAME x.d\n";
    let mut lab = Lab::new(&[("company.example.", zone)]);
    for name in ["q.w.company.example.", "q.d.company.example."] {
        let shown = show(&lab.send(&query(name, "A"), Transport::Tcp).1);
        assert!((2..=30).contains(&section(&shown, "an").len()), "{shown}");
    }
}

#[test]
fn any_gets_one_set() {
    let mut lab = lab();
    assert_eq!(section(&lab.ask("ns1.company.example.", "ANY"), "an"), ["ns1.company.example. 3600 A 203.0.113.1"]);
    assert_eq!(section(&lab.ask("company.example.", "ANY"), "an").len(), 1);
    assert_eq!(
        section(&lab.ask("www.company.example.", "ANY"), "an"),
        ["www.company.example. 3600 CNAME web.company.example."]
    );
    assert_eq!(lab.ask("c.company.example.", "ANY"), format!("NOERROR aa rd\nns {SOA}"));
}

#[test]
fn the_zone_with_the_longest_origin_answers_and_ds_comes_from_the_one_above() {
    let child = "$TTL 60\n@ SOA ns1 admin 7 1h 15m 2w 5m\n NS ns1\nns1 A 192.0.2.53\n";
    let parent = "$TTL 60\n@ SOA ns admin 1 1h 15m 2w 5m\n NS ns\nns A 192.0.2.1\nsub NS ns1.sub\nns1.sub A 192.0.2.53\n\
                  sub DS 1 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";
    let mut lab = Lab::new(&[("company.example.", parent), ("sub.company.example.", child)]);
    assert!(
        lab.ask("sub.company.example.", "SOA").contains("SOA ns1.sub.company.example. admin.sub.company.example. 7")
    );
    assert!(lab.ask("ns1.sub.company.example.", "A").starts_with("NOERROR aa rd\nan ns1.sub"));
    assert!(lab.ask("sub.company.example.", "DS").starts_with("NOERROR aa rd\nan sub.company.example. 60 DS"));
    assert!(lab.ask("company.example.", "DS").contains("ns company.example. 60 SOA"));
}

#[test]
fn the_root_may_be_a_zone() {
    let zone = "$TTL 60\n. SOA ns.example. admin.example. 7 1h 15m 2w 5m\n. NS ns.example.\nns.example. A 192.0.2.53\n";
    let mut lab = Lab::new(&[(".", zone)]);
    assert_eq!(section(&lab.ask(".", "NS"), "ar"), ["ns.example. 60 A 192.0.2.53"]);
    assert!(lab.ask("x.", "A").starts_with("NXDOMAIN aa rd\nns . 60 SOA"));
    assert!(lab.ask("example.", "A").starts_with("NOERROR aa rd\nns . 60 SOA"));
}
