//! Pools that send each resolver to one site, asked by thousands of resolvers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::lines::{Lines, ZONE};

const QUICK: &str = "kind = \"icmp\", interval = \"200ms\", timeout = \"2s\", rise = 1, fall = 2";

/// The members' addresses, in their order.
const SOUTH: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 20), Ipv4Addr::new(203, 0, 113, 21)];
const NORTH: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);

/// As many resolvers ask.
const RESOLVERS: u32 = 3000;

fn resolver(n: u32) -> Ipv4Addr {
    // 10.64.0.0/12, far from each other.
    Ipv4Addr::from(0x0a40_0000 | ((n * 331) & 0xf_ffff))
}

/// `modes` are more lines of the pool, `more` more sections.
fn config(lines: &Lines, modes: &str, more: &str) -> String {
    let mut text = lines.config(QUICK, "", "");
    text += "[[peer]]\nname = \"north\"\nproxy_addresses = [\"198.51.100.250\"]\n";
    text += &format!("[[dns.pool]]\nname = \"web\"\nnames = [\"web.company.example.\"]\n{modes}\n");
    for (name, site, address) in [("a", "south", SOUTH[0]), ("b", "south", SOUTH[1]), ("c", "north", NORTH)] {
        text += &format!("[[dns.pool.member]]\nname = \"{name}\"\nsite = \"{site}\"\naddresses = [\"{address}\"]\n");
    }
    text + more
}

/// The addresses that a resolver is answered, sorted. One question, one answer.
fn ask(resolver: Ipv4Addr) -> Vec<Ipv4Addr> {
    let socket = UdpSocket::bind((resolver, 0)).expect("a resolver's socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mut query = b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x03web\x07company\x07example\0\0\x01\0\x01".to_vec();
    socket.send_to(&query, "203.0.113.1:53").expect("ask");
    let mut answer = [0; 512];
    let long = socket.recv(&mut answer).unwrap_or_else(|why| panic!("{resolver}: {why}"));
    let count = usize::from(u16::from_be_bytes([answer[6], answer[7]]));
    query[2..4].copy_from_slice(&[0x84, 0]);
    query[7] = count as u8;
    assert_eq!((&answer[..6], &answer[12..query.len()]), (&query[..6], &query[12..]));
    // Each record: a pointer to the name, ten bytes, the address.
    let records = answer[query.len()..long].chunks(16);
    let mut addresses: Vec<Ipv4Addr> =
        records.map(|record| Ipv4Addr::from_octets(record[12..].try_into().unwrap())).collect();
    assert_eq!(addresses.len(), count);
    addresses.sort();
    addresses
}

fn is_one_site(answer: &[Ipv4Addr]) -> bool {
    answer == SOUTH || answer == [NORTH]
}

#[test]
fn thousands_of_resolvers_keep_their_sites_and_a_reload_that_changes_modes_loses_no_question() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    lines.client.ip("route add local 10.64.0.0/12 dev lo");
    lines.internet.ip("route add 10.64.0.0/12 via 192.0.2.10");
    let farside = lines.start(&config(&lines, "modes = [\"stripe\"]", ""));
    let all = || -> BTreeMap<Ipv4Addr, Vec<Ipv4Addr>> {
        lines.client.inside(|| (0..RESOLVERS).map(resolver).map(|resolver| (resolver, ask(resolver))).collect())
    };
    let first = all();
    assert!(first.values().all(|answer| is_one_site(answer)));
    let north = first.values().filter(|answer| answer.len() == 1).count();
    assert!((850..1150).contains(&north), "a site weighs by its members: {north} of {RESOLVERS} to one of three");
    for _ in 0..3 {
        assert!(all() == first, "each is sent where it was sent before");
    }

    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
    let asker = lines.client.thread({
        let (stop, answers) = (stop.clone(), answers.clone());
        move || {
            for n in (0..RESOLVERS).cycle().take_while(|_| !stop.load(Relaxed)) {
                let answer = ask(resolver(n));
                assert!(is_one_site(&answer), "{answer:?}");
                *answers.lock().unwrap() += 1;
            }
        }
    });
    let topology = "[[dns.topology]]\nprefixes = [\"10.64.0.0/14\"]\nsite = \"north\"\n";
    let kept: Vec<(&str, &str)> = vec![
        ("modes = [\"topology\", \"stripe\"]", topology),
        ("modes = [\"stripe\"]\nstripe = \"modulus\"", ""),
        ("modes = [\"topology\", \"round_robin\"]", topology),
        ("modes = [\"stripe\"]\nstripe = \"modulus\"", ""),
    ];
    for (modes, more) in kept {
        farside.rewrite(&config(&lines, modes, more));
        assert!(farside.order(&["reload"]).contains("pool web: modes"));
    }
    stop.store(true, Relaxed);
    asker.join().expect("no question is lost");
    assert!(*answers.lock().unwrap() > 0);
    for (resolver, answer) in all() {
        let member = u32::from(resolver) % 3;
        assert_eq!(answer.len() == 1, member == 2, "{resolver}: {answer:?}");
    }

    let explained = |options: &[&str]| -> serde_json::Value {
        let base = ["explain", "web.company.example", "--resolver", "10.64.0.2", "--json"];
        serde_json::from_str(&farside.order(&[&base, options].concat())).expect("JSON")
    };
    // 10.64.0.2 is 1 modulo 3.
    let told = explained(&[]);
    assert_eq!(told["answer"]["addresses"].as_array().unwrap().len(), 2, "{told:#}");
    assert_eq!(told["modes"][0]["why"], "member 2 of the 3 that are up, at site south");
    let without = explained(&["--down", "south"]);
    assert_eq!(without["answer"]["addresses"][0], NORTH.to_string(), "{without:#}");
    let text = farside.order(&["explain", "web.company.example", "--resolver", "10.64.0.2"]);
    assert!(text.contains("answer  NOERROR, 203.0.113.2"), "{text}");
    assert_eq!(lines.client.inside(|| ask([10, 64, 0, 2].into())), SOUTH, "and so it is");
    farside.stop();
}
