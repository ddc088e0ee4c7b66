"""The course's options for pytest, known before it looks for tests: `pytest -m a3 --impl my_a3.py`.

pytest asks every installed package for options first, and a folder's conftest.py only once it knows where to look. A
path that stands alone behind `--impl` would look like a place with tests until then.
"""

import argparse
import secrets
import sys
from pathlib import Path
from typing import Any

COURSE = "tutorials.assignments"                         # as `pytest --pyargs` names it, from any folder
SHEETS = Path(__file__).resolve().parents[1] / "tutorials" / "assignments"


def pytest_addoption(parser: Any) -> None:
    """Add the options, where pytest is started in a clone of the project, or names the course. Other projects have
    options of their own."""
    if named() or Path("tutorials/assignments/grader.py").is_file():
        add_options(parser)


def named() -> bool:
    """Does the command line name the course, as an installed package, and a file to grade?"""
    return COURSE in sys.argv and any(word.partition("=")[0] == "--impl" for word in sys.argv)


def add_options(parser: Any) -> None:
    """Add the options, if they are not there yet."""
    course = parser.getgroup("course", "assignments, see tutorials/assignments/README.md")
    if not course.options:
        course.addoption("--impl", metavar="FILE", help="a student's solution to grade, with -m a1, -m a2, ...")
        course.addoption("--seed", type=_seed, help="seed of the grader's random arguments (a new one with --impl)")


def pytest_configure(config: Any) -> None:
    """Name the markers, and refuse a file without an assignment to grade it by."""
    if named():
        prepare(config)


def prepare(config: Any) -> None:
    """The same for a clone, where conftest.py asks for it with or without a file."""
    import pytest

    names = sorted(path.stem for path in SHEETS.glob("a?.md"))
    for name in names:
        config.addinivalue_line("markers", f"{name}: grades assignment {name[1:]}, of the file --impl or the library")
    if not config.inipath:                               # beside a student's file pyproject.toml is not found
        config.addinivalue_line("markers", "long: takes minutes")
    if not config.getoption("impl"):
        return
    if config.getoption("markexpr") not in names:
        raise pytest.UsageError(f"--impl: found no assignment to grade by, expected -m {' or -m '.join(names)}")
    if config.getoption("seed") is None:
        config.option.seed = secrets.randbelow(10**6)
    if not config.pluginmanager.has_plugin("tinylm2 seed"):
        config.pluginmanager.register(_SaysTheSeed(config.getoption("seed")), "tinylm2 seed")


class _SaysTheSeed:
    """A line at the end, also where all tests pass."""

    def __init__(self, seed):
        self.seed = seed

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line(f"graded with seed {self.seed}: --seed {self.seed} asks the same again")


def _seed(text):
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"found {text:.40}, expected a whole number from 0")
    return int(text)
