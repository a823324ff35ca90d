//! DNSSEC (RFC 4033, 4034, 4035): answers signed as they are given.
//!
//! # Theory of operation
//!
//! What a pool answers changes from moment to moment, and from answer to answer where `max_answers` lets out only some of the
//! addresses. So nothing is signed when a zone is loaded: an answer is made as if there were no DNSSEC, and if the client wants
//! signatures [`seal`] goes over it, set by set, and puts a signature (RRSIG) behind each. A signature that was made once is kept
//! by the thread that made it, under a hash of all that is signed ([`signatures`]): each set, and each subset that a pool can
//! answer, is signed when it is first asked for, and what has changed can never be found under an old signature.
//!
//! That a name or a type does not exist is said by NSEC records made for the question (RFC 4470): from right before the name to right after
//! it, so that nobody can list the zone by them ([`denial`]). Where another name lies that close, that name itself is the end.
//! Such records are without number, so that each thread makes only so many a second of them for UDP; who asks for more comes by TCP.
//!
//! Signatures hold for two weeks. The time from which one holds moves on once a day, for each name at another hour, and then what is
//! signed is new and a new signature is made: none is ever given out that ends in less than [`seal::LEAST_S`].

mod canon;
mod denial;
pub mod files;
pub mod key;
pub(super) mod seal;
mod signatures;

pub use key::{Algorithm, Key};
pub use seal::LEAST_S;

use super::name::Name;
use super::wire::rtype;

/// The keys of a zone. There is at least one.
pub struct Signer {
    keys: Vec<Key>,
}

impl Signer {
    /// None: there is no key.
    pub fn new(keys: Vec<Key>) -> Option<Signer> {
        (!keys.is_empty()).then_some(Signer { keys })
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The keys by which sets of a type are signed. All keys sign, but where there are key-signing keys and others of one algorithm, the
    /// former sign the DNSKEY records and the latter all else.
    fn signing(&self, rtype: u16) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| {
            let among = |entry: bool| {
                self.keys.iter().any(|other| other.algorithm() == key.algorithm() && other.is_entry() == entry)
            };
            key.is_entry() == (rtype == rtype::DNSKEY) || !among(rtype == rtype::DNSKEY)
        })
    }
}

/// Says whose keys they are, and nothing of them.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(Key::tag)).finish()
    }
}

/// The name in lower case, as signatures have it.
fn lower(name: &Name) -> Box<[u8]> {
    name.wire().to_ascii_lowercase().into()
}
