//! The whole story with real parts. A company has a mail server behind two WAN lines, and a zone that its parent delegates to both. Users far
//! away have unbound, BIND or Knot Resolver, and fetch their mail by its name all the time. A line dies without a link that goes down, and
//! comes back; it flaps; both die; farside starts while one is dead.
//!
//! ```text
//!   Dovecot -- lan0 [farside] wan1, wan2 ==== internet ---- parent (NSD), unbound, BIND, Knot Resolver, users
//! ```

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::support::config::on_af_xdp;
use crate::support::dovecot::{Dovecot, PASSWORD, USER, mails};
use crate::support::farside::Farside;
use crate::support::lines::{Lines, MAIL, ZONE, is_in, serial};
use crate::support::namespace::Namespace;
use crate::support::resolvers::{self, Parent, Resolver, Seen, Watch};
use crate::support::wait::{eventually, until};
use crate::support::world::{BOTH, Family};

const NAME: &str = "mail.company.example";

/// A line's fall and rise are seen soon; the timeout leaves room for a machine under load.
const QUICK: &str = "kind = \"icmp\", interval = \"200ms\", timeout = \"2s\", rise = 1, fall = 2";
const HARD_TO_FALL: &str = "kind = \"icmp\", interval = \"100ms\", timeout = \"200ms\", rise = 1, fall = 1000";
const HARD_TO_RISE: &str = "kind = \"icmp\", interval = \"200ms\", timeout = \"2s\", rise = 1000, fall = 2";

/// One mail fetched, or not.
#[derive(Clone, Debug)]
struct Fetch {
    began: Instant,
    took: Duration,
    /// The address that the mail came from.
    outcome: Result<IpAddr, String>,
}

