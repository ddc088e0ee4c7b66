"""The course: `pytest -m a3 --impl my_a3.py` grades a student's file. tinylm2/course.py has the options."""

import pytest

from tinylm2 import course

ASSIGNMENTS = [f"a{number}" for number in range(1, 7)]


def pytest_addoption(parser):
    course.add_options(parser)                           # where tinylm2 is not installed, nobody else does


def pytest_configure(config):
    for name in ASSIGNMENTS:
        config.addinivalue_line("markers", f"{name}: grades assignment {name[1:]}, of the file --impl or the library")
    if not config.inipath:                               # beside a student's file pyproject.toml is not found
        config.addinivalue_line("markers", "long: takes minutes")
    if config.getoption("impl") and config.getoption("markexpr") not in ASSIGNMENTS:
        raise pytest.UsageError(f"--impl: found no assignment to grade by, expected -m {' or -m '.join(ASSIGNMENTS)}")


def pytest_ignore_collect(collection_path, config):
    """Whoever grades waits for no other test."""
    if config.getoption("impl") and collection_path.suffix == ".py":
        return collection_path.name != "test_assignments.py" or None
    return None
