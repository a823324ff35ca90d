//! What a real server needs, step by step, as a pure function of what is asked and of a few facts.

use std::fmt;
use std::net::IpAddr;

/// How farside reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// On the same link: only the MAC address is rewritten
    Direct,
    /// Anywhere: packets come wrapped in others
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Encapsulation {
    /// IP in IP
    Ipip,
    /// GRE
    Gre,
    /// Generic UDP encapsulation, variant 0
    Gue,
    /// Generic UDP encapsulation, variant 1
    Gue1,
}

/// The version of the IP packets that tunnels are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Underlay {
    Ipv4,
    Ipv6,
}

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub mode: Mode,
    pub vips: Vec<IpAddr>,
    pub encapsulation: Encapsulation,
    /// Of the server's address in farside's configuration; None: the VIP's own.
    pub underlay: Option<Underlay>,
    pub gue_port: u16,
    /// Where clients' packets come in; None: anywhere.
    pub interface: Option<String>,
}

/// What the plan has to know of the host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The server's own address, IPv4 and IPv6.
    pub own: [Option<IpAddr>; 2],
    /// `net.ipv4.conf.all.rp_filter` is 1.
    pub strict_reverse_path: bool,
    /// Those of [`MODULES`] that are neither loaded nor found among the kernel's modules.
    pub missing: Vec<&'static str>,
}

/// Kernel modules of tunnel devices.
pub const MODULES: [&str; 7] = ["ipip", "sit", "ip6_tunnel", "ip_gre", "ip6_gre", "fou", "fou6"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A command and its arguments.
    Run(Vec<String>),
    /// A kernel setting: its path below /proc/sys, since an interface's name may have dots in it.
    Set { key: String, value: String },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Run(words) => f.write_str(&words.join(" ")),
            // sysctl takes either separator, whichever comes first.
            Action::Set { key, value } if key.contains('.') => write!(f, "sysctl -w {key}={value}"),
            Action::Set { key, value } => write!(f, "sysctl -w {}={value}", key.replace('/', ".")),
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub why: String,
    pub action: Action,
    /// What takes it back; None: it goes with something else.
    pub undo: Option<Action>,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Words without a command.
    notes: Vec<String>,
    /// What to say if a tunnel device cannot be made.
    instead: Option<String>,
}

impl Plan {
    /// The commands, each with its reason above it; a script that can be run.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for step in &self.steps {
            let reason = format!("# {}", step.why);
            if lines.last() != Some(&String::new()) && !lines.is_empty() {
                lines.push(String::new());
            }
            lines.push(reason);
            lines.push(step.action.to_string());
        }
        for note in &self.notes {
            lines.push(String::new());
            lines.push(format!("# {note}"));
        }
        lines.join("\n")
    }

    /// What else can be done, if this was why it failed.
    pub fn hint(&self, failure: &str) -> Vec<String> {
        let no_device = ["Unknown device type", "not supported", "No such device", "type unknown"];
        let lacks = no_device.iter().any(|words| failure.contains(words)) || failure.contains("fou add");
        self.instead.iter().filter(|_| lacks).cloned().collect()
    }
}

/// Of an error of `ip`: the address or device was there before.
pub fn says_it_was_so(why: &str) -> bool {
    ["File exists", "already assigned", "already in use"].iter().any(|words| why.contains(words))
}

/// Of an error of `ip`: there is nothing to take away.
pub fn says_it_was_gone(why: &str) -> bool {
    ["Cannot find device", "Cannot assign requested address", "ddress not found", "No such"]
        .iter()
        .any(|words| why.contains(words))
}

fn ip(words: &str) -> Action {
    Action::Run(format!("ip {words}").split_whitespace().map(str::to_string).collect())
}

fn set(key: String, value: &str) -> Action {
    Action::Set { key, value: value.to_string() }
}

/// The plan. Errors are sentences.
pub fn plan(options: &Options, facts: &Facts) -> Result<Plan, String> {
    let mut plan = Plan::default();
    if options.vips.iter().any(IpAddr::is_ipv4) {
        hide_from_arp(&mut plan, options);
    }
    match options.mode {
        Mode::Direct => direct(&mut plan, options),
        Mode::Tunnel => tunnel(&mut plan, options, facts)?,
    }
    Ok(plan)
}

