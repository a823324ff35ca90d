//! `farside setup-server`: what a real server of direct and tunnel mode needs, as commands with a word on each, or done.
//!
//! [`plan`] says what is to be done, from what is asked and a few facts of the host; here it is printed, done by the `ip` program
//! and /proc/sys, or taken back. A step that is so already is left as it is, and what fails takes back what was done before it.

pub mod plan;

use crate::sys::socket::interface_index;
use plan::{Action, Facts, Step};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, UdpSocket};
use std::process::Command;

pub use plan::{Encapsulation, Mode, Options, Underlay};

/// What to do with the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    Print,
    Apply,
    Undo,
}

/// Gives what is to be printed. The error is a sentence, and some more lines if there was more to say.
pub fn setup(options: &Options, what: Do) -> Result<String, String> {
    if let Some(interface) = &options.interface {
        interface_index(interface).map_err(|why| why.to_string())?;
    }
    let facts = facts(options);
    let plan = plan::plan(options, &facts)?;
    match what {
        Do::Print => Ok(plan.text()),
        Do::Apply => apply(&plan.steps).map(|()| format!("done: {} steps", plan.steps.len())).map_err(|failed| {
            let hint = plan.hint(&failed.sentence);
            [vec![failed.sentence], failed.more, hint].concat().join("\n")
        }),
        Do::Undo => undo(&plan.steps, options),
    }
}

/// The facts of this host that a plan depends on.
fn facts(options: &Options) -> Facts {
    let own = |v4: bool| match &options.interface {
        Some(name) => {
            let all = pnet_datalink::interfaces().into_iter().filter(|interface| interface.name == *name);
            let mut ips = all.flat_map(|interface| interface.ips).map(|network| network.ip());
            ips.find(|ip| ip.is_ipv4() == v4 && !options.vips.contains(ip) && !is_link_local(ip))
        }
        None => routed_source(v4),
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let listed: Vec<String> = ["modules.dep", "modules.builtin"]
        .iter()
        .filter_map(|file| fs::read_to_string(format!("/lib/modules/{}/{file}", release.trim())).ok())
        .collect();
    let has_module = |name: &str| {
        fs::exists(format!("/sys/module/{name}")).unwrap_or(false)
            || listed.iter().any(|list| list.contains(&format!("/{name}.ko")))
    };
    Facts {
        own: [own(true), own(false)],
        strict_reverse_path: read("net/ipv4/conf/all/rp_filter").is_ok_and(|value| value == "1"),
        missing: plan::MODULES.iter().copied().filter(|name| !has_module(name)).collect(),
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The address from which this host talks to the world: of a socket that is aimed there and sends nothing.
fn routed_source(v4: bool) -> Option<IpAddr> {
    let (any, world) = if v4 { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(world).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Why not everything was done.
struct Failed {
    sentence: String,
    /// What could not be taken back either.
    more: Vec<String>,
}

/// Whether a step changed something, and how to take that back.
enum Done {
    WasSo,
    Changed(Option<Action>),
}

fn apply(steps: &[Step]) -> Result<(), Failed> {
    let mut undo: Vec<Action> = Vec::new();
    for step in steps {
        match perform(&step.action, step.undo.as_ref()) {
            Ok(Done::WasSo) => {}
            Ok(Done::Changed(back)) => undo.extend(back),
            Err(why) => {
                let sentence = format!("`{}` failed: {why}; nothing has been changed", step.action);
                let back = undo.iter().rev().filter_map(|action| {
                    let why = perform(action, None).err()?;
                    Some(format!("... but for this, which could not be taken back: `{action}`: {why}"))
                });
                return Err(Failed { sentence, more: back.collect() });
            }
        }
    }
    Ok(())
}

fn perform(action: &Action, undo: Option<&Action>) -> Result<Done, String> {
    match action {
        Action::Run(words) => match run(words) {
            Ok(()) => Ok(Done::Changed(undo.cloned())),
            Err(why) if plan::says_it_was_so(&why) => Ok(Done::WasSo),
            Err(why) => Err(why),
        },
        Action::Set { key, value } => {
            let old = read(key).map_err(|why| why.to_string())?;
            if old == *value {
                return Ok(Done::WasSo);
            }
            write(key, value).map_err(|why| in_words(&why))?;
            Ok(Done::Changed(Some(Action::Set { key: key.clone(), value: old })))
        }
    }
}

/// Takes back all that is there; what is not there is no error.
fn undo(steps: &[Step], options: &Options) -> Result<String, String> {
    let mut failed = Vec::new();
    let mut taken = 0;
    let (addresses, settings): (Vec<&Step>, Vec<&Step>) =
        steps.iter().rev().partition(|step| matches!(step.action, Action::Run(_)));
    for step in addresses {
        match step.undo.as_ref().map(|action| (action, perform(action, None))) {
            Some((action, Err(why))) if !plan::says_it_was_gone(&why) => {
                failed.push(format!("`{action}` failed: {why}"));
            }
            Some((_, Ok(_))) => taken += 1,
            _ => {}
        }
    }
    let mut said = Vec::new();
    let others = other_vips(options);
    for step in settings {
        let Action::Set { key, value } = &step.action else { continue };
        // Settings of a tunnel device went with it; another value than ours is somebody else's.
        let (Some(undo), Ok(true)) = (&step.undo, read(key).map(|now| now == *value)) else { continue };
        if let [other, ..] = others[..] {
            said.push(format!("/proc/sys/{key} stays {value}: this host has {other} on lo as well"));
            continue;
        }
        match perform(undo, None) {
            Ok(_) => taken += 1,
            Err(why) => failed.push(format!("`{undo}` failed: {why}")),
        }
    }
    if failed.is_empty() {
        said.insert(0, format!("taken back: {taken} steps"));
        Ok(said.join("\n"))
    } else {
        Err(failed.join("\n"))
    }
}

/// IPv4 addresses on lo that may be VIPs, too: for them the host must go on not answering ARP.
fn other_vips(options: &Options) -> Vec<IpAddr> {
    let lo = pnet_datalink::interfaces().into_iter().filter(|interface| interface.is_loopback());
    let ips = lo.flat_map(|interface| interface.ips).map(|network| network.ip());
    ips.filter(|ip| ip.is_ipv4() && !ip.is_loopback() && !options.vips.contains(ip)).collect()
}

fn run(words: &[String]) -> Result<(), String> {
    let output = Command::new(&words[0]).args(&words[1..]).output().map_err(|why| match why.kind() {
        ErrorKind::NotFound => format!("there is no program `{}` on this host (package iproute2)", words[0]),
        _ => why.to_string(),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = said.join("; ").replace("Error: ", "").replace("RTNETLINK answers: ", "");
    Err(if said.contains("Operation not permitted") { format!("{said} (it needs root)") } else { said })
}

fn path(key: &str) -> String {
    format!("/proc/sys/{key}")
}

fn read(key: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(key))?.trim().to_string())
}

fn write(key: &str, value: &str) -> io::Result<()> {
    fs::write(path(key), value)
}

fn in_words(why: &io::Error) -> String {
    match why.kind() {
        ErrorKind::PermissionDenied => format!("{why} (it needs root)"),
        _ => why.to_string(),
    }
}
