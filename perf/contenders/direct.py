"""No load balancer: the box's kernel routes. The reference, not a rival."""
import lab as laboratory
from contenders.contender import Contender


class Direct(Contender):
    name = "direct"
    title = "kernel forwarding, nothing translated"
    target = laboratory.SERVER

    def start(self, lab):
        lab.sysctl("box", "net.ipv4.ip_forward", 1)
