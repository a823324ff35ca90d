//! Both ends over real sockets, in a directory of each test's own. The loop and its clock are the test's.

use super::rows::{TargetRow, What};
use super::*;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

const BASE: usize = 1000;

/// A directory that goes with the test.
struct Room(PathBuf);

impl Room {
    fn new() -> Room {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("farside-admin-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Room(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("farside.sock")
    }

    fn open(&self) -> Result<Admin, String> {
        Admin::open(&config::Admin { socket: self.socket(), metrics: None })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Knows `flows` flows; every tenth call tells none of them.
struct Oracle {
    flows: usize,
    calls: usize,
    said: Vec<String>,
}

impl Answers for Oracle {
    fn services(&mut self) -> Vec<ServiceRow> {
        let target = TargetRow {
            target: "pop3/pop-a".into(),
            kind: "real".into(),
            address: "10.0.0.11:110".into(),
            status: "up".into(),
            weight: 1,
            priority: None,
            active: 1,
            max_connections: 0,
            backup: false,
            total: 2,
        };
        vec![ServiceRow {
            service: "pop3".into(),
            vip: "203.0.113.10".into(),
            port: 110,
            protocol: "tcp".into(),
            mode: "nat".into(),
            scheduler: "maglev".into(),
            active: 1,
            max_connections: 0,
            persistence_s: 0.0,
            total: 2,
            targets: vec![target],
        }]
    }

    fn flows(&mut self, cursor: usize, max: usize) -> (Vec<FlowRow>, Option<usize>) {
        self.calls += 1;
        if self.calls.is_multiple_of(10) {
            return (Vec::new(), Some(cursor));
        }
        let end = (cursor + max).min(self.flows);
        let flow = |n| FlowRow {
            service: "pop3".into(),
            protocol: "tcp".into(),
            client: format!("192.0.2.1:{n}"),
            vip: "203.0.113.10:110".into(),
            target: "10.0.0.11:110".into(),
            mode: "nat".into(),
            local: None,
            state: "established".into(),
            age_s: 1,
            idle_s: 0,
            client_packets: n as u64,
            client_bytes: 0,
            server_packets: 0,
            server_bytes: 0,
            worker: 0,
        };
        ((cursor..end).map(flow).collect(), Some(end).filter(|end| *end < self.flows))
    }

    fn sites(&mut self) -> Vec<SiteRow> {
        vec![SiteRow::new("south", "own")]
    }

    fn health(&mut self) -> Vec<HealthRow> {
        Vec::new()
    }

    fn counters(&mut self) -> BTreeMap<String, u64> {
        BTreeMap::from([("drop_no_flow".to_string(), 7)])
    }

    fn workers(&mut self) -> Vec<WorkerRow> {
        let counts = BTreeMap::from([("frames".to_string(), 9)]);
        vec![WorkerRow { worker: 0, cpu: Some(1), backend: Some("af_packet".into()), counts }]
    }

    fn dns(&mut self) -> DnsRows {
        DnsRows::default()
    }

    fn explain(&mut self, wish: &Wish) -> Result<ExplainRow, String> {
        Err(format!("{} is nobody's", wish.name))
    }

    fn reload(&mut self) -> Result<String, String> {
        self.said.push("reload".into());
        Err("error: no\n --> f:1:1".into())
    }

    fn drain(&mut self, target: &str, on: bool) -> Result<String, String> {
        self.said.push(format!("{target} {on}"));
        Ok(format!("{target} drains"))
    }

    fn metrics(&mut self) -> String {
        "farside_up 1\n".repeat(self.flows.max(1))
    }
}

struct Loop {
    poll: mio::Poll,
    admin: Admin,
    oracle: Oracle,
    /// Added to the clock.
    later: Duration,
}

impl Loop {
    fn new(mut admin: Admin, flows: usize) -> Loop {
        let poll = mio::Poll::new().unwrap();
        admin.register(poll.registry(), BASE).unwrap();
        Loop { poll, admin, oracle: Oracle { flows, calls: 0, said: Vec::new() }, later: Duration::ZERO }
    }

    fn now(&self) -> Instant {
        Instant::now() + self.later
    }

    fn turn(&mut self) {
        let mut events = mio::Events::with_capacity(64);
        let now = self.now();
        let due = self.admin.next_deadline().map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
        self.poll.poll(&mut events, Some(due.min(Duration::from_millis(5)))).unwrap();
        for event in &events {
            let now = self.now();
            assert!(self.admin.ready(event.token().0, now, &mut self.oracle));
        }
        let now = self.now();
        self.admin.tick(now, &mut self.oracle);
    }

    /// Turns until `client`, which runs beside it, is done.
    fn serve<T: Send + 'static>(&mut self, client: impl FnOnce() -> T + Send + 'static) -> T {
        let client = thread::spawn(client);
        while !client.is_finished() {
            self.turn();
        }
        client.join().unwrap()
    }

    fn turn_until(&mut self, done: impl Fn(&Loop) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < end, "it never came");
            self.turn();
        }
    }

