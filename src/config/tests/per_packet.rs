//! Scheduling per packet.

use super::{GOOD, good, one_error};

fn service(new: &str, place: &str, message: &str, help: &str) {
    one_error("port = 110", &format!("port = 110\n{new}"), place, message, help)
}

#[test]
fn it_is_for_udp_alone_and_off_unless_asked_for() {
    service(
        "per_packet = true",
        "18:14",
        "per_packet is for UDP: a TCP connection cannot change its server",
        "leave it out, or write protocol = \"udp\"",
    );
    service(
        "per_packet = \"yes\"",
        "18:14",
        "`per_packet` must be true or false, not \"yes\"",
        "write true or false, without quotes",
    );
    let udp = "port = 110\nprotocol = \"udp\"";
    let text = GOOD.replacen("port = 110", udp, 1).replace("kind = \"pop3\"", "kind = \"icmp\"");
    assert!(!good(&text).services[0].per_packet);
    assert!(good(&text.replacen(udp, &format!("{udp}\nper_packet = true"), 1)).services[0].per_packet);
    assert!(!good(&GOOD.replacen("port = 110", "port = 110\nper_packet = false", 1)).services[0].per_packet);
}
