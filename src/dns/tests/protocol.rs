//! The message around the answer: what is odd is answered all the same (RFC 8906), and no more than fits.

use super::*;

fn lab() -> Lab {
    Lab::new(&[("company.example.", ZONE)])
}

fn lab_with(settings: Settings) -> Lab {
    Lab::with(&[("company.example.", ZONE)], &[], settings)
}

/// Codes and data.
type Options = Vec<(u16, Vec<u8>)>;

/// The OPT record of a message: its size, the TTL field, and its options.
fn opt(message: &[u8]) -> Option<(u16, u32, Options)> {
    let record = Message::from_octets(message).unwrap().opt()?;
    let options = record.opt().iter::<domain::base::opt::UnknownOptData<&[u8]>>();
    let options =
        options.map(|option| option.unwrap()).map(|option| (option.code().to_int(), option.as_slice().to_vec()));
    let ttl = u32::from(record.rcode(Message::from_octets(message).unwrap().header()).to_int() >> 4) << 24
        | u32::from(record.version()) << 16
        | if record.dnssec_ok() { 0x8000 } else { 0 };
    Some((record.udp_payload_size(), ttl, options.collect()))
}

#[test]
fn what_is_no_query_is_not_answered() {
    let mut lab = lab();
    let asked = query("company.example.", "SOA");
    for long in 0..12 {
        assert_eq!(lab.send(&asked[..long], Transport::Udp).0, Outcome::Nothing(Silence::Short));
    }
    let mut response = asked;
    response[2] |= 0x80;
    assert_eq!(lab.send(&response, Transport::Udp).0, Outcome::Nothing(Silence::Response));
    assert_eq!(lab.scratch.counts.dropped(Silence::Response), 1);
    assert_eq!(lab.scratch.counts.dropped(Silence::Short), 12);
}

/// RFC 8906 8.1: without EDNS.
#[test]
fn odd_queries_without_edns_are_answered() {
    let mut lab = lab();
    assert!(lab.ask("company.example.", "SOA").starts_with("NOERROR aa rd\nan"));
    // 8.1.2: an unknown type.
    assert!(lab.ask("company.example.", "TYPE1000").starts_with("NOERROR aa rd\nns company.example. 300 SOA"));
    // 8.1.3: CD, AD, the reserved bit, all flags: none comes back but RD.
    for flags in [[0x01, 0x10], [0x00, 0x20], [0x00, 0x40], [0x07, 0xf0], [0x00, 0x00]] {
        let mut asked = query("company.example.", "SOA");
        asked[2..4].copy_from_slice(&flags);
        let rd = if flags[0] & 1 == 1 { " rd" } else { "" };
        let shown = show(&lab.reply(&asked));
        assert!(shown.starts_with(&format!("NOERROR aa{rd}\nan company.example.")), "{shown}");
    }
    // 8.1.4: unknown opcodes, notifications and updates among them.
    for opcode in 1..16_u8 {
        let mut asked = query("company.example.", "SOA");
        asked[2] = opcode << 3;
        let reply = lab.reply(&asked);
        assert_eq!((show(&reply).as_str(), reply.len(), reply[2] >> 3 & 15), ("NOTIMP", 12, opcode));
    }
    // 8.1.5 is TCP.
    assert!(lab.ask_tcp("company.example.", "SOA").starts_with("NOERROR aa rd\nan"));
}

