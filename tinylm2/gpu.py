"""Is there a GPU that CuPy can use? The only file that imports CuPy, and only when somebody asks."""

import sys
from functools import cache
from typing import Any

import numpy as np

from tinylm2.backend import get_xp, register


@cache
def gpu() -> tuple:
    """(usable, why): asked once a process, and only when somebody wants to know.

    Three things can be missing, in this order: the package, a device with its driver, and the CUDA libraries that
    compile and run a kernel (the plain wheel has none). Only a kernel that ran proves the last.
    """
    try:
        import cupy
    except Exception as error:                           # a broken CUDA install raises more than ImportError
        return False, f"cupy cannot be imported ({_first_line(error)})"
    try:
        if not cupy.cuda.is_available():
            return False, "cupy finds no CUDA device"
        x = cupy.arange(4, dtype=cupy.float32)
        if float((x @ x).get()) != 14.0:
            return False, "a smoke kernel gave a wrong number"
    except Exception as error:
        return False, f"a smoke kernel failed ({_first_line(error)})"
    register(cupy.ndarray, cupy, cupy.asnumpy, _segment_sum)
    return True, cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


def _first_line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0]


class NoGPU(RuntimeError):
    """A GPU was asked for by name and cannot be used; the message says why."""


def array_module(device: str = "auto", rank: int = 0) -> Any:
    """numpy or cupy for `--device auto | cpu | gpu`: auto falls back with one line on stderr, gpu raises NoGPU.

    Of several processes, number `rank` takes that GPU, counted around where there are fewer GPUs.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device: found {device!r}, expected auto, cpu or gpu")
    if device == "cpu":
        return np
    usable, why = gpu()
    if usable:
        import cupy

        cupy.cuda.Device(rank % cupy.cuda.runtime.getDeviceCount()).use()
        return cupy
    if device == "gpu":
        raise NoGPU(f"no GPU can be used: {why}")
    print(f"running on the CPU: {why}", file=sys.stderr)
    return np


def _segment_sum(x, starts):
    y = get_xp(x, starts).empty((starts.size - 1, x.shape[1]), x.dtype)
    return _kernel()(x, starts, x.shape[1], y)


# One thread an entry of y: none shares its sum with another, so the same rows give the same bits.
KERNEL = """
    const long long v = i / width, d = i % width;
    T sum = 0;
    for (long long r = starts[v]; r < starts[v + 1]; ++r) sum += x[r * width + d];
    y = sum;
"""


@cache
def _kernel():
    import cupy

    return cupy.ElementwiseKernel("raw T x, raw S starts, int64 width", "T y", KERNEL, "segment_sum")
