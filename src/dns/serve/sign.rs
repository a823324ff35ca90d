//! Signed messages (TSIG, RFC 8945): requests checked, answers and NOTIFY signed. The cryptography is the crate `domain`'s.

use super::super::name::Name;
use crate::config::dns::{Algorithm, Key};
use domain::base::Message;
use domain::base::iana::TsigRcode;
use domain::base::message_builder::{AdditionalBuilder, MessageBuilder};
use domain::base::wire::Composer;
use domain::dep::octseq::builder::{OctetsBuilder, Truncate};
use domain::rdata::tsig::Time48;
use domain::tsig::{self, ClientTransaction, KeyName, ServerSequence};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

/// Bytes that a signature adds to a message at the most: the key's name, the algorithm's, a MAC of 64 bytes and 26 others.
pub const LONGEST_SIGNATURE: usize = 255 + 16 + 64 + 26;

/// Of an error in a TSIG record: the signature does not fit.
const BADSIG: u16 = 16;

/// All keys, by name and algorithm.
#[derive(Clone, Default)]
pub struct Keys(Arc<HashMap<(KeyName, tsig::Algorithm), tsig::Key>>);

/// A request whose signature was right; it signs the answers.
pub struct Signed {
    /// The key's.
    pub key: Name,
    sequence: ServerSequence<tsig::Key>,
}

fn algorithm(algorithm: Algorithm) -> tsig::Algorithm {
    match algorithm {
        Algorithm::Sha1 => tsig::Algorithm::Sha1,
        Algorithm::Sha256 => tsig::Algorithm::Sha256,
        Algorithm::Sha384 => tsig::Algorithm::Sha384,
        Algorithm::Sha512 => tsig::Algorithm::Sha512,
    }
}

impl Keys {
    /// The error is a sentence.
    pub fn new(keys: &[Key]) -> Result<Keys, String> {
        let mut map = HashMap::new();
        for key in keys {
            let name: KeyName =
                key.name.parse().map_err(|why| format!("the key name {} cannot be: {why}", key.name))?;
            let made = tsig::Key::new(algorithm(key.algorithm), &key.secret, name.clone(), None, None)
                .map_err(|why| format!("the key {} cannot be: {why}", key.name))?;
            map.insert((name, algorithm(key.algorithm)), made);
        }
        Ok(Keys(Arc::new(map)))
    }

    /// Checks `message`, a query whose last record is a TSIG that starts at byte `at`. If it is right the record is taken away.
    /// Err: the answer that says why not; empty if there is none to be given.
    pub fn check(&self, message: &mut Vec<u8>, at: usize, unix_s: u32) -> Result<Signed, Vec<u8>> {
        let Ok(mut read) = Message::from_octets(message.clone()) else { return Err(Vec::new()) };
        match ServerSequence::request(&self.0, &mut read, time(unix_s)) {
            Ok(Some(sequence)) => {
                let key = Name::from_wire(sequence.key().name().as_slice()).ok_or_else(Vec::new)?;
                *message = read.into_octets();
                message.truncate(at);
                Ok(Signed { key, sequence })
            }
            Ok(None) => Err(Vec::new()),
            Err(error) => {
                let wrong = error.error() == TsigRcode::FORMERR;
                let built = error.build_message(&read, MessageBuilder::new_vec());
                let mut answer = built.map(AdditionalBuilder::finish).unwrap_or_default();
                // The crate says FORMERR of a MAC that does not fit, which RFC 8945 5.3.2 calls BADSIG. The error is the record's last
                // field but one, and an error without a signature has an empty last one.
                let not_auth = answer.get(3).is_some_and(|byte| byte & 0xf == 9);
                if wrong && not_auth && answer.ends_with(&[0, 1, 0, 0]) {
                    let end = answer.len();
                    answer[end - 4..end - 2].copy_from_slice(&BADSIG.to_be_bytes());
                }
                Err(answer)
            }
        }
    }

    /// Signs a request of our own. False: there is no such key.
    pub fn sign(&self, name: &Name, message: &mut Vec<u8>, unix_s: u32) -> bool {
        let named = |key: &&tsig::Key| Name::from_wire(key.name().as_slice()).is_some_and(|own| own == *name);
        let Some(key) = self.0.values().find(named) else { return false };
        ClientTransaction::request(key.clone(), &mut whole(message), time(unix_s)).is_ok()
    }
}

impl Signed {
    /// Signs the next answer. Its caller has left [`LONGEST_SIGNATURE`] of the 65535 bytes that a message can have.
    pub fn sign(&mut self, message: &mut Vec<u8>, unix_s: u32) {
        // It cannot fail: there is no limit that could be met.
        let _ = self.sequence.answer(&mut whole(message), time(unix_s));
    }
}

