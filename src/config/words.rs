//! The choices that the file makes by a word.

use super::{Backend, Encapsulation, Idle, Mode, OnDown, Overflow, Protocol, Scheduler};

pub trait Word: Copy + PartialEq + Sized + 'static {
    /// Every choice and its word in the file.
    const WORDS: &'static [(&'static str, Self)];

    /// As the file writes it.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, choice)| *choice == self).map_or("", |(word, _)| word)
    }
}

impl Word for Backend {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Backend::Auto), ("af_packet", Backend::AfPacket), ("af_xdp", Backend::AfXdp)];
}

impl Word for Idle {
    const WORDS: &'static [(&'static str, Self)] = &[("adaptive", Idle::Adaptive), ("spin", Idle::Spin)];
}

impl Word for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
}

impl Word for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("nat", Mode::Nat), ("direct", Mode::Direct), ("tunnel", Mode::Tunnel)];
}

impl Word for Encapsulation {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("ipip", Encapsulation::Ipip),
        ("gre", Encapsulation::Gre),
        ("gue", Encapsulation::Gue),
        ("gue1", Encapsulation::Gue1),
    ];
}

impl Word for Scheduler {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Scheduler::RoundRobin),
        ("weighted_round_robin", Scheduler::WeightedRoundRobin),
        ("least_connections", Scheduler::LeastConnections),
        ("weighted_least_connections", Scheduler::WeightedLeastConnections),
        ("source_hash", Scheduler::SourceHash),
        ("maglev", Scheduler::Maglev),
        ("fastest", Scheduler::Fastest),
    ];
}

impl Word for OnDown {
    const WORDS: &'static [(&'static str, Self)] = &[("keep", OnDown::Keep), ("reset", OnDown::Reset)];
}

impl Word for Overflow {
    const WORDS: &'static [(&'static str, Self)] = &[("remote", Overflow::Remote), ("refuse", Overflow::Refuse)];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_choice_has_a_word_of_its_own<T: Word>() {
        for (i, (word, choice)) in T::WORDS.iter().enumerate() {
            assert_eq!(choice.word(), *word);
            assert!(T::WORDS[..i].iter().all(|(other, _)| other != word));
        }
    }

    #[test]
    fn words_are_unique() {
        every_choice_has_a_word_of_its_own::<Backend>();
        every_choice_has_a_word_of_its_own::<Idle>();
        every_choice_has_a_word_of_its_own::<Protocol>();
        every_choice_has_a_word_of_its_own::<Mode>();
        every_choice_has_a_word_of_its_own::<Encapsulation>();
        every_choice_has_a_word_of_its_own::<Scheduler>();
        every_choice_has_a_word_of_its_own::<OnDown>();
        every_choice_has_a_word_of_its_own::<Overflow>();
    }
}
