//! Real secondaries: BIND, NSD and Knot hear of a line's failure by NOTIFY, fetch what has changed, and answer it.

use std::fs;
use std::time::Instant;

use crate::support::lines::{Lines, MAIL, ZONE, dig, serial};
use crate::support::namespace::Namespace;
use crate::support::process::Process;
use crate::support::wait::{PATIENCE, eventually, eventually_within, until};

const QUICK: &str = "kind = \"icmp\", interval = \"200ms\", timeout = \"2s\", rise = 1, fall = 2";

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A machine with a name server that follows from 198.51.100.1 and 203.0.113.1.
struct Secondary {
    name: &'static str,
    address: String,
    machine: Namespace,
    process: Process,
}

impl Secondary {
    /// `name`: named, nsd or knotd. Its configuration is `text`, in which DIR is a directory of its own and ADDRESS its address.
    fn start(lines: &Lines, name: &'static str, last: u8, text: &str, arguments: &[&str]) -> Secondary {
        let address = format!("192.0.2.{last}");
        let machine = lines.machine(name, last);
        let directory = lines.directory().join(name);
        fs::create_dir(&directory).unwrap();
        let path = directory.display().to_string();
        let file = directory.join("conf");
        fs::write(&file, text.replace("DIR", &path).replace("ADDRESS", &address)).unwrap();
        let arguments: Vec<&str> = arguments.iter().copied().chain([file.to_str().unwrap()]).collect();
        let process = machine.spawn(name, &format!("/usr/sbin/{name}"), &arguments);
        Secondary { name, address, machine, process }
    }

    fn serial(&self) -> Result<u32, String> {
        serial(&self.machine, &self.address)
    }

    fn mail(&self) -> Vec<String> {
        let answer = dig(&self.machine, &[&format!("@{}", self.address), "mail.company.example", "A", "+short"]);
        let mut addresses: Vec<String> = answer.unwrap_or_default().lines().map(str::to_owned).collect();
        addresses.sort();
        addresses
    }
}

/// `primaries`: in the order in which BIND asks them.
fn bind(lines: &Lines, primaries: &str) -> Secondary {
    let text = format!(
        "options {{ directory \"DIR\"; listen-on {{ ADDRESS; }}; listen-on-v6 {{ none; }}; pid-file none; session-keyfile none;
           recursion no; dnssec-validation no; allow-new-zones no; try-tcp-refresh no; }};
         controls {{ }};
         key \"transfer\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};
         zone \"company.example\" {{ type secondary; file \"zone\"; primaries {{ {primaries} }}; allow-notify {{ 203.0.113.1; }}; }};"
    );
    Secondary::start(lines, "named", 53, &text, &["-g", "-u", "root", "-n", "1", "-c"])
}

fn secondaries(lines: &Lines, signed: bool) -> Vec<Secondary> {
    let pick = |with: &'static str, without: &'static str| if signed { with } else { without };
    let nsd = format!(
        "server:\n ip-address: ADDRESS\n username: \"\"\n chroot: \"\"\n zonesdir: \"DIR\"\n pidfile: \"DIR/pid\"\n database: \"\"\n\
         \x20xfrdfile: \"DIR/xfrd\"\n zonelistfile: \"DIR/list\"\n xfrdir: \"DIR\"\n server-count: 1\n\
         remote-control:\n control-enable: no\n\
         key:\n name: transfer\n algorithm: hmac-sha256\n secret: \"{SECRET}\"\n\
         zone:\n name: company.example\n zonefile: zone\n request-xfr: {udp}198.51.100.1 {key}\n request-xfr: {udp}203.0.113.1 {key}\n\
         \x20allow-notify: 198.51.100.1 {key}\n allow-notify: 203.0.113.1 {key}\n",
        key = pick("transfer", "NOKEY"),
        // What it then asks by a datagram is answered with the SOA alone, and it comes by TCP.
        udp = pick("", "UDP ")
    );
    let knot = format!(
        "server:\n  rundir: DIR\n  listen: ADDRESS@53\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         log:\n  - target: stderr\n    any: info\n\
         database:\n  storage: DIR\n\
         key:\n  - id: transfer\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
         remote:\n  - id: second\n    address: 198.51.100.1\n{key}  - id: first\n    address: 203.0.113.1\n{key}\
         acl:\n  - id: hear\n    address: [ 198.51.100.1, 203.0.113.1 ]\n{key}    action: notify\n\
         zone:\n  - domain: company.example\n    storage: DIR\n    master: [ second, first ]\n    acl: hear\n",
        key = pick("    key: transfer\n", "")
    );
    vec![
        bind(lines, pick("198.51.100.1 key transfer;", "198.51.100.1;")),
        Secondary::start(lines, "nsd", 54, &nsd, &["-d", "-c"]),
        Secondary::start(lines, "knotd", 55, &knot, &["-c"]),
    ]
}

