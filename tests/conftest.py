"""What the numeric tests share: the variants of the small model, and why a test that needs a GPU is skipped."""

import warnings

import pytest

from tests import small
from tinylm2 import backend


@pytest.fixture(params=small.VARIANTS)
def cfg(request):
    """The small model in each of its variants."""
    return small.VARIANTS[request.param]


@pytest.fixture(params=small.REMEMBERING)
def remembering(request):
    """The variants that have a memory."""
    return small.VARIANTS[request.param]


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")              # what cupy says of a machine without CUDA is told by `why`
            usable, why = backend.gpu()
        if not usable:
            pytest.skip(why)
