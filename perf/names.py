"""The zone that name servers serve in the DNS cases, and what they are asked."""

ORIGIN = "bench.example"
POOL = f"pool.{ORIGIN}"
POOL_TTL_S = 30
REMEMBERED = f"sites.{ORIGIN}"  # a pool's that sends each resolver to the same site again; as long as POOL nearly
MEMBERS = ("10.255.0.1", "10.255.0.2", "10.255.0.3", "10.255.0.4")
MEMBERS_ELSEWHERE = ("10.255.1.1", "10.255.1.2", "10.255.1.3", "10.255.1.4")  # the other site's
LISTED = 10_000  # names that are asked for, of a larger zone: in another order than they stand in the file


def _label(number):
    """So that neighbours in the file are none in the zone."""
    return f"host-{(number * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1) >> 24}"


def _address(number):
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def zone(names, server, *more):
    """A master file of so many names with one address each, and `more` lines."""
    head = [f"$ORIGIN {ORIGIN}.", "$TTL 3600", "@ SOA ns1 admin 1 3600 900 1209600 300", "@ NS ns1", f"ns1 A {server}"]
    hosts = (f"{_label(number)} A {_address(number)}" for number in range(names))
    return "\n".join([*head, *hosts, *more]) + "\n"


def static(names):
    """{name: the addresses that are right}: names all over the zone."""
    asked = (number * 7919 % names for number in range(min(names, LISTED)))
    return {f"{_label(number)}.{ORIGIN}": {_address(number)} for number in asked}


def pool():
    """As `static`: the one name whose addresses come from a pool."""
    return {POOL: set(MEMBERS)}
