"""What a name server answers, counted where it arrives: an XDP program at the client's link counts answers by their codes, and that is
all that becomes of them."""
import ctypes
import os
import struct

from bpf import ARRAY, AT_XDP, IN_DRIVER, LINK_CREATE, MAP_CREATE, MAP_LOOKUP, XDP_DROP, XDP_PASS, bpf, load, op

EMPTY = 15  # NOERROR without a record; nobody answers with this code
CODES = 16
PORT = 53
TYPE, VERSION, PROTOCOL, SOURCE_PORT, CODE, RECORDS, END = 12, 14, 23, 34, 45, 48, 54  # where they are in a frame of IPv4
PASS = 255  # stands for the distance to the end, until that is known


def program(counts_map):
    """Counts what comes by UDP from PORT, and drops it; lets all else pass."""
    def unless(code, register, imm):
        """To the end if the jump's condition holds."""
        return op(code, register, 0, PASS, imm)

    lines = [
        op(0x61, 2, 1, 0),  # r2 = data
        op(0x61, 3, 1, 4),  # r3 = its end
        op(0xBF, 4, 2),
        op(0x07, 4, imm=END),
        op(0x2D, 4, 3, PASS),  # too short
        op(0x69, 5, 2, TYPE), unless(0x55, 5, 0x0008),
        op(0x71, 5, 2, VERSION), unless(0x55, 5, 0x45),
        op(0x71, 5, 2, PROTOCOL), unless(0x55, 5, 17),
        op(0x69, 5, 2, SOURCE_PORT), unless(0x55, 5, PORT << 8),
        op(0x71, 5, 2, CODE), op(0x57, 5, imm=CODES - 1),
        op(0x55, 5, 0, 3),  # an error: on
        op(0x69, 4, 2, RECORDS),
        op(0x55, 4, 0, 1),
        op(0xB7, 5, imm=EMPTY),
        op(0x63, 10, 5, -4),  # the key
        op(0x18, 1, 1, imm=counts_map), op(0),
        op(0xBF, 2, 10), op(0x07, 2, imm=-4),
        op(0x85, imm=1),  # r0 = the count
        op(0x15, 0, 0, PASS),
        op(0xB7, 1, imm=1),
        op(0xDB, 0, 1),  # *r0 += 1, whoever else does
        op(0xB7, 0, imm=XDP_DROP), op(0x95),
        op(0xB7, 0, imm=XDP_PASS), op(0x95),
    ]
    code, at = b"".join(lines), 0
    words = [code[at:at + 8] for at in range(0, len(code), 8)]
    last = len(words) - 2
    for at, word in enumerate(words):
        opcode, registers, offset, imm = struct.unpack("<BBhi", word)
        if offset == PASS:
            words[at] = struct.pack("<BBhi", opcode, registers, last - at - 1, imm)
    return b"".join(words)


def read(counts_map):
    """(good answers, errors)."""
    found = []
    for code in range(CODES):
        key, value = ctypes.create_string_buffer(struct.pack("=I", code), 4), ctypes.create_string_buffer(8)
        bpf(MAP_LOOKUP, "=IIQQQ", counts_map, 0, key, value, 0)
        found.append(struct.unpack("=Q", value.raw)[0])
    return found[0], sum(found[1:])


class Answers:
    """A context: counts what arrives at the interface."""

    def __init__(self, ifindex):
        self.ifindex = ifindex

    def __enter__(self):
        self.counts_map = bpf(MAP_CREATE, "=IIIII", ARRAY, 4, 8, CODES, 0)
        self.program = load(program(self.counts_map))
        self.link = bpf(LINK_CREATE, "=IIII", self.program, self.ifindex, AT_XDP, IN_DRIVER)
        return self

    def __exit__(self, *_):
        for descriptor in (self.link, self.program, self.counts_map):
            os.close(descriptor)

    def counts(self):
        """(good answers, errors) so far."""
        return read(self.counts_map)
