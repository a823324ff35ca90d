"""Queries to a name server: as many as it can answer when more come than anybody can (kxdpgun, each from another port), and as many
as a client gets that waits for answers (dnsperf). What is answered is looked at before."""
import os
import re
import time

import names
from cases.case import Case, Metric
from lab import CLIENT, MANY_CLIENTS_NET, VIP, TrialFailed
from needs import Needs

FLOOD_PER_S = 1_500_000  # asked of the generator: more than it can
WAITING = 1000  # dnsperf's queries under way
CLIENTS = 64
CHECKED = 20  # names whose answers are compared
GENERATOR_CPU = min(os.sched_getaffinity(0))

# Of each answer of kxdpgun's by its code.
ANSWERED = re.compile(r"^responded (\w+): +(\d+)", re.M)


def flooded(printed, seconds):
    """kxdpgun's (queries/s, answers/s, answers that are errors)."""
    sent = re.search(r"^total queries: +(\d+)", printed, re.M)
    if not sent:
        raise TrialFailed("kxdpgun gave no result")
    codes = {code: int(count) for code, count in ANSWERED.findall(printed)}
    if not codes:
        raise TrialFailed("kxdpgun got no answer")
    good = codes.pop("NOERROR", 0)
    return int(sent[1]) / seconds, good / seconds, sum(codes.values())


def waited(printed):
    """dnsperf's (answers/s, percent of queries lost, answers that are errors)."""
    rate = re.search(r"Queries per second: +([\d.]+)", printed)
    lost = re.search(r"Queries lost: +\d+ \(([\d.]+)%\)", printed)
    codes = re.search(r"Response codes: +(.+)", printed)
    if not rate or not lost or not codes:
        raise TrialFailed("dnsperf gave no result")
    counts = {code: int(count) for code, count in re.findall(r"(\w+) (\d+) \(", codes[1])}
    return float(rate[1]), float(lost[1]), sum(count for code, count in counts.items() if code != "NOERROR")


class Dns(Case):
    group = "dns"
    tools = {"dnsperf": "dnsperf", "kxdpgun": "knot-dnsutils", "dig": "bind9-dnsutils", "taskset": "util-linux"}
    work_unit = "million answers waited for (the server's alone)"
    http_processes = 0
    flood = (Metric("answered_kqps", "thousand answers/s, flooded"), Metric("offered_kqps", "thousand queries/s offered"))
    closed = (Metric("waited_kqps", "thousand answers/s, waited for"),
              Metric("lost_pct", "% of those queries lost", higher=False, decimals=3), Metric("errors", "errors", higher=False))
    metrics = (*flood, *closed)

    def __init__(self, name, asked, what, threads=1, size=10_000):
        self.name = name
        self.asked = asked  # of the zone's number of names: {name: addresses}
        self.needs = Needs(names=size, threads=threads)
        self.title = f"{what}; {size:,} names, {threads} thread{'s' if threads > 1 else ''}"

    def refuses(self, contender):
        return contender.pools if self.asked is not names.static else None

    def set_up(self, lab):
        self.right = self.asked(self.needs.names) if self.asked is names.static else self.asked()
        self.queries = lab.dir / "queries"
        self.queries.write_text("".join(f"{name} A\n" for name in self.right))

    def warm_up(self, lab, contender):
        for name, right in list(self.right.items())[:CHECKED]:
            lab.wait_until_answered(VIP, name, right, 5)
        self._dnsperf(lab, 1)

    @staticmethod
    def _generate(lab, argv, seconds):
        return lab.run("client", ["taskset", "-c", str(GENERATOR_CPU), *argv], seconds + 20)

    def _dnsperf(self, lab, seconds):
        return waited(self._generate(lab, ["dnsperf", "-s", VIP, "-d", str(self.queries), "-a", CLIENT, "-c", str(CLIENTS),
                                           "-q", str(WAITING), "-T", "1", "-t", "1", "-l", str(seconds)], seconds))

    def _kxdpgun(self, lab, seconds):
        return flooded(self._generate(lab, ["kxdpgun", "-Q", str(FLOOD_PER_S), "-t", str(seconds), "-l", MANY_CLIENTS_NET,
                                            "-I", "wan0", "-F", f"{GENERATOR_CPU}s1", "-i", str(self.queries), VIP],
                                      seconds), seconds)

    def measure(self, lab, contender, seconds):
        before = lab.cpu_s("box")
        waited_for, lost, wrong = self._dnsperf(lab, seconds)
        used = lab.cpu_s("box") - before
        offered, answered, failed = self._kxdpgun(lab, seconds)
        return {"answered_kqps": answered / 1e3, "offered_kqps": offered / 1e3, "waited_kqps": waited_for / 1e3,
                "lost_pct": lost, "errors": wrong + failed, "cpu_s": used, "work": waited_for * seconds / 1e6}


class Large(Dns):
    """Also what it takes to have so many names. Timed from the process's start to the first answer."""
    metrics = (*Dns.flood, Metric("load_s", "s until it answers", higher=False, decimals=2),
               Metric("memory_mib", "MiB of memory", higher=False), *Dns.closed)

    def warm_up(self, lab, contender):
        self.load_s = time.monotonic() - contender.running.started
        super().warm_up(lab, contender)
        self.memory = lab.memory("box")

    def measure(self, lab, contender, seconds):
        return {**super().measure(lab, contender, seconds), "load_s": self.load_s, "memory_mib": self.memory / 2**20}


ALL = [Dns("dns-static", names.static, "any of the names"), Dns("dns-pool", names.pool, "a pool's name, 4 addresses"),
       Dns("dns-static-2", names.static, "any of the names", threads=2),
       Dns("dns-pool-2", names.pool, "a pool's name, 4 addresses", threads=2),
       Large("dns-million", names.static, f"any of {names.LISTED:,} names", size=1_000_000)]
