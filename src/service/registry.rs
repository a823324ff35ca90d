//! Which target has which slot. Control's book: a reload keeps the slots of targets that stay, and a target that goes
//! keeps its own until its last connection has ended.

use super::status::{MAX_TARGETS, StatusTable};
use crate::wire::ip::Endpoint;
use hashbrown::HashMap;
use std::sync::atomic::Ordering::Relaxed;

/// A target is the same after a reload if its name and where it is are the same.
type Identity = (String, Endpoint);

pub struct Registry {
    slots: HashMap<Identity, u16>,
    names: Vec<Option<Identity>>,
    /// Slots of targets that are configured no more.
    retired: Vec<u16>,
    free: Vec<u16>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            slots: HashMap::new(),
            names: vec![None; MAX_TARGETS],
            retired: Vec::new(),
            free: (0..MAX_TARGETS as u16).rev().collect(),
        }
    }
}

impl Registry {
    /// The slot of `name` (`service/name`) at `endpoint`, an old or a new one. None: all are taken.
    pub fn slot(&mut self, name: &str, endpoint: Endpoint, status: &StatusTable) -> Option<u16> {
        let identity = (name.to_string(), endpoint);
        if let Some(slot) = self.slots.get(&identity) {
            self.retired.retain(|retired| retired != slot);
            return Some(*slot);
        }
        self.sweep(status);
        // A worker by the old snapshot may have put a last connection on record after the slot was freed.
        let at = self.free.iter().rposition(|slot| status.slot(*slot).active.load(Relaxed) == 0)?;
        let slot = self.free.remove(at);
        status.slot(slot).reset();
        self.names[usize::from(slot)] = Some(identity.clone());
        self.slots.insert(identity, slot);
        Some(slot)
    }

    /// Retires every target whose slot is not among `kept`.
    pub fn retire_others(&mut self, kept: &[u16], status: &StatusTable) {
        self.retired = self.slots.values().filter(|slot| !kept.contains(slot)).copied().collect();
        for slot in &self.retired {
            status.slot(*slot).set_up(false);
        }
        self.sweep(status);
    }

    /// Frees the retired slots that no connection refers to any more.
    fn sweep(&mut self, status: &StatusTable) {
        let (ended, retired): (Vec<u16>, Vec<u16>) =
            self.retired.iter().partition(|slot| status.slot(**slot).active.load(Relaxed) == 0);
        self.retired = retired;
        for slot in ended {
            if let Some(identity) = self.names[usize::from(slot)].take() {
                self.slots.remove(&identity);
                self.free.push(slot);
            }
        }
    }

    /// `service/name`, as long as the slot is taken.
    pub fn name(&self, slot: u16) -> Option<&str> {
        self.names[usize::from(slot)].as_ref().map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that still follows the old snapshot may put a connection to a target on record after that was found
    /// without any.
    #[test]
    fn a_slot_with_a_late_connection_is_not_given_to_another_target() {
        let (mut registry, status) = (Registry::default(), StatusTable::new());
        let slot = registry.slot("pop3/a", Endpoint::default(), &status).unwrap();
        registry.retire_others(&[], &status);
        status.slot(slot).active.fetch_add(1, Relaxed);
        let other = registry.slot("pop3/b", Endpoint::default(), &status).unwrap();
        assert_ne!(other, slot);
        assert_eq!(status.slot(slot).active.load(Relaxed), 1);
        status.slot(slot).active.fetch_sub(1, Relaxed);
        assert_eq!(registry.slot("pop3/c", Endpoint::default(), &status), Some(slot));
    }
}
