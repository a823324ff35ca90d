//! Datagrams larger than any link, cut by the sender's kernel and put together by the receiver's.

use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::support::client::Datagrams;
use crate::support::play::Play;
use crate::support::server::UdpEcho;
use crate::support::wait::PATIENCE;
use crate::support::world::{BOTH, Family};
use crate::testing::{Build, cut};
use crate::udp::{PORT, stage_with};

/// With two workers, whatever the number of CPUs.
fn stage() -> (Vec<UdpEcho>, Play) {
    stage_with(|mut config| {
        config.workers = 2;
        config
    })
}

fn vip(play: &Play, family: Family) -> SocketAddr {
    SocketAddr::new(play.world.site(1).vip(family), PORT)
}

/// No two parts of it alike.
fn text(size: usize, salt: usize) -> String {
    (0..).flat_map(|n: usize| format!("{} ", n * 31 + salt).into_bytes()).take(size).map(char::from).collect()
}

/// The drops of all farsides that have to do with fragments.
fn drops(play: &Play) -> Vec<String> {
    let all = [1, 2].map(|site| (site, play.farside(site).show("counters")));
    let counts = all.iter().flat_map(|(site, counts)| {
        let counts = counts.as_object().expect("an object").iter();
        counts.map(move |(name, count)| (site, name, count.as_u64().expect("a number")))
    });
    let drops = counts.filter(|(_, name, count)| name.starts_with("drop_fragment") && *count > 0);
    drops.map(|(site, name, count)| format!("site {site}: {name} {count}")).collect()
}

#[test]
fn large_datagrams_arrive_in_pieces_both_ways() {
    let (_servers, play) = stage();
    for carried in [false, true] {
        if carried {
            play.sicken(1);
        }
        for family in BOTH {
            // Of several ports, so that both workers get some.
            for n in 0..10 {
                let client = Datagrams::new(&play.world.client, vip(&play, family));
                for size in [1480, 4000, 20_000, 60_000] {
                    let text = text(size, n);
                    let answer = client
                        .ask(&text)
                        .unwrap_or_else(|e| panic!("{family:?} {carried} {size}: {e}\n{}", play.logs()));
                    let server = if carried { "r2" } else { "r1" };
                    assert!(
                        answer.starts_with(server) && answer.ends_with(&text),
                        "{family:?} {carried} {size}: {answer}"
                    );
                }
            }
        }
    }
    assert_eq!(drops(&play), [""; 0]);
}

/// As they come by ways of different length.
#[test]
fn a_real_servers_answer_may_come_in_pieces_out_of_order() {
    let (_servers, play) = stage();
    let site = play.world.site(1);
    for version in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{version}/conf/all/forwarding");
        let forwards = site.host.inside(|| std::fs::read_to_string(&path));
        assert_eq!(forwards.expect("a setting").trim(), "0", "{path}: the host would forward them untranslated");
    }
    for (n, family) in BOTH.into_iter().enumerate() {
        let source = play.world.client_address(family);
        let socket = play.world.client.inside(|| UdpSocket::bind((source, 0)).expect("a socket"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let own = socket.local_addr().expect("its address");
        let mut answer = [0; 8000];
        socket.send_to(b"who?", vip(&play, family)).expect("a question is sent");
        let length = socket.recv(&mut answer).expect("an answer");
        let name = String::from_utf8_lossy(&answer[..length]).split(':').next().unwrap_or_default().to_owned();
        let real = site.reals.iter().find(|real| real.name == name).unwrap_or_else(|| panic!("no server {name}"));
        let raw = real.host.inside(|| {
            Socket::new(Domain::for_address(SocketAddr::new(source, 0)), Type::RAW, Some(Protocol::from(255)))
        });
        let text = text(4000, n);
        let server = SocketAddr::new(real.address(family), PORT).to_string();
        let pieces = cut(&Build::udp(&server, &own.to_string(), text.as_bytes()).frame(), 77, &[1440, 2880]);
        for at in [2, 1, 0] {
            let to = SocketAddr::new(source, 0);
            raw.as_ref().expect("a raw socket").send_to(&pieces[at][14..], &to.into()).expect("a piece is sent");
        }
        let counters = || play.farside(1).counters();
        let (length, from) =
            socket.recv_from(&mut answer).unwrap_or_else(|e| panic!("{family:?}: {e}: {:#?}", counters()));
        assert_eq!((from, &answer[..length] == text.as_bytes()), (vip(&play, family), true), "{family:?}");
    }
}

#[test]
fn pieces_out_of_order_and_doubled_arrive() {
    let (_servers, play) = stage();
    let orders: [&[usize]; 5] = [&[2, 1, 0], &[1, 2, 0], &[0, 2, 1], &[2, 0, 1], &[1, 0, 0, 1, 2]];
    let mut id = 0;
    for carried in [false, true] {
        if carried {
            play.sicken(1);
        }
        for family in BOTH {
            let source = play.world.client_address(family);
            let (socket, raw) = play.world.client.inside(|| {
                let raw =
                    Socket::new(Domain::for_address(SocketAddr::new(source, 0)), Type::RAW, Some(Protocol::from(255)));
                (UdpSocket::bind((source, 0)).expect("a socket"), raw.expect("a raw socket"))
            });
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let own = socket.local_addr().expect("its address");
            for (n, order) in orders.iter().enumerate() {
                id += 1;
                let text = text(4000, n);
                let datagram = Build::udp(&own.to_string(), &vip(&play, family).to_string(), text.as_bytes());
                let pieces = cut(&datagram.frame(), id, &[1440, 2880]);
                for at in *order {
                    let to = SocketAddr::new(vip(&play, family).ip(), 0);
                    raw.send_to(&pieces[*at][14..], &to.into()).expect("a piece is sent");
                }
                let mut answer = [0; 8000];
                let length = socket.recv(&mut answer).unwrap_or_else(|e| panic!("{family:?} {carried} {order:?}: {e}"));
                assert!(answer[..length].ends_with(text.as_bytes()), "{family:?} {carried} {order:?}");
            }
        }
    }
    let farside = play.farside(1);
    // And perhaps some of an answer, behind a first one that waited for a neighbor.
    assert!(farside.counter("fragments_held") >= 4 * (2 + 2 + 1 + 1), "those before their first");
    assert_eq!(farside.counter("drop_fragment_duplicate"), 4 * 2);
    assert_eq!(drops(&play), ["site 1: drop_fragment_duplicate 8"]);
}

#[test]
fn a_large_ping_is_answered() {
    let (_servers, play) = stage();
    for family in BOTH {
        let vip = vip(&play, family).ip().to_string();
        let said = play.world.client.run("ping", &["-c", "3", "-i", "0.2", "-W", "10", "-s", "4000", &vip]);
        assert!(said.contains(" 3 received") && said.contains("4008 bytes from"), "{said}");
    }
    assert_eq!(drops(&play), [""; 0]);
}
