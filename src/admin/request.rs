//! What is said over the Unix socket: one line of JSON asks, lines of JSON answer.
//!
//! Requests: `{"cmd":"show","what":"flows"}`, `{"cmd":"reload"}`, `{"cmd":"drain","target":"pop3/pop-a"}`, `undrain`,
//! `{"cmd":"explain",...}` with what it is to explain ([`Wish`]).
//! Answers: `{"ok":...}` or `{"error":"..."}` is the last line; `{"rows":[...]}` lines come before it in a long one.

use super::Answers;
use super::rows::{What, Wish};
use serde::{Deserialize, Serialize};

/// Rows of one piece of a long reply.
const ROWS: usize = 256;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase")]
pub(super) enum Request {
    Show { what: What },
    Reload,
    Explain(Wish),
    Drain { target: String },
    Undrain { target: String },
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<T> {
    Ok(T),
    Error(String),
    Rows(T),
}

/// What is to be sent, and where the rest comes from.
pub(super) struct Reply {
    bytes: Vec<u8>,
    sent: usize,
    /// The next flow to tell of; None: `bytes` are the end.
    cursor: Option<usize>,
}

impl Reply {
    /// All of it.
    pub fn whole(bytes: Vec<u8>) -> Reply {
        Reply { bytes, sent: 0, cursor: None }
    }

    fn line<T: Serialize>(line: Line<T>) -> Reply {
        Reply::whole(encode(line))
    }

    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub fn sent(&mut self, count: usize) {
        self.sent += count;
    }

    pub fn is_last(&self) -> bool {
        self.cursor.is_none()
    }

    /// Makes the next piece of a long reply, once the last has been sent.
    pub fn next_piece(&mut self, answers: &mut dyn Answers) {
        let Some(cursor) = self.cursor else { return };
        let (rows, next) = answers.flows(cursor, ROWS);
        self.bytes = encode(Line::Rows(rows));
        if next.is_none() {
            self.bytes.extend(encode(Line::Ok(())));
        }
        self.sent = 0;
        self.cursor = next;
    }
}

fn encode<T: Serialize>(line: Line<T>) -> Vec<u8> {
    // Only maps with keys that are no strings fail, and there are none.
    let mut bytes = serde_json::to_vec(&line).unwrap_or_else(|_| b"{\"error\":\"no words for this\"}".to_vec());
    bytes.push(b'\n');
    bytes
}

/// The reply to what has been asked so far; None: the line is not complete. `too_long`: no more of it is taken.
pub(super) fn reply(asked: &[u8], too_long: bool, answers: &mut dyn Answers) -> Option<Reply> {
    let refuse = |sentence: String| Some(Reply::line(Line::<()>::Error(sentence)));
    let Some(end) = asked.iter().position(|byte| *byte == b'\n') else {
        return if too_long { refuse("the request is too long".into()) } else { None };
    };
    let request = match serde_json::from_slice(&asked[..end]) {
        Ok(request) => request,
        Err(error) => return refuse(format!("the request cannot be understood: {error}")),
    };
    let said = match request {
        Request::Show { what } => return Some(show(what, answers)),
        Request::Explain(wish) => {
            return Some(match answers.explain(&wish) {
                Ok(row) => Reply::line(Line::Ok(row)),
                Err(sentence) => Reply::line(Line::<()>::Error(sentence)),
            });
        }
        Request::Reload => answers.reload(),
        Request::Drain { target } => answers.drain(&target, true),
        Request::Undrain { target } => answers.drain(&target, false),
    };
    Some(Reply::line(match said {
        Ok(said) => Line::Ok(said),
        Err(sentence) => Line::Error(sentence),
    }))
}

fn show(what: What, answers: &mut dyn Answers) -> Reply {
    match what {
        What::Services => Reply::line(Line::Ok(answers.services())),
        What::Health => Reply::line(Line::Ok(answers.health())),
        What::Counters => Reply::line(Line::Ok(answers.counters())),
        What::Dns => Reply::line(Line::Ok(answers.dns())),
        What::Sites => Reply::line(Line::Ok(answers.sites())),
        What::Workers => Reply::line(Line::Ok(answers.workers())),
        What::Flows => Reply { bytes: Vec::new(), sent: 0, cursor: Some(0) },
    }
}
