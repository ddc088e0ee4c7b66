"""Is there a GPU that CuPy can use? Only this file imports CuPy, and only when needed."""

import sys
from functools import cache, lru_cache
from typing import Any

import numpy as np

from tinylm2.backend import Array, get_xp, register

ALIGNED = 256                                            # bytes: alignment of each array in an upload


@cache
def gpu() -> tuple[bool, str]:
    """(usable, name of the GPU or reason why not). Checked once per process, when first needed.

    Three things can be missing: the package, a device with its driver, and the CUDA libraries that compile and run a
    kernel (the plain wheel has none). Running a small kernel is the only test of the last one.
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
    register(cupy.ndarray, cupy, cupy.asnumpy, _segment_sum, _einsum)
    return True, cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


def _first_line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0]


class NoGPU(RuntimeError):
    """--device gpu was given and no GPU can be used; the message says why."""


def array_module(device: str = "auto", rank: int = 0) -> Any:
    """numpy or cupy for `--device auto | cpu | gpu`: auto falls back with one line on stderr, gpu raises NoGPU.

    Process number `rank` takes GPU number `rank`, modulo the number of GPUs.
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


def upload(xp: Any, *arrays: Any) -> list[Array]:
    """Host arrays as arrays of `xp`, with one copy: their bytes are concatenated, and each result is a view."""
    if xp is np:
        return list(arrays)
    parts, ends = [], [0]
    for x in arrays:
        raw = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        parts += [raw, np.zeros(-raw.size % ALIGNED, np.uint8)]
        ends.append(ends[-1] + raw.size + parts[-1].size)
    there = xp.asarray(np.concatenate(parts))
    return [there[start:start + x.nbytes].view(x.dtype).reshape(x.shape)
            for start, x in zip(ends, arrays, strict=False)]


def _segment_sum(x, starts):
    y = get_xp(x, starts).empty((starts.size - 1, x.shape[1]), x.dtype)
    return _kernel()(x, starts, x.shape[1], y)


# One thread per entry of y. No two threads share a sum, so the same rows give the same bits.
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


def _einsum(sums, x, *others):
    axes, order = _plan(sums, x.ndim)
    y = _dot()(x, *others, axis=axes) if others else x.sum(axes)
    return y if order is None else y.transpose(order)


@lru_cache
def _plan(sums, ndim):
    """(axes that "btk,btk->tb" sums over, order of the other axes or None if unchanged)."""
    taken, _, wanted = sums.replace("...", "").partition("->")
    first, *others = taken.split(",")
    if len(others) > 1 or any(letters != first for letters in others) or not set(wanted) < set(first):
        raise ValueError(f"einsum: found {sums!r}, expected one or two arrays of the same letters, and a sum")
    stay = [letter for letter in first if letter in wanted]
    axes = tuple(ndim - len(first) + i for i, letter in enumerate(first) if letter not in wanted)
    return axes, None if stay == list(wanted) else tuple(map(stay.index, wanted))


@cache
def _dot():
    import cupy

    return cupy.ReductionKernel("T x, T y", "T z", "x * y", "a + b", "z = a", "0", "dot")
