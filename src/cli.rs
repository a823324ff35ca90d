//! Commands and flags.

use crate::admin::rows::{What, Wish};
use crate::admin::{client, text};
use crate::config::dns::Prefix;
use crate::config::{Config, file};
use crate::decap::{self, Encapsulation};
use crate::dns::Name;
use crate::dns::dnssec::{Algorithm, files};
use crate::link::keys;
use crate::setup;
use clap::{Parser, Subcommand};
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A load balancer for a service that lives at two or more sites.
#[derive(Parser)]
#[command(name = "farside", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run in the foreground, log to stderr, until SIGTERM or SIGINT
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Tell all that is wrong with a configuration
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Take a changed configuration without losing a connection; a bad file changes nothing
    Reload {
        #[command(flatten)]
        socket: Socket,
    },
    /// Print what the running farside does
    Show {
        what: What,
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Tell what a resolver would be answered, and why
    Explain {
        /// As in the zone, the dot at its end can be left out
        name: String,
        /// Who asks
        #[arg(long, value_name = "ADDR")]
        resolver: IpAddr,
        /// The client's network that the resolver tells
        #[arg(long, value_name = "NET")]
        client_subnet: Option<Prefix>,
        #[arg(long = "type", value_enum, ignore_case = true, default_value = "a")]
        kind: Kind,
        /// A member, pool/member or site to be taken for down; can be given several times
        #[arg(long, value_name = "MEMBER")]
        down: Vec<String>,
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Give no new connections to a real server or remote site
    Drain {
        #[command(flatten)]
        target: Target,
    },
    /// Give new connections to it again
    Undrain {
        #[command(flatten)]
        target: Target,
    },
    /// Take captured packets through the data path, without a network
    Replay {
        #[command(flatten)]
        config: ConfigFile,
        /// Packets in
        #[arg(value_name = "IN.pcap")]
        input: PathBuf,
        /// Packets out
        #[arg(value_name = "OUT.pcap")]
        output: PathBuf,
        /// Write what was counted to this file
        #[arg(long, value_name = "FILE.json")]
        counters: Option<PathBuf>,
        /// A real server or remote site that is down; can be given several times
        #[arg(long, value_name = "SERVICE/NAME")]
        down: Vec<String>,
    },
    /// What has to do with DNS and needs no running farside
    Dns {
        #[command(subcommand)]
        command: Dns,
    },
    /// What has to do with this site's link to others and needs no running farside
    Site {
        #[command(subcommand)]
        command: Site,
    },
    /// On a real server: print the commands that make it ready for direct or tunnel mode, or run them
    SetupServer {
        mode: setup::Mode,
        /// The addresses that clients connect to
        #[arg(long, value_name = "ADDR", required = true, num_args = 1..)]
        vip: Vec<IpAddr>,
        /// Tunnel mode: as in farside's configuration
        #[arg(long, value_enum, default_value = "ipip")]
        encapsulation: setup::Encapsulation,
        /// Tunnel mode: the version of the server's own address in farside's configuration [default: the VIP's]
        #[arg(long, value_enum)]
        underlay: Option<setup::Underlay>,
        /// Tunnel mode: where GUE comes
        #[arg(long, value_name = "PORT", default_value_t = 6080, value_parser = clap::value_parser!(u16).range(1..))]
        gue_port: u16,
        /// Where clients' packets come in [default: anywhere]
        #[arg(long, value_name = "IF")]
        interface: Option<String>,
        /// Run the commands
        #[arg(long, conflicts_with = "undo")]
        apply: bool,
        /// Take back what they did
        #[arg(long)]
        undo: bool,
    },
    /// On a real server: take packets out of their tunnels, where the kernel has no tunnel device
    Decap {
        /// Where tunneled packets come in
        #[arg(long, value_name = "IF", required = true, num_args = 1..)]
        interface: Vec<String>,
        /// The addresses that clients connect to; they are put on a tun device of farside's own
        #[arg(long, value_name = "ADDR", required = true, num_args = 1..)]
        vip: Vec<IpAddr>,
        /// What the packets are wrapped in
        #[arg(long, value_enum, default_value = "all")]
        encapsulation: Encapsulation,
        /// Where GUE comes
        #[arg(long, value_name = "PORT", default_value_t = 6080, value_parser = clap::value_parser!(u16).range(1..))]
        gue_port: u16,
        /// The name of the tun device; %d becomes a number
        #[arg(long, value_name = "NAME", default_value = "fardecap%d")]
        tun: String,
        /// Whether a kernel program takes plain packets at the interfaces, ahead of the sockets
        #[arg(long, value_enum, default_value = "auto")]
        program: decap::program::Use,
    },
}

/// Of addresses.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Kind {
    A,
    Aaaa,
}

