#!/usr/bin/env python3
"""A generator of small frames from many flows: 64-byte UDP (60 and the checksum of a wire), or TCP SYNs.

    blast.py INTERFACE MAC SOURCE TARGET PORT SECONDS [--rate N] [--flows N] [--stride N] [--syn] [--gently]

Sends to `TARGET`:`PORT`, by way of `MAC`, for `SECONDS` at `--rate` frames/s (0: as fast as it can), and prints {"sent",
"cpu_s"} as JSON. Flow number n comes from port 10240 + n % 1024 of the address `SOURCE` + n / 1024. Flows take turns in
steps of `--stride`: each one once in `--flows` frames.

The kernel makes the frames: an XDP program in a "live" test run (Linux 5.18) decides when one is due, writes its
headers and redirects it to INTERFACE. No system call and no copy for each, so that it outruns everybody on the box; it
takes a whole CPU, whatever the rate, or with `--gently` sleeps between portions of a few milliseconds: no even stream,
but it leaves the CPU to others. For veth, whose peer has to have GRO on: its NAPI takes redirected frames. Needs root.
"""
import argparse
import ctypes
import errno
import ipaddress
import json
import os
import signal
import socket
import struct
import sys
import time

SYS_BPF = {"x86_64": 321, "aarch64": 280}
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD, TEST_RUN = 0, 1, 2, 5, 10
ARRAY, XDP, LIVE_FRAMES = 2, 6, 1 << 1
XDP_ABORTED, XDP_DROP = 0, 1
KTIME, REDIRECT = 5, 23
FRAME = 60  # and 4 of checksum that a wire would add
FIRST_PORT, PORT_BITS = 0x2800, 10
BATCH = 64
LATE_NS = 1_000_000  # what could not be sent for so long is not made up for: that would be a burst
LEAD_S = 0.1  # for the test run to be set up
PORTION_S, MAX_PORTION_S = 0.004, 0.1
MAX_SECONDS = 120
STATE = "=QQQQ"  # when the next frame is due, interval, how many were sent, when to stop; nanoseconds
IP_SUM, SOURCE_LOW, SOURCE_PORT, TCP_SUM = 24, 28, 34, 50  # where they are in a frame

_LIBC = ctypes.CDLL(None, use_errno=True)


def bpf(command, layout, *values):
    """The bpf system call. A buffer among the values stands for its address."""
    words = [ctypes.addressof(value) if isinstance(value, ctypes.Array) else value for value in values]
    attributes = ctypes.create_string_buffer(struct.pack(layout, *words), 128)
    result = _LIBC.syscall(SYS_BPF[os.uname().machine], command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), "bpf: " + os.strerror(ctypes.get_errno()))
    return result


def _words_sum(data):
    return sum(struct.unpack(f">{len(data) // 2}H", data))


def headers(source_mac, target_mac, source, target, port, syn):
    """Ethernet, IPv4 and UDP or TCP, and the sums of IP's and of TCP's words so far. What makes a flow is left 0 (source
    port, the source's low half), and so are the checksums; UDP's stays 0: none (RFC 768)."""
    if syn:
        protocol, l4 = socket.IPPROTO_TCP, struct.pack(">HHIIBBHHH", 0, port, 1, 0, 5 << 4, 0x02, 0xFFFF, 0, 0)
        length = 20 + len(l4)
    else:
        length = FRAME - 14
        protocol, l4 = socket.IPPROTO_UDP, struct.pack(">HHHH", 0, port, length - 20, 0)
    source = source[:2] + b"\0\0"
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, protocol, 0, source, target)
    l4_sum = _words_sum(source + target + l4) + protocol + len(l4)
    return target_mac + source_mac + b"\x08\x00" + ip + l4, _words_sum(ip), l4_sum


def _op(code, dst=0, src=0, offset=0, imm=0):
    return struct.pack("<BBhi", code, src << 4 | dst, offset, imm)


def _checksum(base, parts, offset):
    """Stores the complement of the folded sum of `base` and the registers `parts` at r2 + offset, by r0 and r1."""
    fold = [_op(0xBF, 1, 0), _op(0x77, 1, imm=16), _op(0x57, 0, imm=0xFFFF), _op(0x0F, 0, 1)]
    return [_op(0xB7, 0, imm=base), *(_op(0x0F, 0, part) for part in parts), *fold, *fold,
            _op(0xA7, 0, imm=0xFFFF), _op(0xDC, 0, imm=16), _op(0x6B, 2, 0, offset)]


