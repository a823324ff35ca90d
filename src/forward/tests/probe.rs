//! Checks of real servers that have the VIP: by the way of clients' packets, and answered to this box.

use super::bench::{Bench, LAN, PIP, VIP, one_sided};
use super::tunnel::open;
use crate::config::{CheckKind, Config, Encapsulation, Mode};
use crate::counters::Refusal;
use crate::forward::Verdict;
use crate::testing::{Build, Seen};
use crate::wire::l4::{ACK, SYN};
use std::net::{IpAddr, SocketAddr};

const HOST: &str = "169.254.64.1:5000";

/// The mode's services, checked by TCP.
fn config(mode: Mode) -> Config {
    let mut config = one_sided(mode, Encapsulation::Gue);
    for service in &mut config.services {
        service.check.kind = CheckKind::Tcp;
    }
    config
}

fn door(bench: &Bench, target: &str) -> IpAddr {
    let reals = bench.services.services().iter().flat_map(|service| &service.reals);
    let slot = reals.into_iter().find(|real| real.name == target).unwrap().slot;
    bench.probes.iter().find(|probe| probe.slot == slot).unwrap().door
}

#[test]
fn a_check_goes_to_its_own_server_from_a_pip_to_the_vip() {
    let mut bench = Bench::with(config(Mode::Direct));
    for (real, mac) in [("pop3/10.0.0.11:1100", 11), ("pop3/10.0.0.12:110", 12)] {
        bench.set_up(real, false);
        let door = format!("{}:110", door(&bench, real));
        let (port, seen) = bench.pass(LAN, &Build::tcp(HOST, &door, SYN));
        assert_eq!((port, seen.dst_mac), (LAN, [2, 0, 0, 0, 2, mac]), "though it is down");
        assert_eq!((seen.src.ip().to_string().as_str(), seen.dst.to_string().as_str()), (PIP, VIP));
        assert!((512..1024).contains(&seen.src.port()), "beside the ports of connections: {}", seen.src.port());
        assert_eq!((bench.active(real), bench.moved()), (0, vec![("flows_probe", 1)]), "it is no connection");
    }
}

#[test]
fn a_check_goes_through_the_tunnel() {
    let mut bench = Bench::with(config(Mode::Tunnel));
    let door = format!("{}:110", door(&bench, "pop3/10.0.0.12:110"));
    let syn = Build::tcp(HOST, &door, SYN);
    let (port, frame, _) = bench.run(LAN, &syn.frame(), Default::default()).unwrap();
    let outer = open(&frame, 4);
    assert_eq!((port, outer.dst.to_string().as_str()), (LAN, "10.0.0.12"));
    let inner = Seen::of(&outer.inner);
    assert_eq!((inner.src.ip().to_string().as_str(), inner.dst.to_string().as_str()), (PIP, VIP));
    // The server answers the PIP, which the check's socket hears from the door. (No tap here: the default route is as good.)
    let (_, seen) = bench.pass(LAN, &Build::tcp(VIP, &inner.src.to_string(), SYN | ACK));
    assert_eq!((seen.src.to_string(), seen.dst.to_string().as_str()), (door, HOST));
    assert_eq!(bench.moved(), [("flows_probe", 1), ("encapsulated", 1)]);
}

#[test]
fn a_check_of_another_port_or_protocol_meets_that_at_the_vip() {
    let mut config = config(Mode::Direct);
    config.services[1].check.port = Some(8080);
    let mut bench = Bench::with(config);
    // The service is UDP at 514; it is asked over TCP whether it is well.
    let door = door(&bench, "syslog/10.0.0.11:514");
    let seen = bench.pass(LAN, &Build::tcp(HOST, &format!("{door}:8080"), SYN)).1;
    assert_eq!(seen.dst, "203.0.113.10:8080".parse::<SocketAddr>().unwrap());
    assert_eq!(bench.stop(LAN, &Build::tcp(HOST, &format!("{door}:514"), SYN)), Verdict::NotOurs);
}

#[test]
fn a_servers_door_goes_with_it() {
    let mut bench = Bench::with(config(Mode::Direct));
    let door = format!("{}:110", door(&bench, "pop3/10.0.0.12:110"));
    bench.pass(LAN, &Build::tcp(HOST, &door, SYN));
    let mut less = config(Mode::Direct);
    less.services[0].reals.pop();
    bench.reload(&less);
    let more = bench.stop(LAN, &Build::tcp(HOST, &door, ACK));
    assert_eq!(more, Verdict::Refuse(Refusal::NoService), "it goes nowhere else");
}

#[test]
fn in_nat_mode_and_where_nothing_is_asked_at_the_vip_there_are_no_doors() {
    let mut config = config(Mode::Direct);
    config.services[0].mode = Mode::Nat;
    config.services[1].check.kind = CheckKind::Icmp;
    config.services[2].check.kind = CheckKind::None;
    let bench = Bench::with(config);
    let remotes = bench.services.services().len();
    assert_eq!(bench.probes.len(), remotes, "those of the remote sites");
}
