//! What the threads that answer have in common: a query in, the pure half asked, signatures seen to.

use super::super::transfer::{self, Transfer};
use super::super::wire::rcode;
use super::super::{Asked, Name, Outcome, Scratch, TransferAsked, answer};
use super::sign::{LONGEST_SIGNATURE, Signed};
use super::{Access, Served, Tally};

/// What goes back.
pub enum Response {
    /// Bytes of `out`.
    Answer(usize),
    Nothing,
    /// By TCP only: messages one after the other, each to be signed if there is something to sign with.
    Transfer(Transfer, Option<Box<Signed>>),
}

/// The response to one query. Allocates only for queries that are signed or ask for a whole zone.
pub fn respond(asked: &Asked, served: &Served, scratch: &mut Scratch, tally: &Tally, out: &mut [u8]) -> Response {
    match answer(asked, &served.snapshot, scratch, out) {
        Outcome::Answer(reply) => {
            tally.count(&reply);
            Response::Answer(reply.length)
        }
        Outcome::Nothing(_) => Response::Nothing,
        Outcome::Transfer(wanted) => transferred(asked, served, None, wanted, out),
        Outcome::Signed(at) => signed(asked, at, served, scratch, tally, out),
    }
}

fn signed(asked: &Asked, at: usize, served: &Served, scratch: &mut Scratch, tally: &Tally, out: &mut [u8]) -> Response {
    let mut message = asked.message.to_vec();
    let mut signature = match served.keys.check(&mut message, at, asked.unix_s()) {
        Ok(signature) => signature,
        Err(refused) => return put(&refused, out),
    };
    let room = out.len().saturating_sub(LONGEST_SIGNATURE);
    let plain = Asked { message: &message, ..*asked };
    match answer(&plain, &served.snapshot, scratch, &mut out[..room]) {
        Outcome::Answer(reply) => {
            tally.count(&reply);
            let mut whole = out[..reply.length].to_vec();
            signature.sign(&mut whole, asked.unix_s());
            put(&whole, out)
        }
        Outcome::Transfer(wanted) => transferred(&plain, served, Some(signature), wanted, out),
        // One signature is enough; and what was cut off by it cannot be told.
        Outcome::Nothing(_) | Outcome::Signed(_) => Response::Nothing,
    }
}

fn transferred(
    asked: &Asked,
    served: &Served,
    signature: Option<Signed>,
    wanted: TransferAsked,
    out: &mut [u8],
) -> Response {
    let permits = |access: &Access, key: Option<&Name>| access.permits(asked.from, key);
    let zone = served.transfers.get(wanted.zone);
    match zone.filter(|zone| permits(&zone.access, signature.as_ref().map(|signature| &signature.key))) {
        Some(zone) => Response::Transfer(
            Transfer::new(asked.message, wanted.since, zone.versions.clone()),
            signature.map(Box::new),
        ),
        None => {
            let length = transfer::refuse(asked.message, rcode::REFUSED, out);
            let Some(mut signature) = signature else { return Response::Answer(length) };
            let mut whole = out[..length].to_vec();
            signature.sign(&mut whole, asked.unix_s());
            put(&whole, out)
        }
    }
}

/// Nothing, if there is nothing or it does not fit.
fn put(message: &[u8], out: &mut [u8]) -> Response {
    match out.get_mut(..message.len()) {
        Some(place) if !message.is_empty() => {
            place.copy_from_slice(message);
            Response::Answer(message.len())
        }
        _ => Response::Nothing,
    }
}
