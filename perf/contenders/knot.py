"""Knot DNS with sockets, as it is after installation; its XDP mode is another thing."""
from contenders.nameserver import Nameserver

CONFIG = """\
server:
  listen: {address}@53
  udp-workers: {threads}
  tcp-workers: 1
  background-workers: 1
  rundir: "{dir}"
database:
  storage: "{dir}"
zone:
  - domain: {origin}
    storage: "{dir}"
    file: bench.zone
    zonefile-sync: -1
    journal-content: none
"""


class Knot(Nameserver):
    name = "knot"
    title = "Knot DNS, sockets"
    tools = {"knotd": "knot"}
    version = ["knotd", "--version"]
    pools = "no pools"

    def configure(self, lab, needs):
        return ["knotd", "-c", self.write(lab, needs, "knot.conf", CONFIG)]
