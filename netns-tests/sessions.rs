//! A crowd: five thousand sessions at once, while the servers' health comes and goes.

use crate::support::crowd::Crowd;
use crate::support::play::{Play, site_of};
use crate::support::wait::until;
use crate::support::world::Family;

const SESSIONS: usize = 5_000;

#[test]
fn five_thousand_sessions_while_servers_flap() {
    let play = Play::new(2);
    let to = play.vip(1, Family::V4);
    let crowd = Crowd::start(&play.world.client, to, SESSIONS);
    let steps = 6;
    for step in 1..=steps {
        // Sessions are being opened at every moment of a fall and of a rise.
        crowd.allow(SESSIONS * step / steps);
        if step % 2 == 1 {
            play.sicken(1);
        } else {
            play.heal(1);
        }
        until("the sessions of this step", || crowd.open() >= SESSIONS * (2 * step - 1) / (2 * steps));
    }
    until("all sessions open", || crowd.open() == SESSIONS);
    let flows = play.farside(1).flows().len();
    assert!(flows >= SESSIONS, "{flows} flows");
    play.sicken(1);
    let outcome = crowd.finish();
    assert!(outcome.failed.is_empty(), "{outcome:?}\n{}", play.logs());
    let by_site = |site| outcome.served.iter().filter(|(name, _)| site_of(name) == site).map(|(_, n)| n).sum::<usize>();
    assert_eq!(by_site(1) + by_site(2), SESSIONS, "{outcome:?}");
    assert!(by_site(1) >= SESSIONS / 10 && by_site(2) >= SESSIONS / 10, "{outcome:?}");
}
