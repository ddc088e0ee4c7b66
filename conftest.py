"""The course: `pytest -m a3 --impl my_a3.py` grades a student's file. tinylm2/course.py has the options."""

from tinylm2 import course


def pytest_addoption(parser):
    course.add_options(parser)                           # where tinylm2 is not installed, nobody else does


def pytest_configure(config):
    course.prepare(config)


def pytest_ignore_collect(collection_path, config):
    """Whoever grades waits for no other test."""
    if config.getoption("impl") and collection_path.suffix == ".py":
        wanted = "test_graded.py" if course.named() else "test_assignments.py"
        return collection_path.name != wanted or None
    return None
