"""farside on AF_PACKET, real servers in NAT mode, defaults otherwise. The kernel does not forward (ip_forward = 0), so
what arrives was carried by farside."""
import os
import pathlib
import re
import shutil
import subprocess

from contenders.contender import Contender
from lab import HTTP_PORT, IPERF_PORT, SERVER, VIP, TrialFailed

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

SERVICE = """
[[service]]
name = "{name}"
vip = "{vip}"
port = {port}
mode = "nat"
[service.check]
kind = "none"
[[service.real]]
name = "server"
address = "{server}"
"""

CONFIG = """\
[site]
name = "perf"
[datapath]
interfaces = ["wan0", "lan0"]
backend = "af_packet"
[admin]
socket = "{dir}/farside.sock"
"""


class Farside(Contender):
    title = "farside, af_packet, NAT mode"
    ours = True

    def __init__(self, name, binary):
        self.name = name
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
    def _build(say):
        """The release binary of this tree. cargo decides whether it is fresh, so a stale one is never measured."""
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
        config.write_text(CONFIG.format(dir=lab.dir) + "".join(
            SERVICE.format(name=name, vip=VIP, port=port, server=SERVER)
            for name, port in (("http", HTTP_PORT), ("bulk", IPERF_PORT))))
        log = lab.start("box", [self.binary, "run", "--config", str(config)])
        ready = re.compile(r"\bready\s*$", re.M)
        lab.wait_for(lambda: ready.search(log.read_text(errors="replace")), "farside never said `ready`")
