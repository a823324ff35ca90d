//! A long download is not disturbed by what happens around it.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::config::{Service, quick_check};
use crate::support::download::{Downloads, Reading, write_file};
use crate::support::play::Play;
use crate::support::wait::until;
use crate::support::world::{BOTH, Family, World};

const PORT: u16 = 80;
const MIB: u64 = 1 << 20;

/// The usual play with a file of `size` bytes on every real server besides.
fn stage(size: u64) -> (Vec<Downloads>, Play) {
    let mut servers = Vec::new();
    let play = Play::with(2, |world: &World, site, mut config| {
        for real in &world.site(site).reals {
            let start = |family| Downloads::start(&real.host, SocketAddr::new(real.address(family), PORT), size);
            servers.extend(BOTH.map(start));
        }
        for family in BOTH {
            config.services.push(Service::standard(world, site, family, "web", "tcp", PORT, &quick_check("tcp")));
        }
        config
    });
    (servers, play)
}

fn allow(servers: &[Downloads], bytes: u64) {
    servers.iter().for_each(|server| server.allow(bytes));
}

fn vip(play: &Play, family: Family) -> SocketAddr {
    SocketAddr::new(play.world.site(1).vip(family), PORT)
}

#[test]
fn a_gigabyte_from_the_other_site_while_servers_here_fall_and_rise() {
    let size = 1024 * MIB;
    let (servers, mut play) = stage(size);
    play.sicken(1);
    // curl reads by IPv4 and its bytes are summed up; a reader of our own takes IPv6, and knows where it went wrong.
    let url = format!("http://{}/", vip(&play, Family::V4));
    let mut curl = play.world.client.command("curl");
    let curl = curl.args(["-sS", "-m", "300", &url]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut curl = curl.spawn().expect("start curl");
    let output = curl.stdout.take().expect("a pipe");
    let sum = std::thread::spawn(move || sha256_of(output.into()));
    let reading = Reading::start(&play.world.client, vip(&play, Family::V6), Duration::ZERO);

    let steps = 4;
    for step in 1..=steps {
        allow(&servers, step * size / 8);
        // One way and the other: checks that fail and recover, and processes that die and come back.
        play.heal(1);
        play.fall(1);
        play.rise(1);
        play.sicken(1);
        until("the download's progress", || reading.got() >= step * size / 8);
    }
    play.heal(1);
    assert_eq!(play.serving_site(1, Family::V4), 1);
    allow(&servers, size);
    assert_eq!(reading.finish(), Ok(size));
    assert!(curl.wait().expect("wait for curl").success());
    assert_eq!(sum.join().expect("the sum's thread"), sha256_of_file(size));
}

#[test]
fn a_download_from_a_local_server_outlives_its_failing_checks() {
    let size = 256 * MIB;
    let (servers, play) = stage(size);
    let readings = BOTH.map(|family| Reading::start(&play.world.client, vip(&play, family), Duration::ZERO));
    allow(&servers, size / 4);
    readings.iter().for_each(|reading| until("a quarter", || reading.got() >= size / 4));
    play.sicken(1);
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 2, "new sessions go to the other site");
    }
    allow(&servers, size / 2);
    readings.iter().for_each(|reading| until("a half", || reading.got() >= size / 2));
    play.heal(1);
    allow(&servers, size);
    for reading in readings {
        assert_eq!(reading.finish(), Ok(size));
    }
}

/// The reader is slower than the line: packets wait in its socket while farside's rings go round and round.
#[test]
fn a_slow_reader_gets_every_byte_as_it_was() {
    let size = 96 * MIB;
    let (servers, play) = stage(size);
    allow(&servers, size);
    let pauses = [Duration::from_micros(500), Duration::from_millis(2)];
    let slow = BOTH.map(|family| pauses.map(|pause| Reading::start(&play.world.client, vip(&play, family), pause)));
    play.sicken(1);
    let carried = BOTH.map(|family| Reading::start(&play.world.client, vip(&play, family), pauses[0]));
    for reading in slow.into_iter().flatten().chain(carried) {
        assert_eq!(reading.finish(), Ok(size));
    }
}

/// Twenty at once, over both sites and both families.
#[test]
fn many_downloads_at_once_are_each_complete() {
    let size = 32 * MIB;
    let (servers, play) = stage(size);
    allow(&servers, size);
    let start = || BOTH.map(|family| Reading::start(&play.world.client, vip(&play, family), Duration::ZERO));
    let mut readings: Vec<_> = (0..5).flat_map(|_| start()).collect();
    play.sicken(1);
    readings.extend((0..5).flat_map(|_| start()));
    for reading in readings {
        assert_eq!(reading.finish(), Ok(size));
    }
}

fn sha256_of(from: Stdio) -> String {
    let output = Command::new("sha256sum").stdin(from).output().expect("run sha256sum");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sha256_of_file(size: u64) -> String {
    let mut child =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start sha256sum");
    write_file(child.stdin.take().expect("a pipe"), size).expect("write to sha256sum");
    let mut text = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("read from sha256sum");
    child.wait().expect("wait for sha256sum");
    text
}
