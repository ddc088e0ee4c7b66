"""The grader's commands: what is refused in one line, what is written whole, and what a hostile file can cost."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tutorials.assignments import __main__ as command
from tutorials.assignments import cheats, checks, grader, handout
from tutorials.assignments.__main__ import main
from tutorials.assignments.client import Limits
from tutorials.assignments.grader import ASSIGNMENTS, grade

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def solution(tmp_path):
    path = tmp_path / "my_a2.py"
    path.write_text(handout.students_file(ASSIGNMENTS["a2"], solved=True), encoding="utf-8")
    return path


def refused(arguments, capsys):
    """The one line in which a command refuses its input."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("option", [
    ("--seed", "-1"), ("--seed", "1.5"), ("--seed", "9" * 400), ("--seed=-1",), ("--seconds", "1e300"),
    ("--seconds", "nan"), ("--seconds", "inf"), ("--seconds", "-1"), ("--seconds", "0"), ("--seconds=-inf",),
    ("--seconds", "x"),
    ("--json", ""), ("--json", "/nowhere/report.json")], ids=str)
def test_a_right_solution_is_not_graded_with_a_wrong_option(option, solution, capsys):
    if option == ("--json", ""):
        assert main(["grade", "a2", str(solution), *option]) == 0
        return
    refused(["grade", "a2", solution, *option], capsys)


def test_a_report_is_not_written_over_the_solution(solution, tmp_path, capsys):
    source = solution.read_bytes()
    (tmp_path / "link.json").symlink_to(solution)
    os.link(solution, tmp_path / "same.json")
    for target in (solution, tmp_path / "link.json", tmp_path / "same.json", tmp_path / "." / "my_a2.py"):
        assert "the solution itself" in refused(["grade", "a2", solution, "--json", target], capsys)
    for target in (tmp_path, "/dev/null", handout.LIBRARY / "ops.py"):
        refused(["grade", "a2", solution, "--json", target], capsys)
    assert solution.read_bytes() == source


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing", "loop"])
def test_what_is_no_file_is_no_solution(kind, tmp_path, capsys):
    path = tmp_path / "my_a2.py"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    refused(["grade", "a2", path], capsys)


def test_a_report_is_written_whole_or_not_at_all(solution, tmp_path, capsys, monkeypatch):
    target = tmp_path / "report.json"
    target.write_text("the report before")
    file = target.stat().st_ino
    monkeypatch.setattr(command, "grade", lambda *_, **__: grader.Report("a2", "s", "f", "d", 1, results=[
        grader.Result(ASSIGNMENTS["a2"].units[0].tests[0], ())], walls=list(grader.WALLS)))
    monkeypatch.setattr(command.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert main(["grade", "a2", str(solution), "--json", str(target)]) == 2
    assert capsys.readouterr().err == "error: output: No space left on device\n"
    assert target.read_text() == "the report before"
    monkeypatch.setattr(command.os, "fsync", lambda fd: None)
    assert main(["grade", "a2", str(solution), "--json", str(target)]) == 0
    assert json.loads(target.read_text())["points"] == 12
    assert target.stat().st_ino != file, "another file must take its place"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_a2.py", "report.json"]


def test_an_error_of_the_grader_costs_one_test_and_a_report_is_made(solution, tmp_path, capsys, monkeypatch):
    """A test that raises what it must not, and a worker that cannot be started."""
    def broken(ctx):
        raise RuntimeError("a bug of ours")

    unit = ASSIGNMENTS["a2"].units[1]
    changed = type(unit)(unit.functions, (*unit.tests, checks.Test("rmsnorm_forward", "broken", 1, broken)))
    assignment = type(ASSIGNMENTS["a2"])("a2", "s", (changed,), needs=ASSIGNMENTS["a2"].needs)
    report = grade(assignment, solution, seed=1)
    assert (report.points, report.out_of) == (52, 53)
    assert "cannot be judged (RuntimeError)" in str(report)

    monkeypatch.setattr(grader, "Client", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    target = tmp_path / "report.json"
    assert main(["grade", "a2", str(solution), "--json", str(target)]) == 1
    assert "the grader failed here (OSError)" in capsys.readouterr().out
    assert json.loads(target.read_text())["points"] == 0


# ------------------------------------------------------------------------------------------------------- pytest --impl


def pytest_grades(path, *more, cwd):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *more], cwd=cwd, text=True,
                          capture_output=True, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("form", ["--impl {}", "--impl={}"])
def test_pytest_grades_a_file_from_any_place(form, tmp_path):
    """From a folder that has nothing to do with the repository, and from the repository itself."""
    path = tmp_path / "elsewhere" / "my_a2.py"
    path.parent.mkdir()
    path.write_text(handout.students_file(ASSIGNMENTS["a2"], solved=True), encoding="utf-8")
    for cwd in (path.parent, ROOT):
        status, said = pytest_grades(path, str(ROOT / "tests" / "test_assignments.py"), "-m", "a2",
                                     *form.format(path).split(), cwd=cwd)
        assert status == 0, said
        assert "12 passed" in said


def test_pytest_grades_a_file_that_is_named_alone(tmp_path):
    """In the project's root, as `pytest -m a2 --impl PATH`. Where the project is installed, -p is its entry point's."""
    path = tmp_path / "my_a2.py"
    path.write_text(handout.students_file(ASSIGNMENTS["a2"], solved=True), encoding="utf-8")
    status, said = pytest_grades(path, "-p", "tinylm2.course", "-m", "a2", "--impl", str(path), cwd=ROOT)
    assert status == 0, said
    assert "12 passed" in said
    assert "warning" not in said


def test_the_courses_options_are_the_courses_alone(tmp_path):
    """Another project may have a --seed of its own."""
    (tmp_path / "conftest.py").write_text('def pytest_addoption(parser):\n    parser.addoption("--seed")\n')
    (tmp_path / "test_one.py").write_text("def test_one():\n    pass\n")
    status, said = pytest_grades(tmp_path, "-p", "tinylm2.course", "--seed", "5", cwd=tmp_path)
    assert status == 0, said


def test_pytest_asks_new_questions_unless_a_seed_is_given(tmp_path):
    """A table of the answers to seed 0 is worth nothing."""
    path = tmp_path / "my_a1.py"
    path.write_text(handout.students_file(ASSIGNMENTS["a1"]), encoding="utf-8")
    arguments = [str(ROOT / "tests" / "test_assignments.py"), "-m", "a1", f"--impl={path}"]
    seeds = []
    for more in ((), (), ("--seed", "5")):
        status, said = pytest_grades(path, *arguments, *more, cwd=tmp_path)
        assert status == 1
        seeds.append(set(re.findall(r"^seed (\d+)$", said, re.MULTILINE)))
        (printed,) = re.findall(r"^graded with seed (\d+): --seed \1 asks the same again$", said, re.MULTILINE)
        assert {printed} == seeds[-1]
    assert seeds[0] != seeds[1]
    assert seeds[2] == {"5"}
    status, said = pytest_grades(path, *arguments, "--seed=-1", cwd=tmp_path)
    assert status == 4
    assert "expected a whole number from 0" in said


# ----------------------------------------------------------------------------------------------- what a file may cost


def memory_of(number):
    """Bytes that a process and all its descendants hold now: pages that several share are counted once."""
    total, children = 0, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    ahead = [number]
    while ahead:
        one = ahead.pop()
        ahead += children.get(one, [])
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) * 1024
        except (OSError, TypeError):
            continue
    return total


