//! What is asked of an X.509 certificate besides its key: when it holds.

/// `notAfter` of a certificate (RFC 5280, 4.1), in seconds since 1970; None if it can't be read.
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    validity(certificate).map(|(_, not_after)| not_after)
}

/// `notBefore` and `notAfter`, likewise.
pub fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    // Version (may be left out), serial number, signature algorithm, issuer; then the validity.
    if *fields.first()? == VERSION {
        fields = element(fields)?.2;
    }
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (SEQUENCE, validity, _) = element(fields)? else { return None };
    let (not_before, rest) = moment(validity)?;
    Some((not_before, moment(rest)?.0))
}

/// A time at the start of `bytes`, and what comes after it.
fn moment(bytes: &[u8]) -> Option<(i64, &[u8])> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let (tag, text, rest) = element(bytes)?;
    let seconds = match tag {
        UTC_TIME => {
            let year = number(text.get(..2)?)?;
            time(if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => time(number(text.get(..4)?)?, text.get(4..)?),
        _ => None,
    };
    Some((seconds?, rest))
}

/// A DER element at the start of `bytes`: its tag, its content, and what comes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (length, bytes) = match first {
        0..=0x7f => (first as usize, bytes),
        0x81..=0x83 => {
            let (length, bytes) = bytes.split_at_checked((first - 0x80) as usize)?;
            (length.iter().fold(0, |sum, &byte| sum << 8 | byte as usize), bytes)
        }
        _ => return None,
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// "MMDDHHMMSSZ" of a year.
fn time(year: i64, text: &[u8]) -> Option<i64> {
    if text.len() != 11 || text[10] != b'Z' {
        return None;
    }
    let part = |i: usize| number(&text[2 * i..2 * i + 2]);
    let (month, day) = (part(0)?, part(1)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    // Days since 1970-01-01, counted in years that begin in March, so that the leap day comes last.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719468;
    Some(days * 86400 + part(2)? * 3600 + part(3)? * 60 + part(4)?)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, &digit| digit.is_ascii_digit().then(|| sum * 10 + (digit - b'0') as i64))
}
