//! Against the real kernel, in namespaces of their own.

use super::lab::{Lab, Live, in_own_namespace, neighbor};
use crate::route::{NO_HOP, Step, TAP_HOP};
use crate::wire::ip::Addr;
use std::time::Duration;

/// Each of these runs in a process and a network of its own.
macro_rules! live {
    ($(fn $name:ident($lab:ident) $body:block)*) => {$(
        #[test]
        fn $name() {
            in_own_namespace(concat!("netlink::tests::", stringify!($name)), || {
                let $lab = Lab::new();
                $body
            });
        }
    )*};
}

live! {
    fn routers_are_resolved_ahead_of_need(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        for far in ["198.51.100.1", "2001:db8:99::1"] {
            live.until("the router's MAC", |live| live.hop(far).is_some());
            let (id, hop) = live.hop(far).unwrap();
            assert_ne!(id, NO_HOP);
            assert_eq!((hop.mac, hop.port, hop.mtu), (lab.router_mac(), 0, 1500));
        }
    }

    fn the_snapshot_shows_interfaces_and_addresses(lab) {
        let live = lab.live(&["wan0", "lan0"]);
        let fib = live.fib.load();
        let lan = &fib.ports()[1];
        assert_eq!((lan.name.as_str(), lan.mtu, lan.up), ("lan0", 1500, true));
        assert_eq!(fib.port_address(1, 4), Some("10.0.0.1".parse::<std::net::IpAddr>().unwrap().into()));
        assert_eq!(fib.port_address(1, 6).unwrap().to_ip(6).to_string(), "2001:db8:2::1", "not the link-local one");
        assert_eq!(live.step("203.0.113.1"), Step::Local);
        assert_eq!(live.step("127.0.0.1"), Step::Local);
        assert_eq!(live.step("203.0.113.255"), Step::NoRoute, "broadcast");
        assert_eq!(live.step("ff02::1"), Step::NoRoute);
    }

    fn a_server_is_resolved_when_a_worker_asks(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        for server in ["10.0.0.11", "2001:db8:2::11"] {
            assert_eq!(live.step(server), Step::Resolve(neighbor(1, server)));
            let epoch = live.epoch();
            live.until("the server's MAC", |live| live.demand(server).is_some());
            assert_eq!(live.hop(server).unwrap().1.mac, lab.server_mac());
            assert_eq!(live.epoch(), epoch, "a new neighbour leaves the ids of others alone");
        }
    }

    fn a_new_mac_is_followed_in_place(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        live.until("the server's MAC", |live| live.demand("10.0.0.11").is_some());
        let (id, _) = live.hop("10.0.0.11").unwrap();
        let epoch = live.epoch();
        lab.here("ip neigh replace 10.0.0.11 dev lan0 lladdr 02:00:00:00:00:77 nud reachable");
        live.until("the new MAC", |live| live.hops.get(id).is_some_and(|hop| hop.mac == [2, 0, 0, 0, 0, 0x77]));
        assert_eq!((live.hop("10.0.0.11").unwrap().0, live.epoch()), (id, epoch));
    }

    fn a_neighbor_that_is_gone_is_cleared_and_comes_back_under_its_id(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        live.until("the server's MAC", |live| live.demand("10.0.0.11").is_some());
        let (id, _) = live.hop("10.0.0.11").unwrap();
        lab.here("ip neigh del 10.0.0.11 dev lan0");
        live.until("it is lost", |live| live.hops.get(id).is_none());
        let epoch = live.epoch();
        live.until("it is back", |live| live.demand("10.0.0.11").is_some());
        assert_eq!((live.hop("10.0.0.11").unwrap().0, live.epoch()), (id, epoch));
    }

    fn a_neighbor_that_stops_answering_is_found_out(lab) {
        // Faster than a real host's: probes 50 ms apart.
        lab.here("cd /proc/sys/net/ipv4/neigh/lan0; echo 50 > retrans_time_ms; echo 0 > delay_first_probe_time");
        let mut live = lab.live(&["wan0", "lan0"]);
        live.until("the server's MAC", |live| live.demand("10.0.0.11").is_some());
        let (id, _) = live.hop("10.0.0.11").unwrap();
        lab.here("ip neigh change 10.0.0.11 dev lan0 nud stale");
        live.run_for(Duration::from_millis(300));
        assert!(live.hops.get(id).is_some(), "stale is good enough as long as nothing says otherwise");
        lab.server("ip link set eth0 arp off; ip addr flush dev eth0");
        lab.here("ip neigh change 10.0.0.11 dev lan0 nud stale");
        live.ahead = super::neighbors::CONFIRM;
        live.until("the kernel found it out", |live| live.hops.get(id).is_none());
    }

    fn only_neighbors_in_use_and_routers_are_confirmed(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        live.until("both", |live| live.demand("10.0.0.11").is_some() && live.hop("198.51.100.1").is_some());
        lab.here("ip neigh add 10.0.0.12 dev lan0 lladdr 02:00:00:00:00:12 nud stale");
        lab.here("ip neigh change 203.0.113.254 dev wan0 nud stale; ip neigh change 10.0.0.11 dev lan0 nud stale");
        live.until("the third", |live| matches!(live.step("10.0.0.12"), Step::Hop(_)));
        live.demand("10.0.0.11");
        live.ahead = super::neighbors::CONFIRM;
        live.run_for(Duration::from_millis(100));
        let state = |ip: &str| lab.here(&format!("ip neigh show {ip} nud stale"));
        assert_eq!((state("10.0.0.11"), state("203.0.113.254")), (String::new(), String::new()));
        assert!(state("10.0.0.12").contains("STALE"));
    }

    fn routes_come_change_and_go(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        let via = |port, gateway: &'static str| move |live: &Live| live.step("192.0.2.7") == Step::Resolve(neighbor(port, gateway));
        let epoch = live.epoch();
        lab.here("ip route add 192.0.2.0/24 via 10.0.0.33");
        live.until("added", via(1, "10.0.0.33"));
        assert_ne!(live.epoch(), epoch);
        lab.here("ip route replace 192.0.2.0/24 via 10.0.0.44");
        live.until("replaced", via(1, "10.0.0.44"));
        lab.here("ip route add 192.0.2.0/24 via 203.0.113.55 metric 5");
        live.run_for(Duration::from_millis(250));
        live.until("the lower metric stays", via(1, "10.0.0.44"));
        lab.here("ip route del 192.0.2.0/24 via 10.0.0.44");
        live.until("the other is left", via(0, "203.0.113.55"));
        lab.here("ip route add blackhole 192.0.2.7/32");
        live.until("a hole", |live| live.step("192.0.2.7") == Step::NoRoute);
        lab.here("ip route del blackhole 192.0.2.7/32; ip route del 192.0.2.0/24");
        live.until("the default again", |live| live.hop("192.0.2.7").is_some_and(|(_, hop)| hop.mac == lab.router_mac()));
    }

    fn routes_of_other_shapes(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        lab.here("ip link add other type veth peer name otherp; ip addr add 172.16.0.1/24 dev other; ip link set other up; ip link set otherp up");
        lab.here("ip route add 192.0.2.0/28 via inet6 fe80::77 dev lan0");
        lab.here("ip route add 192.0.2.16/28 nexthop via 10.0.0.50 weight 1 nexthop via 203.0.113.50 weight 3");
        lab.here("ip route add 192.0.2.32/28 via 172.16.0.9");
        lab.here("ip route add unreachable 192.0.2.48/28; ip route add throw 192.0.2.64/28");
        lab.here("ip route add 192.0.2.80/28 via 10.0.0.60 table 100");
        lab.here("ip -6 route add 2001:db8:77::/48 nexthop via 2001:db8:2::50 nexthop via 2001:db8:1::50");
        lab.here("ip nexthop add id 5 via 10.0.0.70 dev lan0; ip route add 192.0.2.96/28 nhid 5");
        live.until("all are here", |live| live.step("192.0.2.96") == Step::Resolve(neighbor(1, "10.0.0.70")));
        assert_eq!(live.step("192.0.2.1"), Step::Resolve(neighbor(1, "fe80::77")));
        for nowhere in ["192.0.2.33", "172.16.0.5", "192.0.2.49", "192.0.2.65"] {
            assert_eq!(live.step(nowhere), Step::NoRoute, "{nowhere}");
        }
        assert!(matches!(live.step("192.0.2.81"), Step::Hop(_)), "other tables do not count");
        let fib = live.fib.load();
        let mut seen = [0; 2];
        for i in 0..1000u64 {
            let to: std::net::IpAddr = "192.0.2.17".parse().unwrap();
            match fib.lookup(&Addr::default(), &to.into(), 4, i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                Step::Resolve(n) => seen[n.port as usize] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!((650..850).contains(&seen[0]), "{seen:?}");
        let to: std::net::IpAddr = "2001:db8:77::1".parse().unwrap();
        assert_eq!(fib.lookup(&Addr::default(), &to.into(), 6, 0), Step::Resolve(neighbor(1, "2001:db8:2::50")));
        assert_eq!(fib.lookup(&Addr::default(), &to.into(), 6, u64::MAX), Step::Resolve(neighbor(0, "2001:db8:1::50")));
        // One way's link goes down: the rest take its flows.
        lab.here("ip link set lan0 down");
        live.until("one way is left", |live| live.step("192.0.2.17") == Step::Resolve(neighbor(0, "203.0.113.50")));
    }

    fn rules_for_sources_come_and_go(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        let from = |live: &Live, from: &str| live.step_from(from, if from.contains(':') { "2001:db8:99::7" } else { "192.0.2.7" }.parse().unwrap());
        // They are resolved ahead of need, and a way that is resolved is not what it was before.
        live.until("the routers", |live| ["192.0.2.7", "2001:db8:99::7"].iter().all(|far| live.hop(far).is_some()));
        let usual = ["203.0.113.1", "2001:db8:1::1"].map(|source| from(&live, source));
        let epoch = live.epoch();
        // One table's number does not fit into a route's header.
        lab.here("ip route add default via 10.0.0.50 table 1000; ip rule add from 203.0.113.10 table 1000");
        lab.here("ip -6 route add default via 2001:db8:2::50 table 7; ip -6 rule add from 2001:db8:1::10 table 7");
        live.until("its own way", |live| from(live, "203.0.113.10") == Step::Resolve(neighbor(1, "10.0.0.50")));
        live.until("its own way", |live| from(live, "2001:db8:1::10") == Step::Resolve(neighbor(1, "2001:db8:2::50")));
        assert_ne!(live.epoch(), epoch);
        assert_eq!(["203.0.113.1", "2001:db8:1::1"].map(|source| from(&live, source)), usual, "nobody else's");
        lab.here("ip route replace default via 10.0.0.60 table 1000");
        live.until("another way", |live| from(live, "203.0.113.10") == Step::Resolve(neighbor(1, "10.0.0.60")));
        // The first that fits decides; what is for certain packets only is not followed.
        lab.here("ip route add default via 10.0.0.70 table 5; ip rule add from 203.0.113.10 fwmark 3 table 5 pref 10");
        lab.here("ip rule add from 203.0.113.10 tos 8 table 5 pref 11; ip rule add not from 203.0.113.10 table 5 pref 12");
        lab.here("ip rule add from 203.0.113.10 iif lan0 table 5 pref 13; ip rule add ipproto tcp table 5 pref 14");
        lab.here("ip rule add table 5 suppress_prefixlength 0 pref 15");
        lab.here("ip route add 192.0.2.0/24 via 10.0.0.71 table 6; ip rule add to 192.0.2.0/24 from 203.0.113.11 table 6 pref 16");
        live.until("both fit", |live| from(live, "203.0.113.11") == Step::Resolve(neighbor(1, "10.0.0.71")));
        assert_eq!(from(&live, "203.0.113.10"), Step::Resolve(neighbor(1, "10.0.0.60")));
        lab.here("ip rule add from 203.0.113.0/24 table 5 pref 9");
        live.until("an earlier rule", |live| from(live, "203.0.113.10") == Step::Resolve(neighbor(1, "10.0.0.70")));
        lab.here("ip rule del pref 9; ip rule del from 203.0.113.10 table 1000; ip -6 rule del from 2001:db8:1::10 table 7");
        live.until("as everybody", |live| ["203.0.113.10", "2001:db8:1::10"].map(|source| from(live, source)) == usual);
    }

    fn a_route_may_ask_for_smaller_packets(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        live.until("the router", |live| live.hop("198.51.100.1").is_some());
        lab.here("ip route change default via 203.0.113.254 mtu 1400");
        live.until("smaller", |live| live.hop("198.51.100.1").is_some_and(|(_, hop)| hop.mtu == 1400));
        lab.here("ip link set lan0 mtu 1300; ip route change default via 203.0.113.254");
        live.until("as it was", |live| live.hop("198.51.100.1").is_some_and(|(_, hop)| hop.mtu == 1500));
        live.until("the interface's", |live| live.demand("10.0.0.11").is_some_and(|(_, hop)| hop.mtu == 1300));
    }

    fn a_link_that_flaps_takes_its_hops_down_and_brings_them_back(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        live.until("the server's MAC", |live| live.demand("10.0.0.11").is_some());
        let (id, _) = live.hop("10.0.0.11").unwrap();
        lab.here("ip link set lan0 down");
        live.until("down", |live| !live.hops.is_valid(id) && !live.fib.load().ports()[1].up);
        assert_ne!(live.step("10.0.0.11"), Step::Hop(id), "as the kernel: by the default route meanwhile");
        lab.here("ip link set lan0 up");
        live.until("up", |live| live.demand("10.0.0.11").is_some_and(|(_, hop)| hop.port == 1));
        assert_eq!(live.hop("10.0.0.11").unwrap().0, id);
        // The cable only: the kernel keeps the routes.
        lab.server("ip link set eth0 down");
        live.until("no carrier", |live| !live.hops.is_valid(id) && !live.fib.load().ports()[1].up);
        lab.server("ip link set eth0 up");
        live.until("carrier", |live| live.demand("10.0.0.11").is_some_and(|(_, hop)| hop.port == 1));
    }

    fn a_link_may_go_and_another_of_its_name_come(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        live.until("the router", |live| live.hop("198.51.100.1").is_some());
        let before = live.fib.load().ports()[0].clone();
        lab.here("ip link del wan0");
        live.until("gone", |live| live.fib.load().ports()[0].ifindex == 0 && live.step("198.51.100.1") == Step::NoRoute);
        lab.plug_wan();
        live.until("back", |live| live.hop("198.51.100.1").is_some());
        let after = live.fib.load().ports()[0].clone();
        assert_ne!((before.ifindex, before.mac), (after.ifindex, after.mac));
        assert_eq!(live.hop("198.51.100.1").unwrap().1.mac, lab.router_mac(), "not the old router's");
        lab.here("ip link set wan0 address 02:00:00:00:00:aa");
        live.until("our own new MAC", |live| live.fib.load().ports()[0].mac == [2, 0, 0, 0, 0, 0xaa]);
    }

    fn lost_notifications_are_made_good(lab) {
        let mut live = Live::open(&["wan0", "lan0"], None, 2048).unwrap();
        live.settle();
        live.until("the server's MAC", |live| live.demand("10.0.0.11").is_some());
        let (id, _) = live.hop("10.0.0.11").unwrap();
        live.run_for(Duration::from_millis(300));
        // Nobody reads meanwhile, and hardly anything fits.
        lab.here("for i in $(seq 100 250); do echo route add 192.0.2.$i/32 via 10.0.0.11; echo neigh add 10.0.0.$i dev lan0 lladdr 02:00:00:00:01:01 nud reachable; done | ip -batch -");
        lab.here("ip neigh replace 10.0.0.11 dev lan0 lladdr 02:00:00:00:00:66 nud permanent; ip neigh del 10.0.0.101 dev lan0");
        live.until("the last route", |live| live.hop("192.0.2.249").is_some_and(|(_, hop)| hop.mac == [2, 0, 0, 0, 0, 0x66]));
        assert_eq!(live.hop("192.0.2.101").unwrap().0, id);
        assert!(live.netlink.losses() > 0, "the test lost nothing");
        assert_eq!(live.hop("10.0.0.249").unwrap().1.mac, [2, 0, 0, 0, 1, 1]);
        assert_eq!(live.step("10.0.0.101"), Step::Resolve(neighbor(1, "10.0.0.101")));
    }

    fn snapshots_are_published_at_most_ten_times_a_second(lab) {
        let mut live = lab.live(&["wan0", "lan0"]);
        live.run_for(Duration::from_millis(300));
        let mut seen = vec![live.epoch()];
        let end = std::time::Instant::now() + Duration::from_secs(1);
        let mut i = 0;
        while std::time::Instant::now() < end {
            i += 1;
            lab.here(&format!("ip route replace 192.0.2.0/24 via 10.0.0.{}", 20 + i % 200));
            live.turn(Duration::from_millis(1));
            if *seen.last().unwrap() != live.epoch() {
                seen.push(live.epoch());
            }
        }
        assert!(i > 20, "{i} changes");
        assert!((3..=12).contains(&seen.len()), "{seen:?}");
        let last = format!("10.0.0.{}", 20 + i % 200);
        live.until("the last one counts", |live| live.step("192.0.2.1") == Step::Resolve(neighbor(1, &last)));
    }

    fn the_health_checks_device_is_no_way_out(lab) {
        lab.here("ip link add probe type veth peer name probep; ip addr add 169.254.9.1/30 dev probe; ip link set probep up; ip link set probe up");
        lab.here("ip route add 198.51.100.0/24 dev probe");
        let mut live = Live::open(&["wan0", "lan0"], Some("probe"), 1 << 20).unwrap();
        live.settle();
        assert_eq!(live.step("169.254.9.1"), Step::Hop(TAP_HOP));
        let hop = live.hops.get(TAP_HOP).unwrap();
        assert_eq!((hop.port, hop.mac), (2, live.fib.load().ports()[2].mac));
        live.until("the route by wan0", |live| live.hop("198.51.100.1").is_some_and(|(_, hop)| hop.port == 0));
        lab.here("ip link del probe");
        live.until("gone", |live| live.hops.get(TAP_HOP).is_none());
    }

    fn interfaces_must_exist_and_be_ethernet(lab) {
        let error = |interfaces: &[&str]| Live::open(interfaces, None, 1 << 20).err().unwrap().to_string();
        let missing = error(&["wan9"]);
        assert!(missing.starts_with("interface wan9 does not exist; this host has lo, "), "{missing}");
        assert!(error(&["wan0", "lo"]).starts_with("interface lo is not Ethernet"));
        drop(lab);
    }
}
