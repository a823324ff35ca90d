"""What every case is."""
import dataclasses


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

    `measure` returns a value for each metric, and `work`: how much was done, in `work_unit`, for CPU per work."""
    name = ""
    title = ""
    tools = {}
    work_unit = ""
    metrics = ()

    def refuses(self, contender):
        """Why this contender cannot take part, in a word or two for the table; None if it can."""
        return None

    def warm_up(self, lab, target):
        """Neighbours learnt, pages touched, caches warm; not measured."""

    def measure(self, lab, target, seconds):
        raise NotImplementedError
