#!/usr/bin/env python3
"""A generator of small frames from many flows: 64-byte UDP (60 and the checksum of a wire), TCP SYNs, or questions to a name server.

    blast.py INTERFACE MAC SOURCE TARGET PORT SECONDS [--rate N] [--flows N] [--ports N] [--stride N]
             [--syn | --question NAME] [--gently]

Sends to `TARGET`:`PORT`, by way of `MAC`, for `SECONDS` at `--rate` frames/s (0: as fast as it can), and prints {"sent",
"cpu_s"} as JSON. Flow number n comes from port 10240 + n % `--ports` (1024) of the address `SOURCE` + n / `--ports`. Flows take turns in
steps of `--stride`: each one once in `--flows` frames.

With `--question` each frame asks a name server for a name's addresses (answers.py counts what comes back; {"answered", "errors"} are
printed too): with `--ports 1` from as many resolvers as there are flows, as kxdpgun cannot, which goes through all ports of an
address before it takes the next one.

The kernel makes the frames: an XDP program in a "live" test run (Linux 5.18) decides when one is due, writes its
headers and redirects it to INTERFACE. No system call and no copy for each, so that it outruns everybody on the box; it
takes a whole CPU, whatever the rate, or with `--gently` sleeps between portions of a few milliseconds: no even stream,
but it leaves the CPU to others. For veth, whose peer has to have GRO on: its NAPI takes redirected frames. Needs root.
"""
import argparse
import contextlib
import ctypes
import errno
import ipaddress
import json
import math
import os
import signal
import socket
import struct
import sys
import time

from answers import Answers
from bpf import ARRAY, MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, TEST_RUN, XDP_ABORTED, XDP_DROP, bpf, load, op

LIVE_FRAMES = 1 << 1
KTIME, REDIRECT = 5, 23
FRAME = 60  # and 4 of checksum that a wire would add
FIRST_PORT, PORTS = 0x2800, 1024
SOURCES = ipaddress.IPv4Network("198.18.0.0/15")
BATCH = 64
LATE_NS = 1_000_000  # what could not be sent for so long is not made up for: that would be a burst
LEAD_S = 0.1  # for the test run to be set up
SETTLE_S = 0.05  # for the last answers
PORTION_S, MAX_PORTION_S = 0.004, 0.1
MAX_SECONDS = 120
STATE = "=QQQQ"  # when the next frame is due, interval, how many were sent, when to stop; nanoseconds
IP_SUM, SOURCE, SOURCE_PORT, TCP_SUM = 24, 26, 34, 50  # where they are in a frame


def _words_sum(data):
    return sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))


def question(name):
    """A DNS query for a name's addresses, as resolvers send it to authoritative servers."""
    labels = (label.encode() for label in name.rstrip(".").split("."))
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack(">6H", 0x5EED, 0, 1, 0, 0, 0) + wire + struct.pack(">HH", 1, 1)


def headers(source_mac, target_mac, target, port, syn, asked):
    """Ethernet, IPv4 and UDP or TCP, and the sums of IP's and of TCP's words so far; with `asked` the whole frame. What makes a flow is
    left 0 (the source and its port), and so are the checksums; UDP's stays 0: none (RFC 768)."""
    message = question(asked) if asked else b""
    if syn:
        protocol, l4 = socket.IPPROTO_TCP, struct.pack(">HHIIBBHHH", 0, port, 1, 0, 5 << 4, 0x02, 0xFFFF, 0, 0)
        length = 20 + len(l4)
    else:
        length = max(FRAME - 14, 28 + len(message))
        protocol, l4 = socket.IPPROTO_UDP, struct.pack(">HHHH", 0, port, length - 20, 0) + message
    source = bytes(4)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, protocol, 0, source, target)
    l4_sum = _words_sum(source + target + l4) + protocol + len(l4)
    return target_mac + source_mac + b"\x08\x00" + ip + l4, _words_sum(ip), l4_sum


