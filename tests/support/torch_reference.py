"""The whole model once more, in PyTorch and from the equations alone: an independent witness with autograd.

Nothing is shared with tinylm2 but the names of the parameters and of the configuration. Written to be plainly right,
not fast: masks instead of slices, rotations as cosine and sine, pooling row by row, a window as a mask over the story.
"""

import math

import torch

from tests.support import torch_gallery

REACH = {"none": lambda cfg: 0, "window": lambda cfg: cfg.N, "full": lambda cfg: math.inf}
KNOWN = (*REACH, "lm2", "pooled", "rmt", *torch_gallery.MEMORIES)


def story(p, ids, cfg, pad=None, truncate=None):
    """Logits (B, length, V) of a story; p by name, ids (B, length), pad (B,) or None."""
    pad = torch.zeros(len(ids), dtype=torch.long) if pad is None else torch.as_tensor(pad)
    if cfg.memory == "rmt":
        return rmt_story(p, ids, cfg, pad, truncate)
    x = tokens(p, ids, cfg)
    for i in range(cfg.L):
        kind = cfg.memory if cfg.memory_blocks is None or i in cfg.memory_blocks else "none"
        block = {name.split(".", 2)[2]: W for name, W in p.items() if name.startswith(f"blocks.{i}.")}
        if kind in REACH:
            x = window_block(block, x, cfg, pad, REACH[kind](cfg), truncate)
        elif kind in torch_gallery.MEMORIES:
            x = gallery_block(block, x, cfg, pad, truncate, kind)
        else:
            x = bank_block(block, x, cfg, pad, truncate, {"lm2": lm2_write, "pooled": pooled_write}[kind])
    return head(p, x, cfg)


def tokens(p, ids, cfg):
    return p["embed.W"][ids] * cfg.D**0.5


def head(p, x, cfg):
    return rmsnorm(x, p["norm.g"]) @ (p["embed.W"].T if cfg.tied else p["head.W"])


# --------------------------------------------------------------------------------------------------------------- blocks


def bank_block(p, x, cfg, pad, truncate, write):
    """A block with slots over a whole story: segment after segment, each reads the bank and then writes it."""
    M = torch.eye(cfg.N, cfg.D, dtype=torch.float64).expand(len(x), -1, -1)
    rows = []
    for s, part in enumerate(x.split(cfg.T, dim=1)):
        if truncate and s % truncate == 0:
            M = M.detach()
        T = part.shape[1]
        real = torch.arange(T) >= (pad[:, None] if s == 0 else 0 * pad[:, None])                         # (B, T)
        n = rmsnorm(part, p["attn.g"])
        q, k, v = queries_keys_values(p, n, cfg, torch.arange(T))
        Mn = rmsnorm(M, p["mem.g"])
        Emem = attend(*(heads(z, cfg.H) for z in (n @ p["mem.Wq"], Mn @ p["mem.Wk"], Mn @ p["mem.Wv"])))
        y = part + attend(q, k, v, visible(real)) @ p["attn.Wo"]
        y = y + torch.sigmoid(Emem @ p["mem.Wout"] + p["mem.bout"]) * Emem
        M = write(p, n, Emem, k, v, M, real, cfg)
        rows.append(feed_forward(p, y))
    return torch.cat(rows, 1)


def lm2_write(p, n, Emem, k, v, M, real, cfg):
    address = torch.eye(cfg.N, cfg.D, dtype=n.dtype).expand_as(M) * cfg.D**0.5
    asked = rope(heads(address @ p["attn.Wqkv"][:, :cfg.H * cfg.K], cfg.H), torch.full((cfg.N,), n.shape[1]))
    R = attend(asked, k, v, real[:, None, :].expand(-1, cfg.N, -1)) @ p["attn.Wo"]
    gin = torch.sigmoid(R @ p["mem.Win"] + p["mem.bin"])
    gforget = torch.sigmoid(R @ p["mem.Wforget"] + p["mem.bforget"])
    return gin * torch.tanh(R) + gforget * M


