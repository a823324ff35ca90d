//! One connection's talk, without the connection: bytes in, bytes out, and what the other site said.

use super::clock::Clock;
use super::message::{Message, VERSION, frame};
use crate::sites::fields::Malformed;
use crate::sites::state::State;

/// What the other site said, as far as it is somebody else's matter.
#[derive(Debug, PartialEq)]
pub enum Said {
    State(State),
    Records(super::message::Records),
    Digest { before_ms: u64, sums: Box<[u64; crate::affinity::RANGES]> },
    Want([u64; crate::affinity::RANGES / 64]),
    Ways(Vec<crate::sites::ways::OwnWay>),
}

/// Bytes in one call: what is left over waits.
pub struct Session {
    /// Whose certificate it was.
    peer: String,
    /// This side dialed.
    pub dials: bool,
    inbox: Vec<u8>,
    /// To be sent.
    pub outbox: Vec<u8>,
    heard_hello: bool,
    clock: Clock,
    /// What who dials has said last; see [`Message::Ping`].
    told_correction_ms: i64,
    /// Routers between, if it is known: measured by who was dialed, who tells the other.
    pub hops: Option<u8>,
}

impl Session {
    pub fn new(own: &str, peer: &str, dials: bool) -> Session {
        let mut outbox = Vec::new();
        Message::Hello { version: VERSION, site: own.into() }.write(&mut outbox);
        Session {
            peer: peer.into(),
            dials,
            inbox: Vec::new(),
            outbox,
            heard_hello: false,
            clock: Clock::default(),
            told_correction_ms: 0,
            hops: None,
        }
    }

    /// The other site has said who it is: the link stands.
    pub fn stands(&self) -> bool {
        self.heard_hello
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What is added to the other site's stamps to have them by this clock; there it is the negative to the bit.
    pub fn correction_ms(&self) -> i64 {
        if self.dials { self.clock.correction_ms() } else { -self.told_correction_ms }
    }

    pub fn say(&mut self, message: &Message) {
        message.write(&mut self.outbox);
    }

    /// Asks for a sign of life, and what time it is there.
    pub fn ping(&mut self, now_us: u64) {
        self.say(&Message::Ping { sent_us: now_us, correction_ms: self.clock.correction_ms() });
    }

    /// Takes what has come; no more is kept of it than one message. The error is what to say of the other site.
    pub fn receive(&mut self, bytes: &[u8], now_us: u64, said: &mut Vec<Said>) -> Result<(), &'static str> {
        const NONSENSE: &str = "it said what cannot be understood";
        self.inbox.extend_from_slice(bytes);
        let inbox = std::mem::take(&mut self.inbox);
        let mut at = 0;
        while let Some(body) = frame(&inbox[at..]).map_err(|Malformed| NONSENSE)? {
            at += 4 + body.len();
            if let Some(message) = Message::read(body).map_err(|Malformed| NONSENSE)? {
                self.take(message, now_us, said)?;
            }
        }
        self.inbox = inbox;
        self.inbox.drain(..at);
        Ok(())
    }

    fn take(&mut self, message: Message, now_us: u64, said: &mut Vec<Said>) -> Result<(), &'static str> {
        if let Message::Hello { version: 1.., site } = &message {
            if *site != self.peer {
                return Err("by its certificate it is one site, and by its own configuration another");
            }
            self.heard_hello = true;
            return Ok(());
        }
        if !self.heard_hello {
            return Err("it did not say first who it is");
        }
        match message {
            Message::Hello { .. } => return Err("it has a version of the link that cannot be"),
            Message::Ping { sent_us, correction_ms } => {
                self.told_correction_ms = correction_ms.clamp(-MOST_CORRECTION_MS, MOST_CORRECTION_MS);
                let hops = self.hops.filter(|_| !self.dials).map_or(0, |hops| hops.saturating_add(1));
                self.say(&Message::Pong { sent_us, received_us: now_us, replied_us: now_us, hops });
            }
            Message::Pong { sent_us, received_us, replied_us, hops } => {
                if self.dials {
                    self.hops = hops.checked_sub(1);
                }
                self.clock.note(sent_us, received_us, replied_us, now_us);
            }
            Message::State(state) => said.push(Said::State(state)),
            Message::Records(records) => said.push(Said::Records(records)),
            Message::Digest { before_ms, sums } => said.push(Said::Digest { before_ms, sums }),
            Message::Want(words) => said.push(Said::Want(words)),
            Message::Ways(ways) => said.push(Said::Ways(ways)),
        }
        Ok(())
    }
}

