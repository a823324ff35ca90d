//! Looking at all words of a bucket of the flow table's index at once.

use super::rows::{FLOW_BUCKET, FlowBucket};

/// All words of a bucket, one bit each.
pub const ALL: u32 = (1 << FLOW_BUCKET) - 1;

/// Which words of a bucket have this tag in their highest 16 bits, one bit each, the first word's lowest. What is seen is as
/// good as a Relaxed load of each word, in no order.
#[cfg(all(target_arch = "x86_64", not(feature = "loom")))]
#[inline(always)]
pub fn tagged(bucket: &FlowBucket, tag: u16) -> u32 {
    use std::arch::x86_64::*;
    let (a, b, c, d): (__m128i, __m128i, __m128i, __m128i);
    // SAFETY: four loads of the 64 bytes that the reference is good for. Others may write there meanwhile, which is why they are not
    // written in Rust: to the processor they are loads of aligned 64-bit words, none of which it tears. SSE2 is part of x86-64.
    unsafe {
        std::arch::asm!(
            "movdqa {a}, [{at}]",
            "movdqa {b}, [{at} + 16]",
            "movdqa {c}, [{at} + 32]",
            "movdqa {d}, [{at} + 48]",
            at = in(reg) std::ptr::from_ref(bucket),
            a = out(xmm_reg) a,
            b = out(xmm_reg) b,
            c = out(xmm_reg) c,
            d = out(xmm_reg) d,
            options(nostack, preserves_flags, readonly),
        );
        // Of each word the high half, of that the high half, and so on down to a byte that is all ones or zero.
        let high = |a, b| _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(_mm_castsi128_ps(a), _mm_castsi128_ps(b)));
        let tags = _mm_packs_epi32(_mm_srai_epi32::<16>(high(a, b)), _mm_srai_epi32::<16>(high(c, d)));
        let equal = _mm_cmpeq_epi16(tags, _mm_set1_epi16(tag.cast_signed()));
        _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())).cast_unsigned()
    }
}

/// As above.
#[cfg(any(not(target_arch = "x86_64"), feature = "loom"))]
#[inline]
pub fn tagged(bucket: &FlowBucket, tag: u16) -> u32 {
    use super::atomic::Ordering::Relaxed;
    let tag = u64::from(tag) << 48;
    bucket.0.iter().rev().fold(0, |hits, word| hits << 1 | u32::from(word.load(Relaxed) ^ tag < 1 << 48))
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn each_word_with_the_tag_is_seen_and_no_other() {
        // Signs, neighbors, and what has the tag elsewhere.
        let tags = [0, 1, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff, 0x1234];
        for turn in 0..FLOW_BUCKET {
            let bucket = FlowBucket::default();
            let of = |place: usize| tags[(place * 3 + turn) % tags.len()];
            for (place, word) in bucket.0.iter().enumerate() {
                word.store(of(place) << 48 | of(place + 1) << 32 | of(place + 2) << 16 | of(place + 3), Relaxed);
            }
            for tag in tags {
                let seen = (0..FLOW_BUCKET).filter(|place| of(*place) == tag).fold(0, |seen, place| seen | 1 << place);
                assert_eq!(tagged(&bucket, tag as u16), seen, "{tag:#x}");
            }
        }
        assert_eq!(tagged(&FlowBucket::default(), 0), ALL);
    }
}
