//! What is said to a server to learn whether it serves. A probe is a state machine without a socket or a clock: bytes
//! in, bytes out, and in the end yes or no. [`super::link`] carries the bytes and watches the time.
//!
//! Servers are not trusted: what they send is bounded here and in the link, may come in any pieces, and reaches people
//! only through [`quote`].

pub mod dns;
pub mod http;
pub mod icmp;
pub mod imap;
pub mod pop3;
pub mod smtp;
pub mod tcp;
pub mod tls;

#[cfg(test)]
mod tests;

use crate::config::{CheckKind, Login, Protocol};
use std::net::SocketAddr;
use std::sync::Arc;

/// The longest line of a text protocol, in bytes. The RFCs ask for 512 (SMTP, POP3); IMAP greetings with capabilities
/// are longer.
const MAX_LINE: usize = 4096;

/// Where a probe stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not decided: send what was put out, then wait for more.
    More,
    /// It serves. What was put out is a good-bye: worth sending, not worth waiting for.
    Healthy,
    /// It does not serve, and why, in words for people.
    Unhealthy(String),
}

/// The conversation with one server. It lives for one probe.
pub trait Probe {
    /// The way is open (a stream is connected): what is said first goes to `out`.
    fn start(&mut self, out: &mut Vec<u8>) -> Step;

    /// The next bytes of the stream, in any pieces; of datagrams, exactly one. Answers go to the end of `out`. Once it
    /// has said yes or no, it is not asked again.
    fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Step;

    /// What it waits for, to complete "no ... within 1s".
    fn awaits(&self) -> &'static str;

    /// After a yes: does the server close the connection by itself? Else the link closes it.
    fn server_closes(&self) -> bool {
        false
    }

    /// When the server's certificate expires, in seconds since 1970, once it has shown one.
    fn certificate_expires(&self) -> Option<i64> {
        None
    }
}

/// What a probe's bytes travel by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Stream,
    Datagram,
    Icmp,
}

/// The probe for a check of the server at `address`. `random` makes it recognise its own answers. Err: the check can't
/// be made, and why; None as a kind has no probe.
pub fn new(
    kind: &CheckKind,
    address: SocketAddr,
    protocol: Protocol,
    tls_config: &Arc<rustls::ClientConfig>,
    random: [u8; 16],
) -> Result<(Transport, Box<dyn Probe>), String> {
    Ok(match kind {
        CheckKind::None => return Err("there is nothing to check".to_string()),
        CheckKind::Tcp => (Transport::Stream, Box::new(tcp::Tcp)),
        CheckKind::Icmp => (Transport::Icmp, Box::new(icmp::Icmp::new(address.is_ipv6(), random))),
        CheckKind::Http { tls, path, host, status } => {
            let http = http::Http::new(path, host.as_deref(), address, *tls, status.clone());
            if *tls {
                (Transport::Stream, Box::new(tls::Tls::new(http, tls_config, host.as_deref(), address)?))
            } else {
                (Transport::Stream, Box::new(http))
            }
        }
        CheckKind::Pop3 { login } => (Transport::Stream, Box::new(Dialogue::new(pop3::Pop3::new(login.clone())))),
        CheckKind::Imap { login } => (Transport::Stream, Box::new(Dialogue::new(imap::Imap::new(login.clone())))),
        CheckKind::Smtp { helo } => (Transport::Stream, Box::new(Dialogue::new(smtp::Smtp::new(helo)))),
        CheckKind::Dns { name } => {
            let stream = protocol == Protocol::Tcp;
            let dns = dns::Dns::new(name, u16::from_ne_bytes([random[0], random[1]]), stream)?;
            (if stream { Transport::Stream } else { Transport::Datagram }, Box::new(dns))
        }
    })
}

/// A conversation in lines, the server speaking first: POP3, IMAP, SMTP.
pub trait Lines {
    /// One line, without its end.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step;

    /// See [`Probe::awaits`].
    fn awaits(&self) -> &'static str;
}

/// Cuts the stream into lines for `talk`. A line ends with LF; a CR before it is not part of it.
pub struct Dialogue<T> {
    talk: T,
    /// The beginning of a line, at most [`MAX_LINE`] bytes.
    partial: Vec<u8>,
}

impl<T: Lines> Dialogue<T> {
    pub fn new(talk: T) -> Dialogue<T> {
        Dialogue { talk, partial: Vec::new() }
    }
}

impl<T: Lines> Probe for Dialogue<T> {
    fn start(&mut self, _out: &mut Vec<u8>) -> Step {
        Step::More
    }

    fn receive(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Step {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let (piece, rest) = match end {
                Some(end) => (&bytes[..end], &bytes[end + 1..]),
                None => (bytes, &[][..]),
            };
            bytes = rest;
            if self.partial.len() + piece.len() > MAX_LINE {
                return Step::Unhealthy(format!("sent a line of more than {MAX_LINE} bytes"));
            }
            self.partial.extend_from_slice(piece);
            if end.is_none() {
                break;
            }
            let line = std::mem::take(&mut self.partial);
            match self.talk.line(line.strip_suffix(b"\r").unwrap_or(&line), out) {
                Step::More => {}
                decided => return decided,
            }
        }
        Step::More
    }

    fn awaits(&self) -> &'static str {
        self.talk.awaits()
    }

    fn server_closes(&self) -> bool {
        true
    }
}

/// What a server sent, fit for a log line: in quotes, at most 80 characters, nothing but printable ASCII.
pub fn quote(bytes: &[u8]) -> String {
    let cut = bytes.len() > 80;
    let text: String = bytes
        .iter()
        .take(80)
        .map(|&byte| if byte == b' ' || byte.is_ascii_graphic() { byte as char } else { '?' })
        .collect();
    format!("\"{text}{}\"", if cut { "..." } else { "" })
}

/// [`quote`] for the answer to a login: not when it repeats the password.
pub fn quote_without(login: &Option<Login>, bytes: &[u8]) -> String {
    let secret = login.as_ref().map_or(&[][..], |login| login.password.as_bytes());
    if !secret.is_empty() && bytes.windows(secret.len()).any(|part| part == secret) {
        return "an answer that repeats the password".to_string();
    }
    quote(bytes)
}
