//! Who counts as asking: a resolver, a network of them, a group, or a client's network.

use super::super::query::Subnet;
use super::prefixes::{Prefixes, Twice};
use crate::affinity::Who;
use crate::config::dns::Prefix;
use std::net::IpAddr;

/// Resolvers that count as one.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub resolvers: Vec<Prefix>,
}

/// By what resolvers count as one.
pub struct Groups {
    table: Prefixes,
    names: Vec<String>,
    whos: Vec<Who>,
    mask_v4: u8,
    mask_v6: u8,
}

impl Default for Groups {
    /// Each resolver counts alone.
    fn default() -> Groups {
        Groups { table: Prefixes::default(), names: Vec::new(), whos: Vec::new(), mask_v4: 32, mask_v6: 128 }
    }
}

impl Groups {
    /// Resolvers in no group count as one whose addresses have so many bits in common. The error: a network is in two groups; places
    /// count all groups' resolvers.
    pub fn new(groups: &[Group], mask_v4: u8, mask_v6: u8) -> Result<Groups, Twice> {
        let of =
            |(at, group): (usize, &Group)| group.resolvers.iter().map(move |prefix| (*prefix, at as u32)).collect();
        let lists: Vec<Vec<(Prefix, u32)>> = groups.iter().enumerate().map(of).collect();
        let names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
        let whos = names.iter().map(|name| Who::group(name)).collect();
        Ok(Groups { table: Prefixes::new(&lists.concat())?, names, whos, mask_v4, mask_v6 })
    }

    /// The name of the group that holds all of a network.
    pub fn name(&self, network: Prefix) -> Option<&str> {
        let (_, at) = self.table.find(network)?;
        self.names.get(at as usize).map(String::as_str)
    }
}

/// Who asks, as far as choices go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Asker {
    /// Whose site is remembered.
    pub who: Who,
    /// Bits that its addresses have in common; None: it is a group.
    common: Option<u8>,
    /// Where it asks from, whatever it counts as: what topology goes by.
    pub network: Prefix,
    /// For how many of the client's address's bits the answer holds (RFC 7871 7.2.1); 0: for all that the resolver asks for.
    pub scope: u8,
}

impl Asker {
    /// A resolver.
    #[inline]
    pub fn of(address: IpAddr, groups: &Groups) -> Asker {
        Asker::at(Prefix::of(address, 128), 0, groups)
    }

    /// None: the client does not want its network to count, or there is none.
    pub fn of_subnet(option: &[u8], groups: &Groups) -> Option<Asker> {
        let subnet = Subnet::read(option)?;
        Some(Asker::at(Prefix::of(subnet.address, subnet.length), subnet.length, groups))
    }

    #[inline]
    fn at(network: Prefix, scope: u8, groups: &Groups) -> Asker {
        if !groups.table.is_empty()
            && let Some((_, at)) = groups.table.find(network)
            && let Some(who) = groups.whos.get(at as usize)
        {
            return Asker { who: *who, common: None, network, scope };
        }
        let mask = if network.address().is_ipv4() { groups.mask_v4 } else { groups.mask_v6 };
        let one = if mask < network.length() { Prefix::of(network.address(), mask) } else { network };
        Asker { who: Who::from(one.address()), common: Some(one.length()), network, scope }
    }

    /// What stripes by modulus divide: the address, or of a network the bits that its addresses have in common (the others are 0, and would
    /// leave no remainder), or of a group the hash of its name.
    pub fn number(&self) -> u128 {
        let number = u128::from_be_bytes(self.who.0);
        match (self.common, self.network.address()) {
            (None, _) => (number as u64).into(),
            (Some(common), IpAddr::V4(_)) => (number as u32).checked_shr(32 - u32::from(common)).unwrap_or(0).into(),
            (Some(common), IpAddr::V6(_)) => number.checked_shr(128 - u32::from(common)).unwrap_or(0),
        }
    }
}
