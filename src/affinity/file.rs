//! The store in a file, over restarts.
//!
//! ```text
//!   "farside store"  version 1
//!   saved_ms 8       when, in milliseconds since 1970
//!   sites 1          and of each: length 2, name
//!   records          each 1, who 16, share 8, site 1 (its place in the list above), ttl_s 4, stamp_ms 8, hits 4
//!   0 1
//!   checksum 8       SipHash-1-3 of all before it, under a key of zeros
//! ```
//!
//! All numbers are big-endian. Sites go by their names: numbers are another process's.

use super::{Record, Share, Store, Who};
use crate::sites::{MAX_SITES, Registry, SiteNumber};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};

const MAGIC: &[u8; 14] = b"farside store\x01";

/// Buckets that are written at a time.
const SLICE: usize = 1024;

/// Why a file is of no use.
#[derive(Debug)]
pub enum Broken {
    Unreadable(io::Error),
    /// Another kind of file, or one of a later version.
    Foreign,
    /// Its checksum is wrong, or it ends early.
    Damaged,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        if error.kind() == io::ErrorKind::UnexpectedEof { Broken::Damaged } else { Broken::Unreadable(error) }
    }
}

/// What came of [`Store::load`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub taken: u64,
    /// Over meanwhile, or of sites that are no longer known, or more than there is room for.
    pub left: u64,
    /// The clock has gone back by so much since the file was written.
    pub back_ms: u64,
}

/// Sums up what passes.
struct Summed<F> {
    file: F,
    sum: SipHasher13,
}

impl<F: Write> Write for Summed<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.sum.write(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Store {
    /// Writes all records; how many.
    pub fn save(&self, file: impl Write, now_ms: u64, sites: &Registry) -> io::Result<u64> {
        let mut out = BufWriter::new(Summed { file, sum: SipHasher13::new() });
        out.write_all(MAGIC)?;
        out.write_all(&now_ms.to_be_bytes())?;
        let names: Vec<&str> = sites.names().collect();
        out.write_all(&[names.len() as u8])?;
        for name in names {
            let long = u16::try_from(name.len()).map_err(io::Error::other)?;
            out.write_all(&long.to_be_bytes())?;
            out.write_all(name.as_bytes())?;
        }
        let (mut count, mut from, mut batch) = (0, Some(0), Vec::new());
        while let Some(at) = from {
            from = self.scan(at, SLICE, |record| {
                if record.until_ms() >= now_ms {
                    count += 1;
                    put(&mut batch, &record);
                }
            });
            out.write_all(&batch)?;
            batch.clear();
        }
        out.write_all(&[0])?;
        let mut summed = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let sum = summed.sum.finish();
        summed.file.write_all(&sum.to_be_bytes())?;
        summed.file.flush()?;
        Ok(count)
    }

    /// Takes over what [`Store::save`] has written; of a broken file nothing. What is taken is told to nobody: others have it.
    pub fn load(&self, mut file: impl Read + Seek, now_ms: u64, sites: &Registry) -> Result<Loaded, Broken> {
        check(&mut file)?;
        file.rewind()?;
        let mut file = BufReader::new(file);
        let mut skipped = [0; MAGIC.len()];
        file.read_exact(&mut skipped)?;
        let saved_ms = u64::from_be_bytes(octets(&mut file)?);
        let [count] = octets(&mut file)?;
        let mut numbers = [None; MAX_SITES];
        for at in 0..usize::from(count) {
            let long = u16::from_be_bytes(octets(&mut file)?);
            let mut name = vec![0; usize::from(long)];
            file.read_exact(&mut name)?;
            let known = std::str::from_utf8(&name).ok().and_then(|name| sites.find(name));
            *numbers.get_mut(at).ok_or(Broken::Damaged)? = known;
        }
        let mut loaded = Loaded { back_ms: saved_ms.saturating_sub(now_ms), ..Loaded::default() };
        while octets(&mut file)? == [1] {
            let (mut record, site) = get(&mut file)?;
            // Records are as old as they were: nothing else is known of the time between.
            record.stamp_ms = record.stamp_ms.saturating_sub(loaded.back_ms);
            let known = numbers.get(usize::from(site)).copied().flatten();
            let taken = known.is_some_and(|site| self.restore(&Record { site, ..record }, now_ms, sites));
            *(if taken { &mut loaded.taken } else { &mut loaded.left }) += 1;
        }
        Ok(loaded)
    }
}

/// Reads to the end, holding eight bytes back, which are the sum of those before.
fn check(file: &mut impl Read) -> Result<(), Broken> {
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Broken::Foreign),
        read => read?,
    }
    if &magic != MAGIC {
        return Err(Broken::Foreign);
    }
    let mut sum = SipHasher13::new();
    sum.write(&magic);
    let mut held: Vec<u8> = Vec::new();
    loop {
        let read = file.fill_buf()?;
        if read.is_empty() {
            break;
        }
        let count = read.len();
        held.extend_from_slice(read);
        file.consume(count);
        let known = held.len().saturating_sub(8);
        sum.write(&held[..known]);
        held.drain(..known);
    }
    let end: [u8; 8] = held.try_into().map_err(|_| Broken::Damaged)?;
    if u64::from_be_bytes(end) == sum.finish() { Ok(()) } else { Err(Broken::Damaged) }
}

fn put(out: &mut Vec<u8>, record: &Record) {
    out.push(1);
    out.extend_from_slice(&record.who.0);
    out.extend_from_slice(&record.share.0.to_be_bytes());
    out.push(record.site.0);
    out.extend_from_slice(&record.ttl_s.to_be_bytes());
    out.extend_from_slice(&record.stamp_ms.to_be_bytes());
    out.extend_from_slice(&record.hits.to_be_bytes());
}

/// A record, and its site's place in the file's list.
fn get(file: &mut impl Read) -> io::Result<(Record, u8)> {
    let (who, share) = (Who(octets(file)?), Share(u64::from_be_bytes(octets(file)?)));
    let [site] = octets(file)?;
    let (ttl_s, stamp_ms) = (u32::from_be_bytes(octets(file)?), u64::from_be_bytes(octets(file)?));
    let hits = u32::from_be_bytes(octets(file)?);
    Ok((Record { who, share, site: SiteNumber(site), ttl_s, stamp_ms, hits }, site))
}

fn octets<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    file.read_exact(&mut octets)?;
    Ok(octets)
}
