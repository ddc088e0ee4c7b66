"""Every assignment written by hand once more, by a second author, from nothing but the handouts (22 November 2026).

A solution of another structure than plain.py's: the bank makes mistakes in it, too, so that the feedback is not only
tried on edits of the very lines that it changes itself.
"""

import math

import numpy as np

from tinylm2 import layers, model, ops
from tinylm2.backend import check_shapes
from tinylm2.flat import Flat
from tinylm2.model import block_backward, param_shapes

# ------------------------------------------------------------------------------------------------------------------ a1


def central_differences(f, x, moves, *, eps=1e-5):
    slopes = []
    for u in moves:
        before = x.copy()
        x += eps * u
        above = f()
        x[...] = before
        x -= eps * u
        below = f()
        x[...] = before
        slopes.append(np.sum(above - below) / (2 * eps))
    return np.array(slopes)


def worst_entry(analytic, slopes, scale=None):
    away = np.abs(analytic - slopes)
    if scale is None:
        scale = np.abs(slopes).max()
    if np.isnan(away).any():
        return math.inf, tuple(int(i) for i in np.argwhere(np.isnan(away))[0])
    index = np.unravel_index(away.argmax(), away.shape)
    return float(away[index] / scale), tuple(int(i) for i in index)


def linear_forward(x, W):
    check_shapes("linear", x=(x, "... D"), W=(W, "D E"))
    return x @ W, (x, W)


def linear_backward(dy, cache):
    x, W = cache
    dx = dy @ W.T
    rows = x.reshape(-1, W.shape[0])
    dW = rows.T @ dy.reshape(-1, W.shape[1])
    return dx, dW


# ------------------------------------------------------------------------------------------------------------------ a2


def rmsnorm_forward(x, g, *, eps=1e-5):
    check_shapes("rmsnorm", x=(x, "... D"), g=(g, "D"))
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    n = x * r
    return n * g, (n, r, g)


def rmsnorm_backward(dy, cache):
    n, r, g = cache
    dn = dy * g
    dx = r * (dn - n * (dn * n).mean(-1, keepdims=True))
    dg = (dy * n).reshape(-1, g.shape[0]).sum(0)
    return dx, dg


def cross_entropy_forward(logits, *, targets, weights, total=None):
    check_shapes("cross_entropy", logits=(logits, "... V"))
    if not logits.shape[:-1] == targets.shape == weights.shape:
        raise ValueError(f"cross_entropy: targets {targets.shape} and weights {weights.shape}, "
                         f"expected {logits.shape[:-1]} from logits")
    z = logits - logits.max(-1, keepdims=True)
    e = np.exp(z)
    s = e.sum(-1, keepdims=True)
    logp = z - np.log(s)
    picked = np.take_along_axis(logp, targets[..., None], -1)[..., 0]
    if total is None:
        total = weights.sum()
    loss = -(weights * picked).sum() / total
    return loss, (e / s, targets, weights, total)


def cross_entropy_backward(dloss, cache):
    p, targets, weights, total = cache
    one = np.arange(p.shape[-1]) == targets[..., None]
    return ((dloss * weights / total)[..., None] * (p - one)),


# ------------------------------------------------------------------------------------------------------------------ a3


