"""One trial: a case, a contender, a fresh topology."""
import fcntl
import sys

import machine
from lab import Lab, TrialFailed
from needs import Needs

LOCK = "/run/farside-perf.lock"


def only_one():
    """Holds the lock that keeps a second run from spoiling the first one's figures; returns the open file."""
    lock = open(LOCK, "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("perf: another perf/run is measuring on this machine; two at once would measure each other")
    return lock


def preflight(candidates, cases, say):
    """Makes everything ready, and starts every contender once. Returns (cases, contenders) that can take part, and
    ({name: why it cannot be had here}, {name: why it does not work}) for the others."""
    ready, able, absent, unable = [], [], {}, {}
    for case in cases:
        try:
            case.prepare(say)
            ready.append(case)
        except TrialFailed as failure:
            unable[case.name] = str(failure)
    for contender in candidates:
        try:
            contender.prepare(say)
            if why := contender.absent():
                absent[contender.name] = why
                continue
            with Lab(http_processes=2 if contender.group == "forward" else 0) as lab:
                contender.start(lab, Needs())
                contender.wait_until_carried(lab, Needs())
            able.append(contender)
        except TrialFailed as failure:
            unable[contender.name] = str(failure)
    for name, why in {**absent, **unable}.items():
        say(f"LEFT OUT  {name}: {why}")
    return ready, able, absent, unable


def measure(case, contender, seconds):
    """Returns {metric name: value}, CPU figures included."""
    background = machine.Cpu.sample(0.3)
    with Lab(case.http_processes) as lab:
        case.set_up(lab)
        contender.start(lab, case.needs)
        contender.wait_until_carried(lab, case.needs)
        case.warm_up(lab, contender)
        before = machine.Cpu.now()
        figures = case.measure(lab, contender, seconds)
        used = machine.Cpu.now() - before
        lab.check_alive()
    figures.setdefault("cpu_s", used.busy_s)
    figures["cpu_per_work"] = figures["cpu_s"] / figures.pop("work")
    figures["background_cpu"] = background.busy_s / background.wall_s
    figures["steal_s"] = used.steal_s
    return figures