def pooled_write(p, n, Emem, k, v, M, real, cfg):
    (B, N, _), T = M.shape, n.shape[1]
    stories = []
    for b in range(B):
        rows = []
        for r in range(N):
            pool = [t for t in range(T) if r * T // N <= t <= -(-(r + 1) * T // N) - 1 and real[b, t]]
            if not pool:
                rows.append(M[b, r])
                continue
            E, R = n[b, pool].mean(0), Emem[b, pool].mean(0)
            rows.append(torch.sigmoid(E @ p["mem.Win"]) * torch.tanh(R) + torch.sigmoid(R @ p["mem.Wforget"]) * M[b, r])
        stories.append(torch.stack(rows))
    return torch.stack(stories)


def gallery_block(p, x, cfg, pad, truncate, kind):
    """A block with a memory of the gallery over a whole story; each story of the batch has its own state."""
    first, read, write = torch_gallery.MEMORIES[kind]
    states, rows = [first(p, cfg) for _ in x], []
    for s, part in enumerate(x.split(cfg.T, dim=1)):
        if truncate and s and s % truncate == 0:
            states = [tuple(array.detach() for array in state) for state in states]
        T, hidden = part.shape[1], pad if s == 0 else 0 * pad
        n = rmsnorm(part, p["attn.g"])
        q, k, v = queries_keys_values(p, n, cfg, torch.arange(T))
        Emem = torch.stack([read(n[b], state, p, cfg) for b, state in enumerate(states)])
        y = part + attend(q, k, v, visible(torch.arange(T) >= hidden[:, None])) @ p["attn.Wo"]
        rows.append(feed_forward(p, y + torch.sigmoid(Emem @ p["mem.Wout"] + p["mem.bout"]) * Emem))
        if (s + 1) * cfg.T < x.shape[1]:                 # nothing reads what the last segment would write
            keys, values = (z[:, ::cfg.H // cfg.G].transpose(1, 2) for z in (k, v))                   # (B, T, G, K)
            states = [write(n[b], keys[b], values[b], state, p, cfg, int(hidden[b])) for b, state in enumerate(states)]
    return torch.cat(rows, 1)


def window_block(p, x, cfg, pad, reach, truncate):
    """A block over a whole story, each token at its position in it; a mask says who sees whom.

    A token sees its segment and `reach` positions before it. Behind a cut, what stands before it is a constant.
    """
    length = x.shape[1]
    t = torch.arange(length)
    n = rmsnorm(x, p["attn.g"])
    q, k, v = queries_keys_values(p, n, cfg, t)
    sees = visible(t >= pad[:, None]) & (t >= t[:, None] // cfg.T * cfg.T - reach)[None]
    sees = sees | torch.eye(length, dtype=torch.bool)
    rows = []
    for s, q_segment in enumerate(q.split(cfg.T, dim=2)):
        start, end = s * cfg.T, s * cfg.T + q_segment.shape[2]
        cut = s // truncate * truncate * cfg.T if truncate else 0        # keys before it were handed on as constants
        keys, values = (torch.cat((z[:, :, :cut].detach(), z[:, :, cut:end]), 2) for z in (k, v))
        rows.append(attend(q_segment, keys, values, sees[:, start:end, :end]))
    return feed_forward(p, x + torch.cat(rows, 1) @ p["attn.Wo"])


# ------------------------------------------------------------------------------------------------------------------ rmt


def rmt_story(p, ids, cfg, pad, truncate):
    """[memory, tokens, memory] per segment; at the padding, which has no positions, the logits mean nothing."""
    N, memory, logits = cfg.N, (p["memory.W"] * cfg.D**0.5).expand(len(ids), -1, -1), []
    for s, segment in enumerate(ids.split(cfg.T, dim=1)):
        T, hidden = segment.shape[1], pad if s == 0 else 0 * pad
        if truncate and s and s % truncate == 0:
            memory = memory.detach()
        x = torch.cat((memory, tokens(p, segment, cfg), memory), 1)
        place = torch.arange(T + 2 * N)
        real = (place < N) | (place >= N + hidden[:, None])                                             # (B, N + T + N)
        position = torch.where(place < N, place, place - hidden[:, None])
        for i in range(cfg.L):
            b = {name.split(".", 2)[2]: W for name, W in p.items() if name.startswith(f"blocks.{i}.")}
            q, k, v = queries_keys_values(b, rmsnorm(x, b["attn.g"]), cfg, position)
            x = feed_forward(b, x + attend(q, k, v, visible(real)) @ b["attn.Wo"])
        logits.append(head(p, x[:, N:N + T], cfg))
        memory = rmsnorm(x[:, N + T:], p["norm.g"])
    return torch.cat(logits, 1)


# ---------------------------------------------------------------------------------------------------------------- parts


def queries_keys_values(p, n, cfg, positions):
    H, G, K = cfg.H, cfg.G, cfg.K
    Wq, Wk, Wv = p["attn.Wqkv"].split([H * K, G * K, G * K], dim=1)
    k = rope(heads(n @ Wk, G), positions).repeat_interleave(H // G, dim=1)
    return rope(heads(n @ Wq, H), positions), k, heads(n @ Wv, G).repeat_interleave(H // G, dim=1)


def visible(real):
    """real (B, T) -> (B, T, T): real tokens see the real ones up to themselves, padded ones only themselves."""
    t, itself = torch.arange(real.shape[1]), torch.eye(real.shape[1], dtype=torch.bool)
    return (t[:, None] >= t) & real[:, None, :] & real[:, :, None] | itself


def feed_forward(p, x):
    gate, up = (rmsnorm(x, p["ff.g"]) @ p["ff.Wgu"]).chunk(2, dim=-1)
    return x + (gate * torch.sigmoid(gate) * up) @ p["ff.Wdown"]


def rmsnorm(x, g):
    return g * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)


def heads(x, H):
    """(B, T, H K) -> (B, H, T, K)."""
    return x.unflatten(-1, (H, -1)).transpose(1, 2)


def rope(x, positions):
    """x (B, H, T, K), positions (T,) or (B, T): the pairs (2i, 2i+1) turned by position * 10,000^(-2i/K)."""
    K = x.shape[-1]
    angle = positions[..., None] * 10_000.0 ** (-torch.arange(0, K, 2, dtype=x.dtype) / K)
    angle = angle if positions.ndim == 1 else angle[:, None]
    c, s, even, odd = torch.cos(angle), torch.sin(angle), x[..., 0::2], x[..., 1::2]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2)


def attend(q, k, v, sees=None):
    """q (B, H, T, K), k and v (B, H, U, K), sees (B, T, U) -> (B, T, H K)."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if sees is not None:
        scores = scores.masked_fill(~sees[:, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
