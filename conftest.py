"""The course's options, here because pytest must know them before it looks for tests: pytest -m a3 --impl my_a3.py."""

import argparse

import pytest

ASSIGNMENTS = [f"a{number}" for number in range(1, 7)]


def pytest_addoption(parser):
    course = parser.getgroup("course", "assignments, see tutorials/assignments/README.md")
    course.addoption("--impl", metavar="FILE", help="a student's solution to grade, with -m a1 ... -m a6")
    course.addoption("--seed", type=_seed, help="seed of the grader's random arguments (a new one with --impl)")


def _seed(text):
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"found {text:.40}, expected a whole number from 0")
    return int(text)


def pytest_configure(config):
    for name in ASSIGNMENTS:
        config.addinivalue_line("markers", f"{name}: grades assignment {name[1:]}, of the file --impl or the library")
    if config.getoption("impl") and config.getoption("markexpr") not in ASSIGNMENTS:
        raise pytest.UsageError(f"--impl: found no assignment to grade by, expected -m {' or -m '.join(ASSIGNMENTS)}")


def pytest_ignore_collect(collection_path, config):
    """Whoever grades waits for no other test."""
    if config.getoption("impl") and collection_path.suffix == ".py":
        return collection_path.name != "test_assignments.py" or None
    return None
