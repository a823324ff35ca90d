//! Which target has which slot. Control's book: a reload keeps the slots of targets that stay, and a target that goes
//! keeps its own until its last connection has ended. Services have slots too, for the count of their connections.

use super::status::{MAX_SERVICES, MAX_TARGETS, StatusTable};
use crate::wire::ip::Endpoint;
use hashbrown::{HashMap, HashSet};

/// A target is the same after a reload if its name and where it is are the same.
type Identity = (String, Endpoint);

pub struct Registry {
    slots: HashMap<Identity, u16>,
    names: Vec<Option<Identity>>,
    /// Slots of targets that are configured no more.
    retired: Vec<u16>,
    free: Vec<u16>,
    /// By name, those included that are configured no more and have connections still.
    services: HashMap<String, u16>,
    free_services: Vec<u16>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            slots: HashMap::new(),
            names: vec![None; MAX_TARGETS],
            retired: Vec::new(),
            free: (0..MAX_TARGETS as u16).rev().collect(),
            services: HashMap::new(),
            free_services: (0..MAX_SERVICES as u16).rev().collect(),
        }
    }
}

impl Registry {
    /// The slot of the service `name`, an old or a new one. None: all are taken.
    pub fn service(&mut self, name: &str) -> Option<u16> {
        if let Some(slot) = self.services.get(name) {
            return Some(*slot);
        }
        let slot = self.free_services.pop()?;
        self.services.insert(name.to_string(), slot);
        Some(slot)
    }

    /// The slot of `name` (`service/name`) at `endpoint`, an old or a new one. None: all are taken.
    pub fn slot(&mut self, name: &str, endpoint: Endpoint, status: &StatusTable) -> Option<u16> {
        let identity = (name.to_string(), endpoint);
        if let Some(slot) = self.slots.get(&identity) {
            self.retired.retain(|retired| retired != slot);
            return Some(*slot);
        }
        self.sweep(status);
        // A worker by the old snapshot may for a moment have a place that it will give back.
        let at = self.free.iter().rposition(|slot| status.slot(*slot).is_idle())?;
        let slot = self.free.remove(at);
        status.slot(slot).reset();
        self.names[usize::from(slot)] = Some(identity.clone());
        self.slots.insert(identity, slot);
        Some(slot)
    }

    /// Retires every target whose slot is not among `kept`. They take no new connections, and refuse none: workers may still choose by
    /// the snapshot of before, in which there is nobody else, and the next one has what the clients shall get.
    pub fn retire_others(&mut self, kept: &[u16], status: &StatusTable) {
        self.retired = self.slots.values().filter(|slot| !kept.contains(slot)).copied().collect();
        for slot in &self.retired {
            status.slot(*slot).set_awaited();
        }
        self.sweep(status);
    }

    /// Frees the slots of services that are not among `kept` and have no connections. Their targets have been retired.
    pub fn retire_other_services(&mut self, kept: &HashSet<u16>, status: &StatusTable) {
        let Registry { services, free_services, .. } = self;
        services.retain(|_, slot| {
            // A service is counted as long as one of its targets is; and the targets take no new ones.
            let stays = kept.contains(slot) || status.service_active(*slot) > 0;
            if !stays {
                free_services.push(*slot);
            }
            stays
        });
    }

    /// Frees the retired slots that no connection refers to any more.
    fn sweep(&mut self, status: &StatusTable) {
        let (ended, retired): (Vec<u16>, Vec<u16>) =
            self.retired.iter().partition(|slot| status.slot(**slot).is_idle());
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
        status.slot(slot).set_up(true);
        assert!(status.slot(slot).take(0, status.slot(slot).life()));
        status.slot(slot).set_up(false);
        let other = registry.slot("pop3/b", Endpoint::default(), &status).unwrap();
        assert_ne!(other, slot);
        assert_eq!(status.slot(slot).active(), 1);
        status.slot(slot).give_up();
        assert_eq!(registry.slot("pop3/c", Endpoint::default(), &status), Some(slot));
    }

    #[test]
    fn a_slot_is_in_another_life_for_each_target_that_has_it() {
        let (mut registry, status) = (Registry::default(), StatusTable::new());
        let slot = registry.slot("pop3/a", Endpoint::default(), &status).unwrap();
        let life = status.slot(slot).life();
        registry.slot("pop3/a", Endpoint::default(), &status).unwrap();
        assert_eq!(status.slot(slot).life(), life, "the same target");
        registry.retire_others(&[], &status);
        assert_eq!(registry.slot("pop3/b", Endpoint::default(), &status), Some(slot));
        assert_eq!(status.slot(slot).life(), life + 1);
    }

    /// While services are built, published and handed to their checks, workers choose among them.
    #[test]
    fn targets_that_come_and_go_are_awaited_meanwhile() {
        let (mut registry, status) = (Registry::default(), StatusTable::new());
        let old = registry.slot("pop3/a", Endpoint::default(), &status).unwrap();
        status.slot(old).set_up(true);
        assert!(status.slot(old).take(0, status.slot(old).life()));
        let new = registry.slot("pop3/b", Endpoint::default(), &status).unwrap();
        assert!(status.slot(new).is_awaited());
        registry.retire_others(&[new], &status);
        assert!(status.slot(old).is_awaited() && !status.slot(old).is_up());
    }

    #[test]
    fn a_services_slot_is_its_own_until_its_last_connection_has_ended() {
        let (mut registry, status) = (Registry::default(), StatusTable::new());
        let nobody = HashSet::new();
        let slot = registry.service("pop3").unwrap();
        assert!(status.enter(slot, 0));
        registry.retire_other_services(&nobody, &status);
        assert_ne!(registry.service("imap"), Some(slot));
        assert_eq!(registry.service("pop3"), Some(slot), "it has come back with its connections counted");
        status.leave(slot);
        registry.retire_other_services(&nobody, &status);
        assert!([registry.service("smtp"), registry.service("dns")].contains(&Some(slot)));
    }
}
