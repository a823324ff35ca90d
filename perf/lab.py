"""The laboratory: three network namespaces, the processes in them, and a promise that all of it goes away.

       client                     box                        server
    198.18.1.2  wan0 ===== wan0  198.18.1.1
                                 198.18.2.1  lan0 ===== lan0  198.18.2.2   nginx :80, iperf3 :5201,
                                                                        a UDP sink :5202
                  VIP 198.18.1.10 (on the box, or answered for by farside)

198.18.0.0/15 is set aside for benchmarks (RFC 2544). The namespaces carry the pid of the run in their names; everything
inside them was started here, so it may be killed. What a killed run left behind is removed by the next one.
"""
import ctypes
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing

CLIENT, BOX_WAN, VIP = "198.18.1.2", "198.18.1.1", "198.18.1.10"
BOX_LAN, SERVER = "198.18.2.1", "198.18.2.2"
BACKUP = "198.18.2.3"  # at the server's link; here when a case asks for it
MANY_CLIENTS, MANY_CLIENTS_NET = "198.19.0.0", "198.19.0.0/16"  # behind the client, which takes no answers for them
RESOLVERS, RESOLVERS_NET = "198.18.16.0", "198.18.0.0/15"  # likewise, 126,976 of them from the first one on
HTTP_PORT, IPERF_PORT, SINK_PORT, NAMED_PORT = 80, 5201, 5202, 5203
PREFIX = "fsperf"
ROLES = ("client", "box", "server")

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1

NGINX = """\
daemon off; worker_processes {processes}; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 60s;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{ listen {port} backlog=4096; location / {{ default_type text/plain; return 200 "farside\\n"; }} }}
}}
"""

# Run in the client's namespace: an HTTP answer through the contender is the proof that it carries traffic.
PROBE = """\
import socket, sys, time
end = time.monotonic() + float(sys.argv[3])
while True:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 1) as s:
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            if s.recv(64).startswith(b"HTTP/1.1 200"): break
            why = "not the server's answer"
    except OSError as error: why = error
    if time.monotonic() > end: sys.exit(f"no HTTP answer from {sys.argv[1]}: {why}")
    time.sleep(0.05)
"""


# Nobody reads: what does not fit the buffer is dropped, which costs the server least and sends no ICMP error. What has
# arrived, the link's counters say.
SINK = """\
import signal, socket, sys
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind(("", int(sys.argv[1])))
signal.pause()
"""

# ethtool -K LINK FEATURE on|off, without ethtool: SIOCETHTOOL with the feature's own command.
OFFLOAD = """\
import ctypes, fcntl, socket, struct, sys
value = ctypes.create_string_buffer(struct.pack("=II", int(sys.argv[2]), int(sys.argv[3])))
request = struct.pack("=16sQ16x", sys.argv[1].encode(), ctypes.addressof(value))
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
"""
OFFLOADS = {"tx": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}  # ETHTOOL_STXCSUM, _STSO, _SGSO, _SGRO


class TrialFailed(Exception):
    """One measurement, or one contender, could not be had; the message says why in one line."""


class Running(typing.NamedTuple):
    """A process that lives until the lab ends, and where its output goes."""
    process: subprocess.Popen
    log: pathlib.Path
    started: float  # by the monotonic clock

    @property
    def name(self):
        return self.log.stem.split("-", 1)[1]


