"""The course's options for pytest, known before it looks for tests: `pytest -m a3 --impl my_a3.py`.

pytest asks every installed package for options first, and a folder's conftest.py only once it knows where to look. A
path that stands alone behind `--impl` would look like a place with tests until then.
"""

import argparse
from pathlib import Path
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Add the options, where pytest is started in a clone of the project. Other projects have options of their own."""
    if Path("tutorials/assignments/grader.py").is_file():
        add_options(parser)


def add_options(parser: Any) -> None:
    """Add the options, if they are not there yet."""
    course = parser.getgroup("course", "assignments, see tutorials/assignments/README.md")
    if not course.options:
        course.addoption("--impl", metavar="FILE", help="a student's solution to grade, with -m a1 ... -m a6")
        course.addoption("--seed", type=_seed, help="seed of the grader's random arguments (a new one with --impl)")


def _seed(text):
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"found {text:.40}, expected a whole number from 0")
    return int(text)
