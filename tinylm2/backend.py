"""The ground floor: which array module an array belongs to, and the check of shapes. Imports no other file."""

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any

import numpy as np

Array = Any                                              # an array of NumPy, or of CuPy where a GPU is used
BLOCK = 2**15                                            # numbers of a flat array that fit into the CPU's cache
_HOMES = {}                                              # array type -> module, way to the host, segment_sum, einsum


def register(array_type: Any, module: Any, to_host: Any, segment_sum: Any, einsum: Any) -> None:
    """Make an array type known: NumPy's below, CuPy's when a GPU is found, fake CuPy's in tests."""
    _HOMES[array_type] = (module, to_host, segment_sum, einsum)


def _home(x):
    try:
        return _HOMES[type(x)]
    except KeyError:
        known = ", ".join(f"{t.__module__}.{t.__name__}" for t in _HOMES)
        raise TypeError(f"found a {type(x).__module__}.{type(x).__name__}, expected an array of {known}") from None


def get_xp(*arrays: Any) -> Any:
    """The module (numpy or cupy) whose arrays these are.  TypeError when they live on different devices."""
    xp = _home(arrays[0])[0]
    for x in arrays[1:]:
        if _home(x)[0] is not xp:
            raise TypeError(f"arrays of {xp.__name__} and of {_home(x)[0].__name__} in one operation")
    return xp


def to_device(x: Array, xp: Any) -> Array:
    """A host array as an array of `xp`; with numpy the array itself."""
    return xp.asarray(x)


def to_host(x: Array) -> Array:
    """An array as a NumPy array: the only way back from a device, so copies can be counted."""
    return _home(x)[1](x)


# ---------------------------------------------------------------------------------------- what differs between devices


def fused(chain: Callable) -> Callable[..., Any]:
    """A chain of elementwise steps, `chain(xp, *arrays)`, as one kernel where the arrays' module can make one (CuPy).

    On a GPU each step alone would be one kernel launch, which costs more than the step. NumPy runs the steps one by
    one. The arguments are arrays that broadcast against each other, and numbers. A chain may write (`+=`, `out=`) into
    what it made, or into its arguments if it returns nothing. It never combines two numbers: CuPy would make a float16.
    """
    kernels = {}

    @wraps(chain)
    def run(*arrays):
        xp = get_xp(arrays[0])
        if xp not in kernels:
            steps = partial(chain, xp)
            kernels[xp] = xp.fuse(kernel_name=chain.__name__)(steps) if hasattr(xp, "fuse") else steps
        return kernels[xp](*arrays)

    return run


def chunks(x: Array) -> list:
    """Slices that cover a flat array: for NumPy short enough to stay in the cache, elsewhere a single one."""
    length = BLOCK if get_xp(x) is np else max(x.size, 1)
    return [slice(start, start + length) for start in range(0, x.size, length)]


def segment_sum(x: Array, starts: Array) -> Array:
    """Sums of runs of rows: y[v] = x[starts[v]:starts[v+1]].sum(0), each in order; zeros where a run is empty.

    x (R, D), starts (V+1,) whole numbers that never fall, from 0 to R -> y (V, D). CuPy registers its own version: its
    add.reduceat subtracts running sums, which loses digits.
    """
    return _home(x)[2](x, starts)


def _segment_sum(x, starts):
    y = np.zeros((starts.size - 1, x.shape[1]), x.dtype)
    filled = starts[:-1] < starts[1:]
    y[filled] = np.add.reduceat(x, starts[:-1][filled])
    return y


def einsum(subscripts: str, x: Array, *others: Array) -> Array:
    """np.einsum of one or two arrays with the same letters: sums of entries, or of products entry by entry. CuPy
    registers its own version: its einsum would make one small matrix product per entry of the result, and copies."""
    get_xp(x, *others)
    return _home(x)[3](subscripts, x, *others)


register(np.ndarray, np, lambda x: x, _segment_sum, np.einsum)


def check_shapes(op: str, **named: Any) -> None:
    """Check shapes where they enter: `check_shapes("rmsnorm", x=(x, "... D"), g=(g, "D"))`.

    A letter must mean one length throughout; `...` stands for any leading axes; a whole number stands for itself; an
    array that is None is skipped. It reads metadata only, so it never waits for a device.  ValueError names the
    operation, the argument, and where a letter got its length.
    """
    _check(op, tuple([(name, x.shape, spec) for name, (x, spec) in named.items() if x is not None]))


@lru_cache(maxsize=2**12)
def _check(op, arguments):
    """`check_shapes` of (name, shape, spec) per array. Successful checks are cached."""
    bound = {}
    for name, shape, spec in arguments:
        axes = spec.removeprefix("...").split()
        fits = len(shape) == len(axes) or len(shape) > len(axes) and spec.startswith("...")
        if fits:
            for axis, length in zip(axes, shape[len(shape) - len(axes):], strict=True):
                if axis.isdigit():
                    fits = fits and length == int(axis)
                else:
                    fits = fits and bound.setdefault(axis, (length, name))[0] == length
        if not fits:
            known = [f"{a}={bound[a][0]} from {bound[a][1]}" for a in axes if a in bound and bound[a][1] != name]
            raise ValueError(f"{op}: {name} has shape {shape}, expected ({', '.join(spec.split())})"
                             + (f" with {', '.join(known)}" if known else ""))
