"""A strict imitation of CuPy: the GPU path runs, is counted and is checked where there is no GPU.

`Array` holds a NumPy array that nobody may touch from outside, and `xp` is the module that goes with it. Both have only
what CuPy has too (test_fake_cupy compares the tables below with an installed CuPy) and give the same bits as NumPy.
NumPy's own functions, and host arrays in arithmetic or as a value, are refused as CuPy refuses them; Python's and
NumPy's scalars are taken. Stricter than CuPy: bool(), float(), item(), iteration, boolean masks, and host arrays as an
index, all of which CuPy would serve by quietly waiting for the device or copying. An index out of range raises, where a
GPU would wrap it without a word.

    with fake_cupy.watch() as seen: ...          # a Counter in seen.operations, shapes in seen.copies and seen.uploads
"""

import operator
from collections import Counter
from contextlib import contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np

from tinylm2 import backend

UFUNC = "out dtype"                                      # name: the keywords that CuPy's version takes
FUNCTIONS = {
    "add": UFUNC, "multiply": UFUNC, "divide": UFUNC, "exp": UFUNC, "log": UFUNC, "sqrt": UFUNC, "tanh": UFUNC,
    "maximum": UFUNC, "minimum": UFUNC, "clip": "", "ceil": UFUNC, "isfinite": UFUNC, "einsum": "dtype",
    "matmul": "out", "where": "", "concatenate": "axis out", "stack": "axis out", "argsort": "axis kind",
    "searchsorted": "side", "arange": "dtype", "eye": "dtype k", "zeros": "dtype", "full": "dtype",
    "zeros_like": "dtype", "ascontiguousarray": "dtype", "broadcast_to": "", "take_along_axis": "axis"}
METHODS = {
    "sum": "axis dtype out keepdims", "max": "axis out keepdims", "min": "axis out keepdims", "argmax": "axis",
    "argsort": "axis", "any": "axis keepdims", "all": "axis keepdims", "astype": "copy", "copy": "", "conj": "",
    "fill": "", "reshape": "", "ravel": "", "transpose": "", "swapaxes": "", "squeeze": "axis", "view": ""}
METADATA = ("shape", "strides", "dtype", "size", "ndim", "itemsize", "nbytes", "flags", "device")
CONSTANTS = ("inf", "pi", "result_type", "float32", "float64", "complex64", "complex128", "int32", "int64", "bool_")
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
OTHERS = ("lt", "le", "gt", "ge", "eq", "ne", "neg", "invert", "abs")      # no swapped and no in-place form
REFUSED = ("__bool__", "__int__", "__float__", "__complex__", "__index__", "__iter__", "__contains__", "__array__",
           "__array_function__", "item", "tolist", "get")

_watchers = []


@contextmanager
def watch():
    """Note what happens on the device meanwhile. An operation is one kernel; views and empty arrays need none.

    `multiply_adds` are those of all matrix products.
    """
    seen = SimpleNamespace(operations=Counter(), copies=[], uploads=[], chains={}, multiply_adds=0)
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)


class Array:
    """An array on the pretended device."""

    __slots__ = ("_host",)
    __array_ufunc__ = None                               # NumPy leaves operators to this class, and its functions raise
    __hash__ = None

    def __init__(self, host):
        self._host = host

    def __len__(self):
        return len(self._host)

    def __repr__(self):
        return f"<fake_cupy {self.shape} {self.dtype}>"   # the values would be a copy to the host

    @property
    def T(self):
        return Array(self._host.T)

    def __getitem__(self, key):
        return _run("take", operator.getitem, (self, _index(key)))

    def __setitem__(self, key, value):
        there, value = self._host[_inside(_index(key))], _inside(value)
        if isinstance(value, np.ndarray) and value.__array_interface__ == there.__array_interface__:
            return                                       # x[key] += y was done in place; CuPy copies nothing either
        _count("set", there)
        self._host[_inside(key)] = value


def _inside(x):
    """The NumPy array inside a device array; scalars, shapes and dtypes as they are."""
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: a host array among device arrays")
    if isinstance(x, tuple | list):
        return type(x)(map(_inside, x))
    return x._host if isinstance(x, Array) else x


