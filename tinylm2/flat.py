"""Named arrays that share one buffer: the optimizer, the norm and a checkpoint are then one array operation each."""


class Flat(dict):
    """A dict of views into one buffer, `self.buffer` (P,), every matrix before every vector.

    `self.matrices` is the leading part that holds the arrays of two axes and more (weight decay acts on it). Keys keep
    the order of `shapes`. Binding a key to another array would detach it from the buffer without a word, so that is
    refused: write `flat[key][...] = value`, or `flat[key] += value`.
    """

    def __init__(self, shapes, xp, dtype):
        order = sorted(shapes, key=lambda name: len(shapes[name]) < 2)     # stable: matrices, then vectors
        sizes = {name: _size(shapes[name]) for name in shapes}
        self.shapes = dict(shapes)
        self.buffer = xp.zeros(sum(sizes.values()), dtype)
        self.matrices = self.buffer[:sum(n for name, n in sizes.items() if len(shapes[name]) >= 2)]
        views, end = {}, 0
        for name in order:
            start, end = end, end + sizes[name]
            views[name] = self.buffer[start:end].reshape(shapes[name])
        super().__init__((name, views[name]) for name in shapes)

    def __setitem__(self, name, value):
        if self.get(name) is not value:
            raise KeyError(f"{name}: would be detached from the buffer; write flat[{name!r}][...] = value")


def _size(shape):
    n = 1
    for length in shape:
        n *= length
    return n
