//! MaxMind databases: which networks lie in which countries and continents. Read once into a table like that of written networks, so that
//! an answer costs the same and a damaged file is found before anybody asks.

use crate::config::dns::Prefix;
use crate::config::file::io_words;
use crate::dns::steer::prefixes::{MAX_PREFIXES, Prefixes};
use maxminddb::{MaxMindDbError, PathElement, Reader, WithinOptions};
use std::collections::HashMap;
use std::path::Path;

/// Sites by countries and continents, as databases call them: "DE", "EU".
#[derive(Default)]
pub struct Regions<'c> {
    pub countries: HashMap<&'c str, u32>,
    pub continents: HashMap<&'c str, u32>,
}

const COUNTRY: [PathElement<'static>; 2] = [PathElement::Key("country"), PathElement::Key("iso_code")];
const CONTINENT: [PathElement<'static>; 2] = [PathElement::Key("continent"), PathElement::Key("code")];

/// The networks of the database at `path` that lie in one of the regions, and their sites; a country goes before its continent. The
/// error is a sentence.
pub fn read(path: &Path, regions: &Regions) -> Result<Prefixes, String> {
    let cannot = |why: &str| format!("cannot read the database of countries {}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|error| cannot(&io_words(&error)))?;
    let networks = networks(bytes, regions).map_err(|error| cannot(&error.to_string()))?;
    if networks.len() > MAX_PREFIXES {
        return Err(cannot(&format!("{} of its networks are wanted, more than {MAX_PREFIXES}", networks.len())));
    }
    // No network is in a database twice.
    Prefixes::new(&networks).map_err(|_| cannot("it has a network twice"))
}

fn networks(bytes: Vec<u8>, regions: &Regions) -> Result<Vec<(Prefix, u32)>, MaxMindDbError> {
    let reader = Reader::from_source(bytes)?;
    // Networks share their records: of each one the site is looked up once.
    let mut sites: HashMap<Option<usize>, Option<u32>> = HashMap::new();
    let mut networks = Vec::new();
    for found in reader.networks(WithinOptions::default())? {
        let found = found?;
        let site = match sites.get(&found.offset()) {
            Some(site) => *site,
            None => {
                let country: Option<&str> = found.decode_path(&COUNTRY)?;
                let continent: Option<&str> = found.decode_path(&CONTINENT)?;
                let site = country.and_then(|country| regions.countries.get(country));
                let site = site.or_else(|| continent.and_then(|continent| regions.continents.get(continent))).copied();
                sites.insert(found.offset(), site);
                site
            }
        };
        if let Some(site) = site {
            let network = found.network()?;
            networks.push((Prefix::of(network.ip(), network.prefix()), site));
        }
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    /// Something in the format's data section (MaxMind DB file format 2.0).
    enum Data<'d> {
        Text(&'d str),
        Map(Vec<(&'d str, Data<'d>)>),
        U16(u16),
        U32(u32),
        U64(u64),
        List(Vec<Data<'d>>),
    }

    fn encode(data: &Data, out: &mut Vec<u8>) {
        let number = |kind: u8, bytes: &[u8], out: &mut Vec<u8>| {
            if kind < 8 {
                out.push(kind << 5 | bytes.len() as u8)
            } else {
                out.extend([bytes.len() as u8, kind - 7])
            }
            out.extend_from_slice(bytes);
        };
        match data {
            Data::Text(text) => {
                out.push(2 << 5 | text.len() as u8);
                out.extend_from_slice(text.as_bytes());
            }
            Data::Map(entries) => {
                out.push(7 << 5 | entries.len() as u8);
                for (key, value) in entries {
                    encode(&Data::Text(key), out);
                    encode(value, out);
                }
            }
            Data::U16(value) => number(5, &value.to_be_bytes(), out),
            Data::U32(value) => number(6, &value.to_be_bytes(), out),
            Data::U64(value) => number(9, &value.to_be_bytes(), out),
            Data::List(items) => {
                out.extend([items.len() as u8, 4]);
                items.iter().for_each(|item| encode(item, out));
            }
        }
    }

    /// A database of networks with their countries and continents; an IPv4 address lies in ::/96, as such databases have it.
    fn database(networks: &[(&str, &str, &str)]) -> Vec<u8> {
        // Nodes of the tree: for each bit another node, or a record (from 1 on), or nothing.
        #[derive(Clone, Copy, PartialEq)]
        enum Way {
            Nothing,
            Node(usize),
            Record(usize),
        }
        let (mut nodes, mut data) = (vec![[Way::Nothing; 2]], Vec::new());
        for (text, country, continent) in networks {
            let network: Prefix = text.parse().unwrap();
            let (bits, length) = match network.address() {
                IpAddr::V4(address) => (u128::from(u32::from(address)), 96 + network.length()),
                IpAddr::V6(address) => (u128::from(address), network.length()),
            };
            let record = data.len();
            let region = |key, code| (key, Data::Text(code));
            let mut entries = vec![("continent", Data::Map(vec![region("code", continent)]))];
            if !country.is_empty() {
                entries.push(("country", Data::Map(vec![region("iso_code", country)])));
            }
            encode(&Data::Map(entries), &mut data);
            let mut at = 0;
            for depth in 0..length {
                let bit = (bits >> (127 - depth) & 1) as usize;
                if depth + 1 == length {
                    nodes[at][bit] = Way::Record(record);
                } else if let Way::Node(next) = nodes[at][bit] {
                    at = next;
                } else {
                    nodes.push([Way::Nothing; 2]);
                    nodes[at][bit] = Way::Node(nodes.len() - 1);
                    at = nodes.len() - 1;
                }
            }
        }
        let mut out = Vec::new();
        for way in nodes.iter().flatten() {
            let word = match way {
                Way::Nothing => nodes.len(),
                Way::Node(node) => *node,
                Way::Record(record) => nodes.len() + 16 + record,
            };
            out.extend_from_slice(&(word as u32).to_be_bytes());
        }
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
        let metadata = vec![
            ("binary_format_major_version", Data::U16(2)),
            ("binary_format_minor_version", Data::U16(0)),
            ("build_epoch", Data::U64(1)),
            ("database_type", Data::Text("Test")),
            ("description", Data::Map(Vec::new())),
            ("ip_version", Data::U16(6)),
            ("languages", Data::List(Vec::new())),
            ("node_count", Data::U32(nodes.len() as u32)),
            ("record_size", Data::U16(32)),
        ];
        encode(&Data::Map(metadata), &mut out);
        out
    }

    #[test]
    fn countries_and_continents_become_networks() {
        let bytes = database(&[
            ("10.1.0.0/16", "DE", "EU"),
            ("10.2.0.0/16", "FR", "EU"),
            ("10.3.0.0/16", "JP", "AS"),
            ("10.4.0.0/16", "", "EU"),
            ("2001:db8::/32", "DE", "EU"),
        ]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let regions = Regions { countries: [("DE", 1)].into(), continents: [("EU", 2)].into() };
        let table = read(file.path(), &regions).unwrap();
        let site = |text: &str| table.find(text.parse().unwrap()).map(|(_, site)| site);
        assert_eq!(["10.1.2.3", "10.2.2.3", "10.3.2.3", "10.4.2.3"].map(site), [Some(1), Some(2), None, Some(2)]);
        assert_eq!(["2001:db8::1", "2001:db9::1"].map(site), [Some(1), None]);
    }

    #[test]
    fn a_file_that_is_none_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "DE").unwrap();
        let why = read(file.path(), &Regions::default()).err().unwrap();
        assert!(why.starts_with("cannot read the database of countries /"), "{why}");
        let why = read(Path::new("/no/such.mmdb"), &Regions::default()).err().unwrap();
        assert_eq!(why, "cannot read the database of countries /no/such.mmdb: No such file or directory");
    }
}
