//! HTTP/1.1: one GET, judged by the status of the answer. The head must be complete; the body is not read.

use super::{Probe, Step, quote};
use std::net::SocketAddr;
use std::ops::RangeInclusive;

/// The longest head of an answer, in bytes, and the most fields in it.
const MAX_HEAD: usize = 32 * 1024;
const MAX_FIELDS: usize = 128;

pub struct Http {
    request: String,
    status: RangeInclusive<u16>,
    head: Vec<u8>,
}

impl Http {
    /// `status`: the answers that count as healthy. Without a `host` the address stands in the Host field.
    pub fn new(path: &str, host: Option<&str>, address: SocketAddr, tls: bool, status: RangeInclusive<u16>) -> Http {
        let usual = if tls { 443 } else { 80 };
        let host = match host {
            Some(host) => host.to_string(),
            None if address.port() != usual => address.to_string(),
            None if address.is_ipv6() => format!("[{}]", address.ip()),
            None => address.ip().to_string(),
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: farside\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        Http { request, status, head: Vec::new() }
    }
}

impl Probe for Http {
    fn start(&mut self, out: &mut Vec<u8>) -> Step {
        out.extend_from_slice(self.request.as_bytes());
        Step::More
    }

    fn receive(&mut self, bytes: &[u8], _out: &mut Vec<u8>) -> Step {
        self.head.extend_from_slice(bytes);
        loop {
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(&self.head) {
                Ok(httparse::Status::Partial) if self.head.len() > MAX_HEAD => {
                    return Step::Unhealthy(format!("sent more than {MAX_HEAD} bytes without the end of the head"));
                }
                Ok(httparse::Status::Partial) => return Step::More,
                // 100-199 come before the answer proper; 101 can't, as no upgrade was asked for.
                Ok(httparse::Status::Complete(length)) => match response.code.unwrap_or(0) {
                    100 | 102..200 => drop(self.head.drain(..length)),
                    code if self.status.contains(&code) => return Step::Healthy,
                    code => return Step::Unhealthy(refusal(code, response.reason)),
                },
                Err(_) => {
                    let line = self.head.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or(&[]);
                    return Step::Unhealthy(format!("answers something that is not HTTP: {}", quote(line)));
                }
            }
        }
    }

    fn awaits(&self) -> &'static str {
        "answer to the GET"
    }

    fn server_closes(&self) -> bool {
        true
    }
}

fn refusal(code: u16, reason: Option<&str>) -> String {
    match reason {
        Some(reason) if !reason.is_empty() => format!("answers {code} {}", quote(reason.as_bytes())),
        _ => format!("answers {code}"),
    }
}
