"""farside as a name server and nothing else, defaults otherwise."""
import json

import build
import names
from contenders.farside import prepared
from contenders.nameserver import Nameserver
from lab import BOX_LAN, RESOLVERS, SERVER, VIP

CONFIG = """\
[site]
name = "{site}"
[admin]
socket = "{dir}/farside.sock"
[dns]
listen = ["{address}:53"]
state_dir = "{dir}"
{more}
[[dns.zone]]
origin = "{origin}."
file = "{zone}"
[[dns.pool]]
name = "pool"
names = ["{pool}."]
ttl = "{ttl}s"
{members}"""

MEMBER = """\
[[dns.pool.member]]
name = "{name}"
addresses = ["{address}"]
{more}"""

# A site answers as many addresses as the pool above, which knows none.
SITES = """\
[[dns.pool]]
name = "sites"
names = ["{name}."]
modes = ["dynamic", "round_robin"]
share = "{share}"
ttl = "{ttl}s"
{members}
[[peer]]
name = "{other}"
{peer}
"""

LINK = """\
[link]
listen = ["{own}:{port}"]
certificate = "{dir}/{site}.crt"
key = "{dir}/{site}.key"
"""

PEER = """\
link = "{address}:{port}"
certificate = "{dir}/{other}.crt"
"""

SITE, OTHER, SHARE = "perf", "second", "sites"
LINK_PORT = 4353
ADDRESSES, LINKED_BY = {SITE: VIP, OTHER: SERVER}, {SITE: BOX_LAN, OTHER: SERVER}


class FarsideDns(Nameserver):
    ours = True
    memory = None

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
        self.writer = build.program("remembered", say)

    def config(self, directory, needs, site=SITE):
        """Of the one that is measured, or of the other node, whose socket and state are in a directory of its own below."""
        more = [self.fast_path] if self.fast_path and site == SITE else []
        # So much room that nobody is pushed out. Defaults are not written: builds that are older than a key can be measured, too.
        more += [f"max_records = {needs.records * 6 // 5}"] if needs.records else []
        config = CONFIG.format(site=site, dir=directory if site == SITE else f"{directory}/{OTHER}", address=ADDRESSES[site],
                               more="\n".join(more), origin=names.ORIGIN, zone=f"{directory}/bench.zone", pool=names.POOL,
                               ttl=names.POOL_TTL_S, members=self._members("m", names.MEMBERS))
        if needs.records:
            config += self._sites(directory, needs, site)
        return config

    @staticmethod
    def _members(letter, addresses, more=""):
        return "".join(MEMBER.format(name=f"{letter}{n}", address=address, more=more) for n, address in enumerate(addresses))

    def _sites(self, directory, needs, site):
        other = OTHER if site == SITE else SITE
        members = self._members("m", names.MEMBERS, f'site = "{SITE}"\n') \
            + self._members("e", names.MEMBERS_ELSEWHERE, f'site = "{OTHER}"\n')
        peer = PEER.format(address=LINKED_BY[other], port=LINK_PORT, dir=directory, other=other) if needs.shared else ""
        sites = SITES.format(name=names.REMEMBERED, share=SHARE, ttl=names.POOL_TTL_S, members=members, other=other, peer=peer)
        return sites + (LINK.format(own=LINKED_BY[site], port=LINK_PORT, dir=directory, site=site) if needs.shared else "")

    def configure(self, lab, needs):
        if needs.records:
            lab.run("box", [self.writer, str(lab.dir / "store"), str(needs.records), str(needs.resolvers), RESOLVERS, SHARE, SITE, OTHER],
                    60)
        if needs.shared:
            self._start_other(lab, needs)
        return [self.binary, "run", "--config", self._written(lab, needs, SITE)]

    def _written(self, lab, needs, site):
        config = lab.dir / f"{site}.toml"
        config.write_text(self.config(lab.dir, needs, site))
        return str(config)

    def _start_other(self, lab, needs):
        """The other node, which remembers the same to begin with."""
        own = lab.dir / OTHER
        own.mkdir()
        (own / "store").write_bytes((lab.dir / "store").read_bytes())
        for site in (SITE, OTHER):
            lab.run("box", [self.binary, "site", "keygen", "--site", site, "--dir", str(lab.dir)], 20)
        lab.start("server", [self.binary, "run", "--config", self._written(lab, needs, OTHER)])

    def wait_until_linked(self, lab):
        """Until the other node is heard of."""
        lab.wait_for(lambda: any(row["site"] == OTHER and row["link"] == "up" for row in self._shown(lab, "sites")),
                     "the other node is not linked", 30)

    def known(self, lab):
        """What `show dns` says of what is remembered: {"records", "hits", "misses", ...}."""
        return self._shown(lab, "dns")["store"]

    def _shown(self, lab, what):
        return json.loads(lab.run("box", [self.binary, "show", what, "--json", "--socket", f"{lab.dir}/farside.sock"], 20))
