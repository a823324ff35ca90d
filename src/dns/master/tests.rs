use super::*;
use std::collections::HashMap;
use std::io::ErrorKind;

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// The zone `company.example.` from files in memory; the first one is it.
fn load_files(files: &[(&str, &str)]) -> Result<Contents, ZoneErrors> {
    let texts: HashMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
    let mut read = |path: &Path| match texts.get(path) {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => Err(io::Error::from(ErrorKind::NotFound)),
    };
    super::load(&name("company.example."), Path::new(files[0].0), &[], &mut read)
}

fn load(text: &str) -> Result<Contents, ZoneErrors> {
    load_files(&[("zone", text)])
}

/// The records, as `owner TTL type data in hex`.
fn records(text: &str) -> Vec<String> {
    let contents = load(text).unwrap_or_else(|errors| panic!("{errors}"));
    shown(contents)
}

fn shown(contents: Contents) -> Vec<String> {
    let zone = crate::dns::Zone::new(Arc::new(contents), &[], 1, 0);
    let hex = |data: &[u8]| data.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = |record: crate::dns::Record| {
        format!("{} {} {} {}", name::text(record.owner), record.ttl_s, Rtype::from_int(record.rtype), hex(&record.data))
    };
    zone.records().skip(1).map(line).collect()
}

const HEAD: &str = "$TTL 1h\n@ SOA ns.example. admin 1 1h 15m 2w 5m\n@ NS ns.example.\n";

fn with(text: &str) -> Vec<String> {
    let mut records = records(&format!("{HEAD}{text}"));
    records.remove(0);
    records
}

/// As in `www CNAME @`; a text of one such character is a text.
#[test]
fn the_origins_own_sign_is_a_name_in_data_too() {
    let text = "@ A 192.0.2.1\n@ MX 10 @\n@ TXT @ \"@\"\na CNAME @\n_s._tcp SRV 0 0 25 @ ; here\nb NAPTR 1 2 \"s\" \"SIP+D2U\" \"@\" @\n\
                @ SRV ( 0 0\n 25 @ )\n";
    let origin = "07636f6d70616e79076578616d706c6500";
    let records = with(text);
    let has = |line: String| assert!(records.contains(&line), "{line} is not in {records:#?}");
    has(format!("company.example. 3600 MX 000a{origin}"));
    has("company.example. 3600 TXT 01400140".into());
    has(format!("a.company.example. 3600 CNAME {origin}"));
    has(format!("_s._tcp.company.example. 3600 SRV 000000000019{origin}"));
    has(format!("company.example. 3600 SRV 000000000019{origin}"));
    has(format!("b.company.example. 3600 NAPTR 00010002017307{}0140{origin}", "5349502b443255"));
}

#[test]
fn names_take_their_origin_and_owner_from_what_stands_before() {
    let text = "a A 192.0.2.1\n  A 192.0.2.2 ; a second one\n\n$ORIGIN sub\nb 60 IN A 192.0.2.3\n@ IN 2h A 192.0.2.4\n$ORIGIN company.example.\nc.company.example. A 192.0.2.5";
    assert_eq!(
        with(text),
        [
            "a.company.example. 3600 A c0000201",
            "a.company.example. 3600 A c0000202",
            "c.company.example. 3600 A c0000205",
            "sub.company.example. 7200 A c0000204",
            "b.sub.company.example. 60 A c0000203",
        ]
    );
}

#[test]
fn parentheses_quotes_comments_and_escapes() {
    let text = "a TXT ( \"one ; two\" ; three\n \"( four\"\n five\\;six ) ; end\n\\097b TXT \"\\\"\\065\"\nc ( A 192.0.2.1 )\nx\\.y MX ( 10\n y.example. )\n";
    assert_eq!(
        with(text),
        [
            "a.company.example. 3600 TXT 096f6e65203b2074776f06 2820666f757208 666976653b736978"
                .replace(' ', "")
                .replace("example.3600TXT", "example. 3600 TXT "),
            "ab.company.example. 3600 TXT 022241".into(),
            "c.company.example. 3600 A c0000201".into(),
            "x\\.y.company.example. 3600 MX 000a0179076578616d706c6500".into(),
        ]
    );
}

