//! `[link]`, and what `[[peer]]` says of it: the connections between sites.

use super::meaning::Seen;
use super::value::{self, Problem, quoted};
use super::walk::{self, At, Place, Section, Walk};
use super::written::Written;
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::de::{DeTable, DeValue};

/// The most sites that know each other, this one among them.
pub const MAX_SITES: usize = 64;

/// How this site meets others.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Sites whose names come before this one's dial here. Empty: there are none.
    pub listen: Vec<SocketAddr>,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// How one of them is met.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerLink {
    /// Where it listens; None: it dials.
    pub address: Option<SocketAddr>,
    /// The only one that it may have.
    pub certificate: PathBuf,
}

pub(super) struct WrittenLink {
    pub place: Place,
    pub listen: Vec<At<SocketAddr>>,
    pub certificate: Option<At<String>>,
    pub key: Option<At<String>>,
}

/// The same of a `[[peer]]`.
pub(super) struct WrittenPeer {
    pub address: Option<At<SocketAddr>>,
    pub certificate: Option<At<String>>,
}

pub(super) fn link(walk: &mut Walk, table: &DeTable, place: Place) -> WrittenLink {
    let section = Section::open(walk, "[link]", place.clone(), table, walk::LINK);
    let listen = match section.get("listen").map(|value| value.get_ref()) {
        Some(DeValue::Array(list)) if list.is_empty() => Vec::new(),
        Some(_) => section.list(walk, "listen", address, "[\"203.0.113.1:4353\"]"),
        None => Vec::new(),
    };
    let path = || value::line("a file's path", true);
    WrittenLink {
        listen,
        certificate: section.required(walk, "certificate", path(), "\"south.crt\", as `farside site keygen` made it"),
        key: section.required(walk, "key", path(), "\"south.key\", as `farside site keygen` made it"),
        place,
    }
}

pub(super) fn peer(walk: &mut Walk, section: &Section) -> WrittenPeer {
    WrittenPeer {
        address: section.read(walk, "link", address),
        certificate: section.read(walk, "certificate", value::line("a file's path", true)),
    }
}

fn address(value: &DeValue) -> Result<SocketAddr, Problem> {
    const HELP: &str = "write an address and a port such as \"203.0.113.1:4353\" or \"[2001:db8::1]:4353\"";
    let text = value::string(value)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address),
        _ => {
            let message = format!("must be an address and a port, not {}", quoted(&text));
            Err(Problem { message, help: HELP.into() })
        }
    }
}

/// Tells of what does not fit together.
pub(super) fn check(walk: &mut Walk, written: &Written) {
    let linked = || written.peers.iter().filter(|peer| peer.link.certificate.is_some());
    for peer in &written.peers {
        if let (Some(address), None) = (&peer.link.address, &peer.link.certificate) {
            walk.absent(
                &address.place,
                "there is a `link` and no `certificate`",
                "add: certificate = \"north.crt\", the file that `farside site keygen` made at that site",
            );
        }
    }
    let Some(link) = &written.link else {
        if let Some(certificate) = linked().find_map(|peer| peer.link.certificate.as_ref()) {
            walk.absent(
                &certificate.place,
                "a peer has a `certificate` and there is no [link]",
                "add [link] with this site's own `certificate` and `key`; `farside site keygen` makes them",
            );
        }
        return;
    };
    if linked().next().is_none() {
        walk.absent(
            &link.place,
            "there is a [link] and no [[peer]] with a `certificate`",
            "add to the other site's [[peer]]: certificate = \"north.crt\", as `farside site keygen` made it there",
        );
    }
    if let Some(peer) = linked().nth(MAX_SITES - 1).and_then(|peer| peer.link.certificate.as_ref()) {
        let help = "share through a server instead, or link fewer";
        walk.wrong(&peer.place, format!("more than {MAX_SITES} sites are linked"), help);
    }
    let mut seen = Seen::new();
    for listen in &link.listen {
        if let Some(first) = seen.before(listen.value, &listen.place) {
            let message = format!("{} is listed twice", listen.value);
            walk.collides(&listen.place, &first, "first here", message, "list each address once");
        }
        let mut vips = written.services.iter().filter_map(|service| service.vip.as_ref());
        if let Some(vip) = vips.find(|vip| vip.value == listen.value.ip()) {
            let message = format!(
                "[link] cannot listen on {}: it is a VIP, which this host's own stack does not have",
                vip.value
            );
            walk.collides(&listen.place, &vip.place, "a VIP", message, "write an address of this host");
        }
    }
    who_dials(walk, written, link);
}

/// Of two sites the one dials whose name comes first, so that there is one connection between them.
fn who_dials(walk: &mut Walk, written: &Written, link: &WrittenLink) {
    let own = &written.site.value;
    for peer in &written.peers {
        let (Some(name), Some(certificate)) = (&peer.name, &peer.link.certificate) else { continue };
        if own < &name.value && peer.link.address.is_none() {
            walk.absent(
                &certificate.place,
                format!("it is not known where peer {} listens", quoted(&name.value)),
                format!(
                    "of two sites the one dials whose name comes first, here {}: add link = \"198.51.100.1:4353\"",
                    quoted(own)
                ),
            );
        }
        if own > &name.value && link.listen.is_empty() {
            walk.absent(
                &link.place,
                format!("[link] does not `listen`, and peer {} will dial", quoted(&name.value)),
                format!(
                    "of two sites the one dials whose name comes first, here {}: add listen = [\"203.0.113.1:4353\"]",
                    quoted(&name.value)
                ),
            );
        }
    }
}

/// None: something required is not there, and that has been told.
pub(super) fn resolve(link: WrittenLink) -> Option<Link> {
    Some(Link {
        listen: link.listen.into_iter().map(|listen| listen.value).collect(),
        certificate: link.certificate?.value.into(),
        key: link.key?.value.into(),
    })
}

/// Of a peer that is linked. `own`: this site's name.
pub(super) fn resolve_peer(peer: WrittenPeer, name: &str, own: &str) -> Option<PeerLink> {
    let address = peer.address.map(|address| address.value).filter(|_| own < name);
    Some(PeerLink { address, certificate: peer.certificate?.value.into() })
}
