"""Requests at a fixed rate, whether or not earlier ones were answered: how long they take. Time is counted from when a
request was due, so that a box that stops for a moment is charged for all that waited (no coordinated omission)."""
import build
from cases.case import Case, Metric
from cases.http import CONNECTIONS
from lab import HTTP_PORT, TrialFailed
from report import percentile

RATE = 160 * CONNECTIONS


class Paced(Case):
    name = "paced"
    title = f"{RATE:,} requests/s on {CONNECTIONS} kept connections, each timed from when it was due"
    work_unit = "1000 requests"
    metrics = (Metric("p99_us", "us p99", higher=False), Metric("p50_us", "us p50", higher=False),
               Metric("p999_us", "us p99.9", higher=False), Metric("rate", "req/s answered"))

    def prepare(self, say):
        self.generator = build.program("paced", say)

    def _requests(self, lab, target, seconds):
        """Microseconds that each request took, lowest first."""
        out = lab.run("client", [self.generator, f"{target}:{HTTP_PORT}", str(CONNECTIONS), str(RATE), str(seconds)],
                      seconds + 20)
        taken = sorted(map(int, out.split()))
        if not taken:
            raise TrialFailed("no request was answered")
        return taken

    def warm_up(self, lab, contender):
        self._requests(lab, contender.target, 1)

    def measure(self, lab, contender, seconds):
        taken = self._requests(lab, contender.target, seconds)
        return {"p50_us": percentile(taken, 50), "p99_us": percentile(taken, 99), "p999_us": percentile(taken, 99.9),
                "rate": len(taken) / seconds, "work": len(taken) / 1e3}
