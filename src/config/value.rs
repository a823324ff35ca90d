//! Single values: what the file may write for a port, an address, a duration, and what to say to anything else.

use super::Word;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::de::DeValue;

/// Why a value will not do. `message` goes on after the key's name: "must be ...".
pub(super) struct Problem {
    pub message: String,
    pub help: String,
}

fn problem<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Problem> {
    Err(Problem { message: message.into(), help: help.into() })
}

/// Text of the file, fit to be repeated in a message: quoted, short, control characters escaped.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().count() > SHOWN {
        shown.push_str("...");
    }
    format!("\"{shown}\"")
}

/// What stands there instead, for a message.
fn found(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

pub(super) fn string(value: &DeValue) -> Result<String, Problem> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        _ => problem(format!("must be a string, not {}", found(value)), "write it in double quotes"),
    }
}

pub(super) fn boolean(value: &DeValue) -> Result<bool, Problem> {
    match value {
        DeValue::Boolean(truth) => Ok(*truth),
        _ => problem(format!("must be true or false, not {}", found(value)), "write true or false, without quotes"),
    }
}

/// A whole number within `range`, which is a `what`.
pub(super) fn number<T: TryFrom<i64> + Into<i64> + Copy>(
    what: &'static str,
    range: RangeInclusive<T>,
) -> impl Fn(&DeValue) -> Result<T, Problem> {
    move |value| {
        let (low, high): (i64, i64) = ((*range.start()).into(), (*range.end()).into());
        let must = format!("must be {what} from {low} to {high}, not {}", found(value));
        let number = match value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(text) if text.parse::<i64>().is_ok() => {
                return problem(must, "write the number without quotes");
            }
            _ => None,
        };
        match number.filter(|number| (low..=high).contains(number)).and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(number),
            None => problem(must, format!("write a whole number from {low} to {high}, without quotes")),
        }
    }
}

pub(super) fn truth(value: &DeValue) -> Result<bool, Problem> {
    match value {
        DeValue::Boolean(truth) => Ok(*truth),
        _ => problem(format!("must be true or false, not {}", found(value)), "write true or false, without quotes"),
    }
}

pub(super) fn port(value: &DeValue) -> Result<u16, Problem> {
    number("a port number", 1u16..=u16::MAX)(value)
}

/// One of a choice's words.
pub(super) fn word<T: Word>(value: &DeValue) -> Result<T, Problem> {
    let words = || T::WORDS.iter().map(|(word, _)| *word);
    let all = words().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    match value {
        DeValue::String(text) => match T::WORDS.iter().find(|(word, _)| word == text) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let help = match nearest(text, words()) {
                    Some(near) => format!("did you mean \"{near}\"? The words are {all}"),
                    None => format!("write one of {all}"),
                };
                problem(format!("cannot be {}", quoted(text)), help)
            }
        },
        _ => problem(format!("must be a word, not {}", found(value)), format!("write one of {all}")),
    }
}

/// An address that a packet can be sent to and that is one machine's.
pub(super) fn address(value: &DeValue) -> Result<IpAddr, Problem> {
    const HELP: &str = "write an IPv4 or IPv6 address such as \"192.0.2.10\" or \"2001:db8::10\"";
    let text = match value {
        DeValue::String(text) => text,
        _ => return problem(format!("must be an IP address, not {}", found(value)), HELP),
    };
    let ip: IpAddr = match text.parse() {
        Ok(ip) => ip,
        Err(_) => {
            let help = if text.parse::<SocketAddr>().is_ok() {
                "the port goes in a key of its own"
            } else if text.contains('/') {
                "write the address alone, without a prefix length"
            } else if text.contains('%') {
                "an address with a zone cannot be used here: take a global one"
            } else {
                HELP
            };
            return problem(format!("must be an IP address, not {}", quoted(text)), help);
        }
    };
    match useless(ip) {
        Some(what) => problem(format!("cannot be {ip}: that is {what}"), "write the address of one machine"),
        None => Ok(ip),
    }
}

fn useless(ip: IpAddr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some("no address"),
        _ if ip.is_loopback() => Some("a loopback address, which never leaves this machine"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("in 0.0.0.0/8, which means this network"),
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local, and means something else on every interface"),
        IpAddr::V6(v6) if Ipv6Addr::to_ipv4_mapped(&v6).is_some() => Some("IPv4 in disguise: write the IPv4 address"),
        IpAddr::V6(_) => None,
    }
}

/// None for the empty string.
pub(super) fn listener(value: &DeValue) -> Result<Option<SocketAddr>, Problem> {
    const HELP: &str = "write an address and a port such as \"127.0.0.1:9110\" or \"[::1]:9110\"; \"\" for none";
    match value {
        DeValue::String(text) if text.is_empty() => Ok(None),
        DeValue::String(text) => match text.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 => Ok(Some(address)),
            _ => problem(format!("must be an address and a port, not {}", quoted(text)), HELP),
        },
        _ => problem(format!("must be a string, not {}", found(value)), HELP),
    }
}

/// "low-high" or one number alone, within `bounds`; also a plain number.
pub(super) fn range(
    what: &'static str,
    bounds: RangeInclusive<u16>,
) -> impl Fn(&DeValue) -> Result<RangeInclusive<u16>, Problem> {
    move |value| {
        let (lowest, highest) = (*bounds.start(), *bounds.end());
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_string(),
            _ => String::new(),
        };
        let (low, high) = text.split_once('-').unwrap_or((&text, &text));
        match (low.trim().parse::<u16>(), high.trim().parse::<u16>()) {
            (Ok(low), Ok(high)) if low > high => {
                problem(format!("begins above its end: {}", quoted(&text)), format!("write \"{high}-{low}\""))
            }
            (Ok(low), Ok(high)) if low >= lowest && high <= highest => Ok(low..=high),
            _ => problem(
                format!("must be a range of {what} from {lowest} to {highest}, not {}", found(value)),
                format!("write it as \"{lowest}-{highest}\""),
            ),
        }
    }
}

