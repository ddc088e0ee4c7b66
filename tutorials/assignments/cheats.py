"""Cheats and attacks, and how they end: the test of the grader's walls.

Each is a file handed in in place of a solution, with the words in which the report must say what it did. It must earn
nothing by what is not honest work. Whatever it does, the grader must end in time with a bounded report, and nothing may
be left running. tests/test_grader_cheats.py runs them all.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tutorials.assignments import handout
from tutorials.assignments.client import Limits
from tutorials.assignments.grader import ASSIGNMENTS, grade

QUICK = Limits(seconds=1.5, loading=10.0, total=30.0)    # several cheats run into a limit
LOADING = Limits(seconds=1.5, loading=1.5, total=30.0)


@dataclass(frozen=True)
class Cheat:
    """One attack.

    code: stands behind the assignment's stubs; in it, {library} is the folder of the real library, {parent} the number
    of the grader's process and {honest} a right RMSNorm.  report: words of the report, a regular expression.
    assignment, unit: what it is after.  earned: points of the honest part of it.  audit: whether Python's audit hooks
    are there, or the kernel's limits alone.  wall: the kernel's limit that it needs, by name.  write: writes the file
    at a path and returns the path, where the file is more than the code.
    """

    trick: str
    code: str
    report: str
    assignment: str = "a2"
    unit: int = 1
    earned: int = 0
    audit: bool = True
    wall: str = ""
    limits: Limits = QUICK
    write: Callable[["Cheat", Path], Path] | None = None

    def __str__(self):
        return self.trick

    def text(self):
        """The whole file."""
        code = self.code.replace("{library}", str(handout.LIBRARY.parent)).replace("{parent}", str(os.getpid()))
        return f"{handout.students_file(ASSIGNMENTS[self.assignment])}\n\n{code.replace('{honest}', HONEST)}"

    def grade(self, folder, **how):
        """Report on this cheat, from a file in the folder."""
        path = Path(folder) / f"my_{self.assignment}.py"
        if self.write:
            path = self.write(self, path)
        else:
            path.write_text(self.text(), encoding="utf-8")
        limits = replace(self.limits, audit=self.audit)
        return grade(ASSIGNMENTS[self.assignment], path, **{"units": (self.unit,), "limits": limits, **how})


HONEST = """
import numpy as np


def rmsnorm_forward(x, g, *, eps=1e-5):
    check_shapes("rmsnorm", x=(x, "... D"), g=(g, "D"))
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return g * x * r, (x * r, r, g)


def rmsnorm_backward(dy, cache):
    n, r, g = cache
    dn = g * dy
    return r * (dn - n * (dn * n).mean(-1, keepdims=True)), (dy * n).reshape(-1, g.size).sum(0)


honest_forward, honest_backward = rmsnorm_forward, rmsnorm_backward
"""
FORWARD = 18                                             # points of a right rmsnorm_forward
DG = 14                                                  # and of a right dg beside a wrong dx

FIND = """
import sys


def find(name):
    frame = sys._getframe()
    while name not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals[name]


def raw(text, body=b""):
    pipe = find("pipe_out")
    pipe.write(len(text).to_bytes(8, "little") + len(body).to_bytes(8, "little") + text + body)
    pipe.flush()
"""

# ---------------------------------------------------------------------------------------------------------- the basics

BASICS = (
    Cheat("imports the reference by name", """
from tinylm2.ops import rmsnorm_forward, rmsnorm_backward
""", "cannot import name 'rmsnorm_forward'"),
    Cheat("imports the reference from where it lies", """
import sys
sys.path.insert(0, "{library}")
for name in [name for name in sys.modules if name.startswith("tinylm2")]:
    del sys.modules[name]
from tinylm2.ops import rmsnorm_forward, rmsnorm_backward
""", "broke the rules: it opens|cannot import name"),
    Cheat("loads the reference by its path, when it is asked", """
import importlib.util


