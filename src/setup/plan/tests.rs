//! Plans in words.

use super::*;

fn options(mode: Mode, vips: &[&str], encapsulation: Encapsulation) -> Options {
    Options {
        mode,
        vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
        encapsulation,
        underlay: None,
        gue_port: 6080,
        interface: None,
    }
}

fn facts() -> Facts {
    Facts { own: ["10.0.0.11", "fd00::11"].map(|own| own.parse().ok()), ..Facts::default() }
}

fn commands(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| step.action.to_string()).collect()
}

const VIP: &str = "203.0.113.10";
const VIP6: &str = "2001:db8:1::10";

#[test]
fn direct_hides_the_vip_before_it_is_there() {
    let mut options = options(Mode::Direct, &[VIP, VIP6], Encapsulation::Ipip);
    let expected = [
        "sysctl -w net.ipv4.conf.all.arp_ignore=1",
        "sysctl -w net.ipv4.conf.all.arp_announce=2",
        "ip address add 203.0.113.10/32 dev lo",
        "ip address add 2001:db8:1::10/128 dev lo nodad preferred_lft 0",
    ];
    assert_eq!(commands(&plan(&options, &facts()).unwrap()), expected);
    options.interface = Some("eth1".into());
    assert_eq!(commands(&plan(&options, &facts()).unwrap())[0], "sysctl -w net.ipv4.conf.eth1.arp_ignore=1");
    options.interface = Some("eth1.100".into());
    assert_eq!(commands(&plan(&options, &facts()).unwrap())[0], "sysctl -w net/ipv4/conf/eth1.100/arp_ignore=1");
    options.vips.remove(0);
    assert_eq!(commands(&plan(&options, &facts()).unwrap()), expected[3..], "IPv6 needs no such settings");
}

#[test]
fn each_tunnel_has_its_device() {
    for (encapsulation, underlay, vip, expected) in [
        (Encapsulation::Ipip, None, VIP, "ip link add fsipip type ipip local 10.0.0.11 remote any"),
        (Encapsulation::Ipip, None, VIP6, "ip link add fsip6 type ip6tnl mode any local fd00::11 remote any"),
        (Encapsulation::Ipip, Some(Underlay::Ipv4), VIP6, "ip link add fssit type sit local 10.0.0.11 remote any"),
        (
            Encapsulation::Ipip,
            Some(Underlay::Ipv6),
            VIP,
            "ip link add fsip6 type ip6tnl mode any local fd00::11 remote any",
        ),
        (Encapsulation::Gre, None, VIP, "ip link add fsgre type gre local 10.0.0.11 remote any"),
        (Encapsulation::Gre, None, VIP6, "ip link add fsgre6 type ip6gre local fd00::11 remote any"),
        (Encapsulation::Gue, None, VIP, "ip fou add port 6080 gue"),
        (Encapsulation::Gue1, None, VIP6, "ip -6 fou add port 6080 gue"),
    ] {
        let options = Options { underlay, ..options(Mode::Tunnel, &[vip], encapsulation) };
        let plan = plan(&options, &facts()).unwrap();
        let commands = commands(&plan);
        assert!(commands.iter().any(|command| command == expected), "{commands:#?}");
        let last = commands.last().unwrap();
        assert!(last.contains(vip) && !last.contains("dev lo"), "the VIP comes last, on the tunnel: {last}");
        assert!(plan.steps.iter().all(|step| !step.why.is_empty()));
    }
}

#[test]
fn two_vips_share_a_device_and_a_port() {
    let two = options(Mode::Tunnel, &[VIP, "203.0.113.11"], Encapsulation::Gue);
    let commands = commands(&plan(&two, &facts()).unwrap());
    let count = |part: &str| commands.iter().filter(|command| command.contains(part)).count();
    assert_eq!((count("fou add"), count("link add"), count("address add")), (1, 1, 2));
}

#[test]
fn a_strict_reverse_path_filter_is_outdone() {
    let options = options(Mode::Tunnel, &[VIP], Encapsulation::Ipip);
    let strict = Facts { strict_reverse_path: true, ..facts() };
    for (facts, value) in [(facts(), "0"), (strict, "2")] {
        let commands = commands(&plan(&options, &facts).unwrap());
        assert!(commands.contains(&format!("sysctl -w net.ipv4.conf.fsipip.rp_filter={value}")), "{commands:?}");
    }
}

#[test]
fn the_advice_counts_every_byte() {
    for (encapsulation, vip, numbers) in [
        (Encapsulation::Ipip, VIP, ["20 bytes", "MTU 1520", "advmss 1440"]),
        (Encapsulation::Gre, VIP, ["24 bytes", "MTU 1524", "advmss 1436"]),
        (Encapsulation::Gue, VIP, ["32 bytes", "MTU 1532", "advmss 1428"]),
        (Encapsulation::Gue1, VIP6, ["48 bytes", "MTU 1548", "advmss 1392"]),
    ] {
        let text = plan(&options(Mode::Tunnel, &[vip], encapsulation), &facts()).unwrap().text();
        assert!(numbers.iter().all(|number| text.contains(number)), "{text}");
    }
}

#[test]
fn a_kernel_without_the_device_is_told_of_decap() {
    let tunnel = options(Mode::Tunnel, &[VIP], Encapsulation::Gre);
    let lacking = plan(&tunnel, &Facts { missing: MODULES.to_vec(), ..facts() }).unwrap();
    let decap = "farside decap --interface IF --vip 203.0.113.10 --encapsulation gre";
    assert!(lacking.text().contains(&format!("# {decap}")), "{}", lacking.text());
    let having = plan(&tunnel, &facts()).unwrap();
    assert!(!having.text().contains("decap"));
    assert!(having.hint("`ip link add` failed: Unknown device type")[0].contains(decap));
    assert!(having.hint("Operation not permitted").is_empty());
}

/// What is printed can be pasted into a shell.
#[test]
fn the_text_is_a_script() {
    for mode in [Mode::Direct, Mode::Tunnel] {
        let text = plan(&options(mode, &[VIP, VIP6], Encapsulation::Ipip), &facts()).unwrap().text();
        for line in text.lines().filter(|line| !line.is_empty()) {
            assert!(["# ", "ip ", "sysctl "].iter().any(|start| line.starts_with(start)), "{line}");
        }
    }
}

#[test]
fn a_tunnel_needs_an_address_to_end_at() {
    let refused = plan(&options(Mode::Tunnel, &[VIP], Encapsulation::Ipip), &Facts::default()).unwrap_err();
    assert!(refused.starts_with("this host has no IPv4 address"), "{refused}");
}