/// RFC 8906 8.2: with EDNS.
#[test]
fn odd_queries_with_edns_are_answered_with_edns() {
    let mut lab = lab();
    let soa = query("company.example.", "SOA");
    let mut ask = |size, ttl, options: &[(u16, &[u8])]| {
        let reply = lab.reply(&edns(soa.clone(), size, ttl, options));
        (show(&reply).lines().next().unwrap().to_owned(), opt(&reply).unwrap())
    };
    let ok = "NOERROR aa rd".to_owned();
    let plain = (1232, 0, vec![]);
    // 8.2.1 to 8.2.7: minimal, unknown version, unknown option, unknown flag, version and option, version and flag, DO.
    assert_eq!(ask(4096, 0, &[]), (ok.clone(), plain.clone()));
    let (code, (_, ttl, options)) = ask(4096, 100 << 16, &[]);
    assert_eq!((code.as_str(), ttl, options), ("NOERROR rd", 1 << 24, vec![]));
    assert_eq!(ask(4096, 0, &[(100, b"")]), (ok.clone(), plain.clone()));
    assert_eq!(ask(4096, 0x40, &[]), (ok.clone(), plain.clone()));
    assert_eq!(ask(4096, 100 << 16, &[(100, b"xyz")]).1.1, 1 << 24);
    assert_eq!(ask(4096, 100 << 16 | 0x40, &[]).1.1, 1 << 24);
    assert_eq!(ask(4096, 0x8000, &[]), (ok.clone(), (1232, 0x8000, vec![])));
    // 8.2.8: several options that are known.
    let known: &[(u16, &[u8])] = &[(3, b""), (8, &[0, 1, 24, 0, 192, 0, 2]), (9, b""), (10, b"12345678")];
    assert_eq!(ask(0, 0, known), (ok, (1232, 0, vec![(8, vec![0, 1, 24, 0, 192, 0, 2])])));
    // No SOA in what is not understood.
    let reply = lab.reply(&edns(soa.clone(), 4096, 1 << 16, &[]));
    assert_eq!(reply[6..10], [0; 4]);
}

#[test]
fn what_cannot_be_read_is_a_format_error_and_keeps_what_could() {
    let mut lab = lab();
    let soa = query("company.example.", "SOA");
    let with = |at: usize, value: u8| {
        let mut message = soa.clone();
        message[at] = value;
        message
    };
    let subnet = |option: &[u8]| edns(soa.clone(), 1232, 0, &[(8, option)]);
    let messages = [
        ("two questions", with(5, 2)),
        ("an answer that is not there", with(7, 1)),
        ("an authority that is not there", with(9, 1)),
        ("an additional that is not there", with(11, 1)),
        ("a name cut off", soa[..20].to_vec()),
        ("no type", soa[..soa.len() - 3].to_vec()),
        ("a label of 64", with(12, 64)),
        ("a pointer to itself", [&soa[..12], &[0xc0, 12, 0, 1, 0, 1]].concat()),
        ("no question", [&[0, 1, 1, 0, 0, 0][..], &[0; 6]].concat()),
        ("two OPT", edns(edns(soa.clone(), 1232, 0, &[]), 1232, 0, &[])),
        ("OPT of a name", {
            let mut message = edns(soa.clone(), 1232, 0, &[]);
            message.splice(soa.len()..=soa.len(), [1, b'x', 0]);
            message
        }),
        ("an option cut off", {
            let mut message = edns(soa.clone(), 1232, 0, &[(3, b"abc")]);
            let at = soa.len() + 14;
            message[at] = 9;
            message
        }),
        ("a cookie of 9 bytes", edns(soa.clone(), 1232, 0, &[(10, &[0; 9])])),
        ("a subnet with bits behind its prefix", subnet(&[0, 1, 23, 0, 192, 0, 3])),
        ("a subnet with too many bytes", subnet(&[0, 1, 24, 0, 192, 0, 2, 0])),
        ("a subnet with too few", subnet(&[0, 1, 24, 0, 192, 0])),
        ("a subnet with a scope", subnet(&[0, 1, 24, 1, 192, 0, 2])),
        ("a subnet of no family", subnet(&[0, 3, 0, 0])),
        ("a subnet longer than addresses", subnet(&[0, 1, 33, 0, 192, 0, 2, 0, 0])),
        ("a question for OPT", query("company.example.", "OPT")),
        ("an AXFR by UDP", query("company.example.", "AXFR")),
    ];
    for (what, message) in messages {
        let reply = lab.reply(&message);
        assert!(show(&reply).starts_with("FORMERR"), "{what}: {}", show(&reply));
        assert_eq!(reply[..2], message[..2], "{what}");
    }
    assert_eq!(lab.scratch.counts.get(Count::Formerr), 21);
    // The question comes back if there was one, and what is behind the message is nobody's.
    let reply = lab.reply(&edns(soa.clone(), 1232, 0, &[(10, &[0; 9])]));
    assert_eq!(reply[12..soa.len()], soa[12..]);
    assert!(opt(&reply).is_some());
    assert!(show(&lab.reply(&[&soa[..], b"garbage"].concat())).starts_with("NOERROR"));
}

