use super::*;
use crate::netlink::lab::{Lab, in_own_namespace};
use crate::route::Prefix;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[test]
fn gratuitous_arp_byte_by_byte() {
    let frame = arp(MAC.into(), Ipv4Addr::new(203, 0, 113, 10), ArpOperations::Request);
    let expected =
        [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC, &[203, 0, 113, 10], &[0; 6], &[203, 0, 113, 10]];
    assert_eq!(frame, expected.concat());
    let reply = arp(MAC.into(), Ipv4Addr::new(203, 0, 113, 10), ArpOperations::Reply);
    assert_eq!((&reply[20..22], &reply[32..38]), (&[0, 2][..], &MAC[..]));
}

#[test]
fn an_unsolicited_advertisement_overrides_and_its_checksum_is_right() {
    let vip: Ipv6Addr = "2001:db8::10".parse().unwrap();
    let frame = advertisement(MAC.into(), vip);
    assert_eq!(&frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(frame.len(), 86);
    assert_eq!(frame[14 + 7], 255, "hop limit");
    assert_eq!(&frame[54..56], [136, 0]);
    assert_eq!(frame[58], 0x20, "override only");
    assert_eq!(frame[62..78], vip.octets());
    assert_eq!(frame[78..], [&[2, 1][..], &MAC].concat());
    // Sum over pseudo-header and message, checksum included, is all ones.
    let mut sum = 32 + 58u32;
    for pair in frame[22..].chunks(2) {
        sum += u16::from_be_bytes([pair[0], pair[1]]) as u32;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    assert_eq!(sum, 0xffff);
}

#[test]
fn three_times_and_then_no_more() {
    in_own_namespace("announce::tests::three_times_and_then_no_more", || {
        let fib = Fib::builder().port("wan0", MAC, 1500, &[prefix("203.0.113.1/24")]).build();
        let mut announcer = Announcer::new().unwrap();
        let start = Instant::now();
        announcer.announce(&[ip("203.0.113.10")], start);
        let mut rounds = 0;
        while let Some(at) = announcer.next_deadline() {
            assert_eq!(at, start + EVERY * rounds);
            announcer.tick(&fib, at);
            rounds += 1;
        }
        assert_eq!(rounds, 3);
        announcer.announce(&[ip("203.0.113.10")], start);
        announcer.forget(&[ip("203.0.113.10")]);
        assert_eq!(announcer.next_deadline(), None);
    });
}

#[test]
fn what_leads_nowhere_or_is_the_hosts_is_not_sent() {
    in_own_namespace("announce::tests::what_leads_nowhere_or_is_the_hosts_is_not_sent", || {
        let socket = Announcer::new().unwrap().socket;
        let fib = Fib::builder().port("nosuch", MAC, 1500, &[prefix("203.0.113.1/24")]).build();
        assert!(send(&socket, &fib, ip("203.0.113.1")).is_ok());
        assert!(send(&socket, &fib, ip("192.0.2.1")).unwrap_err().to_string().contains("leads to it"));
        assert!(send(&socket, &fib, ip("203.0.113.9")).is_err());
    });
}

#[test]
fn neighbors_that_remember_another_machine_learn_the_new_one() {
    in_own_namespace("announce::tests::neighbors_that_remember_another_machine_learn_the_new_one", || {
        let lab = Lab::new();
        let live = lab.live(&["wan0"]);
        for (vip, proto) in [("203.0.113.10", "-4"), ("2001:db8:1::10", "-6")] {
            lab.router(&format!("ip {proto} neigh replace {vip} dev eth0 lladdr 02:00:00:00:00:99 nud stale"));
        }
        let mut announcer = Announcer::new().unwrap();
        let now = Instant::now();
        announcer.announce(&[ip("203.0.113.10"), ip("2001:db8:1::10")], now);
        announcer.tick(&live.fib.load(), now);
        let mac = lab.mac_of("wan0");
        for vip in ["203.0.113.10", "2001:db8:1::10"] {
            lab.eventually(|| lab.router_says(&format!("ip neigh show {vip}")).contains(&mac));
        }
    });
}
