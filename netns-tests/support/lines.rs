//! The world of a test of DNS: a name server with two WAN lines, the Internet behind them, and who asks from there.
//!
//! ```text
//!        server  203.0.113.1, 2001:db8:1::1      198.51.100.1, 2001:db8:2::1
//!                  wan1 |                           | wan2
//!                       +------- internet ----------+
//!                           9.9.9.9, 2620:fe::9
//!                                 |
//!       192.0.2.0/24, 2001:db8:c::/64: client (.10), others (.53 and so on)
//! ```
//! The server sends by each line what comes from its address there, as a machine with two lines has to.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::farside::Farside;
use super::namespace::{Namespace, run};
use super::wait::eventually;

/// The server's addresses on its lines: IPv4, IPv6.
pub const LINES: [[&str; 2]; 2] = [["203.0.113.1", "2001:db8:1::1"], ["198.51.100.1", "2001:db8:2::1"]];

/// What the pool "mail" answers while line 1, line 2 is up: IPv4, IPv6.
pub const MAIL: [[&str; 2]; 2] = [["203.0.113.10", "2001:db8:1::10"], ["198.51.100.10", "2001:db8:2::10"]];

pub const ZONE: &str = "$TTL 60\n\
    @ SOA ns1 hostmaster 1 1h 15m 2w 5m\n\
    @ NS ns1\n@ NS ns2\n@ MX 10 mail\n@ TXT \"v=spf1 mx -all\"\n\
    ns1 A 203.0.113.1\nns1 AAAA 2001:db8:1::1\nns2 A 198.51.100.1\nns2 AAAA 2001:db8:2::1\n\
    www A 192.0.2.80\n_imap._tcp SRV 0 0 143 mail\n";

pub struct Lines {
    pub client: Namespace,
    pub internet: Namespace,
    pub server: Namespace,
    directory: TempDir,
    number: u32,
}

impl Lines {
    pub fn new() -> Lines {
        // Numbers of their own, beside those of worlds.
        static NEXT: AtomicU32 = AtomicU32::new(1000);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new()
            .prefix(&format!("farside-test-{}-", std::process::id()))
            .tempdir()
            .expect("a directory for the test");
        // Name servers drop root's rights and write here.
        run(Command::new("chmod").arg("0777").arg(directory.path()));
        let space = |role: &str| Namespace::new(number, role, directory.path());
        let (client, internet, server) = (space("client"), space("internet"), space("server"));
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            internet.sysctl(key, "1");
        }
        internet.ip("addr add 9.9.9.9/32 dev lo
                     addr add 2620:fe::9/128 dev lo nodad
                     link add lan type bridge
                     addr add 192.0.2.1/24 dev lan
                     addr add 2001:db8:c::1/64 dev lan nodad
                     link set lan up");
        for (n, net) in [(1, "203.0.113"), (2, "198.51.100")] {
            internet.ip(&format!(
                "link add isp{n} type veth peer name wan{n} netns {}
                 addr add {net}.254/24 dev isp{n}
                 addr add 2001:db8:{n}::fe/64 dev isp{n} nodad
                 link set isp{n} up",
                server.name()
            ));
            server.ip(&format!(
                "addr add {net}.1/24 dev wan{n}
                 addr add 2001:db8:{n}::1/64 dev wan{n} nodad
                 link set wan{n} up
                 route add default via {net}.254 dev wan{n} table {n}
                 rule add from {net}.1 table {n}
                 route add default via 2001:db8:{n}::fe dev wan{n} table {n}"
            ));
            server.run("ip", &["-6", "rule", "add", "from", &format!("2001:db8:{n}::1"), "table", &n.to_string()]);
        }
        let lines = Lines { client, internet, server, directory, number };
        lines.attach(&lines.client, 10);
        lines
    }

    /// Another machine beside the client, with this number as the end of its addresses.
    pub fn machine(&self, role: &str, last: u8) -> Namespace {
        let machine = self.space(role);
        self.attach(&machine, last);
        machine
    }

