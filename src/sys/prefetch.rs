//! Asking the processor for a cache line before it is needed.

/// Begins to load the cache line of `at`. A hint: it changes nothing but the time that a later access takes.
#[inline(always)]
pub fn prefetch<T>(at: &T) {
    // SAFETY: a prefetch reads nothing into the program and never faults; the pointer comes from a live reference anyway.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast());
    }
    // SAFETY: as above; the instruction has no operands but the address, and no effect on memory or flags.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