def rope_forward(x, *, start=0, step=1, base=10000.0, scaling=None):
    check_shapes("rope", x=(x, "B T H K"))
    if x.shape[-1] % 2:
        raise ValueError(f"rope: x has heads {x.shape[-1]} wide, expected an even width")
    B, T, H, K = x.shape
    w = base ** (-2.0 * np.arange(K // 2) / K)
    if scaling is not None:
        factor, low, high, length = scaling
        turns = length * w / (2 * np.pi)
        part = np.clip((turns - low) / (high - low), 0, 1)
        w = (1 - part) * w / factor + part * w
    angle = (start + step * np.arange(T))[:, None] * w
    c = np.cos(angle).astype(x.dtype)[None, :, None, :]
    s = np.sin(angle).astype(x.dtype)[None, :, None, :]
    y = np.empty_like(x)
    a, b = x[..., 0::2], x[..., 1::2]
    y[..., 0::2] = a * c - b * s
    y[..., 1::2] = a * s + b * c
    return y, (c, s)


def rope_backward(dy, cache):
    c, s = cache
    dx = np.empty_like(dy)
    a, b = dy[..., 0::2], dy[..., 1::2]
    dx[..., 0::2] = a * c + b * s
    dx[..., 1::2] = b * c - a * s
    return dx,


def attend_forward(q, k, v, *, causal=False, pad=None):
    check_shapes("attend", q=(q, "B T H K"), k=(k, "B U G K"), v=(v, "B U G K"), pad=(pad, "B"))
    B, T, H, K = q.shape
    U, G = k.shape[1:3]
    if H % G:
        raise ValueError(f"attend: {G} key heads do not divide {H} query heads")
    if causal and T > U:
        raise ValueError(f"attend: {T} causal queries, expected at most {U}, the places of k")
    R = H // G
    qg = q.reshape(B, T, G, R, K)
    S = np.einsum("btgrk,bugk->bgrtu", qg, k) / K**0.5
    place = np.arange(U)
    seen = np.ones((B, T, U), bool)
    if causal:
        at = np.arange(T) + U - T
        seen &= place[None, None, :] <= at[None, :, None]
    if pad is not None:
        seen &= place[None, None, :] >= pad[:, None, None]
        if causal:
            own = (place[None, :] == at[:, None])[None]
            padded = at[None, :, None] < pad[:, None, None]
            seen |= own & padded
    S = np.where(seen[:, None, None], S, -np.inf)
    E = np.exp(S - S.max(-1, keepdims=True))
    P = E / E.sum(-1, keepdims=True)
    y = np.einsum("bgrtu,bugk->btgrk", P, v).reshape(B, T, H, K)
    return y, (qg, k, v, P)


def attend_backward(dy, cache):
    q, k, v, P = cache
    B, T, G, R, K = q.shape
    dy = dy.reshape(B, T, G, R, K)
    dv = np.einsum("bgrtu,btgrk->bugk", P, dy)
    dP = np.einsum("btgrk,bugk->bgrtu", dy, v)
    dS = P * (dP - (P * dP).sum(-1, keepdims=True)) / K**0.5
    dq = np.einsum("bgrtu,bugk->btgrk", dS, k).reshape(B, T, G * R, K)
    dk = np.einsum("bgrtu,btgrk->bugk", dS, q)
    return dq, dk, dv


def self_attention_backward(da, dk, dv, cache):
    B, T, last, H, G, K = cache["shape"]
    dy, dWo = ops.linear_backward(da, cache["out"])
    dq, dkeys, dvalues = ops.attend_backward(dy.reshape(B, last, H, K), cache["attend"])
    U = dkeys.shape[1] - T
    dpast = (dkeys[:, :U], dvalues[:, :U]) if U else None
    dkeys, dvalues = dkeys[:, U:], dvalues[:, U:]
    if dk is not None:
        dkeys = dkeys + dk
    if dv is not None:
        dvalues = dvalues + dv
    dq, = ops.rope_backward(dq, cache["rope q"])
    dkeys, = ops.rope_backward(dkeys, cache["rope k"])
    dn_q, dWq = ops.linear_backward(dq.reshape(B, last, H * K), cache["q"])
    dn_k, dWk = ops.linear_backward(dkeys.reshape(B, T, G * K), cache["k"])
    dn_v, dWv = ops.linear_backward(dvalues.reshape(B, T, G * K), cache["v"])
    dn = dn_k + dn_v
    dn[:, T - last:] += dn_q
    return dn, dpast, np.concatenate((dWq, dWk, dWv), 1), dWo


# ------------------------------------------------------------------------------------------------------------------ a4


def cross_attention_forward(n, Mn, Wq, Wk, Wv, *, heads):
    check_shapes("cross_attention", n=(n, "B T D"), Mn=(Mn, "B N D"), Wq=(Wq, "D D"), Wk=(Wk, "D D"), Wv=(Wv, "D D"))
    B, T, D = n.shape
    N = Mn.shape[1]
    K = D // heads
    Q, cq = ops.linear_forward(n, Wq)
    Kk, ck = ops.linear_forward(Mn, Wk)
    V, cv = ops.linear_forward(Mn, Wv)
    E, ca = ops.attend_forward(Q.reshape(B, T, heads, K), Kk.reshape(B, N, heads, K), V.reshape(B, N, heads, K))
    return E.reshape(B, T, D), (cq, ck, cv, ca, (B, T, N, D, heads, K))


def cross_attention_backward(dEmem, cache):
    cq, ck, cv, ca, (B, T, N, D, heads, K) = cache
    dQ, dK, dV = ops.attend_backward(dEmem.reshape(B, T, heads, K), ca)
    dn, dWq = ops.linear_backward(dQ.reshape(B, T, D), cq)
    dM1, dWk = ops.linear_backward(dK.reshape(B, N, D), ck)
    dM2, dWv = ops.linear_backward(dV.reshape(B, N, D), cv)
    return dn, dM1 + dM2, dWq, dWk, dWv


def output_gate_forward(x, a, Emem, Wout, bout):
    check_shapes("output_gate", x=(x, "B T D"), a=(a, "B T D"), Emem=(Emem, "B T D"), Wout=(Wout, "D D"),
                 bout=(bout, "D"))
    z, cl = ops.linear_forward(Emem, Wout)
    gate, cs = ops.sigmoid_forward(z + bout)
    return x + a + gate * Emem, (cl, cs, gate, Emem)


def output_gate_backward(dy, cache):
    cl, cs, gate, Emem = cache
    dz, = ops.sigmoid_backward(dy * Emem, cs)
    dE, dW = ops.linear_backward(dz, cl)
    db = dz.reshape(-1, dz.shape[-1]).sum(0)
    return dy, dy.copy(), dE + dy * gate, dW, db


# ------------------------------------------------------------------------------------------------------------------ a5


def write_attention_forward(k, v, Wqkv, Wo, *, heads, slots, pad=None, start=None, **rope):
    H, G = heads
    K = k.shape[-1]
    check_shapes("write_attention", k=(k, f"B T {G} K"), v=(v, f"B T {G} K"), Wqkv=(Wqkv, f"D {(H + 2 * G) * K}"),
                 Wo=(Wo, f"{H * K} D"))
    B, T = k.shape[:2]
    D = Wqkv.shape[0]
    q = Wqkv[:slots, :H * K] * D**0.5
    q, cr = ops.rope_forward(q.reshape(1, slots, H, K), start=T if start is None else start, step=0, **rope)
    q = np.repeat(q, B, axis=0)
    y, ca = ops.attend_forward(q, k, v, pad=pad)
    R, cl = ops.linear_forward(y.reshape(B, slots, H * K), Wo)
    return R, (cr, ca, cl, Wqkv, B, slots, H, K)


def write_attention_backward(dR, cache):
    cr, ca, cl, Wqkv, B, N, H, K = cache
    dy, dWo = ops.linear_backward(dR, cl)
    dq, dk, dv = ops.attend_backward(dy.reshape(B, N, H, K), ca)
    dq, = ops.rope_backward(dq.sum(0, keepdims=True), cr)
    dWqkv = np.zeros_like(Wqkv)
    dWqkv[:N, :H * K] = dq.reshape(N, H * K) * Wqkv.shape[0]**0.5
    return dk, dv, dWqkv, dWo


def memory_update_forward(R, M, Win, bin, Wforget, bforget):
    check_shapes("memory_update", R=(R, "B N D"), M=(M, "B N D"), Win=(Win, "D D"), bin=(bin, "D"),
                 Wforget=(Wforget, "D D"), bforget=(bforget, "D"))
    zi, ci = ops.linear_forward(R, Win)
    zf, cf = ops.linear_forward(R, Wforget)
    gi, si = ops.sigmoid_forward(zi + bin)
    gf, sf = ops.sigmoid_forward(zf + bforget)
    t, ct = ops.tanh_forward(R)
    return gi * t + gf * M, (ci, cf, si, sf, ct, gi, gf, t, M)


def memory_update_backward(dM_next, cache):
    ci, cf, si, sf, ct, gi, gf, t, M = cache
    dM = dM_next * gf
    dzi, = ops.sigmoid_backward(dM_next * t, si)
    dzf, = ops.sigmoid_backward(dM_next * M, sf)
    dR, = ops.tanh_backward(dM_next * gi, ct)
    dR1, dWin = ops.linear_backward(dzi, ci)
    dR2, dWf = ops.linear_backward(dzf, cf)
    return dR + dR1 + dR2, dM, dWin, layers.over_rows(dzi), dWf, layers.over_rows(dzf)


# ------------------------------------------------------------------------------------------------------------------ a6


def segment_backward(dlogits, dstates, cache):
    cfg, grads = cache["cfg"], {}
    dx, dhead = ops.linear_backward(dlogits, cache["head"])
    dx, grads["norm.g"] = ops.rmsnorm_backward(dx, cache["norm"])
    if dstates is None:
        dstates = (None,) * (cfg.L + 1)
    dbefore = [None] * (cfg.L + 1)
    for i in reversed(range(cfg.L)):
        dx, dbefore[i], dp = block_backward(dx, dstates[i], cache["blocks"][i])
        for name, g in dp.items():
            grads[f"blocks.{i}.{name}"] = g
    dW, = ops.embedding_backward(dx * cfg.D**0.5, cache["embed"])
    if cfg.tied:
        dW = dW + dhead.T
    else:
        grads["head.W"] = dhead
    grads["embed.W"] = dW
    return grads, tuple(dbefore)


def story_backward(dlogits, cache):
    params, cfg, k = cache["params"], cache["cfg"], cache["truncate"]
    total = Flat(param_shapes(cfg), np, dlogits.dtype)
    end, dstates = dlogits.shape[1], None
    for s in reversed(range(len(cache["calls"]))):
        call = cache["calls"][s]
        rows = call["ids"].shape[1] if call["last"] is None else call["last"]
        segment = cache["segments"][s]
        if segment is None:
            segment = model.segment_forward(params, cache["states"][s], cfg=cfg, **call)[2]
        grads, dstates = model.segment_backward(dlogits[:, end - rows:end], dstates, segment)
        end -= rows
        for name, g in grads.items():
            total[name] += g
        if k is not None and s % k == 0:
            dstates = None
    return total


class AdamW:
    def __init__(self, params, *, betas=(0.9, 0.98), eps=1e-8, decay=0.01):
        self.betas, self.eps, self.decay = betas, eps, decay
        self.m, self.v = np.zeros_like(params.buffer), np.zeros_like(params.buffer)
        self.t = 0

    def step(self, params, grads, lr):
        b1, b2 = self.betas
        self.t += 1
        g = grads.buffer
        self.m[...] = b1 * self.m + (1 - b1) * g
        self.v[...] = b2 * self.v + (1 - b2) * g * g
        params.matrices[...] *= 1 - lr * self.decay
        m = self.m / (1 - b1**self.t)
        v = self.v / (1 - b2**self.t)
        params.buffer[...] -= lr * m / (np.sqrt(v) + self.eps)


def clip(grads, limit):
    norm = np.sqrt((grads.buffer**2).sum())
    grads.buffer[...] *= np.minimum(1, limit / (norm + 1e-12))
    return norm
