//! What a server says, asked as clients ask: messages are made and read by the `domain` crate, not by what is tested.

mod dnssec;
mod hostile;
mod lookup;
mod oracle;
mod pools;
mod protocol;
mod steer;
mod transfers;

use super::*;
use domain::base::iana::{Class, Rtype};
use domain::base::{Message, MessageBuilder, Name as DomainName, ParsedRecord};
use domain::rdata::AllRecordData;
use std::path::Path;
use std::sync::Arc;

/// Zones, and one thread that answers.
pub struct Lab {
    pub snapshot: Snapshot,
    pub scratch: Scratch,
    pub now_ms: u64,
    pub from: IpAddr,
    pub unix_ms: u64,
    pub foreseen: Option<Foreseen>,
}

pub const CLIENT: &str = "192.0.2.77";

pub fn contents(origin: &str, text: &str, pools: &[Arc<Pool>]) -> Contents {
    let mut read = |_: &Path| Ok(text.as_bytes().to_vec());
    master::load(&Name::parse(origin).unwrap(), Path::new("zone"), pools, &mut read)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

impl Lab {
    pub fn new(zones: &[(&str, &str)]) -> Lab {
        Lab::with(zones, &[], Settings::default())
    }

    /// All members of all pools are up.
    pub fn with(zones: &[(&str, &str)], pools: &[Arc<Pool>], settings: Settings) -> Lab {
        let zones = zones.iter().map(|(origin, text)| contents(origin, text, pools));
        Lab::of(zones.collect(), pools, settings)
    }

    pub fn of(zones: Vec<Contents>, pools: &[Arc<Pool>], settings: Settings) -> Lab {
        let zones = zones.into_iter().zip(0..).map(|(contents, slot)| {
            let contents = Arc::new(contents);
            let serial = contents.serial();
            let up = vec![PoolState { up: u64::MAX, ttl_most_s: u32::MAX }; pools.len()];
            Arc::new(Zone::new(contents, &up, serial, slot))
        });
        let scratch = Scratch::new(Arc::default(), &settings, 0);
        Lab::over(Snapshot::new(zones.collect(), Arc::new(settings)), scratch)
    }

    pub fn over(snapshot: Snapshot, scratch: Scratch) -> Lab {
        Lab {
            snapshot,
            scratch,
            now_ms: 1000,
            from: CLIENT.parse().unwrap(),
            unix_ms: 1_800_000_000_000,
            foreseen: None,
        }
    }

    /// With all pools of the first zone in these states.
    pub fn states(&mut self, up: &[u64]) {
        let states: Vec<PoolState> = up.iter().map(|up| PoolState { up: *up, ttl_most_s: u32::MAX }).collect();
        let mut zones = self.snapshot.zones().to_vec();
        zones[0] = Arc::new(zones[0].with(&states, zones[0].serial() + 1));
        let steering = self.snapshot.steering().clone();
        self.snapshot = Snapshot::new(zones, self.snapshot.settings().clone()).with(steering);
    }

    pub fn send(&mut self, message: &[u8], transport: Transport) -> (Outcome, Vec<u8>) {
        let size = if transport == Transport::Udp { 4096 } else { 65535 };
        self.send_into(message, transport, size)
    }

    pub fn send_into(&mut self, message: &[u8], transport: Transport, size: usize) -> (Outcome, Vec<u8>) {
        let mut out = vec![0; size];
        let Lab { now_ms, unix_ms, from, ref foreseen, .. } = *self;
        let foreseen = foreseen.as_ref();
        let to = "203.0.113.1".parse().unwrap();
        let asked = Asked { message, from, to, transport, now_ms, unix_ms, foreseen };
        let outcome = answer(&asked, &self.snapshot, &mut self.scratch, &mut out);
        let Outcome::Answer(reply) = outcome else { return (outcome, Vec::new()) };
        out.truncate(reply.length);
        assert_eq!(out.len(), reply.length);
        (outcome, out)
    }

    /// The answer to a message, which must have one.
    pub fn reply(&mut self, message: &[u8]) -> Vec<u8> {
        let (outcome, out) = self.send(message, Transport::Udp);
        assert!(matches!(outcome, Outcome::Answer(_)), "{outcome:?}");
        out
    }

    /// As `dig` shows it: code and flags, then the records of each section behind its name.
    pub fn ask(&mut self, name: &str, rtype: &str) -> String {
        show(&self.reply(&query(name, rtype)))
    }

    pub fn ask_tcp(&mut self, name: &str, rtype: &str) -> String {
        show(&self.send(&query(name, rtype), Transport::Tcp).1)
    }
}

pub fn query(name: &str, rtype: &str) -> Vec<u8> {
    query_of(name, rtype, Class::IN)
}

pub fn query_of(name: &str, rtype: &str, class: Class) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(0x1234);
    message.header_mut().set_rd(true);
    let mut message = message.question();
    // Not all that can be a name can be written to the other crate.
    let name = DomainName::from_octets(Name::parse(name).unwrap().wire().to_vec()).unwrap();
    message.push((name, rtype.parse::<Rtype>().unwrap(), class)).unwrap();
    message.finish()
}

