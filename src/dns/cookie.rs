//! DNS cookies in the form that all servers share (RFC 7873, RFC 9018).

use super::snapshot::Cookies;
use siphasher::sip::SipHasher24;
use std::hash::Hasher;
use std::net::IpAddr;

/// Client's and server's.
pub(super) type Cookie = [u8; 24];

/// Older ones are no longer good (RFC 9018 4.3).
const LIFE_S: u32 = 3600;
/// Older ones are replaced.
const FRESH_S: u32 = 1800;
/// From clocks that are ahead.
const AHEAD_S: u32 = 300;

/// What a client's cookie is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Checked {
    /// It is one of ours: the client has had an answer from here at its address.
    pub good: bool,
    /// To send back.
    pub reply: Cookie,
}

/// `option`: the client's 8 bytes, and maybe the server's.
pub(super) fn check(option: &[u8], from: IpAddr, unix_s: u32, cookies: &Cookies) -> Option<Checked> {
    let (client, server) = option.split_first_chunk::<8>()?;
    let mut fresh = false;
    let mut good = false;
    if let Ok(server) = <&[u8; 16]>::try_from(server) {
        let stamp = u32::from_be_bytes([server[4], server[5], server[6], server[7]]);
        // RFC 1982: the stamp is a serial number.
        let age = unix_s.wrapping_sub(stamp) as i32;
        let in_time = age >= -(AHEAD_S as i32) && age <= LIFE_S as i32;
        let by = |secret: &[u8; 16]| make(client, stamp, from, secret)[8..] == *server;
        let current = in_time && by(&cookies.secret);
        good = current || (in_time && cookies.previous.as_ref().is_some_and(by));
        fresh = current && age < FRESH_S as i32;
    }
    let reply = if fresh { option.try_into().ok()? } else { make(client, unix_s, from, &cookies.secret) };
    Some(Checked { good, reply })
}

fn make(client: &[u8; 8], stamp: u32, from: IpAddr, secret: &[u8; 16]) -> Cookie {
    let mut cookie = [0; 24];
    cookie[..8].copy_from_slice(client);
    cookie[8] = 1;
    cookie[12..16].copy_from_slice(&stamp.to_be_bytes());
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write(&cookie[..16]);
    match from.to_canonical() {
        IpAddr::V4(from) => hasher.write(&from.octets()),
        IpAddr::V6(from) => hasher.write(&from.octets()),
    }
    cookie[16..].copy_from_slice(&hasher.finish().to_le_bytes());
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap())
    }

    fn cookies(secret: &str, previous: Option<&str>) -> Cookies {
        Cookies { secret: bytes(secret), previous: previous.map(bytes) }
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    #[test]
    fn a_client_without_one_gets_the_cookie_of_rfc_9018_a_1() {
        let from = "198.51.100.100".parse().unwrap();
        let checked = check(&bytes::<8>("2464c4abcf10c957"), from, 1_559_731_985, &cookies(SECRET, None)).unwrap();
        assert!(!checked.good);
        assert_eq!(checked.reply, bytes::<24>("2464c4abcf10c957010000005cf79f111f8130c3eee29480"));
    }

    #[test]
    fn an_old_good_cookie_is_replaced_as_in_rfc_9018_a_2() {
        let from = "198.51.100.100".parse().unwrap();
        let had = bytes::<24>("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        let checked = check(&had, from, 1_559_734_385, &cookies(SECRET, None)).unwrap();
        assert!(checked.good);
        assert_eq!(checked.reply, bytes::<24>("2464c4abcf10c957010000005cf7a871d4a564a1442aca77"));
        let soon = check(&had, from, 1_559_731_985 + 1799, &cookies(SECRET, None)).unwrap();
        assert_eq!((soon.good, soon.reply), (true, had));
    }

    #[test]
    fn the_previous_secret_is_taken_and_no_longer_given() {
        let from = "198.51.100.100".parse().unwrap();
        let had = bytes::<24>("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        let next = cookies("000102030405060708090a0b0c0d0e0f", Some(SECRET));
        let checked = check(&had, from, 1_559_731_990, &next).unwrap();
        assert!(checked.good && checked.reply != had);
    }

    #[test]
    fn cookies_of_another_address_another_time_or_another_form_are_worth_nothing() {
        let had = bytes::<24>("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        let good = |option: &[u8], from: &str, at: u32| {
            check(option, from.parse().unwrap(), at, &cookies(SECRET, None)).unwrap().good
        };
        assert!(good(&had, "198.51.100.100", 1_559_731_985));
        assert!(!good(&had, "198.51.100.101", 1_559_731_985));
        assert!(!good(&had, "198.51.100.100", 1_559_731_985 + 3601));
        assert!(!good(&had, "198.51.100.100", 1_559_731_985 - 301));
        assert!(!good(&had[..16], "198.51.100.100", 1_559_731_985));
    }
}
