"""nftables: the kernel's own NAT, destination and source, with connection tracking."""
from contenders.contender import Contender
from lab import BOX_LAN, HTTP_PORT, IPERF_PORT, SERVER, SINK_PORT, VIP

RULES = f"""\
table ip perf {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {VIP} tcp dport {{ {HTTP_PORT}, {IPERF_PORT} }} dnat to {SERVER}
    ip daddr {VIP} udp dport {SINK_PORT} dnat to {SERVER}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip daddr {SERVER} oifname "lan0" snat to {BOX_LAN}
  }}
}}
"""


class Nftables(Contender):
    name = "nftables"
    title = "kernel DNAT + SNAT with connection tracking"
    tools = {"nft": "nftables"}
    version = ["nft", "--version"]

    def start(self, lab):
        lab.own_vip()
        lab.sysctl("box", "net.ipv4.ip_forward", 1)
        lab.run("box", ["nft", "-f", "-"], 20, stdin=RULES)