/// Before the VIP is there: the other way round the host would claim it on the link for a moment.
fn hide_from_arp(plan: &mut Plan, options: &Options) {
    let on = options.interface.as_deref().unwrap_or("all");
    for (key, value, why) in [
        (
            "arp_ignore",
            "1",
            "Answer ARP for addresses of the asked interface only: the VIP on this link is farside's to answer for.",
        ),
        (
            "arp_announce",
            "2",
            "Ask by ARP in the interface's own name, never in the VIP's: neighbors would take this host for the VIP's.",
        ),
    ] {
        let key = format!("net/ipv4/conf/{on}/{key}");
        plan.steps.push(Step { why: why.into(), undo: Some(set(key.clone(), "0")), action: set(key, value) });
    }
}

fn add_vip(plan: &mut Plan, vip: &IpAddr, device: &str, why: &str) {
    let (address, options) = match vip {
        IpAddr::V4(_) => (format!("{vip}/32"), ""),
        // No duplicate address detection: farside has it too, rightly. Deprecated: nothing goes out from it unasked.
        IpAddr::V6(_) => (format!("{vip}/128"), " nodad preferred_lft 0"),
    };
    plan.steps.push(Step {
        why: why.into(),
        action: ip(&format!("address add {address} dev {device}{options}")),
        undo: Some(ip(&format!("address del {address} dev {device}"))),
    });
}

fn direct(plan: &mut Plan, options: &Options) {
    for vip in &options.vips {
        let why = match vip {
            IpAddr::V4(_) => "The server takes packets to the VIP for its own. On lo, where no neighbor asks for it.",
            IpAddr::V6(_) => {
                "The server takes packets to the VIP for its own. On lo, since a host answers neighbor solicitations only for \
                 addresses of the interface that they come by; never chosen as the source of what the server begins itself."
            }
        };
        add_vip(plan, vip, "lo", why);
    }
    plan.notes.push(
        "The service must listen on the VIP or on all addresses, at the port that clients use: direct mode changes no port. Answers \
         go to clients by the server's own default route."
            .into(),
    );
}

fn tunnel(plan: &mut Plan, options: &Options, facts: &Facts) -> Result<(), String> {
    let vips: Vec<String> = options.vips.iter().map(IpAddr::to_string).collect();
    let encapsulation = match options.encapsulation {
        Encapsulation::Ipip => "ipip",
        Encapsulation::Gre => "gre",
        Encapsulation::Gue => "gue",
        Encapsulation::Gue1 => "gue1",
    };
    let over_udp = matches!(options.encapsulation, Encapsulation::Gue | Encapsulation::Gue1);
    let gue_port =
        if over_udp && options.gue_port != 6080 { format!(" --gue-port {}", options.gue_port) } else { String::new() };
    let instead = format!(
        "farside decap --interface {} --vip {} --encapsulation {encapsulation}{gue_port}",
        options.interface.as_deref().unwrap_or("IF"),
        vips.join(" "),
    );
    plan.instead =
        Some(format!("a kernel without this tunnel device can have farside's own far end instead: `{instead}`"));
    let mut devices: Vec<Device> = Vec::new();
    let mut ports: Vec<bool> = Vec::new();
    for vip in &options.vips {
        let outer_v4 = options.underlay.map_or(vip.is_ipv4(), |underlay| underlay == Underlay::Ipv4);
        let device = device(options.encapsulation, outer_v4, vip.is_ipv4());
        if over_udp && !ports.contains(&outer_v4) {
            ports.push(outer_v4);
            gue(plan, options.gue_port, outer_v4);
        }
        if !devices.contains(&device) {
            let own = facts.own[usize::from(!outer_v4)].ok_or(format!(
                "this host has no {} address for the tunnel to end at{}; give another --interface or --underlay",
                if outer_v4 { "IPv4" } else { "IPv6" },
                options.interface.as_ref().map_or(String::new(), |name| format!(" on {name}")),
            ))?;
            add_device(plan, &device, own, facts);
            devices.push(device.clone());
        }
        add_vip(plan, vip, device.name, "The server takes packets to the VIP for its own.");
    }
    let modules = devices.iter().map(|device| device.module);
    let modules = modules.chain(ports.iter().map(|v4| if *v4 { "fou" } else { "fou6" }));
    let missing: Vec<&str> = modules.filter(|module| facts.missing.contains(module)).collect();
    if !missing.is_empty() {
        plan.notes.push(format!(
            "This kernel seems to lack {}. If so, run farside's own far end instead of all this:\n# {instead}",
            missing.join(", ")
        ));
    }
    mtu_advice(plan, options);
    plan.notes.push(
        "Whoever can send such packets here can make up their inner source: let only farside's addresses through, by the firewall \
         (IP protocols 4, 41, 47, or the GUE port). The service must listen on the VIP or on all addresses; answers go to clients \
         by the server's own default route."
            .into(),
    );
    Ok(())
}

