"""The grader's side of a worker: start it, ask it, stop it.

Nothing here waits without a deadline, and nothing here is joined: a thread that another process keeps waiting is left
behind. What a worker sends is bounded in size, checked by its kind, and printed only after `feedback.quoted`.
"""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutorials.assignments import handout, protocol, sandbox
from tutorials.assignments.feedback import quoted

HERE = Path(__file__).resolve().parent
BESIDE = ("worker.py", "calls.py", "protocol.py", "sandbox.py")                  # what runs in a worker
MESSAGES = 2000                                          # that a worker may send for one answer
UNFIT = rf"({protocol.WORD.pattern})( of \d{{1,9}})?"
REFUSALS = 20                                            # that are kept


@dataclass(frozen=True)
class Limits:
    """What a solution may use.

    seconds: of waiting for one test.  loading: seconds until the file is loaded.  total: seconds for the whole file.
    memory: bytes of address space.  stops: the rest of a unit is left out after the worker had to be stopped so many
    times.  audit: whether there are audit hooks; tests switch them off to see the kernel's limits alone.
    """

    seconds: float = 6.0
    loading: float = 10.0
    total: float = 45.0
    memory: int = 640 << 20
    stops: int = 2
    audit: bool = True


class Failed(Exception):
    """A solution gave no answer: it raised, was stopped, or ended.

    function: the one that ran.  final: the other tests of the function under test are not run.
    """

    final = False

    def __init__(self, function, text, *, error=""):
        super().__init__(text)
        self.function, self.text, self.error = function, text, error


class Gone(Failed):
    """And its worker is no more."""


