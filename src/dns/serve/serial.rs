//! Zones' serials (RFC 1982): by the clock, always forward, and the same again while the record set is the same, in the next process
//! too. What was given out is on record in a file.

use crate::config::file::io_words;
use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The file's name in the state directory.
const FILE: &str = "serials";

/// Serial `a` is newer than `b` (RFC 1982 3.2). Neither is, if they are half the circle apart.
pub fn is_newer(a: u32, b: u32) -> bool {
    (1..1 << 31).contains(&a.wrapping_sub(b))
}

/// The serial that follows `last`: the time, or the file's own if that is ahead, so that an administrator who writes dates may go on
/// doing so; if neither is, one more than the last.
fn next(last: Option<u32>, of_file: u32, unix_s: u32) -> u32 {
    let ahead = if is_newer(of_file, unix_s) { of_file } else { unix_s };
    match last {
        Some(last) if !is_newer(ahead, last) => last.wrapping_add(1),
        _ => ahead,
    }
}

/// What was given out last, by origin.
pub struct Serials {
    path: PathBuf,
    given: HashMap<String, Given>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Given {
    serial: u32,
    /// [`crate::dns::Zone::fingerprint`] of what had it.
    fingerprint: u128,
}

impl Serials {
    /// Reads the file in `directory`, which is made if it is not there. Errors are sentences.
    pub fn open(directory: &Path) -> Result<Serials, String> {
        let told = |what: &str, path: &Path, why: &io::Error| {
            format!("[dns] state_dir: {what} {}: {}", path.display(), io_words(why))
        };
        fs::create_dir_all(directory).map_err(|why| told("cannot make the directory", directory, &why))?;
        let path = directory.join(FILE);
        // Rubbish in it is what a power failure can leave, and no reason for a name server not to start.
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(why) if why.kind() == ErrorKind::NotFound => String::new(),
            Err(why) => return Err(told("cannot read", &path, &why)),
        };
        let serials = Serials { given: text.lines().filter_map(parse).collect(), path };
        // A directory that cannot be written is found now and not when a line fails.
        serials.write().map_err(|why| told("cannot write", &serials.path, &why))?;
        Ok(serials)
    }

    /// The serial of a record set with this `fingerprint`: the last one if that was of the same set, else a new one. It is on record
    /// before anybody sees it; if that fails it is given all the same, with a sentence that says so.
    pub fn give(&mut self, origin: &str, fingerprint: u128, of_file: u32, unix_s: u32) -> (u32, Result<(), String>) {
        let last = self.given.get(origin).copied();
        if let Some(last) = last.filter(|last| last.fingerprint == fingerprint) {
            return (last.serial, Ok(()));
        }
        let serial = next(last.map(|last| last.serial), of_file, unix_s);
        self.given.insert(origin.into(), Given { serial, fingerprint });
        let written = self.write().map_err(|why| {
            let path = self.path.display();
            format!("the serial {serial} of {origin} cannot be written to {path}: {}", io_words(&why))
        });
        (serial, written)
    }

    /// Another file in one step. It is not forced to the disk: what a power failure takes is a serial of the past, and the clock has
    /// gone on.
    fn write(&self) -> io::Result<()> {
        let mut lines: Vec<String> = self
            .given
            .iter()
            .map(|(origin, given)| format!("{origin} {} {:032x}\n", given.serial, given.fingerprint))
            .collect();
        lines.sort();
        let unfinished = self.path.with_extension("new");
        fs::File::create(&unfinished)?.write_all(lines.concat().as_bytes())?;
        fs::rename(&unfinished, &self.path)
    }
}

fn parse(line: &str) -> Option<(String, Given)> {
    let mut words = line.split(' ');
    let (origin, serial, fingerprint) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    Some((origin.into(), Given { serial, fingerprint: u128::from_str_radix(fingerprint, 16).ok()? }))
}

/// Seconds since 1970, as serials and cookies count them.
pub fn unix_s() -> u32 {
    (unix_ms() / 1000) as u32
}

/// Milliseconds since 1970, as what is remembered of resolvers counts them.
pub fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forward_around_the_circle() {
        assert!(is_newer(1, 0) && is_newer(0, u32::MAX) && is_newer(1 << 30, 0));
        assert!(!is_newer(0, 0) && !is_newer(0, 1) && !is_newer(1 << 31, 0) && !is_newer(0, 1 << 31));
    }

    #[test]
    fn by_the_clock_unless_something_is_ahead_of_it() {
        const NOW: u32 = 1_800_000_000;
        assert_eq!(next(None, 1, NOW), NOW);
        assert_eq!(next(Some(NOW - 10), 1, NOW), NOW);
        assert_eq!(next(Some(NOW), 1, NOW), NOW + 1, "twice in a second");
        assert_eq!(next(Some(NOW + 100), 1, NOW), NOW + 101, "the clock was set back");
        assert_eq!(next(None, 2_026_112_101, NOW), 2_026_112_101, "dates");
        assert_eq!(next(Some(2_026_112_101), 2_026_112_101, NOW), 2_026_112_102);
        assert_eq!(next(Some(2_026_112_105), 2_026_112_200, NOW), 2_026_112_200);
        assert_eq!(next(Some(u32::MAX), 0, u32::MAX), 0);
    }

    proptest! {
        #[test]
        fn the_next_is_always_newer(last: u32, of_file: u32, now: u32) {
            prop_assert!(is_newer(next(Some(last), of_file, now), last));
        }
    }

    #[test]
    fn what_was_given_is_kept_over_restarts() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        let mut serials = Serials::open(&directory).unwrap();
        assert_eq!(serials.give("a.", 7, 1, 1000), (1000, Ok(())));
        assert_eq!(serials.give("a.", 7, 1, 2000), (1000, Ok(())), "nothing has changed");
        assert_eq!(serials.give("b.", 7, 1, 3000), (3000, Ok(())));
        assert_eq!(serials.give("a.", 8, 1, 500), (1001, Ok(())));
        let mut again = Serials::open(&directory).unwrap();
        assert_eq!(again.give("a.", 8, 1, 9000), (1001, Ok(())));
        assert_eq!(again.give("b.", 9, 1, 9000), (9000, Ok(())));
        fs::write(directory.join(FILE), b"a. 5 zz\nrubbish\0\xff\xfe\nb. 9001 9\n").unwrap();
        let mut damaged = Serials::open(&directory).unwrap();
        assert_eq!(damaged.give("a.", 8, 1, 9100).0, 9100);
        assert_eq!(damaged.give("b.", 9, 1, 9100).0, 9001);
    }

    #[test]
    fn a_directory_that_cannot_be_is_a_sentence() {
        let error = Serials::open(Path::new("/proc/nowhere")).err().unwrap();
        assert!(error.starts_with("[dns] state_dir: cannot make the directory /proc/nowhere: "), "{error}");
    }
}
