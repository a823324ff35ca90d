//! What clients' connections meet with speeds the fall of a server.

use crate::support::play::Play;
use crate::support::wait::until;
use crate::support::world::{BOTH, Family};

/// Out after two bad answers in a row, which the checks alone would bring after forty seconds at the earliest: longer than any test
/// waits for anything.
const SLOW: &str = "kind = \"pop3\"\ninterval = \"40s\"\ntimeout = \"2s\"\nrise = 1\nfall = 2";

/// The ports are closed, and each client is refused: then the next check comes at once, and the one after it soon.
#[test]
fn servers_that_refuse_clients_are_out_long_before_their_checks_alone_would_tell() {
    let mut play = Play::with(1, |_, _, config| config.each(|service| service.check = SLOW.into()));
    play.fell(1);
    until("the servers to be down", || {
        for family in BOTH {
            assert!(play.who(1, family).is_err());
        }
        let health = play.farside(1).show("health");
        health.as_array().expect("a list of targets").iter().all(|row| row["status"] == "down")
    });
    play.farside(1).wait_logged("of clients' connections");
    // What brings them back is checks alone: clients are refused by farside now, and nobody asks the servers.
    play.raise(1);
    assert!(play.who(1, Family::V4).is_err());
}
