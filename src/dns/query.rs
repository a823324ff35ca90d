//! A message read in one pass. Nothing is followed that could lead in a circle: names of records are skipped, not put together, and the
//! question's own name may not be compressed, as there is nothing in front of it that it could point to.

use super::counts::Silence;
use super::name;
use super::wire::{HEADER, rcode, rtype};
use std::net::IpAddr;

/// A query for one question, or none.
#[derive(Debug)]
pub(super) struct Query<'a> {
    pub message: &'a [u8],
    pub question: Option<Question<'a>>,
    pub edns: Option<Edns<'a>>,
    /// The serial in the authority section of an IXFR (RFC 1995 3).
    pub serial: Option<u32>,
    /// Where the TSIG record starts.
    pub signed_at: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// In wire form, in the case in which it was asked.
    pub name: &'a [u8],
    pub qtype: u16,
    pub qclass: u16,
}

impl Question<'_> {
    /// Bytes in the message.
    pub fn length(&self) -> usize {
        self.name.len() + 4
    }
}

/// What the OPT record says (RFC 6891).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Edns<'a> {
    pub size: u16,
    pub version: u8,
    pub dnssec_ok: bool,
    /// RFC 5001.
    pub nsid: bool,
    /// RFC 7873: 8 bytes of the client's, and 8 to 32 of the server's or none.
    pub cookie: Option<&'a [u8]>,
    /// RFC 7871: the option's data, found to be in order.
    pub subnet: Option<&'a [u8]>,
}

/// A query that gets no answer from a zone.
#[derive(Debug)]
pub(super) enum Bad<'a> {
    Silence(Silence),
    /// An error, with as much of the query as could be read.
    Code(u16, Query<'a>),
}

impl<'a> Query<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Query<'a>, Bad<'a>> {
        let Some(header) = message.first_chunk::<HEADER>() else {
            return Err(Bad::Silence(Silence::Short));
        };
        if header[2] & 0x80 != 0 {
            return Err(Bad::Silence(Silence::Response));
        }
        let mut query = Query { message, question: None, edns: None, serial: None, signed_at: None };
        if query.opcode() != 0 {
            return Err(Bad::Code(rcode::NOTIMP, query));
        }
        match query.read(header) {
            Some(()) => Ok(query),
            None => Err(Bad::Code(rcode::FORMERR, query)),
        }
    }

    pub fn opcode(&self) -> u8 {
        self.message[2] >> 3 & 15
    }

    /// Fills in what the header promises, as far as it goes. None: the message is not in order.
    fn read(&mut self, header: &[u8; HEADER]) -> Option<()> {
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let mut at = HEADER;
        match count(4) {
            0 => {}
            1 => {
                let rest = &self.message[HEADER..];
                let name = &rest[..name::length(rest)?];
                let fixed = rest[name.len()..].first_chunk::<4>()?;
                let (qtype, qclass) =
                    (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]]));
                self.question = Some(Question { name, qtype, qclass });
                at += name.len() + 4;
            }
            // RFC 9619.
            _ => return None,
        }
        for _ in 0..count(6) {
            at = Record::read(self.message, at)?.end;
        }
        for _ in 0..count(8) {
            let record = Record::read(self.message, at)?;
            if record.rtype == rtype::SOA && self.question.is_some_and(|question| question.qtype == rtype::IXFR) {
                self.serial = Some(serial(self.message, &record)?);
            }
            at = record.end;
        }
        for _ in 0..count(10) {
            let record = Record::read(self.message, at)?;
            // TSIG is the last one (RFC 8945 5.1).
            if self.signed_at.is_some() {
                self.signed_at = None;
                return None;
            }
            match record.rtype {
                rtype::OPT => {
                    // One, and of the root (RFC 6891 6.1.1, 6.1.2).
                    if self.edns.is_some() || self.message[at] != 0 {
                        return None;
                    }
                    let edns = self.edns.insert(Edns::new(&record));
                    if edns.version == 0 {
                        edns.read(record.data(self.message))?;
                    }
                }
                rtype::TSIG => self.signed_at = Some(at),
                _ => {}
            }
            at = record.end;
        }
        // There may be anything behind it.
        Some(())
    }
}

