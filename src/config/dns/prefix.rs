//! A network: what stands in lists of resolvers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and how many of its first bits count; the others are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The network of `length` bits that an address lies in; no more bits than it has.
    pub fn of(address: IpAddr, length: u8) -> Prefix {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Prefix { address: Ipv4Addr::from(u32::from(address) & mask).into(), length }
            }
            IpAddr::V6(address) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Prefix { address: Ipv6Addr::from(u128::from(address) & mask).into(), length }
            }
        }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn length(&self) -> u8 {
        self.length
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Prefix::of(address, self.length) == *self
    }
}

/// `10.1.0.0/16`; an address alone is a network of one. The error goes on after what is wrong: "is no ...".
impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err("is no address or prefix".into());
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let digits = |text: &str| text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let length = match length {
            None => longest,
            Some(length) => match length.parse::<u8>().ok().filter(|bits| digits(length) && *bits <= longest) {
                Some(length) => length,
                None => return Err(format!("has a prefix length that is not from 0 to {longest}")),
            },
        };
        let prefix = Prefix::of(address, length);
        if address.to_canonical() != address {
            return Err("is IPv4 in disguise: write the IPv4 address".into());
        }
        if prefix.address != address {
            return Err(format!("has bits set behind its prefix: the network is {prefix}"));
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        if self.length == longest { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_as_it_is_written() {
        for text in ["10.1.0.0/16", "192.0.2.1", "0.0.0.0/0", "2001:db8:1::/48", "::/0", "2001:db8::1"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.1/32".parse::<Prefix>(), "10.0.0.1".parse());
        let wrong = |text: &str| text.parse::<Prefix>().unwrap_err();
        assert_eq!(wrong("10.1.0.1/16"), "has bits set behind its prefix: the network is 10.1.0.0/16");
        assert_eq!(wrong("10.1.0.0/33"), "has a prefix length that is not from 0 to 32");
        assert_eq!(wrong("10.1.0.0/+8"), "has a prefix length that is not from 0 to 32");
        assert_eq!(wrong("::ffff:10.1.0.0/112"), "is IPv4 in disguise: write the IPv4 address");
        assert_eq!(wrong("south"), "is no address or prefix");
    }

    #[test]
    fn a_prefix_holds_the_addresses_of_its_family_that_begin_as_it_does() {
        let holds = |prefix: &str, address: &str| prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap());
        assert!(holds("10.1.0.0/16", "10.1.255.1") && !holds("10.1.0.0/16", "10.2.0.0"));
        assert!(holds("::/0", "2001:db8::1") && !holds("::/0", "10.0.0.1"));
    }
}
