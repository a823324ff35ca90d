//! Health against real servers on loopback. Their bytes travel in real time; the clock that decides is a number that only
//! the tests move, so that no timing of the machine decides a test.

use super::*;
use crate::config::{CheckKind, Login};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::thread;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
const BASE: usize = 1000;

fn target(name: &str, slot: u16, kind: CheckKind, address: SocketAddr) -> Target {
    let second = Duration::from_secs(1);
    Target {
        name: name.to_string(),
        kind: TargetKind::Real,
        slot,
        check: Check { kind, port: None, interval: 2 * second, timeout: second, rise: 2, fall: 2, passive: false },
        address,
        protocol: Protocol::Tcp,
        source: None,
        device: None,
    }
}

fn pop3() -> CheckKind {
    CheckKind::Pop3 { login: None }
}

fn http(tls: bool) -> CheckKind {
    CheckKind::Http { tls, path: "/".to_string(), host: None, status: 200..=399 }
}

/// An event loop with nothing but Health on it, and the time.
struct World {
    poll: mio::Poll,
    health: Health,
    status: Arc<StatusTable>,
    now: Instant,
}

impl World {
    fn new(targets: Vec<Target>) -> World {
        let status = Arc::new(StatusTable::new());
        let mut health = Health::new(status.clone());
        let poll = mio::Poll::new().unwrap();
        health.register(poll.registry(), BASE).unwrap();
        let now = Instant::now();
        health.set_targets(targets, now);
        let mut world = World { poll, health, status, now };
        world.health.tick(world.now);
        world
    }

    /// Lets bytes travel until `done`, while the clock stands.
    fn until(&mut self, done: impl Fn(&mut World) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < give_up, "{:?}", self.report());
            self.turn(Duration::from_millis(20));
        }
    }

    fn turn(&mut self, wait: Duration) {
        let mut events = mio::Events::with_capacity(64);
        self.poll.poll(&mut events, Some(wait)).unwrap();
        for event in &events {
            assert!(self.health.ready(event.token().0, self.now));
        }
        self.health.tick(self.now);
    }

    /// Moves the clock to the next thing that is due.
    fn next(&mut self) {
        self.now = self.now.max(self.health.next_deadline().unwrap());
        self.health.tick(self.now);
    }

    fn report(&self) -> Vec<TargetHealth> {
        self.health.report(self.now)
    }

    fn error(&self) -> String {
        self.report()[0].last_error.clone().unwrap_or_default()
    }

    fn settle(&mut self) {
        self.until(|world| world.health.first_round_done());
    }
}

/// A server that handles each connection with `serve`, and tells when one has come.
fn serve(serve: impl Fn(TcpStream) + Send + 'static) -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let _ = sender.send(());
            serve(stream);
        }
    });
    (address, receiver)
}

