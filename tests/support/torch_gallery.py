"""The gallery's memories in PyTorch, from the papers' equations alone: an independent witness with autograd.

Nothing is shared with tinylm2 but the names of the parameters. Each memory is what its paper writes: one softmax over
[slot; tokens], one outer product per key, one row after the other, one step of descent per token with the gradient that
autograd takes of the loss. Loops instead of products, so that no algebra can be wrong in both. `pad` leaves tokens out
instead of masking them. What the papers leave open (the output gate, how rows are gathered) is the library's choice.
"""

import torch

EPS = {"infini": 1e-2, "armt": 1.0}


def chain(name, p, segments, cfg, pad):
    """What every segment reads, and the last state: segments of (n, k, v) with k rotated; pad counts in the first."""
    first, read, write = MEMORIES[name]
    states = [first(p, cfg) for _ in pad]
    ys = []
    for s, (n, k, v) in enumerate(segments):
        ys.append(torch.stack([read(n[b], states[b], p, cfg) for b in range(len(pad))]))
        for b, left_out in enumerate(pad):
            start = left_out if s == 0 else 0
            states[b] = write(n[b], k[b], v[b], states[b], p, cfg, start)
    return ys, tuple(torch.stack(arrays) for arrays in zip(*states, strict=True))


def parts(x, count):
    """The heads of a row or of rows."""
    return x.chunk(count, -1)


def softmax_read(q, keys, values):
    """One query: weights softmax(q.k / sqrt(K)), and the values averaged by them."""
    scores = torch.stack([q @ key for key in keys]) / q.shape[-1] ** 0.5
    weights = torch.exp(scores) / torch.exp(scores).sum()
    return sum(w * value for w, value in zip(weights, values, strict=True))


def unit_rms(x):
    """Biased memory normalization sets the length; here to sqrt(D) instead of 1."""
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)


def unit(x):
    """Length one, with the library's guard against a row of zeros."""
    return x / torch.sqrt((x**2).sum() + 1e-5 * len(x))


