//! Persistence, limits, backups.

use super::{GOOD, good, one_error};
use crate::config::Overflow;
use std::time::Duration;

#[test]
fn terms_are_read_and_have_defaults() {
    let with = |old: &str, new: &str| good(&GOOD.replacen(old, new, 1));
    let pop3 = &good(GOOD).services[0];
    assert_eq!((pop3.persistence, pop3.persistence_mask_v4, pop3.persistence_mask_v6), (Duration::ZERO, 32, 128));
    assert_eq!((pop3.max_connections, pop3.overflow), (0, Overflow::Remote));
    assert_eq!((pop3.reals[0].max_connections, pop3.reals[0].backup), (0, false));
    let terms = "port = 110\npersistence='2h'\npersistence_mask_v4=24\npersistence_mask_v6=64\nmax_connections=9\noverflow='refuse'";
    let limited = &with("port = 110", terms).services[0];
    assert_eq!((limited.persistence, limited.max_connections), (Duration::from_secs(7200), 9));
    assert_eq!(
        (limited.persistence_mask_v4, limited.persistence_mask_v6, limited.overflow),
        (24, 64, Overflow::Refuse)
    );
    let stand_in = with("\"10.0.0.12\"", "\"10.0.0.12\"\nmax_connections=3\nbackup=true").services[0].reals[1].clone();
    assert_eq!((stand_in.max_connections, stand_in.backup), (3, true));
}

#[test]
fn terms_that_will_not_do() {
    let service = |line: &str, at: &str, message: &str, help: &str| {
        one_error("port = 110", &format!("port = 110\n{line}"), at, message, help)
    };
    service(
        "persistence = \"8d\"",
        "18:15",
        "`persistence` must be from 0s to 7d, not \"8d\"",
        "write a duration from \"0s\" to \"7d\"",
    );
    service(
        "persistence_mask_v4 = 33",
        "18:23",
        "`persistence_mask_v4` must be a number of bits from 1 to 32, not 33",
        "write a whole number from 1 to 32, without quotes",
    );
    service(
        "max_connections = -1",
        "18:19",
        "`max_connections` must be a number from 0 to 1073741824, not -1",
        "write a whole number from 0 to 1073741824, without quotes",
    );
    service(
        "overflow = \"remotes\"",
        "18:12",
        "`overflow` cannot be \"remotes\"",
        "did you mean \"remote\"? The words are \"remote\", \"refuse\"",
    );
    one_error(
        "\"10.0.0.12\"",
        "\"10.0.0.12\"\nbackup = 1",
        "29:10",
        "`backup` must be true or false, not 1",
        "write true or false, without quotes",
    );
}
