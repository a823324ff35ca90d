"""NSD: processes instead of threads. It answers with as few records as the others."""
from contenders.nameserver import Nameserver

CONFIG = """\
server:
  server-count: {threads}
  reuseport: yes
  minimal-responses: yes
  ip-address: {address}
  username: ""
  chroot: ""
  zonesdir: "{dir}"
  database: ""
  pidfile: "{dir}/nsd.pid"
  xfrdfile: "{dir}/xfrd.state"
  zonelistfile: "{dir}/zone.list"
remote-control:
  control-enable: no
zone:
  name: {origin}
  zonefile: bench.zone
"""


class Nsd(Nameserver):
    name = "nsd"
    title = "NSD, reuseport"
    tools = {"nsd": "nsd"}
    version = ["nsd", "-v"]
    pools = "no pools"

    def configure(self, lab, needs):
        return ["nsd", "-d", "-c", self.write(lab, needs, "nsd.conf", CONFIG)]
