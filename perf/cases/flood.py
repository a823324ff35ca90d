"""A SYN flood of ever new flows beside a connection that stands: what the old one keeps of its speed."""
import json
import statistics
import time

from cases import frames
from cases.bulk import Bulk
from cases.case import Case, Metric
from lab import HTTP_PORT, IPERF_PORT, MANY_CLIENTS, MANY_CLIENTS_NET, TrialFailed
from needs import Needs

RATE = 50_000
FLOWS = 1 << 24
STRIDE = 0x2545_F491
INTERVAL_S = 0.25
SETTLE_S = 0.5  # not counted: the stream's start, and the moments around the flood's start

# The flood ends at the server's door: what the server would do with it is not the box's cost.
RULES = f"""\
table netdev perf {{
  chain ingress {{
    type filter hook ingress device lan0 priority 0; policy accept;
    ip saddr {MANY_CLIENTS_NET} counter drop
  }}
}}
"""


class Flood(Case):
    name = "synflood"
    title = f"iperf3, 1 stream, before and during a flood of {RATE:,} SYNs/s, each a new flow"
    tools = {**Bulk.tools, "nft": "nftables"}
    work_unit = "gigabyte"
    needs = Needs(flows=1 << 20)
    quick = False
    metrics = (Metric("kept_pct", "% of its speed kept"), Metric("gbit_s", "Gbit/s in the flood", decimals=2),
               Metric("syn_k_s", "thousand SYNs/s offered", decimals=1),
               Metric("new_k_s", "thousand new flows/s at the server", decimals=1))

    def refuses(self, contender):
        return None if contender.new_flows else "no flows"

    def set_up(self, lab):
        lab.run("server", ["nft", "-f", "-"], 20, stdin=RULES)

    def warm_up(self, lab, contender):
        lab.offloads("box", "wan0", gro=True)
        Bulk(1, reverse=False).warm_up(lab, contender)

    @staticmethod
    def _at_server(lab):
        rules = json.loads(lab.run("server", ["nft", "-j", "list", "chain", "netdev", "perf", "ingress"], 20))["nftables"]
        return next(part["counter"]["packets"] for rule in rules if "rule" in rule for part in rule["rule"]["expr"]
                    if "counter" in part)

    def measure(self, lab, contender, seconds):
        calm = max(seconds / 2, 4 * SETTLE_S)
        argv = ["iperf3", "-J", "-c", contender.target, "-p", str(IPERF_PORT), "--connect-timeout", "5000",
                "-i", str(INTERVAL_S), "-t", str(round(2 * calm))]
        stream = lab.start("client", argv)
        began = time.monotonic()
        time.sleep(calm)
        flood = frames.command(lab, MANY_CLIENTS, contender.target, HTTP_PORT, calm, rate=RATE, flows=FLOWS, stride=STRIDE,
                               syn=True, gently=True)
        flooded_from = time.monotonic() - began
        sent = json.loads(lab.run("client", flood, calm + 20))["sent"]
        flooded_to = time.monotonic() - began
        try:
            result = json.loads(lab.end_of(stream, 20))
            intervals = [interval["sum"] for interval in result["intervals"]]
        except (ValueError, KeyError) as error:
            raise TrialFailed(f"iperf3 gave no result: {error}") from None

        def speed(start, end):
            found = [i["bits_per_second"] for i in intervals if i["start"] >= start + SETTLE_S and i["end"] <= end]
            if not found or not any(found):
                raise TrialFailed("the stream stood still")
            return statistics.mean(found) / 1e9

        before, during = speed(0, flooded_from), speed(flooded_from, flooded_to)
        return {"kept_pct": during / before * 100, "gbit_s": during, "syn_k_s": sent / calm / 1e3,
                "new_k_s": self._at_server(lab) / calm / 1e3, "work": result["end"]["sum_received"]["bytes"] / 1e9}
