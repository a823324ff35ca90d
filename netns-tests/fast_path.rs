//! Questions past the host's stack: the answers are those of the sockets, and all that is not plain goes on as before.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use crate::support::farside::Farside;
use crate::support::lines::{LINES, Lines, ZONE, dig};
use crate::support::namespace::Namespace;
use crate::support::play::Play;
use crate::support::wait::{eventually, until};
use crate::support::world::BOTH;
use crate::zones::reloads_lose_no_question;

const CHECK: &str = "kind = \"icmp\", interval = \"200ms\", timeout = \"2s\", rise = 1, fall = 1000";

/// Without names of a pool, whose addresses turn.
fn zone() -> String {
    ZONE.replace("MX 10 mail", "MX 10 www").replace("143 mail", "143 www")
}

/// Line 1 has the fast path, line 2 has sockets.
fn config(lines: &Lines) -> String {
    lines.config(CHECK, "", "").replace("[dns]\n", "[dns]\nfast_path = [\"wan1\"]\n")
}

fn stage() -> (Lines, Farside) {
    let lines = Lines::new();
    let long: String = (0..20).map(|n| format!("long TXT \"{n:02}{}\"\n", "x".repeat(40))).collect();
    let more = "*.wild A 192.0.2.81\nalias CNAME www\nsub NS ns.sub\nns.sub A 192.0.2.82\n";
    lines.write_zone(&(zone() + &long + more));
    let farside = lines.start(&config(&lines));
    farside.wait_logged("plain questions that come by wan1 go past the host's stack");
    (lines, farside)
}

/// A query for a name of the zone; `more` is what stands behind the question, `additional` how many records that is.
fn query(id: u16, flags: u16, name: &str, rtype: u16, more: &[u8]) -> Vec<u8> {
    let mut query = [id, flags, 1, 0, 0, u16::from(!more.is_empty())].map(u16::to_be_bytes).concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend([rtype, 1].map(u16::to_be_bytes).concat());
    query.extend(more);
    query
}

