"""What measures: bisection, the generator's frames (needs root), the fail-over's gap, and that the parts fit together."""
import contextlib
import ctypes
import io
import ipaddress
import os
import pathlib
import struct
import sys
import tomllib
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import blast  # noqa: E402  (the path above comes first)
import cases  # noqa: E402
import contenders  # noqa: E402
import names  # noqa: E402
from bisection import bisect  # noqa: E402
from cases.dns import flooded, waited  # noqa: E402
from cases.failover import gap_ms  # noqa: E402
from lab import TrialFailed  # noqa: E402
from needs import Needs  # noqa: E402

SOURCE, TARGET = (ipaddress.IPv4Address(text) for text in ("198.19.0.0", "198.18.1.10"))
USUAL = ["wan0", "02:00:00:00:00:01", str(SOURCE), str(TARGET), "80", "1"]


def folded(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Bisection(unittest.TestCase):
    def test_finds_the_highest_rate_that_passes(self):
        rate, loss = bisect(0, 1024, 10, lambda rate: (rate, 0.0005) if rate <= 300 else None)
        self.assertTrue(299 <= rate <= 300 and loss == 0.0005)

    def test_says_nothing_where_nothing_passes(self):
        self.assertEqual(bisect(0, 1000, 8, lambda rate: None), (0.0, 0.0))

    def test_counts_what_arrived(self):
        # A generator that never sends more than 100.
        self.assertEqual(bisect(0, 1000, 5, lambda rate: (min(rate, 100), 0.0))[0], 100)


def made(flow_number, syn):
    """The frame that the generator's program makes in the kernel when it has sent `flow_number` - 1 (needs root)."""
    args = blast.arguments([*USUAL, "--flows", "4096", *(["--syn"] if syn else [])])
    key = ctypes.create_string_buffer(4)
    state = ctypes.create_string_buffer(struct.pack(blast.STATE, 0, 0, flow_number - 1, (1 << 64) - 1), 32)
    state_map = blast.bpf(blast.MAP_CREATE, "=IIIII", blast.ARRAY, len(key), len(state), 1, 0)
    blast.bpf(blast.MAP_UPDATE, "=IIQQQ", state_map, 0, key, state, 0)
    run = blast.load(blast.program(args, state_map, 1, b"\2" * 6, args.mac))
    frame, out = ctypes.create_string_buffer(b"." * blast.FRAME, blast.FRAME), ctypes.create_string_buffer(blast.FRAME)
    blast.bpf(blast.TEST_RUN, "=IIIIQQII", run, 0, len(frame), len(out), frame, out, 1, 0)
    for descriptor in (run, state_map):
        os.close(descriptor)
    return out.raw


class Frames(unittest.TestCase):
    def test_each_flow_has_its_address_and_port_and_right_checksums(self):
        for syn, number in ((False, 1), (False, 4000), (True, 2500)):
            frame = made(number, syn)
            source, port = frame[26:30], struct.unpack_from(">H", frame, 34)[0]
            self.assertEqual(ipaddress.IPv4Address(source), SOURCE + number // 1024)
            self.assertEqual(port, blast.FIRST_PORT + number % 1024)
            self.assertEqual(frame[30:34], TARGET.packed)
            self.assertEqual(folded(frame[14:34]), 0xFFFF)
            l4 = frame[34:14 + struct.unpack_from(">H", frame, 16)[0]]
            if syn:
                self.assertEqual(folded(frame[26:34] + struct.pack(">HH", 6, len(l4)) + l4), 0xFFFF)
            else:
                self.assertEqual((l4[6:8], struct.unpack_from(">H", l4, 4)[0]), (b"\0\0", len(l4)))

    def test_flows_that_would_not_all_have_their_turn_are_refused(self):
        blast.arguments(USUAL)
        for more in (["--flows", "1000"], ["--stride", "2"], ["--gently"], ["--flows", str(1 << 27)]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                blast.arguments([*USUAL, *more])


class FailOver(unittest.TestCase):
    def test_the_gap_is_from_the_last_answer_to_the_others_first(self):
        self.assertAlmostEqual(gap_ms([(1.0, "server"), (2.0, "server"), (2.5, "backup"), (2.6, "backup")]), 500)
        # An answer of the server's that was under way.
        self.assertEqual(gap_ms([(1.0, "server"), (2.0, "backup"), (2.1, "server")]), 0)

    def test_no_answer_is_not_a_gap(self):
        for answers in ([], [(1.0, "server")], [(1.0, "backup")]):
            with self.assertRaises(TrialFailed):
                gap_ms(answers)


KXDPGUN = """\
thread#00: sent 2222910, received 687235
total queries:     2000000 (500000 pps)
total replies:     600010 (150002 pps) (30%)
responded NOERROR:   600000
responded SERVFAIL:   10
duration: 4 s
"""

DNSPERF = """\
  Queries lost:         744 (0.15%)

  Response codes:       NOERROR 489000 (99.90%), REFUSED 500 (0.10%)
  Queries per second:   122460.392218
"""


class Queries(unittest.TestCase):
    def test_errors_are_no_answers(self):
        self.assertEqual(flooded(KXDPGUN, 4), (500_000, 150_000, 10))
        self.assertEqual(waited(DNSPERF), (122460.392218, 0.15, 500))

    def test_no_answer_is_no_figure(self):
        for read in (lambda: flooded("total queries: 5 (1 pps)", 4), lambda: flooded("", 4), lambda: waited("")):
            with self.assertRaises(TrialFailed):
                read()

    def test_every_name_that_is_asked_for_is_in_the_zone_with_its_address(self):
        lines = set(names.zone(5000, "192.0.2.1").splitlines())
        asked = names.static(5000)
        self.assertEqual(len(asked), 5000)
        for name, addresses in asked.items():
            self.assertIn(f"{name.partition('.')[0]} A {''.join(addresses)}", lines)
        self.assertEqual(len(names.static(1_000_000)), names.LISTED)


class Parts(unittest.TestCase):
    usual = contenders.Farside("farside", None)

    def test_every_case_has_what_the_tables_need(self):
        self.assertEqual(len({case.name for case in cases.ALL}), len(cases.ALL))
        for case in cases.ALL:
            self.assertTrue(case.name and case.title and case.work_unit and case.metrics, case)
            self.assertEqual(len({metric.name for metric in case.metrics}), len(case.metrics))

    def test_every_contender_takes_part_in_something(self):
        everybody = contenders.everybody(self.usual)
        self.assertEqual(len({contender.name for contender in everybody}), len(everybody))
        for contender in everybody:
            self.assertTrue(contender.title and any(case.takes(contender) for case in cases.ALL), contender.name)

    def test_who_has_no_pools_is_not_asked_for_any(self):
        found = {case.name: {one.name for one in contenders.everybody(self.usual) if case.takes(one)} for case in cases.dns.ALL}
        self.assertEqual(found["dns-static"], {"gdnsd", "nsd", "knot", "pdns", "farside-dns", "farside-dns-fast"})
        self.assertEqual(found["dns-pool"], {"gdnsd", "farside-dns", "farside-dns-fast"})

    def test_farsides_configurations_are_toml(self):
        for fast in (False, True):
            dns = tomllib.loads(contenders.FarsideDns("farside-dns", None, fast).config("/run/x"))["dns"]
            self.assertEqual(dns.get("fast_path"), ["wan0"] if fast else None)
        pools = dns["pool"]
        self.assertEqual([member["addresses"] for member in pools[0]["member"]], [[address] for address in names.MEMBERS])
        for contender in [self.usual, *contenders.backends(self.usual), *contenders.modes(self.usual)]:
            for needs in (Needs(), Needs(backup=True), Needs(flows=1000)):
                config = tomllib.loads(contender.config("/run/x", needs))
                self.assertEqual(len(config["service"]), 4 if needs.backup else 3)
                self.assertEqual(config["datapath"].get("max_flows"), needs.flows or None)


if __name__ == "__main__":
    unittest.main()
