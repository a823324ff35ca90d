"""NSD: processes instead of threads. It answers with as few records as the others."""
import names
from contenders.nameserver import Nameserver
from lab import VIP

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
        config = lab.dir / "nsd.conf"
        config.write_text(CONFIG.format(threads=needs.threads, address=VIP, dir=lab.dir, origin=names.ORIGIN))
        return ["nsd", "-d", "-c", str(config)]
