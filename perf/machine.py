"""The machine: its CPU clock, its description for the record, and the tools that have to be on it."""
import dataclasses
import os
import pathlib
import platform
import shutil
import subprocess
import time

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Cpu:
    """CPU seconds of the whole machine since boot, from /proc/stat, or the difference of two such readings."""
    busy_s: float
    steal_s: float
    wall_s: float

    @classmethod
    def now(cls):
        with open("/proc/stat") as stat:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
        return cls((user + nice + system + irq + softirq) / _TICKS, steal / _TICKS, time.monotonic())

    def __sub__(self, earlier):
        return Cpu(self.busy_s - earlier.busy_s, self.steal_s - earlier.steal_s, self.wall_s - earlier.wall_s)

    @classmethod
    def sample(cls, seconds):
        """What the machine does while nothing is measured: other people's work, in this run's way."""
        before = cls.now()
        time.sleep(seconds)
        return cls.now() - before


def kernel_memory():
    """Bytes that the kernel holds for itself and would not give back: objects, tables, per-CPU data. Not the packet buffers on
    their way."""
    with open("/proc/meminfo") as lines:
        kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return (kib["SUnreclaim"] + kib["VmallocUsed"] + kib["Percpu"]) * 1024


STILL_BYTES = 1 << 20  # what comes and goes at all times


def settled_kernel_memory(most_s=60, still_s=3, now=kernel_memory, sleep=time.sleep):
    """The same when it has stopped falling: what a namespace held is freed some time after that is gone."""
    least, since = now(), 0
    for _ in range(most_s):
        sleep(1)
        held = now()
        least, since = (held, 0) if held < least - STILL_BYTES else (least, since + 1)
        if since == still_s:
            break
    return now()


def install_missing(parts, say):
    """Installs with apt the tools that contenders and cases name in `tools` ({command or file: Debian package})."""
    tools = {"ip": "iproute2", "sysctl": "procps", "nginx": "nginx-light", "iperf3": "iperf3"}
    for part in parts:
        tools.update(part.tools)
    missing = sorted({package for command, package in tools.items() if not (shutil.which(command) or os.path.isfile(command))})
    if not missing:
        return
    say("installing " + ", ".join(missing))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # They are wanted as programs: their packages must not start services on the user's machine,
    # now (policy-rc.d) or at the next boot (disable).
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    try:
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        subprocess.run(["apt-get", "-qq", "update"], check=True, env=env, stdout=subprocess.DEVNULL, timeout=600)
        subprocess.run(["apt-get", "-qq", "-y", "--no-install-recommends", "install", *missing],
                       check=True, env=env, stdout=subprocess.DEVNULL, timeout=1200)
    except (subprocess.SubprocessError, FileNotFoundError) as error:
        raise SystemExit(f"perf/run: could not install {', '.join(missing)} with apt: {error}")
    finally:
        if ours:
            policy.unlink(missing_ok=True)
    for service in ("nginx", "haproxy", "gdnsd", "nsd", "knot", "pdns"):
        if any(package.startswith(service) for package in missing) and shutil.which("systemctl"):
            subprocess.run(["systemctl", "-q", "disable", service], stderr=subprocess.DEVNULL, timeout=60)


def _first_line(argv):
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
        return done.stdout.strip().splitlines()[0].strip() if done.stdout.strip() else ""
    except (OSError, subprocess.SubprocessError):
        return ""


def describe(candidates, repository):
    """What a reader of the figures has to know of where they came from. No host name and no path."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal")), 0)
    git = ["git", "-c", "safe.directory=*", "-C", str(repository)]
    return {
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": memory // 1024,
        "virtual": _first_line(["systemd-detect-virt", "--vm"]),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _first_line([*git, "rev-parse", "HEAD"]),
        "modified": bool(_first_line([*git, "status", "--porcelain"])),
        "versions": {
            "iperf3": _first_line(["iperf3", "--version"]),
            "wrk": _first_line(["wrk", "-v"]).split("Copyright")[0].strip(),
            "nginx": _first_line(["nginx", "-v"]),
            **{contender.name: _first_line(contender.version) for contender in candidates if contender.version},
        },
    }