#[test]
fn other_classes_are_refused_and_any_class_is_in() {
    let mut lab = lab();
    for class in [Class::HS, Class::CH, Class::from_int(1000)] {
        assert_eq!(show(&lab.reply(&query_of("company.example.", "SOA", class))), "REFUSED rd");
    }
    assert!(show(&lab.reply(&query_of("company.example.", "SOA", Class::ANY))).starts_with("NOERROR aa"));
}

#[test]
fn the_server_tells_of_itself_only_what_it_is_told_to() {
    let mut hidden = lab();
    for name in ["version.bind.", "version.server.", "id.server.", "hostname.bind.", "x.bind."] {
        assert_eq!(show(&hidden.reply(&query_of(name, "TXT", Class::CH))), "REFUSED rd", "{name}");
    }
    let mut told = lab_with(Settings { nsid: b"ns1.south".into(), version: "farside".into(), ..Settings::default() });
    let shown = show(&told.reply(&query_of("Version.Bind.", "TXT", Class::CH)));
    assert_eq!(shown, "NOERROR aa rd\nan Version.Bind. 0 TXT \"farside\"");
    assert!(show(&told.reply(&query_of("id.server.", "TXT", Class::CH))).ends_with("TXT \"ns1.south\""));
    assert_eq!(show(&told.reply(&query_of("id.server.", "A", Class::CH))), "NOERROR aa rd");
    assert_eq!(show(&told.reply(&query_of("other.bind.", "TXT", Class::CH))), "REFUSED rd");
    let asked = query("company.example.", "SOA");
    assert_eq!(opt(&told.reply(&edns(asked.clone(), 1232, 0, &[(3, b"")]))).unwrap().2, [(3, b"ns1.south".to_vec())]);
    // Only who asks gets it.
    assert_eq!(opt(&told.reply(&edns(asked, 1232, 0, &[]))).unwrap().2, []);
}

#[test]
fn a_message_is_never_longer_than_the_client_and_the_setting_allow() {
    let long = "x".repeat(250);
    let texts: String = (0..20).map(|n| format!("t TXT \"{n} {long}\"\n")).collect();
    let zone = format!("$TTL 60\n@ SOA ns.example. admin 1 1h 15m 2w 5m\n NS ns.example.\n{texts}");
    let mut lab = Lab::new(&[("company.example.", &zone)]);
    let asked = query("t.company.example.", "TXT");
    for (message, most) in
        [(asked.clone(), 512), (edns(asked.clone(), 4096, 0, &[]), 1232), (edns(asked.clone(), 100, 0, &[]), 512)]
    {
        let reply = lab.reply(&message);
        assert!(reply.len() <= most, "{}", reply.len());
        // Nothing of the set: a part of it is of no use.
        assert_eq!(show(&reply), "NOERROR aa tc rd");
    }
    assert_eq!(lab.scratch.counts.get(Count::Truncated), 3);
    let reply = lab.send(&asked, Transport::Tcp).1;
    assert_eq!(section(&show(&reply), "an").len(), 20);
    for size in 0..=5600 {
        let (outcome, reply) = lab.send_into(&edns(asked.clone(), 65535, 0, &[(10, &[1; 8])]), Transport::Tcp, size);
        match outcome {
            Outcome::Answer(_) => assert!(reply.len() <= size && size >= 12),
            outcome => assert_eq!((outcome, size < 64), (Outcome::Nothing(Silence::NoRoom), true)),
        }
    }
}