#[derive(Subcommand)]
enum Dns {
    /// Make a key that a zone is signed by (DNSSEC), and print the DS record for the parent
    Keygen {
        /// The zone, as `company.example`
        zone: String,
        #[arg(long, value_enum, default_value = "ecdsap256")]
        algorithm: Algorithm,
        /// Where the key's two files go [default: `keys` in the configuration's state_dir]
        #[arg(long)]
        dir: Option<PathBuf>,
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Subcommand)]
enum Site {
    /// Make the certificate and key by which other sites know this one
    Keygen {
        /// The site's name [default: as the configuration says]
        #[arg(long)]
        site: Option<String>,
        /// Where the two files go [default: where the configuration is]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// How long the certificate holds
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/farside/farside.toml")]
    config: PathBuf,
}

#[derive(clap::Args)]
struct Socket {
    /// Where the running farside listens
    #[arg(long, value_name = "PATH", default_value = "/run/farside/farside.sock")]
    socket: PathBuf,
}

#[derive(clap::Args)]
struct Target {
    #[arg(value_name = "SERVICE/NAME")]
    target: String,
    #[command(flatten)]
    socket: Socket,
}

/// Does what the command line says; an error is a sentence on stderr, and exit 1.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run { config } => crate::run::run(&config.config),
        Command::Check { config } => return check(&config.config),
        Command::Reload { socket } => said(client::reload(&socket.socket)),
        Command::Show { what, json, socket } => show(what, json, &socket.socket),
        Command::Explain { name, resolver, client_subnet, kind, down, json, socket } => {
            let wish = Wish {
                name,
                v6: kind == Kind::Aaaa,
                resolver: resolver.to_string(),
                client_subnet: client_subnet.map(|subnet| subnet.to_string()),
                down,
            };
            explain(wish, json, &socket.socket)
        }
        Command::Drain { target } => said(client::drain(&target.socket.socket, &target.target, true)),
        Command::Undrain { target } => said(client::drain(&target.socket.socket, &target.target, false)),
        Command::Replay { config, input, output, counters, down } => {
            said(crate::replay::replay(&config.config, &input, &output, counters.as_deref(), &down))
        }
        Command::Dns { command: Dns::Keygen { zone, algorithm, dir, config } } => {
            said(keygen(&zone, algorithm, dir, &config.config))
        }
        Command::Site { command: Site::Keygen { site, dir, days, config } } => {
            said(site_keygen(site, dir, days, &config.config))
        }
        Command::SetupServer { mode, vip, encapsulation, underlay, gue_port, interface, apply, undo } => {
            let options = setup::Options { mode, vips: vip, encapsulation, underlay, gue_port, interface };
            let what = match (apply, undo) {
                (true, _) => setup::Do::Apply,
                (_, true) => setup::Do::Undo,
                _ => setup::Do::Print,
            };
            said(setup::setup(&options, what))
        }
        Command::Decap { interface, vip, encapsulation, gue_port, tun, program } => {
            decap::run(&decap::Options { interfaces: interface, vips: vip, encapsulation, gue_port, tun, program })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            // A bad file's errors say themselves what they are.
            let errors = sentence.starts_with("error: ");
            complain(&if errors { sentence } else { format!("farside: {sentence}") });
            ExitCode::FAILURE
        }
    }
}

/// To stderr, which may be closed.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn check(path: &Path) -> ExitCode {
    let styled = io::stderr().is_terminal();
    let checked = file::load(path).map_err(|errors| (errors.count(), errors.render(styled)));
    let checked = checked.and_then(|config| crate::run::check_zones(&config, styled).map(|()| config));
    let printed = match checked {
        Ok(config) => print(&format!("{}: {}\n", path.display(), summary(&config))),
        Err((count, errors)) => {
            complain(&errors);
            Err(format!("{}: {count} {}", path.display(), plural(count, "error", "errors")))
        }
    };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            complain(&format!("\nfarside: {sentence}"));
            ExitCode::FAILURE
        }
    }
}

