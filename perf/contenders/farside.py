"""farside on AF_PACKET, defaults otherwise. In NAT mode the kernel does not forward (ip_forward = 0), so that what
arrives was carried by farside. In direct and tunnel mode the box's kernel forwards the server's answers, as a router
would; requests it cannot have carried, since the server's VIP is on no link that the box knows."""
import functools
import os
import pathlib
import re
import shutil
import subprocess

from contenders.contender import Contender
from lab import HTTP_PORT, IPERF_PORT, SERVER, SINK_PORT, VIP, TrialFailed

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

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

CONFIG = """\
[site]
name = "perf"
[datapath]
interfaces = ["wan0", "lan0"]
backend = "af_packet"
{datapath}[admin]
socket = "{dir}/farside.sock"
"""


class Farside(Contender):
    ours = True

    def __init__(self, name, binary, mode="nat", kernel_path=True):
        self.name = name
        self.mode = mode
        self.kernel_path = kernel_path
        self.title = f"farside, af_packet, {mode} mode{'' if kernel_path else ', no kernel path'}"
        self.binary = binary and str(pathlib.Path(binary).resolve())

    @property
    def version(self):
        return self.binary and [self.binary, "--version"]

    def prepare(self, say):
        if not self.binary:
            self.binary = self._build(say)
        if not os.access(self.binary, os.X_OK):
            raise TrialFailed("there is no such program as the one named with --farside")

    @staticmethod
    @functools.cache
    def _build(say):
        """The release binary of this tree, built once for all its modes. cargo decides whether it is fresh, so a stale
        one is never measured."""
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
        binary = target / "release/farside"
        cargo = shutil.which("cargo") or shutil.which("cargo", path=os.path.expanduser("~/.cargo/bin"))
        if not cargo:
            if binary.exists():
                say("no cargo here: measuring the release binary as it is")
                return str(binary)
            raise TrialFailed("no release binary, and no cargo to build it with")
        say("building farside (release)")
        try:
            done = subprocess.run([cargo, "build", "--release", "--locked", "--bin", "farside"], cwd=REPOSITORY,
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800)
        except subprocess.TimeoutExpired:
            raise TrialFailed("cargo build did not end within 30 minutes") from None
        if done.returncode:
            error = re.search(r"^error.*", done.stderr, re.M)
            raise TrialFailed("cargo build failed: " + (error[0] if error else "see cargo build --release"))
        return str(binary)

    def start(self, lab):
        config = lab.dir / "farside.toml"
        # The default is not written: builds that are older than the key can be measured, too.
        datapath = "" if self.kernel_path else "kernel_path = false\n"
        config.write_text(CONFIG.format(dir=lab.dir, datapath=datapath) + "".join(
            SERVICE.format(name=name, vip=VIP, port=port, protocol=protocol, mode=self.mode, server=SERVER)
            for name, port, protocol in SERVICES))
        self._set_up_server(lab)
        log = lab.start("box", [self.binary, "run", "--config", str(config)])
        ready = re.compile(r"\bready\s*$", re.M)
        lab.wait_for(lambda: ready.search(log.read_text(errors="replace")), "farside never said `ready`")

    def _set_up_server(self, lab):
        """What the server needs in direct and tunnel mode. Not every kernel has a tunnel end of its own."""
        if self.mode == "nat":
            return
        lab.sysctl("box", "net.ipv4.ip_forward", 1)
        if self.mode == "direct":
            lab.run("server", [self.binary, "setup-server", "direct", "--vip", VIP, "--interface", "lan0", "--apply"],
                    20)
        else:
            lab.start("server", [self.binary, "decap", "--interface", "lan0", "--vip", VIP, "--encapsulation", "ipip"])
