//! Framing, pipelining, and clients that are slow, silent or many. The zone is a small one, the server a thread of the test's.

use super::*;
use crate::dns::serve::Served;
use crate::dns::serve::sign::Keys;
use crate::dns::{Name, Settings, Snapshot, Zone, master};
use std::io::{Read, Write};
use std::net::TcpStream as Client;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::thread::JoinHandle;

const ZONE: &[u8] = b"$TTL 60\n@ SOA ns1 h 1 1h 1h 1h 60\n@ NS ns1\nns1 A 192.0.2.1\nwww A 192.0.2.80\n";

struct Lab {
    address: SocketAddr,
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Lab {
    fn new(bounds: Bounds) -> Lab {
        let origin = Name::parse("company.example.").unwrap();
        let contents = master::load(&origin, Path::new("z"), &[], &mut |_| Ok(ZONE.to_vec())).unwrap();
        let zone = Arc::new(Zone::new(Arc::new(contents), &[], 7, 0));
        let access = crate::dns::serve::Access { secondaries: vec![[127, 0, 0, 1].into()], key: None };
        let served = Served {
            snapshot: Snapshot::new(vec![zone.clone()], Arc::new(Settings::default())),
            transfers: vec![crate::dns::serve::Transfers { versions: vec![zone], access }],
            keys: Keys::default(),
        };
        let shared = Arc::new(Shared::new(served, 0));
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(vec![listener], bounds, shared.clone()).unwrap();
        let waker = server.waker();
        let thread = Some(std::thread::spawn(move || server.run().unwrap()));
        Lab { address, shared, waker, thread }
    }

    fn connect(&self) -> Client {
        let client = Client::connect(self.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.waker.wake().unwrap();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn bounds() -> Bounds {
    Bounds { max_connections: 100, max_per_client: 100, idle: Duration::from_secs(20) }
}

/// A question for www.company.example, with its length before it.
fn question(id: u16, rtype: u16) -> Vec<u8> {
    let mut message = vec![0, 0];
    for word in [id, 0, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    let name: &[u8] = if rtype == 252 { b"\x07company\x07example\0" } else { b"\x03www\x07company\x07example\0" };
    message.extend_from_slice(name);
    for word in [rtype, 1] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    let length = message.len() as u16 - 2;
    message[..2].copy_from_slice(&length.to_be_bytes());
    message
}

fn answer(client: &mut Client) -> Vec<u8> {
    let mut length = [0; 2];
    client.read_exact(&mut length).unwrap();
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    client.read_exact(&mut message).unwrap();
    message
}

fn id(answer: &[u8]) -> u16 {
    u16::from_be_bytes([answer[0], answer[1]])
}

/// Nothing more comes.
fn is_closed(client: &mut Client) -> bool {
    matches!(client.read(&mut [0; 1]), Ok(0))
        || client.take_error().ok().flatten().is_some()
        || matches!(client.read(&mut [0; 1]), Err(why) if why.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn many_questions_at_once_in_any_pieces() {
    let lab = Lab::new(bounds());
    let mut client = lab.connect();
    let all: Vec<u8> = (0..500).flat_map(|id| question(id, 1)).collect();
    for piece in all.chunks(7919) {
        client.write_all(piece).unwrap();
    }
    for expected in 0..500 {
        let answer = answer(&mut client);
        assert_eq!((id(&answer), answer[3] & 0xf, answer[7]), (expected, 0, 1));
    }
    let one = question(7, 1);
    for byte in &one {
        client.write_all(&[*byte]).unwrap();
    }
    assert_eq!(id(&answer(&mut client)), 7);
}

#[test]
fn who_has_sent_all_is_answered_before_the_end() {
    let lab = Lab::new(bounds());
    let mut client = lab.connect();
    client.write_all(&[question(1, 1), question(2, 1)].concat()).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!([id(&answer(&mut client)), id(&answer(&mut client))], [1, 2]);
    assert!(is_closed(&mut client));
}

/// One that asks and does not read stops being read from; it harms nobody else and is ended when it has been so for too long.
#[test]
fn a_client_that_takes_nothing_holds_nobody_up() {
    let lab = Lab::new(Bounds { idle: Duration::from_secs(2), ..bounds() });
    let mut greedy = lab.connect();
    greedy.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let questions: Vec<u8> = (0..1000).flat_map(|id| question(id, 1)).collect();
    let ended = loop {
        if let Err(why) = greedy.write_all(&questions) {
            break why;
        }
        let mut other = lab.connect();
        other.write_all(&question(9, 1)).unwrap();
        assert_eq!(id(&answer(&mut other)), 9);
    };
    assert!(matches!(ended.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{ended}");
}

#[test]
fn silence_ends_and_so_does_a_question_in_drops() {
    let lab = Lab::new(Bounds { idle: Duration::from_millis(600), ..bounds() });
    let (mut silent, mut slow, mut lively) = (lab.connect(), lab.connect(), lab.connect());
    let began = Instant::now();
    let mut drops = question(1, 1).into_iter().take(20);
    while began.elapsed() < Duration::from_millis(1800) {
        let _ = drops.next().map(|byte| slow.write_all(&[byte]));
        lively.write_all(&question(3, 1)).unwrap();
        assert_eq!(id(&answer(&mut lively)), 3);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(is_closed(&mut silent) && is_closed(&mut slow));
}

#[test]
fn one_client_has_only_so_many_connections() {
    let lab = Lab::new(Bounds { max_per_client: 3, ..bounds() });
    let mut clients: Vec<Client> = (0..3).map(|_| lab.connect()).collect();
    for client in &mut clients {
        client.write_all(&question(1, 1)).unwrap();
        answer(client);
    }
    assert!(is_closed(&mut lab.connect()));
    assert_eq!(lab.shared.tcp.refused.load(Relaxed), 1);
    drop(clients.pop());
    // Its place is free as soon as its end has been seen.
    while lab.shared.tcp.open.load(Relaxed) == 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut again = lab.connect();
    again.write_all(&question(2, 1)).unwrap();
    assert_eq!(id(&answer(&mut again)), 2);
}

#[test]
fn when_all_places_are_taken_the_most_silent_goes() {
    let lab = Lab::new(Bounds { max_connections: 3, ..bounds() });
    let mut clients = Vec::new();
    for n in 0..3 {
        let mut client = lab.connect();
        client.write_all(&question(n, 1)).unwrap();
        answer(&mut client);
        clients.push(client);
        std::thread::sleep(Duration::from_millis(20));
    }
    // The first has moved since it came, so the second is the most silent.
    clients[0].write_all(&question(9, 1)).unwrap();
    answer(&mut clients[0]);
    let mut fourth = lab.connect();
    fourth.write_all(&question(4, 1)).unwrap();
    assert_eq!(id(&answer(&mut fourth)), 4);
    assert!(is_closed(&mut clients[1]));
    clients[0].write_all(&question(10, 1)).unwrap();
    assert_eq!(id(&answer(&mut clients[0])), 10);
    assert_eq!(lab.shared.tcp.evicted.load(Relaxed), 1);
}

#[test]
fn a_zone_goes_out_and_questions_after_it_are_answered() {
    let lab = Lab::new(bounds());
    let mut client = lab.connect();
    client.write_all(&[question(5, 252), question(6, 1)].concat()).unwrap();
    let zone = answer(&mut client);
    // SOA, NS, two addresses, SOA.
    assert_eq!((id(&zone), zone[3] & 0xf, u16::from_be_bytes([zone[6], zone[7]])), (5, 0, 5));
    assert_eq!(id(&answer(&mut client)), 6);
}

#[test]
fn rubbish_and_empty_messages_end_nothing_but_themselves() {
    let lab = Lab::new(bounds());
    let mut client = lab.connect();
    client.write_all(&[0, 0, 0, 1, 7, 0, 3, 1, 2, 3]).unwrap();
    client.write_all(&question(8, 1)).unwrap();
    assert_eq!(id(&answer(&mut client)), 8);
}

/// Some are silent, some have stopped amid a question; everybody else is served.
#[test]
fn thousands_of_slow_clients_hold_nobody_up() {
    const CLIENTS: usize = 3000;
    crate::sys::pin::raise_open_files();
    let lab = Lab::new(Bounds { max_connections: 10_000, max_per_client: 10_000, idle: Duration::from_secs(60) });
    let mut slow: Vec<Client> = (0..CLIENTS).map(|_| lab.connect()).collect();
    for (n, client) in slow.iter_mut().enumerate() {
        client.write_all(&question(1, 1)[..n % 20]).unwrap();
    }
    let mut quick = lab.connect();
    for n in 0..100 {
        quick.write_all(&question(n, 1)).unwrap();
        assert_eq!(id(&answer(&mut quick)), n);
    }
    assert_eq!(lab.shared.tcp.open.load(Relaxed), CLIENTS as u64 + 1);
    // Who goes on after all is answered.
    for (n, client) in slow.iter_mut().enumerate().step_by(100) {
        client.write_all(&question(1, 1)[n % 20..]).unwrap();
        assert_eq!(id(&answer(client)), 1);
    }
}
