"""Check my_a7.py: `python check.py`."""

import my_a7
import numpy as np
from checking import Checks

from tinylm2.model import Config

checks = Checks(my_a7)
rng = np.random.default_rng(0)
B, T = 2, 4
cfg = Config(V=5, D=8, H=2, G=1, N=3, T=T)


def segment(length=T):
    return rng.standard_normal((B, length, cfg.D)), None, *rng.standard_normal((2, B, length, cfg.G, cfg.K))


def parameters():
    shapes = {**my_a7.param_shapes(cfg), "attn.Wqkv": (cfg.D, 4 * cfg.K), "attn.Wo": (2 * cfg.K, cfg.D)}
    return {name: rng.standard_normal(shape) * (0.3 if len(shape) == 1 else shape[0] ** -0.5)
            + (len(shape) == 1) * my_a7.VECTORS.get(name, 1.0) for name, shape in shapes.items()}


def written(p, segments=2):
    """A state that holds something."""
    state, _ = my_a7.first_forward(p, cfg=cfg, B=B)
    for _ in range(segments):
        state, _ = my_a7.write_forward(segment(), state, p, cfg=cfg)
    return state


def shapes():
    p = parameters()
    state = written(p, 5)
    y, _ = my_a7.read_forward(segment()[0], state, p, cfg=cfg)
    return [y.shape, *(x.shape for x in state)] == [(B, T, cfg.D), *((B, *shape) for shape in
                                                                    my_a7.state_shapes(cfg).values())]


def future():
    """How far the first token's row moves when the last token is another one."""
    p = parameters()
    state, n = written(p), segment()[0]
    changed = n.copy()
    changed[:, -1] = 3.0
    y, y_changed = (my_a7.read_forward(x, state, p, cfg=cfg)[0] for x in (n, changed))
    return abs(y - y_changed)[:, 0].max()


def padding():
    """How far the state moves when what stands in the padding is something else."""
    p, one = parameters(), segment()
    state, pad = written(p), np.array([2, 1])
    other = tuple(None if x is None else x.copy() for x in one)
    for x in other:
        if x is not None:
            x[0, :2], x[1, :1] = 7.0, -5.0
    states = [my_a7.write_forward(seg, state, p, cfg=cfg, pad=pad)[0] for seg in (one, other)]
    return max(abs(a - b).max() for a, b in zip(*states, strict=True))


def remembers():
    """Does what is read depend on what was written two segments ago?"""
    p, n, later = parameters(), segment()[0], segment()
    found = []
    for _ in range(2):
        state, _ = my_a7.first_forward(p, cfg=cfg, B=B)
        for seg in (segment(), later):
            state, _ = my_a7.write_forward(seg, state, p, cfg=cfg)
        found.append(my_a7.read_forward(n, state, p, cfg=cfg)[0])
    return not np.array_equal(*found)


def slopes(name):
    """The worst error of a backward along random directions, over all arguments, relative to the largest slope."""
    p = parameters()
    inputs = {**{f"state {i}": x.copy() for i, x in enumerate(written(p))}, **p}
    n, _, k, v = segment()
    inputs |= {"n": n} if name == "read" else {"n": n, "k": k, "v": v}
    count = len(my_a7.state_shapes(cfg))

    def forward():
        state = tuple(inputs[f"state {i}"] for i in range(count))
        p = {key: x for key, x in inputs.items() if "." in key}
        if name == "read":
            return my_a7.read_forward(inputs["n"], state, p, cfg=cfg)
        return my_a7.write_forward((inputs["n"], None, inputs["k"], inputs["v"]), state, p, cfg=cfg,
                                   pad=np.array([1, 0]))

    found, cache = forward()
    found = (found,) if name == "read" else found
    upstream = tuple(rng.standard_normal(y.shape) for y in found)

    def value():
        ys = forward()[0]
        return sum((dy * y).sum() for dy, y in zip(upstream, (ys,) if name == "read" else ys, strict=True))

    dfirst, dstate, dp = (my_a7.read_backward(upstream[0], cache) if name == "read" else
                          my_a7.write_backward(upstream, cache))
    gradients = {**dp, **{f"state {i}": d for i, d in enumerate(dstate or ())}}
    gradients |= {"n": dfirst} if name == "read" else dict(zip(("n", "y", "k", "v"), dfirst, strict=True))
    worst = 0.0
    for key, x in inputs.items():
        move = (rng.integers(0, 2, x.shape) * 2.0 - 1) / x.size**0.5
        here = x.copy()
        x[...] = here + 1e-5 * move
        above = value()
        x[...] = here - 1e-5 * move
        slope = (above - value()) / 2e-5
        x[...] = here
        claimed = 0.0 if gradients.get(key) is None else (gradients[key] * move).sum()
        error = abs(claimed - slope) / max(abs(slope), 1e-2)
        if error > 1e-4:
            raise ValueError(f"d{key} says {claimed:.4g} where the forward's slope is {slope:.4g}")
        worst = max(worst, error)
    return round(float(worst), 3)


checks.equal("param_shapes, state_shapes, first_forward: shapes as declared", shapes, True)
checks.equal("read_forward sees no later token", future, 0.0)
checks.equal("read_forward finds what was written", remembers, True)
checks.equal("read_backward is the slope of read_forward", lambda: slopes("read"), 0.0)
checks.equal("write_forward: padding does nothing", padding, 0.0)
checks.equal("write_backward is the slope of write_forward", lambda: slopes("write"), 0.0)
checks.equal("first_backward returns a dict", lambda: isinstance(my_a7.first_backward(
    tuple(np.zeros((B, *shape)) for shape in my_a7.state_shapes(cfg).values()),
    my_a7.first_forward(parameters(), cfg=cfg, B=B)[1]), dict), True)
checks.end()
