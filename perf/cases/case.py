"""What every case is."""
import dataclasses

from needs import Needs


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of a case. `higher` says which way is better."""
    name: str
    unit: str
    higher: bool = True
    decimals: int = 0

    def show(self, value):
        return f"{value:,.{self.decimals}f} {self.unit}"


class Case:
    """One kind of load. `metrics[0]` is the one that the case is about.

    `measure` returns a value for each metric, and `work`: how much was done, in `work_unit`, for CPU per work. If
    that was done in a part of the time only, or beside something costly that is not the contender's, it says by `cpu_s`
    what it took."""
    name = ""
    group = "forward"  # contenders are of one too; a run without names of cases is of this one
    title = ""
    tools = {}
    work_unit = ""
    metrics = ()
    needs = Needs()
    quick = True  # part of a quick run
    http_processes = 2  # of the server's nginx; 0: there are no servers

    def refuses(self, contender):
        """Why this contender cannot take part, in a word or two for the table; None if it can."""
        return None

    def takes(self, contender):
        """Does this contender take part?"""
        return self.group == contender.group and not self.refuses(contender)

    def prepare(self, say):
        """Once per run, before the first trial. TrialFailed leaves the case out."""

    def set_up(self, lab):
        """On a fresh Lab, before the contender is on the box."""

    def warm_up(self, lab, contender):
        """Neighbours learnt, pages touched, caches warm; not measured."""

    def measure(self, lab, contender, seconds):
        raise NotImplementedError
