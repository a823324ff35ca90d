//! What is said between two sites, as bytes.
//!
//! A message is its length (4 bytes: of what follows), its kind (1 byte) and its fields; numbers come with the highest byte first, a text
//! with its length in one byte before it. The first message is [`Message::Hello`]. Kinds that a version does not know are passed over, and
//! so is what stands behind the fields that it knows: later versions add at the end.

use crate::affinity::RANGES;
use crate::sites::fields::{Fields, Malformed};
use crate::sites::state::{State, address, octets};
use crate::sites::ways::{OwnWay, Way};

/// Of what is said here.
pub const VERSION: u16 = 1;

/// The longest message, in bytes behind the length.
pub const MOST: usize = 256 << 10;

/// The most records of one message.
pub const MOST_RECORDS: usize = 4096;

/// The most ways of one message.
pub const MOST_WAYS: usize = 4096;

/// The longest name of a site, in bytes.
const MOST_NAME: usize = 255;

/// Words of [`Message::Want`].
const WORDS: usize = RANGES / 64;

const HELLO: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
const STATE: u8 = 4;
const RECORDS: u8 = 5;
const DIGEST: u8 = 6;
const WANT: u8 = 7;
const WAYS: u8 = 8;

#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Who speaks, and how well.
    Hello {
        version: u16,
        site: String,
    },
    /// Times are in microseconds since 1970, by the clock of who takes them.
    Ping {
        sent_us: u64,
        /// What the site that dials adds to the other's stamps to have them by its own clock; who is dialed adds the negative. From
        /// who is dialed it means nothing.
        correction_ms: i64,
    },
    Pong {
        sent_us: u64,
        received_us: u64,
        replied_us: u64,
        /// From who was dialed: routers between, and 1; 0: not known.
        hops: u8,
    },
    State(State),
    Records(Records),
    /// Of all records from before a moment, by ranges ([`crate::affinity::Store::digest`]). From who dials; by its clock.
    Digest {
        before_ms: u64,
        sums: Box<[u64; RANGES]>,
    },
    /// The digests differ in these ranges: their records are exchanged.
    Want([u64; WORDS]),
    /// Ways to resolvers, as the site has measured them. At most [`MOST_WAYS`].
    Ways(Vec<OwnWay>),
}

/// Resolvers and the sites that they were sent to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// Names of sites: records say which by its place here. At most 64.
    pub sites: Vec<String>,
    /// At most [`MOST_RECORDS`].
    pub records: Vec<Told>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    pub who: [u8; 16],
    pub share: u64,
    /// A place in [`Records::sites`].
    pub site: u8,
    pub ttl_s: u32,
    /// By the clock of who says it.
    pub stamp_ms: u64,
    pub hits: u32,
}

const MOST_SITES: usize = crate::config::link::MAX_SITES;

impl Message {
    /// Puts it at the end of `out`. Lists that are too long are cut.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        match self {
            Message::Hello { version, site } => {
                out.push(HELLO);
                out.extend_from_slice(&version.to_be_bytes());
                write_name(out, site);
            }
            Message::Ping { sent_us, correction_ms } => {
                out.push(PING);
                out.extend_from_slice(&sent_us.to_be_bytes());
                out.extend_from_slice(&correction_ms.to_be_bytes());
            }
            Message::Pong { sent_us, received_us, replied_us, hops } => {
                out.push(PONG);
                [sent_us, received_us, replied_us].iter().for_each(|time| out.extend_from_slice(&time.to_be_bytes()));
                out.push(*hops);
            }
            Message::State(state) => {
                out.push(STATE);
                state.write(out);
            }
            Message::Records(records) => {
                out.push(RECORDS);
                records.write(out);
            }
            Message::Digest { before_ms, sums } => {
                out.push(DIGEST);
                out.extend_from_slice(&before_ms.to_be_bytes());
                sums.iter().for_each(|sum| out.extend_from_slice(&sum.to_be_bytes()));
            }
            Message::Want(words) => {
                out.push(WANT);
                words.iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
            }
            Message::Ways(ways) => {
                out.push(WAYS);
                write_ways(ways, out);
            }
        }
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Reads kind and fields. `Ok(None)`: a kind of a later version. Err: this is no message.
    pub fn read(bytes: &[u8]) -> Result<Option<Message>, Malformed> {
        let mut fields = Fields(bytes);
        Ok(Some(match fields.u8()? {
            HELLO => Message::Hello { version: fields.u16()?, site: fields.name()? },
            PING => Message::Ping { sent_us: fields.u64()?, correction_ms: fields.u64()? as i64 },
            PONG => {
                let (sent_us, received_us, replied_us) = (fields.u64()?, fields.u64()?, fields.u64()?);
                Message::Pong { sent_us, received_us, replied_us, hops: fields.u8()? }
            }
            STATE => Message::State(State::read(&mut fields)?),
            RECORDS => Message::Records(Records::read(&mut fields)?),
            DIGEST => {
                let (before_ms, mut sums) = (fields.u64()?, Box::new([0; RANGES]));
                for sum in sums.iter_mut() {
                    *sum = fields.u64()?;
                }
                Message::Digest { before_ms, sums }
            }
            WANT => {
                let mut words = [0; WORDS];
                for word in &mut words {
                    *word = fields.u64()?;
                }
                Message::Want(words)
            }
            WAYS => Message::Ways(fields.list(MOST_WAYS, 27, read_way)?),
            _ => return Ok(None),
        }))
    }
}

