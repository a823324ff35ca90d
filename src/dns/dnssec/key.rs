//! Keys of zones: ECDSA P-256 with SHA-256 (RFC 6605) and Ed25519 (RFC 8080).

use super::super::name::Name;
use domain::base::iana::SecurityAlgorithm;
use domain::rdata::Dnskey;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

/// Bytes of a signature, of either algorithm.
pub const SIGNATURE: usize = 64;

/// Flags of a DNSKEY (RFC 4034 2.1.1): of a zone's key, and of one that the parent knows besides.
const ZONE_KEY: u16 = 0x100;
const ENTRY: u16 = 1;

/// By IANA's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Algorithm {
    /// ECDSA P-256 with SHA-256: every validator knows it
    Ecdsap256 = 13,
    /// Ed25519
    Ed25519 = 15,
}

impl Algorithm {
    pub fn from_int(number: u8) -> Option<Algorithm> {
        [Algorithm::Ecdsap256, Algorithm::Ed25519].into_iter().find(|algorithm| *algorithm as u8 == number)
    }

    /// IANA's mnemonic.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Ecdsap256 => "ECDSAP256SHA256",
            Algorithm::Ed25519 => "ED25519",
        }
    }
}

enum Pair {
    Ecdsa(EcdsaKeyPair, SystemRandom),
    Ed25519(Ed25519KeyPair),
}

/// A key of a zone, both halves.
pub struct Key {
    pair: Pair,
    algorithm: Algorithm,
    flags: u16,
    /// Of its DNSKEY record.
    data: Vec<u8>,
    tag: u16,
}

impl Key {
    /// `secret` and `public` as in a BIND file and a DNSKEY record. None: they are no key, or not the halves of one.
    pub fn new(algorithm: Algorithm, flags: u16, secret: &[u8], public: &[u8]) -> Option<Key> {
        let pair = match algorithm {
            Algorithm::Ecdsap256 => {
                let random = SystemRandom::new();
                // DNSKEY leaves out the byte that says "not compressed".
                let point = [&[4], public].concat();
                let scheme = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let pair = EcdsaKeyPair::from_private_key_and_public_key(scheme, secret, &point, &random).ok()?;
                Pair::Ecdsa(pair, random)
            }
            Algorithm::Ed25519 => Pair::Ed25519(Ed25519KeyPair::from_seed_and_public_key(secret, public).ok()?),
        };
        let mut data = flags.to_be_bytes().to_vec();
        // Protocol 3 (RFC 4034 2.1.2).
        data.extend_from_slice(&[3, algorithm as u8]);
        data.extend_from_slice(public);
        let record = Dnskey::new(flags, 3, SecurityAlgorithm::from_int(algorithm as u8), public).ok()?;
        Some(Key { pair, algorithm, flags, tag: record.key_tag(), data })
    }

    /// A new one that signs everything and that the parent shall know, and its secret half. None: there are no random numbers.
    pub fn generate(algorithm: Algorithm) -> Option<(Key, Vec<u8>)> {
        let random = SystemRandom::new();
        let (secret, public) = match algorithm {
            Algorithm::Ecdsap256 => {
                let scheme = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let document = EcdsaKeyPair::generate_pkcs8(scheme, &random).ok()?;
                let document = document.as_ref();
                let pair = EcdsaKeyPair::from_pkcs8(scheme, document, &random).ok()?;
                // ECPrivateKey (RFC 5915 3): version 1, then an octet string of 32 bytes.
                let head = [2, 1, 1, 4, 32];
                let at = document.windows(head.len()).position(|window| window == head)? + head.len();
                (document.get(at..at + 32)?.to_vec(), pair.public_key().as_ref()[1..].to_vec())
            }
            Algorithm::Ed25519 => {
                let mut seed = vec![0; 32];
                random.fill(&mut seed).ok()?;
                let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
                (seed, pair.public_key().as_ref().to_vec())
            }
        };
        Some((Key::new(algorithm, ZONE_KEY | ENTRY, &secret, &public)?, secret))
    }

    /// The flags are those of a key that may sign a zone.
    pub(super) fn may_sign(flags: u16) -> bool {
        flags & !ENTRY == ZONE_KEY
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The parent is to know it (SEP, RFC 4034 2.1.1).
    pub fn is_entry(&self) -> bool {
        self.flags & ENTRY != 0
    }

    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// A number by which people tell keys apart (RFC 4034 B); two may have the same.
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// The data of its DNSKEY record.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The public half, as in the DNSKEY record.
    pub fn public(&self) -> &[u8] {
        &self.data[4..]
    }

    /// The data of the DS record for it, which the parent is to have: tag, algorithm, digest type 2, SHA-256 (RFC 4509).
    pub fn ds(&self, origin: &Name) -> Vec<u8> {
        let digest = digest::digest(&digest::SHA256, &[&*super::lower(origin), &self.data].concat());
        let mut data = self.tag.to_be_bytes().to_vec();
        data.extend_from_slice(&[self.algorithm as u8, 2]);
        data.extend_from_slice(digest.as_ref());
        data
    }

    /// False: the system gave no random numbers. Neither allocates nor locks.
    pub(super) fn sign(&self, message: &[u8], out: &mut [u8; SIGNATURE]) -> bool {
        let signature = match &self.pair {
            Pair::Ecdsa(pair, random) => pair.sign(random, message).ok(),
            Pair::Ed25519(pair) => Some(pair.sign(message)),
        };
        match signature {
            Some(signature) if signature.as_ref().len() == SIGNATURE => {
                out.copy_from_slice(signature.as_ref());
                true
            }
            _ => false,
        }
    }
}
