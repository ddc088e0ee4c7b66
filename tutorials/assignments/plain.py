"""Every assignment solved once more, as a careful student would: plain NumPy, one step per line, the course's letters.

The grader reads these lines twice. The bank of wrong solutions makes mistakes in them, and the feedback does so to find
out which mistake would have led to what a student returned (see trying.py).
"""

import math

import numpy as np

from tinylm2 import layers, model, ops
from tinylm2.backend import check_shapes
from tinylm2.flat import Flat

# ------------------------------------------------------------------------------------------------------------------- a1


def central_differences(f, x, moves, *, eps=1e-5):
    start = x.copy()
    slopes = []
    for u in moves:
        x[...] = start + eps * u
        above = f()
        x[...] = start - eps * u
        below = f()
        slopes.append((above - below).sum() / (2 * eps))
    x[...] = start
    return np.array(slopes)


def worst_entry(analytic, slopes, scale=None):
    distance = abs(analytic - slopes)
    index = np.unravel_index(distance.argmax(), distance.shape)
    if scale is None:
        scale = abs(slopes).max()
    error = float(distance[index] / scale)
    if math.isnan(error):
        error = math.inf
    return error, tuple(int(i) for i in index)


def linear_forward(x, W):
    check_shapes("linear", x=(x, "... D"), W=(W, "D E"))
    y = x @ W
    return y, (x, W)


def linear_backward(dy, cache):
    x, W = cache
    D, E = W.shape
    dx = dy @ W.T
    dW = x.reshape(-1, D).T @ dy.reshape(-1, E)
    return dx, dW


# ------------------------------------------------------------------------------------------------------------------- a2


def cross_entropy_forward(logits, *, targets, weights):
    check_shapes("cross_entropy", logits=(logits, "... V"))
    if not logits.shape[:-1] == targets.shape == weights.shape:
        raise ValueError("cross_entropy: targets and weights do not fit the logits")
    z = logits - logits.max(-1, keepdims=True)
    e = np.exp(z)
    total = e.sum(-1, keepdims=True)
    p = e / total
    logp = z - np.log(total)
    picked = np.take_along_axis(logp, targets[..., None], -1)[..., 0]
    w = weights / weights.sum()
    loss = -(w * picked).sum()
    return loss, (p, w, targets)


def cross_entropy_backward(dloss, cache):
    p, w, targets = cache
    V = p.shape[-1]
    onehot = (targets[..., None] == np.arange(V)).astype(p.dtype)
    dz = p - onehot
    dlogits = dloss * w[..., None] * dz
    return (dlogits,)


def rmsnorm_forward(x, g, *, eps=1e-5):
    check_shapes("rmsnorm", x=(x, "... D"), g=(g, "D"))
    mean = (x * x).mean(-1, keepdims=True)
    r = 1 / np.sqrt(mean + eps)
    n = x * r
    y = g * n
    return y, (n, r, g)


def rmsnorm_backward(dy, cache):
    n, r, g = cache
    D = g.size
    dn = dy * g
    mean = (dn * n).mean(-1, keepdims=True)
    dx = r * (dn - n * mean)
    dg = (dy * n).reshape(-1, D).sum(0)
    return dx, dg


# ------------------------------------------------------------------------------------------------------------------- a3


