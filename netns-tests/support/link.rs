//! Links between sites: their keys, their sections, and what cuts them.

use std::path::PathBuf;
use std::process::Command;

use super::config::Config;
use super::farside::{Farside, binary};
use super::namespace::run;
use super::wait::eventually;
use super::world::{BOTH, Family, Site, World, site_name};

pub const PORT: u16 = 4353;

/// The certificate and the key of a site.
pub fn paths(site: &Site) -> (PathBuf, PathBuf) {
    let path = |end| site.directory().join(format!("{}.{end}", site.name()));
    (path("crt"), path("key"))
}

/// Has farside make what a site is known by, if it is not there.
pub fn keys(site: &Site) {
    if !paths(site).0.exists() {
        let directory = site.directory().to_str().expect("a readable path");
        run(Command::new(binary()).args(["site", "keygen", "--site", site.name(), "--dir", directory]));
    }
}

/// Links `config`'s site with all others: by IPv4 with the first, by IPv6 with the last.
pub fn linked(world: &World, site: u8, mut config: Config) -> Config {
    world.sites().iter().for_each(keys);
    config.more += &section(world, site);
    for other in world.sites().iter().filter(|other| other.number != site) {
        config.peer_extra.insert(other.name(), peer(other, [site, other.number].contains(&1)));
    }
    config
}

/// `[link]` of a site.
pub fn section(world: &World, site: u8) -> String {
    let own = world.site(site);
    let listen = BOTH.map(|family| format!("\"{}\"", std::net::SocketAddr::new(own.wan_address(family), PORT)));
    let (certificate, key) = paths(own);
    format!("[link]\nlisten = [{}]\ncertificate = {certificate:?}\nkey = {key:?}\n", listen.join(", "))
}

/// Lines of another site's `[[peer]]`.
pub fn peer(other: &Site, v4: bool) -> String {
    let family = if v4 { Family::V4 } else { Family::V6 };
    let address = std::net::SocketAddr::new(other.wan_address(family), PORT);
    format!("link = \"{address}\"\ncertificate = {:?}\n", paths(other).0)
}

/// Lets nothing of a link's through between these two sites, and no RST either.
pub fn cut(world: &World, one: u8, other: u8) {
    let address = |site: u8, family| world.site(site).wan_address(family);
    let rules: String = BOTH
        .into_iter()
        .flat_map(|family| [(one, other), (other, one)].map(|(from, to)| (family, from, to)))
        .map(|(family, from, to)| {
            let ip = if family == Family::V4 { "ip" } else { "ip6" };
            let (from, to) = (address(from, family), address(to, family));
            format!(
                "{ip} saddr {from} {ip} daddr {to} tcp dport {PORT} drop;\n\
                     {ip} saddr {from} {ip} daddr {to} tcp sport {PORT} drop;\n"
            )
        })
        .collect();
    let table =
        format!("table inet cut{one}{other} {{ chain forward {{ type filter hook forward priority 0;\n{rules}}}\n}}");
    world.router.run("nft", &[&table]);
}

/// Undoes [`cut`].
pub fn heal(world: &World, one: u8, other: u8) {
    world.router.run("nft", &[&format!("delete table inet cut{one}{other}")]);
}

/// Waits until the farside says of its link to `site` what `is` wants.
#[track_caller]
pub fn wait(farside: &Farside, site: u8, what: &str, is: impl Fn(&serde_json::Value) -> bool) {
    eventually(&format!("{what} of {}", site_name(site)), || {
        let sites = farside.show("sites");
        let row =
            sites.as_array().expect("a list").iter().find(|row| row["site"] == site_name(site)).expect("the site");
        if is(row) { Ok(()) } else { Err(format!("{row:#}\n{}", farside.log())) }
    });
}

#[track_caller]
pub fn wait_up(farside: &Farside, site: u8) {
    wait(farside, site, "the link", |row| row["link"] == "up" && row["connections"].is_number());
}
