//! Who gets a connection: limits, backups and overflow; clients that come back.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::support::client::{Session, open};
use crate::support::config::{Config, service_name};
use crate::support::play::{Play, site_of, standard};
use crate::support::server::Pop3;
use crate::support::wait::{PATIENCE, until};
use crate::support::world::{BOTH, Family, World};

/// A session that stays, and who serves it.
fn session(play: &Play, family: Family) -> io::Result<(Session, String)> {
    let (session, greeting) = open(&play.world.client, play.vip(1, family))?;
    Ok((session, greeting.split_whitespace().nth(1).unwrap_or_default().to_owned()))
}

/// What `show services` says of a target of site 1.
fn active(play: &Play, family: Family, name: &str) -> u64 {
    let target = format!("{}/{name}", service_name("pop3", family));
    let services = play.farside(1).show("services");
    let rows = services.as_array().expect("a list").iter();
    let mut targets = rows.flat_map(|row| row["targets"].as_array().expect("targets"));
    targets.find(|row| row["target"] == *target).expect("the target")["active"].as_u64().expect("a number")
}

/// Two real servers of two sessions each, a backup of one on another port, then the other site, then nobody.
#[test]
fn servers_fill_up_then_the_backup_then_the_other_site_and_then_clients_are_refused() {
    const BACKUP: u16 = 111;
    let mut backups = Vec::new();
    let mut play = Play::with(2, |world: &World, site, config: Config| {
        if site == 2 {
            // It would check site 1 by sessions, which would take places there.
            return config.each(|service| service.remotes.clear());
        }
        let real = world.site(1).real('a');
        let start = |family| Pop3::start(&real.host, SocketAddr::new(real.address(family), BACKUP), "r1c");
        backups.extend(BOTH.map(start));
        config.each(|service| {
            for name in ["r1a", "r1b"] {
                service.real_extra.insert(name.into(), "max_connections = 2".into());
            }
            let address = service.reals[0].1;
            service.reals.push(("r1c".into(), address, BACKUP, 1));
            service.real_extra.insert("r1c".into(), "max_connections = 1\nbackup = true".into());
        })
    });
    let mut sessions = Vec::new();
    for family in BOTH {
        let mut served: Vec<_> = (0..4).map(|_| session(&play, family).expect("a session")).collect();
        let mut names: Vec<_> = served.iter().map(|(_, name)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["r1a", "r1a", "r1b", "r1b"]);
        served.push(session(&play, family).expect("a session"));
        assert_eq!(served[4].1, "r1c", "the backup");
        let (mut carried, name) = session(&play, family).expect("a session");
        assert_eq!(site_of(&name), 2, "the other site");
        carried.ask("QUIT").expect("a farewell");
        assert_eq!(["r1a", "r1b", "r1c"].map(|name| active(&play, family, name)), [2, 2, 1]);
        sessions.push((family, served));
    }
    assert_eq!((play.farside(1).counter("chosen_backup"), play.farside(1).counter("chosen_overflow")), (2, 2));
    play.fall(2);
    play.wait_remote("down", 1, 2);
    for (family, served) in &mut sessions {
        let error = session(&play, *family).err().expect("nobody has room");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        for (session, name) in served.iter_mut() {
            assert_eq!(session.ask("NOOP").expect("it goes on"), "+OK", "{name}");
        }
        // One leaves, and its place is somebody else's.
        let leaves = served.iter().position(|(_, name)| name == "r1b").expect("r1b serves two");
        served.remove(leaves).0.ask("QUIT").expect("a farewell");
        until("a place is free", || active(&play, *family, "r1b") == 1);
        let (_session, name) = session(&play, *family).expect("there is room");
        assert_eq!(name, "r1b");
    }
    assert!(play.farside(1).counter("drop_servers_full") >= 2);
}

/// Who serves a session from this address of the client's.
fn who_from(play: &Play, from: IpAddr, family: Family) -> String {
    let stream: TcpStream = play.world.client.inside(|| {
        let to = play.vip(1, family);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of the client's");
        socket.connect_timeout(&to.into(), PATIENCE).unwrap_or_else(|e| panic!("{from}: {e}\n{}", play.logs()));
        socket.into()
    });
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    stream.read_line(&mut greeting).expect("a greeting");
    stream.get_mut().write_all(b"QUIT\r\n").expect("a farewell");
    greeting.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// Several addresses of the client's network in turn, so that the rotation alone would send each now here, now there.
#[test]
fn clients_come_back_to_the_server_that_they_had_until_their_time_is_over() {
    let remembering = |world: &World, extra: &str| {
        standard(world, 1).each(|service| {
            service.extra = extra.into();
            service.remotes.clear();
        })
    };
    let play = Play::with(1, |world, _, _| remembering(world, "persistence = \"1h\""));
    for family in BOTH {
        let addresses: Vec<IpAddr> = (11..16)
            .map(|last| match family {
                Family::V4 => format!("192.0.2.{last}"),
                Family::V6 => format!("2001:db8:c::{last}"),
            })
            .map(|text| text.parse().expect("an address"))
            .collect();
        for address in &addresses {
            let (len, nodad) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
            play.world.client.ip(&format!("addr add {address}/{len} dev eth0 {nodad}"));
        }
        let visit = || addresses.iter().map(|from| who_from(&play, *from, family)).collect::<Vec<_>>();
        let first = visit();
        assert!(first.contains(&"r1a".into()) && first.contains(&"r1b".into()), "{first:?}");
        for _ in 0..4 {
            assert_eq!(visit(), first);
        }
        // A reload forgets nobody.
        play.farside(1).reload(&remembering(&play.world, "persistence = \"2h\""));
        assert_eq!(visit(), first);
        play.farside(1).reload(&remembering(&play.world, "persistence = \"1s\""));
        std::thread::sleep(std::time::Duration::from_millis(1600));
        let hits = play.farside(1).counter("persistence_hits");
        who_from(&play, addresses[0], family);
        assert_eq!(play.farside(1).counter("persistence_hits"), hits, "its time was over");
        // All of one network are one client.
        let masks = "persistence = \"1h\"\npersistence_mask_v4 = 24\npersistence_mask_v6 = 64";
        play.farside(1).reload(&remembering(&play.world, masks));
        let served = visit();
        assert!(served.iter().all(|name| *name == served[0]), "{served:?}");
        play.farside(1).reload(&remembering(&play.world, "persistence = \"1h\""));
    }
}
