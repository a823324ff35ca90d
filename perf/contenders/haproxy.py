"""HAProxy in TCP mode: the proxy that one would run instead. Checks off on both sides, as for farside."""
from contenders.contender import Contender
from lab import HTTP_PORT, IPERF_PORT, SERVER, VIP

CONFIG = f"""\
global
    nbthread 2
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen http
    bind {VIP}:{HTTP_PORT}
    server server {SERVER}:{HTTP_PORT}
listen bulk
    bind {VIP}:{IPERF_PORT}
    server server {SERVER}:{IPERF_PORT}
"""


class Haproxy(Contender):
    name = "haproxy"
    title = "HAProxy, mode tcp, 2 threads"
    udp = False
    tools = {"haproxy": "haproxy"}
    version = ["haproxy", "-v"]

    def start(self, lab):
        lab.own_vip()
        config = lab.dir / "haproxy.cfg"
        config.write_text(CONFIG)
        lab.start("box", ["haproxy", "-db", "-f", str(config)])
