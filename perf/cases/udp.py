"""Small UDP frames from many flows: how many a second arrive when more come than anybody can carry, and how many can
come without loss; and how many leave the box when that is all that is asked."""
from bisection import bisect
from cases import frames
from cases.case import Case, Metric
from lab import CLIENT, SINK_PORT, TrialFailed
from needs import Needs

# Before anything of the server's has a look, but for programs at tc ingress: that of `farside decap` is left out.
DROP = """\
table netdev perf {
  chain ingress {
    type filter hook ingress device lan0 priority 0; policy drop;
    ether type arp accept
  }
}
"""

STEPS = 8
TOLERATED = 0.001
WARM_RATE = 20_000
COSTED = 0.9  # of the clean rate: CPU per frame is measured where none is lost


class _Udp(Case):
    work_unit = "million frames"

    def refuses(self, contender):
        return None if contender.udp else "no UDP"


class Udp64(_Udp):
    name = "udp64"
    title = f"64-byte UDP frames, 256 flows: flooded, and the most with less than {TOLERATED:.1%} lost in {STEPS} steps"
    metrics = (Metric("flood_kpps", "kpps flooded"), Metric("offered_kpps", "kpps offered"),
               Metric("clean_kpps", "kpps clean"), Metric("clean_loss_pct", "% lost then", higher=False, decimals=3))

    def warm_up(self, lab, contender):
        frames.leave_generator_its_cpu(lab)
        frames.send(lab, CLIENT, contender.target, SINK_PORT, 0.5, rate=WARM_RATE)

    def measure(self, lab, contender, seconds):
        def blast(length, rate):
            return frames.send(lab, CLIENT, contender.target, SINK_PORT, length, rate=round(rate))

        def try_rate(rate):
            sent, arrived, _ = blast(step, rate)
            loss = (sent - arrived) / sent
            return None if loss > TOLERATED else (arrived / step, loss)

        sent, arrived, cpu_s = blast(seconds, 0)
        if not arrived:
            raise TrialFailed("no frame arrived")
        figures = {"flood_kpps": arrived / seconds / 1e3, "offered_kpps": sent / seconds / 1e3}
        step = max(0.5, seconds / 4)
        # Who livelocks when flooded may carry much more when asked for less.
        clean, loss = bisect(0, sent / seconds, STEPS, try_rate)
        if clean:
            _, arrived, cpu_s = blast(seconds, COSTED * clean)
        return {**figures, "clean_kpps": clean / 1e3, "clean_loss_pct": loss * 100, "cpu_s": cpu_s, "work": arrived / 1e6}


class Box64(_Udp):
    """What the box alone can do: the server's link drops what it has counted, so that the far end costs the same behind every
    contender, and what the box receives and what it sends do not wait in one queue."""
    name = "box64"
    title = "64-byte UDP frames, 256 flows, flooded; dropped at the server's link"
    tools = {"nft": "nftables"}
    needs = Needs(far_end=False)
    quick = False
    metrics = (Metric("left_kpps", "kpps left the box"), Metric("offered_kpps", "kpps offered"))

    def warm_up(self, lab, contender):
        frames.poll_elsewhere(lab)
        frames.send(lab, CLIENT, contender.target, SINK_PORT, 0.5, rate=WARM_RATE)
        lab.run("server", ["nft", "-f", "-"], 20, stdin=DROP)

    def measure(self, lab, contender, seconds):
        sent, arrived, cpu_s = frames.send(lab, CLIENT, contender.target, SINK_PORT, seconds)
        if not arrived:
            raise TrialFailed("no frame left the box")
        return {"left_kpps": arrived / seconds / 1e3, "offered_kpps": sent / seconds / 1e3, "cpu_s": cpu_s,
                "work": arrived / 1e6}
