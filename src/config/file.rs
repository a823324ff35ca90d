//! The configuration as written: TOML, read into [`Config`]. All that is wrong is told at once.
//!
//! Three steps: the parser's tree with every value's place (`walk`), the sections' values each by itself (`written`),
//! and what must fit together (`meaning`). Each adds what it finds; only a file without findings becomes a [`Config`].

use super::errors::{Finding, Kind};
use super::walk::Walk;
use super::{Config, ConfigErrors, meaning, written};
use std::io::Read;
use std::path::Path;

/// A longer file is refused, in bytes.
const LONGEST: u64 = 16 << 20;

/// Reads the file at `path`. A file that cannot be read is one error, a sentence without a place.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let unreadable = |why: &str| ConfigErrors::unreadable(format!("cannot read {}: {why}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| unreadable(&io_words(&error)))?;
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&io_words(&error)))?;
    if bytes.len() as u64 > LONGEST {
        return Err(unreadable("it is longer than 16 MiB"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &path.display().to_string()),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|b| **b == b'\n').count() + 1;
            Err(unreadable(&format!("line {line} is not UTF-8 text")))
        }
    }
}

/// Reads the text of a file; `file` is its name in errors.
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigErrors> {
    let mut walk = Walk::default();
    let (tree, errors) = toml::de::DeTable::parse_recoverable(text);
    walk.findings.extend(errors.iter().map(syntax));
    let written = written::read(&mut walk, tree.get_ref());
    meaning::check(&mut walk, &written);
    if !walk.findings.is_empty() {
        return Err(ConfigErrors::new(file, text, walk.findings));
    }
    let mut config = meaning::resolve(written)
        .ok_or_else(|| ConfigErrors::unreadable(format!("{file}: something required is missing")))?;
    let beside = Path::new(file).parent().unwrap_or(Path::new(""));
    if let Some(dns) = &mut config.dns {
        let topologies = dns.topologies.iter_mut().filter_map(|topology| topology.file.as_mut());
        let zones = dns.zones.iter_mut().map(|zone| &mut zone.file);
        for file in zones.chain(topologies).chain(&mut dns.geo_database) {
            *file = beside.join(&file);
        }
    }
    for redis in config.dns.iter_mut().filter_map(|dns| dns.redis.as_mut()) {
        redis.password_file = redis.password_file.take().map(|file| beside.join(file));
    }
    let links = config.peers.iter_mut().filter_map(|peer| peer.link.as_mut()).map(|link| &mut link.certificate);
    let own = config.link.iter_mut().flat_map(|link| [&mut link.certificate, &mut link.key]);
    links.chain(own).for_each(|path| *path = beside.join(&path));
    Ok(config)
}

/// `text` as a site's name; the error is a sentence.
pub fn site_name(text: &str) -> Result<String, String> {
    let value = toml::de::DeValue::String(text.into());
    super::value::name(&value).map_err(|problem| format!("a site's name {}: {}", problem.message, problem.help))
}

/// How the parser's messages begin, and what a person most likely has to do about them.
const HELP: &[(&str, &str)] = &[
    ("string values must be quoted", "put text in double quotes"),
    ("invalid float", "put text, an address too, in double quotes"),
    ("invalid integer", "put text, an address too, in double quotes"),
    ("invalid basic string", "close the string with a double quote on its line"),
    ("key with no value", "write: key = value"),
    (
        "duplicate key",
        "write each key and each [section] once; what there are several of has two brackets: [[service]]",
    ),
    ("unclosed table", "close the header: [section], or [[section]] where there are several"),
    ("unclosed array", "close the list with ]"),
    ("missing comma between array elements", "separate the list's values by commas, and close the list with ]"),
    ("unexpected key or value", "write one key = value on a line; a [section] has a line of its own"),
];

fn syntax(error: &toml::de::Error) -> Finding {
    let help = HELP.iter().find(|(start, _)| error.message().starts_with(start)).map(|(_, help)| *help);
    Finding {
        place: Some(error.span().unwrap_or(0..0)),
        // What the parser would have liked is a list of grammar rules.
        message: error.message().split(", expected").next().unwrap_or_default().to_string(),
        help: help.unwrap_or("https://toml.io has the rules of the format").into(),
        kind: Kind::Syntax,
        other: None,
    }
}

/// What the system says went wrong, without its number, which tells people nothing.
pub fn io_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

#[cfg(test)]
#[path = "tests.rs"]
pub(super) mod tests;