/// A user who fetches a mail again and again with curl, through one resolver.
struct User {
    resolver: &'static str,
    fetched: Arc<Mutex<Vec<Fetch>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl User {
    /// Fetches only while it has `gate`.
    fn start(lines: &Lines, resolver: &Resolver, family: &str, gate: Arc<RwLock<()>>) -> User {
        let file = lines.directory().join(format!("resolv.conf-{}", resolver.name));
        fs::write(&file, format!("nameserver {}\n", resolver.address)).expect("a resolv.conf");
        let mut command = lines.client.command("sh");
        // As every process of the netns has a mount namespace of its own, the file is this one's alone.
        command.args(["-c", "mount --bind \"$0\" /etc/resolv.conf && exec curl \"$@\""]).arg(&file);
        let told = "%{stderr}from %{remote_ip}";
        let url = format!("pop3://{NAME}/2");
        command.args(["-sS", family, "-m", "60", "--connect-timeout", "10", "-w", told, "-u"]);
        command.args([&format!("{USER}:{PASSWORD}"), &url]);
        let (fetched, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, stopped) = (fetched.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let open = gate.read().expect("the gate");
                let began = Instant::now();
                let outcome = fetch(&mut command);
                drop(open);
                kept.lock().expect("the fetches").push(Fetch { began, took: began.elapsed(), outcome });
                sleep(Duration::from_millis(800));
            }
        });
        User { resolver: resolver.name, fetched, stop, thread: Some(thread) }
    }

    fn since(&self, when: Instant) -> Vec<Fetch> {
        self.fetched.lock().expect("the fetches").iter().filter(|fetch| fetch.began >= when).cloned().collect()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn fetch(command: &mut Command) -> Result<IpAddr, String> {
    let output = command.output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || String::from_utf8_lossy(&output.stdout) != mails()[1] {
        return Err(format!("{}: {said}", output.status));
    }
    said.split("from ").nth(1).and_then(|address| address.trim().parse().ok()).ok_or_else(|| said.into_owned())
}

fn addresses(family: Family, lines: &[usize]) -> Vec<IpAddr> {
    let of = |line: &usize| MAIL[line - 1][(family == Family::V6) as usize].parse().expect("an address");
    let mut all: Vec<IpAddr> = lines.iter().map(of).collect();
    all.sort();
    all
}

/// Whoever asks ends first, while there is somebody to answer.
struct Story {
    users: Vec<User>,
    watches: Vec<Watch>,
    farside: Option<Farside>,
    gate: Arc<RwLock<()>>,
    began: Instant,
    _parent: Parent,
    _resolvers: Vec<Resolver>,
    _dovecot: Dovecot,
    _server: Namespace,
    lines: Lines,
}

impl Story {
    fn new() -> Story {
        let lines = Lines::new();
        lines.write_zone(ZONE);
        lines.filter_sources();
        let mail = mail_server(&lines);
        let dovecot =
            Dovecot::start_on(&mail, "dovecot", "10.0.0.11".parse().unwrap(), &lines.directory().join("dovecot"));
        let farside = lines.start(&config(&lines, QUICK));
        let parent = Parent::start(&lines);
        let resolvers = resolvers::start(&lines);
        let gate = Arc::new(RwLock::new(()));
        let users = resolvers
            .iter()
            .zip(["-4", "-6", "-S"])
            .map(|(resolver, family)| User::start(&lines, resolver, family, gate.clone()));
        let users = users.collect();
        let watch = |resolver| BOTH.map(|family| Watch::start(&lines.client, resolver, NAME, family));
        let watches = resolvers.iter().flat_map(watch).collect();
        Story {
            farside: Some(farside),
            users,
            watches,
            gate,
            began: Instant::now(),
            _parent: parent,
            _resolvers: resolvers,
            _dovecot: dovecot,
            _server: mail,
            lines,
        }
    }

    fn farside(&self) -> &Farside {
        self.farside.as_ref().expect("farside runs")
    }

    fn serial(&self) -> u32 {
        serial(&self.lines.client, "198.51.100.1").expect("a serial")
    }

    fn tell(&self, what: &str) {
        println!("{:6.2} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// Does `what` between two fetches: a connection that stands ends with its line, and nobody can help it.
    fn between_fetches(&self, what: impl FnOnce()) -> Instant {
        let closed = self.gate.write().expect("the gate");
        let now = Instant::now();
        what();
        drop(closed);
        now
    }

    /// Waits until all resolvers answer what was asked since then with the addresses of these lines.
    fn wait_resolvers(&self, since: Instant, lines: &[usize]) {
        for watch in &self.watches {
            let wanted = addresses(watch.family, lines);
            eventually(&format!("{} answers by lines {lines:?}, {:?}", watch.resolver, watch.family), || {
                match watch.since(since).last() {
                    Some(Seen { answer: Ok((addresses, _)), .. }) if *addresses == wanted => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        }
        self.tell(&format!(
            "all resolvers answer {}",
            if lines.len() == 1 { "the one line's addresses" } else { "both lines' addresses" }
        ));
    }

    /// Waits until every user has begun and ended a fetch since then, by one of these lines.
    fn wait_users(&self, since: Instant, lines: &[usize]) {
        for user in &self.users {
            eventually(&format!("the user of {} has mail by lines {lines:?}", user.resolver), || {
                let by = |address: &IpAddr| BOTH.iter().any(|family| addresses(*family, lines).contains(address));
                let fetches = user.since(since);
                if fetches.iter().any(|fetch| fetch.outcome.as_ref().is_ok_and(by)) {
                    Ok(())
                } else {
                    Err(format!("{fetches:?}"))
                }
            });
        }
    }

    /// From `known` on farside gave no resolver the dead line's addresses. So what a resolver still answers of them it holds from before: its
    /// TTL only ever runs down, and once it has run out the address is gone for good. Tells how many such answers there were.
    fn count_held(&self, cut: Instant, known: Instant, dead: usize) {
        for watch in &self.watches {
            let dead = addresses(watch.family, &[dead])[0];
            let seen = watch.since(known);
            let mut held: Option<u32> = None;
            let (mut count, mut last, mut gone) = (0, cut, false);
            for Seen { asked, answer } in &seen {
                let Ok((addresses, ttl)) = answer else { continue };
                if addresses.contains(&dead) {
                    assert!(!gone, "{} had let go of {dead} and has it again: {seen:?}", watch.resolver);
                    assert!(
                        held.is_none_or(|before| *ttl <= before),
                        "{} was given {dead} anew: {seen:?}",
                        watch.resolver
                    );
                    (held, count, last) = (Some(*ttl), count + 1, *asked);
                } else {
                    gone = true;
                }
            }
            let of = seen.iter().filter(|seen| seen.answer.is_ok()).count();
            let until = if count == 0 {
                String::new()
            } else {
                format!(
                    ", the last one {:.1} s after the cut with {} s of its TTL left",
                    last.duration_since(cut).as_secs_f64(),
                    held.unwrap_or(0)
                )
            };
            self.tell(&format!(
                "{:13} {:?}: {count} of {of} answers still had {dead}{until}; {} questions without an answer",
                watch.resolver,
                watch.family,
                seen.len() - of
            ));
        }
    }

    /// No user was ever without mail. Tells by which line it came.
    fn no_fetch_failed(&self, since: Instant) {
        for user in &self.users {
            let fetches = user.since(since);
            let failed: Vec<_> = fetches.iter().filter(|fetch| fetch.outcome.is_err()).collect();
            let by = |line| {
                let is = |address: &IpAddr| BOTH.iter().any(|family| addresses(*family, &[line]).contains(address));
                fetches.iter().filter(|fetch| fetch.outcome.as_ref().is_ok_and(is)).count()
            };
            let slowest = fetches.iter().map(|fetch| fetch.took).max().unwrap_or_default();
            self.tell(&format!(
                "the user of {:13}: {} mails by line 1, {} by line 2, {} failed, the slowest took {:.2} s",
                user.resolver,
                by(1),
                by(2),
                failed.len(),
                slowest.as_secs_f64()
            ));
            assert!(failed.is_empty(), "{failed:?}\n{}", self.farside().log());
        }
    }

    fn reload(&self, check: &str) {
        self.farside().rewrite(&config(&self.lines, check));
        self.farside().order(&["reload"]);
    }

    /// Is the last check of line 1 a failed one?
    fn is_failing(&self) -> bool {
        let health = self.farside().show("health");
        health.as_array().expect("a list").iter().any(|row| {
            row["kind"] == "line"
                && row["target"].as_str().is_some_and(|target| target.starts_with("isp1/"))
                && row["last_error"].is_string()
        })
    }
}

/// The mail server in the LAN, and the box's side of it.
fn mail_server(lines: &Lines) -> Namespace {
    let mail = lines.space("mail");
    lines.server.ip(&format!(
        "link add lan0 type veth peer name eth0 netns {}
         addr add 10.0.0.1/24 dev lan0
         addr add fd00::1/64 dev lan0 nodad
         link set lan0 up
         route add default via 203.0.113.254
         route add default via 2001:db8:1::fe
         rule add from 203.0.113.10 table 1
         rule add from 198.51.100.10 table 2",
        mail.name()
    ));
    for n in ["1", "2"] {
        lines.server.run("ip", &["-6", "rule", "add", "from", &format!("2001:db8:{n}::10"), "table", n]);
    }
    mail.ip("addr add 10.0.0.11/24 dev eth0
             addr add fd00::11/64 dev eth0 nodad
             link set eth0 up
             route add default via 10.0.0.1
             route add default via fd00::1");
    mail
}

/// Both lines with a VIP each, all in front of the one mail server; a member of the pool is in with its line and its service.
fn config(lines: &Lines, check: &str) -> String {
    let backend = if on_af_xdp() { "af_xdp" } else { "auto" };
    let mut text = lines.config(check, "", "");
    text += &format!(
        "[datapath]\ninterfaces = [\"wan1\", \"wan2\", \"lan0\"]\nbackend = \"{backend}\"\nworkers = 1\nmax_flows = 1000\n"
    );
    for (n, vips) in (1..).zip(MAIL) {
        for ((vip, server), family) in vips.iter().zip(["10.0.0.11", "fd00::11"]).zip(["", "-6"]) {
            let name = format!("isp{n}{family}");
            let line = format!("line = \"{name}\"\n");
            text = text.replace(&line, &format!("{line}service = \"pop3-{name}\"\n"));
            text += &format!(
                "[[service]]\nname = \"pop3-{name}\"\nvip = \"{vip}\"\nport = 110\nprotocol = \"tcp\"\n[service.check]\nkind = \"pop3\"\n\
                 interval = \"1s\"\ntimeout = \"5s\"\nrise = 1\nfall = 3\n[[service.real]]\naddress = \"{server}\"\n"
            );
        }
    }
    text
}

#[test]
fn mail_is_fetched_by_name_whatever_becomes_of_the_lines() {
    let mut story = Story::new();
    let start = Instant::now();
    story.wait_resolvers(start, &[1, 2]);
    story.wait_users(start, &[1]);
    story.wait_users(start, &[2]);
    story.no_fetch_failed(start);
    one_line_dies_and_returns(&story);
    a_line_flaps(&story);
    both_lines_die(&story);
    farside_starts_while_a_line_is_dead(&mut story);
    story.no_fetch_failed(start);
    assert_eq!(story.lines.counted("strange"), 0, "every answer leaves by the line that was asked");
}

fn one_line_dies_and_returns(story: &Story) {
    let before = story.serial();
    story.tell("line 1 dies");
    let cut = story.between_fetches(|| story.lines.silence(1));
    story.lines.wait_mail("198.51.100.1", &[2], story.farside());
    let known = Instant::now();
    let down = story.serial();
    story.tell(&format!(
        "farside answers without it, {:.2} s after the cut; serial {before} -> {down}",
        (known - cut).as_secs_f64()
    ));
    assert!(down > before, "{before} {down}");
    story.wait_resolvers(known, &[2]);
    let gone = Instant::now();
    story.wait_users(gone, &[2]);
    story.count_held(cut, known, 1);
    // Held out by `rise`, it stays out though it answers again.
    story.reload(HARD_TO_RISE);
    story.tell("line 1 returns, and is not trusted yet");
    story.lines.restore(1);
    let checked = story.lines.counted("checks");
    until("checks of line 1 that pass", || story.lines.counted("checks") >= checked + 10);
    assert_eq!(story.serial(), down, "a line's first good checks change nothing");
    story.reload(QUICK);
    let mended = Instant::now();
    story.lines.wait_mail("198.51.100.1", &[1, 2], story.farside());
    let up = story.serial();
    story.tell(&format!(
        "farside answers with it, {:.2} s after it is trusted; serial {down} -> {up}",
        mended.elapsed().as_secs_f64()
    ));
    assert!(up > down, "{down} {up}");
    story.wait_resolvers(mended, &[1, 2]);
    story.wait_users(mended, &[1]);
    story.no_fetch_failed(cut);
}

fn a_line_flaps(story: &Story) {
    let before = story.serial();
    story.reload(HARD_TO_FALL);
    story.tell("line 1 flaps");
    let flapping = Instant::now();
    for _ in 0..3 {
        story.between_fetches(|| story.lines.silence(1));
        until("failing checks", || story.is_failing());
        story.between_fetches(|| story.lines.restore(1));
        until("passing checks", || !story.is_failing());
    }
    story.wait_users(Instant::now(), &[1, 2]);
    assert_eq!(story.serial(), before, "checks that fail now and then change nothing");
    for watch in &story.watches {
        let both = addresses(watch.family, &[1, 2]);
        let seen = watch.since(flapping);
        let other = seen.iter().find(|seen| seen.answer.as_ref().is_ok_and(|(addresses, _)| *addresses != both));
        assert!(other.is_none(), "{} {other:?}", watch.resolver);
    }
    story.reload(QUICK);
    story.no_fetch_failed(flapping);
}

fn both_lines_die(story: &Story) {
    let closed = story.gate.write().expect("the gate");
    story.tell("both lines die");
    let cut = Instant::now();
    story.lines.silence(1);
    story.lines.silence(2);
    let none = || {
        let dns = story.farside().show("dns");
        ["isp1", "isp1-6", "isp2", "isp2-6"].iter().all(|member| !is_in(&dns, member))
    };
    until("both lines are known to be dead", none);
    story.tell(&format!(
        "farside knows it, {:.2} s after the cut, and answers with all rather than none",
        cut.elapsed().as_secs_f64()
    ));
    // No line leads to it: it is asked on the box itself.
    for (rtype, family) in ["A", "AAAA"].into_iter().zip(BOTH) {
        let said = story.lines.server.run("dig", &["+short", "@203.0.113.1", NAME, rtype]);
        let mut all: Vec<IpAddr> = said.lines().filter_map(|line| line.parse().ok()).collect();
        all.sort();
        assert_eq!(all, addresses(family, &[1, 2]), "{said}");
    }
    let mended = Instant::now();
    story.lines.restore(1);
    story.lines.restore(2);
    story.tell("both lines return");
    story.wait_resolvers(mended, &[1, 2]);
    for watch in &story.watches {
        let unanswered = watch.since(cut).iter().filter(|seen| seen.answer.is_err()).count();
        story.tell(&format!("{:13} {:?}: {unanswered} questions without an answer", watch.resolver, watch.family));
    }
    drop(closed);
    story.wait_users(mended, &[1, 2]);
    story.no_fetch_failed(mended);
}

fn farside_starts_while_a_line_is_dead(story: &mut Story) {
    let gate = story.gate.clone();
    let closed = gate.write().expect("the gate");
    story.tell("farside stops, line 1 dies, farside starts");
    story.farside.take().expect("farside runs").stop();
    let stopped = Instant::now();
    story.lines.silence(1);
    story.farside = Some(story.lines.launch(&config(&story.lines, QUICK)));
    // Asks all the time, from before it answers anybody.
    let [first, _] = eventually("the first answer", || story.lines.mail_at("198.51.100.1"));
    story.tell(&format!("farside's first answer, {:.2} s after its start", stopped.elapsed().as_secs_f64()));
    assert_eq!(first, [MAIL[1][0]], "{}", story.farside().log());
    story.wait_resolvers(stopped, &[2]);
    story.count_held(stopped, stopped, 1);
    drop(closed);
    let open = Instant::now();
    story.wait_users(open, &[2]);
    story.lines.restore(1);
    story.tell("line 1 returns");
    story.wait_resolvers(open, &[1, 2]);
    story.no_fetch_failed(open);
}