def _index(key):
    for k in key if isinstance(key, tuple) else (key,):
        if isinstance(k, list) or isinstance(k, Array) and k.dtype == bool:
            raise TypeError("a list or a mask as an index: the device would have to be asked how many it selects")
    return key


def _count(name, result):
    for seen in _watchers:
        seen.operations[name] += result.size > 0         # for nothing no kernel is launched


def _run(name, function, args, keywords=None, allowed=""):
    """One operation, done by NumPy."""
    keywords = keywords or {}
    if not keywords.keys() <= set(allowed.split()) or keywords.get("kind", "stable") != "stable":
        raise TypeError(f"{name}({', '.join(keywords)}=): CuPy takes {allowed or 'no keywords'}, and sorts only stably")
    result = function(*map(_inside, args), **{key: _inside(x) for key, x in keywords.items()})
    arrays = [x for x in (*args, keywords.get("out")) if isinstance(x, Array)]
    y = next((x for x in arrays if x._host is result), None)             # written in place, or nothing was to be done
    if y is None:
        y = Array(np.asarray(result))                    # NumPy makes 0-d results scalars; a device does not
    is_view = arrays and np.may_share_memory(y._host, arrays[0]._host)
    if not is_view or "out" in keywords or name.startswith("__i"):
        _count(name, y)
    if name in ("matmul", "__matmul__"):
        for seen in _watchers:
            seen.multiply_adds += y.size * arrays[0].shape[-1]
    return y


def _operator(name, swapped=False):
    function = getattr(operator, f"__{name}__")
    return lambda self, *other: _run(f"__{name}__", function, (*other, self) if swapped else (self, *other))


def _method(name, allowed):
    return lambda self, *args, **keywords: _run(name, getattr(np.ndarray, name), (self, *args), keywords, allowed)


def _function(name, allowed):
    return lambda *args, **keywords: _run(name, getattr(np, name), args, keywords, allowed)


def _refusal(name):
    def refuse(self, *_, **__):
        raise TypeError(f"{name} of a device array: an implicit copy to the host")
    return refuse


for _name in BINARY:
    setattr(Array, f"__{_name}__", _operator(_name))
    setattr(Array, f"__r{_name}__", _operator(_name, swapped=True))
    setattr(Array, f"__i{_name}__", _operator("i" + _name))
for _name in OTHERS:
    setattr(Array, f"__{_name}__", _operator(_name))
for _name, _allowed in METHODS.items():
    setattr(Array, _name, _method(_name, _allowed))
for _name in METADATA:
    setattr(Array, _name, property(operator.attrgetter("_host." + _name)))
for _name in REFUSED:
    setattr(Array, _name, _refusal(_name))


def _asarray(x):
    """A host array comes to the device, always as a copy."""
    if isinstance(x, Array):
        return x
    for seen in _watchers:
        seen.uploads.append(np.shape(x))
    return Array(np.array(x))


def _to_host(x):
    for seen in _watchers:
        seen.copies.append(x.shape)
    return x._host.copy()


def _fuse(kernel_name):
    """A chain of steps, each of which CuPy must have, is one operation."""
    def decorate(chain):
        def kernel(*args):
            watching = _watchers.copy()
            _watchers.clear()
            try:
                found = chain(*args)
            finally:
                _watchers.extend(watching)
            _count(kernel_name, args[0] if found is None else found[0] if isinstance(found, tuple) else found)
            for seen in _watchers:
                seen.chains[kernel_name] = chain.func, [(x.shape, x.dtype) if isinstance(x, Array) else x for x in args]
            return found
        return kernel
    return decorate


xp = ModuleType("fake_cupy")
for _name, _allowed in FUNCTIONS.items():
    setattr(xp, _name, _function(_name, _allowed))
for _name in CONSTANTS:
    setattr(xp, _name, getattr(np, _name))
xp.fuse = _fuse
xp.asarray = _asarray
xp.empty = lambda shape, dtype=float: Array(np.empty(shape, dtype))      # memory alone: no kernel
xp.empty_like = lambda x: Array(np.empty_like(_inside(x)))
backend.register(Array, xp, _to_host, lambda *args: _run("segment_sum", backend._segment_sum, args),
                 lambda sums, *arrays: _run("einsum", partial(np.einsum, sums), arrays))
