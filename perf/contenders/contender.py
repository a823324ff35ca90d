"""What every contender is."""
import lab


class Contender:
    """One occupant of the box."""
    name = ""
    group = "forward"  # whose cases it takes part in
    title = ""
    tools = {}  # command or file -> Debian package
    version = None  # argv whose first line of output is the version
    ours = False  # a farside: its ratio to everybody before it is shown
    quick = False  # part of a quick run
    target = lab.VIP  # where the client calls

    # What it can do; a case that needs more refuses it.
    udp = True
    new_flows = True  # the first packet of a flow is another thing to it than the next
    without_backup = "no checks"  # why no other server comes in the place of a dead one; None if one does
    processes = True  # it is some, rather than the kernel

    def absent(self):
        """Why there can be no such thing here, however hard one tries; None if there can. Asked again after `prepare`."""
        return None

    def too_few_flows(self, flows):
        """Why it cannot hold so many UDP flows, or cannot tell how many it holds; None if it can."""
        return "flows not counted"

    def flows(self, lab):
        """How many it holds."""
        raise NotImplementedError

    def prepare(self, say):
        """Once per run, before the first trial. TrialFailed leaves the contender out."""

    def wait_until_carried(self, lab, needs):
        """Until traffic is seen to be right."""
        lab.wait_until_carried(self.target)

    def start(self, lab, needs):
        """On a fresh Lab; returns when traffic may come. TrialFailed loses the trial."""
        raise NotImplementedError
