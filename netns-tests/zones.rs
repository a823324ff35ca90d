//! The name server: zones on two lines, what happens to answers when one is cut, reload, and start.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::support::farside::Farside;
use crate::support::lines::{LINES, Lines, MAIL, ZONE, dig, is_in, serial};
use crate::support::play::Play;
use crate::support::wait::until;
use crate::support::world::{BOTH, Family};

/// A line's fall and rise are seen soon; the timeout leaves room for a machine under load.
const QUICK: &str = "kind = \"icmp\", interval = \"200ms\", timeout = \"2s\", rise = 1, fall = 2";

fn all_addresses() -> impl Iterator<Item = &'static str> {
    LINES.into_iter().flatten()
}

#[test]
fn every_line_serves_the_whole_zone_by_udp_and_tcp() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let farside = lines.start(&lines.config(QUICK, "", ""));
    for address in all_addresses() {
        let at = format!("@{address}");
        for way in ["+notcp", "+tcp"] {
            let short = |name: &str, rtype: &str| lines.dig(&[&at, way, name, rtype, "+short"]).unwrap();
            assert_eq!(short("www.company.example", "A"), "192.0.2.80", "{address} {way}");
            assert_eq!(short("WWW.company.EXAMPLE", "A"), "192.0.2.80");
            assert_eq!(short("company.example", "MX"), "10 mail.company.example.");
            assert_eq!(short("company.example", "TXT"), "\"v=spf1 mx -all\"");
            let both: Vec<String> = short("mail.company.example", "A").lines().map(str::to_owned).collect();
            assert!(both.len() == 2 && MAIL.iter().all(|mail| both.iter().any(|a| a == mail[0])), "{both:?}");
            let missing = lines.dig(&[&at, way, "nobody.company.example", "A"]).unwrap();
            assert!(missing.contains("status: NXDOMAIN") && missing.contains("flags: qr aa"), "{missing}");
            let other = lines.dig(&[&at, way, "other.example", "A"]).unwrap();
            assert!(other.contains("status: REFUSED"), "{other}");
        }
        let mx = lines.dig(&[&at, "company.example", "MX"]).unwrap();
        assert!(MAIL.iter().flatten().all(|address| mx.contains(address)), "additional addresses: {mx}");
    }
    // Rotation: the first address is not always the same.
    let first = || lines.dig(&["@203.0.113.1", "mail.company.example", "A", "+short"]).unwrap();
    let first: Vec<String> = (0..8).map(|_| first().lines().next().unwrap_or_default().to_string()).collect();
    assert!(MAIL.iter().all(|mail| first.iter().any(|a| a == mail[0])), "{first:?}");
    let counters = farside.counters();
    assert!(counters["dns_queries_udp"] > 0 && counters["dns_queries_tcp"] > 0 && counters["dns_nxdomain"] > 0);
    let dns = farside.show("dns");
    assert_eq!(dns["zones"][0]["origin"], "company.example.");
    assert_eq!(dns["store"]["records"], 0);
    let page = lines.server.run("curl", &["-s", "http://127.0.0.1:9110/metrics"]);
    for sample in [
        "farside_dns_member_up{pool=\"mail\",member=\"isp1\"} 1",
        "farside_line_up{line=\"isp2-6\"} 1",
        "farside_dns_zone_answers_total{zone=\"company.example.\"}",
        "farside_dns_pool_answers_total{pool=\"mail\"}",
    ] {
        assert!(page.contains(sample), "{sample}\n{page}");
    }
    farside.stop();
}

