//! Wrong use: a clear sentence and exit status 1, never a panic.

use crate::support::config::Config;
use crate::support::farside::{Farside, binary};
use crate::support::play::standard;
use crate::support::world::{Family, World};

/// Starts farside with a file made from the standard one, and returns what it says about it.
#[track_caller]
fn refused(world: &World, text: &str) -> String {
    let file = world.directory().join("wrong.toml");
    std::fs::write(&file, text).expect("write a configuration");
    let path = file.to_str().expect("a readable path");
    let mut farside = world.site(1).host.spawn("wrong", &binary(), &["run", "--config", path]);
    let status = farside.wait(&format!("the refusal of\n{text}\n"));
    let said = farside.stderr();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn what_cannot_work_is_refused_in_a_sentence() {
    let world = World::new(1);
    let good = standard(&world, 1).text();
    let says = |text: &str, word: &str| {
        let said = refused(&world, text);
        assert!(said.contains(word), "{word:?} is not in: {said}");
    };
    says(&good.replace("wan0", "wan9"), "wan9");
    let vip = world.site(1).vip(Family::V4).to_string();
    says(&good.replace(&vip, "203.0.113.2"), "203.0.113.2");
    says(&good.replace(standard(&world, 1).socket(), "/proc/nowhere/sock"), "/proc/nowhere");
    let pip = world.site(1).pip(Family::V4).to_string();
    says(&good.replace(&pip, "203.0.113.2"), "203.0.113.2");
    let twice = |config: &Config| {
        let mut service = config.services[0].clone();
        service.name = "again".into();
        config.clone().service(service).text()
    };
    says(&twice(&standard(&world, 1)), &vip);
    says("[site", "wrong.toml:1");
}

#[test]
fn a_missing_file_and_missing_rights_are_told() {
    let world = World::new(1);
    let output = world.site(1).host.output(&binary(), &["run", "--config", "/nowhere/farside.toml"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("/nowhere/farside.toml"), "{said}");

    let file = world.directory().join("farside.toml");
    let path = file.to_str().expect("a path");
    std::fs::write(&file, standard(&world, 1).text()).expect("write a configuration");
    // The binary may lie where a normal user cannot reach it: only its rights are taken away.
    let arguments = ["--bounding-set", "-all", "--inh-caps", "-all", "--", &binary(), "run", "--config", path];
    let output = world.site(1).host.output("setpriv", &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("root"), "{said}");
}

#[test]
fn no_socket_no_farside_is_told() {
    let world = World::new(1);
    let output = world.client.output(&binary(), &["show", "flows", "--socket", "/nowhere/farside.sock"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("/nowhere/farside.sock"), "{said}");
}

#[test]
fn check_tells_all_errors_at_once() {
    let world = World::new(1);
    let good = standard(&world, 1).text();
    let file = world.directory().join("check.toml");
    let path = file.to_str().expect("a path");
    let check = |text: &str| {
        std::fs::write(&file, text).expect("write a configuration");
        let output = world.client.output(&binary(), &["check", "--config", path]);
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), said)
    };
    let (status, said) = check(&good);
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = check(&good.replace("vip =", "vpi =").replace("workers = ", "workers = -"));
    assert!(status == Some(1) && said.contains("vpi") && said.contains("workers") && said.contains('^'), "{said}");
}

/// A start with what a crash may have left: the socket's file, and nobody behind it.
#[test]
fn a_stale_socket_is_no_obstacle() {
    let world = World::new(1);
    let config = standard(&world, 1);
    drop(std::os::unix::net::UnixListener::bind(config.socket()).expect("a socket"));
    Farside::start(world.site(1), &config).stop();
}