#[test]
fn types_of_all_kinds_are_read() {
    let text = r#"
a CAA 0 issue "ca.example"
a TYPE65280 \# 3 ab cd ef
a A \# 4 c0000201
a SSHFP 1 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
a TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
a HTTPS 1 . alpn=h2
a NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:a@example!" .
a HINFO cpu os
a RP admin a
a DNSKEY 257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ==
1.2.0.192 PTR a
"#;
    let kinds: Vec<String> = with(text).iter().map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect();
    assert_eq!(kinds, ["PTR", "A", "HINFO", "RP", "NAPTR", "SSHFP", "DNSKEY", "TLSA", "HTTPS", "CAA", "TYPE65280"]);
}

#[test]
fn a_number_is_no_type() {
    assert_eq!(fault("a 60 61 A 192.0.2.1"), "4:6 61 is no type of record");
}

#[test]
fn without_ttls_the_last_one_holds_and_else_the_soas_minimum() {
    let text = "@ SOA ns.example. admin 1 1h 15m 2w 5m\n NS ns.example.\na 60 A 192.0.2.1\nb A 192.0.2.2\n";
    assert_eq!(
        records(text),
        [
            "company.example. 300 NS 026e73076578616d706c6500",
            "a.company.example. 60 A c0000201",
            "b.company.example. 60 A c0000202"
        ]
    );
}

#[test]
fn files_include_others_beside_them() {
    let main = format!("{HEAD}$INCLUDE hosts sub\na A 192.0.2.1\n$INCLUDE more\n A 192.0.2.3\n");
    let contents = load_files(&[
        ("dir/zone", &main),
        ("dir/hosts", "@ A 192.0.2.9\nx A 192.0.2.2\n$ORIGIN gone\n"),
        ("dir/more", "m 5 A 192.0.2.4\n"),
    ]);
    assert!(contents.is_err(), "a TTL must be said in each file");
    let contents = load_files(&[
        ("dir/zone", &main),
        ("dir/hosts", "$TTL 7\n@ A 192.0.2.9\nx A 192.0.2.2\n$ORIGIN gone\n"),
        ("dir/more", "m 5 A 192.0.2.4\n"),
    ]);
    let mut shown = shown(contents.unwrap_or_else(|errors| panic!("{errors}")));
    shown.remove(0);
    assert_eq!(
        shown,
        [
            "a.company.example. 3600 A c0000201",
            "a.company.example. 3600 A c0000203",
            "m.company.example. 5 A c0000204",
            "sub.company.example. 7 A c0000209",
            "x.sub.company.example. 7 A c0000202",
        ]
    );
    let errors = load_files(&[("zone", &format!("{HEAD}$INCLUDE zone\n"))]).err().unwrap().to_string();
    assert!(errors.contains("too many files that include each other"), "{errors}");
    let errors = load_files(&[("zone", &format!("{HEAD}$INCLUDE nothing\n"))]).err().unwrap().to_string();
    assert!(errors.contains("zone:4:10") && errors.contains("cannot read nothing"), "{errors}");
}

/// What is said of a zone, without its frame: `line:column message`.
fn faults(text: &str) -> Vec<String> {
    let errors = load(text).err().unwrap_or_else(|| panic!("no fault in:\n{text}"));
    let rendered = errors.to_string();
    let mut found = Vec::new();
    for report in rendered.split("\n\n") {
        let message = report.lines().next().unwrap().strip_prefix("error: ").unwrap_or_else(|| panic!("{report}"));
        let at = report.lines().find_map(|line| line.trim().strip_prefix("--> zone:"));
        found.push(at.map_or(message.to_owned(), |at| format!("{at} {message}")));
    }
    assert_eq!(found.len(), errors.count());
    found
}