def length(args):
    """Of a frame, in bytes."""
    return max(FRAME, len(headers(bytes(6), bytes(6), args.target.packed, args.port, args.syn, args.question)[0]))


def _checksum(base, parts, offset):
    """Stores the complement of the folded sum of `base` and the registers `parts` at r2 + offset, by r0 and r1."""
    fold = [op(0xBF, 1, 0), op(0x77, 1, imm=16), op(0x57, 0, imm=0xFFFF), op(0x0F, 0, 1)]
    return [op(0xB7, 0, imm=base), *(op(0x0F, 0, part) for part in parts), *fold, *fold, *fold,
            op(0xA7, 0, imm=0xFFFF), op(0xDC, 0, imm=16), op(0x6B, 2, 0, offset)]


def program(args, state_map, ifindex, source_mac, target_mac):
    """Drops while nothing is due. Writes the whole header, since a page comes back as the last receiver left it."""
    header, ip_sum, l4_sum = headers(source_mac, target_mac, args.target.packed, args.port, args.syn, args.question)
    words = len(header) // 4
    write = [op(0x62, 2, 0, 4 * n, imm) for n, imm in enumerate(struct.unpack(f"<{words}i", header[:4 * words]))]
    write += [op(0x72, 2, 0, at, header[at]) for at in range(4 * words, len(header))]
    return b"".join([
        op(0xBF, 6, 1),  # r6 = context
        op(0x85, imm=KTIME),
        op(0xBF, 7, 0),  # r7 = now
        op(0x18, 8, 2, imm=state_map), op(0),  # r8 = the state
        op(0x79, 1, 8, 0),  # r1 = due
        op(0x2D, 1, 7, 2),  # due > now: drop
        op(0x79, 2, 8, 24),
        op(0x3D, 2, 7, 2),  # the end >= now: on
        op(0xB7, 0, imm=XDP_DROP),
        op(0x95),
        op(0xBF, 2, 7),
        op(0x1F, 2, 1),  # r2 = now - due
        op(0xB5, 2, 0, 1, LATE_NS),
        op(0xBF, 1, 7),  # too late: due = now
        op(0x79, 2, 8, 8),
        op(0x0F, 1, 2),
        op(0x7B, 8, 1, 0),  # due += interval
        op(0x79, 9, 8, 16),
        op(0x07, 9, imm=1),
        op(0x7B, 8, 9, 16),  # r9 = ++sent
        op(0x27, 9, imm=args.stride),
        op(0x97, 9, imm=args.flows),  # r9 = the flow
        op(0xBF, 5, 9),
        op(0x37, 5, imm=args.ports),
        *(op(0x07, 5, imm=part) for part in (int(args.source) >> 1, int(args.source) - (int(args.source) >> 1))),  # r5 = its source
        op(0x97, 9, imm=args.ports),
        op(0x07, 9, imm=FIRST_PORT),  # r9 = its port
        op(0x61, 2, 6, 0),  # r2 = data
        op(0x61, 3, 6, 4),  # r3 = its end
        op(0xBF, 4, 2),
        op(0x07, 4, imm=len(header)),
        op(0x3D, 3, 4, 2),  # room for the header: on
        op(0xB7, 0, imm=XDP_ABORTED),
        op(0x95),
        *write,
        *_checksum(ip_sum, (5,), IP_SUM),
        *(_checksum(l4_sum, (5, 9), TCP_SUM) if args.syn else ()),
        op(0xDC, 5, imm=32), op(0x63, 2, 5, SOURCE),
        op(0xDC, 9, imm=16), op(0x6B, 2, 9, SOURCE_PORT),
        op(0xB7, 1, imm=ifindex), op(0xB7, 2), op(0x85, imm=REDIRECT), op(0x95),
    ])


def _test_run(run, long, repeat):
    frame = ctypes.create_string_buffer(b"." * long, long)
    try:
        bpf(TEST_RUN, "=IIIIQQIIIIQQIII", run, 0, len(frame), 0, frame, 0, repeat, 0, 0, 0, 0, 0, LIVE_FRAMES, 0, BATCH)
    except OSError as error:
        if error.errno != errno.EINTR:
            raise