def program(args, state_map, ifindex, source_mac, target_mac):
    """Drops while nothing is due. Writes the whole header, since a page comes back as the last receiver left it."""
    header, ip_sum, l4_sum = headers(source_mac, target_mac, args.source.packed, args.target.packed, args.port, args.syn)
    words = len(header) // 4
    write = [_op(0x62, 2, 0, 4 * n, imm) for n, imm in enumerate(struct.unpack(f"<{words}i", header[:4 * words]))]
    write.append(_op(0x6A, 2, 0, 4 * words, *struct.unpack("<h", header[4 * words:])))
    return b"".join([
        _op(0xBF, 6, 1),  # r6 = context
        _op(0x85, imm=KTIME),
        _op(0xBF, 7, 0),  # r7 = now
        _op(0x18, 8, 2, imm=state_map), _op(0),  # r8 = the state
        _op(0x79, 1, 8, 0),  # r1 = due
        _op(0x2D, 1, 7, 2),  # due > now: drop
        _op(0x79, 2, 8, 24),
        _op(0x3D, 2, 7, 2),  # the end >= now: on
        _op(0xB7, 0, imm=XDP_DROP),
        _op(0x95),
        _op(0xBF, 2, 7),
        _op(0x1F, 2, 1),  # r2 = now - due
        _op(0xB5, 2, 0, 1, LATE_NS),
        _op(0xBF, 1, 7),  # too late: due = now
        _op(0x79, 2, 8, 8),
        _op(0x0F, 1, 2),
        _op(0x7B, 8, 1, 0),  # due += interval
        _op(0x79, 9, 8, 16),
        _op(0x07, 9, imm=1),
        _op(0x7B, 8, 9, 16),  # r9 = ++sent
        _op(0x27, 9, imm=args.stride),
        _op(0x57, 9, imm=args.flows - 1),
        _op(0xBF, 5, 9),
        _op(0x77, 5, imm=PORT_BITS),
        _op(0x07, 5, imm=int(args.source) & 0xFFFF),  # r5 = the source's low half
        _op(0x57, 9, imm=(1 << PORT_BITS) - 1),
        _op(0x07, 9, imm=FIRST_PORT),  # r9 = its port
        _op(0x61, 2, 6, 0),  # r2 = data
        _op(0x61, 3, 6, 4),  # r3 = its end
        _op(0xBF, 4, 2),
        _op(0x07, 4, imm=len(header)),
        _op(0x3D, 3, 4, 2),  # room for the header: on
        _op(0xB7, 0, imm=XDP_ABORTED),
        _op(0x95),
        *write,
        *_checksum(ip_sum, (5,), IP_SUM),
        *(_checksum(l4_sum, (5, 9), TCP_SUM) if args.syn else ()),
        _op(0xDC, 5, imm=16), _op(0x6B, 2, 5, SOURCE_LOW),
        _op(0xDC, 9, imm=16), _op(0x6B, 2, 9, SOURCE_PORT),
        _op(0xB7, 1, imm=ifindex), _op(0xB7, 2), _op(0x85, imm=REDIRECT), _op(0x95),
    ])


def load(code):
    """The program's file descriptor; the verifier's log goes to stderr if it has something against it."""
    log = ctypes.create_string_buffer(1 << 16)
    try:
        return bpf(PROG_LOAD, "=IIQQIIQ", XDP, len(code) // 8, ctypes.create_string_buffer(code),
                    ctypes.create_string_buffer(b"GPL"), 1, len(log), log)
    except OSError:
        print(log.value.decode(errors="replace"), file=sys.stderr)
        raise


def _test_run(run, repeat):
    frame = ctypes.create_string_buffer(b".".ljust(FRAME, b"."), FRAME)
    try:
        bpf(TEST_RUN, "=IIIIQQIIIIQQIII", run, 0, len(frame), 0, frame, 0, repeat, 0, 0, 0, 0, 0, LIVE_FRAMES, 0, BATCH)
    except OSError as error:
        if error.errno != errno.EINTR:
            raise


def _steadily(run, seconds):
    # The test run has no clock of its own: a signal ends it.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, LEAD_S + seconds + 0.01)
    _test_run(run, 0xFFFF_FFFF)


def _in_portions(run, seconds, rate):
    # A generator elsewhere would not have to wait for this machine's CPUs, and send what is overdue in one burst.
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    start, sent = time.monotonic() + LEAD_S, 0
    while (now := time.monotonic()) < start + seconds:
        if portion := min(int(max(0, now - start) * rate) - sent, round(MAX_PORTION_S * rate)):
            _test_run(run, portion)
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
    if args.gently:
        _in_portions(run, args.seconds, args.rate)
    else:
        _steadily(run, args.seconds)
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
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--syn", action="store_true")
    parser.add_argument("--gently", action="store_true")
    args = parser.parse_args(argv)
    if args.flows & (args.flows - 1) or (int(args.source) & 0xFFFF) + (args.flows >> PORT_BITS) > 0xFFFF:
        parser.error("--flows must be a power of 2, and their addresses equal in the upper half")
    if not 0 < args.stride < 1 << 31 or args.stride % 2 == 0:
        parser.error("--stride must be odd, or else not every flow has its turn")
    if args.gently and not args.rate:
        parser.error("--gently needs a --rate")
    if not 0 < args.seconds <= MAX_SECONDS:
        parser.error(f"SECONDS must be more than 0 and at most {MAX_SECONDS}")
    return args


def main(argv):
    args = arguments(argv)
    with open(f"/sys/class/net/{args.interface}/address") as address:
        own = bytes.fromhex(address.read().strip().replace(":", ""))
    sent = blast(args, socket.if_nametoindex(args.interface), own, args.mac)
    print(json.dumps({"sent": sent, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    main(sys.argv[1:])
