"""What a contender costs while nothing is to be done."""
import time

from cases.case import Case, Metric

LENGTH_S = 10


class Idle(Case):
    name = "idle"
    title = f"CPU time of the contender's processes while nothing comes, over {LENGTH_S} s"
    work_unit = "second"
    metrics = (Metric("cpu_pct", "% of a core", higher=False, decimals=2),)

    def refuses(self, contender):
        return None if contender.processes else "no process"

    def warm_up(self, lab, contender):
        time.sleep(1)

    def measure(self, lab, contender, seconds):
        before, start = lab.cpu_s("box"), time.monotonic()
        time.sleep(LENGTH_S)
        used, length = lab.cpu_s("box") - before, time.monotonic() - start
        return {"cpu_pct": used / length * 100, "work": length}
