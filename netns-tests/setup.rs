//! `farside setup-server` on a real server.

use std::net::{IpAddr, SocketAddr};

use crate::support::client::who;
use crate::support::farside::binary;
use crate::support::namespace::Namespace;
use crate::support::server::Pop3;
use crate::support::world::{BOTH, Family, World};

/// Runs it: whether it succeeded, and what it printed on both outputs.
pub fn setup(host: &Namespace, mode: &str, vips: &[IpAddr], more: &[&str]) -> (bool, String) {
    let bin = binary();
    let vips: Vec<String> = vips.iter().map(IpAddr::to_string).collect();
    let mut words = vec![bin.as_str(), "setup-server", mode, "--vip"];
    words.extend(vips.iter().map(String::as_str));
    words.extend(more);
    let output = host.output("env", &words);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

/// All that it may change.
fn state(host: &Namespace) -> String {
    let settings = "grep -r . /proc/sys/net/ipv4/conf/*/arp_ignore /proc/sys/net/ipv4/conf/*/arp_announce";
    ["ip -o address", "ip -o link", settings].map(|command| host.run("sh", &["-c", command])).concat()
}

/// Does the box's neighbor table find somebody who answers for `address` on the LAN?
fn answers_for(world: &World, address: IpAddr) -> bool {
    let host = &world.site(1).host;
    host.output("ip", &["neighbor", "flush", "dev", "lan0"]);
    let ping = host.output("ping", &["-n", "-c", "2", "-i", "0.2", "-W", "1", &address.to_string()]);
    ping.status.success()
}

#[test]
fn direct_servers_take_the_vip_and_answer_for_it_to_nobody() {
    let world = World::new(1);
    let (site, real, control) = (world.site(1), world.site(1).real('a'), world.site(1).real('b'));
    let vips = BOTH.map(|family| site.vip(family));
    for vip in vips {
        site.host.ip(&format!("route add {vip} dev lan0"));
    }
    // The control: a server that simply has the address answers whoever asks.
    control.host.ip(&format!("address add {}/32 dev lo", vips[0]));
    assert!(answers_for(&world, vips[0]));
    control.host.ip(&format!("address del {}/32 dev lo", vips[0]));

    let before = state(&real.host);
    let (ok, text) = setup(&real.host, "direct", &vips, &["--apply"]);
    assert!(ok, "{text}");
    let during = state(&real.host);
    for vip in vips {
        assert!(!answers_for(&world, vip), "{vip}");
        // With the MAC address rewritten, as farside does it, the server serves.
        let mac = real.host.run("cat", &["/sys/class/net/eth0/address"]);
        site.host.ip(&format!("neighbor replace {vip} lladdr {} dev lan0 nud permanent", mac.trim()));
        let _pop3 = Pop3::start(&real.host, SocketAddr::new(vip, 110), "r1a");
        assert_eq!(who(&site.host, SocketAddr::new(vip, 110)).expect("a session"), "r1a");
    }
    // Once more changes nothing, and all of it can be taken back, also twice.
    assert!(setup(&real.host, "direct", &vips, &["--apply"]).0);
    assert_eq!(state(&real.host), during);
    for _ in 0..2 {
        let (ok, text) = setup(&real.host, "direct", &vips, &["--undo"]);
        assert!(ok, "{text}");
        assert_eq!(state(&real.host), before);
    }
}

#[test]
fn taking_back_one_vip_leaves_the_other_hidden() {
    let world = World::new(1);
    let (site, real) = (world.site(1), world.site(1).real('a'));
    let (one, two) = (site.vip(Family::V4), site.pip(Family::V4));
    assert!(setup(&real.host, "direct", &[one, two], &["--apply", "--interface", "eth0"]).0);
    let (ok, text) = setup(&real.host, "direct", &[one], &["--undo", "--interface", "eth0"]);
    assert!(ok && text.contains(&format!("arp_ignore stays 1: this host has {two} on lo as well")), "{text}");
    site.host.ip(&format!("route add {two} dev lan0"));
    assert!(!answers_for(&world, two));
    assert_eq!(
        real.host.run("cat", &["/proc/sys/net/ipv4/conf/all/arp_ignore"]).trim(),
        "0",
        "only where it was asked for"
    );
}

/// What is printed does the same as `--apply`.
#[test]
fn the_printed_commands_can_be_run_as_they_are() {
    let world = World::new(1);
    let [one, two] = ['a', 'b'].map(|letter| world.site(1).real(letter));
    let vips = BOTH.map(|family| world.site(1).vip(family));
    let (ok, script) = setup(&one.host, "direct", &vips, &[]);
    assert!(ok, "{script}");
    one.host.run("sh", &["-e", "-c", &script]);
    assert!(setup(&two.host, "direct", &vips, &["--apply"]).0);
    for (host, other) in [(one, two), (two, one)] {
        let shown = |real: &Namespace| real.run("ip", &["-o", "address", "show", "dev", "lo"]);
        assert_eq!(shown(&host.host), shown(&other.host));
    }
    assert_eq!(one.host.run("cat", &["/proc/sys/net/ipv4/conf/all/arp_announce"]).trim(), "2");
}

/// A step that fails takes back those before it, and says what else could be done. (The kernel of the tests knows no tunnels; where
/// it does, they are made.)
#[test]
fn tunnels_that_cannot_be_made_leave_nothing_behind() {
    let world = World::new(1);
    let (site, real) = (world.site(1), world.site(1).real('a'));
    let before = state(&real.host);
    for encapsulation in ["ipip", "gre", "gue"] {
        for family in BOTH {
            let more = ["--encapsulation", encapsulation, "--interface", "eth0", "--apply"];
            let (ok, text) = setup(&real.host, "tunnel", &[site.vip(family)], &more);
            if ok {
                let (ok, text) =
                    setup(&real.host, "tunnel", &[site.vip(family)], &["--undo", more[0], more[1], more[2], more[3]]);
                assert!(ok, "{text}");
            } else {
                assert!(text.contains(" failed: ") && text.contains("nothing has been changed"), "{text}");
                let vip = site.vip(family);
                let decap = format!("farside decap --interface eth0 --vip {vip} --encapsulation {encapsulation}");
                assert!(text.contains(&decap), "{text}");
                assert_eq!(state(&real.host), before);
            }
        }
    }
}

#[test]
fn who_may_not_is_told_so() {
    let world = World::new(1);
    let real = world.site(1).real('a');
    let before = state(&real.host);
    let bin = binary();
    let words = [
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
        &bin,
        "setup-server",
        "direct",
        "--vip",
        "203.0.113.10",
        "--apply",
    ];
    let output = real.host.output("setpriv", &words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("(it needs root)"), "{text}");
    assert_eq!(state(&real.host), before);
}