/// Says each piece, after each reads one line, and at the end reads until the client has closed.
fn lines(pieces: &'static [&'static str]) -> impl Fn(TcpStream) + Send + 'static {
    move |mut stream| {
        for piece in pieces {
            let _ = stream.write_all(piece.as_bytes());
            let mut byte = [0];
            while matches!(stream.read(&mut byte), Ok(1)) && byte[0] != b'\n' {}
        }
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// What the first check of a server says.
fn verdict(kind: CheckKind, server: impl Fn(TcpStream) + Send + 'static) -> (bool, String) {
    let (address, _accepted) = serve(server);
    let mut world = World::new(vec![target("mail/a", 5, kind, address)]);
    world.settle();
    (world.status.slot(5).is_up(), world.error())
}

fn healthy(kind: CheckKind, server: impl Fn(TcpStream) + Send + 'static) {
    assert_eq!(verdict(kind, server), (true, String::new()));
}

fn unhealthy(kind: CheckKind, server: impl Fn(TcpStream) + Send + 'static) -> String {
    let (up, reason) = verdict(kind, server);
    assert!(!up);
    reason
}

#[test]
fn servers_that_serve_are_up() {
    let login = Some(Login { user: "u".to_string(), password: "p".to_string() });
    healthy(CheckKind::Tcp, lines(&[]));
    healthy(pop3(), lines(&["+OK hi\r\n"]));
    healthy(CheckKind::Pop3 { login: login.clone() }, lines(&["+OK hi\r\n", "+OK\r\n", "+OK\r\n"]));
    healthy(CheckKind::Imap { login }, lines(&["* OK hi\r\n", "* X\r\na1 OK\r\n"]));
    healthy(CheckKind::Smtp { helo: "lb".to_string() }, lines(&["220-w\r\n220 mx\r\n", "250 mx\r\n"]));
    healthy(http(false), lines(&["", "", "", "", "HTTP/1.1 200 OK\r\n\r\n"]));
}

#[test]
fn servers_that_refuse_talk_rubbish_or_leave_are_down_at_once() {
    assert_eq!(unhealthy(pop3(), lines(&["-ERR full\r\n"])), "greets with \"-ERR full\"");
    assert_eq!(unhealthy(pop3(), lines(&["SSH-2.0-x\r\n"])), "greets with \"SSH-2.0-x\"");
    assert_eq!(unhealthy(pop3(), drop), "closes the connection instead of the greeting");
    assert_eq!(unhealthy(pop3(), |mut s| s.write_all(b"+O").unwrap()), "closes the connection instead of the greeting");
    assert_eq!(unhealthy(http(false), lines(&["<html>\r\n"])), "answers something that is not HTTP: \"<html>\"");
    let flood = |mut stream: TcpStream| while stream.write_all(&[0; 4096]).is_ok() {};
    assert_eq!(unhealthy(pop3(), flood), "sent a line of more than 4096 bytes");
    assert!(unhealthy(http(true), lines(&["220 no TLS here\r\n"])).starts_with("TLS: "));
    // A status line, then fields without end.
    let fields = |mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"a: b\r\n").is_ok() {}
    };
    assert!(unhealthy(http(false), fields).starts_with("answers something"), "more than 128 fields");
}

#[test]
fn a_closed_port_is_down_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut world = World::new(vec![target("mail/a", 0, pop3(), address)]);
    world.settle();
    assert_eq!(world.error(), "connection refused");
    assert_eq!(world.report()[0].status, "down");
}

#[test]
fn a_server_that_resets_is_down_at_once() {
    let reset = |stream: TcpStream| socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    assert_eq!(unhealthy(pop3(), reset), "connection reset");
}

