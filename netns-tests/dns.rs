//! DNS as a service: real name servers behind the VIP, asked by dig.

use std::collections::HashSet;

use crate::support::config::{Service, quick_check, real_target};
use crate::support::names::{self, NAME};
use crate::support::play::Play;
use crate::support::process::Process;
use crate::support::wait::eventually;
use crate::support::world::{BOTH, Family, Real, World};

/// Name servers by their real server's name, and a play with the service besides POP3; `extra` are lines of [[service]].
fn stage(extra: &str) -> (Vec<(String, Process)>, Play) {
    let mut servers = Vec::new();
    let play = Play::with(2, |world: &World, site, mut config| {
        servers.extend(world.site(site).reals.iter().map(|real| (real.name.clone(), start(real))));
        let check = format!("{}\nname = \"{NAME}\"", quick_check("dns"));
        for family in BOTH {
            let mut service = Service::standard(world, site, family, "dns", "udp", 53, &check);
            service.extra = extra.into();
            config.services.push(service);
        }
        config
    });
    (servers, play)
}

/// A name server that tells its own name.
fn start(real: &Real) -> Process {
    names::start(real, &BOTH.map(|family| real.address(family)))
}

/// Which server answers a question from `port` of the client's.
fn ask(play: &Play, family: Family, port: u16) -> Result<String, String> {
    let any = if family == Family::V4 { "0.0.0.0" } else { "::" };
    let (from, at) = (format!("{any}#{port}"), format!("@{}", play.world.site(1).vip(family)));
    let dig = ["-b", &from, &at, NAME, "TXT", "+short", "+time=2", "+tries=3"];
    let output = play.world.client.output("dig", &dig);
    let text = String::from_utf8_lossy(&output.stdout).trim().trim_matches('"').to_string();
    if output.status.success() { Ok(text) } else { Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr))) }
}

fn kill(servers: &mut Vec<(String, Process)>, name: &str) {
    let before = servers.len();
    servers.retain(|(other, _)| other != name);
    assert_eq!(servers.len(), before - 1, "{name}");
}

#[test]
fn a_resolver_by_one_port_is_answered_by_the_next_server_as_soon_as_its_own_is_known_to_be_dead() {
    let (mut servers, play) = stage("");
    let first = BOTH.map(|family| ask(&play, family, 40_053).expect("an answer"));
    for (family, first) in BOTH.into_iter().zip(&first) {
        assert!(first.starts_with("r1"), "{first}");
        for _ in 0..3 {
            assert_eq!(ask(&play, family, 40_053).as_ref(), Ok(first), "one flow, one server");
        }
    }
    for name in HashSet::from(first) {
        kill(&mut servers, &name);
        play.farside(1).wait_status("down", &BOTH.map(|family| real_target("dns", family, &name)));
    }
    // As many flows as there were have moved at once: here, or to the other site if each family's server was another.
    let moved = BOTH.map(|family| ask(&play, family, 40_053).expect("the next question is answered"));
    assert_eq!(play.farside(1).counter("udp_flows_moved"), 2, "{moved:?}");
    for name in moved.iter().filter(|name| name.starts_with("r1")).collect::<HashSet<_>>() {
        kill(&mut servers, name);
        play.farside(1).wait_status("down", &BOTH.map(|family| real_target("dns", family, name)));
    }
    for family in BOTH {
        let carried = ask(&play, family, 40_053).expect("the next question is answered");
        assert!(carried.starts_with("r2"), "{carried}");
    }
    let restarted = play.world.site(1).real('a');
    servers.push((restarted.name.clone(), start(restarted)));
    play.farside(1).wait_status("up", &BOTH.map(|family| real_target("dns", family, &restarted.name)));
    for family in BOTH {
        assert!(ask(&play, family, 40_053).expect("an answer").starts_with("r2"), "a carried flow stays");
        assert_eq!(ask(&play, family, 40_054).as_deref(), Ok("r1a"), "a new one is served here");
    }
}

#[test]
fn with_per_packet_every_question_of_one_port_has_its_own_choice() {
    let (mut servers, play) = stage("per_packet = true");
    for family in BOTH {
        let answers: Vec<_> = (0..8).map(|_| ask(&play, family, 40_053).expect("an answer")).collect();
        let of = |name: &str| answers.iter().filter(|answer| *answer == name).count();
        // Not four each for certain: a packet that had to wait for a neighbor chooses once more.
        assert!(of("r1a") >= 2 && of("r1b") >= 2 && of("r1a") + of("r1b") == 8, "{answers:?}");
    }
    kill(&mut servers, "r1a");
    play.farside(1).wait_status("down", &BOTH.map(|family| real_target("dns", family, "r1a")));
    for family in BOTH {
        for _ in 0..4 {
            assert_eq!(ask(&play, family, 40_053).as_deref(), Ok("r1b"));
        }
    }
    kill(&mut servers, "r1b");
    play.farside(1).wait_status("down", &BOTH.map(|family| real_target("dns", family, "r1b")));
    for family in BOTH {
        assert!(ask(&play, family, 40_053).expect("an answer").starts_with("r2"));
    }
    servers.clear();
    eventually("a refusal at once", || {
        // Site 2 has lost its servers too, and says so with port unreachable, or site 1 does when it has noticed.
        match BOTH.map(|family| ask(&play, family, 40_060)) {
            [Err(four), Err(six)] if four.contains("refused") && six.contains("refused") => Ok(()),
            answers => Err(format!("{answers:?}")),
        }
    });
}
