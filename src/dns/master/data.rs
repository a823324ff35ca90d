//! A record's data: addresses are read here, as most records of a large zone are, all else by the `domain` crate.

use super::entry::Token;
use super::{Wrong, seconds};
use crate::dns::name;
use crate::dns::wire::rtype;
use crate::dns::zone::build;
use bytes::Bytes;
use domain::base::iana::Class;
use domain::base::name::Name;
use domain::base::rdata::ComposeRecordData;
use domain::zonefile::inplace::{Entry, Zonefile};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What is needed again and again.
#[derive(Default)]
pub(super) struct Scratch {
    data: Vec<u8>,
    text: Vec<u8>,
    origin: Option<Name<Bytes>>,
}

impl Scratch {
    /// The data of a record in wire form, names uncompressed. `kind`: the type; `words`: what follows it, up to `end`.
    pub fn read(
        &mut self,
        rtype: u16,
        text: &[u8],
        kind: Token,
        words: &[Token],
        end: usize,
        origin: &[u8],
    ) -> Result<&[u8], Wrong> {
        self.data.clear();
        match (rtype, words) {
            (rtype::A, [word]) => match word.text(text).parse::<Ipv4Addr>() {
                Ok(address) => self.data.extend_from_slice(&address.octets()),
                Err(_) => return Err(no_address(*word, text, "A", "an IPv4 address, as 192.0.2.1")),
            },
            (rtype::AAAA, [word]) => match word.text(text).parse::<Ipv6Addr>() {
                Ok(address) => self.data.extend_from_slice(&address.octets()),
                Err(_) => return Err(no_address(*word, text, "AAAA", "an IPv6 address, as 2001:db8::1")),
            },
            _ => self.by_domain(rtype, text, kind, words, end, origin)?,
        }
        Ok(&self.data)
    }

    fn by_domain(
        &mut self,
        rtype: u16,
        text: &[u8],
        kind: Token,
        words: &[Token],
        end: usize,
        origin: &[u8],
    ) -> Result<(), Wrong> {
        if words.is_empty() {
            return Err((kind, format!("{} without data", kind.text(text)), String::new()));
        }
        self.text.clear();
        self.text.extend_from_slice(b". 0 IN ");
        self.text.extend_from_slice(kind.of(text));
        self.text.push(b' ');
        let front = self.text.len();
        // Behind the type the file goes on as it is, so that places in it can be told; but for a SOA's times, which may have units, and
        // for the origin's own name, which the crate does not know as `@` (RFC 1035 5.1).
        let is_origin = |at: usize, word: &Token| !word.quoted && word.of(text) == b"@" && is_name(rtype, at);
        let start = if rtype == rtype::SOA || words.iter().enumerate().any(|(at, word)| is_origin(at, word)) {
            for (at, word) in words.iter().enumerate() {
                match seconds(&word.text(text)).filter(|_| rtype == rtype::SOA && at > 2) {
                    Some(seconds) => self.text.extend_from_slice(seconds.to_string().as_bytes()),
                    None if is_origin(at, word) => self.text.extend_from_slice(name::text(origin).as_bytes()),
                    None if word.quoted => {
                        self.text.push(b'"');
                        self.text.extend_from_slice(word.of(text));
                        self.text.push(b'"');
                    }
                    None => self.text.extend_from_slice(word.of(text)),
                }
                self.text.push(b' ');
            }
            None
        } else {
            // Closed behind the data.
            if kind.inside {
                self.text.push(b'(');
            }
            let offset = self.text.len();
            self.text.extend_from_slice(&text[kind.end..end]);
            Some((kind.end, offset))
        };
        self.text.push(b'\n');
        let mut file = Zonefile::from(&*self.text);
        if self.origin.as_ref().is_none_or(|had| had.as_octets() != origin) {
            self.origin = Name::from_octets(Bytes::copy_from_slice(origin)).ok();
        }
        self.origin.iter().for_each(|origin| file.set_origin(origin.clone()));
        file.set_default_class(Class::IN);
        let wrong = |error: String| {
            let (token, message) = located(&error, &self.text, front, start, kind, end);
            (token, format!("{}: {message}", kind.text(text)), String::new())
        };
        match file.next_entry() {
            Ok(Some(Entry::Record(record))) => match record.data().compose_rdata(&mut self.data) {
                Ok(()) if self.data.len() <= usize::from(u16::MAX) => build::in_order(rtype, &self.data)
                    .then_some(())
                    .ok_or_else(|| (kind, format!("the data are not those of {}", kind.text(text)), String::new())),
                _ => Err((kind, format!("the data of {} are too long", kind.text(text)), String::new())),
            },
            Ok(_) => Err((kind, format!("{} without data", kind.text(text)), String::new())),
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

/// The word at this place behind the type is a name.
fn is_name(rtype: u16, at: usize) -> bool {
    match rtype {
        // Also MB, MG, MR.
        rtype::NS | rtype::CNAME | rtype::PTR | rtype::DNAME | 7..=9 => at == 0,
        // Also MINFO and RP.
        rtype::SOA | 14 | 17 => at < 2,
        // Also AFSDB, RT, KX, and SVCB and HTTPS.
        rtype::MX | 18 | 21 | 36 | 64 | 65 => at == 1,
        rtype::SRV => at == 3,
        // NAPTR.
        35 => at == 5,
        _ => false,
    }
}

fn no_address(word: Token, text: &[u8], kind: &str, help: &str) -> Wrong {
    (word, format!("{} is no address for {kind}", word.text(text)), help.into())
}

/// From `line:column: what` in the text that was given to the crate to the place in the file.
fn located(
    error: &str,
    given: &[u8],
    front: usize,
    start: Option<(usize, usize)>,
    kind: Token,
    end: usize,
) -> (Token, String) {
    let whole = Token { end: end.max(kind.end), ..kind };
    let mut parts = error.splitn(3, ':');
    let mut number = || parts.next()?.trim().parse::<usize>().ok();
    let (Some(line), Some(column)) = (number(), number()) else {
        return (whole, error.to_owned());
    };
    let message = parts.next().unwrap_or(error).trim().to_owned();
    let Some((from, offset)) = start else { return (whole, message) };
    let line_start: usize =
        given.split(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(|line| line.len() + 1).sum();
    let at = (line_start + column.saturating_sub(1)).max(front).max(offset);
    let at = (from + (at - offset)).min(end.saturating_sub(1)).max(kind.start);
    (Token { start: at, end: end.max(at), ..kind }, message)
}
