"""gdnsd: the server whose pools are nearest to farside's. Its plugin multifo answers all addresses that are up, in turns; here,
as farside's members, they are up without a check."""
import names
from contenders.nameserver import Nameserver

CONFIG = """\
options => {{
  listen => {{ {address} => {{ udp_threads = {threads}, tcp_threads = 1 }} }},
  run_dir = {dir}/run, state_dir = {dir}/state
}}
plugins => {{ multifo => {{ pool => {{ service_types = up, {members} }} }} }}
"""


class Gdnsd(Nameserver):
    name = "gdnsd"
    title = "gdnsd, pools by its plugin multifo"
    tools = {"gdnsd": "gdnsd"}
    version = ["dpkg-query", "-W", "gdnsd"]
    pool_lines = (f"pool {names.POOL_TTL_S} DYNA multifo!pool",)

    def configure(self, lab, needs):
        members = ", ".join(f"m{n} => {address}" for n, address in enumerate(names.MEMBERS))
        self.write(lab, needs, "config", CONFIG, members=members)
        (lab.dir / "zones").mkdir()
        (lab.dir / "bench.zone").rename(lab.dir / "zones" / names.ORIGIN)
        return ["gdnsd", "-c", str(lab.dir), "start"]
