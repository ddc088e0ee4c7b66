"""What is done with a solution's functions. Every call is played twice: in a solution's process with the student's
functions in the library's places, and in the grader with the library's own. Nothing here knows what is right.

A call takes the files of the library by name and data that came by pipe; it returns data. `library[file]` is asked at
every use, so that whatever function stands there is the one that runs.
"""

import numpy as np


class Unfit(TypeError):
    """A function returned something that cannot be used any further."""


def forward(library, file, name, inputs, constants, layout="plain"):
    """Outputs of one forward, and what its arguments are afterwards."""
    inputs, constants = arranged(inputs, layout), arranged(constants, layout)
    outputs, _ = _forward(library, file, name, inputs, constants)
    return {"outputs": outputs, "inputs": inputs, "constants": constants}


def pair(library, file, name, inputs, constants, upstreams, layout="plain"):
    """Outputs and gradients of one pair, and what all arguments are afterwards."""
    inputs, constants = arranged(inputs, layout), arranged(constants, layout)
    upstreams = arranged(upstreams, layout)
    outputs, cache = _forward(library, file, name, inputs, constants)
    outputs, between = copied(outputs), copied(inputs)   # as they were, should backward write into them
    gradients = getattr(library[file], f"{name}_backward")(*upstreams, cache)
    return {"outputs": outputs, "gradients": gradients, "between": between, "inputs": inputs, "constants": constants,
            "upstreams": upstreams}


def two_at_once(library, file, name, first, second):
    """Gradients of two calls of a pair, the second one's forward between the first one's forward and backward, and the
    first one's backward asked twice. Each call is (inputs, constants, upstreams)."""
    _, cache = _forward(library, file, name, *first[:2])
    _, other = _forward(library, file, name, *second[:2])
    backward = getattr(library[file], f"{name}_backward")
    once = copied(backward(*first[2], cache))
    between = copied(backward(*second[2], other))
    return {"first": once, "second": between, "again": backward(*first[2], cache)}


def called(library, file, name, arguments):
    """What any function returns, and what its arguments are afterwards."""
    return {"result": getattr(library[file], name)(*arguments), "arguments": arguments}


def _forward(library, file, name, inputs, constants):
    if "cfg" in constants:
        constants = {**constants, "cfg": library["model"].Config(**constants["cfg"])}
    results = getattr(library[file], f"{name}_forward")(*inputs, **constants)
    if not isinstance(results, tuple) or len(results) < 2:
        raise Unfit(f"it returned a {type(results).__name__}, expected a tuple: (outputs..., cache)")
    return results[:-1], results[-1]


# ----------------------------------------------------------------------------------------------------- the checker (a1)


def slopes(library, weights, x, moves, eps, layout="plain"):
    """Central differences of a function that looks at x: a weighted sum of cubes, squares and x itself."""
    x, seen = arranged(x, layout), []

    def f():
        seen.append(x.copy())
        return weights[0] * x**3 + weights[1] * x**2 + weights[2] * x

    found = library["gradcheck"].central_differences(f, x, moves, eps=eps)
    return {"slopes": found, "x": x, "seen": seen}


# --------------------------------------------------------------------------------------------------- the optimizer (a6)


def adamw(library, shapes, start, gradients, rates, options):
    """Parameters and moments after every step, and whether they still are the arrays that they were."""
    flat, optim = library["flat"], library["optim"]
    shapes = {name: tuple(shape) for name, shape in shapes.items()}
    params = flat.Flat(shapes, np, start.dtype)
    params.buffer[...] = start
    optimizer, steps, home = optim.AdamW(params, **options), [], params.buffer
    for g, rate in zip(gradients, rates, strict=True):
        grads = flat.Flat(shapes, np, g.dtype, g.copy())
        optimizer.step(params, grads, rate)
        steps.append({"params": params.buffer.copy(), "m": optimizer.m.copy(), "v": optimizer.v.copy(),
                      "grads": grads.buffer})
    return {"steps": steps, "in place": params.buffer is home and _shares(params), "t": optimizer.t}


def clipped(library, shapes, gradients, limit):
    """The norm that `clip` returns, and the gradients that it leaves."""
    grads = library["flat"].Flat({name: tuple(shape) for name, shape in shapes.items()}, np, gradients.dtype,
                                 gradients.copy())
    home = grads.buffer
    norm = library["optim"].clip(grads, limit)
    return {"norm": norm, "grads": home, "in place": grads.buffer is home}


def story(library, params, constants, dlogits):
    """Gradients of a story, as they stand in the buffer and as they stand under their names."""
    constants = {**constants, "cfg": library["model"].Config(**constants["cfg"])}
    _, cache = library["model"].story_forward(params, **constants)
    grads = library["model"].story_backward(dlogits, cache)
    flat = isinstance(grads, library["flat"].Flat)
    return {"gradients": (grads,), "flat": flat and _shares(grads)}


def _shares(flat):
    """Does every named array still look into the buffer?"""
    return all(np.shares_memory(x, flat.buffer) for x in flat.values())


# ---------------------------------------------------------------------------------------------------------- small parts


def arranged(tree, layout):
    """The same arrays, fresh, and laid out in memory as asked: "plain", or "strided" with strangers between."""
    def arrange(x):
        if layout == "plain" or not x.ndim:
            return x.copy()
        wide = np.full([2 * n for n in x.shape], 77).astype(x.dtype)
        wide[tuple([slice(None, None, 2)] * x.ndim)] = x
        return wide[tuple([slice(None, None, 2)] * x.ndim)]

    return mapped(arrange, tree)


def copied(tree):
    return mapped(np.copy, tree)


def mapped(function, tree):
    """The same tree with every array replaced."""
    if isinstance(tree, dict):
        return {key: mapped(function, part) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(mapped(function, part) for part in tree)
    return function(tree) if isinstance(tree, np.ndarray | np.generic) else tree
