//! A zone that is signed, before validators: unbound, and BIND's delv.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::support::farside::binary;
use crate::support::lines::{Lines, MAIL, ZONE};
use crate::support::namespace::Namespace;
use crate::support::process::Process;
use crate::support::wait::{eventually, until};

const QUICK: &str = "kind = \"icmp\", interval = \"200ms\", timeout = \"2s\", rise = 1, fall = 2";

const MORE: &str = "*.wild A 192.0.2.90\nalias CNAME www\nfar CNAME nobody\nchild NS ns.child\nns.child A 192.0.2.99\nstrict NS ns.child\n\
                    strict DS 1 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";

/// `farside dns keygen`: the DS record that it prints.
fn keygen(lines: &Lines, directory: &Path, algorithm: &str) -> String {
    let directory = directory.display().to_string();
    let arguments = ["dns", "keygen", "--algorithm", algorithm, "--dir", &directory, "company.example"];
    let said = lines.server.run(&binary(), &arguments);
    said.lines().find(|line| line.starts_with("company.example. IN DS ")).expect(&said).to_owned()
}

fn key_files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|own| own == end)).collect()
}

/// An unbound that trusts these DS records and asks these servers for the zone.
struct Resolver {
    address: String,
    machine: Namespace,
    process: Process,
}

impl Resolver {
    fn start(lines: &Lines, last: u8, anchors: &[&str], servers: &[&str]) -> Resolver {
        let address = format!("192.0.2.{last}");
        let machine = lines.machine(&format!("unbound{last}"), last);
        let path = lines.directory().join(format!("unbound{last}"));
        fs::create_dir(&path).unwrap();
        let dir = path.display();
        let anchors: String = anchors.iter().map(|anchor| format!(" trust-anchor: \"{anchor}\"\n")).collect();
        let servers: String = servers.iter().map(|server| format!(" stub-addr: {server}\n")).collect();
        let conf = format!(
            "server:\n interface: {address}\n access-control: 192.0.2.0/24 allow\n chroot: \"\"\n username: \"\"\n directory: \"{dir}\"\n\
             \x20pidfile: \"{dir}/pid\"\n use-syslog: no\n do-daemonize: no\n module-config: \"validator iterator\"\n num-threads: 1\n\
             \x20do-ip6: no\n cache-max-ttl: 1\n cache-max-negative-ttl: 1\n val-bogus-ttl: 1\n val-log-level: 2\n\
             \x20harden-dnssec-stripped: yes\n harden-referral-path: no\n qname-minimisation: yes\n{anchors}\
             remote-control:\n control-enable: no\nstub-zone:\n name: company.example\n{servers}"
        );
        let file = path.join("conf");
        fs::write(&file, conf).unwrap();
        let process = machine.spawn("unbound", "/usr/sbin/unbound", &["-d", "-c", file.to_str().unwrap()]);
        Resolver { address, machine, process }
    }

    /// The answer's code, whether it has been validated, and its records.
    fn ask(&self, name: &str, rtype: &str, more: &[&str]) -> Result<(String, bool, Vec<String>), String> {
        let at = format!("@{}", self.address);
        let fixed = ["+time=5", "+tries=1", "+noall", "+comments", "+answer", "+adflag", &at, name, rtype];
        let output = self.machine.output("dig", &[&fixed, more].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let word = |start: &str| {
            let rest = text.split(start).nth(1)?;
            rest.split([',', ';']).next().map(str::to_owned)
        };
        let (Some(code), Some(flags)) = (word("status: "), word("flags: ")) else { return Err(text) };
        let records = text.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
        let mut records: Vec<String> =
            records.map(|line| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" ")).collect();
        records.sort();
        Ok((code, flags.split(' ').any(|flag| flag == "ad"), records))
    }

    /// Waits for an answer that was found to be right, or, if `validated` is false, is known to be of no signed zone.
    #[track_caller]
    fn expect(&self, name: &str, rtype: &str, code: &str, validated: bool, records: &[&str]) {
        eventually(&format!("{code} for {name} {rtype}"), || {
            let answer = self.ask(name, rtype, &[]);
            let wanted = (code.to_owned(), validated, records.iter().map(|record| (*record).to_owned()).collect());
            if answer.as_ref() == Ok(&wanted) {
                return Ok(());
            }
            Err(format!("{answer:?}, not {wanted:?}\n{}", self.process.stderr()))
        });
    }
}

