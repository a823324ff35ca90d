"""The bpf system call, and instructions of small programs."""
import ctypes
import os
import struct
import sys

SYS_BPF = {"x86_64": 321, "aarch64": 280}
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD, TEST_RUN, LINK_CREATE = 0, 1, 2, 5, 10, 28
ARRAY, XDP = 2, 6
XDP_ABORTED, XDP_DROP, XDP_PASS = 0, 1, 2
AT_XDP, IN_DRIVER = 37, 1 << 2  # where a link attaches a program, and how

_LIBC = ctypes.CDLL(None, use_errno=True)


def bpf(command, layout, *values):
    """The bpf system call. A buffer among the values stands for its address."""
    words = [ctypes.addressof(value) if isinstance(value, ctypes.Array) else value for value in values]
    attributes = ctypes.create_string_buffer(struct.pack(layout, *words), 128)
    result = _LIBC.syscall(SYS_BPF[os.uname().machine], command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), "bpf: " + os.strerror(ctypes.get_errno()))
    return result


def op(code, dst=0, src=0, offset=0, imm=0):
    return struct.pack("<BBhi", code, src << 4 | dst, offset, imm)


def load(code):
    """The XDP program's file descriptor; the verifier's log goes to stderr if it has something against it."""
    log = ctypes.create_string_buffer(1 << 16)
    try:
        return bpf(PROG_LOAD, "=IIQQIIQ", XDP, len(code) // 8, ctypes.create_string_buffer(code),
                   ctypes.create_string_buffer(b"GPL"), 1, len(log), log)
    except OSError:
        print(log.value.decode(errors="replace"), file=sys.stderr)
        raise
