//! The DNS that a company's zone hangs in: a parent (NSD, with the root besides) that delegates to both lines, and three real resolvers that
//! know nothing but that root: unbound, BIND and Knot Resolver, as they are shipped but for DNSSEC, small caches and one thread each
//! (and Knot Resolver takes turns with the addresses that it has, as the others do by themselves).

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::{A, Aaaa};

use super::lines::{LINES, Lines};
use super::namespace::Namespace;
use super::process::Process;
use super::wait::eventually;
use super::world::Family;

/// The root, and `example` with its delegation: glue for both name servers, one on each line.
pub struct Parent {
    _process: Process,
    _machine: Namespace,
}

const PARENT: [&str; 2] = ["192.0.2.60", "2001:db8:c::60"];

impl Parent {
    pub fn start(lines: &Lines) -> Parent {
        let machine = lines.machine("parent", 60);
        let directory = lines.directory().join("parent");
        fs::create_dir(&directory).expect("a directory");
        let head = "$TTL 3600\n@ SOA ns.example. hostmaster.example. 1 1h 15m 2w 5m\n@ NS ns.example.\n";
        let own = format!("A {}\nns.example. AAAA {}\n", PARENT[0], PARENT[1]);
        fs::write(directory.join("root"), format!("{head}ns.example. {own}example. NS ns.example.\n"))
            .expect("the root");
        let mut zone = format!("{head}ns.example. {own}");
        for (n, [four, six]) in (1..).zip(LINES) {
            let server = format!("ns{n}.company.example.");
            zone += &format!("company NS {server}\n{server} A {four}\n{server} AAAA {six}\n");
        }
        fs::write(directory.join("example"), zone).expect("a zone");
        let path = directory.display();
        let text = format!(
            "server:\n ip-address: {}\n ip-address: {}\n username: \"\"\n chroot: \"\"\n zonesdir: \"{path}\"\n pidfile: \"{path}/pid\"\n \
             database: \"\"\n xfrdfile: \"{path}/xfrd\"\n zonelistfile: \"{path}/list\"\n xfrdir: \"{path}\"\n server-count: 1\n\
             remote-control:\n control-enable: no\n\
             zone:\n name: .\n zonefile: root\nzone:\n name: example\n zonefile: example\n",
            PARENT[0], PARENT[1]
        );
        let file = directory.join("conf");
        fs::write(&file, text).expect("a configuration");
        let process = machine.spawn("nsd", "/usr/sbin/nsd", &["-d", "-c", file.to_str().expect("a readable path")]);
        Parent { _process: process, _machine: machine }
    }
}

pub struct Resolver {
    pub name: &'static str,
    pub address: IpAddr,
    machine: Namespace,
    process: Process,
}

/// All three, each on a machine of its own; they run and answer when this returns.
pub fn start(lines: &Lines) -> Vec<Resolver> {
    let hints =
        format!(". 3600 NS ns.example.\nns.example. 3600 A {}\nns.example. 3600 AAAA {}\n", PARENT[0], PARENT[1]);
    let unbound = "server:\n interface: ADDRESS\n access-control: 0.0.0.0/0 allow\n chroot: \"\"\n username: \"\"\n directory: \"DIR\"\n \
         pidfile: \"\"\n use-syslog: no\n do-daemonize: no\n num-threads: 1\n module-config: \"iterator\"\n root-hints: \"DIR/hints\"\n \
         msg-cache-size: 1m\n rrset-cache-size: 1m\n key-cache-size: 100k\n neg-cache-size: 100k\n infra-cache-numhosts: 100\n \
         outgoing-range: 64\n\
         remote-control:\n control-enable: no\n";
    let bind = "options { directory \"DIR\"; listen-on { ADDRESS; }; listen-on-v6 { none; }; pid-file none; session-keyfile none;
           recursion yes; allow-recursion { any; }; allow-query-cache { any; }; allow-query { any; }; dnssec-validation no;
           max-cache-size 8M; recursive-clients 100; };
         controls { };
         zone \".\" { type hint; file \"DIR/hints\"; };";
    let knot = "net.listen('ADDRESS', 53)\ncache.open(10 * MB, 'lmdb://DIR/cache')\ntrust_anchors.remove('.')\n\
         modules.unload('ta_update')\nmodules.unload('ta_signal_query')\nmodules.unload('detect_time_skew')\n\
         modules = { 'hints > iterate' }\nhints.root_file('DIR/hints')\nreorder_RR(true)\n";
    let start = |name, program: &str, last: u8, text: &str, arguments: &[&str]| {
        let address = format!("192.0.2.{last}");
        let machine = lines.machine(name, last);
        let directory = lines.directory().join(name);
        fs::create_dir(&directory).expect("a directory");
        fs::write(directory.join("hints"), &hints).expect("the root's addresses");
        let path = directory.to_str().expect("a readable path");
        let file = directory.join("conf");
        fs::write(&file, text.replace("DIR", path).replace("ADDRESS", &address)).expect("a configuration");
        let file = file.to_str().expect("a readable path");
        let arguments: Vec<&str> = arguments.iter().map(|word| if *word == "DIR" { path } else { word }).collect();
        let arguments: Vec<&str> = arguments.iter().map(|word| if *word == "FILE" { file } else { word }).collect();
        let process = machine.spawn(name, program, &arguments);
        Resolver { name, address: address.parse().expect("an address"), machine, process }
    };
    let all = vec![
        start("unbound", "/usr/sbin/unbound", 61, unbound, &["-d", "-c", "FILE"]),
        start("bind", "/usr/sbin/named", 62, bind, &["-g", "-u", "root", "-n", "1", "-c", "FILE"]),
        start("knot-resolver", "/usr/sbin/kresd", 63, knot, &["-n", "-c", "FILE", "DIR"]),
    ];
    for resolver in &all {
        eventually(&format!("an answer of {}", resolver.name), || {
            let answer = resolver
                .machine
                .inside(|| ask(resolver.address, "www.company.example", Family::V4, Duration::from_secs(5)));
            match answer {
                Ok((addresses, _)) if addresses.len() == 1 => Ok(()),
                other => Err(format!("{other:?}\n{}", resolver.log())),
            }
        });
    }
    all
}

