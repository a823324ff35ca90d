//! A zone's memory asked for before it is needed ([`super::super::ahead`]): each step by what the one before has brought.

use super::{Contents, NOWHERE};
use crate::sys::prefetch::prefetch;

impl Contents {
    /// First: where the name with this hash is looked up.
    #[inline]
    pub(in super::super) fn fetch_slot(&self, hash: u64) {
        self.index.fetch(hash);
    }

    /// Second: the node that this leads to, if there is one.
    #[inline]
    pub(in super::super) fn fetch_node(&self, hash: u64) -> u32 {
        let node = self.index.find(hash, |_| true).unwrap_or(NOWHERE);
        if let Some(found) = self.nodes.get(node as usize) {
            prefetch(found);
        }
        node
    }

    /// Third: its name and its list of record sets.
    #[inline]
    pub(in super::super) fn fetch_name(&self, node: u32) {
        let Some(node) = self.nodes.get(node as usize) else { return };
        self.blob.get(node.name as usize).into_iter().for_each(prefetch);
        self.sets.get(node.sets as usize).into_iter().for_each(prefetch);
    }

    /// Last: its first record set.
    #[inline]
    pub(in super::super) fn fetch_records(&self, node: u32) {
        let Some(node) = self.nodes.get(node as usize) else { return };
        let Some(set) = self.sets.get(node.sets as usize) else { return };
        self.blob.get(set.data as usize).into_iter().for_each(prefetch);
    }
}
