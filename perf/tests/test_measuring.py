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

import answers  # noqa: E402  (the path above comes first)
import blast  # noqa: E402
import bpf  # noqa: E402
import cases  # noqa: E402
import contenders  # noqa: E402
import machine  # noqa: E402
import names  # noqa: E402
from bisection import bisect  # noqa: E402
from cases.dns import flooded, waited  # noqa: E402
from cases.failover import gap_ms  # noqa: E402
from lab import RESOLVERS, TrialFailed  # noqa: E402
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


def run_once(program, frame, room):
    """What an XDP program returns for a frame, and makes of it."""
    run, out = bpf.load(program), ctypes.create_string_buffer(room)
    attributes = struct.pack("=IIIIQQII", run, 0, len(frame), len(out), 0, 0, 1, 0)
    given = ctypes.create_string_buffer(frame, len(frame))
    attributes = attributes[:16] + struct.pack("=QQ", ctypes.addressof(given), ctypes.addressof(out)) + attributes[32:]
    buffer = ctypes.create_string_buffer(attributes, 128)
    if bpf._LIBC.syscall(bpf.SYS_BPF[os.uname().machine], bpf.TEST_RUN, buffer, len(buffer)) < 0:
        raise OSError(ctypes.get_errno(), "a test run")
    os.close(run)
    return struct.unpack_from("=I", buffer.raw, 4)[0], out.raw


def made(flow_number, *options, source=SOURCE):
    """The frame that the generator's program makes in the kernel when it has sent `flow_number` - 1 (needs root)."""
    args = blast.arguments([*USUAL[:2], str(source), *USUAL[3:], *options])
    key = ctypes.create_string_buffer(4)
    state = ctypes.create_string_buffer(struct.pack(blast.STATE, 0, 0, flow_number - 1, (1 << 64) - 1), 32)
    state_map = bpf.bpf(bpf.MAP_CREATE, "=IIIII", bpf.ARRAY, len(key), len(state), 1, 0)
    bpf.bpf(bpf.MAP_UPDATE, "=IIQQQ", state_map, 0, key, state, 0)
    long = blast.length(args)
    _, out = run_once(blast.program(args, state_map, 1, b"\2" * 6, args.mac), b"." * long, long)
    os.close(state_map)
    return out


class Frames(unittest.TestCase):
    def test_each_flow_has_its_address_and_port_and_right_checksums(self):
        for syn, number in ((False, 1), (False, 4000), (True, 2500)):
            frame = made(number, "--flows", "4096", *(["--syn"] if syn else []))
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

    def test_each_resolver_asks_the_question(self):
        for number in (1, 70_000, 99_999):
            frame = made(number, "--flows", "100000", "--ports", "1", "--question", names.REMEMBERED, source=RESOLVERS)
            self.assertEqual(ipaddress.IPv4Address(frame[26:30]), ipaddress.IPv4Address(RESOLVERS) + number)
            self.assertEqual(struct.unpack_from(">HHH", frame, 34), (blast.FIRST_PORT, 80, len(frame) - 34))
            self.assertEqual(folded(frame[14:34]), 0xFFFF)
            self.assertEqual(frame[42:], blast.question(names.REMEMBERED))

    def test_flows_that_would_not_all_have_their_turn_are_refused(self):
        for more in ([], ["--flows", "1000"]):
            blast.arguments([*USUAL, *more])
        for more in (["--flows", "0"], ["--stride", "2"], ["--gently"], ["--flows", str(1 << 27)], ["--ports", "0"],
                     ["--flows", "1000", "--stride", "25"], ["--syn", "--question", "a.example"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                blast.arguments([*USUAL, *more])


class Answers(unittest.TestCase):
    def counted(self, message, port=53):
        """What becomes of a frame with this message, and how it is counted."""
        header, _, _ = blast.headers(b"\2" * 6, b"\4" * 6, TARGET.packed, 80, False, names.POOL)
        frame = header[:34] + struct.pack(">H", port) + header[36:42] + message
        counts_map = bpf.bpf(bpf.MAP_CREATE, "=IIIII", bpf.ARRAY, 4, 8, answers.CODES, 0)
        verdict, _ = run_once(answers.program(counts_map), frame, 2048)
        counts = answers.read(counts_map)
        os.close(counts_map)
        return verdict, counts

    def test_only_answers_with_records_are_good(self):
        def message(code, records):
            return struct.pack(">6H", 1, 0x8400 | code, 1, records, 0, 0) + b"." * 20

        self.assertEqual(self.counted(message(0, 4)), (bpf.XDP_DROP, (1, 0)))
        for bad in (message(0, 0), message(2, 0), message(5, 1)):
            self.assertEqual(self.counted(bad), (bpf.XDP_DROP, (0, 1)))
        self.assertEqual(self.counted(message(0, 4), port=54), (bpf.XDP_PASS, (0, 0)))


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


class KernelMemory(unittest.TestCase):
    def settled(self, *mib, most_s=60):
        held = iter([*mib, *[mib[-1]] * 99])
        return machine.settled_kernel_memory(most_s=most_s, now=lambda: int(next(held) * (1 << 20)), sleep=lambda _: None) >> 20

    def test_what_is_given_back_late_is_waited_for(self):
        self.assertEqual(self.settled(500, 500, 500, 300, 200, 100), 100)

    def test_small_change_is_not(self):
        self.assertEqual(self.settled(500.0, 499.9, 500.1, 499.8, 500.5, 100), 500)

    def test_nothing_is_waited_for_forever(self):
        self.assertEqual(self.settled(*range(900, 100, -2), most_s=10), 878)


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
        found = {case.name: {one.name for one in contenders.everybody(self.usual) if case.takes(one)}
                 for case in cases.ALL if case.group == "dns"}
        self.assertEqual(found["dns-static"], {"gdnsd", "nsd", "knot", "pdns", "farside-dns", "farside-dns-fast"})
        self.assertEqual(found["dns-pool"], {"gdnsd", "farside-dns", "farside-dns-fast"})
        self.assertEqual(found["dns-dynamic"], {"farside-dns", "farside-dns-fast"})

    def test_farsides_configurations_are_toml(self):
        for fast in (False, True):
            dns = tomllib.loads(contenders.FarsideDns("farside-dns", None, fast).config("/run/x", Needs()))["dns"]
            self.assertEqual(dns.get("fast_path"), ["wan0"] if fast else None)
        pools = dns["pool"]
        self.assertEqual([member["addresses"] for member in pools[0]["member"]], [[address] for address in names.MEMBERS])
        for site, other in (("perf", "second"), ("second", "perf")):
            config = tomllib.loads(contenders.FarsideDns("farside-dns", None).config("/run/x", Needs(records=1000, shared=True), site))
            self.assertEqual((config["site"]["name"], config["peer"][0]["name"]), (site, other))
            self.assertTrue(config["link"]["listen"] and config["peer"][0]["link"])
            self.assertEqual([len(pool["member"]) for pool in config["dns"]["pool"]], [4, 8])
        for contender in [self.usual, *contenders.backends(self.usual), *contenders.modes(self.usual)]:
            for needs in (Needs(), Needs(backup=True), Needs(flows=1000)):
                config = tomllib.loads(contender.config("/run/x", needs))
                self.assertEqual(len(config["service"]), 4 if needs.backup else 3)
                self.assertEqual(config["datapath"].get("max_flows"), needs.flows or None)


if __name__ == "__main__":
    unittest.main()