def cost(path, assignment):
    """(seconds, largest bytes at any time) of grading one file with the command's own limits."""
    began, peak = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "tutorials.assignments", "grade", assignment, str(path), "--json",
                                str(path.with_name("report.json"))], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    said = []
    reader = threading.Thread(target=lambda: said.append(process.stdout.read()))
    reader.start()
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.02)
    reader.join()
    process.stdout.close()
    seconds = time.monotonic() - began
    assert process.returncode == 1
    assert json.loads(path.with_name("report.json").read_text())["points"] < 100
    assert re.search(r"^all +\d+ of 100$", said[0], re.MULTILINE)
    return seconds, peak


HEAVY = ("fills memory", "sends 30 MB of lists", "sends as many parts as fit", "raises 40 MB",
         "returns as many bytes as a message may have", "is refused something without end",
         "returns a gradient of 32 axes")


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("trick", HEAVY)
def test_grading_a_file_takes_at_most_60_seconds_and_1_GB(trick, tmp_path, record_property):
    cheat = next(cheat for cheat in cheats.CHEATS if cheat.trick == trick)
    path = tmp_path / f"my_{cheat.assignment}.py"
    path.write_text(cheat.text(), encoding="utf-8")
    seconds, peak = cost(path, cheat.assignment)
    print(f"{trick}: {seconds:.1f} s, {peak / 1e6:.0f} MB")
    assert seconds <= 60
    assert peak <= 1e9


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_file_that_sleeps_at_every_call_ends_in_time(tmp_path):
    """Each call stays just within what one test may take. The whole file has 10 seconds here, and 45 by default."""
    path = tmp_path / "my_a3.py"
    names = [name.partition(".")[2] for name in ASSIGNMENTS["a3"].functions]
    path.write_text(handout.students_file(ASSIGNMENTS["a3"], solved=True) + "\nimport time\n" + "".join(
        f"\n_{name} = {name}\n\n\ndef {name}(*args, **more):\n    time.sleep({Limits.seconds / 2 - 0.1})\n"
        f"    return _{name}(*args, **more)\n" for name in names), encoding="utf-8")
    began = time.monotonic()
    report = grade(ASSIGNMENTS["a3"], path, limits=Limits(total=10.0))
    assert time.monotonic() - began < 15
    assert Limits.total <= 50
    assert report.points < 50
    assert "the 10 seconds for the whole file are used up" in str(report)
    assert len(report.results) == sum(len(unit.tests) for unit in ASSIGNMENTS["a3"].units)