impl Resolver {
    pub fn log(&self) -> String {
        format!("{}{}", self.process.stdout(), self.process.stderr())
    }
}

/// The addresses of a name, and for how many seconds they may be kept.
fn ask(resolver: IpAddr, name: &str, family: Family, patience: Duration) -> Result<(Vec<IpAddr>, u32), String> {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(1);
    let rtype = if family == Family::V4 { Rtype::A } else { Rtype::AAAA };
    let mut question = MessageBuilder::new_vec();
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    question.header_mut().set_id(id);
    question.header_mut().set_rd(true);
    let mut question = question.question();
    question.push((name.parse::<Name<Vec<u8>>>().expect("a name"), rtype)).expect("room for a question");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect(SocketAddr::new(resolver, 53)).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(patience)).expect("a timeout");
    socket.send(&question.into_message().into_octets()).map_err(|e| e.to_string())?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).map_err(|e| e.to_string())?;
    let answer = Message::from_octets(&buffer[..length]).map_err(|e| e.to_string())?;
    if answer.header().id() != id || answer.header().rcode() != Rcode::NOERROR {
        return Err(answer.header().rcode().to_string());
    }
    let section = answer.answer().map_err(|e| e.to_string())?;
    let (mut addresses, mut ttl) = (Vec::new(), u32::MAX);
    for record in section.limit_to::<A>().flatten() {
        addresses.push(IpAddr::V4(record.data().addr()));
        ttl = ttl.min(record.ttl().as_secs());
    }
    for record in section.limit_to::<Aaaa>().flatten() {
        addresses.push(IpAddr::V6(record.data().addr()));
        ttl = ttl.min(record.ttl().as_secs());
    }
    addresses.sort();
    Ok((addresses, ttl))
}

/// One answer of a resolver.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When the question was sent.
    pub asked: Instant,
    /// The addresses, sorted, and the seconds for which they may be kept; or why there are none.
    pub answer: Result<(Vec<IpAddr>, u32), String>,
}

/// Asks a resolver for a name's addresses again and again, and keeps all answers.
pub struct Watch {
    pub resolver: &'static str,
    pub family: Family,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(from: &Namespace, resolver: &Resolver, name: &'static str, family: Family) -> Watch {
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, stopped, address) = (seen.clone(), stop.clone(), resolver.address);
        let thread = from.thread(move || {
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                // As long as a stub resolver waits for its first try.
                let answer = ask(address, name, family, Duration::from_secs(5));
                kept.lock().expect("the answers").push(Seen { asked, answer });
                sleep(Duration::from_millis(250));
            }
        });
        Watch { resolver: resolver.name, family, seen, stop, thread: Some(thread) }
    }

    /// The answers to what was asked since.
    pub fn since(&self, when: Instant) -> Vec<Seen> {
        self.seen.lock().expect("the answers").iter().filter(|seen| seen.asked >= when).cloned().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
