"""The process in which a solution runs: the student's functions, and the library without them.

It holds nothing worth stealing: no expected value, no comparison, no line of the functions under examination. It
answers one call at a time (see calls.py) and does not know which call comes next. A solution that patches NumPy, the
library or this file changes its own arithmetic only.

A copy of this file lies in a folder of its own, beside calls.py, protocol.py, sandbox.py, the solution and a library
cut to what it may use. The process can read that folder, NumPy and the standard library, and nothing else: see
sandbox.py.
"""

import importlib
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    pipe_in, pipe_out = _take_pipes()
    sys.path[:0] = [str(HERE)]
    settings = json.loads(pipe_in.readline())            # a line of text, for protocol.py needs NumPy
    sys.path.append(settings["packages"])
    import calls
    import numpy.linalg  # noqa: F401  everything that a solution may need is loaded before the walls go up
    import numpy.random
    import protocol
    import sandbox

    def read(n):
        data = pipe_in.read(n)
        if len(data) < n:
            raise EOFError
        return data

    def send(tree):
        pipe_out.write(protocol.frame(tree))
        pipe_out.flush()

    def tell(kind, **fields):
        send({"kind": kind, **fields})

    def evaluate():
        tell("evaluate")
        return protocol.receive(read, shared)["value"]

    library = {file: importlib.import_module(name) for file, name in settings["files"].items()}
    shared = protocol.SharedMemory.join(settings["shared"])
    home = os.path.dirname(os.__file__)                  # of the standard library
    readable = [str(HERE), os.path.dirname(numpy.__file__), *_parts_of(home)]
    walls = sandbox.enter(memory=settings["memory"], seconds=settings["seconds"], parent=settings["parent"],
                          readable=readable, listed=[home])
    if settings["audit"]:
        sys.addaudithook(sandbox.audit_hook(
            readable, lambda action, what: tell("refused", action=action, what=what[:500])))
    tell("started", walls=walls)

    announcer = Announcer(tell)
    try:
        missing = insert(settings, library, announcer)
    except BaseException as error:                       # SystemExit, too: a solution must not end its own examination
        tell("raised", function="", **_described(error))
        return
    tell("ready", missing=missing)
    answers = calls.Calls(library, evaluate)
    while True:
        try:
            request = protocol.receive(read, shared)
        except EOFError:
            return
        announcer.function = ""
        try:
            reply = protocol.frame({"kind": "result", "number": request["number"],
                                    "value": getattr(answers, request["call"])(**request["arguments"])})
        except BaseException as error:
            tell("raised", function=announcer.function, **_described(error))
        else:
            pipe_out.write(reply)
            pipe_out.flush()


def insert(settings, library, announcer):
    """Put the student's functions under examination into the library. Put the library's into the student's file where
    that is not examined now, so that one mistake costs one function.  -> the names that the file does not have."""
    solution = importlib.import_module(settings["solution"])
    missing = []
    for name in settings["functions"]:
        file, *path = name.split(".")
        theirs = solution
        for part in path:
            theirs = getattr(theirs, part, None)
        if not callable(theirs):
            missing.append(name)
        elif len(path) == 1:
            setattr(library[file], path[0], announcer.of(".".join(path), theirs))
        else:                                            # a method comes with its class
            setattr(getattr(solution, path[0]), path[1], announcer.of(".".join(path), theirs))
            setattr(library[file], path[0], getattr(solution, path[0]))
    for name in settings["given"]:
        file, name = name.split(".")[:2]
        setattr(solution, name, getattr(library[file], name))
    return missing


class Announcer:
    """Says which of the student's functions runs, before it does: one that loops for ever cannot say it any more."""

    def __init__(self, tell):
        self.tell, self.function = tell, ""

    def of(self, name, function):
        def announced(*args, **kwargs):
            if self.function != name:
                self.function = name
                self.tell("enters", function=name)
            return function(*args, **kwargs)

        return announced


def _described(error):
    """An exception as it is sent to the grader: its type, the first line of its text, and the solution's line."""
    line, frame = None, error.__traceback__
    while frame is not None:
        path = frame.tb_frame.f_code.co_filename
        if os.path.dirname(path) == str(HERE) and os.path.basename(path).startswith("my_"):
            line = frame.tb_lineno
        frame = frame.tb_next
    try:
        text = str(error).split("\n", 1)[0][:1000]
    except BaseException:                                # the student's own __str__
        text = ""
    return {"type": type(error).__name__[:60], "text": text, "line": line}


def _parts_of(home):
    """Files and folders of the standard library. Other installed packages may lie among them, and are left out."""
    return [os.path.join(home, part) for part in sorted(os.listdir(home)) if not part.endswith("-packages")]


def _take_pipes():
    """The two pipes to the grader. What a solution prints goes nowhere, what it reads is empty."""
    pipe_in, pipe_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    return pipe_in, pipe_out


if __name__ == "__main__":
    main()
