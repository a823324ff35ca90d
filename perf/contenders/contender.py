"""What every contender is."""
import lab


class Contender:
    """One occupant of the box."""
    name = ""
    title = ""
    tools = {}  # command -> Debian package
    version = None  # argv whose first line of output is the version
    ours = False  # a farside: its ratio to everybody before it is shown
    udp = True
    target = lab.VIP  # where the client calls

    def prepare(self, say):
        """Once per run, before the first trial. TrialFailed leaves the contender out."""

    def start(self, lab):
        """On a fresh Lab; returns when traffic may come. TrialFailed loses the trial."""
        raise NotImplementedError