/// An OPT record with an option, if it is to have any.
fn edns(size: u16, version: u8, option: Option<(u16, &[u8])>) -> Vec<u8> {
    let option = option.map_or(Vec::new(), |(code, data)| {
        [&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
    });
    let head = [0, 0, 41, (size >> 8) as u8, size as u8, 0, version, 0x80, 0];
    [&head[..], &(option.len() as u16).to_be_bytes(), &option].concat()
}

/// Sends messages to both lines' addresses of a family, and has both answers to each, or none.
fn ask_both(client: &Namespace, family: usize, messages: &[Vec<u8>]) -> Vec<[Option<Vec<u8>>; 2]> {
    client.inside(|| {
        let sockets = LINES.map(|line| {
            let socket = UdpSocket::bind(["0.0.0.0:0", "[::]:0"][family]).unwrap();
            socket.connect((line[family], 53)).unwrap();
            socket
        });
        let ask = |socket: &UdpSocket, message: &[u8]| {
            let mut answer = [0; 4096];
            // What is never answered is told from what is by a question behind it, on the same socket and so to the same thread.
            let last = query(0xffff, 0, "www.company.example", 1, &[]);
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.send(message).unwrap();
            socket.send(&last).unwrap();
            let mut first = None;
            loop {
                let length = socket.recv(&mut answer).expect("an answer to the question behind");
                match answer[..2] {
                    [0xff, 0xff] => return first,
                    _ => first = Some(answer[..length].to_vec()),
                }
            }
        };
        messages.iter().map(|message| [0, 1].map(|line| ask(&sockets[line], message))).collect()
    })
}

fn taken(farside: &Farside) -> u64 {
    farside.counter("dns_queries_fast")
}

#[test]
fn answers_are_those_of_the_sockets_byte_for_byte() {
    let (lines, farside) = stage();
    let names = [
        "company.example",
        "www.company.example",
        "WwW.CoMpAnY.example",
        "long.company.example",
        "a.wild.company.example",
        "alias.company.example",
        "x.sub.company.example",
        "nobody.company.example",
        "other.example",
        "",
        "_imap._tcp.company.example",
    ];
    let mut messages = Vec::new();
    for (n, name) in names.iter().enumerate() {
        for rtype in [1, 2, 6, 15, 16, 28, 33, 255, 252] {
            messages.push(query(n as u16, 0x0100, name, rtype, &[]));
        }
        for size in [0, 512, 900, 1232, 4096, 65535] {
            messages.push(query(n as u16, 0, name, 16, &edns(size, 0, None)));
        }
    }
    let plain = |flags: u16, more: &[u8]| query(7, flags, "www.company.example", 1, more);
    let whole = messages.len();
    messages.extend([
        plain(0, &edns(1232, 1, None)),
        plain(0, &edns(1232, 0, Some((3, b"")))),
        plain(0, &edns(1232, 0, Some((8, &[0, 1, 24, 0, 192, 0, 2])))),
        plain(0, &edns(1232, 0, Some((10, b"short")))),
        plain(0x2000, &[]),
        plain(0, b"rubbish behind it"),
        query(7, 0, &"a".repeat(63), 1, &[]),
        [0, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0].to_vec(),
        [0; 12].to_vec(),
        [&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xc0, 12, 0, 1, 0, 1]].concat(),
        plain(0, &[])[..20].to_vec(),
    ]);
    // No answers to these: an answer, and no header.
    messages.extend([plain(0x8000, &[]), vec![1, 2, 3]]);
    for family in [0, 1] {
        let before = taken(&farside);
        for (message, answers) in messages.iter().zip(ask_both(&lines.client, family, &messages)) {
            assert_eq!(answers[0], answers[1], "{message:02x?}");
        }
        // Each with another behind it; what has no header is the host's.
        assert_eq!(taken(&farside) - before, 2 * messages.len() as u64 - 1);
        let answered = ask_both(&lines.client, family, &messages[..whole]);
        assert!(answered.iter().all(|answers| answers[0].is_some()));
    }
    // A pool's answers turn; a cookie is the client's, and comes back with the same server's.
    assert_eq!(lines.mail_at(LINES[0][0]).unwrap(), lines.mail_at(LINES[1][0]).unwrap());
    let cookie = lines.dig(&["@203.0.113.1", "www.company.example", "+cookie=0123456789abcdef"]).unwrap();
    assert!(cookie.contains("COOKIE: 0123456789abcdef") && cookie.contains("(good)"), "{cookie}");
    let counters = farside.counters();
    for lost in ["dns_fast_bad_frame", "dns_fast_ring_full", "dns_fast_send_refused"] {
        assert_eq!(counters[lost], 0, "{lost}");
    }
}

#[test]
fn what_is_not_plain_goes_on_as_before() {
    let (lines, farside) = stage();
    let before = taken(&farside);
    for (family, address) in LINES[0].iter().enumerate() {
        lines.client.run("ping", &["-c", "1", "-W", "10", address]);
        let at = format!("@{address}");
        assert_eq!(lines.dig(&[&at, "+tcp", "+short", "www.company.example"]).as_deref(), Ok("192.0.2.80"));
        // Larger than the link: it comes in pieces.
        let large = query(9, 0, "www.company.example", 1, &edns(1232, 0, Some((12, &[0; 3000]))));
        let answer = lines.client.inside(|| {
            let socket = UdpSocket::bind(["0.0.0.0:0", "[::]:0"][family]).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.send_to(&large, (*address, 53)).unwrap();
            let mut answer = [0; 4096];
            socket.recv(&mut answer).map(|length| answer[..length].to_vec())
        });
        let answer = answer.unwrap_or_else(|why| panic!("{address}: {why}"));
        assert_eq!((answer[1], answer[7]), (9, 1));
        // By the other line.
        assert_eq!(lines.dig(&["@198.51.100.1", "+short", "www.company.example"]).as_deref(), Ok("192.0.2.80"));
    }
    // Another server's questions on the same machine pass.
    let other = lines.server.inside(|| UdpSocket::bind("203.0.113.1:5353")).unwrap();
    lines
        .client
        .inside(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"a question of 16", "203.0.113.1:5353"))
        .unwrap();
    other.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(other.recv(&mut [0; 64]).unwrap(), 16);
    assert_eq!(taken(&farside), before);
    assert_eq!(lines.dig(&["@203.0.113.1", "+short", "www.company.example"]).as_deref(), Ok("192.0.2.80"));
    assert_eq!(taken(&farside), before + 1);
}

