"""Named arrays that share one buffer: the optimizer, the norm and a checkpoint are then one array operation each."""

from math import prod
from typing import Any


class Flat(dict):
    """A dict of views into one buffer, `self.buffer` (P,), every matrix before every vector.

    `self.matrices` is the leading part that holds the arrays of two axes and more (weight decay acts on it). Keys keep
    the order of `shapes`. Binding a key to another array would silently detach it from the buffer, so that raises
    KeyError: write `flat[key][...] = value`, or `flat[key] += value`.
    """

    def __init__(self, shapes: Any, xp: Any, dtype: Any, buffer: Any = None) -> None:
        self.shapes = dict(shapes)
        self.buffer = xp.zeros(sum(map(prod, shapes.values())), dtype) if buffer is None else buffer
        views, end = {}, 0
        for name in _layout(shapes):
            start, end = end, end + prod(shapes[name])
            views[name] = self.buffer[start:end].reshape(shapes[name])
        self.matrices = self.buffer[:sum(prod(shape) for shape in shapes.values() if len(shape) >= 2)]
        super().__init__((name, views[name]) for name in shapes)

    def like(self, buffer: Any) -> "Flat":
        """The same names and shapes over another buffer, such as one of the optimizer's moments."""
        return Flat(self.shapes, None, None, buffer)

    def __setitem__(self, name, value):
        if self.get(name) is not value:
            raise KeyError(f"{name}: would be detached from the buffer; write flat[{name!r}][...] = value")

    def _refuse(self, *_, **__):
        raise TypeError("the names of a Flat are views into its buffer: none can be replaced or removed")

    update = setdefault = pop = popitem = clear = __delitem__ = __ior__ = _refuse    # type: ignore[assignment]


def join(shapes: dict, arrays: dict, xp: Any, dtype: Any) -> Any:
    """The buffer for a `Flat` of these shapes: a dict's arrays side by side, in one operation; zeros if missing."""
    longest = max((prod(shape) for name, shape in shapes.items() if name not in arrays), default=0)
    zeros = xp.zeros(longest, dtype)
    return xp.concatenate([arrays[name].reshape(-1) if name in arrays else zeros[:prod(shapes[name])]
                           for name in _layout(shapes)])


def _layout(shapes):
    """The names in the order of the buffer: matrices first, then vectors, each in the given order."""
    return sorted(shapes, key=lambda name: len(shapes[name]) < 2)
