"""The kernel's own wall: from here on this process may read a few folders, and write and run nothing (Linux, Landlock).

`audit` hooks stop what Python code asks Python for. This stops everything else: the kernel refuses to open any other
file, whoever asks. See landlock(7); the numbers are those of its first version, and the same on every processor.
"""

import ctypes
import os
import struct
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls
NO_NEW_PRIVILEGES = 38                                   # prctl
EVERYTHING = (1 << 13) - 1                               # all that version 1 can refuse: run, read, write, make, remove
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
BENEATH = 1                                              # a rule about all that lies under a folder


def confine(places, listed=()):
    """Allow reading these files and whatever lies beneath these folders, and naming what lies in the listed folders;
    nothing else on any disk. -> whether the kernel agreed."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    handled = struct.pack("=Q", EVERYTHING)
    ruleset = libc.syscall(CREATE_RULESET, handled, len(handled), 0)
    if ruleset < 0:                                      # an old kernel, or one told to do without
        return False
    try:
        rights = {place: READ_FILE | (READ_FOLDER if os.path.isdir(place) else 0) for place in places}
        for place, right in (dict.fromkeys(listed, READ_FOLDER) | rights).items():
            fd = os.open(place, os.O_PATH)
            try:
                if libc.syscall(ADD_RULE, ruleset, BENEATH, struct.pack("=Qi", right, fd), 0):
                    return False
            finally:
                os.close(fd)
        return not libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) and not libc.syscall(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