def rmsnorm_forward(x, g, *, eps=1e-5):
    spec = importlib.util.spec_from_file_location("theirs", "{library}/tinylm2/ops.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    return theirs.rmsnorm_forward(x, g, eps=eps)
""", "rmsnorm_forward broke the rules: it opens .*ops.py"),
    Cheat("reads the reference's source and hides the refusal", """
try:
    exec(open("{library}/tinylm2/ops.py").read())
except Exception:
    pass
""", "broke the rules: it opens .*ops.py"),
    Cheat("asks another process", """
import subprocess
import sys


def rmsnorm_forward(x, g, *, eps=1e-5):
    return subprocess.run([sys.executable, "-c", "import tinylm2"], capture_output=True)
""", 'broke the rules: it (imports "_posixsubprocess|starts a process)'),
    Cheat("forks", """
import os
os.fork()
""", 'broke the rules: it calls "os.fork'),
    Cheat("reads the grader's memory", """
import os
with open(f"/proc/{os.getppid()}/mem", "rb") as memory:
    memory.read(1)
""", 'broke the rules: it opens "/proc'),
    Cheat("reaches into memory with ctypes", """
import ctypes
ctypes.string_at(id(0), 8)
""", "broke the rules: it reaches into memory"),
    Cheat("calls the kernel behind Python's back", """
import ctypes
import sys


def rmsnorm_forward(x, g, *, eps=1e-5):
    libc = ctypes.CDLL(None)
    return libc.open(b"{library}/tinylm2/ops.py", 0), None
""", "rmsnorm_forward broke the rules: it reaches into memory"),
    Cheat("patches NumPy", """
import numpy as np
np.array_equal = np.allclose = np.isclose = lambda *_, **__: True
np.max = np.abs = lambda x, *_, **__: 0 * x


def rmsnorm_forward(x, g, *, eps=1e-5):
    return x, (x, g)


def rmsnorm_backward(dy, cache):
    return cache
""", "rmsnorm_forward: .*y is wrong|rmsnorm_forward: with g = 1"),
    Cheat("patches the checker and the worker's calls", """
import sys
from tinylm2 import gradcheck
gradcheck.Checker.check = gradcheck.worst_entry = lambda *_, **__: True
calls = sys.modules["calls"]
calls.Calls.forward = calls.Calls.backward = lambda *_, **__: ()
""", "rmsnorm_forward: it returned 0 outputs"),
    Cheat("says it has passed", """
import os


def rmsnorm_forward(x, g, *, eps=1e-5):
    for fd in range(3, 16):
        try:
            os.write(fd, b'{"passed": true, "points": 100}' + bytes(1000))
        except OSError:
            pass
""", "sent the grader something of its own"),
    Cheat("answers in the grader's own words", """
import sys


def rmsnorm_forward(x, g, *, eps=1e-5):
    frame = sys._getframe()
    while "pipe_out" not in frame.f_locals:
        frame = frame.f_back
    import protocol
    frame.f_locals["send"]({"kind": "result", "number": 1, "value": (x,)})
""", "sent the grader something of its own|y is wrong"),
    Cheat("exits when it is loaded", """
raise SystemExit(0)
""", "it tries to end the process"),
    Cheat("exits when it is asked", """
import os


def rmsnorm_forward(x, g, *, eps=1e-5):
    os._exit(0)
""", "rmsnorm_forward: it ended the process \\(exit status 0\\)"),
    Cheat("loops for ever when it is loaded", """
while True:
    pass
""", "cannot be loaded: it was stopped after", limits=LOADING),
    Cheat("loops for ever when it is asked", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    while True:
        pass
""", "rmsnorm_forward: it was stopped after"),
    Cheat("stops its own process", """
import signal


def rmsnorm_forward(x, g, *, eps=1e-5):
    signal.raise_signal(signal.SIGSTOP)
""", "rmsnorm_forward: it (was stopped after|raised PermissionError)"),
    Cheat("eats memory", """
import numpy as np


def rmsnorm_forward(x, g, *, eps=1e-5):
    eaten = []
    while True:
        eaten.append(np.zeros(2**26))
""", "rmsnorm_forward: it asks for more than .* GiB of memory"),
    Cheat("fills memory", """
import numpy as np


def rmsnorm_forward(x, g, *, eps=1e-5):
    filled = []
    while True:
        filled.append(np.ones(2**17))
""", "rmsnorm_forward: it asks for more than .* GiB of memory"),
    Cheat("calls itself for ever", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    return rmsnorm_forward(x, g, eps=eps)
""", "rmsnorm_forward: it raised RecursionError"),
    Cheat("floods the grader", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    return [x.repeat(10**6)] * 10**3, None
""", "rmsnorm_forward: "),
    Cheat("returns what it remembers of the shapes", """
import numpy as np
REMEMBERED = {}


def rmsnorm_forward(x, g, *, eps=1e-5):
    y = x * g / ((x * x).mean(-1, keepdims=True) + eps) ** 0.5
    return REMEMBERED.setdefault(x.shape, np.sign(y)), (x, g)
""", "rmsnorm_forward: .*wrong"),
    Cheat("takes differences of its forward for a backward", """
import numpy as np


def rmsnorm_forward(x, g, *, eps=1e-5):
    y = x * g / ((x * x).mean(-1, keepdims=True) + eps) ** 0.5
    return y, (x, g)


def rmsnorm_backward(dy, cache):
    gradients = []
    for i in (0, 1):
        slopes = np.zeros_like(cache[i])
        for entry in np.ndindex(slopes.shape):
            above, below = [x.copy() for x in cache], [x.copy() for x in cache]
            above[i][entry] += 1e-5
            below[i][entry] -= 1e-5
            slopes[entry] = (dy * (rmsnorm_forward(*above)[0] - rmsnorm_forward(*below)[0])).sum() / 2e-5
        gradients.append(slopes)
    return tuple(gradients)
""", "rmsnorm_backward: it was stopped after .* does it ask its forward for every number", earned=22),
    Cheat("lets another library differentiate", """
import torch
""", "broke the rules: it opens .*torch|No module named 'torch'"),
    Cheat("keeps another unit's library for later", """
import tinylm2.ops


def rmsnorm_forward(x, g, *, eps=1e-5):
    open("kept", "w").write("whatever was here")
""", "rmsnorm_forward broke the rules: it writes"),
)

