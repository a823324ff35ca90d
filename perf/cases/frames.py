"""What the cases of small frames share: the generator at the client, and what arrives at the server's link."""
import json
import os
import pathlib
import sys
import time

import machine
from lab import TrialFailed

BLAST = pathlib.Path(__file__).parents[1] / "blast.py"


def leave_generator_its_cpu(lab):
    """What the box receives is spread over the CPUs but the first (RPS), as a NIC's queues would do it, or else the
    generator's CPU would carry the packets, too, and never offer too many."""
    lab.offloads("box", "wan0", gro=True)
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        lab.receive_on("box", "wan0", cpus[1:])


def poll_elsewhere(lab):
    """What the box receives is polled by a thread on the second CPU, as a NIC's queue would be there: what there is no room for is
    lost in that queue. With RPS it waits in the same queue as what the box sends, and either is lost there."""
    lab.offloads("box", "wan0", gro=True)
    cpus = sorted(os.sched_getaffinity(0))
    lab.poll_on("box", "wan0", cpus[min(1, len(cpus) - 1)])


def command(lab, source, target, port, seconds, **options):
    """The generator's argv, on the first CPU; an option is a number, or True for a bare flag."""
    words = [word for name, value in options.items() if value
             for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])]
    return ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, str(BLAST), "wan0",
            lab.link("box", "wan0")["address"], source, target, str(port), str(seconds), *words]


def arrived(lab):
    """Frames that the server's link has received, once no more come."""
    count = None
    for _ in range(20):
        last, count = count, lab.link("server", "lan0")["stats64"]["rx"]["packets"]
        if count == last:
            break
        time.sleep(0.05)
    return count


def send(lab, source, target, port, seconds, **options):
    """(frames sent, frames arrived, CPU seconds of the machine). The generator's own are not among these: it takes a
    whole CPU, whatever it sends."""
    before, cpu_before = arrived(lab), machine.Cpu.now()
    got = json.loads(lab.run("client", command(lab, source, target, port, seconds, **options), seconds + 20))
    cpu = machine.Cpu.now() - cpu_before
    if not got["sent"]:
        raise TrialFailed("the generator sent nothing")
    # An ARP packet of the box's is not a frame of ours.
    return got["sent"], min(arrived(lab) - before, got["sent"]), max(0.0, cpu.busy_s - got["cpu_s"])
