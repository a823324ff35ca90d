//! POP3 (RFC 1939): the greeting, the login if there is one, and a QUIT, which leaves the mailbox as it was.

use super::{Lines, Step, quote, quote_without};
use crate::config::Login;

pub struct Pop3 {
    login: Option<Login>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    User,
    Pass,
}

impl Pop3 {
    pub fn new(login: Option<Login>) -> Pop3 {
        Pop3 { login, state: State::Greeting }
    }
}

impl Lines for Pop3 {
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step {
        if !is_ok(line) {
            out.extend_from_slice(b"QUIT\r\n");
            return Step::Unhealthy(match self.state {
                State::Greeting => format!("greets with {}", quote(line)),
                State::User | State::Pass => format!("refuses the login with {}", quote_without(&self.login, line)),
            });
        }
        let command = match (self.state, &self.login) {
            (State::Greeting, Some(login)) => {
                self.state = State::User;
                format!("USER {}\r\n", login.user)
            }
            (State::User, Some(login)) => {
                self.state = State::Pass;
                format!("PASS {}\r\n", login.password)
            }
            _ => {
                out.extend_from_slice(b"QUIT\r\n");
                return Step::Healthy;
            }
        };
        out.extend_from_slice(command.as_bytes());
        Step::More
    }

    fn awaits(&self) -> &'static str {
        match self.state {
            State::Greeting => "greeting",
            State::User | State::Pass => "answer to the login",
        }
    }
}

/// `+OK`, alone or with words after it.
fn is_ok(line: &[u8]) -> bool {
    line.strip_prefix(b"+OK").is_some_and(|rest| rest.is_empty() || rest[0] == b' ')
}
