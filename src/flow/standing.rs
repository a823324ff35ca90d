//! A flow that stands, as its next packet needs it: the other side's ends, the next hop, and where to count. Most packets are
//! of such flows, and to gather all that a [`Flow`](super::Flow) says would cost them more than all else that is done for them.

use super::atomic::Ordering::Relaxed;
use super::burst::Hint;
use super::record::{Ends, Record, Version};
use super::table::FlowTable;
use super::{Mode, Side, Tick};
use crate::wire::ip::{FlowKey, V4};

/// Both sides of it pass through here, and no packet moves its state but by the flags FIN, SYN and RST.
pub struct Standing<'a> {
    record: &'a Record,
    version: Version,
    /// Where the packet that found it comes from.
    pub side: Side,
    /// What the packet goes on to, and from: the other side's ends, with the addresses as that side knows them.
    pub onward: Ends,
    /// Next hop towards the other side; 0: none yet.
    pub hop: u16,
}

impl FlowTable {
    /// The flow of packets with this key, if `hint` is of it, it stands, and its hops are of route epoch `epoch`. Else it is to
    /// be [followed](FlowTable::follow).
    #[inline(always)]
    pub fn standing(&self, key: &FlowKey, hint: Hint, epoch: u8) -> Option<Standing<'_>> {
        let entry = hint.entry()?;
        let record = self.record(entry.index());
        let (version, side) = (record.version(), entry.side());
        let word = record.word();
        let hit = version.carries(entry.generation(), key.family, key.protocol)
            && word.stands()
            && word.epoch() == epoch
            && record.has(side, key);
        if !hit {
            return None;
        }
        // Of a flow of both sides all ends are of one family.
        let onward = record.ends(side.other(), key.family != V4);
        let hop = word.hops()[side.other() as usize];
        // As in `flow_of`.
        record.still(version).then_some(Standing { record, version, side, onward, hop })
    }
}

impl Standing<'_> {
    #[inline]
    pub fn mode(&self) -> Mode {
        self.version.mode()
    }

    /// In the [`StatusTable`](crate::service::status::StatusTable). Stands in the record's second line.
    #[inline]
    pub fn target_slot(&self) -> u16 {
        self.record.life().target_slot
    }

    /// Counts one packet with `bytes`, and remembers its acknowledgement number if that is asked for: as
    /// [`FlowTable::touch`] and [`FlowTable::note_ack`].
    #[inline(always)]
    pub fn note(&self, now: Tick, bytes: u32, ack: impl FnOnce() -> Option<u32>) {
        self.record.count(self.side, now, 1, bytes);
        if self.version.track_acks()
            && let Some(ack) = ack()
        {
            self.record.acks[self.side as usize].store(ack, Relaxed);
        }
    }
}