/// A kernel tunnel device that takes packets from anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    name: &'static str,
    kind: &'static str,
    more: &'static str,
    module: &'static str,
}

fn device(encapsulation: Encapsulation, outer_v4: bool, inner_v4: bool) -> Device {
    let (name, kind, more, module) = match (encapsulation, outer_v4, inner_v4) {
        (Encapsulation::Gre, true, _) => ("fsgre", "gre", "", "ip_gre"),
        (Encapsulation::Gre, false, _) => ("fsgre6", "ip6gre", "", "ip6_gre"),
        (_, true, true) => ("fsipip", "ipip", "", "ipip"),
        (_, true, false) => ("fssit", "sit", "", "sit"),
        (_, false, _) => ("fsip6", "ip6tnl", " mode any", "ip6_tunnel"),
    };
    Device { name, kind, more, module }
}

fn add_device(plan: &mut Plan, device: &Device, own: IpAddr, facts: &Facts) {
    let Device { name, kind, more, .. } = device;
    plan.steps.push(Step {
        why: "The tunnel's end: takes the outer header off what comes to this address, from whomever.".into(),
        action: ip(&format!("link add {name} type {kind}{more} local {own} remote any")),
        undo: Some(ip(&format!("link del {name}"))),
    });
    let value = if facts.strict_reverse_path { "2" } else { "0" };
    plan.steps.push(Step {
        why: "Clients' packets come by the tunnel and answers leave by another way, which strict reverse path filtering would drop \
              (2, loose, outdoes the 1 of net.ipv4.conf.all.rp_filter)."
            .into(),
        action: set(format!("net/ipv4/conf/{name}/rp_filter"), value),
        undo: None,
    });
    plan.steps.push(Step { why: "On.".into(), action: ip(&format!("link set {name} up")), undo: None });
}

fn gue(plan: &mut Plan, port: u16, outer_v4: bool) {
    let family = if outer_v4 { "" } else { "-6 " };
    plan.steps.push(Step {
        why: "UDP at this port is GUE, of either variant: the kernel takes it off and looks for the tunnel of what is inside.".into(),
        action: ip(&format!("{family}fou add port {port} gue")),
        undo: Some(ip(&format!("{family}fou del port {port}"))),
    });
}

/// What the outer headers add to a packet.
fn overhead(encapsulation: Encapsulation, outer_v4: bool) -> u32 {
    let ip = if outer_v4 { 20 } else { 40 };
    ip + match encapsulation {
        Encapsulation::Ipip => 0,
        Encapsulation::Gre => 4,
        Encapsulation::Gue => 12,
        Encapsulation::Gue1 => 8,
    }
}

fn mtu_advice(plan: &mut Plan, options: &Options) {
    let mut said = Vec::new();
    for vip in &options.vips {
        let outer_v4 = options.underlay.map_or(vip.is_ipv4(), |underlay| underlay == Underlay::Ipv4);
        let over = overhead(options.encapsulation, outer_v4);
        let headers = if vip.is_ipv4() { 40 } else { 60 };
        if said.contains(&(over, headers)) {
            continue;
        }
        said.push((over, headers));
        plan.notes.push(format!(
            "What clients send grows by {over} bytes on its way from farside to here: a path of MTU {} takes it whole. On a path of \
             1500, farside tells clients by ICMP to send less; where ICMP gets lost, let the server ask for less in its answers to \
             {vip}: ip route change default via GATEWAY advmss {}",
            1500 + over,
            1500 - over - headers
        ));
    }
}

#[cfg(test)]
mod tests;
