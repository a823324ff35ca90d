//! Zone files (RFC 1035 5, RFC 2308 4, RFC 3597): read, and checked as a whole.
//!
//! The file is cut into entries here ([`entry`]), so that one that is wrong does not hide what is wrong behind it; owner, TTL, class and
//! type are read here too, and TTLs may be written with units (`1h30m`). What is behind the type is the `domain` crate's to read.

mod data;
mod entry;
mod errors;

pub use errors::ZoneErrors;

use super::dnssec::Signer;
use super::name::{self, LONGEST_NAME, Name};
use super::pool::Pool;
use super::wire::rtype;
use super::zone::Contents;
use super::zone::build::{Builder, MOST_FAULTS, Place};
use domain::base::iana::{Class, Rtype};
use entry::{Entries, Entry, Token};
use errors::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Files that include each other.
const DEEPEST: usize = 8;

/// TTLs have 31 bits (RFC 2181 8).
const LONGEST_TTL_S: u32 = i32::MAX as u32;

/// Reads a zone's file, and the files that it includes (relative to the file that says so), and checks all of it.
///
/// `pools`: all there are; those with names in the zone are bound to it. `read` gives a file's bytes.
pub fn load(
    origin: &Name,
    file: &Path,
    pools: &[Arc<Pool>],
    read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<Contents, ZoneErrors> {
    load_signed(origin, file, pools, None, read)
}

/// As [`load`]; the answers are signed by `signer`, whose keys become the zone's DNSKEY records.
pub fn load_signed(
    origin: &Name,
    file: &Path,
    pools: &[Arc<Pool>],
    signer: Option<&Arc<Signer>>,
    read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<Contents, ZoneErrors> {
    let text = read(file).map_err(|error| ZoneErrors::unreadable(file, &error.to_string()))?;
    let mut reader = Reader {
        zone: origin,
        builder: Builder::new(origin),
        files: vec![File { path: file.to_owned(), text }],
        read,
        data: data::Scratch::default(),
    };
    reader.file(0, origin.wire().to_vec(), 0);
    let Reader { mut builder, files, .. } = reader;
    // What is missing may only be missing since it could not be read.
    if !builder.faults.is_empty() {
        return Err(ZoneErrors::new(&files, builder.faults));
    }
    if let Some(signer) = signer {
        builder.sign(signer);
    }
    builder.finish(pools).map_err(|faults| ZoneErrors::new(&files, faults))
}

struct Reader<'r> {
    zone: &'r Name,
    builder: Builder,
    files: Vec<File>,
    read: &'r mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
    data: data::Scratch,
}

/// What entries of one file take over from those before.
struct State {
    file: u16,
    depth: usize,
    origin: Vec<u8>,
    owner: Owner,
    /// By `$TTL`.
    default_ttl_s: Option<u32>,
    last_ttl_s: Option<u32>,
}

/// Whose records those are that do not say so.
enum Owner {
    NoneYet,
    /// What stood there was wrong, which has been told.
    Bad,
    Name(Vec<u8>),
}

/// Wrong, for a person: the token's place, what, and what to do.
type Wrong = (Token, String, String);

impl Reader<'_> {
    fn file(&mut self, file: u16, origin: Vec<u8>, depth: usize) {
        let mut state = State { file, depth, origin, owner: Owner::NoneYet, default_ttl_s: None, last_ttl_s: None };
        let text = std::mem::take(&mut self.files[usize::from(file)].text);
        let mut entries = Entries::new(&text);
        while let Some(entry) = entries.next() {
            let done = match entry {
                Ok(entry) => self.entry(&mut state, &text, &entry),
                Err((token, what)) => Err((token, what.to_owned(), String::new())),
            };
            if let Err((token, message, help)) = done {
                self.builder.wrong(Some(place(file, token)), message, help);
            }
            if self.builder.faults.len() >= MOST_FAULTS {
                break;
            }
        }
        self.files[usize::from(file)].text = text;
    }

    fn entry(&mut self, state: &mut State, text: &[u8], entry: &Entry) -> Result<(), Wrong> {
        let mut tokens = entry.tokens;
        if !entry.indented {
            let first = tokens[0];
            let word = first.of(text);
            if word.starts_with(b"$") && !first.quoted {
                return self.directive(state, text, entry);
            }
            tokens = &tokens[1..];
            let mut owner = match std::mem::replace(&mut state.owner, Owner::Bad) {
                Owner::Name(had) => had,
                _ => Vec::new(),
            };
            absolute(first, text, &state.origin, &mut owner)?;
            if !name::is_in(&owner, self.zone.wire()) {
                let message = format!("{} is not in the zone {}", name::text(&owner), self.zone);
                return Err((first, message, "each zone has a file of its own".into()));
            }
            state.owner = Owner::Name(owner);
        }
        let Some(first) = tokens.first().copied() else {
            return Err((entry.tokens[0], "a record needs a type and data".into(), String::new()));
        };
        let owner = match &state.owner {
            Owner::Name(owner) => owner,
            Owner::Bad => return Ok(()),
            Owner::NoneYet => {
                let help = "a line that begins with space takes its name from the one before, and there is none";
                return Err((first, "it is not said whose record this is".into(), help.into()));
            }
        };
        let (mut ttl_s, mut class) = (None, None);
        let mut rtype = None;
        while let [word, rest @ ..] = tokens {
            tokens = rest;
            let spelled = str::from_utf8(word.of(text)).unwrap_or_default();
            if ttl_s.is_none()
                && let Some(seconds) = seconds(spelled)
            {
                ttl_s = Some(ttl(*word, seconds)?);
            } else if let (false, Ok(known)) =
                (spelled.starts_with(|c: char| c.is_ascii_digit()), Rtype::from_str(spelled))
            {
                rtype = Some((*word, known.to_int()));
                break;
            } else if let (None, Ok(known)) = (class, Class::from_str(spelled)) {
                class = Some(known);
                if known != Class::IN {
                    return Err((*word, format!("the class {spelled} is not served, only IN"), String::new()));
                }
            } else {
                let help = "a record is: name, TTL, IN, type, data; the TTL and IN may be left out";
                return Err((*word, format!("{spelled} is no type of record"), help.into()));
            }
        }
        let Some((token, rtype)) = rtype else {
            return Err((first, "a record needs a type and data".into(), String::new()));
        };
        if let Some(why) = unfit(rtype) {
            return Err((token, format!("{} is no record of a zone file", token.text(text)), why.into()));
        }
        state.last_ttl_s = ttl_s.or(state.last_ttl_s);
        let known_ttl_s = ttl_s.or(state.default_ttl_s).or(state.last_ttl_s);
        let at = Token { start: token.start, end: entry.end.max(token.end), ..token };
        let data = self.data.read(rtype, text, token, tokens, entry.end, &state.origin)?;
        // A SOA without a TTL, and none said before: its own minimum (RFC 1035 5.1 leaves it open, others do so).
        let minimum = || data.last_chunk::<4>().filter(|_| rtype == rtype::SOA).map(|it| u32::from_be_bytes(*it));
        let Some(ttl_s) = known_ttl_s.or_else(minimum) else {
            let help = "write `$TTL 1h` (or what you like) at the top of the file";
            return Err((token, "the record has no TTL".into(), help.into()));
        };
        state.last_ttl_s = Some(ttl_s);
        if !self.builder.push(owner, rtype, ttl_s, data, Some(place(state.file, at))) {
            return Err((token, "the zone is larger than 4 GiB".into(), String::new()));
        }
        Ok(())
    }

    fn directive(&mut self, state: &mut State, text: &[u8], entry: &Entry) -> Result<(), Wrong> {
        let word = entry.tokens[0];
        let arguments = &entry.tokens[1..];
        let spelled = word.text(text).to_ascii_uppercase();
        let (least, most, help) = match spelled.as_str() {
            "$TTL" => (1, 1, "$TTL 1h"),
            "$ORIGIN" => (1, 1, "$ORIGIN example.com."),
            "$INCLUDE" => (1, 2, "$INCLUDE file, and if need be the origin for it"),
            _ => {
                let help = "there are $TTL, $ORIGIN and $INCLUDE";
                return Err((word, format!("{} is not known", word.text(text)), help.into()));
            }
        };
        if arguments.len() < least || arguments.len() > most {
            let token = arguments.get(most).copied().unwrap_or(word);
            return Err((token, format!("{spelled} with too much or too little behind it"), format!("as in `{help}`")));
        }
        match spelled.as_str() {
            "$TTL" => {
                let Some(seconds) = seconds(&arguments[0].text(text)) else {
                    let message = format!("{} is no time", arguments[0].text(text));
                    return Err((arguments[0], message, "seconds, or with units as in `1h30m` (w, d, h, m, s)".into()));
                };
                state.default_ttl_s = Some(ttl(arguments[0], seconds)?);
            }
            "$ORIGIN" => {
                let mut origin = Vec::new();
                absolute(arguments[0], text, &state.origin, &mut origin)?;
                state.origin = origin;
            }
            _ => self.include(state, text, arguments)?,
        }
        Ok(())
    }

    fn include(&mut self, state: &mut State, text: &[u8], arguments: &[Token]) -> Result<(), Wrong> {
        let path = arguments[0].text(text);
        let mut origin = Vec::new();
        match arguments.get(1) {
            Some(token) => absolute(*token, text, &state.origin, &mut origin)?,
            None => origin.clone_from(&state.origin),
        }
        if state.depth + 1 >= DEEPEST || self.files.len() >= usize::from(u16::MAX) {
            let help = format!("files may include each other {DEEPEST} deep; does one include itself?");
            return Err((arguments[0], "too many files that include each other".into(), help));
        }
        let beside = self.files[usize::from(state.file)].path.parent().map(Path::to_owned);
        let path: PathBuf = beside.unwrap_or_default().join(path);
        match (self.read)(&path) {
            Ok(text) => {
                let file = self.files.len() as u16;
                self.files.push(File { path, text });
                // The including file's origin and owner hold on behind it (RFC 1035 5.1).
                self.file(file, origin, state.depth + 1);
                Ok(())
            }
            Err(error) => Err((arguments[0], format!("cannot read {}: {error}", path.display()), String::new())),
        }
    }
}

