//! Sites by number: a name is what people write and what nodes tell each other; a number fits into a word's bits. Every node counts
//! for itself, so numbers never leave the process.

pub mod fields;
pub mod state;
pub mod table;
pub mod ways;

use siphasher::sip::SipHasher13;
use std::sync::OnceLock;
pub use table::{Load, SiteTable};
pub use ways::Ways;

/// The most sites that one node knows of, over all reloads.
pub const MAX_SITES: usize = 64;

/// A site, on this node: below [`MAX_SITES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteNumber(pub u8);

impl SiteNumber {
    /// The site's bit in a word of all sites.
    #[inline]
    pub fn bit(self) -> u64 {
        1u64.checked_shl(u32::from(self.0)).unwrap_or(0)
    }
}

/// Names of sites and their numbers. A number once given stays the site's as long as the process lives. Any thread may read and add.
pub struct Registry {
    names: [OnceLock<Box<str>>; MAX_SITES],
}

impl Default for Registry {
    fn default() -> Registry {
        Registry { names: [const { OnceLock::new() }; MAX_SITES] }
    }
}

impl Registry {
    /// The number of the site `name`, a new one if it has none. None: [`MAX_SITES`] others are known.
    ///
    /// For names from the configuration: what comes from outside is to be found with [`Registry::find`], or strangers could fill the
    /// places.
    pub fn number(&self, name: &str) -> Option<SiteNumber> {
        let place = self.names.iter().position(|place| &**place.get_or_init(|| name.into()) == name)?;
        Some(SiteNumber(place as u8))
    }

    /// The number that the site `name` has.
    pub fn find(&self, name: &str) -> Option<SiteNumber> {
        let place = self.names().position(|known| known == name)?;
        Some(SiteNumber(place as u8))
    }

    /// The site's name; empty for a number that nobody has.
    pub fn name(&self, site: SiteNumber) -> &str {
        self.names.get(usize::from(site.0)).and_then(OnceLock::get).map_or("", |name| name)
    }

    /// All names by number.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map_while(OnceLock::get).map(|name| &**name)
    }
}

/// The hash of a name, a word or an address that must be the same at all sites and after every start: under no key, so nothing
/// may be indexed by it that strangers fill.
pub fn same_hash(bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(0, 0).hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_keeps_its_number() {
        let sites = Registry::default();
        assert_eq!(["south", "north", "south"].map(|name| sites.number(name).unwrap().0), [0, 1, 0]);
        assert_eq!((sites.find("north"), sites.find("west")), (Some(SiteNumber(1)), None));
        assert_eq!(
            (sites.name(SiteNumber(1)), sites.name(SiteNumber(2)), sites.name(SiteNumber(255))),
            ("north", "", "")
        );
        assert_eq!(sites.names().collect::<Vec<_>>(), ["south", "north"]);
    }

    #[test]
    fn there_are_at_most_64() {
        let sites = Registry::default();
        let numbers: Vec<_> = (0..70).map(|n| sites.number(&format!("site-{n}"))).collect();
        assert!(numbers[..64].iter().enumerate().all(|(n, number)| *number == Some(SiteNumber(n as u8))));
        assert!(numbers[64..].iter().all(Option::is_none));
        assert_eq!((sites.number("site-3"), sites.find("site-66")), (Some(SiteNumber(3)), None));
    }

    #[test]
    fn threads_that_name_sites_at_once_agree() {
        let sites = Registry::default();
        let named = |n: usize| std::array::from_fn::<_, 40, _>(|i| sites.number(&format!("{}", (i + n) % 40)).unwrap());
        let numbers = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || named(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for (n, numbers) in numbers.iter().enumerate() {
            assert!(numbers.iter().enumerate().all(|(i, number)| sites.name(*number) == format!("{}", (i + n) % 40)));
        }
        assert_eq!(sites.names().count(), 40);
    }
}
