//! Conversations with servers that are written down here, honest and other ones.

use super::*;
use crate::config::Login;
use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{Read, Write};

const LONG: &[u8] = include_bytes!("../testdata/long.der");
const SHORT: &[u8] = include_bytes!("../testdata/short.der");
const KEY: &[u8] = include_bytes!("../testdata/server.key.der");
const ADDRESS: &str = "10.0.0.11:8080";

fn probe(kind: &CheckKind, protocol: Protocol) -> Box<dyn Probe> {
    new(kind, ADDRESS.parse().unwrap(), protocol, &tls::config(), [0x5a; 16]).unwrap().1
}

fn login() -> Option<Login> {
    Some(Login { user: "check".to_string(), password: "open \"sesame\\".to_string() })
}

fn http(tls: bool) -> CheckKind {
    CheckKind::Http { tls, path: "/health".to_string(), host: None, status: 200..=399 }
}

fn dns(name: &str) -> CheckKind {
    CheckKind::Dns { name: name.to_string() }
}

/// Lets the server say `said`, whole. Returns where that leads and all that the probe has said.
fn talk(kind: &CheckKind, said: &[u8]) -> (Step, String) {
    let (step, out) = talk_in_pieces(kind, Protocol::Tcp, &[said]);
    (step, String::from_utf8_lossy(&out).into_owned())
}

fn talk_in_pieces(kind: &CheckKind, protocol: Protocol, said: &[&[u8]]) -> (Step, Vec<u8>) {
    let mut probe = probe(kind, protocol);
    let mut out = Vec::new();
    let mut step = probe.start(&mut out);
    for piece in said {
        if step != Step::More {
            break;
        }
        step = probe.receive(piece, &mut out);
    }
    (step, out)
}

fn refusal(kind: &CheckKind, said: &[u8]) -> String {
    match talk(kind, said).0 {
        Step::Unhealthy(reason) => reason,
        step => panic!("{step:?} to {:?}", String::from_utf8_lossy(said)),
    }
}

#[test]
fn pop3_without_a_login() {
    let kind = CheckKind::Pop3 { login: None };
    assert_eq!(talk(&kind, b"+OK ready\r\n"), (Step::Healthy, "QUIT\r\n".to_string()));
    assert_eq!(talk(&kind, b"+OK\n").0, Step::Healthy, "bare");
    assert_eq!(talk(&kind, b"+OK not yet").0, Step::More);
    assert_eq!(refusal(&kind, b"-ERR [SYS/TEMP] too busy\r\n"), "greets with \"-ERR [SYS/TEMP] too busy\"");
    assert_eq!(refusal(&kind, b"+OKAY\r\n"), "greets with \"+OKAY\"");
    assert_eq!(refusal(&kind, b"\x00\xff\x1b[2J\r\n"), "greets with \"???[2J\"", "nothing that a terminal obeys");
}

#[test]
fn pop3_with_a_login() {
    let kind = CheckKind::Pop3 { login: login() };
    let (step, said) = talk(&kind, b"+OK ready\r\n+OK\r\n+OK 3 messages\r\n");
    assert_eq!((step, said.as_str()), (Step::Healthy, "USER check\r\nPASS open \"sesame\\\r\nQUIT\r\n"));
    assert_eq!(refusal(&kind, b"+OK\r\n+OK\r\n-ERR bad\r\n"), "refuses the login with \"-ERR bad\"");
    assert_eq!(talk(&kind, b"+OK ready\r\n+OK\r\n").0, Step::More);
    let echo = refusal(&kind, b"+OK\r\n+OK\r\n-ERR open \"sesame\\ is wrong\r\n");
    assert_eq!(echo, "refuses the login with an answer that repeats the password");
}

