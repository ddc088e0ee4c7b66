"""Check my_a6.py: `python check.py`."""

import my_a6
import numpy as np
from checking import Checks

from tinylm2 import model, optim, recurrence
from tinylm2.flat import Flat

checks = Checks(my_a6, model, recurrence, optim)
rng = np.random.default_rng(0)
d = rng.standard_normal

cfg = model.Config(V=5, D=4, L=2, H=2, G=1, F=3, N=2, T=3)
params = {name: d(shape) / 2 + (len(shape) == 1) for name, shape in model.param_shapes(cfg).items()}
ids = rng.integers(0, cfg.V, (2, 3 * cfg.T))
checks.pair("segment_backward", model, "segment", params, ((d((2, 2, 4)),), (d((2, 2, 4)),), None),
            ids=ids[:, :3], cfg=cfg, directions=4)
checks.pair("story_backward", recurrence, "story", params, ids=ids, cfg=cfg, directions=4)
checks.pair("story_backward, recomputed", recurrence, "story", params, ids=ids, cfg=cfg, recompute=True, directions=4)


def gradient_before_the_cut():
    """The gradient of a token that stands in the first segment only, where the loss stands in the last."""
    moved = np.where(ids == 4, 0, ids)
    moved[:, 0] = 4
    logits, cache = recurrence.story_forward(params, ids=moved, cfg=cfg, last=1, truncate=2)
    return recurrence.story_backward(np.ones_like(logits), cache)["embed.W"][4]


checks.equal("story_backward, truncate stops it", gradient_before_the_cut, np.zeros(4))


def flat(*numbers):
    return Flat({"W": (1, 2), "b": (1,)}, np, "float64", np.array(numbers))


def after_a_step(decay):
    params = flat(1.0, 1.0, 1.0)
    optim.AdamW(params, eps=0, decay=decay).step(params, flat(2.0, -0.5, 7.0), 0.1)
    return params.buffer


def after_clipping(limit):
    grads = flat(3.0, 0.0, 4.0)
    return [float(optim.clip(grads, limit)), *grads.buffer]


checks.equal("AdamW.step: the first one goes lr against the sign", lambda: after_a_step(0), [0.9, 1.1, 0.9])
checks.equal("AdamW.step: decay is for matrices", lambda: after_a_step(0.5), [0.85, 1.05, 0.9])
checks.equal("clip above the limit", lambda: after_clipping(2.5), [5.0, 1.5, 0.0, 2.0])
checks.equal("clip below the limit", lambda: after_clipping(10.0), [5.0, 3.0, 0.0, 4.0])
checks.end()