def rope_forward(x, *, start=0, step=1, base=10_000.0):
    check_shapes("rope", x=(x, "B T H K"))
    T, K = x.shape[1], x.shape[3]
    if K % 2:
        raise ValueError("rope: x has heads of an odd width")
    p = start + step * np.arange(T)
    w_i = base ** (-2 * np.arange(K // 2) / K)
    angle = p[:, None, None] * w_i
    c, s = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    y = np.empty(x.shape, x.dtype)
    y[..., ::2] = even * c - odd * s
    y[..., 1::2] = even * s + odd * c
    return y, (c, s)


def rope_backward(dy, cache):
    c, s = cache
    even, odd = dy[..., ::2], dy[..., 1::2]
    dx = np.empty(dy.shape, dy.dtype)
    dx[..., ::2] = even * c + odd * s
    dx[..., 1::2] = odd * c - even * s
    return (dx,)


def attend_forward(q, k, v, *, causal=False, pad=None):
    check_shapes("attend", q=(q, "B T H K"), k=(k, "B U G K"), v=(v, "B U G K"), pad=(pad, "B"))
    B, T, H, K = q.shape
    U, G = k.shape[1:3]
    if H % G:
        raise ValueError("attend: the key heads do not divide the query heads")
    if causal and T > U:
        raise ValueError("attend: more causal queries than places")
    kk = np.repeat(k, H // G, axis=2)
    vv = np.repeat(v, H // G, axis=2)
    S = np.einsum("bthk,buhk->bhtu", q, kk) / K**0.5
    place = np.arange(U)
    own = place[U - T:, None]
    hidden = np.zeros((B, T, U), bool)
    if causal:
        hidden |= place > own
    if pad is not None:
        padded = place < pad[:, None, None]
        if causal:
            padded = padded & (place != own)
        hidden |= padded
    S = np.where(hidden[:, None], -np.inf, S)
    e = np.exp(S - S.max(-1, keepdims=True))
    P = e / e.sum(-1, keepdims=True)
    y = np.einsum("bhtu,buhk->bthk", P, vv)
    return y, (q, kk, vv, P, G)


def attend_backward(dy, cache):
    q, kk, vv, P, G = cache
    B, U, H, K = kk.shape
    dP = np.einsum("bthk,buhk->bhtu", dy, vv)
    dvv = np.einsum("bhtu,bthk->buhk", P, dy)
    total = (dP * P).sum(-1, keepdims=True)
    dS = P * (dP - total)
    dq = np.einsum("bhtu,buhk->bthk", dS, kk) / K**0.5
    dkk = np.einsum("bhtu,bthk->buhk", dS, q) / K**0.5
    dk = dkk.reshape(B, U, G, H // G, K).sum(3)
    dv = dvv.reshape(B, U, G, H // G, K).sum(3)
    return dq, dk, dv


def self_attention_backward(da, dk, dv, cache):
    B, T, last, H, G, K = cache["shape"]
    dy, dWo = ops.linear_backward(da, cache["out"])
    dq, dkeys, dvalues = ops.attend_backward(dy.reshape(B, last, H, K), cache["attend"])
    U = dkeys.shape[1] - T
    dpast = (dkeys[:, :U], dvalues[:, :U]) if U else None
    dkeys = dkeys[:, U:]
    dvalues = dvalues[:, U:]
    if dk is not None:
        dkeys = dkeys + dk
        dvalues = dvalues + dv
    (dq,) = ops.rope_backward(dq, cache["rope q"])
    (dkeys,) = ops.rope_backward(dkeys, cache["rope k"])
    dn_q, dWq = ops.linear_backward(dq.reshape(B, last, H * K), cache["q"])
    dn_k, dWk = ops.linear_backward(dkeys.reshape(B, T, G * K), cache["k"])
    dn_v, dWv = ops.linear_backward(dvalues.reshape(B, T, G * K), cache["v"])
    dn = dn_k + dn_v
    dn[:, T - last:] += dn_q
    dWqkv = np.concatenate((dWq, dWk, dWv), axis=1)
    return dn, dpast, dWqkv, dWo


# ------------------------------------------------------------------------------------------------------------------- a4


def cross_attention_forward(n, Mn, Wq, Wk, Wv, *, heads):
    check_shapes("cross_attention", n=(n, "B T D"), Mn=(Mn, "B N D"), Wq=(Wq, "D D"), Wk=(Wk, "D D"), Wv=(Wv, "D D"))
    B, T, D = n.shape
    N = Mn.shape[1]
    Q = (n @ Wq).reshape(B, T, heads, D // heads)
    K = (Mn @ Wk).reshape(B, N, heads, D // heads)
    V = (Mn @ Wv).reshape(B, N, heads, D // heads)
    y, attended = ops.attend_forward(Q, K, V)
    Emem = y.reshape(B, T, D)
    return Emem, (n, Mn, Wq, Wk, Wv, heads, attended)


def cross_attention_backward(dEmem, cache):
    n, Mn, Wq, Wk, Wv, heads, attended = cache
    B, T, D = n.shape
    N = Mn.shape[1]
    dQ, dK, dV = ops.attend_backward(dEmem.reshape(B, T, heads, D // heads), attended)
    dQ = dQ.reshape(B, T, D)
    dK = dK.reshape(B, N, D)
    dV = dV.reshape(B, N, D)
    dn = dQ @ Wq.T
    dMn = dK @ Wk.T + dV @ Wv.T
    dWq = n.reshape(-1, D).T @ dQ.reshape(-1, D)
    dWk = Mn.reshape(-1, D).T @ dK.reshape(-1, D)
    dWv = Mn.reshape(-1, D).T @ dV.reshape(-1, D)
    return dn, dMn, dWq, dWk, dWv


def output_gate_forward(x, a, Emem, Wout, bout):
    check_shapes("output_gate", x=(x, "B T D"), a=(a, "B T D"), Emem=(Emem, "B T D"), Wout=(Wout, "D D"),
                 bout=(bout, "D"))
    z = Emem @ Wout + bout
    gout = 1 / (1 + np.exp(-z))
    y = x + a + gout * Emem
    return y, (Emem, Wout, gout)


def output_gate_backward(dy, cache):
    Emem, Wout, gout = cache
    D = Wout.shape[0]
    dgout = dy * Emem
    dz = dgout * gout * (1 - gout)
    dEmem = dy * gout + dz @ Wout.T
    dWout = Emem.reshape(-1, D).T @ dz.reshape(-1, D)
    dbout = dz.sum((0, 1))
    return dy, dy, dEmem, dWout, dbout


# ------------------------------------------------------------------------------------------------------------------- a5


def write_attention_forward(k, v, Wqkv, Wo, *, heads, slots, pad=None, start=None):
    H, G = heads
    B, T, _, K = k.shape
    D = Wqkv.shape[0]
    check_shapes("write_attention", k=(k, f"B T {G} K"), v=(v, f"B T {G} K"), Wqkv=(Wqkv, f"D {(H + 2 * G) * K}"),
                 Wo=(Wo, f"{H * K} D"))
    Wq = Wqkv[:, :H * K]
    asked = (D**0.5 * Wq[:slots]).reshape(1, slots, H, K)
    position = T if start is None else start
    q, turned = ops.rope_forward(asked, start=position, step=0)
    y, attended = ops.attend_forward(np.repeat(q, B, axis=0), k, v, pad=pad)
    y = y.reshape(B, slots, H * K)
    R = y @ Wo
    return R, (y, turned, attended, Wqkv, Wo, H)


def write_attention_backward(dR, cache):
    y, turned, attended, Wqkv, Wo, H = cache
    B, N, D = dR.shape
    HK = Wo.shape[0]
    dy = dR @ Wo.T
    dWo = y.reshape(-1, HK).T @ dR.reshape(-1, D)
    dq, dk, dv = ops.attend_backward(dy.reshape(B, N, H, HK // H), attended)
    dq = dq.sum(0, keepdims=True)
    (dasked,) = ops.rope_backward(dq, turned)
    dWqkv = np.zeros_like(Wqkv)
    dWqkv[:N, :HK] = D**0.5 * dasked.reshape(N, HK)
    return dk, dv, dWqkv, dWo


def memory_update_forward(R, M, Win, bin, Wforget, bforget):
    check_shapes("memory_update", R=(R, "B N D"), M=(M, "B N D"), Win=(Win, "D D"), bin=(bin, "D"),
                 Wforget=(Wforget, "D D"), bforget=(bforget, "D"))
    gin = 1 / (1 + np.exp(-(R @ Win + bin)))
    gforget = 1 / (1 + np.exp(-(R @ Wforget + bforget)))
    content = np.tanh(R)
    M_next = gin * content + gforget * M
    return M_next, (R, M, Win, Wforget, gin, gforget, content)


def memory_update_backward(dM_next, cache):
    R, M, Win, Wforget, gin, gforget, content = cache
    D = R.shape[-1]
    dgin = dM_next * content
    dgforget = dM_next * M
    dcontent = dM_next * gin
    dM = dM_next * gforget
    dzin = dgin * gin * (1 - gin)
    dzforget = dgforget * gforget * (1 - gforget)
    dR = dcontent * (1 - content**2) + dzin @ Win.T + dzforget @ Wforget.T
    dWin = R.reshape(-1, D).T @ dzin.reshape(-1, D)
    dbin = dzin.sum((0, 1))
    dWforget = R.reshape(-1, D).T @ dzforget.reshape(-1, D)
    dbforget = dzforget.sum((0, 1))
    return dR, dM, dWin, dbin, dWforget, dbforget


# ------------------------------------------------------------------------------------------------------------------- a6


def segment_backward(dlogits, dstates, cache):
    cfg = cache["cfg"]
    if dstates is None:
        dstates = (None,) * (cfg.L + 1)
    before = [None] * (cfg.L + 1)
    grads = {}
    dx, dhead = ops.linear_backward(dlogits, cache["head"])
    dx, grads["norm.g"] = ops.rmsnorm_backward(dx, cache["norm"])
    for i in range(cfg.L - 1, -1, -1):
        dx, before[i], shares = model.block_backward(dx, dstates[i], cache["blocks"][i])
        for name, share in shares.items():
            grads[f"blocks.{i}.{name}"] = share
    dx = dx * cfg.D**0.5
    (dembed,) = ops.embedding_backward(dx, cache["embed"])
    if cfg.tied:
        dembed = dembed + dhead.T
    else:
        grads["head.W"] = dhead
    grads["embed.W"] = dembed
    return grads, tuple(before)


def story_backward(dlogits, cache):
    params, cfg = cache["params"], cache["cfg"]
    grads = Flat({name: x.shape for name, x in params.items()}, np, dlogits.dtype)
    dstates = None
    end = dlogits.shape[1]
    for s in range(len(cache["calls"]) - 1, -1, -1):
        call = cache["calls"][s]
        inner = cache["segments"][s]
        if inner is None:
            _, _, inner = model.segment_forward(params, cache["states"][s], cfg=cfg, **call)
        rows = call["ids"].shape[1] if call["last"] is None else call["last"]
        shares, dstates = model.segment_backward(dlogits[:, end - rows:end], dstates, inner)
        end = end - rows
        for name, share in shares.items():
            grads[name] += share
        if cache["truncate"] and s % cache["truncate"] == 0:
            dstates = None
    return grads


def clip(grads, limit):
    norm = np.sqrt((grads.buffer**2).sum())
    grads.buffer *= min(1.0, limit / (norm + 1e-12))
    return norm


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
        self.v[...] = b2 * self.v + (1 - b2) * g**2
        m_hat = self.m / (1 - b1**self.t)
        v_hat = self.v / (1 - b2**self.t)
        params.matrices *= 1 - lr * self.decay
        params.buffer -= lr * m_hat / (np.sqrt(v_hat) + self.eps)


__all__ = ["layers"]                                     # what mistakes may call beside the lines above
