"""The grader's side of a solution's process: start it, ask it, stop it; and the context of a test."""

import importlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tinylm2.cases import Draw
from tutorials.assignments import calls, handout, protocol

HERE = Path(__file__).resolve().parent
BESIDE = ("worker.py", "landlock.py", "calls.py", "protocol.py")                 # what runs in a solution's process


@dataclass(frozen=True)
class Limits:
    """What a solution may take: seconds of the clock a test, bytes of memory, and how often it may have to be stopped
    before the rest of its tests is left out."""

    seconds: float = 6.0
    memory: int = 2 << 30
    stops: int = 2

    @property
    def cpu_seconds(self):
        """The kernel's own stop, should the grader be gone."""
        return int(20 * self.seconds) + 10


class Failed(Exception):
    """A solution gave no answer: it raised, was stopped, or ended. `function` is the one that ran."""

    def __init__(self, function, text, *, error="", message=""):
        super().__init__(text)
        self.function, self.text, self.error, self.message = function, text, error, message


class Gone(Failed):
    """And its process is no more."""


class Client:
    """A process of its own for a solution: the functions under examination, and a library that has them not.

    `refused` lists what the solution tried and may not do, and in which function. Use it in a `with` statement.
    """

    def __init__(self, assignment, functions, solution, limits):
        self.assignment, self.functions, self.solution, self.limits = assignment, functions, solution, limits
        self.refused, self.missing, self.walls, self.process = [], [], {}, None
        self.folder = Path(tempfile.mkdtemp(prefix="tinylm2-"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        """Start the process and let it load the solution.  Failed where it cannot."""
        module, homes = f"my_{self.assignment.name}", {handout.top(name)[0] for name in self.functions}
        kept = handout.beside(self.assignment, self.functions)
        handout.write(handout.library(kept, homes), self.folder)
        shutil.copyfile(self.solution, self.folder / f"{module}.py")
        for name in BESIDE:
            shutil.copyfile(HERE / name, self.folder / name)
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                       **{name: os.environ[name] for name in ("SYSTEMROOT", "PATH") if name in os.environ}}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(self.folder / "worker.py")], cwd=self.folder, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        self.heard = queue.Queue()
        threading.Thread(target=_listen, args=(self.process.stdout, self.heard), daemon=True).start()
        settings = {"files": sorted(homes | {file for file, _ in kept}), "functions": list(self.functions),
                    "theirs": [name for name in self.assignment.functions
                               if name not in self.functions and handout.top(name) in kept],
                    "solution": module, "memory": self.limits.memory, "seconds": self.limits.cpu_seconds,
                    "packages": str(Path(np.__file__).parents[1])}
        self._say(lambda pipe: pipe.write(json.dumps(settings).encode() + b"\n"))
        self._answer("up", seconds=30)                   # importing NumPy may take a while on a busy machine
        ready = self._answer("ready")
        self.missing, self.walls = ready["missing"], {"confined": ready["confined"], "limits": ready["limits"]}

    def ask(self, call, **arguments):
        """What a call gives with the student's functions.  Failed where it gives nothing."""
        self._say(lambda pipe: protocol.send(pipe, {"call": call, "arguments": arguments}))
        return self._answer("played")["result"]

    def _say(self, write):
        """Write to the process from a thread of its own: who does not listen must not keep the grader waiting."""
        def speak(pipe=self.process.stdin):
            with suppress(OSError, ValueError):          # it is gone; `_answer` says how
                write(pipe)
                pipe.flush()

        threading.Thread(target=speak, daemon=True).start()

    def _answer(self, kind, seconds=None):
        running, seconds = "", seconds or self.limits.seconds
        end = time.monotonic() + seconds
        while True:
            try:
                message = self.heard.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.close()
                raise Gone(running, f"it was stopped after {seconds:g} seconds without an answer") from None
            if message is None:
                how = self._how_it_ended()
                self.close()
                raise Gone(running, f"it ended the process ({how})")
            if isinstance(message, protocol.ProtocolError) or not isinstance(message, dict):
                self.close()
                raise Gone(running, "it sent the grader something of its own")
            if message.get("kind") == "enters":
                running = str(message.get("function", ""))
            elif message.get("kind") == "refused":
                self.refused.append((running, str(message.get("what", ""))))
            elif message.get("kind") == "raised":
                raise self._raised(message)
            elif message.get("kind") == kind:
                return message

    def _raised(self, message):
        error, said, line = (message.get(key) for key in ("type", "text", "line"))
        where = f" at line {line}" if line else ""
        text = {"NotImplementedError": "it is not written yet",
                "MemoryError": f"it asks for more than {self.limits.memory / 2**30:.3g} GiB of memory{where}",
                "SystemExit": f"it tries to end the process{where}",
                "Unfit": said,
                }.get(error, f"it raised {error}{where}: {said}")
        return Failed(str(message.get("function", "")), text, error=error, message=said)

    def _how_it_ended(self):
        try:
            code = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def close(self):
        """End the process, and whatever it may have started, and remove its folder."""
        if self.process:
            try:
                os.killpg(self.process.pid, 9)
            except (AttributeError, ProcessLookupError, PermissionError):
                self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with suppress(OSError):                  # what was still to be written to it is lost
                    pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _listen(pipe, heard):
    """Hand on every message, and None at the end."""
    try:
        while True:
            heard.put(protocol.receive(pipe))
    except (EOFError, OSError, ValueError) as error:
        heard.put(error if isinstance(error, protocol.ProtocolError) else None)


# ------------------------------------------------------------------------------------------------------------ the ctx


class Library(dict):
    """The library's files by name, as a call asks for them."""

    def __missing__(self, name):
        self[name] = importlib.import_module(f"tinylm2.{name}")
        return self[name]


TRUTH = Library()


LENGTHS = (3, 5, 6, 7, 8)


@dataclass(frozen=True)
class Lengths(Draw):
    """Random arrays, and random lengths for their letters: no two alike, none of them one."""

    letters: dict = field(default_factory=dict)

    def lengths(self, names):
        """A length for each letter of `names`. None is the root of another, so that a wrong factor has but one name."""
        chosen = [int(n) for n in self.rng.permutation(LENGTHS)[:len(names)]]
        self.letters.update(zip(names, chosen, strict=True))
        return chosen

    def number(self, low, high):
        """One whole number, low and high included."""
        return int(self.rng.integers(low, high + 1))


class Context:
    """What a test works on: the student's functions in their process, the library's here, and random numbers that are
    the test's own, whatever tests ran before it."""

    def __init__(self, client, seed):
        self.client, self.seed, self.draws = client, seed, 0

    def draw(self, dtype="float64"):
        self.draws += 1
        return Lengths(np.random.default_rng([*self.seed, self.draws]), dtype)

    def student(self, call, **arguments):
        return self.client.ask(call, **arguments)

    @staticmethod
    def truth(call, **arguments):
        """The same call with the library's functions."""
        return getattr(calls, call)(TRUTH, **arguments)
