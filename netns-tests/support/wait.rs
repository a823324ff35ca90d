//! Waiting for a condition instead of for a time.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a condition may take before the test fails. Far above what any of them needs on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Tries until it works.
///
/// # Panics
/// After [`PATIENCE`], with `what` and the last reason.
#[track_caller]
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, attempt)
}

/// [`eventually`] for what takes its time by itself.
#[track_caller]
pub fn eventually_within<T>(patience: Duration, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(reason) if start.elapsed() > patience => panic!("{what}: not after {patience:?}: {reason}"),
            Err(_) => sleep(Duration::from_millis(25)),
        }
    }
}

/// [`eventually`] for a plain condition.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || if condition() { Ok(()) } else { Err("still not so".into()) })
}
