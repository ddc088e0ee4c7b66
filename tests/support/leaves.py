"""Walk what pairs take and return: arrays within dicts, lists and tuples, None and plain values between them."""

import numpy as np


def leaves(tree, path=""):
    """Every array with the path that leads to it: ("[0].attn.g", array). NumPy's scalars count as arrays."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}[{i}]")
    elif isinstance(tree, np.ndarray | np.generic):
        yield path, tree


def map_arrays(function, tree):
    """The same tree with every array replaced."""
    if isinstance(tree, dict):
        return {key: map_arrays(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_arrays(function, value) for value in tree)
    return function(tree) if isinstance(tree, np.ndarray | np.generic) else tree
