"""Bad input ends in one line and status 2, or in a right result: by hypothesis, and what only a process can show."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install -e '.[test]'")

from hypothesis import given, settings  # noqa: E402

from tests.support import fuzz  # noqa: E402
from tests.support.crash import ARGUMENTS  # noqa: E402

CASES = 2000                                           # `python -m tests.full fuzz` runs a hundred thousand
ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the clock of a case is a POSIX signal")


def run(ground, count, **more):
    """So many cases; AssertionError with the first fault, made as small as it can be."""
    @settings(fuzz.SETTINGS, max_examples=count, **more)
    @given(fuzz.cases(ground))
    def case_by_case(case):
        fault = ground.fault(case)
        assert not fault, f"{case.kind}: {fault}"

    case_by_case()
    assert not fuzz.MARK.exists(), "a checkpoint was unpickled, and what it brought was run"


def test_every_case_ends_in_a_right_result_or_in_one_line(tmp_path):
    run(fuzz.Ground(tmp_path), CASES)


def test_a_planted_fault_is_found(tmp_path, monkeypatch):
    """The harness itself: it names an exception, a write elsewhere, a hang and a line too many."""
    ground = fuzz.Ground(tmp_path)

    def fault(main):
        return ground.fault(fuzz.Case("planted", main, [], {"file": b"mine"}))

    def overwriting(argv):
        (ground.home / "case" / "file").write_text("yours")
        print("error: too late", file=sys.stderr)
        return 2

    monkeypatch.setattr(fuzz, "SECONDS", 0.05)
    assert "ZeroDivisionError" in fault(lambda argv: 1 // 0)
    assert "writes" in fault(lambda argv: (ROOT / "LICENSE").open("a").close())
    assert "os.system" in fault(lambda argv: os.system("true"))
    assert "hangs" in fault(lambda argv: exec("while True: pass"))
    assert "says" in fault(lambda argv: 2)
    assert "says" in fault(lambda argv: print("error: one\nerror: two", file=sys.stderr) or 2)
    assert "changed" in fault(overwriting)
    assert not fault(lambda argv: print("error: one", file=sys.stderr) or 2)
    assert not fault(lambda argv: 0)


# --------------------------------------------------------------------------------------------------- in a process alone


def process(*argv, **options):
    environment = {**os.environ, "PYTHONWARNINGS": "error", **options.pop("env", {})}
    return subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, env=environment, **options)


def test_bytes_that_are_no_text_are_one_line_wherever_they_stand(tmp_path):
    for argv in (["train_tiny.py", "--resume", *ARGUMENTS, "--out", tmp_path / os.fsdecode(b"\xff")],
                 ["-m", "tinylm2", "ask", tmp_path / os.fsdecode(b"\xff"), os.fsdecode(b"\xff"), "Where?"]):
        done = process(*argv)
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
        assert done.stderr.startswith(b"error: ")


def test_a_terminal_that_knows_ascii_only_ends_no_run(tmp_path):
    argv = ['--out', str(tmp_path), *ARGUMENTS]
    done = process("-c", f"from tests.support import crash; raise SystemExit(crash.child({argv})[0])",
                   env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert b"\\u2581" in done.stdout                     # the curve's lowest bar, as ASCII can say it


def test_a_reader_that_goes_away_ends_a_command_quietly():
    done = process("-c", "import os, sys; from tinylm2.__main__ import main\n"
                         "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
                         "sys.exit(main(['stories', '--official', '--count', '200']))")
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_output_that_finds_no_room_is_one_line():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "tinylm2", "count"], cwd=ROOT, stdout=full, stderr=-1)
    assert (done.returncode, done.stderr) == (2, b"error: output: No space left on device\n")