    /// A machine that is not attached to anything.
    pub fn space(&self, role: &str) -> Namespace {
        Namespace::new(self.number, role, self.directory())
    }

    fn attach(&self, machine: &Namespace, last: u8) {
        self.internet.ip(&format!(
            "link add p{last} type veth peer name eth0 netns {}
             link set p{last} master lan up",
            machine.name()
        ));
        machine.ip(&format!(
            "addr add 192.0.2.{last}/24 dev eth0
             addr add 2001:db8:c::{last}/64 dev eth0 nodad
             link set eth0 up
             route add default via 192.0.2.1
             route add default via 2001:db8:c::1"
        ));
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Line 1 or 2 loses everything, or has it back.
    pub fn cut(&self, line: u8) {
        self.internet.ip(&format!("link set isp{line} down"));
    }

    pub fn mend(&self, line: u8) {
        // The addresses of IPv6 have gone with the link.
        self.internet.ip(&format!("link set isp{line} up\naddr replace 2001:db8:{line}::fe/64 dev isp{line} nodad"));
    }

    /// Line 1 or 2 is dead further out: nothing passes, and no link shows it.
    pub fn silence(&self, line: u8) {
        let rules = format!(
            "table inet silent{line} {{
                chain in {{ type filter hook prerouting priority -310; iifname isp{line} drop; }}
                chain out {{ type filter hook postrouting priority 310; oifname isp{line} drop; }}
            }}"
        );
        self.internet.run("nft", &[&rules]);
    }

    /// Undoes [`Lines::silence`].
    pub fn restore(&self, line: u8) {
        self.internet.run("nft", &[&format!("delete table inet silent{line}")]);
    }

    /// Both providers take nothing with a source that is not of their line (BCP 38), and count it; and what line 1 is checked by.
    pub fn filter_sources(&self) {
        let rule = |n: u8, net: &str| {
            format!(
                "iifname isp{n} ip saddr != {net}.0/24 counter name strange drop
                 iifname isp{n} ip6 saddr != {{ 2001:db8:{n}::/64, fe80::/10, :: }} counter name strange drop\n"
            )
        };
        let rules = rule(1, "203.0.113") + &rule(2, "198.51.100");
        self.internet.run(
            "nft",
            &[&format!(
                "table inet providers {{
                    counter strange {{ }}
                    counter checks {{ }}
                    chain in {{
                        type filter hook prerouting priority -300; {rules}
                        iifname isp1 icmp type echo-request counter name checks
                    }}
                }}"
            )],
        );
    }

    /// How many packets came by the wrong line ("strange"), or were pings by line 1 ("checks"), since [`Lines::filter_sources`].
    pub fn counted(&self, what: &str) -> u64 {
        let text = self.internet.run("nft", &["list", "counter", "inet", "providers", what]);
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("a counter: {text}"))
    }

    pub fn write_zone(&self, text: &str) {
        fs::write(self.directory().join("company.example.zone"), text).expect("write the zone");
    }

    /// A configuration with both lines, and a pool "mail" of both families on them. `zone` and `pool` are more lines of those sections.
    pub fn config(&self, check: &str, zone: &str, pool: &str) -> String {
        let mut text = format!(
            "[site]\nname = \"south\"\n[admin]\nsocket = \"{}\"\nmetrics = \"127.0.0.1:9110\"\n",
            self.socket()
        );
        for (n, addresses) in (1..).zip(LINES) {
            let nets = [("203.0.113.254", "9.9.9.9"), ("198.51.100.254", "9.9.9.9")];
            let targets = [
                format!("\"{}\", \"{}\"", nets[n - 1].0, nets[n - 1].1),
                format!("\"2001:db8:{n}::fe\", \"2620:fe::9\""),
            ];
            for ((address, targets), family) in addresses.iter().zip(targets).zip(["", "-6"]) {
                text += &format!(
                    "[[line]]\nname = \"isp{n}{family}\"\naddress = \"{address}\"\ntargets = [{targets}]\ncheck = {{ {check} }}\n"
                );
            }
        }
        let listen: Vec<String> = LINES.iter().map(|[four, six]| format!("\"{four}:53\", \"[{six}]:53\"")).collect();
        text += &format!(
            "[dns]\nlisten = [{}]\nstate_dir = \"{}\"\n[[dns.zone]]\norigin = \"company.example.\"\n\
             file = \"company.example.zone\"\n{zone}\n[[dns.pool]]\nname = \"mail\"\nnames = [\"mail.company.example.\"]\nttl = \"5s\"\n{pool}\n",
            listen.join(", "),
            self.directory().join("state").display(),
        );
        for (n, addresses) in (1..).zip(MAIL) {
            for (address, family) in addresses.iter().zip(["", "-6"]) {
                text += &format!(
                    "[[dns.pool.member]]\nname = \"isp{n}{family}\"\naddresses = [\"{address}\"]\nline = \"isp{n}{family}\"\n"
                );
            }
        }
        text
    }

    pub fn socket(&self) -> String {
        self.directory().join("farside.sock").display().to_string()
    }

    /// farside on the server; returns once it is ready.
    #[track_caller]
    pub fn start(&self, config: &str) -> Farside {
        let mut farside = self.launch(config);
        farside.wait_ready();
        farside
    }

    pub fn launch(&self, config: &str) -> Farside {
        Farside::launch_on(&self.server, self.directory(), config, &self.socket())
    }

    /// What dig prints of a question from the client, with `+short` unless `options` say otherwise.
    pub fn dig(&self, options: &[&str]) -> Result<String, String> {
        dig(&self.client, options)
    }

    /// The addresses that `at` has for mail, IPv4 then IPv6, each family sorted.
    pub fn mail_at(&self, at: &str) -> Result<[Vec<String>; 2], String> {
        let ask = |rtype| {
            let answer = self.dig(&[&format!("@{at}"), "mail.company.example", rtype, "+short"])?;
            let mut addresses: Vec<String> = answer.lines().map(str::to_owned).collect();
            addresses.sort();
            Ok::<_, String>(addresses)
        };
        Ok([ask("A")?, ask("AAAA")?])
    }

    /// Waits until `at` answers mail with the addresses of these lines.
    #[track_caller]
    pub fn wait_mail(&self, at: &str, lines: &[usize], farside: &Farside) {
        eventually(&format!("mail by lines {lines:?} at {at}"), || {
            let wanted = [0, 1].map(|family| {
                let mut addresses: Vec<String> = lines.iter().map(|line| MAIL[line - 1][family].to_string()).collect();
                addresses.sort();
                addresses
            });
            match self.mail_at(at) {
                Ok(answer) if answer == wanted => Ok(()),
                answer => Err(format!("{answer:?}, not {wanted:?}\n{}", farside.log())),
            }
        });
    }
}

/// What dig prints; an error with all of it if it got no answer.
pub fn dig(machine: &Namespace, options: &[&str]) -> Result<String, String> {
    let output = machine.output("dig", &[&["+time=2", "+tries=2", "+norecurse"], options].concat());
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() && !text.contains("communications error") {
        Ok(text)
    } else {
        Err(format!("{text}{errors}"))
    }
}

/// The serial that a name server has for the zone.
pub fn serial(machine: &Namespace, at: &str) -> Result<u32, String> {
    let soa = dig(machine, &[&format!("@{at}"), "company.example", "SOA", "+short"])?;
    soa.split(' ').nth(2).and_then(|serial| serial.parse().ok()).ok_or(soa)
}

/// `show dns --json`: is this member in?
pub fn is_in(dns: &Value, member: &str) -> bool {
    let members = dns["pools"][0]["members"].as_array().expect("members");
    members.iter().any(|row| row["name"] == member && row["up"] == true)
}
