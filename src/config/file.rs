//! The configuration as written: TOML, read into [`Config`]. All that is wrong is told at once.

use super::Config;
use std::fmt;
use std::path::Path;

/// All that is wrong with a file, each error rendered with its place, the line, a caret and a hint.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigErrors {
    rendered: Vec<String>,
}

impl ConfigErrors {
    /// At least one.
    pub fn count(&self) -> usize {
        self.rendered.len()
    }
}

/// One error after the other, with an empty line between.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered.join("\n\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads the file at `path`. A file that cannot be read is one error, a sentence without a place.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    Err(ConfigErrors { rendered: vec![format!("{}: not yet", path.display())] })
}
