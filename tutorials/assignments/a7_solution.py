"""A memory of your own.

a7.md says what each function must do; `python check.py` checks them as far as you have come.
"""

import numpy as np

from tinylm2 import ops
from tinylm2.memories import primitives

VECTORS = {"mem.bgate": -1.0, "mem.bkeep": 4.0}          # what gains and biases start from; matrices start random


def param_shapes(cfg):
    """{short name: shape} of the memory's parameters. All names begin with "mem."; Wout and bout are taken."""
    W, b = (cfg.D, cfg.D), (cfg.H,)
    return {"mem.Wq": W, "mem.Wk": W, "mem.Wv": W, "mem.Wgate": (cfg.D, cfg.H), "mem.bgate": b, "mem.bkeep": b}


def state_shapes(cfg):
    """{name: shape} of the state of one story: what is kept from one segment to the next."""
    return {"A": (cfg.H, cfg.K, cfg.K)}


def first_forward(p, *, cfg, B):
    """The state before the first segment, a tuple of arrays with one row per story, and a cache.

    p: dict of the parameters of this block by their short names -> state, cache
    """
    W = p["mem.Wq"]
    return (np.zeros((B, *state_shapes(cfg)["A"]), W.dtype),), None


def first_backward(dstate, cache):
    """The gradient of p, a dict; of a constant start it is empty."""
    return {}


def read_forward(n, state, p, *, cfg):
    """What each token finds. Row t may depend on row t of n and on the state, and on nothing else.

    n (B, T, D) the normed rows of the segment, state as above, p -> y (B, T, D), cache
    """
    (A,) = state
    q, by_query = ops.linear_forward(n, p["mem.Wq"])
    q = primitives.split_heads(q, cfg.H)
    return primitives.join_heads(q @ A), (q, A, by_query)


def read_backward(dy, cache):
    """Gradients at n, the state and p: dn, a tuple as long as the state, a dict. None means zero."""
    q, A, by_query = cache
    dy = primitives.split_heads(dy, q.shape[1])
    dn, dWq = ops.linear_backward(primitives.join_heads(dy @ A.swapaxes(2, 3)), by_query)
    return dn, (q.swapaxes(2, 3) @ dy,), {"mem.Wq": dWq}


def write_forward(seg, state, p, *, cfg, pad=None):
    """The state after the segment. It sees the whole segment; the tokens have read before it is called.

    seg (n, None, k, v): the normed rows (B, T, D), and the rotated keys and the values of the block's self-attention
    (B, T, G, K); pad (B,): how many of the first positions of each story do not count, None for no padding
    -> state', cache
    """
    n, (A,), H = seg[0], state, cfg.H
    k, by_key = ops.linear_forward(n, p["mem.Wk"])
    v, by_value = ops.linear_forward(n, p["mem.Wv"])
    z, by_gate = ops.linear_forward(n, p["mem.Wgate"])
    gate, _ = ops.sigmoid_forward(z + p["mem.bgate"])    # (B, T, H): is this token worth storing?
    keep, _ = ops.sigmoid_forward(p["mem.bkeep"])        # (H,): what stays of the old pairs
    real = np.ones(n.shape[:2], n.dtype) if pad is None else (np.arange(n.shape[1]) >= pad[:, None]).astype(n.dtype)
    weight = (gate * real[..., None]).swapaxes(1, 2)[..., None] / cfg.K          # (B, H, T, 1)
    k, v = (primitives.split_heads(x, H) for x in (k, v))
    A_next = keep[:, None, None] * A + k.swapaxes(2, 3) @ (weight * v)
    return (A_next,), (k, v, A, gate, keep, real, weight, by_key, by_value, by_gate)


def write_backward(dstate, cache):
    """Gradients at seg (dn, None, dk, dv), the state and p. None means zero."""
    k, v, A, gate, keep, real, weight, by_key, by_value, by_gate = cache
    (dA_next,), K = dstate, v.shape[-1]
    dstored = k @ dA_next                                # (B, H, T, K)
    dk = (weight * v) @ dA_next.swapaxes(2, 3)
    dgate = np.einsum("bhtk,bhtk->bth", dstored, v) * real[..., None] / K
    (dz,) = ops.sigmoid_backward(dgate, gate)
    (dbkeep,) = ops.sigmoid_backward(np.einsum("bhij,bhij->h", dA_next, A), keep)
    dn, dWk = ops.linear_backward(primitives.join_heads(dk), by_key)
    dn_v, dWv = ops.linear_backward(primitives.join_heads(weight * dstored), by_value)
    dn_z, dWgate = ops.linear_backward(dz, by_gate)
    dp = {"mem.Wk": dWk, "mem.Wv": dWv, "mem.Wgate": dWgate, "mem.bgate": dz.sum((0, 1)), "mem.bkeep": dbkeep}
    return (dn + dn_v + dn_z, None, None, None), (keep[:, None, None] * dA_next,), dp
