"""What the contenders of the DNS cases have in common: one address, one zone, so many threads on so many CPUs."""
import os

import names
from contenders.contender import Contender
from lab import VIP

PORT = 53


def server_cpus(threads):
    """One CPU for each thread, none of them the generator's (the first), if there are so many; or else the last ones."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[1:1 + threads] if len(cpus) > threads else cpus[-threads:]


class Nameserver(Contender):
    group = "dns"
    quick = True
    pools = None  # why it has no pools; None if it has
    memory = "no such mode"  # why it does not remember where resolvers were sent; None if it does
    pool_lines = ()  # of the zone's file
    seconds_to_load = 120

    @staticmethod
    def write(lab, needs, file, form, **more):
        """Writes a file of the configuration into the lab's directory, with what every name server is told filled in; its path."""
        path = lab.dir / file
        path.write_text(form.format(address=VIP, threads=needs.threads, dir=lab.dir, origin=names.ORIGIN, **more))
        return str(path)

    def configure(self, lab, needs):
        """Writes its configuration into the lab's directory, where `bench.zone` is; returns its argv."""
        raise NotImplementedError

    def start(self, lab, needs):
        lab.own_vip()
        # Who is not root there reads and writes it too.
        lab.dir.chmod(0o777)
        (lab.dir / "bench.zone").write_text(names.zone(needs.names, VIP, *self.pool_lines))
        self.run(lab, needs)

    def run(self, lab, needs):
        """Starts the process, where everything else is as it should be."""
        argv = self.configure(lab, needs)
        cpus = ",".join(map(str, server_cpus(needs.threads)))
        self.running = lab.start("box", ["taskset", "-c", cpus, *argv])

    def wait_until_carried(self, lab, needs):
        name, right = next(iter(names.static(needs.names).items()))
        lab.wait_until_answered(VIP, name, right, self.seconds_to_load)
