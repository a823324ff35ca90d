"""HTTP with wrk: new connections per second (each request its own), requests with their latency on kept ones, and the
round trip of one request at a time."""
import json
import pathlib

from cases.case import Case, Metric
from lab import HTTP_PORT, TrialFailed

SCRIPT = pathlib.Path(__file__).with_name("wrk.lua")
CONNECTIONS = 64


def _wrk(lab, target, seconds, connections, *more):
    out = lab.run("client", ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "5s",
                             "-s", str(SCRIPT), *more, f"http://{target}:{HTTP_PORT}/"], seconds + 20)
    try:
        got = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise TrialFailed("wrk gave no result") from None
    if not got["requests"]:
        raise TrialFailed("wrk got no answer")
    return got


class _Wrk(Case):
    tools = {"wrk": "wrk"}
    headers = ()
    connections = CONNECTIONS

    def warm_up(self, lab, contender):
        _wrk(lab, contender.target, 1, self.connections, *self.headers)

    def measure(self, lab, contender, seconds):
        got = _wrk(lab, contender.target, seconds, self.connections, *self.headers)
        rate = got["requests"] / got["duration_us"] * 1e6
        return {"rate": rate, "p50_ms": got["p50_us"] / 1e3, "p99_ms": got["p99_us"] / 1e3, "p50_us": got["p50_us"],
                "p99_us": got["p99_us"], "errors": got["errors"], "work": got["requests"] / 1e3}


class Connections(_Wrk):
    name = "conn"
    title = f"wrk, Connection: close, {CONNECTIONS} at a time"
    work_unit = "1000 connections"
    headers = ("-H", "Connection: close")
    metrics = (Metric("rate", "conn/s"), Metric("p99_ms", "ms p99", higher=False, decimals=2),
               Metric("errors", "errors", higher=False))


class KeepAlive(_Wrk):
    """The server has one process: of two, one or both get the connections, as chance will have it, since one that is awake
    takes all that have come by then. Where both do, one shares a CPU with wrk and its clients wait for wrk's time slice to
    end, which is 5 ms in the p99 and nothing of the contender's."""
    name = "keepalive"
    title = f"wrk, {CONNECTIONS} kept connections"
    http_processes = 1
    work_unit = "1000 requests"
    metrics = (Metric("rate", "req/s"), Metric("p50_ms", "ms p50", higher=False, decimals=2),
               Metric("p99_ms", "ms p99", higher=False, decimals=2), Metric("errors", "errors", higher=False))


class Latency(_Wrk):
    """The machine is idle but for the one packet under way: what is measured is mostly how long it takes to wake up."""
    name = "latency"
    title = "wrk, one request at a time on a kept connection"
    work_unit = "1000 requests"
    connections = 1
    metrics = (Metric("p50_us", "us p50", higher=False), Metric("p99_us", "us p99", higher=False),
               Metric("errors", "errors", higher=False))
