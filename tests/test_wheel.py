"""What `pip install` gives: every command works in any folder, the course included, without a clone."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "tinylm2", "tutorials")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """(folder of packages, empty folder to work in), from a wheel that was built of a copy of the project."""
    pytest.importorskip("setuptools", minversion="77", reason="builds a wheel: pip install 'setuptools>=77'")
    folder = tmp_path_factory.mktemp("wheel")
    leave = shutil.ignore_patterns("__pycache__", "*.ipynb", "build", "*.egg-info")
    (folder / "source").mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / "source" / part, ignore=leave)
        else:
            shutil.copyfile(ROOT / part, folder / "source" / part)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w",
                           str(folder), str(folder / "source")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "packages")
    (folder / "here").mkdir()
    return folder / "packages", folder / "here"


@pytest.fixture
def type_in(installed):
    """Type a command in a folder that has nothing to do with the project; (status, all that it says)."""
    packages, here = installed

    def run(*words):
        done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=here, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(packages), "OPENBLAS_NUM_THREADS": "1"})
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_wheel_holds_lessons_and_grader_and_names_its_command(installed):
    packages, _ = installed
    lessons = {path.name for path in (ROOT / "tutorials").glob("*.py")}
    assert lessons <= {path.name for path in (packages / "tutorials").iterdir()}
    ours = {path.relative_to(ROOT) for path in (ROOT / "tinylm2").rglob("*.py")}
    ours |= {path.relative_to(ROOT) for path in (ROOT / "tutorials" / "assignments").iterdir() if path.is_file()}
    ours |= {path.relative_to(ROOT) for path in (ROOT / "tutorials" / "data").glob("*.npz")}
    assert not {path for path in ours if not (packages / path).is_file()}
    (about,) = packages.glob("*.dist-info")
    assert "tinylm2 = tinylm2.__main__:main" in (about / "entry_points.txt").read_text()


def test_the_commands_of_a_first_minute_work_from_the_wheel(type_in, installed):
    _, here = installed
    quick = ["--steps", "4", "--eval-segments", "2", "--out", "run"]
    status, said = type_in("tinylm2", "train", *quick)
    assert status in (0, 1), said                        # 1: it says that it has not learned in four steps
    assert "Traceback" not in said
    for words in (["ask", "run", "Mary moved to the garden.", "Where is Mary?"], ["explore", "run"],
                  ["evaluate", "run", "--lengths", "64", "--questions", "4"], ["count"]):
        status, said = type_in("tinylm2", *words)
        assert status == 0, said
    assert (here / "run" / "explore.html").is_file()


def test_a_class_is_graded_from_the_wheel(type_in, installed):
    _, here = installed
    status, said = type_in("tinylm2", "handout", "a2", "--solved", "-o", "solved")
    assert status == 0, said
    (here / "in").mkdir()
    shutil.copyfile(here / "solved" / "my_a2.py", here / "in" / "ann.py")
    (here / "in" / "bo.py").write_text("def rmsnorm_forward(x, g):\n    return open('/etc/passwd')\n")
    status, said = type_in("tinylm2", "grade", "a2", "in", "--csv", "marks.csv", "--report", "report")
    assert status == 0, said
    reports = json.loads((here / "report" / "class.json").read_text())["reports"]
    assert [report["points"] for report in reports] == [100, 0]
    assert all(report["walls"]["files"] for report in reports) or not sys.platform.startswith("linux")
    assert (here / "marks.csv").is_file()


def test_assignment_7_and_the_lessons_work_from_the_wheel(type_in, installed):
    _, here = installed
    assert type_in("tinylm2", "handout", "a7", "--solved", "-o", "seven")[0] == 0
    status, said = type_in("tinylm2", "grade", "a7", here / "seven" / "my_a7.py")
    assert status == 0, said
    status, said = type_in("tutorials.step", "1")
    assert status == 0, said
    assert "scale: passed" in said


def test_pytest_grades_a_file_by_the_packages_name(type_in, installed):
    """Options and markers come from the entry point: no conftest.py is near."""
    _, here = installed
    (here / "else").mkdir(exist_ok=True)
    status, said = type_in("tinylm2", "handout", "a1", "--solved", "-o", "else")
    for form in (["--impl", here / "else" / "my_a1.py"], [f"--impl={here / 'else' / 'my_a1.py'}", "--seed", "4"]):
        status, said = type_in("pytest", "-p", "no:cacheprovider", *form, "--pyargs", "tutorials.assignments", "-m",
                               "a1", "-W", "error")
        assert status == 0, said
        assert " passed" in said
    status, said = type_in("pytest", "--pyargs", "tutorials.assignments", "--impl", here / "else" / "my_a1.py")
    assert status == 4
    assert "expected -m a1 or" in said