    fn sessions(&self) -> usize {
        self.admin.sessions.iter().flatten().count()
    }
}

fn all(socket: &Path, what: What) -> Result<String, String> {
    let mut out = Vec::new();
    let mut asked = client::show(socket, what)?;
    let mut printer = text::Printer::new(what, true);
    loop {
        let piece = asked.piece()?;
        let more = piece.is_some();
        printer.print(&mut out, piece).unwrap();
        if !more {
            return Ok(String::from_utf8(out).unwrap());
        }
    }
}

#[test]
fn the_commands_are_answered() {
    let room = Room::new();
    let mut turns = Loop::new(room.open().unwrap(), 3);
    let socket = room.socket();
    let (flows, counters, workers, services, drained, undrained, reloaded) = turns.serve(move || {
        (
            all(&socket, What::Flows).unwrap(),
            all(&socket, What::Counters).unwrap(),
            all(&socket, What::Workers).unwrap(),
            all(&socket, What::Services).unwrap(),
            client::drain(&socket, "pop3/pop-a", true),
            client::drain(&socket, "pop3/pop-a", false),
            client::reload(&socket),
        )
    });
    let flows: Vec<FlowRow> = serde_json::from_str(&flows).unwrap();
    assert_eq!(flows.iter().map(|flow| flow.client_packets).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(counters, "{\n  \"drop_no_flow\": 7\n}\n");
    let workers: serde_json::Value = serde_json::from_str(&workers).unwrap();
    assert_eq!(workers, serde_json::json!([{"worker": 0, "cpu": 1, "backend": "af_packet", "frames": 9}]));
    assert!(services.contains("\"pop3/pop-a\""));
    assert_eq!(drained, Ok("pop3/pop-a drains".to_string()));
    assert_eq!(undrained, drained);
    assert_eq!(reloaded, Err("error: no\n --> f:1:1".to_string()));
    assert_eq!(turns.oracle.said, ["pop3/pop-a true", "pop3/pop-a false", "reload"]);
    turns.turn_until(|turns| turns.sessions() == 0);
}

#[test]
fn many_flows_come_in_bounded_pieces_while_others_are_served() {
    let room = Room::new();
    let mut turns = Loop::new(room.open().unwrap(), 20_000);
    // This one asks and never takes the answer.
    let mut still = UnixStream::connect(room.socket()).unwrap();
    still.write_all(b"{\"cmd\":\"show\",\"what\":\"flows\"}\n").unwrap();
    let socket = room.socket();
    let text = turns.serve(move || all(&socket, What::Flows).unwrap());
    let flows: Vec<FlowRow> = serde_json::from_str(&text).unwrap();
    assert!(flows.iter().enumerate().all(|(n, flow)| flow.client_packets == n as u64));
    assert_eq!(flows.len(), 20_000);
    turns.turn_until(|turns| turns.sessions() == 1);
    // The still one holds one piece of its reply, not all of it, and goes when its time is over.
    turns.later = Duration::from_secs(1801);
    turns.turn_until(|turns| turns.sessions() == 0);
}

#[test]
fn the_file_is_roots_alone_and_goes_when_farside_stops() {
    let room = Room::new();
    let admin = room.open().unwrap();
    assert_eq!(fs::metadata(room.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    drop(admin);
    assert_eq!(fs::read_dir(&room.0).unwrap().count(), 0);
}

#[test]
fn a_missing_directory_is_made() {
    let room = Room::new();
    let socket = room.0.join("a/b/farside.sock");
    let _admin = Admin::open(&config::Admin { socket: socket.clone(), metrics: None }).unwrap();
    assert!(socket.exists());
}

#[test]
fn a_dead_socket_is_taken_over_and_a_live_one_is_not() {
    let room = Room::new();
    // Dropping a listener closes it and leaves its file, as a kill does.
    drop(UnixListener::bind(room.socket()).unwrap());
    assert!(UnixStream::connect(room.socket()).is_err());
    let first = room.open().unwrap();
    let second = room.open().err().unwrap();
    assert_eq!(second, format!("another farside is running: its admin socket {} answers", room.socket().display()));
    drop(first);
    room.open().unwrap();
}

#[test]
fn of_many_that_start_at_once_one_gets_the_socket() {
    let room = Room::new();
    drop(UnixListener::bind(room.socket()).unwrap());
    let opened = thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| room.open())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), 1);
}

#[test]
fn what_is_in_the_way_stays() {
    let room = Room::new();
    fs::write(room.socket(), "precious").unwrap();
    let error = room.open().err().unwrap();
    assert_eq!(
        error,
        format!("{} is in the way of the admin socket: it is a file of another kind", room.socket().display())
    );
    assert_eq!(fs::read(room.socket()).unwrap(), b"precious");
    let below = Admin::open(&config::Admin { socket: room.socket().join("x"), metrics: None }).err().unwrap();
    assert!(below.starts_with("cannot make the directory"), "{below}");
}