/// Behind three good lines.
fn fault(text: &str) -> String {
    let faults = faults(&format!("{HEAD}{text}\n"));
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults[0].clone()
}

#[test]
fn all_that_cannot_be_read_is_told_at_once_with_its_place() {
    let text = "$TTL 1x\na A 192.0.2.256\nb AAAA 192.0.2.1\nc MX mail\nd BAD 1\n$GENERATE 1-2 x A 1\ne TXT \"open\nf A 192.0.2.1 )\ng.elsewhere. A 192.0.2.1\n  A 192.0.2.2\nh CH A 192.0.2.1\n\
                i OPT x\nj RRSIG x\nk\nl..m A 192.0.2.1\nn 3000000000 A 192.0.2.1\no TXT ( a\nb";
    let expected = [
        "4:6 1x is no time",
        "5:5 192.0.2.256 is no address for A",
        "6:8 192.0.2.1 is no address for AAAA",
        "7:",
        "8:3 BAD is no type of record",
        "9:1 $GENERATE is not known",
        "10:7 this quote is not closed on its line",
        "11:15 nothing was opened that this parenthesis could close",
        "12:1 g.elsewhere. is not in the zone company.example.",
        "14:3 the class CH is not served, only IN",
        "15:3 OPT is no record of a zone file",
        "16:3 RRSIG is no record of a zone file",
        "17:1 a record needs a type and data",
        "18:1 l..m is no name: a name has no empty labels",
        "19:3 a TTL of 3000000000 seconds is more than there can be",
        "20:7 this parenthesis is never closed",
    ];
    let found = faults(&format!("{HEAD}{text}"));
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found} is not {expected}");
    }
}

#[test]
fn a_zone_must_be_whole() {
    assert_eq!(faults("  A 192.0.2.1\n"), ["1:3 it is not said whose record this is"]);
    assert_eq!(
        faults("$TTL 1h\na A 192.0.2.1\n"),
        ["zone: the zone company.example. has no SOA record", "zone: the zone company.example. has no NS record"]
    );
    assert_eq!(
        faults("$TTL 1h\n@ SOA ns.example. admin 1 1h 15m 2w 5m\n"),
        ["zone: the zone company.example. has no NS record"]
    );
    assert_eq!(
        fault("@ SOA ns.example. admin 2 1h 15m 2w 5m"),
        "4:3 a zone has one SOA record, and this is the second"
    );
    assert_eq!(
        fault("a SOA ns.example. admin 2 1h 15m 2w 5m"),
        "4:3 a SOA record stands at the zone's own name, not at a.company.example."
    );
    let soa = |data: &str| faults(&format!("$TTL 1h\n@ NS ns.example.\n@ SOA ns.example. {data}\n"));
    assert_eq!(soa("admin 1 1h 15m 59m 5m"), ["3:3 the SOA's expire (3540) must not be less than its refresh (3600)"]);
    assert_eq!(soa("admin 1 0 15m 1h 5m"), ["3:3 the SOA's refresh and retry must be more than 0"]);
    assert_eq!(soa("admin@company.example. 1 1h 15m 2w 5m"), ["3:3 the SOA's mailbox has an `@`"]);
}