/// A duration within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue) -> Result<Duration, Problem> {
    move |value| {
        const HELP: &str = "write a number with its unit: \"500ms\", \"2s\", \"5m\", \"2h4m\", \"1d\"";
        let text = match value {
            DeValue::String(text) => text,
            DeValue::Integer(number) => {
                let seconds = number.as_str();
                let help =
                    format!("a duration has a unit: \"{seconds}s\" for seconds, \"{seconds}ms\" for milliseconds");
                return problem(format!("must be a duration, not {seconds}"), help);
            }
            _ => return problem(format!("must be a duration, not {}", found(value)), HELP),
        };
        let Some(duration) = parse_duration(text) else {
            return problem(format!("must be a duration, not {}", quoted(text)), HELP);
        };
        if range.contains(&duration) {
            Ok(duration)
        } else {
            let (low, high) = (in_words(*range.start()), in_words(*range.end()));
            problem(
                format!("must be from {low} to {high}, not {}", quoted(text)),
                format!("write a duration from \"{low}\" to \"{high}\""),
            )
        }
    }
}

const UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Numbers with units, biggest first, each unit once.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis = 0u64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let (_, scale) = units.find(|(name, _)| *name == unit)?;
        millis = millis.checked_add(number.parse::<u64>().ok()?.checked_mul(*scale)?)?;
        rest = tail;
    }
    if text.is_empty() { None } else { Some(Duration::from_millis(millis)) }
}

/// As the file would write it; "0s" for nothing.
pub(super) fn in_words(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, scale) in UNITS {
        let count = rest / u128::from(*scale);
        rest %= u128::from(*scale);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// Part of a TARGET, `service/name`, and of table rows and metrics labels.
pub(super) fn name(value: &DeValue) -> Result<String, Problem> {
    const LONGEST: usize = 64;
    const HELP: &str = "a name has 1 to 64 characters, without spaces, slashes, quotes and backslashes";
    let name = string(value)?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '"' | '\'' | '\\');
    if name.is_empty() {
        return problem("is empty", HELP);
    }
    if name.chars().count() > LONGEST {
        return problem(format!("is longer than {LONGEST} characters"), HELP);
    }
    match name.chars().find(|c| bad(*c)) {
        Some(c) => problem(format!("cannot contain {c:?}"), HELP),
        None => Ok(name),
    }
}

/// A network interface's name.
pub(super) fn interface(value: &DeValue) -> Result<String, Problem> {
    const HELP: &str = "`ip link` lists this machine's interfaces; a name has 1 to 15 bytes";
    let name = string(value)?;
    if name.is_empty() {
        return problem("is empty", HELP);
    }
    if name.len() > 15 {
        return problem(format!("cannot be {}: no interface has a name of more than 15 bytes", quoted(&name)), HELP);
    }
    if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') || name == "." || name == ".." {
        return problem(format!("cannot be {}: no interface can have that name", quoted(&name)), HELP);
    }
    Ok(name)
}

/// A string that goes into a protocol's line: `what` without control characters, and without spaces unless `spaces`.
pub(super) fn line(what: &'static str, spaces: bool) -> impl Fn(&DeValue) -> Result<String, Problem> {
    move |value| {
        let text = string(value)?;
        let bad = text.contains(|c: char| c.is_control() || (!spaces && c.is_whitespace()));
        if text.is_empty() || bad || text.len() > 512 {
            return problem(
                format!("must be {what}, not {}", quoted(&text)),
                "write 1 to 512 bytes, without line breaks and other control characters",
            );
        }
        Ok(text)
    }
}

/// The candidate that is meant by a slip of the fingers, if there is one.
pub(super) fn nearest<'c>(slip: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let slip = slip.to_lowercase().replace('-', "_");
    if slip.len() > 64 {
        return None;
    }
    candidates
        .map(|candidate| (edits(&slip, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters to insert, delete, replace or swap with their neighbour (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        let cases =
            [("2s", 2000), ("500ms", 500), ("2h4m", 7_440_000), ("1d", 86_400_000), ("1m30s", 90_000), ("0s", 0)];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "2", "s", "2 s", "-2s", "1.5s", "2s2s", "4m2h", "2x", "99999999999999999999s", "9999999999999999d"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn slips() {
        let keys = ["port", "protocol", "scheduler", "least_connections"];
        assert_eq!(nearest("prot", keys.into_iter()), Some("port"));
        assert_eq!(nearest("protocoll", keys.into_iter()), Some("protocol"));
        assert_eq!(nearest("least-conections", keys.into_iter()), Some("least_connections"));
        assert_eq!(nearest("colour", keys.into_iter()), None);
    }

    proptest! {
        #[test]
        fn a_duration_in_words_reads_back(millis in 0u64..1 << 40) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&in_words(duration)), Some(duration));
        }

        #[test]
        fn edits_is_a_distance(a in "[a-d]{0,6}", b in "[a-d]{0,6}") {
            prop_assert_eq!(edits(&a, &b), edits(&b, &a));
            prop_assert_eq!(edits(&a, &b) == 0, a == b);
            prop_assert!(edits(&a, &b) <= a.len().max(b.len()));
        }
    }
}
