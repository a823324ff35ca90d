"""farside, defaults otherwise. In NAT mode the kernel does not forward (ip_forward = 0), so that what arrives was
carried by farside. In direct and tunnel mode the box's kernel forwards the server's answers, as a router would; requests
it cannot have carried, since the server's VIP is on no link that the box knows."""
import json
import os
import pathlib
import re
import subprocess
import tempfile

import build
from contenders.contender import Contender
from lab import BACKUP, HTTP_PORT, IPERF_PORT, NAMED_PORT, SERVER, SINK_PORT, VIP, TrialFailed
from needs import CHECK, Needs

PROXY = "198.18.1.250"

SERVICE = """
[[service]]
name = "{name}"
vip = "{vip}"
port = {port}
protocol = "{protocol}"
mode = "{mode}"
[service.check]
kind = "none"
[[service.real]]
name = "server"
address = "{server}"
"""

SERVICES = (("http", HTTP_PORT, "tcp"), ("bulk", IPERF_PORT, "tcp"), ("sink", SINK_PORT, "udp"))

NAMED = f"""
[proxy]
addresses = ["{PROXY}"]
[[peer]]
name = "elsewhere"
[[service]]
name = "named"
vip = "{VIP}"
port = {NAMED_PORT}
protocol = "tcp"
[service.check]
kind = "tcp"
interval = "{CHECK.interval_ms}ms"
timeout = "{CHECK.timeout_ms}ms"
rise = {CHECK.rise}
fall = {CHECK.fall}
[[service.real]]
name = "server"
address = "{SERVER}"
[[service.remote]]
site = "elsewhere"
vip = "{BACKUP}"
port = {NAMED_PORT}
"""

CONFIG = """\
[site]
name = "perf"
[datapath]
interfaces = ["wan0", "lan0"]
backend = "{backend}"
{datapath}[admin]
socket = "{dir}/farside.sock"
"""


def prepared(binary, say):
    """The path of the program to measure: the one given, or the one of this tree, built."""
    binary = binary or build.program("farside", say)
    if not os.access(binary, os.X_OK):
        raise TrialFailed("there is no such program as the one named with --farside")
    return str(pathlib.Path(binary).resolve())


class Farside(Contender):
    ours = True

    def __init__(self, name, binary, mode="nat", kernel_path=True, backend="af_packet"):
        self.name = name
        self.mode = mode
        self.kernel_path = kernel_path
        self.backend = backend
        self.quick = kernel_path and backend == "af_packet"
        self.without_backup = None if self.quick and mode == "nat" else "as farside"
        self.title = f"farside, {backend}, {mode} mode{'' if kernel_path else ', workers alone'}"
        self.binary = binary and str(pathlib.Path(binary).resolve())

    @property
    def version(self):
        return self.binary and [self.binary, "--version"]

    def absent(self):
        """A build without the backend says so; builds that are older than it can be measured, too."""
        if not self.binary or self.backend == "af_packet":
            return None
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
            config.write(self.config("/run", Needs()))
            config.flush()
            done = subprocess.run([self.binary, "check", "--config", config.name], capture_output=True, text=True, timeout=20)
        return None if done.returncode == 0 else f"this build refuses backend {self.backend}"

    def too_few_flows(self, flows):
        return None if self.mode == "nat" else "as in NAT mode"

    def flows(self, lab):
        shown = lab.run("box", [self.binary, "show", "counters", "--json", "--socket", f"{lab.dir}/farside.sock"], 20)
        counters = json.loads(shown)
        return counters["flows_local"] - counters["flows_ended"]

    def prepare(self, say):
        self.binary = prepared(self.binary, say)

    def config(self, directory, needs):
        # Defaults are not written: builds that are older than a key can be measured, too.
        datapath = ("" if self.kernel_path else "kernel_path = false\n") \
            + (f"max_flows = {needs.flows}\n" if needs.flows else "")
        return CONFIG.format(dir=directory, backend=self.backend, datapath=datapath) + "".join(
            SERVICE.format(name=name, vip=VIP, port=port, protocol=protocol, mode=self.mode, server=SERVER)
            for name, port, protocol in SERVICES) + (NAMED if needs.backup else "")

    def start(self, lab, needs):
        config = lab.dir / "farside.toml"
        config.write_text(self.config(lab.dir, needs))
        self._set_up_server(lab, needs)
        log = lab.start("box", [self.binary, "run", "--config", str(config)]).log
        ready = re.compile(r"\bready\s*$", re.M)
        lab.wait_for(lambda: ready.search(log.read_text(errors="replace")), "farside never said `ready`")

    def _set_up_server(self, lab, needs):
        """What the server needs in direct and tunnel mode. Not every kernel has a tunnel end of its own."""
        if self.mode == "nat":
            return
        lab.sysctl("box", "net.ipv4.ip_forward", 1)
        if self.mode == "direct":
            lab.run("server", [self.binary, "setup-server", "direct", "--vip", VIP, "--interface", "lan0", "--apply"],
                    20)
        else:
            lab.start("server", [self.binary, "decap", "--interface", "lan0", "--vip", VIP, "--encapsulation", "ipip",
                                 *([] if needs.far_end else ["--program", "off"])])
