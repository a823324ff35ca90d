"""HAProxy in TCP mode: the proxy that one would run instead. Checks off on both sides, as for farside, but where a case
needs them."""
from contenders.contender import Contender
from lab import BACKUP, HTTP_PORT, IPERF_PORT, NAMED_PORT, SERVER, VIP
from needs import CHECK

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

NAMED = f"""\
listen named
    bind {VIP}:{NAMED_PORT}
    timeout check {CHECK.timeout_ms}ms
    default-server check inter {CHECK.interval_ms}ms rise {CHECK.rise} fall {CHECK.fall}
    server server {SERVER}:{NAMED_PORT}
    server backup {BACKUP}:{NAMED_PORT} backup
"""


class Haproxy(Contender):
    name = "haproxy"
    title = "HAProxy, mode tcp, 2 threads"
    udp = False
    without_backup = None
    quick = True
    tools = {"haproxy": "haproxy"}
    version = ["haproxy", "-v"]

    def start(self, lab, needs):
        lab.own_vip()
        config = lab.dir / "haproxy.cfg"
        config.write_text(CONFIG + (NAMED if needs.backup else ""))
        lab.start("box", ["haproxy", "-db", "-f", str(config)])