def _die_with_parent():
    """Between fork and exec: the child is killed when this program is, also when that is by SIGKILL."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise TrialFailed(f"ip {' '.join(words)}: {_last_line(done.stderr)}")


def _last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _remove_namespace(name):
    """Kills what still runs inside (all of it was started here), then deletes the namespace and with it its links."""
    for attempt in range(50):
        pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, timeout=20).stdout.split()
        if not pids:
            break
        for pid in pids:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    subprocess.run(["ip", "netns", "del", name], timeout=20, stderr=subprocess.DEVNULL)


def remove_leftovers():
    """Removes namespaces and directories of runs that are no longer alive. Call under the lock of perf/run."""
    for parent in (pathlib.Path("/run/netns"), pathlib.Path(tempfile.gettempdir())):
        for entry in parent.glob(f"{PREFIX}*"):
            owner = re.match(PREFIX + r"(\d+)-", entry.name)
            if not owner or os.path.exists(f"/proc/{owner[1]}"):
                continue
            if parent.name == "netns":
                _remove_namespace(entry.name)
            elif entry.is_dir() and not entry.is_symlink() and entry.stat().st_uid == 0:
                shutil.rmtree(entry, ignore_errors=True)


class Lab:
    """A fresh topology with its servers running; a context manager. Nothing of one trial reaches the next one:
    no TIME_WAIT socket, conntrack entry, learnt neighbour or program left on a link."""

    def __init__(self, http_processes=2):
        self.http_processes = http_processes
        self.processes = []
        self.numbers = itertools.count()
        self.dir = None

    def __enter__(self):
        try:
            self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
            self.dir.chmod(0o755)
            self._make_links()
            if self.http_processes:
                self._start_servers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # A second Ctrl-C or SIGTERM waits until the first one has cleaned up; every step below is bounded.
        waiting = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            self._tear_down()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, waiting)

    def _tear_down(self):
        for process, *_ in reversed(self.processes):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for role in ROLES:
            if os.path.exists(f"/run/netns/{self.netns(role)}"):
                _remove_namespace(self.netns(role))
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)

    @staticmethod
    def netns(role):
        return f"{PREFIX}{os.getpid()}-{role}"

    def _make_links(self):
        for role in ROLES:
            _ip("netns", "add", self.netns(role))
            # Addresses that come into use a second or two later would change the box's routes in the middle of a measurement.
            self.sysctl(role, "net.ipv6.conf.all.disable_ipv6", 1)
            self.sysctl(role, "net.ipv6.conf.default.disable_ipv6", 1)
            _ip("-n", self.netns(role), "link", "set", "lo", "up")
        client, box, server = (self.netns(role) for role in ROLES)
        _ip("-n", client, "link", "add", "wan0", "type", "veth", "peer", "name", "wan0", "netns", box)
        _ip("-n", server, "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", box)
        for netns, link, address in ((client, "wan0", CLIENT), (box, "wan0", BOX_WAN),
                                     (box, "lan0", BOX_LAN), (server, "lan0", SERVER)):
            _ip("-n", netns, "address", "add", f"{address}/24", "dev", link)
            _ip("-n", netns, "link", "set", link, "up")
        _ip("-n", client, "route", "add", "default", "via", BOX_WAN)
        _ip("-n", server, "route", "add", "default", "via", BOX_LAN)
        _ip("-n", box, "route", "add", RESOLVERS_NET, "via", CLIENT)
        # Answers of direct and tunnel mode come from the VIP by lan0.
        for link in ("all", "lan0"):
            self.sysctl("box", f"net.ipv4.conf.{link}.rp_filter", 0)
        # Off until a contender asks for it: what is not the contender's work is then not done at all.
        self.sysctl("box", "net.ipv4.ip_forward", 0)

    def _start_servers(self):
        config = self.dir / "nginx.conf"
        config.write_text(NGINX.format(dir=self.dir, port=HTTP_PORT, processes=self.http_processes))
        nginx = self.start("server", ["nginx", "-c", str(config), "-e", f"{self.dir}/nginx.log"])
        iperf3 = self.start("server", ["iperf3", "-4", "-s", "-p", str(IPERF_PORT)])
        sink = self.start("server", [sys.executable, "-c", SINK, str(SINK_PORT)])
        self.wait_for_listener(nginx, HTTP_PORT)
        self.wait_for_listener(iperf3, IPERF_PORT)
        self.wait_for_listener(sink, SINK_PORT, "udp")

    def sysctl(self, role, key, value):
        self.run(role, ["sysctl", "-qw", f"{key}={value}"], 20)

    def link(self, role, name):
        """The link as `ip -s -j link` describes it."""
        return json.loads(self.run(role, ["ip", "-s", "-j", "link", "show", name], 20))[0]

    def offloads(self, role, name, **wanted):
        """Sets OFFLOADS of a link. With GRO a veth receives with NAPI, so that it takes redirected frames."""
        for feature, on in wanted.items():
            self.run(role, [sys.executable, "-c", OFFLOAD, name, str(OFFLOADS[feature]), str(int(on))], 20)

    def receive_on(self, role, name, cpus):
        """Spreads what the link receives over these CPUs by flow (RPS), as a NIC's queues would."""
        mask = sum(1 << cpu for cpu in cpus)
        words = [f"{mask >> 32 * n & 0xFFFF_FFFF:08x}" for n in reversed(range(max(cpus) // 32 + 1))]
        self.run(role, ["tee", f"/sys/class/net/{name}/queues/rx-0/rps_cpus"], 20, stdin=",".join(words))

    def poll_on(self, role, name, cpu):
        """Has the link, which receives with NAPI, polled by a thread of its own on this CPU."""
        def threads():
            return {task.name for task in pathlib.Path("/proc").glob("[0-9]*") if self._comm(task).startswith(f"napi/{name}-")}

        before = threads()
        self.run(role, ["tee", f"/sys/class/net/{name}/threaded"], 20, stdin="1")
        polling = threads() - before
        if not polling:
            raise TrialFailed(f"{name} has no thread that polls it")
        for thread in polling:
            os.sched_setaffinity(int(thread), {cpu})

    @staticmethod
    def _comm(task):
        try:
            return (task / "comm").read_text()
        except OSError:
            return ""  # gone

    def own_vip(self):
        """Gives the VIP to the box's kernel; contenders that answer for it themselves do without."""
        _ip("-n", self.netns("box"), "address", "add", f"{VIP}/32", "dev", "wan0")

    def own_backup(self):
        """Gives the second server's address to the server's link."""
        _ip("-n", self.netns("server"), "address", "add", f"{BACKUP}/24", "dev", "lan0")

    def cpu_s(self, role):
        """CPU seconds that the processes of a namespace have used so far."""
        threads = (thread for process in self._inside(role) for thread in (process / "task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def memory(self, role):
        """Bytes of memory that the processes of a namespace have for themselves: no programs' files, no maps of the
        kernel's that they look into."""
        lines = (line.split() for process in self._inside(role) for line in open(process / "smaps_rollup"))
        return sum(int(words[1]) for words in lines if words[0] in ("Pss_Anon:", "Pss_Shmem:")) * 1024

    def _inside(self, role):
        pids = subprocess.run(["ip", "netns", "pids", self.netns(role)], capture_output=True, text=True, timeout=20).stdout
        return [pathlib.Path("/proc") / pid for pid in pids.split()]

    def start(self, role, argv):
        """Starts a process that lives until the lab ends."""
        log = self.dir / f"{next(self.numbers)}-{pathlib.Path(argv[0]).name}.log"
        started = time.monotonic()
        with open(log, "wb") as out:
            process = subprocess.Popen(["ip", "netns", "exec", self.netns(role), *argv], stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=out, cwd=self.dir, preexec_fn=_die_with_parent,
                                       start_new_session=True)
        self.processes.append(Running(process, log, started))
        return self.processes[-1]

    def end_of(self, running, timeout):
        """What a started process has printed, when it has ended by itself."""
        self.processes.remove(running)
        try:
            status = running.process.wait(timeout)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()
            raise TrialFailed(f"{running.name} did not end within {timeout} s") from None
        out = running.log.read_text(errors="replace")
        if status:
            raise TrialFailed(f"{running.name} ended with {status}: {_last_line(out)}")
        return out

    def stop(self, running):
        """Asks a started process to end, and waits until it has."""
        self.processes.remove(running)
        running.process.terminate()
        try:
            running.process.wait(10)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()
            raise TrialFailed(f"{running.name} did not end when it was asked to") from None

    def kill(self, running):
        self.processes.remove(running)
        running.process.kill()
        running.process.wait()

    def run(self, role, argv, timeout, stdin=None):
        """Runs a command to its end and returns its stdout; TrialFailed when it fails or takes too long."""
        name = pathlib.Path(argv[0]).name
        try:
            done = subprocess.run(["ip", "netns", "exec", self.netns(role), *argv], capture_output=True, text=True,
                                  timeout=timeout, preexec_fn=_die_with_parent, start_new_session=True,
                                  **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}))
        except subprocess.TimeoutExpired:
            raise TrialFailed(f"{name} did not end within {timeout} s") from None
        if done.returncode:
            raise TrialFailed(f"{name} ended with {done.returncode}: {_last_line(done.stderr or done.stdout)}")
        return done.stdout

    def check_alive(self):
        """TrialFailed when a server or the contender has died."""
        for running in self.processes:
            if running.process.poll() is not None:
                raise TrialFailed(f"{running.name} ended with {running.process.returncode}: "
                                  f"{_last_line(running.log.read_text(errors='replace'))}")

    def wait_for(self, condition, what, seconds=15):
        end = time.monotonic() + seconds
        while not condition():
            self.check_alive()
            if time.monotonic() > end:
                raise TrialFailed(f"{what}: not within {seconds} s")
            time.sleep(0.01)

    def wait_for_listener(self, running, port, protocol="tcp"):
        """Waits until there is a listener on the port in the namespace of a process."""
        table = pathlib.Path(f"/proc/{running.process.pid}/net/{protocol}")
        state = {"tcp": "0A", "udp": "07"}[protocol]
        listening = re.compile(rf":{port:04X} [0-9A-F]+:0000 {state} ")

        def listens():
            try:
                return os.readlink(table.parents[1] / "ns/net") != os.readlink("/proc/self/ns/net") \
                    and listening.search(table.read_text())
            except OSError:
                return False  # gone; check_alive will say so
        self.wait_for(listens, f"no listener on port {port}")

    def wait_until_carried(self, target):
        try:
            self.run("client", [sys.executable, "-c", PROBE, target, str(HTTP_PORT), "10"], 15)
        finally:
            self.check_alive()  # a contender that died says why better than the client that it refused

    def wait_until_answered(self, server, name, right, seconds):
        """Until a name server gives these addresses for a name, in whatever order."""
        end = time.monotonic() + seconds
        while True:
            done = subprocess.run(["ip", "netns", "exec", self.netns("client"), "dig", "+short", "+tries=1", "+time=1", f"@{server}",
                                   name, "A"], capture_output=True, text=True, timeout=20, preexec_fn=_die_with_parent)
            found = done.stdout.split()
            if done.returncode == 0 and set(found) == right and len(found) == len(right):
                return
            self.check_alive()
            if time.monotonic() > end:
                raise TrialFailed(f"{name}: {' '.join(found) or 'no answer'} instead of {' '.join(sorted(right))}")
            time.sleep(0.05)
