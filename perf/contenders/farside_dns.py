"""farside as a name server and nothing else, defaults otherwise."""
import names
from contenders.farside import prepared
from contenders.nameserver import Nameserver
from lab import VIP

CONFIG = """\
[site]
name = "perf"
[admin]
socket = "{dir}/farside.sock"
[dns]
listen = ["{address}:53"]
{fast_path}
state_dir = "{dir}"
[[dns.zone]]
origin = "{origin}."
file = "{dir}/bench.zone"
[[dns.pool]]
name = "pool"
names = ["{pool}."]
ttl = "{ttl}s"
"""

MEMBER = """\
[[dns.pool.member]]
name = "{name}"
addresses = ["{address}"]
"""


class FarsideDns(Nameserver):
    ours = True

    def __init__(self, name, binary, fast_path=False):
        self.name = name
        way = "past the host's stack (fast_path)" if fast_path else "by sockets"
        self.title = f"farside, DNS alone, {way}, a thread for each CPU that it may use"
        self.binary = binary
        self.fast_path = 'fast_path = ["wan0"]' if fast_path else ""

    @property
    def version(self):
        return self.binary and [self.binary, "--version"]

    def prepare(self, say):
        self.binary = prepared(self.binary, say)

    def config(self, directory):
        members = (MEMBER.format(name=f"m{n}", address=address) for n, address in enumerate(names.MEMBERS))
        return CONFIG.format(dir=directory, address=VIP, origin=names.ORIGIN, pool=names.POOL,
                             ttl=names.POOL_TTL_S, fast_path=self.fast_path) + "".join(members)

    def configure(self, lab, needs):
        config = lab.dir / "farside.toml"
        config.write_text(self.config(lab.dir))
        return [self.binary, "run", "--config", str(config)]
