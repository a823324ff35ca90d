//! Scheduling per packet.

use super::{GOOD, good, one_error, parse};

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

#[test]
fn it_knows_no_connections_to_limit_or_to_remember() {
    let udp = GOOD.replacen("kind = \"pop3\"", "kind = \"icmp\"", 1);
    for (key, value) in [("persistence", "\"5m\""), ("max_connections", "9")] {
        let lines = format!("port = 110\nprotocol = \"udp\"\nper_packet = true\n{key} = {value}");
        let errors = parse(&udp.replacen("port = 110", &lines, 1), "f");
        let told = format!("per_packet and `{key}` contradict each other: with per_packet there are no connections");
        assert!(errors.is_err_and(|errors| errors.to_string().contains(&told)), "{key}");
    }
}
