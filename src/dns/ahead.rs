//! Looking ahead: the memory that the answers to a batch of queries will need is asked for before the first is given, in steps
//! for all of them at a time. So the cache misses of one query overlap with those of the others, where the answers themselves
//! would wait for each: in a large zone nearly every name is in nobody's cache. Nothing but time depends on it.

use super::name::{self, Suffixes};
use super::snapshot::Snapshot;
use super::wire::HEADER;
use super::zone::{Contents, NOWHERE};

/// The most queries that are looked at together; what is more is answered as it is.
pub const MOST: usize = 64;

/// Fewer than these gain nothing.
const FEWEST: usize = 4;

pub struct Ahead {
    name: Suffixes,
    queries: [Query; MOST],
}

#[derive(Clone, Copy)]
struct Query {
    /// Index in the snapshot.
    zone: usize,
    hash: u64,
    /// Probably the name's; or [`NOWHERE`].
    node: u32,
}

impl Default for Ahead {
    fn default() -> Ahead {
        Ahead { name: Suffixes::new(), queries: [Query { zone: 0, hash: 0, node: NOWHERE }; MOST] }
    }
}

impl Ahead {
    /// `messages`: as they came; those that are no queries for a name of ours are passed over. Never panics or allocates.
    pub fn look<'m>(&mut self, snapshot: &Snapshot, messages: impl ExactSizeIterator<Item = &'m [u8]>) {
        if messages.len() < FEWEST {
            return;
        }
        let contents = |query: &Query| -> &Contents { snapshot.zones()[query.zone].contents() };
        let mut count = 0;
        for message in messages.take(MOST) {
            let question = message.get(HEADER..).unwrap_or_default();
            let Some(long) = name::length(question) else { continue };
            self.name.fill(&question[..long]);
            let Some((zone, _)) = snapshot.find(&self.name, 0) else { continue };
            let query = Query { zone, hash: self.name.hash(0), node: NOWHERE };
            contents(&query).fetch_slot(query.hash);
            self.queries[count] = query;
            count += 1;
        }
        let queries = &mut self.queries[..count];
        queries.iter_mut().for_each(|query| query.node = contents(query).fetch_node(query.hash));
        queries.iter().for_each(|query| contents(query).fetch_name(query.node));
        queries.iter().for_each(|query| contents(query).fetch_records(query.node));
    }
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
            ahead.look(&snapshot, batch.iter().map(|message| &message[..]));
        }
    }
}
