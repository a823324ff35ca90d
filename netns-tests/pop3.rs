//! The proof that started it all: POP3 dies at site 1, and mail clients go on reading.

use std::fs;

use crate::support::client::open;
use crate::support::config::{Config, quick_check, real_target};
use crate::support::dovecot::{Dovecot, PASSWORD, USER, mails};
use crate::support::farside::Farside;
use crate::support::play::{Play, site_of};
use crate::support::world::{BOTH, Family, World};

#[test]
fn mail_is_read_from_the_other_site_while_pop3_is_dead_here() {
    let world = World::new(2);
    let mut dovecots: Vec<_> = world
        .sites()
        .iter()
        .flat_map(|site| site.reals.iter().map(move |real| (real, Dovecot::start(site, real))))
        .collect();
    let config = |site| Config::standard(&world, site, "pop3", "tcp", 110, &quick_check("pop3"));
    let mut south = Farside::launch(world.site(1), &config(1));
    let mut north = Farside::launch(world.site(2), &config(2));
    south.wait_ready();
    north.wait_ready();
    let targets: Vec<_> = world
        .site(1)
        .reals
        .iter()
        .flat_map(|real| BOTH.map(|family| real_target("pop3", family, &real.name)))
        .collect();
    south.wait_status("up", &targets);
    all_mail_is_read(&world, 1);

    for (_, dovecot) in dovecots.iter_mut().filter(|(real, _)| real.name.starts_with("r1")) {
        dovecot.kill();
    }
    south.wait_status("down", &targets);
    all_mail_is_read(&world, 2);

    for (real, dovecot) in dovecots.iter_mut().filter(|(real, _)| real.name.starts_with("r1")) {
        dovecot.run_again(real);
    }
    south.wait_status("up", &targets);
    all_mail_is_read(&world, 1);
    south.stop();
    north.stop();
}

/// Reads all mail through site 1's VIPs with curl and mpop, and compares it; `site` has to be the one that serves.
fn all_mail_is_read(world: &World, site: u8) {
    for family in BOTH {
        let vip = world.site(1).vip(family);
        let host = if family == Family::V6 { format!("[{vip}]") } else { vip.to_string() };
        for (mail, n) in mails().iter().zip(1..) {
            let (url, login) = (format!("pop3://{host}/{n}"), format!("{USER}:{PASSWORD}"));
            let output = world.client.output("curl", &["-gsSv", "-m", "20", "-u", &login, &url]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{url}: {said}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), *mail, "mail {n}");
            let greeting = said.lines().find(|line| line.starts_with("< +OK r")).unwrap_or_else(|| panic!("{said}"));
            assert_eq!(site_of(greeting.strip_prefix("< +OK ").expect("just found")), site, "{greeting}");
        }

        let maildir = world.directory().join(format!("client-{family:?}-{site}"));
        for directory in ["tmp", "cur", "new"] {
            fs::create_dir_all(maildir.join(directory)).expect("a maildir");
        }
        let (delivery, ids) = (maildir.display(), maildir.join("uidls"));
        let _ = fs::remove_file(&ids);
        let arguments = [
            format!("--host={vip}"),
            format!("--user={USER}"),
            format!("--passwordeval=echo {PASSWORD}"),
            format!("--delivery=maildir,{delivery}"),
            format!("--uidls-file={}", ids.display()),
        ];
        let fixed = ["--port=110", "--auth=user", "--tls=off", "--keep=on", "--received-header=off", "--timeout=20"];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(fixed).collect();
        world.client.run("mpop", &arguments);
        let mut got: Vec<String> = fs::read_dir(maildir.join("new"))
            .expect("the client's maildir")
            .map(|entry| fs::read_to_string(entry.expect("a mail").path()).expect("a mail"))
            .map(|mail| mail.replace('\n', "\r\n"))
            .collect();
        fs::remove_dir_all(&maildir).expect("remove the client's maildir");
        got.sort_by_key(String::len);
        assert_eq!(got, mails(), "mpop");
    }
}

#[test]
fn a_connection_never_changes_its_target() {
    let mut play = Play::new(2);
    for family in BOTH {
        play.fall(1);
        let (mut carried, greeting) = open(&play.world.client, play.vip(1, family)).expect("a carried session");
        assert!(greeting.starts_with("+OK r2"), "{greeting}");
        play.rise(1);
        assert_eq!(play.serving_site(1, family), 1, "new connections are local again");
        assert_eq!(carried.ask("NOOP").expect("the carried session goes on"), "+OK");
        let (mut local, greeting) = open(&play.world.client, play.vip(1, family)).expect("a local session");
        assert!(greeting.starts_with("+OK r1"), "{greeting}");
        assert_eq!(local.ask("QUIT").expect("an answer"), "+OK");
        assert_eq!(carried.ask("QUIT").expect("an answer"), "+OK");
    }
}