#[test]
fn additional_addresses_are_left_out_where_there_is_no_room_but_never_glue() {
    let long = ["x".repeat(60), "y".repeat(60)].join(".");
    let servers: String = (0..3).map(|n| format!("sub NS n{n}.{long}.sub\nn{n}.{long}.sub A 192.0.2.{n}\n")).collect();
    let hosts: String = (0..12).map(|n| format!("m{n}.{long} A 192.0.2.1{n}\n@ MX {n} m{n}.{long}\n")).collect();
    let zone = format!("$TTL 60\n@ SOA ns.example. admin 1 1h 15m 2w 5m\n NS ns.example.\n{servers}{hosts}");
    let mut lab = Lab::new(&[("company.example.", &zone)]);
    let shown = show(&lab.reply(&edns(query("company.example.", "MX"), 1232, 0, &[])));
    assert!(shown.starts_with("NOERROR aa tc rd"), "{shown}");
    let mut whole = 0;
    let referred = query("a.sub.company.example.", "A");
    for size in 40..700 {
        let (_, reply) = lab.send_into(&referred, Transport::Tcp, size);
        if !reply.is_empty() && reply[2] & 2 == 0 {
            let shown = show(&reply);
            assert_eq!((section(&shown, "ns").len(), section(&shown, "ar").len()), (3, 3), "{shown}");
            whole += 1;
        }
    }
    assert!(whole > 100 && whole < 500, "{whole}");
    let mut left_out = 0;
    let asked = query("company.example.", "MX");
    for size in 40..3000 {
        let (_, reply) = lab.send_into(&asked, Transport::Tcp, size);
        if !reply.is_empty() && reply[2] & 2 == 0 {
            let shown = show(&reply);
            assert_eq!(section(&shown, "an").len(), 12);
            left_out += usize::from(section(&shown, "ar").len() < 12);
        }
    }
    assert!(left_out > 100, "{left_out}");
}

#[test]
fn cookies_are_given_to_who_asks_for_them() {
    let cookies = Some(Cookies { secret: [7; 16], previous: None });
    let mut lab = lab_with(Settings { cookies, ..Settings::default() });
    let asked = query("company.example.", "SOA");
    let first = opt(&lab.reply(&edns(asked.clone(), 1232, 0, &[(10, b"12345678")]))).unwrap().2;
    assert_eq!((first.len(), first[0].0, first[0].1.len(), &first[0].1[..8]), (1, 10, 24, &b"12345678"[..]));
    let again = opt(&lab.reply(&edns(asked.clone(), 1232, 0, &[(10, &first[0].1)]))).unwrap().2;
    assert_eq!(again, first);
    assert_eq!(opt(&lab.reply(&edns(asked, 1232, 0, &[]))).unwrap().2, []);
    // RFC 7873 5.4: a query for a cookie alone.
    let reply = lab.reply(&edns([&[0, 1, 1, 0, 0, 0][..], &[0; 6]].concat(), 1232, 0, &[(10, b"12345678")]));
    assert_eq!((show(&reply).as_str(), opt(&reply).unwrap().2.len()), ("NOERROR rd", 1));
}