class Client:
    """A worker for the functions under examination. Use it in a `with` statement.

    source: the solution's bytes.  end: the time, by time.monotonic, when the file's time is used up.  refused: what the
    solution tried and may not do, as (function, text).  walls: the kernel's limits that hold, by name.
    """

    def __init__(self, assignment, functions, source, limits, end):
        self.assignment, self.functions, self.source, self.limits, self.end = assignment, functions, source, limits, end
        self.refused, self.missing, self.walls = [], [], None
        self.process = self.shared = None
        self.number, self.buffer = 0, bytearray()
        self.begin()
        self.folder = Path(tempfile.mkdtemp(prefix="tinylm2-"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        """Start the worker and let it load the solution.  Raises Failed where it cannot."""
        module, (library, files, given) = f"my_{self.assignment.name}", self.beside()
        handout.write(library, self.folder)
        (self.folder / f"{module}.py").write_bytes(self.source)
        for name in BESIDE:
            shutil.copyfile(HERE / name, self.folder / name)
        self.shared, source = protocol.SharedMemory.create(self.folder)
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                       **{name: os.environ[name] for name in ("SYSTEMROOT", "PATH") if name in os.environ}}
        inherited = {"pass_fds": [source]} if isinstance(source, int) else {}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(self.folder / "worker.py")], cwd=self.folder, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                start_new_session=True, **inherited)
        finally:
            if isinstance(source, int):
                os.close(source)
        self.chunks, self.closed = queue.Queue(maxsize=4), threading.Event()
        threading.Thread(target=_listen, args=(self.process.stdout, self.chunks, self.closed), daemon=True).start()
        settings = {"files": {file: handout.dotted(file) for file in files}, "functions": list(self.functions),
                    "given": given, "solution": module, "memory": self.limits.memory,
                    "seconds": int(self.limits.total) + 15, "parent": os.getpid(), "audit": self.limits.audit,
                    "shared": source,
                    "packages": str(Path(np.__file__).parents[1])}
        self._say(json.dumps(settings).encode() + b"\n")
        walls = self._answer("started", seconds=30)["walls"]             # NumPy may take long on a busy machine
        self.walls = [name for name in sandbox.WALLS if name in walls]
        missing = self._answer("ready", seconds=self.limits.loading)["missing"]
        self.missing = [name for name in self.functions if name in missing]

    def beside(self):
        """{path: text} of the library beside the solution; its files; which of the assignment's other functions are
        given in it."""
        homes, kept = {handout.top(name)[0] for name in self.functions}, handout.beside(self.assignment, self.functions)
        given = [name for name in self.assignment.functions
                 if name not in self.functions and handout.top(name) in kept]
        return handout.library(kept, homes), sorted(homes | {file for file, _ in kept}), given

    def begin(self, seconds=None):
        """From here on the solution may take so many seconds, all that one test has unless fewer are given."""
        self.allowed, self.waited = min(seconds or self.limits.seconds, self.limits.seconds), 0.0

    def ask(self, call, *, evaluate=None, **arguments):
        """What a call returns with the student's functions.  Raises Failed where it returns nothing."""
        self.number += 1
        self._say(protocol.frame({"call": call, "number": self.number, "arguments": arguments}, self.shared))
        answer = self._answer("result", evaluate=evaluate)
        if answer["number"] != self.number:
            self._stop("", "it sent the grader something of its own")
        return answer["value"]

    # ------------------------------------------------------------------------------------------------------ both pipes

    def _say(self, data):
        """Write from a thread of its own: a worker that does not read must not keep the grader waiting."""
        def write(pipe=self.process.stdin, rest=data):
            with suppress(OSError, ValueError, TypeError):               # it is gone; `_answer` says how
                while rest:
                    rest = rest[pipe.write(rest):]

        threading.Thread(target=write, daemon=True).start()

    def _answer(self, kind, seconds=None, evaluate=None):
        """The fields of the next message of a kind; the messages before it are dealt with."""
        began, running = time.monotonic(), ""
        own = began + (self.allowed - self.waited if seconds is None else seconds)
        end = min(own, self.end)
        try:
            for _ in range(MESSAGES):
                try:
                    found, fields = protocol.checked(protocol.receive(lambda n: self._read(n, end)))
                except protocol.ProtocolError:
                    self._stop(running, "it sent the grader something of its own")
                except queue.Empty:
                    self._stop(running, f"it was stopped after {seconds or self.allowed:.3g} seconds without an "
                               "answer" if own <= self.end else
                               f"it was stopped: the {self.limits.total:g} seconds for the whole file are used up")
                except EOFError:
                    how = self._how_it_ended()
                    self._stop(running, f"it ended the process ({how})")
                if found == kind:
                    return fields
                if found == "enters":
                    running = self._own(fields["function"])
                elif found == "refused":
                    self._note(running, **fields)
                elif found == "evaluate" and evaluate:
                    self._say(protocol.frame({"value": evaluate()}))
                elif found == "raised":
                    raise self._raised(**fields)
                else:
                    self._stop(running, "it sent the grader something of its own")
            return self._stop(running, f"it sent the grader more than {MESSAGES} messages")
        finally:
            self.waited += time.monotonic() - began

    def _read(self, n, end):
        """n bytes from the worker.  Raises queue.Empty when the time is over, EOFError when the worker is gone."""
        while len(self.buffer) < n:
            chunk = self.chunks.get(timeout=max(0.0, end - time.monotonic()))
            if not chunk:
                self.chunks.put(chunk)                   # whoever reads again finds the same end
                raise EOFError
            self.buffer += chunk
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    # -------------------------------------------------------------------------------------------------- what went wrong

    def _own(self, function):
        """A function's name, if it is one under examination."""
        return function if function in [name.partition(".")[2] for name in self.functions] else ""

    def _note(self, running, action, what):
        if len(self.refused) < REFUSALS:
            self.refused.append((running, f"it {action if action in sandbox.ACTIONS else 'tries'} {quoted(what)}"))

    def _raised(self, function, type, text, line):
        where = f" at line {line}" if line else ""
        name = type if protocol.WORD.fullmatch(type) else "an exception"
        what = text if re.fullmatch(UNFIT, text) else "thing"
        texts = {"NotImplementedError": "it is not written yet",
                 "MemoryError": f"it asks for more than {self.limits.memory / 2**30:.3g} GiB of memory{where}",
                 "SystemExit": f"it tries to end the process{where}",
                 "Unfit": f"it returned a {what}, expected a tuple: (outputs..., cache)",
                 "TooLarge": "it returned more than the grader reads"}
        said = f": {quoted(text)}" if text else ""
        return Failed(self._own(function), texts.get(type, f"it raised {name}{where}{said}"), error=name)

    def _how_it_ended(self):
        try:
            code = self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def _stop(self, running, text):
        self.close()
        raise Gone(running, text)

    def close(self):
        """End the worker and its whole session, and remove its folder."""
        if self.process:
            self.closed.set()
            with suppress(AttributeError, ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with suppress(OSError):
                self.process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
            with suppress(OSError):                      # `_listen` closes the other pipe when its end has come
                self.process.stdin.close()
        if self.shared:
            self.shared.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _listen(pipe, chunks, closed):
    """Hand on what arrives, at most some chunks ahead, and b"" at the end."""
    def hand_on(chunk):
        while not closed.is_set():
            with suppress(queue.Full):
                chunks.put(chunk, timeout=0.2)
                return

    with suppress(OSError, ValueError):
        while not closed.is_set() and (chunk := pipe.read(1 << 16)):
            hand_on(chunk)
    hand_on(b"")
    pipe.close()
