//! What a reload changes, in words.

use super::Config;

/// What becomes different when `new` follows `old`, one sentence per change; empty: nothing.
/// Errors are what cannot change while farside runs, one sentence each.
pub fn diff(_old: &Config, _new: &Config) -> Result<Vec<String>, Vec<String>> {
    Ok(Vec::new())
}
