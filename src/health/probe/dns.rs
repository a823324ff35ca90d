//! DNS (RFC 1035): a query for an A record. Any well-formed answer to it with NOERROR or NXDOMAIN will do, as a server
//! that knows that a name does not exist serves as well as one that knows its address.

use super::{Probe, Step};

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const RECURSION_DESIRED: u16 = 0x0100;
const NOERROR: u16 = 0;
const NXDOMAIN: u16 = 3;

pub struct Dns {
    id: u16,
    /// Name, type and class, as they stand in the query.
    question: Vec<u8>,
    /// Over TCP: each message has its length before it.
    stream: bool,
    /// Over TCP: what came of the answer so far, at most 2 + 65535 bytes.
    received: Vec<u8>,
}

impl Dns {
    /// Err: `name` can't be put into a query, and why.
    pub fn new(name: &str, id: u16, stream: bool) -> Result<Dns, String> {
        let mut question = encode_name(name)?;
        question.extend_from_slice(&TYPE_A.to_be_bytes());
        question.extend_from_slice(&CLASS_IN.to_be_bytes());
        Ok(Dns { id, question, stream, received: Vec::new() })
    }

    /// None: it is not an answer to our query.
    fn judge(&self, message: &[u8]) -> Option<Step> {
        let word = |i: usize| message.get(i..i + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let flags = word(2)?;
        let is_answer = flags & 0x8000 != 0;
        let opcode = flags >> 11 & 0xf;
        if word(0)? != self.id || !is_answer || opcode != 0 {
            return None;
        }
        let rcode = flags & 0xf;
        let counts = [word(4)?, word(6)?, word(8)?, word(10)?];
        // A server that could not read the query may leave the question out when it says so.
        if counts[0] == 0 && rcode != NOERROR && rcode != NXDOMAIN {
            return Some(Step::Unhealthy(format!("answers {}", rcode_name(rcode))));
        }
        let question = message.get(HEADER..HEADER + self.question.len())?;
        if counts[0] != 1 || !question.eq_ignore_ascii_case(&self.question) {
            return None;
        }
        if rcode != NOERROR && rcode != NXDOMAIN {
            return Some(Step::Unhealthy(format!("answers {}", rcode_name(rcode))));
        }
        let records = counts[1..].iter().map(|&count| count as usize).sum();
        let truncated = flags & 0x0200 != 0;
        if !truncated && skip_records(message, HEADER + self.question.len(), records).is_none() {
            return Some(Step::Unhealthy("answers with a malformed message".to_string()));
        }
        Some(Step::Healthy)
    }
}

impl Probe for Dns {
    fn start(&mut self, out: &mut Vec<u8>) -> Step {
        if self.stream {
            out.extend_from_slice(&((HEADER + self.question.len()) as u16).to_be_bytes());
        }
        for word in [self.id, RECURSION_DESIRED, 1, 0, 0, 0] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&self.question);
        Step::More
    }

    fn receive(&mut self, bytes: &[u8], _out: &mut Vec<u8>) -> Step {
        if !self.stream {
            // Somebody else's, or a late answer to an earlier query: ours may still come.
            return self.judge(bytes).unwrap_or(Step::More);
        }
        let room = 2 + u16::MAX as usize - self.received.len();
        self.received.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let Some((length, message)) = self.received.split_first_chunk::<2>() else { return Step::More };
        match message.get(..u16::from_be_bytes(*length) as usize) {
            None => Step::More,
            Some(message) => self
                .judge(message)
                .unwrap_or_else(|| Step::Unhealthy("answers something that does not match the query".to_string())),
        }
    }

    fn awaits(&self) -> &'static str {
        "answer to the query"
    }
}

/// A name as text, with or without the last dot, as labels with their lengths.
fn encode_name(name: &str) -> Result<Vec<u8>, String> {
    let mut encoded = Vec::new();
    let labels = name.strip_suffix('.').unwrap_or(name);
    if !labels.is_empty() {
        for label in labels.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(format!("can't ask for the name \"{name}\": each of its parts must have 1 to 63 bytes"));
            }
            encoded.push(label.len() as u8);
            encoded.extend_from_slice(label.as_bytes());
        }
    }
    encoded.push(0);
    if encoded.len() > 255 {
        return Err(format!("can't ask for the name \"{name}\": it is longer than 255 bytes"));
    }
    Ok(encoded)
}

/// Walks over `count` records from `at`; None: they do not fit the message. A compression pointer ends a name and is
/// not followed, so this ends.
fn skip_records(message: &[u8], mut at: usize, count: usize) -> Option<usize> {
    for _ in 0..count {
        loop {
            let length = *message.get(at)? as usize;
            match length {
                0 => {
                    at += 1;
                    break;
                }
                1..=63 => at += 1 + length,
                192.. => {
                    at += 2;
                    break;
                }
                _ => return None,
            }
        }
        // Type 2, class 2, TTL 4, length 2.
        let length = message.get(at + 8..at + 10)?;
        at += 10 + u16::from_be_bytes([length[0], length[1]]) as usize;
        message.get(..at)?;
    }
    Some(at)
}

fn rcode_name(rcode: u16) -> String {
    match rcode {
        1 => "FORMERR".to_string(),
        2 => "SERVFAIL".to_string(),
        4 => "NOTIMP".to_string(),
        5 => "REFUSED".to_string(),
        other => format!("with the error code {other}"),
    }
}