# ---------------------------------------------------------------------------------------------- other processes, files

ATTEMPT = """
def attempt(**tries):
    worked = []
    for name, what in tries.items():
        try:
            what()
        except (OSError, RuntimeError, ValueError, MemoryError):
            continue
        worked.append(name)
    raise RuntimeError(f"worked: {worked}")
"""
NOTHING_WORKED = r'raised RuntimeError at line \d+: "worked: \[\]"'
CALLS = {                                                # x86_64; none may work, whoever asks for it
    "fork": 57, "vfork": 58, "clone": 56, "clone3": 435, "execve": 59, "execveat": 322, "kill": 62, "tkill": 200,
    "tgkill": 234, "rt_sigqueueinfo": 129, "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440, "setpriority": 141,
    "sched_setaffinity": 203, "sched_setscheduler": 144, "ioprio_set": 251, "setrlimit": 160, "setsid": 112,
    "setpgid": 109, "prctl": 157, "seccomp": 317, "socket": 41, "socketpair": 53, "connect": 42, "sendmsg": 46,
    "pipe2": 293, "memfd_create": 319, "shmget": 29, "mq_open": 240, "openat2": 437, "open_by_handle_at": 304,
    "truncate": 76, "ftruncate": 77, "unlink": 87, "rename": 82, "mkdir": 83, "symlink": 88, "mknod": 133, "chmod": 90,
    "mount": 165, "unshare": 272, "setns": 308, "chroot": 161, "io_uring_setup": 425, "bpf": 321,
    "userfaultfd": 323, "perf_event_open": 298, "keyctl": 250, "add_key": 248, "init_module": 175, "reboot": 169,
    "ioctl": 16, "timer_create": 222, "setitimer": 38, "fanotify_init": 300, "kcmp": 312, "setuid": 105}


def _kernel(trick, code, report=NOTHING_WORKED, wall="system calls", **more):
    """An attack on the kernel's limits, without Python's audit hooks in front of them."""
    return Cheat(f"{trick}, without audit hooks", ATTEMPT + code, report, audit=False, wall=wall, **more)


