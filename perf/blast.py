#!/usr/bin/env python3
"""A generator of 64-byte UDP frames: blast.py INTERFACE MAC SOURCE TARGET PORT SECONDS [RATE].

Sends from 256 ports of `SOURCE` in turn to `TARGET`:`PORT`, by way of `MAC`, for `SECONDS` at `RATE` frames/s (0: as
fast as it can), and prints {"sent", "seconds"} as JSON.

The kernel makes the frames: an XDP program in a "live" test run (Linux 5.18) decides when one is due, writes its
headers and redirects it to INTERFACE. No system call and no copy for each, so that it outruns everybody on the box; it
takes a whole CPU, whatever the rate. For veth, whose peer has to have GRO on: its NAPI takes redirected frames. Needs
root.
"""
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
FIRST_PORT, PORTS_MASK = 0x2800, 0xFF
BATCH = 64
LATE_NS = 1_000_000  # what could not be sent for so long is not made up for: that would be a burst
LEAD_S = 0.1  # for the test run to be set up
MAX_SECONDS = 120
STATE = "=QQQQ"  # when the next frame is due, interval, how many were sent, when to stop; nanoseconds

_LIBC = ctypes.CDLL(None, use_errno=True)


def _bpf(command, layout, *values):
    """The bpf system call. A buffer among the values stands for its address."""
    words = [ctypes.addressof(value) if isinstance(value, ctypes.Array) else value for value in values]
    attributes = ctypes.create_string_buffer(struct.pack(layout, *words), 128)
    result = _LIBC.syscall(SYS_BPF[os.uname().machine], command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), "bpf: " + os.strerror(ctypes.get_errno()))
    return result


def headers(source_mac, target_mac, source, target, port):
    """Ethernet, IPv4 and UDP, 42 bytes; the source port is left 0, and so is UDP's checksum: none (RFC 768)."""
    length = FRAME - 14
    ip = bytearray(struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, socket.IPPROTO_UDP, 0, source, target))
    total = sum(struct.unpack(">10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into(">H", ip, 10, ~total & 0xFFFF)
    return target_mac + source_mac + b"\x08\x00" + bytes(ip) + struct.pack(">HHHH", 0, port, length - 20, 0)


def _op(code, dst=0, src=0, offset=0, imm=0):
    return struct.pack("<BBhi", code, src << 4 | dst, offset, imm)


def program(header, state_map, ifindex):
    """Drops while nothing is due. Writes the whole header, since a page comes back as the last receiver left it."""
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
        _op(0x57, 9, imm=PORTS_MASK),
        _op(0x07, 9, imm=FIRST_PORT),
        _op(0xDC, 9, imm=16),  # in network order
        _op(0x61, 2, 6, 0),  # r2 = data
        _op(0x61, 3, 6, 4),  # r3 = its end
        _op(0xBF, 4, 2),
        _op(0x07, 4, imm=len(header)),
        _op(0x3D, 3, 4, 2),  # room for the header: on
        _op(0xB7, 0, imm=XDP_ABORTED),
        _op(0x95),
        *write,
        _op(0x6B, 2, 9, 34),  # source port = r9
        _op(0xB7, 1, imm=ifindex), _op(0xB7, 2), _op(0x85, imm=REDIRECT), _op(0x95),
    ])


def load(code):
    """The program's file descriptor; the verifier's log goes to stderr if it has something against it."""
    log = ctypes.create_string_buffer(1 << 16)
    try:
        return _bpf(PROG_LOAD, "=IIQQIIQ", XDP, len(code) // 8, ctypes.create_string_buffer(code),
                    ctypes.create_string_buffer(b"GPL"), 1, len(log), log)
    except OSError:
        print(log.value.decode(errors="replace"), file=sys.stderr)
        raise


def blast(header, ifindex, seconds, rate):
    """Returns how many frames were sent; those for which the peer's ring had no room are among them, as on a wire."""
    key = ctypes.create_string_buffer(4)
    start = time.monotonic_ns() + int(LEAD_S * 1e9)
    state = ctypes.create_string_buffer(struct.pack(STATE, start, int(1e9 / rate) if rate else 0, 0,
                                                    start + int(seconds * 1e9)), struct.calcsize(STATE))
    state_map = _bpf(MAP_CREATE, "=IIIII", ARRAY, len(key), len(state), 1, 0)
    _bpf(MAP_UPDATE, "=IIQQQ", state_map, 0, key, state, 0)
    run = load(program(header, state_map, ifindex))
    frame = ctypes.create_string_buffer(header.ljust(FRAME, b"."), FRAME)
    # The test run has no clock of its own: a signal ends it.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, LEAD_S + seconds + 0.01)
    try:
        _bpf(TEST_RUN, "=IIIIQQIIIIQQIII", run, 0, len(frame), 0, frame, 0, 0xFFFF_FFFF, 0, 0, 0, 0, 0, LIVE_FRAMES, 0,
             BATCH)
    except OSError as error:
        if error.errno != errno.EINTR:
            raise
    _bpf(MAP_LOOKUP, "=IIQQQ", state_map, 0, key, state, 0)
    return struct.unpack(STATE, state.raw)[2]


def main(interface, mac, source, target, port, seconds, rate="0"):
    seconds = min(float(seconds), MAX_SECONDS)
    with open(f"/sys/class/net/{interface}/address") as address:
        own = bytes.fromhex(address.read().strip().replace(":", ""))
    header = headers(own, bytes.fromhex(mac.replace(":", "")), ipaddress.IPv4Address(source).packed,
                     ipaddress.IPv4Address(target).packed, int(port))
    sent = blast(header, socket.if_nametoindex(interface), seconds, float(rate))
    print(json.dumps({"sent": sent, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
