"""What is measured. A case is a file here (or a few that are one case with other numbers)."""
from cases import dns, resolvers
from cases.bulk import Bulk
from cases.failover import Failover
from cases.flood import Flood
from cases.flows import Flows
from cases.http import Connections, KeepAlive, Latency
from cases.idle import Idle
from cases.paced import Paced
from cases.udp import Box64, Udp64

ALL = [
    *(Bulk(streams, reverse) for streams in (1, 4, 16) for reverse in (False, True)),
    Connections(),
    KeepAlive(),
    Paced(),
    Latency(),
    Udp64(),
    Box64(),
    Flows(),
    Flood(),
    Failover("failover", silent=False),
    Failover("failover-silent", silent=True),
    Idle(),
    *dns.ALL,
    *resolvers.ALL,
]