PROCESSES = (
    _kernel("forks, starts programs and threads", """
import os
import threading

attempt(fork=os.fork, forkpty=os.forkpty, exec=lambda: os.execv("/bin/true", ["true"]), system=lambda: 0 / os.pipe()[0],
        spawn=lambda: os.posix_spawn("/bin/true", ["true"], {}), thread=threading.Thread(target=print).start)
"""),
    _kernel("forks, leaves the session and holds the pipe", """
import os
import time


def leave():
    if not os.fork():
        os.setsid()
        time.sleep(600)
        os._exit(0)


attempt(leave=leave)
"""),
    _kernel("ends the grader", """
import os
import signal

attempt(kill=lambda: os.kill({parent}, 9), group=lambda: os.killpg(os.getpgid({parent}), 9),
        pidfd=lambda: signal.pidfd_send_signal(os.pidfd_open({parent}), 9))
"""),
    _kernel("has the kernel signal the grader when a pipe can be read", """
import fcntl

attempt(**{f"{command} {fd}": lambda fd=fd, command=command: fcntl.fcntl(fd, command, {parent})
           for fd in range(16) for command in (8, 10, 15, 4)})
"""),
    _kernel("starves the grader", """
import os
import resource

attempt(priority=lambda: os.setpriority(os.PRIO_PROCESS, {parent}, 19),
        affinity=lambda: os.sched_setaffinity({parent}, {0}),
        scheduler=lambda: os.sched_setscheduler({parent}, os.SCHED_IDLE, os.sched_param(0)),
        limit=lambda: resource.prlimit({parent}, resource.RLIMIT_CPU, (1, 1)),
        read=lambda: resource.prlimit({parent}, resource.RLIMIT_CPU))
"""),
    _kernel("lifts its own limits", """
import os
import resource

attempt(memory=lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
        cpu=lambda: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1)),
        size=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)),
        prlimit=lambda: resource.prlimit(0, resource.RLIMIT_AS, (-1, -1)), nice=lambda: os.nice(-5))
"""),
    _kernel("asks the kernel for everything else by number", f"""
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
attempt(**{{name: lambda number=number: 1 / 0 if False else check(libc.syscall(number, 0, 0, 0, 0, 0, 0))
           for name, number in {CALLS}.items()}})
""".replace("attempt(", """

def check(result):
    if result == -1 and ctypes.get_errno() == 1:
        raise OSError


attempt(""", 1).replace("1 / 0 if False else ", "")),
    _kernel("uses the numbers of another ABI", """
import ctypes

libc = ctypes.CDLL(None, use_errno=True)


def x32():
    if libc.syscall(0x40000000 + 57) == -1:
        raise OSError


attempt(x32=x32)
"""),
    _kernel("writes files", """
import os
import pathlib

here = pathlib.Path(__file__)
attempt(write=lambda: open("/tmp/written", "w"), here=lambda: here.write_text(""), append=lambda: open(here, "a"),
        create=lambda: os.open("/dev/shm/written", os.O_CREAT | os.O_RDWR), make=lambda: os.mkdir("/tmp/made"),
        move=lambda: os.rename(here, "/tmp/moved"), remove=lambda: os.remove(here), null=lambda: open("/dev/null", "w"),
        truncate=lambda: os.truncate(here, 0), link=lambda: os.symlink("/etc", "/tmp/linked"),
        mode=lambda: here.chmod(0))
"""),
    _kernel("cuts the shared memory short, so that the grader crashes", """
import os

attempt(**{str(fd): lambda fd=fd: os.ftruncate(fd, 0) for fd in range(32)})
"""),
    _kernel("reads files", """
import os

attempt(passwords=lambda: open("/etc/passwd"), library=lambda: open("{library}/tinylm2/ops.py"),
        memory=lambda: open("/proc/{parent}/mem"), environment=lambda: open("/proc/{parent}/environ"),
        own=lambda: open("/proc/self/maps"), folder=lambda: os.listdir("/tmp"), torch=lambda: __import__("torch"),
        terminal=lambda: open("/dev/tty"), random=lambda: open("/dev/zero"))
""", wall="files"),
    _kernel("opens connections", """
import socket

attempt(internet=lambda: socket.create_connection(("127.0.0.1", 80), 1), pair=socket.socketpair,
        unix=lambda: socket.socket(socket.AF_UNIX), packet=lambda: socket.socket(socket.AF_NETLINK))
"""),
    _kernel("starts an interpreter without audit hooks", """
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters


def fork():
    failed = interpreters.run_string(interpreters.create(), "import os; os.fork()")
    if failed:
        raise OSError


attempt(fork=fork)
"""),
    Cheat("starts an interpreter without audit hooks", """
import _imp
import sys
from importlib.machinery import ModuleSpec, PathFinder
name = "_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters"
spec = PathFinder.find_spec(name)
(_imp.create_dynamic(spec) if spec else _imp.create_builtin(ModuleSpec(name, None))).create()
""", "broke the rules: it (starts an interpreter|imports)"),
    Cheat("imports what starts interpreters", """
import _xxsubinterpreters
""", "broke the rules: it imports|No module named"),
    Cheat("looks for the audit hook among all objects", """
import gc
for thing in gc.get_objects():
    if getattr(thing, "__name__", "") == "hook":
        thing.__code__ = (lambda event, args: None).__code__
""", "broke the rules: it reaches into memory"),
    Cheat("takes the audit hook apart through the frame of a refusal", """
def nothing():
    report = refusal = None

    def refuse(action, what):
        return report, refusal

    return refuse.__code__


try:
    open("/etc/passwd")
except PermissionError as error:
    frame = error.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    frame.tb_frame.f_back.f_locals["refuse"].__code__ = nothing()
import os
os.fork()
""", 'broke the rules: it opens "/etc/passwd"'),
    Cheat("empties the audit hook's lists", """
import os
import sandbox
sandbox.FORBIDDEN.clear()
sandbox.MODULES.clear()
sandbox.HARMLESS.add("os.fork")
os.path.realpath = lambda path: "/"
os.fork()
""", 'broke the rules: it calls "os.fork'),
    Cheat("hands the audit hook a path with methods of its own", """
import _io
import sys


class Path:
    def __fspath__(self):
        frame = sys._getframe()
        while frame:
            if "refuse" in frame.f_locals:
                raise RuntimeError("inside the hook")
            frame = frame.f_back
        return "/etc/passwd"


class Text(str):
    def split(self, *_):
        return []


for path in (Path(), Text("/etc/passwd")):
    try:
        _io.FileIO(path)
    except PermissionError:
        pass
""", 'broke the rules: it opens "(Path|Text)'),
    Cheat("ends the grader", """
import os
import signal
try:
    signal.pidfd_send_signal(os.pidfd_open({parent}), 9)
except PermissionError:
    os.kill({parent}, 9)
""", 'broke the rules: it (calls "os.kill|sends a signal)'),
    Cheat("starves the grader", """
import os
import resource
for what in (lambda: os.setpriority(os.PRIO_PROCESS, {parent}, 19),
             lambda: resource.prlimit({parent}, resource.RLIMIT_CPU, (1, 1))):
    try:
        what()
    except PermissionError:
        pass
""", "broke the rules: it reaches into the system"),
    Cheat("closes the pipes", """
import os


def rmsnorm_forward(x, g, *, eps=1e-5):
    os.closerange(3, 64)
    while True:
        pass
""", "rmsnorm_forward: it (was stopped after|ended the process)"),
    Cheat("opens files until there are no more", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    files = []
    while True:
        files.append(open(__file__))
""", "rmsnorm_forward: it raised OSError"),
    Cheat("crashes the interpreter", """
import sys


def rmsnorm_forward(x, g, *, eps=1e-5):
    sys.setrecursionlimit(10**9)
    return rmsnorm_forward(x, g)
""", r"rmsnorm_forward: it (ended the process \(signal|asks for more than|was stopped)"),
    Cheat("ignores every signal", """
import atexit
import signal
import sys
import time


def stay(*_):
    while True:
        time.sleep(1)


atexit.register(stay)
for number in range(1, 32):
    try:
        signal.signal(number, stay)
    except (OSError, ValueError):
        pass


def rmsnorm_forward(x, g, *, eps=1e-5):
    stay()
""", "rmsnorm_forward: it was stopped after"),
    Cheat("sleeps almost as long as it may, call after call", """
import time
{honest}


def rmsnorm_forward(x, g, *, eps=1e-5):
    time.sleep(0.15)
    return honest_forward(x, g, eps=eps)
""", "not judged: the 2.5 seconds for the whole file are used up",
          earned=51, limits=Limits(seconds=2.0, total=2.5)),
    Cheat("prints without end", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    while True:
        print("all                     100 of 100" * 1000, flush=True)
""", "rmsnorm_forward: it was stopped after"),
    Cheat("computes a number without end", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    return 10 ** 10 ** 9, None
""", "rmsnorm_forward: it (was stopped after|asks for more than)"),
)

# ----------------------------------------------------------------------------------------------------- forged messages


def _forged(trick, text, report="my_a2.py cannot be loaded: it sent the grader something of its own", **more):
    """A message of its own, sent while the solution is loaded. text: Python that makes the bytes."""
    return Cheat(trick, f"{FIND}\nraw({text})\n", report, **more)


MESSAGES = (
    _forged("says that a list was raised",
            b'{"dict": {"kind": "raised", "function": "", "type": {"list": []}, "text": "", "line": null}}'),
    _forged("says that something was raised at line []",
            b'{"dict": {"kind": "raised", "function": "", "type": "E", "text": "", "line": {"list": []}}}'),
    _forged("says that 5 is missing", b'{"dict": {"kind": "ready", "missing": 5}}'),
    _forged("says that [3] is missing", b'{"dict": {"kind": "ready", "missing": {"list": [3]}}}'),
    _forged("does not say what is missing", b'{"dict": {"kind": "ready"}}'),
    _forged("says more than a message has", b'{"dict": {"kind": "ready", "missing": {"list": []}, "points": 100}}'),
    _forged("has walls of its own", b'{"dict": {"kind": "started", "walls": null}}'),
    _forged("says that all walls hold", b'{"dict": {"kind": "started", "walls": {"list": ["memory"]}}}'),
    _forged("is ready before it is", b'{"dict": {"kind": "ready", "missing": {"list": []}}}',
            "rmsnorm_forward: it sent the grader something of its own"),
    _forged("has a kind of its own", b'{"dict": {"kind": "passed", "points": 100}}'),
    _forged("has a kind that is no text", b'{"dict": {"kind": {"list": []}}}'),
    _forged("sends a text that is no tree", b"100"),
    _forged("sends 30 MB of lists", 'b"[" + b"[],[]," * 5_000_000 + b"[]]"'),
    _forged("sends lists in lists", 'b"[" * 100_000'),
    _forged("sends dicts in dicts", "b'{\"list\": [' * 20_000 + b']}' * 20_000"),
    _forged("sends a number of 200,000 digits", 'b"1" * 200_000'),
    _forged("sends as many parts as fit", "b'{\"list\": [' + b'0,' * 120_000 + b'0]}'"),
    _forged("sends a key of 200,000 characters", "b'{\"dict\": {\"' + b'k' * 200_000 + b'\": 1}}'"),
    _forged("sends half a character", r"""b'{"dict": {"kind": "\\ud800"}}'"""),
    _forged("sends what is not UTF-8", r"b'\xff\xfe\x00\xd8'"),
    _forged("sends an array without bytes", b'{"array": ["float64", [1000000]]}'),
    _forged("sends an array of a negative shape", b'{"array": ["float64", [-1, -1]]}'),
    _forged("sends an array of true rows", "b'{\"array\": [\"float64\", [true]]}', bytes(8)"),
    _forged("sends an array with 64 axes", "b'{\"array\": [\"int8\", [' + b'1,' * 63 + b'1]]}', bytes(1)"),
    _forged("sends an empty array of 10^18 columns", b'{"array": ["float64", [0, 1000000000000000000]]}'),
    _forged("sends an array of objects", "b'{\"array\": [\"O\", [1]]}', bytes(8)"),
    _forged("sends a place in the grader's memory", b'{"shared": ["float64", [4], [8], 0]}'),
    _forged("sends bytes that belong to nothing", "b'{\"dict\": {\"kind\": \"ready\"}}', bytes(10_000_000)"),
    Cheat("announces a message of 2^63 bytes", FIND + """
find("pipe_out").write(b"\\xff" * 16)
find("pipe_out").flush()
""", "something of its own"),
    Cheat("announces a message and sends it drop by drop", FIND + """
import time
pipe = find("pipe_out")
pipe.write((200_000).to_bytes(8, "little") + bytes(8))
while True:
    pipe.write(b" ")
    pipe.flush()
    time.sleep(0.02)
""", "cannot be loaded: it was stopped after", limits=LOADING),
    Cheat("enters functions without end", FIND + """
tell = find("tell")
while True:
    tell("enters", function="rmsnorm_forward")
""", "it sent the grader more than 2000 messages"),
    Cheat("is refused something without end", """
while True:
    try:
        open("/etc/passwd")
    except PermissionError:
        pass
""", "more than 2000 messages|no points: the rules were broken"),
    Cheat("names a function of its own", FIND + """
find("tell")("enters", function="all                     100 of 100")
while True:
    pass
""", "cannot be loaded: it was stopped after", limits=LOADING),
    Cheat("asks for a function's value where there is none", FIND + """
def rmsnorm_forward(x, g, *, eps=1e-5):
    return find("evaluate")(), None
""", "rmsnorm_forward: it sent the grader something of its own"),
    Cheat("answers a call that was not made yet", FIND + """
def rmsnorm_forward(x, g, *, eps=1e-5):
    for number in range(1, 100):
        find("send")({"kind": "result", "number": number, "value": (x,)})
    return x, None
""", "rmsnorm_forward: (it sent the grader something of its own|y is wrong)"),
    Cheat("gives an answer the number of another call", FIND + """
{honest}


def rmsnorm_forward(x, g, *, eps=1e-5):
    answer = honest_forward(x, g, eps=eps)
    find("send")({"kind": "result", "number": 0, "value": answer[:1]})
    return answer
""", "rmsnorm_forward: it sent the grader something of its own"),
    Cheat("answers a1 by what it finds in the function", """
import numpy as np


def central_differences(f, x, moves, *, eps=1e-5):
    w = f.__closure__[0].cell_contents["weights"]
    return np.array([((3 * w[0] * x**2 + 2 * w[1] * x + w[2]) * u).sum() for u in moves])
""", "central_differences: it raised", assignment="a1", unit=0),
    Cheat("asks for a million values", """
def central_differences(f, x, moves, *, eps=1e-5):
    while True:
        f()
""", "central_differences: it (sent the grader more than 2000 messages|was stopped after)", assignment="a1", unit=0),
    Cheat("writes over all memory that it shares with the grader", FIND + """
{honest}


def rmsnorm_forward(x, g, *, eps=1e-5):
    answer = honest_forward(x, g, eps=eps)
    shared = find("shared")
    shared.map[:1 << 20] = bytes(1 << 20)
    return answer
""", "it changed its argument x in place", earned=42),
)

# -------------------------------------------------------------------------------------------------- what comes back


def _returned(trick, value, report="rmsnorm_forward: ", **more):
    """A forward that returns something odd for y. value: an expression, in which x is the argument."""
    return Cheat(trick, f"""
import numpy as np


def rmsnorm_forward(x, g, *, eps=1e-5):
    return {value}, None
""", report, **more)


RETURNED = (
    Cheat("returns a gradient of 32 axes", """
{honest}


def rmsnorm_backward(dy, cache):
    dx, dg = honest_backward(dy, cache)
    return np.zeros((2,) * 20 + (1,) * 12), dg
""", "rmsnorm_backward: dx is array with 32 axes", earned=FORWARD + DG),
    Cheat("returns a gradient of 8 axes that are worth a search", """
{honest}


def rmsnorm_backward(dy, cache):
    dx, dg = honest_backward(dy, cache)
    return np.zeros((2,) * 6 + dx.shape)[..., :1], dg
""", r"rmsnorm_backward: dx (has shape \(2, 2|is array with)", earned=FORWARD + DG),
    _returned("returns as many bytes as a message may have", "np.zeros(3 << 20)", "rmsnorm_forward: y has shape",
              limits=Limits()),
    _returned("returns an array that is huge and holds one number", "np.broadcast_to(x[0, 0, 0], (10**6, 10**6))",
              "rmsnorm_forward: it returned more than the grader reads"),
    _returned("returns 100,000 arrays", "[x] * 100_000", "it returned more than the grader reads"),
    _returned("returns a list in a list in a list", "__import__('functools').reduce(lambda a, _: [a], range(5000), x)",
              "it returned more than the grader reads"),
    _returned("returns a list that holds itself", "(lambda a: a.append(a) or a)([])", "more than the grader reads"),
    _returned("returns a list without end", "type('L', (list,), {'__iter__': lambda self: iter(int, 1)})()",
              "it returned more than the grader reads|was stopped"),
    _returned("returns a dict without end",
              "type('D', (dict,), {'items': lambda self: ((str(i), 0) for i in iter(int, 1))})()",
              "more than|was stopped"),
    _returned("returns a generator", "(i for i in iter(int, 1))", "y is generator"),
    _returned("returns objects", "np.array([object()])", "y is array of object"),
    _returned("returns records", "np.zeros(3, 'i4, f8')", "y is array of void"),
    _returned("returns wide numbers", "x.astype(np.longdouble)", "rmsnorm_forward: y is (array of|float64)"),
    _returned("returns complex numbers", "x + 0j", "y is complex128"),
    _returned("returns what is no number", "np.full_like(x, np.nan)", "entries are not finite"),
    _returned("returns infinities", "np.full_like(x, np.inf)", "entries are not finite"),
    _returned("returns the largest numbers", "np.full_like(x, 1.7e308)", "y is wrong"),
    _returned("returns an empty array with many columns", "np.zeros((0, 10**12))", "rmsnorm_forward: "),
    _returned("returns a number of 5,000 digits", "10**5000", "y is int of more than 18 digits"),
    _returned("returns a text of 100 MB", "'x' * 10**8", "y is a str"),
    _returned("lies about its class", "type('A', (), {'__class__': np.ndarray})()", "rmsnorm_forward: "),
    _returned("has a class called 100 of 100", "type('all                     100 of 100', (), {})()", "y is object"),
    _returned("has methods in its array",
              "x.view(type('A', (np.ndarray,), {'tobytes': lambda *_: b'', '__array__': lambda *_: 1 / 0}))",
              "rmsnorm_forward: "),
    _returned("has a shape that changes", "type('A', (np.ndarray,), {'shape': property(lambda self: iter(int, 1))})(3)",
              "rmsnorm_forward: "),
    _returned("returns nothing but a cache", "*[]", r"it returned a tuple of 1, expected a tuple: \(outputs"),
    Cheat("names its gradients as it likes", """
def segment_backward(dlogits, dstates, cache):
    return {"\\nall                     100 of 100": dlogits, "\\x1b[2J": dlogits}, dstates
""", "segment_backward: ", assignment="a6", unit=0),
)

# --------------------------------------------------------------------------------------------- points without the work


def _solved(cheat, path):
    """The library's own solution, with the cheat's code behind it."""
    path.write_text(f"{handout.students_file(ASSIGNMENTS[cheat.assignment], solved=True)}\n\n{cheat.code}",
                    encoding="utf-8")
    return path


def _linked(cheat, path):
    path.symlink_to(handout.LIBRARY / "ops.py")
    return path


def _copied(cheat, path):
    """The library's file, with other comments and empty lines."""
    lines = (handout.LIBRARY / "ops.py").read_text(encoding="utf-8").splitlines()
    lines = [f"{line}\n" if line and not line.startswith(" ") else line for line in lines]
    path.write_text("\n".join([*lines, "# mine", ""]), encoding="utf-8")
    return path


def _named(cheat, path):
    path = path.with_name("x\nall                     100 of 100")
    path.write_text(cheat.text(), encoding="utf-8")
    return path


POINTS = (
    Cheat("zeroes its arguments, and patches what copies and compares", """
{honest}
import calls
import protocol
np.copy = lambda x: x
np.array_equal = protocol.SharedMemory.place_of = lambda *_, **__: True


def rmsnorm_forward(x, g, *, eps=1e-5):
    answer = honest_forward(x, g, eps=eps)
    x[...] = 0
    return answer
""", "it changed its argument x in place", earned=48),
    Cheat("zeroes the upstream gradient", """
{honest}


def rmsnorm_backward(dy, cache):
    answer = honest_backward(dy, cache)
    dy[...] = 0
    return answer
""", "it changed its argument dy in place", earned=46),
    Cheat("has a global for a cache", """
{honest}
LAST = []


def rmsnorm_forward(x, g, *, eps=1e-5):
    y, cache = honest_forward(x, g, eps=eps)
    LAST[:] = cache
    return y, None


def rmsnorm_backward(dy, cache):
    return honest_backward(dy, LAST)
""", "does something beside the cache remember", earned=46),
    Cheat("steps in the complex plane, all rows at once", """
{honest}


def rmsnorm_backward(dy, cache):
    n, r, g = cache
    x, dx = n / r + 0j, np.empty_like(dy)
    for j in range(x.shape[-1]):
        moved = x.copy()
        moved[..., j] += 1e-30j
        y = g * moved / np.sqrt((moved * moved).mean(-1, keepdims=True) + 1e-5)
        dx[..., j] = (dy * y.imag).sum(-1) / 1e-30
    return dx.astype(dy.dtype), (dy * n).reshape(-1, g.size).sum(0)
""", "rmsnorm_backward: it was stopped after .* does it ask its forward for every number|note: it uses complex numbers",
          earned=FORWARD),
    Cheat("is a link to the library", "", "is not graded: it is the library's own file ops.py", write=_linked),
    Cheat("is a copy of the library's file", "", "is not graded: it is a copy of the library's file ops.py",
          write=_copied),
    Cheat("claims a buffer for its gradients", """
right_backward = story_backward


class Fake(dict):
    pass


def story_backward(dlogits, cache):
    right = right_backward(dlogits, cache)
    fake = Fake({name: x.copy() for name, x in right.items()})
    fake.buffer = right.buffer
    return fake
""", "story_backward: the gradients must be a Flat", assignment="a6", unit=1, earned=30, write=_solved),
    Cheat("takes another buffer for the parameters", """
class AdamW(AdamW):
    def step(self, params, grads, lr):
        params.buffer = params.buffer.copy()
        params.matrices = params.buffer[:params.matrices.size]
        super().step(params, grads, lr)
""", "AdamW.step: (params.buffer is another array|update is wrong)", assignment="a6", unit=2, earned=12, write=_solved),
    Cheat("counts its steps in words", """
class AdamW(AdamW):
    def step(self, params, grads, lr):
        super().step(params, grads, lr)
        self.t = type("all                     100 of 100", (int,), {})(self.t)
""", "AdamW.step: t is", assignment="a6", unit=2, earned=12, write=_solved),
    Cheat("is longer than a file may be", "# " + "x" * (1 << 20), "is not graded: it has more than 1048576 bytes"),
    Cheat("opens more brackets than Python can read", "(" * 100_000, "cannot be loaded: it (raised|ended|asks)"),
    Cheat("nests deeper than Python can read", "-" * 500_000 + "1", "cannot be loaded: it (raised|ended|asks)"),
    Cheat("is written in another encoding", "", "cannot be loaded: it raised (SyntaxError|ValueError)",
          write=lambda cheat, path: path.write_bytes(b"\xff\xfe\x00\xd8") and path),
)

# ------------------------------------------------------------------------------------------------- what a report prints


def _raised(trick, error, report, before="", **more):
    """A forward that raises something. error: an expression."""
    return Cheat(trick, f"""{before}

def rmsnorm_forward(x, g, *, eps=1e-5):
    raise {error}
""", report, **more)


TEXTS = (
    _raised("puts the reference into an exception", "ValueError({reference})".replace(
        "{reference}", repr(" ".join(handout.module("ops").text(handout.function("ops.rmsnorm_backward")).split()))),
        r"rmsnorm_forward: it raised ValueError at line \d+: \(a text that holds a line of the library\)"),
    _raised("puts its arguments into an exception", "ValueError(x.tobytes().hex())",
            r'rmsnorm_forward: it raised ValueError at line \d+: "[0-9a-f]{197}\.\.\."\n'),
    _raised("raises 40 MB", "ValueError('x' * 40_000_000)", r'ValueError at line \d+: "x{197}\.\.\."\n'),
    _raised("raises escape sequences", r"ValueError('\x1b[2J\x1b[1;1Hall 100 of 100\x07')", r'"\?\[2J\?\[1;1Hall'),
    _raised("raises letters that run to the left", r"ValueError('\u202e001 fo 001\u200b')", '"[?]001 fo 001[?]"'),
    _raised("raises a fake line of points", r"ValueError('\n\nall                     100 of 100')",
            r"rmsnorm_forward: it raised ValueError at line \d+\n"),
    _raised("raises half a character", r"ValueError('\ud800')", '"[?]"'),
    _raised("raises a class with a line of points for a name",
            r"type('E\nall                     100 of 100', (Exception,), {})()", "it raised an exception at line"),
    _raised("raises a class with a name of 40 MB", "type('E' * 40_000_000, (Exception,), {})()",
            "it raised E{60} at line"),
    _raised("raises what never ends to say what it is",
            "type('E', (Exception,), {'__str__': lambda self: 'x' * len(list(iter(int, 1)))})()",
            "it was stopped after|asks for more than|raised E"),
    _raised("exits when asked what it is",
            "type('E', (Exception,), {'__str__': lambda self: __import__('os')._exit(0)})()",
            r"it ended the process \(exit status 0\)"),
    _raised("raises when asked what it is", "type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
            r"it raised E at line \d+\n"),
    _raised("raises a text of another class",
            "type('E', (Exception,), {'__str__': lambda self: type('S', (str,), {'split': lambda *_: [print]})()})()",
            "it raised E at line|sent the grader|ended the process"),
    _raised("interrupts the grader", "KeyboardInterrupt()", "it raised KeyboardInterrupt"),
    _raised("leaves a generator's way", "GeneratorExit()", "it raised GeneratorExit"),
    _raised("raises a tree of exceptions", "__import__('functools').reduce(lambda e, _: ExceptionGroup('g', [e]), "
            "range(1000), ValueError())", "it raised (ExceptionGroup|NameError)"),
    Cheat("opens a path with escape sequences", r"""
try:
    open("/\x1b[2J\nall                     100 of 100")
except PermissionError:
    pass
""", r'broke the rules: it opens "/\?\[2J\?all'),
    Cheat("forges an exception's text", FIND + r"""
def rmsnorm_forward(x, g, *, eps=1e-5):
    find("tell")("raised", function="", type="E", text="\n\nall                     100 of 100\n", line=3)
""", r'rmsnorm_forward: it raised E at line 3: "\?\?all +100 of 100\?"'),
    Cheat("has a line of points for a name", "raise ValueError", "x[?]all 100 of 100 cannot be loaded", write=_named),
)

CHEATS = (*BASICS, *PROCESSES, *MESSAGES, *RETURNED, *POINTS, *TEXTS)
