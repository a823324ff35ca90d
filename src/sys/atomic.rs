//! The atomics of the table: the standard ones, or loom's, which tries every order that the memory model allows.

#[cfg(not(feature = "loom"))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(feature = "loom")]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// `fence(SeqCst)` for a thread that has changed one of these by a SeqCst read-modify-write since it last stored anything that the
/// fence is for. On x86-64 such a change is a fence already; loom holds it for less than it is.
#[inline(always)]
pub fn fence_after_change() {
    if cfg!(any(feature = "loom", not(target_arch = "x86_64"))) {
        fence(Ordering::SeqCst);
    } else {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }
}
