//! What must fit together: names, addresses, families, sites.

use super::value::{nearest, quoted};
use super::walk::{At, Place, Walk};
use super::written::{Remote, Service, Written};
use super::{Config, MAX_TARGETS, Mode, Peer, Protocol, Proxy, Real, Word, dns, link};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

/// Tells of all that does not fit together.
pub(super) fn check(walk: &mut Walk, written: &Written) {
    addresses(walk, written);
    peers(walk, written);
    link::check(walk, written);
    services(walk, written);
    for service in &written.services {
        targets(walk, service);
        per_packet(walk, service);
        for remote in &service.remotes {
            carried(walk, written, service, remote);
        }
    }
    dns::meaning::check(walk, written);
    let count: usize = written.services.iter().map(|service| service.reals.len() + service.remotes.len()).sum();
    if let Some(last) = written.services.last().filter(|_| count > MAX_TARGETS) {
        walk.wrong(
            &last.place,
            format!("{count} real servers and remote sites are more than {MAX_TARGETS}"),
            "spread the services over several farsides",
        );
    }
}

/// Remembers where each value was seen first.
pub(super) struct Seen<T>(HashMap<T, Place>);

impl<T: Hash + Eq> Seen<T> {
    pub fn new() -> Seen<T> {
        Seen(HashMap::new())
    }

    /// Where `value` was seen before; else it is remembered.
    pub fn before(&mut self, value: T, place: &Place) -> Option<Place> {
        match self.0.get(&value) {
            Some(first) => Some(first.clone()),
            None => {
                self.0.insert(value, place.clone());
                None
            }
        }
    }
}

/// No address in two roles.
fn addresses(walk: &mut Walk, written: &Written) {
    let mut proxy = Seen::new();
    for pip in written.proxy.iter().flat_map(|proxy| &proxy.addresses) {
        if let Some(first) = proxy.before(pip.value, &pip.place) {
            let message = format!("proxy address {} is listed twice", pip.value);
            walk.collides(&pip.place, &first, "first here", message, "list each address once");
        }
    }
    let mut peer = Seen::new();
    for pip in written.peers.iter().flat_map(|peer| &peer.proxy_addresses) {
        if let Some(first) = peer.before(pip.value, &pip.place) {
            let message = format!("{} is a proxy address of two peers, or of one twice", pip.value);
            walk.collides(&pip.place, &first, "first here", message, "each address belongs to one site");
        }
        if let Some(own) = proxy.0.get(&pip.value) {
            let message = format!("{} is a peer's proxy address and this site's own", pip.value);
            walk.collides(&pip.place, own, "this site's", message, "list here what the other site lends");
        }
    }
    let mut vips = Seen::new();
    for vip in written.services.iter().filter_map(|service| service.vip.as_ref()) {
        vips.before(vip.value, &vip.place);
        if let Some(pip) = proxy.0.get(&vip.value) {
            let message = format!("VIP {} is a [proxy] address too", vip.value);
            walk.collides(&vip.place, pip, "lent to connections", message, "take another address for one of the two");
        }
        if let Some(pip) = peer.0.get(&vip.value) {
            let message = format!("VIP {} is a peer's proxy address", vip.value);
            walk.collides(&vip.place, pip, "the peer's", message, "take another address for one of the two");
        }
    }
    for real in written.services.iter().flat_map(|service| &service.reals).filter_map(|real| real.address.as_ref()) {
        if let Some(vip) = vips.0.get(&real.value) {
            let message = format!("real server's address {} is a VIP", real.value);
            walk.collides(&real.place, vip, "a VIP", message, "write the server's own address");
        }
        if let Some(pip) = proxy.0.get(&real.value) {
            let message = format!("real server's address {} is a [proxy] address", real.value);
            walk.collides(&real.place, pip, "lent to connections", message, "write the server's own address");
        }
    }
}

fn peers(walk: &mut Walk, written: &Written) {
    let mut names = Seen::new();
    for name in written.peers.iter().filter_map(|peer| peer.name.as_ref()) {
        if let Some(first) = names.before(&name.value, &name.place) {
            let message = format!("two peers are named {}", quoted(&name.value));
            walk.collides(&name.place, &first, "first here", message, "list all of a site's addresses in one [[peer]]");
        }
        if name.value == written.site.value {
            let message = format!("peer {} has this site's own name", quoted(&name.value));
            walk.wrong(&name.place, message, "a [[peer]] is another site; this one's name is in [site]");
        }
    }
}

