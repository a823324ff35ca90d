"""Bulk TCP with iperf3: what the receiver got. Offloads stay as veth has them, for everybody."""
import json

from cases.case import Case, Metric
from lab import IPERF_PORT, TrialFailed


class Bulk(Case):
    tools = {"iperf3": "iperf3"}
    work_unit = "gigabyte"
    metrics = (Metric("gbit_s", "Gbit/s", decimals=2),)

    def __init__(self, streams, reverse):
        self.name = f"bulk{streams}{'-r' if reverse else ''}"
        self.quick = streams < 16
        way = "server to client" if reverse else "client to server"
        self.title = f"iperf3, {streams} stream{'s' if streams > 1 else ''}, {way}"
        self.argv = ["-P", str(streams), *(["-R"] if reverse else [])]

    def _iperf3(self, lab, target, length, timeout):
        out = lab.run("client", ["iperf3", "-J", "-c", target, "-p", str(IPERF_PORT), "--connect-timeout", "5000",
                                 *self.argv, *length], timeout)
        try:
            return json.loads(out)["end"]["sum_received"]
        except (ValueError, KeyError) as error:
            raise TrialFailed(f"iperf3 gave no result: {error}") from None

    def warm_up(self, lab, contender):
        self._iperf3(lab, contender.target, ["-n", "100M"], 30)

    def measure(self, lab, contender, seconds):
        got = self._iperf3(lab, contender.target, ["-t", str(seconds)], seconds + 20)
        if not got["bytes"]:
            raise TrialFailed("iperf3 moved nothing")
        return {"gbit_s": got["bits_per_second"] / 1e9, "work": got["bytes"] / 1e9}
