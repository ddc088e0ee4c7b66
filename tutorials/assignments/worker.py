"""The process in which a solution runs: the student's functions, the library without them, and data that comes by pipe.

It holds nothing worth stealing: no expected value, no judge, no line of the functions that are graded. The grader sends
a call and its arrays, this process plays it with the student's functions and sends back what they returned. Whatever
a solution does to NumPy, to the checker or to this file, it does to its own arithmetic only.

A copy of this file lies in a folder of its own beside protocol.py, calls.py, landlock.py, the solution and a library
cut to what it may use. What the folder does not hold, it cannot open: see `wall`.
"""

import importlib
import os
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
FORBIDDEN = {                                            # audit events by their first word; os has a list of its own
    "ctypes": "reaches into memory", "fcntl": "reaches into the system", "ftplib": "opens a connection",
    "http": "opens a connection", "imaplib": "opens a connection", "mmap": "reaches into memory",
    "poplib": "opens a connection", "pty": "starts a process", "shutil": "changes files",
    "smtplib": "opens a connection", "socket": "opens a connection", "sqlite3": "opens a database",
    "subprocess": "starts a process", "syslog": "reaches into the system", "tempfile": "writes a file",
    "urllib": "opens a connection", "webbrowser": "starts a process", "winreg": "reaches into the system"}
HARMLESS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.putenv", "os.unsetenv"}
MODULES = {"_ctypes", "_posixshmem", "_posixsubprocess", "_socket", "_sqlite3", "multiprocessing", "mmap"}


def main():
    pipe_in, pipe_out = _take_pipes()
    sys.path[:0] = [str(HERE)]
    settings, numpy_home = _first_words(pipe_in)
    import calls
    import numpy.linalg  # noqa: F401  all that a solution may need is here before the wall goes up
    import numpy.random  # noqa: F401
    import protocol

    library = {name: importlib.import_module(f"tinylm2.{name}") for name in settings["files"]}
    limits = _limit(settings["memory"], settings["seconds"])
    home = os.path.dirname(os.__file__)                  # of the standard library
    allowed = [str(HERE), numpy_home, *_parts_of(home)]

    def tell(kind, **what):
        protocol.send(pipe_out, {"kind": kind, **what})

    confined = _confine(allowed, home)
    sys.addaudithook(wall(allowed, lambda what: tell("refused", what=what)))
    told = Announcer(tell)
    tell("up")
    try:
        missing = inject(settings, library, told)
    except BaseException as error:                       # SystemExit too: a solution must not end its own examination
        tell("raised", function="", **_say(error))
        return
    tell("ready", missing=missing, confined=confined, limits=limits)
    while True:
        try:
            request = protocol.receive(pipe_in)
        except EOFError:
            return
        told.function = ""
        try:
            reply = getattr(calls, request["call"])(library, **request["arguments"])
        except BaseException as error:
            tell("raised", function=told.function, **_say(error))
        else:
            tell("played", result=reply)


def inject(settings, library, told):
    """Put the student's functions under examination into the library, and the library's into the student's file where
    that is not examined now: so that one mistake costs one function. -> the names that the file does not have."""
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
            setattr(library[file], path[0], told.of(".".join(path), theirs))
        else:                                            # a method comes with its class
            setattr(getattr(solution, path[0]), path[1], told.of(".".join(path), theirs))
            setattr(library[file], path[0], getattr(solution, path[0]))
    for name in settings["theirs"]:
        file, name = name.split(".")[:2]
        setattr(solution, name, getattr(library[file], name))
    return missing


class Announcer:
    """Says which of the student's functions runs, before it does: who loops for ever cannot say it any more."""

    def __init__(self, tell):
        self.tell, self.function = tell, ""

    def of(self, name, function):
        def announced(*args, **kwargs):
            if self.function != name:
                self.function = name
                self.tell("enters", function=name)
            return function(*args, **kwargs)

        return announced


# ------------------------------------------------------------------------------------------------------------- the wall


def wall(allowed, report):
    """An audit hook: no file but the allowed folders' is opened, none is written, no process, no connection.

    Each refusal is told to the grader before it is raised, so no `except` can hide it.
    """
    allowed = {os.path.realpath(place) for place in allowed}
    realpath, fsdecode, writing = os.path.realpath, os.fsdecode, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

    def refuse(what):
        report(what)
        raise PermissionError(f"the grader lets no solution do this: it {what}")

    def hook(event, args):
        family = event.partition(".")[0]
        if event == "open":
            path, mode, flags = args
            if isinstance(path, int):
                return
            place = realpath(fsdecode(path))
            above = place.split(os.sep)
            if mode and set(mode) & set("wax+") or (flags or 0) & writing:
                refuse(f"writes {place}")
            if not any(os.sep.join(above[:i]) in allowed for i in range(2, len(above) + 1)):
                refuse(f"opens {place}")
        elif event == "import" and args[0] in MODULES:
            refuse(f"imports {args[0]}")
        elif family in FORBIDDEN:
            refuse(f"{FORBIDDEN[family]} ({event})")
        elif family == "os" and event not in HARMLESS:
            refuse(f"calls {event}")

    return hook


def _confine(allowed, home):
    try:
        import landlock
        return landlock.confine(allowed, [home])
    except (ImportError, OSError):
        return False


def _limit(memory, seconds):
    """Bounds that the kernel keeps, where there are any. -> the names of those that hold."""
    try:
        import resource
    except ImportError:                                  # Windows
        return []
    kept = []
    wanted = {"RLIMIT_AS": memory, "RLIMIT_CPU": seconds, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    for name, value in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
            kept.append(name)
        except (AttributeError, ValueError, OSError):    # macOS has no limit of the address space
            pass
    return kept


def _parts_of(home):
    """Files and folders of the standard library; what else is installed may lie among them, and is left out."""
    return [os.path.join(home, part) for part in sorted(os.listdir(home)) if not part.endswith("-packages")]


# ---------------------------------------------------------------------------------------------------------- small parts


def _take_pipes():
    """The two pipes to the grader. What a solution prints goes nowhere, what it reads is empty."""
    pipe_in, pipe_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    return pipe_in, pipe_out


def _first_words(pipe_in):
    """The settings, and where NumPy lives: a line of text, for protocol.py stands on NumPy."""
    import json

    settings = json.loads(pipe_in.readline())
    sys.path.append(settings["packages"])
    import numpy

    return settings, os.path.dirname(numpy.__file__)


def _say(error):
    """An exception as the grader tells it: what, and at which line of the solution."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if os.path.dirname(frame.filename) == str(HERE) and os.path.basename(frame.filename).startswith("my_")]
    text = str(error).splitlines()
    return {"type": type(error).__name__, "text": text[0] if text else "", "line": lines[-1] if lines else None}


if __name__ == "__main__":
    main()
