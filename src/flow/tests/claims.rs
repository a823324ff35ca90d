//! The claims are a multiset.

use super::super::claims::{BUCKET, Claims};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

#[test]
fn memory_may_be_lent_if_it_has_the_right_size() {
    let memory = |words: usize| -> Arc<Vec<AtomicU64>> { Arc::new((0..words).map(|_| AtomicU64::new(0)).collect()) };
    struct Lent(Arc<Vec<AtomicU64>>);
    impl AsRef<[AtomicU64]> for Lent {
        fn as_ref(&self) -> &[AtomicU64] {
            &self.0
        }
    }
    let words = memory(4 * BUCKET);
    let claims = Claims::lent(Arc::new(Lent(words.clone()))).expect("four buckets");
    // Bucket 2 first; the emptier one wins, at a tie the first.
    let hash = 2 | 3 << 32;
    assert!(claims.insert(hash) && claims.contains(hash));
    assert_eq!(words.iter().position(|word| word.load(std::sync::atomic::Ordering::Relaxed) == hash), Some(2 * BUCKET));
    for bad in [0, 3, 3 * BUCKET, BUCKET + 1] {
        assert!(Claims::lent(Arc::new(Lent(memory(bad)))).is_none(), "{bad} words");
    }
}

#[test]
fn no_memory_accepts_and_forgets() {
    let claims = Claims::none();
    assert!(claims.insert(5) && !claims.contains(5) && claims.remove(5) && claims.is_empty());
}

#[test]
fn sizes_stay_under_sixty_percent() {
    for flows in [1, 100, 1_000_000, 10_000_000] {
        let buckets = Claims::buckets_for(flows);
        assert!(buckets.is_power_of_two() && flows as f64 <= 0.6 * (buckets * BUCKET) as f64);
    }
}

#[test]
fn full_buckets_refuse() {
    let claims = Claims::own(4);
    let room = (1..).take_while(|&hash| claims.insert(hash)).count();
    assert_eq!(room, Claims::buckets_for(4) * BUCKET);
}

proptest! {
    #[test]
    fn as_many_as_were_claimed(steps in prop::collection::vec((any::<bool>(), 1u64..9), 0..200)) {
        let claims = Claims::own(1000);
        let mut model: HashMap<u64, u32> = HashMap::new();
        for (insert, which) in steps {
            // Spread over buckets, with some in common.
            let hash = (which << 36) | (which % 3);
            let count = model.entry(hash).or_default();
            if insert && *count < 8 {
                prop_assert!(claims.insert(hash));
                *count += 1;
            } else if !insert {
                prop_assert_eq!(claims.remove(hash), *count > 0);
                *count = count.saturating_sub(1);
            }
            prop_assert_eq!(claims.contains(hash), *count > 0);
        }
        prop_assert_eq!(claims.len(), model.values().sum::<u32>() as usize);
    }
}