/// The fixed part of a record, and where its data are.
pub(super) struct Record {
    pub rtype: u16,
    class: u16,
    pub ttl: u32,
    start: usize,
    pub end: usize,
}

impl Record {
    pub fn read(message: &[u8], at: usize) -> Option<Record> {
        let at = skip_name(message, at)?;
        let fixed = message.get(at..)?.first_chunk::<10>()?;
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let start = at + 10;
        let end = start + usize::from(word(8));
        let ttl = u32::from(word(4)) << 16 | u32::from(word(6));
        (end <= message.len()).then_some(Record { rtype: word(0), class: word(2), ttl, start, end })
    }

    pub fn data<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        &message[self.start..self.end]
    }
}

/// The byte behind a name, which may end in a pointer.
pub(super) fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            label @ 1..=63 => at += 1 + usize::from(label),
            0xc0.. => return (at + 2 <= message.len()).then_some(at + 2),
            _ => return None,
        }
    }
}

/// Of a SOA record.
fn serial(message: &[u8], soa: &Record) -> Option<u32> {
    let message = &message[..soa.end];
    let numbers = skip_name(message, skip_name(message, soa.start)?)?;
    message.get(numbers..)?.first_chunk::<4>().map(|serial| u32::from_be_bytes(*serial))
}

impl<'a> Edns<'a> {
    fn new(record: &Record) -> Edns<'a> {
        let (version, dnssec_ok) = ((record.ttl >> 16) as u8, record.ttl & 0x8000 != 0);
        Edns { size: record.class, version, dnssec_ok, ..Edns::default() }
    }

    /// The options; unknown ones are passed over (RFC 6891 6.1.2).
    fn read(&mut self, data: &'a [u8]) -> Option<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let head = rest.first_chunk::<4>()?;
            let (code, long) =
                (u16::from_be_bytes([head[0], head[1]]), usize::from(u16::from_be_bytes([head[2], head[3]])));
            let option = rest.get(4..4 + long)?;
            match code {
                NSID => self.nsid = true,
                // Of several the first one counts (RFC 7873 5.2).
                COOKIE if self.cookie.is_none() => {
                    matches!(option.len(), 8 | 16..=40).then_some(())?;
                    self.cookie = Some(option);
                }
                SUBNET => {
                    subnet_in_order(option).then_some(())?;
                    self.subnet = Some(option);
                }
                _ => {}
            }
            rest = &rest[4 + long..];
        }
        Some(())
    }
}

pub(super) const NSID: u16 = 3;
pub(super) const SUBNET: u16 = 8;
pub(super) const COOKIE: u16 = 10;

/// A client's network (RFC 7871 6).
pub(super) struct Subnet {
    pub address: IpAddr,
    /// At least 1.
    pub length: u8,
}

impl Subnet {
    /// Of an option that is in order. None: it names no network.
    pub fn read(option: &[u8]) -> Option<Subnet> {
        let ([_, family, length, _], given) = option.split_first_chunk::<4>()?;
        let address = match family {
            1 => IpAddr::from(filled::<4>(given)?),
            2 => IpAddr::from(filled::<16>(given)?),
            _ => return None,
        };
        (*length > 0).then_some(Subnet { address, length: *length })
    }
}

/// The rest is 0.
fn filled<const N: usize>(first: &[u8]) -> Option<[u8; N]> {
    let mut all = [0; N];
    all.get_mut(..first.len())?.copy_from_slice(first);
    Some(all)
}

/// RFC 7871 6, 7.1.2: no scope, as many bytes of the address as the prefix needs, nothing set behind the prefix.
fn subnet_in_order(option: &[u8]) -> bool {
    let Some((head, address)) = option.split_first_chunk::<4>() else {
        return false;
    };
    let [_, family, prefix, scope] = *head;
    let longest = match (head[0], family) {
        (0, 1) => 32,
        (0, 2) => 128,
        // "No family": there can be no address either.
        (0, 0) => 0,
        _ => return false,
    };
    let spare = address.len() * 8 - usize::from(prefix).min(address.len() * 8);
    scope == 0
        && prefix <= longest
        && address.len() == usize::from(prefix).div_ceil(8)
        && address.last().is_none_or(|last| u16::from(*last) & ((1 << spare) - 1) == 0)
}
