"""A million flows at a time: what they cost in memory, and how fast packets are carried among them."""
import machine
from cases import frames
from cases.case import Case, Metric
from lab import MANY_CLIENTS, SINK_PORT, TrialFailed
from needs import Needs

FLOWS = 1 << 20
RATE = 100_000  # while they are opened
PASSES = 6  # whose first frame was lost is opened by the next pass
STRIDE = 0x2545_F491  # while they are used: not in the order in which they were opened


class Flows(Case):
    name = "flows"
    title = f"{FLOWS:,} UDP flows at a time, opened with {RATE:,} frames/s; then as many frames as the box takes, of all flows"
    work_unit = "million frames"
    needs = Needs(flows=FLOWS + FLOWS // 32)
    quick = False
    metrics = (Metric("bytes_per_flow", "bytes of memory per flow", higher=False), Metric("held_k", "thousand flows held"),
               Metric("flood_kpps", "kpps flooded"), Metric("offered_kpps", "kpps offered"))

    def refuses(self, contender):
        return contender.too_few_flows(self.needs.flows)

    def set_up(self, lab):
        self.before = machine.settled_kernel_memory()

    def warm_up(self, lab, contender):
        frames.leave_generator_its_cpu(lab)
        for _ in range(PASSES):
            frames.send(lab, MANY_CLIENTS, contender.target, SINK_PORT, FLOWS / RATE, rate=RATE, flows=FLOWS)
            if contender.flows(lab) >= FLOWS:
                break

    def measure(self, lab, contender, seconds):
        held = contender.flows(lab)
        if held < FLOWS / 2:
            raise TrialFailed(f"only {held} flows held")
        used = lab.memory("box") + machine.kernel_memory() - self.before
        sent, arrived, cpu_s = frames.send(lab, MANY_CLIENTS, contender.target, SINK_PORT, seconds, flows=FLOWS,
                                           stride=STRIDE)
        if not arrived:
            raise TrialFailed("no frame arrived")
        return {"bytes_per_flow": used / held, "held_k": held / 1e3, "flood_kpps": arrived / seconds / 1e3,
                "offered_kpps": sent / seconds / 1e3, "cpu_s": cpu_s, "work": arrived / 1e6}
