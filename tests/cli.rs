//! The command line as a user meets it: what is printed where, and the exit code.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn farside(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farside")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A file that goes with the test.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, text: &str) -> Written {
        let path = std::env::temp_dir().join(format!("farside-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Written(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_good_file_is_summed_up() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example");
    let checked = farside(&["check", "--config", example]);
    assert_eq!(
        text(&checked.stdout),
        format!("{example}: ok, 1 service, 1 real server, 1 remote site, 1 line, 1 zone, 1 pool\n")
    );
    assert_eq!((checked.status.code(), text(&checked.stderr)), (Some(0), String::new()));
}

#[test]
fn a_bad_file_shows_all_its_errors() {
    let bad = Written::new("bad", "[datapath]\ninterface = [\"wan0\"]\nmax_flows = 0\n");
    let checked = farside(&["check", "--config", bad.path()]);
    let errors = text(&checked.stderr);
    let path = bad.path();
    assert!(errors.contains(&format!("--> {path}:2:1\n")), "{errors}");
    assert!(errors.contains("= help: did you mean `interfaces`?"), "{errors}");
    assert!(errors.contains(&format!("--> {path}:3:13\n")), "{errors}");
    assert!(errors.ends_with(&format!("\nfarside: {path}: 3 errors\n")), "{errors}");
    assert_eq!((checked.status.code(), text(&checked.stdout)), (Some(1), String::new()));
}

#[test]
fn a_file_that_is_not_there_is_a_sentence() {
    for command in ["check", "run"] {
        let failed = farside(&[command, "--config", "/no/such.toml"]);
        assert_eq!(failed.status.code(), Some(1));
        if command == "check" {
            assert!(text(&failed.stderr).starts_with("error: cannot read /no/such.toml: No such file or directory\n"));
        }
    }
}

#[test]
fn without_a_running_farside_its_commands_say_so() {
    let socket = "/no/such.sock";
    for command in [&["reload"][..], &["show", "flows", "--json"], &["drain", "a/b"], &["undrain", "a/b"]] {
        let failed = farside(&[command, &["--socket", socket]].concat());
        assert_eq!(text(&failed.stderr), format!("farside: no farside is running: there is no socket {socket}\n"));
        assert_eq!(failed.status.code(), Some(1), "{command:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example");
    let mut checked = Command::new(env!("CARGO_BIN_EXE_farside"))
        .args(["check", "--config", example])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(checked.stdout.take());
    let mut errors = String::new();
    checked.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((checked.wait().unwrap().code(), errors), (Some(0), String::new()));
}

#[test]
fn wrong_commands_are_explained() {
    for arguments in [&[][..], &["dance"], &["show"], &["show", "passwords"], &["drain"]] {
        let refused = farside(arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        let help = text(&refused.stderr);
        assert!(help.contains("Usage: farside") || help.contains("possible values:"), "{help}");
    }
}

#[test]
fn there_is_room_for_every_target_that_a_file_may_have() {
    const { assert!(farside::config::MAX_TARGETS * 2 <= farside::service::status::MAX_TARGETS) };
}