def _steadily(run, long, seconds):
    # The test run has no clock of its own: a signal ends it.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, LEAD_S + seconds + 0.01)
    _test_run(run, long, 0xFFFF_FFFF)


def _in_portions(run, long, seconds, rate):
    # A generator elsewhere would not have to wait for this machine's CPUs, and send what is overdue in one burst.
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    start, sent = time.monotonic() + LEAD_S, 0
    while (now := time.monotonic()) < start + seconds:
        if portion := min(int(max(0, now - start) * rate) - sent, round(MAX_PORTION_S * rate)):
            _test_run(run, long, portion)
            sent += portion
        time.sleep(PORTION_S)


def blast(args, ifindex, source_mac, target_mac):
    """Returns how many frames were sent; those for which the peer's ring had no room are among them, as on a wire."""
    key = ctypes.create_string_buffer(4)
    start = time.monotonic_ns() + int(LEAD_S * 1e9)
    interval = int(1e9 / args.rate) if args.rate and not args.gently else 0
    state = ctypes.create_string_buffer(struct.pack(STATE, start, interval, 0, start + int(args.seconds * 1e9)),
                                        struct.calcsize(STATE))
    state_map = bpf(MAP_CREATE, "=IIIII", ARRAY, len(key), len(state), 1, 0)
    bpf(MAP_UPDATE, "=IIQQQ", state_map, 0, key, state, 0)
    run = load(program(args, state_map, ifindex, source_mac, target_mac))
    long = length(args)
    if args.gently:
        _in_portions(run, long, args.seconds, args.rate)
    else:
        _steadily(run, long, args.seconds)
    bpf(MAP_LOOKUP, "=IIQQQ", state_map, 0, key, state, 0)
    return struct.unpack(STATE, state.raw)[2]


def arguments(argv):
    parser = argparse.ArgumentParser(prog="blast.py", description="A generator of small frames from many flows.")
    parser.add_argument("interface")
    parser.add_argument("mac", type=lambda text: bytes.fromhex(text.replace(":", "")))
    parser.add_argument("source", type=ipaddress.IPv4Address)
    parser.add_argument("target", type=ipaddress.IPv4Address)
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--flows", type=int, default=256)
    parser.add_argument("--ports", type=int, default=PORTS)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--syn", action="store_true")
    parser.add_argument("--question", metavar="NAME")
    parser.add_argument("--gently", action="store_true")
    args = parser.parse_args(argv)
    if not 0 < args.ports <= 0xFFFF - FIRST_PORT:
        parser.error(f"--ports must be from 1 to {0xFFFF - FIRST_PORT}")
    last = int(args.source) + (args.flows - 1) // args.ports
    if not 0 < args.flows < 1 << 31 or args.source not in SOURCES or last > int(SOURCES.broadcast_address):
        parser.error(f"the flows' addresses must lie in {SOURCES}, which is set aside for benchmarks")
    if not 0 < args.stride < 1 << 31 or math.gcd(args.stride, args.flows) > 1:
        parser.error("--stride and --flows must have no divisor in common, or else not every flow has its turn")
    if args.syn and args.question:
        parser.error("--question goes by UDP")
    if args.gently and not args.rate:
        parser.error("--gently needs a --rate")
    if not 0 < args.seconds <= MAX_SECONDS:
        parser.error(f"SECONDS must be more than 0 and at most {MAX_SECONDS}")
    return args


def main(argv):
    args = arguments(argv)
    with open(f"/sys/class/net/{args.interface}/address") as address:
        own = bytes.fromhex(address.read().strip().replace(":", ""))
    ifindex = socket.if_nametoindex(args.interface)
    with Answers(ifindex) if args.question else contextlib.nullcontext() as answers:
        printed = {"sent": blast(args, ifindex, own, args.mac)}
        if answers:
            time.sleep(SETTLE_S)
            printed["answered"], printed["errors"] = answers.counts()
    print(json.dumps({**printed, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    main(sys.argv[1:])