fn keygen(zone: &str, algorithm: Algorithm, dir: Option<PathBuf>, config: &Path) -> Result<String, String> {
    let origin = Name::parse(zone).map_err(|why| format!("the name {zone} cannot be: {why}"))?;
    let directory = match dir {
        Some(dir) => dir,
        None => {
            let config = file::load(config).map_err(|errors| errors.to_string())?;
            let dns = config.dns.ok_or("there is no [dns] in the configuration: say where with --dir")?;
            dns.keys_dir()
        }
    };
    let (base, key) = files::generate(&directory, &origin, algorithm)?;
    Ok(format!(
        "; {base}.private and {base}.key are written.\n\
         ; farside signs by them once the zone has `dnssec = true`, from its start or `farside reload` on.\n\
         ; When the longest TTL of the zone has passed after that, give this to the parent (the registrar):\n\
         {}\n\
         ; Where it asks for the key itself:\n\
         ; {}",
        files::ds(&origin, &key),
        files::dnskey(&origin, &key),
        base = base.display(),
    ))
}

fn site_keygen(site: Option<String>, dir: Option<PathBuf>, days: u32, config: &Path) -> Result<String, String> {
    let site = match site {
        Some(site) => file::site_name(&site)?,
        None => file::load(config).map_err(|errors| errors.to_string())?.site,
    };
    let directory = dir.unwrap_or_else(|| config.parent().map_or_else(PathBuf::new, Path::to_path_buf));
    let good_for = Duration::from_secs(u64::from(days) * 86400);
    let (certificate, key) = keys::generate(&directory, &site, good_for)?;
    let (certificate, key) = (certificate.display(), key.display());
    Ok(format!(
        "# {certificate} and {key} are written. The key stays here, and the user that farside runs as must be able to read it.\n\
         # In this site's configuration, with an address of this machine:\n\
         [link]\n\
         listen = [\"192.0.2.1:4353\"]\n\
         certificate = \"{certificate}\"\n\
         key = \"{key}\"\n\
         # Copy {site}.crt to each other site, over a way that you trust, and add to its configuration:\n\
         [[peer]]\n\
         name = \"{site}\"\n\
         link = \"192.0.2.1:4353\"\n\
         certificate = \"{site}.crt\""
    ))
}

fn summary(config: &Config) -> String {
    let services = config.services.len();
    let reals: usize = config.services.iter().map(|service| service.reals.len()).sum();
    let remotes: usize = config.services.iter().map(|service| service.remotes.len()).sum();
    let mut parts = Vec::new();
    if !config.is_dns_alone() {
        parts.push(format!(
            "{services} {}, {reals} {}, {remotes} {}",
            plural(services, "service", "services"),
            plural(reals, "real server", "real servers"),
            plural(remotes, "remote site", "remote sites")
        ));
    }
    if let Some(dns) = &config.dns {
        let (lines, zones, pools) = (config.lines.len(), dns.zones.len(), dns.pools.len());
        parts.push(format!(
            "{lines} {}, {zones} {}, {pools} {}",
            plural(lines, "line", "lines"),
            plural(zones, "zone", "zones"),
            plural(pools, "pool", "pools")
        ));
    }
    format!("ok, {}", parts.join(", "))
}

fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

/// Prints what the running farside said.
fn said(answer: Result<String, String>) -> Result<(), String> {
    let answer = answer?;
    if answer.is_empty() { Ok(()) } else { print(&format!("{}\n", answer.trim_end())) }
}

/// To stdout. Whoever reads it may have seen enough, as `head` does: no error then.
fn print(text: &str) -> Result<(), String> {
    finish(io::stdout().lock().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()))
}

fn finish(written: io::Result<()>) -> Result<(), String> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err("the running farside is of another version: its answer cannot be read, except with --json".into())
        }
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write the answer: {}", file::io_words(&error)))
        }
        _ => Ok(()),
    }
}

fn explain(wish: Wish, json: bool, socket: &Path) -> Result<(), String> {
    let answer = client::explain(socket, wish)?;
    let mut text = Vec::new();
    let written = match json {
        true => serde_json::to_writer_pretty(&mut text, &answer).map_err(io::Error::from),
        false => serde_json::from_value(answer).map_err(io::Error::from).and_then(|row| text::explain(&mut text, &row)),
    };
    finish(written)?;
    print(&format!("{}\n", String::from_utf8_lossy(&text).trim_end()))
}

fn show(what: What, json: bool, socket: &Path) -> Result<(), String> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut show = client::show(socket, what)?;
    let mut printer = text::Printer::new(what, json);
    let mut more = true;
    while more {
        let piece = show.piece()?;
        more = piece.is_some();
        let written = printer.print(&mut out, piece).and_then(|()| if more { Ok(()) } else { out.flush() });
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            return Ok(());
        }
        finish(written)?;
    }
    Ok(())
}
