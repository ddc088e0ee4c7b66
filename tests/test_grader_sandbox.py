"""The limits of a worker: the kernel holds them without Python, nothing is left of a worker, nobody waits for it."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from tutorials.assignments import client, handout, sandbox
from tutorials.assignments.client import Client, Gone, Limits
from tutorials.assignments.grader import ASSIGNMENTS, grade, what_is_lacking

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these limits are Linux's")
A1, ROOT = ASSIGNMENTS["a1"], handout.HERE.parents[1]


def worker(limits=None, source=None):
    """A client that can be started, with a1's stubs for a solution."""
    source = handout.students_file(A1) if source is None else source
    limits = limits or Limits()
    return Client(A1, ("ops.linear_forward",), source.encode(), limits, time.monotonic() + limits.total)


def alive(number):
    """Is there a process of this number that has not ended?"""
    try:
        return re.search(r"^State:\s+[^ZX]", Path(f"/proc/{number}/status").read_text(), re.MULTILINE) is not None
    except OSError:
        return False


# ----------------------------------------------------------------------------------------------------- the kernel's own


@LINUX
def test_every_limit_holds_here_and_the_kernel_says_so():
    with worker() as one:
        one.start()
        status = Path(f"/proc/{one.process.pid}/status").read_text()
        limits = Path(f"/proc/{one.process.pid}/limits").read_text()
        assert os.getsid(one.process.pid) == one.process.pid
        held = set(one.walls)
    assert {"session", "memory", "cpu", "file size"} <= held
    assert ("system calls" in held) == bool(re.search(r"^Seccomp:\s+2$", status, re.MULTILINE))
    if "system calls" in held or "files" in held:
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(rf"Max address space +{Limits.memory} +{Limits.memory} ", limits)
    assert re.search(r"Max processes +0 +0 ", limits)
    assert re.search(r"Max file size +0 +0 ", limits)


@LINUX
def test_a_report_says_which_walls_held(tmp_path):
    path = tmp_path / "my_a1.py"
    path.write_text(handout.students_file(A1))
    report = grade(A1, path, seed=0, units=(1,))
    assert f"walls that held: {', '.join(report.walls)}" in str(report)
    assert report.as_json()["walls"] == {name: name in report.walls for name in sandbox.WALLS}


def test_what_is_lacking_is_said_with_a_way_out():
    assert what_is_lacking(list(sandbox.WALLS)) == what_is_lacking(None) == ""
    assert what_is_lacking([name for name in sandbox.WALLS if name != "processes"]) == ""        # as the user root
    for held, said in ((["cpu", "processes"], ["memory is not bounded", "refuse files", "connections and signals"]),
                       ([], ["memory", "processor time", "refuse files", "new processes", "outlive"])):
        text = what_is_lacking(held)
        assert all(part in text for part in said)
        assert "docker run" in text
        assert "\n" not in text


def run_in_sandbox(program, folder):
    """What a program prints. `folder` is all that it may read, and sandbox.py is imported."""
    program = f"import os, sys\nsys.path.insert(0, {str(handout.HERE)!r})\nimport sandbox\n{textwrap.dedent(program)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder)
    assert not done.stderr, done.stderr
    return done.stdout.split()


@LINUX
def test_landlock_holds_without_python(tmp_path):
    (tmp_path / "inside").write_text("ours")
    said = run_in_sandbox(f"""
        if not sandbox.restrict_files([{str(tmp_path)!r}]):
            print("no landlock")
            sys.exit()
        print(open("inside").read())
        for path, mode in (({__file__!r}, "r"), ("inside", "w"), ("inside", "a"), ("new", "w"),
                           ("/proc/self/maps", "r")):
            try:
                open(path, mode)
            except PermissionError:
                print("refused")
        try:
            os.truncate("inside", 0)
        except PermissionError:
            print("refused")
    """, tmp_path)
    if said == ["no", "landlock"]:
        pytest.skip("this kernel has no Landlock")
    assert said == ["ours", *["refused"] * 6]
    assert (tmp_path / "inside").read_text() == "ours"