fn validates(resolver: &Resolver) {
    let both = |family: usize, rtype: &str| -> Vec<String> {
        let mut both: Vec<String> = MAIL.iter().map(|mail| format!("{rtype} {}", mail[family])).collect();
        both.sort();
        both
    };
    for (family, rtype) in [(0, "A"), (1, "AAAA")] {
        let both = both(family, rtype);
        let both: Vec<&str> = both.iter().map(String::as_str).collect();
        resolver.expect("mail.company.example", rtype, "NOERROR", true, &both);
    }
    resolver.expect("mail.company.example", "TXT", "NOERROR", true, &[]);
    resolver.expect("WWW.company.example", "A", "NOERROR", true, &["A 192.0.2.80"]);
    resolver.expect("www.company.example", "AAAA", "NOERROR", true, &[]);
    resolver.expect("company.example", "MX", "NOERROR", true, &["MX 10 mail.company.example."]);
    resolver.expect("_tcp.company.example", "A", "NOERROR", true, &[]);
    resolver.expect("nobody.company.example", "A", "NXDOMAIN", true, &[]);
    resolver.expect("not.there.at.all.company.example", "A", "NXDOMAIN", true, &[]);
    resolver.expect("a.wild.company.example", "A", "NOERROR", true, &["A 192.0.2.90"]);
    resolver.expect("a.wild.company.example", "TXT", "NOERROR", true, &[]);
    let alias = ["A 192.0.2.80", "CNAME www.company.example."];
    resolver.expect("alias.company.example", "A", "NOERROR", true, &alias);
    resolver.expect("far.company.example", "A", "NXDOMAIN", true, &["CNAME nobody.company.example."]);
    resolver.expect("child.company.example", "DS", "NOERROR", true, &[]);
    let ds = format!("DS 1 13 2 {} 89ABCDEF", "0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF01234567");
    resolver.expect("strict.company.example", "DS", "NOERROR", true, &[&ds]);
}

