//! Reading the kernel's state, one dump after another: links, addresses, rules, IPv4 routes, IPv6 routes, neighbours. A change is
//! never followed step by step: a notification only says that something changed, and the truth is read anew. The
//! kernel drops routes without a word when a link goes down, splits multipath routes in ways of its own, and loses
//! notifications when they come too fast; a dump is right whatever happened before.

use super::socket::{self, Raw, Requests};
use super::world::{self, Address, Link, NeighborRow, Owner};
use crate::route::{Route, Rule, Table};
use hashbrown::{HashMap, HashSet};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::time::Instant;

/// More routes than this are not looked at. A full Internet table of both families is below it.
const MAX_ROUTES: usize = 2 << 20;
/// A packet's lookup tries them one after the other.
const MAX_RULES: usize = 256;
/// How often a dump that was changed under the reader is begun again before it is put off.
const RESTARTS: u32 = 10;
/// Datagrams (of up to 32 KB) read in one go, so that reading a large table does not hold up the rest of control.
const SLICE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Links,
    Addresses,
    Rules,
    Routes4,
    Routes6,
    Neighbors,
}

/// What has been read.
#[derive(Default)]
pub(super) struct World {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    /// As the kernel tries them, each family's for itself; none: it knows no rules.
    pub rules: Vec<Rule>,
    /// Rules that ask for more than farside looks at, and so are passed over.
    pub strange_rules: usize,
    pub routes: Vec<Route>,
    /// None: was not asked for.
    pub neighbors: Option<Vec<NeighborRow>>,
    /// Messages that made no sense; what they said is missing.
    pub unread: usize,
    /// There were more routes than are looked at.
    pub cut: bool,
}

/// A reading in progress.
pub(super) struct Sync {
    stage: Stage,
    sequence: u32,
    restarts: u32,
    pub started: Instant,
    owners: HashMap<u32, Owner>,
    /// Of which routes are wanted.
    tables: HashSet<Table>,
    world: World,
}

impl Sync {
    pub fn start(requests: &mut Requests, neighbors: bool, now: Instant) -> io::Result<Sync> {
        let world = World { neighbors: neighbors.then(Vec::new), ..World::default() };
        let mut sync = Sync {
            stage: Stage::Links,
            sequence: 0,
            restarts: 0,
            started: now,
            owners: HashMap::new(),
            tables: HashSet::new(),
            world,
        };
        sync.ask(requests, Stage::Links)?;
        Ok(sync)
    }

    fn ask(&mut self, requests: &mut Requests, stage: Stage) -> io::Result<()> {
        self.stage = stage;
        let routes = |family| {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            RouteNetlinkMessage::GetRoute(message)
        };
        self.sequence = requests.dump(match stage {
            Stage::Links => RouteNetlinkMessage::GetLink(Default::default()),
            Stage::Addresses => RouteNetlinkMessage::GetAddress(Default::default()),
            Stage::Rules => RouteNetlinkMessage::GetRule(Default::default()),
            Stage::Routes4 => routes(AddressFamily::Inet),
            Stage::Routes6 => routes(AddressFamily::Inet6),
            Stage::Neighbors => RouteNetlinkMessage::GetNeighbour(Default::default()),
        })?;
        Ok(())
    }

    /// Reads on. Some: all is read. `owner_of` names the owner of a link.
    ///
    /// # Errors
    /// A refused or endlessly interrupted dump; the reading is over and must be started again.
    pub fn advance(&mut self, requests: &mut Requests, owner_of: impl Fn(&Link) -> Owner) -> io::Result<Option<World>> {
        for _ in 0..SLICE {
            let (mut done, mut interrupted) = (false, false);
            match requests.receive() {
                Ok(bytes) => {
                    for raw in socket::messages(bytes).filter(|raw| raw.sequence == self.sequence) {
                        interrupted |= raw.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                        match raw.kind as i32 {
                            libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                                match socket::error_in(raw.payload) {
                                    // A kernel without policy routing.
                                    Some(error) if self.stage == Stage::Rules && is_unknown(&error) => {}
                                    Some(error) => return Err(error),
                                    None => {}
                                }
                                done = true;
                            }
                            _ => self.world.take(self.stage, &raw, &self.owners, &self.tables),
                        }
                    }
                }
                // An answer is there as soon as it is asked for, so nothing to read means that it was lost.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => interrupted = true,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => interrupted = true,
                Err(error) => return Err(error),
            }
            if interrupted {
                self.restarts += 1;
                if self.restarts > RESTARTS {
                    return Err(io::Error::other("the kernel's tables change faster than they can be read"));
                }
                self.restart(requests)?;
            } else if done {
                match self.stage {
                    Stage::Links => {
                        self.owners = self.world.links.iter().map(|link| (link.ifindex, owner_of(link))).collect();
                        self.ask(requests, Stage::Addresses)?;
                    }
                    Stage::Addresses => self.ask(requests, Stage::Rules)?,
                    Stage::Rules => {
                        for v6 in [false, true] {
                            if !self.world.rules.iter().any(|rule| rule.from.addr.is_ipv6() == v6) {
                                self.world
                                    .rules
                                    .extend(Rule::usual().into_iter().filter(|rule| rule.from.addr.is_ipv6() == v6));
                            }
                        }
                        self.tables = self.world.rules.iter().map(|rule| rule.table).collect();
                        self.ask(requests, Stage::Routes4)?;
                    }
                    Stage::Routes4 => self.ask(requests, Stage::Routes6)?,
                    Stage::Routes6 if self.world.neighbors.is_some() => self.ask(requests, Stage::Neighbors)?,
                    Stage::Routes6 | Stage::Neighbors => return Ok(Some(std::mem::take(&mut self.world))),
                }
            }
        }
        Ok(None)
    }

    fn restart(&mut self, requests: &mut Requests) -> io::Result<()> {
        let neighbors = self.world.neighbors.is_some();
        self.world = World { neighbors: neighbors.then(Vec::new), ..World::default() };
        self.ask(requests, Stage::Links)
    }
}

fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

impl World {
    fn take(&mut self, stage: Stage, raw: &Raw, owners: &HashMap<u32, Owner>, tables: &HashSet<Table>) {
        let owner = |ifindex| owners.get(&ifindex).copied().unwrap_or(Owner::Host);
        match (stage, raw.kind) {
            (Stage::Links, libc::RTM_NEWLINK) => self.links.extend(world::link(raw.payload)),
            (Stage::Addresses, libc::RTM_NEWADDR) => match world::address(raw.payload) {
                Some(address) => self.addresses.push(address),
                None => self.unread += 1,
            },
            (Stage::Rules, libc::RTM_NEWRULE) => match world::rule(raw.payload) {
                Ok(Some(_)) if self.rules.len() >= MAX_RULES => self.strange_rules += 1,
                Ok(rule) => self.rules.extend(rule),
                Err(()) => self.strange_rules += 1,
            },
            (Stage::Routes4 | Stage::Routes6, libc::RTM_NEWROUTE) => {
                let family = if stage == Stage::Routes4 { 4 } else { 6 };
                match world::route(raw, family, tables, owner) {
                    Ok(Some(_)) if self.routes.len() >= MAX_ROUTES => self.cut = true,
                    Ok(route) => self.routes.extend(route),
                    Err(()) => self.unread += 1,
                }
            }
            (Stage::Neighbors, libc::RTM_NEWNEIGH) => {
                if let Some(neighbors) = &mut self.neighbors {
                    neighbors.extend(world::neighbor(raw.payload));
                }
            }
            _ => {}
        }
    }
}