#[test]
fn a_silent_server_is_down_when_the_timeout_is_over_and_not_before() {
    for (kind, awaited) in [(pop3(), "greeting"), (http(true), "end of the TLS handshake")] {
        let (address, accepted) = serve(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
        let mut world = World::new(vec![target("mail/a", 0, kind, address)]);
        accepted.recv().unwrap();
        world.now += Duration::from_millis(999);
        world.turn(Duration::from_millis(50));
        assert!(!world.health.first_round_done());
        world.now += Duration::from_millis(1);
        world.health.tick(world.now);
        assert_eq!(world.error(), format!("no {awaited} within 1s"));
    }
}

#[test]
fn an_answer_that_waits_in_the_socket_counts_although_the_clock_has_jumped() {
    let (said, wait) = mpsc::channel();
    let (address, _accepted) = serve(move |mut stream| {
        stream.write_all(b"+OK\r\n").unwrap();
        said.send(()).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    });
    let mut world = World::new(vec![target("mail/a", 0, pop3(), address)]);
    wait.recv().unwrap();
    // As after SIGSTOP and SIGCONT, and with the loop calling tick first.
    world.now += Duration::from_secs(60);
    world.health.tick(world.now);
    assert_eq!(world.report()[0].status, "up");
}

#[test]
fn a_server_that_drips_is_read_to_the_end() {
    let drip = |mut stream: TcpStream| {
        stream.set_nodelay(true).unwrap();
        for byte in b"+OK one byte at a time\r\n" {
            stream.write_all(&[*byte]).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        drop(stream.read_to_end(&mut Vec::new()));
    };
    healthy(pop3(), drip);
}

#[test]
fn https_over_a_socket() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(&include_bytes!("testdata/short.der")[..])],
            PrivateKeyDer::try_from(&include_bytes!("testdata/server.key.der")[..]).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let (address, _accepted) = serve(move |stream| {
        let session = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        let _ = stream.read(&mut [0; 1000]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello");
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    let mut world = World::new(vec![target("web/a", 0, http(true), address)]);
    world.settle();
    assert_eq!((world.report()[0].status, world.error().as_str()), ("up", ""));
    assert_eq!(world.report()[0].certificate_expires, Some(1795270557));
}

#[test]
fn the_server_hears_quit_and_sees_an_orderly_end() {
    let (sender, heard) = mpsc::channel();
    let (address, _accepted) = serve(move |mut stream| {
        stream.write_all(b"+OK\r\n").unwrap();
        let mut line = [0; 6];
        stream.read_exact(&mut line).unwrap();
        let answered = stream.write_all(b"+OK bye\r\n").and_then(|()| stream.shutdown(Shutdown::Write));
        // An RST would make this an error.
        let end = stream.read(&mut [0]);
        sender.send((line, answered.is_ok(), end.map_err(|error| error.to_string()))).unwrap();
    });
    let mut world = World::new(vec![target("mail/a", 0, pop3(), address)]);
    world.until(|world| world.health.links.iter().all(Option::is_none));
    assert_eq!(heard.recv().unwrap(), (*b"QUIT\r\n", true, Ok(0)));
}

#[test]
fn a_server_that_does_not_close_is_left_after_a_moment() {
    let (sender, heard) = mpsc::channel();
    let (address, _accepted) = serve(move |mut stream| {
        stream.write_all(b"+OK\r\n").unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        sender.send(all).unwrap();
    });
    let mut patient = target("mail/a", 0, pop3(), address);
    patient.check.interval = Duration::from_secs(3600);
    let mut world = World::new(vec![patient]);
    world.settle();
    assert!(world.health.links[0].is_some());
    assert_eq!(world.health.next_deadline(), Some(world.now + PARTING));
    world.next();
    assert!(world.health.links[0].is_none());
    assert_eq!(heard.recv().unwrap(), b"QUIT\r\n");
}

#[test]
fn it_goes_down_and_comes_back_with_its_server() {
    let (address, _accepted) = serve(lines(&["+OK\r\n"]));
    let (dead, _accepted) = serve(lines(&["-ERR\r\n"]));
    let mut world = World::new(vec![target("mail/a", 7, pop3(), address)]);
    world.settle();
    // The port of the check decides where it goes, and the name and address who it is.
    let mut failing = target("mail/a", 7, pop3(), address);
    failing.check.port = Some(dead.port());
    world.health.set_targets(vec![failing], world.now);
    let mut probes = 0;
    while world.status.slot(7).is_up() {
        world.next();
        world.until(|world| !world.health.schedule.is_running(0));
        probes += 1;
        assert!(probes < 1000);
    }
    assert_eq!(world.error(), "greets with \"-ERR\"");
    world.health.set_targets(vec![target("mail/a", 7, pop3(), address)], world.now);
    while !world.status.slot(7).is_up() {
        world.next();
        world.until(|world| !world.health.schedule.is_running(0));
        probes += 1;
        assert!(probes < 1000);
    }
    let told: Vec<_> = world.health.transitions().into_iter().map(|t| (t.slot, t.up, t.reason)).collect();
    let passes = "passes its POP3 check".to_string();
    assert_eq!(told, [(7, true, passes.clone()), (7, false, "greets with \"-ERR\"".to_string()), (7, true, passes)]);
}

#[test]
fn a_target_that_goes_in_mid_probe_is_left_alone() {
    let (address, accepted) = serve(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let mut world = World::new(vec![target("mail/a", 0, pop3(), address)]);
    accepted.recv().unwrap();
    world.health.set_targets(Vec::new(), world.now);
    assert!(world.health.first_round_done());
    world.turn(Duration::from_millis(20));
    assert!(world.health.transitions().is_empty() && world.report().is_empty());
}

#[test]
fn probes_come_from_the_source_that_is_asked_for() {
    let (sender, peers) = mpsc::channel();
    let (address, _accepted) = serve(move |stream| sender.send(stream.peer_addr().unwrap().ip()).unwrap());
    let mut bound = target("mail/a", 0, CheckKind::Tcp, address);
    bound.source = Some("127.0.0.7:0".parse().unwrap());
    bound.device = Some("lo".to_string());
    let mut world = World::new(vec![bound.clone()]);
    world.settle();
    assert_eq!(peers.recv().unwrap(), bound.source.unwrap().ip());
    bound.source = Some("192.0.2.77:0".parse().unwrap());
    let mut world = World::new(vec![bound]);
    world.settle();
    assert!(world.error().contains("assign requested address"), "{}", world.error());
}

fn dns_target(address: SocketAddr) -> Target {
    let kind = CheckKind::Dns { name: "mail.example.".to_string() };
    Target { protocol: Protocol::Udp, ..target("dns/a", 0, kind, address) }
}

#[test]
fn dns_over_udp() {
    let server = UdpSocket::bind("[::1]:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = server.recv_from(&mut query) {
            // Nothing, rubbish, the query itself, then the answer.
            for rubbish in [&b""[..], b"\xff\xff\xff", &query[..length]] {
                server.send_to(rubbish, from).unwrap();
            }
            query[2] |= 0x80;
            server.send_to(&query[..length], from).unwrap();
        }
    });
    let mut world = World::new(vec![dns_target(address)]);
    world.settle();
    assert_eq!((world.report()[0].status, world.error().as_str()), ("up", ""));
}

#[test]
fn dns_over_udp_to_nobody() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut silent = World::new(vec![dns_target(server.local_addr().unwrap())]);
    silent.now += Duration::from_secs(1);
    silent.health.tick(silent.now);
    assert_eq!(silent.error(), "no answer to the query within 1s");

    let address = server.local_addr().unwrap();
    drop((server, silent));
    let mut world = World::new(vec![dns_target(address)]);
    world.settle();
    assert_eq!(world.error(), "connection refused");
}

#[test]
fn a_name_that_cannot_be_asked_for_is_down_and_says_why() {
    let kind = CheckKind::Dns { name: "a..b".to_string() };
    let mut world = World::new(vec![target("dns/a", 0, kind, "127.0.0.1:9".parse().unwrap())]);
    world.settle();
    assert!(world.error().starts_with("can't ask for the name \"a..b\""));
}

/// Needs CAP_NET_RAW, or a group that net.ipv4.ping_group_range names: then it has to work, else it has to say why.
#[test]
fn ping() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut world = World::new(vec![target("any/a", 0, CheckKind::Icmp, address.parse().unwrap())]);
        world.settle();
        let report = world.report().remove(0);
        if report.status != "up" {
            assert!(world.error().starts_with("Operation not permitted"), "{}", world.error());
            eprintln!("no right to ping {address}: the answer was not tested");
        }
    }
}