#[test]
fn imap() {
    let kind = CheckKind::Imap { login: None };
    assert_eq!(talk(&kind, b"* OK [CAPABILITY IMAP4rev1] hi\r\n"), (Step::Healthy, "a2 LOGOUT\r\n".to_string()));
    assert_eq!(talk(&kind, b"* ok\r\n").0, Step::Healthy);
    assert_eq!(refusal(&kind, b"* BYE overloaded\r\n"), "greets with \"* BYE overloaded\"");
    assert_eq!(refusal(&kind, b"+OK pop3 here\r\n"), "greets with \"+OK pop3 here\"");

    let kind = CheckKind::Imap { login: login() };
    let (step, said) = talk(&kind, b"* OK hi\r\n* CAPABILITY IMAP4rev1\r\na1 OK in\r\n");
    assert_eq!(step, Step::Healthy);
    assert_eq!(said, "a1 LOGIN \"check\" \"open \\\"sesame\\\\\"\r\na2 LOGOUT\r\n");
    assert_eq!(talk(&kind, b"* PREAUTH hi\r\n"), (Step::Healthy, "a2 LOGOUT\r\n".to_string()));
    assert_eq!(refusal(&kind, b"* OK hi\r\na1 NO no\r\n"), "refuses the login with \"a1 NO no\"");
    assert_eq!(refusal(&kind, b"* OK hi\r\n* BYE now\r\n"), "refuses the login with \"* BYE now\"");
}

#[test]
fn smtp() {
    let kind = CheckKind::Smtp { helo: "lb.example".to_string() };
    let (step, said) = talk(&kind, b"220-wait\r\n220 mx ESMTP\r\n250-mx\r\n250-SIZE 1\r\n250 HELP\r\n");
    assert_eq!((step, said.as_str()), (Step::Healthy, "EHLO lb.example\r\nQUIT\r\n"));
    assert_eq!(talk(&kind, b"220-wait\r\n").1, "", "not before the greeting has ended");
    assert_eq!(refusal(&kind, b"554 go away\r\n"), "greets with \"554 go away\"");
    assert_eq!(refusal(&kind, b"220-wait\r\n421 too busy\r\n"), "greets with \"421 too busy\"");
    assert_eq!(refusal(&kind, b"220 mx\r\n502 what\r\n"), "answers EHLO with \"502 what\"");
    assert_eq!(refusal(&kind, b"22\r\n"), "greets with \"22\"");
    assert_eq!(refusal(&kind, b"2200 x\r\n"), "greets with \"2200 x\"");
}

