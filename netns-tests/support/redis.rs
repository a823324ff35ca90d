//! Debian's redis-server, and what is asked of it past farside.

use std::net::{IpAddr, SocketAddr, TcpStream};

use super::namespace::Namespace;
use super::process::Process;
use super::wait::until;

pub const PORT: u16 = 6379;

/// What `password_file` has to hold.
pub const PASSWORD: &str = "secret";

/// Starts a server that writes nothing down, at these addresses of a machine; it answers when this returns.
#[track_caller]
pub fn start(machine: &Namespace, addresses: &[IpAddr]) -> Process {
    let (port, addresses_in_words) = (PORT.to_string(), addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>());
    let mut arguments =
        vec!["--port", &port, "--save", "", "--protected-mode", "no", "--requirepass", PASSWORD, "--bind"];
    arguments.extend(addresses_in_words.iter().map(String::as_str));
    let process = machine.spawn("redis", "redis-server", &arguments);
    until("the Redis server", || {
        machine.inside(|| addresses.iter().all(|address| TcpStream::connect(SocketAddr::new(*address, PORT)).is_ok()))
    });
    process
}

/// What it says to a command.
#[track_caller]
pub fn ask(machine: &Namespace, address: IpAddr, command: &[&str]) -> String {
    let address = address.to_string();
    let arguments = ["-h", &address, "-a", PASSWORD, "--no-auth-warning"];
    machine.run("redis-cli", &[&arguments, command].concat()).trim().into()
}
