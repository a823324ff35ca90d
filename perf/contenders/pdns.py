"""PowerDNS with the backend that reads master files, and its caches. Its pools are Lua programs in records, and are left out."""
from contenders.nameserver import Nameserver

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
        self.write(lab, needs, "zones.conf", ZONES)
        self.write(lab, needs, "pdns.conf", CONFIG)
        return ["pdns_server", f"--config-dir={lab.dir}"]
