"""AdamW on one flat buffer, and clipping by the global norm."""

import math
from typing import Any

from tinylm2.backend import chunks, fused, get_xp
from tinylm2.flat import Flat


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), on a `Flat` dict of parameters.

    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
    w = (1 - lr decay) w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    The moments m and v are one buffer each, like the parameters, so a step is two kernels for any number of tensors.
    Decay acts on matrices only (`Flat.matrices`): gains and biases need not be small.
    """

    def __init__(self, params: Flat, *, betas: Any = (0.9, 0.98), eps: float = 1e-8, decay: float = 0.01) -> None:
        xp = get_xp(params.buffer)
        self.betas, self.eps, self.decay = betas, eps, decay
        self.m, self.v = xp.zeros_like(params.buffer), xp.zeros_like(params.buffer)
        self.t = 0

    def step(self, params: Flat, grads: Flat, lr: float) -> None:
        """Move the parameters one step against the gradients, in place."""
        b1, b2 = self.betas
        self.t += 1
        constants = b1, 1 - b1, b2, 1 - b2, lr / (1 - b1**self.t), 1 / math.sqrt(1 - b2**self.t), self.eps
        matrices = params.matrices.size
        for start, end, kept in ((0, matrices, 1 - lr * self.decay), (matrices, params.buffer.size, 1.0)):
            w, g, m, v = (x[start:end] for x in (params.buffer, grads.buffer, self.m, self.v))
            for part in chunks(w):
                _move(w[part], g[part], m[part], v[part], kept, *constants)


@fused
def _move(xp, w, g, m, v, kept, b1, b1_rest, b2, b2_rest, rate, root, eps):
    """The equations above, in place: rate is lr / (1 - b1^t), root 1 / sqrt(1 - b2^t)."""
    m *= b1
    m += g * b1_rest
    s = g * g
    s *= b2_rest
    v *= b2
    v += s
    s = xp.sqrt(v)
    s *= root
    s += eps
    s = m / s
    s *= rate
    w *= kept
    w -= s


def clip(grads: Flat, limit: float) -> Any:
    """Scale all gradients so that their global norm is at most `limit`. Returns the norm before, left on the device.

    norm = sqrt(sum g^2) over all tensors,   g *= min(1, limit / norm)                (Pascanu et al. 2013, algorithm 1)
    """
    g = grads.buffer
    norm = get_xp(g).sqrt(g @ g)
    _shrink(g, norm, limit)
    return norm


@fused
def _shrink(xp, g, norm, limit):
    """Without a branch, which would have to wait for the norm."""
    g *= xp.minimum(limit / (norm + 1e-12), 1.0)