#[test]
fn http_is_judged_by_its_status() {
    let kind = http(false);
    let (step, said) = talk(&kind, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd");
    assert_eq!(step, Step::Healthy);
    assert_eq!(
        said,
        "GET /health HTTP/1.1\r\nHost: 10.0.0.11:8080\r\nUser-Agent: farside\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(talk(&kind, b"HTTP/1.0 302 Found\r\n\r\n").0, Step::Healthy);
    assert_eq!(talk(&kind, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204\r\n\r\n").0, Step::Healthy);
    assert_eq!(talk(&kind, b"HTTP/1.1 200 OK\r\nContent-").0, Step::More, "half a head is no answer");
    assert_eq!(refusal(&kind, b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), "answers 503 \"Service Unavailable\"");
    assert_eq!(refusal(&kind, b"HTTP/1.1 101 x\r\n\r\n"), "answers 101 \"x\"");
    assert_eq!(refusal(&kind, b"SSH-2.0-x\r\n"), "answers something that is not HTTP: \"SSH-2.0-x\"");
    let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 40_000]].concat();
    assert_eq!(refusal(&kind, &endless), "sent more than 32768 bytes without the end of the head");
}

#[test]
fn http_names_the_host_that_it_asks() {
    let host = |host: Option<&str>, address: &str, tls| {
        let mut out = Vec::new();
        http::Http::new("/", host, address.parse().unwrap(), tls, 200..=399).start(&mut out);
        let text = String::from_utf8(out).unwrap();
        text.lines().nth(1).unwrap().to_string()
    };
    assert_eq!(host(None, "10.0.0.1:80", false), "Host: 10.0.0.1");
    assert_eq!(host(None, "[fd00::1]:443", true), "Host: [fd00::1]");
    assert_eq!(host(None, "[fd00::1]:443", false), "Host: [fd00::1]:443");
    assert_eq!(host(Some("www.example"), "10.0.0.1:8080", false), "Host: www.example");
}

/// The answer to the query that a probe has sent: `flags`, then so many records that `records` holds.
fn dns_answer(query: &[u8], flags: u16, count: u16, records: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(&flags.to_be_bytes());
    answer[6..8].copy_from_slice(&count.to_be_bytes());
    answer.extend_from_slice(records);
    answer
}

const A_RECORD: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];

fn dns_query(name: &str) -> Vec<u8> {
    talk_in_pieces(&dns(name), Protocol::Udp, &[]).1
}

fn ask_dns(answers: &[&[u8]]) -> Step {
    talk_in_pieces(&dns("mail.example."), Protocol::Udp, answers).0
}

#[test]
fn dns_asks_for_an_address() {
    let query = dns_query("mail.example.");
    assert_eq!(query, b"\x5a\x5a\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04mail\x07example\x00\x00\x01\x00\x01");
    assert_eq!(dns_query("mail.example"), query, "the last dot may be left out");
    assert_eq!(dns_query(".")[12..], [0, 0, 1, 0, 1], "the root");
    for bad in ["a..b", &"x".repeat(64), &"abcdefg.".repeat(40)] {
        assert!(dns::Dns::new(bad, 1, false).is_err());
    }
}

#[test]
fn dns_takes_any_well_formed_answer_to_its_query() {
    let query = dns_query("mail.example.");
    assert_eq!(ask_dns(&[&dns_answer(&query, 0x8180, 1, &A_RECORD)]), Step::Healthy);
    assert_eq!(ask_dns(&[&dns_answer(&query, 0x8183, 0, &[])]), Step::Healthy, "NXDOMAIN");
    assert_eq!(ask_dns(&[&dns_answer(&query, 0x8380, 3, &A_RECORD)]), Step::Healthy, "cut short, and says so");
    let capital =
        dns_answer(&query.iter().map(|b| if *b == b'm' { b'M' } else { *b }).collect::<Vec<_>>(), 0x8180, 0, &[]);
    assert_eq!(ask_dns(&[&capital]), Step::Healthy);

    let unhealthy = |flags, count, records: &[u8]| ask_dns(&[&dns_answer(&query, flags, count, records)]);
    assert_eq!(unhealthy(0x8182, 0, &[]), Step::Unhealthy("answers SERVFAIL".to_string()));
    assert_eq!(unhealthy(0x8185, 0, &[]), Step::Unhealthy("answers REFUSED".to_string()));
    assert_eq!(unhealthy(0x8180, 1, &A_RECORD[..15]), Step::Unhealthy("answers with a malformed message".to_string()));
    assert_eq!(unhealthy(0x8180, 65535, &A_RECORD), Step::Unhealthy("answers with a malformed message".to_string()));
    assert_eq!(
        ask_dns(&[&[0x5a, 0x5a, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]]),
        Step::Unhealthy("answers FORMERR".to_string())
    );
}

#[test]
fn dns_does_not_take_others_answers_for_its_own() {
    let query = dns_query("mail.example.");
    let good = dns_answer(&query, 0x8180, 1, &A_RECORD);
    let other_id = [&[1, 2], &good[2..]].concat();
    let other_name = dns_answer(&[&query[..2], &dns_query("nail.example.")[2..]].concat(), 0x8180, 0, &[]);
    for foreign in [&other_id, &other_name, &query, &b"".to_vec(), &b"\x5a".to_vec()] {
        assert_eq!(ask_dns(&[foreign]), Step::More);
        assert_eq!(ask_dns(&[foreign, &good]), Step::Healthy, "the right one comes after it");
    }
}

#[test]
fn dns_over_tcp_has_lengths() {
    let query = dns_query("mail.example.");
    let (_, framed) = talk_in_pieces(&dns("mail.example."), Protocol::Tcp, &[]);
    assert_eq!(framed, [&(query.len() as u16).to_be_bytes()[..], &query].concat());
    let answer = dns_answer(&query, 0x8180, 1, &A_RECORD);
    let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
    let bytes: Vec<&[u8]> = framed.chunks(1).collect();
    assert_eq!(talk_in_pieces(&dns("mail.example."), Protocol::Tcp, &bytes).0, Step::Healthy);
    assert_eq!(refusal(&dns("mail.example."), b"\0\x04abcd"), "answers something that does not match the query");
}

#[test]
fn icmp_knows_its_own_answer() {
    for (v6, request, reply) in [(false, 8, 0), (true, 128, 129)] {
        let mut probe = icmp::Icmp::new(v6, *b"0123456789abcdef");
        let mut out = Vec::new();
        assert_eq!(probe.start(&mut out), Step::More);
        assert_eq!((out.len(), out[0]), (24, request));
        if !v6 {
            let sum: u32 = out.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "it sums up to all ones");
        }
        assert_eq!(probe.receive(&out.clone(), &mut out), Step::More, "the request itself, as loopback shows it");
        let mut answer = out.clone();
        answer[0] = reply;
        // The kernel may have changed the identifier.
        answer[4] ^= 0xff;
        let mut foreign = answer.clone();
        *foreign.last_mut().unwrap() ^= 1;
        assert_eq!(probe.receive(&foreign, &mut out), Step::More);
        assert_eq!(probe.receive(&answer[..23], &mut out), Step::More);
        assert_eq!(probe.receive(&answer, &mut out), Step::Healthy);
    }
    assert_eq!(icmp::strip_ipv4(&[0x45; 24]).map(<[u8]>::len), Some(4));
    assert_eq!(icmp::strip_ipv4(&[0x46; 20]), None);
    assert_eq!(icmp::strip_ipv4(&[0x40; 24]), None);
    assert_eq!(icmp::strip_ipv4(&[]), None);
}

