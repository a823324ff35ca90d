//! IMAP4rev1 (RFC 3501): the greeting, the login if there is one, and a LOGOUT.

use super::{Lines, Step, quote, quote_without};
use crate::config::Login;

pub struct Imap {
    login: Option<Login>,
    logging_in: bool,
}

impl Imap {
    pub fn new(login: Option<Login>) -> Imap {
        Imap { login, logging_in: false }
    }

    fn greeting(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step {
        // PREAUTH: the server knows us by other means, and LOGIN would be an error.
        if has_word(line, b"* PREAUTH") {
            return logout(out);
        }
        if !has_word(line, b"* OK") {
            return Step::Unhealthy(format!("greets with {}", quote(line)));
        }
        let Some(login) = &self.login else { return logout(out) };
        out.extend_from_slice(
            format!("a1 LOGIN {} {}\r\n", quoted_string(&login.user), quoted_string(&login.password)).as_bytes(),
        );
        self.logging_in = true;
        Step::More
    }
}

impl Lines for Imap {
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step {
        if !self.logging_in {
            return self.greeting(line, out);
        }
        if has_word(line, b"a1 OK") {
            return logout(out);
        }
        // Other untagged lines are capabilities and the like.
        if has_word(line, b"a1") || has_word(line, b"* BYE") || !line.starts_with(b"* ") {
            return Step::Unhealthy(format!("refuses the login with {}", quote_without(&self.login, line)));
        }
        Step::More
    }

    fn awaits(&self) -> &'static str {
        if self.logging_in { "answer to the login" } else { "greeting" }
    }
}

fn logout(out: &mut Vec<u8>) -> Step {
    out.extend_from_slice(b"a2 LOGOUT\r\n");
    Step::Healthy
}

/// Does the line begin with these words, in capitals or not, and then end or go on with a space?
fn has_word(line: &[u8], words: &[u8]) -> bool {
    line.len() >= words.len()
        && line[..words.len()].eq_ignore_ascii_case(words)
        && line.get(words.len()).is_none_or(|&byte| byte == b' ')
}

fn quoted_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
