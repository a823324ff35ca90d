//! `persistence_hours`: how long resolvers' sites are remembered, by the hour of the day in UTC. It is the same time at all sites, and
//! has no hour twice or not at all when clocks change.

use super::super::value::{self, Problem, quoted};
use super::super::walk::{At, Section, Walk};
use super::written::whole_seconds;
use std::time::Duration;
use toml::de::DeValue;

/// Some hours of each day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// 0 to 23: its beginning.
    pub from: u8,
    /// 1 to 24: its end; if that is before the beginning, on the next day.
    pub to: u8,
    pub ttl: Duration,
}

impl Hours {
    fn has(&self, hour: u8) -> bool {
        if self.from < self.to { (self.from..self.to).contains(&hour) } else { hour >= self.from || hour < self.to }
    }

    /// As it is written.
    pub fn words(&self) -> String {
        format!("{:02}-{:02}: {}", self.from, self.to, value::in_words(self.ttl))
    }
}

/// The TTL of each hour in seconds: what `hours` say, and else `ttl`.
pub fn by_hour(ttl: Duration, hours: &[Hours]) -> [u32; 24] {
    std::array::from_fn(|hour| {
        let of = hours.iter().find(|hours| hours.has(hour as u8)).map_or(ttl, |hours| hours.ttl);
        u32::try_from(of.as_secs()).unwrap_or(u32::MAX)
    })
}

/// Reads the key, tells what is wrong.
pub(super) fn read(walk: &mut Walk, section: &Section) -> Vec<Hours> {
    let Some(table) = section.get("persistence_hours") else { return Vec::new() };
    let DeValue::Table(written) = table.get_ref() else {
        let help = "write: persistence_hours = { \"08-18\" = \"4h\" }, hours of the day in UTC";
        walk.wrong(&table.span(), "`persistence_hours` must be a table of hours and durations", help);
        return Vec::new();
    };
    let mut all: Vec<At<Hours>> = Vec::new();
    for (key, written) in written {
        let Some((from, to)) = bounds(key.get_ref()) else {
            let message = format!("{} are no hours of a day", quoted(key.get_ref()));
            walk.wrong(&key.span(), message, "write two hours from 00 to 24, as in \"08-18\" or \"22-06\"");
            continue;
        };
        let ttl = match whole_seconds(written.get_ref()) {
            Ok(ttl) => ttl,
            Err(Problem { message, help }) => {
                walk.wrong(&written.span(), format!("a value of `persistence_hours` {message}"), help);
                continue;
            }
        };
        let new = Hours { from, to, ttl };
        let both = |other: &&At<Hours>| (0..24).any(|hour| new.has(hour) && other.value.has(hour));
        if let Some(other) = all.iter().find(both) {
            let message = format!("{} overlaps other hours", quoted(key.get_ref()));
            walk.collides(&key.span(), &other.place, "these", message, "an hour has one duration");
        }
        all.push(At { value: new, place: key.span() });
    }
    all.into_iter().map(|hours| hours.value).collect()
}

fn bounds(text: &str) -> Option<(u8, u8)> {
    let hour = |text: &str| (text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok());
    let (from, to) = text.split_once('-')?;
    let (from, to): (u8, u8) = (hour(from.trim())??, hour(to.trim())??);
    (from < 24 && to <= 24 && from != to && to > 0).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_go_over_midnight() {
        let hours = |text: &str, s| {
            let (from, to) = bounds(text).unwrap();
            Hours { from, to, ttl: Duration::from_secs(s) }
        };
        let table = by_hour(Duration::from_secs(1), &[hours("22-06", 2), hours("8-9", 3)]);
        let expected = |hour| match hour {
            22.. | ..6 => 2,
            8 => 3,
            _ => 1,
        };
        assert_eq!(table, std::array::from_fn::<u32, 24, _>(expected));
        assert_eq!(by_hour(Duration::from_secs(1), &[hours("00-24", 5)]), [5; 24]);
        for wrong in ["", "8", "8-8", "24-25", "24-06", "06-00", "-1-5", "8-18-20", "a-b", "008-018", "+8-10"] {
            assert_eq!(bounds(wrong), None, "{wrong}");
        }
    }
}