fn tls_server(certificate: &'static [u8], versions: &[&'static rustls::SupportedProtocolVersion]) -> ServerConnection {
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], PrivateKeyDer::try_from(KEY).unwrap())
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// Joins an https probe and a server in memory, `piece` bytes at a time. Returns the request that the server has read too.
fn over_tls(mut server: ServerConnection, answer: &[u8], piece: usize) -> (Step, String, Box<dyn Probe>) {
    let mut probe = probe(&http(true), Protocol::Tcp);
    let mut to_server = Vec::new();
    let mut request = Vec::new();
    let mut step = probe.start(&mut to_server);
    while step == Step::More {
        let mut bytes = to_server.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().unwrap();
        }
        to_server.clear();
        let before = request.len();
        let _ = server.reader().read_to_end(&mut request);
        if request.len() > before {
            server.writer().write_all(answer).unwrap();
        }
        let mut to_probe = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut to_probe).unwrap();
        }
        assert!(!to_probe.is_empty(), "both wait for each other");
        for bytes in to_probe.chunks(piece) {
            step = probe.receive(bytes, &mut to_server);
            if step != Step::More {
                break;
            }
        }
    }
    (step, String::from_utf8(request).unwrap(), probe)
}

#[test]
fn https_speaks_every_version_and_notes_when_the_certificate_expires() {
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        for piece in [1, 100_000] {
            let (step, request, probe) = over_tls(tls_server(LONG, versions), b"HTTP/1.1 200 OK\r\n\r\nhi", piece);
            assert_eq!(step, Step::Healthy);
            assert!(request.starts_with("GET /health HTTP/1.1\r\n"));
            assert_eq!(probe.certificate_expires(), Some(4948784157));
        }
    }
    let (step, ..) = over_tls(tls_server(SHORT, rustls::ALL_VERSIONS), b"HTTP/1.1 500 no\r\n\r\n", 7);
    assert_eq!(step, Step::Unhealthy("answers 500 \"no\"".to_string()));
}

#[test]
fn https_to_a_server_without_tls() {
    assert!(refusal(&http(true), b"HTTP/1.1 400 Bad Request\r\n\r\n").starts_with("TLS: "));
    assert_eq!(probe(&http(true), Protocol::Tcp).awaits(), "end of the TLS handshake");
}