#[test]
fn what_is_too_long_for_a_datagram_comes_by_tcp() {
    let lines = Lines::new();
    let long: String = (0..40).map(|n| format!("long TXT \"{n:02}{}\"\n", "x".repeat(100))).collect();
    lines.write_zone(&format!("{ZONE}{long}"));
    let farside = lines.start(&lines.config(QUICK, "", ""));
    for address in all_addresses() {
        let at = format!("@{address}");
        let ask = |more: &[&str]| lines.dig(&[&[&at, "long.company.example", "TXT"], more].concat()).unwrap();
        for size in ["+noedns", "+bufsize=512", "+bufsize=4096"] {
            let cut = ask(&["+ignore", size]);
            assert!(cut.contains("flags: qr aa tc;") && cut.matches("\tTXT\t\"").count() == 0, "{cut}");
        }
        let whole = ask(&[]);
        assert!(whole.contains("Truncated, retrying in TCP mode.") && whole.contains("flags: qr aa;"), "{whole}");
        assert_eq!(whole.matches("\tTXT\t\"").count(), 40, "{whole}");
    }
    assert_eq!(farside.counter("dns_truncated"), 16);
}

#[test]
fn a_line_that_is_cut_leaves_the_answers_and_comes_back() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let farside = lines.start(&lines.config(QUICK, "", "ttl_cut = true"));
    let serial = |at: &str| serial(&lines.client, at).unwrap();
    lines.wait_mail("203.0.113.1", &[1, 2], &farside);
    let before = serial("203.0.113.1");
    // Two checks could fail within 0.4 s, and no answer is to be kept for longer than may be: but for a second.
    let answer = lines.dig(&["@203.0.113.1", "+noall", "+answer", "mail.company.example", "A"]).unwrap();
    assert!(answer.lines().all(|line| line.split_whitespace().nth(1) == Some("1")), "{answer}");
    lines.cut(1);
    lines.wait_mail("198.51.100.1", &[2], &farside);
    let down = serial("198.51.100.1");
    assert!(down > before, "{before} {down}");
    let dns = farside.show("dns");
    assert!(!is_in(&dns, "isp1") && is_in(&dns, "isp2"), "{dns:#}");
    let reason = dns["pools"][0]["members"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("line isp1 is down: 203.0.113.254: "), "{reason}");
    // While nothing changes the serial does not.
    until("more checks", || farside.counter("dns_queries_udp") > 0);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(serial("198.51.100.1"), down);
    lines.mend(1);
    lines.wait_mail("198.51.100.1", &[1, 2], &farside);
    let back = serial("198.51.100.1");
    assert!(back > down, "{down} {back}");
    lines.wait_mail("203.0.113.1", &[1, 2], &farside);
    assert_eq!(serial("203.0.113.1"), back, "one zone on both lines");
    farside.stop();
    // The serial is kept: the next process has the same records, a TTL that is cut not being one's own.
    let farside = lines.start(&lines.config(QUICK, "", ""));
    lines.wait_mail("198.51.100.1", &[1, 2], &farside);
    assert_eq!(serial("198.51.100.1"), back);
}

#[test]
fn when_all_lines_are_down_when_down_decides() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let farside = lines.start(&lines.config(QUICK, "", ""));
    // The server asks itself: no line leads to it now.
    let mail = |rtype: &str| {
        let text = lines.server.run("dig", &["+short", "@203.0.113.1", "mail.company.example", rtype]);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let both_down = || {
        let dns = farside.show("dns");
        ["isp1", "isp1-6", "isp2", "isp2-6"].iter().all(|member| !is_in(&dns, member))
    };
    lines.cut(1);
    lines.cut(2);
    until("both lines down", both_down);
    until("all addresses rather than none", || mail("A").len() == 2 && mail("AAAA").len() == 2);
    farside.rewrite(&lines.config(QUICK, "", "when_down = \"none\""));
    assert!(farside.order(&["reload"]).contains("pool mail: when_down all -> none"));
    until("no addresses", || mail("A").is_empty() && mail("AAAA").is_empty());
    farside.rewrite(&lines.config(QUICK, "", "when_down = \"isp2\""));
    farside.order(&["reload"]);
    until("the last resort", || mail("A") == [MAIL[1][0]]);
}

