//! Looking ahead: where a resolver's record most likely lies is worked out, and its memory asked for, before it is needed.

use super::place::Key;
use super::{BUCKET, Share, Store, Who};
use crate::sites::SiteNumber;
use crate::sys::prefetch::prefetch;

/// Where a resolver's record is looked for. Worth nothing for another share or in another store than its own, which finds that out by
/// itself; it has to be used for who it is of.
#[derive(Clone, Copy, Debug)]
pub struct Hint {
    share: Share,
    /// Drawn by the store.
    store: u32,
    bucket: u32,
    first: u8,
}

impl Hint {
    fn home(&self) -> (usize, usize) {
        (self.bucket as usize, usize::from(self.first))
    }
}

impl Store {
    /// First: where the record most likely is.
    #[inline]
    pub fn foresee(&self, who: Who, share: Share) -> Hint {
        let (bucket, first) = self.home(&Key::new(who, share));
        Hint { share, store: self.number, bucket: bucket as u32, first: first as u8 }
    }

    /// Second: begins to load that place. To be called for all of a batch, one right after the other: where a page has to be looked up in
    /// the page tables, a processor goes no further than some hundred instructions before it is found, and looks several up at a time.
    #[inline]
    pub fn fetch(&self, hint: &Hint) {
        let (bucket, first) = hint.home();
        if let Some(places) = self.buckets.get(bucket) {
            prefetch(&places[first % BUCKET]);
        }
    }

    /// Third, when that has come: if it is another's, the places behind it.
    #[inline]
    pub fn fetch_more(&self, hint: &Hint, who: Who) {
        let (bucket, first) = hint.home();
        let Some(places) = self.buckets.get(bucket) else { return };
        if !places[first % BUCKET].may_be(&Key::new(who, hint.share)) {
            prefetch(&places[(first + 1) % BUCKET]);
            prefetch(&places[(first + 2) % BUCKET]);
        }
    }

    /// [`Store::follow`], looking where the hint says, if it is any good.
    #[inline]
    pub fn follow_foreseen(
        &self,
        hint: &Hint,
        (who, share): (Who, Share),
        now_ms: u64,
        up_sites: u64,
    ) -> Option<SiteNumber> {
        let key = Key::new(who, share);
        let good = hint.store == self.number && hint.share == share;
        self.follow_from(if good { hint.home() } else { self.home(&key) }, &key, now_ms, up_sites)
    }
}