fn place(file: u16, token: Token) -> Place {
    Place { file, at: token.start as u32, length: (token.end - token.start) as u32 }
}

/// A name in a file, made whole by the origin.
fn absolute(token: Token, text: &[u8], origin: &[u8], out: &mut Vec<u8>) -> Result<(), Wrong> {
    out.clear();
    let word = token.of(text);
    if word == b"@" && !token.quoted {
        out.extend_from_slice(origin);
        return Ok(());
    }
    let wrong = |why: &str| (token, format!("{} is no name: {why}", token.text(text)), String::new());
    name::push_text(word, out).map_err(wrong)?;
    if out.last() != Some(&0) || out.len() > 1 && !ends_in_dot(word) {
        out.extend_from_slice(origin);
    }
    if out.len() > LONGEST_NAME { Err(wrong("it is longer than 255 bytes")) } else { Ok(()) }
}

/// In one that is no character of a label.
fn ends_in_dot(word: &[u8]) -> bool {
    let Some((b'.', rest)) = word.split_last() else { return false };
    // `\.` is a label's; `\\.` is not.
    rest.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0
}

fn ttl(token: Token, seconds: u64) -> Result<u32, Wrong> {
    u32::try_from(seconds).ok().filter(|seconds| *seconds <= LONGEST_TTL_S).ok_or_else(|| {
        (
            token,
            format!("a TTL of {seconds} seconds is more than there can be"),
            format!("the most is {LONGEST_TTL_S} (RFC 2181 8)"),
        )
    })
}

/// `3600`, `1h`, `1d12h`.
fn seconds(word: &str) -> Option<u64> {
    let (mut sum, mut number) = (0_u64, None);
    for byte in word.bytes() {
        let unit = match byte.to_ascii_lowercase() {
            b'0'..=b'9' => {
                number = Some(number.unwrap_or(0_u64).checked_mul(10)?.checked_add(u64::from(byte - b'0'))?);
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86400,
            b'w' => 604_800,
            _ => return None,
        };
        sum = sum.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    match number {
        Some(number) if sum == 0 => Some(number),
        Some(_) => None,
        None => Some(sum).filter(|_| !word.is_empty()),
    }
}

/// Why a type is none of a zone file's.
fn unfit(rtype: u16) -> Option<&'static str> {
    match rtype {
        0 | rtype::OPT | 128..=255 => Some("it exists in messages only"),
        46 | 47 | 50 | 51 => Some("signatures and denials are made from the keys, not read: give the zone unsigned"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