/// Adds an OPT record: its size, the TTL field, and its options.
pub fn edns(mut message: Vec<u8>, size: u16, ttl: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
    message[11] += 1;
    message.extend_from_slice(&[0, 0, 41]);
    message.extend_from_slice(&size.to_be_bytes());
    message.extend_from_slice(&ttl.to_be_bytes());
    let long: usize = options.iter().map(|(_, data)| data.len() + 4).sum();
    message.extend_from_slice(&(long as u16).to_be_bytes());
    for (code, data) in options {
        message.extend_from_slice(&code.to_be_bytes());
        message.extend_from_slice(&(data.len() as u16).to_be_bytes());
        message.extend_from_slice(data);
    }
    message
}

/// The message as text; it must be in order from its first to its last byte.
pub fn show(message: &[u8]) -> String {
    let message = Message::from_octets(message).unwrap();
    let header = message.header();
    assert!(header.qr() && !header.ra() && !header.z() && !header.ad() && !header.cd(), "{header:?}");
    let mut text = header.rcode().to_string();
    for (set, flag) in [(header.aa(), " aa"), (header.tc(), " tc"), (header.rd(), " rd")] {
        text += if set { flag } else { "" };
    }
    let mut records = 0;
    let mut add = |section: &str, record: ParsedRecord<&[u8]>| {
        records += 1;
        if record.rtype() == Rtype::OPT {
            return;
        }
        let record = record.into_record::<AllRecordData<_, _>>().unwrap().unwrap();
        let (owner, ttl) = (record.owner(), record.ttl().as_secs());
        text += &format!("\n{section} {owner}. {ttl} {} {}", record.rtype(), record.data());
    };
    let (_, answer, authority, additional) = message.sections().unwrap();
    answer.for_each(|record| add("an", record.unwrap()));
    authority.for_each(|record| add("ns", record.unwrap()));
    additional.for_each(|record| add("ar", record.unwrap()));
    let counts = message.header_counts();
    assert_eq!(records, u64::from(counts.ancount()) + u64::from(counts.nscount()) + u64::from(counts.arcount()));
    text
}

/// The lines of a section.
pub fn section<'a>(shown: &'a str, name: &str) -> Vec<&'a str> {
    shown.lines().filter_map(|line| line.strip_prefix(name)).map(str::trim).collect()
}

pub const ZONE: &str = r#"
$TTL 1h
@       SOA  ns1 admin 2026112101 1h 15m 2w 5m
        NS   ns1
        NS   ns2
        MX   10 mail
        MX   20 mail.elsewhere.example.
        TXT  "v=spf1 mx -all"
        CAA  0 issue "ca.example"
ns1     A    203.0.113.1
        AAAA 2001:db8::1
ns2     A    198.51.100.1
mail    A    203.0.113.10
        A    198.51.100.10
www     CNAME web
web     60 A 203.0.113.80
far     CNAME far.elsewhere.example.
lost    CNAME nothing
there   CNAME host.child
_imap._tcp SRV 0 1 143 mail
a.b.c   TXT  deep
*.wild  A    203.0.113.90
        MX   5 mail
*.alias CNAME web
x.wild  TXT  here
child   NS   ns.child
        NS   ns.other
        NS   ns.elsewhere.example.
        DS   12345 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
ns.child A   192.0.2.53
other   NS   ns.other
ns.other A   192.0.2.54
old     DNAME new
a.new   A    203.0.113.70
away    DNAME elsewhere.example.
odd     TYPE65280 \# 3 abcdef
"#;
