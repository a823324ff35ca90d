//! What a thread that answers keeps from query to query. Nobody else writes it.

use super::counts::Counts;
use super::dnssec::seal::Signing;
use super::name::Suffixes;
use super::rate::Limiter;
use super::reply::Targets;
use super::snapshot::Settings;
use super::wire::rtype;
use std::sync::Arc;

/// Pools' rotations, one for each family. More pools than half of these share them.
const TURNS: usize = 4096;

pub struct Scratch {
    pub counts: Arc<Counts>,
    /// The question's name.
    pub(super) asked: Suffixes,
    /// The name that an alias has led to.
    pub(super) chased: Suffixes,
    pub(super) targets: Targets,
    pub(super) turns: Turns,
    pub(super) limiter: Option<Limiter>,
    pub(super) signing: Signing,
    seed: u64,
}

impl Scratch {
    /// `seed`: random; threads do not all answer the same address first, and nobody can tell which networks share a place in the
    /// rate limit's table.
    pub fn new(counts: Arc<Counts>, settings: &Settings, seed: u64) -> Scratch {
        let mut scratch = Scratch {
            counts,
            asked: Suffixes::new(),
            chased: Suffixes::new(),
            targets: Targets::new(),
            turns: Turns { next: vec![seed as u32; TURNS].into() },
            limiter: None,
            signing: Signing::new(seed),
            seed,
        };
        scratch.follow(settings);
        scratch
    }

    /// To be called where a thread takes up a snapshot with other settings; the only thing here that allocates.
    pub fn follow(&mut self, settings: &Settings) {
        let had = self.limiter.as_ref().map(Limiter::limit);
        if had != settings.rate_limit.as_ref() {
            self.limiter = settings.rate_limit.as_ref().map(|limit| Limiter::new(limit, self.seed));
        }
    }
}

/// Which address stands first next, for each pool and family: A and AAAA are often asked for in turn, and would otherwise take
/// every second turn each.
pub(super) struct Turns {
    next: Box<[u32]>,
}

impl Turns {
    #[inline]
    pub fn take(&mut self, pool: u16, qtype: u16) -> u32 {
        let at = (usize::from(pool) * 2 + usize::from(qtype == rtype::AAAA)) % self.next.len();
        let turn = self.next[at];
        self.next[at] = turn.wrapping_add(1);
        turn
    }
}