def turn(x, position):
    """RoPE: pairs (2i, 2i+1) of a head by position * 10,000^(-2i/K)."""
    out = []
    for i in range(len(x) // 2):
        angle = torch.tensor(position * 10_000.0 ** (-2 * i / len(x)), dtype=x.dtype)
        even, odd = x[2 * i], x[2 * i + 1]
        out += [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()]
    return torch.stack(out)


# ------------------------------------------------------------------------------------------------- Memformer (Wu 2020)


def memformer_first(p, cfg):
    return (unit_rms(p["mem.bias"]),)


def memformer_read(n, state, p, cfg):
    (M,), rows = state, []
    for row in n:
        heads = zip(*(parts(x, cfg.H) for x in (row @ p["mem.Wq"], M @ p["mem.Wk"], M @ p["mem.Wv"])), strict=True)
        rows.append(torch.cat([softmax_read(*head) for head in heads]))
    return torch.stack(rows)


def memformer_write(n, k, v, state, p, cfg, start):
    """One softmax per slot and head over [the slot itself; the tokens]; values [the slot itself; the tokens'].

    What is added each time is a fifth of mem.bias, from which the first bank is made: its length is free there.
    """
    (M,), slots = state, []
    for slot in M:
        heads = []
        for h in range(cfg.H):
            q, own_key = (parts(slot @ p[name], cfg.H)[h] for name in ("mem.Wslot", "mem.Wkey"))
            scores = [q @ own_key / cfg.K**0.5 + p["mem.bown"][h]]
            values = [parts(slot, cfg.H)[h]]
            for t in range(start, len(k)):
                g = h * cfg.G // cfg.H
                scores.append(turn(q, len(k)) @ k[t, g] / cfg.K**0.5)
                values.append(v[t, g])
            weights = torch.softmax(torch.stack(scores), 0)
            heads.append(sum(w * value for w, value in zip(weights, values, strict=True)))
        slots.append(torch.cat(heads))
    return (unit_rms(torch.stack(slots) + 0.2 * p["mem.bias"]),)


# ----------------------------------------------------------------------------------- Infini-attention (Munkhdalai 2024)


def feature(x):
    return torch.where(x > 0, x + 1, torch.exp(x))


def infini_first(p, cfg):
    zeros = torch.zeros(cfg.G, cfg.K, cfg.K, dtype=torch.float64)
    return zeros, zeros[:, 0]


def infini_recall(x, A, z):
    f = feature(x)
    return (f @ A) / (f @ z + EPS["infini"])


def infini_read(n, state, p, cfg):
    A, z = state
    Wq = p["attn.Wqkv"][:, :cfg.H * cfg.K]
    return torch.stack([torch.cat([infini_recall(q, A[h * cfg.G // cfg.H], z[h * cfg.G // cfg.H])
                                   for h, q in enumerate(parts(row @ Wq, cfg.H))]) for row in n])


def infini_write(n, k, v, state, p, cfg, start):
    A, z = [list(x) for x in state]
    for g in range(cfg.G):
        old_A, old_z = state[0][g], state[1][g]
        for t in range(start, len(n)):
            key = turn(k[t, g], -t)
            A[g] = A[g] + torch.outer(feature(key), v[t, g] - infini_recall(key, old_A, old_z))
            z[g] = z[g] + feature(key)
    return torch.stack(A), torch.stack(z)


# --------------------------------------------------------------------------------------------------- ARMT (Rodkin 2024)


def dpfp(x):
    """Products of neighbours in the circle of the rectified [x, -x] (Schlag et al. 2021, nu = 1)."""
    r = torch.relu(torch.cat((x, -x)))
    return torch.stack([r[i] * r[i - 1] for i in range(len(r))])


def armt_first(p, cfg):
    zeros = torch.zeros(cfg.D, cfg.D, dtype=torch.float64)
    return zeros, zeros[0]


def armt_read(n, state, p, cfg):
    A, z = state
    return torch.stack([(dpfp(row @ p["mem.Wq"]) @ A) / (dpfp(row @ p["mem.Wq"]) @ z + EPS["armt"]) for row in n])


def gathered(k, v, p, cfg, start):
    """The rows that LM2's slots gather, at one length: slot i's query is row i of Wq times sqrt(D), at position T."""
    rows = []
    for slot in range(cfg.N):
        heads = []
        for h, q in enumerate(parts(p["attn.Wqkv"][slot, :cfg.H * cfg.K] * cfg.D**0.5, cfg.H)):
            g = h * cfg.G // cfg.H
            heads.append(softmax_read(turn(q, len(k)), k[start:, g], v[start:, g]))
        rows.append(unit_rms(torch.cat(heads) @ p["attn.Wo"]))
    return rows


def armt_write(n, k, v, state, p, cfg, start):
    old_A, old_z = state
    A, z = state
    for row in gathered(k, v, p, cfg, start):
        key, value = dpfp(row @ p["mem.Wk"]), row @ p["mem.Wv"]
        beta = torch.sigmoid(row @ p["mem.Wbeta"] + p["mem.bbeta"]).repeat_interleave(cfg.K)
        known = key @ old_z + EPS["armt"]
        A = A + torch.outer(key, beta * (value - key @ old_A / known))
        z = z + torch.relu(1 - known / (key @ key + EPS["armt"])) * key
    return A, z


# ------------------------------------------------------------------------------------------------ Titans (Behrouz 2024)


def titans_first(p, cfg):
    zeros = torch.zeros(cfg.H, cfg.K, cfg.K, dtype=torch.float64)
    return zeros, zeros


def titans_read(n, state, p, cfg):
    return torch.stack([torch.cat([unit(q) @ state[0][h] for h, q in enumerate(parts(row @ p["mem.Wq"], cfg.H))])
                        for row in n])


def titans_write(n, k, v, state, p, cfg, start):
    M, S = [], []
    for h in range(cfg.H):
        begin, last = state[0][h], state[1][h]
        now = begin
        for row in n[start:]:
            key, value = unit(parts(row @ p["mem.Wk"], cfg.H)[h]), parts(row @ p["mem.Wv"], cfg.H)[h]
            step, past, keep = torch.sigmoid(row @ p["mem.Wrates"] + torch.cat(
                (p["mem.bstep"], p["mem.bpast"], p["mem.bkeep"])))[h::cfg.H]
            surprise = torch.func.grad(lambda M, key=key, value=value: ((key @ M - value) ** 2).sum() / 2)(begin)
            last = past * last - step * surprise
            now = keep * now + last
        M.append(now)
        S.append(last)
    return torch.stack(M), torch.stack(S)


MEMORIES = {
    "memformer": (memformer_first, memformer_read, memformer_write),
    "infini": (infini_first, infini_read, infini_write),
    "armt": (armt_first, armt_read, armt_write),
    "titans": (titans_first, titans_read, titans_write),
}
