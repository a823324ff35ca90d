"""What a case asks of the contender beyond carrying HTTP, bulk and UDP to one server."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Check:
    """How a contender finds out that the server is dead. nginx has no checks: it finds out by clients' connections."""
    interval_ms: int = 1000
    timeout_ms: int = 500
    rise: int = 2
    fall: int = 3

    def __str__(self):
        return f"checks every {self.interval_ms} ms, timeout {self.timeout_ms} ms, down after {self.fall}"


CHECK = Check()


@dataclasses.dataclass(frozen=True)
class Needs:
    backup: bool = False  # CHECKed, and another server in its place while it is down: on the VIP's port NAMED_PORT
    names: int = 1000  # of the zone that a name server has
    threads: int = 1  # of a name server
    records: int = 0  # that it remembers of resolvers, of so many that ask
    resolvers: int = 0
    shared: bool = False  # with another node, which runs beside it
    flows: int = 0  # so many at a time; 0: what the contender has room for by default
    far_end: bool = True  # of a tunnel: takes the flood apart; else it carries little, and has no program at the server's link