fn services(walk: &mut Walk, written: &Written) {
    let (mut names, mut doors) = (Seen::new(), Seen::new());
    for service in &written.services {
        if let Some(name) = &service.name
            && let Some(first) = names.before(&name.value, &name.place)
        {
            let message = format!("two services are named {}", quoted(&name.value));
            walk.collides(&name.place, &first, "first here", message, "give each service a name of its own");
        }
        if let (Some(vip), Some(port)) = (&service.vip, &service.port) {
            let door = SocketAddr::new(vip.value, port.value);
            let protocol = service.protocol.value;
            if let Some(first) = doors.before((door, protocol == Protocol::Tcp), &port.place) {
                let message = format!("two services are at {door}, {}", protocol.word());
                walk.collides(
                    &port.place,
                    &first,
                    "first here",
                    message,
                    "join them, or change one's vip, port or protocol",
                );
            }
        }
    }
}

pub(super) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// What goes by connections means nothing where each packet is one of its own.
fn per_packet(walk: &mut Walk, service: &Service) {
    let limited = service.max_connections > 0 || service.reals.iter().any(|real| real.max_connections > 0);
    let others = [("persistence", !service.persistence.is_zero()), ("max_connections", limited)];
    for (key, _) in others.into_iter().filter(|(_, used)| *used && service.per_packet.value) {
        walk.wrong(
            &service.per_packet.place,
            format!("per_packet and `{key}` contradict each other: with per_packet there are no connections"),
            "leave out one of the two",
        );
    }
}

/// A service's real servers and remote sites, among themselves and with its VIP.
fn targets(walk: &mut Walk, service: &Service) {
    if service.reals.is_empty() && service.remotes.is_empty() {
        walk.absent(
            &service.place,
            format!("{} has no server", service.title),
            "add a [[service.real]], a [[service.remote]], or both",
        );
    }
    let (mut names, mut places) = (Seen::new(), Seen::new());
    for real in &service.reals {
        let (Some(address), Some(port)) = (&real.address, real.port) else { continue };
        unchanged(walk, service, real);
        // A tunnel's outer packet may be of another family than what travels in it.
        let vip = service.vip.as_ref().filter(|_| service.mode.value != Mode::Tunnel);
        if let Some(vip) = vip.filter(|vip| vip.value.is_ipv4() != address.value.is_ipv4()) {
            let message = format!(
                "real server {} is {}, and its VIP {} is {}",
                address.value,
                family(address.value),
                vip.value,
                family(vip.value)
            );
            walk.collides(
                &address.place,
                &vip.place,
                "the VIP",
                message,
                "write the server's address of the VIP's family",
            );
        }
        let door = SocketAddr::new(address.value, port);
        if let Some(first) = places.before(door, &address.place) {
            let message = format!("two real servers of {} are at {door}", service.title);
            walk.collides(
                &address.place,
                &first,
                "first here",
                message,
                "to give one more of the work, raise its weight",
            );
            continue;
        }
        name_once(walk, &mut names, service, real.name.as_ref());
    }
    for remote in &service.remotes {
        name_once(walk, &mut names, service, remote.site.as_ref());
    }
}

/// In direct and tunnel mode the real server gets the client's packet as it is.
fn unchanged(walk: &mut Walk, service: &Service, real: &super::written::Real) {
    let (Some(own), Some(place), Some(port)) = (&service.port, &real.port_place, real.port) else { return };
    if service.mode.value != Mode::Nat && port != own.value {
        let message = format!(
            "in mode \"{}\" packets reach the real server as the client sent them, to port {}, not {port}",
            service.mode.value.word(),
            own.value
        );
        walk.collides(
            place,
            &own.place,
            "the service's port",
            message,
            "leave `port` out here, or write mode = \"nat\"",
        );
    }
}

fn name_once<'w>(walk: &mut Walk, names: &mut Seen<&'w str>, service: &Service, name: Option<&'w At<String>>) {
    let Some(name) = name else { return };
    if let Some(first) = names.before(&name.value, &name.place) {
        let message = format!("two targets of {} are named {}", service.title, quoted(&name.value));
        let help = "`drain` and `show` tell a service's real servers and remote sites apart by their names";
        walk.collides(&name.place, &first, "first here", message, help);
    }
}

