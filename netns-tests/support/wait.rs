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
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(reason) if start.elapsed() > PATIENCE => panic!("{what}: not after {PATIENCE:?}: {reason}"),
            Err(_) => sleep(Duration::from_millis(25)),
        }
    }
}

/// [`eventually`] for a plain condition.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || if condition() { Ok(()) } else { Err("still not so".into()) })
}
