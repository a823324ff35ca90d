"""DPDK's testpmd on its af_packet driver: a reference for what another userspace path over the same sockets carries. It
sets MAC addresses and no more: no NAT, no flows, no checks.

Its driver knows of no offloads, so client and server do without them: they cut and sum what they send themselves, for
everybody else the links do."""
from contenders.contender import Contender
from lab import SERVER


class Dpdk(Contender):
    name = "dpdk"
    title = "DPDK testpmd, net_af_packet, MAC addresses only (no NAT); no offloads"
    tools = {"dpdk-testpmd": "dpdk-dev"}
    version = ["dpkg-query", "-W", "dpdk-dev"]
    target = SERVER
    new_flows = False

    def start(self, lab, needs):
        for role, link in (("client", "wan0"), ("server", "lan0")):
            lab.offloads(role, link, tx=False, tso=False, gso=False, gro=False)
        peers = [f"--eth-peer={port},{lab.link(role, link)['address']}"
                 for port, role, link in ((0, "client", "wan0"), (1, "server", "lan0"))]
        devices = [f"--vdev=net_af_packet{port},iface={link},qdisc_bypass=1" for port, link in enumerate(("wan0", "lan0"))]
        running = lab.start("box", ["dpdk-testpmd", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", *devices,
                                    "--file-prefix", lab.netns("box"), "--", "--forward-mode=mac", *peers, "--nb-cores=1",
                                    "--total-num-mbufs=16384", "--stats-period=3600"])
        # Without a period for statistics it would end with its standard input.
        lab.wait_for(lambda: "Port statistics" in running.log.read_text(errors="replace"), "testpmd never started")
