"""Cheats, and how they end: the test of the grader's walls.

Each is a file handed in in the place of a solution, with the words in which the report must say what it did, and it
must earn nothing by what is not honest work.
"""

from dataclasses import dataclass

from tutorials.assignments import handout
from tutorials.assignments.grader import ASSIGNMENTS, grade


@dataclass(frozen=True)
class Cheat:
    """code stands behind the assignment's stubs; in it, {library} is where the real library lies. report: words of the
    report. unit: which of the assignment's units it is after. earned: points of the honest part of it."""

    trick: str
    code: str
    report: str
    assignment: str = "a2"
    unit: int = 1
    earned: int = 0

    def __str__(self):
        return self.trick

    def grade(self, folder, **how):
        """Report on this cheat, from a file in the folder."""
        assignment = ASSIGNMENTS[self.assignment]
        path = folder / f"my_{self.assignment}.py"
        code = self.code.replace("{library}", str(handout.LIBRARY.parent))
        path.write_text(f"{handout.students_file(assignment)}\n\n{code}", encoding="utf-8")
        return grade(assignment, path, units=(self.unit,), **how)


CHEATS = (
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
""", "broke the rules: it (imports _posixsubprocess|starts a process)"),
    Cheat("forks", """
import os
os.fork()
""", "broke the rules: it calls os.fork"),
    Cheat("reads the grader's memory", """
import os
with open(f"/proc/{os.getppid()}/mem", "rb") as memory:
    memory.read(1)
""", "broke the rules: it opens /proc"),
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
    Cheat("patches the checker, the calls and the judge", """
import sys
from tinylm2 import gradcheck
gradcheck.Checker.check = gradcheck.worst_entry = lambda *_, **__: True
calls = sys.modules["calls"]
calls.pair = calls.forward = lambda *_, **__: {"outputs": (), "gradients": (), "passed": True}
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
    protocol.send(frame.f_locals["pipe_out"], {"kind": "played", "result": {"outputs": (x,), "passed": True}})
""", "rmsnorm_forward: y is wrong"),
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
""", "cannot be loaded: it was stopped after"),
    Cheat("loops for ever when it is asked", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    while True:
        pass
""", "rmsnorm_forward: it was stopped after"),
    Cheat("stops its own process", """
import signal


def rmsnorm_forward(x, g, *, eps=1e-5):
    signal.raise_signal(signal.SIGSTOP)
""", "rmsnorm_forward: it was stopped after"),
    Cheat("eats memory", """
import numpy as np


def rmsnorm_forward(x, g, *, eps=1e-5):
    eaten = []
    while True:
        eaten.append(np.zeros(2**26))
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