#[test]
fn reloads_lose_no_question_on_the_fast_path() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let farside = lines.start(&config(&lines));
    reloads_lose_no_question(&lines, &farside);
    assert!(taken(&farside) > 100);
    farside.rewrite(&lines.config(CHECK, "", ""));
    let (taken, said) = farside.tell(&["reload"]);
    assert!(!taken && said.contains("[dns] fast_path"), "{said}");
}

#[test]
fn when_farside_is_killed_its_questions_are_the_hosts() {
    let (lines, farside) = stage();
    let www = || lines.dig(&["@203.0.113.1", "+short", "www.company.example"]);
    assert_eq!(www().as_deref(), Ok("192.0.2.80"));
    // SIGKILL.
    drop(farside);
    let refused = eventually("the host's answer", || match www() {
        Err(why) if why.contains("refused") => Ok(why),
        other => Err(format!("{other:?}")),
    });
    assert!(refused.contains("203.0.113.1"), "{refused}");
    let by_sockets = lines.start(&lines.config(CHECK, "", ""));
    assert_eq!(www().as_deref(), Ok("192.0.2.80"));
    assert_eq!(taken(&by_sockets), 0);
}

#[test]
fn an_interface_that_comes_back_is_taken_up_again() {
    let (lines, farside) = stage();
    let www = || lines.dig(&["@203.0.113.1", "+short", "www.company.example"]);
    assert_eq!(www().as_deref(), Ok("192.0.2.80"));
    lines.internet.ip("link del isp1");
    lines.internet.ip(&format!(
        "link add isp1 type veth peer name wan1 netns {}
         addr add 203.0.113.254/24 dev isp1
         link set isp1 up",
        lines.server.name()
    ));
    lines.server.ip("addr add 203.0.113.1/24 dev wan1
         link set wan1 up
         route add default via 203.0.113.254 dev wan1 table 1");
    until("an answer past the stack", || {
        let before = taken(&farside);
        www().as_deref() == Ok("192.0.2.80") && taken(&farside) > before
    });
}

#[test]
fn what_cannot_be_had_is_told_and_done_without() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let config = config(&lines).replace("[\"wan1\"]", "[\"lo\", \"none\"]");
    let farside = lines.start(&config);
    farside.wait_logged("interface none does not exist");
    farside.wait_logged("interface lo is not an Ethernet interface");
    assert_eq!(lines.dig(&["@203.0.113.1", "+short", "www.company.example"]).as_deref(), Ok("192.0.2.80"));
    assert_eq!(taken(&farside), 0);
    farside.stop();
}

/// On the same interface as the data path: neither is in the other's way.
#[test]
fn beside_the_data_path() {
    let play = Play::with(1, |world, site, config| {
        let own = world.site(site);
        fs::write(own.directory().join("company.example.zone"), zone()).unwrap();
        let [four, six] = BOTH.map(|family| own.wan_address(family));
        config.with(|config| {
            config.more = format!(
                "[dns]\nfast_path = [\"wan0\"]\nlisten = [\"{four}:53\", \"[{six}]:53\"]\nstate_dir = \"{}\"\n\
                 [[dns.zone]]\norigin = \"company.example\"\nfile = \"company.example.zone\"\n",
                own.directory().join("state").display()
            );
        })
    });
    for family in BOTH {
        let before = taken(play.farside(1));
        let at = format!("@{}", play.world.site(1).wan_address(family));
        for _ in 0..3 {
            assert_eq!(dig(&play.world.client, &[&at, "+short", "www.company.example"]).as_deref(), Ok("192.0.2.80"));
            assert_eq!(play.serving_site(1, family), 1);
        }
        assert_eq!(taken(play.farside(1)) - before, 3);
    }
}