/// Can connections be carried to this remote site?
fn carried(walk: &mut Walk, written: &Written, service: &Service, remote: &Remote) {
    if let Some(site) = &remote.site {
        let peers = || written.peers.iter().filter_map(|peer| peer.name.as_ref()).map(|name| name.value.as_str());
        if !peers().any(|peer| peer == site.value) {
            let help = match nearest(&site.value, peers()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("add a [[peer]] with name = {}", quoted(&site.value)),
            };
            walk.absent(&site.place, format!("there is no peer {}", quoted(&site.value)), help);
        }
    }
    let Some(vip) = &remote.vip else { return };
    if let Some(own) = service.vip.as_ref().filter(|own| own.value.is_ipv4() != vip.value.is_ipv4()) {
        let message = format!(
            "remote VIP {} is {}, and the service's VIP {} is {}",
            vip.value,
            family(vip.value),
            own.value,
            family(own.value)
        );
        walk.collides(
            &vip.place,
            &own.place,
            "the service's VIP",
            message,
            "write the other site's VIP of this family",
        );
    }
    let own = written.services.iter().filter_map(|other| other.vip.as_ref()).find(|other| other.value == vip.value);
    if let Some(own) = own {
        let message = format!("remote VIP {} is this site's own", vip.value);
        walk.collides(&vip.place, &own.place, "this site's", message, "write the VIP of the other site's service");
    }
    let mut lent = written.proxy.iter().flat_map(|proxy| &proxy.addresses);
    if !lent.any(|pip| pip.value.is_ipv4() == vip.value.is_ipv4()) {
        let (family, example) = if vip.value.is_ipv4() { ("IPv4", "203.0.113.250") } else { ("IPv6", "2001:db8::250") };
        let (place, help) = match &written.proxy {
            Some(_) => (&vip.place, format!("add an {family} address of this site to `addresses` in [proxy]")),
            None => (&vip.place, format!("add: [proxy] with addresses = [\"{example}\"], an address of this site")),
        };
        walk.absent(place, format!("no {family} [proxy] address to carry connections to {} from", vip.value), help);
    }
    if let Some(pip) = written.proxy.iter().flat_map(|proxy| &proxy.addresses).find(|pip| pip.value == vip.value) {
        let message = format!("remote VIP {} is a [proxy] address of this site", vip.value);
        walk.collides(&vip.place, &pip.place, "this site's", message, "write the VIP of the other site's service");
    }
}

/// None: something required is not there, and that has been told.
pub(super) fn resolve(written: Written) -> Option<Config> {
    let values = |addresses: Vec<At<IpAddr>>| addresses.into_iter().map(|address| address.value).collect();
    let site = written.site.value;
    let peer = |peer: super::written::Peer| {
        let name = peer.name?.value;
        let link = link::resolve_peer(peer.link, &name, &site);
        Some(Peer { name, proxy_addresses: values(peer.proxy_addresses), link })
    };
    Some(Config {
        datapath: written.datapath,
        admin: written.admin,
        proxy: written.proxy.map(|proxy| Proxy {
            addresses: values(proxy.addresses),
            ports: proxy.ports,
            port_rest: proxy.port_rest,
        }),
        peers: written.peers.into_iter().map(peer).collect::<Option<_>>()?,
        link: match written.link {
            Some(written) => Some(link::resolve(written)?),
            None => None,
        },
        services: written.services.into_iter().map(resolve_service).collect::<Option<_>>()?,
        timeouts: written.timeouts,
        lines: written.lines.into_iter().map(dns::meaning::line).collect::<Option<_>>()?,
        dns: match written.dns {
            Some(written) => Some(dns::meaning::dns(written, &site)?),
            None => None,
        },
        site,
    })
}

fn resolve_service(service: Service) -> Option<super::Service> {
    let real = |real: super::written::Real| {
        Some(Real {
            name: real.name?.value,
            address: real.address?.value,
            port: real.port?,
            weight: real.weight,
            max_connections: real.max_connections,
            backup: real.backup,
        })
    };
    let remote = |remote: Remote| {
        Some(super::Remote {
            site: remote.site?.value,
            vip: remote.vip?.value,
            port: remote.port?,
            priority: remote.priority,
            weight: remote.weight,
        })
    };
    Some(super::Service {
        name: service.name?.value,
        vip: service.vip?.value,
        port: service.port?.value,
        protocol: service.protocol.value,
        mode: service.mode.value,
        encapsulation: service.encapsulation,
        scheduler: service.scheduler,
        on_down: service.on_down,
        persistence: service.persistence,
        persistence_mask_v4: service.persistence_mask_v4,
        persistence_mask_v6: service.persistence_mask_v6,
        max_connections: service.max_connections,
        overflow: service.overflow.value,
        per_packet: service.per_packet.value,
        check: service.check,
        reals: service.reals.into_iter().map(real).collect::<Option<_>>()?,
        remotes: service.remotes.into_iter().map(remote).collect::<Option<_>>()?,
    })
}
