//! Health checks ride in the encapsulation of clients' packets. Katran's checker marks its packets; here each real server has an
//! address of its own to be checked by, its door.

use super::*;
use crate::config::CheckKind;
use crate::wire::l4::{ACK, SYN};

const HOST4: &str = "169.254.64.1:5000";
const PIP4: &str = "203.0.113.250";

fn checked(encapsulation: Encapsulation) -> Bench {
    let mut config = site(encapsulation);
    config.services.iter_mut().for_each(|service| service.check.kind = CheckKind::Tcp);
    bench_of(config)
}

/// The doors of a service's real servers, with these.
fn doors(bench: &Bench, service: &str) -> Vec<(String, std::net::IpAddr)> {
    let services = bench.services.services().iter().filter(|s| &*s.name == service);
    let reals = services.flat_map(|service| &service.reals);
    let door = |slot| bench.probes.iter().find(|probe| probe.slot == slot).unwrap().door;
    reals.map(|real| (real.endpoint.addr.to_ip(real.family).to_string(), door(real.slot))).collect()
}

#[test]
fn a_check_reaches_the_server_of_its_door_as_a_clients_packet_to_the_vip_would() {
    for encapsulation in ALL {
        for (service, vip, reals) in [("web4", WEB4, REALS4), ("cross4", CROSS4, REALS6)] {
            let mut bench = checked(encapsulation);
            bench.set_up(service, false);
            let doors = doors(&bench, service);
            assert_eq!(doors.iter().map(|(real, _)| real.as_str()).collect::<Vec<_>>(), reals);
            for (real, door) in doors {
                let syn = Build::tcp(HOST4, &format!("{door}:80"), SYN);
                let (port, frame, _) = bench.run(LAN, &syn.frame(), Offload::default()).unwrap();
                let source = Seen::of(&open(&frame, shim(encapsulation)).inner).src;
                assert_eq!((port, source.ip()), (LAN, ip(PIP4)));
                // Out of the host and into the tunnel: two steps.
                let as_client = Build { ttl: syn.ttl - 1, ..Build::tcp(&source.to_string(), vip, SYN) };
                let out = arrives(&frame, encapsulation, &as_client);
                assert_eq!(out.dst, ip(&real));
                assert_eq!(bench.moved(), [("flows_probe", 1), ("encapsulated", 1)]);
                // The server answers the PIP.
                let answer = Build { ack: 1001, ..Build::tcp(vip, &source.to_string(), SYN | ACK) };
                let (_, seen) = bench.pass(LAN, &answer);
                assert_eq!((seen.src.to_string(), seen.dst.to_string().as_str()), (format!("{door}:80"), HOST4));
                assert_eq!(bench.moved(), [], "no counter of clients' connections");
            }
        }
    }
}

/// What has no mark is not sent in a tunnel by Katran.
#[test]
fn what_the_host_sends_to_anything_but_a_door_is_its_own() {
    let mut bench = checked(Encapsulation::Gue);
    for other in ["10.0.0.11:80", "192.0.2.1:80", "169.254.200.1:80"] {
        assert_eq!(bench.stop(LAN, &Build::tcp("10.0.0.1:5000", other, SYN)), Verdict::NotOurs, "{other}");
    }
    assert_eq!(bench.moved(), []);
}
