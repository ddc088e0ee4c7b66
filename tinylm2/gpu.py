"""Is there a GPU that CuPy can use? The only file that imports CuPy, and only when somebody asks."""

import sys
from functools import cache, lru_cache
from typing import Any

import numpy as np

from tinylm2.backend import Array, get_xp, register

ALIGNED = 256                                            # bytes: where each array of an upload may begin


@cache
def gpu() -> tuple[bool, str]:
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
    register(cupy.ndarray, cupy, cupy.asnumpy, _segment_sum, _einsum)
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


def upload(xp: Any, *arrays: Any) -> list[Array]:
    """Host arrays as arrays of `xp`, in one copy: their bytes side by side, and a view of each part."""
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


def _einsum(sums, x, *others):
    axes, order = _plan(sums, x.ndim)
    y = _dot()(x, *others, axis=axes) if others else x.sum(axes)
    return y if order is None else y.transpose(order)


@lru_cache
def _plan(sums, ndim):
    """The axes that "btk,btk->tb" sums over, and the order in which it wants the others; None as they are."""
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