fn time(unix_s: u32) -> Time48 {
    Time48::from_u64(unix_s.into())
}

/// A message that is whole, in the hands of the crate's builder, which would begin a new one: its empty header is left out.
struct Whole<'m> {
    message: &'m mut Vec<u8>,
    begun: bool,
}

fn whole(message: &mut Vec<u8>) -> AdditionalBuilder<Whole<'_>> {
    match MessageBuilder::from_target(Whole { message, begun: false }) {
        Ok(builder) => builder.additional(),
        Err(never) => match never {},
    }
}

impl OctetsBuilder for Whole<'_> {
    type AppendError = Infallible;

    fn append_slice(&mut self, slice: &[u8]) -> Result<(), Infallible> {
        if std::mem::replace(&mut self.begun, true) {
            self.message.extend_from_slice(slice);
        }
        Ok(())
    }
}

impl Truncate for Whole<'_> {
    fn truncate(&mut self, length: usize) {
        if self.begun {
            self.message.truncate(length);
        }
    }
}

impl AsRef<[u8]> for Whole<'_> {
    fn as_ref(&self) -> &[u8] {
        self.message
    }
}

impl AsMut<[u8]> for Whole<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        self.message
    }
}

impl Composer for Whole<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::base::iana::{Class, Rtype};
    use domain::base::{Name as Domain, Question};

    const NOW: u32 = 1_800_000_000;

    fn keys(secret: u8) -> Keys {
        Keys::new(&[Key { name: "transfer.".into(), algorithm: Algorithm::Sha256, secret: vec![secret; 32] }]).unwrap()
    }

    fn query() -> Vec<u8> {
        let mut question = MessageBuilder::new_vec().question();
        question.header_mut().set_id(7);
        let name: Domain<Vec<u8>> = "company.example".parse().unwrap();
        question.push(Question::new(name, Rtype::SOA, Class::IN)).unwrap();
        question.finish()
    }

    /// Signs a query as a secondary does; the crate itself checks the answers.
    fn signed() -> (Vec<u8>, usize, ClientTransaction<tsig::Key>) {
        let (mut message, plain) = (query(), query().len());
        let key = keys(1).0.values().next().unwrap().clone();
        let transaction = ClientTransaction::request(key, &mut whole(&mut message), time(NOW)).unwrap();
        (message, plain, transaction)
    }

    #[test]
    fn a_request_is_checked_and_its_answer_signed() {
        let (mut message, at, transaction) = signed();
        assert!(message.len() - at <= LONGEST_SIGNATURE);
        let mut signed = keys(1).check(&mut message, at, NOW).ok().unwrap();
        assert_eq!((message.clone(), signed.key.to_string().as_str()), (query(), "transfer."));
        let mut answer = message;
        answer[2] |= 0x80;
        signed.sign(&mut answer, NOW + 1);
        let mut read = Message::from_octets(answer).unwrap();
        transaction.answer(&mut read, time(NOW + 1)).unwrap();
    }

    #[test]
    fn wrong_signatures_are_told() {
        let (message, at, _) = signed();
        let error = |keys: &Keys, message: &[u8], now| {
            let answer = keys.check(&mut message.to_vec(), at, now).err().unwrap();
            (answer[3] & 0xf, u16::from_be_bytes([answer[answer.len() - 4], answer[answer.len() - 3]]))
        };
        assert_eq!(error(&keys(2), &message, NOW), (9, BADSIG));
        assert_eq!(error(&Keys::default(), &message, NOW), (9, 17), "BADKEY");
        let mut changed = message.clone();
        changed[15] ^= 0x20;
        assert_eq!(error(&keys(1), &changed, NOW), (9, BADSIG));
        // BADTIME comes with the server's time, six bytes.
        let late = keys(1).check(&mut message.clone(), at, NOW + 301).err().unwrap();
        assert_eq!((late[3] & 0xf, &late[late.len() - 10..late.len() - 6]), (9, &[0, 18, 0, 6][..]));
    }

    #[test]
    fn our_own_requests_are_signed() {
        let mut message = query();
        assert!(!keys(1).sign(&Name::parse("other.").unwrap(), &mut message, NOW));
        assert_eq!(message, query());
        assert!(keys(1).sign(&Name::parse("Transfer.").unwrap(), &mut message, NOW));
        assert!(keys(1).check(&mut message, query().len(), NOW).is_ok());
    }
}
