//! What would be answered to whom, and why. The code that answers is asked itself, with a query made for it and a memory that is read and
//! never written ([`Memory::Looked`]), and then the choice once more with a witness.

use super::pool::Pool;
use super::query::{Record, SUBNET, skip_name};
use super::scratch::Scratch;
use super::snapshot::Snapshot;
use super::steer::{Client, Memory, Step, choose};
use super::wire::{HEADER, LONGEST, class, rtype};
use super::zone::Zone;
use super::{Asked, Name, Outcome, Transport, answer};
use crate::affinity;
use crate::config::dns::Prefix;
use crate::sites::SiteNumber;
use crate::sites::ways::Way;
use std::net::IpAddr;
use std::sync::Arc;

/// Who wants to know what.
pub struct Wanted<'w> {
    pub name: &'w Name,
    /// AAAA, or else A.
    pub v6: bool,
    pub resolver: IpAddr,
    /// That the resolver tells (RFC 7871).
    pub subnet: Option<Prefix>,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

pub struct Explained {
    pub rcode: u16,
    pub addresses: Vec<IpAddr>,
    /// Of the addresses.
    pub ttl_s: Option<u32>,
    /// For how many bits of the client's address the answer holds.
    pub scope: u8,
    /// Index in the snapshot.
    pub zone: Option<usize>,
    /// The name's, or that of the name that it is an alias of.
    pub pool: Option<Arc<Pool>>,
    /// None: there is nothing to choose, or too few members are up.
    pub choice: Option<Choice>,
}

/// How a site was chosen.
pub struct Choice {
    pub steps: Vec<Step>,
    /// The network that counts as asking: the resolver's address, or the client's network.
    pub network: Prefix,
    /// The group that it is of.
    pub group: Option<String>,
    /// What it counts as otherwise.
    pub counts_as: Option<IpAddr>,
    /// What is remembered of it, whether it holds or not.
    pub record: Option<affinity::Record>,
    /// From each site that has a member up, where the pool chooses by metrics: what is known of the way to the resolver.
    pub ways: Vec<(SiteNumber, Option<Way>)>,
}

/// Of a snapshot without rate limit.
pub fn explain(snapshot: &Snapshot, wanted: &Wanted) -> Explained {
    let option = wanted.subnet.map(option);
    let message = query(wanted, option.as_deref());
    let mut scratch = Scratch::new(Arc::default(), snapshot.settings(), 0);
    let mut out = vec![0; LONGEST];
    let asked = Asked {
        message: &message,
        from: wanted.resolver,
        to: wanted.resolver,
        transport: Transport::Tcp,
        now_ms: 0,
        unix_ms: wanted.unix_ms,
        foreseen: None,
    };
    let mut explained =
        Explained { rcode: 0, addresses: Vec::new(), ttl_s: None, scope: 0, zone: None, pool: None, choice: None };
    let Outcome::Answer(reply) = answer(&asked, snapshot, &mut scratch, &mut out) else { return explained };
    let out = &out[..reply.length];
    explained.rcode = reply.rcode;
    explained.zone = snapshot.zones().iter().position(|zone| Some(zone.slot()) == reply.zone);
    read(out, wanted.v6, &mut explained);
    if let Some(option) = &option {
        // The answer's last option, and its fourth byte.
        explained.scope = out.len().checked_sub(option.len()).and_then(|at| out.get(at + 3)).copied().unwrap_or(0);
    }
    let Some(zone) = explained.zone.and_then(|zone| snapshot.zones().get(zone)) else { return explained };
    let Some(image) = zone.image_for(reply.pool, wanted.name) else { return explained };
    explained.pool = Some(image.pool().clone());
    let steering = snapshot.steering();
    let client = Client {
        from: wanted.resolver,
        to: wanted.resolver,
        subnet: option.as_deref(),
        now_ms: wanted.unix_ms,
        foreseen: None,
        steering,
    };
    let qtype = if wanted.v6 { rtype::AAAA } else { rtype::A };
    if let Some((plan, sites)) = image.sites()
        && let Some(family) = sites.family(qtype)
    {
        let asker = client.asker(plan.client_subnet);
        let mut steps = Vec::new();
        choose(plan, family, sites.up(), &asker, (&client, 0), &mut steps);
        let record = match (&steering.memory, &plan.dynamic) {
            (Memory::Kept(store) | Memory::Looked(store), Some(dynamic)) => store.read(asker.who, dynamic.share),
            _ => None,
        };
        let group = steering.groups.name(asker.network).map(str::to_owned);
        let counts_as = asker.who.address();
        let seen = client.ways(&asker, family.up());
        let way = |(site, _)| (site, seen.as_ref().and_then(|seen| seen.from(site)));
        let ways = if plan.metrics { family.sites().map(way).collect() } else { Vec::new() };
        explained.choice = Some(Choice { steps, network: asker.network, group, counts_as, record, ways });
    }
    explained
}

fn query(wanted: &Wanted, option: Option<&[u8]>) -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(option.is_some())];
    message.extend_from_slice(wanted.name.wire());
    message.extend_from_slice(&(if wanted.v6 { rtype::AAAA } else { rtype::A }).to_be_bytes());
    message.extend_from_slice(&class::IN.to_be_bytes());
    if let Some(option) = option {
        message.push(0);
        message.extend_from_slice(&rtype::OPT.to_be_bytes());
        message.extend_from_slice(&[4, 208, 0, 0, 0, 0]);
        message.extend_from_slice(&(option.len() as u16 + 4).to_be_bytes());
        message.extend_from_slice(&SUBNET.to_be_bytes());
        message.extend_from_slice(&(option.len() as u16).to_be_bytes());
        message.extend_from_slice(option);
    }
    message
}

/// The data of the option.
fn option(subnet: Prefix) -> Vec<u8> {
    let (family, octets) = match subnet.address() {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (2, address.octets().to_vec()),
    };
    let bytes = usize::from(subnet.length()).div_ceil(8);
    [&[0, family, subnet.length(), 0], &octets[..bytes]].concat()
}

/// The addresses in the answer section.
fn read(message: &[u8], v6: bool, explained: &mut Explained) {
    let count = message.get(6..8).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]));
    let Some(mut at) = skip_name(message, HEADER).map(|at| at + 4) else { return };
    for _ in 0..count {
        let Some(record) = Record::read(message, at) else { return };
        let address = match (record.rtype, record.data(message)) {
            (rtype::A, &[a, b, c, d]) if !v6 => Some(IpAddr::from([a, b, c, d])),
            (rtype::AAAA, data) if v6 => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        };
        if let Some(address) = address {
            explained.addresses.push(address);
            explained.ttl_s = Some(record.ttl);
        }
        at = record.end;
    }
}

impl Zone {
    /// Of a pool by its slot, or else of the one that a name's addresses come from.
    fn image_for(&self, slot: Option<u16>, name: &Name) -> Option<&super::pool::Image> {
        match slot {
            Some(slot) => self.images().iter().find(|image| image.pool().slot == slot),
            None => {
                let mut suffixes = super::name::Suffixes::new();
                suffixes.fill(name.wire());
                let (node, skip) = self.contents().find(&suffixes);
                self.image(if skip > 0 { self.contents().node(node).wildcard } else { node })
            }
        }
    }
}