#[test]
fn records_that_cannot_stand_together_are_told() {
    assert_eq!(
        fault("a CNAME b.example.\na A 192.0.2.1"),
        "4:3 a.company.example. is a CNAME and has other records too"
    );
    assert_eq!(fault("a CNAME b.example.\na CNAME c.example."), "5:3 a.company.example. has more than one CNAME");
    assert_eq!(fault("@ CNAME b.example."), "4:3 company.example. is a CNAME and has other records too");
    assert_eq!(fault("a A 192.0.2.1\nA A 192.0.2.1"), "5:3 a.company.example. A says the same twice");
    assert_eq!(
        fault("a 60 A 192.0.2.1\na 61 A 192.0.2.2"),
        "5:6 the records of a.company.example. A have different TTLs, 60 and 61"
    );
    assert_eq!(fault("a CNAME b\nb CNAME c\nc CNAME a"), "4:3 the CNAME at a.company.example. leads back to itself");
    assert_eq!(fault("a CNAME a"), "4:3 the CNAME at a.company.example. leads back to itself");
    assert_eq!(
        fault("a DNAME b.example.\nx.a A 192.0.2.1"),
        "4:3 there are names below a.company.example., which is a DNAME"
    );
    assert_eq!(fault("*.a NS b.example."), "4:5 a wildcard cannot be delegated");
    assert_eq!(fault("*.a DNAME b.example."), "4:5 a wildcard cannot be a DNAME");
    assert_eq!(fault("a DS 1 13 2 0123"), "4:3 a.company.example. has a DS record and is no delegation");
    assert_eq!(
        fault("a NS b.example.\nx.a TXT x"),
        "5:5 x.a.company.example. TXT is never answered: a.company.example. is delegated to other servers"
    );
    assert_eq!(
        fault("a NS b.example.\na MX 10 b.example."),
        "5:3 a.company.example. MX is never answered: a.company.example. is delegated to other servers"
    );
}

#[test]
fn names_that_are_pointed_to_have_addresses() {
    assert_eq!(fault("a NS ns.a"), "4:3 ns.a.company.example. has no address here, and can only be asked for its own");
    assert_eq!(fault("a NS a"), "4:3 a.company.example. has no address here, and can only be asked for its own");
    assert_eq!(fault("@ MX 10 mail"), "4:3 MX points to mail.company.example., which has no address");
    assert_eq!(fault("@ NS ns"), "4:3 NS points to ns.company.example., which has no address");
    assert_eq!(fault("_a._tcp SRV 1 1 1 host"), "4:9 SRV points to host.company.example., which has no address");
    assert_eq!(fault("@ MX 10 m\nm CNAME x.example."), "4:3 MX points to m.company.example., which is a CNAME");
    assert_eq!(fault("@ MX 10 192.0.2.1"), "4:3 MX needs a name, not an address");
    let twice = load(&format!("{HEAD}@ MX 10 mail.company.example\n")).err().unwrap().to_string();
    assert!(twice.contains("is the last dot missing?"), "{twice}");
    // These do.
    with(
        "@ MX 10 x.w\n*.w A 192.0.2.1\na NS ns.a\nns.a A 192.0.2.2\nb NS ns.a\n@ SRV 1 1 1 .\n@ MX 0 .\n@ MX 5 y.z\nz DNAME elsewhere.example.\n",
    );
}

#[test]
fn an_error_looks_like_those_of_the_configuration() {
    let errors = load(&format!("{HEAD}a CNAME b.example.\na A 192.0.2.1\n")).err().unwrap();
    let expected = "\
error: a.company.example. is a CNAME and has other records too
 --> zone:4:3
  |
4 | a CNAME b.example.
  |   ^^^^^^^^^^^^^^^^
  |
 ::: zone:5:3
  |
5 | a A 192.0.2.1
  |   ----------- the other record
  |
  = help: an alias has nothing beside it (RFC 2181 10.1): take one of them away";
    let shown = errors.to_string();
    assert_eq!(shown.trim_end(), expected, "\n{shown}");
}

#[test]
fn a_file_that_is_no_zone_is_told_shortly() {
    let text: String = (0..5000).map(|n| format!("line {n} of something else\n")).collect();
    let errors = load(&text).err().unwrap();
    assert_eq!(errors.count(), 1000);
    assert!(errors.to_string().lines().count() < 600 && errors.to_string().ends_with("... and 950 more errors"));
}
