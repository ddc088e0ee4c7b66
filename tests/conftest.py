"""What the tests share: the variants of the small model, why a test that needs a GPU is skipped, what takes minutes."""

import warnings

import pytest

from tests.support import browser, small
from tinylm2 import gpu

LONG = {"test_assignments", "test_fuzz", "test_lessons", "test_wheel"}     # most of the minutes of all tests


def pytest_collection_modifyitems(config, items):
    """Plain `python -m pytest` leaves the long files out; their names, or `-m long`, ask for them. CI runs both."""
    for item in items:
        if item.module.__name__.rpartition(".")[2] in LONG:
            item.add_marker("long")
    asked = config.option.markexpr or config.args_source is pytest.Config.ArgsSource.ARGS
    if not asked:
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(params=small.VARIANTS)
def cfg(request):
    """The small model in each of its variants."""
    return small.VARIANTS[request.param]


@pytest.fixture(params=small.REMEMBERING)
def remembering(request):
    """The variants that have a memory."""
    return small.VARIANTS[request.param]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A real Chromium; a test that needs one is skipped, with the reason, where it is missing."""
    if why := browser.missing():
        pytest.skip(why)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # of the driver's own sockets
        with browser.chromium(tmp_path_factory.mktemp("chromium")) as found:
            yield found


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")              # what cupy says of a machine without CUDA is told by `why`
            usable, why = gpu.gpu()
        if not usable:
            pytest.skip(why)
