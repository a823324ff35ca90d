//! Looking ahead: the memory that the answers to a batch of queries will need is asked for before the first is given, in steps
//! for all of them at a time. So the cache misses of one query overlap with those of the others, where the answers themselves
//! would wait for each: in a large zone nearly every name is in nobody's cache. Nothing but time depends on it.

use super::name::{self, Suffixes};
use super::query::Query;
use super::snapshot::Snapshot;
use super::steer::{Asker, Client};
use super::wire::HEADER;
use super::zone::{Contents, NOWHERE};
use crate::affinity::{Hint, Who};
use std::net::IpAddr;

/// The most queries that are looked at together; what is more is answered as it is.
pub const MOST: usize = 64;

/// Fewer than these gain nothing.
const FEWEST: usize = 4;

pub struct Ahead {
    name: Suffixes,
    queries: [Named; MOST],
    /// Of the last batch, and how many those are.
    foreseen: [Option<Foreseen>; MOST],
    looked_at: usize,
}

/// What is known ahead of a query for a pool that goes by who asks.
#[derive(Clone, Copy, Debug)]
pub struct Foreseen {
    /// Whether a client's network may count.
    client_subnet: bool,
    /// Who counts as asking then.
    asker: Asker,
    /// Where that one's record is.
    hint: Hint,
}

impl Foreseen {
    /// Who counts as asking where clients' networks may count, or may not.
    #[inline]
    pub(super) fn asker(&self, client_subnet: bool) -> Option<&Asker> {
        (client_subnet == self.client_subnet).then_some(&self.asker)
    }

    /// Where the record of `who` is looked for.
    #[inline]
    pub(super) fn hint(&self, who: Who) -> Option<&Hint> {
        (who == self.asker.who).then_some(&self.hint)
    }
}

/// A query for a name in a zone of ours.
#[derive(Clone, Copy)]
struct Named {
    /// Which of the batch.
    at: usize,
    /// Index in the snapshot.
    zone: usize,
    hash: u64,
    /// Probably the name's; or [`NOWHERE`].
    node: u32,
}

impl Default for Ahead {
    fn default() -> Ahead {
        let queries = [Named { at: 0, zone: 0, hash: 0, node: NOWHERE }; MOST];
        Ahead { name: Suffixes::new(), queries, foreseen: [None; MOST], looked_at: 0 }
    }
}

impl Ahead {
    /// Looks at a batch of `count`. `message`: as they came; those that are no queries for a name of ours are passed over. `from`: who
    /// asks. Never panics or allocates.
    pub fn look<'m>(
        &mut self,
        snapshot: &Snapshot,
        count: usize,
        message: impl Fn(usize) -> &'m [u8],
        from: impl Fn(usize) -> Option<IpAddr>,
    ) {
        let all = if count < FEWEST { 0 } else { count.min(MOST) };
        self.foreseen[..all].fill(None);
        self.looked_at = all;
        let contents = |query: &Named| -> &Contents { snapshot.zones()[query.zone].contents() };
        let mut count = 0;
        for at in 0..all {
            let question = message(at).get(HEADER..).unwrap_or_default();
            let Some(long) = name::length(question) else { continue };
            self.name.fill(&question[..long]);
            let Some((zone, _)) = snapshot.find(&self.name, 0) else { continue };
            let query = Named { at, zone, hash: self.name.hash(0), node: NOWHERE };
            contents(&query).fetch_slot(query.hash);
            self.queries[count] = query;
            count += 1;
        }
        let queries = &mut self.queries[..count];
        queries.iter_mut().for_each(|query| query.node = contents(query).fetch_node(query.hash));
        for query in queries.iter() {
            contents(query).fetch_name(query.node);
            self.foreseen[query.at] = remembered(snapshot, query, &message, &from);
        }
        let memory = &snapshot.steering().memory;
        let foreseen = &self.foreseen[..all];
        foreseen.iter().flatten().for_each(|foreseen| memory.fetch(&foreseen.hint));
        queries.iter().for_each(|query| contents(query).fetch_records(query.node));
        foreseen.iter().flatten().for_each(|foreseen| memory.fetch_more(&foreseen.hint, foreseen.asker.who));
    }

    /// What is known ahead of a query of the batch that was looked at last, to be answered from the same snapshot.
    #[inline]
    pub fn foreseen(&self, at: usize) -> Option<&Foreseen> {
        self.foreseen[..self.looked_at].get(at)?.as_ref()
    }
}

/// Where it is looked up what is remembered of who asks, if the name is a pool's that goes by it.
#[inline]
fn remembered<'m>(
    snapshot: &Snapshot,
    query: &Named,
    message: impl Fn(usize) -> &'m [u8],
    from: impl Fn(usize) -> Option<IpAddr>,
) -> Option<Foreseen> {
    let (plan, _) = snapshot.zones()[query.zone].image(query.node)?.sites()?;
    let share = plan.dynamic.as_ref()?.share;
    let edns = if plan.client_subnet { Query::parse(message(query.at)).ok()?.edns } else { None };
    let subnet = edns.and_then(|edns| edns.subnet);
    let steering = snapshot.steering();
    let from = from(query.at)?;
    // Nobody is noted here: at which address one asks does not matter.
    let client = Client { from, to: from, subnet, now_ms: 0, foreseen: None, steering };
    let asker = client.asker(plan.client_subnet);
    Some(Foreseen { client_subnet: plan.client_subnet, asker, hint: steering.memory.foresee(asker.who, share)? })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Lab, ZONE, query};
    use super::*;

    #[test]
    fn what_is_no_query_is_passed_over() {
        let snapshot = Lab::new(&[("company.example.", ZONE)]).snapshot;
        let whole = query("www.company.example.", "A");
        let mut messages: Vec<Vec<u8>> = (0..whole.len()).map(|long| whole[..long].to_vec()).collect();
        messages.extend((0..=255).map(|byte| [[0; HEADER].as_slice(), &[byte; 300]].concat()));
        messages.extend(["missing.company.example.", "elsewhere.test.", "."].map(|name| query(name, "A")));
        messages.push(whole);
        let mut ahead = Ahead::default();
        for batch in messages.chunks(MOST + 1) {
            ahead.look(&snapshot, batch.len(), |i| &batch[i], |_| None);
        }
    }
}
