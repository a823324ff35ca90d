//! (frame, now, state) -> Verdict.