/// Checks that fail and do not add up to a fall change nothing.
#[test]
fn a_line_that_flaps_is_held_by_fall() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let slow = "kind = \"icmp\", interval = \"100ms\", timeout = \"200ms\", rise = 1, fall = 1000";
    let farside = lines.start(&lines.config(slow, "", ""));
    let before = serial(&lines.client, "198.51.100.1").unwrap();
    for _ in 0..3 {
        lines.cut(1);
        let failing = || {
            let health = farside.show("health");
            health.as_array().unwrap().iter().any(|row| {
                row["kind"] == "line"
                    && row["target"].as_str().unwrap().starts_with("isp1/")
                    && row["last_error"].is_string()
            })
        };
        until("failing checks", failing);
        lines.mend(1);
        until("passing checks", || !failing());
    }
    lines.wait_mail("198.51.100.1", &[1, 2], &farside);
    assert_eq!(serial(&lines.client, "198.51.100.1").unwrap(), before);
}

/// Nobody is answered before it is known what is up: the first answer is right.
#[test]
fn the_first_answer_knows_what_is_up() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    lines.cut(1);
    let farside = lines.launch(&lines.config(QUICK, "", ""));
    // Asks all the time, from before it starts.
    let first = loop {
        if let Ok([four, _]) = lines.mail_at("198.51.100.1") {
            break four;
        }
    };
    assert_eq!(first, [MAIL[1][0]], "{}", farside.log());
}

#[test]
fn reloads_lose_no_question_and_a_bad_zone_changes_nothing() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let farside = lines.start(&lines.config(QUICK, "", ""));
    reloads_lose_no_question(&lines, &farside);
    let last = serial(&lines.client, "203.0.113.1").unwrap();
    lines.write_zone(&format!("{ZONE}www A 192.0.2.\n"));
    let (taken, said) = farside.tell(&["reload"]);
    assert!(!taken && said.contains("company.example.zone:13:"), "{said}");
    assert_eq!(farside.order(&["show", "dns"]).matches(&last.to_string()).count(), 1);
    assert_eq!(serial(&lines.client, "203.0.113.1").unwrap(), last);
    let check = lines.directory().join("farside.toml");
    let checked = std::process::Command::new(crate::support::farside::binary())
        .args(["check", "--config", check.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!checked.status.success() && String::from_utf8_lossy(&checked.stderr).contains("zone:13:"));
    assert!(fs::exists(lines.directory().join("state/serials")).unwrap());
}

/// Ten reloads, each with something new, while the client asks all the time.
#[track_caller]
pub fn reloads_lose_no_question(lines: &Lines, farside: &Farside) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let stream = lines.client.thread(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("203.0.113.1:53").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut query = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x03www\x07company\x07example\0\0\x01\0\x01".to_vec();
        let (mut asked, mut answer) = (0u16, [0; 512]);
        while !stopped.load(Relaxed) {
            asked = asked.wrapping_add(1);
            query[..2].copy_from_slice(&asked.to_be_bytes());
            socket.send(&query).unwrap();
            let length = socket.recv(&mut answer).unwrap_or_else(|why| panic!("question {asked} has no answer: {why}"));
            assert!(
                length > 40 && answer[..2] == query[..2] && answer[3] & 0xf == 0 && answer[7] == 1,
                "question {asked}"
            );
        }
        asked
    });
    let mut last = serial(&lines.client, "203.0.113.1").unwrap();
    for n in 0..10 {
        lines.write_zone(&format!("{ZONE}more TXT \"{n}\"\n"));
        let said = farside.order(&["reload"]);
        assert!(said.contains("zone company.example.: its file has changed"), "{said}");
        until("the new zone", || {
            lines.dig(&["@203.0.113.1", "more.company.example", "TXT", "+short"]).as_deref() == Ok(&format!("\"{n}\""))
        });
        let now = serial(&lines.client, "203.0.113.1").unwrap();
        assert!(now > last, "{last} {now}");
        last = now;
    }
    stop.store(true, Relaxed);
    assert!(stream.join().unwrap() > 100);
}

