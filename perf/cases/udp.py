"""Small UDP frames from many flows: how many a second arrive when more come than anybody can carry, and how many can
come without loss. The generator (blast.py) has a CPU; what the box receives is spread over the others (RPS), as a NIC's
queues would do it, or else the generator's CPU would carry the packets, too, and never offer too many."""
import json
import os
import pathlib
import sys
import time

from cases.case import Case, Metric
from lab import CLIENT, SINK_PORT, TrialFailed

BLAST = pathlib.Path(__file__).parents[1] / "blast.py"
STEPS = 7
TOLERATED = 0.001
WARM_RATE = 20_000


class Udp64(Case):
    name = "udp64"
    title = f"64-byte UDP frames, 256 flows: flooded, and the most with less than {TOLERATED:.1%} lost in {STEPS} steps"
    work_unit = "million frames"
    metrics = (Metric("flood_kpps", "kpps flooded"), Metric("offered_kpps", "kpps offered"),
               Metric("clean_kpps", "kpps clean"), Metric("clean_loss_pct", "% lost then", higher=False, decimals=3))

    def refuses(self, contender):
        return None if contender.udp else "no UDP"

    def warm_up(self, lab, target):
        lab.gro_on("box", "wan0")
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) > 1:
            lab.receive_on("box", "wan0", cpus[1:])
        self._blast(lab, target, 0.5, WARM_RATE)

    @staticmethod
    def _arrived(lab):
        """Frames that the server's link has received, once no more come."""
        count = None
        for _ in range(20):
            last, count = count, lab.link("server", "lan0")["stats64"]["rx"]["packets"]
            if count == last:
                break
            time.sleep(0.05)
        return count

    def _blast(self, lab, target, seconds, rate=0):
        """(frames sent, frames arrived)."""
        mac = lab.link("box", "wan0")["address"]
        before = self._arrived(lab)
        cpu = min(os.sched_getaffinity(0))
        out = lab.run("client", ["taskset", "-c", str(cpu), sys.executable, str(BLAST), "wan0", mac, CLIENT, target,
                                 str(SINK_PORT), str(seconds), str(rate)], seconds + 20)
        sent, arrived = json.loads(out)["sent"], self._arrived(lab) - before
        if not sent:
            raise TrialFailed("the generator sent nothing")
        return sent, min(arrived, sent)  # an ARP packet of the box's is not a frame of ours

    def measure(self, lab, target, seconds):
        sent, arrived = self._blast(lab, target, seconds)
        if not arrived:
            raise TrialFailed("no frame arrived")
        figures = {"flood_kpps": arrived / seconds / 1e3, "offered_kpps": sent / seconds / 1e3,
                   "clean_kpps": 0.0, "clean_loss_pct": 0.0}
        step = max(0.5, seconds / 4)
        # Who livelocks when flooded may carry more when asked for less.
        low, high, work = 0.0, min(2 * arrived, sent) / seconds, arrived
        for _ in range(STEPS):
            rate = (low + high) / 2
            sent, arrived = self._blast(lab, target, step, round(rate))
            work += arrived
            if sent - arrived > TOLERATED * sent:
                high = rate
                continue
            low = rate
            # What arrived, not what was asked for: on a busy machine the generator falls behind.
            if arrived / step / 1e3 > figures["clean_kpps"]:
                figures.update(clean_kpps=arrived / step / 1e3, clean_loss_pct=(sent - arrived) / sent * 100)
        return {**figures, "work": work / 1e6}
