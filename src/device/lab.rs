//! Devices on real interfaces, in network namespaces. Needs root.
//!
//! client c0 -- h0 host h1 -- s0 server; the host forwards. The client is 10.1.0.2, the host 10.1.0.1 and 10.2.0.1,
//! the server 10.2.0.2; the VIP 10.1.0.100 belongs to no machine.

use super::{BATCH, Device, Span};
use crate::sys::bpf::{Programs, Sizes};
use crate::sys::testing::{Namespace, cable};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub(super) const VIP: &str = "10.1.0.100:110";

pub(super) struct Site {
    pub client: Namespace,
    pub host: Namespace,
    pub server: Namespace,
}

pub(super) fn site() -> Site {
    let site = Site { client: Namespace::new("c"), host: Namespace::new("h"), server: Namespace::new("s") };
    cable((&site.client, "c0"), (&site.host, "h0"));
    cable((&site.server, "s0"), (&site.host, "h1"));
    site.host.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.all.send_redirects=0");
    site.host.ip("addr add 10.1.0.1/24 dev h0");
    site.host.ip("addr add 10.2.0.1/24 dev h1");
    site.client.ip("addr add 10.1.0.2/24 dev c0");
    site.client.ip("route add default via 10.1.0.1");
    site.server.ip("addr add 10.2.0.2/24 dev s0");
    site.server.ip("route add default via 10.2.0.1");
    site.client.ip(&format!("neigh add 10.1.0.100 lladdr {} dev c0 nud permanent", site.host.mac("h0")));
    site
}

pub(super) fn programs(workers: u32) -> Programs {
    let sizes = Sizes { flow_buckets: 1, max_flows: 1, workers };
    let mut programs = Programs::load((3, 4), &sizes, 0, 1).unwrap();
    let vip = "10.1.0.100".parse().unwrap();
    programs.set_services(&[(vip, 110, 6), (vip, 110, 17)]).unwrap();
    programs
}

/// All frames that come by any port within a while, with their ports.
pub(super) fn receive_all(device: &mut impl Device, while_: Duration) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    let end = Instant::now() + while_;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        for port in 0..device.ports() {
            for i in 0..device.receive(port, BATCH) {
                let frame = device.frame(i);
                frames.push((frame.port, frame.buf[frame.start..][..frame.len].to_vec()));
            }
            device.flush();
        }
        device.wait(left);
    }
    frames
}

pub(super) const WHILE: Duration = Duration::from_millis(300);

pub(super) fn ip_in_receives(host: &Namespace) -> u64 {
    let text = host.sh("grep ^Ip: /proc/net/snmp | tail -1");
    text.split_whitespace().nth(3).unwrap().parse().unwrap()
}

pub(super) fn udp_to(from: &Namespace, to: &str, count: u16, len: usize) {
    from.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        // A test beside this one that starts a program holds a copy of the last call's socket until the program runs.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], 4000)).into()).unwrap();
        let socket = UdpSocket::from(socket);
        for i in 0..count {
            socket.send_to(&vec![i as u8; len], to).unwrap();
        }
    });
}

/// Sends what comes by one port out by the other, to the machine there, until told to stop.
pub(super) fn pass_on(device: &mut impl Device, macs: [[u8; 6]; 2], stop: &AtomicBool, passed: &AtomicU64) {
    while !stop.load(Relaxed) {
        for port in 0..2 {
            let count = device.receive(port, BATCH);
            for i in 0..count {
                let frame = device.frame(i);
                frame.buf[frame.start..][..6].copy_from_slice(&macs[1 - port]);
                let span = Span { start: frame.start, len: frame.len, offload: frame.offload };
                device.send(i, span, 1 - port);
            }
            device.flush();
            passed.fetch_add(count as u64, Relaxed);
        }
        device.wait(Duration::from_millis(50));
    }
}

pub(super) fn mac(text: &str) -> [u8; 6] {
    std::array::from_fn(|i| u8::from_str_radix(&text[3 * i..3 * i + 2], 16).unwrap())
}

pub(super) fn pattern(i: u64) -> [u8; 8] {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
}

/// Downloads `words` of the pattern from the VIP; the reader starts late, so that much waits in its queue.
pub(super) fn download(site: &Site, words: u64) {
    let listener = site.server.run(|| TcpListener::bind(VIP).unwrap());
    let sender = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = std::io::BufWriter::with_capacity(1 << 18, stream);
        (0..words).for_each(|i| stream.write_all(&pattern(i)).unwrap());
        stream.flush().unwrap();
    });
    let mut stream =
        site.client.run(|| TcpStream::connect_timeout(&VIP.parse().unwrap(), Duration::from_secs(5)).unwrap());
    std::thread::sleep(Duration::from_millis(100));
    let mut stream = std::io::BufReader::with_capacity(1 << 18, &mut stream);
    for i in 0..words {
        let mut word = [0; 8];
        stream.read_exact(&mut word).unwrap();
        assert_eq!(word, pattern(i), "word {i}");
    }
    sender.join().unwrap();
}

pub(super) fn while_passing_on<D: Device + Send>(
    devices: Vec<D>,
    macs: [[u8; 6]; 2],
    f: impl FnOnce(),
) -> (Vec<D>, Vec<u64>) {
    let stop = AtomicBool::new(false);
    let passed: Vec<AtomicU64> = devices.iter().map(|_| AtomicU64::new(0)).collect();
    let devices = std::thread::scope(|scope| {
        let threads: Vec<_> = devices
            .into_iter()
            .zip(&passed)
            .map(|(mut device, passed)| {
                let stop = &stop;
                scope.spawn(move || {
                    pass_on(&mut device, macs, stop, passed);
                    device
                })
            })
            .collect();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        stop.store(true, Relaxed);
        let devices = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        devices
    });
    (devices, passed.into_iter().map(AtomicU64::into_inner).collect())
}
