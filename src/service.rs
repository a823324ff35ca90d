//! Services, their real servers and remote sites: an immutable snapshot, beside status words that outlive it.
pub mod status;
