"""No load balancer: the box's kernel routes. The reference, not a rival."""
import lab as laboratory
from contenders.contender import Contender


class Direct(Contender):
    name = "direct"
    title = "kernel forwarding, nothing translated"
    target = laboratory.SERVER
    quick = True
    processes = False

    def start(self, lab, needs):
        lab.sysctl("box", "net.ipv4.ip_forward", 1)