#[test]
fn a_hundred_servers_at_once() {
    let (address, _accepted) = serve(lines(&["+OK\r\n"]));
    let targets = (0..100).map(|i| target(&format!("mail/{i}"), i, pop3(), address)).collect();
    let mut world = World::new(targets);
    world.settle();
    assert!((0..100).all(|slot| world.status.slot(slot).is_up()));
    for _ in 0..300 {
        world.next();
        world.turn(Duration::ZERO);
    }
    assert!(world.health.links.len() <= 100);
}

#[test]
fn only_what_the_target_did_is_held_against_it() {
    let outcome = |code| link::failure(&io::Error::from_raw_os_error(code));
    for ours in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        assert!(matches!(outcome(ours), Outcome::Unasked(reason) if reason.starts_with("can't check: ")));
    }
    assert_eq!(outcome(libc::EHOSTUNREACH), Outcome::Unhealthy("host unreachable".to_string()));
    assert_eq!(outcome(libc::ETIMEDOUT), Outcome::Unhealthy("no answer from the host".to_string()));
}

#[test]
fn tokens_of_others_are_not_taken() {
    let mut world = World::new(Vec::new());
    assert!(!world.health.ready(BASE - 1, world.now));
    assert!(!world.health.ready(BASE + TOKENS, world.now));
    assert!(world.health.ready(BASE + 17, world.now), "a late event of a link that is gone");
    assert_eq!(world.health.next_deadline(), None);
}

#[test]
fn a_checks_connection_measures_a_server_that_answers_clients_by_itself() {
    let (address, _) = serve(lines(&["+OK\r\n", "+OK\r\n"]));
    for one_sided in [false, true] {
        let mut world = World::new(Vec::new());
        world.status.slot(5).set_one_sided(one_sided);
        world.health.set_targets(vec![target("pop3/a", 5, pop3(), address)], world.now);
        world.health.tick(world.now);
        world.settle();
        let measured = world.status.slot(5).connect_us.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(measured > 0, one_sided, "clients' own connections tell better where they can be seen");
    }
}