fn holds(algorithm: &str) {
    let lines = Lines::new();
    lines.write_zone(&format!("{ZONE}{MORE}"));
    let keys = lines.directory().join("state/keys");
    let anchor = keygen(&lines, &keys, algorithm);
    // BIND's tools read the key, and say the same of it.
    let public = key_files(&keys, "key")[0].display().to_string();
    assert_eq!(lines.server.run("dnssec-dsfromkey", &["-2", &public]).trim(), anchor);
    let farside = lines.start(&lines.config(QUICK, "dnssec = true\n", ""));
    let resolver = Resolver::start(&lines, 60, &[&anchor], &["203.0.113.1", "198.51.100.1"]);
    let stranger = keygen(&lines, &lines.directory().join("strange"), algorithm);
    let fooled = Resolver::start(&lines, 61, &[&stranger], &["203.0.113.1"]);
    validates(&resolver);
    let delv = |name: &str, rtype: &str| {
        let words: Vec<&str> = anchor.split(' ').collect();
        let text = format!(
            "trust-anchors {{ company.example. static-ds {} {} {} \"{}\"; }};\n",
            words[3], words[4], words[5], words[6]
        );
        let file = lines.directory().join("anchor");
        fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        let output = lines.client.output("delv", &["@198.51.100.1", "-a", &file, "+root=company.example", name, rtype]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for name in ["mail", "www", "a.wild", "alias"] {
        let said = delv(&format!("{name}.company.example"), "A");
        assert!(said.contains("; fully validated"), "{name}: {said}");
    }
    for (name, rtype) in [("nobody", "A"), ("www", "AAAA"), ("a.wild", "TXT"), ("mail", "TXT")] {
        let said = delv(&format!("{name}.company.example"), rtype);
        assert!(said.contains("; negative response, fully validated"), "{name} {rtype}: {said}");
    }
    // Whose key is another one believes nothing.
    fooled.expect("www.company.example", "A", "SERVFAIL", false, &[]);
    let dns = farside.show("dns");
    let tag: u16 = anchor.split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(dns["zones"][0]["dnssec"]["keys"], serde_json::json!([tag]), "{dns:#}");
    let page = lines.server.run("curl", &["-s", "http://127.0.0.1:9110/metrics"]);
    assert!(page.contains("farside_dns_zone_signed_until_seconds{zone=\"company.example.\"} "), "{page}");
    assert!(farside.counter("dns_signatures") > 0);
    lines.cut(1);
    let two = format!("A {}", MAIL[1][0]);
    resolver.expect("mail.company.example", "A", "NOERROR", true, &[&two]);
    resolver.expect("nobody.company.example", "AAAA", "NXDOMAIN", true, &[]);
    lines.mend(1);
    validates(&resolver);
    // A second key, made by BIND: both sign from the reload on.
    let other = if algorithm == "ed25519" { "ECDSAP256SHA256" } else { "ED25519" };
    let directory = keys.display().to_string();
    lines.server.run("dnssec-keygen", &["-q", "-a", other, "-f", "KSK", "-K", &directory, "company.example"]);
    farside.order(&["reload"]);
    until("both keys", || farside.show("dns")["zones"][0]["dnssec"]["keys"].as_array().unwrap().len() == 2);
    // Where many tests run at once a datagram may be lost: then it is asked for again.
    let asked =
        || lines.dig(&["@198.51.100.1", "+dnssec", "www.company.example", "A", "+short"]).unwrap_or_else(|lost| lost);
    until("two signatures", || asked().matches("A 13 3 60").count() + asked().matches("A 15 3 60").count() == 2);
    validates(&resolver);
    // The first one goes, and who trusts the second believes all.
    for end in ["private", "key"] {
        let gone =
            key_files(&keys, end).into_iter().find(|path| path.to_str().unwrap().contains(&format!("+{tag:05}.")));
        fs::remove_file(gone.unwrap()).unwrap();
    }
    farside.order(&["reload"]);
    until("one key", || farside.show("dns")["zones"][0]["dnssec"]["keys"].as_array().unwrap().len() == 1);
    let public = key_files(&keys, "key")[0].display().to_string();
    let anchor = lines.server.run("dnssec-dsfromkey", &["-2", &public]).trim().to_owned();
    validates(&Resolver::start(&lines, 62, &[&anchor], &["203.0.113.1", "198.51.100.1"]));
    // And a reload that finds no key changes nothing.
    fs::remove_dir_all(&keys).unwrap();
    let (taken, said) = farside.tell(&["reload"]);
    assert!(!taken && said.contains("there is no key of company.example. in "), "{said}");
    assert!(asked().contains("A 1"), "{}", asked());
}

#[test]
fn validators_believe_a_zone_signed_by_ecdsa() {
    holds("ecdsap256");
}

#[test]
fn validators_believe_a_zone_signed_by_ed25519() {
    holds("ed25519");
}

/// Somebody on the way changes an address.
#[test]
fn a_changed_answer_is_not_believed() {
    let lines = Lines::new();
    lines.write_zone(&format!("{ZONE}{MORE}"));
    let anchor = keygen(&lines, &lines.directory().join("state/keys"), "ecdsap256");
    let _farside = lines.start(&lines.config(QUICK, "dnssec = true\n", ""));
    let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (stopped, changing) = (stop.clone(), changes.clone());
    let between = lines.client.thread(move || {
        let socket = UdpSocket::bind("192.0.2.10:53").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let server = UdpSocket::bind("192.0.2.10:0").unwrap();
        server.connect("203.0.113.1:53").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut message = [0; 4096];
        while !stopped.load(Relaxed) {
            let Ok((length, client)) = socket.recv_from(&mut message) else { continue };
            server.send(&message[..length]).unwrap();
            let Ok(length) = server.recv(&mut message) else { continue };
            let wanted = [192, 0, 2, 80];
            if let Some(at) = message[..length].windows(4).position(|window| window == wanted)
                && changing.load(Relaxed)
            {
                message[at + 3] = 81;
            }
            socket.send_to(&message[..length], client).unwrap();
        }
    });
    let resolver = Resolver::start(&lines, 60, &[&anchor], &["192.0.2.10"]);
    resolver.expect("www.company.example", "A", "NOERROR", true, &["A 192.0.2.80"]);
    changes.store(true, Relaxed);
    resolver.expect("www.company.example", "A", "SERVFAIL", false, &[]);
    let unchecked = resolver.ask("www.company.example", "A", &["+cdflag"]).unwrap();
    assert_eq!((unchecked.0.as_str(), unchecked.1, unchecked.2), ("NOERROR", false, vec!["A 192.0.2.81".to_owned()]));
    changes.store(false, Relaxed);
    resolver.expect("www.company.example", "A", "NOERROR", true, &["A 192.0.2.80"]);
    stop.store(true, Relaxed);
    between.join().unwrap();
}