/// Beside the data path, on the same box: a member goes with its service, and the host's DNS is not taken for a service's packets, on the
/// box's own address as on the others.
#[test]
fn a_member_goes_with_its_service() {
    let mut play = Play::with(2, |world, site, config| {
        if site == 2 {
            return config;
        }
        let own = world.site(1);
        fs::write(own.directory().join("company.example.zone"), ZONE).unwrap();
        let [four, six] = BOTH.map(|family| own.wan_address(family));
        let vip = own.vip(Family::V4);
        config.with(|config| {
            config.more = format!(
                "[dns]\nlisten = [\"{four}:53\", \"[{six}]:53\"]\nstate_dir = \"{}\"\n[[dns.zone]]\norigin = \"company.example\"\n\
                 file = \"company.example.zone\"\n[[dns.pool]]\nname = \"mail\"\nnames = [\"mail.company.example\"]\n\
                 when_down = \"there\"\n[[dns.pool.member]]\nname = \"here\"\naddresses = [\"{vip}\"]\nservice = \"pop3\"\n\
                 [[dns.pool.member]]\nname = \"there\"\naddresses = [\"198.51.100.10\"]\nweight = 0\n",
                own.directory().join("state").display()
            );
        })
    });
    let mail = |play: &Play, family: Family| {
        let at = format!("@{}", play.world.site(1).wan_address(family));
        dig(&play.world.client, &[&at, "mail.company.example", "A", "+short"]).unwrap()
    };
    for family in BOTH {
        assert_eq!(mail(&play, family), play.world.site(1).vip(Family::V4).to_string());
    }
    play.fall(1);
    for family in BOTH {
        until("the other site's address", || mail(&play, family) == "198.51.100.10");
    }
    let reason = play.farside(1).show("dns")["pools"][0]["members"][0]["reason"].clone();
    assert_eq!(reason, "service pop3 has no real server up");
    play.rise(1);
    until("this site's address", || mail(&play, Family::V4) == play.world.site(1).vip(Family::V4).to_string());
    assert!(play.farside(1).order(&["drain", "mail/here"]).contains("mail/here is answered no more"));
    until("the other site's address", || mail(&play, Family::V4) == "198.51.100.10");
    play.farside(1).order(&["undrain", "mail/here"]);
    until("this site's address", || mail(&play, Family::V4) == play.world.site(1).vip(Family::V4).to_string());
}

/// A member's own check goes out by the member's line, from its address.
#[test]
fn a_member_is_checked_by_its_line() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let server = lines.client.inside(|| TcpListener::bind("192.0.2.10:25")).unwrap();
    let member = "[[dns.pool.member]]\nname = \"checked\"\naddresses = [\"192.0.2.10\"]\nline = \"isp2\"\n\
                  check = { kind = \"tcp\", port = 25, interval = \"200ms\", timeout = \"2s\", rise = 1, fall = 2 }\n";
    let farside = lines.start(&format!("{}{member}", lines.config(QUICK, "", "")));
    let mail = || lines.mail_at("203.0.113.1").unwrap()[0].clone();
    assert_eq!(server.accept().unwrap().1.ip().to_string(), LINES[1][0]);
    assert_eq!(mail(), ["192.0.2.10", MAIL[1][0], MAIL[0][0]]);
    drop(server);
    until("two addresses", || mail() == [MAIL[1][0], MAIL[0][0]]);
    let dns = farside.show("dns");
    let row = dns["pools"][0]["members"].as_array().unwrap().iter().find(|row| row["name"] == "checked").unwrap();
    assert_eq!(row["reason"], "192.0.2.10: connection refused");
    let server = lines.client.inside(|| TcpListener::bind("192.0.2.10:25")).unwrap();
    until("three addresses", || mail().len() == 3);
    // Its line goes, and it goes with it.
    lines.cut(2);
    until("one address", || mail() == [MAIL[0][0]]);
    drop(server);
}