/// The next message of a stream: how many bytes it and its length take, and where it stands in them. None: more has to come first.
pub fn frame(stream: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some((length, rest)) = stream.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length == 0 || length > MOST {
        return Err(Malformed);
    }
    Ok(rest.get(..length))
}

impl Records {
    fn write(&self, out: &mut Vec<u8>) {
        let sites = &self.sites[..self.sites.len().min(MOST_SITES)];
        out.extend_from_slice(&(sites.len() as u16).to_be_bytes());
        sites.iter().for_each(|site| write_name(out, site));
        let records = &self.records[..self.records.len().min(MOST_RECORDS)];
        out.extend_from_slice(&(records.len() as u16).to_be_bytes());
        for record in records {
            out.extend_from_slice(&record.who);
            out.extend_from_slice(&record.share.to_be_bytes());
            out.push(record.site);
            out.extend_from_slice(&record.ttl_s.to_be_bytes());
            out.extend_from_slice(&record.stamp_ms.to_be_bytes());
            out.extend_from_slice(&record.hits.to_be_bytes());
        }
    }

    fn read(fields: &mut Fields) -> Result<Records, Malformed> {
        let sites = fields.list(MOST_SITES, 1, Fields::name)?;
        let known = sites.len();
        let records = fields.list(MOST_RECORDS, 41, |fields| {
            let (who, share, site) = (fields.array()?, fields.u64()?, fields.u8()?);
            let (ttl_s, stamp_ms, hits) = (fields.u32()?, fields.u64()?, fields.u32()?);
            let record = Told { who, share, site, ttl_s, stamp_ms, hits };
            if usize::from(site) < known { Ok(record) } else { Err(Malformed) }
        })?;
        Ok(Records { sites, records })
    }
}

/// Of each: an address, microseconds there and back (0: nobody answers), loss, 1 and the routers between (0: not known), and how many
/// seconds ago that was.
fn write_ways(ways: &[OwnWay], out: &mut Vec<u8>) {
    let ways = &ways[..ways.len().min(MOST_WAYS)];
    out.extend_from_slice(&(ways.len() as u16).to_be_bytes());
    for OwnWay { address, way } in ways {
        out.extend_from_slice(&octets(*address));
        out.extend_from_slice(&way.round_trip_us.unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&way.loss_permille.to_be_bytes());
        out.push(way.hops.map_or(0, |hops| hops.saturating_add(1)));
        out.extend_from_slice(&way.age_s.to_be_bytes());
    }
}

fn read_way(fields: &mut Fields) -> Result<OwnWay, Malformed> {
    let (address, us, loss_permille) = (address(fields.array()?), fields.u32()?, fields.u16()?.min(1000));
    let (hops, age_s) = (fields.u8()?.checked_sub(1), fields.u32()?);
    let way = Way { round_trip_us: (us > 0).then_some(us), loss_permille, hops, age_s };
    Ok(OwnWay { address, way })
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    let name = &name.as_bytes()[..name.len().min(MOST_NAME)];
    out.push(name.len() as u8);
    out.extend_from_slice(name);
}

#[cfg(test)]
mod tests;
