"""nftables: the kernel's own NAT, destination and source, with connection tracking."""
import pathlib

from contenders.contender import Contender
from lab import BOX_LAN, HTTP_PORT, IPERF_PORT, SERVER, SINK_PORT, VIP

DESTINATION = f"""\
table ip perf {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {VIP} tcp dport {{ {HTTP_PORT}, {IPERF_PORT} }} dnat to {SERVER}
    ip daddr {VIP} udp dport {SINK_PORT} dnat to {SERVER}
  }}
}}
"""

SOURCE = f"""\
table ip perf {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip daddr {SERVER} oifname "lan0" snat to {BOX_LAN}
  }}
}}
"""

LIMIT = pathlib.Path("/proc/sys/net/netfilter/nf_conntrack_max")


class Nftables(Contender):
    name = "nftables"
    title = "kernel DNAT + SNAT with connection tracking"
    tools = {"nft": "nftables"}
    version = ["nft", "--version"]
    quick = True
    processes = False

    def too_few_flows(self, flows):
        """The limit is the whole machine's, and not ours to raise."""
        limit = int(LIMIT.read_text()) if LIMIT.exists() else 0
        return None if limit >= flows else f"nf_conntrack_max {limit}"

    def flows(self, lab):
        return int(lab.run("box", ["cat", "/proc/sys/net/netfilter/nf_conntrack_count"], 20))

    def start(self, lab, needs):
        lab.own_vip()
        lab.sysctl("box", "net.ipv4.ip_forward", 1)
        # One source address has 64,000 ports: for more flows than these, DNAT alone.
        lab.run("box", ["nft", "-f", "-"], 20, stdin=DESTINATION + (SOURCE if not needs.flows else ""))