@LINUX
def test_seccomp_holds_without_python(tmp_path):
    said = run_in_sandbox("""
        import ctypes, mmap, signal, socket, threading, time
        if not sandbox.restrict_system_calls():
            print("no seccomp")
            sys.exit()
        libc = ctypes.CDLL(None)
        tries = {"fork": os.fork, "pipe": os.pipe, "kill": lambda: os.kill(os.getppid(), 0), "socket": socket.socket,
                 "write": lambda: open("new", "w"), "session": os.setsid, "priority": lambda: os.nice(1),
                 "thread": threading.Thread(target=print).start, "limits": lambda: os.sched_setaffinity(0, {0})}
        for name, what in tries.items():
            try:
                what()
                print(name)
            except (PermissionError, RuntimeError):
                continue
        open(os.devnull).read()
        time.sleep(0.01)
        mmap.mmap(-1, 1 << 20)[0] = 1
        print("works")
    """, tmp_path)
    if said == ["no", "seccomp"]:
        pytest.skip("this kernel has no seccomp")
    assert said == ["works"]


def test_the_filter_names_no_system_call_twice():
    for column in (0, 1):
        special = (sandbox.OPEN, sandbox.OPENAT, sandbox.FCNTL, sandbox.PRLIMIT)
        numbers = [call[column] for call in (*sandbox.ALLOWED.values(), *special) if call[column] is not None]
        assert len(numbers) == len(set(numbers))
    assert "clone" not in sandbox.ALLOWED


