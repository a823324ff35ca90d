//! dnsmasq as a real server's name server.

use std::net::IpAddr;

use super::process::Process;
use super::wait::until;
use super::world::Real;

/// The name that it knows: its A record is [`ADDRESS`], its TXT record the real server's name.
pub const NAME: &str = "who.company.example";

pub const ADDRESS: &str = "192.0.2.99";

/// Starts a name server at these addresses of a real server, port 53; returns once it answers. What it is asked it logs on
/// standard error, as `query[TXT] who.company.example from 192.0.2.10`.
pub fn start(real: &Real, addresses: &[IpAddr]) -> Process {
    let listen: Vec<_> = addresses.iter().map(|address| format!("--listen-address={address}")).collect();
    let (a, txt) = (format!("--address=/{NAME}/{ADDRESS}"), format!("--txt-record={NAME},{}", real.name));
    // Not --no-daemon: that one serves a TCP client at a time, and nobody else as long as this one says nothing.
    let fixed = [
        "--keep-in-foreground",
        "--pid-file=",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--bind-interfaces",
        "--user=root",
        "--log-queries",
        "--log-facility=-",
    ];
    let arguments: Vec<&str> = fixed.into_iter().chain(listen.iter().map(String::as_str)).chain([&*a, &*txt]).collect();
    let server = real.host.spawn("dnsmasq", "dnsmasq", &arguments);
    for address in addresses {
        let at = format!("@{address}");
        until("the name server", || {
            real.host.output("dig", &["+short", "+time=1", "+tries=1", &at, NAME]).status.success()
        });
    }
    server
}
