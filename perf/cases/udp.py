"""Small UDP frames from many flows: how many a second arrive when more come than anybody can carry, and how many can
come without loss."""
from bisection import bisect
from cases import frames
from cases.case import Case, Metric
from lab import CLIENT, SINK_PORT, TrialFailed

STEPS = 8
TOLERATED = 0.001
WARM_RATE = 20_000
COSTED = 0.9  # of the clean rate: CPU per frame is measured where none is lost


class Udp64(Case):
    name = "udp64"
    title = f"64-byte UDP frames, 256 flows: flooded, and the most with less than {TOLERATED:.1%} lost in {STEPS} steps"
    work_unit = "million frames"
    metrics = (Metric("flood_kpps", "kpps flooded"), Metric("offered_kpps", "kpps offered"),
               Metric("clean_kpps", "kpps clean"), Metric("clean_loss_pct", "% lost then", higher=False, decimals=3))

    def refuses(self, contender):
        return None if contender.udp else "no UDP"

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
