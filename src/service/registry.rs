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
        let slot = self.free.pop()?;
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

    /// Do connections of targets that are configured no more still run?
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }
}