#[test]
fn a_socket_put_in_its_place_later_is_not_removed() {
    let room = Room::new();
    let admin = room.open().unwrap();
    fs::remove_file(room.socket()).unwrap();
    let _other = UnixListener::bind(room.socket()).unwrap();
    drop(admin);
    assert!(room.socket().exists());
}

#[test]
fn a_client_without_farside_gets_a_sentence() {
    let room = Room::new();
    let socket = room.socket();
    assert_eq!(client::reload(&socket), Err(format!("no farside is running: there is no socket {}", socket.display())));
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(client::reload(&socket), Err(format!("no farside is running: nobody answers at {}", socket.display())));
    let listener = UnixListener::bind(room.0.join("rude")).unwrap();
    let rude = thread::spawn(move || drop(listener.accept().unwrap()));
    let error = client::reload(&room.0.join("rude")).unwrap_err();
    assert!(error.contains("broke off") || error.contains("cannot ask"), "{error}");
    rude.join().unwrap();
}

#[test]
fn rubbish_is_refused() {
    let room = Room::new();
    let mut turns = Loop::new(room.open().unwrap(), 0);
    let requests: [Vec<u8>; 6] = [
        b"\n".to_vec(),
        b"\xff\xfe\0\n".to_vec(),
        b"{\"cmd\":\"explode\"}\n".to_vec(),
        b"{\"cmd\":\"show\",\"what\":\"passwords\"}\n".to_vec(),
        vec![b'['; 100_000],
        [vec![b'['; 8000], b"\n".to_vec()].concat(),
    ];
    for request in requests {
        let socket = room.socket();
        let answer = turns.serve(move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            let _ = stream.write_all(&request);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        });
        assert!(answer.starts_with("{\"error\":\"the request "), "{answer}");
    }
    // One that goes away at once, amid its request, and one that closes its end having asked.
    let socket = room.socket();
    let answer = turns.serve(move || {
        drop(UnixStream::connect(&socket).unwrap());
        UnixStream::connect(&socket).unwrap().write_all(b"{\"cmd\"").unwrap();
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(b"{\"cmd\":\"show\",\"what\":\"counters\"}\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(answer, "{\"ok\":{\"drop_no_flow\":7}}\n");
    turns.turn_until(|turns| turns.sessions() == 0);
}

#[test]
fn silent_clients_go_when_a_new_one_comes_or_their_time_is_over() {
    let room = Room::new();
    let mut turns = Loop::new(room.open().unwrap(), 0);
    let silent: Vec<_> = (0..CLIENTS + 5).map(|_| UnixStream::connect(room.socket()).unwrap()).collect();
    turns.turn_until(|turns| turns.sessions() == CLIENTS);
    let socket = room.socket();
    assert!(turns.serve(move || all(&socket, What::Counters)).is_ok());
    turns.later = Duration::from_secs(61);
    turns.turn_until(|turns| turns.sessions() == 0);
    drop(silent);
}

fn http(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(request);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn prometheus_is_served_and_nothing_else() {
    let room = Room::new();
    let metrics = Some("127.0.0.1:0".parse().unwrap());
    let admin = Admin::open(&config::Admin { socket: room.socket(), metrics }).unwrap();
    let address = admin.metrics_address().unwrap();
    let mut turns = Loop::new(admin, 200_000);
    let mut ask = |request: &[u8]| {
        let request = request.to_vec();
        turns.serve(move || http(address, &request))
    };
    let answer = ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    assert_eq!(body.len(), 200_000 * "farside_up 1\n".len());
    assert!(ask(b"GET /metrics?x=1 HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 "));
    assert!(ask(b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask(b"POST /metrics HTTP/1.1\r\n\r\n").contains("\r\nAllow: GET\r\n"));
    assert!(ask(b"\x16\x03\x01\x00\x01 tls\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(
        ask(&[b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 100_000]].concat()).starts_with("HTTP/1.1 431 ")
    );
    // Silent ones, more than there is room for: the next is served all the same, and they go after five seconds.
    let silent: Vec<_> = (0..SCRAPERS + 8).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(ask(b"GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
    turns.later = Duration::from_secs(6);
    turns.turn_until(|turns| turns.sessions() == 0);
    drop(silent);
}

#[test]
fn an_address_that_is_taken_is_a_sentence() {
    let room = Room::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let error = Admin::open(&config::Admin { socket: room.socket(), metrics: Some(taken) }).err().unwrap();
    assert_eq!(error, format!("cannot listen for metrics on {taken}: Address already in use"));
    assert!(!room.socket().exists());
    drop(other);
}
