//! Who answers pings by hand: late, in part, or as from far away, to each who asks as the test wants. The kernel's own answers are
//! switched off.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::namespace::Namespace;

/// How somebody's pings are answered.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub after: Duration,
    /// Of each so many one is not answered; 0: all are.
    pub loses: u32,
    /// What the answer has to live when it leaves.
    pub ttl: u32,
}

struct Shared {
    /// Who is not here gets no answer.
    manners: Mutex<HashMap<IpAddr, Manner>>,
    /// Pings that came, by who sent them.
    came: Mutex<HashMap<IpAddr, u32>>,
    stop: AtomicBool,
}

/// At some addresses of one machine, until dropped.
pub struct Echo {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    pub fn start(machine: &Namespace, addresses: &[IpAddr]) -> Echo {
        machine.sysctl("net/ipv4/icmp_echo_ignore_all", "1");
        machine.sysctl("net/ipv6/icmp/echo_ignore_all", "1");
        let shared =
            Arc::new(Shared { manners: Mutex::default(), came: Mutex::default(), stop: AtomicBool::new(false) });
        let answer = |address: &IpAddr| {
            let socket = machine.inside(|| open(*address));
            let shared = shared.clone();
            machine.thread(move || shared.answer(&socket))
        };
        let threads = addresses.iter().map(answer).collect();
        Echo { shared, threads }
    }

    /// From now on; None: not at all.
    pub fn set(&self, from: IpAddr, manner: Option<Manner>) {
        let mut manners = self.shared.manners.lock().expect("the manners");
        match manner {
            Some(manner) => _ = manners.insert(from, manner),
            None => _ = manners.remove(&from),
        }
    }

    /// So many pings have come from there.
    pub fn came(&self, from: IpAddr) -> u32 {
        self.shared.came.lock().expect("the counts").get(&from).copied().unwrap_or(0)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The standard library's type, which knows how to receive into plain memory.
fn open(address: IpAddr) -> UdpSocket {
    let (domain, protocol) =
        if address.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).expect("a raw socket");
    socket.bind(&SockAddr::from(SocketAddr::new(address, 0))).expect("the address");
    socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    socket.into()
}

impl Shared {
    fn answer(&self, socket: &UdpSocket) {
        let mut late: Vec<(Instant, IpAddr, u32, Vec<u8>)> = Vec::new();
        let mut buffer = [0; 2048];
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                self.take(from.ip(), &buffer[..length], &mut late);
            }
            let now = Instant::now();
            for (_, to, ttl, message) in late.extract_if(.., |(at, ..)| *at <= now) {
                let options = SockRef::from(socket);
                match to {
                    IpAddr::V4(_) => options.set_ttl_v4(ttl).expect("a TTL"),
                    IpAddr::V6(_) => options.set_unicast_hops_v6(ttl).expect("a hop limit"),
                }
                let _ = socket.send_to(&message, SocketAddr::new(to, 0));
            }
        }
    }

    fn take(&self, from: IpAddr, packet: &[u8], late: &mut Vec<(Instant, IpAddr, u32, Vec<u8>)>) {
        let header = if from.is_ipv4() { usize::from(packet[0] & 0xf) * 4 } else { 0 };
        let (request, reply) = if from.is_ipv4() { (8, 0) } else { (128, 129) };
        let mut message = packet[header..].to_vec();
        if message.first() != Some(&request) {
            return;
        }
        let count = {
            let mut came = self.came.lock().expect("the counts");
            let count = came.entry(from).or_insert(0);
            *count += 1;
            *count
        };
        let Some(manner) = self.manners.lock().expect("the manners").get(&from).copied() else { return };
        if manner.loses > 0 && count.is_multiple_of(manner.loses) {
            return;
        }
        message[0] = reply;
        if from.is_ipv4() {
            message[2..4].fill(0);
            let sum: u32 =
                message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let sum = !((folded & 0xffff) + (folded >> 16)) as u16;
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        late.push((Instant::now() + manner.after, from, manner.ttl, message));
    }
}
