"""Who stands on the box. A contender is a file here; it says what to install, how to start, and where to call.

`prepare` runs once per run, `start` once per trial inside a fresh Lab; stopping is the Lab's work."""
from contenders.direct import Direct
from contenders.dpdk import Dpdk
from contenders.farside import Farside
from contenders.farside_dns import FarsideDns
from contenders.gdnsd import Gdnsd
from contenders.haproxy import Haproxy
from contenders.ipvs import Ipvs
from contenders.knot import Knot
from contenders.nftables import Nftables
from contenders.nginx import Nginx
from contenders.nsd import Nsd
from contenders.pdns import PowerDns


def peers():
    """In the order in which they take their turns; the first one is the reference of the ratios."""
    return [Direct(), Nftables(), Ipvs(), Haproxy(), Nginx(), Dpdk()]


def farsides(given):
    """The farside built from this tree or, for each `[NAME=]PATH` given, that binary."""
    if not given:
        return [Farside("farside", None)]
    split = [item.rpartition("=") for item in given]
    names = [name or ("farside" if number == 0 else f"farside-{number + 1}")
             for number, (name, _, _) in enumerate(split)]
    taken = {peer.name for peer in peers()}
    if len(set(names)) < len(names) or taken & set(names):
        raise SystemExit("perf/run: every --farside needs a name of its own")
    return [Farside(name, path) for name, (_, _, path) in zip(names, split)]


def backends(usual):
    """A farside's other ways to the wire."""
    return [Farside(f"{usual.name}-ring", usual.binary, kernel_path=False),
            Farside(f"{usual.name}-xdp", usual.binary, backend="af_xdp")]


def modes(usual):
    """The modes in which answers go past farside."""
    return [Farside(f"{usual.name}-{mode}", usual.binary, mode=mode) for mode in ("direct", "tunnel")]


def nameservers(farsides):
    """Those of the DNS cases; the first one is the reference."""
    ours = [FarsideDns(f"{one.name}-{kind}", one.binary, fast)
            for one in farsides for kind, fast in (("dns", False), ("dns-fast", True))]
    return [Gdnsd(), Nsd(), Knot(), PowerDns(), *ours]


def everybody(usual):
    return [*peers(), usual, *backends(usual), *modes(usual), *nameservers([usual])]
