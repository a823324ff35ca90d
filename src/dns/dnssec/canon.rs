//! A record's data in the form in which it is signed (RFC 4034 6.2): names whole, and those of the older types in lower case.

use super::super::name::LONGEST_NAME;
use super::super::wire::rtype;

/// What the data of a type begin with, as far as there are names; what follows is bytes.
#[derive(Clone, Copy)]
enum Part {
    Bytes(usize),
    /// A byte that says how many follow.
    Text,
    Name,
}

/// RFC 4034 6.2, RFC 6840 5.1. Of the types there SIG, NXT and A6 are left out: nobody has them.
fn parts(rtype: u16) -> &'static [Part] {
    use Part::{Bytes, Name, Text};
    match rtype {
        rtype::NS | 3 | 4 | rtype::CNAME | 7..=9 | rtype::PTR | rtype::DNAME => &[Name],
        // SOA, MINFO, RP.
        rtype::SOA | 14 | 17 => &[Name, Name],
        // MX, AFSDB, RT, KX.
        rtype::MX | 18 | 21 | 36 => &[Bytes(2), Name],
        26 => &[Bytes(2), Name, Name],
        rtype::SRV => &[Bytes(6), Name],
        // NAPTR.
        35 => &[Bytes(4), Text, Text, Text, Name],
        _ => &[],
    }
}

/// Writes the data that lie from `start` to `end` of a message. Bytes written; None: there is no room, or the data are not in order.
pub(super) fn data(rtype: u16, message: &[u8], start: usize, end: usize, out: &mut [u8]) -> Option<usize> {
    let (mut at, mut long) = (start, 0);
    let mut copy = |bytes: &[u8], long: &mut usize| {
        out.get_mut(*long..*long + bytes.len())?.copy_from_slice(bytes);
        *long += bytes.len();
        Some(())
    };
    for part in parts(rtype) {
        let next = match part {
            Part::Bytes(bytes) => at + bytes,
            Part::Text => at + 1 + usize::from(*message.get(at)?),
            Part::Name => {
                let mut whole = [0; LONGEST_NAME];
                let (length, next) = name(message, at, &mut whole)?;
                whole[..length].make_ascii_lowercase();
                copy(&whole[..length], &mut long)?;
                at = next;
                continue;
            }
        };
        copy(message.get(at..next.min(end))?, &mut long)?;
        at = next;
    }
    copy(message.get(at..end)?, &mut long)?;
    Some(long)
}

/// Writes the name at `at` of a message, whole. Its bytes, and where what follows it begins.
pub(super) fn name(message: &[u8], at: usize, out: &mut [u8; LONGEST_NAME]) -> Option<(usize, usize)> {
    let (mut at, mut length, mut behind) = (at, 0, None);
    loop {
        let label = *message.get(at)?;
        if label >= 0xc0 {
            let target = usize::from(label & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
            behind = behind.or(Some(at + 2));
            // Pointers lead back, or there would be circles.
            at = Some(target).filter(|target| *target < at)?;
            continue;
        }
        let long = 1 + usize::from(label);
        out.get_mut(length..length + long)?.copy_from_slice(message.get(at..at + long)?);
        (at, length) = (at + long, length + long);
        if label == 0 {
            return Some((length, behind.unwrap_or(at)));
        }
    }
}