def simulated(program, number, arguments=(), processor=0xC000003E):
    """What the kernel would make of a classic BPF program: the value of the return that is reached."""
    data = np.zeros(16, "uint32")
    data[0], data[1] = number, processor
    for i, argument in enumerate(arguments):
        data[4 + 2 * i], data[5 + 2 * i] = argument & 0xFFFFFFFF, argument >> 32
    steps = np.frombuffer(program, [("code", "u2"), ("t", "u1"), ("f", "u1"), ("k", "u4")])
    at = loaded = 0
    while True:
        code, jump, other, k = (int(x) for x in steps[at])
        at += 1
        if code == sandbox.RETURN:
            return k
        if code == sandbox.LOAD:
            loaded = int(data[k // 4])
        else:
            hit = {sandbox.JUMP_EQUAL: loaded == k, sandbox.JUMP_ANY_BIT: bool(loaded & k),
                   sandbox.JUMP_AT_LEAST: loaded >= k}[code]
            at += jump if hit else other


@pytest.mark.parametrize(("machine", "openat", "fcntl", "prlimit"), [
    ("x86_64", 257, 72, 302), ("aarch64", 56, 25, 261)])
def test_the_filter_on_both_processors(machine, openat, fcntl, prlimit):
    """Every number from 0 to 1,000, and the arguments of the four calls that depend on them."""
    column, processor = sandbox.PROCESSORS[machine]
    program = sandbox._program(column, processor)

    def asked(number, *arguments):
        return simulated(program, number, arguments, processor)

    allowed = {call[column] for call in sandbox.ALLOWED.values()}
    special = {call[column] for call in (sandbox.OPEN, sandbox.OPENAT, sandbox.FCNTL, sandbox.PRLIMIT)}
    for number in set(range(1000)) - special:
        assert asked(number) == (sandbox.ALLOW if number in allowed else sandbox.DENY)
    assert simulated(program, 0, processor=0x40000003) == sandbox.KILL           # 32-bit calls
    assert asked(0x40000000) == sandbox.DENY
    for flags, answer in ((0, True), (os.O_CLOEXEC, True), (os.O_WRONLY, False), (os.O_RDWR, False),
                          (os.O_CREAT, False), (os.O_TRUNC | os.O_CLOEXEC, False), (os.O_APPEND, False)):
        assert asked(openat, 0, 0, flags) == (sandbox.ALLOW if answer else sandbox.DENY)
    assert not {4, 8, 10, 15, 1031, 1033} & set(sandbox.HARMLESS_FCNTL)        # flags, owner, signal, pipe, seals
    for command in range(2000):
        assert asked(fcntl, 0, command) == (sandbox.ALLOW if command in sandbox.HARMLESS_FCNTL else sandbox.DENY)
    for arguments, answer in (((0, 9, 0), True), ((0, 9, 1), False), ((0, 9, 1 << 40), False), ((5, 9, 0), False)):
        assert asked(prlimit, *arguments) == (sandbox.ALLOW if answer else sandbox.DENY)


# ------------------------------------------------------------------------------------------------ no waiting, no traces


def test_nothing_is_left_of_a_worker():
    with worker() as one:
        one.start()
        process, folder = one.process, one.folder
        assert process.poll() is None
        assert folder.exists()
    assert process.poll() is not None
    assert not folder.exists()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system puts no process to sleep")
def test_a_worker_that_does_not_listen_does_not_keep_the_grader_waiting():
    """More than a pipe holds, to a process that was put to sleep."""
    with worker(Limits(seconds=0.5)) as one:
        one.start()
        one.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(Gone, match="stopped after 0.5 seconds"):
            one.ask("function", file="ops", name="linear_forward", arguments=(np.zeros((1000, 200)),))
    assert time.monotonic() - began < 3


def test_the_seconds_of_a_test_are_those_of_all_its_calls():
    """A function that sleeps a little at each call, and a test that calls it often."""
    source = "import time\n\n\ndef linear_forward(x, W):\n    time.sleep(0.4)\n    return x, x\n"
    with worker(Limits(seconds=1.0), source) as one:
        one.start()
        arguments = {"slot": 0, "file": "ops", "name": "linear", "inputs": (np.ones(2), np.ones(2)), "constants": {}}
        one.begin()
        one.ask("forward", **arguments)
        one.ask("forward", **arguments)
        one.begin()                                      # the next test has all of its seconds again
        one.ask("forward", **arguments)
        one.ask("forward", **arguments)
        with pytest.raises(Gone, match="stopped after 1 seconds"):
            one.ask("forward", **arguments)


@LINUX
def test_a_process_that_holds_the_pipe_does_not_keep_the_grader_waiting(monkeypatch, tmp_path):
    """Without any wall, a child in a session of its own holds both pipes; close() returns all the same."""
    fake = tmp_path / "worker.py"
    fake.write_text("import os, time\nif not os.fork():\n    os.setsid()\n"
                    "    open('child', 'w').write(str(os.getpid()))\n    time.sleep(30)\n    os._exit(0)\n"
                    "time.sleep(30)\n")
    for name in ("calls.py", "protocol.py", "sandbox.py"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(client, "HERE", tmp_path)
    one = worker(Limits(total=1.0))
    child = one.folder / "child"
    began, number = time.monotonic(), None
    try:
        monkeypatch.setattr(client.shutil, "rmtree", lambda *_, **__: None)      # the child's number is in there
        with pytest.raises(Gone, match="the 1 seconds for the whole file are used up"):
            one.start()
        assert time.monotonic() - began < 4
        number = int(child.read_text())
        assert alive(number), "the test needs a child that outlives its parent"
    finally:
        monkeypatch.undo()
        if number:
            os.kill(number, signal.SIGKILL)
        one.close()


@LINUX
def test_a_worker_ends_with_its_grader(tmp_path):
    program = textwrap.dedent("""
        import sys, time
        from tests.test_grader_sandbox import worker
        one = worker()
        one.start()
        print(one.process.pid, one.folder, flush=True)
        time.sleep(60)
    """)
    grader = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
                              cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    number, folder = grader.stdout.readline().split()
    assert alive(number)
    grader.kill()
    grader.wait()
    grader.stdout.close()
    end = time.monotonic() + 5
    while alive(number) and time.monotonic() < end:
        time.sleep(0.02)
    client.shutil.rmtree(folder)
    assert not alive(number)


@LINUX
def test_the_grader_is_warned_of_a_missing_library_of_c(monkeypatch):
    """Where ctypes cannot reach the kernel, no wall is claimed."""
    def nothing(*_, **__):
        raise OSError

    monkeypatch.setattr(sandbox.ctypes, "CDLL", nothing)
    monkeypatch.setattr(sandbox, "_limit_resources", lambda *_: [])
    monkeypatch.setattr(sandbox, "_end_with", lambda *_: False)
    assert sandbox.enter(memory=1, seconds=1, parent=0, readable=[], listed=[]) == []


def test_the_numbers_are_those_of_this_machine():
    """Numbers of system calls, compared with what this machine's C library does."""
    if not sys.platform.startswith("linux") or os.uname().machine not in sandbox.PROCESSORS:
        pytest.skip("no numbers for this machine")
    column, _ = sandbox.PROCESSORS[os.uname().machine]
    libc = ctypes.CDLL(None)
    for name, expected in (("getpid", os.getpid()), ("getppid", os.getppid()), ("getuid", os.getuid()),
                           ("geteuid", os.geteuid()), ("getgid", os.getgid()), ("getegid", os.getegid())):
        assert libc.syscall(sandbox.ALLOWED[name][column]) == expected
