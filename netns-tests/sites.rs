//! Several remote sites: the best healthy one is taken.

use std::collections::BTreeMap;

use crate::support::play::{Play, site_of};
use crate::support::world::BOTH;

#[test]
fn three_sites_are_taken_by_priority() {
    let mut play = Play::new(3);
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 1, "local servers first");
    }
    play.fall(1);
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 2, "then the first in priority");
    }
    play.fall(2);
    play.wait_remote("down", 1, 2);
    play.wait_remote("down", 2, 1);
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 3, "then the second");
        assert_eq!(play.serving_site(2, family), 3);
    }
    play.rise(2);
    play.wait_remote("up", 1, 2);
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 2);
    }
    play.rise(1);
    for family in BOTH {
        assert_eq!(play.serving_site(1, family), 1);
    }
}

#[test]
fn sites_of_equal_priority_share_by_weight() {
    let mut play = Play::with(3, |_, _, config| {
        config.each(|service| {
            for remote in &mut service.remotes {
                remote.priority = 1;
                remote.weight = if remote.site == "east" { 3 } else { 1 };
            }
        })
    });
    play.fall(1);
    for family in BOTH {
        let mut served = BTreeMap::new();
        for _ in 0..80 {
            let name = play.who(1, family).expect("a session");
            *served.entry(site_of(&name)).or_insert(0) += 1;
        }
        let (north, east) = (served.get(&2).copied().unwrap_or(0), served.get(&3).copied().unwrap_or(0));
        assert!(north + east == 80 && north > 0 && east > north, "{served:?}");
    }
}

#[test]
fn real_servers_share_by_weight_and_weight_0_takes_none() {
    let play = Play::with(1, |_, _, config| {
        config.each(|service| {
            service.scheduler = "weighted_round_robin";
            service.reals[0].3 = 3;
        })
    });
    for family in BOTH {
        let mut served = BTreeMap::new();
        for _ in 0..80 {
            *served.entry(play.who(1, family).expect("a session")).or_insert(0) += 1;
        }
        // Each worker goes round by itself: near the weights, not exactly.
        let (a, b) = (served.get("r1a").copied().unwrap_or(0), served.get("r1b").copied().unwrap_or(0));
        assert!(a + b == 80 && (52..=68).contains(&a), "{served:?}");
    }
    let config = crate::support::play::standard(&play.world, 1).each(|service| service.reals[0].3 = 0);
    play.farside(1).reload(&config);
    for family in BOTH {
        for _ in 0..20 {
            assert_eq!(play.who(1, family).expect("a session"), "r1b");
        }
    }
}
