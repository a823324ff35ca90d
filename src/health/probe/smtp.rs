//! SMTP (RFC 5321): the greeting, EHLO, and a QUIT. No mail is begun.

use super::{Lines, Step, quote};

pub struct Smtp {
    helo: String,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Ehlo,
}

impl Smtp {
    pub fn new(helo: &str) -> Smtp {
        Smtp { helo: helo.to_string(), state: State::Greeting }
    }
}

impl Lines for Smtp {
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step {
        let (wanted, what) = match self.state {
            State::Greeting => (b"220", "greets with"),
            State::Ehlo => (b"250", "answers EHLO with"),
        };
        match reply(line) {
            // "220-" goes on in the next line, "220 " does not.
            Some((code, last)) if code == wanted => match (last, self.state) {
                (false, _) => Step::More,
                (true, State::Greeting) => {
                    self.state = State::Ehlo;
                    out.extend_from_slice(format!("EHLO {}\r\n", self.helo).as_bytes());
                    Step::More
                }
                (true, State::Ehlo) => {
                    out.extend_from_slice(b"QUIT\r\n");
                    Step::Healthy
                }
            },
            _ => {
                out.extend_from_slice(b"QUIT\r\n");
                Step::Unhealthy(format!("{what} {}", quote(line)))
            }
        }
    }

    fn awaits(&self) -> &'static str {
        match self.state {
            State::Greeting => "greeting",
            State::Ehlo => "answer to EHLO",
        }
    }
}

/// The code of a reply line, and whether it is the reply's last line.
fn reply(line: &[u8]) -> Option<(&[u8; 3], bool)> {
    let (code, rest) = line.split_first_chunk::<3>()?;
    match rest.first() {
        None | Some(b' ') => Some((code, true)),
        Some(b'-') => Some((code, false)),
        Some(_) => None,
    }
}
