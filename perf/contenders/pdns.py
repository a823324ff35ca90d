"""PowerDNS with the backend that reads master files, and its caches. Its pools are Lua programs in records, and are left out."""
import names
from contenders.nameserver import Nameserver
from lab import VIP

BACKEND = "/usr/lib/x86_64-linux-gnu/pdns/libbindbackend.so"

ZONES = 'zone "{origin}" {{ type master; file "{dir}/bench.zone"; }};\n'

CONFIG = """\
launch=bind
bind-config={dir}/zones.conf
config-dir={dir}
socket-dir={dir}
local-address={address}
receiver-threads={threads}
reuseport=yes
daemon=no
guardian=no
disable-syslog=yes
"""


class PowerDns(Nameserver):
    name = "pdns"
    title = "PowerDNS, bind backend, its caches"
    tools = {"pdns_server": "pdns-server", BACKEND: "pdns-backend-bind"}
    version = ["dpkg-query", "-W", "pdns-server"]
    pools = "Lua only"

    def configure(self, lab, needs):
        (lab.dir / "zones.conf").write_text(ZONES.format(origin=names.ORIGIN, dir=lab.dir))
        (lab.dir / "pdns.conf").write_text(CONFIG.format(dir=lab.dir, address=VIP, threads=needs.threads))
        return ["pdns_server", f"--config-dir={lab.dir}"]
