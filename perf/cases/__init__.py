"""What is measured. A case is a file here (or a few that are one case with other numbers)."""
from cases.bulk import Bulk
from cases.http import Connections, KeepAlive, Latency
from cases.udp import Udp64

ALL = [
    Bulk("bulk1", streams=1, reverse=False),
    Bulk("bulk1-r", streams=1, reverse=True),
    Bulk("bulk4", streams=4, reverse=False),
    Bulk("bulk4-r", streams=4, reverse=True),
    Connections(),
    KeepAlive(),
    Latency(),
    Udp64(),
]
