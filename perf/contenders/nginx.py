"""nginx as a proxy of TCP and UDP (its stream module)."""
from contenders.contender import Contender
from lab import BACKUP, HTTP_PORT, IPERF_PORT, NAMED_PORT, SERVER, SINK_PORT, VIP
from needs import CHECK

MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"

CONFIG = f"""\
load_module {MODULE};
daemon off; worker_processes 2; pid {{dir}}/box.pid; error_log {{dir}}/box.log;
events {{{{ worker_connections 8192; multi_accept on; }}}}
stream {{{{
  proxy_connect_timeout {CHECK.timeout_ms}ms;
  server {{{{ listen {VIP}:{HTTP_PORT} backlog=4096; proxy_pass {SERVER}:{HTTP_PORT}; }}}}
  server {{{{ listen {VIP}:{IPERF_PORT}; proxy_pass {SERVER}:{IPERF_PORT}; }}}}
  server {{{{ listen {VIP}:{SINK_PORT} udp reuseport; proxy_pass {SERVER}:{SINK_PORT}; proxy_timeout 60s; }}}}
  {{named}}
}}}}
"""

NAMED = f"""\
  upstream named {{
    server {SERVER}:{NAMED_PORT} max_fails={CHECK.fall} fail_timeout={CHECK.interval_ms // 1000}s;
    server {BACKUP}:{NAMED_PORT} backup;
  }}
  server {{ listen {VIP}:{NAMED_PORT}; proxy_pass named; }}
"""


class Nginx(Contender):
    name = "nginx"
    title = "nginx stream, 2 workers"
    without_backup = None
    tools = {"nginx": "nginx-light", MODULE: "libnginx-mod-stream"}
    version = ["nginx", "-v"]

    def start(self, lab, needs):
        lab.own_vip()
        config = lab.dir / "stream.conf"
        config.write_text(CONFIG.format(dir=lab.dir, named=NAMED if needs.backup else ""))
        lab.start("box", ["nginx", "-c", str(config), "-e", f"{lab.dir}/box.log"])