#[test]
fn a_flood_gets_few_answers_and_a_good_cookie_all_of_them() {
    let (cookies, rate_limit) =
        (Some(Cookies { secret: [7; 16], previous: None }), Some(RateLimit { per_second: 5, ..RateLimit::default() }));
    let mut lab = lab_with(Settings { cookies, rate_limit, ..Settings::default() });
    let asked = query("web.company.example.", "A");
    let flood = |lab: &mut Lab, message: &[u8]| {
        let mut seen = Vec::new();
        for _ in 0..20 {
            match lab.send(message, Transport::Udp) {
                (Outcome::Answer(reply), out) => seen.push((reply.rcode, out[2] & 2 != 0, out[7])),
                (outcome, _) => assert_eq!(outcome, Outcome::Nothing(Silence::RateLimited)),
            }
        }
        seen
    };
    let seen = flood(&mut lab, &asked);
    assert_eq!(seen[..5], [(0, false, 1); 5]);
    // Of fifteen more every second one says: come by TCP.
    assert_eq!(seen[5..], [(0, true, 0); 7]);
    assert_eq!((lab.scratch.counts.get(Count::Slipped), lab.scratch.counts.dropped(Silence::RateLimited)), (7, 8));
    let tcp = (0..20).filter(|_| !lab.send(&asked, Transport::Tcp).1.is_empty()).count();
    assert_eq!(tcp, 20);
    // With a client's cookie alone they say so; the cookie that comes with it opens the door.
    let fresh = edns(asked.clone(), 1232, 0, &[(10, b"12345678")]);
    let seen = flood(&mut lab, &fresh);
    assert!(!seen.is_empty() && seen.iter().all(|answer| *answer == (23, false, 0)), "{seen:?}");
    let reply = (0..2).map(|_| lab.send(&fresh, Transport::Udp).1).find(|reply| !reply.is_empty()).unwrap();
    let cookie = opt(&reply).unwrap().2[0].1.clone();
    assert_eq!(flood(&mut lab, &edns(asked.clone(), 1232, 0, &[(10, &cookie)])), [(0, false, 1); 20]);
    // Names that are not there share one measure, others have their own.
    let nothing = |n: u32| query(&format!("x{n}.company.example."), "A");
    let answered = (0..20).filter(|n| matches!(lab.send(&nothing(*n), Transport::Udp).0, Outcome::Answer(_))).count();
    assert_eq!(answered, 5 + 7);
    assert!(!lab.send(&query("ns1.company.example.", "A"), Transport::Udp).1.is_empty());
    lab.now_ms += 1000;
    assert_eq!(flood(&mut lab, &asked)[..5], [(0, false, 1); 5]);
}

#[test]
fn transfers_are_for_tcp_and_zones_of_ours() {
    let mut lab = lab();
    let (outcome, _) = lab.send(&query("company.example.", "AXFR"), Transport::Tcp);
    assert_eq!(outcome, Outcome::Transfer(TransferAsked { zone: 0, since: None }));
    assert_eq!(lab.ask_tcp("www.company.example.", "AXFR"), "NOTAUTH rd");
    assert_eq!(lab.ask_tcp("elsewhere.example.", "AXFR"), "NOTAUTH rd");
    let mut ixfr = query("company.example.", "IXFR");
    assert_eq!(show(&lab.send(&ixfr, Transport::Tcp).1), "FORMERR rd");
    ixfr[9] = 1;
    ixfr.extend_from_slice(&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 24, 0xc0, 12, 0xc0, 12, 0, 0, 0, 77]);
    ixfr.extend_from_slice(&[0; 16]);
    assert_eq!(lab.send(&ixfr, Transport::Tcp).0, Outcome::Transfer(TransferAsked { zone: 0, since: Some(77) }));
    // By UDP the SOA says whether it is worth coming by TCP (RFC 1995 2).
    assert!(show(&lab.reply(&ixfr)).starts_with("NOERROR aa rd\nan company.example. 3600 SOA"));
}

#[test]
fn a_signed_message_is_given_back_to_be_checked() {
    let mut lab = lab();
    let asked = query("company.example.", "SOA");
    let mut signed = asked.clone();
    signed[11] = 1;
    signed.extend_from_slice(&[3, b'k', b'e', b'y', 0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 1, 9]);
    assert_eq!(lab.send(&signed, Transport::Udp).0, Outcome::Signed(asked.len()));
    // It is the last record or it is none (RFC 8945 5.1).
    assert!(show(&lab.reply(&edns(signed, 1232, 0, &[]))).starts_with("FORMERR"));
}
