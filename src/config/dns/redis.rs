//! `[dns.redis]`: the server through which nodes share what they remember of resolvers, and tell how their sites are.

use super::super::value::{self, Problem, quoted};
use super::super::walk::{self, At, Place, Section, Walk};
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::de::{DeTable, DeValue};

/// A Redis or Valkey server.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    pub address: SocketAddr,
    /// Its password stands there; none: it asks for none.
    pub password_file: Option<PathBuf>,
    /// Of the names of all keys there: nodes with the same one share.
    pub prefix: String,
}

pub(in super::super) struct Written {
    pub address: Option<At<SocketAddr>>,
    pub password_file: Option<At<String>>,
    pub prefix: String,
}

pub(super) fn read(walk: &mut Walk, table: &DeTable, place: Place) -> Written {
    let section = Section::open(walk, "[dns.redis]", place, table, walk::DNS_REDIS);
    Written {
        address: section.required(walk, "address", address, "\"10.0.0.5:6379\""),
        password_file: section.read(walk, "password_file", value::line("a file's path", true)),
        prefix: section.or(walk, "prefix", value::name, "farside".into()).value,
    }
}

fn address(value: &DeValue) -> Result<SocketAddr, Problem> {
    const HELP: &str = "write an address and a port such as \"10.0.0.5:6379\" or \"[2001:db8::5]:6379\"";
    let text = value::string(value)?;
    let wrong =
        || Problem { message: format!("must be an address and a port, not {}", quoted(&text)), help: HELP.into() };
    text.parse().ok().filter(|address: &SocketAddr| address.port() > 0).ok_or_else(wrong)
}

/// None: something required is not there, and that has been told.
pub(super) fn meant(written: Written) -> Option<Redis> {
    Some(Redis {
        address: written.address?.value,
        password_file: written.password_file.map(|file| file.value.into()),
        prefix: written.prefix,
    })
}
