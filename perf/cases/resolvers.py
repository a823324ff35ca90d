"""What it costs to send each resolver to the site again that it was sent to before: many of them ask, many more are remembered."""
import dataclasses
import json

import names
from cases import frames
from cases.case import Case, Metric
from lab import RESOLVERS, VIP, TrialFailed
from needs import Needs

PORT = 53
ASKING, REMEMBERED = 100_000, 1_000_000
STRIDE = 61_803  # so that neighbors do not ask one after the other
SLICES = 4  # of each kind of question, in turn with the other, in a measurement
WARM_S = 0.5
MOST_OF_THEM = 0.999  # few have no room, of as many as there is memory for: those whose bucket is full


@dataclasses.dataclass
class Asked:
    """What came of one kind of question."""
    sent: int = 0
    answered: int = 0
    errors: int = 0
    cpu_s: float = 0.0  # the server's

    @property
    def each_s(self):
        """The server's CPU time for an answer."""
        return self.cpu_s / self.answered


class Resolvers(Case):
    name = "dns-dynamic"
    group = "dns"
    title = f"{ASKING:,} resolvers ask in turn; {REMEMBERED:,} records; a pool of mode dynamic beside a plain one, alone and linked"
    tools = {"dig": "bind9-dnsutils", "taskset": "util-linux"}
    work_unit = "million answers of the pool with mode dynamic (the server's alone)"
    http_processes = 0
    needs = Needs(records=REMEMBERED, resolvers=ASKING)
    metrics = (Metric("dynamic_kqps", "thousand answers/s, dynamic"), Metric("plain_kqps", "thousand answers/s, plain pool"),
               Metric("dynamic_pct", "% of the plain pool's", decimals=1),
               Metric("dynamic_cpu_pct", "% of the plain pool's, for each CPU second of the server's", decimals=1),
               Metric("linked_pct", "% of the first of these, linked with another node", decimals=1),
               Metric("linked_cpu_pct", "% of the second of these, linked", decimals=1),
               Metric("offered_kqps", "thousand queries/s offered"), Metric("records", "records"),
               Metric("errors", "errors", higher=False))

    def refuses(self, contender):
        return contender.memory

    def warm_up(self, lab, contender):
        # The generator's frames, and the answers to the resolvers, need it at both ends.
        lab.offloads("box", "wan0", gro=True)
        lab.wait_until_answered(VIP, names.POOL, set(names.MEMBERS), 5)
        found = lab.run("client", ["dig", "+short", f"@{VIP}", names.REMEMBERED, "A"], 20).split()
        if sorted(found) not in (sorted(names.MEMBERS), sorted(names.MEMBERS_ELSEWHERE)):
            raise TrialFailed(f"{names.REMEMBERED}: {' '.join(found) or 'no answer'} instead of one site's addresses")
        for name in (names.POOL, names.REMEMBERED):
            self._asked(lab, name, WARM_S)

    @staticmethod
    def _asked(lab, name, seconds):
        argv = frames.command(lab, RESOLVERS, VIP, PORT, seconds, flows=ASKING, ports=1, stride=STRIDE, question=name)
        got = json.loads(lab.run("client", argv, seconds + 20))
        if not got["answered"]:
            raise TrialFailed(f"no answer for {name}")
        return got

    def _in_turn(self, lab, seconds):
        """Both pools, asked in turn for so long each: (plain, dynamic), each as Asked."""
        asked = {names.POOL: Asked(), names.REMEMBERED: Asked()}
        for _ in range(SLICES):
            for name, of in asked.items():
                before = lab.cpu_s("box")
                got = self._asked(lab, name, seconds / SLICES)
                of.cpu_s += lab.cpu_s("box") - before
                of.answered += got["answered"]
                of.sent += got["sent"]
                of.errors += got["errors"]
        return asked.values()

    def measure(self, lab, contender, seconds):
        plain, dynamic = self._in_turn(lab, seconds)
        self._check(contender.known(lab), dynamic.answered)
        lab.stop(contender.running)
        contender.run(lab, dataclasses.replace(self.needs, shared=True))
        contender.wait_until_carried(lab, self.needs)
        contender.wait_until_linked(lab)
        self.warm_up(lab, contender)
        plain_linked, linked = self._in_turn(lab, seconds)
        known = contender.known(lab)
        self._check(known, linked.answered)
        rate, cpu = dynamic.answered / plain.answered, dynamic.each_s / plain.each_s
        rate_linked, cpu_linked = linked.answered / plain_linked.answered, linked.each_s / plain_linked.each_s
        return {"dynamic_kqps": dynamic.answered / seconds / 1e3, "plain_kqps": plain.answered / seconds / 1e3,
                "dynamic_pct": rate * 100, "dynamic_cpu_pct": 100 / cpu,
                "linked_pct": rate_linked / rate * 100, "linked_cpu_pct": cpu / cpu_linked * 100,
                "offered_kqps": dynamic.sent / seconds / 1e3, "records": known["records"],
                "errors": sum(of.errors for of in (plain, dynamic, plain_linked, linked)),
                "cpu_s": dynamic.cpu_s, "work": dynamic.answered / 1e6}

    @staticmethod
    def _check(known, answers):
        """What was measured is answers by what is remembered."""
        if known["records"] < MOST_OF_THEM * REMEMBERED or known["hits"] < answers or known["misses"] > 1000:
            raise TrialFailed("it remembers " + ", ".join(f"{count:,} {what}" for what, count in known.items()))


ALL = [Resolvers()]
