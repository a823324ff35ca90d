//! What the data path sees of a target's health in passing: connections that it refuses or leaves unanswered. It decides
//! nothing: [`crate::config::Check::passive`] lets it bring the next active check forward.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Of one target, since it last answered a connection or passed a check. Relaxed: no more than a hint, and one lost or counted
/// twice is no harm.
#[derive(Default)]
pub struct Evidence {
    refused: AtomicU32,
    unanswered: AtomicU32,
}

/// So much speaks against a target that answers nobody: one client that tries again, and once more.
const ENOUGH: u32 = 3;

impl Evidence {
    /// It has answered a SYN with an RST.
    pub fn note_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// A client has sent its SYN again, or has given up.
    pub fn note_unanswered(&self) {
        self.unanswered.fetch_add(1, Relaxed);
    }

    /// It has answered, to a client or to a check: what was before is of no account.
    pub fn clear(&self) {
        // Each connection comes by here: it writes only if there is something to forget.
        for count in [&self.refused, &self.unanswered] {
            if count.load(Relaxed) != 0 {
                count.store(0, Relaxed);
            }
        }
    }

    /// Enough to have it checked.
    pub fn is_enough(&self) -> bool {
        self.refused.load(Relaxed).saturating_add(self.unanswered.load(Relaxed)) >= ENOUGH
    }

    /// For a log line.
    pub fn in_words(&self) -> String {
        let (refused, unanswered) = (self.refused.load(Relaxed), self.unanswered.load(Relaxed));
        format!("of clients' connections {refused} were refused, {unanswered} unanswered")
    }
}
