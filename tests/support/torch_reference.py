"""The whole model once more, in PyTorch and from the equations alone: an independent witness with autograd.

Nothing is shared with tinylm2 but the names of the parameters and of the configuration. Written to be plainly right,
not fast: masks instead of slices, rotations as cosine and sine, pooling row by row.
"""

import torch


def story(p, ids, cfg, pad=None, truncate=None):
    """Logits (B, length, V) of a story, segment after segment; p by name, ids (B, length), pad (B,) or None."""
    pad = torch.zeros(len(ids), dtype=torch.long) if pad is None else torch.as_tensor(pad)
    start = torch.eye(cfg.N, cfg.D, dtype=torch.float64).expand(len(ids), -1, -1)
    banks = [start] * cfg.L
    logits = []
    for s, segment in enumerate(ids.split(cfg.T, dim=1)):
        if truncate and s % truncate == 0:
            banks = [M.detach() for M in banks]
        real = torch.arange(segment.shape[1]) >= (pad[:, None] if s == 0 else 0 * pad[:, None])          # (B, T)
        x = p["embed.W"][segment] * cfg.D**0.5
        for i in range(cfg.L):
            x, banks[i] = block({name.split(".", 2)[2]: W for name, W in p.items() if name.startswith(f"blocks.{i}.")},
                                x, banks[i], real, cfg, cfg.memory_of(i))
        logits.append(rmsnorm(x, p["norm.g"]) @ (p["embed.W"].T if cfg.tied else p["head.W"]))
    return torch.cat(logits, 1)


def block(p, x, M, real, cfg, kind):
    H, G, K, T = cfg.H, cfg.G, cfg.K, x.shape[1]
    Wq, Wk, Wv = p["attn.Wqkv"].split([H * K, G * K, G * K], dim=1)
    n = rmsnorm(x, p["attn.g"])
    k = rope(heads(n @ Wk, G), torch.arange(T)).repeat_interleave(H // G, dim=1)
    v = heads(n @ Wv, G).repeat_interleave(H // G, dim=1)
    t = torch.arange(T)
    sees = (t[:, None] >= t) & real[:, None, :] | torch.eye(T, dtype=torch.bool)                         # (B, T, T)
    sees = sees & (real[:, :, None] | torch.eye(T, dtype=torch.bool))
    a = attend(rope(heads(n @ Wq, H), t), k, v, sees) @ p["attn.Wo"]
    if kind == "none":
        x = x + a
    else:
        Mn = rmsnorm(M, p["mem.g"])
        Emem = attend(*(heads(z, H) for z in (n @ p["mem.Wq"], Mn @ p["mem.Wk"], Mn @ p["mem.Wv"])))
        x = x + a + torch.sigmoid(Emem @ p["mem.Wout"] + p["mem.bout"]) * Emem
        if kind == "slots":
            address = torch.eye(cfg.N, cfg.D, dtype=x.dtype).expand_as(M) * cfg.D**0.5
            asked = rope(heads(address @ Wq, H), torch.full((cfg.N,), T))
            R = attend(asked, k, v, real[:, None, :].expand(-1, cfg.N, -1)) @ p["attn.Wo"]
            gin = torch.sigmoid(R @ p["mem.Win"] + p["mem.bin"])
            gforget = torch.sigmoid(R @ p["mem.Wforget"] + p["mem.bforget"])
            M = gin * torch.tanh(R) + gforget * M
        else:
            M = printed_write(p, n, Emem, M, real)
    gate, up = (rmsnorm(x, p["ff.g"]) @ p["ff.Wgu"]).chunk(2, dim=-1)
    return x + (gate * torch.sigmoid(gate) * up) @ p["ff.Wdown"], M


def printed_write(p, n, Emem, M, real):
    (B, N, _), T = M.shape, n.shape[1]
    stories = []
    for b in range(B):
        rows = []
        for r in range(N):
            tokens = [t for t in range(T) if r * T // N <= t <= -(-(r + 1) * T // N) - 1 and real[b, t]]
            if not tokens:
                rows.append(M[b, r])
                continue
            E, R = n[b, tokens].mean(0), Emem[b, tokens].mean(0)
            rows.append(torch.sigmoid(E @ p["mem.Win"]) * torch.tanh(R) + torch.sigmoid(R @ p["mem.Wforget"]) * M[b, r])
        stories.append(torch.stack(rows))
    return torch.stack(stories)


def rmsnorm(x, g):
    return g * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)


def heads(x, H):
    """(B, T, H K) -> (B, H, T, K)."""
    return x.unflatten(-1, (H, -1)).transpose(1, 2)


def rope(x, positions):
    """x (B, H, T, K): the pairs (2i, 2i+1) turned by position * 10,000^(-2i/K)."""
    K = x.shape[-1]
    angle = positions[:, None] * 10_000.0 ** (-torch.arange(0, K, 2, dtype=x.dtype) / K)
    c, s, even, odd = torch.cos(angle), torch.sin(angle), x[..., 0::2], x[..., 1::2]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2)


def attend(q, k, v, sees=None):
    """q (B, H, T, K), k and v (B, H, U, K), sees (B, T, U) -> (B, T, H K)."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if sees is not None:
        scores = scores.masked_fill(~sees[:, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