fn wait_serial(all: &[Secondary], wanted: u32, began: Instant) {
    for secondary in all {
        eventually(&format!("serial {wanted} at {}", secondary.name), || match secondary.serial() {
            Ok(serial) if serial == wanted => Ok(()),
            other => Err(format!("{other:?}\n{}", secondary.process.stderr())),
        });
        println!("{} has serial {wanted} after {:?}", secondary.name, began.elapsed());
    }
}

/// One line is cut: the secondaries answer without it, long before they would ask by themselves (the zone's refresh is an hour).
fn follow(signed: bool) {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let mut zone = "secondaries = [\"192.0.2.53\", \"192.0.2.54\", \"192.0.2.55\"]\n".to_string();
    if signed {
        zone += "tsig_key = \"transfer\"\n";
    }
    let mut config = lines.config(QUICK, &zone, "");
    if signed {
        config += &format!("[[dns.key]]\nname = \"transfer\"\nsecret = \"{SECRET}\"\n");
    }
    let farside = lines.start(&config);
    let all = secondaries(&lines, signed);
    let first = serial(&lines.client, "198.51.100.1").unwrap();
    wait_serial(&all, first, Instant::now());
    let both: Vec<&str> = {
        let mut both = [MAIL[0][0], MAIL[1][0]];
        both.sort();
        both.into()
    };
    for secondary in &all {
        assert_eq!(secondary.mail(), both, "{}", secondary.name);
    }
    lines.cut(1);
    until("the line's end is known", || serial(&lines.client, "198.51.100.1").is_ok_and(|serial| serial != first));
    let known = Instant::now();
    // Both families' lines go, one after the other.
    lines.wait_mail("198.51.100.1", &[2], &farside);
    let second = serial(&lines.client, "198.51.100.1").unwrap();
    wait_serial(&all, second, known);
    for secondary in &all {
        assert_eq!(secondary.mail(), [MAIL[1][0]], "{}", secondary.name);
    }
    lines.mend(1);
    lines.wait_mail("198.51.100.1", &[1, 2], &farside);
    let third = serial(&lines.client, "198.51.100.1").unwrap();
    wait_serial(&all, third, Instant::now());
    for secondary in &all {
        assert_eq!(secondary.mail(), both, "{}", secondary.name);
    }
    // Everybody else is refused.
    let stranger = lines.dig(&["@198.51.100.1", "company.example", "AXFR"]).unwrap();
    assert!(stranger.contains("Transfer failed"), "{stranger}");
    let whom = &all[0].machine;
    let from = format!("IXFR={second}");
    let key = format!("hmac-sha256:transfer:{SECRET}");
    let signature: &[&str] = if signed { &["-y", &key] } else { &[] };
    let ask = |rtype: &str| {
        dig(whom, &[signature, &["@198.51.100.1", "company.example", rtype, "+onesoa"]].concat()).unwrap()
    };
    // What has changed is less than the zone: it has no www.
    let (part, whole) = (ask(&from), ask("AXFR"));
    assert!(part.contains(MAIL[0][0]) && part.contains(&third.to_string()) && !part.contains("www."), "{part}");
    assert!(whole.contains("www.company.example.") && whole.contains(MAIL[0][1]), "{whole}");
    // By UDP there is the newest SOA and no more (RFC 1995 2): whoever sees that it is newer comes by TCP.
    let at = ["+notcp", "@198.51.100.1", "company.example", &from];
    let by_udp = dig(whom, &[signature, &at].concat()).unwrap();
    let records: Vec<&str> = by_udp.lines().filter(|line| !line.starts_with(';') && line.contains("\tIN\t")).collect();
    assert!(records.len() == 1 && records[0].contains(&third.to_string()), "{by_udp}");
}

/// Line 1 dies without a word just when BIND is to refresh, and it asks by line 1 first.
#[test]
fn bind_turns_to_its_other_primary_when_the_first_dies_while_it_asks() {
    let lines = Lines::new();
    lines.write_zone(ZONE);
    let farside = lines.start(&lines.config(QUICK, "secondaries = [\"192.0.2.53\"]", ""));
    let all = [bind(&lines, "203.0.113.1; 198.51.100.1;")];
    let first = serial(&lines.client, "198.51.100.1").unwrap();
    wait_serial(&all, first, Instant::now());
    lines.silence(1);
    lines.wait_mail("198.51.100.1", &[2], &farside);
    let second = serial(&lines.client, "198.51.100.1").unwrap();
    let known = Instant::now();
    // BIND asks a primary twice, for a quarter of a minute each.
    eventually_within(PATIENCE * 4, "the other primary is asked", || match all[0].serial() {
        Ok(serial) if serial == second => Ok(()),
        other => Err(format!("{other:?}\n{}", all[0].process.stderr())),
    });
    println!("named has serial {second} after {:?}", known.elapsed());
    assert_eq!(all[0].mail(), [MAIL[1][0]]);
    let said = all[0].process.stderr();
    assert!(said.contains("refresh: retry limit for primary 203.0.113.1#53 exceeded"), "{said}");
}

#[test]
fn bind_nsd_and_knot_follow_a_line() {
    follow(false);
}

#[test]
fn bind_nsd_and_knot_follow_a_line_with_signatures() {
    follow(true);
}
