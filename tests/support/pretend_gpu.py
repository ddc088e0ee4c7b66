"""The fake CuPy as if it were CuPy on a GPU: imported before the rest, it makes `--device gpu` and `-m gpu` run here.

    python -m pytest -p tests.support.pretend_gpu -m gpu tests/test_devices.py
    python -m benchmarks.gpu --dry --out FOLDER

It shows that what asks for a GPU runs to its end; the numbers are NumPy's and the times are the CPU's.
"""

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

from tests.support import fake_cupy
from tinylm2 import gpu

NAME = "the fake CuPy, no GPU"


class Device:
    """As much of cupy.cuda.Device as is used here."""

    def __init__(self, number=0):
        self.id, self.mem_info, self.compute_capability = number, (0, 0), "00"

    def use(self):
        """There is but one."""

    def synchronize(self):
        """Nothing is ever under way."""


class Pool:
    """A memory pool that holds nothing."""

    def total_bytes(self):
        return 0

    used_bytes = total_bytes

    def free_all_blocks(self):
        """Nothing is held."""


def usable():
    """In the place of `tinylm2.gpu.gpu`."""
    return True, NAME


cupy = fake_cupy.xp
cupy.cuda = SimpleNamespace(Device=Device, is_available=lambda: True, runtime=SimpleNamespace(
    getDeviceCount=lambda: 1, getDeviceProperties=lambda number: {"name": NAME.encode()},
    driverGetVersion=lambda: 0, runtimeGetVersion=lambda: 0))
cupy.get_default_memory_pool = Pool
cupyx = ModuleType("cupyx")
cupyx.allow_synchronize = lambda allowed: nullcontext()
sys.modules |= {"cupy": cupy, "cupyx": cupyx}
gpu.gpu = usable