#[test]
fn expiry_dates_are_read_in_both_notations() {
    assert_eq!(crate::certificate::not_after(LONG), Some(4948784157), "GeneralizedTime, as it is after 2049");
    assert_eq!(crate::certificate::not_after(SHORT), Some(1795270557), "UTCTime");
    for end in 0..SHORT.len() {
        assert_eq!(crate::certificate::not_after(&SHORT[..end]), None, "cut off after {end} bytes");
    }
}

#[test]
fn what_people_read_is_short_and_plain() {
    assert_eq!(quote(b"ok\tthen\n"), "\"ok?then?\"");
    assert_eq!(quote(&[b'a'; 200]).len(), 85);
}

fn kinds() -> Vec<CheckKind> {
    vec![
        CheckKind::Tcp,
        CheckKind::Icmp,
        http(false),
        http(true),
        CheckKind::Pop3 { login: login() },
        CheckKind::Imap { login: login() },
        CheckKind::Smtp { helo: "lb".to_string() },
        dns("mail.example."),
    ]
}

/// What servers say, and parts of it: to mix garbage from.
fn bits() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"+OK",
        b"-ERR",
        b"* OK",
        b"a1 ",
        b"220-",
        b"220 ",
        b"250 ",
        b"\r\n",
        b"\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 100 \r\n\r\n",
        b"\x16\x03\x03\x00\x02",
        b"\x5a\x5a\x81\x80\x00\x01",
        b"\x04mail\x07example\x00\x00\x01\x00\x01",
        b"\xc0\x0c",
        b"\x00\x30",
    ];
    prop_oneof![
        prop::sample::select(words).prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 0usize..6000).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, an answer in words that can be logged, and no flood of our own.
    #[test]
    fn garbage_is_survived(pieces in prop::collection::vec(bits(), 0..30), udp: bool) {
        for kind in kinds() {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let (step, out) = talk_in_pieces(&kind, protocol, &pieces);
            prop_assert!(out.len() < 4096);
            if let Step::Unhealthy(reason) = step {
                prop_assert!(reason.len() < 300 && !reason.chars().any(char::is_control), "{}", reason);
            }
        }
    }

    /// The network may cut a conversation anywhere.
    #[test]
    fn pieces_do_not_matter(which in 0usize..6, cuts in prop::collection::vec(0usize..200, 0..20)) {
        let query = dns_query("mail.example.");
        let answer = dns_answer(&query, 0x8180, 1, &A_RECORD);
        let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
        let (kind, said): (CheckKind, &[u8]) = match which {
            0 => (CheckKind::Pop3 { login: login() }, b"+OK ready\r\n+OK\r\n+OK 3 messages\r\n"),
            1 => (CheckKind::Imap { login: login() }, b"* OK hi\r\n* CAPABILITY x\r\na1 OK in\r\n"),
            2 => (CheckKind::Smtp { helo: "lb".to_string() }, b"220-a\r\n220 b\r\n250-c\r\n250 d\r\n"),
            3 => (http(false), b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 404 Not Found\r\nA: b\r\n\r\nbody"),
            4 => (dns("mail.example."), &framed),
            _ => (CheckKind::Pop3 { login: None }, b"-ERR sorry\r\n"),
        };
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(said.len())).collect();
        cuts.extend([0, said.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &said[pair[0]..pair[1]]).collect();
        prop_assert_eq!(talk_in_pieces(&kind, Protocol::Tcp, &pieces), talk_in_pieces(&kind, Protocol::Tcp, &[said]));
    }

    /// One byte of a good answer is wrong, or some are missing.
    #[test]
    fn damaged_dns_answers_are_survived(at in 0usize..100, byte: u8, end in 0usize..100) {
        let mut answer = dns_answer(&dns_query("mail.example."), 0x8180, 1, &A_RECORD);
        let at = at % answer.len();
        answer[at] = byte;
        answer.truncate(answer.len() - end % 8);
        ask_dns(&[&answer]);
    }

    #[test]
    fn damaged_certificates_are_survived(at in 0usize..390, byte: u8) {
        let mut certificate = SHORT.to_vec();
        certificate[at] = byte;
        crate::certificate::not_after(&certificate);
    }
}