/// Ten years.
const MOST_CORRECTION_MS: i64 = 10 * 365 * 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (Session, Session) {
        (Session::new("north", "south", true), Session::new("south", "north", false))
    }

    /// Takes what `from` has to say to `to`, in pieces of `piece` bytes.
    fn carry(from: &mut Session, to: &mut Session, piece: usize, now_us: u64) -> Result<Vec<Said>, &'static str> {
        let mut said = Vec::new();
        for piece in std::mem::take(&mut from.outbox).chunks(piece) {
            to.receive(piece, now_us, &mut said)?;
        }
        Ok(said)
    }

    #[test]
    fn two_sites_meet_and_measure_each_other() {
        let (mut north, mut south) = pair();
        assert_eq!(carry(&mut north, &mut south, 1, 0), Ok(vec![]));
        assert_eq!(carry(&mut south, &mut north, 3, 0), Ok(vec![]));
        assert!(north.stands() && south.stands());
        south.hops = Some(4);
        // South's clock is 3.2 seconds ahead; it takes 10 ms there and 10 ms back.
        for second in 10..20 {
            let sent = second * 1_000_000;
            let ask = |asks: &mut Session, answers: &mut Session, ahead: i64| {
                asks.ping(sent);
                carry(asks, answers, 7, (sent + 10_000).checked_add_signed(ahead).unwrap()).unwrap();
                carry(answers, asks, 7, sent + 20_000).unwrap();
            };
            ask(&mut north, &mut south, 3_200_000);
            ask(&mut south, &mut north, -3_200_000);
        }
        assert_eq!([north.clock().ahead_us(), south.clock().ahead_us()], [Some(3_200_000), Some(-3_200_000)]);
        assert_eq!([north.clock().round_trip_us(), south.clock().round_trip_us()], [Some(20_000), Some(20_000)]);
        assert_eq!([north.correction_ms(), south.correction_ms()], [-3000, 3000]);
        assert_eq!([north.hops, south.hops], [Some(4), Some(4)]);
    }

    #[test]
    fn what_is_said_arrives_in_whatever_pieces() {
        let state = State { connections: 9, ..State::default() };
        for piece in [1, 2, 5, 1000] {
            let (mut north, mut south) = pair();
            north.say(&Message::State(state.clone()));
            north.say(&Message::Want([3; 16]));
            let said = carry(&mut north, &mut south, piece, 0).unwrap();
            assert_eq!(said, [Said::State(state.clone()), Said::Want([3; 16])]);
            assert!(south.inbox.is_empty());
        }
    }

    #[test]
    fn a_site_of_another_name_is_not_spoken_to_and_hello_comes_first() {
        let (_, mut south) = pair();
        let mut west = Session::new("west", "south", true);
        assert!(carry(&mut west, &mut south, 100, 0).unwrap_err().contains("another"));
        let (mut north, mut south) = pair();
        north.outbox.clear();
        north.say(&Message::State(State::default()));
        assert!(carry(&mut north, &mut south, 100, 0).unwrap_err().contains("first"));
        let mut said = Vec::new();
        assert!(pair().0.receive(&[0xff; 9], 0, &mut said).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_taken_or_refused_and_little_is_kept(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            greeted in any::<bool>(),
            now_us in any::<u64>(),
        ) {
            let (mut north, mut south) = pair();
            if greeted {
                carry(&mut north, &mut south, 100, 0).unwrap();
            }
            let (mut said, mut length) = (Vec::new(), 0);
            for piece in pieces {
                length += piece.len();
                if south.receive(&piece, now_us, &mut said).is_err() {
                    break;
                }
                prop_assert!(south.inbox.len() <= length.min(super::super::message::MOST + 4));
            }
        }

        #[test]
        fn damage_on_the_way_does_no_harm(at in any::<prop::sample::Index>(), byte in any::<u8>(), piece in 1usize..50) {
            let (mut north, mut south) = pair();
            north.ping(5);
            north.say(&Message::State(State { members: vec![(1, true), (2, false)], ..State::default() }));
            north.say(&Message::Digest { before_ms: 3, sums: Box::new([7; crate::affinity::RANGES]) });
            let at = at.index(north.outbox.len());
            north.outbox[at] = byte;
            let _ = carry(&mut north, &mut south, piece, u64::MAX);
        }
    }
}
