//! TCP that is rare, by real kernels on both sides.

use std::net::SocketAddr;

use crate::support::capture::Capture;
use crate::support::config::{Service, quick_check};
use crate::support::download::{Downloads, write_file};
use crate::support::namespace::Namespace;
use crate::support::play::Play;
use crate::support::wait::{eventually, until};
use crate::support::world::{BOTH, Family, World};

/// Connections of a machine that have had a SYN and wait for the ACK.
fn half_open(host: &Namespace) -> String {
    host.run("ss", &["-Htn", "state", "syn-recv"])
}

/// The client is gone after its SYN: when farside forgets the connection, the server shall too. A SYN-ACK sent once more would
/// find nothing on record, and a host that routes would send it out as it is.
#[test]
fn a_handshake_that_expires_half_way_leaves_nothing_behind_and_lets_nothing_out() {
    let mut play = Play::with(2, |world, site, config| {
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            world.site(site).host.sysctl(key, "1");
        }
        config.with(|config| config.timeouts = "tcp_syn = \"1s\"".into())
    });
    for family in BOTH {
        let (ip, vip) = (if family == Family::V4 { "ip" } else { "ip6" }, play.vip(1, family).ip());
        let rules = format!(
            "table {ip} deaf {{ chain input {{ type filter hook input priority 0; {ip} saddr {vip} drop; }}\n }}"
        );
        play.world.client.run("nft", &[&rules]);
    }
    let private = "net 10.0.0.0/8 or net fd00::/16";
    let leaks = ["site1", "site2"].map(|line| Capture::start(&play.world.router, line, private));
    for serving in [1, 2] {
        let before = play.farside(1).counter("resets_sent");
        for family in BOTH {
            let vip = play.vip(1, family);
            let pending = play.world.client.inside(|| {
                let socket = socket2::Socket::new(socket2::Domain::for_address(vip), socket2::Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                let _ = socket.connect(&vip.into());
                std::io::Result::Ok(socket)
            });
            let pending = pending.expect("a socket");
            let reals = &play.world.site(serving).reals;
            until("a half-open connection at a server", || reals.iter().any(|real| !half_open(&real.host).is_empty()));
            // No more SYNs.
            drop(pending);
            // The servers would go on for a minute.
            eventually("the servers forget", || {
                let open: String = reals.iter().map(|real| half_open(&real.host)).collect();
                if open.is_empty() { Ok(()) } else { Err(open) }
            });
        }
        assert!(play.farside(1).counter("resets_sent") >= before + 2);
        if serving == 1 {
            play.fall(1);
        }
    }
    for leak in leaks {
        let seen = leak.stop();
        assert!(seen.trim().is_empty(), "{seen}");
    }
}

/// A line of /proc/net/netstat's TcpExt.
fn tcp_ext(host: &Namespace, name: &str) -> u64 {
    let text = host.run("cat", &["/proc/net/netstat"]);
    let mut rows = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let value = names.zip(values).find(|(other, _)| *other == name).expect("a counter of this name").1;
    value.parse().expect("a number")
}

/// The first connection brings the client a cookie, the next its request on the SYN.
#[test]
fn tcp_fast_open() {
    // Client and server side; every listener.
    const ON: &str = "1027";
    let size = 1 << 20;
    let mut servers = Vec::new();
    let play = Play::with(2, |world: &World, site, mut config| {
        world.client.sysctl("net/ipv4/tcp_fastopen", ON);
        // A cookie is one server's.
        let real = world.site(site).real('a');
        real.host.sysctl("net/ipv4/tcp_fastopen", ON);
        for family in BOTH {
            servers.push(Downloads::start(&real.host, SocketAddr::new(real.address(family), 80), size));
            let mut service = Service::standard(world, site, family, "web", "tcp", 80, &quick_check("tcp"));
            service.reals.truncate(1);
            config.services.push(service);
        }
        config
    });
    servers.iter().for_each(|server| server.allow(size));
    let file = play.world.directory().join("file");
    let mut right = Vec::new();
    write_file(&mut right, size).expect("writing to memory");
    for serving in [1, 2] {
        let server = &play.world.site(serving).real('a').host;
        for family in BOTH {
            let count = || (tcp_ext(&play.world.client, "TCPFastOpenActive"), tcp_ext(server, "TCPFastOpenPassive"));
            let before = count();
            let url = format!("http://{}/", SocketAddr::new(play.world.site(1).vip(family), 80));
            for _ in 0..3 {
                let path = file.to_str().expect("a readable path");
                play.world.client.run("curl", &["-sS", "-m", "30", "--tcp-fastopen", "-o", path, &url]);
                assert!(std::fs::read(&file).expect("the file") == right, "every byte");
            }
            let now = count();
            assert!(now.0 >= before.0 + 2 && now.1 >= before.1 + 2, "{family:?}, site {serving}: {before:?} {now:?}");
        }
        if serving == 1 {
            // What the first server's cookies open is the other's affair now: it gives its own.
            play.sicken(1);
        }
    }
    assert_eq!(tcp_ext(&play.world.client, "TCPFastOpenBlackhole"), 0);
}
